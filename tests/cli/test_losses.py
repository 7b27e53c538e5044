"""`cosphere losses`: the table, one loss in full, and the measurement."""

from __future__ import annotations

import re

import pytest
import torch

from cosphere import losses
from cosphere.cli import main
from cosphere.losses.engine.document import loss_table_markdown


@pytest.fixture(autouse=True)
def hundred_columns(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "100")


def words(text: str) -> str:
    """The text of a table's cells, however they were folded."""
    return re.sub(r"[\s│┃|]+", "", text)


def test_every_loss_has_one_row_in_its_group(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["losses"]) == 0
    shown = capsys.readouterr().out
    assert max(map(len, shown.splitlines())) <= 100
    pairs, weights = shown.split("losses with class weights")
    for entry in losses.table():
        here, elsewhere = (weights, pairs) if entry.uses_class_weights else (pairs, weights)
        assert len(re.findall(rf"^│ {entry.name} +│", here, re.MULTILINE)) == 1  # whole, on one line
        assert not re.search(rf"^│ {entry.name} +│", elsewhere, re.MULTILINE)


def test_the_table_tells_batch_normalisation_and_choice(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["losses"]) == 0
    lines = capsys.readouterr().out.splitlines()
    for entry in losses.table():
        first = next(i for i, line in enumerate(lines) if re.match(rf"│ {entry.name} +│", line))
        last = next(i for i in range(first, len(lines)) if lines[i].startswith(("├", "└")))
        columns = zip(*(line.strip("│").split("│") for line in lines[first:last]), strict=True)
        told = ["".join("".join(column).split()) for column in columns]
        want = [entry.name, entry.batch, entry.normalises, entry.choose_when]
        assert told == ["".join(text.split()) for text in want]


def test_one_loss_is_shown_in_full(capsys: pytest.CaptureFixture[str]) -> None:
    for entry in losses.table():
        assert main(["losses", entry.name]) == 0
        shown = words(capsys.readouterr().out)
        for text in (entry.title, entry.paper, entry.cost, entry.defaults_source, entry.choose_when):
            assert words(text) in shown
        for name, value in entry.defaults.items():
            assert words(f"{name}={value!r}") in shown


def test_the_table_of_the_documentation_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["losses", "--markdown"]) == 0
    assert capsys.readouterr().out.strip() == loss_table_markdown().strip()


def test_all_are_measured(capsys: pytest.CaptureFixture[str]) -> None:
    line = "losses --time --batch 16 --dim 4 --per-class 2 --repeats 1 --device cpu --threads 1"
    before = torch.get_num_threads()
    assert main(line.split()) == 0
    assert torch.get_num_threads() == before
    shown = capsys.readouterr().out
    assert "16 x 4, 2 a class, float32, cpu, 1 thread" in " ".join(shown.split())
    assert "memory" not in shown
    assert "MB" not in shown
    measured = []
    for entry in losses.table():
        classes = r" \(8 classes\)" if entry.uses_class_weights else ""
        found = re.search(rf"│ {entry.name}{classes} +│ +([\d.]+) │ +([\d.]+) │ +1 │", shown)
        assert found, entry.name
        measured.append((shown.index(found[0]), float(found[1])))
    assert [seconds for _, seconds in sorted(measured)] == sorted(seconds for _, seconds in measured)


def test_one_is_measured(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["losses", "triplet", "--time", "--batch", "16", "--dim", "4", "--repeats", "2"]) == 0
    shown = capsys.readouterr().out
    assert re.search(r"│ triplet +│ +[\d.]+ │ +[\d.]+ │ +2 │", shown)
    assert "norm_softmax" not in shown


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("losses --time --batch 0", "batch must be a whole number from 1 to 65536; got 0."),
        ("losses --time --batch 10", "batch 10 does not divide by per_class 4; try 8."),
        ("losses --time --dim -3", "dim must be a whole number from 1 to 65536; got -3."),
        ("losses --time --threads 0", "threads must be a whole number from 1 to 1024; got 0."),
        ("losses --time --repeats many", "repeats is 'many'; wanted"),
        ("losses --time --device tpu", "device is 'tpu'; wanted 'auto', 'cpu', 'cuda' or 'mps'."),
        ("losses tripplet --time", "no loss is called 'tripplet'. Did you mean 'triplet'?"),
        ("losses --batch 64", "--batch says how to measure; add --time."),
        ("losses triplet --per-class 2", "--per-class says how to measure; add --time."),
        ("losses triplet --markdown", "--markdown prints the whole table"),
        ("losses --markdown --time", "--markdown prints the whole table"),
        ("losses --tim", "there is no setting 'tim'. Did you mean 'time'?"),
    ],
)
def test_mistakes(line: str, message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(line.split()) == 2
    assert message in capsys.readouterr().err
