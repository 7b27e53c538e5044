"""MobileFaceNet trained by the loop, and by a bare torch loop over the same network, batches, loss and optimiser.

    python benchmarks/faces_training.py [--steps 40] [--runs 5] [--size 112] [--batch 32] [--people 200] [--network mobilefacenet]

Claim: `train` does at least 0.9 of the images a second of the bare loop, whose batches lie in memory, decoded. Both run in turn in one
process. Faces are drawn (noise around a colour for each person), stored at their size, as aligned faces are. Writes
benchmarks/results/faces-training.json.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from cosphere import losses
from cosphere.data import Catalogue, read_catalogue
from cosphere.files import write_json
from cosphere.runs import RunFolder, provenance
from cosphere.spherical import SphericalConstraint
from cosphere.train import PlainReporter, TrainSettings, build_model, train
from cosphere.train.batches import BatchStream
from cosphere.train.memory import keep_freed_memory

RESULT = Path(__file__).parent / "results" / "faces-training.json"
CLAIM = "training MobileFaceNet by `train` does at least 0.9 of the images a second of a bare torch loop"
EACH = 4
"""Images of each person."""


class Silent(PlainReporter):
    """Prints nothing, so that printing is not timed."""

    def _line(self, text: str) -> None:
        pass


def draw_faces(folder: Path, people: int, size: int) -> Path:
    """JPEG files in a folder for each person."""
    rng = np.random.default_rng(0)
    for person in range(people):
        colour = rng.integers(0, 255, (8, 8, 3)).astype(np.uint8)
        base = np.asarray(Image.fromarray(colour).resize((size, size), Image.Resampling.BICUBIC), dtype=np.float64)
        place = folder / f"{person:05d}"
        place.mkdir(parents=True)
        for image in range(EACH):
            pixels = np.clip(base + rng.normal(0, 20, base.shape), 0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(place / f"{image}.jpg", quality=92)
    return folder


def settings_for(options: argparse.Namespace) -> TrainSettings:
    """One setting of both loops: the CASIA recipe of CosFace with SEC, at the size and batch of the options."""
    recipe = Path(__file__).parents[1] / "recipes" / "faces" / "casia-cosface-sec.yaml"
    return TrainSettings.read(recipe).with_values(
        {
            "steps": options.steps,
            "log_every": options.steps // 4,
            "checkpoint_every": 0,
            "device": "cpu",
            "images.size": options.size,
            "images.resize": options.size,
            "model.backbone": options.network,
            "batch.size": options.batch,
            "schedule.name": "constant",
            "schedule.milestones": [],
        }
    )


def loop_rate(settings: TrainSettings, catalogue: Catalogue, folder: Path) -> float:
    """Images a second of the loop, decoding, augmentation and logging included; the first quarter of the steps warms up."""
    run = RunFolder.create(folder)
    train(settings, catalogue, run, reporter=Silent(settings.steps))
    lines = run.read_metrics()[1:]
    return statistics.harmonic_mean([line["train/images_per_second"] for line in lines])


def bare_rate(settings: TrainSettings, catalogue: Catalogue) -> float:
    """Images a second of the same network, loss and optimiser, written as a plain torch loop over batches in memory."""
    embedder, augmentation = build_model(settings)
    loss = losses.build(
        settings.loss.name, num_classes=len(catalogue.label_names), dim=embedder.dim, **settings.loss.settings
    )
    sec = SphericalConstraint()
    source = iter(BatchStream(catalogue, settings, embedder.preprocessing, augmentation, device=torch.device("cpu")))
    drawn = (next(source) for _ in range(settings.log_every))
    batches = [
        (embedder.preprocessing.to_input(one.pixels).to(memory_format=torch.channels_last), one.labels) for one in drawn
    ]
    optimizer = torch.optim.SGD(
        [*embedder.parameters(), *loss.parameters()], lr=0.1, momentum=0.9, nesterov=True, weight_decay=5e-4
    )
    embedder.train()
    images, began = 0, 0.0
    for step in range(settings.steps):
        if step == settings.log_every:
            images, began = 0, time.perf_counter()
        inputs, labels = batches[step % len(batches)]
        embeddings = embedder(inputs)
        (loss(embeddings, labels) + settings.sec.weight * sec(embeddings)).backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        images += len(labels)
    return images / (time.perf_counter() - began)


def spread(values: list[float]) -> dict[str, Any]:
    """Median, smallest, largest and count."""
    return {"median": statistics.median(values), "min": min(values), "max": max(values), "runs": len(values)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in (("steps", 40), ("runs", 5), ("size", 112), ("batch", 32), ("people", 200)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--network", default="mobilefacenet")
    parser.add_argument("--json", type=Path, default=RESULT, help="file of the result")
    options = parser.parse_args()
    if options.people * EACH < options.batch * options.steps // 4:
        parser.error("--people are too few for the batches of a quarter of the steps; give more, or fewer steps")
    keep_freed_memory()  # as train does, so that the bare loop has it too
    settings = settings_for(options)
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        catalogue = read_catalogue(draw_faces(folder / "faces", options.people, options.size))
        loop_rate(settings.with_values({"steps": 4, "log_every": 1}), catalogue, folder / "warm")
        ours, bare = [], []
        for turn in range(options.runs):  # In turn, so that a drift of the machine's speed hits both.
            ours.append(loop_rate(settings, catalogue, folder / f"run{turn}"))
            bare.append(bare_rate(settings, catalogue))
            print(
                f"run {turn}: {ours[-1]:.1f} images/s, bare {bare[-1]:.1f}, ratio {ours[-1] / bare[-1]:.3f}", flush=True
            )
    ratios = [one / other for one, other in zip(ours, bare, strict=True)]
    result = {
        "claim": CLAIM,
        "holds": statistics.median(ratios) >= 0.9,
        "settings": {name: value for name, value in vars(options).items() if name != "json"},
        "threads": torch.get_num_threads(),
        "images_per_second": {"cosphere": spread(ours), "bare": spread(bare), "ratio": spread(ratios)},
        "provenance": provenance(),
    }
    write_json(options.json, result)
    print(f"ratio {statistics.median(ratios):.3f} ({min(ratios):.3f} to {max(ratios):.3f}); wanted at least 0.9")


if __name__ == "__main__":
    main()
