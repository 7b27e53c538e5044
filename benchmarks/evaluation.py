"""Retrieval scores against the bare blocked matrix product + topk, faiss and pytorch-metric-learning: time and memory.

    python benchmarks/evaluation.py                                    # 12 000 x 512
    python benchmarks/evaluation.py --rows 60502 --images-per-class 5  # the size of SOP's test half

Each contender runs in a process of its own, on the same made-up embeddings, so that its peak memory is its own. One
warm-up run is not counted. pytorch-metric-learning is measured once, at --pml-rows, with retrieval beside it at the
same size; its values are compared.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import subprocess
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from cosphere.evaluate import retrieval
from cosphere.files import write_json
from cosphere.runs import provenance
from cosphere.search import search

KS = (1, 2, 4, 8)
BARE_ROWS = 1024
CLAIM = (
    "Recall@1,2,4,8, MAP@R and R-precision of N x D, exact and together, take at most 2 times the bare blocked matrix "
    "product + topk(8), and the process grows by less than 1 GB."
)


def made(rows: int, dim: int, images_per_class: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Embeddings in loose classes, so that neither all nor no query is right."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(rows) // images_per_class
    centres = torch.randn(int(labels.max()) + 1, dim, generator=generator)
    return torch.randn(rows, dim, generator=generator) + 0.35 * centres[labels], labels


def bare(embeddings: torch.Tensor, labels: torch.Tensor) -> dict[str, float]:
    unit = torch.nn.functional.normalize(embeddings)
    for start in range(0, len(unit), BARE_ROWS):
        (unit[start : start + BARE_ROWS] @ unit.T).topk(max(KS), dim=1)
    return {}


def cosphere_retrieval(embeddings: torch.Tensor, labels: torch.Tensor) -> dict[str, float]:
    return retrieval(embeddings, labels, KS).as_dict()


def cosphere_search(embeddings: torch.Tensor, labels: torch.Tensor) -> dict[str, float]:
    found = search(embeddings, embeddings, k=max(KS), exclude=torch.arange(len(embeddings)))
    return {"recall@1": (labels[found.ids[:, 0]] == labels).double().mean().item()}


def faiss_flat(embeddings: torch.Tensor, labels: torch.Tensor) -> dict[str, float]:
    import faiss

    unit = torch.nn.functional.normalize(embeddings).numpy()
    index = faiss.IndexFlatIP(unit.shape[1])
    index.add(unit)
    _, ids = index.search(unit, max(KS) + 1)
    names = labels.numpy()
    # The first hit is taken for the query itself: right here, where there are no duplicates.
    return {"recall@1": float(np.mean(names[ids[:, 1]] == names))}


def pytorch_metric_learning(embeddings: torch.Tensor, labels: torch.Tensor) -> dict[str, float]:
    warnings.simplefilter("ignore")
    from pytorch_metric_learning.distances import CosineSimilarity
    from pytorch_metric_learning.utils.accuracy_calculator import AccuracyCalculator
    from pytorch_metric_learning.utils.inference import CustomKNN

    calculator = AccuracyCalculator(
        include=("precision_at_1", "r_precision", "mean_average_precision_at_r"),
        k="max_bin_count",
        knn_func=CustomKNN(CosineSimilarity()),
        device=torch.device("cpu"),
    )
    found = calculator.get_accuracy(embeddings, labels)
    return {
        "recall@1": found["precision_at_1"],
        "r_precision": found["r_precision"],
        "map@r": found["mean_average_precision_at_r"],
    }


CONTENDERS: dict[str, Callable[[torch.Tensor, torch.Tensor], dict[str, float]]] = {
    "bare matmul + topk(8)": bare,
    "cosphere retrieval": cosphere_retrieval,
    "cosphere search(8)": cosphere_search,
    "faiss IndexFlatIP(9)": faiss_flat,
    "pytorch-metric-learning": pytorch_metric_learning,
}


def measure(name: str, rows: int, dim: int, images_per_class: int, runs: int, warm_up: int) -> dict[str, Any]:
    """Time one contender in this process. Memory is how far its peak rose above what data and imports took."""
    embeddings, labels = made(rows, dim, images_per_class)
    small = made(600, dim, images_per_class)
    CONTENDERS[name](*small)  # Imports and first-use set-up count neither as time nor as memory.
    before = _peak()
    seconds, processor_seconds = [], []
    values: dict[str, float] = {}
    for run in range(warm_up + runs):
        start, used = time.perf_counter(), time.process_time()
        values = CONTENDERS[name](embeddings, labels)
        if run >= warm_up:
            seconds.append(time.perf_counter() - start)
            processor_seconds.append(time.process_time() - used)
    return {
        "rows": rows,
        "seconds": seconds,
        "processor_seconds": processor_seconds,
        "peak_growth_mb": (_peak() - before) / 2**20,
        "values": values,
    }


def _peak() -> int:
    """Largest resident size so far, in bytes. The kernel counts in KiB, macOS in bytes."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def in_own_process(name: str, options: argparse.Namespace, *, rows: int, runs: int, warm_up: int) -> dict[str, Any]:
    numbers = [rows, options.dim, options.images_per_class, runs, warm_up]
    command = [sys.executable, __file__, "--measure", json.dumps([name, *numbers])]
    found = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
    result: dict[str, Any] = json.loads(found.splitlines()[-1])
    seconds = result["seconds"]
    result["mean"] = statistics.mean(seconds)
    result["sd"] = statistics.stdev(seconds) if len(seconds) > 1 else None
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=12_000)
    parser.add_argument("--dim", type=int, default=512)
    parser.add_argument("--images-per-class", type=int, default=60)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--pml-rows", type=int, default=4000, help="0 leaves it out; 12 000 take a minute and 9 GB")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "evaluation.json")
    parser.add_argument("--measure", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        print(json.dumps(measure(*json.loads(options.measure))))
        return
    found = {
        name: in_own_process(name, options, rows=options.rows, runs=options.runs, warm_up=1)
        for name in CONTENDERS
        if name != "pytorch-metric-learning"
    }
    if options.pml_rows:
        found |= {
            f"{name}, {options.pml_rows} rows": in_own_process(name, options, rows=options.pml_rows, runs=1, warm_up=0)
            for name in ("cosphere retrieval", "pytorch-metric-learning")
        }
    report(found, options)


def report(found: dict[str, dict[str, Any]], options: argparse.Namespace) -> None:
    ours, floor = found["cosphere retrieval"], found["bare matmul + topk(8)"]
    ratio = ours["mean"] / floor["mean"]
    print(f"{'':44}{'s':>9}{'sd':>8}{'peak MB':>9}")
    for name, result in found.items():
        sd = "" if result["sd"] is None else f"{result['sd']:8.3f}"
        print(f"{name:44}{result['mean']:9.3f}{sd:>8}{result['peak_growth_mb']:9.0f}")
    holds = ratio <= 2 and ours["peak_growth_mb"] < 1000
    print(f"retrieval / bare: {ratio:.2f}    the claim {'holds' if holds else 'DOES NOT HOLD'}")
    content = {
        "claim": CLAIM,
        "holds": holds,
        "ratio_to_bare": ratio,
        "settings": {"rows": options.rows, "dim": options.dim, "images_per_class": options.images_per_class, "ks": KS},
        "runs": options.runs,
        "results": found,
        "provenance": provenance(),
    }
    pair = [result for name, result in found.items() if name.endswith(" rows")]
    if pair:
        content["speedup_over_pml"] = pair[1]["mean"] / pair[0]["mean"]
        content["largest_difference_from_pml"] = max(
            abs(pair[0]["values"][name] - value) for name, value in pair[1]["values"].items()
        )
        print(
            f"{content['speedup_over_pml']:.0f} times as fast as pytorch-metric-learning; "
            f"values differ by at most {content['largest_difference_from_pml']:.1e}"
        )
    write_json(options.out, content)
    print(f"written to {options.out}")


if __name__ == "__main__":
    main()
