"""The examples run as their docstrings say."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

from cosphere.cli import main

EXAMPLES = Path(__file__).parents[1] / "examples"


def run(name: str, *words: str, folder: Path) -> str:
    command = [sys.executable, str(EXAMPLES / name), *words]
    return subprocess.run(command, check=True, capture_output=True, text=True, cwd=folder).stdout


def test_own_training_loop(tmp_path: Path) -> None:
    shown = run("own_training_loop.py", folder=tmp_path)
    without, with_sec = (float(cv) for cv in re.findall(r"variation ([\d.]+)", shown))
    assert with_sec < 0.8 * without


def test_search_in_python(photos: Path, tmp_path: Path) -> None:
    words = ["--model.backbone", "test_resnet", "--model.weights", "none", "--model.dim", "8", "--images.size", "32"]
    words += ["--batch.size", "8", "--batch.images_per_class", "2", "--steps", "2", "--device", "cpu"]
    assert main(["train", str(photos), "--name", "run", "--runs", str(tmp_path), *words]) == 0
    query = photos / "test" / "class10" / "0.png"
    shown = run("search_in_python.py", str(tmp_path / "run"), str(photos), str(query), folder=tmp_path).splitlines()
    assert len(shown) == 5
    assert shown[0] == f"1.000  {query}"
