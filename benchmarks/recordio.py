"""Records per second from a RecordIO file of faces, in the order of the file and at random; decoding is excluded.

    python benchmarks/recordio.py                    # 100 000 made-up faces of 112 x 112: about 500 MB in a temporary folder
    python benchmarks/recordio.py --records 20000 --runs 1 --out recordio.json

The file was just written, so it comes from the page cache: this measures the reader, not the disk. Random reading goes the
way that training goes, from ``train.rec#17`` to the bytes of the image.
"""

from __future__ import annotations

import argparse
import io
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

from cosphere.files import write_json
from cosphere.images import find_item
from cosphere.images.containers import recordio
from cosphere.images.containers.recordio_writer import RecordWriter
from cosphere.runs import provenance

CLAIM = "at least 20 000 records a second in the order of the file and 5000 a second at random, on one core"
SIDE, PER_PERSON, DIFFERENT = 112, 50, 500


def made(folder: Path, count: int) -> tuple[Path, float]:
    """A file of smooth made-up pictures that take as many bytes as faces do, and its mean bytes per image."""
    rng = np.random.default_rng(0)
    images = []
    for _ in range(DIFFERENT):
        small = Image.fromarray(rng.integers(0, 255, (14, 14, 3), dtype=np.uint8))
        file = io.BytesIO()
        small.resize((SIDE, SIDE), Image.Resampling.BICUBIC).save(file, "JPEG", quality=92)
        images.append(file.getvalue())
    with RecordWriter(folder / "train.rec") as writer:
        for number in range(count):
            writer.add(images[number % DIFFERENT], number // PER_PERSON)
    return folder / "train.rec", float(np.mean([len(image) for image in images]))


def rate(act: Callable[[], int]) -> tuple[float, float]:
    """Things per second of wall time, and per second of processor time."""
    wall, processor = time.perf_counter(), time.process_time()
    done = act()
    return done / (time.perf_counter() - wall), done / (time.process_time() - processor)


def spread(values: list[float]) -> dict[str, float]:
    return {"median": float(np.median(values)), "min": min(values), "max": max(values), "runs": len(values)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--records", type=int, default=100_000)
    parser.add_argument("--random", type=int, default=50_000, help="records that are read at random")
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "recordio.json")
    given = parser.parse_args()
    result: dict[str, object] = {
        "claim": CLAIM,
        "settings": {"records": given.records, "random": given.random, "runs": given.runs, "side": SIDE},
        "load_at_start": os.getloadavg()[0],
    }
    with tempfile.TemporaryDirectory() as folder:
        started = time.perf_counter()
        path, size = made(Path(folder), given.records)
        result |= {"bytes_per_image": size, "written_per_second": given.records / (time.perf_counter() - started)}
        keys = recordio.keys(path)
        rng = np.random.default_rng(1)
        names = [f"{path}#{keys[place]}" for place in rng.integers(0, len(keys), given.random)]

        def at_random() -> int:
            items = [find_item(name) for name in names]
            return sum(len(item.read()) > 0 for item in items if item is not None)

        ways = {
            "sequential": lambda: sum(1 for _ in recordio.records(path)),
            "random": at_random,
            "labels": lambda: len(recordio.labels(path)),
        }
        for name, way in ways.items():
            way()
            rates = [rate(way) for _ in range(given.runs)]
            result[f"{name}_per_second"] = spread([wall for wall, _ in rates])
            result[f"{name}_per_processor_second"] = spread([processor for _, processor in rates])
    result["provenance"] = provenance()
    write_json(given.out, result)
    for name in ("sequential", "random", "labels"):
        print(f"{name:<11} {result[f'{name}_per_second']}")


if __name__ == "__main__":
    main()
