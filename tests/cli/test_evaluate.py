"""What `cosphere evaluate` prints of scores that are there."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from cosphere.cli.evaluate import show
from cosphere.evaluate import Embeddings, EvaluationSettings, score_embeddings
from cosphere.runs import RunFolder


@pytest.mark.parametrize(("classes", "words"), [(1, "12 images, 1 class"), (3, "12 images, 3 classes")])
def test_the_table_says_what_was_ranked(
    classes: int, words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = Embeddings(
        embeddings=np.random.default_rng(0).normal(size=(12, 8)).astype(np.float32),
        labels=np.arange(12) % classes,
        paths=tuple(f"/{row}.png" for row in range(12)),
        class_names=tuple("abc"[:classes]),
    )
    folder = RunFolder.create(tmp_path / "a run")
    folder.config.write_text("seed: 0\n")
    show(score_embeddings(data, EvaluationSettings(ks=(1,), bits=True)), folder, "test")
    text = capsys.readouterr().out
    assert words in [line.strip().removeprefix("a run, test: ") for line in text.splitlines()]
    assert "note: Ranked by one bit a dimension and Hamming distance, not by the floats." in text
