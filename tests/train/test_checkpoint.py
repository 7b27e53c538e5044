"""Checkpoints: what was written is read, and what is damaged, foreign or dangerous is refused."""

from __future__ import annotations

import pickle
import random
from pathlib import Path

import numpy as np
import pytest
import torch

from cosphere.errors import RunError
from cosphere.train.checkpoint import digest, load_checkpoint, random_state, restore_random_state, save_checkpoint


def test_every_generator_comes_back(tmp_path: Path) -> None:
    torch.manual_seed(1)
    np.random.seed(2)  # noqa: NPY002
    random.seed(3)
    np.random.standard_normal()  # noqa: NPY002  leaves a cached second value, which must survive too
    save_checkpoint(tmp_path / "last.pt", {"random": random_state()})

    def draw() -> list[float]:
        return [float(torch.rand(())), float(np.random.standard_normal()), random.random()]  # noqa: NPY002

    first = draw()
    saved = load_checkpoint(tmp_path / "last.pt")["random"]
    restore_random_state(saved)
    assert draw() == first
    version, internal, gauss = saved["python"]
    restore_random_state(
        {**saved, "python": (version, tuple(internal.tolist()), gauss)}
    )  # as older checkpoints hold it
    assert draw() == first


@pytest.mark.parametrize("content", [b"", b"not a checkpoint", b"PK\x03\x04 torn"])
def test_a_damaged_file_is_a_sentence(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "last.pt").write_bytes(content)
    with pytest.raises(RunError, match="is not a checkpoint that can be read"):
        load_checkpoint(tmp_path / "last.pt")


def test_a_missing_file_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"there is no checkpoint at .*Start it again"):
        load_checkpoint(tmp_path / "last.pt")


def test_another_format_is_refused(tmp_path: Path) -> None:
    torch.save({"format": 99}, tmp_path / "last.pt")
    with pytest.raises(RunError, match="format 99; this Cosphere reads format 1"):
        load_checkpoint(tmp_path / "last.pt")


class _Trap:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return Path.touch, (Path("sprung"),)


def test_code_in_a_checkpoint_does_not_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with (tmp_path / "last.pt").open("wb") as file:
        pickle.dump(_Trap(), file)
    with pytest.raises(RunError, match="is not a checkpoint that can be read"):
        load_checkpoint(tmp_path / "last.pt")
    assert not (tmp_path / "sprung").exists()


def test_a_full_disk_leaves_the_old_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_checkpoint(tmp_path / "last.pt", {"step": 30})

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(RunError, match=r"No space left on device.*The old file is untouched"):
        save_checkpoint(tmp_path / "last.pt", {"step": 60})
    monkeypatch.undo()
    assert load_checkpoint(tmp_path / "last.pt")["step"] == 30
    assert [path.name for path in tmp_path.iterdir()] == ["last.pt"]


def test_a_flipped_bit_is_noticed(tmp_path: Path) -> None:
    """Wherever it falls: the file is refused, or it still holds the same values (as in padding)."""
    path = tmp_path / "last.pt"
    state = {"step": 30, "model": {"weight": torch.arange(40.0).reshape(4, 10)}, "best": {"scores": {"nmi": 0.5}}}
    save_checkpoint(path, state)
    whole, original = path.read_bytes(), load_checkpoint(path)
    rng = np.random.default_rng(0)
    refused = 0
    for place in rng.choice(len(whole), 120, replace=False):
        broken = bytearray(whole)
        broken[place] ^= 1 << int(rng.integers(8))
        path.write_bytes(broken)
        try:
            loaded = load_checkpoint(path)
        except RunError:
            refused += 1
            continue
        assert digest(loaded) == digest(original)
        assert torch.equal(loaded["model"]["weight"], state["model"]["weight"])  # type: ignore[index]
    assert refused > 10


def test_changed_numbers_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "last.pt"
    save_checkpoint(path, {"step": 30, "weight": torch.ones(3)})
    content = torch.load(path, weights_only=True)
    torch.save({**content, "weight": torch.tensor([1.0, 1.0, 1.5])}, path)
    with pytest.raises(RunError, match=r"last.pt is damaged: its contents do not match the digest"):
        load_checkpoint(path)
    torch.save({key: value for key, value in content.items() if key != "digest"}, path)
    with pytest.raises(RunError, match="is damaged"):
        load_checkpoint(path)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({"a": 1}, {"a": 2}),
        ({"a": 1}, {"b": 1}),
        ({"a": [1, 2]}, {"a": [2, 1]}),
        (torch.zeros(2), torch.zeros(2, dtype=torch.float64)),
        (torch.zeros(4), torch.zeros(2, 2)),
        (torch.tensor(0.0), torch.tensor(-0.0)),
        (torch.tensor([True]), torch.tensor([False])),
        ({"a": "1"}, {"a": 1}),
    ],
)
def test_digests_differ(one: object, other: object) -> None:
    assert digest(one) != digest(other)
    assert digest(one) == digest(one)
