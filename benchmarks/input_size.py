"""Frozen Recall@1 against input size: what more pixels give before any training, and what they cost.

    python benchmarks/input_size.py DATA [DATA ...] [--sizes 96 128 160 224] [--device auto]

Each DATA is a folder, table or benchmark root with a test split. The backbone is that of `cosphere evaluate --untrained`: ImageNet
weights, pooled features, no head. Seconds are of embedding alone, decoding included.
Writes benchmarks/results/input-size.json.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

from cosphere.data import read_catalogue
from cosphere.embeddings import embed
from cosphere.evaluate import EvaluationSettings, score_embeddings
from cosphere.experiment import choose_device
from cosphere.files import write_json
from cosphere.runs import provenance
from cosphere.train import TrainSettings, untrained_model

RESULT = Path(__file__).parent / "results" / "input-size.json"
MEASURED = EvaluationSettings(ks=(1,), clustering=False, interval_over="classes")


def frozen(root: Path, size: int, device: str, workers: int) -> dict[str, Any]:
    """Scores and speed of the frozen backbone at one size."""
    images = read_catalogue(root).select("test")
    model = untrained_model(TrainSettings().with_values({"images.size": size})).to(device)
    began = time.perf_counter()
    table = embed(model, images, workers=workers)
    seconds = time.perf_counter() - began
    scores = score_embeddings(table, MEASURED).values
    return {
        name: {"value": score.value, "interval": score.interval and list(score.interval)}
        for name, score in scores.items()
        if name in ("recall@1", "map@r")
    } | {"images": len(table), "seconds": seconds, "images_per_second": len(table) / seconds}


def main() -> None:
    """Measure all sizes on all data."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", nargs="+", type=Path)
    parser.add_argument("--sizes", nargs="+", type=int, default=[96, 128, 160, 224])
    parser.add_argument("--device", default="auto")
    parser.add_argument("--workers", type=int, default=0)
    parser.add_argument("--out", type=Path, default=RESULT)
    options = parser.parse_args()
    device = choose_device(options.device)
    results: dict[str, dict[str, Any]] = {}
    for root in options.data:
        for size in options.sizes:
            row = frozen(root, size, device, options.workers)
            results.setdefault(root.name, {})[str(size)] = row
            print(
                f"{root.name:16} {size:4} px  Recall@1 {100 * row['recall@1']['value']:.1f}  {row['seconds']:.1f} s",
                flush=True,
            )
            write_json(options.out, {"results": results, "device": device, "provenance": provenance()})


if __name__ == "__main__":
    main()
