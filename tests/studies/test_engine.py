"""A tiny study from beginning to end: its order, its pairs, its records, and what happens when it is stopped or goes wrong."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest

from cosphere.data import Catalogue, read_catalogue
from cosphere.errors import DataError, RunError, SettingsError
from cosphere.runs import open_lock
from cosphere.studies import Study, StudyFolder, StudyListener, StudyResult, run, study_of
from cosphere.studies.budget import Clock
from cosphere.studies.engine import Work
from cosphere.studies.reuse import Others

UNEQUAL = ["seconds", "training_seconds", "step_seconds", "memory", "time"]
"""Columns in which two equal studies differ."""


@pytest.fixture
def study(content: dict[str, Any]) -> Study:
    return study_of("tiny", content)


def same(table: pd.DataFrame, other: pd.DataFrame) -> None:
    pd.testing.assert_frame_equal(table.drop(columns=UNEQUAL), other.drop(columns=UNEQUAL))


class Stop(Exception):
    """What a test stops a study with."""


class Stopping(StudyListener):
    """Raises after some finished runs; keeps what it hears."""

    def __init__(self, after: int = 10**6) -> None:
        self.after, self.records, self.notes = after, list[Mapping[str, Any]](), list[str]()
        self.left: list[float | None] = []

    def ended(self, record: Mapping[str, Any], done: int, total: int, left: float | None) -> None:
        self.records.append(record)
        self.left.append(left)
        if len(self.records) == self.after:
            raise Stop

    def note(self, text: str) -> None:
        self.notes.append(text)


def test_every_run_is_a_row_with_its_provenance(whole: StudyResult) -> None:
    table = whole.table
    assert whole.complete
    assert len(table) == 2 * 2 + 2 * 2
    assert sorted(table["phase"]) == ["final"] * 4 + ["tune"] * 4
    assert set(table.loc[table["phase"] == "tune", "split"]) == {"val"}
    assert set(table.loc[table["phase"] == "final", "split"]) == {"test"}
    assert set(table.loc[table["phase"] == "final", "seed"]) == {0, 1}
    assert table["identity"].is_unique
    for column in ("machine", "time", "data", "settings", "score.recall@1", "score.map@r", "value.optimizer.head_rate"):
        assert table[column].notna().all(), column
    settings = json.loads(table["settings"][0])
    assert settings["batch"]["size"] == 8
    assert "root" not in settings["data"]
    folder = whole.folder
    pd.testing.assert_frame_equal(pd.read_parquet(folder.table), table)
    rows = json.loads(folder.table.with_suffix(".json").read_text())
    assert [row["score.map@r"] for row in rows] == table["score.map@r"].tolist()
    content = json.loads(folder.results.read_text())
    assert content["comparisons"][0]["question"] == "Does SEC raise Recall@1?"
    assert content["complete"] is True
    assert sum(content["provenance"]["runs"].values()) == 8
    assert content["base"]["batch.size"] == 8
    assert content["arms"][1]["tune"]["sec.weight"] == {"from": 0.001, "to": 1.0, "scale": "log"}


def test_arms_share_the_candidates_of_the_settings_that_both_tune(whole: StudyResult) -> None:
    tuned = whole.table[whole.table["phase"] == "tune"].set_index(["arm", "candidate"])
    rates = tuned["value.optimizer.head_rate"]
    assert rates["plain"].tolist() == rates["sec"].tolist()
    assert rates["plain"].nunique() == 2
    assert tuned["value.sec.weight"]["plain"].isna().all()
    assert tuned["value.sec.weight"]["sec"].between(1e-3, 1).all()


def test_the_final_runs_take_the_candidate_with_the_best_validation_score(whole: StudyResult) -> None:
    for arm in ("plain", "sec"):
        rows = whole.table[whole.table["arm"] == arm]
        tuned = rows[rows["phase"] == "tune"].sort_values("candidate")
        best = int(np.argmax(tuned["score.recall@1"]))  # The first of equals.
        assert set(rows.loc[rows["phase"] == "final", "candidate"]) == {best}


def test_an_arm_takes_what_was_chosen_for_another_except_what_it_fixes(
    content: dict[str, Any], images: Catalogue, tmp_path: Path
) -> None:
    content["arms"]["plain at the rate of sec"] = {"settings": {"sec.weight": 0}, "values_of": "sec"}
    content["arms"] = {name.replace(" ", "-"): arm for name, arm in content["arms"].items() if name != "plain"}
    content["questions"] = [{"ask": "At one rate?", "arm": "sec", "against": "plain-at-the-rate-of-sec"}]
    result = run(study_of("tiny", {**content, "seeds": 1}), images, tmp_path / "study")
    assert result.complete
    tuned, borrowed = result.arms
    assert set(tuned.chosen or {}) == {"optimizer.head_rate", "sec.weight"}
    assert borrowed.chosen == {"optimizer.head_rate": (tuned.chosen or {})["optimizer.head_rate"]}
    assert set(result.table.loc[result.table["phase"] == "tune", "arm"]) == {"sec"}
    (final,) = result.table.loc[result.table["arm"] == borrowed.name, "settings"]
    assert json.loads(final)["sec"]["weight"] == 0
    assert not any("Nothing is tuned" in note for note in result.notes)


def test_arms_of_one_seed_begin_with_the_same_weights_and_batches(images: Catalogue, tmp_path: Path) -> None:
    """The metric loss of the first step follows from both: equal between arms, different between seeds."""
    from studies.conftest import TINY

    base = {**TINY["base"], "log_every": 1, "validation": {**TINY["base"]["validation"], "lens": True}}
    content = {**TINY, "base": base}
    del content["tune"]
    content["arms"] = {"plain": {"sec.weight": 0}, "sec": {"sec.weight": 0.1}}
    result = run(study_of("tiny", content), images, tmp_path / "study")
    assert any(
        name.startswith("lens.") for name in result.table
    )  # the norm lens of each run is in the table, where it is measured
    first: dict[tuple[str, int], float] = {}
    for arm in ("plain", "sec"):
        for seed in (0, 1):
            lines = StudyFolder(tmp_path / "study").run(arm, f"final-seed{seed}") / "metrics.jsonl"
            first[arm, seed] = json.loads(lines.read_text().splitlines()[0])["train/loss_metric"]
    assert first["plain", 0] == first["sec", 0]
    assert first["plain", 1] == first["sec", 1]
    assert first["plain", 0] != first["plain", 1]


@pytest.mark.parametrize("copies", [0, pytest.param(1, marks=pytest.mark.slow)])
def test_no_test_image_is_read_before_the_last_choice(
    copies: int, content: dict[str, Any], photos: Path, whole: StudyResult, tmp_path: Path
) -> None:
    """The test images are taken away: every candidate is tried without them, and the first final run misses them."""
    if copies:
        content["base"]["features"] = {"copies": copies, "seed": 0}
    study = study_of("tiny", content)
    copy = shutil.copytree(photos, tmp_path / "photos")
    listed = read_catalogue(copy)
    shutil.move(copy / "test", tmp_path / "away")
    listener = Stopping()
    with pytest.raises(DataError, match=r"arm plain, final-seed0: .*cannot be read"):
        run(study, listed, tmp_path / "study", listener=listener)
    assert [record["phase"] for record in listener.records] == ["tune"] * 4
    assert StudyFolder(tmp_path / "study").choices.exists()
    shutil.move(tmp_path / "away", copy / "test")
    result = run(study, listed, tmp_path / "study")
    assert result.complete
    if copies:
        assert any(note.startswith("features: ") for note in listener.notes)  # Computing them takes minutes.
        features = tmp_path / ".features"  # beside the study, so that other studies find them
        assert features.is_dir()
        assert (
            len(list(features.iterdir())) == 3
        )  # One for each random backbone, that is for each seed; both arms share it.
    else:
        same(result.table, whole.table)


@pytest.mark.parametrize("after", [pytest.param(1, marks=pytest.mark.slow), 4, pytest.param(6, marks=pytest.mark.slow)])
def test_a_study_that_is_stopped_ends_with_the_table_of_an_unbroken_one(
    after: int, study: Study, images: Catalogue, whole: StudyResult, tmp_path: Path
) -> None:
    with pytest.raises(Stop):
        run(study, images, tmp_path / "study", listener=Stopping(after))
    listener = Stopping()
    result = run(study, images, tmp_path / "study", listener=listener)
    assert len(listener.records) == 8 - after  # nothing is done twice
    same(result.table, whole.table)
    assert [one.as_dict() for one in result.comparisons] == [one.as_dict() for one in whole.comparisons]


def test_more_seeds_may_be_asked_for_later_and_other_arms_may_not(
    study: Study, content: dict[str, Any], images: Catalogue, whole: StudyResult, tmp_path: Path
) -> None:
    folder = shutil.copytree(whole.folder.path, tmp_path / "study")
    listener = Stopping()
    more = run(study.with_numbers(seeds=3), images, folder, listener=listener)
    assert [record["run"] for record in listener.records] == ["final-seed2"] * 2
    assert len(more.table) == len(whole.table) + 2
    fewer = run(study, images, folder)
    same(fewer.table, whole.table)
    other = study_of("tiny", {**content, "candidates": 3})
    with pytest.raises(RunError, match="holds a study with other settings, arms or candidates"):
        run(other, images, folder)
    with pytest.raises(RunError, match="with other images"):
        run(study, images.select(classes=images.label_names[1:]), folder)


def test_a_second_study_in_the_folder_is_refused(study: Study, images: Catalogue, tmp_path: Path) -> None:
    handle = open_lock(tmp_path / "study" / ".lock")
    try:
        with pytest.raises(RunError, match="another process works on the study"):
            run(study, images, tmp_path / "study")
    finally:
        os.close(handle)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "letter.txt").write_text("dear")
    with pytest.raises(RunError, match="exists and is not a study"):
        run(study, images, tmp_path / "mine")


@pytest.mark.slow
def test_a_budget_starts_no_run_that_would_not_fit_and_the_next_call_goes_on(
    study: Study, images: Catalogue, whole: StudyResult, tmp_path: Path
) -> None:
    listener = Stopping()
    first = run(study, images, tmp_path / "study", budget=0.001, listener=listener)
    assert listener.records == []
    assert first.missing == {"tune": 4, "final": 4}
    assert first.comparisons[0].answer == "not decided"
    assert "no seed is finished" in first.comparisons[0].reason
    assert "no test image was read" in first.notes[0]
    assert "8 runs to do, about" in listener.notes[-1]
    assert not first.folder.choices.exists()
    same(run(study, images, tmp_path / "study", budget=600).table, whole.table)


def test_only_results_stay_of_a_run(whole: StudyResult) -> None:
    tuned, final = (whole.folder.run("sec", name) for name in ("tune-000-seed1000", "final-seed0"))
    assert sorted(file.name for file in tuned.iterdir()) == ["config.yaml", "metrics.jsonl", "record.json", "run.json"]
    assert {"record.json", "scores.json", "queries.npz", "embeddings"} <= {file.name for file in final.iterdir()}
    assert not (final / "checkpoints").exists()


def test_a_later_call_leaves_what_an_earlier_one_kept(study: Study, whole: StudyResult, tmp_path: Path) -> None:
    folder = StudyFolder(shutil.copytree(whole.folder.path, tmp_path / "study"))
    final, tuned = folder.run("sec", "final-seed0"), folder.run("sec", "tune-000-seed1000")
    for run_of in (final, tuned):
        for name in ("model", "checkpoints", "embeddings/cache"):
            (run_of / name).mkdir(parents=True)
    context: Any = SimpleNamespace(data={}, keep=("embeddings",))
    Work(study, folder, context, {}, Clock(None, jobs=1), Others.__new__(Others), StudyListener())
    assert (final / "model").is_dir()
    assert (final / "embeddings" / "test.npz").is_file()
    gone = [final / "checkpoints", final / "embeddings" / "cache", tuned / "model", tuned / "embeddings"]
    assert not any(path.exists() for path in gone)


@pytest.mark.slow
def test_models_stay_if_asked_for(study: Study, images: Catalogue, whole: StudyResult, tmp_path: Path) -> None:
    from cosphere.models import Embedder

    folder = shutil.copytree(whole.folder.path, tmp_path / "study")
    run(study.with_numbers(seeds=3), images, folder, keep_models=True)
    assert Embedder.load(StudyFolder(folder).run("sec", "final-seed2") / "model").dim == 8


def test_an_arm_that_diverges_is_reported_and_counts_as_chance(
    content: dict[str, Any], images: Catalogue, tmp_path: Path
) -> None:
    wild = {"settings": {"optimizer.head_rate": 1e30}, "tune": {"sec.momentum": [0.1, 0.2]}}
    content["arms"] = {"plain": content["arms"]["plain"], "wild": wild, "echo": {"values_of": "wild"}}
    content["questions"] = [{"ask": "Is it better?", "arm": arm, "against": "plain"} for arm in ("wild", "echo")]
    listener = Stopping()
    result = run(study_of("tiny", content), images, tmp_path / "study", listener=listener)
    rows = result.table[result.table["arm"] == "wild"]
    assert list(rows["status"]) == ["diverged", "diverged"]
    assert rows["reason"].str.contains("is nan|not finite|is inf").all()
    assert result.complete
    (arm,) = (one for one in result.arms if one.name == "wild")
    assert (arm.chosen, arm.failed_candidates, dict(arm.scores)) == (None, 2, {})
    answer, echo = result.comparisons
    assert "Every candidate of wild diverged; echo counts as chance." in echo.reason
    assert "Every candidate of wild diverged; it counts as chance." in answer.reason
    chance = 5 / 23  # six images in each of four test classes
    plain = [one["scores"]["recall@1"] for one in result.records if (one["arm"], one["phase"]) == ("plain", "final")]
    assert answer.changes == pytest.approx([chance - score for score in plain])
    assert any("every candidate of wild diverged" in note for note in listener.notes)


@pytest.mark.slow
def test_a_final_run_that_diverges_counts_as_chance(content: dict[str, Any], images: Catalogue, tmp_path: Path) -> None:
    content["final"] = {"optimizer.loss_rate": 0.1}
    content["arms"] = {
        "plain": {},
        "wild": {"settings": {"sec.weight": 0.1}, "tune": {"optimizer.weight_decay": [0.0, 0.1]}},
    }
    content["questions"] = [{"ask": "?", "arm": "wild", "against": "plain"}]
    study = study_of("tiny", content)
    run(study, images, tmp_path / "study")
    folder = StudyFolder(tmp_path / "study")
    broken = folder.run("wild", "final-seed1") / "record.json"
    record = json.loads(broken.read_text())
    broken.write_text(json.dumps({**record, "status": "diverged", "scores": {}, "reason": "the metric loss is nan"}))
    result = run(study, images, tmp_path / "study")
    assert "1 of 2 runs of wild diverged and count as chance." in result.comparisons[0].reason
    (arm,) = (one for one in result.arms if one.name == "wild")
    assert (arm.diverged, arm.scores["recall@1"].n) == (1, 1)
    assert len(result.table) == study.runs  # not dropped


@pytest.mark.slow
def test_data_without_a_test_split_keeps_some_classes_for_it(
    content: dict[str, Any], photos: Path, tmp_path: Path
) -> None:
    content |= {"candidates": 1, "seeds": 1}
    listener = Stopping()
    result = run(study_of("tiny", content), photos / "train", tmp_path / "study", listener=listener)
    assert any("3 of its 10 classes, drawn with seed 0, are kept for the test" in note for note in listener.notes)
    queries = result.folder.queries(next(one for one in result.records if one["phase"] == "final"))
    assert len(set(queries["classes"].tolist())) == 3
    assert "one seed says nothing" in result.comparisons[0].reason


def test_data_with_other_splits_alone_is_refused(study: Study, images: Catalogue, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="has the splits train; a study wants train and test"):
        run(study, images.select("train"), tmp_path / "study")


def test_nothing_to_choose_by_is_said(content: dict[str, Any], images: Catalogue, tmp_path: Path) -> None:
    content["base"]["data"] = {"validation_share": 0.0}
    with pytest.raises(SettingsError, match="nothing to choose candidates by"):
        run(study_of("tiny", content), images, tmp_path / "study")


@pytest.mark.slow(seconds=15)
def test_tpe_goes_on_after_a_stop_as_if_there_had_been_none(
    content: dict[str, Any], images: Catalogue, tmp_path: Path
) -> None:
    content |= {"candidates": 3, "seeds": 1, "search": {"sampler": "tpe"}}
    content["base"]["steps"] = 1
    study = study_of("tiny", content)
    unbroken = run(study, images, tmp_path / "whole", reuse="none")
    with pytest.raises(Stop):
        run(study, images, tmp_path / "broken", listener=Stopping(4), reuse="none")
    with pytest.raises(Stop):
        run(study, images, tmp_path / "broken", listener=Stopping(1), reuse="none")
    same(run(study, images, tmp_path / "broken", reuse="none").table, unbroken.table)
    tuned = unbroken.table[unbroken.table["phase"] == "tune"]
    assert tuned.loc[tuned["arm"] == "sec", "value.sec.weight"].nunique() == 3


@pytest.mark.skipif(not hasattr(os, "fork"), reason="kills its forks")
@pytest.mark.slow(seconds=80)
@pytest.mark.parametrize("kills", [10])
def test_a_study_killed_at_random_moments_ends_with_the_table_of_an_unbroken_one(
    kills: int, content: dict[str, Any], photos: Path, whole: StudyResult, tmp_path: Path
) -> None:
    words = [str(photos), str(tmp_path / "study"), str(kills), "0", json.dumps(content)]
    script = Path(__file__).with_name("killed.py")
    ended = subprocess.run([sys.executable, script, *words], capture_output=True, text=True, check=True)
    assert ended.stdout.count("killed") == kills  # and none ended by itself before its turn
    same(pd.read_parquet(tmp_path / "study" / "table.parquet"), whole.table)


@pytest.mark.slow(seconds=30)
def test_several_processes_do_what_one_does(
    study: Study, images: Catalogue, whole: StudyResult, tmp_path: Path
) -> None:
    same(run(study, images, tmp_path / "study", jobs=2).table, whole.table)
