"""MobileFaceNet trained by the loop, and by a bare torch loop over the same network, batches, loss and optimiser.

    python benchmarks/faces_training.py [--rounds 7] [--steps 8] [--size 112] [--batch 16] [--network mobilefacenet]

Claim: `train` does at least 0.9 of the images a second of the bare loop, whose batches lie in memory, decoded. Both run in turn in one
process, a few steps each, and every step is timed; a round's time is the median step, so that one slow step does not decide. CPU time is
measured beside wall time, because it says what the loop costs on a machine with other work too. Faces are drawn (noise around a colour
for each person), stored at their size, as aligned faces are. Writes benchmarks/results/faces-training.json.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any, NamedTuple

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
"""Images of each person. There are as many people as images in a batch, so that an epoch is four steps."""
WARM = 3
"""Steps of a round that are not timed."""


class StepTime(NamedTuple):
    """Seconds of a step: the median of a round."""

    wall: float
    cpu: float


class Clock:
    """Notes the time after each step."""

    def __init__(self) -> None:
        self.moments: list[tuple[float, float]] = []

    def tick(self) -> None:
        self.moments.append((time.perf_counter(), time.process_time()))

    def step_time(self, warm: int) -> StepTime:
        """Of the steps behind the first ``warm``, which fill caches and memory."""
        steps = np.diff(np.array(self.moments), axis=0)[warm - 1 :]
        wall, cpu = np.median(steps, axis=0).tolist()
        return StepTime(wall, cpu)


class Timed(PlainReporter):
    """Notes the time of each step, and prints nothing, so that printing is not timed."""

    def __init__(self, steps: int) -> None:
        super().__init__(steps)
        self.clock = Clock()

    def stepped(self, step: int) -> None:
        super().stepped(step)
        self.clock.tick()

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
    """One setting of both loops: the CASIA recipe of CosFace with SEC, at the size and batch of the options, in 512 dimensions."""
    recipe = Path(__file__).parents[1] / "recipes" / "faces" / "casia-cosface-sec.yaml"
    return TrainSettings.read(recipe).with_values(
        {
            "steps": options.steps,
            "log_every": 2,
            "checkpoint_every": 0,
            "device": "cpu",
            "images.size": options.size,
            "images.resize": options.size,
            "model.backbone": options.network,
            "model.dim": 512,
            "batch.size": options.batch,
            "schedule.name": "constant",
            "schedule.milestones": [],
        }
    )


def loop_time(settings: TrainSettings, catalogue: Catalogue, folder: Path) -> StepTime:
    """A step of the loop, decoding, augmentation and logging included."""
    reporter = Timed(settings.steps)
    train(settings, catalogue, RunFolder.create(folder), reporter=reporter)
    return reporter.clock.step_time(WARM)


def bare_time(settings: TrainSettings, catalogue: Catalogue) -> StepTime:
    """A step of the same network, loss and optimiser, written as a plain torch loop over batches in memory."""
    embedder, augmentation = build_model(settings)
    loss = losses.build(
        settings.loss.name, num_classes=len(catalogue.label_names), dim=embedder.dim, **settings.loss.settings
    )
    sec = SphericalConstraint()
    source = iter(BatchStream(catalogue, settings, embedder.preprocessing, augmentation, device=torch.device("cpu")))
    drawn = [next(source) for _ in range(2)]
    batches = [
        (embedder.preprocessing.to_input(one.pixels).to(memory_format=torch.channels_last), one.labels) for one in drawn
    ]
    optimizer = torch.optim.SGD(
        [*embedder.parameters(), *loss.parameters()], lr=0.1, momentum=0.9, nesterov=True, weight_decay=5e-4
    )
    embedder.train()
    clock = Clock()
    for step in range(settings.steps):
        inputs, labels = batches[step % len(batches)]
        embeddings = embedder(inputs)
        (loss(embeddings, labels) + settings.sec.weight * sec(embeddings)).backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        clock.tick()
    return clock.step_time(WARM)


def spread(values: list[float]) -> dict[str, Any]:
    """Median, smallest, largest and count."""
    return {"median": statistics.median(values), "min": min(values), "max": max(values), "runs": len(values)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in (("steps", 8), ("rounds", 7), ("size", 112), ("batch", 16)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--network", default="mobilefacenet")
    parser.add_argument("--json", type=Path, default=RESULT, help="file of the result")
    options = parser.parse_args()
    if options.steps <= WARM + 1:
        parser.error(f"--steps must be above {WARM + 1}: the first {WARM} warm up")
    keep_freed_memory()  # as train does, so that the bare loop has it too
    settings = settings_for(options)
    ours: list[StepTime] = []
    bare: list[StepTime] = []
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        catalogue = read_catalogue(draw_faces(folder / "faces", options.batch, options.size))
        for turn in range(options.rounds):  # In turn, so that a drift of the machine's speed hits both.
            ours.append(loop_time(settings, catalogue, folder / f"run{turn}"))
            bare.append(bare_time(settings, catalogue))
            print(
                f"round {turn}: {1000 * ours[-1].wall:.0f} ms a step, bare {1000 * bare[-1].wall:.0f}, ratio "
                f"{bare[-1].wall / ours[-1].wall:.3f} (of CPU time {bare[-1].cpu / ours[-1].cpu:.3f})",
                flush=True,
            )
    ratios = {
        kind: [getattr(b, kind) / getattr(o, kind) for o, b in zip(ours, bare, strict=True)] for kind in ("wall", "cpu")
    }
    result = {
        "claim": CLAIM,
        "holds": statistics.median(ratios["wall"]) >= 0.9,
        "settings": {name: value for name, value in vars(options).items() if name != "json"},
        "threads": torch.get_num_threads(),
        "images_per_second": {
            "cosphere": spread([options.batch / one.wall for one in ours]),
            "bare": spread([options.batch / one.wall for one in bare]),
            "ratio": spread(ratios["wall"]),
        },
        "ratio_of_cpu_time": spread(ratios["cpu"]),
        "provenance": provenance(),
    }
    write_json(options.json, result)
    for kind, values in ratios.items():
        print(f"ratio of {kind} time {statistics.median(values):.3f} ({min(values):.3f} to {max(values):.3f})")
    print("wanted at least 0.9 of wall time")


if __name__ == "__main__":
    main()
