from __future__ import annotations

from pathlib import Path

import pytest

from cosphere.data import read_catalogue
from cosphere.errors import DataError

ROWS = [
    ("img/WOMEN/Dresses/id_00000002/02_1_front.jpg", "id_00000002", "train"),
    ("img/MEN/Denim/id_00000010/01_1_front.jpg", "id_00000010", "query"),
    ("img/MEN/Denim/id_00000010/01_2_side.jpg", "id_00000010", "gallery"),
    ("img/WOMEN/Tees/id_00000001/02_1_front.jpg", "id_00000001", "gallery"),
    ("img/WOMEN/Tees/id_00000001/02_2_side.jpg", "id_00000001", "query"),
]


def write_list(file: Path, rows: list[tuple[str, str, str]], count: int | None = None) -> None:
    lines = "".join(f"{path:<60}      {item} {status}\n" for path, item, status in rows)
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(f"{len(rows) if count is None else count}\nimage_name item_id evaluation_status\n{lines}")


@pytest.mark.parametrize(("place", "images"), [("", ""), ("Eval", "Img"), ("Anno", "Img")])
def test_roles_and_one_map_of_labels(tmp_path: Path, draw, place: str, images: str) -> None:
    draw(tmp_path / images, [path for path, _, _ in ROWS])
    write_list(tmp_path / place / "list_eval_partition.txt", ROWS)
    found = read_catalogue(tmp_path)
    assert found.layout == "in-shop"
    assert found.splits.tolist() == ["train", "test", "test", "test", "test"]
    assert found.table["is_query"].tolist() == [False, True, False, False, True]
    assert found.table["is_gallery"].tolist() == [False, False, True, True, False]
    assert found.table["category"].tolist()[:2] == ["WOMEN/Dresses", "MEN/Denim"]
    test = found.select("test")
    assert test.labels.tolist() == [1, 1, 0, 0]  # query and gallery share one map, whatever the order of the rows
    assert all(Path(path).is_file() for path in found.paths)
    counts = {check.what: (check.expected, check.found) for check in found.checks}
    assert counts["query images"] == ("14218", "2")
    assert counts["gallery images"] == ("12612", "2")
    assert counts["gallery classes"] == ("3985", "2")
    assert counts["train images"] == ("25882", "1")
    assert found.notes == ()


def test_a_list_that_was_cut_short(tmp_path: Path, draw) -> None:
    draw(tmp_path, [path for path, _, _ in ROWS])
    write_list(tmp_path / "list_eval_partition.txt", ROWS, count=52712)
    assert read_catalogue(tmp_path).notes == ("list_eval_partition.txt says that it lists 52712 images and lists 5",)


def test_an_unknown_status(tmp_path: Path) -> None:
    write_list(tmp_path / "list_eval_partition.txt", [("img/a.jpg", "id_1", "val")])
    with pytest.raises(DataError, match="has the status 'val'; want train, query or gallery"):
        read_catalogue(tmp_path)


def test_images_that_were_not_unpacked(tmp_path: Path) -> None:
    write_list(tmp_path / "list_eval_partition.txt", ROWS)
    with pytest.raises(DataError, match="none of the 5 files that In-Shop Clothes Retrieval lists"):
        read_catalogue(tmp_path)
