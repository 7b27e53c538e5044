"""Moving a gallery to another model: rows of the new space are staged beside the old ones, block by block, then switched at once.

Until the switch, which is one small transaction, searches see the old rows. A migration that was killed goes on with the blocks that
are missing; items that were added meanwhile form blocks of their own.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from cosphere.errors import RunError
from cosphere.gallery import blocks, items
from cosphere.gallery.blocks import Rows
from cosphere.gallery.folder import checked_space
from cosphere.gallery.items import Item
from cosphere.gallery.schema import Space, read_space, read_state, write_space, write_state
from cosphere.gallery.sqlite import Connection
from cosphere.gallery.store import Store
from cosphere.gallery.values import check_codes, check_vectors


class Waiting(NamedTuple):
    """A block whose rows are not yet in the new space."""

    block: int
    items: list[Item]
    """Its live items."""


def begin(store: Store, space: Space) -> bool:
    """Begin a migration, or go on with one.

    Args:
        store: the gallery.
        space: what the new rows are.

    Returns:
        whether one was under way.

    Raises:
        RunError: a migration to another model is under way, or the gallery holds rows of this model already.
    """
    space = checked_space(space)
    with store.writing() as (connection, state, now):
        if _same(now, space):
            raise RunError(f"{store.folder} holds rows of this model already; there is nothing to migrate.")
        if state.staged is not None and not _same(read_space(connection, state.staged), space):
            raise RunError(
                f"{store.folder} is being migrated to another model. Finish that, or give it up with --abandon."
            )
        next_block = blocks.seal_tail(connection, state, now)
        staged = _free_number(connection) if state.staged is None else state.staged
        write_space(connection, staged, space)
        write_state(connection, replace(state, staged=staged, next_block=next_block, generation=state.generation + 1))
    return state.staged is not None


def is_done(store: Store, space: Space) -> bool:
    """Whether the gallery holds rows of this model and no migration is under way, as where :func:`switch` was the last that happened."""
    space = checked_space(space)
    with store.reading() as connection:
        state = read_state(connection)
        return state.staged is None and _same(read_space(connection, state.space), space)


def _free_number(connection: Connection) -> int:
    """A number that no space has, a given up one whose rows are still being removed included."""
    (highest,) = connection.one("SELECT max(number) FROM space") or (0,)
    return int(highest) + 1


def _same(one: Space, other: Space) -> bool:
    return (one.dim, one.holds, one.model_id, one.preprocessing) == (
        other.dim,
        other.holds,
        other.model_id,
        other.preprocessing,
    )


def waiting(store: Store) -> Iterator[Waiting]:
    """The blocks that :func:`stage` still wants, one after the other."""
    for number in pending(store):
        with store.reading() as connection:
            numbers = blocks.read_numbers(connection, number)
            block = Waiting(number, items.read(connection, numbers[numbers >= 0].tolist()))
        if block.items:
            yield block  # outside: what the caller writes is a transaction of its own


def pending(store: Store) -> list[int]:
    """Numbers of the blocks that are not in the new space and have live rows."""
    with store.reading() as connection:
        state = read_state(connection)
        if state.staged is None:
            raise RunError(f"{store.folder} is not being migrated. Begin a migration first.")
        there = blocks.has_content(connection, state.staged, read_space(connection, state.staged))
        return [one.number for one in blocks.extents(connection) if one.live and one.number not in there]


def stage(store: Store, block: Waiting, vectors: npt.NDArray[Any] | None, codes: npt.NDArray[Any] | None) -> None:
    """Keep the new rows of a block's items, durably.

    Args:
        store: the gallery.
        block: of :func:`waiting`.
        vectors: (n, D) float rows of its n items, where the new space has floats.
        codes: (n, ceil(D / 8)) uint8, where it has codes.

    Raises:
        SizeError, DataError: the rows do not fit the new space.
        RunError: an item of the block was deleted meanwhile.
    """
    ids = [item.id for item in block.items]
    with store.writing() as (connection, state, _):
        if state.staged is None:
            raise RunError(f"{store.folder} is not being migrated. Begin a migration first.")
        space = read_space(connection, state.staged)
        numbers = blocks.read_numbers(connection, block.block)
        live = numbers >= 0
        if numbers[live].tolist() != [item.row for item in block.items]:
            raise RunError(f"{store.folder} was changed while it was migrated. Start `cosphere index migrate` again.")
        rows = Rows(numbers[live], check_vectors(vectors, space, ids), check_codes(codes, space, ids))
        whole = Rows(numbers, *(None if part is None else _spread(part, live) for part in rows[1:]))
        blocks.write_content(connection, state.staged, block.block, whole)
        write_state(connection, replace(state, generation=state.generation + 1))


def _spread(values: npt.NDArray[Any], live: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Rows of live items at their places in the block, zeros at those of deleted ones."""
    whole = np.zeros((len(live), values.shape[1]), dtype=values.dtype)
    whole[live] = values
    return whole


def switch(store: Store) -> None:
    """Search the new rows from now on, and remove the old ones.

    Raises:
        RunError: a block is missing.
    """
    if pending(store):
        raise RunError(f"{store.folder} still has items without new rows. Start `cosphere index migrate` again.")
    with store.writing() as (connection, state, _):
        if connection.one("SELECT 1 FROM tail LIMIT 1"):
            raise RunError(f"{store.folder} was changed while it was migrated. Start `cosphere index migrate` again.")
        if state.staged is None:
            raise RunError(f"{store.folder} is not being migrated. Begin a migration first.")
        old = state.space
        _drop_dead(connection, old)
        store.remove_indexes()  # of the old rows
        write_state(
            connection,
            replace(state, space=state.staged, staged=None, epoch=state.epoch + 1, generation=state.generation + 1),
        )
    store.remove_space(old)
    store.flush()


def _drop_dead(connection: Connection, number: int) -> None:
    """Blocks without live rows have no new rows: take them out with the old ones."""
    dead = [one.number for one in blocks.extents(connection) if not one.live]
    connection.run_many("DELETE FROM block WHERE number = ?", ((one,) for one in dead))
    blocks.drop_space(connection, number, dead)


def abandon(store: Store) -> bool:
    """Give a migration up and remove its rows; returns whether there was one."""
    with store.writing() as (connection, state, _):
        staged = state.staged
        if staged is None:
            return False
        write_state(connection, replace(state, staged=None, generation=state.generation + 1))
    store.remove_space(staged)
    store.flush()
    return True
