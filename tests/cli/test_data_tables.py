from __future__ import annotations

import io
import shutil
from pathlib import Path

import pytest
from PIL import Image
from rich.console import Console

from cosphere.cli.data_tables import differences_table, render
from cosphere.data import DataReport, check, read_catalogue


def draw(root: Path, paths: list[str]) -> None:
    """Pictures that all differ in colour and width."""
    for number, path in enumerate(paths):
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8 + number % 5, 6), (number * 7 % 256, 0, 40)).save(root / path)


@pytest.fixture
def messy(tmp_path: Path) -> Path:
    """A copy across splits and classes, and two damaged files."""
    root = tmp_path / "photos"
    draw(root, ["train/a/1.png", "train/a/2.png", "train/b/3.png", "train/b/4.png", "test/c/5.png", "test/d/6.png"])
    shutil.copy(root / "train/a/1.png", root / "train/a/copy.png")
    shutil.copy(root / "train/b/3.png", root / "test/c/leak.png")
    (root / "train/a/bad.jpg").write_bytes(b"no image")
    (root / "train/b/empty.jpg").write_bytes(b"")
    return root


def text(report: DataReport, width: int = 80) -> str:
    console = Console(width=width, file=io.StringIO(), color_system=None)
    console.print(render(report))
    return console.file.getvalue()  # type: ignore[attr-defined]


def test_differences_of_a_catalogue_without_reading_images(tmp_path: Path) -> None:
    row = bytes([5]) + bytes(3072)
    (tmp_path / "test_batch.bin").write_bytes(row * 3)
    catalogue = read_catalogue(tmp_path)
    console = Console(width=80, file=io.StringIO(), color_system=None)
    console.print(differences_table(catalogue))
    shown = console.file.getvalue()  # type: ignore[attr-defined]
    assert "test images" in shown
    assert shown.count("differs") == len(catalogue.differences) == 8


@pytest.mark.parametrize("width", [60, 80, 200])
def test_the_picture_for_the_terminal(messy: Path, width: int) -> None:
    strange = messy / "train" / "[red]x[bold]"
    strange.mkdir()
    (strange / "1[bold].jpg").write_bytes(b"bad")
    shown = text(check(messy), width)
    assert max(len(line) for line in shown.splitlines()) <= width
    for words in ("11 images, 5 classes", "zero-shot", "train", "unreadable files", "exact duplicates"):
        assert words in shown
    if width == 200:
        assert "test/c/leak.png = train/b/3.png" in shown
        assert "1[bold].jpg" in shown


def test_a_split_may_be_called_anything(tmp_path: Path) -> None:
    draw(tmp_path, ["1.png", "2.png"])
    (tmp_path / "list.csv").write_text("path,label,split\n1.png,x,[/b]\n2.png,y,[red]\n")
    shown = text(check(tmp_path / "list.csv"))
    assert "[/b]" in shown
    assert "[red]" in shown


def test_long_lists_are_cut(tmp_path: Path) -> None:
    draw(tmp_path, [f"class{number}/1.png" for number in range(9)])
    shown = text(check(tmp_path))
    assert "class4" in shown
    assert "class5" not in shown
    assert "... and 4 more" in shown


def test_a_report_without_a_readable_image(tmp_path: Path) -> None:
    for name in ("a/1.jpg", "b/2.jpg"):
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).write_bytes(b"x")
    shown = text(check(tmp_path))
    assert "no sizes" in shown
    assert "unreadable files" in shown


def test_roles_of_a_split(tmp_path: Path) -> None:
    draw(tmp_path, ["train/a/1.png", "query/b/2.png", "gallery/b/3.png", "gallery/b/4.png"])
    assert "1 / 2" in text(check(tmp_path))


def test_differences_are_part_of_the_report(tmp_path: Path) -> None:
    (tmp_path / "data_batch_1.bin").write_bytes((bytes([5]) + bytes(3072)) * 3)
    shown = text(check(tmp_path))
    assert "Against the published cifar10: 8 differences" in shown
    assert "50000" in shown
