"""Numbers go to metrics.jsonl with their step; a warning is given once in a run."""

from __future__ import annotations

from pathlib import Path

from cosphere.runs import RunFolder
from cosphere.train import PlainReporter
from cosphere.train.journal import Journal
from cosphere.train.state import RunState


class Listener(PlainReporter):
    def __init__(self) -> None:
        super().__init__(10)
        self.lines: list[str] = []

    def _line(self, text: str) -> None:
        self.lines.append(text)


def test_lines_carry_their_step_and_one_process_writes_them(tmp_path: Path) -> None:
    run, state = RunFolder.create(tmp_path / "run"), RunState(step=4)
    Journal(run, Listener(), state, writes=True).write({"train/loss": 0.5})
    Journal(run, Listener(), state, writes=False).write({"train/loss": 0.7})
    assert run.read_metrics() == [{"step": 4, "train/loss": 0.5}]


def test_a_warning_is_given_once_also_after_a_resumption(tmp_path: Path) -> None:
    run, state, listener = RunFolder.create(tmp_path / "run"), RunState(step=4), Listener()
    journal = Journal(run, listener, state, writes=True)
    journal.warn_once("hubs", ", on the validation images: few images answer everything")
    journal.warn_once("hubs", ", on the validation images: few images answer everything")
    journal.say("a message")
    resumed, later = RunState(), Listener()
    resumed.load_state_dict(state.state_dict())
    Journal(run, later, resumed, writes=True).warn_once("hubs", " again")
    Journal(run, later, resumed, writes=True).warn_once("sec", " SEC is large")
    assert listener.lines == [
        "warning: at step 4, on the validation images: few images answer everything",
        "a message",
    ]
    assert later.lines == ["warning: at step 4 SEC is large"]
