"""Evaluation against its floors and its peers, in one run: retrieval, clustering, bits, verification; time and memory.

    python benchmarks/evaluation.py                           # all parts: about twenty minutes on two cores
    python benchmarks/evaluation.py --parts bits clustering   # some of them; the rest of the JSON stays
    python benchmarks/evaluation.py --parts table             # nothing measured: the table from the JSON

The floors: the bare blocked matrix product + topk for retrieval, the bare products of one k-means assignment for clustering,
faiss's exact binary search for bits. Each contender runs in a process of its own on the same made-up numbers, so that its peak
memory is its own; a small first call is counted neither as time nor as memory. Writes benchmarks/results/evaluation.json.
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

from cosphere.codes import to_bits
from cosphere.evaluate import calibrate, clustering, retrieval, tar_at_far, verification
from cosphere.evaluate.verification import fold_accuracies
from cosphere.files import read_json, write_json
from cosphere.runs import provenance
from cosphere.search import search

RESULT = Path(__file__).parent / "results" / "evaluation.json"
BARE_ROWS = 1024
ITERATIONS = 20
SMALL = {"rows": 12_000, "classes": 200, "dim": 512}
"""Of the size at which pytorch-metric-learning can still be measured."""
SOP = {"rows": 60_502, "classes": 11_316, "dim": 512}
"""The size of Stanford Online Products' test half."""
CODES = {**SOP, "dim": 2048}
FARS = (1e-2, 1e-3, 1e-4)
Values = dict[str, float]
Contender = Callable[[torch.Tensor, torch.Tensor], Values]


def made(rows: int, classes: int, dim: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Embeddings in loose classes near a subspace of 32 dimensions, so that neither all nor no query is right."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(rows) * classes // rows
    inner = torch.randn(classes, 32, generator=generator)[labels]
    inner += 0.7 * torch.randn(rows, 32, generator=generator)
    noise = torch.randn(rows, dim, generator=generator)
    return noise.mul_(0.5).addmm_(inner, torch.randn(32, dim, generator=generator)), labels


# Retrieval


def bare(most: int) -> Contender:
    def run(embeddings: torch.Tensor, labels: torch.Tensor) -> Values:
        unit = torch.nn.functional.normalize(embeddings)
        for start in range(0, len(unit), BARE_ROWS):
            (unit[start : start + BARE_ROWS] @ unit.T).topk(min(most, len(unit)), dim=1)
        return {}

    return run


def ours(*ks: int) -> Contender:
    def run(embeddings: torch.Tensor, labels: torch.Tensor) -> Values:
        return dict(retrieval(embeddings, labels, [k for k in ks if k < len(labels)]).as_dict())

    return run


def plain_search(embeddings: torch.Tensor, labels: torch.Tensor) -> Values:
    found = search(embeddings, embeddings, k=8, exclude=torch.arange(len(embeddings)))
    return {"recall@1": (labels[found.ids[:, 0]] == labels).double().mean().item()}


def faiss_flat(embeddings: torch.Tensor, labels: torch.Tensor) -> Values:
    import faiss

    unit = torch.nn.functional.normalize(embeddings).numpy()
    index = faiss.IndexFlatIP(unit.shape[1])
    index.add(unit)
    _, ids = index.search(unit, 9)
    names = labels.numpy()
    # The first hit is taken for the query itself: right here, where there are no duplicates.
    return {"recall@1": float(np.mean(names[ids[:, 1]] == names))}


def pytorch_metric_learning(k: str | None) -> Contender:
    def run(embeddings: torch.Tensor, labels: torch.Tensor) -> Values:
        warnings.simplefilter("ignore")
        from pytorch_metric_learning.utils.accuracy_calculator import AccuracyCalculator

        names = {"precision_at_1": "recall@1", "r_precision": "r_precision", "mean_average_precision_at_r": "map@r"}
        calculator = AccuracyCalculator(include=tuple(names), k=k, device=torch.device("cpu"))
        found = calculator.get_accuracy(torch.nn.functional.normalize(embeddings), labels)
        return {names[name]: value for name, value in found.items()}

    return run


# Clustering


def products(*, argmax: bool) -> Contender:
    """What one assignment multiplies, as often as k-means does."""

    def run(embeddings: torch.Tensor, labels: torch.Tensor) -> Values:
        unit = torch.nn.functional.normalize(embeddings)
        chosen = torch.randperm(len(unit), generator=torch.Generator().manual_seed(0))[: len(labels.unique())]
        centres = unit[chosen]
        buffer = torch.empty(BARE_ROWS, len(centres))
        for _ in range(ITERATIONS):
            for block in unit.split(BARE_ROWS):
                found = torch.mm(block, centres.T, out=buffer[: len(block)])
                if argmax:
                    found.max(dim=1)
        return {"iterations_run": ITERATIONS}

    return run


def faiss_k_means(embeddings: torch.Tensor, labels: torch.Tensor) -> Values:
    import faiss

    unit = torch.nn.functional.normalize(embeddings).numpy()
    sizes = {"min_points_per_centroid": 1, "max_points_per_centroid": len(unit)}
    means = faiss.Kmeans(unit.shape[1], len(labels.unique()), niter=ITERATIONS, seed=0, **sizes)
    means.train(unit)
    means.index.search(unit, 1)
    return {"iterations_run": len(means.obj)}


def our_clustering(embeddings: torch.Tensor, labels: torch.Tensor) -> Values:
    found = clustering(embeddings, labels, iterations=ITERATIONS)
    return {"iterations_run": found.iterations_run, **found.as_dict()}


# Bits


def faiss_binary(most: int) -> Contender:
    def run(embeddings: torch.Tensor, labels: torch.Tensor) -> Values:
        import faiss

        codes = to_bits(embeddings.numpy())
        index = faiss.IndexBinaryFlat(codes.shape[1] * 8)
        index.add(codes)
        index.search(codes, min(most, len(codes)))
        return {}

    return run


def our_bits(embeddings: torch.Tensor, labels: torch.Tensor) -> Values:
    ks = [k for k in (1, 10, 100, 1000) if k < len(labels)]
    return dict(retrieval(to_bits(embeddings.numpy()), labels, ks).as_dict())


# Verification


def verification_contenders() -> dict[str, Callable[[], object]]:
    few, few_same = scores(6000)
    many, many_same = scores(10**7)
    random = np.random.default_rng(0)
    labels = np.repeat(np.arange(100), 40)
    rows = (random.normal(size=(4000, 512)) + random.normal(size=(100, 512))[labels]).astype(np.float32)
    return {
        "10 folds, exact, 6000 pairs": lambda: fold_accuracies(few, few_same),
        "10 folds, InsightFace, 6000 pairs": lambda: fold_accuracies(few, few_same, protocol="insightface"),
        "all scores, 6000 pairs": lambda: verification(few, few_same),
        "TAR at 1 FAR, 10^7 scores": lambda: tar_at_far(many, many_same, 1e-3),
        "TAR at 3 FAR, 10^7 scores": lambda: [tar_at_far(many, many_same, far) for far in FARS],
        "threshold at FAR 1e-3 from all pairs of 4000 x 512": lambda: calibrate(rows, labels, 1e-3),
    }


def scores(pairs: int) -> tuple[np.ndarray, np.ndarray]:
    """Cosines of as many same as different pairs, in folds of both, as LFW lists them."""
    random = np.random.default_rng(0)
    same = np.arange(pairs) // max(1, pairs // 20) % 2 == 0
    return np.tanh(random.normal(0, 0.15, pairs) + 0.6 * same).astype(np.float32), same


# The parts: sizes, contenders with their runs, and what is claimed


BARE, OURS = "bare matmul + topk", "cosphere"
PML, PML_FEW = "pytorch-metric-learning, k=None", "pytorch-metric-learning, k='max_bin_count'"
PARTS: dict[str, tuple[dict[str, int], dict[str, tuple[Contender, int]]]] = {
    "retrieval": (
        SMALL,
        {
            BARE: (bare(8), 5),
            OURS: (ours(1, 2, 4, 8), 5),
            "cosphere search(8)": (plain_search, 5),
            "faiss IndexFlatIP(9)": (faiss_flat, 5),
            PML_FEW: (pytorch_metric_learning("max_bin_count"), 2),
            PML: (pytorch_metric_learning(None), 1),
        },
    ),
    "sop": (SOP, {BARE: (bare(1000), 3), OURS: (ours(1, 10, 100, 1000), 3)}),
    "bits": (
        CODES,
        {
            "faiss IndexBinaryFlat(1)": (faiss_binary(1), 2),
            "faiss IndexBinaryFlat(1000)": (faiss_binary(1000), 2),
            OURS: (our_bits, 3),
        },
    ),
    "clustering": (
        SOP,
        {
            "bare products": (products(argmax=False), 1),
            "bare products + argmax": (products(argmax=True), 1),
            "faiss.Kmeans": (faiss_k_means, 1),
            OURS: (our_clustering, 1),
        },
    ),
}
CLAIMS = {
    "retrieval": "12 000 x 512: at least 15 times as fast as pytorch-metric-learning as it comes, with equal values.",
    "sop": "60 502 x 512, 11 316 classes, Recall@1,10,100,1000, MAP@R, R-precision: at most 1.3 times the bare blocked matrix "
    "product + topk(1000), under 2 GB in all.",
    "bits": "60 502 codes of 2048 bits, the same scores, expected ties: at most 1.2 times faiss's exact binary search.",
    "clustering": "NMI, AMI and F1 at that size, 20 iterations: each at most 1.3 times the bare products, under 2 GB in all.",
    "verification": "10 folds of 6000 pairs take under 0.2 s, TAR at a FAR over 10^7 scores under 3 s.",
}


def measure(part: str, name: str) -> dict[str, Any]:
    """Time one contender in this process."""
    size, contenders = PARTS[part]
    contender, runs = contenders[name]
    contender(*made(600, 100, size["dim"]))
    embeddings, labels = made(**size)
    before = _peak()
    seconds, processor_seconds = [], []
    values: Values = {}
    for _ in range(runs):
        start, used = time.perf_counter(), time.process_time()
        values = contender(embeddings, labels)
        seconds.append(time.perf_counter() - start)
        processor_seconds.append(time.process_time() - used)
    return {
        "runs": runs,
        "mean": statistics.mean(seconds),
        "sd": statistics.stdev(seconds) if runs > 1 else None,
        "processor_mean": statistics.mean(processor_seconds),
        "peak_growth_mb": (_peak() - before) / 1e6,
        "process_mb": _peak() / 1e6,
        "values": values,
    }


def _peak() -> int:
    """Largest resident size so far, in bytes. The kernel counts in KiB, macOS in bytes."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def in_own_process(part: str, name: str) -> dict[str, Any]:
    command = [sys.executable, __file__, "--measure", json.dumps([part, name])]
    found = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
    result: dict[str, Any] = json.loads(found.splitlines()[-1])
    print(f"{part:14}{name:46}{result['mean']:9.2f} s {result['process_mb']:8.0f} MB", flush=True)
    return result


def timed(work: Callable[[], object], runs: int = 5) -> dict[str, Any]:
    work()
    seconds = []
    for _ in range(runs):
        start = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - start)
    return {"runs": runs, "mean": statistics.mean(seconds), "sd": statistics.stdev(seconds)}


def judged(part: str, results: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """The figures of the claim, and whether it holds."""
    if part == "verification":
        folds = max(result["mean"] for name, result in results.items() if "folds" in name)
        far = results["TAR at 1 FAR, 10^7 scores"]["mean"]
        return {"folds_s": folds, "tar_at_far_s": far, "holds": folds < 0.2 and far < 3}
    mine, floor = results[OURS], next(iter(results.values()))
    steps = {name: result["values"].get("iterations_run", 1) for name, result in results.items()}
    ratio = mine["mean"] / steps[OURS] / (floor["mean"] / steps[next(iter(results))])
    found: dict[str, Any] = {"ratio_to_floor": ratio}
    if part == "retrieval":
        found["times_as_fast_as_pml"] = results[PML]["mean"] / mine["mean"]
        found["times_as_fast_as_pml_max_bin_count"] = results[PML_FEW]["mean"] / mine["mean"]
        theirs = [*results[PML]["values"].items(), *results[PML_FEW]["values"].items()]
        found["largest_difference"] = max(abs(mine["values"][name] - value) for name, value in theirs)
        found["holds"] = found["times_as_fast_as_pml"] >= 15 and found["largest_difference"] < 1e-5
    else:
        most = {"sop": 1.3, "bits": 1.2, "clustering": 1.3}[part]
        found["holds"] = ratio <= most and mine["process_mb"] < 2000
    return found


def table(content: dict[str, Any]) -> None:
    """The results as Markdown."""
    for found in content.values():
        figures = ", ".join(f"{key} {value:.3g}" for key, value in found["figures"].items() if key != "holds")
        print(f"\n{found['claim']}\n{'Holds' if found['figures']['holds'] else 'DOES NOT HOLD'}: {figures}\n")
        print("| | s | process |\n|---|---|---|")
        for name, result in found["results"].items():
            memory = f"{result['process_mb'] / 1000:.2f} GB" if "process_mb" in result else ""
            print(f"| {name} | {result['mean']:.3g} | {memory} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--parts", nargs="*", choices=[*PARTS, "verification", "table"], default=[*PARTS, "verification"]
    )
    parser.add_argument("--measure", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        print(json.dumps(measure(*json.loads(options.measure))))
        return
    content: dict[str, Any] = read_json(RESULT, what="results") if RESULT.exists() else {}
    content = {part: found for part, found in content.items() if part in CLAIMS}
    for part in options.parts:
        if part == "table":
            continue
        if part == "verification":
            size, results = {}, {name: timed(work) for name, work in verification_contenders().items()}
        else:
            size, results = PARTS[part][0], {name: in_own_process(part, name) for name in PARTS[part][1]}
        figures = judged(part, results)
        content[part] = {
            "claim": CLAIMS[part],
            "figures": figures,
            "size": size,
            "results": results,
            "provenance": provenance(),
        }
        write_json(RESULT, content)
        print(f"{part}: the claim {'holds' if figures['holds'] else 'DOES NOT HOLD'}", flush=True)
    table(content)


if __name__ == "__main__":
    main()
