"""Progress reporting: a live bar on a terminal, plain lines elsewhere."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Protocol, Self

from rich.console import Console, Group
from rich.live import Live
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn
from rich.text import Text

from cosphere.errors import duration, escaped


class Reporter(Protocol):
    """Receives the events of a training run. Any of the methods may do nothing."""

    def __enter__(self) -> Self:
        """Start."""
        ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Finish, also after an error."""
        ...

    def began(self, step: int) -> None:
        """The run starts, or continues after `step` steps."""
        ...

    def stepped(self, step: int) -> None:
        """An optimiser step is done; `step` counts them all."""
        ...

    def logged(self, step: int, values: Mapping[str, float | None]) -> None:
        """Means over the last steps, under the keys of metrics.jsonl."""
        ...

    def validated(self, step: int, scores: Mapping[str, float], *, best: bool) -> None:
        """A validation pass is done."""
        ...

    def said(self, text: str) -> None:
        """A message for the user, such as a warning."""
        ...


def describe(values: Mapping[str, float | None]) -> str:
    """The logged numbers as one short line."""
    parts = [] if values.get("train/loss") is None else [f"loss {values['train/loss']:.3f}"]
    if values.get("train/loss_sec") is not None:
        parts.append(f"sec {values['train/loss_sec']:.3f}")
        if values.get("train/sec_share") is not None:
            parts[-1] += f" ({values['train/sec_share']:.0%} of the loss)"
    if values.get("train/norm_mean") is not None and values.get("train/norm_cv") is not None:
        parts.append(f"length {values['train/norm_mean']:.2f}, cv {values['train/norm_cv']:.3f}")
    parts.append(f"{values['train/images_per_second']:.0f} images/s")
    return "  ".join(parts)


def describe_scores(scores: Mapping[str, float]) -> str:
    """Validation scores in percent.

    >>> describe_scores({"recall@1": 0.6123, "map@r": 0.3})
    'recall@1 61.2 %  map@r 30.0 %'
    """
    return "  ".join(f"{name} {100 * value:.1f} %" for name, value in scores.items())


class LiveReporter:
    """A bar with the remaining time; the numbers stand on a line of their own, so that all fits into 80 columns."""

    def __init__(self, steps: int, *, console: Console | None = None) -> None:
        self._console = console or Console(stderr=True)
        self._bar = Progress(
            TextColumn("[bold]training"),
            BarColumn(bar_width=40),
            MofNCompleteColumn(),
            TimeRemainingColumn(compact=True),
            console=self._console,
        )
        self._task: TaskID = self._bar.add_task("training", total=steps)
        self._numbers = Text("", no_wrap=True, overflow="ellipsis")
        self._live = Live(Group(self._bar, self._numbers), console=self._console, refresh_per_second=4)

    def __enter__(self) -> Self:
        self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._live.stop()

    def began(self, step: int) -> None:
        """Move the bar to the current step; the remaining time counts from here."""
        self._bar.reset(self._task, completed=step)

    def stepped(self, step: int) -> None:
        """Move the bar."""
        self._bar.update(self._task, completed=step)

    def logged(self, step: int, values: Mapping[str, float | None]) -> None:
        """Show the numbers below the bar."""
        self._numbers.plain = describe(values)

    def validated(self, step: int, scores: Mapping[str, float], *, best: bool) -> None:
        """One line above the bar."""
        mark = "[green]  best so far[/]" if best else ""
        self._console.print(f"  step {step:>6}  validation  {describe_scores(scores)}{mark}", highlight=False)

    def said(self, text: str) -> None:
        """One line above the bar."""
        self._console.print(escaped(text), markup=False, highlight=False)


class PlainReporter:
    """One line per logged step, for files and pipes."""

    def __init__(self, steps: int, *, console: Console | None = None) -> None:
        self._steps, self._start = steps, 0
        self._console = console or Console(stderr=True, width=200)
        self._clock = time.monotonic()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        pass

    def began(self, step: int) -> None:
        """Start the clock."""
        self._start, self._clock = step, time.monotonic()

    def stepped(self, step: int) -> None:
        """Prints nothing; :meth:`logged` prints a line."""

    def logged(self, step: int, values: Mapping[str, float | None]) -> None:
        """One line."""
        done = max(1, step - self._start)
        left = (time.monotonic() - self._clock) / done * (self._steps - step)
        self._line(f"step {step}/{self._steps}  {describe(values)}  {int(left // 60)}:{int(left % 60):02d} left")

    def validated(self, step: int, scores: Mapping[str, float], *, best: bool) -> None:
        """One line."""
        self._line(f"step {step}/{self._steps}  validation  {describe_scores(scores)}{'  best so far' if best else ''}")

    def said(self, text: str) -> None:
        """One line."""
        self._line(text)

    def _line(self, text: str) -> None:
        self._console.print(escaped(text), markup=False, highlight=False, soft_wrap=True)


class Spoken:
    """Progress of a task before the first step as a sentence now and then.

    Args:
        task: what is counted, in words.
        say: receives each sentence.
        every: seconds between two sentences.
        check: called at each sentence with the seconds that are left; may raise.
    """

    def __init__(
        self,
        task: str,
        say: Callable[[str], None],
        *,
        every: float = 10.0,
        check: Callable[[float], None] | None = None,
    ) -> None:
        self._task, self._say, self._every, self._check = task, say, every, check
        self._began = self._last = time.monotonic()
        self._first: tuple[float, int] | None = None

    def __call__(self, done: int, total: int) -> None:
        """Tell how many of ``total`` are done and about how long the rest takes, and at the end how long it took."""
        now = time.monotonic()
        # The first batch is slow: it starts processes and warms up.
        since, before = self._first = self._first or (now, done)
        if done == total:
            self._say(f"{self._task}: {total:,} computed in {now - self._began:.0f} s")
        elif now - self._last > self._every:
            self._last = now
            left = (now - since) * (total - done) / (done - before) if done > before else None
            known = "" if left is None else f", about {duration(left)} left"
            self._say(f"{self._task}: {done:,} of {total:,}{known}")
            if self._check is not None and left is not None:
                self._check(left)


def reporter(steps: int, *, console: Console | None = None) -> Reporter:
    """A live reporter on a terminal, a plain one elsewhere."""
    console = console or Console(stderr=True)
    return (LiveReporter if console.is_terminal else PlainReporter)(steps, console=console)
