"""The folder of a study: one record for each finished run, written whole, so that a study can be killed at any moment.

runs/<name>/
    study.json        what made this folder, the data and the rules that its records follow
    search.journal    candidates of each arm, in Optuna's journal format
    choices.json      the chosen candidate of each arm; from then on the test images may be read
    arms/<arm>/<run>/ the runs, each with its record.json and, after a final run, queries.npz
    table.parquet     one row for each run; the same in table.json
    results.json      comparisons and verdicts
    report.html
"""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from cosphere._types import Floats
from cosphere.errors import RunError
from cosphere.files import read_arrays, read_json, write_arrays, write_json
from cosphere.runs import RunFolder, open_lock, provenance

LAYOUT_VERSION = 1
"""Incremented when folders written by an older Cosphere can no longer be read."""
KEPT = ("embeddings", "model")
"""What a call may keep of a final run, and a later call leaves as it is."""
_OUTGROWN = ("checkpoints", "model", "embeddings", "embeddings/cache", ".lock")


@dataclass(frozen=True)
class StudyFolder:
    """Paths and files of one study."""

    path: Path

    @property
    def marker(self) -> Path:
        """What made this folder."""
        return self.path / "study.json"

    @property
    def choices(self) -> Path:
        """The chosen candidate of each arm."""
        return self.path / "choices.json"

    @property
    def journal(self) -> Path:
        """The state of the search."""
        return self.path / "search.journal"

    @property
    def features(self) -> Path:
        """Cached features of this study alone, if it was given any; else they lie in `.features` beside it, for all studies."""
        return self.path / "features"

    @property
    def results(self) -> Path:
        """Comparisons and verdicts."""
        return self.path / "results.json"

    @property
    def table(self) -> Path:
        """One row for each run, Parquet."""
        return self.path / "table.parquet"

    @property
    def report(self) -> Path:
        """The report, one page."""
        return self.path / "report.html"

    def run(self, arm: str, name: str) -> Path:
        """The folder of one run."""
        return self.path / "arms" / arm / name

    @contextlib.contextmanager
    def claim(self, rules: Mapping[str, Any]) -> Iterator[list[str]]:
        """Hold the study for this process, and make its folder if it is not there. The lock of a killed process is released.

        Args:
            rules: what the records of this folder depend on, by name, as plain values: arms, candidates, data.

        Yields:
            names of the rules that the folder does not know, since an earlier version made it.

        Raises:
            RunError: another process works on it, it holds something else or other rules, or it cannot be written.
        """
        if self.path.is_file() or (self.path.is_dir() and not self.marker.exists() and self._is_foreign()):
            raise RunError(f"{self.path} exists and is not a study. Choose another name with --name.")
        try:
            handle = open_lock(self.path / ".lock")
        except BlockingIOError:
            raise RunError(
                f"another process works on the study in {self.path}. Wait for it to end, or choose another name with --name."
            ) from None
        except OSError as error:
            raise RunError(
                f"cannot write {self.path}: {error.strerror or error}. Choose a folder that you may write."
            ) from error
        try:
            unknown = self._check(rules)
            for part in self.path.rglob(".*.part"):  # What a kill inside a write left.
                part.unlink(missing_ok=True)
            yield unknown
        finally:
            os.close(handle)

    def _is_foreign(self) -> bool:
        return any(file.name != ".lock" and not file.name.endswith(".part") for file in self.path.iterdir())

    def _check(self, rules: Mapping[str, Any]) -> list[str]:
        """Write the marker, or raise unless the one that is there has the same rules; return the names that it does not know."""
        if not self.marker.exists():
            write_json(self.marker, {"layout": LAYOUT_VERSION, **provenance(), "rules": dict(rules)})
            return []
        content = read_json(self.marker, what="a study's folder")
        if content.get("layout") != LAYOUT_VERSION:
            raise RunError(
                f"{self.path} has layout version {content.get('layout')!r}; this Cosphere reads version {LAYOUT_VERSION}. "
                "Choose another name with --name."
            )
        known = content["rules"]
        for name, value in rules.items():
            if name in known and known[name] != value:
                raise RunError(
                    f"{self.path} holds a study with other {name}; its runs cannot be compared with new ones. "
                    "Choose another name with --name."
                )
        return [name for name in rules if name not in known]

    def records(self) -> list[dict[str, Any]]:
        """The records of all finished runs, in the order of their folders.

        Raises:
            RunError: one cannot be read.
        """
        files = sorted((self.path / "arms").glob("*/*/record.json"))
        return [read_json(file, what="a record of a study") for file in files]

    def save(self, record: Mapping[str, Any], queries: Mapping[str, npt.NDArray[Any]] | None) -> None:
        """Keep the record of a finished run, and of a final run the values of each query.

        The record comes last: where it is, everything is.

        Raises:
            RunError: a file cannot be written.
        """
        run = self.run(record["arm"], record["run"])
        if queries is not None:
            write_arrays(run / "queries.npz", queries)
        write_json(run / "record.json", record)

    def queries(self, record: Mapping[str, Any]) -> dict[str, npt.NDArray[Any]]:
        """What :meth:`save` kept of each query: ``classes`` (Q,) and each score (Q,).

        Raises:
            RunError: they cannot be read.
        """
        return read_arrays(self.run(record["arm"], record["run"]) / "queries.npz", what="the queries of a final run")

    def lengths(self, record: Mapping[str, Any]) -> Floats | None:
        """The length of each test embedding of a final run, (N,); None where its embeddings are not kept.

        Raises:
            RunError: they cannot be read.
        """
        path = RunFolder(self.run(record["arm"], record["run"])).embeddings(record["split"])
        if not path.exists():
            return None
        rows = read_arrays(path, what="the embeddings of a final run")["embeddings"]
        lengths: Floats = np.linalg.norm(rows.astype(np.float64), axis=1)
        return lengths

    def log(self, record: Mapping[str, Any]) -> list[dict[str, Any]]:
        """What a recorded run logged while it trained."""
        return RunFolder(self.run(record["arm"], record["run"])).read_metrics()

    def prune(self, record: Mapping[str, Any], *, keep: tuple[str, ...] = ()) -> None:
        """Remove what a recorded run no longer needs: a checkpoint is as large as three models, and a study has many runs."""
        run = self.run(record["arm"], record["run"])
        for name in _OUTGROWN:
            if name not in keep:
                target = run / name
                if target.is_dir():
                    shutil.rmtree(target, ignore_errors=True)
                else:
                    target.unlink(missing_ok=True)

    def discard(self, arm: str, name: str) -> None:
        """Remove a run that cannot be resumed; it has no record."""
        shutil.rmtree(self.run(arm, name), ignore_errors=True)


def text_column(values: Any) -> npt.NDArray[np.str_]:
    """Names as an array that can be saved without pickling."""
    return np.asarray(values, dtype=np.str_)
