"""How quickly the command answers a person, what embedding costs outside the network, and what decoding costs in memory.

    python benchmarks/first_hour.py PHOTOS RUN [--runs 5]

PHOTOS is a folder of photos, RUN a run that was trained on it and evaluated, so that its embeddings are saved. Claims:

- each command's `--help`, and the refusal of a mistyped setting, within 1 s;
- `cosphere search RUN PHOTOS QUERY` on saved embeddings within 3 s;
- embedding spends less than 10 % of its CPU time in the kernel;
- decoding stays within 4 bytes per pixel that is in flight.

Every figure is of a whole process, as the operating system accounts for it. Writes benchmarks/results/first-hour.json.
"""

from __future__ import annotations

import argparse
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from cosphere.cli import COMMANDS
from cosphere.files import write_json
from cosphere.runs import provenance

RESULT = Path(__file__).parent / "results" / "first-hour.json"
SIDE = 9_000
"""Pixels; the side of the picture whose decoding is measured."""


def timed(words: list[str], *, status: int = 0) -> dict[str, float]:
    """Wall, user and kernel seconds of one process, and its exit status checked."""
    before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    done = subprocess.run([sys.executable, "-m", "cosphere", *words], capture_output=True, text=True, check=False)
    wall, after = time.perf_counter() - began, resource.getrusage(resource.RUSAGE_CHILDREN)
    if done.returncode != status:
        raise SystemExit(f"cosphere {' '.join(words)} ended with {done.returncode}: {done.stderr[-400:]}")
    return {"wall": wall, "user": after.ru_utime - before.ru_utime, "kernel": after.ru_stime - before.ru_stime}


def repeated(words: list[str], runs: int, *, status: int = 0) -> dict[str, Any]:
    """Median and range over several processes after one that is not counted."""
    timed(words, status=status)
    rows = [timed(words, status=status) for _ in range(runs)]
    return {
        name: {"median": statistics.median(row[name] for row in rows), "least": min(row[name] for row in rows)}
        | {"most": max(row[name] for row in rows)}
        for name in rows[0]
    }


def decoding(folder: Path) -> dict[str, Any]:
    """Peak memory above the start, in bytes per pixel, while one large picture of each kind is decoded."""
    kinds = {
        "jpeg": lambda path: _noise(3).save(path, quality=60),
        "png-rgba": lambda path: _noise(4).save(path, compress_level=1),
        "tiff-float": lambda path: Image.fromarray(np.zeros((SIDE, SIDE), np.float32)).save(path),
    }
    ends = {"jpeg": ".jpg", "png-rgba": ".png", "tiff-float": ".tif"}
    code = (
        "import resource, sys\n"
        "from cosphere.images import decode\n"
        "import PIL.Image, numpy, torch\n"
        "peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024\n"
        "before = peak()\n"
        "decode(sys.argv[1], target=256)\n"
        "print(peak() - before)\n"
    )
    figures = {}
    for kind, save in kinds.items():
        path = folder / f"large{ends[kind]}"
        save(path)
        done = subprocess.run([sys.executable, "-c", code, str(path)], capture_output=True, text=True, check=True)
        figures[kind] = {
            "pixels": SIDE * SIDE,
            "file_bytes": path.stat().st_size,
            "bytes_per_pixel": int(done.stdout) / SIDE**2,
        }
    return figures


def _noise(channels: int) -> Image.Image:
    rng = np.random.default_rng(0)
    small = rng.integers(0, 255, (SIDE // 60, SIDE // 60, channels), dtype=np.uint8)
    return Image.fromarray(small).resize((SIDE, SIDE), Image.Resampling.NEAREST)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("photos", type=Path)
    parser.add_argument("run", type=Path)
    parser.add_argument("--runs", type=int, default=5)
    options = parser.parse_args()
    query = next(path for path in sorted(options.photos.rglob("*")) if path.suffix.lower() in (".jpg", ".png"))
    photos, run = str(options.photos), str(options.run)
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        os.environ.setdefault("NO_COLOR", "1")
        figures: dict[str, Any] = {
            "help": {name: repeated([name, "--help"], options.runs) for name in COMMANDS},
            "mistyped": {name: repeated([name, "--sede", "3"], options.runs, status=2) for name in COMMANDS},
            "search": repeated(["search", run, photos, str(query), "--out", str(folder / "search.png")], options.runs),
            "embed": repeated(["embed", run, photos, "--out", str(folder / "all.npz")], min(options.runs, 3)),
            "decoding": decoding(folder),
        }
    embed = figures["embed"]
    share = embed["kernel"]["median"] / (embed["kernel"]["median"] + embed["user"]["median"])
    summary = {
        "slowest_help_seconds": max(one["wall"]["median"] for one in figures["help"].values()),
        "slowest_refusal_seconds": max(one["wall"]["median"] for one in figures["mistyped"].values()),
        "search_seconds": figures["search"]["wall"]["median"],
        "embed_kernel_share": share,
        "most_bytes_per_pixel": max(one["bytes_per_pixel"] for one in figures["decoding"].values()),
    }
    for name, value in summary.items():
        print(f"{name:28} {value:8.3f}")
    write_json(RESULT, {"claim": __doc__, "summary": summary, **figures, "provenance": provenance()})


if __name__ == "__main__":
    main()
