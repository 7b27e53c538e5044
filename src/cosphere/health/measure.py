"""Measurement of embedding health in bounded memory."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from cosphere._types import Floats
from cosphere.checks import check_seed, check_whole
from cosphere.errors import SizeError
from cosphere.health.concerns import Health
from cosphere.rows import (
    BLOCK_BYTES,
    STEP,
    CosineBlocks,
    Matrix,
    UnitRows,
    as_array,
    check_block_bytes,
    hide_excluded,
    rounded_up,
    rows_within,
    unit_rows,
    widened,
)
from cosphere.spherical import length_statistics
from cosphere.tensors import directions

_ROUNDING = 1e-13
"""Mean squared distance from the mean below which all directions count as equal: rounding of float32 unit rows gives 1e-15."""
_EQUAL = 1e-6
"""Cosines that differ by less are equal: float32 rounding is about 1e-7."""
_CHUNK_VALUES = 2**22
"""Values widened to float64 at a time: 32 MiB."""


@torch.no_grad()
def embedding_health(
    embeddings: Matrix,
    labels: Any | None = None,
    *,
    k: int = 10,
    block_bytes: int = BLOCK_BYTES,
    most: int = 20_000,
    seed: int = 0,
) -> Health:
    """Measure how an embedding uses its space.

    - effective rank: Roy and Vetterli, EUSIPCO 2007, of the *centred* directions: the singular values of unit rows minus
      their mean. Without centring, what all images share would count as one large direction, which ``mean_cosine`` reports;
      lengths do not affect ranking. The participation ratio is (sum of variances)^2 / sum of squared variances.
    - alignment and uniformity: Wang and Isola, ICML 2020, power 2 and t = 2, as in
      :func:`cosphere.losses.alignment_uniformity_loss`: over all pairs of one set, where the authors' code uses two views.
    - hubness: Radovanovic, Nanopoulos and Ivanovic, JMLR 2010: skew (biased, as theirs) of the k-occurrence under the cosine.
      Equal cosines share a rank, so the order of the rows does not matter.
    - margin: from class means, each row left out of its own; ``1 - margin_below_zero`` is the accuracy of the nearest class mean.

    Up to ``most`` rows, results are invariant to rotation, scaling and order of the rows, up to rounding. Memory: the unit rows
    (N, D), the class sums (C, D) and one matrix of min(D, rows)^2 in float64, and a block.

    Args:
        embeddings: (N, D) float, torch or numpy, raw.
        labels: (N,) integers; None leaves out the numbers that need classes.
        k: neighbours, at least 1.
        block_bytes: bound of a block's memory in bytes; a block has at least 32 rows.
        most: rows, at least 2. More rows are represented by a random sample of this size, except in ``zero_rows``, ``norm_cv``,
            ``mean_cosine`` and ``alignment``. Hubness grows with the number of rows.
        seed: of that sample.

    Raises:
        SizeError: shapes or types do not fit.
        DataError: a row holds NaN or infinity; the error names them.
        SettingsError: ``k``, ``block_bytes`` or ``most`` is too small.

    >>> health = embedding_health(torch.eye(4), [0, 0, 1, 1])
    >>> [round(value, 6) for value in (health.effective_rank, health.alignment, health.uniformity)]
    [3.0, 2.0, -4.0]
    """
    check_block_bytes(block_bytes)
    check_whole("k", k, least=1)
    check_whole("most", most, least=2)
    check_seed(seed)
    rows = unit_rows(embeddings)
    classes = None if labels is None else _numbered(labels, rows)
    norm_cv, count = _length_cv(embeddings), rows.size
    alive = rows.rows.any(dim=1)
    if not bool(alive.all()):
        rows = _selected(rows, alive.nonzero().flatten())
        classes = None if classes is None else torch.unique(classes[alive], return_inverse=True)[1]
    sample = _sample(rows, most, seed)
    compared = rows if sample is None else _selected(rows, sample)
    k = min(k, max(0, compared.size - 1))
    by_class = _ClassNumbers() if classes is None else _of_classes(rows, classes, sample, block_bytes)
    return Health(
        rows=count,
        dim=rows.width,
        compared=compared.size,
        classes=None if classes is None else len(torch.unique(classes)),
        k=k,
        zero_rows=count - rows.size,
        norm_cv=norm_cv,
        mean_cosine=_mean_cosine(rows),
        **_ranks(compared)._asdict(),
        **_of_pairs(compared, k, block_bytes)._asdict(),
        **by_class._asdict(),
    )


def _numbered(labels: Any, rows: UnitRows) -> Tensor:
    """(N,) class numbers from 0 without gaps, on the device of the rows."""
    numbers = as_array(labels)
    if numbers.shape != (rows.size,) or numbers.dtype.kind not in "iu":
        raise SizeError(
            f"want labels (N,) integers, one for each of {rows.size} embeddings, got {numbers.shape} {numbers.dtype}. "
            "Give one class number for each row."
        )
    return torch.from_numpy(np.unique(numbers, return_inverse=True)[1].astype(np.int64)).to(rows.device)


def _length_cv(embeddings: Matrix) -> float:
    """Of all rows, in float64 to avoid overflow of the squares; 0 when every length is 0."""
    step = max(1, _CHUNK_VALUES // embeddings.shape[1])
    parts = (embeddings[start : start + step] for start in range(0, len(embeddings), step))
    norms = torch.cat([torch.linalg.vector_norm(widened(part), dim=1) for part in parts])
    return length_statistics(norms[:, None]).cv  # The length of a row of one number is that number.


def _selected(rows: UnitRows, chosen: Tensor) -> UnitRows:
    """Some of the rows, padded again."""
    padded = rows.padded.new_zeros(rounded_up(len(chosen)), rows.width)
    padded[: len(chosen)] = rows.rows[chosen]
    return UnitRows(padded, len(chosen))


def _sample(rows: UnitRows, most: int, seed: int) -> Tensor | None:
    """A random sample of the rows, ascending; None if all rows are used."""
    if rows.size <= most:
        return None
    chosen = np.random.default_rng(seed).choice(rows.size, most, replace=False)
    return torch.from_numpy(np.sort(chosen)).to(rows.device)


# Directions


class _Ranks(NamedTuple):
    effective_rank: float | None = None
    participation_ratio: float | None = None


def _ranks(rows: UnitRows) -> _Ranks:
    """Both ranks of the centred directions."""
    if rows.size < 2:
        return _Ranks()
    variances = _variances(rows)
    total = float(variances.sum())
    if total <= _ROUNDING * rows.size:
        return _Ranks(0.0, 0.0)
    singular = variances.sqrt()
    shares = singular / singular.sum()
    entropy = -float(torch.special.xlogy(shares, shares).sum())
    return _Ranks(math.exp(entropy), total**2 / float(variances.square().sum()))


def _variances(rows: UnitRows) -> Tensor:
    """N times the variance in each principal component of the centred directions, smallest first; (min(N, D),) in float64."""
    variances: Tensor = torch.linalg.eigvalsh(_centred_gram(rows)).clamp(min=0)
    return variances


@torch.no_grad()
def spectrum(embeddings: Matrix) -> Floats:
    """Share of the variance of the directions that lies in each principal component, largest first.

    Args:
        embeddings: (N, D) floating, raw; rows without a direction are left out.

    Returns:
        (min(N, D),) shares that add up to 1; all 0 where the directions do not differ.

    Raises:
        SizeError, DataError: not (N, D) finite numbers.
    """
    rows = unit_rows(embeddings)
    alive = rows.rows.norm(dim=1) > 0
    rows = _selected(rows, alive.nonzero().flatten())
    if rows.size < 2:
        return np.zeros(min(rows.size, rows.width))
    variances = _variances(rows).flip(0)
    total = float(variances.sum())
    shares = variances / total if total > _ROUNDING * rows.size else torch.zeros_like(variances)
    return np.asarray(shares.cpu().numpy(), dtype=np.float64)


def _centred_gram(rows: UnitRows) -> Tensor:
    """The smaller of the two products of the centred rows, in float64; its eigenvalues are the squared singular values."""
    side = min(rows.size, rows.width)
    gram = torch.zeros(side, side, dtype=torch.float64, device=rows.device)
    if rows.width <= rows.size:
        mean = _sum(rows.rows) / rows.size
        parts = (part.sub_(mean).T for part in _chunks(rows.rows))
    else:
        parts = (part.sub_(part.mean(dim=1, keepdim=True)).T for part in _chunks(rows.rows.T))
    for part in parts:
        gram.addmm_(part, part.T)
    return gram


def _mean_cosine(rows: UnitRows) -> float | None:
    """Of all pairs of different rows, from the length of the sum of all."""
    if rows.size < 2:
        return None
    squares = sum(float(part.square().sum()) for part in _chunks(rows.rows))
    return (float(_sum(rows.rows).square().sum()) - squares) / (rows.size * (rows.size - 1))


def _chunks(rows: Tensor) -> Iterator[Tensor]:
    """Float64 copies of a few rows at a time, so that each stays small."""
    return (part.to(torch.float64, copy=True) for part in torch.split(rows, max(1, _CHUNK_VALUES // rows.shape[1])))


def _sum(rows: Tensor) -> Tensor:
    """(N, D) -> (D,) float64."""
    return torch.stack([part.sum(dim=0) for part in _chunks(rows)]).sum(dim=0)


# Pairs


class _PairNumbers(NamedTuple):
    uniformity: float | None = None
    hubness: float | None = None
    orphans: float | None = None
    largest_hub: float | None = None


def _of_pairs(rows: UnitRows, k: int, block_bytes: int) -> _PairNumbers:
    """Uniformity and hubness in one pass over all cosines: the product is what costs."""
    if rows.size < 2:
        return _PairNumbers()
    # The buffer and room for what topk and the exponential hold of a block meanwhile.
    step = min(rows_within(block_bytes, 8 * rows.size + 64 * k), rows.size)
    blocks = CosineBlocks(rows, step)
    listed = torch.zeros(rows.size, dtype=torch.float64, device=rows.device)
    near = 0.0
    for start in range(0, rows.size, step):
        queries = rows.rows[start : start + step]
        cosines = blocks.of(queries)
        hide_excluded(cosines, torch.arange(start, start + len(queries), device=rows.device))
        _count_neighbours(cosines, k, listed)
        # exp(-2 d^2) is exp(4 s - 4); in place, because nobody needs the cosines any more. Each row adds in float32,
        # the rows in float64.
        near += float(cosines.sub_(1).mul_(4).exp_().sum(dim=1).sum(dtype=torch.float64))
    return _PairNumbers(
        uniformity=math.log(near / (rows.size * (rows.size - 1))),
        hubness=_skew(listed),
        orphans=float((listed == 0).double().mean()),
        largest_hub=float(listed.max()),
    )


def _count_neighbours(cosines: Tensor, k: int, listed: Tensor) -> None:
    """Add to ``listed`` (N,) how often each column of (b, N) is among the k largest of a row.

    Equal cosines at the last place share it: any choice among duplicates would make hubs of some of them.
    """
    scores, ids = cosines.topk(k + 1, dim=1)  # The row itself, at -inf, makes it k + 1 at least.
    shared = scores[:, k - 1] == scores[:, k]
    listed += torch.bincount(ids[~shared, :k].flatten(), minlength=len(listed))
    # So few at a time that they need no second block.
    for rows in torch.split(shared.nonzero().flatten(), STEP):
        row, last = cosines[rows], scores[rows, k - 1, None]
        above, level = (row > last).double(), (row == last).double()
        places = (k - above.sum(dim=1, keepdim=True)) / level.sum(dim=1, keepdim=True)
        listed += (above + places * level).sum(dim=0)


def _skew(values: Tensor) -> float:
    """Biased skew, as of :func:`scipy.stats.skew`; 0 when all values are equal."""
    centred = values - values.mean()
    variance = float(centred.square().mean())
    # Shared places are fractions, equal only up to rounding.
    return 0.0 if variance < 1e-12 else float(centred.pow(3).mean()) / variance**1.5


# Classes


class _ClassNumbers(NamedTuple):
    alignment: float | None = None
    margin: float | None = None
    margin_below_zero: float | None = None


def _of_classes(rows: UnitRows, classes: Tensor, asking: Tensor | None, block_bytes: int) -> _ClassNumbers:
    """Alignment of all pairs, from class sums; margins of the rows that ask."""
    sizes = torch.bincount(classes)
    sums = torch.zeros(len(sizes), rows.width, dtype=torch.float64, device=rows.device)
    squares = torch.zeros(len(sizes), dtype=torch.float64, device=rows.device)
    done = 0
    for part in _chunks(rows.rows):
        of = classes[done : done + len(part)]
        sums.index_add_(0, of, part)
        squares.index_add_(0, of, part.square().sum(dim=1))
        done += len(part)
    pairs = int((sizes * (sizes - 1) // 2).sum())
    # Over the pairs of a class, the squared distances sum to n * sum |u|^2 - |sum u|^2.
    apart = float((sizes * squares - sums.square().sum(dim=1)).clamp(min=0).sum())
    margins = _margins(rows, classes, sums, sizes, asking, block_bytes)
    return _ClassNumbers(
        alignment=apart / pairs if pairs else None,
        margin=float(margins.quantile(0.5)) if len(margins) else None,
        margin_below_zero=float((margins < -_EQUAL).double().mean()) if len(margins) else None,
    )


def _margins(
    rows: UnitRows, classes: Tensor, sums: Tensor, sizes: Tensor, asking: Tensor | None, block_bytes: int
) -> Tensor:
    """Own class mean, the row itself left out, against the nearest other: (M,) float64 for rows with company, else empty."""
    asking = torch.arange(rows.size, device=rows.device) if asking is None else asking
    asking = asking[sizes[classes[asking]] > 1]
    if len(sizes) < 2 or not len(asking):
        return torch.empty(0, dtype=torch.float64)
    means = unit_rows(sums, name="class means")
    step = min(rows_within(block_bytes, 4 * means.size + 32 * rows.width), len(asking))
    blocks = CosineBlocks(means, step)
    margins = []
    for chosen in torch.split(asking, step):
        unit, own = rows.rows[chosen], classes[chosen]
        cosines = blocks.of(unit)
        hide_excluded(cosines, own)
        company = directions(sums[own] - unit.double()).unit
        margins.append(torch.linalg.vecdot(company, unit.double()) - cosines.amax(dim=1).double())
    return torch.cat(margins)
