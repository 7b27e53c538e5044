"""Images a second from files to embeddings: the plain network against the quick form that `Embedder.encode` takes for many images.

    python benchmarks/encode.py DATA                          # EfficientNet-Lite0, 160 px, test images of DATA, 3 runs, 1 thread
    python benchmarks/encode.py DATA --threads 2
    python benchmarks/encode.py DATA --backbone resnet50 --weights none --images 256
    python benchmarks/encode.py DATA --images 128 --runs 1 --out encode.json

DATA holds `images/` and `labels.csv` (path, label, split), such as half of Cars196. The ways take turns, once in a process as the C
library leaves it, once with `keep_freed_memory`, as commands run. "Before" is the plain network with 64 images in a pass, as `encode`
was when the claim was made; "plain" is `encode(fast=False)`, which now takes 32; "after" is `encode(fast=True)`, and "after_bf16"
the same with `autocast=torch.bfloat16`, where the processor computes in it. The parts are measured too: decoding, preprocessing, and the
bare network in each form, which is the floor. Recall@1 is among the images that were embedded. Writes benchmarks/results/encode.json.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from cosphere.data import read_catalogue
from cosphere.evaluate import bootstrap, retrieval
from cosphere.files import write_json
from cosphere.models import Embedder, EmbedderSettings, build_embedder
from cosphere.models.inference import evaluation_mode, infer
from cosphere.models.reading import input_batches, rgb_pixels
from cosphere.runs import provenance
from cosphere.train import bfloat16_is_native
from cosphere.train.memory import keep_freed_memory

CLAIM = (
    "from image files at least 2.5 times the images a second of the plain network on a CPU, in float32 or, where the processor computes "
    "in it, in bfloat16; at most 1e-2 of cosine distance; Recall@1 unchanged within its interval"
)
BATCH = 64
QUICK: dict[str, dict[str, Any]] = {"after": {"fast": True}}
"""Ways of the quick form, as arguments of `encode`."""
if bfloat16_is_native():
    QUICK["after_bf16"] = {"fast": True, "autocast": torch.bfloat16}


def rate(act: Callable[[], Any], count: int) -> dict[str, float]:
    """Images a second of wall time and of processor time, and the share of the latter that the kernel took."""
    wall, before = time.perf_counter(), os.times()
    act()
    after = os.times()
    user, system = after.user - before.user, after.system - before.system
    return {
        "per_second": count / (time.perf_counter() - wall),
        "per_processor_second": count / (user + system),
        "kernel_share": system / (user + system),
    }


def spread(runs: list[dict[str, float]]) -> dict[str, Any]:
    """Median, smallest, largest and count of each number."""
    return {
        name: {
            "median": float(np.median([run[name] for run in runs])),
            "min": min(run[name] for run in runs),
            "max": max(run[name] for run in runs),
            "runs": len(runs),
        }
        for name in runs[0]
    }


def in_turn(ways: dict[str, Callable[[], Any]], count: int, runs: int) -> dict[str, Any]:
    """Measure several ways in turn, each once before that."""
    seen: dict[str, list[dict[str, float]]] = {name: [] for name in ways}
    for turn in range(runs + 1):
        for name, act in ways.items():
            measured = rate(act, count)
            if turn:
                seen[name].append(measured)
    return {name: spread(measured) for name, measured in seen.items()}


def before(embedder: Embedder, paths: list[str]) -> None:
    """Embed as `encode` did before there was a quick form."""
    with evaluation_mode(embedder):
        for batch in input_batches(paths, BATCH, embedder.preprocessing, torch.device("cpu")):
            infer(embedder, batch, part=BATCH)


def parts(embedder: Embedder, paths: list[str], runs: int) -> dict[str, Any]:
    """Decoding, preprocessing and the bare network by themselves."""
    some = paths[: 2 * BATCH]
    images = [rgb_pixels(path, position=0) for path in some]
    pixels = torch.stack([embedder.preprocessing.pixels(image) for image in images])
    inputs = embedder.preprocessing.to_input(pixels).contiguous(memory_format=torch.channels_last)
    quick = {name: embedder.inference(**how) for name, how in QUICK.items()}
    ways = {
        "decode": lambda: [rgb_pixels(path, position=0) for path in some],
        "resize_and_crop": lambda: [embedder.preprocessing.pixels(image) for image in images],
        "normalise": lambda: embedder.preprocessing.to_input(pixels).contiguous(memory_format=torch.channels_last),
        "plain_network": lambda: [infer(embedder, batch, part=BATCH) for batch in inputs.split(BATCH)],
        **{
            name.replace("after", "quick_network"): lambda act=act: [act(batch) for batch in inputs.split(BATCH)]
            for name, act in quick.items()
        },
    }
    return in_turn(ways, len(some), runs)


def agreement(embedder: Embedder, paths: list[str], labels: Any) -> dict[str, Any]:
    """How far the embeddings lie apart, and Recall@1 of both with its 95 % interval over queries."""
    ways: dict[str, dict[str, Any]] = {"before": {"fast": False}, **QUICK}
    rows = {name: embedder.encode(paths, batch_size=BATCH, **how) for name, how in ways.items()}
    hits = {name: retrieval(one, labels, ks=(1,)).hits[1] for name, one in rows.items()}
    result: dict[str, Any] = {"bf16_is_native": bfloat16_is_native(), "queries": len(hits["before"])}
    whole = {name: one.astype(np.float64) for name, one in rows.items()}
    for name, one in rows.items():
        lengths = np.linalg.norm(whole[name], axis=1) * np.linalg.norm(whole["before"], axis=1)
        cosines = (whole[name] * whole["before"]).sum(1) / lengths
        result[name] = {
            "recall@1": float(hits[name].mean()),
            "interval": list(bootstrap(hits[name])),
            "largest_cosine_distance": float(1 - cosines.min()),
            "largest_difference": float(np.abs(one - rows["before"]).max()),
            "queries_that_changed": int((hits[name] != hits["before"]).sum()),
        }
    return result


def main() -> None:
    """Measure, write and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--backbone", default=EmbedderSettings().backbone)
    parser.add_argument("--weights", default="imagenet")
    for name, default in (("size", 160), ("images", 1024), ("runs", 3), ("threads", 1)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "encode.json")
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    torch.manual_seed(0)
    settings = EmbedderSettings(backbone=given.backbone, weights=given.weights, dim=0, norm="none")
    embedder = build_embedder(settings, image_size=given.size).eval()
    images = read_catalogue(given.data).select("test")
    paths, labels = [str(path) for path in images.paths][: given.images], images.labels[: given.images]
    ways = {
        "before": lambda: before(embedder, paths),
        "plain": lambda: embedder.encode(paths, batch_size=BATCH, fast=False),
        **{name: lambda how=how: embedder.encode(paths, batch_size=BATCH, **how) for name, how in QUICK.items()},
    }
    result: dict[str, Any] = {
        "claim": CLAIM,
        "settings": {name: str(value) for name, value in vars(given).items() if name not in ("data", "out")},
        "load_at_start": os.getloadavg()[0],
        "agreement": agreement(embedder, paths, labels),
        "note": embedder.quick_note,  # of the way that came last
        "as_a_library": in_turn(ways, len(paths), given.runs),
        "parts_as_a_library": parts(embedder, paths, given.runs),
    }
    if keep_freed_memory():
        embedder.train().eval()  # frees the copy: where memory is kept, parts are larger
        result["as_a_command"] = in_turn(ways, len(paths), given.runs)
        result["parts_as_a_command"] = parts(embedder, paths, given.runs)
    result["provenance"] = provenance()
    write_json(given.out, result)
    report(result)


def report(result: dict[str, Any]) -> None:
    """Print a result."""
    agreed = result["agreement"]
    print(result["note"] or "the plain network is as fast")
    for name in ("as_a_library", "as_a_command"):
        if name in result:
            for unit in ("per_second", "per_processor_second"):
                old, *new = (one[unit]["median"] for one in result[name].values())
                others = (
                    f"{way} {rate:.1f} ({rate / old:.2f})" for way, rate in zip([*result[name]][1:], new, strict=True)
                )
                print(f"{name:13} images {unit:21} before {old:.1f}, {', '.join(others)}")
            parts_of = result[f"parts_{name}"].items()
            print(", ".join(f"{part} {1e3 / one['per_processor_second']['median']:.2f} ms" for part, one in parts_of))
    for name in (name for name in ("before", "after", "after_bf16") if name in agreed):
        one = agreed[name]
        low, high = one["interval"]
        print(
            f"{name}: Recall@1 {one['recall@1']:.4f} ({low:.4f} to {high:.4f}), largest cosine distance "
            f"{one['largest_cosine_distance']:.1e}, {one['queries_that_changed']} of {agreed['queries']} queries changed"
        )


if __name__ == "__main__":
    main()
