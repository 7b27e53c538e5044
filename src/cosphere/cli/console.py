"""What the commands print, and where: results on stdout; notes and progress on stderr. Text of others is escaped here."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import TYPE_CHECKING

from rich.console import Console, RenderableType
from rich.progress import BarColumn, ProgressColumn, Task, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bar
from rich.table import Table
from rich.text import Text

from cosphere._types import Progress
from cosphere.cli.data_tables import differences_table
from cosphere.errors import escaped
from cosphere.experiment.listener import Listener
from cosphere.runs import RunFolder

if TYPE_CHECKING:
    from cosphere.data import Remarks


class Output(Console):
    """Standard output. A reader that goes away, as in ``cosphere losses | head``, is left to :func:`cosphere.cli.main`."""

    def on_broken_pipe(self) -> None:
        """Raise the BrokenPipeError that is handled; rich would end the process with 1."""
        raise BrokenPipeError


def plain(value: object) -> Text:
    """A cell or line as it is: brackets are no markup, and control characters are shown as escapes."""
    return Text(escaped(value))


def line(text: str) -> None:
    """One line of the result."""
    Output().print(plain(text), highlight=False, soft_wrap=True)


def note(text: str) -> None:
    """One line on stderr that a reader of the result should know."""
    aside(f"note: {text}")


def warning(text: str) -> None:
    """One line on stderr about something that is probably wrong."""
    aside(f"warning: {text}")


def aside(text: str) -> None:
    """One line on stderr."""
    Console(stderr=True).print(plain(text), highlight=False, soft_wrap=True)


def show(table: RenderableType) -> None:
    """A table of the result; its cells of others' text are :func:`plain`."""
    Output().print(table)


def show_whole(table: Table) -> None:
    """A table, wider than the terminal rather than with paths broken in the middle, which nobody can copy."""
    widest = Output(width=10_000).measure(table).maximum
    Output(width=max(Output().width, widest)).print(table)


def table_of(title: str, *columns: str) -> Table:
    """A table whose first column is text and whose others are numbers."""
    table = Table(title=plain(title))
    for place, column in enumerate(columns):
        table.add_column(column, justify="right" if place else "left")
    return table


class _Count(ProgressColumn):
    """How many are done, of how many, and how many a second."""

    def render(self, task: Task) -> Text:
        """Empty until the first are done."""
        if not task.completed or task.total is None:
            return Text()
        speed = task.finished_speed or task.speed
        rate = "" if not speed else f", {speed:,.0f}/s" if speed >= 10 else f", {speed:.2g}/s"
        return Text(f"{task.completed:,.0f} of {task.total:,.0f}{rate}")


@contextmanager
def progress_bar(task: str) -> Iterator[Callable[[int, int], None]]:
    """A progress bar on stderr with rate and time left, while it is open; gives the callback that moves it."""
    out = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), _Count(), TimeRemainingColumn())
    # Disabled in a file, where it would leave an empty line.
    with Bar(*columns, console=out, transient=True, disable=not out.is_terminal) as bar:
        shown = bar.add_task(task, total=None)

        def move(done: int, total: int) -> None:
            bar.update(shown, completed=done, total=total)

        yield move


class ConsoleListener(Listener):
    """Shows notes and progress of the library on stderr, and remembers the folder of the run."""

    folder: RunFolder | None = None

    def __init__(self) -> None:
        self._shown: set[tuple[object, ...]] = set()

    def began(self, folder: RunFolder) -> None:
        """Remember it."""
        self.folder = folder

    def listed(self, remarks: Remarks) -> None:
        """Print what was noticed while the images were listed; once for the same images."""
        noticed = (remarks.root, remarks.notes, remarks.differences)
        if noticed in self._shown:
            return
        self._shown.add(noticed)
        for text in remarks.notes:
            note(text)
        if remarks.differences:
            Console(stderr=True).print(differences_table(remarks))

    def note(self, text: str) -> None:
        """Print it."""
        note(text)

    def progress(self, task: str) -> AbstractContextManager[Progress | None]:
        """Show a bar."""
        return progress_bar(task)
