"""What is likely wrong with labelled images, by their embeddings: labels, duplicates, classes that are one or two, outliers.

Every list is ranked, the most striking first, and none is a verdict: a model that misreads an image makes it look wrong. Look at them.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch

from cosphere._types import Flags, Floats, Integers
from cosphere.checks import check_number, check_whole
from cosphere.embeddings import Embeddings
from cosphere.errors import DataError, SizeError
from cosphere.evaluate.label_errors import LabelSuspects, likely_mislabelled
from cosphere.fields import make_plain
from cosphere.rows import BLOCK_BYTES, UnitRows, unit_rows
from cosphere.search.exact import Neighbours, search_units

NEIGHBOURS = 10
DUPLICATE = 0.95
"""Default likeness from which two images are near duplicates: of pixels where they are compared, else of embeddings."""
_CANDIDATE = 0.8
"""Cosine of embeddings from which pixels are compared: a shrunk and compressed copy stays above it."""
_LEAST_DIVIDED = 8
"""Images of a class that may look like two."""
_COSINE_ROUNDING = 1e-6
"""Cosines in float32 that differ by less are equal but for rounding."""
_LEAST_PART = 3
_LEAST_ALIKE = 3
"""Images of each of two classes that may look like one."""
_ITERATIONS = 10

Compare = Callable[[Integers], Floats]


@dataclass(frozen=True, kw_only=True)
class AuditSettings:
    """How to look.

    Raises:
        SettingsError: a value is out of range.
    """

    neighbours: int = NEIGHBOURS
    """Nearest images that are looked at for each one."""
    duplicate: float = DUPLICATE
    """Likeness from which two near images are near duplicates, in (0, 1]: correlation of their pixels, or cosine of embeddings."""
    top: int = 100
    """Most findings of each list."""

    def __post_init__(self) -> None:
        make_plain(self)
        check_whole("neighbours", self.neighbours, least=1, most=1000)
        check_number("duplicate", self.duplicate, above=0, at_most=1)
        check_whole("top", self.top, least=1, most=10**6)


class DuplicatePair(NamedTuple):
    """Two pictures that are nearly the same."""

    first: int
    """A row of the embeddings; the lower one."""
    second: int
    likeness: float
    """Correlation of the pixels of both, made small and grey; the cosine of the embeddings where pixels were not compared."""
    across_splits: bool
    across_classes: bool


class AlikeClasses(NamedTuple):
    """Two classes that look like one."""

    first: int
    """Number of the class."""
    second: int
    mixing: float
    """Neighbours of images of one class that are of the other, over what it would be if both were one class; 1 if they are one."""
    examples: tuple[tuple[int, int], ...]
    """Rows of the nearest pairs, one of each class."""


class DividedClass(NamedTuple):
    """A class that looks like two."""

    label: int
    """Number of the class."""
    gap: float
    """Mean cosine within two parts of it less that between them, in standard deviations above the classes' median."""
    parts: tuple[tuple[int, ...], tuple[int, ...]]
    """Rows of each part, the most typical first."""


class Outlier(NamedTuple):
    """An image that is far from all others."""

    row: int
    cosine: float
    """Mean cosine to its nearest images."""
    score: float
    """How far below the median of all images that is, in standard deviations."""


@dataclass(frozen=True, eq=False, kw_only=True)
class AuditFindings:
    """Ranked lists; rows are those of the embeddings."""

    suspects: LabelSuspects
    duplicates: tuple[DuplicatePair, ...]
    """Across splits first, then across classes, then by likeness."""
    alike: tuple[AlikeClasses, ...]
    divided: tuple[DividedClass, ...]
    outliers: tuple[Outlier, ...]

    def counts(self) -> dict[str, int]:
        """How many of each are listed."""
        return {
            "likely wrong labels": len(self.suspects),
            "near duplicates": len(self.duplicates),
            "  across splits": sum(pair.across_splits for pair in self.duplicates),
            "  across classes": sum(pair.across_classes for pair in self.duplicates),
            "classes that look like one": len(self.alike),
            "classes that look like two": len(self.divided),
            "outliers": len(self.outliers),
        }


@torch.no_grad()
def audit_embeddings(
    embeddings: Embeddings,
    *,
    splits: Any | None = None,
    settings: AuditSettings | None = None,
    compare: Compare | None = None,
    block_bytes: int = BLOCK_BYTES,
) -> AuditFindings:
    """Rank what is likely wrong.

    - Wrong labels: see :func:`likely_mislabelled`.
    - Near duplicates: pairs among the nearest images whose likeness reaches ``duplicate``, and one picture in two splits; rows of one
      picture in one split are none. Embeddings alone take two
      photos of one scene for one photo, and a compressed copy for another; with ``compare``, pixels decide.
    - Classes that look like one: the share of the neighbours in both classes that lie in the other one, over what it would be if the
      labels of the two were drawn at random. Listed from a half on.
    - Classes that look like two: a class is cut in two by 2-means; what counts is how much less alike images of different parts are
      than images of one part, against the same number of all other classes. Listed from two standard deviations on.
    - Outliers: images whose nearest ones are far, against all images. Listed from three standard deviations on.

    Standard deviations are estimated from the median of absolute deviations, or from their mean where more than half of the values
    are equal.

    Args:
        embeddings: N rows with floats.
        splits: (N,) name of the split of each row; None: all are of one.
        settings: None takes the defaults.
        compare: called with pairs of rows (P, 2); returns how alike their pixels are, (P,) at most 1. None compares embeddings.
        block_bytes: bound of the working memory of the search.

    Raises:
        SizeError: fewer than two images, or a split for another number of rows.
        DataError: there are no labels.
    """
    settings = settings or AuditSettings()
    if len(embeddings) < 2:
        raise SizeError("one image alone cannot be compared. Give at least two.")
    if set(embeddings.class_names) <= {""}:
        raise DataError("the images have no labels, so there is nothing to audit. `cosphere search` finds near images.")
    if splits is not None and len(splits) != len(embeddings):
        raise SizeError(f"want a split for each of {len(embeddings)} rows, got {len(splits)}.")
    rows, pictures = unit_rows(embeddings.embeddings), embeddings.identities()
    near = _near(rows, min(settings.neighbours, len(embeddings) - 1), block_bytes)
    labels = embeddings.labels
    suspects = likely_mislabelled(
        embeddings.embeddings,
        labels,
        identities=pictures,
        neighbours=settings.neighbours,
        top=settings.top,
        block_bytes=block_bytes,
    )
    return AuditFindings(
        suspects=suspects,
        duplicates=_duplicates(near, labels, pictures, splits, settings, compare),
        alike=_alike(near, labels, settings.top),
        divided=_divided(rows, labels, settings.top),
        outliers=_outliers(near, settings.top),
    )


class _Near(NamedTuple):
    ids: Integers
    cosines: Floats


def _near(rows: UnitRows, k: int, block_bytes: int) -> _Near:
    found: Neighbours = search_units(rows, rows, k, torch.arange(rows.size), block_bytes)
    return _Near(found.ids.numpy(), found.scores.double().numpy())


def _duplicates(
    near: _Near,
    labels: Integers,
    pictures: Integers,
    splits: Any | None,
    settings: AuditSettings,
    compare: Compare | None,
) -> tuple[DuplicatePair, ...]:
    owners, places = np.nonzero(near.cosines >= (settings.duplicate if compare is None else _CANDIDATE))
    others = near.ids[owners, places]
    pairs = np.stack([np.minimum(owners, others), np.maximum(owners, others)], axis=1)
    pairs, first = np.unique(pairs, axis=0, return_index=True)
    likeness = near.cosines[owners[first], places[first]]
    different = pictures[pairs[:, 0]] != pictures[pairs[:, 1]]
    pairs, likeness = pairs[different], likeness[different]
    if compare is not None and len(pairs):
        likeness = compare(pairs)
        pairs, likeness = pairs[likeness >= settings.duplicate], likeness[likeness >= settings.duplicate]
    names = np.zeros(len(labels)) if splits is None else np.asarray(splits)
    same = _in_two_splits(pictures, names)
    pairs, likeness = np.concatenate([same, pairs]), np.concatenate([np.ones(len(same)), likeness])
    across_splits = names[pairs[:, 0]] != names[pairs[:, 1]]
    across_classes = labels[pairs[:, 0]] != labels[pairs[:, 1]]
    order = np.lexsort((-likeness, ~across_classes, ~across_splits))[: settings.top]
    columns = (pairs[:, 0], pairs[:, 1], likeness, across_splits, across_classes)
    return tuple(DuplicatePair(*row) for row in zip(*(column[order].tolist() for column in columns), strict=True))


def _in_two_splits(pictures: Integers, names: Any) -> Integers:
    """(P, 2) rows that show one picture in two splits: its first row, and its first row in each other split."""
    split = np.unique(names, return_inverse=True)[1].ravel()
    row = np.sort(np.unique(np.stack([pictures, split], axis=1), axis=0, return_index=True)[1])
    picture, first = np.unique(pictures, return_index=True)
    pairs = np.stack([first[np.searchsorted(picture, pictures[row])], row], axis=1)
    return np.asarray(pairs[pairs[:, 0] < pairs[:, 1]])


def _alike(near: _Near, labels: Integers, top: int) -> tuple[AlikeClasses, ...]:
    names, numbers, sizes = np.unique(labels, return_inverse=True, return_counts=True)
    votes = _votes(numbers, near, len(names))
    first, second = (votes + votes.T).nonzero()
    several = (first < second) & (sizes[first] >= _LEAST_ALIKE) & (sizes[second] >= _LEAST_ALIKE)
    first, second = first[several], second[several]
    mixing = np.minimum(_mixed(votes, sizes, first, second), _mixed(votes, sizes, second, first))
    order = np.lexsort((second, first, -mixing))
    order = order[mixing[order] >= 0.5][:top]
    return tuple(
        AlikeClasses(
            int(names[first[at]]),
            int(names[second[at]]),
            float(mixing[at]),
            _nearest_pairs(near, numbers, int(first[at]), int(second[at])),
        )
        for at in order
    )


def _votes(numbers: Integers, near: _Near, classes: int) -> Any:
    """(C, C) sparse: neighbours of images of the one class that are of the other. Of thousands of classes few meet."""
    from scipy import sparse  # late: it takes a moment

    pairs = np.repeat(numbers, near.ids.shape[1]), numbers[near.ids].ravel()
    return sparse.csr_matrix((np.ones(near.ids.size), pairs), shape=(classes, classes))


def _mixed(votes: Any, sizes: Integers, own: Integers, other: Integers) -> Floats:
    """Share of the neighbours in two classes that are of the other one, over the share of the other images of both that are."""
    others = np.asarray(votes[own, other]).ravel()
    found = others / np.maximum(votes.diagonal()[own] + others, 1)
    mixed: Floats = found / (sizes[other] / (sizes[own] + sizes[other] - 1))
    return mixed


def _nearest_pairs(
    near: _Near, numbers: Integers, first: int, second: int, count: int = 4
) -> tuple[tuple[int, int], ...]:
    owners, places = np.nonzero((numbers[:, None] == first) & (numbers[near.ids] == second))
    back, back_places = np.nonzero((numbers[:, None] == second) & (numbers[near.ids] == first))
    pairs = np.concatenate(
        [
            np.stack([owners, near.ids[owners, places]], axis=1),
            np.stack([near.ids[back, back_places], back], axis=1),
        ]
    )
    cosines = np.concatenate([near.cosines[owners, places], near.cosines[back, back_places]])
    shown: list[tuple[int, int]] = []
    for one, other in pairs[np.argsort(-cosines, kind="stable")].tolist():
        if all(one not in pair and other not in pair for pair in shown):  # another picture each time
            shown.append((one, other))
        if len(shown) == count:
            break
    return tuple(shown)


def _divided(rows: UnitRows, labels: Integers, top: int) -> tuple[DividedClass, ...]:
    names, sizes = np.unique(labels, return_counts=True)
    cuts = []
    for name in names[sizes >= _LEAST_DIVIDED].tolist():
        members = np.flatnonzero(labels == name)
        cut = _two_parts(rows.rows[torch.from_numpy(members)].double().cpu().numpy())
        if cut is not None:
            gap, parts = cut
            cuts.append((name, gap, tuple(tuple(members[part].tolist()) for part in parts)))
    if not cuts:
        return ()
    scores = _deviations(np.array([gap for _, gap, _ in cuts]))
    order = np.argsort(-scores, kind="stable")
    return tuple(
        DividedClass(cuts[at][0], float(scores[at]), (cuts[at][2][0], cuts[at][2][1]))
        for at in order[:top]
        if scores[at] >= 2
    )


def _two_parts(unit: Floats) -> tuple[float, tuple[Integers, Integers]] | None:
    """Spherical 2-means from the two ends of the first principal axis: the gap of cosines, and the parts; None where one is tiny."""
    centred = unit - unit.mean(axis=0)
    axis = np.linalg.svd(centred, full_matrices=False)[2][0]
    side = centred @ axis > 0
    for _ in range(_ITERATIONS):
        if not 0 < side.sum() < len(side):
            return None
        centres = [unit[part].mean(axis=0) for part in (side, ~side)]
        nearer = unit @ (centres[0] / np.linalg.norm(centres[0]) - centres[1] / np.linalg.norm(centres[1])) > 0
        if (nearer == side).all():
            break
        side = nearer
    if min(side.sum(), (~side).sum()) < _LEAST_PART:
        return None
    gap = _gap(unit, side)
    typical = [np.flatnonzero(part)[np.argsort(-(unit[part] @ unit[part].mean(axis=0)))] for part in (side, ~side)]
    return gap, (typical[0], typical[1])


def _gap(unit: Floats, side: Flags) -> float:
    """Mean cosine of pairs within the parts less that of pairs across, from the sums of the rows: never rows x rows."""
    ones, others = unit[side], unit[~side]
    sums = ones.sum(axis=0), others.sum(axis=0)
    within = sum(float(total @ total) for total in sums) - float((unit * unit).sum())
    pairs = sum(len(part) * (len(part) - 1) for part in (ones, others))
    return within / pairs - float(sums[0] @ sums[1]) / (len(ones) * len(others))


def _outliers(near: _Near, top: int) -> tuple[Outlier, ...]:
    means = near.cosines.mean(axis=1)
    scores = _deviations(-means)
    order = np.argsort(-scores, kind="stable")[:top]
    return tuple(Outlier(int(row), float(means[row]), float(scores[row])) for row in order if scores[row] >= 3)


def _deviations(values: Floats) -> Floats:
    """Distance from the median in standard deviations, estimated by the median absolute deviation of normal values.

    Where more than half of the values are equal, as those of exact copies are, the mean absolute deviation takes its place.
    """
    distances = values - np.median(values)
    sizes = np.abs(distances)
    spread = 1.4826 * float(np.median(sizes))
    if spread < _COSINE_ROUNDING:
        spread = max(math.sqrt(math.pi / 2) * float(sizes.mean()), _COSINE_ROUNDING)
    deviations: Floats = distances / spread
    return deviations
