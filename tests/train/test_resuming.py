"""Which checkpoint a run goes on from: the last, or that of the best model where the last is missing or damaged."""

from __future__ import annotations

from pathlib import Path

import pytest

from cosphere.errors import DamagedError, RunError
from cosphere.runs import RunFolder
from cosphere.train.checkpoint import save_checkpoint
from cosphere.train.resuming import newest_checkpoint


def damaged(path: Path, how: str) -> None:
    whole = path.read_bytes()
    at = whole.rindex(b"step") + 40
    content = {"empty": b"", "cut": whole[: len(whole) // 2], "flipped": whole[:at] + b"~" + whole[at + 1 :]}
    path.write_bytes(content.get(how, b"no checkpoint"))


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    folder = RunFolder.create(tmp_path / "run")
    for name, step in (("best.pt", 4), ("last.pt", 7)):
        save_checkpoint(folder.checkpoints / name, {"step": step, "classes": ["a", "b"]})
    return folder


@pytest.mark.parametrize("how", ["whole", "missing", "empty", "cut", "flipped", "other"])
def test_the_best_stands_in_for_a_last_that_cannot_be_read(how: str, folder: RunFolder) -> None:
    last, kept = folder.checkpoints / "last.pt", folder.checkpoints / "last.pt.damaged"
    if how == "missing":
        last.unlink()
    elif how != "whole":
        damaged(last, how)
    before = last.read_bytes() if last.exists() else None
    found = newest_checkpoint(folder)
    assert found is not None
    assert (found.is_last, found.content["step"]) == ((True, 7) if how == "whole" else (False, 4))
    if how == "whole":
        return
    words = found.set_aside(writes=False)
    assert words == f"{last} is missing" if how == "missing" else words.startswith(f"{last} is damaged, and is kept as")
    assert not kept.exists()  # by a process that does not write
    found.set_aside(writes=True)
    assert (kept.read_bytes() if kept.exists() else None) == before
    assert not last.exists()


def test_without_a_whole_one_the_last_is_named(folder: RunFolder) -> None:
    damaged(folder.checkpoints / "last.pt", "cut")
    damaged(folder.checkpoints / "best.pt", "cut")
    for left in ("last.pt", "best.pt"):
        with pytest.raises(DamagedError, match=r"last\.pt is not a checkpoint that can be read|best\.pt is not"):
            newest_checkpoint(folder)
        (folder.checkpoints / left).unlink()
    assert newest_checkpoint(folder) is None


def test_a_last_one_that_only_cannot_be_opened_is_not_replaced(folder: RunFolder) -> None:
    """A disk that fails or a right that is missing says nothing about the file."""
    (folder.checkpoints / "last.pt").unlink()
    (folder.checkpoints / "last.pt").mkdir()
    with pytest.raises(RunError, match=r"last\.pt cannot be read: .*Check its rights") as caught:
        newest_checkpoint(folder)
    assert not isinstance(caught.value, DamagedError)


def test_the_format_of_another_version_is_no_damage(folder: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cosphere.train.checkpoint.FORMAT", 2)
    with pytest.raises(RunError, match="format 1; this Cosphere reads format 2"):
        newest_checkpoint(folder)


def test_settings_that_a_run_has_lost_are_named(folder: RunFolder) -> None:
    from cosphere.train import TrainSettings

    with pytest.raises(RunError, match=r"config\.yaml is missing, which holds the settings of the run\. Put it back"):
        TrainSettings.read(folder.config)
