"""CIFAR-10 and CIFAR-100 (Krizhevsky 2009): 60 000 images of 32 x 32 pixels, with the same classes in train and test.

Reads Python batches, binary batches and class folders. A row of a batch has a path such as ``data_batch_1#17``.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pandas as pd

from cosphere.data.layouts.published import Contents, Layout, Part
from cosphere.data.listing import is_folder, is_stray, list_images, scan
from cosphere.errors import DataError
from cosphere.images import cifar_class_names, is_cifar_batch, read_cifar_labels

TEN = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
_HUNDRED = (
    "apple aquarium_fish baby bear beaver bed bee beetle bicycle bottle bowl boy bridge bus butterfly camel"
    " can castle caterpillar cattle chair chimpanzee clock cloud cockroach couch crab crocodile cup dinosaur"
    " dolphin elephant flatfish forest fox girl hamster house kangaroo keyboard lamp lawn_mower leopard lion"
    " lizard lobster man maple_tree motorcycle mountain mouse mushroom oak_tree orange orchid otter palm_tree"
    " pear pickup_truck pine_tree plain plate poppy porcupine possum rabbit raccoon ray road rocket rose sea"
    " seal shark shrew skunk skyscraper snail snake spider squirrel streetcar sunflower sweet_pepper table tank"
    " telephone television tiger tractor train trout tulip turtle wardrobe whale willow_tree wolf woman worm"
)
HUNDRED = tuple(_HUNDRED.split())
"""Class names in the order of the labels."""

_BATCHES: dict[int, dict[str, tuple[str, ...]]] = {
    10: {"train": tuple(f"data_batch_{number}" for number in range(1, 6)), "test": ("test_batch",)},
    100: {"train": ("train",), "test": ("test",)},
}


def recognise(root: Path, classes: int) -> bool:
    """Whether there are batch files, or ``train/`` and ``test/`` with exactly these class folders."""
    return bool(_batches(root, classes)) or _folder_names(root) == set(_names(classes))


def read(root: Path, classes: int) -> Contents:
    """Read the existing batches, or the class folders."""
    batches = _batches(root, classes)
    return _read_batches(root, batches, classes) if batches else _read_folders(root, classes)


def _names(classes: int) -> tuple[str, ...]:
    return TEN if classes == 10 else HUNDRED


def _batches(root: Path, classes: int) -> list[tuple[str, str]]:
    """(split, file name) of each existing batch; only the pickled ones if there are both kinds."""
    for suffix in ("", ".bin"):
        names = [(split, name + suffix) for split, group in _BATCHES[classes].items() for name in group]
        batches = [(split, name) for split, name in names if is_cifar_batch(root / name)]
        if batches:
            return batches
    return []


def _read_batches(root: Path, batches: list[tuple[str, str]], classes: int) -> Contents:
    names = cifar_class_names(root) or list(_names(classes))
    rows: list[tuple[str, str, str, str, str]] = []
    for split, name in batches:
        batch = read_cifar_labels(root / name)
        # Superclasses stay numbers, because the file with their names is not always there.
        groups = [""] * len(batch.labels) if batch.coarse is None else [str(group) for group in batch.coarse.tolist()]
        for row, (label, group) in enumerate(zip(batch.labels.tolist(), groups, strict=True)):
            if label >= len(names):
                raise DataError(
                    f"{root / name} has label {label}, but there are {len(names)} class names. Unpack the archive "
                    "again."
                )
            rows.append((f"{name}#{row}", str(label), split, names[label], group))
    table = pd.DataFrame(rows, columns=["path", "label", "split", "class_name", "category"])
    missing = [
        name
        for split in _BATCHES[classes].values()
        for name in split
        if not any(file.startswith(name) for _, file in batches)
    ]
    notes = (f"batches are missing: {', '.join(missing)}",) if missing else ()
    return Contents(table if classes == 100 else table.drop(columns="category"), root, (), notes)


def _folder_names(root: Path) -> set[str]:
    """Names of the class folders if ``train/`` and ``test/`` have the same ones; else empty."""
    halves = [root / "train", root / "test"]
    if not all(half.is_dir() for half in halves):
        return set()
    inside = [
        {entry.name.lower() for entry in scan(half) if is_folder(entry) and not is_stray(entry.name)} for half in halves
    ]
    return inside[0] if inside[0] == inside[1] else set()


def _read_folders(root: Path, classes: int) -> Contents:
    number = {name: str(label) for label, name in enumerate(_names(classes))}
    rows = []
    for split in ("train", "test"):
        for path in list_images(root / split).images:
            name = path.split("/")[0].lower()
            if "/" in path:
                rows.append((f"{split}/{path}", number[name], split, name))
    table = pd.DataFrame(rows, columns=["path", "label", "split", "class_name"])
    return Contents(table, root, ("train", "test"))


def _layout(classes: int, each: tuple[int, int], wants: str) -> Layout:
    parts = tuple(
        Part(name=name, images=classes * count, classes=classes, per_class=(count, count), labels=(0, classes - 1))
        for name, count in zip(("train", "test"), each, strict=True)
    )
    return Layout(
        name=f"cifar{classes}",
        title=f"CIFAR-{classes}",
        wants=wants,
        parts=parts,
        recognise=partial(recognise, classes=classes),
        read=partial(read, classes=classes),
    )


CIFAR_10 = _layout(
    10, (5000, 1000), "data_batch_1 ... test_batch, with or without .bin, or train/airplane/ ... and test/airplane/ ..."
)
CIFAR_100 = _layout(100, (500, 100), "train and test, with or without .bin, or train/apple/ ... and test/apple/ ...")
