"""Run folders on disk.

runs/<name>/
    run.json          what made this folder, and the version of its layout
    config.yaml       every setting, resolved
    metrics.jsonl     one line for each logged step
    checkpoints/      last and best: everything needed to resume training
    model/            the bundle: everything needed to use the model
    embeddings/       one .npz for each evaluated split
    scores.json       numbers, intervals, data fingerprint, commit, machine
    report.html, figures/   the report, and its figures as SVG and PNG
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cosphere.errors import RunError
from cosphere.files import (
    check_utf8,
    is_there,
    name_of_safe,
    path_of,
    read_json,
    remove_left_parts,
    safe_name,
    write_json,
    write_text,
)
from cosphere.origins import provenance as provenance

try:
    import fcntl
except ImportError:  # Windows has no flock: there, exclusive creation alone keeps two new runs apart
    fcntl = None  # type: ignore[assignment]

LAYOUT_VERSION = 1
"""Incremented when folders written by an older Cosphere can no longer be read."""


@dataclass(frozen=True)
class RunFolder:
    """Paths of one run. Made with :meth:`create`, read with :meth:`open`."""

    path: Path

    @property
    def marker(self) -> Path:
        """What made this folder, and its layout version."""
        return self.path / "run.json"

    @property
    def config(self) -> Path:
        """Every setting, resolved, as YAML."""
        return self.path / "config.yaml"

    @property
    def metrics(self) -> Path:
        """One JSON object per line, one line per logged step."""
        return self.path / "metrics.jsonl"

    @property
    def scores(self) -> Path:
        """The last evaluation."""
        return self.path / "scores.json"

    @property
    def model(self) -> Path:
        """The bundle of the best model."""
        return self.path / "model"

    @property
    def checkpoints(self) -> Path:
        """Checkpoints to resume from."""
        return self.path / "checkpoints"

    @property
    def report(self) -> Path:
        """The report, one page."""
        return self.path / "report.html"

    @property
    def has_begun(self) -> bool:
        """Whether anything was measured or saved yet."""
        return self.metrics.exists() or self.checkpoints.exists() or self.model.exists()

    @property
    def lock(self) -> Path:
        """Locked by the process that trains the run."""
        return self.path / ".lock"

    def embeddings(self, split: str) -> Path:
        """Embeddings of one evaluated split. A split's name may hold anything; the file lies in `embeddings/` all the same."""
        return self.path / "embeddings" / f"{safe_name(split)}.npz"

    def splits(self) -> list[str]:
        """Names of the splits whose embeddings are there, sorted."""
        return sorted(name_of_safe(file.stem) for file in (self.path / "embeddings").glob("*.npz"))

    @classmethod
    def create(cls, path: str | Path) -> RunFolder:
        """Make a new run folder. A folder whose run never took a step, for example because of a wrong setting, is reused.

        Raises:
            RunError: the path is taken by a run or by anything else, or cannot be written.
        """
        folder = cls(path_of(path))
        folder._check_free()
        with folder._locked():
            folder._make()
        return folder

    @classmethod
    @contextlib.contextmanager
    def claim(cls, path: str | Path, *, resume: bool = False) -> Iterator[RunFolder]:
        """A run's folder for training in, which no other process can claim meanwhile. The lock of a killed process is released.

        Where training never took a step, a folder made here is removed again. Of the processes of one launch (torchrun,
        accelerate), the first claims the folder for all.

        Args:
            path: the folder.
            resume: continue the run there; otherwise the folder is made, as by :meth:`create`.

        Raises:
            RunError: another process trains there; or as :meth:`create` and :meth:`open`.
        """
        folder = cls(path_of(path))
        if not is_first_process():
            yield folder
            return
        if resume:
            cls.open(path)
        else:
            folder._check_free()
        existed = folder.path.exists() and any(folder.path.iterdir())
        with folder._locked(resume=resume):
            try:
                if not resume:
                    folder._make()
                folder._remove_parts()
                yield folder
            finally:
                if not existed and not folder.has_begun:
                    shutil.rmtree(folder.path, ignore_errors=True)

    def _check_free(self) -> None:
        """Raise unless a run can be made here."""
        check_utf8(self.path)
        if is_there(self.marker) and self.has_begun:
            raise RunError(
                f"{self.path} already holds a run. Choose another name with --name, or go on with it: "
                f"cosphere train --resume {self.path}."
            )
        ours = {self.lock.name, self.marker.name, self.config.name}
        if self.path.is_file() or (
            self.path.is_dir()
            and not self.marker.exists()
            and any(file.name not in ours and not _is_part(file) for file in self.path.iterdir())
        ):
            raise RunError(f"{self.path} exists and is not a run. Choose another name with --name.")

    def _make(self) -> None:
        """Write the marker, unless a run began here while this process waited for the lock."""
        self._check_free()
        write_json(self.marker, {"layout": LAYOUT_VERSION, **provenance()})

    @contextlib.contextmanager
    def _locked(self, *, resume: bool = False) -> Iterator[None]:
        """Hold the run's lock.

        Raises:
            RunError: another process holds it, or the folder cannot be written.
        """
        try:
            handle = open_lock(self.lock)
        except BlockingIOError:
            advice = "Wait for it to end." if resume else "Wait for it to end, or choose another name with --name."
            raise RunError(f"another process is training in {self.path}. {advice}") from None
        except OSError as error:
            raise RunError(
                f"cannot write {self.path}: {error.strerror or error}. Choose a folder that you may write."
            ) from error
        try:
            yield
        finally:
            os.close(handle)

    @property
    def is_claimed(self) -> bool:
        """Whether a process trains there now."""
        if not self.lock.exists():
            return False
        try:
            os.close(open_lock(self.lock))
        except BlockingIOError:
            return True
        except OSError:
            return False
        return False

    def _remove_parts(self) -> None:
        """Remove what a kill inside a write left. A search or an evaluation may write there at the same time: its files stay."""
        for folder in {file.parent for file in self.path.rglob(".*.part")}:
            remove_left_parts(folder)

    @classmethod
    def open(cls, path: str | Path) -> RunFolder:
        """Open an existing run folder.

        Raises:
            RunError: there is none, or it is of another layout version.
        """
        folder = cls(path_of(path))
        if not is_there(folder.path) or not folder.path.is_dir():
            advice = meant_run(folder.path) or "Train one first: cosphere train DATA --name NAME."
            raise RunError(f"there is no run at {folder.path}. {advice}")
        if not folder.marker.exists() and (meant := meant_run(folder.path)):
            raise RunError(f"{folder.path} is not a run's folder. {meant}")
        marker = read_json(folder.marker, what="a run's folder")
        layout = marker.get("layout") if isinstance(marker, Mapping) else None
        if layout != LAYOUT_VERSION:
            raise RunError(
                f"{folder.path} has layout version {layout!r}; this Cosphere reads version {LAYOUT_VERSION}. "
                f"Use the Cosphere that made it ({marker.get('cosphere', 'unknown') if isinstance(marker, Mapping) else '?'})."
            )
        return folder

    def append_metrics(self, values: Mapping[str, Any]) -> None:
        """Append one line to the metrics. Values must be finite numbers, lists or mappings of those, or None."""
        try:
            with self.metrics.open("a", encoding="utf-8") as file:
                file.write(json.dumps(dict(values), allow_nan=False) + "\n")
        except OSError as error:
            raise RunError(f"cannot write {self.metrics}: {error.strerror}. Free some space.") from error

    def read_metrics(self) -> list[dict[str, Any]]:
        """All logged lines in order. A line that a crash cut off is skipped; a missing file gives an empty list."""
        if not self.metrics.exists():
            return []
        rows = []
        for line in self.metrics.read_bytes().splitlines():
            with contextlib.suppress(ValueError):
                row = json.loads(line)
                if isinstance(row, dict):
                    rows.append(row)
        return rows

    def cut_metrics_after(self, step: int) -> None:
        """Drop the lines after ``step``, which a resumed run writes again."""
        rows = [row for row in self.read_metrics() if isinstance(row.get("step"), int) and row["step"] <= step]
        write_text(self.metrics, "".join(json.dumps(row) + "\n" for row in rows))


def meant_run(path: Path) -> str | None:
    """What to say of a path that is no run: the run that it lies in, the one of that name in ``runs``, or some that it holds."""
    for near in (*path.parents, Path("runs") / path):
        if near.name and is_there(RunFolder(near).marker):
            return f"Did you mean {near}?"
    inside = sorted(marker.parent for marker in path.glob("*/run.json")) if path.is_dir() else []
    if not inside:
        return None
    return f"It holds {', '.join(map(str, inside[:3]))}{', ...' if len(inside) > 3 else ''}. Name one of these."


def open_lock(file: Path) -> int:
    """Lock a file for this process, and make it and its folder if missing. A lock ends when the handle is closed or its process dies.

    Returns:
        the handle.

    Raises:
        BlockingIOError: another process holds the lock.
        OSError: the file cannot be written.
    """
    while True:
        file.parent.mkdir(parents=True, exist_ok=True)
        handle = os.open(file, os.O_RDWR | os.O_CREAT | getattr(os, "O_CLOEXEC", 0), 0o666)
        try:
            if fcntl is not None:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # A process that removed its folder took the file away while this one waited for it: look again.
            if file.exists() and os.path.samestat(os.fstat(handle), file.stat()):
                return handle
        except BaseException:
            os.close(handle)
            raise
        os.close(handle)


def unused_folder(path: Path) -> Path:
    """``path``, or the first of ``path-2``, ``path-3``, ... that does not exist; the empty folder is made, so nobody else gets it.

    Raises:
        RunError: no folder can be made there.
    """
    check_utf8(path)
    if not is_first_process():
        return path
    for number in range(1, 10_000):
        chosen = path if number == 1 else path.with_name(f"{path.name}-{number}")
        try:
            chosen.parent.mkdir(parents=True, exist_ok=True)
            chosen.mkdir()
        except FileExistsError:
            if chosen.parent.is_dir():
                continue
            raise RunError(
                f"cannot write {chosen}: {chosen.parent} is a file. Choose another folder with --runs."
            ) from None
        except OSError as error:
            raise RunError(f"cannot write {chosen}: {error.strerror}. Choose a folder that you may write.") from error
        return chosen
    raise RunError(f"{path} and 9998 more of its name exist. Choose another name with --name.")


def is_first_process() -> bool:
    """Whether this process is alone, or the first of a launch by torchrun, accelerate or MPI."""
    ranks = (os.environ.get(name, "") for name in ("RANK", "PMI_RANK", "OMPI_COMM_WORLD_RANK", "MV2_COMM_WORLD_RANK"))
    rank = next((rank for rank in ranks if rank.isdecimal()), "0")
    return int(rank) == 0


def _is_part(file: Path) -> bool:
    return file.name.startswith(".") and file.suffix == ".part"
