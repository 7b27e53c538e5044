"""Every loss: time against its floor, memory, and pytorch-metric-learning beside it; class weights up to a million classes.

    python benchmarks/losses.py                     # all parts: about half an hour on two cores
    python benchmarks/losses.py --parts speed sec   # some of them; the rest of the JSON stays

The floor of a pair loss is forward and backward of ``(x @ x.T).sum()``, measured in turn with it; that of class weights the
three bare products ``x @ w.T``, ``p @ w`` and ``p.T @ x``. Memory is how far the peak of a process of its own rises above what
imports, inputs and a small first step took. The tables go to docs/losses.md, between its markers.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import statistics
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import torch

from cosphere import losses
from cosphere.files import write_json, write_text
from cosphere.runs import provenance
from cosphere.spherical import SphericalConstraint

HERE = Path(__file__).parent
DOCUMENT = HERE.parent / "docs" / "losses.md"
RESULT = HERE / "results" / "losses.json"
PER_CLASS = 4
BATCHES = (512, 1024, 2048, 4096)
SORTS = {"semihard_triplet", "hard_cascade", "smooth_ap"}
"""Losses that must rank: 3 floors."""
UNBOUNDED = {"histogram", "facility_location"}
"""Measured, without a bound on their time."""
LONGEST_STEP = 60.0
"""Seconds of one step after which its memory so far is taken."""
PAIR = [entry.name for entry in losses.table() if not entry.uses_class_weights]
CLASS = [entry.name for entry in losses.table() if entry.uses_class_weights]
CLAIMS = {
    "speed": "At B = 512 to 4096, D = 512, each pair loss takes at most 2 floors; 3 for those that rank.",
    "memory": "At B = 4096 the extra peak is under 3 B x B floats, at B = 32 768, D = 128 under 1 GB.",
    "pml": "At B = 1024 none is slower than pytorch-metric-learning, and the geometric mean of the speed-ups is at least 10.",
    "classes": "With 100 000 classes, B = 512, D = 512: at most 1.5 times the three bare products, under 300 MB beyond weights and "
    "gradient. With 1 000 000 classes at D = 128 the whole process stays under 3 GB.",
    "views": "At 4096 views of 128 dimensions the extra peak is under 3 B x B floats.",
    "sec": "SEC adds at most 1 % to any loss at B = 512.",
}


def made(batch: int, dim: int, classes: int | None = None) -> tuple[torch.Tensor, torch.Tensor]:
    """Embeddings in loose classes, four of each."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(batch) // PER_CLASS
    centres = torch.randn(int(labels.max()) + 1, dim, generator=generator)
    points = centres[labels] + torch.randn(batch, dim, generator=generator)
    if classes is not None:
        labels = torch.randint(0, classes, (batch,), generator=generator)
    return points, labels


def median_seconds(work: Callable[[], object], runs: int) -> float:
    work()
    found = []
    for _ in range(runs):
        began = time.perf_counter()
        work()
        found.append(time.perf_counter() - began)
    return statistics.median(found)


def once(work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


# Speed


def speed(options: argparse.Namespace) -> dict[str, Any]:
    rows: dict[str, dict[str, Any]] = dict(options.old)
    for batch in BATCHES:
        for timing in losses.time_losses(options.losses or PAIR, batch=batch, dim=512, repeats=options.repeats):
            ratio = timing.times_floor
            rows.setdefault(timing.name, {})[str(batch)] = {
                "milliseconds": timing.seconds * 1e3,
                "floor_milliseconds": timing.floor_seconds * 1e3,
                "times_floor": ratio,
                "repeats": timing.repeats,
            }
            print(f"{batch:6} {timing.name:30}{timing.seconds * 1e3:9.1f} ms{ratio:8.2f} floors", flush=True)
    return {
        "results": rows,
        "holds": all(_fast_enough(name, cell) for name, row in rows.items() for cell in row.values()),
    }


def _fast_enough(name: str, cell: dict[str, float]) -> bool:
    return name in UNBOUNDED or cell["times_floor"] <= (3.0 if name in SORTS else 2.0)


# Memory


def memory(options: argparse.Namespace) -> dict[str, Any]:
    rows: dict[str, dict[str, Any]] = dict(options.old)
    for name in options.losses or PAIR:
        for batch, dim in ((4096, 512), (32768, 128)):
            found = in_own_process("peak", name, batch, dim, LONGEST_STEP)
            rows.setdefault(name, {})[f"{batch}x{dim}"] = found
            print(f"{name:30}{batch:6} x {dim}: {found['extra_mb']:7.0f} MB, {found['seconds']:.1f} s", flush=True)
    bound = 3 * 4096 * 4096 * 4 / 1e6
    holds = all(row["4096x512"]["extra_mb"] < bound and row["32768x128"]["extra_mb"] < 1000 for row in rows.values())
    return {"results": rows, "bound_mb_at_4096": bound, "holds": holds}


def peak(name: str, batch: int, dim: int, longest: float) -> NoReturn:
    """In a process of its own: one step after a small one, or its first minutes where it takes longer."""
    loss = losses.build(name, num_classes=batch // PER_CLASS, dim=dim)

    def step(points: torch.Tensor, labels: torch.Tensor) -> None:
        leaf = points.requires_grad_()
        loss(leaf, labels).backward()

    points, labels = made(batch, dim)
    step(*made(256, dim))
    before = start_of_peak()
    began = time.perf_counter()
    worker = threading.Thread(target=step, args=(points, labels), daemon=True)
    worker.start()
    worker.join(longest)
    found = {
        "extra_mb": (resident("VmHWM") - before) / 1e6,
        "seconds": time.perf_counter() - began,
        "finished": not worker.is_alive(),
    }
    print(json.dumps(found), flush=True)
    os._exit(0)  # a thread that still works would hold the process


def start_of_peak() -> int:
    """Forget the peak so far; bytes resident now. What was freed before goes back to the system first."""
    import ctypes

    ctypes.CDLL("libc.so.6").malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")
    return resident("VmRSS")


def resident(field: str) -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field):
            return int(line.split()[1]) * 1024
    raise RuntimeError(f"{field} is not in /proc/self/status: memory is measured under Linux only.")


# pytorch-metric-learning


def counterparts() -> dict[str, Callable[[int, int], tuple[Any, Any]]]:
    """Name -> (classes, dim) -> (their loss, their miner or None), at the settings that give our defaults' number."""
    from pytorch_metric_learning import distances, miners, reducers
    from pytorch_metric_learning import losses as theirs

    squared = distances.LpDistance(power=2)
    return {
        "triplet": lambda c, d: (
            theirs.TripletMarginLoss(margin=1.0, distance=squared, reducer=reducers.MeanReducer()),
            None,
        ),
        "semihard_triplet": lambda c, d: (
            theirs.TripletMarginLoss(margin=0.2, distance=squared),
            miners.TripletMarginMiner(margin=0.2, type_of_triplets="semihard", distance=squared),
        ),
        "batch_hard_triplet": lambda c, d: (
            theirs.TripletMarginLoss(margin=0.2, reducer=reducers.MeanReducer()),
            miners.BatchHardMiner(distance=distances.LpDistance()),
        ),
        "contrastive": lambda c, d: (theirs.ContrastiveLoss(), None),
        "lifted_structure": lambda c, d: (theirs.LiftedStructureLoss(), None),
        "generalized_lifted_structure": lambda c, d: (theirs.GeneralizedLiftedStructureLoss(neg_margin=1), None),
        "n_pair": lambda c, d: (
            theirs.NPairsLoss(distance=distances.DotProductSimilarity(normalize_embeddings=False)),
            None,
        ),
        "normalized_n_pair": lambda c, d: (theirs.NPairsLoss(), None),
        "tuplet_margin": lambda c, d: (theirs.TupletMarginLoss(), None),
        "intra_pair_variance": lambda c, d: (theirs.IntraPairVarianceLoss(), None),
        "multi_similarity": lambda c, d: (theirs.MultiSimilarityLoss(2, 40, 0.5), miners.MultiSimilarityMiner(0.1)),
        "angular": lambda c, d: (theirs.AngularLoss(), None),
        "margin": lambda c, d: (theirs.MarginLoss(num_classes=c), miners.DistanceWeightedMiner()),
        "histogram": lambda c, d: (theirs.HistogramLoss(), None),
        "nt_xent": lambda c, d: (theirs.NTXentLoss(0.5), None),
        "sup_con": lambda c, d: (theirs.SupConLoss(0.1), None),
        "circle": lambda c, d: (theirs.CircleLoss(), None),
        "norm_softmax": lambda c, d: (theirs.NormalizedSoftmaxLoss(c, d), None),
        "cosface": lambda c, d: (theirs.CosFaceLoss(c, d), None),
        "arcface": lambda c, d: (theirs.ArcFaceLoss(c, d), None),
        "sphereface": lambda c, d: (theirs.SphereFaceLoss(c, d), None),
        "subcenter_arcface": lambda c, d: (theirs.SubCenterArcFaceLoss(num_classes=c, embedding_size=d), None),
        "proxy_nca": lambda c, d: (theirs.ProxyNCALoss(c, d), None),
        "proxy_anchor": lambda c, d: (theirs.ProxyAnchorLoss(c, d), None),
        "soft_triple": lambda c, d: (theirs.SoftTripleLoss(c, d), None),
    }


OURS_FOR_PML: dict[str, dict[str, Any]] = {
    "contrastive": {"form": "pml"},
    "lifted_structure": {"normalize": True},
    "normalized_n_pair": {"scale": 1.0},
    "n_pair": {"l2_weight": 0.0},
    "sphereface": {"annealing": None, "easing": 0.0},
    "proxy_nca": {"positive_in_denominator": True},
    "soft_triple": {"tau": 0.0},
}
"""Settings of ours that compute what theirs does, where the defaults differ."""


def pml(options: argparse.Namespace) -> dict[str, Any]:
    rows: dict[str, Any] = dict(options.old)
    for name in counterparts():
        if options.losses and name not in options.losses:
            continue
        # Some of theirs do not fit at 1024: then at the largest half that does.
        for batch in (1024, 512, 256):
            theirs = in_own_process("time_theirs", name, batch, allow_failure=True)
            if theirs:
                break
        else:
            raise SystemExit(f"their counterpart of {name} does not run at any of these sizes")
        ours = in_own_process("time_ours", name, batch)
        rows[name] = {
            "batch": batch,
            "ours_ms": ours["ms"],
            "theirs_ms": theirs["ms"],
            "speed_up": theirs["ms"] / ours["ms"],
        }
        print(
            f"{name:30} B {batch:5}  ours {ours['ms']:8.1f}  theirs {theirs['ms']:9.1f}  {rows[name]['speed_up']:7.1f} x",
            flush=True,
        )
    speed_ups = [row["speed_up"] for row in rows.values()]
    mean = math.exp(statistics.mean(map(math.log, speed_ups)))
    at_1024 = [row["speed_up"] for row in rows.values() if row["batch"] == 1024]
    return {
        "results": rows,
        "geometric_mean": mean,
        "geometric_mean_of_those_that_run_at_1024": math.exp(statistics.mean(map(math.log, at_1024))),
        "slowest": min(speed_ups),
        "memory_limit_gb": 16,
        "holds": mean >= 10 and min(speed_ups) >= 1,
    }


def time_theirs(name: str, batch: int) -> dict[str, float]:
    import resource

    warnings.simplefilter("ignore")
    resource.setrlimit(resource.RLIMIT_DATA, (16 * 2**30, 16 * 2**30))
    points, labels = made(batch, 512)
    loss, miner = counterparts()[name](batch // PER_CLASS, 512)

    def step() -> None:
        leaf = points.clone().requires_grad_()
        loss(leaf, labels, miner(leaf, labels) if miner is not None else None).backward()

    began = time.perf_counter()
    step()
    return {"ms": median_seconds(step, 3 if time.perf_counter() - began > 1 else 20) * 1e3}


def time_ours(name: str, batch: int) -> dict[str, float]:
    points, labels = made(batch, 512)
    loss = losses.build(name, num_classes=batch // PER_CLASS, dim=512, **OURS_FOR_PML.get(name, {}))

    def step() -> None:
        leaf = points.clone().requires_grad_()
        loss.zero_grad()
        loss(leaf, labels).backward()

    return {"ms": median_seconds(step, 30) * 1e3}


# Class weights


def classes(options: argparse.Namespace) -> dict[str, Any]:
    rows: dict[str, Any] = dict(options.old)
    for name in options.losses or CLASS:
        many = in_own_process("many_classes", name, 100_000, 512)
        million = in_own_process("many_classes", name, 1_000_000, 128)
        rows[name] = {"100000": many, "1000000": million}
        print(
            f"{name:24} 100 000: {many['ratio']:.2f} bare products, {many['extra_mb']:.0f} MB extra; "
            f"1 000 000: {million['ms']:.0f} ms, process {million['process_gb']:.2f} GB",
            flush=True,
        )
    holds = all(
        row["100000"]["ratio"] <= 1.5 and row["100000"]["extra_mb"] < 300 and row["1000000"]["process_gb"] < 3
        for row in rows.values()
    )
    return {"results": rows, "holds": holds}


def many_classes(name: str, vectors: int, dim: int) -> dict[str, Any]:
    """``vectors`` class weights in all: a loss with several centres a class has as many classes fewer."""
    small = losses.build(name, num_classes=8, dim=dim)
    centres = max(len(p) for p in small.parameters()) // 8
    count = vectors // centres
    points, labels = made(512, dim, count)
    small(points.clone().requires_grad_(), labels % 8).backward()
    loss = losses.build(name, num_classes=count, dim=dim)
    weight = max(loss.parameters(), key=lambda p: p.numel())

    def step() -> None:
        weight.grad = None
        loss(points.clone().requires_grad_(), labels).backward()

    before = start_of_peak()
    first = once(step)
    extra = resident("VmHWM") - before - weight.numel() * 4  # the gradient has to be
    process = resident("VmHWM")

    @torch.no_grad()
    def bare() -> None:
        logits = points @ weight.T
        logits @ weight
        logits.T @ points

    ours: list[float] = [first]
    floor: list[float] = []
    runs = 6 if vectors <= 100_000 else 1
    if vectors <= 100_000:
        once(bare)
        # In turn, so that what else the machine does falls on both.
        pairs = [(once(step), once(bare)) for _ in range(runs)]
        ours, floor = [pair[0] for pair in pairs], [pair[1] for pair in pairs]
    return {
        "classes": count,
        "ms": statistics.median(ours) * 1e3,
        "ratio": statistics.median(ours) / statistics.median(floor) if floor else None,
        "extra_mb": extra / 1e6,
        "process_gb": process / 1e9,
        "runs": runs,
    }


# SEC


def sec(options: argparse.Namespace) -> dict[str, Any]:
    """SEC beside each pair loss, and beside the least that autograd can do: one node, a pass to read and a pass to write."""
    found: dict[str, Any] = {}
    constraint = SphericalConstraint()
    for batch in (512, 1024):
        points, _ = made(batch, 512)
        leaf = points.clone().requires_grad_()

        def alone(leaf: torch.Tensor = leaf) -> None:
            leaf.grad = None
            constraint(leaf).backward()

        def least(leaf: torch.Tensor = leaf) -> None:
            leaf.grad = None
            leaf.sum().backward()

        def passes(points: torch.Tensor = points) -> None:
            points * torch.linalg.vector_norm(points, dim=1, keepdim=True)

        timings = losses.time_losses(options.losses or PAIR, batch=batch, dim=512, repeats=options.repeats)
        seconds = median_seconds(alone, 2000)
        shares = {timing.name: seconds / timing.seconds for timing in timings}
        found[str(batch)] = {
            "microseconds": seconds * 1e6,
            "autograd_skeleton_microseconds": median_seconds(least, 2000) * 1e6,
            "two_passes_microseconds": median_seconds(passes, 2000) * 1e6,
            "share": shares,
            "above_1_percent": sorted(name for name, share in shares.items() if share > 0.01),
        }
        print(f"{batch}: SEC {seconds * 1e6:.0f} us; above 1 % of {found[str(batch)]['above_1_percent']}")
    return {"results": found, "holds": not any(row["above_1_percent"] for row in found.values())}


# Views


def views(options: argparse.Namespace) -> dict[str, Any]:
    """NT-Xent and SupCon as self-supervision calls them: 4096 views, two of each image, 128 dimensions."""
    rows = {}
    points, _ = made(4096, 128)
    labels = torch.arange(4096) // 2

    def floor() -> None:
        leaf = points.clone().requires_grad_()
        (leaf @ leaf.T).sum().backward()

    for name in ("nt_xent", "sup_con"):
        loss = losses.build(name, num_classes=2048, dim=128)

        def step(loss: torch.nn.Module = loss) -> None:
            loss(points.clone().requires_grad_(), labels).backward()

        row = in_own_process("peak", name, 4096, 128, LONGEST_STEP)
        row |= {"milliseconds": 1e3 * median_seconds(step, options.repeats)}
        row |= {"floor_milliseconds": 1e3 * median_seconds(floor, options.repeats)}
        rows[name] = row
        print(f"{name:10} 4096 views: {row['milliseconds']:.0f} ms, {row['extra_mb']:.0f} MB", flush=True)
    bound = 3 * 4096 * 4096 * 4 / 1e6
    return {"results": rows, "bound_mb": bound, "holds": all(row["extra_mb"] < bound for row in rows.values())}


# Together


def in_own_process(work: str, *arguments: Any, allow_failure: bool = False) -> dict[str, Any]:
    command = [sys.executable, __file__, "--work", json.dumps([work, *arguments])]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        if allow_failure:
            return {}
        raise SystemExit(f"{work} {arguments} failed:\n{done.stderr[-2000:]}")
    return json.loads(done.stdout.splitlines()[-1])


PARTS = {"speed": speed, "memory": memory, "pml": pml, "classes": classes, "sec": sec, "views": views}
WORK = {"peak": peak, "time_theirs": time_theirs, "time_ours": time_ours, "many_classes": many_classes}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", nargs="*", choices=list(PARTS), default=list(PARTS))
    parser.add_argument("--losses", nargs="*", help="only these; their rows replace the old ones")
    parser.add_argument("--repeats", type=int, default=20)
    parser.add_argument("--out", type=Path, default=RESULT)
    parser.add_argument("--work", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.work:
        work, *arguments = json.loads(options.work)
        print(json.dumps(WORK[work](*arguments)))
        return
    content = json.loads(options.out.read_text()) if options.out.exists() else {}
    for part in options.parts:
        options.old = content.get(part, {}).get("results", {}) if options.losses else {}
        found = PARTS[part](options)
        found |= {"claim": CLAIMS[part], "provenance": provenance() | {"threads": torch.get_num_threads()}}
        content[part] = found
        write_json(options.out, content)
        print(f"{part}: the claim {'holds' if found['holds'] else 'DOES NOT HOLD'}")
    if options.out.resolve() == RESULT.resolve() and not options.losses:
        write_text(DOCUMENT, with_tables(DOCUMENT.read_text(), content))
    print(f"written to {options.out}")


# The tables of docs/losses.md


def with_tables(document: str, content: dict[str, Any]) -> str:
    """The document with everything between its speed markers made from the JSON."""
    start, end = "<!-- speed -->", "<!-- /speed -->"
    before, _, rest = document.partition(start)
    _, _, after = rest.partition(end)
    made_now = "\n\n".join(table(content) for part, table in TABLES.items() if part in content)
    return f"{before}{start}\n{made_now}\n{end}{after}"


def speed_table(content: dict[str, Any]) -> str:
    lines = ["| pair loss | " + " | ".join(f"B = {batch}" for batch in BATCHES) + " | memory at 4096 | at 32 768 |"]
    lines.append("|" + "---|" * (len(BATCHES) + 3))
    stored = content.get("memory", {}).get("results", {})
    for name, row in sorted(content["speed"]["results"].items()):
        cells = [f"{row[str(b)]['milliseconds']:.1f} ms ({row[str(b)]['times_floor']:.2f})" for b in BATCHES]
        megabytes = (
            [f"{stored[name][key]['extra_mb']:.0f} MB" for key in ("4096x512", "32768x128")]
            if name in stored
            else ["", ""]
        )
        lines.append(f"| {name} | " + " | ".join(cells + megabytes) + " |")
    return f"{caption(content)}\n\n" + "\n".join(lines)


def caption(content: dict[str, Any]) -> str:
    """Where and how the tables were measured, and what their columns mean."""
    about = content["speed"]["provenance"]
    machine = about["machine"]
    return (
        f"Medians of one forward and backward pass on {machine['processor']} with {machine['cores']} cores, {about['threads']} threads, "
        f"torch {about['torch']}, float32, D = 512, {about['time'][:10]}. In brackets: times the floor, the forward and backward pass of "
        "`(x @ x.T).sum()` measured beside it. Memory: how far the peak of one step rises (D = 512 at 4096 images, 128 at 32 768). In "
        "the second table, `at most` is their time over the floor, the gain of a loss at the floor itself. "
        "[JSON](../benchmarks/results/losses.json), [script](../benchmarks/losses.py)."
    )


def pml_table(content: dict[str, Any]) -> str:
    lines = [
        "| loss | batch | Cosphere | pytorch-metric-learning | times as fast | at most |",
        "|---|---|---|---|---|---|",
    ]
    ratios: dict[str, list[float]] = {"pair losses": [], "class weights": []}
    for name, row in content["pml"]["results"].items():
        at_most = ""
        if name in PAIR and not name.endswith("n_pair"):  # those compare a quarter of the batch
            floors = [cells[str(row["batch"])]["floor_milliseconds"] for cells in content["speed"]["results"].values()]
            at_most = f"{row['theirs_ms'] / statistics.median(floors):.1f}"
        ratios["pair losses" if name in PAIR else "class weights"].append(row["speed_up"])
        lines.append(
            f"| {name} | {row['batch']} | {row['ours_ms']:.1f} ms | {row['theirs_ms']:.1f} ms | {row['speed_up']:.1f} | {at_most} |"
        )
    means = "; ".join(f"{kind} {math.exp(statistics.mean(map(math.log, found))):.1f}" for kind, found in ratios.items())
    return (
        "\n".join(lines)
        + f"\n\nGeometric means: {means}; all {content['pml']['geometric_mean']:.1f}. Those measured at less than "
        f"1024 images do not run at 1024 within {content['pml']['memory_limit_gb']} GB. Class weights: one class for four images, "
        "256 at B = 1024."
    )


def classes_table(content: dict[str, Any]) -> str:
    lines = [
        "| class weights | C = 100 000, D = 512 | extra memory | C = 1 000 000, D = 128 | whole process |",
        "|---|---|---|---|---|",
    ]
    for name, row in content["classes"]["results"].items():
        many, million = row["100000"], row["1000000"]
        lines.append(
            f"| {name} | {many['ms']:.0f} ms ({many['ratio']:.2f} bare products) | {many['extra_mb']:.0f} MB | "
            f"{million['ms'] / 1e3:.1f} s | {million['process_gb']:.2f} GB |"
        )
    above = [name for name, row in content["classes"]["results"].items() if row["100000"]["ratio"] > 1.5]
    lines += [
        "",
        "The floor is 4/3: logits that are never held are made twice, so there are four products. What comes on top is mostly the "
        f"exponential of each logit, once forward and once backward. Above 1.5: {', '.join(above) or 'none'}. `soft_triple` takes "
        "an exponential and two sums for each of its 10 centres a class, where the others take one for each class, and the "
        "distances between the centres.",
    ]
    return "\n".join(lines)


def sec_line(content: dict[str, Any]) -> str:
    lines = []
    for batch, row in content["sec"]["results"].items():
        shares = sorted(row["share"].values())
        above = ", ".join(row["above_1_percent"]) or "none"
        lines.append(
            f"SEC at B = {batch}, D = 512: {row['microseconds']:.0f} µs, {statistics.median(shares):.1%} of the median pair loss, "
            f"at most {shares[-1]:.1%}; above 1 %: {above}. An autograd node that does nothing takes "
            f"{row['autograd_skeleton_microseconds']:.0f} µs, reading and writing the embeddings once "
            f"{row['two_passes_microseconds']:.0f} µs."
        )
    return "\n\n".join(lines)


TABLES = {"speed": speed_table, "pml": pml_table, "classes": classes_table, "sec": sec_line}


if __name__ == "__main__":
    main()
