"""What a reader that holds a gallery's rows in memory lacks since it last looked."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import NamedTuple

from cosphere.gallery import blocks
from cosphere.gallery.blocks import Numbers, Rows
from cosphere.gallery.schema import Space, State, read_space, read_state
from cosphere.gallery.sqlite import Connection


@dataclass(frozen=True)
class Known:
    """What a reader holds: the answer to :meth:`Store.read_changes` brings it up to date."""

    generation: int = -1
    epoch: int = -1
    space: int = -1
    last: int = 0
    """The highest row number that it has seen."""


class Changes(NamedTuple):
    """What a reader lacks: first ``alive`` is to be read, then ``new``."""

    state: State
    space: Space
    known: Known
    fresh: bool
    """Whether all that the reader holds is void."""
    alive: Iterator[tuple[int, int, Numbers]]
    """Of each changed range of rows, after the first number and up to the second: which are alive."""
    new: Iterator[Rows]
    """Rows that it has not seen."""


def changes_since(connection: Connection, known: Known, holds: str | None) -> Changes:
    """What a reader that holds ``known`` lacks; see :meth:`Store.read_changes`."""
    state = read_state(connection)
    space = read_space(connection, state.space)
    fresh = (state.epoch, state.space) != (known.epoch, known.space)
    now = Known(state.generation, state.epoch, state.space, state.next_row - 1)
    if now == known:
        return Changes(state, space, now, False, iter(()), iter(()))
    alive = iter(()) if fresh else blocks.alive_since(connection, known.generation)
    part = space if holds is None else replace(space, holds=holds)
    new = blocks.read_after(connection, state.space, part, 0 if fresh else known.last)
    return Changes(state, space, now, fresh, alive, new)
