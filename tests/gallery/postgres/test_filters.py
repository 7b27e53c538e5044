"""Filters as SQL, without a server."""

from __future__ import annotations

import pytest

from cosphere.errors import DataError
from cosphere.gallery.postgres.filters import clause_of
from cosphere.gallery.where import parse


def test_more_alternatives_than_a_statement_takes_are_refused_in_our_words() -> None:
    several = [{"year": (">", number)} for number in range(16_300)]
    with pytest.raises(
        DataError, match=r"16,300 alternatives, too many .* \(65,200 values; wanted at most 65,000\). Give the values"
    ):
        clause_of(parse(several))


def test_a_list_of_many_values_is_one_value_of_the_statement() -> None:
    clause = clause_of(parse({"label": [f"class {number}" for number in range(100_000)]}))
    assert len(clause.values) == 3
