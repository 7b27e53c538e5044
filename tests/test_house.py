"""The house stays easy to change: short files, no circles of files, a small loop, and losses/ lists the losses.

Each rule is a function of a package's folder, so that the last tests can show that it fails where it should.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

PACKAGE = Path(__file__).parents[1] / "src" / "cosphere"
LONGEST = 400
"""Lines of a file."""
TABLES = {"stamps/designs.py"}
"""Tables of drawing, which may be longer."""
PRIVATE_LOSS_FILES = 10
METHODS_OF_TRAINING = 12


def long_files(package: Path) -> list[str]:
    """Files of more than :data:`LONGEST` lines, but for the tables."""
    lines = {
        path.relative_to(package).as_posix(): len(path.read_text(encoding="utf-8").splitlines())
        for path in sorted(package.rglob("*.py"))
    }
    return [f"{name} has {count} lines" for name, count in lines.items() if count > LONGEST and name not in TABLES]


def imported_files(path: Path, package: Path) -> Iterator[Path]:
    """The files of the package that a file imports, early or late."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        yield from (file for name in names if (file := file_of(name, package)) is not None)


def file_of(name: str, package: Path) -> Path | None:
    """The file that a dotted name stands for, or the one that its last part is a name in."""
    first, *parts = name.split(".")
    if first != package.name:
        return None
    for length in (len(parts), len(parts) - 1):
        target = package.joinpath(*parts[: max(0, length)])
        for file in (target.with_suffix(".py"), target / "__init__.py"):
            if file.is_file():
                return file
    return None


def circles(package: Path) -> list[str]:
    """Files that import one another, directly or through others; each circle once."""
    imports = {path: set(imported_files(path, package)) - {path} for path in sorted(package.rglob("*.py"))}
    reach = {path: _reached(path, imports) for path in imports}
    rings = {
        frozenset(other for other in reach[path] if path in reach[other]) for path in imports if path in reach[path]
    }
    return sorted(" <-> ".join(sorted(file.relative_to(package).as_posix() for file in ring)) for ring in rings)


def _reached(start: Path, imports: dict[Path, set[Path]]) -> set[Path]:
    """Every file that is loaded when ``start`` is, ``start`` itself only if it is imported back."""
    reached: set[Path] = set()
    waiting = [start]
    while waiting:
        new = imports[waiting.pop()] - reached
        reached |= new
        waiting += new
    return reached


def methods(package: Path, file: str, name: str) -> list[str]:
    """The methods of a class, properties among them."""
    tree = ast.parse((package / file).read_text(encoding="utf-8"))
    (found,) = (node for node in tree.body if isinstance(node, ast.ClassDef) and node.name == name)
    return [node.name for node in found.body if isinstance(node, ast.FunctionDef)]


def private_files(room: Path) -> list[str]:
    """Files of a room, at any depth, that stand for no public name: private ones, and the engine."""
    return sorted(
        path.relative_to(room).as_posix()
        for path in room.rglob("*.py")
        if path.name != "__init__.py" and (path.name.startswith("_") or path.parent.name == "engine")
    )


def test_no_file_is_too_long() -> None:
    assert long_files(PACKAGE) == []


def test_every_exception_is_needed() -> None:
    for name in TABLES:
        assert len((PACKAGE / name).read_text(encoding="utf-8").splitlines()) > LONGEST


def test_no_files_import_one_another() -> None:
    assert circles(PACKAGE) == []


def test_the_loop_stays_small() -> None:
    assert len(methods(PACKAGE, "train/loop.py", "Training")) <= METHODS_OF_TRAINING


def test_the_losses_are_what_the_folder_lists() -> None:
    private = private_files(PACKAGE / "losses")
    assert len([name for name in private if not name.startswith("engine/")]) <= PRIVATE_LOSS_FILES
    assert len([name for name in private if name.startswith("engine/")]) <= PRIVATE_LOSS_FILES


def write(package: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        path = package / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    return package


def test_the_rule_of_length_can_fail(tmp_path: Path) -> None:
    package = write(
        tmp_path / "cosphere",
        {"a.py": "x = 1\n" * 400, "b.py": "x = 1\n" * 401, "stamps/designs.py": "x = 1\n" * 500, "c/d.py": "\n" * 999},
    )
    assert long_files(package) == ["b.py has 401 lines", "c/d.py has 999 lines"]


def test_the_rule_of_circles_can_fail(tmp_path: Path) -> None:
    package = write(
        tmp_path / "cosphere",
        {
            "__init__.py": "",
            "a.py": "from cosphere.b import name\nimport torch\n",
            "b.py": "def late():\n    from cosphere import a\n",
            "c.py": "import cosphere.a\n",
            "room/__init__.py": "from cosphere.room.x import name\n",
            "room/x.py": "from cosphere.room import y\n",
            "room/y.py": "from cosphere.room.z import name\n",
            "room/z.py": "from cosphere.c import name\nfrom cosphere.room.x import other\n",
        },
    )
    # `from cosphere.room import y` loads the file y.py; the package's own __init__ is no file that x reads from.
    assert circles(package) == ["a.py <-> b.py", "room/x.py <-> room/y.py <-> room/z.py"]


def test_a_name_from_the_room_itself_is_a_circle(tmp_path: Path) -> None:
    package = write(
        tmp_path / "cosphere",
        {"room/__init__.py": "from cosphere.room.x import name\n", "room/x.py": "from cosphere.room import name\n"},
    )
    assert circles(package) == ["room/__init__.py <-> room/x.py"]


def test_the_counts_count(tmp_path: Path) -> None:
    package = write(
        tmp_path / "cosphere",
        {
            "train/loop.py": "class Training:\n    a = 1\n    def b(self): ...\n    @property\n    def c(self): ...\ndef d(): ...\n",
            "losses/__init__.py": "",
            "losses/triplet.py": "",
            "losses/_shared.py": "",
            "losses/engine/__init__.py": "",
            "losses/engine/pairs.py": "",
        },
    )
    assert methods(package, "train/loop.py", "Training") == ["b", "c"]
    assert private_files(package / "losses") == ["_shared.py", "engine/pairs.py"]
