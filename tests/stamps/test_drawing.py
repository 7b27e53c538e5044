from __future__ import annotations

import itertools
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cosphere.errors import DataError, RunError, SettingsError
from cosphere.stamps.drawing import draw_stamps, impression

SMALL = {"designs": 8, "impressions": 3, "size": 48}


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return draw_stamps(tmp_path_factory.mktemp("stamps") / "set", **SMALL)


def content(folder: Path) -> dict[str, bytes]:
    """Bytes of each picture by design and number, whatever its split."""
    return {"/".join(file.parts[-2:]): file.read_bytes() for file in sorted(folder.rglob("*.jpg"))}


def by_split(folder: Path) -> dict[str, list[str]]:
    return {
        split.name: sorted(design.name for design in split.iterdir()) for split in folder.iterdir() if split.is_dir()
    }


def pixels(file: Path) -> np.ndarray:
    return np.asarray(Image.open(file), dtype=float)


def ink_of(mask: Image.Image, seed: int, size: int = 64) -> np.ndarray:
    """How much darker the stamp makes the very same paper: (size, size, 3), in grey levels."""
    blank = impression(Image.new("L", mask.size), size, np.random.default_rng(seed))
    return blank.astype(float) - impression(mask, size, np.random.default_rng(seed))


def test_every_picture_is_there_and_readable(drawn: Path) -> None:
    assert len(content(drawn)) == 8 * 3
    for split in ("train", "val", "test"):
        for design in (drawn / split).iterdir():
            assert sorted(file.name for file in design.iterdir()) == ["000.jpg", "001.jpg", "002.jpg"]
    for file in drawn.rglob("*.jpg"):
        with Image.open(file) as image:
            assert (image.format, image.mode, image.size) == ("JPEG", "RGB", (48, 48))


def test_the_usual_number_of_designs_is_dealt_out_36_8_16(tmp_path: Path) -> None:
    splits = by_split(draw_stamps(tmp_path / "set", impressions=2, size=32))
    assert {split: len(names) for split, names in splits.items()} == {"train": 36, "val": 8, "test": 16}
    numbers = [int(name[:3]) for names in splits.values() for name in names]
    assert sorted(numbers) == list(range(60))  # so no design is in two splits
    assert {name.split("-")[1] for name in splits["test"]} < {
        "round",
        "oval",
        "rectangle",
        "triangle",
        "hexagon",
        "octagon",
    }
    assert len({name[4:] for names in splits.values() for name in names}) == 60


@pytest.mark.parametrize("designs", [6, 7, 31])
def test_twins_stay_together_and_no_split_is_empty(tmp_path: Path, designs: int) -> None:
    splits = by_split(draw_stamps(tmp_path / "set", designs=designs, impressions=2, size=32))
    pairs = {split: {int(name[:3]) // 2 for name in names} for split, names in splits.items()}
    assert set(pairs) == {"train", "val", "test"}
    assert sum(len(found) for found in pairs.values()) == (designs + 1) // 2  # a pair torn apart would count twice
    assert sum(len(names) for names in splits.values()) == designs


def test_one_seed_one_set_of_bytes(drawn: Path, tmp_path: Path) -> None:
    again = draw_stamps(tmp_path / "again", **SMALL)
    assert content(again) == content(drawn)
    assert by_split(again) == by_split(drawn)


def test_another_seed_is_another_set(drawn: Path, tmp_path: Path) -> None:
    other = content(draw_stamps(tmp_path / "other", **SMALL, seed=1))
    assert len(other) == 24
    assert not set(other.values()) & set(content(drawn).values())
    assert not set(other) & set(content(drawn))  # other wording, so other names


def test_a_picture_depends_on_its_own_numbers_only(drawn: Path, tmp_path: Path) -> None:
    fewer = content(draw_stamps(tmp_path / "fewer", designs=6, impressions=2, size=48))
    assert len(fewer) == 12
    assert fewer.items() < content(drawn).items()


def test_impressions_of_one_design_differ(drawn: Path) -> None:
    for design in drawn.glob("*/*"):
        files = sorted(design.iterdir())
        for first, second in itertools.pairwise(files):
            assert np.abs(pixels(first) - pixels(second)).mean() > 3


def test_no_two_designs_share_their_paper(drawn: Path) -> None:
    corners = [tuple(pixels(file)[:4, :4].mean(axis=(0, 1)).round()) for file in sorted(drawn.glob("*/*/000.jpg"))]
    assert len(corners) == 8
    assert len(set(corners)) >= 7


def test_the_stamp_leaves_ink_and_only_darkens() -> None:
    mask = Image.new("L", (128, 128))
    mask.paste(255, (24, 24, 104, 104))
    covered = []
    for seed in range(60):
        ink = ink_of(mask, seed)
        assert ink.min() > -2  # rounding and the blur of print under the ink
        covered.append((ink.max(axis=2) > 25).mean())
    # A square of 5/8 of the side covers 0.39 of the picture; it comes smaller, worn and off the edge, yet always shows.
    assert min(covered) > 0.03
    assert max(covered) < 0.6
    assert np.mean(covered) > 0.15


def test_impressions_come_turned_and_moved() -> None:
    mask = Image.new("L", (128, 128))
    mask.paste(255, (24, 56, 104, 72))  # a level bar in the middle
    x, y = np.meshgrid(np.linspace(-1, 1, 64), np.linspace(-1, 1, 64))
    middles, degrees = [], []
    for seed in range(60):
        weight = np.clip(ink_of(mask, seed).sum(axis=2), 0, None)
        weight /= weight.sum()
        across, down = (weight * x).sum(), (weight * y).sum()
        middles.append((across, down))
        xx, yy, xy = (
            (weight * a * b).sum() for a, b in ((x - across, x - across), (y - down, y - down), (x - across, y - down))
        )
        degrees.append(float(np.degrees(np.arctan2(2 * xy, xx - yy) / 2)))  # the long axis
    assert (np.std(middles, axis=0) > 0.06).all()
    assert np.abs(np.mean(middles, axis=0)).max() < 0.1
    assert 7 < np.median(np.abs(degrees)) < 35
    assert min(degrees) < -20 < 20 < max(degrees)


def test_impressions_come_in_many_colours_and_some_upside_down() -> None:
    mask = Image.new("L", (128, 128))
    mask.paste(255, (44, 8, 84, 48))  # a mark near the top of the rubber
    y = np.linspace(-1, 1, 64)[:, None]
    down, channels = [], set()
    for seed in range(60):
        ink = ink_of(mask, seed)
        weight = np.clip(ink.sum(axis=2), 0, None)
        if weight.sum() < 5000:  # over the edge of the picture
            continue
        down.append(float((weight * y).sum() / weight.sum()))
        channels.add(int(ink.mean(axis=(0, 1)).argmin()))  # what the ink absorbs least is its colour
    assert len(down) > 40
    assert np.median(down) < -0.3  # most are nearly upright
    assert max(down) > 0.2
    assert channels == {0, 1, 2}


def test_a_finished_folder_is_used_as_it_is(drawn: Path) -> None:
    before = {file: file.stat().st_mtime_ns for file in drawn.rglob("*")}
    calls: list[tuple[int, int]] = []
    assert draw_stamps(drawn, **SMALL, progress=lambda done, total: calls.append((done, total))) == drawn
    assert calls == []
    assert {file: file.stat().st_mtime_ns for file in drawn.rglob("*")} == before


def test_a_broken_off_folder_is_completed(tmp_path: Path) -> None:
    class Killed(Exception):
        pass

    def kill(done: int, total: int) -> None:
        assert total == 24
        if done == 10:
            raise Killed

    with pytest.raises(Killed):
        draw_stamps(tmp_path / "set", **SMALL, progress=kill)
    assert len(content(tmp_path / "set")) == 10
    calls: list[tuple[int, int]] = []
    draw_stamps(tmp_path / "set", **SMALL, progress=lambda done, total: calls.append((done, total)))
    assert calls == [(done, 24) for done in range(11, 25)]
    assert content(tmp_path / "set") == content(draw_stamps(tmp_path / "whole", **SMALL))
    assert not list(tmp_path.rglob("*.part"))


def test_the_manifest_names_the_settings(drawn: Path) -> None:
    manifest = json.loads((drawn / "stamps.json").read_text(encoding="utf-8"))
    assert manifest == {"format": "cosphere stamps", "version": 1, **SMALL, "seed": 0}


def test_an_empty_folder_will_do(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    draw_stamps(tmp_path / "empty", designs=6, impressions=2, size=32)
    assert len(content(tmp_path / "empty")) == 12


def test_a_foreign_folder_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(DataError, match=r"is not empty and holds no stamps\.json\. Choose a new or empty folder"):
        draw_stamps(tmp_path, **SMALL)
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


def test_stamps_of_other_settings_are_left_alone(drawn: Path) -> None:
    before = content(drawn)
    with pytest.raises(
        DataError, match=r"holds other stamps \(size 48 instead of 64\)\. Delete it or choose another folder"
    ):
        draw_stamps(drawn, **{**SMALL, "size": 64})
    with pytest.raises(DataError, match=r"\(impressions 3 instead of 5, seed 0 instead of 2\)"):
        draw_stamps(drawn, **{**SMALL, "impressions": 5}, seed=2)
    assert content(drawn) == before


@pytest.mark.parametrize(
    ("text", "message"), [("{", r"is not a list of drawn stamps.*choose another"), ("[]", "holds other stamps")]
)
def test_a_manifest_that_makes_no_sense(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "stamps.json").write_text(text)
    with pytest.raises(DataError, match=message):
        draw_stamps(tmp_path, **SMALL)


def test_a_file_is_no_folder(tmp_path: Path) -> None:
    (tmp_path / "stamps").write_text("mine")
    with pytest.raises(DataError, match="is a file; stamps need a folder"):
        draw_stamps(tmp_path / "stamps", **SMALL)


def test_a_folder_that_cannot_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: Path) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "iterdir", refuse)
    with pytest.raises(DataError, match=r"cannot read .*: Permission denied\. Choose a folder of your own"):
        draw_stamps(tmp_path, **SMALL)


def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    draw_stamps(tmp_path / "set", designs=6, impressions=2, size=32)
    design = next((tmp_path / "set" / "train").iterdir())
    for file in design.iterdir():
        file.unlink()
    design.rmdir()
    design.write_text("in the way")
    with pytest.raises(RunError, match=r"cannot write .*000\.jpg: .*Free some space or choose another folder"):
        draw_stamps(tmp_path / "set", designs=6, impressions=2, size=32)


@pytest.mark.parametrize(
    ("name", "value", "least"),
    [
        ("designs", 5, 6),
        ("impressions", 1, 2),
        ("size", 31, 32),
        ("seed", -1, 0),
        ("size", 4097, 32),
        ("designs", 10**9, 6),
    ],
)
def test_numbers_out_of_range(tmp_path: Path, name: str, value: int, least: int) -> None:
    with pytest.raises(SettingsError, match=rf"{name} must be a whole number from {least} to \d+; got {value}\."):
        draw_stamps(tmp_path / "set", **{**SMALL, name: value})
    assert not (tmp_path / "set").exists()
