"""Hierarchical triplet loss: the margin of a triplet depends on the distance of its classes in a class tree."""

from __future__ import annotations

from dataclasses import fields, replace
from typing import Any, Unpack

import torch
from torch import Tensor

from cosphere.checks import check_choice, check_number, check_whole
from cosphere.errors import SizeError
from cosphere.losses.class_tree import ClassTree, Linkage
from cosphere.losses.engine.base import EmbedTrainingSet, PairLoss, Traits, describe
from cosphere.losses.engine.maths import as_int64, chord, mean_or_zero
from cosphere.losses.engine.pairs import Compared, Pairs, compare
from cosphere.losses.engine.rows import Block, sum_over_rows
from cosphere.losses.engine.triplets import compare_listed, count_active, listed_triplets
from cosphere.losses.triplet import triplet_loss

__all__ = ["HierarchicalTripletLoss", "hierarchical_triplet_loss"]


def hierarchical_triplet_loss(
    embeddings: Tensor,
    labels: Tensor,
    *,
    tree: ClassTree | None,
    margin: float = 0.1,
    first_margin: float = 0.2,
    **compared: Unpack[Compared],
) -> Tensor:
    """Half the mean of ``[d_ap - d_an + margin + d_H(y_a, y_n) - s_(y_a)]_+`` over all triplets.

    d is the squared distance of unit vectors; d_H the threshold at which the classes of anchor and negative merge in
    the tree; s the scatter of the anchor's class. The margin can exceed the largest distance on the sphere (d_H goes up
    to 4); such triplets never reach 0.

    Args:
        embeddings: (B, D) float; L2-normalized internally.
        labels: (B,) integers.
        tree: tree of all classes that can occur; None, as in the first epoch, gives half the ordinary triplet loss.
        margin: the paper's beta, in squared distance.
        first_margin: margin used while there is no tree. The paper does not specify it.
        compared: see :func:`cosphere.losses.compare`. Mined triplets are used as given; mined pairs are combined into
            all triplets that share an anchor.

    Returns:
        () >= 0 up to rounding; a differentiable 0 when there is no triplet.

    Raises:
        SizeError: incompatible shapes, dtypes, devices or indices, or a label that is not in the tree.
    """
    if tree is None:
        return triplet_loss(embeddings, labels, margin=first_margin, **compared) / 2
    if tree.classes.device != labels.device:
        raise SizeError(f"the class tree is on {tree.classes.device}, labels on {labels.device}. Call loss.to(device).")
    if listed_triplets(compared):
        return _over_list(embeddings, labels, tree, margin, compared)
    pairs = compare(embeddings, labels, **compared)
    margins = _Margins(tree, labels, compared.get("reference_labels"), pairs, margin)

    def of_block(block: Block) -> Tensor:
        distances = chord(block.similarities, squared=True)
        with torch.no_grad():
            wanted = margins.of(block)
            # Add the margin on the negative's side, so that one limit per positive counts its active triplets.
            far = torch.where(block.negative, distances - wanted, torch.inf)
            near = torch.where(block.positive_real, distances.gather(1, block.positive_columns), -torch.inf)
            of_positive, of_negative = count_active(far, near)
            constant = (of_negative * wanted).sum()
            weight = of_negative.neg_().scatter_add_(1, block.positive_columns, of_positive)
        return (weight * distances).sum() + constant

    total, _ = sum_over_rows(pairs, of_block)
    everything = (pairs.positives_per_anchor * pairs.negatives_per_anchor).sum()
    return mean_or_zero(total, everything) / 2 + pairs.zero


def _over_list(embeddings: Tensor, labels: Tensor, tree: ClassTree, margin: float, compared: Compared) -> Tensor:
    pairs, listed = compare_listed(embeddings, labels, compared)
    margins = _Margins(tree, labels, compared.get("reference_labels"), pairs, margin)

    def of_block(block: Block) -> Tensor:
        near, far = (chord(cosines, squared=True) for cosines in listed.similarities(block))
        here = listed.of(block)
        wanted = margins.between(listed.anchors[here], listed.negatives[here])
        return (near - far + wanted).relu().sum()

    total, _ = sum_over_rows(pairs, of_block)
    return mean_or_zero(total, len(listed.anchors)) / 2 + pairs.zero


class _Margins:
    """Dynamic margins of a batch, computed block by block."""

    def __init__(
        self, tree: ClassTree, labels: Tensor, reference_labels: Tensor | None, pairs: Pairs, margin: float
    ) -> None:
        self.tree, self.pairs = tree, pairs
        # Unique classes of the batch; codes index this list.
        names = [labels] if reference_labels is None else [labels, reference_labels]
        self.places = tree.places(torch.unique(torch.cat([as_int64(part) for part in names])))
        dtype = pairs.anchors.dtype
        # Thresholds are evenly spaced, so the threshold of a level is a single product.
        self.lowest = tree.thresholds[0].to(dtype)
        self.step = (tree.thresholds[-1] - tree.thresholds[0]).to(dtype) / tree.levels
        self.base = margin + self.lowest - tree.spreads[self.places].to(dtype)

    def of(self, block: Block) -> Tensor:
        """(b, R), of any value where there is no negative."""
        own, others = self.pairs.class_ids[block.rows].long(), self.pairs.reference_class_ids
        levels = self.tree.level_of_places(self.places[own][:, None], self.places[None, :])  # (b, classes)
        by_class = self.base[own][:, None] + self.step * levels
        return by_class.index_select(1, others)

    def between(self, anchors: Tensor, negatives: Tensor) -> Tensor:
        """(T,) of listed anchors and negatives."""
        own, others = self.pairs.class_ids[anchors].long(), self.pairs.reference_class_ids[negatives].long()
        return self.base[own] + self.step * self.tree.level_of_places(self.places[own], self.places[others])


@describe(
    name="hierarchical_triplet",
    paper="Ge, Huang, Dong, Scott: Deep Metric Learning with Hierarchical Triplet Loss, ECCV 2018",
    batch="at least 2 images per class, at least 2 classes; AnchorNeighbourBatches after the first epoch",
    normalises="embeddings",
    defaults_source="paper: 16 levels, margin 0.1; linkage and the first epoch's margin are ours",
    cost="O(B^2 (D + K)) time for K images per class, O(B D) memory and one block; the tree O(C^2 D) an epoch",
    choose_when="classes form groups, and their nearest neighbours are what a random batch misses",
)
class HierarchicalTripletLoss(PairLoss):
    """The settings and the class tree of :func:`hierarchical_triplet_loss`.

    :meth:`after_epoch` rebuilds the tree from the embeddings of the whole training set; before the first rebuild the
    loss is half the ordinary triplet loss. The tree is saved in the state dict.

    Args:
        margin: added to the margin from the tree, in squared distance.
        levels: of the tree.
        linkage: of the tree; see :meth:`ClassTree.build`.
        first_margin: margin used while there is no tree.

    Raises:
        SettingsError: a value is out of range.
    """

    function = staticmethod(hierarchical_triplet_loss)

    def __init__(
        self, *, margin: float = 0.1, levels: int = 16, linkage: Linkage = "average", first_margin: float = 0.2
    ) -> None:
        super().__init__()
        self.margin = check_number("margin", margin, at_least=0)
        self.levels = check_whole("levels", levels, least=1, most=1000)
        check_choice("linkage", linkage, ["average", "single"])
        self.linkage = linkage
        self.first_margin = check_number("first_margin", first_margin, at_least=0)
        for name in _PARTS:
            kind = {"classes": torch.int64, "nodes": torch.int32}.get(name)
            self.register_buffer(f"tree_{name}", torch.zeros(0, dtype=kind))

    @property
    def tree(self) -> ClassTree | None:
        """The tree of the last :meth:`rebuild`, or None."""
        parts = {name: getattr(self, f"tree_{name}") for name in _PARTS}
        return ClassTree(**parts) if len(parts["classes"]) else None

    def rebuild(self, embeddings: Tensor, labels: Tensor) -> None:
        """Rebuild the tree from the (N, D) embeddings and (N,) labels of the training set, on any device.

        Raises:
            SizeError: incompatible shapes or dtypes, or no class has two images.
        """
        tree = ClassTree.build(embeddings, labels, levels=self.levels, linkage=self.linkage)
        for name in _PARTS:
            setattr(self, f"tree_{name}", getattr(tree, name).to(self.tree_classes.device))

    def traits(self) -> Traits:
        """Traits of the loss under its current settings."""
        return replace(super().traits(), uses_classes=self.tree is not None)

    def after_epoch(self, embed: EmbedTrainingSet) -> None:
        """Call :meth:`rebuild` with the current embeddings of the training set."""
        self.rebuild(*embed())

    def settings(self) -> dict[str, Any]:
        """Extra keyword arguments for the functional form."""
        return {"tree": self.tree, "margin": self.margin, "first_margin": self.first_margin}

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *rest: Any) -> None:
        # The saved tree may have another number of classes; torch requires buffers of the same shape.
        for name in _PARTS:
            own, saved = getattr(self, f"tree_{name}"), state_dict.get(f"{prefix}tree_{name}")
            if saved is not None:
                setattr(self, f"tree_{name}", torch.empty_like(saved, device=own.device))
        super()._load_from_state_dict(state_dict, prefix, *rest)


_PARTS = [part.name for part in fields(ClassTree)]
"""Each is a buffer, empty before the first tree."""
