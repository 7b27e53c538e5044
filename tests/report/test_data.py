from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cosphere.data import Skipped
from cosphere.errors import RunError
from cosphere.evaluate import Embeddings, EvaluationSettings, score_embeddings
from cosphere.models import EmbedderSettings, build_embedder
from cosphere.report import ReportData, report_data_from_run
from cosphere.runs import RunFolder


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    return RunFolder.create(tmp_path / "first")


def store(run: RunFolder, split: str, value: float = 1.0, **columns: Any) -> Path:
    Embeddings(
        embeddings=np.array([[value, 0], [value, 1], [0, value]], np.float32),
        labels=np.array([0, 1, 0]),
        paths=("a", "b", "c"),
        class_names=("x", "y"),
        **columns,
    ).save(run.embeddings(split))
    return run.embeddings(split)


def test_an_empty_run_gives_its_name_only(run: RunFolder) -> None:
    data = report_data_from_run(run.path)
    assert data.name == "first"
    assert data.embeddings is data.ranking is None
    assert (list(data.metrics), dict(data.scores), dict(data.config), tuple(data.skipped)) == ([], {}, {}, ())


def test_everything_is_read(run: RunFolder) -> None:
    run.config.write_text("loss: {name: triplet}\nseed: 3\n", encoding="utf-8")
    run.append_metrics({"step": 1, "train/loss": 0.5})
    scores = {
        "split": "val",
        "scores": {"recall@1": 0.5},
        "baseline_scores": {"recall@1": 0.25},
        "skipped_images": [{"path": "p", "reason": "r"}],
    }
    run.scores.write_text(json.dumps(scores), encoding="utf-8")
    store(run, "test", 1.0)
    boxes = np.array([[0, 1, 5, 6], [-1, -1, -1, -1], [2, 2, 9, 9]])
    store(run, "val", 2.0, is_query=np.array([1, 0, 1], bool), is_gallery=np.array([0, 1, 1], bool), boxes=boxes)
    data = report_data_from_run(run.path, image_root=Path("/pictures"))
    assert data.config == {"loss": {"name": "triplet"}, "seed": 3}
    assert data.metrics == [{"step": 1, "train/loss": 0.5}]
    assert data.scores == scores
    assert data.baseline_scores == {"recall@1": 0.25}
    assert data.skipped == (Skipped("p", "r"),)
    assert data.embeddings is not None
    assert data.embeddings.embeddings.tolist() == [[2.0, 0.0], [2.0, 1.0], [0.0, 2.0]]
    assert [data.class_of(row) for row in range(3)] == ["x", "y", "x"]
    assert data.embeddings.is_query.tolist() == [True, False, True]
    assert data.embeddings.is_gallery.tolist() == [False, True, True]
    assert [data.box(row) for row in range(3)] == [(0, 1, 5, 6), None, (2, 2, 9, 9)]
    assert data.file(1) == str(Path("/pictures/b"))


@pytest.mark.parametrize(
    ("stored", "asked", "want"),
    [
        (["train", "val"], None, "val"),
        (["zebra", "train"], None, "train"),
        (["zebra", "ape"], None, "ape"),
        (["test", "val"], "val", "val"),
        (["val", "test"], None, "test"),
    ],
)
def test_the_split_is_chosen(run: RunFolder, stored: list[str], asked: str | None, want: str) -> None:
    for at, split in enumerate(stored):
        store(run, split, at + 1.0)
    data = report_data_from_run(run.path, split=asked)
    assert data.embeddings is not None
    assert data.embeddings.embeddings[0, 0] == stored.index(want) + 1
    assert data.scores["split"] == want


EVALUATION = {"bits": True, "ties": "pessimistic", "group_rule": "any_class", "ks": [1], "metrics": ["mrr"]}


def test_another_split_than_the_evaluated_one_is_scored_by_the_same_settings(run: RunFolder) -> None:
    run.scores.write_text(json.dumps({"split": "val", "scores": {"recall@1": 0.5}, "evaluation": EVALUATION}))
    store(run, "val")
    table = Embeddings.load(store(run, "test", 3.0, groups=np.array([0, 0, 1])))
    want = score_embeddings(
        table, EvaluationSettings(bits=True, ties="pessimistic", group_rule="any_class", ks=(1,), metrics=("mrr",))
    ).as_dict()
    data = report_data_from_run(run.path, split="test")
    assert data.scores == {"split": "test", **want}
    assert set(want["scores"]) >= {"recall@1", "mrr"}
    assert report_data_from_run(run.path).scores["scores"] == {"recall@1": 0.5}


def test_a_split_that_cannot_be_scored_says_why(run: RunFolder) -> None:
    path = store(run, "test")
    table = Embeddings.load(path)
    table.rows([0, 1]).save(path)
    data = report_data_from_run(run.path)
    assert data.scores["notes"][0].startswith("This split cannot be scored: ")
    assert data.ranking is None


def test_evaluation_settings_come_from_the_scores() -> None:
    data = ReportData(name="x", scores={"evaluation": {**EVALUATION, "unknown": 3}})
    assert (data.evaluation.bits, data.evaluation.ties, data.evaluation.group_rule) == (
        True,
        "pessimistic",
        "any_class",
    )
    assert ReportData(name="x", scores={"evaluation": None}).evaluation == EvaluationSettings()


@pytest.mark.parametrize("odd", [{"ties": "none"}, {"ks": 3}, {"metrics": [[]]}])
def test_odd_evaluation_settings_are_named(odd: dict[str, object]) -> None:
    with pytest.raises(RunError, match=r"the scores hold settings that cannot be used: .*Evaluate the run again"):
        ReportData(name="x", scores={"evaluation": odd}).evaluation  # noqa: B018


def test_a_split_that_is_not_there_is_named_with_what_is(run: RunFolder) -> None:
    with pytest.raises(RunError, match=r"no embeddings of split 'test'\. It has none yet"):
        report_data_from_run(run.path, split="test")
    store(run, "val")
    with pytest.raises(RunError, match=r"It has val\. Run: cosphere evaluate .*first DATA --split test"):
        report_data_from_run(run.path, split="test")


def test_a_folder_without_a_run(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="there is no run"):
        report_data_from_run(tmp_path / "nowhere")
    with pytest.raises(RunError, match=r"run\.json does not exist"):
        report_data_from_run(tmp_path)


def test_broken_files_are_named(run: RunFolder) -> None:
    run.scores.write_text("[1]", encoding="utf-8")
    with pytest.raises(RunError, match=r"scores\.json holds a list"):
        report_data_from_run(run.path)
    run.scores.write_text("{", encoding="utf-8")
    with pytest.raises(RunError, match=r"scores\.json is not a run's scores"):
        report_data_from_run(run.path)
    run.scores.unlink()
    run.config.write_text("a: [1", encoding="utf-8")
    with pytest.raises(RunError, match=r"cannot read settings from .*config\.yaml") as error:
        report_data_from_run(run.path)
    assert "\n" not in str(error.value)


def test_settings_cannot_make_objects(run: RunFolder) -> None:
    run.config.write_text("!!python/object/apply:os.getcwd []", encoding="utf-8")
    with pytest.raises(RunError, match=r"config\.yaml"):
        report_data_from_run(run.path)


@pytest.mark.parametrize("content", [b"", b"not a zip", b"PK\x03\x04 cut"])
def test_broken_embeddings_are_named(run: RunFolder, content: bytes) -> None:
    store(run, "test").write_bytes(content)
    with pytest.raises(RunError, match=r"test\.npz"):
        report_data_from_run(run.path)


def test_pickled_embeddings_and_files_without_embeddings_are_refused(run: RunFolder) -> None:
    path = store(run, "test")
    np.savez(path, embeddings=np.array([{"a": 1}], dtype=object))
    with pytest.raises(RunError, match=r"test\.npz") as error:
        report_data_from_run(run.path)
    assert "allow_pickle" not in str(error.value)
    np.savez(path, labels=np.zeros(3))
    with pytest.raises(RunError, match="it has no embeddings, paths, class_names"):
        report_data_from_run(run.path)


def test_what_is_unknown_has_a_stand_in() -> None:
    data = ReportData(name="x")
    assert data.file(3) == data.class_of(3) == ""
    assert data.box(3) is None
    assert data.class_name(3) == "class 3"


def test_scores_of_an_earlier_model_are_said_to_be(run: RunFolder) -> None:
    """As ``train --resume --steps`` leaves them: the model is another one, the scores are still there."""
    made = build_embedder(EmbedderSettings(backbone="test_resnet", weights="none", dim=2))
    made.save(run.model)
    for name in ("scores.json", "scores-lfw.json", "scores-knn.json"):
        content = {"split": "test", "scores": {}, "protocol": name[7:-5], "notes": ["own"], "model_id": made.id}
        content = content if name != "scores-knn.json" else {"protocol": "knn"}  # of an earlier version
        (run.path / name).write_text(json.dumps(content), encoding="utf-8")
    store(run, "test", model_id=made.id)
    before = report_data_from_run(run.path)
    assert before.scores["notes"] == before.protocols["lfw"]["notes"] == ["own"]
    next(made.head.parameters()).data += 1
    made.save(run.model)
    after = report_data_from_run(run.path)
    said = (
        "Scored before the run's last steps of training. For scores of the model as it is now, run: cosphere evaluate"
    )
    assert after.scores["notes"] == [f"{said} {run.path} --split test.", "own"]
    assert after.protocols["lfw"]["notes"] == [f"{said} {run.path} --protocol lfw.", "own"]
    assert "notes" not in after.protocols["knn"]
