"""The picture of SEC: embeddings of three numbers, trained with and without it, from the same first weights and batches.

    python benchmarks/sphere.py /data/cars196-half [--classes 8] [--loss triplet] [--weight 0.3] [--steps 1000] [--seeds 3]

Trains a small head on cached features of the classes with most images, once without and once with SEC, and embeds the training
images again and again. A quarter of each class is held out, and only measured. Writes docs/figures/sphere.gif, sphere.png and
sphere.svg (seed 0) and benchmarks/results/sphere.json: the coefficient of variation (CV) of the lengths and Recall@1 of each seed.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from cosphere.data import Catalogue, read_catalogue
from cosphere.embeddings import Embeddings, FeatureCache, embed
from cosphere.evaluate import EvaluationSettings, score_embeddings
from cosphere.evaluate.statistics import seeds_summary
from cosphere.experiment.listener import SilentReporter
from cosphere.files import write_json
from cosphere.models import Embedder
from cosphere.report import SphereRun, write_sphere
from cosphere.runs import RunFolder, provenance
from cosphere.train import TrainSettings, train

HERE = Path(__file__).parent
RESULT, FIGURES = HERE / "results" / "sphere.json", HERE.parent / "docs" / "figures"
TRAIN, HELD_OUT = "train", "val"
FRAMES = 44
"""Snapshots in the animation: dense where lengths change fast, at the start."""


def images_of(root: Path, classes: int) -> Catalogue:
    """The training images of the classes with most of them; a quarter of each class is marked as held out."""
    catalogue = read_catalogue(root).select("train")
    sizes = np.bincount(catalogue.labels)
    largest = np.argsort(-sizes, kind="stable")[:classes]
    images = catalogue.select(classes=[catalogue.label_names[label] for label in largest])
    splits = np.full(len(images), TRAIN, dtype=object)
    generator = np.random.default_rng(0)
    for label in range(classes):
        rows = generator.permutation(np.flatnonzero(images.labels == label))
        splits[rows[: len(rows) // 4]] = HELD_OUT
    return replace(images, table=images.table.assign(split=splits))


def settings_for(options: argparse.Namespace, weight: float, seed: int, features: Path) -> TrainSettings:
    """A head with a hidden layer on frozen features: it can move single images, as a whole network can."""
    return TrainSettings().with_values(
        {
            "data.root": str(options.data),
            "device": "cpu",
            "seed": seed,
            "steps": options.steps,
            "images.size": 128,
            "images.preset": "normsoftmax",
            "model.dim": 3,
            "model.head": "mlp",
            "model.head_settings": {"hidden": 512, "output": "projection"},
            "batch.size": 5 * options.classes,
            "batch.images_per_class": 5,
            "loss.name": options.loss,
            "sec.weight": weight,
            "optimizer.head_rate": 1e-3,
            "schedule.name": "cosine",
            "validation.every": options.every,
            "validation.before": True,
            "validation.lens": False,
            "checkpoint_every": 0,
            "features.copies": 4,
            "features.seed": 0,
            "features.folder": str(features),
        }
    )


def trained(settings: TrainSettings, images: Catalogue, cache: FeatureCache) -> dict[str, list[Embeddings]]:
    """Embeddings of both parts before the first step and after every few steps."""
    snapshots: dict[str, list[Embeddings]] = {TRAIN: [], HELD_OUT: []}

    def look(embedder: Embedder, _: Catalogue) -> Mapping[str, float]:
        for split, taken in snapshots.items():
            taken.append(embed(embedder, images.select(split), features=cache))
        return {"recall@1": 0.0}  # No model is better than another: none is kept.

    with tempfile.TemporaryDirectory() as folder, RunFolder.claim(Path(folder) / "run") as run:
        train(settings, images, run, reporter=SilentReporter(), evaluate=look)
    return snapshots


def measured(embeddings: Embeddings) -> dict[str, float]:
    """CV and mean of the lengths, and Recall@1."""
    scores = score_embeddings(embeddings, EvaluationSettings(ks=(1,), metrics=(), clustering=False))
    return {"cv": scores.norms.cv, "mean": scores.norms.mean, "recall@1": scores.value("recall@1")}


def chosen(steps: list[int]) -> list[int]:
    """Places of the snapshots to draw: about evenly spaced in the square root of the step."""
    places = np.unique(np.round(np.linspace(0, 1, FRAMES) ** 2 * (len(steps) - 1)).astype(int))
    return [int(place) for place in places]


def main() -> None:
    """Train, draw, write and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--loss", default="triplet")
    parser.add_argument("--weight", type=float, default=0.3)
    for name, default in (("classes", 8), ("steps", 1000), ("every", 10), ("seeds", 3), ("threads", 1)):
        parser.add_argument(f"--{name}", type=int, default=default)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    images = images_of(options.data, options.classes)
    rows: list[dict[str, Any]] = []
    drawn: list[SphereRun] = []
    steps = list(range(0, options.steps + 1, options.every))
    with tempfile.TemporaryDirectory() as folder:
        features = Path(folder) / "features"
        for seed in range(options.seeds):
            for weight in (0.0, options.weight):
                settings = settings_for(options, weight, seed, features)
                snapshots = trained(settings, images, FeatureCache(features))
                parts = {split: measured(taken[-1]) for split, taken in snapshots.items()}
                rows.append({"weight": weight, "seed": seed, **parts})
                print(f"SEC {weight:g}, seed {seed}: CV {parts[TRAIN]['cv']:.3f}", flush=True)
                if seed == 0:
                    title = f"{options.loss} + SEC" if weight else f"{options.loss} alone"
                    taken = np.stack([one.embeddings for one in snapshots[TRAIN]])
                    drawn.append(SphereRun(title, taken[chosen(steps)]))
    labels = images.select(TRAIN).labels
    paths = write_sphere(drawn, labels, [steps[place] for place in chosen(steps)], FIGURES)
    write_json(RESULT, result(options, images, rows))
    print("\n".join(str(path) for path in paths))


def result(options: argparse.Namespace, images: Catalogue, rows: list[dict[str, Any]]) -> dict[str, Any]:
    """The numbers behind the picture."""
    summary = {
        f"sec.weight {weight:g}": {
            f"{split} {name}": seeds_summary([row[split][name] for row in rows if row["weight"] == weight])._asdict()
            for split in (TRAIN, HELD_OUT)
            for name in ("cv", "recall@1")
        }
        for weight in (0.0, options.weight)
    }
    return {
        "what": "3-d embeddings of the training images of some classes, trained with and without SEC; val: images held out of training",
        "settings": {key: value for key, value in vars(options).items() if key != "data"},
        "classes": images.class_names,
        "images": {split: len(images.select(split)) for split in (TRAIN, HELD_OUT)},
        "summary": summary,
        "runs": rows,
        "provenance": provenance(),
    }


if __name__ == "__main__":
    main()
