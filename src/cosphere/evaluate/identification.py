"""Templates of many images, and finding a person among distractors.

Sources: the IJB protocol as InsightFace's published code runs it, and MegaFace's first challenge (protocol from memory of the
paper: each ordered pair of images of one person is one trial).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from scipy.sparse import csr_array
from torch import Tensor

from cosphere._types import Floats, Progress
from cosphere.checks import allowed, check_numbers, check_switches, check_whole
from cosphere.errors import DataError, SettingsError, SizeError
from cosphere.evaluate._names import class_column
from cosphere.rows import (
    BLOCK_BYTES,
    CosineBlocks,
    Matrix,
    UnitRows,
    as_array,
    check_block_bytes,
    check_widths,
    rows_within,
    unit_rows,
    widened,
)


def pool_templates(
    embeddings: Any, templates: Any, media: Any | None = None, *, weights: Any | None = None, keep_lengths: bool = True
) -> tuple[Floats, npt.NDArray[np.int64]]:
    """One unit embedding a template: images of one medium are averaged, media are added, the sum is brought to length 1.

    A video has many similar images; averaging them first keeps it from outvoting the photographs.

    Args:
        embeddings: (n, D) float, raw.
        templates: (n,) integers, the template of each image.
        media: (n,) integers, the photograph or video each came from; None takes every image for its own medium.
        weights: (n,) >= 0, a detector's score for example; the embedding is multiplied with it.
        keep_lengths: add raw embeddings, so that a longer one counts more, as InsightFace does with "use_norm_score"; False
            brings each to length 1 before. An embedding trained with SEC has one length, so the two nearly coincide.

    Returns:
        (T, D) float64 of length 1, or 0 where a template cancels out, and (T,) the template of each row, ascending.

    Raises:
        SizeError: lengths that differ, or templates or media that are not integers.
        DataError: a value that is not finite, or a negative weight.
    """
    check_switches(keep_lengths=keep_lengths)
    rows = widened(embeddings).cpu().numpy()
    if rows.ndim != 2:
        raise SizeError(f"want embeddings (n, D), got {rows.shape}. Give one row for each image.")
    names = as_array(templates)
    kinds = np.arange(len(rows)) if media is None else as_array(media)
    for name, numbers in (("templates", names), ("media", kinds)):
        if numbers.shape != rows.shape[:1] or numbers.dtype.kind not in "iu":
            raise SizeError(
                f"want {name} (n,) integers, one for each of {len(rows)} embeddings, got {numbers.shape} {numbers.dtype}. "
                "Number them, such as with numpy.unique."
            )
    if not np.isfinite(rows).all():
        raise DataError("embeddings hold NaN or infinity. Leave those images out.")
    if not keep_lengths:
        rows = _unit(rows)
    if weights is not None:
        scale = as_array(weights).astype(np.float64)
        if scale.shape != names.shape or not (np.isfinite(scale) & (scale >= 0)).all():
            raise DataError(f"want weights (n,) = {names.shape}, finite and >= 0.")
        rows = rows * scale[:, None]
    pairs, of_pair = np.unique(np.stack([names, kinds], axis=1), axis=0, return_inverse=True)
    means = _sums(rows, of_pair, len(pairs)) / np.bincount(of_pair, minlength=len(pairs))[:, None]
    pooled, of_template = np.unique(pairs[:, 0], return_inverse=True)
    return _unit(_sums(means, of_template, len(pooled))), pooled


def _sums(rows: Floats, groups: npt.NDArray[np.int64], count: int) -> Floats:
    by_group = csr_array((np.ones(len(rows)), (groups, np.arange(len(rows)))), shape=(count, len(rows)))
    sums: Floats = by_group @ rows
    return sums


def _unit(rows: Floats) -> Floats:
    norms = np.linalg.norm(rows, axis=1, keepdims=True)
    unit: Floats = np.divide(rows, norms, out=np.zeros_like(rows), where=norms > 0)
    return unit


def identification(
    probes: Matrix,
    labels: Any,
    distractors: Matrix,
    ranks: Sequence[int] = (1,),
    *,
    block_bytes: int = BLOCK_BYTES,
    progress: Progress | None = None,
) -> dict[str, float]:
    """Rank-k identification among distractors, as in MegaFace.

    Each ordered pair of images of one person is a trial: the second is hidden among the distractors, and the first must find
    it. It is found at rank k if fewer than k distractors are at least as similar: ties count against it.

    Args:
        probes: (n, D) float.
        labels: (n,) integers or names, the person of each.
        distractors: (M, D) float, none of those persons.
        ranks: each >= 1.
        block_bytes: bound of the working memory besides the unit rows; at least 32 probes are compared at a time.
        progress: called with the number of processed probes.

    Returns:
        ``rank@1``, ... in [0, 1], and ``trials``.

    Raises:
        SizeError: shapes that do not fit.
        DataError: NaN or infinity, or nobody has two images.
        SettingsError: a rank below 1.
    """
    if not isinstance(ranks, Iterable):
        raise SettingsError(f"want ranks as a list of whole numbers, got {ranks!r}. Write ranks=[{ranks}].")
    ranks = [check_whole("rank", rank, least=1) for rank in ranks]
    if not ranks:
        raise SettingsError("ranks is empty. Give at least one rank, such as ranks=(1,).")
    left, right = unit_rows(probes, name="probes"), unit_rows(distractors, name="distractors")
    people = _people(labels, left)
    check_widths(left.width, right.width)
    check_block_bytes(block_bytes)
    trials, hits = 0, dict.fromkeys(ranks, 0)
    most = rows_within(block_bytes, 4 * right.size + 8 * left.size + 16 * min(max(ranks), right.size))
    most = min(most, left.size)
    rivals, mates = CosineBlocks(right, most), CosineBlocks(left, most)
    for start in range(0, left.size, most):
        block = left.rows[start : start + most]
        among = mates.of(block)
        mate = people[start : start + most, None] == people[None]
        mate.diagonal(start).fill_(False)
        trials += int(mate.sum())
        # Fewer than k rivals are at least as similar as a mate exactly if the mate is above the k-th rival.
        highest = rivals.of(block.to(right.device)).topk(min(max(ranks), right.size), dim=1).values.to(left.device)
        for rank in ranks:
            reached = mate if rank > right.size else mate & (among > highest[:, rank - 1, None])
            hits[rank] += int(reached.sum())
        if progress is not None:
            progress(min(start + most, left.size), left.size)
    if not trials:
        raise DataError(
            "nobody has two images, so there is no pair to find. Give probes with two images of one person."
        )
    return {f"rank@{rank}": count / trials for rank, count in hits.items()} | {"trials": float(trials)}


MOST_KEPT = 10**7
"""Most cosines with distractors that :func:`verification_among` keeps: 40 MB, twice while a block is added."""


def verification_among(
    probes: Matrix,
    labels: Any,
    distractors: Matrix,
    fars: Sequence[float] = (1e-6,),
    *,
    block_bytes: int = BLOCK_BYTES,
    progress: Progress | None = None,
) -> dict[float, tuple[float, float]]:
    """True-accept rate at a false-accept rate, where the different pairs are all pairs of a probe and a distractor, as in MegaFace.

    Same pairs are the pairs of two images of one person. The threshold is exact: of all n M cosines with distractors, the one at place
    ``floor(far n M)`` in descending order; a pair is accepted above it.

    Args:
        probes: (n, D) float.
        labels: (n,) integers or names, the person of each.
        distractors: (M, D) float, none of those persons.
        fars: each in [0, 1].
        block_bytes: bound of the working memory besides the unit rows; at least 32 probes are compared at a time.
        progress: called with the number of processed probes.

    Returns:
        rate -> (true-accept rate, threshold).

    Raises:
        SizeError: shapes that do not fit.
        DataError: NaN or infinity, or nobody has two images.
        SettingsError: a rate out of range, or one that would keep more than :data:`MOST_KEPT` cosines.
    """
    fars = check_numbers("far", fars, at_least=0, at_most=1)
    if not fars:
        raise SettingsError("fars is empty. Give at least one rate, such as fars=(1e-6,).")
    left, right = unit_rows(probes, name="probes"), unit_rows(distractors, name="distractors")
    people = _people(labels, left)
    check_widths(left.width, right.width)
    check_block_bytes(block_bytes)
    ranks = {far: min(allowed(far, left.size * right.size), left.size * right.size - 1) for far in fars}
    keep = max(ranks.values()) + 1
    if keep > MOST_KEPT:
        raise SettingsError(
            f"a false-accept rate of {max(fars):g} needs the {keep:,} highest of {left.size * right.size:,} cosines; at most "
            f"{MOST_KEPT:,} are kept. Ask for a lower rate."
        )
    genuine, highest = _genuine_and_highest(left, right, people, keep, block_bytes, progress)
    if not len(genuine):
        raise DataError(
            "nobody has two images, so there is no pair to find. Give probes with two images of one person."
        )
    thresholds = {far: float(highest[rank]) for far, rank in ranks.items()}
    return {far: (float((genuine > cut).double().mean()), cut) for far, cut in thresholds.items()}


def _genuine_and_highest(
    left: UnitRows, right: UnitRows, people: Tensor, keep: int, block_bytes: int, progress: Progress | None
) -> tuple[Tensor, Tensor]:
    """The cosines of all pairs of one person, and the ``keep`` highest of probes with distractors, descending."""
    same: list[Tensor] = []
    highest = torch.empty(0)
    most = min(rows_within(block_bytes, 12 * right.size + 8 * left.size), left.size)
    rivals, mates = CosineBlocks(right, most), CosineBlocks(left, most)
    for start in range(0, left.size, most):
        block = left.rows[start : start + most]
        among = mates.of(block)
        # Each pair once: a block's columns beyond its own rows.
        mate = (people[start : start + most, None] == people[None]).triu(start + 1)
        same.append(among[mate].cpu().clone())
        scores = rivals.of(block.to(right.device)).flatten()
        highest = torch.cat([highest, scores.topk(min(keep, len(scores))).values.cpu()])
        highest = highest.topk(min(keep, len(highest))).values
        if progress is not None:
            progress(min(start + most, left.size), left.size)
    return torch.cat(same), highest


def _people(labels: Any, probes: UnitRows) -> Tensor:
    """(n,) int64, a number for each person."""
    names = class_column(labels, probes.size)
    return torch.from_numpy(np.unique(names, return_inverse=True)[1]).to(probes.device)
