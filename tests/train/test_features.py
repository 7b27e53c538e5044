"""Training on cached features: the same steps as on images with a frozen backbone, and exact to resume."""

from __future__ import annotations

import itertools
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy.stats import chisquare

import cosphere.embeddings.features as features
from cosphere import losses
from cosphere.data import Catalogue, read_catalogue
from cosphere.embeddings import FeatureCache, Views
from cosphere.errors import RunError, SettingsError
from cosphere.images import read_image
from cosphere.models import Embedder, build_backbone
from cosphere.runs import RunFolder
from cosphere.spherical import SphericalConstraint
from cosphere.train import PlainReporter, TrainResult, TrainSettings, build_model, train
from cosphere.train.checkpoint import load_checkpoint
from cosphere.train.features import FeatureStream, different_copies, feature_cache
from cosphere.train.progress import Spoken

SMALL = {
    "steps": 6,
    "log_every": 2,
    "checkpoint_every": 2,
    "images.size": 32,
    "images.preset": "sec",
    "model.backbone": "test_resnet",
    "model.weights": "none",
    "model.dim": 8,
    "batch.size": 8,
    "batch.images_per_class": 2,
    "sec.weight": 0.1,
    "optimizer.head_rate": 1e-2,
    "data.validation_share": 0.0,
    "validation.every": 0,
    "validation.before": False,
    "validation.lens": False,
    "features.copies": 3,
}


def small(**changes: Any) -> TrainSettings:
    return TrainSettings().with_values(SMALL).with_values({name.replace("__", "."): v for name, v in changes.items()})


class Lines(PlainReporter):
    """Keeps what it is told."""

    def __init__(self, steps: int) -> None:
        super().__init__(steps)
        self.lines: list[str] = []

    def _line(self, text: str) -> None:
        self.lines.append(text)


def run_small(
    photos: Path, folder: Path, settings: TrainSettings, *, resume: bool = False, **others: Any
) -> tuple[TrainResult, RunFolder, list[str]]:
    run = RunFolder.open(folder) if resume else RunFolder.create(folder)
    reporter = Lines(settings.steps)
    result = train(settings, read_catalogue(photos), run, reporter=reporter, resume=resume, **others)
    return result, run, reporter.lines


def weights(run: RunFolder) -> dict[str, torch.Tensor]:
    model: dict[str, torch.Tensor] = load_checkpoint(run.checkpoints / "last.pt")["model"]
    return model


def stream_of(photos: Path, folder: Path, settings: TrainSettings) -> FeatureStream:
    torch.manual_seed(0)
    embedder, augmentation = build_model(settings)
    images = read_catalogue(photos).select("train")
    return FeatureStream(images, settings, embedder, augmentation, FeatureCache(folder))


@pytest.fixture
def computed(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Numbers of images of the backbone's passes, however it is called."""
    sizes: list[int] = []
    real = features.infer_features

    def counted(model: Any, inputs: torch.Tensor) -> torch.Tensor:
        sizes.append(len(inputs))
        return real(model, inputs)

    monkeypatch.setattr(features, "infer_features", counted)
    return sizes


@pytest.mark.parametrize("optimizer", ["adam", "sgd"])
def test_one_copy_without_augmentation_trains_as_on_images_with_a_frozen_backbone(
    photos: Path, tmp_path: Path, optimizer: str
) -> None:
    """The oracle: plain torch on images, the backbone in evaluation mode, the batches of the run's own sampler."""
    settings = small(features__copies=1, images__preset="none", optimizer__name=optimizer, optimizer__weight_decay=0.01)
    _, run, _ = run_small(photos, tmp_path / "run", settings)
    torch.manual_seed(0)
    embedder, _ = build_model(settings)
    loss, sec = losses.build("multi_similarity", num_classes=10, dim=8), SphericalConstraint("batch")
    named = dict(embedder.head.named_parameters())
    decayed = [value for name, value in named.items() if not name.startswith("norm.")]
    groups = [
        {"params": decayed, "weight_decay": 0.01},
        {"params": [value for name, value in named.items() if name.startswith("norm.")], "weight_decay": 0.0},
    ]
    rate = settings.optimizer.head_rate
    step: Any = (
        torch.optim.Adam(groups, lr=rate) if optimizer == "adam" else torch.optim.SGD(groups, lr=rate, momentum=0.9)
    )
    stream = stream_of(photos, tmp_path / "other", settings)
    images = read_catalogue(photos).select("train")
    for batch in itertools.islice(stream, settings.steps):
        pixels = [embedder.preprocessing.pixels(read_image(images.paths[row])) for row in batch.rows.tolist()]
        embedder.train()
        embedder.backbone.eval()
        embeddings = embedder(embedder.preprocessing.to_input(torch.stack(pixels)))
        labels = torch.from_numpy(images.labels[batch.rows.numpy()])
        step.zero_grad()
        (loss(embeddings, labels) + 0.1 * sec(embeddings)).backward()
        step.step()
    start = build_model(settings)[0].state_dict()
    for name, value in weights(run).items():
        torch.testing.assert_close(value, embedder.state_dict()[name], rtol=1e-3, atol=1e-5)
        assert name.startswith("head.") or torch.equal(value, embedder.state_dict()[name])
    assert not torch.allclose(weights(run)["head.linear.weight"], start["head.linear.weight"], atol=1e-3)


def test_a_draw_takes_one_view_of_its_image(photos: Path, tmp_path: Path) -> None:
    settings = small()
    stream = stream_of(photos, tmp_path / "f", settings)
    images = read_catalogue(photos).select("train")
    torch.manual_seed(0)
    embedder, augmentation = build_model(settings)
    seeds = Views(augmentation, 3, settings.seed).seeds(images)
    draws = next(iter(stream.sampler))
    batch = stream.load(draws)
    for row, draw in zip(batch.features, draws, strict=True):
        picture, seed = read_image(images.paths[draw.row]), int(seeds[draw.row, draw.seed % 3])
        pixels = augmentation.pixels(picture, embedder.preprocessing, seed)
        with torch.no_grad():
            embedder.eval()
            want = embedder.backbone(embedder.preprocessing.to_input(pixels[None])).mean((2, 3))[0]
        torch.testing.assert_close(row, want, rtol=1e-4, atol=1e-5)
    assert batch.labels.tolist() == images.labels[[draw.row for draw in draws]].tolist()
    assert len({draw.seed % 3 for draw in draws}) > 1


@pytest.mark.parametrize(("views", "copies"), [(1, 3), (2, 2), (2, 5), (3, 4)])
def test_the_views_of_an_image_are_different_copies_and_every_choice_is_equally_likely(views: int, copies: int) -> None:
    choices = list(itertools.permutations(range(copies), views))
    seeds = np.random.default_rng(0).integers(0, 2**31, 2000 * len(choices) * views)
    chosen = different_copies(seeds, views, copies).reshape(-1, views)
    counts = Counter(map(tuple, chosen.tolist()))
    assert sorted(counts) == choices
    assert chisquare(list(counts.values())).pvalue > 1e-3
    assert chosen[:, 0].tolist() == (seeds[::views] % copies).tolist()


def test_a_batch_of_views_holds_different_copies_of_each_image(photos: Path, tmp_path: Path) -> None:
    stream = stream_of(photos, tmp_path / "f", small(batch__sampler="views", features__copies=2))
    batch = next(iter(stream))
    pairs = batch.features.reshape(-1, 2, batch.features.shape[1])
    assert batch.rows[::2].tolist() == batch.rows[1::2].tolist()
    assert (pairs[:, 0] != pairs[:, 1]).any(dim=1).all()
    with pytest.raises(
        SettingsError,
        match=r"features\.copies 1 is smaller than batch\.views 2, so that two .* to train on images",
    ):
        small(batch__sampler="views", features__copies=1)


@pytest.mark.parametrize("taken", [1, 7, 9])
def test_put_back_it_gives_the_same_rows(photos: Path, tmp_path: Path, taken: int) -> None:
    first = stream_of(photos, tmp_path / "f", small())
    list(itertools.islice(first, taken))
    state = first.state_dict()
    rest = list(itertools.islice(first, 4))
    second = stream_of(photos, tmp_path / "f", small())
    second.load_state_dict(state)
    for one, other in zip(rest, itertools.islice(second, 4), strict=True):
        assert torch.equal(one.features, other.features)
        assert torch.equal(one.rows, other.rows)
    before = torch.get_rng_state()
    assert torch.equal(first.probe().features, second.probe().features)
    assert torch.equal(torch.get_rng_state(), before)


def test_a_second_run_computes_nothing(photos: Path, tmp_path: Path, computed: list[int]) -> None:
    _, _, lines = run_small(photos, tmp_path / "runs" / "one", small())
    assert sum(computed) == 180
    assert any(line.startswith("features: 180 computed in") for line in lines)
    note = next(line for line in lines if "the backbone is frozen" in line)
    assert "3 cached views of each image" in note
    assert str(tmp_path / "runs" / ".features") in note
    assert "optimizer.backbone_rate and freeze_norm have no effect" in note
    computed.clear()
    others = {"loss__name": "norm_softmax", "model__dim": 5, "model__norm": "layer", "batch__sampler": "shuffled"}
    run_small(photos, tmp_path / "runs" / "two", small(optimizer__name="sgd", sec__weight=0.0, **others))
    assert computed == []
    run_small(photos, tmp_path / "runs" / "three", small(features__seed=0, seed=0))
    assert computed == []
    run_small(photos, tmp_path / "runs" / "four", small(seed=1, model__weights=str(tmp_path / "runs" / "one")))
    assert sum(computed) == 180  # other views
    computed.clear()
    shared = {"features__seed": 0, "model__weights": str(tmp_path / "runs" / "one")}
    run_small(photos, tmp_path / "runs" / "five", small(seed=2, **shared))
    assert computed == []


def test_the_bundle_holds_the_backbone_unchanged(photos: Path, tmp_path: Path) -> None:
    _, run, _ = run_small(photos, tmp_path / "run", small())
    torch.manual_seed(0)
    start = build_model(small())[0].state_dict()
    model = Embedder.load(run.model).state_dict()
    changed = {name.split(".")[0] for name, value in model.items() if not torch.equal(value, start[name])}
    assert changed == {"head"}


@pytest.mark.parametrize("resumed_at", [2, pytest.param(4, marks=pytest.mark.slow)])
def test_a_resumed_run_ends_with_the_same_bits(photos: Path, tmp_path: Path, resumed_at: int) -> None:
    _, whole, _ = run_small(photos, tmp_path / "whole", small())

    class Stop(Lines):
        def stepped(self, step: int) -> None:
            if step == resumed_at + 1:
                raise KeyboardInterrupt

    run = RunFolder.create(tmp_path / "broken")
    with pytest.raises(KeyboardInterrupt):
        train(small(), read_catalogue(photos), run, reporter=Stop(6))
    run_small(photos, tmp_path / "broken", small(), resume=True)
    for name, value in weights(whole).items():
        assert torch.equal(value, weights(run)[name]), name


@pytest.mark.slow(seconds=25)
def test_kill_9_then_resume_equals_an_unbroken_run(photos: Path, tmp_path: Path) -> None:
    values = {
        **SMALL,
        "steps": 400,
        "checkpoint_every": 20,
        "data.root": str(photos),
        "features.folder": str(tmp_path / "f"),
    }
    whole = TrainSettings().with_values(values)
    run_small(photos, tmp_path / "whole", whole)
    code = (
        "import json, sys\n"
        "from cosphere.experiment import run\n"
        "from cosphere.train import TrainSettings\n"
        "run(TrainSettings().with_values(json.loads(sys.argv[1])), sys.argv[2], resume=sys.argv[3] == 'resume')\n"
    )
    command = [
        sys.executable,
        "-c",
        code,
        json.dumps({**values, "features.folder": str(tmp_path / "g")}),
        str(tmp_path / "broken"),
    ]
    process = subprocess.Popen([*command, "fresh"])
    last = tmp_path / "broken" / "checkpoints" / "last.pt"
    while not last.exists():
        assert process.poll() is None
        time.sleep(0.05)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert load_checkpoint(last)["step"] < 400
    subprocess.run([*command, "resume"], check=True)
    broken = weights(RunFolder(tmp_path / "broken"))
    for name, value in weights(RunFolder(tmp_path / "whole")).items():
        assert torch.equal(value, broken[name]), name


def test_copies_and_their_seed_cannot_change_in_a_run_but_the_folder_can(photos: Path, tmp_path: Path) -> None:
    run_small(photos, tmp_path / "run", small(steps=2))
    for name, value in (("features__copies", 4), ("features__copies", 0), ("features__seed", 1)):
        with pytest.raises(Exception, match=f"the checkpoint was made with {name.replace('__', '.')}"):
            run_small(photos, tmp_path / "run", small(steps=4, **{name: value}), resume=True)
    moved = small(steps=4, features__folder=str(tmp_path / "elsewhere"))
    assert run_small(photos, tmp_path / "run", moved, resume=True)[0].steps == 4


def test_weights_that_changed_under_their_path_are_refused_before_features_of_them_are_computed(
    photos: Path, tmp_path: Path, computed: list[int]
) -> None:
    file = tmp_path / "net.pth"
    for seed in (0, 1):
        torch.manual_seed(seed)
        torch.save(build_backbone("test_resnet", "none", image_size=32).net.state_dict(), tmp_path / f"{seed}.pth")
    shutil.copy(tmp_path / "0.pth", file)
    run_small(photos, tmp_path / "run", small(steps=2, images__size=32, model__weights=str(file)))
    longer = small(steps=4, images__size=32, model__weights=str(file))
    shutil.copy(tmp_path / "1.pth", file)
    computed.clear()
    with pytest.raises(
        RunError, match=r"on features of other weights: model.weights was sha256:\w{12}, now it is sha256:\w{12}\. Put"
    ):
        run_small(photos, tmp_path / "run", longer, resume=True)
    assert computed == []
    shutil.copy(tmp_path / "0.pth", file)
    assert run_small(photos, tmp_path / "run", longer, resume=True)[0].steps == 4


def test_an_unreadable_image_has_the_stand_in_that_it_has_on_images(photos: Path, tmp_path: Path) -> None:
    broken = Path(shutil.copytree(photos, tmp_path / "photos"))
    images = read_catalogue(broken).select("train")
    Path(images.paths[10]).write_bytes(b"no image")
    settings = small(data__max_unreadable=0.1, batch__size=60, batch__images_per_class=6)
    stream = stream_of(broken, tmp_path / "f", settings)
    assert len(stream.unreadable) == 1
    (batch,) = itertools.islice(stream, 1)
    assert len(batch.rows) == 60
    assert 10 not in batch.rows
    order = [row for row in np.argsort(images.labels, kind="stable") if images.labels[row] == images.labels[10]]
    stand_in = order[(order.index(10) + 1) % len(order)]
    assert batch.rows.tolist().count(stand_in) == 2
    views = stream_of(broken, tmp_path / "f", small(data__max_unreadable=0.1, batch__sampler="views", batch__size=120))
    (batch,) = itertools.islice(views, 1)
    assert len(batch.rows) == 118
    assert batch.features.shape == (118, views.table.width)


def test_losses_and_samplers_that_look_at_all_images_get_features_too(
    photos: Path, tmp_path: Path, computed: list[int]
) -> None:
    settings = small(steps=12, loss__name="hierarchical_triplet", batch__sampler="neighbours", batch__neighbours=2)
    run_small(photos, tmp_path / "run", settings)
    assert sum(computed) == 180 + 60  # and each image once without augmentation


def test_the_lens_and_validation_work_on_features(photos: Path, tmp_path: Path, computed: list[int]) -> None:
    seen = []

    def evaluate(embedder: Embedder, images: Catalogue) -> dict[str, float]:
        seen.append(len(images))
        return {"recall@1": 0.5}

    settings = small(validation__every=3, validation__lens=True, data__validation_share=0.2)
    _, run, _ = run_small(photos, tmp_path / "run", settings, evaluate=evaluate)
    lines = [row for row in run.read_metrics() if "lens/angle_slope" in row]
    assert len(lines) == 2
    assert seen == [12, 12]
    assert sum(computed) == 48 * 3


def test_what_would_train_below_the_head_is_refused() -> None:
    with pytest.raises(
        SettingsError, match=r"schedule\.new_layers_steps 2 trains the backbone.*features\.copies 3 freezes it"
    ):
        small(schedule__new_layers_steps=2)
    with pytest.raises(SettingsError, match=r"model\.pooling 'gem' is trained.*such as 'avg', or features\.copies 0"):
        small(model__pooling="gem")
    with pytest.raises(SettingsError, match=r"features\.copies"):
        small(features__copies=-1)
    assert small(features__copies=0, model__pooling="gem").features.copies == 0


def test_where_features_lie(tmp_path: Path) -> None:
    assert feature_cache(small(features__copies=0), tmp_path / "runs" / "a") is None
    default = feature_cache(small(), tmp_path / "runs" / "a")
    assert default is not None
    assert default.folder == tmp_path / "runs" / ".features"
    given = feature_cache(small(features__folder=str(tmp_path / "x")), tmp_path / "runs" / "a")
    assert given is not None
    assert given.folder == tmp_path / "x"


def test_progress_is_told_now_and_then_with_the_time_that_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[str] = []
    clock = iter([0.0, 7.0, 27.0, 117.0, 127.0])  # seven seconds until the first batch, then 100 in a second
    monkeypatch.setattr("cosphere.train.progress.time.monotonic", lambda: next(clock))
    progress = Spoken("features", told.append, every=0.0)
    for done in (10, 2010, 11_010, 14_010):
        progress(done, 14_010)
    assert told == [
        "features: 10 of 14,010",
        "features: 2,010 of 14,010, about 2 min left",
        "features: 11,010 of 14,010, about 30 s left",
        "features: 14,010 computed in 127 s",
    ]
    monkeypatch.undo()
    quiet: list[str] = []
    Spoken("features", quiet.append)(1, 2)
    assert quiet == []
