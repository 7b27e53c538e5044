"""Stanford Online Products: 120 053 photos of 22 634 products (Song et al. 2016), split by product."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from cosphere.data.layouts.published import Contents, Layout, Part
from cosphere.data.text_lists import read_columns, whole_number

_LISTS = {"train": "Ebay_train.txt", "test": "Ebay_test.txt"}


def recognise(root: Path) -> bool:
    """Whether at least one of the two lists is there."""
    return any((root / name).is_file() for name in _LISTS.values())


def read(root: Path) -> Contents:
    """Read both lists: ``image_id class_id super_class_id path``. The superclass becomes the category."""
    rows = []
    notes = []
    for split, name in _LISTS.items():
        if not (root / name).is_file():
            notes.append(f"{name} is missing, so there is no {split} split")
            continue
        for _, label, _, path in read_columns(root / name, 4, skip=1):
            category = path.split("/")[0].removesuffix("_final")
            rows.append((path, str(whole_number(label, root / name)), split, category))
    table = pd.DataFrame(rows, columns=["path", "label", "split", "category"])
    folders = tuple(sorted({path.split("/")[0] for path in table["path"] if "/" in path}))
    return Contents(table, root, folders, tuple(notes))


LAYOUT = Layout(
    name="sop",
    title="Stanford Online Products",
    wants="Ebay_train.txt, Ebay_test.txt and bicycle_final/ ...",
    parts=(
        Part(name="train", images=59551, classes=11318, per_class=(2, 12), labels=(1, 11318)),
        Part(name="test", images=60502, classes=11316, per_class=(2, 12), labels=(11319, 22634)),
    ),
    recognise=recognise,
    read=read,
)
