"""In-Shop Clothes Retrieval of DeepFashion: 52 712 photos of 7982 garments (Liu et al. 2016)."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from cosphere.data.layouts.published import Contents, Layout, Part
from cosphere.data.text_lists import read_columns, read_lines
from cosphere.errors import DataError

_LIST = "list_eval_partition.txt"
_STATUS = {"train", "query", "gallery"}


def recognise(root: Path) -> bool:
    """Whether the list is in the root, ``Eval/`` or ``Anno/``."""
    return _list(root) is not None


def read(root: Path) -> Contents:
    """Read the list. Query and gallery are roles in split ``test``; a garment has the same label in all splits."""
    file = _list(root)
    if file is None:
        raise DataError(f"{root} has no {_LIST}. Unpack the whole archive.")
    rows = read_columns(file, 3, skip=2)
    wrong = sorted({status for _, _, status in rows} - _STATUS)
    if wrong:
        raise DataError(
            f"{file.name} has the status {wrong[0]!r}; want train, query or gallery. Unpack the archive again."
        )
    notes = []
    stated = read_lines(file)[0].strip()
    if stated != str(len(rows)):
        notes.append(f"{file.name} says that it lists {stated} images and lists {len(rows)}")
    table = pd.DataFrame(
        {
            "path": [path for path, _, _ in rows],
            "label": [item for _, item, _ in rows],
            "split": ["train" if status == "train" else "test" for _, _, status in rows],
            "is_query": [status == "query" for _, _, status in rows],
            "is_gallery": [status == "gallery" for _, _, status in rows],
            "category": ["/".join(path.split("/")[1:3]) for path, _, _ in rows],
        }
    )
    images = root if (root / "img").is_dir() else root / "Img"
    return Contents(table, images, ("img",), tuple(notes))


def _list(root: Path) -> Path | None:
    return next((place / _LIST for place in (root, root / "Eval", root / "Anno") if (place / _LIST).is_file()), None)


LAYOUT = Layout(
    name="in-shop",
    title="In-Shop Clothes Retrieval",
    wants="list_eval_partition.txt (or Eval/ with it) and img/",
    parts=(
        Part(name="train", images=25882, classes=3997, per_class=(1, 162)),
        Part(name="query", images=14218, classes=3985),
        Part(name="gallery", images=12612, classes=3985),
    ),
    recognise=recognise,
    read=read,
)
