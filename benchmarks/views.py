"""How many augmented views a second a run gets, and what share of a training step they take.

    python benchmarks/views.py [DATA] [--runs 5]

Claim: at 32 pixels at least 4000 views a second on two cores with cached pixels, and less than a fifth of a step of the smallest network.
DATA is a folder of class folders, such as CIFAR-10; without it 2048 images of noise are written as JPEG. Views are taken as training
takes them: sampler, decoding or cache, crops, colours, normalisation. The step is SimCLR's with ResNet-8 on 256 views. Writes
benchmarks/results/views.json.
"""

from __future__ import annotations

import argparse
import itertools
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from cosphere.data import Catalogue, read_catalogue
from cosphere.files import write_json
from cosphere.losses import NTXentLoss
from cosphere.runs import provenance
from cosphere.train import TrainSettings, build_model
from cosphere.train.batches import BatchStream
from cosphere.train.memory import keep_freed_memory

RESULT = Path(__file__).parent / "results" / "views.json"
BATCH, LEAST, MOST_SHARE = 256, 4000, 0.2
SETTINGS = {
    "images.size": 32,
    "images.preset": "simclr-cifar",
    "model.backbone": "resnet8_cifar",
    "model.weights": "none",
    "model.head": "mlp",
    "model.norm": "none",
    "model.dim": 64,
    "batch.sampler": "views",
    "batch.size": BATCH,
    "data.workers": 0,
    "freeze_norm": False,
}


def noise(folder: Path) -> Path:
    """2048 JPEG files of 32 pixels in two class folders."""
    for number in range(2048):
        pixels = np.random.default_rng(number).integers(0, 256, (32, 32, 3), dtype=np.uint8)
        target = folder / str(number % 2)
        target.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(target / f"{number:04d}.jpg")
    return folder


def stream_of(images: Catalogue, changes: dict[str, Any]) -> BatchStream:
    settings = TrainSettings().with_values({**SETTINGS, **changes})
    embedder, augmentation = build_model(settings)
    return BatchStream(images, settings, embedder.preprocessing, augmentation, device=torch.device("cpu"))


def views_in_a_second(stream: BatchStream, batches: int) -> float:
    began = time.perf_counter()
    for batch in itertools.islice(stream, batches):
        stream.inputs(batch)
    return batches * BATCH / (time.perf_counter() - began)


def seconds_of_a_step() -> float:
    """Forward, loss, backward and step of the smallest network on views that are there already."""
    embedder, _ = build_model(TrainSettings().with_values(SETTINGS))
    loss, optimizer = NTXentLoss(), torch.optim.SGD(embedder.parameters(), lr=0.1, momentum=0.9)
    inputs = torch.randn(BATCH, 3, 32, 32).to(memory_format=torch.channels_last)
    labels = torch.arange(BATCH) // 2

    def step() -> None:
        optimizer.zero_grad()
        loss(embedder.train()(inputs), labels).backward()
        optimizer.step()

    step()
    return statistics.median(timed(step) for _ in range(5))


def timed(work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def main() -> None:
    """Measure, write and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, nargs="?")
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--batches", type=int, default=40)
    parser.add_argument("--out", type=Path, default=RESULT)
    options = parser.parse_args()
    keep_freed_memory()  # as training does
    load = os.getloadavg()[0]
    with tempfile.TemporaryDirectory() as scratch:
        images = read_catalogue(options.data or noise(Path(scratch) / "noise"))
        images = images.select("train" if "train" in images.split_names else "all")
        # The same images again and again, so that after the first pass the cache has them all.
        few = images.rows(np.random.default_rng(0).permutation(len(images))[: options.batches * BATCH // 2])
        rows = {}
        for name, changes in (("decoded", {}), ("cached", {"data.cache": f"{scratch}/pixels"})):
            stream = stream_of(few, changes)
            views_in_a_second(stream, options.batches)
            rows[name] = [views_in_a_second(stream, options.batches) for _ in range(options.runs)]
    step = seconds_of_a_step()
    cached = statistics.median(rows["cached"])
    result = {
        "claim": f"at least {LEAST} views/s with cached pixels, and under {MOST_SHARE:.0%} of a step of ResNet-8",
        "data": options.data.name if options.data else "noise",
        "views_per_second": rows,
        "step_seconds": step,
        "share_of_a_step": BATCH / cached / (BATCH / cached + step),
        "holds": cached >= LEAST and BATCH / cached / (BATCH / cached + step) < MOST_SHARE,
        "load_at_start": load,
        "provenance": provenance() | {"threads": torch.get_num_threads()},
    }
    write_json(options.out, result)
    for name, found in rows.items():
        print(f"{name:8} {statistics.median(found):8.0f} views/s ({min(found):.0f} to {max(found):.0f})")
    print(f"a step of {BATCH} views takes {step:.3f} s; views are {result['share_of_a_step']:.0%} of both together")
    print(f"the claim {'holds' if result['holds'] else 'DOES NOT HOLD'}; written to {options.out}")


if __name__ == "__main__":
    main()
