"""Section D: what recipes, losses and documents once said otherwise than their sources. One row for each statement."""

from __future__ import annotations

import importlib
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

RECIPES = Path(__file__).parents[2] / "recipes"


def recipe(name: str) -> dict[str, Any]:
    content: dict[str, Any] = yaml.safe_load((RECIPES / f"{name}.yaml").read_text(encoding="utf-8"))
    return content


def value(name: str, path: str) -> Any:
    """A setting of a recipe by dotted name; None where it leaves the default."""
    content: Any = recipe(name)
    for part in path.split("."):
        content = (content or {}).get(part)
    return content


SETS = ("cub", "cars196")
STATEMENTS = [
    *(
        pytest.param(
            f"sec/{data}-ms-{arm}",
            f"optimizer.{rate}",
            value(f"sec/{data}-ms-none", f"optimizer.{rate}"),
            id=f"D1 {data} {arm} {rate}",
        )
        for data in SETS
        for arm in ("sec", "l2")
        for rate in ("backbone_rate", "head_rate")
    ),
    *(
        pytest.param(f"normsoftmax/{data}-{size}", "model.bias", False, id=f"D2 {data} {size}")
        for data in SETS
        for size in ("128", "512")
    ),
    *(
        pytest.param(f"normsoftmax/{data}-{size}", "model.dim", int(size), id=f"D3 {data} {size}")
        for data in SETS
        for size in ("128", "512")
    ),
    *(
        pytest.param(f"normsoftmax/{data}-2048-bits", "about.form", "bits", id=f"D3 {data} bits")
        for data in (*SETS, "sop", "inshop")
    ),
    *(
        pytest.param(
            f"normsoftmax/{data}-bn-inception-1024", "model.backbone", "bn_inception", id=f"D3 {data} BN-Inception"
        )
        for data in SETS
    ),
    *(
        pytest.param(f"{room}/{name}", "evaluation.clustering_preset", preset, id=f"A21 {name}")
        for room, name, preset in (
            ("sec", "cub-triplet-sec", "sec"),
            ("sec", "cars196-ms-none", "sec"),
            ("normsoftmax", "cub", "norm_softmax"),
        )
    ),
]


@pytest.mark.parametrize(("name", "path", "right"), STATEMENTS)
def test_a_recipe_says_what_its_source_says(name: str, path: str, right: Any) -> None:
    assert value(name, path) == right


@pytest.mark.parametrize("file", sorted(RECIPES.rglob("*.yaml")), ids=lambda file: file.stem)
def test_published_rows_say_their_form(file: Path) -> None:
    """A22: a row of bits is quoted for bits only."""
    about = (yaml.safe_load(file.read_text(encoding="utf-8")) or {}).get("about") or {}
    if about.get("published"):
        assert (about.get("form", "floats") == "bits") == file.stem.endswith("-bits")


def test_what_the_documentation_refers_to_is_there() -> None:
    """D6: 25 files referred to ``cosphere.losses.compare``, which did not exist."""
    package = Path(__file__).parents[2] / "src" / "cosphere"
    losses = importlib.import_module("cosphere.losses")
    names = {
        name
        for path in package.rglob("*.py")
        for name in re.findall(r":(?:func|class):`~?cosphere\.losses\.(\w+)`", path.read_text(encoding="utf-8"))
    }
    assert "compare" in names
    assert [name for name in names if not hasattr(losses, name)] == []
