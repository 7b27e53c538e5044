"""A study's own time: what of its wall time no run of it accounts for, at its start and end and between its runs.

    OMP_NUM_THREADS=1 python benchmarks/study_overhead.py [--jobs 2] [--runs 3]

Claim: less than 2 % of the time of its runs. Runs `cosphere study sec --mode laptop` on made-up stamps as a user would, in a process of
its own, so that the start of Python, imports, listing, the workers, the search, the verdicts and the page count: 24 runs of 600 steps,
and 60 short ones, whose difference is what a single run adds. From both follows the share of the whole study of 156 runs.
Writes benchmarks/results/study-overhead.json. About four minutes.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from cosphere.files import write_json
from cosphere.runs import provenance
from cosphere.stamps import draw_stamps

RESULT = Path(__file__).parent / "results" / "study-overhead.json"
WHOLE = 156
"""Runs of the study `sec`."""


def study(data: Path, runs: Path, name: str, jobs: int, *more: str) -> tuple[float, list[float]]:
    """Wall seconds of the command, and the seconds of each of its runs."""
    words = ["study", "sec", "--mode", "laptop", "--data", data, "--runs", runs, "--name", name, "--jobs", jobs]
    words += ["--reuse", "none", "--set", "images.size=64", *more]
    began = time.perf_counter()
    subprocess.run([sys.executable, "-m", "cosphere", *map(str, words)], check=True, capture_output=True)
    wall = time.perf_counter() - began
    records = [json.loads(file.read_text()) for file in (runs / name).glob("arms/*/*/record.json")]
    return wall, [record["seconds"] for record in records]


def one_turn(data: Path, runs: Path, turn: int, jobs: int) -> dict[str, Any]:
    """Seconds outside of runs: fixed, for each run, and as a share of the whole study."""
    few_wall, few = study(data, runs, f"few-{turn}", jobs, "--candidates", "1", "--seeds", "1")
    many_wall, many = study(data, runs, f"many-{turn}", jobs, "--candidates", "3", "--seeds", "2", "--set", "steps=20")
    outside_few, outside_many = few_wall - sum(few) / jobs, many_wall - sum(many) / jobs
    each = max(0.0, (outside_many - outside_few) / (len(many) - len(few)))
    fixed, run = outside_few - len(few) * each, statistics.mean(few)
    outside = fixed + WHOLE * each
    return {
        "runs": [len(few), len(many)],
        "run_seconds": run,
        "outside_seconds": [outside_few, outside_many],
        "fixed_seconds": fixed,
        "seconds_for_each_run": each,
        "share_of_whole_study": outside / (WHOLE * run / jobs),
    }


def main() -> None:
    """Measure, write and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--runs", type=int, default=3, help="turns")
    options = parser.parse_args()
    load = os.getloadavg()[0]
    with tempfile.TemporaryDirectory() as scratch:
        data = draw_stamps(Path(scratch) / "stamps", designs=80, impressions=10)
        runs = Path(scratch) / "runs"
        # Features and bytecode are there from then on.
        study(data, runs, "first", options.jobs, "--candidates", "1", "--seeds", "1", "--set", "steps=5")
        turns = [one_turn(data, runs, turn, options.jobs) for turn in range(options.runs)]
    shares = [turn["share_of_whole_study"] for turn in turns]
    result = {
        "claim": "a study's own time is less than 2 % of that of its runs",
        "settings": {"jobs": options.jobs, "whole_study": WHOLE},
        "share_of_whole_study": {"median": statistics.median(shares), "min": min(shares), "max": max(shares)},
        "turns": turns,
        "load_at_start": load,
        "provenance": provenance(),
    }
    write_json(RESULT, result)
    for turn in turns:
        print(
            f"{turn['fixed_seconds']:.1f} s at start and end, {1e3 * turn['seconds_for_each_run']:.0f} ms for each run of "
            f"{turn['run_seconds']:.1f} s: {100 * turn['share_of_whole_study']:.2f} % of {WHOLE} runs"
        )
    print(f"load at start {load:.1f}")


if __name__ == "__main__":
    main()
