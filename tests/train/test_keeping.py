"""What a run leaves on disk: whole, by one process, and never from broken weights."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from torch import nn

from cosphere.errors import DivergenceError, RunError
from cosphere.models import Embedder
from cosphere.runs import RunFolder
from cosphere.train.checkpoint import load_checkpoint
from cosphere.train.keeping import Keeper
from cosphere.train.state import RunState


class Bundle(nn.Linear):
    """Stands for an embedder that is saved."""

    def __init__(self, *sizes: int) -> None:
        super().__init__(*sizes)
        self.provenance: dict[str, Any] = {"weights": "imagenet"}

    saved_at: Path | None = None

    def save(self, path: Path) -> None:
        self.saved_at = path


def keeper(folder: Path, *, writes: bool = True, step: int = 3) -> tuple[Keeper, Bundle]:
    torch.manual_seed(step)
    model = Bundle(2, 2)
    parts = {"model": model, "loss": nn.Linear(2, 2, bias=False)}
    run = RunFolder.open(folder) if folder.exists() else RunFolder.create(folder)
    return Keeper(run, RunState(step=step), parts, {"classes": ["a"]}, writes=writes), model


def test_a_checkpoint_brings_everything_back(tmp_path: Path) -> None:
    first, model = keeper(tmp_path / "run")
    for step in (1, 3, 5):
        first.folder.append_metrics({"step": step})
    first.save("last.pt")
    expected = torch.rand(3)
    saved = load_checkpoint(first.folder.checkpoints / "last.pt")
    assert (saved["step"], saved["classes"]) == (3, ["a"])
    second, other = keeper(tmp_path / "run", step=9)
    assert not torch.equal(other.weight, model.weight)
    second.restore(saved, first.folder.checkpoints / "last.pt")
    assert second.state == first.state
    assert all(torch.equal(one, two) for one, two in zip(other.parameters(), model.parameters(), strict=True))
    assert torch.equal(torch.rand(3), expected)
    assert [row["step"] for row in first.folder.read_metrics()] == [1, 3]  # later steps will be written again


def test_a_bundle_says_what_training_began_with(tmp_path: Path) -> None:
    keep, model = keeper(tmp_path / "run")
    keep.save_bundle(cast(Embedder, model), {"data": "here"})
    assert (model.provenance["weights"], model.provenance["data"], model.provenance["step"]) == ("imagenet", "here", 3)


def test_one_process_writes(tmp_path: Path) -> None:
    silent, model = keeper(tmp_path / "run", writes=False)
    silent.save("last.pt")
    silent.save_bundle(cast(Embedder, model), {})
    assert not silent.folder.checkpoints.exists()
    assert model.saved_at is None


def test_a_bundle_says_where_it_comes_from(tmp_path: Path) -> None:
    kept, model = keeper(tmp_path / "run")
    kept.state.best = {"step": 3, "scores": {"nmi": 0.5}}
    kept.save_bundle(cast(Embedder, model), {"loss": "triplet"})
    assert model.saved_at == kept.folder.model
    assert {"step": 3, "validation": {"nmi": 0.5}, "loss": "triplet"}.items() <= model.provenance.items()


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize(("part", "name"), [("model", "bias"), ("loss", "weight")])
def test_broken_weights_are_not_written(tmp_path: Path, part: str, name: str, value: float) -> None:
    kept, model = keeper(tmp_path / "run")
    with torch.no_grad():
        cast(nn.Linear, kept.parts[part]).get_parameter(name).view(-1)[0] = value
    for write in (lambda: kept.save("last.pt"), lambda: kept.save_bundle(cast(Embedder, model), {})):
        with pytest.raises(DivergenceError, match=f"{name} holds values that are not finite after step 3"):
            write()
    assert not kept.folder.checkpoints.exists()
    assert model.saved_at is None


ODD: list[tuple[str, Any, str]] = [
    ("model", None, "has no 'model'"),
    ("random", None, "has no 'random'"),
    ("stale", None, "has no 'stale'"),
    ("model", {}, "Missing key"),
    ("model", {"weight": torch.zeros(3, 3), "bias": torch.zeros(2)}, "size mismatch|Error.s. in loading"),
    ("model", 7, "does not fit"),
    ("warned", 3, "does not fit"),
    ("random", {}, "has no 'torch'"),
    ("random", {"torch": "x"}, "does not fit"),
]


@pytest.mark.parametrize(("key", "value", "words"), ODD)
def test_an_odd_checkpoint_is_one_sentence(tmp_path: Path, key: str, value: Any, words: str) -> None:
    first, _ = keeper(tmp_path / "run")
    first.folder.append_metrics({"step": 9})
    first.save("last.pt")
    path = first.folder.checkpoints / "last.pt"
    saved = load_checkpoint(path)
    if value is None:
        del saved[key]
    else:
        saved[key] = value
    with pytest.raises(RunError, match=r"last\.pt does not fit this run") as caught:
        keeper(tmp_path / "run")[0].restore(saved, path)
    assert re.search(words, str(caught.value))
    assert first.folder.read_metrics() == [{"step": 9}]  # a refused resumption leaves the run as it was
