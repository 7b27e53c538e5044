"""Training on cached features: steps a second, what computing them costs, and what an evaluation saves.

    python benchmarks/laptop.py [--steps 600] [--runs 3] [--batch 120] [--threads 2]

Claim: at least 150 steps a second of batch 120, 1280 -> 512, multi-similarity + SEC, on two cores. Other work on the machine lowers the
rate, so the processor time of a step is measured too, and so is the floor: the same layers and optimiser in a bare loop, without a loss,
batches, numbers or files. Every number of threads up to --threads is measured: where two cores share one unit, two are no faster than
one. Writes benchmarks/results/laptop.json.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from torch import nn

from cosphere.data import read_catalogue
from cosphere.embeddings import FeatureCache, embed
from cosphere.experiment import prepare_features, run
from cosphere.experiment.listener import SilentReporter
from cosphere.files import write_json
from cosphere.models import Embedder
from cosphere.runs import provenance
from cosphere.stamps import draw_stamps
from cosphere.train import TrainSettings
from cosphere.train.features import FOLDER

RESULT = Path(__file__).parent / "results" / "laptop.json"
COPIES, WARM_UP = 2, 100


class Clock(SilentReporter):
    """Wall and processor seconds between two steps."""

    def __init__(self, first: int, last: int) -> None:
        self.first, self.last = first, last
        self.times: list[tuple[float, float]] = []

    def stepped(self, step: int) -> None:
        """Look at both clocks."""
        if step in (self.first, self.last):
            self.times.append((time.perf_counter(), time.process_time()))

    def per_step(self) -> tuple[float, float]:
        """Wall and processor seconds of one step."""
        (wall, cpu), (later_wall, later_cpu) = self.times
        steps = self.last - self.first
        return (later_wall - wall) / steps, (later_cpu - cpu) / steps


def settings_for(options: argparse.Namespace, root: Path) -> TrainSettings:
    """The setting of the claim: the default backbone gives 1280 features."""
    return TrainSettings().with_values(
        {
            "data.root": str(root),
            "steps": options.steps,
            "device": "cpu",
            "images.size": 128,
            "images.preset": "normsoftmax",
            "model.dim": 512,
            "batch.size": options.batch,
            "batch.images_per_class": 5,
            "loss.name": "multi_similarity",
            "sec.weight": 0.02,
            "validation.every": 0,
            "validation.before": False,
            "validation.lens": False,
            "checkpoint_every": 0,
            "features.copies": COPIES,
            "features.seed": 0,
        }
    )


def floor(options: argparse.Namespace, width: int = 1280, dim: int = 512) -> float:
    """Steps a second of BatchNorm, linear layer, their gradients and Adam alone."""
    head = nn.Sequential(nn.BatchNorm1d(width, eps=1e-5), nn.Linear(width, dim))
    optimizer = torch.optim.Adam(head.parameters(), 1e-3, fused=True)
    features, gradient = torch.randn(options.batch, width), torch.randn(options.batch, dim)
    times = []
    for _ in range(options.steps):
        began = time.perf_counter()
        head(features).backward(gradient)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        times.append(time.perf_counter() - began)
    return 1 / statistics.median(times[WARM_UP:])


def rates(options: argparse.Namespace, settings: TrainSettings, runs: Path, threads: int) -> dict[str, Any]:
    """Steps a second, processor time of a step, and the floor with a number of threads."""
    torch.set_num_threads(threads)
    walls, processor, floors = [], [], []
    for turn in range(options.runs):
        clock = Clock(WARM_UP, options.steps)
        run(settings.with_values({"seed": turn}), runs / f"{threads}-{turn}", reporter=clock)
        wall, cpu = clock.per_step()
        walls.append(1 / wall)
        processor.append(cpu)
        floors.append(floor(options))
    return {
        "steps_per_second": spread(walls),
        "processor_seconds_per_step": spread(processor),
        "floor_steps_per_second": spread(floors),
    }


def seconds(action: Any) -> tuple[float, Any]:
    """Wall seconds of a call, and what it returned."""
    began = time.perf_counter()
    returned = action()
    return time.perf_counter() - began, returned


def spread(values: list[float]) -> dict[str, Any]:
    """Median, smallest, largest and count."""
    return {"median": statistics.median(values), "min": min(values), "max": max(values), "runs": len(values)}


def main() -> None:
    """Measure, write and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in (("steps", 600), ("runs", 3), ("batch", 120), ("threads", 2)):
        parser.add_argument(f"--{name}", type=int, default=default)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    load = os.getloadavg()[0]
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        root = draw_stamps(folder / "stamps", designs=60, impressions=10)
        settings, runs = settings_for(options, root), folder / "runs"
        first, _ = seconds(lambda: prepare_features(settings, runs / "any"))
        again, _ = seconds(lambda: prepare_features(settings, runs / "any"))
        by_threads = {threads: rates(options, settings, runs, threads) for threads in range(1, options.threads + 1)}
        images = read_catalogue(root).select("test")
        model = Embedder.load(runs / "1-0")
        from_pixels, pixels = seconds(lambda: embed(model, images))
        embed(model, images, features=FeatureCache(runs / FOLDER))
        from_features, rows = seconds(lambda: embed(model, images, features=FeatureCache(runs / FOLDER)))
        size = sum(file.stat().st_size for file in (runs / FOLDER).rglob("*.npy"))
    difference = float(abs(pixels.embeddings - rows.embeddings).max())
    result = {
        "claim": "at least 150 steps a second on two cores; an evaluation takes the head's time; features are computed once",
        "settings": {**vars(options), "copies": COPIES, "width": 1280, "dim": 512},
        **by_threads[options.threads],
        "by_threads": by_threads,
        "load_at_start": load,
        "prepare_seconds": {"first": first, "again": again},
        "embed": {
            "images": len(images),
            "pixels_seconds": from_pixels,
            "features_seconds": from_features,
            "largest_difference": difference,
        },
        "bytes": size,
        "provenance": provenance(),
    }
    write_json(RESULT, result)
    for threads, measured in by_threads.items():
        rate, cpu, bare = (one["median"] for one in measured.values())
        print(
            f"{threads} threads: {rate:.0f} steps/s, {1e3 * cpu:.1f} ms of processor time each; the bare layers and optimiser {bare:.0f}"
        )
    print(f"load {load:.1f}")
    print(f"features: {first:.1f} s the first time, {again:.1f} s again, {size / 1e6:.1f} MB")
    print(
        f"embedding {len(images)} images: {from_pixels:.1f} s from pixels, {from_features:.2f} s from features, {difference:.1e} apart"
    )


if __name__ == "__main__":
    main()
