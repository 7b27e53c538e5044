"""What a run leaves where its scoring fails; nothing is trained here."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from cosphere.data import Catalogue
from cosphere.errors import DivergenceError
from cosphere.studies import StudyFolder, StudyListener, jobs, run, study_of
from cosphere.studies.jobs import Context, Job, Phase, perform
from cosphere.studies.results import arm_results, compared
from cosphere.train.progress import Spoken


def diverges(*_: Any, **__: Any) -> Any:
    raise DivergenceError("the probe's weights are no longer finite numbers")


@pytest.fixture
def trained(monkeypatch: pytest.MonkeyPatch) -> None:
    """Training that goes well at once."""
    result = SimpleNamespace(steps=2, best_step=1, seconds=1.0, best_scores={"recall@1": 0.9})
    monkeypatch.setattr(jobs, "_train", lambda *_: result)


def done(content: dict[str, Any], images: Catalogue, folder: Path, phase: Phase) -> dict[str, Any]:
    settings = study_of("tiny", content).settings("plain", {}, 0)
    context = Context(folder, images, images, {"training": "t", "whole": "w"}, ("recall@1", "linear/accuracy"))
    return perform(Job("plain", phase, 0, 0, {}, settings), context).record


@pytest.mark.usefixtures("trained")
def test_a_final_run_has_no_validation_scores_where_those_of_the_test_fail(
    content: dict[str, Any], images: Catalogue, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jobs, "evaluate_run", diverges)
    record = done(content, images, tmp_path, "final")
    assert (record["split"], record["status"], record["scores"]) == ("test", "diverged", {})
    assert done(content, images, tmp_path, "tune")["scores"] == {"recall@1": 0.9}


@pytest.mark.usefixtures("trained")
def test_a_probe_that_diverges_costs_the_run_that_score_alone(
    content: dict[str, Any], images: Catalogue, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jobs, "evaluate_protocol", diverges)
    monkeypatch.setattr(jobs, "_score", lambda *_: SimpleNamespace(scores=None))
    monkeypatch.setattr(jobs, "per_query", lambda *_: {})
    monkeypatch.setattr(jobs, "_measured", lambda _, __, ___, others: {"scores": {"recall@1": 0.5, **others}})
    monkeypatch.setattr(jobs, "_queries", lambda *_: {"classes": np.array(["a"])})
    record = done(content, images, tmp_path, "final")
    assert (record["status"], record["scores"]) == ("ok", {"recall@1": 0.5})
    assert record["failed"] == {"linear/accuracy": "the probe's weights are no longer finite numbers"}


def test_a_score_that_could_not_be_measured_counts_as_chance_and_the_others_stay(
    content: dict[str, Any], tmp_path: Path
) -> None:
    scores = ["recall@1", "linear/accuracy"]
    ask = {"ask": "?", "arm": "sec", "against": "plain"}
    content |= {"scores": scores, "questions": [{**ask, "score": score} for score in scores]}
    study, folder, records = study_of("tiny", content), StudyFolder(tmp_path), []
    for arm in study.arms:
        for seed in range(2):
            record: dict[str, Any] = {"arm": arm, "run": f"final-seed{seed}", "phase": "final", "seed": seed}
            record |= {"status": "ok", "norms": {}, "scores": {"recall@1": 0.5, "linear/accuracy": 0.8}}
            if (arm, seed) == ("sec", 1):
                record |= {"scores": {"recall@1": 0.5}, "failed": {"linear/accuracy": "diverged"}}
            folder.save(record, {"classes": np.repeat(list("abcd"), 5)})
            records.append(record)
    recall, probe = compared(study, folder, records, {})
    assert recall.changes == (0.0, 0.0)
    assert recall.notes == ()
    assert probe.changes == pytest.approx((0.0, 0.25 - 0.8))  # one of four classes
    assert probe.notes == ("linear/accuracy of 1 of 2 runs of sec diverged and counts as chance.",)
    by_arm = {one.name: one for one in arm_results(study, records, {})}
    assert [by_arm["sec"].scores[score].n for score in scores] == [2, 1]


def test_features_that_do_not_fit_the_budget_are_not_computed_to_the_end(
    content: dict[str, Any], images: Catalogue, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cosphere.experiment.training.Spoken", partial(Spoken, every=0.0))
    content["base"]["features"] = {"copies": 4, "seed": 0}
    notes: list[str] = []
    listener = StudyListener()
    monkeypatch.setattr(listener, "note", notes.append)
    result = run(study_of("tiny", content), images, tmp_path / "study", budget=1e-3, listener=listener)
    assert result.missing == {"tune": 4, "final": 4}
    assert notes[-1].startswith("the features take about ")
    assert notes[-1].endswith("the budget ends before; no run was started. Give a longer --budget, or none.")
    assert not any("computed in" in note for note in notes)
