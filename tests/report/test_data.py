from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from cosphere.errors import RunError, SizeError
from cosphere.report import ReportData, Skipped, report_data_from_run
from cosphere.runs import RunFolder


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    return RunFolder.create(tmp_path / "first")


def store(run: RunFolder, split: str, **arrays: object) -> Path:
    path = run.embeddings(split)
    path.parent.mkdir(exist_ok=True)
    np.savez(path, **arrays)
    return path


def whole(value: float = 1.0) -> dict[str, object]:
    return {
        "embeddings": np.full((3, 2), value, np.float32),
        "labels": np.array([0, 1, 0]),
        "paths": np.array(["a", "b", "c"]),
        "class_names": np.array(["x", "y"]),
    }


def test_an_empty_run_gives_its_name_only(run: RunFolder) -> None:
    data = report_data_from_run(run.path)
    assert data.name == "first"
    assert data.embeddings is data.labels is data.baseline_embeddings is None
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
    store(run, "test", **whole(1.0))
    store(
        run,
        "val",
        **whole(2.0),
        is_query=np.array([1, 0, 1]),
        is_gallery=np.array([0, 1, 1]),
        boxes=np.array([[0, 1, 5, 6], [-1, -1, -1, -1], [2, 2, 9, 9]]),
    )
    store(run, "before-val", embeddings=np.full((3, 5), 7.0))
    data = report_data_from_run(run.path, image_root=Path("/pictures"))
    assert data.config == {"loss": {"name": "triplet"}, "seed": 3}
    assert data.metrics == [{"step": 1, "train/loss": 0.5}]
    assert data.scores == scores
    assert data.baseline_scores == {"recall@1": 0.25}
    assert data.skipped == (Skipped("p", "r"),)
    assert data.embeddings.tolist() == [[2.0, 2.0]] * 3
    assert data.embeddings.dtype == np.float32
    assert data.baseline_embeddings.tolist() == [[7.0] * 5] * 3
    assert data.labels.tolist() == [0, 1, 0]
    assert [data.class_name(label) for label in data.labels] == ["x", "y", "x"]
    assert data.is_query.tolist() == [True, False, True]
    assert data.is_gallery.tolist() == [False, True, True]
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
        store(run, split, embeddings=np.full((1, 2), at))
    store(run, "before-ape", embeddings=np.full((1, 2), 99))
    assert report_data_from_run(run.path, split=asked).embeddings[0, 0] == stored.index(want)


def test_a_split_that_is_not_there_is_named_with_what_is(run: RunFolder) -> None:
    with pytest.raises(RunError, match=r"no embeddings of split 'test'\. It has none yet"):
        report_data_from_run(run.path, split="test")
    store(run, "val", **whole())
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
    with pytest.raises(RunError, match=r"config\.yaml is not a run's settings") as error:
        report_data_from_run(run.path)
    assert "\n" not in str(error.value)


def test_settings_cannot_make_objects(run: RunFolder) -> None:
    run.config.write_text("!!python/object/apply:os.getcwd []", encoding="utf-8")
    with pytest.raises(RunError, match=r"config\.yaml"):
        report_data_from_run(run.path)


@pytest.mark.parametrize("content", [b"", b"not a zip", b"PK\x03\x04 cut"])
def test_broken_embeddings_are_named(run: RunFolder, content: bytes) -> None:
    path = store(run, "test", **whole())
    path.write_bytes(content)
    with pytest.raises(RunError, match=r"test\.npz does not hold embeddings.*Evaluate the run again"):
        report_data_from_run(run.path)


def test_pickled_embeddings_and_files_without_embeddings_are_refused(run: RunFolder) -> None:
    store(run, "test", embeddings=np.array([{"a": 1}], dtype=object))
    with pytest.raises(RunError, match="does not hold embeddings"):
        report_data_from_run(run.path)
    store(run, "test", labels=np.zeros(3))
    with pytest.raises(RunError, match="does not hold embeddings"):
        report_data_from_run(run.path)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"labels": np.zeros(2, np.int64)}, "one row of labels for each of 3 embeddings, got 2"),
        ({"paths": ("a",)}, "one row of paths for each of 3 embeddings, got 1"),
        ({"is_query": np.ones(4, bool)}, "is_query for each of 3 embeddings, got 4"),
        ({"embeddings": np.zeros(3, np.float32)}, r"want embeddings \(N, D\)"),
        ({"labels": np.array([0, 1, 2]), "class_names": ("x", "y")}, "labels from 0 to 1.*got 0 to 2"),
        ({"labels": np.array([0, -1, 1]), "class_names": ("x", "y")}, "got -1 to 1"),
    ],
)
def test_parts_that_do_not_fit_are_refused(wrong: dict[str, object], message: str) -> None:
    with pytest.raises(SizeError, match=message):
        ReportData(**{"name": "x", "embeddings": np.zeros((3, 2), np.float32)} | wrong)


def test_what_is_unknown_has_a_stand_in() -> None:
    data = ReportData(name="x")
    assert data.file(3) == ""
    assert data.box(3) is None
    assert data.class_name(3) == "class 3"
