"""What an item carries, in the types that callers have: NumPy's scalars, enumerations, dates."""

from __future__ import annotations

import enum
import sqlite3
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from making_gallery import DIM, rows_of

from cosphere.errors import DataError, RunError
from cosphere.gallery import Space, Store, is_gallery
from cosphere.gallery import folder as gallery_folder
from cosphere.gallery.values import as_id, check_value
from cosphere.gallery.where import parse


class Label(str, enum.Enum):  # noqa: UP042 (a StrEnum would name its value by itself)
    MUG = "mug"


class Year(int, enum.Enum):
    NOW = 2024


@pytest.mark.parametrize(
    ("value", "plain"),
    [
        (Label.MUG, "mug"),
        (Year.NOW, 2024),
        (np.int64(2024), 2024),
        (np.array(2024), 2024),
        (np.float32(0.5), 0.5),
        (np.bool_(True), True),
        (np.str_("mug"), "mug"),
        (np.datetime64("NaT"), None),
        (np.timedelta64("NaT", "ns"), None),
    ],
)
def test_a_value_is_what_it_stands_for(value: Any, plain: Any) -> None:
    found = check_value(value, "x")
    assert (found, type(found)) == (plain, type(plain))
    if plain is not None:
        assert parse({"x": value}) == parse({"x": plain})
        assert parse({"x": ("=", value)}) == parse({"x": plain})


@pytest.mark.parametrize(
    "value", [np.datetime64("2024-01-01", "ns"), np.datetime64("2024-01-01"), np.timedelta64(5, "ns"), b"mug", {"a": 1}]
)
def test_a_date_is_no_number(value: Any) -> None:
    with pytest.raises(DataError, match=r"wanted a text, a number or a truth value\. Convert it to text"):
        check_value(value, "x")


@pytest.mark.parametrize(
    ("value", "id_"),
    [
        (Label.MUG, "mug"),
        (Year.NOW, "2024"),
        (np.int64(7), "7"),
        (np.array(7), "7"),
        (True, None),
        (np.datetime64(7, "D"), None),
    ],
)
def test_an_id_is_a_text_or_a_whole_number(value: Any, id_: str | None) -> None:
    assert as_id(value) == id_


def test_a_creation_that_was_interrupted_can_be_done_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, driver: str
) -> None:
    """Ctrl-C after SQLite wrote its first page."""

    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(gallery_folder, "create_tables", interrupted)
        with pytest.raises(KeyboardInterrupt):
            Store.create(tmp_path / "g", Space(dim=DIM))
    assert (tmp_path / "g" / "gallery.sqlite").stat().st_size
    assert not is_gallery(tmp_path / "g")
    with pytest.raises(RunError, match=r"the creation of this gallery was interrupted\. Create it again"):
        Store.open(tmp_path / "g")
    with Store.create(tmp_path / "g", Space(dim=DIM)) as store:
        store.add(["a"], rows_of(1)[0])
        assert is_gallery(tmp_path / "g")
    with pytest.raises(RunError, match="is a gallery already"):
        Store.create(tmp_path / "g", Space(dim=DIM))
    with Store.open(tmp_path / "g") as store:
        assert len(store) == 1


@pytest.mark.parametrize("content", ["table", "text", "application"])
def test_a_file_of_something_else_is_not_filled(content: str, tmp_path: Path) -> None:
    (tmp_path / "g").mkdir()
    file = tmp_path / "g" / "gallery.sqlite"
    if content == "text":
        file.write_text("a note of mine\n" * 100)
    else:
        other = sqlite3.connect(file)
        other.execute("CREATE TABLE mine (x)" if content == "table" else "PRAGMA application_id = 7")
        other.commit()
        other.close()
    before = file.read_bytes()
    assert before
    assert is_gallery(tmp_path / "g")
    with pytest.raises(RunError, match="is a gallery already"):
        Store.create(tmp_path / "g", Space(dim=DIM))
    assert file.read_bytes() == before
