"""Embeddings of real images for benchmarks: of the untrained backbone, or of a run's model; kept in a file beside the runs.

    python benchmarks/embedded.py DATA --pooling concat

Without a run, the pooled features of the ImageNet backbone (EfficientNet-Lite0 at 160 px) are the embeddings.
"""

from __future__ import annotations

import argparse
import hashlib
import os
from pathlib import Path

from cosphere.data import read_catalogue
from cosphere.embeddings import Embeddings, embed, number_classes
from cosphere.experiment.models import load_model, ready
from cosphere.train import TrainSettings, untrained_model

KEPT = Path(os.environ.get("COSPHERE_RUNS", "runs")) / "embedded"
SIZE = 160


def embedded(
    data: str | Path,
    *,
    run: str | None = None,
    pooling: str = "avg",
    split: str = "all",
    images: int | None = None,
    cache: str | Path | None = None,
) -> Embeddings:
    """The embeddings of a split of a data set; images are decoded once.

    Args:
        data: image folder, table or benchmark root.
        run: a run's folder or a bundle; None for the untrained backbone.
        pooling: of the untrained backbone.
        split: its name; ``all`` for every image.
        images: only the first ones; None for all.
        cache: the folder that keeps the embeddings; None for that beside the runs.
    """
    catalogue = read_catalogue(data)
    chosen = catalogue.select(split)
    chosen = chosen.rows(range(min(images, len(chosen)))) if images else chosen
    values = {"model.pooling": pooling, "images.size": SIZE}
    embedder = untrained_model(TrainSettings().with_values(values)).to(ready()) if run is None else load_model(run)
    key = hashlib.sha256(f"{embedder.id}\n{chosen.fingerprint()}".encode()).hexdigest()[:16]
    path = (
        KEPT if cache is None else Path(cache)
    ) / f"{Path(data).name}-{split}-{pooling if run is None else Path(run).name}-{key}.npz"
    if not path.exists():
        print(f"embedding {len(chosen):,} images of {Path(data).name}, {pooling}", flush=True)
        number_classes(embed(embedder, chosen), chosen, catalogue).save(path)
    return Embeddings.load(path)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data")
    parser.add_argument("--run")
    parser.add_argument("--pooling", default="avg")
    options = parser.parse_args()
    found = embedded(options.data, run=options.run, pooling=options.pooling)
    print(f"{len(found)} embeddings of width {found.embeddings.shape[1]}, {len(found.class_names)} classes")
