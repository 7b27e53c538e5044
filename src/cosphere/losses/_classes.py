"""The one engine of losses with class weights: classes are walked in blocks, so the (B, C) logits are never held.

A softmax loss needs two numbers of each image: its similarity to its own class, and the log-sum-exp of its logits to all other
classes. :func:`against_classes` gives both, differentiable in embeddings and class weights; margins, scales and reductions are
then plain tensor operations on (B,) vectors. Forward makes the logits block by block and keeps (B,) sums; backward makes them
again and writes the gradient of the class weights into the one (C, D) tensor that has to exist. That is four products of size
B x C x D where a loss that held its logits would need three. Only first derivatives exist: differentiating twice raises.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from cosphere.errors import SizeError
from cosphere.losses._rows import OnlyOnce, as_int64, block_length, connected_zero
from cosphere.tensors import (
    SHORTEST,
    check_labelled,
    directions,
    full_precision,
    lengths,
    outside_autocast,
    outside_compile,
)


@dataclass(eq=False, kw_only=True)
class Classified:
    """A batch and its class weights, checked. Rows without a direction are already gone."""

    unit: Tensor
    """(A, D) float32 or float64 directions. Differentiable."""
    raw: Tensor
    """(A, D) the same rows with their lengths. Differentiable."""
    targets: Tensor
    """(A,) int64 in [0, C)."""
    class_weight: Tensor
    """(C, D), or (C * centres, D) class by class; of any length, only directions count. Differentiable."""
    size: int
    """B, rows of the batch, those without a direction included."""
    kept: Tensor | None
    """(A,) int64 row of the batch each came from; None when all rows are here."""
    zero: Tensor
    """() connected zero; NaN if any embedding is not finite. Class weights that are not finite show by themselves."""

    def lengths(self) -> Tensor:
        """(A,) Euclidean lengths of the raw rows. Differentiable."""
        return lengths(self.raw)

    def spread(self, values: Tensor) -> Tensor:
        """(A,) -> (B,): a connected 0 for rows without a direction."""
        if self.kept is None:
            return values + self.zero
        return values.new_zeros(self.size).index_copy(0, self.kept, values) + self.zero


def classify(embeddings: Tensor, labels: Tensor, class_weight: Tensor, *, centres: int = 1) -> Classified:
    """Prepare a batch to be compared with class weights.

    Args:
        embeddings: (B, D) float.
        labels: (B,) integers in [0, C).
        class_weight: (C * centres, D) float, the centres of a class one after another.
        centres: centres of each class.

    Raises:
        SizeError: shapes, types or devices that do not fit, or a label outside [0, C).
    """
    check_labelled(embeddings, labels)
    targets = check_class_labels(embeddings, as_int64(labels), class_weight, centres=centres)
    with outside_autocast(embeddings):
        unit, alive = directions(embeddings)
        raw, kept = full_precision(embeddings), None
        wide = torch.promote_types(unit.dtype, full_precision(class_weight).dtype)
        zero = connected_zero(embeddings).to(wide)
        if not bool(alive.all()):
            kept = alive.nonzero().squeeze(1)
            unit, raw, targets = unit[kept], raw[kept], targets[kept]
    return Classified(
        unit=unit.to(wide),
        raw=raw.to(wide),
        targets=targets,
        class_weight=class_weight,
        size=len(embeddings),
        kept=kept,
        zero=zero,
    )


def check_class_labels(embeddings: Tensor, labels: Tensor, class_weight: Tensor, *, centres: int = 1) -> Tensor:
    """``labels`` if they fit the class weights, or a SizeError: an index out of range would end a CUDA process."""
    if class_weight.ndim != 2 or class_weight.shape[1] != embeddings.shape[1]:
        raise SizeError(
            f"want class weights (C, {embeddings.shape[1]}) for embeddings {tuple(embeddings.shape)}, "
            f"got {tuple(class_weight.shape)}. Build the loss with embedding_dim={embeddings.shape[1]}."
        )
    if class_weight.device != embeddings.device:
        raise SizeError(
            f"the loss is on {class_weight.device}, embeddings on {embeddings.device}. Call loss.to(device)."
        )
    classes = len(class_weight) // centres
    if len(labels):
        low, high = (int(value) for value in labels.aminmax())
        if low < 0 or high >= classes:
            raise SizeError(
                f"labels run from {low} to {high}, but the loss has {classes} classes: want 0 to "
                f"{classes - 1}. Number the training classes from 0, or build the loss with more num_classes."
            )
    return labels


@torch.no_grad()
def sample_classes(
    targets: Tensor,
    num_classes: int,
    rate: float,
    *,
    rule: Literal["partial_fc", "norm_softmax"] = "partial_fc",
    generator: torch.Generator | None = None,
) -> Tensor | None:
    """The classes that one step's softmax runs over: all classes of the batch, and a random part of the others.

    Args:
        targets: (B,) int64 in [0, num_classes).
        num_classes: C.
        rate: in (0, 1]. 1 means all.
        rule: "partial_fc" (An et al., ICCV 2021 and its code): ``int(rate * C)`` classes in all, the batch's own first; if
            they are more than that, just they. "norm_softmax" (Zhai and Wu, BMVC 2019): the batch's own, and
            ``round(rate * others)`` of the others.
        generator: where the draw comes from; torch's global one by default.

    Returns:
        (S,) int64 ascending, or None for all classes. The sampled softmax has no importance correction, so its value is
        lower than the full one's, as in both sources.
    """
    if rate >= 1:
        return None
    own: Tensor = torch.unique(targets)
    quota = int(rate * num_classes) if rule == "partial_fc" else len(own) + round(rate * (num_classes - len(own)))
    if quota <= len(own):
        return own
    device = targets.device if generator is None else generator.device
    scores = torch.rand(num_classes, generator=generator, device=device).to(targets.device)
    scores[own] = 2.0
    chosen: Tensor = scores.topk(quota).indices.sort().values
    return chosen


class AgainstClasses(NamedTuple):
    """What each image is to the classes. All (A,) and differentiable in embeddings and class weights."""

    target: Tensor
    """Similarity to the image's own class."""
    others: Tensor
    """Log-sum-exp of the logits to all other classes; -inf where there is no other class."""
    total: Tensor
    """Sum of the similarities to all classes, if it was asked for; zeros otherwise."""


Similarities = Callable[[Tensor], Tensor]
"""(A, c, centres) cosines -> (A, c) similarities to classes. Differentiable, the same for every class."""
Logits = Callable[[Tensor], Tensor]
"""(A, c) similarities -> (A, c) logits of the other classes. Differentiable; may use per-row tensors that want no gradient."""


@outside_compile
def against_classes(
    batch: Classified,
    *,
    scale: float = 1.0,
    rows: Tensor | None = None,
    centres: int = 1,
    similarity: Similarities | None = None,
    logits: Logits | None = None,
    bias: Tensor | None = None,
    sampled: Tensor | None = None,
    with_total: bool = False,
) -> AgainstClasses:
    """Each image against its class and against all others.

    Args:
        batch: the prepared batch.
        scale: logits of other classes are ``scale * similarity``, unless ``logits`` is given.
        rows: (A, D) what is multiplied with the class directions; ``batch.unit`` by default, ``batch.raw`` for losses whose
            logits carry the length.
        centres: centres of each class; more than 1 wants ``similarity``.
        similarity: how centres make one similarity; without it the one cosine is the similarity.
        logits: what becomes of the similarities to other classes, where it is more than a scale.
        bias: (C,) what is added to the logits of other classes; the image's own class is the caller's. Differentiable.
        sampled: (S,) int64 ascending, the classes to run over; from :func:`sample_classes`. Classes left out get a gradient
            of exactly zero, in a dense tensor: an optimiser's momentum and weight decay still move them.
        with_total: whether :attr:`AgainstClasses.total` is wanted.

    Raises:
        SizeError: ``sampled`` is not ascending, not in [0, C), or lacks a class of the batch; or a bias of another shape.
    """
    classes = len(batch.class_weight) // centres
    if bias is not None and bias.shape != (classes,):
        raise SizeError(f"want a bias ({classes},), one number a class; got {tuple(bias.shape)}.")
    places = batch.targets if sampled is None else _places(sampled, batch.targets, classes)
    plan = _Plan(places, len(batch.class_weight), scale, centres, similarity, logits, sampled, with_total)
    left = batch.unit if rows is None else rows
    with outside_autocast(left):
        return AgainstClasses(*_Against.apply(plan, left, batch.class_weight, bias))


def _places(sampled: Tensor, targets: Tensor, classes: int) -> Tensor:
    """(A,) where each image's class stands in ``sampled``, or a SizeError: a wrong place would be a wrong loss."""
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
    places: Tensor
    """(A,) where each image's class stands among the classes that are walked."""
    weights: int
    scale: float
    centres: int
    similarity: Similarities | None
    logits: Logits | None
    sampled: Tensor | None
    with_total: bool

    @property
    def plain(self) -> bool:
        return self.similarity is None and self.logits is None

    def blocks(self, rows: int) -> Iterator[_Block]:
        """Blocks of classes: which weights they are, and which images have their class among them."""
        classes = self.weights // self.centres
        count = classes if self.sampled is None else len(self.sampled)
        # A quarter of a pair loss's block still fills a GPU, and is 64 MB.
        share = 4 if self.places.device.type == "cuda" else 1
        step = block_length(self.places.device, share * rows * self.centres, count)
        for first in range(0, count, step):
            end = min(first + step, count)
            inside = ((self.places >= first) & (self.places < end)).nonzero().squeeze(1)
            chosen = slice(first, end) if self.sampled is None else self.sampled[first:end]
            yield _Block(chosen, self._weights(chosen), inside, self.places[inside] - first)

    def _weights(self, classes: slice | Tensor) -> slice | Tensor:
        if isinstance(classes, slice):
            return slice(classes.start * self.centres, classes.stop * self.centres)
        centres = torch.arange(self.centres, device=classes.device)
        return (classes[:, None] * self.centres + centres).flatten()


class _Block(NamedTuple):
    classes: slice | Tensor
    """The classes."""
    weights: slice | Tensor
    """Rows of the class weights."""
    images: Tensor
    """(n,) images whose own class is in this block."""
    places: Tensor
    """(n,) its place in the block."""


class _Against(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, plan: _Plan, rows: Tensor, class_weight: Tensor, bias: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor]:
        left = rows.detach()
        target, total = left.new_zeros(len(left)), left.new_zeros(len(left))
        highest = left.new_full((len(left),), -torch.inf)
        mass = left.new_zeros(len(left))
        factor = plan.scale if plan.plain else 1.0  # where nothing comes between, the scale costs no pass of its own
        blocks, exponentials, cosines_kept = list(plan.blocks(len(left))), None, None
        # Few classes are one block, which backward then need not make again.
        keeps = len(blocks) == 1 and any(ctx.needs_input_grad)
        for block in blocks:
            weights = _unit_weights(class_weight, block.weights, left.dtype)
            cosines = (left @ weights.raw.T).mul_(weights.inverse * factor)
            similarities = _similarities(plan, cosines)
            target[block.images] = similarities[block.images, block.places] / factor
            if plan.with_total:
                total += similarities.sum(dim=1) / factor
            # From here on the similarities may be overwritten.
            logits = similarities if plan.plain else _logits(plan, similarities)
            if bias is not None:
                logits += bias[block.classes]
            logits[block.images, block.places] = -torch.inf
            highest, mass = _add_exponentials(logits, highest, mass)
            if keeps and plan.plain:
                exponentials = logits
            elif keeps and plan.similarity is not None:
                cosines_kept = cosines
        others = highest + mass.log()
        ctx.plan = plan
        ctx.save_for_backward(rows, class_weight, bias, others, exponentials, highest, cosines_kept)
        return target, others, total

    @staticmethod
    def backward(ctx: Any, to_target: Tensor, to_others: Tensor, to_total: Tensor) -> tuple[Tensor | None, ...]:
        rows, class_weight, bias, others, exponentials, highest, cosines_kept = ctx.saved_tensors
        plan: _Plan = ctx.plan
        with torch.no_grad(), outside_autocast(rows):
            gradients = _Gradients(rows, class_weight, ctx.needs_input_grad[1:3])
            to_bias = None if bias is None else torch.zeros_like(bias)
            # exp(-inf - finite) = 0: an image without any other class gets no slope from them.
            level = torch.where(others == -torch.inf, torch.inf, others)
            incoming = _Incoming(level, to_target, to_others, to_total)
            for block in plan.blocks(len(rows)):
                weights = _unit_weights(class_weight, block.weights, rows.dtype)
                shift = None if bias is None else bias.detach()[block.classes]
                to_shift: Tensor | None
                if exponentials is not None:
                    slopes, to_shift = _kept_slopes(plan, block, exponentials, highest, incoming)
                elif plan.plain:
                    slopes, to_shift = _plain_slopes(plan, block, rows, weights, shift, incoming)
                else:
                    cosines = (rows @ weights.raw.T).mul_(weights.inverse) if cosines_kept is None else cosines_kept
                    slopes, to_shift = _slopes(plan, block, cosines.detach(), shift, incoming)
                gradients.add(block.weights, weights, slopes)
                if to_bias is not None and to_shift is not None:
                    to_bias[block.classes] = to_shift.to(to_bias.dtype)
        return None, *only_once(
            (*gradients.outcome(class_weight.dtype), to_bias), rows, class_weight, to_target, to_others
        )


def only_once(gradients: tuple[Tensor | None, ...], *inputs: Tensor) -> tuple[Tensor | None, ...]:
    """``gradients`` as a backward returns them: where a graph of it is being made, differentiating that raises."""
    if not torch.is_grad_enabled():
        return gradients
    return tuple(None if gradient is None else OnlyOnce.apply(gradient, *inputs) for gradient in gradients)


class _Incoming(NamedTuple):
    """What backward starts from. All (A,)."""

    level: Tensor
    """The log-sum-exp of the others; inf where there is none."""
    to_target: Tensor
    to_others: Tensor
    to_total: Tensor


class _UnitWeights(NamedTuple):
    raw: Tensor
    """(k, D) class weights of a block."""
    inverse: Tensor
    """(k,) 1 / length; 0 for a weight without a direction, whose cosine is then 0 and whose gradient is none."""


def _unit_weights(class_weight: Tensor, which: slice | Tensor, dtype: torch.dtype) -> _UnitWeights:
    raw = class_weight.detach()[which].to(dtype)
    norms = torch.linalg.vector_norm(raw, dim=1)
    return _UnitWeights(raw, torch.where(norms <= SHORTEST, 0.0, 1 / norms))


def _similarities(plan: _Plan, cosines: Tensor) -> Tensor:
    if plan.similarity is None:
        return cosines
    return plan.similarity(cosines.view(len(cosines), cosines.shape[1] // plan.centres, plan.centres))


def _logits(plan: _Plan, similarities: Tensor) -> Tensor:
    return similarities * plan.scale if plan.logits is None else plan.logits(similarities)


def _add_exponentials(logits: Tensor, highest: Tensor, mass: Tensor) -> tuple[Tensor, Tensor]:
    """A running log-sum-exp: ``mass`` is the sum of exp(logit - highest)."""
    new = torch.maximum(highest, logits.amax(dim=1))
    shift = torch.where(new == -torch.inf, 0.0, new)  # nothing but -inf so far
    return new, mass * (highest - shift).exp() + logits.sub_(shift[:, None]).exp_().sum(dim=1)


def _plain_slopes(
    plan: _Plan, block: _Block, rows: Tensor, weights: _UnitWeights, bias: Tensor | None, incoming: _Incoming
) -> tuple[Tensor, Tensor | None]:
    """(A, c) d loss / d cosine and (c,) d loss / d bias where logits are scaled cosines: no graph, in place."""
    slopes = (rows @ weights.raw.T).mul_(weights.inverse * plan.scale)
    if bias is not None:
        slopes += bias
    # exp(logit - level) * steepness in one pass; only the sign needs another, and losses do not turn it.
    steepness = incoming.to_others * plan.scale
    slopes.sub_((incoming.level - steepness.abs().log())[:, None]).exp_()
    if bool((steepness < 0).any()):
        slopes.mul_(steepness.sign()[:, None])
    to_bias = None
    if bias is not None:
        slopes[block.images, block.places] = 0.0
        to_bias = slopes.sum(dim=0) / plan.scale
    slopes[block.images, block.places] = incoming.to_target[block.images]
    return slopes.add_(incoming.to_total[:, None]) if plan.with_total else slopes, to_bias


def _kept_slopes(
    plan: _Plan, block: _Block, exponentials: Tensor, highest: Tensor, incoming: _Incoming
) -> tuple[Tensor, Tensor]:
    """As :func:`_plain_slopes`, from the (A, c) exp(logit - highest) of the only block; 0 at each image's own class."""
    factor = torch.where(highest == -torch.inf, 0.0, (highest - incoming.level).exp())
    slopes = exponentials * (factor * incoming.to_others * plan.scale)[:, None]
    to_bias = slopes.sum(dim=0) / plan.scale
    slopes[block.images, block.places] = incoming.to_target[block.images]
    return slopes.add_(incoming.to_total[:, None]) if plan.with_total else slopes, to_bias


def _slopes(
    plan: _Plan, block: _Block, cosines: Tensor, bias: Tensor | None, incoming: _Incoming
) -> tuple[Tensor, Tensor | None]:
    """(A, c * centres) d loss / d cosine and (c,) d loss / d bias, by graphs of this block's two functions alone."""
    with torch.enable_grad():
        made = _similarities(plan, cosines.requires_grad_(plan.similarity is not None))
        similarities = made.detach().requires_grad_(plan.logits is not None)
        logits = _logits(plan, similarities)
    shifted = logits.detach() if bias is None else logits.detach() + bias
    slopes = (shifted - incoming.level[:, None]).exp_().mul_(incoming.to_others[:, None])
    slopes[block.images, block.places] = 0.0
    to_bias = None if bias is None else slopes.sum(dim=0)
    slopes = slopes.mul_(plan.scale) if plan.logits is None else torch.autograd.grad(logits, similarities, slopes)[0]
    slopes[block.images, block.places] += incoming.to_target[block.images]
    if plan.with_total:
        slopes += incoming.to_total[:, None]
    if plan.similarity is not None:
        (slopes,) = torch.autograd.grad(made, cosines, slopes)
    return slopes, to_bias


class _Gradients:
    """Where the blocks' gradients go."""

    def __init__(self, rows: Tensor, class_weight: Tensor, wanted: tuple[bool, ...]) -> None:
        self.left = rows.detach()
        self.rows = torch.zeros_like(self.left) if wanted[0] else None
        shape, device = class_weight.shape, class_weight.device
        self.weights = torch.zeros(shape, dtype=self.left.dtype, device=device) if wanted[1] else None

    def add(self, which: slice | Tensor, weights: _UnitWeights, slopes: Tensor) -> None:
        """``slopes`` (A, k) d loss / d cosine of this block; it is overwritten."""
        slopes.mul_(weights.inverse)
        if self.rows is not None:
            self.rows.addmm_(slopes, weights.raw)
        if self.weights is None:
            return
        # d cosine / d w = (u - cosine * w / |w|) / |w|: what points along w is taken out.
        to_weights = self.weights[which] if isinstance(which, slice) else torch.empty_like(weights.raw)
        torch.mm(slopes.T, self.left, out=to_weights)
        along = torch.linalg.vecdot(to_weights, weights.raw) * weights.inverse.square()
        to_weights.addcmul_(weights.raw, along[:, None], value=-1)
        if not isinstance(which, slice):
            self.weights[which] = to_weights

    def outcome(self, dtype: torch.dtype) -> tuple[Tensor | None, Tensor | None]:
        """To the rows, and to the class weights in their own type."""
        return self.rows, None if self.weights is None else self.weights.to(dtype)


Columns = Callable[[Tensor, Tensor], Tensor]
"""((A, c) cosines, (A, c) bool own class) -> () total over these classes. Differentiable in the cosines."""


@outside_compile
def sum_over_classes(batch: Classified, value: Columns) -> Tensor:
    """Sum of a function of each class's column of cosines: for losses whose terms are classes and not images.

    Args:
        batch: the prepared batch, with one centre a class.
        value: ``value(cosines, own)`` of one block of classes returns a () total. It is called once a block in forward and
            once in backward, and must not capture tensors that want a gradient.

    Returns:
        () differentiable in embeddings and class weights.
    """
    with outside_autocast(batch.unit):
        total: Tensor = _SumOverClasses.apply(batch.targets, value, batch.unit, batch.class_weight)
        return total


class _SumOverClasses(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, targets: Tensor, value: Columns, rows: Tensor, class_weight: Tensor) -> Tensor:
        plan = _Plan(targets, len(class_weight), 1.0, 1, None, None, None, False)
        total = torch.zeros((), dtype=torch.float64, device=rows.device)
        for block in plan.blocks(len(rows)):
            weights = _unit_weights(class_weight, block.weights, rows.dtype)
            cosines = (rows.detach() @ weights.raw.T).mul_(weights.inverse)
            total += value(cosines, _own_mask(cosines, block))
        ctx.plan, ctx.value = plan, value
        ctx.save_for_backward(rows, class_weight)
        return total.to(rows.dtype)

    @staticmethod
    def backward(ctx: Any, to_total: Tensor) -> tuple[Tensor | None, ...]:
        rows, class_weight = ctx.saved_tensors
        plan: _Plan = ctx.plan
        with outside_autocast(rows):
            gradients = _Gradients(rows, class_weight, ctx.needs_input_grad[2:])
            for block in plan.blocks(len(rows)):
                weights = _unit_weights(class_weight, block.weights, rows.dtype)
                with torch.enable_grad():
                    cosines = (rows.detach() @ weights.raw.T).mul_(weights.inverse).requires_grad_()
                    total = ctx.value(cosines, _own_mask(cosines, block))
                (slopes,) = torch.autograd.grad(total, cosines, to_total.detach().to(total.dtype))
                with torch.no_grad():
                    gradients.add(block.weights, weights, slopes.clone())
        return None, None, *only_once(gradients.outcome(class_weight.dtype), rows, class_weight, to_total)


def _own_mask(cosines: Tensor, block: _Block) -> Tensor:
    mask = torch.zeros(cosines.shape, dtype=torch.bool, device=cosines.device)
    mask[block.images, block.places] = True
    return mask
