"""The examples run as their docstrings say."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from cosphere.cli import main

EXAMPLES = Path(__file__).parents[1] / "examples"

RUN = """
import json, runpy, sys

for name, *words in json.loads(sys.argv[1]):
    sys.argv = [name, *words]
    runpy.run_path(name, run_name="__main__")
    print("END", flush=True)
"""
"""Runs examples one after another in one fresh interpreter: importing torch and the rest takes longer than the examples do."""


@pytest.fixture(scope="module")
def query(photos: Path) -> Path:
    return photos / "test" / "class10" / "0.png"


@pytest.fixture(scope="module")
def shown(photos: Path, query: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """What each example prints."""
    folder = tmp_path_factory.mktemp("examples")
    words = ["--model.backbone", "test_resnet", "--model.weights", "none", "--model.dim", "8", "--images.size", "32"]
    words += ["--batch.size", "8", "--batch.images_per_class", "2", "--steps", "2", "--device", "cpu"]
    assert main(["train", str(photos), "--name", "run", "--runs", str(folder), *words]) == 0
    calls = {"search_in_python.py": (folder / "run", photos, query), "own_training_loop.py": ()}
    argument = json.dumps([[str(EXAMPLES / name), *map(str, words)] for name, words in calls.items()])
    command = [sys.executable, "-c", RUN, argument]
    output = subprocess.run(command, check=True, capture_output=True, text=True, cwd=folder).stdout
    return dict(zip(calls, output.split("END\n"), strict=False))


@pytest.mark.slow
def test_every_example_is_run(shown: dict[str, str]) -> None:
    assert set(shown) == {file.name for file in EXAMPLES.glob("*.py")}


@pytest.mark.slow
def test_own_training_loop(shown: dict[str, str]) -> None:
    without, with_sec = (float(cv) for cv in re.findall(r"variation ([\d.]+)", shown["own_training_loop.py"]))
    assert with_sec < 0.8 * without


@pytest.mark.slow
def test_search_in_python(shown: dict[str, str], query: Path) -> None:
    lines = shown["search_in_python.py"].splitlines()
    assert len(lines) == 5
    assert lines[0] == f"1.000  {query}"
