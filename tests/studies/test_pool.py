"""Threads of the runs of a study: the share that was asked for, however few runs are left. Nothing is trained here."""

from __future__ import annotations

import pickle
import re
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures.process import BrokenProcessPool
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from cosphere.errors import RunError, SizeError
from cosphere.studies import pool
from cosphere.studies.jobs import Finished
from cosphere.studies.pool import Workers


@pytest.fixture(autouse=True)
def four_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(4)
    yield
    torch.set_num_threads(before)


class NoProcesses:
    """Takes what a pool of processes is made with."""

    made: list[Any]

    def __init__(self, processes: int, *, initargs: tuple[Any, ...], **_: Any) -> None:
        self.made = [processes, initargs[1]]

    def shutdown(self, **_: Any) -> None:
        pass


@pytest.mark.parametrize(
    ("jobs", "runs", "processes", "threads"), [(2, 9, 2, 2), (4, 2, 2, 1), (3, 2, 2, 1), (9, 2, 2, 1)]
)
def test_processes_are_no_more_than_runs_and_their_threads_those_of_all_jobs(
    jobs: int, runs: int, processes: int, threads: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pool, "ProcessPoolExecutor", NoProcesses)
    context: Any = None
    with Workers(context, jobs, runs) as workers:
        begun: Any = workers._begun()
        assert begun.made == [processes, threads]


def test_a_new_process_is_given_little_and_reads_the_rest_from_a_file_that_does_not_stay(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    arguments = list[Any]()

    class Kept(NoProcesses):
        def __init__(self, processes: int, *, initargs: tuple[Any, ...], **_: Any) -> None:
            arguments.extend(initargs)

    monkeypatch.setattr(pool, "ProcessPoolExecutor", Kept)
    monkeypatch.setattr(pool, "_SHARED", [])
    monkeypatch.setattr(pool.signal, "signal", lambda *_: None)
    context: Any = "image " * 100_000
    with Workers(context, 2, 2) as workers:
        workers._begun()
        assert len(pickle.dumps((arguments[0], arguments[1], arguments[3]))) < 4096
        pool._begin(*arguments[:3], pool.os.getppid())
        assert [context] == pool._SHARED
    assert not arguments[0].exists()


SCRIPT = """
from types import SimpleNamespace
from cosphere.errors import RunError
from cosphere.studies.pool import Workers
jobs = iter([SimpleNamespace(arm="a", name="b")] * 2 + [None])
try:
    with Workers("image " * 100_000, 2, 2) as workers:
        workers.execute(lambda: next(jobs), print)
except RunError as error:
    print(error)
"""


@pytest.mark.slow
def test_a_script_that_no_worker_can_import_does_not_hang() -> None:
    made = subprocess.run([sys.executable, "-"], input=SCRIPT, capture_output=True, text=True, timeout=120, check=False)
    assert "no process of the study could start" in made.stdout


@pytest.mark.parametrize(("jobs", "runs", "threads"), [(1, 5, 4), (2, 1, 2), (4, 1, 1), (2, 0, 2)])
def test_the_last_run_has_the_threads_of_the_others_and_this_process_its_own_again(
    jobs: int, runs: int, threads: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen, context = list[int](), Any

    def perform(*_: Any) -> Finished:
        seen.append(torch.get_num_threads())
        return Finished({}, 1.0)

    monkeypatch.setattr(pool, "perform", perform)
    left: Any = iter([SimpleNamespace(arm="a", name="b"), None])
    with Workers(context, jobs, runs) as workers:  # type: ignore[arg-type]
        workers.execute(lambda: next(left), lambda _: None)
    assert (seen, torch.get_num_threads()) == ([threads], 4)


def test_a_run_that_fails_gives_the_threads_back(monkeypatch: pytest.MonkeyPatch) -> None:
    def perform(*_: Any) -> Finished:
        raise SizeError("too small.")

    monkeypatch.setattr(pool, "perform", perform)
    job: Any = SimpleNamespace(arm="a", name="b")
    with pytest.raises(SizeError, match="arm a, b: too small"), Workers(job, 2, 1) as workers:
        workers.execute(lambda: job, lambda _: None)
    assert torch.get_num_threads() == 4


@pytest.mark.parametrize(
    ("began", "words"),
    [(0, 'put the call under `if __name__ == "__main__":`'), (1, "perhaps for lack of memory"), (2, "lack of memory")],
)
def test_a_script_that_no_worker_can_import_is_told_from_a_lack_of_memory(
    began: int, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Broken(NoProcesses):
        def __init__(self, processes: int, *, initargs: tuple[Any, ...], **_: Any) -> None:
            initargs[2].value = began  # as the initializer of each process that begins does

        def submit(self, *_: Any) -> None:
            raise BrokenProcessPool

    monkeypatch.setattr(pool, "ProcessPoolExecutor", Broken)
    context, job = Any, SimpleNamespace(arm="a", name="b")
    with Workers(context, 2, 2) as workers, pytest.raises(RunError, match=re.escape(words)):  # type: ignore[arg-type]
        workers.execute(lambda: job, lambda _: None)  # type: ignore[arg-type, return-value]
