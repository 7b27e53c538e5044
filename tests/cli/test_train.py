"""What `cosphere train` prints at its end."""

from __future__ import annotations

from pathlib import Path

import pytest

from cosphere.cli.train import show
from cosphere.runs import RunFolder
from cosphere.train import TrainResult, TrainSettings


@pytest.mark.parametrize(
    ("values", "scores", "scored"),
    [
        ({}, {"recall@1": 0.5}, "/photos "),
        ({"batch.sampler": "views", "loss.name": "nt_xent"}, {"recall@1": 0.5}, "/photos --protocol knn"),
        ({"batch.sampler": "views", "loss.name": "nt_xent"}, {}, "LABELLED_IMAGES --protocol knn"),
    ],
)
def test_the_next_command_fits_the_images(
    values: dict[str, str], scores: dict[str, float], scored: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = TrainSettings().with_values({"data.root": "/photos", **values})
    result = TrainResult(
        steps=1, seconds=1, best_step=1, best_scores=scores, before={}, stopped_early=False, unreadable=()
    )
    show(result, RunFolder(tmp_path), settings)
    words = " ".join(capsys.readouterr().out.split())
    assert f"next: cosphere evaluate {tmp_path} {scored.strip()} cosphere search {tmp_path} /photos QUERY.jpg" in words
