"""Small pictures, and a made-up embedder, that several rooms' tests share."""

from __future__ import annotations

import gc
import os

# One compute thread per test process and per subprocess of a test. Tests run side by side in several processes (Makefile), and
# OpenMP threads that spin while they wait slow everything down on a busy machine. Torch reads these when it is imported.
os.environ["OMP_NUM_THREADS"] = os.environ["MKL_NUM_THREADS"] = os.environ["OPENBLAS_NUM_THREADS"] = "1"
os.environ["OMP_WAIT_POLICY"] = "passive"

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from PIL import Image

# What imports torch is imported where it is used: the process that only hands out the tests loads this file, and the others
# wait for it.
if TYPE_CHECKING:
    from mean_colour import MeanColour

    from cosphere.data import Catalogue


# What a killed process wrote is with the system already, and no test cuts the power: waiting for the disk after thousands of small
# files would show nothing. tests/test_files.py checks that a file is flushed before it takes its name.
os.fsync = lambda file: None


def pytest_addoption(parser: pytest.Parser) -> None:
    """``--slow``: run the tests marked slow too."""
    parser.addoption("--slow", action="store_true", help="also run the tests that take long, as CI does")


# Collecting imports and makes millions of objects that stay. The garbage collector would look through all of them again and again.
gc.disable()


def pytest_collection_finish() -> None:
    """Collect garbage from here on, of the tests alone."""
    gc.freeze()
    gc.enable()


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """With ``-m slow``, leave files without slow tests closed: importing all of them takes longer than most slow tests."""
    if config.option.markexpr != "slow" or collection_path.suffix != ".py" or collection_path.name == "conftest.py":
        return None
    return True if b"mark.slow" not in collection_path.read_bytes() else None


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Skip slow tests without ``--slow``: quicker tests check the same things in smaller ways.

    With it, the longest (``slow(seconds=...)``) start first, so that no process waits at the end for the test of another.
    """
    slow = {item: mark for item in items if (mark := item.get_closest_marker("slow"))}
    if config.getoption("--slow"):
        items.sort(key=lambda item: -slow[item].kwargs.get("seconds", 0) if item in slow else 0)
        return
    skip = pytest.mark.skip(
        reason="takes long, and a quicker test beside it checks the same in a smaller way: run `make slow`, or pytest --slow"
    )
    for item in slow:
        item.add_marker(skip)


def draw_classes(folder: Path, *, classes: int, images: int, first: int = 0, size: int = 40, seed: int = 0) -> Path:
    """Class folders of noisy coloured stripes: each class has its own colours and stripe width, so that it can be learnt."""
    rng = np.random.default_rng(seed)
    for number in range(first, first + classes):
        colours = rng.integers(0, 255, (2, 3))
        width = 2 + number % 7
        target = folder / f"class{number:02d}"
        target.mkdir(parents=True, exist_ok=True)
        for image in range(images):
            shift = int(rng.integers(0, 2 * width))
            stripes = ((np.arange(size) + shift) // width) % 2
            pixels = colours[stripes][None].repeat(size, 0) + rng.normal(0, 25, (size, size, 3))
            Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8)).save(target / f"{image}.png")
    return folder


@pytest.fixture(scope="session")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ten training classes and four test classes, six small pictures each."""
    folder = tmp_path_factory.mktemp("photos")
    draw_classes(folder / "train", classes=10, images=6)
    draw_classes(folder / "test", classes=4, images=6, first=10, seed=1)
    return folder


COLOURS = {
    "red": [(250, 10, 10), (240, 20, 0), (255, 0, 30)],
    "green": [(10, 250, 10), (0, 240, 20), (30, 255, 0)],
    "dark": [(20, 20, 25), (30, 20, 20), (10, 12, 10)],
    "lonely": [(0, 0, 255)],
}


@pytest.fixture
def embedder() -> MeanColour:
    from mean_colour import MeanColour

    return MeanColour().train()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name, colours in COLOURS.items():
        for at, colour in enumerate(colours):
            path = tmp_path / "photos" / name / f"{at}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(np.full((12, 10, 3), colour, dtype=np.uint8)).save(path)
    return tmp_path / "photos"


@pytest.fixture
def catalogue(folder: Path) -> Catalogue:
    from cosphere.data import read_catalogue

    return read_catalogue(folder)
