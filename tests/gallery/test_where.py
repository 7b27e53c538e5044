"""Filters, against plain Python over every item."""

from __future__ import annotations

import random
import unicodedata
from typing import Any

import pytest
from making_gallery import rows_of

from cosphere.errors import DataError
from cosphere.gallery import Store, parse
from cosphere.gallery.where import matching

WORDS = [
    "mug",
    "vase",
    "",
    "7",
    "é",
    "e\u0301",
    "x' OR '1'='1",
    "/photos/2024/a.jpg",
    "/photos/2024",
    "/photos/20240",
    "\U0010ffff",
    "\U0010ffffz",
    "\ud7ffa",
]
NUMBERS = [0, 1, 7, -3, 2.5, 1e300, True, False, 2**53 + 1]


def composed(text: str) -> str:
    return unicodedata.normalize("NFC", text)


def by_hand(value: Any, operator: str, wanted: Any) -> bool:
    """What an operator means, without a shortcut."""
    if operator == "exists":
        return (value is not None) is wanted
    if operator == "!=":
        return not by_hand(value, "=", wanted)
    if operator == "not in":
        return not by_hand(value, "in", wanted)
    if operator == "in":
        return any(by_hand(value, "=", one) for one in wanted)
    if value is None or isinstance(value, str) is not isinstance(wanted, str):
        return False
    if operator == "starts with":
        return any(value[: len(form)] == form for form in (composed(wanted), unicodedata.normalize("NFD", wanted)))
    if operator == "=" and isinstance(value, str):
        return composed(value) == composed(wanted)
    return {
        "=": value == wanted,
        "<": value < wanted,
        "<=": value <= wanted,
        ">": value > wanted,
        ">=": value >= wanted,
    }[operator]


@pytest.fixture
def filled(empty: Store) -> Store:
    chance = random.Random(0)
    metadata = [
        {name: chance.choice(WORDS + NUMBERS) for name in ("a", "b", 'c "; --') if chance.random() < 0.8}
        for _ in range(150)
    ]
    empty.add([f"id {place}" for place in range(150)], *rows_of(150), metadata=metadata)
    empty.delete([f"id {place}" for place in range(0, 150, 10)])
    return empty


@pytest.mark.usefixtures("driver")
def test_filters_agree_with_plain_python(filled: Store) -> None:
    chance = random.Random(1)
    items = list(filled)
    hits = 0
    for _ in range(80):
        where: list[dict[str, Any]] = []
        for _ in range(chance.choice([1, 1, 2])):
            part = {}
            for name in chance.sample(["a", "b", 'c "; --', "id", "unknown"], chance.choice([1, 2])):
                operator = chance.choice(["=", "!=", "<", "<=", ">", ">=", "in", "not in", "starts with", "exists"])
                wanted: Any = chance.choice(WORDS + NUMBERS if operator != "starts with" else WORDS)
                if operator in ("in", "not in"):
                    wanted = chance.sample(WORDS + NUMBERS, 4)
                if operator == "exists":
                    wanted = chance.choice([True, False])
                if name == "id":
                    wanted = {"exists": wanted, "in": ["id 3", "id 4"], "not in": ["id 3"]}.get(operator, "id 1")
                part[name] = (operator, wanted)
            where.append(part)

        def meets(item: Any, where: list[dict[str, Any]] = where) -> bool:
            values = {**item.metadata, "id": item.id}
            return any(all(by_hand(values.get(name), *test) for name, test in part.items()) for part in where)

        want = [item.row for item in items if meets(item)]
        assert filled.rows(where).tolist() == want, where
        assert [item.row for item in items if parse(where).holds(item.id, item.metadata)] == want, where
        hits += bool(want)
    assert 25 < hits < 80  # the filters can tell items apart


def test_short_forms(filled: Store) -> None:
    assert filled.rows({"a": "mug"}).tolist() == filled.rows({"a": ("=", "mug")}).tolist()
    assert filled.rows({"a": ["mug", 7]}).tolist() == filled.rows({"a": ("in", ["mug", 7])}).tolist()
    assert filled.rows({"a": ("mug", 7, "vase")}).tolist() == filled.rows({"a": ["mug", 7, "vase"]}).tolist()
    assert len(filled.rows({"a": 7}))
    assert set(filled.rows({"a": 7})).isdisjoint(filled.rows({"a": "7"}))
    assert filled.rows({"a": 1}).tolist() == filled.rows({"a": True}).tolist()
    assert filled.rows({"a": []}).tolist() == []
    assert filled.rows({"a": ("not in", [])}).tolist() == filled.rows().tolist()
    assert filled.rows().tolist() == [item.row for item in filled]
    many = [f"id {place}" for place in range(5000)]
    assert len(filled.rows({"id": many})) == 135


def test_sql_is_data(filled: Store) -> None:
    for text in ("'; DROP TABLE item; --", "x' OR '1'='1", "1) OR (1=1", "?", "a\x00b"):
        for where in ({text: text}, {"a": text}, {"id": text}, {"a": ("starts with", text)}, {"a": (">", text)}):
            filled.rows(where)
    assert filled.rows({"a": "'; DROP TABLE item; --"}).tolist() == []
    assert len(filled) == 135


@pytest.mark.parametrize(
    ("where", "error"),
    [
        ("label = 'mug'", r"a filter is a str; wanted columns with values, as \{'label': 'mug'\}\. SQL is not read"),
        ({}, r"a filter holds '\{\}'; wanted columns with values"),
        ([], "a filter is a list; wanted columns"),
        ({3: "x"}, "a filter names column 3; wanted a text"),
        ({"a": ("~", "x")}, r"column 'a' has the operator '~'\. Known: !=, <, .* To choose among values, give a list"),
        ({"a": ("starts wiht", "x")}, "Did you mean 'starts with'"),
        ({"a": None}, r"compares column 'a' with a missing value\. Use \('exists', False\)"),
        ({"a": ("in", "mug")}, "operator 'in' of column 'a' takes a list of values"),
        ({"a": (">", [1])}, "operator '>' of column 'a' takes one value"),
        ({"a": ("exists", 1)}, "'exists' of column 'a' takes true or false, got 1"),
        ({"a": ("starts with", 1)}, "'starts with' of column 'a' takes a text, got 1"),
        ({"a": {"b": 1}}, "is a dict; wanted a text, a number or a truth value"),
        ([{"a": 1}, "b"], "a filter holds 'b'; wanted columns with values"),
        (
            {"a": ("!=", "mug", "vase")},
            r"column 'a' has operator '!=' with 2 values; wanted one\. Give a pair; .*\('in', \[",
        ),
        ({"a": ("exists",)}, "column 'a' has operator 'exists' with 0 values; wanted one"),
        ({"a\udcff": 1}, "a column's name in a filter is not valid Unicode"),
        ({"a": "\udcff"}, "a value that column 'a' is compared with is not valid Unicode"),
        ({"a": 10**5000}, "a value that column 'a' is compared with is too large a whole number"),
        ({"id": ("<", {})}, "a value that column 'id' is compared with is a dict"),
    ],
)
def test_a_wrong_filter_is_explained(where: Any, error: str) -> None:
    with pytest.raises(DataError, match=error):
        parse(where)


def test_all_items_are_listed_only_where_needed(filled: Store) -> None:
    def never() -> Any:
        raise AssertionError

    with filled.reading() as connection:
        matching(connection, parse({"a": "mug", "b": (">", 3)}), never)
        with pytest.raises(AssertionError):
            matching(connection, parse({"a": ("!=", "mug")}), never)
