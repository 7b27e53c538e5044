"""The page of a large run: seconds, bytes and memory of `cosphere report` after an evaluation of 10,000 photos.

    python benchmarks/report.py DATA [DATA ...] [--images 10000] [--runs 3]

Claim: under 20 s and 15 MB. The photos of all DATA (folders, tables or benchmark roots) become one table; as many as --images are the
test split. A head trains for two steps on the rest at 64 px, because the page depends on the number of photos and not on the model.
Writes benchmarks/results/report.json.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import pandas as pd

from cosphere.data import read_catalogue
from cosphere.experiment import evaluate_run, run
from cosphere.files import write_json
from cosphere.runs import provenance
from cosphere.train import TrainSettings

RESULT = Path(__file__).parent / "results" / "report.json"
COMMAND = (
    "import resource, sys; from cosphere.cli import main; "
    "status = main(['report', sys.argv[1]]); print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024); sys.exit(status)"
)


def one_table(sources: list[Path], count: int, file: Path) -> None:
    """All photos in one table with ``count`` test images of whole classes, as far as that goes."""
    tables = []
    for root in sources:
        catalogue = read_catalogue(root)
        names = [f"{root.name} {catalogue.label_names[label]}" for label in catalogue.labels]
        tables.append(pd.DataFrame({"path": [str(Path(path).resolve()) for path in catalogue.paths], "label": names}))
    table = pd.concat(tables, ignore_index=True)
    table["split"] = ["train" if row < len(table) - count else "test" for row in range(len(table))]
    table.to_csv(file, index=False)


def timed(folder: Path) -> tuple[float, int]:
    """Wall seconds of the command, its start included, and its largest memory in bytes."""
    began = time.perf_counter()
    ended = subprocess.run([sys.executable, "-c", COMMAND, str(folder)], check=True, stdout=subprocess.PIPE, text=True)
    return time.perf_counter() - began, int(ended.stdout.split()[-1])


def main() -> None:
    """Measure, write and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", nargs="+", type=Path)
    parser.add_argument("--images", type=int, default=10_000)
    parser.add_argument("--runs", type=int, default=3)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "run"
        one_table([root.absolute() for root in options.data], options.images, Path(scratch) / "photos.csv")
        settings: dict[str, Any] = {
            "data.root": str(Path(scratch) / "photos.csv"),
            "images.size": 64,
            "steps": 2,
            "validation.every": 0,
            "validation.before": False,
            "checkpoint_every": 0,
        }
        run(TrainSettings().with_values(settings), folder)
        evaluate_run(folder)
        load = os.getloadavg()[0]
        seconds, memory = zip(*(timed(folder) for _ in range(options.runs)), strict=True)
        size = (folder / "report.html").stat().st_size
    result = {
        "claim": "under 20 s and 15 MB",
        "images": options.images,
        "data": [root.name for root in options.data],
        "seconds": {
            "median": statistics.median(seconds),
            "min": min(seconds),
            "max": max(seconds),
            "runs": len(seconds),
        },
        "page_bytes": size,
        "largest_memory_bytes": max(memory),
        "load_at_start": load,
        "provenance": provenance(),
    }
    write_json(RESULT, result)
    print(
        f"{options.images} photos: {statistics.median(seconds):.1f} s, {size / 1e6:.1f} MB, {max(memory) / 1e9:.2f} GB of memory"
    )


if __name__ == "__main__":
    main()
