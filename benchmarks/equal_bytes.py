"""What one bit per dimension keeps: NormSoftmax with 2048 dimensions as floats and as bits, beside 64 dimensions of the same bytes.

    python benchmarks/equal_bytes.py choose DATA    # rates, on held-out training classes
    python benchmarks/equal_bytes.py train DATA     # both recipes, three seeds each
    python benchmarks/equal_bytes.py measure        # every form of every run's test embeddings, and the table

DATA holds `images/` and `labels.csv` (path, label, split) of half of Cars196. The recipes are recipes/cars196-half/norm-softmax-2048
and -64; `measure` also takes the runs of cars196_half.py, if they are there. Runs that are done are not repeated. Writes
benchmarks/results/equal-bytes.json.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import Any

from cars196_half import CHOOSING, SEEDS, trained

from cosphere.evaluate import Embeddings, paired_difference, seeds_summary
from cosphere.evaluate.equal_bytes import SCORES, EqualBytes, equal_bytes
from cosphere.experiment import evaluate_run
from cosphere.files import read_json, write_json
from cosphere.runs import RunFolder, provenance

RESULT = Path(__file__).parent / "results" / "equal-bytes.json"
WIDTHS = (2048, 64)
OTHER_ARMS = ("triplet", "triplet-sec", "multi-similarity", "multi-similarity-sec")
"""Of cars196_half.py, 512 dimensions."""
RATES = [(1e-4, 1e-4, 1e-3), (1e-4, 1e-3, 1e-2), (3e-4, 3e-4, 3e-3)]
"""Backbone, head and class-weight rate: as many candidates for each width."""


def choose(data: str, runs: Path) -> None:
    """Try every candidate of each width for a short while; the best on the validation classes goes into the recipe, by hand."""
    chosen: dict[str, Any] = {}
    for width in WIDTHS:
        tried = []
        for number, (body, head, classes) in enumerate(RATES):
            rates = {"optimizer.backbone_rate": body, "optimizer.head_rate": head, "optimizer.loss_rate": classes}
            values = {"data.root": data, **CHOOSING, **rates}
            rows = trained(
                f"choose-norm-softmax-{width}-{number}", runs, f"norm-softmax-{width}", values
            ).read_metrics()
            scores = [row["val/recall@1"] for row in rows if row.get("val/recall@1") is not None]
            tried.append({"backbone": body, "head": head, "class_weights": classes, "val/recall@1": max(scores)})
        chosen[str(width)] = {"best": max(tried, key=lambda row: row["val/recall@1"]), "tried": tried}
        print(width, chosen[str(width)]["best"], flush=True)
    content = read_json(RESULT, what="results") if RESULT.exists() else {}
    write_json(
        RESULT, {**content, "choice": {"steps": CHOOSING["steps"], "widths": chosen, "provenance": provenance()}}
    )


def train(data: str, runs: Path) -> None:
    """Both recipes with every seed, and the scores of each on the test classes."""
    for seed in SEEDS:
        for width in WIDTHS:
            name = f"norm-softmax-{width}"
            folder = trained(f"{name}-seed{seed}", runs, name, {"data.root": data, "seed": seed})
            if not folder.scores.exists():
                evaluate_run(folder.path)


def measure(runs: Path) -> None:
    """The table of every run's test embeddings, the means over seeds, and the claim of NormSoftmax pair by pair of seeds."""
    arms = [f"norm-softmax-{width}" for width in WIDTHS] + [*OTHER_ARMS]
    found: dict[str, list[EqualBytes]] = {}
    for arm in arms:
        folders = [
            RunFolder.open(runs / f"{arm}-seed{seed}") for seed in SEEDS if (runs / f"{arm}-seed{seed}").exists()
        ]
        found[arm] = [equal_bytes(Embeddings.load(folder.embeddings("test"))) for folder in folders]
        print(f"{arm}: {len(folders)} runs", flush=True)
    content = read_json(RESULT, what="results") if RESULT.exists() else {}
    content["arms"] = {arm: summary(tables) for arm, tables in found.items() if tables}
    content["claim"] = {
        "claim": "NormSoftmax: 2048 bits stay close to 2048 floats, and far above 64 floats of the same 256 bytes",
        **{
            name: {
                "2048 bits - 2048 floats": difference(
                    found, ("norm-softmax-2048", "bits"), ("norm-softmax-2048", "float32"), name
                ),
                "2048 bits - 64 floats, trained so": difference(
                    found, ("norm-softmax-2048", "bits"), ("norm-softmax-64", "float32"), name
                ),
                "2048 bits - first 64 of 2048": difference(
                    found, ("norm-softmax-2048", "bits"), ("norm-softmax-2048", "first 64 dims"), name
                ),
                "2048 bits - PCA to 64 of 2048": difference(
                    found, ("norm-softmax-2048", "bits"), ("norm-softmax-2048", "PCA to 64 dims"), name
                ),
            }
            for name in SCORES
        },
    }
    content["provenance"] = provenance()
    write_json(RESULT, content)
    table()


def summary(tables: list[EqualBytes]) -> dict[str, Any]:
    """Of each form: bytes, each seed's scores with their intervals over queries, and mean and t-interval over seeds."""
    return {
        form.name: {
            "bytes_per_image": form.bytes_per_image,
            "seeds": [one.form(form.name).as_dict() for one in tables],
            "over_seeds": {
                name: seeds_summary([one.form(form.name).values[name] for one in tables])._asdict() for name in SCORES
            },
        }
        for form in tables[0].forms
    }


def difference(
    found: dict[str, list[EqualBytes]], ours: tuple[str, str], theirs: tuple[str, str], name: str
) -> dict[str, Any]:
    """What one form of one arm is above another, with paired seeds."""
    values = [[one.form(form).values[name] for one in found[arm]] for arm, form in (ours, theirs)]
    return dict(paired_difference(*values)._asdict())


def table() -> None:
    """Print means and 95 % t-intervals over seeds as Markdown."""
    content = read_json(RESULT, what="results")
    for arm, forms in content["arms"].items():
        print(f"\n{arm}, {len(next(iter(forms.values()))['seeds'])} seeds\n")
        print("| form | bytes | R@1 | MAP@R | s per 1000 queries | of the 10 nearest |\n|---|---|---|---|---|---|")
        for name, row in forms.items():
            scores = (row["over_seeds"][score] for score in SCORES)
            cells = " | ".join(
                f"{100 * one['mean']:.1f} ({100 * one['low']:.1f} to {100 * one['high']:.1f})" for one in scores
            )
            seconds = min(one["seconds_per_1000_queries"] for one in row["seeds"])
            nearest = sum(one["self_check"]["recall"] for one in row["seeds"]) / len(row["seeds"])
            print(f"| {name} | {row['bytes_per_image']:,} | {cells} | {seconds:.3f} | {100 * nearest:.0f} % |")
    for name, rows in content["claim"].items():
        if isinstance(rows, dict):
            for what, one in rows.items():
                print(f"{name}, {what}: {100 * one['mean']:+.1f} ({100 * one['low']:+.1f} to {100 * one['high']:+.1f})")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["choose", "train", "measure", "table"])
    parser.add_argument("data", nargs="?", help="the folder of half of Cars196")
    parser.add_argument("--runs", type=Path, default=Path(os.environ.get("COSPHERE_RUNS", "runs/cars196-half")))
    options = parser.parse_args()
    if options.what == "table":
        return table()
    if options.what == "measure":
        return measure(options.runs)
    if options.data is None:
        parser.error("where is the data?")
    {"choose": choose, "train": train}[options.what](options.data, options.runs)


if __name__ == "__main__":
    main()
