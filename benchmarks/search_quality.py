"""What query expansion, k-reciprocal re-ranking and a float re-rank of bits change, on real images.

    python benchmarks/search_quality.py cars196-half cub100              # the untrained backbone
    python benchmarks/search_quality.py cars196-half --run runs/first    # a trained model; test classes only
    python benchmarks/search_quality.py cars196-half --ways bits "k-reciprocal (20, 6, 0.3)"   # some ways; the rest stays
    python benchmarks/search_quality.py cars196-half --images 500        # a part of the images; writes nothing

About two minutes for each set on two cores, of which embedding its images twice takes most; --cache FOLDER keeps the embeddings.

Every image of the test split is a query and all others are its gallery. Each way gives Recall@1 and MAP@R with intervals over classes,
and the difference from plain search with an interval over the same classes. The settings are the papers': nothing is tuned. Of the ten
answers that a user sees, all, one of each class, or one of near duplicates (cosine 0.98), it says how many classes they are of, how
often the query's class is among them, and how many near duplicates they stand for. Pooling `concat` (average and maximum side by side,
twice as wide) stands beside `avg` for the untrained backbone. Writes
benchmarks/results/search-quality.json.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

import numpy as np
import torch
from embedded import embedded

from cosphere._types import Floats, Integers
from cosphere.codes import to_bits
from cosphere.embeddings import Embeddings
from cosphere.evaluate.statistics import bootstrap_classes
from cosphere.files import read_json, write_json
from cosphere.runs import provenance
from cosphere.search import (
    Neighbours,
    Refinement,
    expanded_queries,
    hamming_search,
    k_reciprocal_search,
    reranked_search,
    search,
)

RESULT = Path(__file__).parent / "results" / "search-quality.json"
LEVEL = 0.95
PLAIN = "plain"
SHOWN, LOOKED_AT = 10, 200
"""Answers that a user sees, and the nearest images that they are taken from."""
SHOWING = {
    "all": Refinement(),
    "one of each class": Refinement(per_label=1),
    "near duplicates collapsed": Refinement(collapse=0.98),
}


def ways(rows: torch.Tensor, k: int) -> dict[str, Callable[[], Neighbours]]:
    """Each way to rank all rows for each row, itself left out."""
    own = torch.arange(len(rows))

    def expanded(images: int, alpha: float) -> Callable[[], Neighbours]:
        return lambda: search(
            expanded_queries(rows, rows, images=images, alpha=alpha, exclude=own), rows, k=k, exclude=own
        )

    return {
        PLAIN: lambda: search(rows, rows, k=k, exclude=own),
        "average of 5 (AQE)": expanded(5, 0),
        "weighted mean of 5 (alpha-QE, 3)": expanded(5, 3),
        "weighted mean of 10 (alpha-QE, 3)": expanded(10, 3),
        "k-reciprocal (20, 6, 0.3)": lambda: k_reciprocal_search(rows, k=k),
        "bits": lambda: hamming_search(to_bits(rows), to_bits(rows), k=k, exclude=own),
        "bits, 100 re-ranked by floats": lambda: reranked_search(rows, rows, k=k, shortlist=max(100, k), exclude=own),
    }


def scored(found: Neighbours, labels: Integers) -> dict[str, Floats]:
    """Recall@1 and MAP@R of each query that has something to find; others are NaN."""
    sizes = np.bincount(labels)[labels] - 1  # R
    right = labels[found.ids.numpy()] == labels[:, None]
    ranks = np.arange(1, right.shape[1] + 1)
    right_at_r = right & (ranks <= sizes[:, None])
    precision = np.cumsum(right, axis=1) / ranks
    several = sizes > 0
    average = (precision * right_at_r).sum(axis=1) / np.maximum(sizes, 1)
    return {
        "recall@1": np.where(several, right[:, 0], np.nan).astype(float),
        "map@r": np.where(several, average, np.nan),
    }


def shown(table: Embeddings) -> dict[str, Any]:
    """What the ten answers of each query hold under each way to show them, itself left out, with intervals over classes."""
    rows, labels = torch.from_numpy(table.embeddings), np.unique(table.labels, return_inverse=True)[1]
    own = torch.arange(len(rows))
    found = search(rows, rows, k=min(LOOKED_AT, len(rows) - 1), exclude=own).ids.numpy()
    results: dict[str, Any] = {}
    for name, how in SHOWING.items():
        values = []
        for query, hits in enumerate(found):
            kept = how.thinned(hits.tolist(), labels[hits].tolist(), table.embeddings, SHOWN)
            classes = labels[hits[[one.place for one in kept]]]
            values.append((len(set(classes.tolist())), labels[query] in classes, sum(one.alike for one in kept)))
        columns = np.array(values, dtype=float).T
        results[name] = {
            what: {"value": float(column.mean()), **bootstrap_classes(column, labels, level=LEVEL)._asdict()}
            for what, column in zip(("classes", "own_class", "near_duplicates"), columns, strict=True)
        }
        line = ", ".join(
            f"{what} {one['value']:.2f} ({one['low']:.2f} to {one['high']:.2f})" for what, one in results[name].items()
        )
        print(f"  ten answers, {name}: {line}", flush=True)
    return results


def measured(table: Embeddings, wanted: Collection[str]) -> dict[str, Any]:
    """The scores of some ways on one set. Plain search is always measured, because all are compared with it."""
    rows, labels = torch.from_numpy(table.embeddings), np.unique(table.labels, return_inverse=True)[1]
    most = int(np.bincount(labels).max()) - 1
    several = np.bincount(labels)[labels] > 1
    plain: dict[str, Floats] = {}
    results: dict[str, Any] = {}
    for name, way in ways(rows, min(most, len(rows) - 1)).items():
        if name not in wanted and name != PLAIN:
            continue
        start = time.perf_counter()
        values = scored(way(), labels)
        seconds = time.perf_counter() - start
        plain = plain or values
        results[name] = {"seconds": seconds}
        for metric, found in values.items():
            gain = (found - plain[metric])[several]
            results[name][metric] = {
                "value": float(found[several].mean()),
                **bootstrap_classes(found[several], labels[several], level=LEVEL)._asdict(),
                "above_plain": {
                    "value": float(gain.mean()),
                    **bootstrap_classes(gain, labels[several], level=LEVEL)._asdict(),
                },
            }
        print_row(name, results[name])
    return {
        "images": len(rows),
        "classes": int(labels.max()) + 1,
        "width": rows.shape[1],
        "results": results,
        "shown": shown(table),
    }


def print_row(name: str, row: dict[str, Any]) -> None:
    shown = []
    for metric in ("recall@1", "map@r"):
        value, gain = row[metric], row[metric]["above_plain"]
        shown.append(
            f"{metric} {100 * value['value']:.1f} ({100 * value['low']:.1f} to {100 * value['high']:.1f}), "
            f"{100 * gain['value']:+.1f} ({100 * gain['low']:+.1f} to {100 * gain['high']:+.1f})"
        )
    print(f"  {name}: {'; '.join(shown)}; {row['seconds']:.1f} s", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", nargs="+")
    parser.add_argument("--run", help="a run's folder or a bundle; by default the untrained backbone")
    every = list(ways(torch.zeros(2, 1), 1))
    parser.add_argument("--ways", nargs="+", choices=every, default=every, metavar="WAY", help=", ".join(every))
    parser.add_argument("--cache", help="a folder that keeps the embeddings; by default beside the runs")
    parser.add_argument("--images", type=int, help="only so many images; writes nothing")
    options = parser.parse_args()
    content: dict[str, Any] = read_json(RESULT, what="results") if RESULT.exists() else {}
    for data in options.data:
        for pooling in ("avg", "concat") if options.run is None else ("run",):
            name = f"{Path(data).name}, {'untrained, ' + pooling if options.run is None else Path(options.run).name}"
            where = {"split": "test", "images": options.images, "cache": options.cache}
            table = embedded(data, run=options.run, pooling=pooling, **where)
            print(name, flush=True)
            found = measured(table, options.ways)
            before = content.get(name, {})
            if before.get("model_id") == table.model_id:
                found["results"] = {**before["results"], **found["results"]}
            content[name] = {**found, "model_id": table.model_id, "split": "test", "provenance": provenance()}
            if not options.images:
                write_json(RESULT, content)


if __name__ == "__main__":
    main()
