"""Base classes of the losses, and what every loss says about itself."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, TypeVar

import torch
from torch import Tensor, nn

from cosphere.errors import SizeError
from cosphere.tensors import check_embeddings, outside_compile


@dataclass(frozen=True, kw_only=True)
class Traits:
    """How a loss differs from most pair losses, whose behaviour is the default. The tests of all losses read this."""

    terms: Literal["images", "pairs", "triplets"] = "triplets"
    """What the smallest batch with a loss holds: one image, one pair, or a positive and a negative of one anchor."""
    uses_lengths: bool = False
    """The value depends on the lengths of embeddings, not only on directions."""
    draws: bool = False
    """Draws from torch's global generator, so two calls on one batch differ."""
    order: Literal["free", "in_class", "searched"] = "free"
    """Whether the order of the batch matters: not at all; within a class; or only for ties in a search."""
    picks_one: bool = False
    """One of several equally hard images is chosen, so copies of an image may have different gradients."""
    divides_by_batch: bool = False
    """Divides by B, rows without a direction included."""
    may_be_negative: bool = False
    """The value may be below 0."""
    gradient_by_rule: bool = False
    """The published gradient is not the derivative of the published value."""
    uses_classes: bool = False
    """Labels are needed even where a miner chose the pairs."""
    classes_from_zero: bool = False
    """Labels must be in [0, num_classes); otherwise they are only names."""


@dataclass(frozen=True, kw_only=True)
class About:
    """One row of the loss table: plain text, and the defaults from the signature."""

    name: str
    """Name on the command line and in recipes."""
    title: str
    """The class."""
    paper: str
    batch: str
    """What a batch must hold."""
    normalises: str
    """What the loss normalises to unit length."""
    defaults: dict[str, Any]
    """Every setting with its default, in the order of the signature."""
    defaults_source: str
    cost: str
    """Time and memory beyond the embeddings; B batch, D width, C classes."""
    choose_when: str
    uses_class_weights: bool
    """The loss learns one vector per training class and is built with ``num_classes`` and ``embedding_dim``."""
    forms: tuple[dict[str, Any], ...] = ()
    """Settings that give other published forms of the loss."""
    traits: Traits = Traits()
    """How it behaves; see :meth:`Loss.traits` for those that depend on settings."""


EmbedTrainingSet = Callable[[], tuple[Tensor, Tensor]]
"""Embeds all training images with the model as it is: raw embeddings (N, D) and labels (N,), in the order of the catalogue."""


class Loss(nn.Module):
    """Base of all losses: ``loss(embeddings, labels) -> scalar``, and what the loss requires of a training loop.

    A training loop uses only what is declared here, so it knows no loss by name. A module that wraps another loss forwards
    these.
    """

    about: About

    gathers: bool = True
    """With several processes the loss needs the rows of all of them, because it compares images with images or sums over the
    batch inside a function that is not linear. False for losses whose terms are single images: each process then computes
    its own, and the loss of the whole batch is the mean of theirs."""

    labels_from: Literal["class", "image"] = "class"
    """Source of the labels where a batch holds several views of each image: the class, or the image itself, so that only views
    of one image are positives. Other batches are always labelled by class."""

    calls_per_step: int = 1
    """Calls in training mode that make one optimiser step, for a loss whose state follows the steps of training. The training
    loop sets it to ``batch.accumulate``."""

    def traits(self) -> Traits:
        """How the loss behaves with the settings it has."""
        return self.about.traits

    def groups(self, dim: int) -> tuple[int, ...]:
        """Widths of the learners that share an embedding, side by side; most losses have one.

        Args:
            dim: D, width of the embedding.

        Raises:
            SizeError: the learners do not fit that width.
        """
        return (dim,)

    def after_epoch(self, embed: EmbedTrainingSet) -> None:
        """Called after each epoch of training; does nothing by default.

        Args:
            embed: returns raw embeddings (N, D) and labels (N,) of all training images. It embeds them on the first call
                and is free afterwards.
        """

    def extra_repr(self) -> str:
        """The settings, for ``print(loss)``."""
        return ", ".join(f"{name}={getattr(self, name)!r}" for name in self.about.defaults)


def given(labels: Tensor | None) -> Tensor:
    """The labels of a loss that cannot do without them.

    Raises:
        SizeError: there are none.
    """
    if labels is None:
        raise SizeError("labels are missing. Give labels=.")
    return labels


class PairLoss(Loss):
    """Base of the losses that compare images with images: holds the settings of one function, and the shared call.

    A subclass sets ``function`` and stores its settings as attributes of the same names.
    """

    function: ClassVar[Callable[..., Tensor]]

    def settings(self) -> dict[str, Any]:
        """Keyword arguments of the function besides the batch."""
        return {name: getattr(self, name) for name in self.about.defaults}

    @outside_compile
    def forward(
        self,
        embeddings: Tensor,
        labels: Tensor | None = None,
        indices_tuple: tuple[Tensor, ...] | None = None,
        ref_emb: Tensor | None = None,
        ref_labels: Tensor | None = None,
        *,
        references: Tensor | None = None,
        reference_labels: Tensor | None = None,
        positions: Tensor | None = None,
    ) -> Tensor:
        """(B, D) raw embeddings, (B,) integer labels -> () loss.

        Args:
            embeddings: (B, D) float.
            labels: (B,) integers. May be left out where pairs or triplets are given, unless the loss uses classes besides.
            indices_tuple: the only pairs or triplets to use, as returned by our miners and pytorch-metric-learning's.
            ref_emb: pytorch-metric-learning's name for ``references``, so that its wrappers can call this.
            ref_labels: likewise for ``reference_labels``.
            references: (R, D) float, rows to compare with instead of the batch: a memory, or the batches of all processes.
            reference_labels: (R,) integers.
            positions: (B,) integers: the row of the references that is the embedding itself, -1 for none.

        Raises:
            SizeError: shapes, types, devices or indices that do not fit.
        """
        references = ref_emb if references is None else references
        reference_labels = ref_labels if reference_labels is None else reference_labels
        if labels is None:
            labels = self._stand_in(embeddings, indices_tuple)
            if references is not None and reference_labels is None:
                reference_labels = self._stand_in(references, indices_tuple)
        return type(self).function(
            embeddings,
            labels,
            **self.settings(),
            references=references,
            reference_labels=reference_labels,
            positions=positions,
            tuples=indices_tuple,
        )

    def _stand_in(self, rows: Tensor, tuples: tuple[Tensor, ...] | None) -> Tensor:
        """Placeholder labels for rows whose pairs are given."""
        if tuples is None:
            raise SizeError("labels are missing. Give labels=, or the pairs to compare as indices_tuple=.")
        if self.traits().uses_classes:
            raise SizeError(
                f"labels are missing: {type(self).__name__} needs the class of each image, also where pairs are given. "
                "Give labels=."
            )
        check_embeddings(rows)
        return torch.zeros(len(rows), dtype=torch.int64, device=rows.device)


AnyLoss = TypeVar("AnyLoss", bound=type[Loss])


def describe(
    *,
    name: str,
    paper: str,
    batch: str,
    normalises: str,
    defaults_source: str,
    cost: str,
    choose_when: str,
    forms: Iterable[dict[str, Any]] = (),
    traits: Traits = Traits(),
) -> Callable[[AnyLoss], AnyLoss]:
    """Class decorator: attach an :class:`About`, with title and defaults taken from the class."""

    def attach(kind: AnyLoss) -> AnyLoss:
        parameters = inspect.signature(kind.__init__).parameters.values()
        kind.about = About(
            name=name,
            title=kind.__name__,
            paper=paper,
            batch=batch,
            normalises=normalises,
            defaults={p.name: p.default for p in parameters if p.kind is p.KEYWORD_ONLY},
            defaults_source=defaults_source,
            cost=cost,
            choose_when=choose_when,
            uses_class_weights=any(p.name == "embedding_dim" for p in parameters),
            forms=tuple(forms),
            traits=traits,
        )
        return kind

    return attach
