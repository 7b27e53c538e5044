"""How many files one has to read to be sure what a loss computes: its own, and all of losses/ that it imports, however far."""

import ast
import inspect
import statistics
from pathlib import Path

import pytest

from cosphere import losses

ROOM = Path(losses.__file__).parent
MODULES = {
    about.name: Path(inspect.getsourcefile(getattr(losses, about.title))).relative_to(ROOM) for about in losses.table()
}


def imported(file):
    """Files of losses/ that a file imports from."""
    names = set()
    for node in ast.walk(ast.parse((ROOM / file).read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("cosphere.losses."):
            names.add(node.module.removeprefix("cosphere.losses.").replace(".", "/"))
    assert all((ROOM / f"{name}.py").is_file() for name in names), "name the file, not the folder"
    return {Path(f"{name}.py") for name in names}


def to_read(file):
    seen, waiting = set(), [file]
    while waiting:
        file = waiting.pop()
        if file not in seen:
            seen.add(file)
            waiting += imported(file)
    return seen


@pytest.mark.slow
def test_the_median_loss_takes_five_files():
    counts = {name: len(to_read(file)) for name, file in MODULES.items()}
    assert statistics.median(counts.values()) <= 5, counts
    assert max(counts.values()) <= 9, counts


def test_the_two_engines_do_not_know_each_other():
    pairs = to_read(Path("engine/rows.py")) | to_read(Path("engine/triplets.py"))
    classes = to_read(Path("engine/softmax.py")) | to_read(Path("engine/columns.py"))
    assert pairs & classes == {Path("engine/maths.py")}


def test_the_folder_is_the_list_of_losses():
    others = {"__init__", "memory", "miners", "timing", "batch_cosines", "class_tree", "distance_weighted"}  # no losses
    public = {path.stem for path in ROOM.glob("*.py") if path.stem == "__init__" or path.stem[0] != "_"}
    assert public - others == {file.stem for file in MODULES.values()}
    assert len(list(ROOM.glob("_[a-z]*.py"))) <= 3
    assert len(list((ROOM / "engine").glob("[a-z]*.py"))) <= 10


@pytest.mark.parametrize("file", sorted(ROOM.rglob("*.py")), ids=lambda file: file.name)
def test_no_file_is_too_long_to_read(file):
    assert len(file.read_text(encoding="utf-8").splitlines()) <= 400
