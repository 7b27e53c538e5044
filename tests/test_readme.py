"""What README and docs tell a user to run exists, and the Python in them runs."""

from __future__ import annotations

import re
import runpy
from pathlib import Path

import pytest

from cosphere.cli import COMMANDS, verbs

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands_exist(page: Path) -> None:
    used = re.findall(r"(?:^|`)cosphere ([a-z]+)(?: ([a-z-]+))?", page.read_text(encoding="utf-8"), re.MULTILINE)
    assert {f"{name} {word}" if verbs(name) else name for name, word in used} <= set(COMMANDS)


def test_every_command_is_documented() -> None:
    text = "\n".join(page.read_text(encoding="utf-8") for page in PAGES)
    for name in COMMANDS:
        assert f"cosphere {name}" in text, name


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)\)", page.read_text(encoding="utf-8")):
        if not target.startswith("http"):
            assert (page.parent / target).exists(), target


def test_the_python_of_the_readme_runs() -> None:
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(encoding="utf-8"), re.DOTALL)
    assert blocks
    for block in blocks:
        place: dict[str, object] = {}
        exec(compile(block, "README.md", "exec"), place)
        assert place["embeddings"].grad.isfinite().all()  # type: ignore[attr-defined]


def test_make_targets_of_the_readme_exist() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for target in re.findall(r"^make (\S+)", (ROOT / "README.md").read_text(encoding="utf-8"), re.MULTILINE):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target


def test_results_that_are_quoted_have_their_json() -> None:
    for page in PAGES:
        for name in re.findall(r"benchmarks/results/[\w.-]+\.json", page.read_text(encoding="utf-8")):
            assert (ROOT / name).exists(), name


def test_the_tables_of_studies_say_what_their_json_says() -> None:
    script = runpy.run_path(str(ROOT / "benchmarks" / "evidence.py"))
    for page in script["PAGES"]:
        text = page.read_text(encoding="utf-8")
        assert script["page"](text) == text, "run `python benchmarks/evidence.py write`"
        for name in re.findall(r"benchmarks/results/studies/[\w.-]+\.json", text):
            assert (ROOT / name).exists(), name
