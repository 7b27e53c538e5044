"""What `cosphere evaluate` prints of an evaluation."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cosphere.cli.evaluate import run, show, suspects_line
from cosphere.cli.protocol_tables import show as show_protocol
from cosphere.errors import SettingsError
from cosphere.evaluate import Embeddings, EvaluationSettings, Interval, score_embeddings
from cosphere.evaluate.scores import Value
from cosphere.experiment import Evaluation, ProtocolEvaluation
from cosphere.experiment.evaluation import save_class_tables
from cosphere.experiment.protocols import Part, ProtocolScores
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


def test_the_tables_of_a_protocol(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    part = Part(
        key="unseen",
        title="people [b]never[/b] trained on",
        values={"accuracy": Value(0.5, Interval(0.4, 0.6)), "tar@far=1e-3": Value(0.25, None)},
        counts={"same_pairs": 1200, "different_pairs": 7},
        details={"folds": {"accuracy_std": 0.0321}, "lengths": {"correlation": 0.125, "gain": None}},
    )
    scores = ProtocolScores(protocol="lfw", settings=None, parts=(part,), notes=("a note [/x]",))
    folder = RunFolder(tmp_path / "a run")
    show_protocol(ProtocolEvaluation(folder=folder, scores=scores, path=folder.path / "scores-lfw.json"))
    shown = capsys.readouterr()
    assert "people [b]never[/b] trained on" in shown.out
    row = next(line for line in shown.out.splitlines() if "unseen/accuracy" in line)
    assert [cell.strip() for cell in row.strip("│ ").split("│")] == ["unseen/accuracy", "50.00", "40.0 to 60.0", "3.21"]
    assert "1,200 same pairs, 7 different pairs" in shown.out
    assert "length and being right: correlation +0.12\n" in shown.out
    assert "note: a note [/x]" in shown.err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--pairs", "x.csv"], "--pairs and --options belong to a protocol. Add --protocol pairs"),
        (["--options.k", "3"], "--pairs and --options belong to a protocol"),
        (["--protocol", "knn", "--pairs", "x.csv"], "--pairs belongs to --protocol pairs; got --protocol knn"),
        (["--protocol", "lfw", "--codes"], "--untrained and --codes do not go with --protocol"),
        (["--protocol", "lfw", "--bits"], "--bits does not go with --protocol"),
        (["--protocol", "lfv"], "there is no protocol 'lfv'. Did you mean 'lfw'?"),
    ],
)
def test_options_that_do_not_go_together(words: list[str], message: str, tmp_path: Path) -> None:
    with pytest.raises(SettingsError) as caught:
        run([str(tmp_path), *words])
    assert message in str(caught.value)
