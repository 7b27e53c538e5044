"""Where numbers come from: versions, commit, command and machine."""

from __future__ import annotations

import functools
import importlib.metadata
import os
import platform
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from cosphere._version import __version__
from cosphere.errors import escaped


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
        "timm": _installed("timm"),
        "commit": _commit(),
        "command": " ".join([Path(sys.argv[0]).name, *(escaped(_without_folders(word)) for word in sys.argv[1:])]),
        "machine": {
            "processor": _processor(),
            "cores": os.cpu_count(),
            "threads": torch.get_num_threads(),
            "memory_bytes": machine_memory(),
            "accelerator": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
            "system": f"{platform.system()} {platform.machine()}",
        },
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def _without_folders(word: str) -> str:
    """The last part of an absolute path: folders of one machine are private, and useless elsewhere."""
    option, equals, value = word.rpartition("=")
    return f"{option}{equals}{Path(value).name}" if value.startswith("/") else word


@functools.cache
def _installed(package: str) -> str | None:
    """Version of a package without importing it, which takes seconds; None if it is not installed."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


@functools.cache  # what this process runs was loaded once, and two processes of git for each run of a study add up
def _commit() -> str | None:
    """Commit of the source checkout that Cosphere runs from, with "+" if files were changed; None if it is installed."""
    here = Path(__file__).resolve().parent

    def git(*words: str) -> str:
        command = ["git", "-C", str(here), *words]
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout.strip()

    try:
        return git("rev-parse", "HEAD") + ("+" if git("status", "--porcelain", "--untracked-files=no", ".") else "")
    except (OSError, subprocess.SubprocessError):
        return None


@functools.cache
def _processor() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor() or "unknown"


def machine_memory() -> int | None:
    """Memory of this machine in bytes; None where the system does not say."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (ValueError, OSError, AttributeError):
        return None
