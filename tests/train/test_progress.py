"""What a person sees: everything within 80 columns on a terminal, plain lines elsewhere."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from cosphere.train.progress import LiveReporter, PlainReporter, Reporter, reporter

VALUES: dict[str, float | None] = {
    "train/loss": 0.5,
    "train/loss_sec": 12.345,
    "train/sec_share": 0.07,
    "train/norm_mean": 12.34,
    "train/norm_cv": 0.123,
    "train/images_per_second": 61.2,
}


def tell(listener: Reporter) -> None:
    with listener:
        listener.said("training on [60] images")
        listener.stepped(5)
        listener.logged(5, VALUES)
        listener.validated(5, {"recall@1": 0.625}, best=True)


def test_plain_lines() -> None:
    out = io.StringIO()
    tell(PlainReporter(10, console=Console(file=out, width=200)))
    lines = out.getvalue().splitlines()
    assert lines[0] == "training on [60] images"
    assert lines[1].startswith(
        "step 5/10  loss 0.500  sec 12.345 (7% of the loss)  length 12.34, cv 0.123  61 images/s  0:0"
    )
    assert lines[1].endswith(" left")
    assert lines[2] == "step 5/10  validation  recall@1 62.5 %  best so far"


@pytest.mark.parametrize("width", [80, 120])
def test_the_live_bar_keeps_every_number(width: int) -> None:
    out = io.StringIO()
    tell(LiveReporter(10, console=Console(file=out, width=width, force_terminal=True, color_system=None)))
    shown = out.getvalue()
    for part in ("[60] images", "5/10", "12.345 (7% of the loss)", "cv 0.123", "61 images/s", "recall@1 62.5 %"):
        assert part in shown, part


def test_a_pipe_gets_lines_and_a_terminal_the_bar() -> None:
    assert isinstance(reporter(3, console=Console(file=io.StringIO())), PlainReporter)
    assert isinstance(reporter(3, console=Console(file=io.StringIO(), force_terminal=True)), LiveReporter)


def test_after_a_resume_the_time_left_counts_from_there(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter([0.0, 100.0, 110.0])
    monkeypatch.setattr("time.monotonic", lambda: next(clock))
    out = io.StringIO()
    listener = PlainReporter(200, console=Console(file=out, width=200))
    listener.began(100)
    listener.logged(110, VALUES)
    assert out.getvalue().strip().endswith("1:30 left")  # 10 steps took 10 seconds; 90 are left.


def test_without_sec_nothing_is_said_of_it() -> None:
    out = io.StringIO()
    PlainReporter(10, console=Console(file=out, width=200)).logged(
        5, {**VALUES, "train/loss_sec": None, "train/sec_share": None}
    )
    assert "sec" not in out.getvalue().replace("images/s", "")
