"""How many planted faults an audit finds: wrong labels, classes that were merged, classes that were split, near copies.

    python benchmarks/audit.py cars196-half                     # the untrained backbone, test classes
    python benchmarks/audit.py cars196-half --run runs/first    # a model trained on the other classes
    python benchmarks/audit.py cars196-half --images 1000       # the first of them; writes nothing

Labels: 5 percent of the labels become a random other class, in the whole test split, in a set of 2 to 5 images of each class, and in one
where every second class is so small. Precision and recall are those of the first n suspects, n being the number of wrong labels; of the
first 50 too. A vote of ten neighbours, the usual way, stands beside it. Classes: five pairs of classes get one label, and five classes
two at random; how many come first. Five seeds each. Copies: 50 images again, shrunk to 60 percent and saved as JPEG of quality 70, among
all images, at several thresholds. Writes benchmarks/results/audit.json.
"""

from __future__ import annotations

import argparse
import io
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from embedded import SIZE, embedded
from PIL import Image

from cosphere._types import Integers
from cosphere.embeddings import Embeddings
from cosphere.evaluate import AuditSettings, audit_embeddings, likely_mislabelled, seeds_summary
from cosphere.experiment.auditing import likeness
from cosphere.experiment.models import load_model, ready
from cosphere.files import read_json, write_json
from cosphere.runs import provenance
from cosphere.search import search
from cosphere.train import TrainSettings, untrained_model

RESULT = Path(__file__).parent / "results" / "audit.json"
SHARE = 0.05
SEEDS = 5
PLANTED = 5
COPIES = 50
THRESHOLDS = (0.9, 0.95, 0.98)
SMALL = (2, 5)


def flipped(labels: Integers, seed: int) -> tuple[Integers, Integers]:
    """The labels with a share of them wrong, and the rows of those."""
    random = np.random.default_rng(seed)
    names, wrong = np.unique(labels), random.choice(len(labels), max(1, round(SHARE * len(labels))), replace=False)
    changed = labels.copy()
    for row in wrong:
        changed[row] = random.choice(names[names != labels[row]])
    return changed, wrong


def few_of_each(labels: Integers, seed: int, small: Callable[[int], bool]) -> Integers:
    """Rows: of the classes for which ``small`` says so, 2 to 5; of others all."""
    random = np.random.default_rng(100 + seed)
    rows = []
    for at, name in enumerate(np.unique(labels)):
        members = random.permutation(np.flatnonzero(labels == name))
        rows.append(members[: random.integers(SMALL[0], SMALL[1] + 1)] if small(at) else members)
    return np.sort(np.concatenate(rows))


def outvoted(rows: torch.Tensor, labels: Integers) -> Integers:
    """Rows by the share of ten neighbours that carry another label, most first: Wilson's vote."""
    k = min(10, len(rows) - 1)
    votes = labels[search(rows, rows, k=k, exclude=torch.arange(len(rows))).ids.numpy()]
    return np.argsort((votes == labels[:, None]).mean(axis=1), kind="stable")


def found(order: Integers, wrong: Integers) -> dict[str, float]:
    hit = np.isin(order, wrong)
    n = len(wrong)
    return {
        "precision_at_n": float(hit[:n].sum() / n),
        "precision_at_50": float(hit[: min(50, n)].sum() / min(50, n)),
        "recall_at_2n": float(hit[: 2 * n].sum() / n),
        "recall_of_all_listed": float(hit.sum() / n),
    }


def wrong_labels(table: Embeddings) -> dict[str, Any]:
    """Of each set and way, means over seeds with intervals."""
    rows, labels = torch.from_numpy(table.embeddings), table.labels
    sets: dict[str, Callable[[int], Integers]] = {
        "whole": lambda seed: np.arange(len(labels)),
        "2 to 5 images of each class": lambda seed: few_of_each(labels, seed, lambda at: True),
        "every second class of 2 to 5 images": lambda seed: few_of_each(labels, seed, lambda at: at % 2 == 0),
    }
    results: dict[str, Any] = {}
    for name, chosen in sets.items():
        ours, votes, sizes, small, suggested = [], [], [], [], []
        for seed in range(SEEDS):
            some = chosen(seed)
            changed, wrong = flipped(labels[some], seed)
            suspects = likely_mislabelled(rows[torch.from_numpy(some)], changed)
            ours.append({**found(suspects.rows, wrong), "listed_share": len(suspects) / len(some)})
            votes.append(found(outvoted(rows[torch.from_numpy(some)], changed), wrong))
            sizes.append((len(some), len(wrong)))
            of_class = np.bincount(changed)[changed]
            small.append(float((of_class[suspects.rows[: len(wrong)]] <= SMALL[1] + 1).mean()))
            first = suspects.rows[: len(wrong)]
            hits = np.isin(first, wrong)
            if hits.any():
                suggested.append(float((suspects.suggested[: len(wrong)] == labels[some][first])[hits].mean()))
        results[name] = {
            "images": [size for size, _ in sizes],
            "wrong": [count for _, count in sizes],
            "audit": summary(ours),
            "vote of ten neighbours": {
                k: v for k, v in summary(votes).items() if not k.startswith(("listed", "recall_of"))
            },
            "small_class_share_of_first_n": float(np.mean(small)),
            "suggested_label_right": float(np.mean(suggested)) if suggested else 0.0,
        }
    return results


def summary(rows: list[dict[str, float]]) -> dict[str, Any]:
    return {name: seeds_summary([row[name] for row in rows])._asdict() for name in rows[0]}


def odd_classes(table: Embeddings) -> dict[str, Any]:
    """Ranks at which merged and split classes come."""
    merged_found, split_found, places = [], [], []
    for seed in range(SEEDS):
        random = np.random.default_rng(seed)
        names = random.permutation(np.unique(table.labels))
        labels = table.labels.copy()
        pairs, split = names[: 2 * PLANTED].reshape(-1, 2), names[2 * PLANTED : 3 * PLANTED]
        for one, other in pairs:
            labels[labels == other] = one
        new = []
        for number, name in enumerate(split):
            members = random.permutation(np.flatnonzero(labels == name))
            new.append(len(table.class_names) + number)
            labels[members[::2]] = new[-1]
        wide = replace(
            table, labels=labels, class_names=(*table.class_names, *(f"half {name}" for name in split.tolist()))
        )
        findings = audit_embeddings(wide, settings=AuditSettings(top=10**6))
        alike = [{pair.first, pair.second} for pair in findings.alike]
        at = [alike.index({int(a), b}) if {int(a), b} in alike else len(alike) for a, b in zip(split, new, strict=True)]
        split_found.append(sum(place < PLANTED for place in at) / PLANTED)
        divided = [one.label for one in findings.divided]
        merged_found.append(sum(int(one) in divided[: 2 * PLANTED] for one, _ in pairs) / PLANTED)
        places.append({"alike_listed": len(alike), "divided_listed": len(divided)})
    return {
        "planted": PLANTED,
        "split classes among the first 5 that look like one": seeds_summary(split_found)._asdict(),
        "merged classes among the first 10 that look like two": seeds_summary(merged_found)._asdict(),
        "listed": places,
    }


def copies(table: Embeddings, run: str | None) -> dict[str, Any]:
    """Recall of planted copies, and how many other pairs are listed, at several thresholds."""
    rows = np.random.default_rng(0).choice(len(table), min(COPIES, len(table)), replace=False)
    values = {"images.size": SIZE}
    embedder = untrained_model(TrainSettings().with_values(values)).to(ready()) if run is None else load_model(run)
    again = embedder.encode([shrunk(table.paths[row]) for row in rows], normalize=False)
    more = replace(
        table.rows(rows), embeddings=again, paths=tuple(f"copy of {table.paths[row]}" for row in rows), files=None
    )
    folder = tempfile.TemporaryDirectory()
    files = [Path(folder.name) / f"{row}.jpg" for row in rows]
    for row, file in zip(rows, files, strict=True):
        shrunk(table.paths[row]).save(file, quality=95)
    both = Embeddings.concat([replace(table, files=None), replace(more, paths=tuple(map(str, files)))])
    planted = {(int(row), len(table) + at) for at, row in enumerate(rows)}
    results: dict[str, Any] = {}
    ways = {"pixels": lambda pairs: likeness(both, pairs), "embeddings": None}
    for way, compare in ways.items():
        for threshold in THRESHOLDS:
            settings = AuditSettings(duplicate=threshold, top=10**6)
            pairs = audit_embeddings(both, settings=settings, compare=compare).duplicates
            listed = {(pair.first, pair.second) for pair in pairs}
            others = sum(max(pair) < len(table) for pair in listed)
            results[f"{way} from {threshold}"] = {
                "recall": len(planted & listed) / len(planted),
                "pairs_of_the_set_itself": others,
            }
    folder.cleanup()
    return {"copies": len(rows), "change": "60 % of the size, JPEG of quality 70", "found": results}


def shrunk(path: str) -> Image.Image:
    with Image.open(path) as picture:
        small = picture.convert("RGB").resize((max(1, picture.width * 3 // 5), max(1, picture.height * 3 // 5)))
    stream = io.BytesIO()
    small.save(stream, "JPEG", quality=70)
    stream.seek(0)
    return Image.open(stream).convert("RGB")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data")
    parser.add_argument("--run", help="a run's folder or a bundle; by default the untrained backbone")
    parser.add_argument("--images", type=int, help="only the first ones; writes nothing")
    options = parser.parse_args()
    table = embedded(options.data, run=options.run, split="test", images=options.images)
    numbers = np.unique(table.labels, return_inverse=True)
    table = replace(table, labels=numbers[1], class_names=tuple(table.class_names[name] for name in numbers[0]))
    name = f"{Path(options.data).name}, {'untrained' if options.run is None else Path(options.run).name}"
    measured = {
        "images": len(table),
        "classes": len(table.class_names),
        "wrong_labels": wrong_labels(table),
        "classes_planted": odd_classes(table),
        "near_copies": copies(table, options.run),
    }
    show(name, measured)
    if not options.images:
        content: dict[str, Any] = read_json(RESULT, what="results") if RESULT.exists() else {}
        content[name] = {**measured, "split": "test", "provenance": provenance()}
        write_json(RESULT, content)


def show(name: str, measured: dict[str, Any]) -> None:
    print(name)
    for what, row in measured["wrong_labels"].items():
        for way in ("audit", "vote of ten neighbours"):
            cells = ", ".join(
                f"{key} {100 * value['mean']:.0f} ({100 * value['low']:.0f} to {100 * value['high']:.0f})"
                for key, value in row[way].items()
            )
            print(f"  {what}, {way}: {cells}")
        print(
            f"    small classes {row['small_class_share_of_first_n']:.2f}, suggested right {row['suggested_label_right']:.2f}"
        )
    for part in ("classes_planted", "near_copies"):
        print(f"  {part}: {measured[part]}")


if __name__ == "__main__":
    main()
