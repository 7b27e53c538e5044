"""A run's folder: made once, never over something else, read only by the version that wrote it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from cosphere.errors import RunError
from cosphere.runs import LAYOUT_VERSION, RunFolder, unused_folder


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


def test_metrics_of_another_kind_are_left_out(tmp_path: Path) -> None:
    folder = RunFolder.create(tmp_path / "run")
    folder.metrics.write_bytes(b'{"step": 1}\n[1, 2]\n"x"\n\xff\xfe\n{"step": "two"}\nnull\n{"step": 3}\n')
    assert [row["step"] for row in folder.read_metrics()] == [1, "two", 3]
    folder.cut_metrics_after(2)
    assert folder.read_metrics() == [{"step": 1}]


@pytest.mark.parametrize(
    "split", ["../../evil", "/etc/passwd", "..", ".hidden", "a/b", "a\\b", "C:x", "", "%2E", "caf\u00e9 1", "x\0y"]
)
def test_no_split_leaves_the_folder_of_embeddings(split: str, tmp_path: Path) -> None:
    folder = RunFolder.create(tmp_path / "run")
    file = folder.embeddings(split)
    assert file.parent == folder.path / "embeddings"
    assert file.resolve().parent == (folder.path / "embeddings").resolve()
    file.parent.mkdir()
    file.write_bytes(b"")
    assert folder.splits() == [split]


def test_splits_of_two_names_are_two_files(tmp_path: Path) -> None:
    names = ["a/b", "a%2Fb", "a", ".a", "%2Ea", "", "%"]
    assert len({RunFolder(tmp_path).embeddings(name) for name in names}) == len(names)


TRAIN = """
import sys, time
import cosphere.runs
cosphere.runs.provenance = dict  # the real one imports torch
with cosphere.runs.RunFolder.claim(sys.argv[1], resume=sys.argv[2] == "resume") as folder:
    folder.append_metrics({"step": 1})
    print("claimed", flush=True)
    time.sleep(float(sys.argv[3]))
"""


def start(folder: Path, how: str = "new", seconds: float = 60, **environment: str) -> subprocess.Popen[str]:
    words = [sys.executable, "-c", TRAIN, str(folder), how, str(seconds)]
    return subprocess.Popen(
        words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env={**os.environ, **environment}
    )


def test_a_second_process_is_refused_and_a_killed_one_lets_go(tmp_path: Path) -> None:
    first = start(tmp_path / "run")
    assert first.stdout is not None
    assert first.stdout.readline() == "claimed\n"
    assert RunFolder(tmp_path / "run").is_claimed
    for resume, message in (
        (False, "already holds a run"),
        (True, r"another process is training in .*run\. Wait for it"),
    ):
        with pytest.raises(RunError, match=message), RunFolder.claim(tmp_path / "run", resume=resume):
            pass
    first.kill()
    first.communicate()
    assert not RunFolder(tmp_path / "run").is_claimed
    with RunFolder.claim(tmp_path / "run", resume=True) as folder:
        assert folder.read_metrics() == [{"step": 1}]


@pytest.mark.slow
def test_of_several_that_start_at_once_one_trains(tmp_path: Path) -> None:
    several = [start(tmp_path / "run", seconds=3) for _ in range(3)]
    results = [one.communicate() for one in several]
    assert sorted(one.returncode for one in several) == [0, 1, 1]
    assert len((tmp_path / "run" / "metrics.jsonl").read_text().splitlines()) == 1
    for one, (_, error) in zip(several, results, strict=True):
        assert one.returncode == 0 or "another process is training in" in error or "already holds a run" in error


def test_processes_of_one_launch_share_their_run(tmp_path: Path) -> None:
    first = start(tmp_path / "run", RANK="0")
    assert first.stdout is not None
    assert first.stdout.readline() == "claimed\n"
    second = start(tmp_path / "run", seconds=0, RANK="1")
    assert second.communicate()[0] == "claimed\n"
    assert second.returncode == 0
    first.kill()
    first.communicate()


def test_a_start_that_failed_leaves_no_folder_and_a_kill_no_parts(tmp_path: Path) -> None:
    def failed_start(path: Path) -> None:
        with RunFolder.claim(path) as folder:
            folder.config.write_text("steps: 1")
            raise ValueError("wrong")

    with pytest.raises(ValueError, match="wrong"):
        failed_start(tmp_path / "runs" / "first")
    assert not (tmp_path / "runs" / "first").exists()
    killed = tmp_path / "killed"
    (killed / "model").mkdir(parents=True)
    for name in (".run.json.abcdefg1.part", "model/.model.safetensors.abcdefg2.part"):
        (killed / name).write_bytes(b"half")
    (killed / "model").rename(tmp_path / "model")
    with RunFolder.claim(killed):  # killed before run.json: the name is free
        (tmp_path / "model").rename(killed / "model")
    with RunFolder.claim(killed, resume=True):
        pass
    assert not list(killed.rglob("*.part"))
    RunFolder.create(tmp_path / "kept")
    with pytest.raises(ValueError, match="wrong"):
        failed_start(tmp_path / "kept")
    assert (tmp_path / "kept").exists()  # not made by that start


def test_default_names_cannot_collide(tmp_path: Path) -> None:
    assert [unused_folder(tmp_path / "a").name for _ in range(3)] == ["a", "a-2", "a-3"]
    (tmp_path / "file").write_text("")
    with pytest.raises(RunError, match=r"cannot write .*file is a file|Not a directory"):
        unused_folder(tmp_path / "file" / "a")
