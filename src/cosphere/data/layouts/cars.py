"""Cars196: 16 185 photos of 196 car models (Krause et al. 2013), split by class; both published layouts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from cosphere.data.layouts.published import Contents, Layout, Part
from cosphere.errors import DataError

LAST_TRAIN_CLASS = 98


def recognise(root: Path) -> bool:
    """Whether there is ``cars_annos.mat`` (all images in one list) or a devkit."""
    return (root / "cars_annos.mat").is_file() or _devkit(root) is not None


def read(root: Path) -> Contents:
    """Read the annotations. The ``test`` flag and the boxes are not used in retrieval."""
    return _all_in_one(root) if (root / "cars_annos.mat").is_file() else _in_halves(root)


def _all_in_one(root: Path) -> Contents:
    content = load_mat(root / "cars_annos.mat")
    paths, classes = _fields(content, "relative_im_path", root / "cars_annos.mat")
    return Contents(_table(paths, classes, _names(content)), root, ("car_ims",))


def _in_halves(root: Path) -> Contents:
    """Read ``devkit`` with ``cars_train/`` and ``cars_test/``, which split every class, so that retrieval needs both."""
    devkit = _devkit(root)
    if devkit is None:
        raise DataError(f"{root} has no devkit/ with cars_train_annos.mat. Unpack car_devkit.tgz there.")
    paths: list[str] = []
    classes: list[int] = []
    notes = []
    folders = []
    for half, file in (("cars_train", "cars_train_annos.mat"), ("cars_test", "cars_test_annos_withlabels.mat")):
        annotations = next((place / file for place in (devkit, root) if (place / file).is_file()), None)
        folder = next((name for name in (f"{half}/{half}", half) if (root / name).is_dir()), None)
        if annotations is None or folder is None:
            what = (
                f"{file} (the labels; cars_test_annos.mat has none)" if annotations is None else f"{half}/ (the images)"
            )
            notes.append(
                f"half of the data is left out, because {what} is missing; train and test are classes of both halves"
            )
            continue
        names, labels = _fields(load_mat(annotations), "fname", annotations)
        paths += [f"{folder}/{name}" for name in names]
        classes += labels
        folders.append(folder)
    if not paths:
        raise DataError(
            f"{root} has the devkit of Cars196 but neither cars_train/ nor cars_test/. Unpack the images there."
        )
    meta = devkit / "cars_meta.mat"
    return Contents(
        _table(paths, classes, _names(load_mat(meta)) if meta.is_file() else []), root, tuple(folders), tuple(notes)
    )


def _devkit(root: Path) -> Path | None:
    """The folder with the annotations, which some mirrors nest one level deeper."""
    places = (root / "devkit", root / "car_devkit" / "devkit", root / "devkit" / "devkit")
    return next((place for place in places if (place / "cars_train_annos.mat").is_file()), None)


def _table(paths: list[str], classes: list[int], names: list[str]) -> pd.DataFrame:
    table = pd.DataFrame(
        {
            "path": paths,
            "label": [str(number) for number in classes],
            "split": ["train" if number <= LAST_TRAIN_CLASS else "test" for number in classes],
        }
    )
    if names and min(classes) >= 1 and max(classes) <= len(names):
        table["class_name"] = [names[number - 1] for number in classes]
    return table


def load_mat(path: Path) -> dict[str, Any]:
    """Load the variables of a MATLAB file.

    Raises:
        DataError: the file cannot be read.
    """
    from scipy.io import loadmat

    try:
        return dict(loadmat(path, squeeze_me=True))
    except Exception as error:  # scipy may raise anything on a damaged file
        raise DataError(
            f"{path} cannot be read as a MATLAB file ({type(error).__name__}). Unpack the archive again."
        ) from error


def _fields(content: dict[str, Any], name: str, path: Path) -> tuple[list[str], list[int]]:
    """Read file names and class numbers by field name, because the two layouts order the fields differently."""
    annotations = np.atleast_1d(content.get("annotations", np.empty(0)))
    fields = annotations.dtype.names or ()
    if not len(annotations) or name not in fields or "class" not in fields:
        raise DataError(
            f"{path} should hold 'annotations' with the fields {name!r} and 'class', it has {list(fields)}."
        )
    return [str(cell) for cell in annotations[name]], [int(cell) for cell in annotations["class"]]


def _names(content: dict[str, Any]) -> list[str]:
    return [str(name) for name in np.atleast_1d(content.get("class_names", []))]


LAYOUT = Layout(
    name="cars196",
    title="Cars196",
    wants="cars_annos.mat and car_ims/, or devkit/, cars_train/ and cars_test/",
    parts=(
        Part(name="train", images=8054, classes=98, per_class=(59, 97), labels=(1, 98)),
        Part(name="test", images=8131, classes=98, per_class=(48, 136), labels=(99, 196)),
    ),
    recognise=recognise,
    read=read,
)
