"""What `cosphere train` prints at its end."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from cosphere.cli.train import show
from cosphere.data import Catalogue
from cosphere.runs import RunFolder
from cosphere.train import TrainResult, TrainSettings

SSL = {"batch.sampler": "views", "loss.name": "nt_xent"}


def images(*rows: str) -> Catalogue:
    """Words of a split and a label."""
    pairs = [row.split("/") for row in rows]
    table = {
        "path": [f"{n}.jpg" for n in range(len(rows))],
        "label": [label for _, label in pairs],
        "split": [split for split, _ in pairs],
    }
    return Catalogue(table=pd.DataFrame(table), root=Path("/photos"))


@pytest.mark.parametrize(
    ("values", "catalogue", "scored"),
    [
        ({}, images("train/a", "train/b", "test/c"), "/photos "),
        ({"data.root": "~/photos"}, images(*(f"all/{label}" for label in "aabbccddee")), "/photos "),
        ({}, images("all/a", "all/b"), "/photos --split all "),  # too few classes to hold some out
        (SSL, images("train/a", "train/b", "test/a", "test/b"), "/photos --protocol knn "),
        (SSL, images("all/a", "all/b"), "/photos --protocol knn --split all "),  # refused without it
        (SSL, images("train/a", "train/b"), "/photos --protocol knn --split train "),
        (SSL, images("train/a", "train/b", "test/c", "test/d"), "/photos --protocol knn --split test "),
        (SSL, images("all/", "all/"), "LABELLED_IMAGES --protocol knn "),
        (SSL | {"data.validation_share": 0}, images("all/", "all/"), "LABELLED_IMAGES --protocol knn "),
    ],
)
def test_the_next_command_fits_the_images(
    values: dict[str, str],
    catalogue: Catalogue,
    scored: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("HOME", "/")
    settings = TrainSettings().with_values({"data.root": "/photos", **values})
    result = TrainResult(
        steps=1, seconds=1, best_step=1, best_scores={}, before={}, stopped_early=False, unreadable=(), folder=tmp_path
    )
    show(result, RunFolder(tmp_path), settings, catalogue)
    words = " ".join(capsys.readouterr().out.split())
    assert f"next: cosphere evaluate {tmp_path} {scored}cosphere search {tmp_path} /photos QUERY.jpg" in words
