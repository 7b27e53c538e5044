"""Miners: which pairs or triplets of a batch to learn from, as tuples of indices.

Every miner is a plain function ``miner(embeddings, labels, *, references=, reference_labels=, positions=, settings)``
and returns int64 vectors: pairs as ``(anchors, positives, anchors, negatives)``, triplets as ``(anchors, positives,
negatives)``. Anchors are rows of the batch; positives and negatives are rows of the references, or of the batch where
there are none. Our losses take such a tuple as ``indices_tuple``, and so do pytorch-metric-learning's. The losses do
not need a miner for speed: a list of all triplets takes B K (B - K) entries, the loss over all triplets one block.

Rows are compared by direction, self is left out by index, and rows without a direction are never listed. Nothing here is
differentiated. A miner holds its result and one block of similarities. Lists are sorted by anchor, then by positive,
then by negative.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, TypedDict, Unpack

import torch
from torch import Tensor
from torch.nn import functional

from cosphere._lazy import lazily
from cosphere.checks import check_number, check_switch
from cosphere.errors import SettingsError
from cosphere.losses.batch_hard_triplet import hardest_columns
from cosphere.losses.engine.maths import chord
from cosphere.losses.engine.pairs import Pairs, compare
from cosphere.losses.engine.rows import Block, blocks
from cosphere.tensors import SHORTEST, lengths

PairIndices = tuple[Tensor, Tensor, Tensor, Tensor]
TripletIndices = tuple[Tensor, Tensor, Tensor]


class Against(TypedDict, total=False):
    """Optional references to mine in; see :func:`cosphere.losses.compare`."""

    references: Tensor | None
    reference_labels: Tensor | None
    positions: Tensor | None


def all_pairs(embeddings: Tensor, labels: Tensor, **against: Unpack[Against]) -> PairIndices:
    """Every positive and every negative pair, in both directions. What pytorch-metric-learning does without a miner.

    >>> points, labels = torch.eye(3), torch.tensor([0, 0, 1])
    >>> all_pairs(points, labels)
    (tensor([0, 1]), tensor([1, 0]), tensor([0, 1, 2, 2]), tensor([2, 2, 0, 1]))
    """
    return _Mine(embeddings, labels, against).pairs_where(lambda block: (block.positive_real, block.negative))


def pair_margin(
    embeddings: Tensor,
    labels: Tensor,
    *,
    positive_margin: float = 0.2,
    negative_margin: float = 0.8,
    squared: bool = False,
    **against: Unpack[Against],
) -> PairIndices:
    """Positive pairs farther apart than one margin, negative pairs nearer than another: those a contrastive loss moves.

    pytorch-metric-learning publishes it as PairMarginMiner, with these defaults.

    Args:
        embeddings: (B, D) float.
        labels: (B,) integers.
        positive_margin: of the distance d.
        negative_margin: likewise.
        squared: d is the squared distance of unit vectors, in [0, 4]; otherwise the distance, in [0, 2].
        against: see :class:`Against`.
    """
    check_number("positive_margin", positive_margin, at_least=0)
    check_number("negative_margin", negative_margin, at_least=0)
    check_switch("squared", squared)

    def wanted(block: Block) -> tuple[Tensor, Tensor]:
        near, far = chord(block.positives(1.0), squared=squared), chord(block.similarities, squared=squared)
        return block.positive_real & (near > positive_margin), block.negative & (far < negative_margin)

    return _Mine(embeddings, labels, against).pairs_where(wanted)


def multi_similarity(
    embeddings: Tensor, labels: Tensor, *, epsilon: float = 0.1, **against: Unpack[Against]
) -> PairIndices:
    """Positives that are not much nearer than the nearest negative, negatives not much farther than the farthest positive.

    Wang et al., Multi-Similarity Loss, CVPR 2019, equations 11 and 12; pytorch-metric-learning's MultiSimilarityMiner.
    Both sides compare with the unmined batch, so an anchor has pairs of both kinds or none.

    Args:
        embeddings: (B, D) float.
        labels: (B,) integers.
        epsilon: slack, in units of the cosine; official 0.1.
        against: see :class:`Against`.
    """
    check_number("epsilon", epsilon)

    def wanted(block: Block) -> tuple[Tensor, Tensor]:
        near, far = block.positives(torch.inf), block.negatives(-torch.inf)
        # Add one column of padding, so that the minimum is defined.
        farthest_positive = functional.pad(near, (0, 1), value=torch.inf).amin(dim=1, keepdim=True)
        nearest_negative = far.amax(dim=1, keepdim=True)
        # Padding compares as infinite and is never kept.
        return near - epsilon < nearest_negative, far + epsilon > farthest_positive

    return _Mine(embeddings, labels, against).pairs_where(wanted)


def hdc_pairs(embeddings: Tensor, labels: Tensor, *, share: float = 0.5, **against: Unpack[Against]) -> PairIndices:
    """The hardest share of all positive and of all negative pairs, each kind ranked over the whole batch.

    Yuan, Yang, Zhang: Hard-Aware Deeply Cascaded Embedding, ICCV 2017. The number kept is rounded up, as in
    pytorch-metric-learning's HDCMiner; the authors' layer rounds down. Of equally hard pairs at the end any may be taken.

    Args:
        embeddings: (B, D) float.
        labels: (B,) integers.
        share: in (0, 1].
        against: see :class:`Against`.
    """
    if check_number("share", share, above=0) > 1:
        raise SettingsError(f"share must be at most 1; got {share!r}.")
    mine = _Mine(embeddings, labels, against)
    positives = _Hardest(math.ceil(share * int(mine.pairs.positives_per_anchor.sum())), mine.pairs)
    negatives = _Hardest(math.ceil(share * int(mine.pairs.negatives_per_anchor.sum())), mine.pairs)
    for block in blocks(mine.pairs):
        row, slot = block.positive_real.nonzero(as_tuple=True)
        column = block.positive_columns[row, slot]
        positives.add(-block.similarities[row, column], row + block.rows.start, column)
        row, column = block.negative.nonzero(as_tuple=True)
        negatives.add(block.similarities[row, column], row + block.rows.start, column)
    return mine.numbered(*positives.pairs(), *negatives.pairs())


def all_triplets(embeddings: Tensor, labels: Tensor, **against: Unpack[Against]) -> TripletIndices:
    """Every anchor, positive and negative: B K (B - K) of them for about K positives each.

    >>> all_triplets(torch.eye(3), torch.tensor([0, 0, 1]))
    (tensor([0, 1]), tensor([1, 0]), tensor([2, 2]))
    """
    return _Mine(embeddings, labels, against).triplets_where(
        lambda _, far: torch.ones_like(far, dtype=torch.bool), squared=True
    )


def violating_triplets(
    embeddings: Tensor, labels: Tensor, *, margin: float = 0.2, squared: bool = True, **against: Unpack[Against]
) -> TripletIndices:
    """Triplets with ``d_an <= d_ap + margin``: those a triplet loss with this margin moves, hard and semihard ones.

    pytorch-metric-learning's TripletMarginMiner(type_of_triplets="all"), whose distances are not squared by default.

    Args:
        embeddings: (B, D) float.
        labels: (B,) integers.
        margin: in units of the distance d.
        squared: d is the squared distance of unit vectors, in [0, 4]; otherwise the distance, in [0, 2].
        against: see :class:`Against`.
    """
    margin = check_number("margin", margin, at_least=0)
    mine = _Mine(embeddings, labels, against)
    return mine.triplets_where(lambda near, far: far <= near + margin, squared=check_switch("squared", squared))


def semihard_triplets(
    embeddings: Tensor, labels: Tensor, *, margin: float = 0.2, squared: bool = True, **against: Unpack[Against]
) -> TripletIndices:
    """Triplets with ``d_ap < d_an <= d_ap + margin``.

    Schroff, Kalenichenko, Philbin: FaceNet, CVPR 2015, with margin 0.2 on squared distances, draws one such negative for
    each positive pair; all of them are pytorch-metric-learning's TripletMarginMiner(type_of_triplets="semihard"), whose
    distances are not squared by default. Settings as in :func:`violating_triplets`.
    """
    margin = check_number("margin", margin, at_least=0)
    mine = _Mine(embeddings, labels, against)
    return mine.triplets_where(
        lambda near, far: (far > near) & (far <= near + margin), squared=check_switch("squared", squared)
    )


def hard_triplets(embeddings: Tensor, labels: Tensor, **against: Unpack[Against]) -> TripletIndices:
    """Triplets with ``d_an <= d_ap``, whatever the margin.

    pytorch-metric-learning's TripletMarginMiner(type_of_triplets="hard").
    """
    return _Mine(embeddings, labels, against).triplets_where(lambda near, far: far <= near, squared=True)


def easy_triplets(
    embeddings: Tensor, labels: Tensor, *, margin: float = 0.2, squared: bool = True, **against: Unpack[Against]
) -> TripletIndices:
    """Triplets with ``d_an > d_ap + margin``, which cost a triplet loss nothing.

    pytorch-metric-learning's TripletMarginMiner(type_of_triplets="easy"). Settings as in :func:`violating_triplets`.
    """
    margin = check_number("margin", margin, at_least=0)
    mine = _Mine(embeddings, labels, against)
    return mine.triplets_where(lambda near, far: far > near + margin, squared=check_switch("squared", squared))


def batch_hard(embeddings: Tensor, labels: Tensor, **against: Unpack[Against]) -> TripletIndices:
    """Each anchor with its farthest positive and its nearest negative, where it has both. (<= B,) each.

    Hermans, Beyer, Leibe: In Defense of the Triplet Loss, 2017; pytorch-metric-learning's BatchHardMiner.
    """
    mine = _Mine(embeddings, labels, against)
    pairs = mine.pairs
    valid = (pairs.positives_per_anchor > 0) & (pairs.negatives_per_anchor > 0)
    hardest = [hardest_columns(block) for block in blocks(pairs) if pairs.most_positives]
    columns = torch.cat(hardest) if hardest else valid.new_zeros(len(valid), 2, dtype=torch.int64)
    anchors = valid.nonzero().squeeze(1)
    positives, negatives = columns[anchors].unbind(dim=1)
    return mine.rows[anchors], mine.columns[positives], mine.columns[negatives]


class _Mine:
    """A batch prepared for mining, and the numbers its rows and columns had before some were left out."""

    def __init__(self, embeddings: Tensor, labels: Tensor, against: Against) -> None:
        references = against.get("references")
        with torch.no_grad():
            self.pairs = compare(embeddings, labels, **against)
        self.rows = _alive(embeddings)
        self.columns = self.rows if references is None else _alive(references)

    def numbered(self, first: Tensor, positive: Tensor, second: Tensor, negative: Tensor) -> PairIndices:
        return self.rows[first], self.columns[positive], self.rows[second], self.columns[negative]

    def pairs_where(self, select: Callable[[Block], tuple[Tensor, Tensor]]) -> PairIndices:
        """Of each block: which of the positive slots (b, P) and which of all columns (b, R)."""
        pairs = []
        for block in blocks(self.pairs):
            of_slots, of_columns = select(block)
            first, slot = of_slots.nonzero(as_tuple=True)
            second, negative = of_columns.nonzero(as_tuple=True)
            start = block.rows.start
            pairs.append((first + start, block.positive_columns[first, slot], second + start, negative))
        first, positive, second, negative = self._joined(pairs, 4)
        return self.numbered(first, positive, second, negative)

    def triplets_where(self, select: Callable[[Tensor, Tensor], Tensor], *, squared: bool) -> TripletIndices:
        """``wanted(near, far)``: (b, 1) distances of one positive of each anchor, (b, R) of all columns -> (b, R) bool."""
        triplets = []
        for block in blocks(self.pairs):
            near, far = (chord(cosines, squared=squared) for cosines in (block.positives(1.0), block.similarities))
            here = []
            for slot in range(near.shape[1]):
                mask = select(near[:, slot, None], far) & block.negative & block.positive_real[:, slot, None]
                row, negative = mask.nonzero(as_tuple=True)
                here.append((row + block.rows.start, block.positive_columns[row, slot], negative))
            anchors, positives, negatives = self._joined(here, 3)
            order = anchors.argsort(stable=True)  # an anchor's slots are in the order of their columns already
            triplets.append((anchors[order], positives[order], negatives[order]))
        anchors, positives, negatives = self._joined(triplets, 3)
        return self.rows[anchors], self.columns[positives], self.columns[negatives]

    def _joined(self, parts: Sequence[tuple[Tensor, ...]], width: int) -> list[Tensor]:
        if not parts:
            return [self.rows.new_zeros(0)] * width
        return [torch.cat(part) for part in zip(*parts, strict=True)]


class _Hardest:
    """The ``count`` pairs with the largest keys among all that were added."""

    def __init__(self, count: int, pairs: Pairs) -> None:
        self.count = count
        none = pairs.positives_per_anchor[:0]
        self.parts = [(pairs.anchors.new_zeros(0), none, none)]

    def add(self, keys: Tensor, rows: Tensor, columns: Tensor) -> None:
        self.parts.append((keys, rows, columns))
        # Selecting only at twice the capacity costs amortized constant time per pair.
        if sum(len(part[0]) for part in self.parts) > 2 * self.count:
            self.parts = [self._sifted()]

    def _sifted(self) -> tuple[Tensor, Tensor, Tensor]:
        keys, rows, columns = (torch.cat(part) for part in zip(*self.parts, strict=True))
        best = keys.topk(min(self.count, len(keys)), sorted=False).indices
        return keys[best], rows[best], columns[best]

    def pairs(self) -> tuple[Tensor, Tensor]:
        """(count,) rows and (count,) columns, in order."""
        _, rows, columns = self._sifted()
        order = columns.argsort()
        order = order[rows[order].argsort(stable=True)]
        return rows[order], columns[order]


def _alive(embeddings: Tensor) -> Tensor:
    """Rows that have a direction, in the order in which :func:`compare` keeps them."""
    return (lengths(embeddings.detach()) > SHORTEST).nonzero().squeeze(1)


if not TYPE_CHECKING:  # else mypy would accept any name
    __getattr__ = lazily(__name__, {})
