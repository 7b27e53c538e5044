"""Imports inside the package point to a strictly lower level, or stay inside their room."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

PACKAGE = Path(__file__).parents[1] / "src" / "cosphere"
LEVELS = [
    {"errors", "_elsewhere", "_version"},
    {"_lazy", "_types", "checks", "disk"},
    {"fields", "files", "origins", "tensors"},
    {"codes", "rows", "gallery"},
    {"images", "spherical", "losses", "runs"},
    {"norm_lens", "models", "data"},
    {"embeddings", "stamps"},
    {"search"},
    {"health"},
    {"train", "evaluate"},
    {"experiment"},
    {"report", "studies"},
    {"cli"},
]
LEVEL = {room: level for level, rooms in enumerate(LEVELS) for room in rooms}
DOORS = {"__init__", "__main__"}  # the package's own two doors may name every room


def imported(tree: ast.AST) -> Iterator[str]:
    """Dotted names a module imports: `from a.b import c` gives a.b.c."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports name the whole path, so that this test can read them"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def broken_rules(package: Path) -> list[str]:
    """One line for each import that points up or sideways, and for each file outside every room."""
    found = []
    for file in sorted(package.rglob("*.py")):
        relative = file.relative_to(package)
        room = relative.parts[0].removesuffix(".py")
        if room in DOORS:
            continue
        if room not in LEVEL:
            found.append(f"{relative} is in no room")
            continue
        for name in imported(ast.parse(file.read_text(encoding="utf-8"))):
            inside = name.startswith(f"{package.name}.")
            target = name.removeprefix(f"{package.name}.").split(".")[0] if inside else ""
            if target in LEVEL and target != room and LEVEL[target] >= LEVEL[room]:
                found.append(f"{relative} imports {name}")
    return found


def test_imports_point_down() -> None:
    assert broken_rules(PACKAGE) == []


def test_every_room_of_the_rule_exists() -> None:
    assert sorted(LEVEL) == sorted(
        {path.name.removesuffix(".py") for path in PACKAGE.iterdir() if path.name != "__pycache__"}
        - DOORS
        - {"py.typed", "recipes"}
    )


def test_the_rule_can_fail(tmp_path: Path) -> None:
    for file, text in {
        "tensors.py": "import torch\nfrom cosphere.errors import SizeError\n",
        "losses/contrastive.py": "from cosphere.tensors import check_labelled\nfrom cosphere.losses.masks import pairs\n",
        "train/loop.py": "from cosphere import evaluate\n",
        "losses/bad.py": "def late():\n    import cosphere.search.exact\n",
        "helpers.py": "",
    }.items():
        path = tmp_path / "cosphere" / file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    assert broken_rules(tmp_path / "cosphere") == [
        "helpers.py is in no room",
        "losses/bad.py imports cosphere.search.exact",
        "train/loop.py imports cosphere.evaluate",
    ]
