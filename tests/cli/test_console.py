"""Results go to stdout and notes to stderr, and text of others is shown as it is."""

from __future__ import annotations

import re
import time
from pathlib import Path

import pytest

from cosphere.cli import console
from cosphere.data import Remarks


@pytest.mark.parametrize("text", ["a[/b]", "[bold]x", "[/]", "caf\u00e9 \u65e5\u672c", "two\tcolumns"])
def test_markup_is_shown_as_it_is(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    console.line(text)
    console.note(text)
    shown = capsys.readouterr()
    assert shown.out.split() == text.split()
    assert shown.err.split() == ["note:", *text.split()]


def test_control_characters_do_not_reach_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    hostile = "\x1b[31mred\x1b]0;title\x07\x9b2J\r"
    console.line(hostile)
    console.warning(hostile)
    table = console.table_of(hostile, "name")
    table.add_row(console.plain(hostile))
    console.show(table)
    shown = capsys.readouterr()
    for text in shown:
        assert "\\x1b[31mred\\x1b]0;title\\x07\\x9b2J\\x0d" in text.replace("\n", "")
        assert not any(ord(letter) < 32 and letter != "\n" for letter in text)
        assert "\x9b" not in text


def test_a_listener_prints_what_it_hears(capsys: pytest.CaptureFixture[str]) -> None:
    listener = console.ConsoleListener()
    listener.listed(Remarks(root=Path("/photos"), notes=("two files [/x] were left out",)))
    listener.note("the model was chosen on them")
    with listener.progress("embedding") as progress:
        assert progress is not None
        progress(1, 2)
    shown = capsys.readouterr()
    assert shown.err == "note: two files [/x] were left out\nnote: the model was chosen on them\n"
    assert shown.out == ""


def test_a_bar_shows_count_rate_and_time_left(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")  # rich then takes stderr for a terminal
    monkeypatch.setenv("COLUMNS", "120")
    with console.progress_bar("adding images") as move:
        move(0, 8144)
        time.sleep(0.02)
        for done in (512, 1024):
            move(done, 8144)
            time.sleep(0.2)
    shown = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", capsys.readouterr().err)
    assert re.search(r"adding images .*1,024 of 8,144, [\d,]+/s +\d:\d\d:\d\d", shown)
