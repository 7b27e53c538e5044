"""The package's own door: light to import, and every public name is there."""

from __future__ import annotations

import ast
import contextlib
import importlib
import re
import subprocess
import sys
from pathlib import Path

import pytest

import cosphere
from cosphere._elsewhere import ELSEWHERE


def test_importing_loads_nothing_heavy() -> None:
    code = "import sys, cosphere; print([name for name in ('torch', 'numpy', 'pandas', 'timm') if name in sys.modules])"
    found = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert found.stdout.strip() == "[]"


@pytest.mark.parametrize("name", cosphere.__all__)
def test_public_names_resolve(name: str) -> None:
    assert getattr(cosphere, name) is not None
    assert name in dir(cosphere)


@pytest.mark.parametrize(
    ("package", "name", "message"),
    [
        ("cosphere", "Sphere", "module 'cosphere' has no attribute 'Sphere'"),
        ("cosphere", "SphericalConstrain", "no attribute 'SphericalConstrain'. Did you mean 'SphericalConstraint'?"),
        ("cosphere", "__wrapped__", "module 'cosphere' has no attribute '__wrapped__'"),
        (
            "cosphere.losses",
            "TripletMarginLoss",
            "no attribute 'TripletMarginLoss'. Here it is cosphere.losses.TripletLoss.",
        ),
        ("cosphere.losses", "TripletLos", "Did you mean 'TripletLoss'?"),
        ("cosphere.losses.miners", "MultiSimilarityMiner", "Here it is cosphere.losses.miners.multi_similarity."),
        ("cosphere.data", "MPerClassSampler", "Here it is cosphere.data.ClassBalancedBatches."),
        ("cosphere.evaluate", "AccuracyCalculator", "Here it is cosphere.evaluate.retrieval and"),
        ("cosphere.search", "Galery", "Did you mean 'Gallery'?"),
    ],
)
def test_an_unknown_name_is_an_attribute_error_with_the_nearest(package: str, name: str, message: str) -> None:
    with pytest.raises(AttributeError, match=f"{re.escape(message)}{'$' if message.endswith(chr(39)) else ''}"):
        getattr(importlib.import_module(package), name)


def named_in(text: str) -> set[str]:
    """Dotted names of the package in a text; a name before a bracket or a sentence's end counts too."""
    return {name.rstrip(".") for name in re.findall(r"(?<![\w/.])cosphere(?:\.[A-Za-z_]\w*)+", text)}


def exists(name: str) -> bool:
    """Whether modules and attributes lead to a dotted name."""
    found: object = cosphere
    for at, part in enumerate(name.split(".")[1:], start=2):
        with contextlib.suppress(ModuleNotFoundError):
            importlib.import_module(".".join(name.split(".")[:at]))
        if not hasattr(found, part):
            return False
        found = getattr(found, part)
    return True


DOCS = [
    page
    for page in sorted((Path(__file__).parents[1] / "docs").glob("*.md"))
    if page.name != "extending.md"  # which names a loss that its reader adds
]


def test_names_of_the_package_in_the_docs_exist() -> None:
    texts = {page.name: page.read_text(encoding="utf-8") for page in DOCS} | {"ELSEWHERE": str(ELSEWHERE)}
    assert named_in("see `cosphere.search.Index`, /cosphere.x") == {"cosphere.search.Index"}
    assert not exists("cosphere.search.Indexx")
    for page, text in texts.items():
        assert [name for name in named_in(text) if not exists(name)] == [], page


@pytest.mark.parametrize("package", ["data", "embeddings", "experiment", "report", "search", "train"])
def test_names_that_load_on_first_use_are_public(package: str) -> None:
    module = importlib.import_module(f"cosphere.{package}")
    tree = ast.parse(Path(str(module.__file__)).read_text(encoding="utf-8"))
    (call,) = [
        node for node in ast.walk(tree) if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "lazily"
    ]
    homes = ast.literal_eval(call.args[1])
    assert set(homes) <= set(module.__all__)
    assert module.__all__ == sorted(module.__all__, key=lambda name: (not name.isupper(), not name[0].isupper(), name))
