"""Tables of pairs and pairs drawn from labels."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from cosphere.errors import DataError
from cosphere.evaluate import Embeddings
from cosphere.experiment import evaluate_protocol
from cosphere.experiment.protocols.pairs import PairSettings, drawn_pairs, label_scores


@pytest.mark.parametrize("seed", range(5))
def test_drawn_pairs_are_what_they_say_and_come_once(seed: int) -> None:
    labels = np.repeat(["a", "b", "c", "d"], [30, 3, 2, 1])[np.random.default_rng(seed).permutation(36)]
    pairs = drawn_pairs(labels, 20, seed)
    assert pairs.same.tolist() == [True] * 20 + [False] * 20
    assert [labels[one] == labels[two] for one, two in pairs.rows.tolist()] == pairs.same.tolist()
    assert len({frozenset(pair) for pair in pairs.rows.tolist()}) == 40
    of_class = Counter(labels[one] for one, _ in pairs.rows[:20].tolist())
    assert of_class["c"] == 1  # all that there are: small classes are not outweighed
    assert of_class["b"] == 3
    assert of_class["a"] == 16


def test_all_pairs_are_drawn_where_there_are_few() -> None:
    labels = ["x", "x", "x", "y"]
    pairs = drawn_pairs(labels, 100)
    assert {frozenset(pair) for pair in pairs.rows[pairs.same].tolist()} == {
        frozenset(p) for p in [(0, 1), (0, 2), (1, 2)]
    }
    assert {frozenset(pair) for pair in pairs.rows[~pairs.same].tolist()} == {frozenset((i, 3)) for i in range(3)}


def test_every_same_pair_can_be_drawn() -> None:
    labels = ["a"] * 6 + ["b"]
    drawn = Counter(tuple(sorted(drawn_pairs(labels, 2, seed).rows[0].tolist())) for seed in range(400))
    assert len(drawn) == 15
    assert max(drawn.values()) < 60  # 400 / 15 = 27


@pytest.mark.parametrize(
    ("labels", "message"), [(["a", "b"], "no pair of one class"), (["a", "a"], "no pair of two classes")]
)
def test_labels_that_make_no_pairs(labels: list[str], message: str) -> None:
    with pytest.raises(DataError, match=message):
        drawn_pairs(labels, 5)


def test_labelled_embeddings_are_scored_without_files() -> None:
    rng = np.random.default_rng(0)
    labels = np.repeat(np.arange(8), 6)
    rows = (np.eye(8)[labels] + 0.01 * rng.normal(size=(48, 8))).astype(np.float32)
    table = Embeddings(embeddings=rows, labels=labels, paths=tuple(map(str, range(48))), class_names=tuple("abcdefgh"))
    scores = label_scores(table, PairSettings(samples=0))
    assert scores.value("accuracy") == scores.value("auc") == 1
    noise = label_scores(
        Embeddings(
            embeddings=rng.normal(size=(48, 8)).astype(np.float32),
            labels=labels,
            paths=table.paths,
            class_names=table.class_names,
        ),
        PairSettings(samples=0),
    )
    assert 0.3 < noise.value("auc") < 0.7


def test_a_table_of_pairs_on_any_folder(photos: Path, face_run: Path, tmp_path: Path) -> None:
    same = [(f"class10/{i}.png", f"class10/{i + 1}.png", 1) for i in range(3)]
    different = [(f"class10/{i}.png", f"class11/{i}.png", 0) for i in range(3)]
    table = pd.DataFrame([*same, *different], columns=["a", "b", "same"])
    table.to_csv(tmp_path / "own.csv", index=False)
    options = {"pairs": str(tmp_path / "own.csv"), "samples": 10, "folds": 3}
    scores = evaluate_protocol(face_run, photos, protocol="pairs", options=options).scores
    assert scores.parts[0].counts == {"same_pairs": 3, "different_pairs": 3, "images": 7}
    assert 0 <= scores.value("accuracy") <= 1
    assert "3 folds were drawn with seed 0; their pairs may share images" in scores.notes
    few = evaluate_protocol(face_run, photos, protocol="pairs", options={**options, "folds": 10}).scores
    assert "too few pairs for 10 folds, so there is no accuracy" in few.notes
    assert "accuracy" not in few.values


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (
            [("class10/0.png", "class10/1.png", 1)],
            "own.csv leaves 1 same pair and 0 different pairs; wanted some of both",
        ),
        (
            [("nobody/0.png", "class10/1.png", 1)],
            "1 of 2 images of the pairs are not among the 84 images, first nobody/0.png",
        ),
    ],
)
def test_tables_that_cannot_be_scored(
    rows: list[tuple[str, str, int]], message: str, photos: Path, face_run: Path, tmp_path: Path
) -> None:
    pd.DataFrame(rows, columns=["a", "b", "same"]).to_csv(tmp_path / "own.csv", index=False)
    with pytest.raises(DataError, match=message):
        evaluate_protocol(face_run, photos, protocol="pairs", options={"pairs": str(tmp_path / "own.csv")})
    with pytest.raises(DataError, match=r"there is no list of pairs .*none.csv. Check --pairs"):
        evaluate_protocol(face_run, photos, protocol="pairs", options={"pairs": str(tmp_path / "none.csv")})
