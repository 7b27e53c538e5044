"""What the training loop costs over a bare one, what SEC costs in a step, and how fast the command answers.

    python benchmarks/training.py [--steps 30] [--runs 5] [--size 128] [--batch 60] [--precision bf16]
    python benchmarks/training.py --formats tf_efficientnet_lite0,mobilefacenet [--runs 3] [--size 128] [--batch 60]

Claims: at least 0.9 of the images a second of a bare loop over the same model and batches that are decoded already; SEC at
most 1 % of a step; `cosphere --help` within a second. Writes benchmarks/results/training.json.

With --formats it compares float32 with bf16 instead: whole steps of each network, untrained, on random batches, in one thread, in turn.
Claims: bf16 is faster where the processor computes in it, and frozen norms in the weights of convolutions are faster than layers.
Processor time is counted, so that other work on the machine takes little part.
Writes benchmarks/results/training-formats.json.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from cosphere import losses
from cosphere.data import Catalogue, read_catalogue
from cosphere.files import write_json
from cosphere.models import Embedder
from cosphere.runs import RunFolder, provenance
from cosphere.spherical import SphericalConstraint
from cosphere.stamps import draw_stamps
from cosphere.train import (
    BatchSettings,
    DataSettings,
    ImageSettings,
    LossSettings,
    PlainReporter,
    SecSettings,
    TrainSettings,
    ValidationSettings,
    bfloat16_is_native,
    build_model,
    train,
)
from cosphere.train.batches import BatchStream
from cosphere.train.memory import keep_freed_memory
from cosphere.train.parameters import build_optimizer, parameter_groups

RESULT = Path(__file__).parent / "results" / "training.json"
FORMATS = RESULT.with_name("training-formats.json")


class Silent(PlainReporter):
    """Prints nothing, so that printing is not timed."""

    def _line(self, text: str) -> None:
        pass


def settings_for(options: argparse.Namespace, cache: str) -> TrainSettings:
    """One setting of both loops."""
    return TrainSettings(
        steps=options.steps,
        precision=options.precision,
        checkpoint_every=0,
        device="cpu",
        data=DataSettings(validation_share=0.0, cache=cache),
        images=ImageSettings(size=options.size, preset="normsoftmax"),
        batch=BatchSettings(size=options.batch, images_per_class=5),
        loss=LossSettings(name="multi_similarity"),
        sec=SecSettings(weight=0.02),
        validation=ValidationSettings(every=0, before=False, lens=False),
    )


def cosphere_rate(settings: TrainSettings, catalogue: Catalogue, folder: Path) -> float:
    """Images a second of the real loop: decoding or cache, augmentation, logging and all; without start and the last checkpoint."""
    run = RunFolder.create(folder)
    train(settings, catalogue, run, reporter=Silent(settings.steps))
    lines = run.read_metrics()
    # The first line holds warming up.
    seconds = [settings.log_every * settings.batch.size / line["train/images_per_second"] for line in lines[1:]]
    return len(seconds) * settings.log_every * settings.batch.size / sum(seconds)


def bare_rate(settings: TrainSettings, catalogue: Catalogue) -> float:
    """Images a second of a bare loop: the same model, loss and optimiser over tensors that lie in memory."""
    embedder, augmentation = build_model(settings)
    loss, sec = (
        losses.build(settings.loss.name, num_classes=len(catalogue.class_names), dim=embedder.dim),
        SphericalConstraint(),
    )
    stream = BatchStream(catalogue, settings, embedder.preprocessing, augmentation, device=torch.device("cpu"))
    source = iter(stream)
    batches = [next(source) for _ in range(settings.log_every)]
    optimizer = build_optimizer(parameter_groups(embedder, loss, sec, settings.optimizer), settings.optimizer)
    embedder.train()
    began = 0.0
    for step in range(settings.steps):
        if step == settings.log_every:
            began = time.perf_counter()
        batch = batches[step % len(batches)]
        inputs = embedder.preprocessing.to_input(batch.pixels).to(memory_format=torch.channels_last)
        bare_step(settings, embedder, loss, sec, optimizer, inputs, batch.labels)
    return (settings.steps - settings.log_every) * settings.batch.size / (time.perf_counter() - began)


def bare_step(
    settings: TrainSettings,
    embedder: Embedder,
    loss: torch.nn.Module,
    sec: SphericalConstraint,
    optimizer: torch.optim.Optimizer,
    inputs: torch.Tensor,
    labels: torch.Tensor,
) -> None:
    """One optimiser step."""
    with torch.autocast("cpu", torch.bfloat16, enabled=settings.precision == "bf16"):
        embeddings = embedder(inputs).float()
    (loss(embeddings, labels) + settings.sec.weight * sec(embeddings)).backward()
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)


def compare_formats(options: argparse.Namespace) -> dict[str, Any]:
    """Images per second of processor time of each network in both number formats, and what frozen norms in weights save."""
    keep_freed_memory()  # as training does
    torch.set_num_threads(1)
    found: dict[str, Any] = {}
    for network in options.formats.split(","):
        base = settings_for(options, "")
        base = replace(base, model=replace(base.model, backbone=network, weights="none"))
        embedder, _ = build_model(base)
        embedder.train()
        loss, sec = losses.build(base.loss.name, num_classes=2, dim=embedder.dim), SphericalConstraint()
        optimizer = build_optimizer(parameter_groups(embedder, loss, sec, base.optimizer), base.optimizer)
        inputs = torch.randn(options.batch, 3, options.size, options.size).to(memory_format=torch.channels_last)
        labels = torch.arange(options.batch) // base.batch.images_per_class
        embedder(inputs[:2])  # finds the norms that weights can hold
        found_norms = embedder._frozen_norms._names or []
        ways = [(form, norms) for form in ("float32", "bf16") for norms in ("in weights", "layers")]
        rates: dict[tuple[str, str], list[float]] = {way: [] for way in ways}
        for turn in range(options.runs + 1):
            for form, norms in ways:
                embedder._frozen_norms._names = found_norms if norms == "in weights" else []
                began = time.process_time()
                bare_step(replace(base, precision=form), embedder, loss, sec, optimizer, inputs, labels)
                if turn:  # the first one warms up
                    rates[form, norms].append(options.batch / (time.process_time() - began))
        full, half = rates["float32", "in weights"], rates["bf16", "in weights"]
        found[network] = {
            "float32": spread(full),
            "bf16": spread(half),
            "ratio": spread([one / other for one, other in zip(half, full, strict=True)]),
            "of_norms_as_layers": {
                form: spread(
                    [one / other for one, other in zip(rates[form, "in weights"], rates[form, "layers"], strict=True)]
                )
                for form in ("float32", "bf16")
            },
        }
        line = {name: found[network][name]["median"] for name in ("float32", "bf16", "ratio")}
        gains = [ratio["median"] for ratio in found[network]["of_norms_as_layers"].values()]
        print(
            f"{network:28} float32 {line['float32']:6.1f}, bf16 {line['bf16']:6.1f} images/s, ratio {line['ratio']:.2f}; "
            f"frozen norms in weights against layers {gains[0]:.2f} and {gains[1]:.2f}",
            flush=True,
        )
    return {
        "claim": "on a CPU that computes in bf16 it trains faster than float32; frozen norms in weights are faster than layers",
        "bf16_is_native": bfloat16_is_native(),
        "settings": {name: getattr(options, name) for name in ("formats", "runs", "size", "batch")},
        "load_at_start": os.getloadavg()[0],
        "images_per_processor_second": found,
        "provenance": provenance(),
    }


def sec_seconds(batch: int, dim: int, runs: int) -> list[float]:
    """Forward and backward of SEC alone, seconds each."""
    sec, embeddings = SphericalConstraint(), torch.randn(batch, dim, requires_grad=True)
    times = []
    for turn in range(runs + 20):
        began = time.perf_counter()
        sec(embeddings).backward()
        if turn >= 20:
            times.append(time.perf_counter() - began)
    return times


def help_seconds(runs: int) -> list[float]:
    """Whole process of `cosphere --help`."""
    times = []
    for _ in range(runs):
        began = time.perf_counter()
        subprocess.run([sys.executable, "-m", "cosphere", "--help"], check=True, capture_output=True)
        times.append(time.perf_counter() - began)
    return times


def spread(values: list[float]) -> dict[str, Any]:
    """Median, smallest, largest and count."""
    return {"median": statistics.median(values), "min": min(values), "max": max(values), "runs": len(values)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in (("steps", 30), ("runs", 5), ("size", 128), ("batch", 60)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--precision", choices=["float32", "bf16"], default="bf16")
    parser.add_argument("--formats", default="", metavar="NETWORKS", help="compare float32 with bf16 on these")
    options = parser.parse_args()
    if options.formats:
        write_json(FORMATS, compare_formats(options))
        return
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        catalogue = read_catalogue(draw_stamps(folder / "stamps", designs=40, impressions=20)).select("train")
        settings = settings_for(options, str(folder / "cache"))
        cosphere_rate(
            settings, catalogue, folder / "warm"
        )  # Fills the cache, so that later runs find it as a second epoch would.
        ours, bare = [], []
        for turn in range(options.runs):  # In turn, so that a drift of the machine's speed hits both.
            ours.append(cosphere_rate(settings, catalogue, folder / f"run{turn}"))
            bare.append(bare_rate(settings, catalogue))
    ratios = [one / other for one, other in zip(ours, bare, strict=True)]
    sec = sec_seconds(options.batch, 512, 200)
    step_seconds = options.batch / statistics.median(ours)
    result = {
        "claim": "at least 0.9 of a bare loop; SEC at most 1 % of a step; --help within a second",
        "settings": {name: value for name, value in vars(options).items() if name != "formats"},
        "images_per_second": {"cosphere": spread(ours), "bare": spread(bare), "ratio": spread(ratios)},
        "sec": {"seconds": spread(sec), "share_of_step": statistics.median(sec) / step_seconds},
        "help_seconds": spread(help_seconds(options.runs)),
        "provenance": provenance(),
    }
    write_json(RESULT, result)
    print(
        f"cosphere {spread(ours)['median']:.1f} images/s, bare {spread(bare)['median']:.1f}, ratio {spread(ratios)['median']:.3f}"
    )
    print(f"SEC {1e6 * statistics.median(sec):.0f} us = {100 * result['sec']['share_of_step']:.3f} % of a step")  # type: ignore[index]
    print(f"cosphere --help {result['help_seconds']['median']:.2f} s")  # type: ignore[index]


if __name__ == "__main__":
    main()
