"""Studies that are scored by protocols: the test is opened last there too."""

from __future__ import annotations

import copy
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from small_lfw import TEST, write_lfw

from cosphere.data import read_catalogue
from cosphere.errors import DataError, SettingsError
from cosphere.files import read_json
from cosphere.studies import StudyFolder, StudyListener, run, study_of
from cosphere.studies.forms import of_protocols, of_ranking, protocol_options


@pytest.fixture
def faces(content: dict[str, Any]) -> dict[str, Any]:
    """The tiny study, scored on a small LFW."""
    content = copy.deepcopy(content)
    content |= {
        "scores": ["lfw/unseen/auc", "lfw/accuracy", "recall@1"],
        "search": {"metric": "pairs/auc"},
        "protocols": {"lfw": {"flip": "none"}},
        "seeds": 1,
        "candidates": 1,
        "questions": [{"ask": "Does SEC raise the AUC?", "arm": "sec", "against": "plain"}],
    }
    return content


class Records(StudyListener):
    def __init__(self) -> None:
        self.phases: list[str] = []

    def ended(self, record: Any, done: int, total: int, left: float | None) -> None:
        self.phases.append(record["phase"])


def test_candidates_are_chosen_and_tests_opened_last(faces: dict[str, Any], tmp_path: Path) -> None:
    """The images and lists of the test are taken away: every candidate is tried without them."""
    root = write_lfw(tmp_path / "lfw")
    listed = read_catalogue(root)
    study = study_of("faces", faces)
    away = tmp_path / "away"
    away.mkdir()
    for name in [*TEST, "pairs.txt", "pairsDevTest.txt", "pairsDevTrain.txt"]:
        shutil.move(root / name, away / name)
    listener = Records()
    with pytest.raises(DataError, match=r"arm plain, final-seed0: "):
        run(study, listed, tmp_path / "study", listener=listener)
    assert listener.phases == ["tune"] * 2
    folder = StudyFolder(tmp_path / "study")
    assert folder.choices.exists()
    assert not list((tmp_path / "study").rglob("scores-lfw.json"))
    for name in TEST:
        shutil.move(away / name, root / name)
    with pytest.raises(
        DataError, match=r"final-seed0: the protocol lfw wants pairs.txt"
    ):  # after the ranking was scored
        run(study, listed, tmp_path / "study", listener=listener)
    for file in away.iterdir():
        shutil.move(file, root / file.name)
    result = run(study, listed, tmp_path / "study", listener=listener)
    assert result.complete
    assert listener.phases == ["tune"] * 2 + ["final"] * 2
    tuned = result.table[result.table["phase"] == "tune"]
    assert tuned["score.pairs/auc"].between(0, 1).all()
    final = result.table[result.table["phase"] == "final"]
    scores = read_json(folder.run("sec", "final-seed0") / "scores-lfw.json", what="scores")
    assert scores["settings"]["flip"] == "none"
    assert scores["settings"]["samples"] == 0
    want = scores["parts"][1]["scores"]["auc"]["value"]
    assert final.set_index("arm")["score.lfw/unseen/auc"]["sec"] == want
    assert result.comparisons[0].changes == pytest.approx(
        np.diff(final.set_index("arm").loc[["plain", "sec"], "score.lfw/unseen/auc"])
    )
    assert not list((tmp_path / "study").rglob("embeddings/cache"))  # rows of every image, for each run


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"scores": ["lfv/auc"]}, "there is no protocol 'lfv'. Did you mean 'lfw'"),
        ({"scores": ["lfw/aucc"]}, "the protocol lfw has no score 'aucc'. Did you mean 'auc'"),
        ({"scores": ["lfw/eer"]}, "the protocol lfw has no score 'eer'"),
        (
            {"protocols": {"lfw": {"flop": 1}}},
            r"there is no setting 'protocols.lfw.flop'. Did you mean 'protocols.lfw.flip'",
        ),
        ({"protocols": {"knn": {"k": 5}}}, "protocols names knn, and no score is of it. Add knn/accuracy to `scores`"),
        ({"search": {"metric": "lfw/auc"}}, r"the protocol lfw wants pairs.txt .*Take a score of pairs, knn, linear"),
        (
            {"search": {"metric": "pairs/accuracies"}},
            "the protocol pairs has no score 'accuracies'. Did you mean 'accuracy'",
        ),
    ],
)
def test_wrong_names_are_refused_before_anything_runs(
    change: dict[str, Any], message: str, faces: dict[str, Any]
) -> None:
    with pytest.raises(SettingsError, match=message):
        study_of("faces", faces | change)


def test_names_are_sorted_by_what_measures_them() -> None:
    names = ("recall@1", "recall@1/bits", "lfw/accuracy", "nmi", "knn/accuracy", "lfw/unseen/auc")
    assert of_ranking(names) == ("recall@1", "recall@1/bits", "nmi")
    assert of_protocols(names) == {
        "lfw": {"lfw/accuracy": "accuracy", "lfw/unseen/auc": "unseen/auc"},
        "knn": {"knn/accuracy": "accuracy"},
    }
    assert protocol_options("lfw", {"flip": "none"}) == {"samples": 0, "flip": "none"}
    assert protocol_options("linear", {}) == {}


def test_a_study_without_protocols_keeps_its_identity(content: dict[str, Any]) -> None:
    study = study_of("tiny", content)
    assert study.protocols == {}
    before = study.identity()
    assert (
        before == "db67a58946356e4ab7c830c15d0a628f3e69fcdb24ca1d222c87b5a8ccd68946"
    )  # of the version without protocols
    content["scores"] = ["recall@1", "map@r", "knn/accuracy"]
    content["protocols"] = {"knn": {"k": 5}}
    assert study_of("tiny", content).identity() != before
    content["protocols"]["knn"]["k"] = 6
    assert study_of("tiny", content).identity() != before
