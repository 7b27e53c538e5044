"""The gallery's times and memory: durable additions, opening a million codes, searching, filtering, deleting, compacting.

    python benchmarks/gallery.py                      # about three minutes and 2 GB of disk on two cores
    python benchmarks/gallery.py --rows 20000         # a quick look; writes nothing

Each figure comes from processes of its own, `--runs` times. The million codes are random bits with metadata of two columns.
Opening means a new process that has read all codes and answered its first query; the import of the library is timed apart.
Writes benchmarks/results/gallery.json.
"""

from __future__ import annotations

import argparse
import json
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

RESULT = Path(__file__).parent / "results" / "gallery.json"
MILLION = 1_000_000
CODE_BYTES = 256
Values = dict[str, float]


def durable_adds(folder: Path, rows: int) -> Values:
    """10 000 embeddings in one call, then 1000 single ones."""
    from cosphere.gallery import Space, Store

    count = min(10_000, rows)
    embeddings = np.random.default_rng(0).normal(size=(count, 512)).astype(np.float32)
    metadata = [{"label": f"class {place % 100}", "path": f"/photos/{place}.jpg"} for place in range(count)]
    times = []
    with Store.create(folder / "adds", Space(dim=512)) as store:
        began = time.perf_counter()
        store.add([f"item {place}" for place in range(count)], embeddings, metadata=metadata)
        whole = time.perf_counter() - began
        for place in range(min(1000, rows)):
            began = time.perf_counter()
            store.add([f"single {place}"], embeddings[place : place + 1], metadata=metadata[:1])
            times.append(time.perf_counter() - began)
    milliseconds = 1000 * np.array(times)
    return {
        f"seconds_{count}_embeddings": whole,
        "single_add_ms_p50": float(np.percentile(milliseconds, 50)),
        "single_add_ms_p99": float(np.percentile(milliseconds, 99)),
    }


def opening(folder: Path, rows: int) -> Values:
    """A gallery of codes in a new process: until all are in memory and a query is answered; the memory that this takes."""
    began = time.perf_counter()
    import torch

    from cosphere.search import Gallery

    imported = time.perf_counter() - began
    torch.zeros(1)
    before = resident()
    began = time.perf_counter()
    gallery = Gallery.open(folder / "codes")
    gallery.load()
    opened = time.perf_counter() - began
    held = resident() - before
    query = np.random.default_rng(1).integers(0, 256, CODE_BYTES, np.uint8)
    gallery.search(query, 10)
    searches = [timed(lambda: gallery.search(query, 10)) for _ in range(20)]
    few, many = {"label": "class 7"}, {"number": ("<", rows // 2)}
    return {
        "import_seconds": imported,
        "open_seconds": opened,
        "memory_over_codes": held / (rows * CODE_BYTES),
        "arrays_over_codes": gallery.held_bytes / (rows * CODE_BYTES),
        "search_ms": 1000 * statistics.median(searches),
        "search_ms_filter_1_percent": 1000
        * statistics.median(timed(lambda: gallery.search(query, 10, few)) for _ in range(5)),
        "search_ms_filter_half": 1000
        * statistics.median(timed(lambda: gallery.search(query, 10, many)) for _ in range(5)),
    }


def deleting(folder: Path, rows: int) -> Values:
    """One item, then a tenth of all, then compaction; in a copy."""
    from cosphere.gallery import Store, compact

    shutil.copytree(folder / "codes", folder / "copy")
    with Store.open(folder / "copy") as store:
        one = timed(lambda: store.delete(["item 5"]))
        tenth = timed(lambda: store.delete(where={"number": ("<", rows // 10)}))
        compacted = timed(lambda: compact(store))
    shutil.rmtree(folder / "copy")
    return {"delete_one_seconds": one, "delete_tenth_seconds": tenth, "compact_seconds": compacted}


PARTS = {"adds": durable_adds, "opening": opening, "deleting": deleting}


def timed(work: Any) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def resident() -> int:
    """Bytes of memory that this process holds now."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * 4096


def fill(folder: Path, rows: int) -> float:
    """A gallery of random codes, in calls of 50 000."""
    from cosphere.gallery import Space, Store

    generator = np.random.default_rng(0)
    began = time.perf_counter()
    with Store.create(folder / "codes", Space(dim=8 * CODE_BYTES, holds="codes")) as store:
        for start in range(0, rows, 50_000):
            places = range(start, min(rows, start + 50_000))
            codes = generator.integers(0, 256, (len(places), CODE_BYTES), np.uint8)
            metadata = [{"label": f"class {place % 100}", "number": place} for place in places]
            store.add([f"item {place}" for place in places], codes=codes, metadata=metadata)
    return time.perf_counter() - began


def measured(part: str, folder: Path, rows: int) -> Values:
    """One part in a process of its own."""
    command = [sys.executable, __file__, "--part", part, "--folder", str(folder), "--rows", str(rows)]
    found: Values = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    return found


def summary(runs: list[Values]) -> dict[str, dict[str, float]]:
    """Mean and standard deviation of each figure."""
    values = {name: [run[name] for run in runs] for name in runs[0]}
    return {
        name: {"mean": statistics.fmean(some), "std": statistics.stdev(some) if len(some) > 1 else 0.0}
        for name, some in values.items()
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=MILLION)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--part", choices=PARTS, help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.part:
        print(json.dumps(PARTS[given.part](given.folder, given.rows)))
        return
    from cosphere.files import write_json
    from cosphere.gallery import library_version
    from cosphere.runs import provenance

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        filled = fill(folder, given.rows)
        figures: dict[str, Any] = {}
        for part in PARTS:
            runs = []
            for _ in range(given.runs):
                runs.append(measured(part, folder, given.rows))
                shutil.rmtree(folder / "adds", ignore_errors=True)
            figures |= summary(runs)
    for figure, value in figures.items():
        print(f"{figure:32} {value['mean']:12.4f} ± {value['std']:.4f}")
    print(f"{'fill_seconds':32} {filled:12.4f}")
    if given.rows == MILLION:
        about = {"rows": given.rows, "code_bytes": CODE_BYTES, "runs": given.runs, "fill_seconds": filled}
        library = {"sqlite": ".".join(map(str, library_version())), "python": platform.python_version()}
        command = "python benchmarks/gallery.py"
        write_json(
            RESULT, {"claim": __doc__, "command": command, **provenance(), **about, **library, "figures": figures}
        )


if __name__ == "__main__":
    main()
