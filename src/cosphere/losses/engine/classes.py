"""Base of the losses with class weights: prepare a batch and its class weights, and process classes in blocks."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal, NamedTuple

import torch
from torch import Tensor, nn

from cosphere.checks import MOST_DIM, check_choice, check_share, check_whole
from cosphere.errors import SettingsError, SizeError, agreeing, counted
from cosphere.losses.engine.base import Loss, Traits, given
from cosphere.losses.engine.maths import OnlyOnce, as_int64, block_length, connected_zero
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
    """A batch and its class weights, checked. Rows without a direction have been removed."""

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
    """(A,) int64 batch row of each; None when no row was removed."""
    zero: Tensor
    """() connected zero; NaN if any embedding is not finite. Non-finite class weights make the logits NaN anyway."""

    def lengths(self) -> Tensor:
        """(A,) Euclidean lengths of the raw rows. Differentiable."""
        return lengths(self.raw)

    def scatter(self, values: Tensor) -> Tensor:
        """(A,) -> (B,): a connected 0 for rows without a direction."""
        if self.kept is None:
            return values + self.zero
        return values.new_zeros(self.size).index_copy(0, self.kept, values) + self.zero


@outside_compile
def classify(embeddings: Tensor, labels: Tensor, class_weight: Tensor, *, centres: int = 1) -> Classified:
    """Prepare a batch for comparison with class weights.

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
        # float64 weights with float32 embeddings are compared in float64.
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
    """Return ``labels`` if they fit the class weights. Raises a SizeError: an index out of range would abort a CUDA process."""
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
                f"labels run from {low} to {high}, but the loss has {counted(classes, 'class')}: want 0 to "
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
    """Sample the classes of one step's softmax: all classes of the batch and a random part of the others.

    Args:
        targets: (B,) int64 in [0, num_classes).
        num_classes: C.
        rate: in (0, 1]. 1 means all.
        rule: "partial_fc" (An et al., ICCV 2021 and its code): ``int(rate * C)`` classes in all, the batch's own first, or
            only those if they are more. "norm_softmax" (Zhai and Wu, BMVC 2019): the batch's own, and
            ``round(rate * others)`` of the others.
        generator: random generator; torch's global one by default.

    Returns:
        (S,) int64 ascending, or None for all classes. The sampled softmax has no importance correction, so its value is
        lower than the full one's, as in both sources.

    Raises:
        SizeError: a target outside [0, num_classes).
        SettingsError: an unknown rule, or a rate out of range.
    """
    check_choice("rule", rule, ["partial_fc", "norm_softmax"])
    if check_share("rate", rate) == 1:
        return None
    own: Tensor = torch.unique(targets)
    if len(own) and (int(own[0]) < 0 or int(own[-1]) >= num_classes):
        raise SizeError(
            f"targets run from {int(own[0])} to {int(own[-1])}, but there "
            f"{agreeing(num_classes, 'are')} {counted(num_classes, 'class')}: want 0 to "
            f"{num_classes - 1}. Number the training classes from 0."
        )
    quota = int(rate * num_classes) if rule == "partial_fc" else len(own) + round(rate * (num_classes - len(own)))
    if quota <= len(own):
        return own
    # torch.rand accepts a generator only on its own device, so draw there and move the scores.
    device = targets.device if generator is None else generator.device
    scores = torch.rand(num_classes, generator=generator, device=device).to(targets.device)
    # The largest of uniform scores are a sample without replacement, as in the code of Partial FC. A score above any
    # draw makes topk take the batch's own classes first.
    scores[own] = 2.0
    chosen: Tensor = scores.topk(quota).indices.sort().values
    return chosen


@torch.no_grad()
def own_cosines(batch: Classified) -> Tensor:
    """(A,) cosine of each image to its own class, without a graph, for statistics needed before the pass over the classes."""
    with outside_autocast(batch.unit):
        own = directions(batch.class_weight.detach()[batch.targets]).unit.to(batch.unit.dtype)
        cosines: Tensor = torch.linalg.vecdot(batch.unit.detach(), own)
    return cosines


class ClassBlock(NamedTuple):
    """A block of classes, and the images that belong to them."""

    classes: slice | Tensor
    """The classes."""
    weights: slice | Tensor
    """Rows of the class weights."""
    images: Tensor
    """(n,) indices of the images whose class is in this block."""
    places: Tensor
    """(n,) index of that class within the block."""


def class_blocks(places: Tensor, weights: int, centres: int, sampled: Tensor | None = None) -> Iterator[ClassBlock]:
    """Iterate over the classes, or the sampled ones.

    Args:
        places: (A,) index of each image's class among the classes that are processed.
        weights: C * centres, rows of the class weights.
        centres: centres of each class.
        sampled: (S,) classes to process; all by default.
    """
    count = weights // centres if sampled is None else len(sampled)
    # A quarter of a pair loss's block (64 MB) still fills a GPU.
    share = 4 if places.device.type == "cuda" else 1
    step = block_length(places.device, share * len(places) * centres, count)
    for first in range(0, count, step):
        end = min(first + step, count)
        inside = ((places >= first) & (places < end)).nonzero().squeeze(1)
        chosen = slice(first, end) if sampled is None else sampled[first:end]
        yield ClassBlock(chosen, _weights_of(chosen, centres), inside, places[inside] - first)


def _weights_of(classes: slice | Tensor, centres: int) -> slice | Tensor:
    # Indexing with a slice gives a view, where a tensor of indices would copy the weights.
    if isinstance(classes, slice):
        return slice(classes.start * centres, classes.stop * centres)
    return (classes[:, None] * centres + torch.arange(centres, device=classes.device)).flatten()


class UnitWeights(NamedTuple):
    """Class weights of a block."""

    raw: Tensor
    """(k, D) of any length."""
    inverse: Tensor
    """(k,) 1 / length; 0 for a weight without a direction, whose cosine and gradient are then 0."""

    @classmethod
    def of(cls, class_weight: Tensor, which: slice | Tensor, dtype: torch.dtype) -> UnitWeights:
        """Select rows and convert their dtype."""
        raw = class_weight.detach()[which].to(dtype)
        norms = torch.linalg.vector_norm(raw, dim=1)
        norms.masked_fill_(norms == torch.inf, torch.nan)  # 1 / inf would silently make it a weight without a direction
        return cls(raw, torch.where(norms <= SHORTEST, 0.0, 1 / norms))

    def cosines(self, rows: Tensor, factor: float, space: Workspace) -> Tensor:
        """(A, k) ``factor`` times the cosines of unit rows."""
        cosines = space.take("cosines", rows, (len(rows), len(self.raw)))
        # Scaling the product saves a normalised copy of the (C, D) weights.
        return torch.mm(rows, self.raw.T, out=cosines).mul_(self.inverse * factor)


class Workspace:
    """Buffers reused from block to block, because the system has to clear every page of a newly allocated one."""

    def __init__(self) -> None:
        self._kept: dict[str, Tensor] = {}

    def take(self, name: str, like: Tensor, shape: tuple[int, ...] | torch.Size | None = None) -> Tensor:
        """Return an uninitialised tensor of that shape, or of the shape of ``like``."""
        # The buffers are flat, so that a smaller last block reuses the memory of a larger one.
        size = like.shape if shape is None else shape
        count = math.prod(size)
        if name not in self._kept or len(self._kept[name]) < count:
            self._kept[name] = torch.empty(count, dtype=like.dtype, device=like.device)
        return self._kept[name][:count].view(size)


class Gradients:
    """Accumulates the gradients of all blocks.

    Args:
        rows: (A, D) rows to multiply with the class directions.
        class_weight: (C, D).
        wanted: whether rows and class weights require a gradient.
    """

    def __init__(self, rows: Tensor, class_weight: Tensor, needed: tuple[bool, ...]) -> None:
        self._left = rows.detach()
        self._rows = torch.zeros_like(self._left) if needed[0] else None
        shape, device = class_weight.shape, class_weight.device
        # Classes that were not sampled keep these zeros.
        self._weights = torch.zeros(shape, dtype=self._left.dtype, device=device) if needed[1] else None

    def add(self, which: slice | Tensor, weights: UnitWeights, to_cosines: Tensor) -> None:
        """``to_cosines`` (A, k) d loss / d cosine of this block; it is overwritten."""
        to_cosines.mul_(weights.inverse)
        if self._rows is not None:
            self._rows.addmm_(to_cosines, weights.raw)
        if self._weights is None:
            return
        # d cosine / d w = (u - cosine * w / |w|) / |w|, so the component along w is removed.
        # Blocks are disjoint, so each row of the gradient is written once.
        to_weights = self._weights[which] if isinstance(which, slice) else torch.empty_like(weights.raw)
        torch.mm(to_cosines.T, self._left, out=to_weights)
        along = torch.linalg.vecdot(to_weights, weights.raw) * weights.inverse.square()
        to_weights.addcmul_(weights.raw, along[:, None], value=-1)
        if not isinstance(which, slice):
            self._weights[which] = to_weights

    def outcome(self, dtype: torch.dtype) -> tuple[Tensor | None, Tensor | None]:
        """Gradients with respect to the rows, and to the class weights in their dtype."""
        return self._rows, None if self._weights is None else self._weights.to(dtype)


def only_once(gradients: tuple[Tensor | None, ...], *inputs: Tensor) -> tuple[Tensor | None, ...]:
    """Return ``gradients`` from a backward; under ``create_graph`` differentiating them again raises."""
    if not torch.is_grad_enabled():
        return gradients
    return tuple(None if gradient is None else OnlyOnce.apply(gradient, *inputs) for gradient in gradients)


SampleRule = Literal["partial_fc", "norm_softmax"]


class ClassLoss(Loss):
    """Base of the losses with class weights, with optional sampling of classes in training.

    A subclass initialises ``self.class_weight`` after ``super().__init__`` and sets ``function``, whose settings are attributes of
    the same names. It overrides :meth:`per_sample` if it has state, and :meth:`of_batch` if its terms are not images;
    it then sets ``gathers`` to True, unless the whole batch's loss is the mean over its parts.

    Args:
        num_classes: C, training classes.
        embedding_dim: D, width of the embedding.
        centres: vectors per class.
        sample_rate: in (0, 1], the share of classes in a training step's softmax; see
            :func:`cosphere.losses.sample_classes`. In evaluation mode all are used. The draw is from torch's global
            generator. Unsampled classes get a gradient of exactly zero, but momentum, Adam's averages and weight decay still
            move them, as in the second version of Partial FC. To keep unsampled rows fixed, train ``class_weight`` with plain
            SGD (no momentum, no weight decay).
        sample_rule: "partial_fc" or "norm_softmax".

    Raises:
        SettingsError: a value out of range.
    """

    function: ClassVar[Callable[..., Tensor]]
    gathers = False

    def __init__(
        self,
        num_classes: int,
        embedding_dim: int,
        *,
        centres: int = 1,
        sample_rate: float = 1.0,
        sample_rule: SampleRule = "partial_fc",
    ) -> None:
        super().__init__()
        self.num_classes = check_whole("num_classes", num_classes, least=1, most=10**8)
        self.embedding_dim = check_whole("embedding_dim", embedding_dim, least=1, most=MOST_DIM)
        self.sample_rate = check_share("sample_rate", sample_rate)
        check_choice("sample_rule", sample_rule, ["partial_fc", "norm_softmax"])
        self.sample_rule: SampleRule = sample_rule
        # Left uninitialised: a default draw would advance the RNG and change the initialisation of the subclass.
        self.class_weight = nn.Parameter(torch.empty(num_classes * centres, embedding_dim))

    def traits(self) -> Traits:
        """How the loss behaves with the settings it has."""
        return replace(self.about.traits, terms="images", draws=self.sample_rate < 1, classes_from_zero=True)

    def sampled(self, labels: Tensor) -> Tensor | None:
        """The classes of this step, (S,) int64 ascending; None for all."""
        if not self.training or self.sample_rate == 1 or not len(labels):
            return None
        targets = as_int64(labels)
        inside = targets[(targets >= 0) & (targets < self.num_classes)]  # the loss itself reports those outside
        return sample_classes(inside, self.num_classes, self.sample_rate, rule=self.sample_rule)

    def per_sample(self, embeddings: Tensor, labels: Tensor) -> Tensor:
        """(B,) loss of each image; a connected 0 for rows without a direction."""
        return type(self).function(
            embeddings, labels, self.class_weight, **self.settings(), sampled=self.sampled(labels)
        )

    def settings(self) -> dict[str, Any]:
        """Keyword arguments of the function besides the batch, the class weights and their sample."""
        return {name: getattr(self, name) for name in self.about.defaults if not name.startswith("sample_")}

    def of_batch(self, embeddings: Tensor, labels: Tensor) -> Tensor:
        """() mean of :meth:`per_sample` over the rows that have a direction; a connected 0 if none has."""
        losses = self.per_sample(embeddings, labels)
        # Rows without a direction add 0 to the sum, so the mean must not count them.
        return losses.sum() / (lengths(embeddings.detach()) > SHORTEST).sum().clamp(min=1)

    def forward(self, embeddings: Tensor, labels: Tensor | None = None, indices_tuple: None = None) -> Tensor:
        """(B, D), (B,) in [0, C) -> () loss; the mean over the rows that have a direction, unless the loss says otherwise.

        ``indices_tuple`` exists so that pytorch-metric-learning's trainers can call this; a loss against classes has no pairs.

        Raises:
            SizeError: labels that are missing, shapes, types or devices that do not fit, or a label outside [0, C).
            SettingsError: pairs were given.
        """
        if indices_tuple is not None:
            raise SettingsError(f"{type(self).__name__} compares images with classes; take the miner away.")
        check_labelled(embeddings, given(labels))
        return self.of_batch(embeddings, given(labels))
