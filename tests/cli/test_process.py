"""How the process of a command begins and ends: garbage collection, exit status, what is flushed."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest


def process(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code], check=False, capture_output=True, text=True)


@pytest.mark.slow
def test_the_package_leaves_garbage_collection_to_the_program() -> None:
    code = "import gc, cosphere, cosphere.cli; cosphere.Embedder; print(gc.isenabled(), gc.get_freeze_count())"
    assert process(code).stdout == "True 0\n"


@pytest.mark.slow
def test_collection_stays_off_where_the_caller_turned_it_off(tmp_path: Path) -> None:
    words = ["embed", str(tmp_path / "none"), str(tmp_path / "none")]
    code = f"import gc; from cosphere.cli import main; gc.disable(); print(main({words!r}), gc.isenabled(), gc.get_freeze_count())"
    assert process(code).stdout == "2 False 0\n"


ENDING = """
import atexit, sys, threading, time, types
from cosphere import cli
sys.modules["torch"] = types.ModuleType("torch")  # as if a command had loaded it
atexit.register(lambda: print("registered"))
print("x" * 100_000)
"""


@pytest.mark.parametrize("status", [0, 2])
def test_the_end_flushes_the_output_and_runs_what_was_registered(status: int) -> None:
    done = process(f"{ENDING}\nprint('problem', file=sys.stderr)\ncli._end({status})")
    assert (done.returncode, done.stdout, done.stderr) == (status, "x" * 100_000 + "\nregistered\n", "problem\n")


@pytest.mark.parametrize("encoding", ["latin-1", "ascii", "cp1252"])
def test_letters_that_the_terminal_lacks_are_written_as_escapes(encoding: str) -> None:
    code = """
from cosphere import cli
from cosphere.cli import console
cli.main = lambda: console.line("caf\\u00e9 \\U0001f600.jpg") or 0
cli.command()
"""
    done = subprocess.run(
        [sys.executable, "-c", code], check=True, capture_output=True, env={**os.environ, "PYTHONIOENCODING": encoding}
    )
    said = "café" if encoding != "ascii" else "caf\\xe9"
    assert done.stdout.decode(encoding) == f"{said} \\U0001f600.jpg\n"


def test_the_end_waits_for_threads() -> None:
    late = "threading.Thread(target=lambda: (time.sleep(0.2), print('late'))).start()"
    done = process(f"{ENDING}\n{late}\ncli._end(2)")
    assert (done.returncode, done.stdout[100_001:]) == (2, "late\nregistered\n")


@pytest.mark.slow
def test_a_search_in_a_process_of_its_own_embeds_what_is_new(photos: Path, tmp_path: Path) -> None:
    """As a person runs it: in a process without torch's kernels for its compiler, over images that were never embedded."""
    from cosphere.models import EmbedderSettings, build_embedder  # the other tests here need no torch

    build_embedder(EmbedderSettings(backbone="test_resnet", weights="none", dim=8), image_size=32).save(
        tmp_path / "model"
    )
    query = photos / "test" / "class10" / "0.png"
    words = ["search", tmp_path / "model", photos / "test", query, "--out", tmp_path / "out.png", "--workers", 1]
    done = subprocess.run(
        [sys.executable, "-m", "cosphere", *map(str, words)], check=False, capture_output=True, text=True
    )
    assert (done.returncode, "Traceback" in done.stderr) == (0, False), done.stderr
    assert "0.png is one of the images, so it is left out" in done.stdout


def test_the_command_ends_with_the_status_of_main(tmp_path: Path) -> None:
    words = ["cosphere", "embed", str(tmp_path / "none"), str(tmp_path / "none")]
    done = process(f"import sys; from cosphere import cli; sys.argv = {words!r}; cli.command()")
    assert done.returncode == 2
    assert done.stderr.startswith("cosphere: ")
    assert process("import sys; from cosphere import cli; sys.argv[1:] = ['--version']; cli.command()").returncode == 0
