"""Ranges and choices of tuned settings."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from cosphere.errors import SettingsError
from cosphere.studies.spaces import Space, read_space
from cosphere.train import TrainSettings


def test_a_log_range_halves_its_ratios_and_a_linear_one_its_differences() -> None:
    assert [read_space("rate", {"from": "1e-4", "to": 1e-2}).at(place) for place in (0.0, 0.5, 1.0)] == [
        1e-4,
        1e-3,
        1e-2,
    ]
    linear = read_space("share", {"from": 0.1, "to": 0.3, "scale": "linear"})
    assert [linear.at(place) for place in (0.0, 0.5, 1.0)] == [0.1, 0.2, 0.3]


def test_choices_take_equal_shares_and_keep_their_types() -> None:
    space = read_space("steps", [100, 200, "auto"])
    assert [space.at(place) for place in (0.0, 0.34, 0.67, 0.999, 1.0)] == [100, 200, "auto", "auto", "auto"]


def test_numbers_have_three_digits_and_stay_in_the_range() -> None:
    space = Space(low=0.12345, high=0.54321)
    assert space.at(0.5) == 0.259
    assert (space.at(0.0), space.at(1.0)) == (0.12345, 0.543)


def test_a_range_of_a_setting_that_takes_whole_numbers_has_whole_numbers() -> None:
    for name, low, high in (("batch.images_per_class", 2, 10), ("model.dim", 64, 512), ("batch.size", 30, 240)):
        for scale in ("log", "linear"):
            space = read_space(name, {"from": low, "to": high, "scale": scale})
            drawn = [space.at(place) for place in np.linspace(0, 1, 101)]
            assert (drawn[0], drawn[-1]) == (low, high)
            assert drawn == sorted(drawn)
            assert all(isinstance(value, int) for value in drawn)
            assert all(TrainSettings().with_values({name: value}) for value in drawn)
            assert space.as_dict() == {
                "from": float(low),
                "to": float(high),
                "scale": scale,
            }  # as before: studies are known by it
    assert read_space("sec.weight", {"from": 1, "to": 10}).at(0.5) == 3.16
    assert read_space("sec.radius", {"from": 1, "to": 10}).at(0.5) == 3.16  # a number or a word
    assert read_space("loss.settings.margin", {"from": 1, "to": 10}).at(0.5) == 3.16


def test_what_is_written_reads_back() -> None:
    for value in ({"from": 0.001, "to": 1.0, "scale": "log"}, {"choices": [1, 2]}):
        assert read_space("x", value).as_dict() == value


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (3, "tune x is 3; wanted a range or choices"),
        ({"form": 1, "to": 2}, "has no 'form'. Did you mean 'from'"),
        ({"from": 1}, "wants both ends"),
        ({"from": 2, "to": 1}, "goes from 2 to 1; wanted a smaller number first"),
        ({"from": 0, "to": 1}, "from of tune x must be a number above 0"),
        ({"from": 1, "to": "big"}, "to of tune x must be a number"),
        ({"from": 1, "to": 2, "scale": "lin"}, "must be 'log' or 'linear'; got 'lin'"),
        ([], "a list of at least one value"),
        ({"choices": [1], "from": 2}, "with nothing else beside it"),
    ],
)
def test_a_mistake_in_a_space_is_named(value: Any, words: str) -> None:
    with pytest.raises(SettingsError, match=words):
        read_space("x", value)
