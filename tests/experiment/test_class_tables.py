"""The tables of classes and of suspicious images: 5 % wrong labels stand out in both."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from cosphere.evaluate import Embeddings, EvaluationSettings, score_embeddings
from cosphere.experiment.class_tables import as_csv
from cosphere.experiment.evaluation import save_class_tables
from cosphere.runs import RunFolder

CLASSES, EACH = 10, 30


@pytest.fixture
def mislabelled() -> tuple[Embeddings, set[str]]:
    """Ten clear groups; 8 images of `f` carry the label of `a` and 7 of `g` that of `b`: 5 % of all."""
    generator = np.random.default_rng(0)
    truth = np.repeat(np.arange(CLASSES), EACH)
    rows = generator.normal(size=(CLASSES, 32))[truth] + 0.4 * generator.normal(size=(len(truth), 32))
    labels = truth.copy()
    wrong = np.concatenate([np.flatnonzero(truth == 5)[:8], np.flatnonzero(truth == 6)[:7]])
    labels[wrong] -= 5
    paths = tuple(f"/photos/{'ab'[number % 2]}/{number}.png" for number in range(len(truth)))
    found = Embeddings(embeddings=rows.astype(np.float32), labels=labels, paths=paths, class_names=tuple("abcdefghij"))
    return found, {f"{'ab'[row % 2]}/{row}.png" for row in wrong}


def test_wrong_labels_stand_out(mislabelled: tuple[Embeddings, set[str]], tmp_path: Path) -> None:
    embeddings, wrong = mislabelled
    folder = RunFolder.create(tmp_path / "run")
    scores = score_embeddings(embeddings, EvaluationSettings(clustering=False, bootstrap_samples=0))
    save_class_tables(folder, scores)
    classes = pd.read_csv(folder.path / "classes.csv")
    assert set(classes["class"].head(4)) == set("abfg")  # the classes that lost images and those that got them
    assert classes["queries"].sum() == CLASSES * EACH
    weight = classes["queries"] / classes["queries"].sum()
    assert (classes["map@r"] * weight).sum() == pytest.approx(scores.value("map@r"))
    suspects = pd.read_csv(folder.path / "suspects.csv")
    first = suspects.head(len(wrong))
    assert len(wrong & set(first["path"])) >= 0.8 * len(wrong)
    named = first[first["path"].isin(wrong)]
    assert set(zip(named["label"], named["suggested"], strict=True)) == {("a", "f"), ("b", "g")}


def test_a_clean_set_has_no_suspects(mislabelled: tuple[Embeddings, set[str]], tmp_path: Path) -> None:
    embeddings, _ = mislabelled
    clean = Embeddings(
        embeddings=embeddings.embeddings,
        labels=np.repeat(np.arange(CLASSES), EACH),
        paths=embeddings.paths,
        class_names=embeddings.class_names,
    )
    folder = RunFolder.create(tmp_path / "run")
    save_class_tables(folder, score_embeddings(clean, EvaluationSettings(clustering=False, bootstrap_samples=0)))
    suspects = pd.read_csv(folder.path / "suspects.csv")
    assert list(suspects.columns) == ["path", "label", "suggested", "agreement", "own"]
    assert len(suspects) <= 0.01 * CLASSES * EACH


@pytest.mark.parametrize("name", ["=HYPERLINK(1)", "@SUM(A1)", "+1", "-1+2"])
def test_no_cell_is_a_formula(name: str) -> None:
    table = pd.DataFrame({"class": [name, "a=b"], "map@r": [-0.5, 1.0]})
    assert as_csv(table).splitlines() == ["class,map@r", f"'{name},-0.5", "a=b,1.0"]
