"""From a block of similarities to ranks, by counting: no row is sorted whole unless all of its places are asked for.

The largest similarities of a row come from a partition, and where a relevant image stands among them from a binary
search. What lies behind them is counted. On a CPU NumPy does both, whose kernels take a tenth of a ``topk``; rows go to
as many threads as torch has. Only values are compared, so nothing depends on how a sort breaks ties.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from cosphere.evaluate._relevance import RowLists, lowest
from cosphere.evaluate._ties import First, Standing, Ties

_CHUNK_BYTES = 2**21
"""Of similarities that a thread works on: what fits its cache."""
_FEWEST_PLACES = 128
"""A partition costs the same for 1 place as for these, and most best relevant images then need no counting."""


NEAREST = ("nearest_right", "nearest_wrong", "right_similarity", "wrong_similarity")
"""The fields of :class:`BlockRanks` that are neither ranks nor counts."""


class BlockRanks(NamedTuple):
    """Ranks of one block of b queries."""

    standing: Standing
    """(b, M)"""
    first: First
    """(b,) each"""
    nearest_right: Tensor
    """(b,) int64: the lowest gallery row among the nearest relevant ones."""
    nearest_wrong: Tensor
    """(b,) int64: the lowest gallery row among the nearest irrelevant ones, -1 where all are relevant."""
    right_similarity: Tensor
    """(b,) float64: similarity of ``nearest_right``."""
    wrong_similarity: Tensor
    """(b,) float64: similarity of ``nearest_wrong``, -inf where there is none."""


def block_ranks(similarities: Tensor, lists: RowLists, relevant: Tensor, depth: int, ties: Ties) -> BlockRanks:
    """Rank the relevant rows of a block.

    Args:
        similarities: (b, G) float or signed integer, larger is nearer; what is hidden has the lowest value. Spent.
        lists: (b, M) the rows of each query's class.
        relevant: (b,) R.
        depth: places from the first for which ranks must be right.
        ties: the rule for equal ones.
    """
    gallery = similarities.shape[1]
    low = lowest(similarities)
    # Hidden rows of the class are at the lowest value, so they sort behind the R relevant ones.
    matches = similarities.gather(1, lists.ids).masked_fill_(~lists.real, low)
    right, slot = matches.max(dim=1)  # The first of equals, and the lists ascend: the lowest row.
    nearest_right = lists.ids.gather(1, slot[:, None])[:, 0]
    matches = matches.sort(dim=1, descending=True).values
    places = largest(similarities, min(gallery, max(depth, _FEWEST_PLACES)))
    standing = _standing(similarities, places, matches, relevant, ties)
    above, tied = standing.above[:, 0].clone(), standing.size[:, 0] - standing.relevant_size[:, 0]
    beyond = (matches[:, 0] < places[:, 0]).nonzero().flatten()
    if len(beyond):
        counted = counts(similarities, beyond, matches[beyond, 0])
        above[beyond] = counted.above
        tied[beyond] = counted.equal - standing.relevant_size[beyond, 0]
    if ties == "optimistic":
        tied.zero_()
    similarities.scatter_(1, lists.ids, low)
    nearest_wrong = row_argmax(similarities)
    wrong = similarities.gather(1, nearest_wrong[:, None])[:, 0]
    all_relevant = wrong == low
    return BlockRanks(
        standing,
        First(above, tied, standing.relevant_size[:, 0].clone()),
        nearest_right,
        nearest_wrong.masked_fill(all_relevant, -1),
        right.double(),
        wrong.double().masked_fill(all_relevant, -torch.inf),
    )


def _standing(similarities: Tensor, places: Tensor, matches: Tensor, relevant: Tensor, ties: Ties) -> Standing:
    """(b, G) similarities, (b, P) places smallest first, (b, M) matches largest first."""
    upward = matches.flip(1)
    not_above = torch.searchsorted(upward, matches, right=True)
    relevant_size = not_above - torch.searchsorted(upward, matches)
    above = places.shape[1] - torch.searchsorted(places, matches, right=True)
    size = relevant_size
    if ties != "optimistic":
        size = places.shape[1] - torch.searchsorted(places, matches) - above
        size = _whole_last_group(similarities, places, matches, above, size)
    real = torch.arange(matches.shape[1], device=matches.device) < relevant[:, None]
    above = torch.where(real, above, similarities.shape[1])
    size = torch.where(real, torch.maximum(size, relevant_size), relevant_size)
    return Standing(above, size, matches.shape[1] - not_above, relevant_size)


def _whole_last_group(similarities: Tensor, places: Tensor, matches: Tensor, above: Tensor, size: Tensor) -> Tensor:
    """The places may end within a group of equals: where a relevant image is in it, count the group."""
    if places.shape[1] == similarities.shape[1]:
        return size
    in_last = matches == places[:, :1]
    rows = in_last.any(dim=1).nonzero().flatten()
    if len(rows):
        whole = counts(similarities, rows, places[rows, 0]).equal
        size[rows] = torch.where(in_last[rows], whole[:, None], size[rows])
    return size


def largest(similarities: Tensor, count: int) -> Tensor:
    """(b, count) the largest of each row, smallest first."""
    width = similarities.shape[1]
    if similarities.device.type != "cpu":
        return similarities.topk(count, dim=1).values.flip(1)

    def take(rows: npt.NDArray[Any]) -> npt.NDArray[Any]:
        if count == width:
            return np.sort(rows, axis=1)
        return np.sort(np.partition(rows, width - count, axis=1)[:, width - count :], axis=1)

    array = similarities.numpy()
    return _by_chunks(lambda chunk: take(array[chunk]), *array.shape)


class Counts(NamedTuple):
    """Of some rows, (r,) int64 each."""

    above: Tensor
    equal: Tensor


def counts(similarities: Tensor, rows: Tensor, values: Tensor) -> Counts:
    """How many similarities of these rows are larger than a value, and how many equal it. (b, G), (r,), (r,)."""
    width = similarities.shape[1]
    if similarities.device.type != "cpu":
        parts = []
        step = max(1, 32 * _CHUNK_BYTES // width)
        for some, value in zip(torch.split(rows, step), torch.split(values, step), strict=True):
            found = similarities[some]
            above = (found > value[:, None]).sum(dim=1)
            parts.append(torch.stack([above, (found >= value[:, None]).sum(dim=1) - above], dim=1))
        return Counts(*torch.cat(parts).unbind(1))
    array, at, wanted = similarities.numpy(), rows.numpy(), values.numpy()[:, None]

    def count(chunk: slice) -> npt.NDArray[Any]:
        found = array[at[chunk]]
        return np.stack(
            [np.count_nonzero(found > wanted[chunk], axis=1), np.count_nonzero(found == wanted[chunk], axis=1)], axis=1
        )

    return Counts(*_by_chunks(count, len(rows), width).unbind(1))


def row_argmax(similarities: Tensor) -> Tensor:
    """(b,) the lowest column that holds the largest value of its row."""
    if similarities.device.type != "cpu":
        return similarities.max(dim=1).indices
    array = similarities.numpy()
    return _by_chunks(lambda chunk: array[chunk].argmax(axis=1), *array.shape)


def _by_chunks(function: Callable[[slice], npt.NDArray[Any]], rows: int, width: int) -> Tensor:
    """Call a function that gives rows for rows on one slice after another, in torch's number of threads."""
    step = max(1, _CHUNK_BYTES // (4 * width))
    chunks = [slice(start, start + step) for start in range(0, rows, step)]
    threads = min(torch.get_num_threads(), len(chunks))
    if threads == 1:
        parts = [function(chunk) for chunk in chunks]
    else:
        with ThreadPoolExecutor(threads) as pool:
            parts = list(pool.map(function, chunks))
    return torch.from_numpy(np.concatenate(parts))
