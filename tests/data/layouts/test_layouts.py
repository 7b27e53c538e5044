from __future__ import annotations

from pathlib import Path

import pytest

from cosphere.data import LAYOUTS, read_catalogue
from cosphere.errors import DataError


def test_several_data_sets_side_by_side(tmp_path: Path, draw) -> None:
    draw(tmp_path / "birds" / "images", ["001.Albatross/1.jpg"])
    (tmp_path / "shop").mkdir()
    (tmp_path / "shop" / "Ebay_train.txt").write_text("header\n1 1 1 a.jpg\n")
    with pytest.raises(DataError, match=r"holds several data sets: birds, shop\. Name one of them"):
        read_catalogue(tmp_path)
    assert read_catalogue(tmp_path, layout="cub-200-2011").root == tmp_path / "birds"
    assert read_catalogue(tmp_path / "birds").layout == "cub-200-2011"


def test_a_folder_of_many_classes_is_not_searched(tmp_path: Path, draw) -> None:
    draw(tmp_path, [f"class{number}/1.jpg" for number in range(31)])
    (tmp_path / "class0" / "Ebay_train.txt").write_text("")
    assert read_catalogue(tmp_path).layout == "folder"


def test_published_totals() -> None:
    """The totals that the papers print; the parts were copied one by one."""
    totals = {name: sum(part.images for part in layout.parts) for name, layout in LAYOUTS.items()}
    assert totals == {
        "cub-200-2011": 11788,
        "cars196": 16185,
        "sop": 120053,
        "in-shop": 52712,
        "cifar10": 60000,
        "cifar100": 60000,
        "lfw": 13233,
    }
    for layout in LAYOUTS.values():
        for part in layout.parts:
            if part.labels:
                first, last = part.labels
                assert last - first + 1 == part.classes
            if part.per_class:
                least, most = part.per_class
                assert least * part.classes <= part.images <= most * part.classes
