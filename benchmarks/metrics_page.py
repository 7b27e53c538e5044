"""The figures of docs/metrics.md: health, clustering settings, wrong labels and two ways to be sure, on models of cars196_half.py.

    python benchmarks/metrics_page.py --runs runs/cars196-half

Wants the test embeddings of the runs that cars196_half.py and equal_bytes.py train; simulations need nothing. Writes
benchmarks/results/metrics-page.json and prints the tables.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import Any

import numpy as np

from cosphere.evaluate import (
    Embeddings,
    bootstrap,
    bootstrap_classes,
    clustering_over_seeds,
    likely_mislabelled,
    mcnemar_test,
    retrieval,
    sign_flip_test,
)
from cosphere.experiment import read_arms
from cosphere.files import write_json
from cosphere.health import embedding_health
from cosphere.runs import RunFolder, provenance

RESULT = Path(__file__).parent / "results" / "metrics-page.json"
MODELS = ("triplet", "triplet-sec", "multi-similarity", "multi-similarity-sec", "norm-softmax-2048")
PRESETS = {"default": range(5), "norm_softmax": range(2), "sec": range(2)}
CLUSTERED = ("triplet-sec", "multi-similarity-sec")
SEEDS = range(3)
WRONG = 0.05
"""Share of labels that are made wrong."""
TRIALS = 300


def loaded(runs: Path, model: str, seed: int = 0) -> Embeddings:
    return Embeddings.load(RunFolder.open(runs / f"{model}-seed{seed}").embeddings("test"))


def health(runs: Path) -> dict[str, Any]:
    """Health of each model's test embeddings, seed by seed."""
    found: dict[str, Any] = {}
    for model in MODELS:
        rows = [loaded(runs, model, seed) for seed in SEEDS]
        found[model] = [embedding_health(one.embeddings, one.labels).as_dict() for one in rows]
        first = found[model][0]
        print(
            f"| {model} | {first['dim']} | {first['effective_rank']:.0f} | {first['participation_ratio']:.1f} | "
            f"{first['mean_cosine']:.2f} | {first['uniformity']:.2f} | {first['alignment']:.2f} | {first['hubness']:.2f} | "
            f"{100 * first['orphans']:.1f} % | {first['norm_cv']:.2f} | {100 * first['margin_below_zero']:.1f} % |",
            flush=True,
        )
    return found


def clusterings(runs: Path) -> dict[str, Any]:
    """The same embeddings clustered as each paper does, mean and deviation over the seeds of k-means."""
    found: dict[str, Any] = {}
    for model in CLUSTERED:
        rows = loaded(runs, model)
        found[model] = {}
        for preset, seeds in PRESETS.items():
            summary = clustering_over_seeds(rows.embeddings, rows.labels, seeds=seeds, preset=preset).as_dict()
            found[model][preset] = summary
            cells = [
                f"{100 * summary[name]['mean']:.1f} ± {100 * summary[name]['sd']:.1f}"
                for name in ("nmi", "ami", "f1", "purity")
            ]
            print(f"| {model} | {preset} | " + " | ".join(cells) + " |", flush=True)
    return found


def wrong_labels(runs: Path) -> dict[str, Any]:
    """5 % of the labels are made wrong: are they among the first suspects, and which classes sink?"""
    found: dict[str, Any] = {}
    for model in ("multi-similarity-sec", "norm-softmax-2048"):
        rows = loaded(runs, model)
        random = np.random.default_rng(0)
        count, classes = len(rows), int(rows.labels.max()) + 1
        bad = random.choice(count, int(WRONG * count), replace=False)
        labels = rows.labels.copy()
        labels[bad] = (labels[bad] + random.integers(1, classes, len(bad))) % classes
        flagged = np.isin(likely_mislabelled(rows.embeddings, labels).rows, bad)
        found[model] = {
            "images": count,
            "wrong": len(bad),
            "true_among_first": {str(n): float(flagged[:n].mean()) for n in (20, 50, 100, len(bad))},
            "found_of_wrong": float(flagged.sum() / len(bad)),
            "suspects": len(flagged),
            "one_class": one_class(rows),
        }
        print(model, found[model], flush=True)
    return found


def one_class(rows: Embeddings) -> dict[str, Any]:
    """All wrong labels in one place: images of several classes labelled as one. Where does it stand among the weakest?"""
    random = np.random.default_rng(0)
    bad = random.choice(np.flatnonzero(rows.labels != 0), int(WRONG * len(rows)), replace=False)
    labels = rows.labels.copy()
    labels[bad] = 0
    places = []
    for known in (rows.labels, labels):
        table = retrieval(rows.embeddings, known, (1,)).per_class()
        order = table.worst("map@r", len(table))
        places.append(int(np.flatnonzero(table.labels[order] == 0)[0]) + 1)
    return {"classes": len(np.unique(rows.labels)), "place_before": places[0], "place_after": places[1]}


def worked_comparison(runs: Path) -> dict[str, Any]:
    """One seed of triplet with and without SEC: how sure over queries, how sure over classes."""
    names = ("recall@1", "map@r", "r_precision")
    arms = {arm: [runs / f"{arm}-seed0"] for arm in ("triplet", "triplet-sec")}
    matched = read_arms(arms, list(names))
    found: dict[str, Any] = {}
    for name in names:
        before, after = (matched.arms[arm].values[name][0] for arm in arms)
        change = after - before
        found[name] = {
            "before": float(before.mean()),
            "after": float(after.mean()),
            "difference": float(change.mean()),
            "over_queries": bootstrap(change),
            "over_classes": bootstrap_classes(change, matched.classes),
            "after_over_queries": bootstrap(after),
            "after_over_classes": bootstrap_classes(after, matched.classes),
            "p_over_queries": sign_flip_test(change),
            "p_over_classes": sign_flip_test(change, classes=matched.classes),
        }
        print(name, found[name], flush=True)
    return found


def simulations() -> dict[str, Any]:
    """How often a 95 % interval holds the truth, and how often a test at 5 % is wrong, when queries share their class."""
    random = np.random.default_rng(0)
    classes, each = 98, 40
    own = np.repeat(np.arange(classes), each)
    held = {"over_queries": 0, "over_classes": 0}
    rejected = {"mcnemar": 0, "sign_flip_over_classes": 0}
    few = np.repeat(np.arange(50), 20)
    for trial in range(TRIALS):
        values = (random.random(len(own)) < random.beta(2, 2, classes)[own]).astype(float)
        intervals = bootstrap(values, samples=400, seed=trial), bootstrap_classes(values, own, samples=400, seed=trial)
        for name, (low, high) in zip(held, intervals, strict=True):
            held[name] += bool(low <= 0.5 <= high)
        lean = random.normal(0, 0.15, 50)[few] / 2
        first, second = ((random.random(len(few)) < 0.5 + sign * lean).astype(float) for sign in (1, -1))
        rejected["mcnemar"] += bool(mcnemar_test(first, second) < 0.05)
        rejected["sign_flip_over_classes"] += bool(sign_flip_test(first - second, classes=few, samples=500) < 0.05)
    found = {
        "trials": TRIALS,
        "covers": {name: count / TRIALS for name, count in held.items()},
        "rejects_without_difference": {name: count / TRIALS for name, count in rejected.items()},
    }
    print(found, flush=True)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=Path, default=Path(os.environ.get("COSPHERE_RUNS", "runs/cars196-half")))
    runs = parser.parse_args().runs
    content = {part.__name__: part(runs) for part in (health, clusterings, wrong_labels, worked_comparison)}
    write_json(RESULT, {**content, "simulations": simulations(), "provenance": provenance()})


if __name__ == "__main__":
    main()
