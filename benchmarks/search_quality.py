"""What query expansion, k-reciprocal re-ranking and a float re-rank of bits change, on real images.

    python benchmarks/search_quality.py cars196-half cub100              # the untrained backbone
    python benchmarks/search_quality.py cars196-half --run runs/first    # a trained model; test classes only
    python benchmarks/search_quality.py cars196-half --ways bits "k-reciprocal (20, 6, 0.3)"   # some ways; the rest stays
    python benchmarks/search_quality.py cars196-half --images 500        # a part of the images; writes nothing

About two minutes for each set on two cores, of which embedding its images twice takes most; --cache FOLDER keeps the embeddings.

Every image of the test split is a query and all others are its gallery. Each way gives Recall@1 and MAP@R with intervals over classes,
and the difference from plain search with an interval over the same classes. The settings are the papers': nothing is tuned. Pooling
`concat` (average and maximum side by side, twice as wide) stands beside `avg` for the untrained backbone. Writes
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
    expanded_queries,
    hamming_search,
    k_reciprocal_search,
    reranked_search,
    search,
)

RESULT = Path(__file__).parent / "results" / "search-quality.json"
LEVEL = 0.95
PLAIN = "plain"


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
    return {"images": len(rows), "classes": int(labels.max()) + 1, "width": rows.shape[1], "results": results}


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
