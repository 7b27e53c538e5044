"""How well `cosphere plan` foresees the time and memory of whole training runs.

    python benchmarks/plan.py DATA [--runs 2] [--steps 1000 40 16]

Claim: within 25 % of what is measured. Each proposal of the plan is timed as the command does; then the same settings train in a process
of their own, validations included, for as many steps as --steps says for the quick, standard and large proposal (whole runs take hours on
a CPU, and their steps cost the same), and the estimate for that many steps is set beside the clock. Writes
benchmarks/results/plan.json.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from cosphere.experiment import planning
from cosphere.files import write_json
from cosphere.runs import provenance
from cosphere.train import TrainSettings

RESULT = Path(__file__).parent / "results" / "plan.json"
RUN = (
    "import resource, sys; from pathlib import Path; from cosphere.experiment import run; "
    "from cosphere.train import TrainSettings; settings = TrainSettings.read(Path(sys.argv[1])); "
    "run(settings, Path(sys.argv[2])); print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)"
)


def whole(settings: TrainSettings, folder: Path) -> tuple[float, int]:
    """Wall seconds and largest memory in bytes of a whole run in a process of its own."""
    folder.mkdir(parents=True)
    settings.write(folder / "config.yaml")
    began = time.perf_counter()
    ended = subprocess.run(
        [sys.executable, "-c", RUN, str(folder / "config.yaml"), str(folder / "run")],
        check=True,
        stdout=subprocess.PIPE,
        text=True,
    )
    return time.perf_counter() - began, int(ended.stdout.split()[-1])


def measured(data: Path, steps: list[int], folder: Path) -> list[dict[str, Any]]:
    """The estimate of each proposal beside its clock and memory."""
    plan = planning.plan(data)
    rows = []
    for choice, count in zip(plan.choices, steps, strict=True):
        assert choice.cost is not None
        settings = choice.settings.with_values({"steps": count, "validation.every": max(1, count // 2)})
        wall, memory = whole(settings, folder / choice.name)
        estimated = planning.estimate(settings, plan.summary, choice.cost)
        rows.append(
            {
                "choice": choice.name,
                "changes": choice.changes,
                "steps": count,
                "estimated_seconds": estimated,
                "seconds": wall,
                "time_ratio": estimated / wall,
                "estimated_bytes": choice.cost.memory,
                "bytes": memory,
                "memory_ratio": choice.cost.memory / memory,
            }
        )
        print(
            f"{choice.name:10}{count:6} steps  {estimated:7.1f} s estimated, {wall:7.1f} s measured: {estimated / wall:.2f};  "
            f"{choice.cost.memory / 1e9:.2f} GB estimated, {memory / 1e9:.2f} GB measured: {choice.cost.memory / memory:.2f}",
            flush=True,
        )
    return rows


def main() -> None:
    """Measure, write and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--runs", type=int, default=2)
    parser.add_argument("--steps", type=int, nargs=3, default=[1000, 40, 16])
    options = parser.parse_args()
    load = os.getloadavg()[0]
    runs = []
    for _ in range(options.runs):
        with tempfile.TemporaryDirectory() as scratch:
            runs.append(measured(options.data.absolute(), options.steps, Path(scratch)))
    result = {
        "claim": "time and memory within 25 % of what is measured",
        "data": options.data.name,
        "runs": runs,
        "load_at_start": load,
        "provenance": provenance(),
    }
    write_json(RESULT, result)


if __name__ == "__main__":
    main()
