"""A small LFW: people are stripes of two colours, with lists as LFW writes them."""

from __future__ import annotations

import itertools
import random
from pathlib import Path

import numpy as np
from PIL import Image

TRAIN = {f"Train_{letter}": 4 for letter in "abcdef"}
TEST = {f"Test_{letter}": 4 for letter in "ghijkl"}


def draw_people(root: Path, people: dict[str, int], *, first: int = 0, size: int = 24) -> None:
    """Each person is a pair of colours, so that even a network of random weights tells people apart."""
    for place, (name, count) in enumerate(people.items(), first):
        rng = np.random.default_rng(place)
        colours = rng.integers(0, 255, (2, 3))
        (root / name).mkdir(parents=True, exist_ok=True)
        for number in range(1, count + 1):
            pixels = colours[(np.arange(size) // 6) % 2][None].repeat(size, 0) + rng.normal(0, 30, (size, size, 3))
            Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8)).save(root / name / f"{name}_{number:04d}.png")


def pair_lines(people: dict[str, int], count: int, fold: int = 0) -> list[str]:
    """So many same pairs and as many different ones, other ones in each fold."""
    names = list(people)
    same = [f"{name}\t{a}\t{b}" for a, b in itertools.combinations((1, 2, 3, 4), 2) for name in names]
    different = [f"{a}\t{i}\t{b}\t{i}" for i in (1, 2, 3, 4) for a, b in itertools.combinations(names, 2)]
    random.Random(0).shuffle(same)
    random.Random(1).shuffle(different)
    start = fold * count
    return same[start : start + count] + different[start : start + count]


def write_lfw(root: Path) -> Path:
    """The images of all people and the lists of both views."""
    draw_people(root, TRAIN | TEST)
    for name, people in {"peopleDevTrain.txt": TRAIN, "peopleDevTest.txt": TEST}.items():
        (root / name).write_text(f"{len(people)}\n" + "".join(f"{one}\t{count}\n" for one, count in people.items()))
    folds = [line for fold in range(3) for line in pair_lines(TRAIN | TEST, 24, fold)]
    (root / "pairs.txt").write_text("3\t24\n" + "\n".join(folds) + "\n")
    for name, people in {"pairsDevTrain.txt": TRAIN, "pairsDevTest.txt": TEST}.items():
        (root / name).write_text("12\n" + "\n".join(pair_lines(people, 12)) + "\n")
    return root
