"""kNN and linear probes as protocols, against scikit-learn."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import binom
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

from cosphere.data import read_catalogue
from cosphere.errors import DataError
from cosphere.evaluate import Embeddings
from cosphere.experiment import evaluate_protocol
from cosphere.experiment.protocols import split_score
from cosphere.experiment.protocols.knn import NearestSettings
from cosphere.experiment.protocols.knn import label_scores as knn_scores
from cosphere.experiment.protocols.probing import halves
from cosphere.models import Embedder


@pytest.fixture(scope="session")
def shared(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The training photographs again, with the same classes in train and test."""
    root = tmp_path_factory.mktemp("shared")
    for file in sorted((photos / "train").glob("*/*.png")):
        target = root / ("train" if int(file.stem) < 4 else "test") / file.parent.name / file.name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(file, target)
    return root


def features(root: Path, run: Path) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    embedder, data = Embedder.load(run / "model"), read_catalogue(root)
    parts = [data.select(split) for split in ("train", "test")]
    rows = [embedder.encode(part.paths, normalize=False).astype(np.float64) for part in parts]
    return rows[0], parts[0].table["label"].to_numpy(), rows[1], parts[1].table["label"].to_numpy()


def test_knn_votes_by_cosine(shared: Path, face_run: Path) -> None:
    train, train_labels, test, labels = features(shared, face_run)
    unit = [rows / np.linalg.norm(rows, axis=1, keepdims=True) for rows in (train, test)]
    right = []
    for row, label in zip(unit[1] @ unit[0].T, labels, strict=True):
        votes: dict[str, float] = {}
        for place in np.argsort(-row)[:5]:
            votes[train_labels[place]] = votes.get(train_labels[place], 0) + np.exp(row[place] / 0.1)
        right.append(max(votes, key=lambda name: votes[name]) == label)
    done = evaluate_protocol(face_run, shared, protocol="knn", options={"k": 5, "temperature": 0.1, "samples": 20})
    assert done.path.name == "scores-knn.json"
    assert done.scores.value("accuracy") == pytest.approx(np.mean(right))
    assert done.scores.parts[0].counts == {"train_images": 40, "test_images": 20, "classes": 10}
    assert done.scores.value("accuracy_top5") >= done.scores.value("accuracy")


def test_the_linear_probe_is_logistic_regression(shared: Path, face_run: Path) -> None:
    train, train_labels, test, labels = features(shared, face_run)
    scaler = StandardScaler().fit(train)
    # scikit-learn minimises the sum over 40 images: C = 1 / (decay * 40).
    model = LogisticRegression(C=1 / (1e-2 * 40), max_iter=2000, tol=1e-8).fit(scaler.transform(train), train_labels)
    want = (model.predict(scaler.transform(test)) == labels).mean()
    scores = evaluate_protocol(face_run, shared, protocol="linear", options={"decay": 1e-2}).scores
    assert scores.value("accuracy") == pytest.approx(want)
    interval = scores.values["accuracy"].interval
    assert interval is not None
    assert binom.sf(round(want * 20) - 1, 20, interval.low) == pytest.approx(0.025)  # Clopper and Pearson's lower end
    sgd = evaluate_protocol(face_run, shared, protocol="linear", options={"recipe": "sgd", "epochs": 3, "rate": 0.1})
    assert sgd.scores.value("accuracy_best_epoch") >= sgd.scores.value("accuracy")
    assert any("accuracy is after the last epoch" in note for note in sgd.scores.notes)


def test_new_classes_are_refused_and_a_named_split_is_halved(photos: Path, face_run: Path) -> None:
    message = r"knn wants the test classes in train; 4 of 4 test classes are not, first 'class10'. Give --split test"
    with pytest.raises(DataError, match=message):
        evaluate_protocol(face_run, photos, protocol="knn")
    scores = evaluate_protocol(face_run, photos, protocol="knn", split="test", options={"samples": 0}).scores
    assert scores.parts[0].counts == {"train_images": 12, "test_images": 12, "classes": 4}
    assert "half of the images of each class of test train the probe, the others test it" in scores.notes


def test_data_without_splits_is_refused(shared: Path, face_run: Path) -> None:
    with pytest.raises(DataError, match=r"linear wants a train and a test split; .* has only 'all'\. Give --split all"):
        evaluate_protocol(face_run, shared / "train", protocol="linear")
    with pytest.raises(DataError, match=r"knn wants images with labels, and those in .* have none"):
        evaluate_protocol(face_run, next((shared / "train").iterdir()), protocol="knn", split="all")


def test_halves_are_of_each_class() -> None:
    labels = np.array([0, 1, 0, 2, 1, 0, 1, 1])
    table = Embeddings(
        embeddings=np.arange(8, dtype=np.float32)[:, None],
        labels=labels,
        paths=tuple("abcdefgh"),
        class_names=tuple("xyz"),
    )
    data = halves(table, "val", "knn")
    assert data.train.ravel().tolist() == [0, 1, 5, 6]
    assert data.test.ravel().tolist() == [2, 4, 7]
    assert data.notes[1] == "1 class with one image left out"
    with pytest.raises(DataError, match="knn wants two classes with two images each; the images have 1"):
        halves(table.rows([0, 2, 3]), "val", "knn")


def test_labelled_embeddings_are_scored_by_their_other_half() -> None:
    labels = np.repeat(np.arange(3), 4)
    table = Embeddings(
        embeddings=np.eye(3, dtype=np.float32)[labels],
        labels=labels,
        paths=tuple("abcdefghijkl"),
        class_names=tuple("xyz"),
    )
    assert knn_scores(table, NearestSettings(k=2, samples=0)).value("accuracy") == 1


def test_names_of_scores() -> None:
    found = split_score("knn/accuracy")
    assert found is not None
    assert found[0].chance("accuracy", 10) == pytest.approx(0.1)
    pairs = split_score("pairs/tar@far=1e-2")
    assert pairs is not None
    assert pairs[0].chance("tar@far=1e-2", 10) == pytest.approx(0.01)
    assert pairs[0].chance("auc", 10) == 0.5
    assert split_score("nmi/bits") is None
