"""Run folders on disk, and the provenance of numbers.

runs/<name>/
    run.json          what made this folder, and the version of its layout
    config.yaml       every setting, resolved
    metrics.jsonl     one line for each logged step
    checkpoints/      last and best: everything needed to resume training
    model/            the bundle: everything needed to use the model
    embeddings/       one .npz for each evaluated split
    scores.json       numbers, intervals, data fingerprint, commit, machine
    report.html
"""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from cosphere._version import __version__
from cosphere.errors import RunError
from cosphere.files import read_json, write_json, write_text

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

    def embeddings(self, split: str) -> Path:
        """Embeddings of one evaluated split."""
        return self.path / "embeddings" / f"{split}.npz"

    @classmethod
    def create(cls, path: str | Path) -> RunFolder:
        """Make a new run folder. A folder whose run never took a step, for example because of a wrong setting, is reused.

        Raises:
            RunError: the path is taken by a run or by anything else, or cannot be written.
        """
        folder = cls(Path(path))
        if folder.marker.exists() and folder.has_begun:
            raise RunError(
                f"{folder.path} already holds a run. Choose another name with --name, or go on with it: "
                f"cosphere train --resume {folder.path}."
            )
        if folder.path.is_file() or (
            folder.path.is_dir() and not folder.marker.exists() and any(folder.path.iterdir())
        ):
            raise RunError(f"{folder.path} exists and is not a run. Choose another name with --name.")
        write_json(folder.marker, {"layout": LAYOUT_VERSION, **provenance()})
        return folder

    @classmethod
    def open(cls, path: str | Path) -> RunFolder:
        """Open an existing run folder.

        Raises:
            RunError: there is none, or it is of another layout version.
        """
        folder = cls(Path(path))
        if not folder.path.is_dir():
            raise RunError(f"there is no run at {folder.path}. Train one first: cosphere train DATA --name NAME.")
        marker = read_json(folder.marker, what="a run's folder")
        found = marker.get("layout") if isinstance(marker, Mapping) else None
        if found != LAYOUT_VERSION:
            raise RunError(
                f"{folder.path} has layout version {found!r}; this Cosphere reads version {LAYOUT_VERSION}. "
                f"Use the Cosphere that made it ({marker.get('cosphere', 'unknown') if isinstance(marker, Mapping) else '?'})."
            )
        return folder

    def append_metrics(self, values: Mapping[str, Any]) -> None:
        """Append one line to the metrics. Values must be finite numbers or None."""
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
        for line in self.metrics.read_text(encoding="utf-8").splitlines():
            try:
                rows.append(json.loads(line))
            except ValueError:
                continue
        return rows

    def cut_metrics_after(self, step: int) -> None:
        """Drop the lines after ``step``, which a resumed run writes again."""
        rows = [row for row in self.read_metrics() if row.get("step", 0) <= step]
        write_text(self.metrics, "".join(json.dumps(row) + "\n" for row in rows))


def provenance() -> dict[str, Any]:
    """Versions, commit, command and machine: enough to trust a number later.

    Returns:
        Cosphere, Python, torch and timm versions, commit of the working folder's repository or None, command line,
        machine (processor, cores, threads, memory in bytes, accelerator) and UTC time.
    """
    import torch

    return {
        "cosphere": __version__,
        "python": platform.python_version(),
        "torch": str(torch.__version__),
        "commit": _commit(),
        "command": " ".join([Path(sys.argv[0]).name, *(_without_folders(word) for word in sys.argv[1:])]),
        "machine": {
            "processor": _processor(),
            "cores": os.cpu_count(),
            "threads": torch.get_num_threads(),
            "memory_bytes": _memory_bytes(),
            "accelerator": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
            "system": f"{platform.system()} {platform.machine()}",
        },
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def _without_folders(word: str) -> str:
    """The last part of an absolute path: folders of one machine are private and of no use elsewhere."""
    option, equals, value = word.rpartition("=")
    return f"{option}{equals}{Path(value).name}" if value.startswith("/") else word


def _commit() -> str | None:
    """Commit of the source checkout that Cosphere runs from, with "+" if files were changed; None if it is installed."""
    here = Path(__file__).resolve().parent
    try:
        top = subprocess.run(
            ["git", "-C", here, "rev-parse", "HEAD"], capture_output=True, text=True, check=True, timeout=10
        )
        changed = subprocess.run(
            ["git", "-C", here, "status", "--porcelain", "--untracked-files=no", "."],
            capture_output=True,
            text=True,
            check=True,
            timeout=10,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return top.stdout.strip() + ("+" if changed.stdout.strip() else "")


def _processor() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor() or "unknown"


def _memory_bytes() -> int | None:
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (ValueError, OSError, AttributeError):
        return None
