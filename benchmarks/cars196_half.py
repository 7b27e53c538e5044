"""What SEC adds on real photographs: triplet and multi-similarity, each without and with it, on unseen car models.

    python benchmarks/cars196_half.py choose DATA    # rates and weights, on validation classes
    python benchmarks/cars196_half.py measure DATA   # the recipes that came of it, three seeds each, on the test classes
    python benchmarks/cars196_half.py table          # the table of the README from the results

DATA holds `images/` and `labels.csv` (path, label, split) of half of Cars196: classes 1-98 for training, 99-196 for the test.

`choose` gives every arm the same number of candidates, steps and images; validation classes are 15 % of the training classes, the
test classes are not touched. `measure` trains on all training classes and keeps the last model. Finished runs are not repeated, so
both may be stopped and started. Writes benchmarks/results/cars196-half-choice.json and cars196-half.json.
"""

from __future__ import annotations

import argparse
import os
import shutil
from pathlib import Path
from typing import Any

import yaml

from cosphere.evaluate import paired_difference, seeds_summary
from cosphere.experiment import evaluate_run, run
from cosphere.files import read_json, write_json
from cosphere.runs import RunFolder, provenance
from cosphere.train import TrainSettings, reporter
from cosphere.train.settings import read_about

RECIPES = Path(__file__).parents[1] / "recipes" / "cars196-half"
RESULTS = Path(__file__).parent / "results"
CHOICE, RESULT = RESULTS / "cars196-half-choice.json", RESULTS / "cars196-half.json"
SEEDS = (0, 1, 2)
SCORES = ("recall@1", "recall@2", "recall@4", "recall@8", "map@r", "nmi", "f1")
CHOOSING = {"steps": 60, "data.validation_share": 0.15, "validation.every": 30, "validation.lens": False}
"""Settings of the short runs that choose rates and weights."""

RATES = [(1e-4, 1e-4, 0.0), (1e-4, 1e-3, 0.0), (3e-4, 3e-4, 0.0), (3e-4, 1e-3, 0.0)]
ARMS: dict[str, tuple[str, list[tuple[float, float, float]]]] = {
    "triplet": ("triplet", RATES),
    "triplet-sec": ("triplet", [(1e-4, 1e-4, 0.5), (1e-4, 1e-3, 0.5), (3e-4, 3e-4, 0.5), (3e-4, 3e-4, 0.1)]),
    "multi-similarity": ("multi_similarity", RATES),
    "multi-similarity-sec": (
        "multi_similarity",
        [(1e-4, 1e-4, 0.02), (1e-4, 1e-3, 0.02), (3e-4, 3e-4, 0.02), (3e-4, 3e-4, 0.1)],
    ),
}
"""Arm -> loss and its candidates: backbone rate, head rate and SEC weight, as many for each arm."""
TUNED = ("optimizer.backbone_rate", "optimizer.head_rate", "sec.weight")


def trained(name: str, runs: Path, recipe: str, values: dict[str, Any]) -> RunFolder:
    """A run of a recipe with some settings replaced; one that is done is taken as it is."""
    folder, path = runs / name, RECIPES / f"{recipe}.yaml"
    if not (folder / "seconds.json").exists():
        if folder.exists():  # Its time would be wrong, so a run that was broken off starts again.
            shutil.rmtree(folder)
        print(f"{name}: {recipe} with {values}", flush=True)
        settings = TrainSettings.read(path).with_values(values)
        result = run(settings, folder, about=read_about(path), reporter=reporter(settings.steps))
        shown = {key: value for key, value in values.items() if key != "data.root"}
        write_json(folder / "seconds.json", {"train_seconds": result.seconds, "recipe": recipe, "settings": shown})
    return RunFolder.open(folder)


def last_logged(folder: RunFolder) -> dict[str, Any]:
    """The last line of a run with the lengths of its embeddings."""
    return [row for row in folder.read_metrics() if "train/norm_cv" in row][-1]


def choose(data: str, runs: Path) -> None:
    """Try every candidate of every arm for a short while and keep the best on the validation classes."""
    chosen: dict[str, Any] = {}
    for arm, (loss, candidates) in ARMS.items():
        tried = []
        for number, candidate in enumerate(candidates):
            tuned = dict(zip(TUNED, candidate, strict=True))
            values = {"data.root": data, "loss.name": loss, **CHOOSING, **tuned}
            folder = trained(f"choose-{arm}-{number}", runs, "base", values)
            scores = [row["val/recall@1"] for row in folder.read_metrics() if row["step"] and "val/recall@1" in row]
            lengths = {name: last_logged(folder)[f"train/{name}"] for name in ("norm_cv", "sec_share")}
            tried.append({**tuned, "val/recall@1": max(scores), **lengths})
        chosen[arm] = {"best": max(tried, key=lambda row: row["val/recall@1"]), "tried": tried}
        print(arm, chosen[arm]["best"], flush=True)
    write_json(CHOICE, {"steps": CHOOSING["steps"], "arms": chosen, "provenance": provenance()})


def measure(data: str, runs: Path) -> None:
    """Train every recipe with every seed and score it on the test classes."""
    arms: dict[str, list[dict[str, Any]]] = {arm: [] for arm in ARMS}
    for seed in SEEDS:
        for arm, rows in arms.items():
            folder = trained(f"{arm}-seed{seed}", runs, arm, {"data.root": data, "seed": seed})
            rows.append(scored(folder, seed))
    if not (folder.path / "scores-untrained.json").exists():
        evaluate_run(folder.path, untrained=True)
    write_json(RESULT, summary(arms, read_json(folder.path / "scores-untrained.json", what="scores")))


def scored(folder: RunFolder, seed: int) -> dict[str, Any]:
    """Test scores, time and the lens of one run."""
    if not folder.scores.exists():
        evaluate_run(folder.path)
    scores = read_json(folder.scores, what="scores")["scores"]
    lens = {key: value for row in folder.read_metrics() for key, value in row.items() if key.startswith("lens/")}
    lengths = {name: last_logged(folder)[f"train/{name}"] for name in ("norm_mean", "norm_cv", "sec_share")}
    timing = read_json(folder.path / "seconds.json", what="the time of a run")
    return {"seed": seed, **{name: scores[name]["value"] for name in SCORES}, **timing, **lengths, **lens}


def summary(arms: dict[str, list[dict[str, Any]]], untrained: dict[str, Any]) -> dict[str, Any]:
    """Mean and interval over seeds, and the paired difference that SEC makes."""
    summed = (*SCORES, "train_seconds", "norm_cv")
    return {
        "claim": "Recall@1 on unseen classes, at least 15 points over the untrained backbone; what SEC adds, with paired seeds",
        "untrained": {name: untrained["scores"][name]["value"] for name in SCORES},
        "arms": {
            arm: {
                "recipe": yaml.safe_load((RECIPES / f"{arm}.yaml").read_text(encoding="utf-8")),
                "seeds": rows,
                "summary": {name: seeds_summary([row[name] for row in rows])._asdict() for name in summed},
            }
            for arm, rows in arms.items()
        },
        "sec_minus_none": {
            arm: {name: difference(arms[f"{arm}-sec"], rows, name) for name in SCORES}
            for arm, rows in arms.items()
            if f"{arm}-sec" in arms
        },
        "provenance": provenance(),
    }


def difference(ours: list[dict[str, Any]], theirs: list[dict[str, Any]], name: str) -> dict[str, Any]:
    """How much higher a score of one arm is than of another, seed by seed."""
    return paired_difference([row[name] for row in ours], [row[name] for row in theirs])._asdict()


def table() -> None:
    """Print the results as Markdown."""
    result = read_json(RESULT, what="results")
    print("| arm | " + " | ".join(SCORES) + " | length CV | minutes |")
    print("|---|" + "---|" * (len(SCORES) + 2))
    before = " | ".join(f"{100 * result['untrained'][name]:.1f}" for name in SCORES)
    print(f"| untrained backbone | {before} | | |")
    for arm, content in result["arms"].items():
        found = content["summary"]
        cells = " | ".join(f"{100 * found[name]['mean']:.1f} ± {100 * found[name]['sd']:.1f}" for name in SCORES)
        print(f"| {arm} | {cells} | {found['norm_cv']['mean']:.2f} | {found['train_seconds']['mean'] / 60:.1f} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["choose", "measure", "table"])
    parser.add_argument("data", nargs="?", help="the folder of half of Cars196")
    parser.add_argument("--runs", type=Path, default=Path(os.environ.get("COSPHERE_RUNS", "runs/cars196-half")))
    options = parser.parse_args()
    if options.what == "table":
        table()
    elif options.data is None:
        parser.error("where is the data?")
    else:
        {"choose": choose, "measure": measure}[options.what](options.data, options.runs)


if __name__ == "__main__":
    main()
