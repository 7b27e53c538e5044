"""A short training run, timed in a process of its own: what a step, an embedding and a cached feature cost on this machine."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from cosphere._types import Integers
from cosphere.data import Catalogue, TrainingParts
from cosphere.errors import CosphereError, RunError
from cosphere.experiment.images import parts_of_training, training_images
from cosphere.experiment.stopwatch import UNTIMED, Stopwatch
from cosphere.experiment.training import starting_model, validation_scores
from cosphere.files import write_json
from cosphere.models import Embedder
from cosphere.runs import RunFolder
from cosphere.train import TrainSettings, Validation, train
from cosphere.train.features import feature_cache, training_features
from cosphere.train.memory import peak_memory

STEPS, FROZEN_STEPS = 4, 100
"""Steps of a trial, on images and on cached features; the first one is not counted."""
MOST_IMAGES = 96
"""Images of each part that a trial validates on or computes features of."""


@dataclass(frozen=True, kw_only=True)
class Cost:
    """What a choice of settings costs on this machine."""

    start: float
    """Seconds until training can begin: imports, listing, weights."""
    step: float
    """Seconds of an optimiser step, decoding included."""
    lens: float
    """Seconds of a validation beyond embedding: the norm lens, the health numbers, the model on disk."""
    embedded: float
    """Validation images embedded in a second."""
    features: float
    """Views of training images whose features are computed in a second; 0 without cached features."""
    memory: int
    """Largest memory of the process, in bytes."""
    device_memory: int
    """Largest memory on the GPU, in bytes; 0 on a CPU."""


def measure_cost(settings: TrainSettings) -> Cost:
    """Run :func:`trial` in a process of its own.

    Args:
        settings: of the run that is planned.

    Raises:
        RunError: the trial failed; the error quotes its reason.
    """
    with tempfile.TemporaryDirectory(prefix="cosphere-trial-") as folder:
        place = Path(folder)
        settings.write(place / "config.yaml")
        start = "import sys; from cosphere.experiment.trial import main; sys.exit(main(*sys.argv[1:]))"
        command = [sys.executable, "-c", start, folder, str(time.time())]
        ended = subprocess.run(command, capture_output=True, text=True, check=False)
        if ended.returncode:
            reason = ended.stderr.strip().splitlines()[-1:] or [f"exit status {ended.returncode}"]
            raise RunError(f"a trial of these settings failed: {reason[0]} Try the settings with `cosphere train`.")
        return Cost(**json.loads((place / "cost.json").read_text(encoding="utf-8")))


def trial(settings: TrainSettings, folder: Path, *, began: float) -> Cost:
    """Train a few steps on a sample of the images, and time each part.

    Args:
        settings: of the run that is planned; steps, validation and places are replaced.
        folder: an empty folder for the run.
        began: ``time.monotonic()`` when the process started.
    """
    frozen = settings.features.copies > 0
    steps = FROZEN_STEPS if frozen else STEPS
    catalogue = training_images(settings)
    sampled = sample(parts_of_training(catalogue, settings), frozen=frozen)
    short = settings.with_values(
        {
            "steps": steps,
            **UNTIMED,
            "validation.before": True,
            "features.copies": min(settings.features.copies, max(2, settings.batch.views)),
            "features.folder": str(folder / "features"),
        }
    )
    watch, looks = Stopwatch(), list[tuple[float, float]]()
    with RunFolder.claim(folder / "run") as run_folder:
        score = validation_scores(short, features=feature_cache(short, run_folder.path))

        def timed(embedder: Embedder, images: Catalogue) -> Validation | Mapping[str, float]:
            start = time.monotonic()
            scores = score(embedder, images)
            looks.append((start, time.monotonic() - start))
            return scores

        start = time.monotonic() - began
        features = _features_in_a_second(short, sampled.select("train"), run_folder.path) if frozen else 0.0
        train(short, sampled, run_folder, reporter=watch, evaluate=timed)
    ended = time.monotonic()
    return _cost(short, sampled, watch.steps, looks, features=features, start=start, ended=ended)


def _features_in_a_second(settings: TrainSettings, images: Catalogue, run: Path) -> float:
    """Views whose features are computed in a second, without the first batch: starting takes longer than a batch of a trial."""
    cache = feature_cache(settings, run)
    assert cache is not None
    embedder, augmentation = starting_model(settings)
    counts, times = [0], [time.monotonic()]

    def progress(done: int, _: int) -> None:
        counts.append(done)
        times.append(time.monotonic())

    training_features(settings, embedder, images, augmentation, cache, progress)
    first = 1 if len(counts) > 2 else 0
    return (counts[-1] - counts[first]) / max(times[-1] - times[first], 1e-3)


def _cost(
    settings: TrainSettings,
    sampled: Catalogue,
    times: list[float],
    looks: list[tuple[float, float]],
    *,
    features: float,
    start: float,
    ended: float,
) -> Cost:
    """Split the time of a trial into its parts."""
    splits = dict(zip(*np.unique(sampled.splits.astype(str), return_counts=True), strict=True))
    steps = np.diff(times)
    first = looks[0][1] if looks else 0.0
    last = looks[-1][1] if looks else 0.0
    frozen = settings.features.copies > 0
    # On cached features only the first validation embeds; on images each does, and the last one is warm.
    embedding = first - last if frozen else last
    return Cost(
        start=start,
        step=float(np.median(steps)),
        lens=max(0.0, ended - times[-1] - last),
        embedded=int(splits.get("val", 0)) / max(embedding, 1e-3) if looks else 1.0,
        features=features,
        memory=peak_memory() or 0,
        device_memory=torch.cuda.max_memory_reserved() if torch.cuda.is_available() else 0,
    )


def sample(parts: TrainingParts, *, frozen: bool) -> Catalogue:
    """A few images of whole validation classes; all training images, or a few where each is embedded before the first step."""
    tables = []
    for name, images in (("train", parts.train), ("val", parts.val)):
        if images is None:
            continue
        few = _few(images) if name == "val" or frozen else np.arange(len(images))
        tables.append(images.rows(few).table.assign(split=name))
    return Catalogue(table=pd.concat(tables, ignore_index=True), root=parts.train.root, layout=parts.train.layout)


def _few(images: Catalogue) -> Integers:
    """Rows of whole classes, in random order of the classes, until there are enough; at least two classes."""
    order = np.random.default_rng(0).permutation(len(images.label_names))
    rows: list[int] = []
    for place, label in enumerate(order):
        if place >= 2 and len(rows) >= MOST_IMAGES:
            break
        rows += np.flatnonzero(images.labels == label).tolist()
    return np.array(rows, dtype=np.int64)


def main(folder: str, started: str) -> int:
    """Read `config.yaml` in a folder, run the trial there and write `cost.json`.

    Args:
        folder: with the settings.
        started: ``time.time()`` when this process was started, so that its imports count.
    """
    began = time.monotonic() - (time.time() - float(started))
    try:
        cost = trial(TrainSettings.read(Path(folder) / "config.yaml"), Path(folder), began=began)
    except CosphereError as error:
        print(error, file=sys.stderr)
        return 2
    write_json(Path(folder) / "cost.json", asdict(cost))
    return 0
