"""Labeled Faces in the Wild: 13 233 photos of 5749 people (Huang et al. 2007), split by person as its View 1 does.

View 1 divides the people: those of ``peopleDevTrain.txt`` are for training, those of ``peopleDevTest.txt`` for choosing models. View 2
(``pairs.txt``) compares pairs of all people, so a model that was trained on View 1's training people has seen some of them;
:mod:`cosphere.experiment.protocols.lfw` says how that is counted.
"""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from cosphere.data.faces.people import read_lfw_people
from cosphere.data.layouts.published import Contents, Layout, Part
from cosphere.data.listing import is_folder, is_image, is_stray, scan
from cosphere.data.text_lists import read_lines
from cosphere.errors import DataError

PEOPLE = {"train": "peopleDevTrain.txt", "test": "peopleDevTest.txt"}
"""The list of each split's people."""


def recognise(root: Path) -> bool:
    """Whether there is ``peopleDevTrain.txt``, whose first line is the number of people, and a folder of its first person."""
    file = root / PEOPLE["train"]
    if not file.is_file():
        return False
    lines = read_lines(file)
    return len(lines) > 1 and lines[0].strip().isdigit() and len(lines[1].split("\t")) == 2


def read(root: Path) -> Contents:
    """Read the people of View 1; the images are those that the lists count, in the root or in one folder inside it."""
    people = {split: read_lfw_people(root / name) for split, name in PEOPLE.items() if (root / name).is_file()}
    names = [name for listed in people.values() for name in listed.names]
    if len(set(names)) < len(names):
        both = sorted(set(people["train"].names) & set(people["test"].names))
        raise DataError(
            f"{both[0]} is in {PEOPLE['train']} and in {PEOPLE['test']}; View 1 has nobody in both. Use LFW's own lists."
        )
    notes = [f"{PEOPLE['test']} is missing, so there is no test split"] if "test" not in people else []
    folder = _folder_of_images(root, names)
    suffix = _suffix(folder, names)
    rows = [(image.removesuffix(".jpg") + suffix, split) for split, listed in people.items() for image in listed.images]
    table = pd.DataFrame(rows, columns=["path", "split"])
    table["label"] = [path.partition("/")[0] for path in table["path"]]
    table["class_name"] = [label.replace("_", " ") for label in table["label"]]
    return Contents(table, folder, ("",), tuple(notes))


def _folder_of_images(root: Path, names: list[str]) -> Path:
    """The root, or the folder inside it that holds the people's folders, such as ``lfw`` or ``lfw_funneled``."""
    places = [root, *sorted(Path(entry.path) for entry in scan(root) if is_folder(entry) and not is_stray(entry.name))]
    some = names[:100]  # Of a subset in this layout, the first person may be missing.
    place = next((place for place in places if any((place / name).is_dir() for name in some)), None)
    if place is None:
        raise DataError(
            f"{root} has no folder of a person, such as {names[0]}/{names[0]}_0001.jpg. Unpack the images there."
        )
    return place


def _suffix(folder: Path, names: list[str]) -> str:
    """The suffix of the images: aligned copies often have another than the published ``.jpg``."""
    own = next(folder / name for name in names if (folder / name).is_dir())
    return next((Path(entry.name).suffix for entry in scan(own) if is_image(entry.name)), ".jpg")


LAYOUT = Layout(
    name="lfw",
    title="Labeled Faces in the Wild",
    wants="peopleDevTrain.txt, peopleDevTest.txt and <Person>/<Person>_0001.jpg ...",
    parts=(
        Part(name="train", images=9525, classes=4038, per_class=(1, 530)),
        Part(name="test", images=3708, classes=1711, per_class=(1, 121)),
    ),
    recognise=recognise,
    read=read,
)
