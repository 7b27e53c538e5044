"""How quickly the command answers a person, what embedding costs outside the network, and what decoding costs in memory.

    python benchmarks/first_hour.py PHOTOS RUN [--split test] [--runs 5] [--only commands searches decoding]

PHOTOS is a folder of photos, RUN a run that was trained on it. Claims, on a machine that does nothing else:

- each command's `--help`, and the refusal of a mistyped setting, within 1 s;
- `cosphere search RUN PHOTOS QUERY` on saved embeddings, with a query that is not among them, within 3 s;
- embedding, without the import of torch, spends less than 10 % of its CPU time in the kernel;
- decoding takes no more than it is counted with towards the 400 MB that a process decodes into at the same time.

Every figure is of a whole process, as the operating system accounts for it. CPU seconds (user and kernel) stand beside wall
seconds, because a machine that others use lengthens those; the load before and after each part says whether it was. Python's
bytecode is in place, as pip leaves it: the processes may write it whatever PYTHONDONTWRITEBYTECODE says, and one run that is not
counted comes first. The import of torch alone, without which no command searches, is measured as the floor: as `import torch`,
without garbage collection, and as search and embed import it: without collection and without the kernels of torch's compiler.
Writes benchmarks/results/first-hour.json.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from cosphere.cli import COMMANDS
from cosphere.files import write_json
from cosphere.runs import provenance

RESULT = Path(__file__).parent / "results" / "first-hour.json"
SIDE = 5_000
"""Pixels; the side of the picture whose decoding is measured."""
EMBEDDED = 400
"""Photos that are embedded to measure the kernel's share."""
PARTS = ("commands", "searches", "decoding")
COSPHERE = ("-m", "cosphere")
TORCH = {
    "torch": "import torch",
    "torch_without_collection": "import gc; gc.disable(); import torch; gc.freeze()",
    "torch_as_commands": "from cosphere.cli.torch_part import defer_shape_kernels; defer_shape_kernels(); "
    "import gc; gc.disable(); import torch; gc.freeze()",
}
"""What no search can do without: in a process by itself, without collection, and as search and embed import it."""
ENVIRONMENT = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"} | {
    "NO_COLOR": "1"
}


def timed(words: list[str], *, status: int = 0, program: tuple[str, ...] = COSPHERE) -> dict[str, float]:
    """Wall, user and kernel seconds of one process, and its exit status checked."""
    before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    done = subprocess.run(
        [sys.executable, *program, *words], capture_output=True, text=True, check=False, env=ENVIRONMENT
    )
    wall, after = time.perf_counter() - began, resource.getrusage(resource.RUSAGE_CHILDREN)
    if done.returncode != status:
        raise SystemExit(f"cosphere {' '.join(words)} ended with {done.returncode}: {done.stderr[-400:]}")
    user, kernel = after.ru_utime - before.ru_utime, after.ru_stime - before.ru_stime
    return {"wall": wall, "user": user, "kernel": kernel, "cpu": user + kernel}


def repeated(
    words: list[str], runs: int, *, status: int = 0, program: tuple[str, ...] = COSPHERE, warm_up: bool = True
) -> dict[str, Any]:
    """Median and range over several processes, by default after one that is not counted."""
    if warm_up:
        timed(words, status=status, program=program)
    rows = [timed(words, status=status, program=program) for _ in range(runs)]
    return {
        name: {"median": statistics.median(row[name] for row in rows), "least": min(row[name] for row in rows)}
        | {"most": max(row[name] for row in rows)}
        for name in rows[0]
    }


def decoding(folder: Path) -> dict[str, Any]:
    """Peak memory above the start, in bytes per pixel, while one large picture of each kind is decoded, and what is counted."""
    gray_16 = (np.arange(SIDE * SIDE, dtype=np.uint32) % 65536).astype(np.uint16).reshape(SIDE, SIDE)
    kinds: dict[str, Callable[[Path], object]] = {
        "rgb.jpg": lambda path: _noise(3).save(path, quality=60),
        "turned.jpg": lambda path: _noise(3).save(path, quality=60, exif=_turned()),
        "progressive.jpg": lambda path: _noise(3).save(path, quality=60, progressive=True, subsampling=0),
        "cmyk.jpg": lambda path: Image.fromarray(np.asarray(_noise(4)), "CMYK").save(path, quality=60),
        "rgb.png": lambda path: _noise(3).save(path, compress_level=1),
        "rgba.png": lambda path: _noise(4).save(path, compress_level=1),
        "palette.png": lambda path: _noise(3).quantize(64).save(path, compress_level=1),
        "gray-16.png": lambda path: Image.fromarray(gray_16).save(path, compress_level=1),
        "float.tif": lambda path: Image.fromarray(np.zeros((SIDE, SIDE), np.float32)).save(path),
        "rgb.webp": lambda path: _noise(3).save(path, quality=50, method=0),
    }
    code = (
        "import resource, sys\n"
        "from PIL import Image\n"
        "from cosphere.images import read_image\n"
        "from cosphere.images.modes import bytes_per_pixel\n"
        "peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024\n"
        "read_image(sys.argv[2])\n"
        "before = peak()\n"
        "read_image(sys.argv[1])\n"
        "print(peak() - before, bytes_per_pixel(Image.open(sys.argv[1])))\n"
    )
    tiny = folder / "tiny.png"
    Image.new("RGB", (32, 32)).save(tiny)
    figures = {}
    for kind, save in kinds.items():
        path = folder / kind
        save(path)
        done = subprocess.run([sys.executable, "-c", code, path, tiny], capture_output=True, text=True, check=True)
        peak, counted = map(int, done.stdout.split())
        figures[kind] = {"bytes_per_pixel": peak / SIDE**2, "counted": counted, "file_bytes": path.stat().st_size}
    return {"pixels": SIDE * SIDE, "kinds": figures}


def _turned() -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = 6
    return exif


def _noise(channels: int) -> Image.Image:
    rng = np.random.default_rng(0)
    small = rng.integers(0, 255, (SIDE // 60, SIDE // 60, channels), dtype=np.uint8)
    return Image.fromarray(small).resize((SIDE, SIDE), Image.Resampling.NEAREST)


def some_of(photos: Path, folder: Path) -> Path:
    """A folder with links to the first photos."""
    folder.mkdir()
    images = [path for path in sorted(photos.rglob("*")) if path.suffix.lower() in (".jpg", ".jpeg", ".png")]
    for number, path in enumerate(images[:EMBEDDED]):
        (folder / f"{number}{path.suffix}").symlink_to(path.resolve())
    return folder


def commands(runs: int) -> dict[str, Any]:
    """Each command's help, and its refusal of a mistyped setting."""
    return {
        "help": {name: repeated([name, "--help"], runs) for name in COMMANDS},
        "mistyped": {name: repeated([name, "--sede", "3"], runs, status=2) for name in COMMANDS},
    }


def searches(photos: Path, run: Path, split: str, runs: int) -> dict[str, Any]:
    """The import of torch, searches, and embedding."""
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        some = some_of(photos, folder / "some")
        query = shutil.copy(next(some.iterdir()), folder / "query.jpg")  # another file, so it is encoded
        bundle = shutil.copytree(run / "model", folder / "model")  # outside a run nothing is saved
        words = ["search", str(run), str(photos), str(query), "--split", split, "--out", str(folder / "search.png")]
        npz, embed = str(folder / "some.npz"), ["embed", str(bundle), str(some), "--out", str(folder / "some.npz")]
        return {
            "search": repeated(words, runs),
            **{name: repeated([], runs, program=("-c", code)) for name, code in TORCH.items()},
            "embed": repeated(embed, min(runs, 3), warm_up=False),
            "search_npz": repeated(["search", str(bundle), npz, str(query), "--out", str(folder / "s.png")], runs),
        }


def decoded() -> dict[str, Any]:
    """See :func:`decoding`."""
    with tempfile.TemporaryDirectory() as place:
        return {"decoding": decoding(Path(place))}


def summary_of(figures: dict[str, Any]) -> dict[str, float]:
    """The claims' figures."""

    def beyond(clock: str) -> float:
        """Seconds of embedding beyond the import of torch."""
        return float(figures["embed"][clock]["median"] - figures["torch_as_commands"][clock]["median"])

    kinds = figures["decoding"]["kinds"].values()
    summary: dict[str, float] = {}
    for clock in ("wall", "cpu"):
        summary |= {
            **{f"{name}_{clock}_seconds": figures[name][clock]["median"] for name in TORCH},
            f"slowest_help_{clock}_seconds": max(one[clock]["median"] for one in figures["help"].values()),
            f"slowest_refusal_{clock}_seconds": max(one[clock]["median"] for one in figures["mistyped"].values()),
            f"search_{clock}_seconds": figures["search"][clock]["median"],
            f"search_npz_{clock}_seconds": figures["search_npz"][clock]["median"],
        }
    return summary | {
        "embed_process_kernel_share": figures["embed"]["kernel"]["median"] / figures["embed"]["cpu"]["median"],
        "embed_kernel_share": beyond("kernel") / beyond("cpu"),
        "most_bytes_per_pixel": max(one["bytes_per_pixel"] for one in kinds),
        "most_bytes_per_pixel_above_the_count": max(one["bytes_per_pixel"] - one["counted"] for one in kinds),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("photos", type=Path)
    parser.add_argument("run", type=Path)
    parser.add_argument("--split", default="all")
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--only", choices=PARTS, nargs="+", default=PARTS, help="keep the other parts of the JSON")
    options = parser.parse_args()
    measures: dict[str, Callable[[], dict[str, Any]]] = {
        "commands": lambda: commands(options.runs),
        "searches": lambda: searches(options.photos, options.run, options.split, options.runs),
        "decoding": decoded,
    }
    content = {} if set(options.only) == set(PARTS) else json.loads(RESULT.read_text(encoding="utf-8"))
    figures, measured = content.get("figures", {}), content.get("measured", {})
    for part in options.only:
        load = os.getloadavg()[0]
        figures |= measures[part]()
        about = {"runs": options.runs, "load_before_and_after": [load, os.getloadavg()[0]]}
        measured[part] = about | {"provenance": provenance()}
    summary = summary_of(figures)
    for name, value in summary.items():
        print(f"{name:38} {value:8.3f}")
    about = {"spread": "least and most of the runs, beside their median", "measured": measured}
    write_json(RESULT, {"claim": __doc__, "summary": summary, **about, "figures": figures})


if __name__ == "__main__":
    main()
