"""Doing the runs of a study: in this process, or in several that stay until the study ends."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import signal
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import torch

from cosphere.errors import CosphereError, MissingExtraError, RunError
from cosphere.studies.jobs import Context, Finished, Job, perform

Take = Callable[[], Job | None]
"""The next run to do, or None if there is none now."""
Done = Callable[[Finished], None]
"""Called with each finished run."""


def share_of_threads(jobs: int) -> int:
    """Threads of torch in each of ``jobs`` runs at once, of those that this process has."""
    return max(1, torch.get_num_threads() // jobs)


@contextmanager
def shared_threads(jobs: int) -> Iterator[None]:
    """Take the threads of one of ``jobs`` runs inside the block, and all of them afterwards: sums are rounded by their number."""
    before = torch.get_num_threads()
    torch.set_num_threads(share_of_threads(jobs))
    try:
        yield
    finally:
        torch.set_num_threads(before)


class Workers:
    """Does runs in this process or, with more than one at once, in processes that stay until the study ends.

    A context manager; the processes start with the first run.

    Args:
        context: what all runs share.
        jobs: runs at once; with more than one, each in a process of its own, on one GPU of those that there are. Every run has this
            share of the threads, however few are left, so that a study that goes on rounds as one that was never stopped.
        runs: that are left; no more processes are started.
    """

    def __init__(self, context: Context, jobs: int, runs: int) -> None:
        self.context, self.jobs = context, jobs
        self.processes = max(1, min(jobs, runs))
        self._pool: ProcessPoolExecutor | None = None
        self._files = ExitStack()
        self._started: Any = None
        """How many processes have begun, shared with them."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._files:
            self._shut_down(error)

    def _shut_down(self, error: BaseException | None) -> None:
        if self._pool is None:
            return
        if error is not None and not isinstance(error, BrokenProcessPool):
            for child in multiprocessing.active_children():
                child.terminate()
        self._pool.shutdown(cancel_futures=True)

    def execute(self, take: Take, done: Done) -> None:
        """Do runs until none is left.

        Args:
            take: called whenever a run may start.
            done: called in this process with each finished run.

        Raises:
            CosphereError: a run cannot be done; the error names it.
            RunError: a process was ended from outside, for example for lack of memory.
        """
        if self.processes == 1:
            with shared_threads(self.jobs):
                while (job := take()) is not None:
                    done(_named(job, self.context))
            return
        try:
            self._spread(take, done)
        except BrokenProcessPool as error:
            raise RunError(self._why_broken()) from error

    def _why_broken(self) -> str:
        """What ended a process: a worker that never came to its first line failed while it imported the caller's script."""
        if self._started is not None and not self._started.value:
            return (
                "no process of the study could start. Each imports the script that runs the study: put the call under "
                '`if __name__ == "__main__":`, in a file, or take jobs=1.'
            )
        return "a process of the study was ended, perhaps for lack of memory. Start the same command again to go on, with fewer --jobs."

    def _spread(self, take: Take, done: Done) -> None:
        """Keep as many runs going as there are processes."""
        running: set[Future[Finished]] = set()
        while True:
            while len(running) < self.processes and (job := take()) is not None:
                running.add(self._begun().submit(_work, job))
            if not running:
                return
            ended, running = wait(running, return_when=FIRST_COMPLETED)
            for one in ended:
                done(one.result())

    def _begun(self) -> ProcessPoolExecutor:
        """The processes; started when first asked for."""
        if self._pool is None:
            processes = multiprocessing.get_context(
                "spawn"
            )  # A fork would copy torch's threads in the middle of their work.
            self._started = processes.Value("i", 0)
            self._pool = ProcessPoolExecutor(
                self.processes,
                mp_context=processes,
                initializer=_begin,
                initargs=(self._written(), share_of_threads(self.jobs), self._started, os.getpid()),
            )
        return self._pool

    def _written(self) -> Path:
        """A file with the context, which lasts as long as the processes.

        Python hands arguments to a new process through a pipe of 64 KB, and waits to write the rest even if that process has ended, as
        one does that cannot import the caller's script: the study would hang.
        """
        file = Path(self._files.enter_context(tempfile.TemporaryDirectory(prefix="cosphere-study-"))) / "context"
        file.write_bytes(pickle.dumps(self.context))
        return file


_SHARED: list[Context] = []
"""In a worker: what :func:`_begin` was given."""


def _begin(context: Path, threads: int, started: Any, parent: int) -> None:
    """Set up a worker: its threads, its GPU, and an end with the process that leads the study."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # The leading process ends the workers.
    threading.Thread(target=_end_with, args=(parent,), daemon=True).start()
    with started.get_lock():
        place = started.value
        started.value += 1
    devices = [one for one in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if one]
    count = len(devices) or torch.cuda.device_count()
    if count:
        torch.cuda.set_device(place % count)
    torch.set_num_threads(threads)
    _SHARED[:] = [pickle.loads(context.read_bytes())]


def _end_with(parent: int) -> None:
    """End this process as soon as its parent is gone: a run that nobody waits for would hold its folder."""
    while os.getppid() == parent:
        time.sleep(0.2)
    os._exit(1)


def _work(job: Job) -> Finished:
    return _named(job, _SHARED[0])


def _named(job: Job, context: Context) -> Finished:
    """Do one run; an error names it."""
    try:
        return perform(job, context)
    except CosphereError as error:
        # An error that is not made from its message alone could not be sent back from a worker.
        kind = CosphereError if isinstance(error, MissingExtraError) else type(error)
        raise kind(f"arm {job.arm}, {job.name}: {error}") from error
