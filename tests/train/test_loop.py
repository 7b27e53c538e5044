"""The training loop: it learns, it resumes exactly, it stops with a sentence."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from cosphere.cli import main
from cosphere.data import Catalogue, read_catalogue
from cosphere.errors import DataError, DivergenceError, RunError, SettingsError
from cosphere.health import embedding_health
from cosphere.losses import MultiSimilarityLoss
from cosphere.models import Embedder, EmbedderSettings
from cosphere.runs import RunFolder
from cosphere.train import (
    BatchSettings,
    DataSettings,
    ImageSettings,
    LossSettings,
    OptimizerSettings,
    PlainReporter,
    ScheduleSettings,
    SecSettings,
    TrainResult,
    TrainSettings,
    Validation,
    ValidationSettings,
    build_model,
    loop,
    train,
)
from cosphere.train.checkpoint import load_checkpoint
from cosphere.train.keeping import Keeper
from cosphere.train.setup import build_accelerator, build_loss


class Listener(PlainReporter):
    """Keeps what it is told."""

    def __init__(self, steps: int) -> None:
        super().__init__(steps)
        self.lines: list[str] = []

    def _line(self, text: str) -> None:
        self.lines.append(text)


def small(**changes: object) -> TrainSettings:
    """A run of seconds: a tiny residual network on 32 px."""
    settings = TrainSettings(
        steps=4,
        log_every=2,
        checkpoint_every=2,
        images=ImageSettings(size=32, preset="sec"),
        model=EmbedderSettings(backbone="test_resnet", weights="none", dim=8),
        batch=BatchSettings(size=8, images_per_class=2),
        loss=LossSettings(name="multi_similarity"),
        sec=SecSettings(weight=0.1),
        optimizer=OptimizerSettings(backbone_rate=1e-3, head_rate=1e-3),
        data=DataSettings(validation_share=0.0),
        validation=ValidationSettings(every=0, before=False, lens=False),
        freeze_norm=False,
    )
    return replace(settings, **changes)  # type: ignore[arg-type]


def run_small(
    photos: Path,
    folder: Path,
    settings: TrainSettings,
    *,
    evaluate: object = None,
    resume: bool = False,
    catalogue: Catalogue | None = None,
    loss: object = None,
) -> tuple[TrainResult, RunFolder, list[str]]:
    run = RunFolder.open(folder) if resume else RunFolder.create(folder)
    listener = Listener(settings.steps)
    images = catalogue or read_catalogue(photos)
    result = train(settings, images, run, reporter=listener, evaluate=evaluate, resume=resume, loss=loss)  # type: ignore[arg-type]
    return result, run, listener.lines


def test_a_run_leaves_what_the_contract_says(photos: Path, tmp_path: Path) -> None:
    result, run, lines = run_small(photos, tmp_path / "run", small())
    assert (result.steps, result.best_step, result.stopped_early, result.unreadable) == (4, 4, False, ())
    rows = run.read_metrics()
    assert [row["step"] for row in rows] == [2, 4]
    for key in (
        "loss",
        "loss_metric",
        "loss_sec",
        "sec_share",
        "norm_mean",
        "norm_var",
        "norm_cv",
        "images_per_second",
    ):
        assert isinstance(rows[-1][f"train/{key}"], float), key
    assert rows[-1]["train/sec_share"] == pytest.approx(
        0.1 * rows[-1]["train/loss_sec"] / rows[-1]["train/loss_metric"]
    )
    assert rows[-1]["train/loss"] == pytest.approx(rows[-1]["train/loss_metric"] + 0.1 * rows[-1]["train/loss_sec"])
    assert rows[-1]["train/norm_cv"] ** 2 == pytest.approx(
        rows[-1]["train/norm_var"] / rows[-1]["train/norm_mean"] ** 2, rel=0.05
    )
    assert Embedder.load(run.model).dim == 8
    assert (run.checkpoints / "last.pt").exists()
    assert lines[0].startswith("training on 60 images of 10 classes")


def test_it_learns(photos: Path, tmp_path: Path) -> None:
    _, run, _ = run_small(photos, tmp_path / "run", small(steps=60, log_every=10, checkpoint_every=0))
    losses = [row["train/loss_metric"] for row in run.read_metrics()]
    assert losses[-1] < 0.8 * losses[0]


def test_sec_draws_the_lengths_together(photos: Path, tmp_path: Path) -> None:
    def last_variance(weight: float) -> float:
        rates = OptimizerSettings(backbone_rate=1e-2, head_rate=1e-2)
        settings = small(steps=24, log_every=8, checkpoint_every=0, sec=SecSettings(weight=weight), optimizer=rates)
        return float(run_small(photos, tmp_path / f"run{weight}", settings)[1].read_metrics()[-1]["train/norm_var"])

    assert last_variance(1.0) < 0.4 * last_variance(0.0)


@pytest.mark.parametrize(
    ("loss", "workers"),
    [
        pytest.param(LossSettings(name="norm_softmax"), 0, marks=pytest.mark.slow),
        (LossSettings(name="norm_softmax"), 2),
        pytest.param(
            LossSettings(name="cosface", settings={"sample_rate": 0.6}), 0, marks=pytest.mark.slow
        ),  # draws classes
        # Draws negatives, and learns a boundary for each class.
        pytest.param(LossSettings(name="margin"), 0, marks=pytest.mark.slow),
        # A tree, made anew after each epoch.
        pytest.param(LossSettings(name="hierarchical_triplet"), 0, marks=pytest.mark.slow),
        pytest.param(LossSettings(name="contrastive", memory=24, memory_after=3), 0, marks=pytest.mark.slow),  # a queue
        pytest.param(LossSettings(name="sphereface"), 0, marks=pytest.mark.slow),  # counts its steps
    ],
    ids=lambda value: (
        f"{value.name}{'+memory' * bool(value.memory)}" if isinstance(value, LossSettings) else str(value)
    ),
)
def test_going_on_gives_the_same_weights_bit_for_bit(
    photos: Path, tmp_path: Path, loss: LossSettings, workers: int
) -> None:
    """Sampler, augmentation, optimiser, schedule, running radius, class weights, dropout and validation all take part."""
    settings = small(
        steps=12,
        checkpoint_every=6,
        loss=loss,
        sec=SecSettings(weight=0.1, radius="ema", ramp="linear"),
        schedule=ScheduleSettings(name="cosine", warmup_steps=3, new_layers_steps=2),
        data=DataSettings(validation_share=0.2, workers=workers),
        validation=ValidationSettings(every=3, before=True, lens=True),
    )

    def score(embedder: Embedder, images: Catalogue) -> dict[str, float]:
        torch.rand(7)  # An evaluation that draws must not change the run.
        return {"recall@1": float(embedder.head.linear.weight.detach().abs().sum()), "map@r": 0.0, "r_precision": 0.0}  # type: ignore[union-attr]

    _, whole, _ = run_small(photos, tmp_path / "whole", settings, evaluate=score)

    class Killed(Exception):
        pass

    class Killer(Listener):
        def stepped(self, step: int) -> None:
            if step == 8:
                raise Killed

    broken = RunFolder.create(tmp_path / "broken")
    with pytest.raises(Killed):
        train(settings, read_catalogue(photos), broken, reporter=Killer(12), evaluate=score)
    assert load_checkpoint(broken.checkpoints / "last.pt")["step"] == 6
    run_small(photos, tmp_path / "broken", settings, evaluate=score, resume=True)

    one, other = (load_checkpoint(run.checkpoints / "last.pt") for run in (whole, broken))
    for part in ("model", "loss", "constraint"):
        assert one[part].keys() == other[part].keys()
        for name in one[part]:
            assert torch.equal(one[part][name], other[part][name]), name
    assert one["stream"] == other["stream"]
    assert torch.equal(one["random"]["torch"], other["random"]["torch"])

    def numbers(run: RunFolder) -> list[dict[str, float]]:
        return [{key: value for key, value in row.items() if "per_second" not in key} for row in run.read_metrics()]

    assert numbers(whole) == numbers(broken)
    weights = [torch.load(run.checkpoints / "best.pt", weights_only=True)["best"] for run in (whole, broken)]
    assert weights[0] == weights[1]


@pytest.mark.slow(seconds=15)
def test_kill_9_and_resume_through_the_command(photos: Path, tmp_path: Path) -> None:
    """60 steps in one go, and 30 steps, a killed process and the rest, end with the same bytes in every tensor.

    The killed run has a process of its own. The two others do not: each new process imports for seconds.
    """
    words = [
        "train",
        str(photos),
        "--runs",
        str(tmp_path),
        "--model.backbone",
        "test_resnet",
    ]
    words += [
        "--model.weights",
        "none",
        "--model.dim",
        "8",
        "--images.size",
        "32",
        "--batch.size",
        "8",
        "--batch.images_per_class",
        "2",
    ]
    words += [
        "--steps",
        "60",
        "--checkpoint_every",
        "30",
        "--validation.every",
        "30",
        "--sec.weight",
        "0.1",
        "--device",
        "cpu",
    ]
    assert main([*words, "--name", "whole"]) == 0
    command = [sys.executable, "-m", "cosphere", *words, "--name", "killed"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    metrics, deadline = tmp_path / "killed" / "metrics.jsonl", time.monotonic() + 600
    while not (
        metrics.exists()
        and any(
            json.loads(line)["step"] >= 40
            for line in metrics.read_text().splitlines(keepends=True)
            if line.endswith("\n")
        )
    ):
        assert process.poll() is None, "the run ended before it could be killed"
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert load_checkpoint(tmp_path / "killed" / "checkpoints" / "last.pt")["step"] == 30
    assert main(["train", "--resume", str(tmp_path / "killed")]) == 0
    one, other = (load_checkpoint(tmp_path / name / "checkpoints" / "last.pt") for name in ("whole", "killed"))
    assert one["step"] == other["step"] == 60
    for name, value in one["model"].items():
        assert torch.equal(value, other["model"][name]), name


class Spoilt(MultiSimilarityLoss):
    """Calls ``spoil(loss)`` before the fourth batch."""

    def __init__(self, spoil: Callable[[Spoilt], float | None]) -> None:
        super().__init__()
        self.spoil, self.calls = spoil, 0
        self.offset = torch.nn.Parameter(torch.zeros(2, 8))

    def forward(self, embeddings: torch.Tensor, labels: torch.Tensor, *rest: Any, **named: Any) -> torch.Tensor:
        self.calls += 1
        factor = self.spoil(self) if self.calls == 4 else None
        return super().forward(embeddings, labels, *rest, **named) * (1.0 if factor is None else factor)


def test_a_loss_that_is_not_finite_stops_the_run_and_names_the_term(photos: Path, tmp_path: Path) -> None:
    with pytest.raises(
        DivergenceError, match=r"the metric loss \(Spoilt\) is nan at step 4 .*class.*mean length.*last good checkpoint"
    ):
        run_small(photos, tmp_path / "run", small(), loss=Spoilt(lambda _: float("nan")))
    state = load_checkpoint(tmp_path / "run" / "checkpoints" / "last.pt")
    assert state["step"] == 2
    assert all(value.isfinite().all() for value in state["model"].values())


@pytest.mark.slow
def test_looking_and_saving_are_left_out_of_the_speed_once(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Counted twice, a slow validation would make the next line's images a second absurd."""
    real = Keeper.save_bundle
    monkeypatch.setattr(Keeper, "save_bundle", lambda self, *words: (time.sleep(0.5), real(self, *words)))
    settings = small(steps=6, log_every=2, validation=ValidationSettings(every=2, before=False, lens=False))
    began = time.monotonic()
    _, run, _ = run_small(photos, tmp_path / "run", settings)
    training = time.monotonic() - began - 3 * 0.5
    rows = [row for row in run.read_metrics() if "train/images_per_second" in row]
    counted = [2 * 8 / row["train/images_per_second"] for row in rows]
    assert all(seconds > 1e-3 for seconds in counted)
    assert sum(counted) < training + 0.1


def test_broken_weights_never_replace_good_ones(photos: Path, tmp_path: Path) -> None:
    def break_class_weights(loss: Spoilt) -> None:
        with torch.no_grad():
            loss.offset.fill_(float("nan"))

    settings = small(validation=ValidationSettings(every=2, before=False, lens=False))
    with pytest.raises(DivergenceError, match=r"offset holds values that are not finite after step 4"):
        run_small(photos, tmp_path / "run", settings, loss=Spoilt(break_class_weights))
    assert load_checkpoint(tmp_path / "run" / "checkpoints" / "last.pt")["step"] == 2
    assert Embedder.load(tmp_path / "run" / "model").provenance["step"] == 2


def test_sec_that_dwarfs_the_loss_is_said_once(photos: Path, tmp_path: Path) -> None:
    settings = small(
        steps=6,
        sec=SecSettings(weight=500.0, radius=3.0),
        optimizer=OptimizerSettings(backbone_rate=0.0, head_rate=0.0),
    )
    _, run, lines = run_small(photos, tmp_path / "run", settings)
    warnings = [line for line in lines if "times the metric loss" in line]
    assert len(warnings) == 1
    share = run.read_metrics()[0]["train/sec_share"]
    assert f"SEC is {share:.1f} times" in warnings[0]
    assert f"--sec.weight {500 * 0.2 / share:.2g}" in warnings[0]
    assert not any("times the metric loss" in line for line in run_small(photos, tmp_path / "calm", small())[2])


def scores_that_fall(values: list[float]) -> object:
    """An evaluation that returns these Recall@1 one after another."""
    left = iter(values)

    def score(embedder: Embedder, images: Catalogue) -> Mapping[str, float]:
        return {"recall@1": next(left), "map@r": 0.5, "r_precision": 0.5}

    return score


def test_the_best_model_is_kept_and_patience_ends_the_run(photos: Path, tmp_path: Path) -> None:
    settings = small(
        steps=20,
        data=DataSettings(validation_share=0.2),
        validation=ValidationSettings(every=2, patience=2, before=True, lens=False),
    )
    result, run, lines = run_small(
        photos, tmp_path / "run", settings, evaluate=scores_that_fall([0.1, 0.3, 0.6, 0.5, 0.6, 0.9])
    )
    assert (result.steps, result.best_step, result.stopped_early) == (8, 4, True)
    assert result.before["recall@1"] == 0.1
    assert result.best_scores["recall@1"] == 0.6
    best, last = (load_checkpoint(run.checkpoints / name)["model"] for name in ("best.pt", "last.pt"))
    kept = Embedder.load(run.model).state_dict()
    assert all(torch.equal(kept[name], best[name]) for name in kept)
    assert any(not torch.equal(kept[name], last[name]) for name in kept)
    assert "held out" in lines[0]
    assert lines[-1].startswith("stopped at step 8: 2 validations without a better score")


def test_health_is_logged_beside_the_scores_and_a_collapse_is_said_once(photos: Path, tmp_path: Path) -> None:
    """Without a warning before the first step: an untrained head has not collapsed."""
    one = embedding_health(torch.ones(12, 4), torch.arange(12) // 4)
    both = embedding_health(torch.cat([torch.ones(12, 4), torch.zeros(1, 4)]), torch.arange(13) // 4)
    well = embedding_health(torch.eye(6), torch.arange(6) // 2)
    left = iter([one, well, one, one, both])

    def score(embedder: Embedder, images: Catalogue) -> Validation:
        return Validation({"recall@1": 0.5, "map@r": 0.5, "r_precision": 0.5}, next(left))

    settings = small(
        steps=4,
        data=DataSettings(validation_share=0.2),
        validation=ValidationSettings(every=1, before=True, lens=False),
    )
    result, run, lines = run_small(photos, tmp_path / "run", settings, evaluate=score)
    looks = [row for row in run.read_metrics() if "val/recall@1" in row]
    assert [row["step"] for row in looks] == [0, 1, 2, 3, 4]
    assert [row["val/mean_cosine"] for row in looks] == pytest.approx([1, 0, 1, 1, 1], abs=1e-6)
    assert looks[1]["val/effective_rank"] == pytest.approx(5)
    assert looks[0]["val/margin"] == pytest.approx(0, abs=1e-6)
    assert {"val/uniformity", "val/alignment", "val/hubness", "val/norm_cv"} <= set(looks[0])
    said = [line for line in lines if line.startswith("warning")]
    assert len(said) == 2
    assert said[0].startswith("warning: at step 2, on the validation images: Total collapse: ")
    assert said[1].startswith("warning: at step 4, on the validation images: Zero rows: 1 of 13 ")
    # What chooses the model and is shown in percent stays what it was.
    assert set(result.best_scores) == set(result.before) == {"recall@1", "map@r", "r_precision"}
    assert not any("effective" in line for line in lines)


def test_validation_images_are_of_other_classes_and_never_of_the_test(photos: Path, tmp_path: Path) -> None:
    seen: list[Catalogue] = []

    def score(embedder: Embedder, images: Catalogue) -> dict[str, float]:
        seen.append(images)
        return {"recall@1": 0.0, "map@r": 0.0, "r_precision": 0.0}

    settings = small(steps=2, data=DataSettings(validation_share=0.2))
    _, run, _ = run_small(photos, tmp_path / "run", settings, evaluate=score)
    trained_on = set(load_checkpoint(run.checkpoints / "last.pt")["classes"])
    assert len(trained_on) == 8
    assert not trained_on & set(seen[0].class_names)
    assert all("/train/" in path for path in seen[0].paths)


def test_the_lens_is_logged_and_changes_nothing(photos: Path, tmp_path: Path) -> None:
    off = small(steps=4, validation=ValidationSettings(every=2, before=False, lens=False))
    on = replace(off, validation=replace(off.validation, lens=True))
    one, other = (run_small(photos, tmp_path / name, settings)[1] for name, settings in (("off", off), ("on", on)))
    found = [row for row in other.read_metrics() if "lens/angle_slope" in row]
    assert len(found) == 2
    assert found[0]["lens/max_abs_gradient_cosine"] < 1e-3  # Proposition 1: multi-similarity sees directions only.
    assert 0 < found[0]["lens/angle_mean"] < 3.15
    first, second = (load_checkpoint(run.checkpoints / "last.pt") for run in (one, other))
    for name, value in first["model"].items():
        assert torch.equal(value, second["model"][name]), name
    assert torch.equal(first["random"]["torch"], second["random"]["torch"])


@pytest.mark.parametrize("freeze_norm", [True, False])
def test_new_layers_train_alone_first(photos: Path, tmp_path: Path, freeze_norm: bool) -> None:
    """NormSoftmax lets the backbone's batch norm *statistics* move meanwhile, but none of its weights."""
    settings = small(
        steps=4, checkpoint_every=1, schedule=ScheduleSettings(new_layers_steps=2), freeze_norm=freeze_norm
    )
    states: dict[int, dict[str, torch.Tensor]] = {}

    class Watcher(Listener):
        def stepped(self, step: int) -> None:
            states[step] = {name: value.clone() for name, value in training.embedder.state_dict().items()}

    run, watcher = RunFolder.create(tmp_path / "run"), Watcher(4)
    training = loop.Training(
        settings, read_catalogue(photos), run, build_accelerator(settings), reporter=watcher, evaluate=None, loss=None
    )
    states[0] = {name: value.clone() for name, value in training.embedder.state_dict().items()}
    training.run()

    def moved(start: int, end: int) -> set[str]:
        weights = [name for name in states[0] if "running" not in name and "num_batches" not in name]
        changed = {name for name in weights if not torch.equal(states[start][name], states[end][name])}
        return {name.split(".")[0] for name in changed}

    assert "backbone" not in moved(0, 2)
    assert "head" in moved(0, 2)
    assert {"backbone", "head"} <= moved(2, 3)


def test_frozen_norm_layers_stay(photos: Path, tmp_path: Path) -> None:
    _, run, _ = run_small(photos, tmp_path / "run", small(freeze_norm=True, checkpoint_every=0))
    settings = small(freeze_norm=True)
    torch.manual_seed(0)
    fresh = build_model(settings)[0]
    trained = Embedder.load(run.model)
    for (name, layer), (_, old) in zip(trained.backbone.named_modules(), fresh.backbone.named_modules(), strict=True):
        if isinstance(layer, torch.nn.BatchNorm2d):
            assert torch.equal(layer.running_mean, old.running_mean), name  # type: ignore[arg-type]
            assert torch.equal(layer.weight, old.weight), name
    assert not torch.equal(trained.head.norm.running_mean, fresh.head.norm.running_mean)  # type: ignore[arg-type]


def test_half_precision_trains_and_goes_on_bit_for_bit(photos: Path, tmp_path: Path) -> None:
    """With depthwise layers, which compute in float32."""
    settings = small(
        precision="bf16", device="cpu", model=EmbedderSettings(backbone="test_efficientnet", weights="none", dim=8)
    )
    _, run, _ = run_small(photos, tmp_path / "run", settings)
    assert all(row["train/loss"] is not None for row in run.read_metrics())
    weights = Embedder.load(run.model).state_dict()
    assert {value.dtype for value in weights.values() if value.is_floating_point()} == {torch.float32}
    run_small(photos, tmp_path / "broken", replace(settings, steps=2))
    _, continued, _ = run_small(photos, tmp_path / "broken", settings, resume=True)
    for name, value in Embedder.load(continued.model).state_dict().items():
        assert torch.equal(value, weights[name]), name


def test_accumulating_two_halves_says_what_it_does_not_do(photos: Path, tmp_path: Path) -> None:
    settings = small(
        batch=BatchSettings(size=4, images_per_class=2, accumulate=2), optimizer=OptimizerSettings(clip_norm=1.0)
    )
    _, run, lines = run_small(photos, tmp_path / "run", settings)
    assert any("each batch's loss still sees only its own 4 images" in line for line in lines)
    assert load_checkpoint(run.checkpoints / "last.pt")["stream"]["position"] == 8


def test_unreadable_images_are_skipped_counted_and_named_until_there_are_too_many(photos: Path, tmp_path: Path) -> None:
    import shutil

    copy = tmp_path / "photos"
    shutil.copytree(photos, copy)
    bad = copy / "train" / "class00" / "0.png"
    bad.write_bytes(b"not a picture")
    settings = small(steps=40, checkpoint_every=0, data=DataSettings(validation_share=0.0, max_unreadable=0.05))
    result, _, _ = run_small(copy, tmp_path / "few", settings)
    assert len(result.unreadable) == 1
    assert str(bad) in result.unreadable[0]
    for name in ("class01", "class02", "class03", "class04"):
        (copy / "train" / name / "0.png").write_bytes(b"")
    with pytest.raises(DataError, match=r"images cannot be read, more than the 5.0% that are forgiven"):
        run_small(copy, tmp_path / "many", settings)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"loss": LossSettings(name="tripplet")}, "Did you mean 'triplet'"),
        ({"loss": LossSettings(name="triplet", settings={"margn": 1})}, "Did you mean 'margin'"),
        (
            {"loss": LossSettings(name="norm_softmax", memory=64)},
            "loss.memory is for losses that compare images with images",
        ),
        ({"precision": "fp16", "device": "cpu"}, "fp16 wants a GPU"),
        ({"device": "tpu"}, "device is 'tpu'; wanted 'auto', 'cpu', 'cuda' or 'mps'"),
    ],
)
def test_what_cannot_start_says_why(photos: Path, tmp_path: Path, changes: dict[str, object], message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        run_small(photos, tmp_path / "run", small(**changes))


def test_a_schedule_inside_a_loss_runs_over_the_run(photos: Path, tmp_path: Path) -> None:
    settings = small(loss=LossSettings(name="heated_up_softmax"))
    run_small(photos, tmp_path / "run", settings)
    assert build_loss(settings, None, 10, 8).total_steps == settings.steps
    given = replace(settings, loss=LossSettings(name="heated_up_softmax", settings={"total_steps": 77}))
    assert build_loss(given, None, 10, 8).total_steps == 77


@pytest.mark.parametrize("name", ["memory", "memory_after"])
def test_memory_is_a_whole_number(name: str) -> None:
    with pytest.raises(SettingsError, match=rf"loss.{name} must be a whole number from 0 to \d+; got -1"):
        LossSettings(**{name: -1})  # type: ignore[arg-type]


def test_one_class_is_not_enough(photos: Path, tmp_path: Path) -> None:
    one = read_catalogue(photos).select("train", classes=["class00"])
    with pytest.raises(DataError, match="wants at least 2"):
        run_small(photos, tmp_path / "run", small(batch=BatchSettings(size=2, images_per_class=2)), catalogue=one)


def test_resuming_on_other_data_is_refused(photos: Path, tmp_path: Path) -> None:
    run_small(photos, tmp_path / "run", small())
    fewer = read_catalogue(photos).select("train", classes=[f"class{number:02d}" for number in range(6)])
    with pytest.raises((SettingsError, RunError), match=r"the data now has 6|cannot resume"):
        run_small(photos, tmp_path / "run", small(steps=8), resume=True, catalogue=fewer)


def test_a_run_stopped_before_its_first_checkpoint_starts_again(photos: Path, tmp_path: Path) -> None:
    settings = small(steps=6, checkpoint_every=5, log_every=1)
    _, whole, _ = run_small(photos, tmp_path / "whole", settings)

    class Stopped(Exception):
        pass

    class Stopper(Listener):
        def stepped(self, step: int) -> None:
            if step == 3:
                raise Stopped

    broken = RunFolder.create(tmp_path / "broken")
    with pytest.raises(Stopped):
        train(settings, read_catalogue(photos), broken, reporter=Stopper(6))
    assert len(broken.read_metrics()) == 2
    run_small(photos, tmp_path / "broken", settings, resume=True)
    one, other = (load_checkpoint(run.checkpoints / "last.pt")["model"] for run in (whole, broken))
    assert all(torch.equal(value, other[name]) for name, value in one.items())
    assert [row["step"] for row in broken.read_metrics()] == [1, 2, 3, 4, 5, 6]


def test_edited_settings_are_refused_and_more_steps_are_not(photos: Path, tmp_path: Path) -> None:
    run_small(photos, tmp_path / "run", small())
    with pytest.raises(RunError, match=r"the checkpoint was made with sec.weight 0.1, the settings now say 0.2"):
        run_small(photos, tmp_path / "run", small(sec=SecSettings(weight=0.2)), resume=True)
    result, run, _ = run_small(photos, tmp_path / "run", small(steps=6), resume=True)
    assert result.steps == load_checkpoint(run.checkpoints / "last.pt")["step"] == 6


def test_a_full_disk_keeps_the_last_checkpoint(photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real, calls = torch.save, []

    def fills_up(*words: object, **named: object) -> None:
        calls.append(1)
        if len(calls) > 1:
            raise OSError(28, os.strerror(28))
        real(*words, **named)

    monkeypatch.setattr(torch, "save", fills_up)
    with pytest.raises(RunError, match="No space left on device"):
        run_small(photos, tmp_path / "run", small())
    assert load_checkpoint(tmp_path / "run" / "checkpoints" / "last.pt")["step"] == 2
