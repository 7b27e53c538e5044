"""The recipes that ship with the package: the published rows of two papers, as settings."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from cosphere.errors import SettingsError, did_you_mean
from cosphere.files import read_yaml
from cosphere.train import TrainSettings

RECIPES = Path(__file__).parents[1] / "recipes"
"""Folder of the recipes, one folder for each paper."""


@dataclass(frozen=True, eq=False, kw_only=True)
class Recipe:
    """The settings behind one published row."""

    name: str
    """Paper, data set and row: ``sec/cub/multi_similarity+sec``."""
    path: Path
    about: Mapping[str, Any]
    """What the recipe says of itself: ``paper``, ``row``, ``dataset``, ``published``, ``known``, ``ours``."""
    evaluation: Mapping[str, Any]
    """Settings of the evaluation by which the paper scores the row."""

    @property
    def settings(self) -> TrainSettings:
        """Settings of the training run."""
        return TrainSettings.read(self.path)

    @property
    def published(self) -> dict[str, float]:
        """The published scores as fractions, by name."""
        return {name: percent / 100 for name, percent in self.about["published"].items()}


@cache
def published_recipes() -> tuple[Recipe, ...]:
    """All recipes of a published row, sorted by name."""
    recipes = []
    for path in RECIPES.glob("*/*.yaml"):
        content = read_yaml(path, what="a recipe")
        about = content.get("about", {})
        if "published" in about:
            recipes.append(Recipe(name=about["name"], path=path, about=about, evaluation=content["evaluation"]))
    return tuple(sorted(recipes, key=lambda recipe: recipe.name))


def find_recipe(name: str) -> Recipe:
    """A recipe of a published row by its name, or by its file below `recipes/` without the suffix.

    Raises:
        SettingsError: there is no such recipe; the error names the nearest.

    >>> find_recipe("sec/cub/multi_similarity+sec").about["row"]
    'Multi-similarity + SEC'
    """
    recipes = published_recipes()
    for recipe in recipes:
        if name in (recipe.name, f"{recipe.path.parent.name}/{recipe.path.stem}"):
            return recipe
    near = did_you_mean(name, [recipe.name for recipe in recipes])
    advice = near if near.startswith("Did") else "`cosphere reproduce` lists them."  # all names take a screen
    raise SettingsError(f"there is no recipe of a published row called {name!r}. {advice}")
