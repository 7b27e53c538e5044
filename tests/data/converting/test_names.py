from __future__ import annotations

import unicodedata
from pathlib import Path, PurePosixPath, PureWindowsPath

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cosphere.data.converting.names import LONGEST, DistinctNames, safe_name
from cosphere.data.listing import is_stray

ODD = [
    *(
        "../x",
        "..",
        ".",
        "/abs",
        "C:\\x",
        "\\\\server\\share",
        "a/b",
        "a\\b",
        "",
        " ",
        "x ",
        "x.",
        " x",
        "con",
        "CON.txt",
    ),
    *(
        "nul .jpg",
        "aux",
        "COM1",
        "lpt9.x",
        "a:b",
        "a*?",
        'a"b',
        "a<b>|",
        "a\0b",
        "a\nb",
        "\x1b[31m",
        "\ud800",
        ".hidden",
    ),
    *("Thumbs.db", "__MACOSX", "x#y", "x" * 300, "é" * 200, "\u202e", "-rf", "~", "名前", "a\u0308"),
]


def check(name: str) -> None:
    assert name
    assert not {"/", "\\", "\0", ":", "#"} & set(name)
    assert len(name.encode()) <= LONGEST
    assert not is_stray(name)
    assert PurePosixPath(name).name == name
    windows = PureWindowsPath(name)
    assert windows.name == name
    assert not windows.is_reserved()
    assert not name.endswith((" ", "."))


@pytest.mark.parametrize("text", ODD)
def test_odd_names(text: str, tmp_path: Path) -> None:
    name = safe_name(text)
    check(name)
    (tmp_path / f"{name}.jpg").write_bytes(b"x")
    (tmp_path / name).mkdir()
    assert (tmp_path / name).resolve().parent == tmp_path.resolve()


@settings(max_examples=60, deadline=None)
@given(st.text())
def test_any_name(text: str) -> None:
    check(safe_name(text))
    assert safe_name(safe_name(text)) == safe_name(text)


@pytest.mark.parametrize("text", ["Ann Lee", "0001", "a.b", "Čapek", "名前", "-x", "x" * 100])
def test_names_that_stay(text: str) -> None:
    assert safe_name(text) == unicodedata.normalize("NFC", text)


def test_long_names_stay_different() -> None:
    assert safe_name("x" * 300) != safe_name("x" * 301)


def test_equal_names_get_numbers() -> None:
    names = DistinctNames()
    given = ["Ann", "ann", "ANN", "ann-2", "a.jpg", "A.JPG", "a.jpg", "\u00e9", "e\u0301", ".x", "ann"]
    made = [names.distinct(name) for name in given]
    assert made[:4] == ["Ann", "ann-2", "ANN-3", "ann-2-2"]
    assert made[4:7] == ["a.jpg", "A-2.JPG", "a-3.jpg"]
    folded = {unicodedata.normalize("NFKC", name).casefold() for name in made}
    assert len(folded) == len(given)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.text(alphabet="aAbB-2.", max_size=4), max_size=30))
def test_names_are_distinct_on_every_disk(given: list[str]) -> None:
    names = DistinctNames()
    made = [names.distinct(name) for name in given]
    assert len({name.casefold() for name in made}) == len(made)
