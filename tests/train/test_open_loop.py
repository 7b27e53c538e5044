"""What a loss and a sampler may ask of the loop, without a line in it that knows them."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from cosphere.data import Catalogue, read_catalogue
from cosphere.errors import RunError, SettingsError
from cosphere.health import embedding_health
from cosphere.losses import (
    CrossBatchMemory,
    NTXentLoss,
    TripletLoss,
    table,
)
from cosphere.models import Embedder, EmbedderSettings
from cosphere.runs import RunFolder
from cosphere.train import (
    BatchSettings,
    DataSettings,
    ImageSettings,
    LossSettings,
    OptimizerSettings,
    PlainReporter,
    TrainResult,
    TrainSettings,
    Validation,
    ValidationSettings,
    loop,
    train,
)
from cosphere.train.batches import BatchStream
from cosphere.train.checkpoint import load_checkpoint
from cosphere.train.objective import LossFunction
from cosphere.train.setup import labelled_by_image, labels_are_images


class Listener(PlainReporter):
    """Keeps what it is told, and stops the run where it is asked to."""

    def __init__(self, steps: int, stop_at: int | None = None) -> None:
        super().__init__(steps)
        self.lines: list[str] = []
        self.stop_at = stop_at

    def _line(self, text: str) -> None:
        self.lines.append(text)

    def stepped(self, step: int) -> None:
        if step == self.stop_at:
            raise KeyboardInterrupt


SETTINGS = TrainSettings(
    steps=4,
    log_every=10,
    checkpoint_every=2,
    images=ImageSettings(size=32),
    model=EmbedderSettings(backbone="test_resnet", weights="none", dim=8),
    batch=BatchSettings(size=20, images_per_class=2),
    loss=LossSettings(name="triplet"),
    optimizer=OptimizerSettings(backbone_rate=1e-3, head_rate=1e-3),
    data=DataSettings(validation_share=0.0),
    validation=ValidationSettings(every=0, before=False, lens=False),
    freeze_norm=False,
)
"""Three batches an epoch of the 60 training photos."""


def run(
    photos: Path,
    folder: Path,
    settings: TrainSettings,
    loss: LossFunction | None = None,
    *,
    stop_at: int | None = None,
    resume: bool = False,
    evaluate: Callable[[Embedder, Catalogue], dict[str, float]] | None = None,
) -> tuple[TrainResult, list[str]]:
    listener = Listener(settings.steps, stop_at)
    place = RunFolder.open(folder) if resume else RunFolder.create(folder)
    images = read_catalogue(photos)
    return train(
        settings, images, place, reporter=listener, loss=loss, resume=resume, evaluate=evaluate
    ), listener.lines


def weights(folder: Path) -> dict[str, Tensor]:
    return load_checkpoint(folder / "checkpoints" / "last.pt")["model"]  # type: ignore[no-any-return]


class Watching(TripletLoss):
    """A user's loss that keeps what it is shown after each epoch."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[tuple[Tensor, Tensor]] = []

    def after_epoch(self, embed: Callable[[], tuple[Tensor, Tensor]]) -> None:
        embed()
        self.seen.append(embed())


def test_a_users_loss_sees_all_training_images_after_each_epoch(photos: Path, tmp_path: Path) -> None:
    loss = Watching()
    run(photos, tmp_path / "run", replace(SETTINGS, steps=7), loss)
    assert len(loss.seen) == 2  # after 3 and 6 of 7 steps
    images = read_catalogue(photos).select("train")
    for rows, labels in loss.seen:
        assert rows.shape == (60, 8)
        assert rows.device.type == "cpu"
        assert labels.tolist() == images.labels.tolist()  # in catalogue order
    assert not torch.equal(loss.seen[0][0], loss.seen[1][0])


def test_looking_after_an_epoch_changes_nothing_and_is_lazy(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = []
    real = BatchStream.embed
    monkeypatch.setattr(BatchStream, "embed", lambda self, model: (calls.append(1), real(self, model))[1])
    settings = replace(SETTINGS, steps=7)
    run(photos, tmp_path / "watched", settings, Watching())
    assert len(calls) == 2  # once an epoch, although it was asked for twice
    run(photos, tmp_path / "plain", settings, TripletLoss())
    assert len(calls) == 2  # nobody asks, nothing is embedded
    one, other = weights(tmp_path / "watched"), weights(tmp_path / "plain")
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_a_plain_function_is_a_loss(photos: Path, tmp_path: Path) -> None:
    def pull_together(embeddings: Tensor, labels: Tensor) -> Tensor:
        return embeddings.var(dim=0).sum()

    _, lines = run(photos, tmp_path / "run", SETTINGS, pull_together)
    assert lines[0].startswith("training on 60 images")
    assert Embedder.load(tmp_path / "run" / "model").provenance["loss"] == "pull_together"


class TakesThree(torch.nn.Module):
    def forward(self, embeddings: Tensor, labels: Tensor, more: Tensor) -> Tensor:
        return embeddings.sum()


@pytest.mark.parametrize(
    ("loss", "said"),
    [
        ("triplet", "the loss is 'triplet'; .*loss.name in the settings"),
        (TripletLoss, r"the class TripletLoss; wanted one of it: TripletLoss\(\)"),
        (3, "the loss is 3; wanted a function or a module"),
        (lambda embeddings: embeddings.sum(), "called with embeddings .* and labels"),
        (TakesThree(), "TakesThree.*'more'"),
        (lambda embeddings, labels: embeddings.sum(dim=1), r"shape \(20,\).*Add .mean\(\)"),
        (lambda embeddings, labels: embeddings.sum()[None], r"shape \(1,\).*Add .mean\(\)"),
        (lambda embeddings, labels: embeddings.sum().detach(), r"without a gradient; .*Leave out .detach\(\)"),
        (lambda embeddings, labels: labels.sum(), "type torch.int64; .*A count has no gradient"),
        (lambda embeddings, labels: embeddings.sum().item(), r"returned -?[0-9.]+; .*without .item\(\)"),
        (lambda embeddings, labels: None, "returned None; wanted a floating-point tensor"),
        (lambda embeddings, labels: (embeddings.sum(), 1), r"returned \(tensor\(.*wanted a floating-point tensor"),
    ],
)
def test_a_loss_that_cannot_be_minimised_is_named_with_what_it_gave(
    photos: Path, tmp_path: Path, loss: Any, said: str
) -> None:
    with pytest.raises(SettingsError, match=f"(?s){said}"):
        run(photos, tmp_path / "run", SETTINGS, loss)


@pytest.mark.parametrize(
    "loss", [TripletLoss(), lambda embeddings, labels, margin=0.1: embeddings.double().sum() * margin]
)
def test_a_loss_may_be_of_float64_and_have_options_of_its_own(photos: Path, tmp_path: Path, loss: Any) -> None:
    run(photos, tmp_path / "run", replace(SETTINGS, steps=1), loss)


@pytest.mark.parametrize("memory", [0, 40])
def test_the_class_tree_is_built_after_each_epoch_behind_a_memory_too(
    photos: Path, tmp_path: Path, memory: int
) -> None:
    loss = LossSettings(name="hierarchical_triplet", memory=memory)
    run(photos, tmp_path / "run", replace(SETTINGS, loss=loss))
    state = load_checkpoint(tmp_path / "run" / "checkpoints" / "last.pt")["loss"]
    name = "loss.tree_classes" if memory else "tree_classes"
    assert state[name].tolist() == list(range(10))


@pytest.mark.slow
def test_neighbour_batches_resume_in_the_middle_of_an_epoch(photos: Path, tmp_path: Path) -> None:
    batch = BatchSettings(sampler="neighbours", size=12, images_per_class=2, neighbours=2)
    settings = replace(SETTINGS, steps=9, batch=batch, loss=LossSettings(name="hierarchical_triplet"))
    run(photos, tmp_path / "whole", settings)
    with pytest.raises(KeyboardInterrupt):
        run(photos, tmp_path / "broken", settings, stop_at=7)
    state = load_checkpoint(tmp_path / "broken" / "checkpoints" / "last.pt")
    assert (state["step"], state["stream"]["epoch"]) == (6, 1)
    run(photos, tmp_path / "broken", settings, resume=True)
    one, other = weights(tmp_path / "whole"), weights(tmp_path / "broken")
    assert all(torch.equal(one[name], other[name]) for name in one)


class Recording(NTXentLoss):
    """NT-Xent that keeps the labels and rows of its batches."""

    def __init__(self) -> None:
        super().__init__()
        self.batches: list[Tensor] = []

    def forward(self, embeddings: Tensor, labels: Tensor, *rest: object, **named: object) -> Tensor:
        self.batches.append(labels.clone())
        return super().forward(embeddings, labels, *rest, **named)  # type: ignore[arg-type]


def test_two_views_of_an_image_are_a_pair(photos: Path, tmp_path: Path) -> None:
    """SimCLR: NT-Xent, every image twice, labelled by image."""
    settings = replace(SETTINGS, batch=BatchSettings(sampler="views", size=20))
    loss = Recording()
    run(photos, tmp_path / "run", settings, loss)
    drawn = [labels[::2].tolist() for labels in loss.batches]
    assert all(torch.equal(labels[::2], labels[1::2]) for labels in loss.batches)
    assert all(len(set(images)) == 10 for images in drawn)
    assert {len(labels) for labels in loss.batches} == {20}
    assert max(max(images) for images in drawn) > 10  # rows, not classes


def test_an_unreadable_image_loses_all_its_views(photos: Path, tmp_path: Path) -> None:
    copy = tmp_path / "photos"
    shutil.copytree(photos, copy)
    (copy / "train" / "class00" / "0.png").write_bytes(b"not a picture")
    settings = replace(
        SETTINGS,
        steps=6,
        batch=BatchSettings(sampler="views", size=20),
        data=DataSettings(validation_share=0.0, max_unreadable=0.05),
    )
    loss = Recording()
    result, _ = run(copy, tmp_path / "run", settings, loss)
    assert len(result.unreadable) == 1
    assert sorted(len(labels) for labels in loss.batches[:6]) == [18, 20, 20, 20, 20, 20]


def test_the_memory_holds_the_numbers_of_images_over_epochs(photos: Path, tmp_path: Path) -> None:
    """A number stands for one image in every batch and epoch: two images in the queue never look like views of one."""
    batch = BatchSettings(sampler="views", size=20)
    images = read_catalogue(photos).select("train")
    seen: list[int] = []

    class Queue(CrossBatchMemory):
        def forward(self, embeddings: Tensor, labels: Tensor, *rest: object, **named: object) -> Tensor:
            seen.extend(labels.tolist())
            return super().forward(embeddings, labels)

    queue = Queue(NTXentLoss(), 8, size=150)
    assert labels_are_images(batch, queue)
    run(photos, tmp_path / "run", replace(SETTINGS, steps=9, batch=batch), queue)  # an epoch and a half
    assert len(images) == 60
    first = seen[:120]
    assert sorted(first) == sorted([*range(60)] * 2)  # an epoch: each image's two views under its row of the catalogue
    assert queue.labels.tolist() == [*seen[150:], *seen[30:150]]
    # Views of one image from two epochs are in the queue under one number: they are positives, never negatives of each other.
    assert max(queue.labels.bincount().tolist()) == 4


def test_what_labels_a_view() -> None:
    views, balanced = BatchSettings(sampler="views"), BatchSettings()
    assert labels_are_images(views, NTXentLoss())
    assert not labels_are_images(views, TripletLoss())
    assert labels_are_images(views, lambda embeddings, labels: embeddings.sum())
    assert labels_are_images(replace(views, view_labels="image"), TripletLoss())
    assert not labels_are_images(replace(views, view_labels="class"), NTXentLoss())
    assert not labels_are_images(balanced, NTXentLoss())


def test_labels_by_image_are_the_rows(photos: Path) -> None:
    images = read_catalogue(photos).select("train")
    assert labelled_by_image(images).labels.tolist() == list(range(60))


@pytest.mark.parametrize(
    ("head", "loss"),
    [
        (
            {"parts": [8, 8, 8], "levels": [-3, -2, -1]},
            LossSettings(name="hard_cascade", settings={"hard_ratios": [1.0, 0.5, 0.2]}),
        ),
        (
            {"parts": [6, 8, 10], "weights": "size"},
            LossSettings(name="boosted_binomial", settings={"sizes": [6, 8, 10]}),
        ),
        ({"parts": 3}, LossSettings(name="attention_ensemble", settings={"learners": 3})),
    ],
    ids=["hdc", "a-bier", "abe"],
)
def test_ensembles(photos: Path, tmp_path: Path, head: dict[str, object], loss: LossSettings) -> None:
    """The sketches of docs/architecture.md."""
    model = {"model.dim": 24, "model.head": "groups", "model.head_settings": head}
    run(photos, tmp_path / "run", replace(SETTINGS.with_values({"steps": 2, **model}), loss=loss))
    images = read_catalogue(photos).select("test")
    assert Embedder.load(tmp_path / "run" / "model").encode(images.paths).shape == (24, 24)


def test_class_weights_for_each_image(photos: Path, tmp_path: Path) -> None:
    batch = BatchSettings(sampler="views", size=20, view_labels="image")
    run(photos, tmp_path / "run", replace(SETTINGS, steps=2, batch=batch, loss=LossSettings(name="norm_softmax")))
    assert load_checkpoint(tmp_path / "run" / "checkpoints" / "last.pt")["loss"]["class_weight"].shape == (60, 8)


def test_shuffled_batches_train(photos: Path, tmp_path: Path) -> None:
    settings = replace(
        SETTINGS, batch=BatchSettings(sampler="shuffled", size=25), loss=LossSettings(name="norm_softmax")
    )
    run(photos, tmp_path / "run", settings)
    stream = load_checkpoint(tmp_path / "run" / "checkpoints" / "last.pt")["stream"]
    assert (stream["epoch"], stream["position"], stream["plan"]["length"]) == (1, 1, 3)


def test_a_batch_that_the_data_cannot_fill_is_lowered_with_a_note(photos: Path, tmp_path: Path) -> None:
    _, lines = run(photos, tmp_path / "run", replace(SETTINGS, steps=1, batch=BatchSettings()))
    assert "batch size is lowered from 120 to 30: there are 10 classes" in lines


def test_any_score_chooses_the_best_model(photos: Path, tmp_path: Path) -> None:
    scores = iter([{"nmi": value, "recall@1": 1 - value} for value in (0.1, 0.3, 0.2)])
    settings = replace(
        SETTINGS,
        data=DataSettings(validation_share=0.2),
        steps=3,
        validation=ValidationSettings(every=1, metric="nmi", before=False, lens=False),
    )
    result, _ = run(photos, tmp_path / "run", settings, evaluate=lambda model, images: next(scores))
    assert (result.best_step, result.best_scores["nmi"]) == (2, 0.3)


def test_an_unknown_score_is_named_before_the_first_step(photos: Path, tmp_path: Path) -> None:
    validation = ValidationSettings(metric="recal@1", before=True)
    settings = replace(SETTINGS, data=DataSettings(validation_share=0.2), validation=validation)
    with pytest.raises(SettingsError, match=r"validation has no score 'recal@1'\. Did you mean 'recall@1'\?"):
        run(photos, tmp_path / "run", settings, evaluate=lambda model, images: {"recall@1": 0.5, "map@r": 0.4})
    assert not RunFolder.open(tmp_path / "run").read_metrics()


def test_training_is_small_and_knows_no_loss() -> None:
    """At most 12 methods, and no loss by name."""
    methods = [name for name, value in vars(loop.Training).items() if callable(value)]
    assert len(methods) <= 12
    source = "".join(path.read_text(encoding="utf-8") for path in Path(loop.__file__).parent.glob("*.py"))
    assert not re.findall(r"isinstance\([^)]*losses\.", source)
    assert not [about.title for about in table() if about.title in source]


def test_a_collapsed_model_is_never_best(photos: Path, tmp_path: Path) -> None:
    health = [
        embedding_health(rows, torch.arange(6) // 2)
        for rows in (torch.ones(6, 4), torch.eye(6), torch.ones(6, 4), torch.eye(6))
    ]
    looks = iter(zip((1.0, 0.2, 0.9, 0.3), health, strict=True))

    def score(model: Embedder, images: Catalogue) -> Validation:
        value, seen = next(looks)
        return Validation({"recall@1": value}, seen)

    settings = replace(
        SETTINGS,
        data=DataSettings(validation_share=0.2),
        validation=ValidationSettings(every=1, before=False, lens=False),
    )
    result, lines = run(photos, tmp_path / "run", settings, evaluate=score)
    assert (result.best_step, result.best_scores) == (4, {"recall@1": 0.3})
    marked = [line for line in lines if "best so far" in line]
    assert [line.split("/")[0] for line in marked] == ["step 2", "step 4"]
    assert sum("validation is saturated: recall@1 is 100 %" in line for line in lines) == 1


def test_without_its_last_checkpoint_a_run_continues_from_the_best_one(photos: Path, tmp_path: Path) -> None:
    run(photos, tmp_path / "run", SETTINGS)
    folder = RunFolder.open(tmp_path / "run")
    (folder.checkpoints / "last.pt").unlink()
    result, lines = run(photos, tmp_path / "run", replace(SETTINGS, steps=5), resume=True)
    assert result.steps == 5
    assert any("last.pt is missing; the run continues from" in line and "step 4" in line for line in lines)
    (folder.checkpoints / "last.pt").write_bytes(b"PK cut off")
    result, lines = run(photos, tmp_path / "run", replace(SETTINGS, steps=6), resume=True)
    assert result.steps == 6
    assert any("last.pt is damaged, and is kept as last.pt.damaged; the run continues from" in line for line in lines)
    assert (folder.checkpoints / "last.pt.damaged").read_bytes() == b"PK cut off"
    assert load_checkpoint(folder.checkpoints / "last.pt")["step"] == 6
    for path in folder.checkpoints.iterdir():
        path.unlink()
    bundle = (folder.model / "model.safetensors").read_bytes()
    with pytest.raises(RunError, match="holds a model but no checkpoint"):
        run(photos, tmp_path / "run", replace(SETTINGS, steps=7), resume=True)
    assert (folder.model / "model.safetensors").read_bytes() == bundle


@pytest.mark.parametrize(
    ("classes", "images", "how"),
    [
        (2, 2, "no validation: 2 training classes, 2 of them with 2 images or more, are too few to hold some out"),
        (3, 3, "no validation: 3 training classes"),
        (
            5,
            4,
            "validation on 2 of 5 training classes, held out with seed 0 (a share of 0.15 adapted to so few classes)",
        ),
    ],
)
def test_the_defaults_train_on_any_folder(photos: Path, tmp_path: Path, classes: int, images: int, how: str) -> None:
    """`cosphere train photos/ --sec.weight 0.02` from two classes of two images on."""
    for name in sorted(path.name for path in (photos / "train").iterdir())[:classes]:
        for image in range(images):
            target = tmp_path / "few" / name / f"{image}.png"
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(photos / "train" / name / f"{image}.png", target)
    small = {"images.size": 32, "model.backbone": "test_resnet", "model.weights": "none", "model.dim": 8}
    settings = TrainSettings().with_values({**small, "steps": 2, "sec.weight": 0.02})
    result, lines = run(
        tmp_path / "few", tmp_path / "run", settings, evaluate=lambda model, catalogue: {"recall@1": 0.5}
    )
    assert result.steps == 2
    assert how in lines[0]
    assert any(line.startswith("batch size is lowered from 120 to ") for line in lines)
