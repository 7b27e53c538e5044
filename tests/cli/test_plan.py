"""`cosphere plan`."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from conftest import draw_classes

from cosphere.cli import main
from cosphere.cli import plan as command
from cosphere.cli.plan import show, show_race
from cosphere.experiment import Choice, Plan, Race
from cosphere.experiment.planning import DataSummary
from cosphere.experiment.racing import Lap
from cosphere.experiment.trial import Cost
from cosphere.train import TrainSettings

FACTS = DataSummary(train_images=1200, val_images=80, classes=40, per_class=(9, 30, 61), side=300)
COST = Cost(start=1, step=0.25, lens=0, embedded=55.4, features=0, memory=2_400_000_000, device_memory=900_000_000)


def test_it_shows_the_data_and_three_commands(photos: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", str(photos), "--measure", "false"]) == 0
    out = capsys.readouterr().out
    assert "shorter side 40 px" in out
    for name in ("quick", "standard", "large"):
        assert f"--name {name}" in out
    assert "--features.copies 4" in out
    assert "on this machine" not in out


def test_costs_stand_in_a_table(capsys: pytest.CaptureFixture[str]) -> None:
    choice = Choice(name="standard", changes={}, settings=TrainSettings(), reason="because", cost=COST, seconds=780.0)
    show(Plan(source="photos", summary=FACTS, choices=(choice,)))
    out = capsys.readouterr().out
    assert "1,200 training images of 40 classes (9 to 61 each, median 30)" in out
    show(Plan(source="photos", summary=FACTS._replace(per_class=(9, 9, 9)), choices=()))
    assert "of 40 classes (9 each), 80" in capsys.readouterr().out
    for part in ("13 min", "2.4 GB + 0.9 GB GPU", "250", "standard: because"):
        assert part in out


@pytest.mark.parametrize(("memory", "said"), [(2_900_000_000, True), (3_100_000_000, False), (None, False)])
def test_a_run_that_fills_the_memory_is_named(
    capsys: pytest.CaptureFixture[str], memory: int | None, said: bool
) -> None:
    choice = Choice(name="standard", changes={}, settings=TrainSettings(), reason="", cost=COST, seconds=780.0)
    show(Plan(source="photos", summary=FACTS, choices=(choice,), memory=memory))
    err = capsys.readouterr().err
    assert (
        "standard would fill this machine's memory; a smaller batch takes less, such as --batch.size 60" in err
    ) is said


def test_a_race_names_its_winner(capsys: pytest.CaptureFixture[str]) -> None:
    choice = Choice(name="quick", changes={}, settings=TrainSettings(), reason="", cost=None, seconds=None)
    laps = (
        Lap(round=1, name="quick", steps=10, score=0.5, kept=True),
        Lap(round=1, name="large", steps=10, score=0.4, kept=False),
        Lap(round=2, name="quick", steps=2000, score=0.75, kept=True),
    )
    show_race(Race(laps=laps, metric="recall@1", winner=choice, folder=Path("runs/quick")))
    out, err = capsys.readouterr()
    rows = [[cell.strip() for cell in line.split("│")[1:-1]] for line in out.splitlines() if "│" in line]
    assert rows == [
        ["quick", "1", "10", "50.0", "goes on"],
        ["large", "1", "10", "40.0", "out"],
        ["quick", "2", "2,000", "75.0", "wins"],
    ]
    assert "winner: quick, in runs/quick" in out
    assert "equal" not in err
    tied = (*laps[:1], replace(laps[1], score=0.5), laps[2])
    show_race(Race(laps=tied, metric="recall@1", winner=choice, folder=Path("runs/quick")))
    assert "of runs with equal scores the cheaper one stays in the race" in capsys.readouterr().err


def test_a_race_keeps_away_from_the_runs_of_the_printed_commands(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folders = []

    def recorded(made: Plan, folder: Path, **_: object) -> Race:
        folders.append(folder)
        return Race(laps=(), metric="recall@1", winner=made.choices[0], folder=folder / "quick")

    monkeypatch.setattr(command, "race", recorded)
    words = ["--classes", "leaf", "--device", "cpu", "--measure", "false", "--race", "true"]
    assert main(["plan", str(photos), *words, "--runs", str(tmp_path)]) == 0
    assert folders == [tmp_path / "race"]
    out = "".join(capsys.readouterr().out.split())
    assert "--namequick--data.classesleaf--devicecpu--features.copies4" in out
    assert f"next:cosphereevaluate{tmp_path}/race/quick" in out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["nowhere"], "nowhere does not exist. Give a folder of images"),
        (["{tmp}/one"], "one has 1 training class; a loss compares classes and wants at least 2"),
        (["{photos}", "--device", "gpu"], "device is 'gpu'; wanted 'auto', 'cpu', 'cuda' or 'mps'."),
        (["{photos}", "--race", "--runs", "{tmp}/file"], "file/race/quick/run.json: Not a directory"),
    ],
)
def test_what_cannot_be_planned_is_one_line(
    words: list[str], message: str, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    draw_classes(tmp_path / "one" / "train", classes=1, images=3, seed=0)
    (tmp_path / "file").write_text("")
    assert main(["plan", *(word.format(photos=photos, tmp=tmp_path) for word in words), "--measure", "false"]) == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    assert message in err
