"""How the functions of this room report what they notice and how far they are, without printing."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from types import TracebackType
from typing import TYPE_CHECKING, Self

from cosphere._types import Progress
from cosphere.data.remarks import Remarks
from cosphere.runs import RunFolder

if TYPE_CHECKING:
    from collections.abc import Mapping

    from cosphere.data import Catalogue


class Listener:
    """Receives notes and progress. This one ignores them; override the methods that matter."""

    def listed(self, remarks: Remarks) -> None:
        """The images were listed. The ``notes`` and ``differences`` say what was noticed."""

    def training_on(self, images: Catalogue) -> None:
        """All images of a run that is about to train, its validation and test images among them."""

    def began(self, folder: RunFolder) -> None:
        """A run claimed its folder and is about to train."""

    def note(self, text: str) -> None:
        """One sentence that a reader of the results should know."""

    def progress(self, task: str) -> AbstractContextManager[Progress | None]:
        """A task begins, such as "embedding"; the context manager ends with it and gives a callback for its progress."""
        return nullcontext()


SILENT = Listener()
"""Ignores everything."""


class SilentReporter:
    """A :class:`cosphere.train.Reporter` that ignores everything."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        pass

    def began(self, step: int) -> None:
        """Ignored."""

    def stepped(self, step: int) -> None:
        """Ignored."""

    def logged(self, step: int, values: Mapping[str, float | None]) -> None:
        """Ignored."""

    def validated(self, step: int, scores: Mapping[str, float], *, best: bool) -> None:
        """Ignored."""

    def said(self, text: str) -> None:
        """Ignored."""
