"""Ranks of the relevant images in a block of similarities, without sorting whole rows.

A partition gives the largest similarities of a row, and a binary search gives the rank of each relevant image among them.
Ranks beyond the partition are counted. On a CPU, NumPy does both in a tenth of the time of ``topk``, with rows split over
torch's number of threads. Only values are compared, so no result depends on how a sort breaks ties.
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
"""Bytes of similarities that a thread processes at a time, so that they stay in its cache."""
_FEWEST_RANKS = 128
"""A partition to rank 1 costs as much as one to this depth, and then the best relevant image rarely needs counting."""


NEAREST = ("nearest_right", "nearest_wrong", "right_similarity", "wrong_similarity")
"""The fields of :class:`BlockRanks` that are neither ranks nor counts."""


class BlockRanks(NamedTuple):
    """Ranks in one block of b queries."""

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
        similarities: (b, G) float or signed integer, larger is nearer; excluded images have the lowest value. Overwritten.
        lists: (b, M) gallery rows of each query's class.
        relevant: (b,) R.
        depth: ranks from the first that must be exact.
        ties: rule for equal similarities.
    """
    gallery = similarities.shape[1]
    low = lowest(similarities)
    # Excluded rows of the class have the lowest value, so they sort behind the R relevant ones.
    matches = similarities.gather(1, lists.ids).masked_fill_(~lists.real, low)
    right, slot = matches.max(dim=1)  # max returns the first of equals, and lists ascend: the lowest row.
    nearest_right = lists.ids.gather(1, slot[:, None])[:, 0]
    matches = matches.sort(dim=1, descending=True).values
    top = largest(similarities, min(gallery, max(depth, _FEWEST_RANKS)))
    standing = _standing(similarities, top, matches, relevant, ties)
    above, tied = standing.above[:, 0].clone(), standing.size[:, 0] - standing.relevant_size[:, 0]
    # The rank of the best relevant image must be exact at any depth, so count it where the partition does not reach.
    beyond = (matches[:, 0] < top[:, 0]).nonzero().flatten()
    if len(beyond):
        counted = counts(similarities, beyond, matches[beyond, 0])
        above[beyond] = counted.above
        tied[beyond] = counted.equal - standing.relevant_size[beyond, 0]
    # Beyond the partition equals were counted under every rule, and the optimistic one ignores them.
    if ties == "optimistic":
        tied.zero_()
    # With the class hidden, the largest value left is the nearest irrelevant image.
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


def _standing(similarities: Tensor, top: Tensor, matches: Tensor, relevant: Tensor, ties: Ties) -> Standing:
    """Groups of the relevant images, from (b, G) similarities, (b, P) the largest, ascending, and (b, M) matches, descending."""
    upward = matches.flip(1)
    not_above = torch.searchsorted(upward, matches, right=True)
    relevant_size = not_above - torch.searchsorted(upward, matches)
    above = top.shape[1] - torch.searchsorted(top, matches, right=True)
    size = relevant_size
    if ties != "optimistic":
        size = top.shape[1] - torch.searchsorted(top, matches) - above
        size = _with_whole_last_group(similarities, top, matches, size)
    real = torch.arange(matches.shape[1], device=matches.device) < relevant[:, None]
    # Padding ranks behind the whole gallery, so no metric counts it.
    above = torch.where(real, above, similarities.shape[1])
    # A group below the partition has size 0 in it, but a group is never smaller than its relevant part.
    size = torch.where(real, torch.maximum(size, relevant_size), relevant_size)
    return Standing(above, size, matches.shape[1] - not_above, relevant_size)


def _with_whole_last_group(similarities: Tensor, top: Tensor, matches: Tensor, size: Tensor) -> Tensor:
    """Group sizes, with the group that the partition may have cut counted in the whole row. (b, M)."""
    if top.shape[1] == similarities.shape[1]:
        return size
    in_last = matches == top[:, :1]
    rows = in_last.any(dim=1).nonzero().flatten()
    if len(rows):
        whole = counts(similarities, rows, top[rows, 0]).equal
        size[rows] = torch.where(in_last[rows], whole[:, None], size[rows])
    return size


def largest(similarities: Tensor, count: int) -> Tensor:
    """(b, count) the largest similarities of each row, in ascending order."""
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
    """Counts in r rows, (r,) int64 each."""

    above: Tensor
    equal: Tensor


def counts(similarities: Tensor, rows: Tensor, values: Tensor) -> Counts:
    """For each of r rows, count the similarities larger than its value and equal to it. (b, G), (r,), (r,)."""
    width = similarities.shape[1]
    if similarities.device.type != "cpu":
        parts = []
        # In steps, because selecting rows copies them.
        step = max(1, 32 * _CHUNK_BYTES // width)
        for some, value in zip(torch.split(rows, step), torch.split(values, step), strict=True):
            chosen = similarities[some]
            above = (chosen > value[:, None]).sum(dim=1)
            parts.append(torch.stack([above, (chosen >= value[:, None]).sum(dim=1) - above], dim=1))
        return Counts(*torch.cat(parts).unbind(1))
    array, numbers, limits = similarities.numpy(), rows.numpy(), values.numpy()[:, None]

    def count(chunk: slice) -> npt.NDArray[Any]:
        chosen, limit = array[numbers[chunk]], limits[chunk]
        return np.stack([np.count_nonzero(chosen > limit, axis=1), np.count_nonzero(chosen == limit, axis=1)], axis=1)

    return Counts(*_by_chunks(count, len(rows), width).unbind(1))


def row_argmax(similarities: Tensor) -> Tensor:
    """(b,) the first column that holds the largest value of its row."""
    if similarities.device.type != "cpu":
        return similarities.max(dim=1).indices
    array = similarities.numpy()
    return _by_chunks(lambda chunk: array[chunk].argmax(axis=1), *array.shape)


def _by_chunks(function: Callable[[slice], npt.NDArray[Any]], rows: int, width: int) -> Tensor:
    """Apply a function of a slice of rows to all rows, in torch's number of threads, and join its results."""
    step = max(1, _CHUNK_BYTES // (4 * width))
    chunks = [slice(start, start + step) for start in range(0, rows, step)]
    threads = min(torch.get_num_threads(), len(chunks))
    if threads == 1:
        parts = [function(chunk) for chunk in chunks]
    else:
        with ThreadPoolExecutor(threads) as pool:
            parts = list(pool.map(function, chunks))
    return torch.from_numpy(np.concatenate(parts))
