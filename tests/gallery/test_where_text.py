"""Conditions as they are typed on a command line."""

from __future__ import annotations

import unicodedata
from typing import Any

import pytest

from cosphere.errors import DataError
from cosphere.gallery import parse
from cosphere.gallery.where_text import where_of

COMPOSED, APART = (unicodedata.normalize(form, "caf\N{LATIN SMALL LETTER E WITH ACUTE}") for form in ("NFC", "NFD"))


@pytest.mark.parametrize(
    ("text", "metadata", "holds"),
    [
        ("label=mug", {"label": "mug"}, True),
        ("label==mug", {"label": "mug"}, True),
        ('label=="=mug"', {"label": "=mug"}, True),
        ("label=NaN", {"label": "NaN"}, True),
        ("label!=-Infinity", {"label": "-Infinity"}, False),
        ("label=1e999", {"label": "1e999"}, True),
        ("label = mug", {"label": "mug"}, True),
        ("label=a=b", {"label": "a=b"}, True),
        ("label!=mug", {"label": "mug"}, False),
        ("label!=mug", {}, True),
        ("label=7", {"label": "7"}, True),
        ("label=7", {"label": 7}, True),
        ("label=007", {"label": "007"}, True),
        ('label="7"', {"label": 7}, False),
        ('label=["mug", "vase"]', {"label": "vase"}, True),
        ('label!=["mug", "vase"]', {"label": "vase"}, False),
        ("year>=2024", {"year": 2024}, True),
        ("year>2024", {"year": 2024}, False),
        ("year<2024.5", {"year": "2000"}, False),
        ("path^=/photos/", {"path": "/photos/1.jpg"}, True),
        ("path^=2024", {"path": "2024-01"}, True),
        ("flag=true", {"flag": True}, True),
        ("flag=true", {"flag": "true"}, True),
        ("label=null", {"label": "null"}, True),
        ("code=12345678901234567890123", {"code": "12345678901234567890123"}, True),
        ("code!=-12345678901234567890123", {"code": "-12345678901234567890123"}, False),
        ("code=9223372036854775807", {"code": 2**63 - 1}, True),
        ("code=9223372036854775808", {"code": "9223372036854775808"}, True),
        ('code>="12345678901234567890123"', {"code": "2"}, True),
        (f"label={APART}", {"label": COMPOSED}, True),
        (f"label={COMPOSED}", {"label": APART}, True),
        (f"label!={APART}", {"label": COMPOSED}, False),
        (f"label!={APART}", {"label": "mug"}, True),
        (f'label=["mug", "{APART}"]', {"label": COMPOSED}, True),
        (f"path^=/{COMPOSED}/", {"path": f"/{APART}/1.jpg"}, True),
        (f"path^=/{APART}/", {"path": f"/{COMPOSED}/1.jpg"}, True),
        (f"path^=/{APART}/", {"path": "/mug/1.jpg"}, False),
        (f"label>={APART}", {"label": COMPOSED}, True),
    ],
)
def test_a_condition_means_what_it_reads(text: str, metadata: dict[str, Any], holds: bool) -> None:
    where = where_of([text])
    assert where is not None
    assert parse(where).holds("an id", metadata) is holds


def test_all_conditions_hold_also_two_of_one_column() -> None:
    where = where_of(["year>=2020", "year<2024", "label=mug"])
    assert where is not None
    years = [year for year in range(2018, 2027) if parse(where).holds("x", {"year": year, "label": "mug"})]
    assert years == [2020, 2021, 2022, 2023]
    assert where_of([]) is None


def test_every_condition_holds_in_each_form_of_a_beginning() -> None:
    where = where_of([f"path^=/{APART}/", f"label!={APART}", "path^=/"])
    assert where is not None
    for form in (COMPOSED, APART):
        held = [parse(where).holds("x", {"path": f"/{form}/1", "label": label}) for label in ("mug", COMPOSED, APART)]
        assert held == [True, False, False]


def test_an_order_of_numbers_has_bounds() -> None:
    where = where_of(["code>12345678901234567890123"])
    assert where is not None
    with pytest.raises(DataError, match=r"is too large a whole number; wanted one that 64 bits hold\. Give it as text"):
        parse(where)


@pytest.mark.parametrize("typed", [COMPOSED, APART])
@pytest.mark.parametrize("kept", [COMPOSED, APART])
def test_a_filter_of_python_means_every_form_too_but_of_a_whole_id(typed: str, kept: str) -> None:
    item = {"label": kept, "path": f"/{kept}/1.jpg"}
    for where in (
        {"label": typed},
        {"label": ["mug", typed]},
        {"label": ("not in", ["mug"]), "path": ("starts with", f"/{typed}/")},
    ):
        assert parse(where).holds("x", item), where
    for where in ({"label": ("!=", typed)}, {"label": ("not in", [typed, "mug"])}):
        assert not parse(where).holds("x", item), where
    assert parse({"id": typed}).holds(kept, {}) is (typed == kept)
    assert parse({"id": ("starts with", typed)}).holds(f"{kept}/1.jpg", {})


@pytest.mark.parametrize("typed", [COMPOSED, APART])
@pytest.mark.parametrize("kept", [COMPOSED, APART])
def test_the_beginning_of_an_id_is_typed_in_any_form_and_a_whole_id_as_it_is(typed: str, kept: str) -> None:
    beginning, whole = where_of([f"id^=/{typed}/"]), where_of([f"id={typed}"])
    assert beginning is not None
    assert whole is not None
    assert parse(beginning).holds(f"/{kept}/1.jpg", {})
    assert parse(whole).holds(kept, {}) is (typed == kept)


@pytest.mark.parametrize("text", ["label", "=mug", "", ">3"])
def test_what_is_not_a_condition_is_explained(text: str) -> None:
    with pytest.raises(
        DataError, match=r"is not a condition; wanted COLUMN=VALUE, or !=, <, <=, >, >=, \^= \(begins with\)"
    ):
        where_of([text])


def test_every_combination_of_forms_is_meant() -> None:
    """Labels are kept composed, and paths as the disk has them: one item has both forms."""
    where = where_of([f"label^={COMPOSED}", f"path^=/{COMPOSED}/", f"path^={APART[:3]}", "year>2"])
    assert where is not None
    found = [[one.values[0] for one in every] for every in parse(where).alternatives]
    assert sorted(found) == sorted(
        [label, path, "caf", 2] for label in (COMPOSED, APART) for path in (f"/{COMPOSED}/", f"/{APART}/")
    )
