"""`cosphere study`."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest
import yaml
from studies.conftest import TINY

from cosphere.cli import main
from cosphere.cli.study import ConsoleStudyListener, _changes
from cosphere.studies import shipped_studies


def wrong(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    capsys.readouterr()
    assert main(["study", *words]) == 2
    return capsys.readouterr().err.strip()


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "tiny.yaml"
    path.write_text(yaml.safe_dump(TINY))
    return path


def test_without_a_name_the_studies_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["study"]) == 0
    shown = capsys.readouterr().out
    assert all(name in shown for name in shipped_studies())


@pytest.mark.slow
def test_a_study_prints_arms_and_verdicts_and_the_same_command_goes_on(
    file: Path, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "160")
    words = ["study", str(file), "--data", str(photos), "--runs", str(tmp_path), "--candidates", "1", "--seeds", "2"]
    assert main([*words, "--budget", "0.001s"]) == 0
    stopped = capsys.readouterr()
    assert "6 runs to do, about" in stopped.err
    assert "2 runs of candidates are left, so nothing is chosen" in stopped.err
    assert "not decided" in stopped.out
    assert main(words) == 0
    shown = capsys.readouterr()
    assert "6/6  sec final-seed1" in shown.err
    assert "Does SEC raise Recall@1?" in shown.out
    assert "steps to the other arm's last validation recall@1" in shown.out
    assert {"table.parquet", "table.json", "results.json", "report.html", "figures"} <= {
        path.name for path in (tmp_path / "tiny").iterdir()
    }
    assert main([*words[:-1], "3"]) == 0
    assert "2 runs to do" in capsys.readouterr().err


def test_a_line_is_printed_now_and_then_while_no_run_ends(capsys: pytest.CaptureFixture[str]) -> None:
    with ConsoleStudyListener(every=0.1) as listener:
        listener.started("sec", "tune-000-seed1000")
        time.sleep(0.5)
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) >= 2
    assert set(lines) == {"running: sec tune-000-seed1000 for 0 s"}
    with ConsoleStudyListener(every=0.1) as listener:
        listener.started("sec", "tune-000-seed1000")
        listener.ended(
            {"arm": "sec", "run": "tune-000-seed1000", "scores": {}, "status": "ok", "seconds": 1.0}, 1, 2, None
        )
        time.sleep(0.3)
    assert len(capsys.readouterr().err.splitlines()) == 1  # nothing is running


def test_set_reads_values_as_yaml() -> None:
    words = [
        "steps=200",
        "final.optimizer.head_rate=1e-3",
        "schedule.milestones=[10, 20]",
        "data.cache=a[",
        "sec={weight: 0.1}",
    ]
    assert _changes(words) == {
        "steps": 200,
        "final.optimizer.head_rate": "1e-3",
        "schedule.milestones": [10, 20],
        "data.cache": "a[",
        "sec": {"weight": 0.1},
    }


@pytest.mark.parametrize(
    ("words", "answer"),
    [
        (["sec"], "what should be studied? Give images: cosphere study sec --data photos/"),
        (["sce", "--data", "x"], "there is no study 'sce'. Did you mean 'sec'?"),
        (["FILE", "--data", "x", "--set", "steps"], "--set 'steps' gives no value"),
        (["FILE", "--data", "x", "--set", "stepps=3"], "there is no setting 'stepps'. Did you mean 'steps'?"),
        (["FILE", "--data", "x", "--set", "final.stepps=3"], "there is no setting 'stepps'. Did you mean 'steps'?"),
        (
            ["FILE", "--data", "x", "--set", "seed=3"],
            "a study sets seed itself; give the number of final runs with --seeds",
        ),
        (["FILE", "--data", "x", "--set", "sec.weight=3"], "plain and sec are the same"),
        (["FILE", "--data", "PHOTOS", "--reuse", "all"], "reuse must be 'same' or 'any' or 'none'; got 'all'"),
        (["FILE", "--data", "x", "--mode", "long"], "there is no mode 'long'. The study has no modes."),
        (["FILE", "--data", "PHOTOS", "--budget", "soon"], "the budget is 'soon'; wanted a duration such as 30m"),
        (["FILE", "--data", "PHOTOS", "--jobs", "0"], "jobs must be a whole number from 1 to 1024"),
        (["FILE", "--data", "x", "--sedes", "3"], "there is no setting 'sedes'. Did you mean 'seeds'?"),
    ],
)
def test_a_mistake_is_one_line(
    words: list[str], answer: str, file: Path, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    names: dict[str, Any] = {"FILE": str(file), "PHOTOS": str(photos)}
    shown = wrong(capsys, *(names.get(word, word) for word in words), "--runs", str(tmp_path))
    assert answer in shown
    assert len(shown.splitlines()) == 1
