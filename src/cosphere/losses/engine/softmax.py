"""Engine of the softmax losses: classes are processed in blocks, so the (B, C) logits are never held.

A softmax loss needs two numbers for each image: its similarity to its own class, and the log-sum-exp of its logits to all other
classes. :func:`against_classes` gives both, differentiable in embeddings and class weights; margins, scales and reductions are
then plain tensor operations on (B,) vectors. Forward computes the logits block by block and keeps (B,) sums; backward
recomputes them and writes the gradient of the class weights into one (C, D) tensor. That takes four products of size
B x C x D, where a loss that holds its logits needs three. Only first derivatives exist: differentiating twice raises.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from cosphere.checks import check_switches
from cosphere.errors import SizeError
from cosphere.losses.engine.classes import (
    ClassBlock,
    Classified,
    Gradients,
    UnitWeights,
    Workspace,
    class_blocks,
    only_once,
)
from cosphere.tensors import outside_autocast, outside_compile


class AgainstClasses(NamedTuple):
    """Result of :func:`against_classes`. All (A,) and differentiable in embeddings and class weights."""

    target: Tensor
    """Similarity to the image's own class."""
    others: Tensor
    """Log-sum-exp of the logits to all other classes; -inf where there is no other class."""
    total: Tensor
    """Sum of the similarities to all classes if requested; zeros otherwise."""


class Stage(Protocol):
    """A function between cosines and logits, with a hand-written derivative: an autograd graph would take twice the passes."""

    def values(self, inputs: Tensor, space: Workspace) -> Tensor:
        """Values for one block's ``inputs``, which must not be modified."""

    def pull_back(self, inputs: Tensor, gradient: Tensor, space: Workspace) -> Tensor:
        """Map d loss / d values, which may be overwritten, to d loss / d inputs. Called right after :meth:`values`."""


@outside_compile
def against_classes(
    batch: Classified,
    *,
    scale: float = 1.0,
    rows: Tensor | None = None,
    centres: int = 1,
    similarity: Stage | None = None,
    logits: Stage | None = None,
    bias: Tensor | None = None,
    sampled: Tensor | None = None,
    with_total: bool = False,
) -> AgainstClasses:
    """Compare each image with its own class and with all others.

    Args:
        batch: the prepared batch.
        scale: logits of other classes are ``scale * similarity``, > 0.
        rows: (A, D) rows to multiply with the class directions; ``batch.unit`` by default, ``batch.raw`` for losses whose
            logits include the length.
        centres: centres of each class; more than 1 requires ``similarity``.
        similarity: reduces the cosines of a class's centres to one similarity, (A, c, centres) -> (A, c), the same way for
            every class. Without it, the single cosine is the similarity.
        logits: transforms the similarities to other classes before they are scaled, (A, c) -> (A, c).
        bias: (C,) added to the scaled similarities to other classes; the caller adds the entry of the image's own class.
            Differentiable. Cannot be combined with ``similarity`` or ``logits``.
        sampled: (S,) int64 ascending, the classes to process; from :func:`sample_classes`. Classes left out get a gradient
            of exactly zero, in a dense tensor, so an optimiser's momentum and weight decay still move them.
        with_total: whether to compute :attr:`AgainstClasses.total`.

    Raises:
        SizeError: ``sampled`` is not ascending, not in [0, C), or lacks a class of the batch; or a bias of another shape.
    """
    check_switches(with_total=with_total)
    classes = len(batch.class_weight) // centres
    if bias is not None and bias.shape != (classes,):
        raise SizeError(f"want a bias ({classes},), one number a class; got {tuple(bias.shape)}.")
    places = batch.targets if sampled is None else _places(sampled, batch.targets, classes)
    blocks = list(class_blocks(places, len(batch.class_weight), centres, sampled))
    plan = _Plan(blocks, scale, centres, similarity, logits, with_total)
    left = batch.unit if rows is None else rows
    with outside_autocast(left):
        return AgainstClasses(*_Against.apply(plan, left, batch.class_weight, bias))


def _places(sampled: Tensor, targets: Tensor, classes: int) -> Tensor:
    """(A,) index of each image's class in ``sampled``. Raises a SizeError: a wrong index would be a wrong loss."""
    fits = sampled.ndim == 1 and not sampled.is_floating_point() and len(sampled) > 0
    if fits:
        ascending = bool((sampled[1:] > sampled[:-1]).all()) and int(sampled[0]) >= 0 and int(sampled[-1]) < classes
        places = torch.searchsorted(sampled, targets.to(sampled.dtype)).clamp(max=len(sampled) - 1)
        if ascending and bool((sampled[places] == targets).all()):
            return places
    raise SizeError(
        f"want sampled classes (S,) ascending in [0, {classes}), the batch's own among them; got {tuple(sampled.shape)} "
        f"{sampled.dtype}. Take them from sample_classes."
    )


@dataclass(eq=False)
class _Plan:
    blocks: list[ClassBlock]
    scale: float
    centres: int
    similarity: Stage | None
    logits: Stage | None
    with_total: bool

    @property
    def plain(self) -> bool:
        return self.similarity is None and self.logits is None

    def similarities(self, cosines: Tensor, space: Workspace) -> Tensor:
        """(A, c * centres) -> (A, c)."""
        return cosines if self.similarity is None else self.similarity.values(self.by_class(cosines), space)

    def by_class(self, cosines: Tensor) -> Tensor:
        """(A, c * centres) -> (A, c, centres)."""
        return cosines.view(len(cosines), cosines.shape[1] // self.centres, self.centres)


class _Against(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, plan: _Plan, rows: Tensor, class_weight: Tensor, bias: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor]:
        left, space = rows.detach(), Workspace()
        target, total = left.new_zeros(len(left)), left.new_zeros(len(left))
        # A running log-sum-exp: the largest logit so far, and the sum of exponentials relative to it.
        highest = left.new_full((len(left),), -torch.inf)
        mass = left.new_zeros(len(left))
        # Without stages the scale is folded into the product and costs no extra pass.
        factor, scale = (plan.scale, 1.0) if plan.plain else (1.0, plan.scale)
        cosines = similarities = None
        for block in plan.blocks:
            weights = UnitWeights.of(class_weight, block.weights, left.dtype)
            cosines = weights.cosines(left, factor, space)
            similarities = plan.similarities(cosines, space)
            target[block.images] = similarities[block.images, block.places] / factor
            if plan.with_total:
                total += similarities.sum(dim=1) / factor
            # From here on the similarities may be overwritten.
            logits = similarities if plan.logits is None else plan.logits.values(similarities, space)
            if bias is not None:
                logits += bias[block.classes]
            # Keep the image's own class out of the sum: the caller adds it, after a margin if the loss has one.
            logits[block.images, block.places] = -torch.inf
            highest, mass = _add_exponentials(logits, highest, mass, scale)
        others = highest + mass.log()
        # Keep a single block, so that backward need not recompute it. Plain cosines have become exponentials by now.
        exponentials = cosines if len(plan.blocks) == 1 and any(ctx.needs_input_grad) else None
        ctx.plan = plan
        ctx.save_for_backward(rows, class_weight, bias, others, highest, exponentials)
        return target, others, total

    @staticmethod
    def backward(ctx: Any, to_target: Tensor, to_others: Tensor, to_total: Tensor) -> tuple[Tensor | None, ...]:
        rows, class_weight, bias, others, highest, exponentials = ctx.saved_tensors
        plan: _Plan = ctx.plan
        with torch.no_grad(), outside_autocast(rows):
            gradients, space = Gradients(rows, class_weight, ctx.needs_input_grad[1:3]), Workspace()
            to_bias = None if bias is None else torch.zeros_like(bias)
            # exp(finite - inf) = 0: an image without any other class gets no gradient from them.
            level = torch.where(others == -torch.inf, torch.inf, others)
            incoming = _Incoming(level, to_target, to_others, to_total)
            for block in plan.blocks:
                weights = UnitWeights.of(class_weight, block.weights, rows.dtype)
                to_shift = None
                if plan.plain and exponentials is not None:
                    to_cosines, to_shift = _kept_gradients(plan, block, exponentials, highest, incoming)
                elif plan.plain:
                    cosines = weights.cosines(rows.detach(), plan.scale, space)
                    shift = None if bias is None else bias.detach()[block.classes]
                    to_cosines, to_shift = _plain_gradients(plan, block, cosines, shift, incoming)
                else:
                    cosines = weights.cosines(rows.detach(), 1.0, space) if exponentials is None else exponentials
                    to_cosines = _staged_gradients(plan, block, cosines, incoming, space)
                gradients.add(block.weights, weights, to_cosines)
                if to_bias is not None and to_shift is not None:
                    to_bias[block.classes] = to_shift.to(to_bias.dtype)
        return None, *only_once(
            (*gradients.outcome(class_weight.dtype), to_bias), rows, class_weight, to_target, to_others
        )


class _Incoming(NamedTuple):
    """Incoming gradients of backward. All (A,)."""

    level: Tensor
    """Log-sum-exp of the others; inf where there is none."""
    to_target: Tensor
    to_others: Tensor
    to_total: Tensor


def _add_exponentials(logits: Tensor, highest: Tensor, mass: Tensor, scale: float) -> tuple[Tensor, Tensor]:
    """Update a running log-sum-exp of ``scale * logits``; ``mass`` is the sum of exp(scale * logit - highest)."""
    new = torch.maximum(highest, logits.amax(dim=1) * scale)
    shift = torch.where(new == -torch.inf, 0.0, new)  # nothing but -inf so far
    torch.add(-shift[:, None], logits, alpha=scale, out=logits).exp_()
    return new, mass * (highest - shift).exp() + logits.sum(dim=1)


def _exponentials(logits: Tensor, scale: float, factor: float, incoming: _Incoming) -> Tensor:
    """``factor * to_others * exp(scale * logit - level)``, in place: the gradient through the log-sum-exp."""
    # Folding the magnitude of the factor into the exponent saves a pass. A negative factor, which is rare, takes one more.
    steepness = incoming.to_others * factor
    level = (incoming.level - steepness.abs().log())[:, None]
    torch.add(-level, logits, alpha=scale, out=logits).exp_()
    return logits.mul_(steepness.sign()[:, None]) if bool((steepness < 0).any()) else logits


def _plain_gradients(
    plan: _Plan, block: ClassBlock, to_cosines: Tensor, bias: Tensor | None, incoming: _Incoming
) -> tuple[Tensor, Tensor | None]:
    """(A, c) d loss / d cosine and (c,) d loss / d bias, from scaled cosines, in place."""
    if bias is not None:
        to_cosines += bias
    _exponentials(to_cosines, 1.0, plan.scale, incoming)
    to_bias = None
    if bias is not None:
        to_cosines[block.images, block.places] = 0.0
        to_bias = to_cosines.sum(dim=0) / plan.scale
    to_cosines[block.images, block.places] = incoming.to_target[block.images]
    return to_cosines.add_(incoming.to_total[:, None]) if plan.with_total else to_cosines, to_bias


def _kept_gradients(
    plan: _Plan, block: ClassBlock, exponentials: Tensor, highest: Tensor, incoming: _Incoming
) -> tuple[Tensor, Tensor]:
    """As :func:`_plain_gradients`, from the (A, c) exp(logit - highest) of the only block; 0 at each image's own class."""
    # Not in place, because backward may run again under retain_graph and needs the kept exponentials.
    factor = torch.where(highest == -torch.inf, 0.0, (highest - incoming.level).exp())
    to_cosines = exponentials * (factor * incoming.to_others * plan.scale)[:, None]
    to_bias = to_cosines.sum(dim=0) / plan.scale
    to_cosines[block.images, block.places] = incoming.to_target[block.images]
    return to_cosines.add_(incoming.to_total[:, None]) if plan.with_total else to_cosines, to_bias


def _staged_gradients(plan: _Plan, block: ClassBlock, cosines: Tensor, incoming: _Incoming, space: Workspace) -> Tensor:
    """(A, c * centres) d loss / d cosine, back through the plan's stages."""
    similarities = plan.similarities(cosines, space)
    # Stages do not modify their inputs, so the exponentials may overwrite the output of the last one.
    logits = similarities if plan.logits is None else plan.logits.values(similarities, space)
    to_cosines = _exponentials(logits, plan.scale, plan.scale, incoming)
    to_cosines[block.images, block.places] = 0.0
    if plan.logits is not None:
        to_cosines = plan.logits.pull_back(similarities, to_cosines, space)
    to_cosines[block.images, block.places] += incoming.to_target[block.images]
    if plan.with_total:
        to_cosines += incoming.to_total[:, None]
    if plan.similarity is not None:
        to_cosines = plan.similarity.pull_back(plan.by_class(cosines), to_cosines, space)
    return to_cosines.view_as(cosines)
