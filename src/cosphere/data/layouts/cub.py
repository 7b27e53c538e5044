"""CUB-200-2011: 11 788 photos of 200 bird species (Wah et al. 2011), split by class as in retrieval papers."""

from __future__ import annotations

import re
from pathlib import Path

import pandas as pd

from cosphere.data.layouts.published import Contents, Layout, Part
from cosphere.data.listing import is_stray, list_images, scan
from cosphere.data.text_lists import read_columns, whole_number
from cosphere.errors import DataError

LAST_TRAIN_CLASS = 100
IMAGES_OF_2010 = 6033
_CLASS_FOLDER = re.compile(r"(\d{3})\.(.+)")


def recognise(root: Path) -> bool:
    """Whether ``images/`` has folders such as ``001.Black_footed_Albatross``; ``images.txt`` is optional."""
    images = root / "images"
    if not images.is_dir():
        return False
    return any(_CLASS_FOLDER.fullmatch(entry.name) for entry in scan(images) if not is_stray(entry.name))


def read(root: Path) -> Contents:
    """Read ``images.txt``. ``train_test_split.txt`` is not used in retrieval."""
    notes: tuple[str, ...] = ()
    if (root / "images.txt").is_file():
        paths = [f"images/{path}" for _, path in read_columns(root / "images.txt", 2)]
    else:
        paths = [f"images/{path}" for path in list_images(root / "images").images if "/" in path]
        notes = ("images.txt is missing, so the folders in images/ were read instead",)
    if len(paths) == IMAGES_OF_2010 or (root / "lists" / "files.txt").is_file():
        raise DataError(
            f"{root} is CUB-200-2010 ({IMAGES_OF_2010} images); the papers use CUB-200-2011 (11788 images). "
            "Get CUB_200_2011, or read this one with layout='folder' on its images/."
        )
    classes = [_class_of(path) for path in paths]
    listed = _listed_classes(root)
    if listed is not None and listed != [number for number, _ in classes]:
        raise DataError(
            f"{root / 'image_class_labels.txt'} and the folder names in images.txt disagree. Unpack the archive again."
        )
    table = pd.DataFrame(
        {
            "path": paths,
            "label": [str(number) for number, _ in classes],
            "split": ["train" if number <= LAST_TRAIN_CLASS else "test" for number, _ in classes],
            "class_name": [name for _, name in classes],
        }
    )
    return Contents(table, root, ("images",), notes)


def _class_of(path: str) -> tuple[int, str]:
    """Parse ``images/001.Black_footed_Albatross/x.jpg`` to (1, "Black footed Albatross")."""
    match = _CLASS_FOLDER.fullmatch(path.split("/")[1])
    if match is None:
        raise DataError(
            f"the folder of {path!r} should be called like 001.Black_footed_Albatross. Unpack the archive again."
        )
    return int(match[1]), match[2].replace("_", " ")


def _listed_classes(root: Path) -> list[int] | None:
    file = root / "image_class_labels.txt"
    if not file.is_file() or not (root / "images.txt").is_file():
        return None
    label_of = {image: whole_number(label, file) for image, label in read_columns(file, 2)}
    return [label_of.get(image, -1) for image, _ in read_columns(root / "images.txt", 2)]


LAYOUT = Layout(
    name="cub-200-2011",
    title="CUB-200-2011",
    wants="images.txt and images/001.Black_footed_Albatross/ ...",
    parts=(
        Part(name="train", images=5864, classes=100, per_class=(41, 60), labels=(1, 100)),
        Part(name="test", images=5924, classes=100, per_class=(49, 60), labels=(101, 200)),
    ),
    recognise=recognise,
    read=read,
)
