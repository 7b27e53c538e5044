"""Metrics among equal similarities, in closed form for each of the three rules.

A group of n images, m of them relevant, shares one similarity; A images have a larger one, a of them relevant.
``optimistic`` gives the relevant images of the group the ranks A + 1 to A + m, ``pessimistic`` the last m of its n ranks.
``expected`` is the exact mean over all n! orders: each rank of the group then holds a relevant image with probability
m / n, and if rank A + t holds one, (t - 1) (m - 1) / (n - 1) others precede it on average. Sums over ranks are differences
of running sums of 1/i and 1/log2(1 + i), so a group costs the same whatever its size.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import numpy as np
import torch
from scipy.special import gammaln
from torch import Tensor

from cosphere._types import Floats, Integers

Ties = Literal["optimistic", "pessimistic", "expected"]

_CHUNK_TERMS = 2**21
"""Terms of ragged sums in memory at a time: 16 MiB for each of a few arrays."""


class Standing(NamedTuple):
    """The group of each relevant image of b queries. All (b, M) int64, the best image first."""

    above: Tensor
    """A: exact where below the depth of the pass, otherwise any number >= the depth, as in the columns after the R-th."""
    size: Tensor
    """n >= m. Not counted under the optimistic rule, nor where ``above`` is at least the depth."""
    relevant_above: Tensor
    """a"""
    relevant_size: Tensor
    """m >= 1"""

    def ranks(self, ties: Ties) -> Tensor:
        """(b, M) rank under the optimistic or the pessimistic rule."""
        number = torch.arange(self.above.shape[1], device=self.above.device)
        ranks = self.above + 1 + number - self.relevant_above
        return ranks + (self.size - self.relevant_size) if ties == "pessimistic" else ranks

    def within(self, depth: Tensor) -> Tensor:
        """(b, M) how many of the n ranks are within the depth."""
        return torch.minimum((depth - self.above).clamp_min(0), self.size)


class Tables(NamedTuple):
    """Running sums over the ranks 0 to G, in float64."""

    harmonic: Tensor
    """(G + 1,) sum of 1/i"""
    discount: Tensor
    """(G + 1,) sum of 1/log2(1 + i): the gain of a ranking that begins with that many relevant images"""

    @property
    def gallery(self) -> int:
        """G."""
        return len(self.harmonic) - 1


def tables(gallery: int, device: torch.device) -> Tables:
    """Running sums for a gallery of G images."""
    ranks = np.arange(1, gallery + 1, dtype=np.float64)
    sums = [np.concatenate([[0.0], np.cumsum(gain)]) for gain in (1 / ranks, 1 / np.log2(1 + ranks))]
    return Tables(*(torch.from_numpy(total).to(device) for total in sums))


def relevant_within(standing: Standing, depth: Tensor, ties: Ties) -> Tensor:
    """(b,) relevant images among the first ``depth`` ranks. ``depth`` is (b, 1)."""
    if ties == "expected":
        return running_sum(standing.within(depth) / standing.size.double())
    return running_sum((standing.ranks(ties) <= depth).double())


def summed_precisions(standing: Standing, depth: Tensor, ties: Ties, sums: Tables) -> Tensor:
    """(b,) precision at the rank of each relevant image within ``depth``, summed: R times average precision."""
    if ties != "expected":
        ranks = standing.ranks(ties)
        number = torch.arange(1, ranks.shape[1] + 1, device=ranks.device, dtype=torch.float64)
        return running_sum(torch.where(ranks <= depth, number / ranks, 0.0))
    size, within = standing.size.double(), standing.within(depth)
    # A group of one has no others, so the clamp only avoids 0 / 0.
    others = (standing.relevant_size - 1) / (size - 1).clamp_min(1)
    start = standing.relevant_above + 1 - others * (standing.above + 1)
    # The precision at rank A + t is (a + 1 + (t - 1) others) / (A + t). A group of one uses the inverse itself: a
    # difference of running sums would round.
    inverse = torch.where(
        standing.size == 1, within / (standing.above.double() + 1), _difference(sums.harmonic, standing.above, within)
    )
    return running_sum((start * inverse + others * within) / size)


def discounted_gain(standing: Standing, depth: Tensor, ties: Ties, sums: Tables) -> Tensor:
    """(b,) sum of 1/log2(1 + rank) over the relevant images within ``depth``: the binary DCG."""
    if ties == "expected":
        gain = _difference(sums.discount, standing.above, standing.within(depth))
        return running_sum(gain / standing.size)
    ranks = standing.ranks(ties)
    return running_sum(torch.where(ranks <= depth, 1 / torch.log2(1 + ranks.double()), 0.0))


def _difference(sums: Tensor, start: Tensor, count: Tensor) -> Tensor:
    """Sum over the ranks start + 1 to start + count."""
    return sums[start + count] - sums[start]


def running_sum(values: Tensor) -> Tensor:
    """Sum of each row from left to right. ``sum`` adds in another order when a block is padded to another width."""
    return values.cumsum(dim=1)[:, -1]


class First(NamedTuple):
    """The group of images that share the similarity of each query's best relevant image. All (Q,) int64."""

    above: Tensor
    """A: images with a larger similarity, however many."""
    tied: Tensor
    """n - m: irrelevant images with the same; zeros under the optimistic rule."""
    tied_relevant: Tensor
    """m >= 1: relevant ones with the same."""

    def as_arrays(self) -> FirstArrays:
        """Convert to NumPy, for the closed forms that use SciPy."""
        return FirstArrays(*(column.cpu().numpy() for column in self))


class FirstArrays(NamedTuple):
    """:class:`First` as NumPy arrays."""

    above: Integers
    tied: Integers
    tied_relevant: Integers


def first_ranks(first: FirstArrays, ties: Ties) -> Floats:
    """(Q,) rank of the best relevant image: its mean under the expected rule, A + (n + 1) / (m + 1)."""
    ranks: Floats = first.above.astype(np.float64) + 1
    if ties == "pessimistic":
        ranks += first.tied
    elif ties == "expected":
        ranks += first.tied / (first.tied_relevant + 1)
    return ranks


def hits(k: int, first: FirstArrays, ties: Ties) -> Floats:
    """(Q,) probability that a relevant image is among the first K."""
    above, tied, tied_relevant = first
    if ties != "expected":
        return np.asarray(above + tied < k, dtype=np.float64)
    drawn = np.minimum(k - above, tied + tied_relevant)  # ranks of the group that are within K
    can_miss = (drawn <= tied) & (drawn > 0)
    # All drawn are irrelevant with probability C(tied, drawn) / C(tied + tied_relevant, drawn).
    # In logarithms, because the binomials overflow; expm1 keeps the digits of a small probability of a hit.
    misses = np.where(can_miss, drawn, 0)
    log_miss = _log_falling(tied, misses) - _log_falling(tied + tied_relevant, misses)
    return np.where(drawn > 0, np.where(can_miss, -np.expm1(log_miss), 1.0), 0.0)


def _log_falling(total: Integers, drawn: Integers) -> Floats:
    """Logarithm of total! / (total - drawn)!."""
    return np.asarray(gammaln(total + 1.0) - gammaln(total - drawn + 1.0), dtype=np.float64)


def reciprocal_ranks(first: FirstArrays, ties: Ties, gallery: int) -> Floats:
    """(Q,) 1 / rank of the best relevant image, and the mean of that under the expected rule.

    The mean of the inverse is not the inverse of the mean rank. It is a sum over the ranks of the group, whose terms have
    a relative error of about 1e-11.
    """
    if ties != "expected":
        return 1 / first_ranks(first, ties)
    cases, back = np.unique(np.stack(first, axis=1), axis=0, return_inverse=True)
    above, tied, relevant = cases.T
    means = 1 / (above + 1.0)
    harmonic = np.concatenate([[0.0], np.cumsum(1 / np.arange(1.0, gallery + 1))])
    # One relevant image is equally likely at every rank of its group, so running sums give the mean at once.
    single = (relevant == 1) & (tied > 0)
    means[single] = (harmonic[above + tied + 1] - harmonic[above])[single] / (tied[single] + 1)
    several = np.flatnonzero((relevant > 1) & (tied > 0))
    log_factorial = gammaln(np.arange(1.0, gallery + 2))
    chunk = np.cumsum(tied[several] + 1) // _CHUNK_TERMS
    for part in np.split(several, np.flatnonzero(np.diff(chunk)) + 1):
        if len(part):
            means[part] = _expected_inverse(above[part], tied[part], relevant[part], log_factorial)
    return np.asarray(means[back.reshape(-1)], dtype=np.float64)


def _expected_inverse(above: Integers, tied: Integers, relevant: Integers, log_factorial: Floats) -> Floats:
    """(P,) mean of 1 / (A + t) for t the first of m among n ranks, which has probability C(n - t, m - 1) / C(n, m)."""
    lengths = tied + 1
    starts = np.cumsum(lengths) - lengths
    case = np.repeat(np.arange(len(lengths)), lengths)
    t = np.arange(len(case)) - starts[case] + 1
    n, m = (tied + relevant)[case], relevant[case]

    def log_choose(total: Integers, drawn: Integers) -> Floats:
        return np.asarray(log_factorial[total] - log_factorial[drawn] - log_factorial[total - drawn], dtype=np.float64)

    # The binomials overflow float64 from about n = 1030 on; only their ratio is a probability.
    chance = np.exp(log_choose(n - t, m - 1) - log_choose(n, m))
    return np.asarray(np.add.reduceat(chance / (above[case] + t), starts), dtype=np.float64)
