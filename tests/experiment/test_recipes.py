"""Finding the recipes of published rows."""

from __future__ import annotations

import pytest
import yaml

from cosphere.errors import SettingsError
from cosphere.experiment import find_recipe, published_recipes


def test_every_published_row_has_a_name_of_its_own_that_says_where_it_is_from() -> None:
    recipes = published_recipes()
    assert len(recipes) == 48 + 17
    assert len({recipe.name for recipe in recipes}) == len(recipes)
    for recipe in recipes:
        paper, data, *_ = recipe.name.split("/")
        assert (paper, data) == (recipe.path.parent.name, recipe.path.stem.split("-")[0])
        if paper == "sec":
            arm = {"none": "", "l2": "+l2", "sec": "+sec"}[recipe.path.stem.split("-")[2]]
            loss = yaml.safe_load(recipe.path.read_text(encoding="utf-8").split("\nloss:")[1].split("\nsec:")[0])[
                "name"
            ]
            assert recipe.name == f"sec/{data}/{loss}{arm}"


def test_a_recipe_is_found_by_its_name_and_by_its_file() -> None:
    recipe = find_recipe("sec/cub/triplet+sec")
    assert find_recipe("sec/cub-triplet-sec") is recipe
    assert recipe.published["recall@1"] == pytest.approx(0.6082)
    assert recipe.settings.sec.weight > 0


def test_an_unknown_row_names_the_nearest() -> None:
    with pytest.raises(SettingsError, match=r"called 'sec/cub/tripet\+sec'. Did you mean 'sec/cub/triplet\+sec'"):
        find_recipe("sec/cub/tripet+sec")
