"""What SEC is worth on real photographs: triplet and multi-similarity, each without and with it, on unseen car models.

    python benchmarks/cars196_half.py choose DATA    # rates and weights, on held-out training classes
    python benchmarks/cars196_half.py measure DATA   # the recipes that came of it, three seeds each, on the test classes
    python benchmarks/cars196_half.py table          # the table of the README from the results

DATA holds `images/` and `labels.csv` (path, label, split) of half of Cars196: classes 1-98 for training, 99-196 for the test.

`choose` gives every arm the same number of candidates, steps and images; validation classes are 15 % of the training classes, the
test classes are not touched. `measure` trains on all training classes and keeps the last model. Runs that are done are not
repeated, so both may be stopped and started. Writes benchmarks/results/cars196-half-choice.json and cars196-half.json.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import yaml

from cosphere.evaluate import paired_difference, seeds_summary
from cosphere.files import write_json
from cosphere.runs import RunFolder, provenance

HERE = Path(__file__).parent
RECIPES = HERE.parent / "recipes" / "cars196-half"
CHOICE, RESULT = HERE / "results" / "cars196-half-choice.json", HERE / "results" / "cars196-half.json"
SEEDS = (0, 1, 2)
CHOOSING_STEPS = 60

LOSSES = {"triplet": "triplet", "multi-similarity": "multi_similarity"}
RATES = [(1e-4, 1e-4), (1e-4, 1e-3), (3e-4, 3e-4), (3e-4, 1e-3)]
"""Backbone and head rate: the candidates of an arm without SEC."""
WITH_SEC = {
    "triplet": [(1e-4, 1e-4, 0.5), (1e-4, 1e-3, 0.5), (3e-4, 3e-4, 0.5), (3e-4, 3e-4, 0.1)],
    "multi-similarity": [(1e-4, 1e-4, 0.02), (1e-4, 1e-3, 0.02), (3e-4, 3e-4, 0.02), (3e-4, 3e-4, 0.1)],
}
"""Backbone rate, head rate and SEC weight: as many candidates for an arm with SEC."""
SCORES = ("recall@1", "recall@2", "recall@4", "recall@8", "map@r", "nmi", "f1")


def candidates(loss: str, *, sec: bool) -> list[dict[str, float]]:
    """Settings to try, as command line settings."""
    rows = WITH_SEC[loss] if sec else [(*rates, 0.0) for rates in RATES]
    return [
        {"optimizer.backbone_rate": body, "optimizer.head_rate": head, "sec.weight": weight}
        for body, head, weight in rows
    ]


def command(words: list[str]) -> float:
    """Run `cosphere ...` and return its wall time in seconds."""
    print("$ cosphere", shlex.join(words), flush=True)
    began = time.perf_counter()
    subprocess.run([sys.executable, "-m", "cosphere", *words], check=True)
    return time.perf_counter() - began


def trained(name: str, runs: Path, words: list[str]) -> RunFolder:
    """Train a run, or take it as it is when it is done."""
    folder = runs / name
    done = folder / "seconds.json"
    if not done.exists():
        if (folder / "run.json").exists():  # Its time would be wrong, so a run that was broken off starts afresh.
            shutil.rmtree(folder)
        fresh = ["train", *words, "--name", name, "--runs", str(runs)]
        shown = [Path(word).name if Path(word).is_absolute() else word for word in fresh]
        write_json(done, {"train_seconds": command(fresh), "command": "cosphere " + shlex.join(shown)})
    return RunFolder.open(folder)


def choose(data: str, runs: Path) -> None:
    """Try every candidate of every arm for a short while and keep the best on the validation classes."""
    chosen: dict[str, Any] = {}
    for loss, name in LOSSES.items():
        for sec in (False, True):
            arm = loss + ("-sec" if sec else "")
            tried = []
            for number, overrides in enumerate(candidates(loss, sec=sec)):
                words = [
                    data,
                    "--config",
                    str(RECIPES / "base.yaml"),
                    "--loss.name",
                    name,
                    "--steps",
                    str(CHOOSING_STEPS),
                ]
                words += ["--data.validation_share", "0.15", "--validation.every", "30", "--validation.lens", "false"]
                words += [part for key, value in overrides.items() for part in (f"--{key}", str(value))]
                folder = trained(f"choose-{arm}-{number}", runs, words)
                metrics = folder.read_metrics()
                scores = [row["val/recall@1"] for row in metrics if row.get("val/recall@1") is not None and row["step"]]
                lens = [row for row in metrics if "train/norm_cv" in row][-1]
                tried.append(
                    {
                        **overrides,
                        "val/recall@1": max(scores),
                        "norm_cv": lens["train/norm_cv"],
                        "sec_share": lens["train/sec_share"],
                    }
                )
            best = max(tried, key=lambda row: row["val/recall@1"])
            chosen[arm] = {"best": best, "tried": tried}
            print(arm, best, flush=True)
    write_json(CHOICE, {"steps": CHOOSING_STEPS, "arms": chosen, "provenance": provenance()})


def measure(data: str, runs: Path) -> None:
    """Train every recipe with every seed and score it on the test classes."""
    arms: dict[str, list[dict[str, Any]]] = {}
    for seed in SEEDS:
        for loss in LOSSES:
            for arm in (loss, f"{loss}-sec"):
                words = [data, "--config", str(RECIPES / f"{arm}.yaml"), "--seed", str(seed)]
                folder = trained(f"{arm}-seed{seed}", runs, words)
                arms.setdefault(arm, []).append(scored(folder, seed))
    untrained = folder.path / "scores-untrained.json"
    if not untrained.exists():
        command(["evaluate", str(folder.path), "--untrained", "true"])
    write_json(RESULT, summary(arms, json.loads(untrained.read_text(encoding="utf-8"))))


def scored(folder: RunFolder, seed: int) -> dict[str, Any]:
    """Test scores, time and the lens of one run."""
    if not folder.scores.exists():
        command(["evaluate", str(folder.path)])
    scores = json.loads(folder.scores.read_text(encoding="utf-8"))
    metrics = folder.read_metrics()
    lens = {key: value for row in metrics for key, value in row.items() if key.startswith("lens/")}
    last = [row for row in metrics if "train/norm_cv" in row][-1]
    timing = json.loads((folder.path / "seconds.json").read_text(encoding="utf-8"))
    return {
        "seed": seed,
        **{name: scores["scores"][name]["value"] for name in SCORES},
        **timing,
        "norm_mean": last["train/norm_mean"],
        "norm_cv": last["train/norm_cv"],
        "sec_share": last["train/sec_share"],
        **lens,
    }


def summary(arms: dict[str, list[dict[str, Any]]], untrained: dict[str, Any]) -> dict[str, Any]:
    """Mean and interval over seeds, and the paired difference that SEC makes."""
    recipes = {arm: yaml.safe_load((RECIPES / f"{arm}.yaml").read_text(encoding="utf-8")) for arm in arms}
    return {
        "claim": "Recall@1 on unseen classes, at least 15 points over the untrained backbone; what SEC adds, with paired seeds",
        "untrained": {name: untrained["scores"][name]["value"] for name in SCORES},
        "arms": {
            arm: {
                "recipe": recipes[arm],
                "seeds": rows,
                "summary": {
                    name: seeds_summary([row[name] for row in rows])._asdict()
                    for name in (*SCORES, "train_seconds", "norm_cv")
                },
            }
            for arm, rows in arms.items()
        },
        "sec_minus_none": {
            loss: {
                name: paired_difference(
                    [row[name] for row in arms[f"{loss}-sec"]], [row[name] for row in arms[loss]]
                )._asdict()
                for name in SCORES
            }
            for loss in LOSSES
        },
        "provenance": provenance(),
    }


def table() -> None:
    """Print the results as Markdown."""
    result = json.loads(RESULT.read_text(encoding="utf-8"))
    print("| arm | " + " | ".join(SCORES) + " | length CV | minutes |")
    print("|---|" + "---|" * (len(SCORES) + 2))
    print(
        "| untrained backbone | " + " | ".join(f"{100 * result['untrained'][name]:.1f}" for name in SCORES) + " | | |"
    )
    for arm, found in result["arms"].items():
        cells = [
            f"{100 * found['summary'][name]['mean']:.1f} ± {100 * found['summary'][name]['sd']:.1f}" for name in SCORES
        ]
        minutes = found["summary"]["train_seconds"]["mean"] / 60
        print(f"| {arm} | " + " | ".join(cells) + f" | {found['summary']['norm_cv']['mean']:.2f} | {minutes:.1f} |")


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
