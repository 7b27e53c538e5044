"""What `cosphere evaluate` prints of an evaluation."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cosphere.cli.evaluate import show, suspects_line
from cosphere.evaluate import Embeddings, EvaluationSettings, score_embeddings
from cosphere.experiment import Evaluation
from cosphere.experiment.evaluation import save_class_tables
from cosphere.runs import RunFolder


def evaluation(path: Path, classes: int, **parts: Any) -> Evaluation:
    data = Embeddings(
        embeddings=np.random.default_rng(0).normal(size=(12, 8)).astype(np.float32),
        labels=np.arange(12) % classes,
        paths=tuple(f"/{row}.png" for row in range(12)),
        class_names=("a [b]", "[/x]", "c")[:classes],
    )
    scores = score_embeddings(data, EvaluationSettings(ks=(1,), bits=True))
    made = {"untrained": False, "published": {}, "tables": None, "codes": None, **parts}
    return Evaluation(folder=RunFolder(path), split="[/test]", scores=scores, path=path / "scores.json", **made)


@pytest.mark.parametrize(("classes", "words"), [(1, "12 images, 1 class"), (3, "12 images, 3 classes")])
def test_the_table_says_what_was_ranked(
    classes: int, words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    show(evaluation(tmp_path / "a run", classes))
    shown = capsys.readouterr()
    assert words in [line.strip().removeprefix("a run, [/test]: ") for line in shown.out.splitlines()]
    assert "note: Ranked by one bit a dimension and Hamming distance, not by the floats." in shown.err
    assert "published" not in shown.out


def test_published_scores_and_the_weakest_classes_stand_beside(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = RunFolder.create(tmp_path / "run")
    plain = evaluation(folder.path, 3)
    tables = save_class_tables(folder, plain.scores)
    show(evaluation(folder.path, 3, tables=tables, published={"recall@1": 61.23}))
    shown = capsys.readouterr().out
    assert any("recall@1" in line and "61.23" in line for line in shown.splitlines())
    assert "weakest classes by map@r: " in shown
    assert "a [b] (" in shown
    suspects = int((tables.suspects["agreement"] > 0.5).sum())
    assert suspects_line(suspects, 12) in shown


@pytest.mark.parametrize(
    ("suspects", "words"),
    [
        (
            0,
            "0 of 32 images have most of their neighbours in one other class: wrong labels, or errors of the model; they come",
        ),
        (
            1,
            "1 of 32 images has most of its neighbours in one other class: wrong label, or an error of the model; it comes",
        ),
        (
            2,
            "2 of 32 images have most of their neighbours in one other class: wrong labels, or errors of the model; they come",
        ),
    ],
)
def test_the_line_of_suspects_counts_in_grammar(suspects: int, words: str) -> None:
    assert suspects_line(suspects, 32) == f"{words} first in"
