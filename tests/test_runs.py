"""A run's folder: made once, never over something else, read only by the version that wrote it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from cosphere.errors import RunError
from cosphere.runs import LAYOUT_VERSION, RunFolder, provenance


def test_create_then_open(tmp_path: Path) -> None:
    made = RunFolder.create(tmp_path / "runs" / "first")
    assert RunFolder.open(tmp_path / "runs" / "first") == made
    assert json.loads(made.marker.read_text())["layout"] == LAYOUT_VERSION
    assert made.embeddings("test") == tmp_path / "runs" / "first" / "embeddings" / "test.npz"


@pytest.mark.parametrize("begun", ["metrics.jsonl", "checkpoints/last.pt", "model/bundle.json"])
def test_a_run_that_has_begun_is_never_written_over(tmp_path: Path, begun: str) -> None:
    folder = RunFolder.create(tmp_path / "first")
    assert not folder.has_begun
    (folder.path / begun).parent.mkdir(exist_ok=True)
    (folder.path / begun).write_text("{}")
    with pytest.raises(RunError, match=r"already holds a run.*--name.*cosphere train --resume .*first"):
        RunFolder.create(tmp_path / "first")


def test_a_run_that_never_took_a_step_is_taken_over(tmp_path: Path) -> None:
    RunFolder.create(tmp_path / "first").config.write_text("steps: 0")
    assert RunFolder.create(tmp_path / "first") == RunFolder.open(tmp_path / "first")


def test_provenance_hides_where_files_lay(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", ["/usr/bin/cosphere", "train", "/home/someone/photos", "--name", "a/b"])
    assert provenance()["command"] == "cosphere train photos --name a/b"
    monkeypatch.setattr("sys.argv", ["cosphere", "train", "--runs=/home/someone/runs"])
    assert provenance()["command"] == "cosphere train --runs=runs"


def test_a_folder_with_something_else_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "cat.jpg").write_bytes(b"x")
    with pytest.raises(RunError, match="exists and is not a run"):
        RunFolder.create(tmp_path / "photos")
    (tmp_path / "file").write_text("")
    with pytest.raises(RunError, match="exists and is not a run"):
        RunFolder.create(tmp_path / "file")
    assert [path.name for path in (tmp_path / "photos").iterdir()] == ["cat.jpg"]


def test_opening_what_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"there is no run at .*Train one first"):
        RunFolder.open(tmp_path / "none")
    (tmp_path / "empty").mkdir()
    with pytest.raises(RunError, match="is not a run's folder"):
        RunFolder.open(tmp_path / "empty")


@pytest.mark.parametrize("content", ['{"layout": 99, "cosphere": "9.1"}', "[]", "{}"])
def test_another_version_is_refused(tmp_path: Path, content: str) -> None:
    (tmp_path / "run.json").write_text(content)
    with pytest.raises(RunError, match=f"this Cosphere reads version {LAYOUT_VERSION}"):
        RunFolder.open(tmp_path)


def test_metrics_survive_a_torn_last_line_and_can_be_cut(tmp_path: Path) -> None:
    folder = RunFolder.create(tmp_path / "run")
    assert folder.read_metrics() == []
    for step in (10, 20, 30):
        folder.append_metrics({"step": step, "train/loss": step / 7})
    with folder.metrics.open("a") as file:
        file.write('{"step": 40, "tra')
    assert [row["step"] for row in folder.read_metrics()] == [10, 20, 30]
    folder.cut_metrics_after(20)
    folder.append_metrics({"step": 30, "train/loss": None})
    assert folder.read_metrics() == [
        {"step": 10, "train/loss": 10 / 7},
        {"step": 20, "train/loss": 20 / 7},
        {"step": 30, "train/loss": None},
    ]


def test_metrics_refuse_what_is_not_json(tmp_path: Path) -> None:
    folder = RunFolder.create(tmp_path / "run")
    with pytest.raises(ValueError, match="not JSON compliant"):
        folder.append_metrics({"step": 1, "train/loss": float("nan")})


def test_provenance_names_version_machine_and_time() -> None:
    found = provenance()
    assert found["cosphere"] == "0.1.0"
    assert found["machine"]["cores"] >= 1
    assert found["machine"]["memory_bytes"] > 2**20
    assert found["time"].endswith("+00:00")
    json.dumps(found)
