"""Locks that a process would lose: by reading the bytes of an open gallery, and by forking."""

from __future__ import annotations

import contextlib
import sqlite3
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from making_gallery import DIM, rows_of

from cosphere.errors import RunError
from cosphere.gallery import Space, Store, check_all, prove_deleted
from cosphere.gallery.sqlite import DRIVER_VARIABLE

START = """
    import os, sys
    import numpy as np
    from cosphere.errors import RunError
    from cosphere.gallery import Store, prove_deleted

    def say(*words):
        print(*words, flush=True)
        sys.stdin.readline()

    def add(store, *ids):
        store.add(ids, np.ones((len(ids), 20), np.float32), np.ones((len(ids), 3), np.uint8))

    store = Store.open(sys.argv[1])
"""


class Program:
    """A program that works in a gallery, says words, and works on when it is told to."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process

    def wait(self, word: str) -> None:
        assert self.process.stdout is not None
        assert self.process.stdout.readline().strip() == word

    def go(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write("\n")
        self.process.stdin.flush()

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()


@pytest.fixture
def start() -> Iterator[Callable[[str, Path], Program]]:
    """Runs code that has ``store``, and ends it after the test."""
    with contextlib.ExitStack() as after:

        def run(code: str, folder: Path) -> Program:
            command = [sys.executable, "-c", textwrap.dedent(START) + textwrap.dedent(code), str(folder)]
            process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
            after.enter_context(process)
            after.callback(process.kill)
            return Program(process)

        yield run


def look_with_another_program(file: Path) -> None:
    """Open, read and close, as a browser of SQLite files does. Whoever closes a file last removes the write-ahead log."""
    other = sqlite3.connect(file, timeout=0)
    other.execute("SELECT count(*) FROM item").fetchone()
    with pytest.raises(sqlite3.OperationalError, match="locked"):  # only the last user of a file may do this
        other.execute("PRAGMA journal_mode = DELETE")
    other.close()


@pytest.fixture
def gallery(tmp_path: Path) -> Path:
    """The folder of a closed gallery of 30 items."""
    with Store.create(tmp_path / "g", Space(dim=DIM, holds="both")) as store:
        store.add([str(place) for place in range(30)], *rows_of(30))
    return tmp_path / "g"


READS = {
    "a deletion": "store.delete(['7'])",
    "a proof beside an open reader": "len(store); assert prove_deleted(sys.argv[1], ['gone.jpg']).holds",
    "a proof while another object iterates": "each = iter(store); next(each); prove_deleted(sys.argv[1], ['gone.jpg'])",
    "a deletion through another object": """
        len(store)
        with Store.open(sys.argv[1]) as other:
            other.delete(['7'])""",
}


@pytest.mark.parametrize("work", list(READS))
def test_what_is_acknowledged_survives_another_program_and_a_kill(
    work: str, gallery: Path, start: Callable[[str, Path], Program]
) -> None:
    code = f"{textwrap.dedent(READS[work])}\nsay('read')\nadd(store, *(f'late {{n}}' for n in range(30)))\nsay('added')"
    program = start(code, gallery)
    program.wait("read")
    look_with_another_program(gallery / "gallery.sqlite")
    program.go()
    program.wait("added")
    with Store.open(gallery) as reader:  # without a kill, others see it at once
        assert "late 29" in reader
    program.kill()
    with Store.open(gallery) as store:
        assert sum(item.id.startswith("late") for item in store) == 30
        check_all(store)


def test_a_forked_process_reads_and_writes_with_locks_of_its_own(
    gallery: Path, start: Callable[[str, Path], Program]
) -> None:
    code = """
        add(store, "parent")
        (end, told), (done, over) = os.pipe(), os.pipe()
        child = os.fork()
        if child == 0:
            assert "parent" in store
            try:
                add(store, "refused")
            except RunError as error:
                assert f"is being written by process {os.getppid()} on" in str(error), error
                os.write(told, b".")
            os.read(done, 1)
            add(store, "child")
            say("child added")
            os.kill(os.getpid(), 9)
        assert os.read(end, 1) == b"."
        add(store, "again")
        store.close()
        os.write(over, b".")
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -9
        print(sorted(set(item.id for item in store) - set(map(str, range(30)))))
    """
    program = start(code, gallery)
    program.wait("child added")
    look_with_another_program(gallery / "gallery.sqlite")
    program.go()
    program.wait("['again', 'child', 'parent']")


def test_a_fork_in_the_middle_of_an_iteration_leaves_the_gallery_to_the_parent(
    gallery: Path, start: Callable[[str, Path], Program]
) -> None:
    code = """
        each = iter(store)
        next(each)
        child = os.fork()
        if child == 0:
            refused = 0
            for work in (lambda: len(store), lambda: Store.open(sys.argv[1]), lambda: list(each)):
                try:
                    work()
                except RunError as error:
                    assert "was in use when this process was forked, so it cannot be used here" in str(error), error
                    refused += 1
            os._exit(refused)
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), len(list(each)))
        add(store, "parent")
        say("added")
    """
    program = start(code, gallery)
    program.wait("3 29")
    program.wait("added")
    look_with_another_program(gallery / "gallery.sqlite")


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="lists the descriptors of this process")
def test_descriptors_are_closed_with_the_last_connection(gallery: Path) -> None:
    def descriptors() -> int:
        return sum(str(one.resolve()).startswith(str(gallery)) for one in Path("/proc/self/fd").iterdir())

    reader = Store.open(gallery)
    assert prove_deleted(gallery, ["gone.jpg"]).holds
    once = descriptors()  # SQLite keeps its own too
    for _ in range(3):
        assert prove_deleted(gallery, ["gone.jpg"]).holds
    assert descriptors() == once
    reader.close()
    assert descriptors() == 0
    assert prove_deleted(gallery, ["gone.jpg"]).holds
    assert descriptors() == 0


def test_two_libraries_do_not_open_one_file(gallery: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each would drop the locks of the other."""
    pytest.importorskip("apsw")
    with Store.open(gallery):
        monkeypatch.setenv(DRIVER_VARIABLE, "apsw")
        with pytest.raises(
            RunError, match=r"is open here through sqlite3, so apsw cannot open it too\. Close it first"
        ):
            Store.open(gallery)
    with Store.open(gallery) as store:
        assert len(store) == 30
