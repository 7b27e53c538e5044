"""Cross-batch memory: compare a batch with the embeddings of the latest batches."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

from cosphere.checks import MOST_DIM, check_number, check_whole, is_whole
from cosphere.errors import RunError, SettingsError, SizeError, counted
from cosphere.losses.engine.base import EmbedTrainingSet, Loss, PairLoss, Traits, given
from cosphere.losses.engine.classes import ClassLoss
from cosphere.losses.engine.maths import as_int64
from cosphere.tensors import check_labelled

__all__ = ["CrossBatchMemory"]


class _Queue(NamedTuple):
    """Rows of the memory: embedding, label and insertion step."""

    embeddings: Tensor
    labels: Tensor
    entered: Tensor


class CrossBatchMemory(Loss):
    """A pair loss whose references are a queue of the latest embeddings, this batch among them.

    ``memory(embeddings, labels) -> scalar``. In training each call first puts the batch into the queue, over the oldest
    rows, and then compares the batch with the whole queue; the copy that each embedding has there is left out by index.
    Gradients reach the batch only: the queue is detached. This is the algorithm of the paper (Wang, Zhang, Huang, Scott:
    Cross-Batch Memory for Embedding Learning, CVPR 2020) and of pytorch-metric-learning's ``CrossBatchMemory``. The
    authors' code adds the batch's own loss (``batch_weight=1``), starts after 2000 steps and holds 8192 rows.

    In evaluation mode the value is the one that training would give, but nothing enters and no step is counted. A batch
    that holds a number that is not finite does not enter either, and its loss is NaN. Each process has its own queue.

    Args:
        loss: any loss that derives from PairLoss, so takes references; all pair losses but facility_location, which clusters
            the batch itself. Its parameters, if it has some, are this module's too.
        embedding_dim: D, embedding dimension.
        size: rows of the queue; at least one batch.
        start_after: optimiser steps, of ``calls_per_step`` calls each, during which the batch is compared with itself alone
            and nothing enters: early in training embeddings change too fast for the queue to stay valid.
        max_age: in steps; older rows are not compared with. If even the latest row is older, the model has moved on
            without the memory, and a call raises. None: no limit but the size.
        batch_weight: weight of the batch's own loss, in which both sides of a pair get a gradient, added to the memory's.

        The full state is in ``state_dict``: ``embeddings`` (size, D) float32, ``labels`` and ``entered`` (size,) int64,
            and the
        counts ``position`` (the next row to be written), ``fill`` (rows in use: the first ones) and ``step``. Resumed
            training is bit-for-bit identical.

    Raises:
        SettingsError: a setting out of range, or a loss that is not a pair loss.

    >>> from cosphere.losses import TripletLoss
    >>> memory = CrossBatchMemory(TripletLoss(), embedding_dim=2, size=4)
    >>> first = memory(torch.tensor([[2.0, 0.0], [1.2, 1.6]]), torch.tensor([0, 0]))
    >>> memory(torch.tensor([[0.0, 1.0], [-3.0, 0.0]]), torch.tensor([1, 1]))  # the first batch gives the negatives
    tensor(0.9000)
    """

    embeddings: Tensor
    labels: Tensor
    entered: Tensor
    position: Tensor
    fill: Tensor
    step: Tensor

    def __init__(
        self,
        loss: PairLoss,
        embedding_dim: int,
        *,
        size: int = 8192,
        start_after: int = 0,
        max_age: int | None = None,
        batch_weight: float = 0.0,
    ) -> None:
        super().__init__()
        if not isinstance(loss, PairLoss):
            raise SettingsError(_why_not(loss))
        self.loss = loss
        self.about, self.gathers, self.labels_from = loss.about, loss.gathers, loss.labels_from
        self.size = check_whole("size", size, least=1, most=10**8)
        self.start_after = _check_step("start_after", start_after)
        self.max_age = None if max_age is None else check_whole("max_age", max_age, least=1)
        self.batch_weight = check_number("batch_weight", batch_weight, at_least=0)
        self.register_buffer(
            "embeddings", torch.zeros(size, check_whole("embedding_dim", embedding_dim, least=1, most=MOST_DIM))
        )
        for name in ("labels", "entered"):
            self.register_buffer(name, torch.zeros(size, dtype=torch.int64))
        for name in ("position", "fill", "step"):
            self.register_buffer(name, torch.zeros((), dtype=torch.int64))

    def extra_repr(self) -> str:
        """Settings shown by ``print(memory)``."""
        return (
            f"embedding_dim={self.embeddings.shape[1]}, size={self.size}, start_after={self.start_after}, "
            f"max_age={self.max_age}, batch_weight={self.batch_weight}"
        )

    def traits(self) -> Traits:
        """Same as for the wrapped loss."""
        return self.loss.traits()

    def groups(self, dim: int) -> tuple[int, ...]:
        """As for the wrapped loss."""
        return self.loss.groups(dim)

    def after_epoch(self, embed: EmbedTrainingSet) -> None:
        """Forward the call to the wrapped loss. The queue is kept."""
        self.loss.after_epoch(embed)

    @torch.no_grad()
    def reset(self) -> None:
        """Discard all rows. The step count continues, so there is no second warm-up."""
        for state in (self.embeddings, self.labels, self.entered, self.position, self.fill):
            state.zero_()

    def forward(
        self, embeddings: Tensor, labels: Tensor | None = None, indices_tuple: None = None, *, step: int | None = None
    ) -> Tensor:
        """(B, D) raw embeddings, (B,) integer labels -> () loss.

        Args:
            embeddings: (B, D) float, B at most the size of the memory. float16 and bfloat16 are kept as float32.
            labels: (B,) integers.
            indices_tuple: must be None; it is here because pytorch-metric-learning's trainers pass it.
            step: the step of training, from 0, where it does not follow from the number of calls in training so far: with
                it the age of a row is known even if some steps do without the memory.

        Raises:
            SizeError: a batch that does not fit the memory in width, number, type or device.
            RunError: the memory is stale: see ``max_age``, or ``step`` lies before the latest row.
        """
        if indices_tuple is not None:
            raise SettingsError(
                "a memory takes no miner's tuples: they point into the batch, and the loss compares with the queue. "
                "Choose a loss that mines by itself, or leave the miner out."
            )
        labels = given(labels)
        self._check(embeddings, labels)
        count = int(self.step) if step is None else _check_step("step", step)
        if self.training:
            self.step.fill_(count + 1)
        now = count // self.calls_per_step if step is None else count
        if now < self.start_after or not bool(embeddings.detach().isfinite().all()):
            alone: Tensor = self.loss(embeddings, labels)
            return alone
        value = self._against_queue(embeddings, labels, now)
        return value + self.batch_weight * self.loss(embeddings, labels) if self.batch_weight else value

    def _against_queue(self, embeddings: Tensor, labels: Tensor, now: int) -> Tensor:
        """The loss of the batch against the queue that holds it."""
        position, fill = torch.stack([self.position, self.fill]).tolist()
        self._check_fresh(position, fill, now)
        queue = _Queue(self.embeddings, self.labels, self.entered)
        if not self.training:
            queue = _Queue(*(part.clone() for part in queue))
        own = (position + torch.arange(len(embeddings), device=embeddings.device)) % self.size
        queue.embeddings[own] = embeddings.detach().to(queue.embeddings.dtype)
        queue.labels[own] = as_int64(labels)
        queue.entered[own] = now
        fill = min(fill + len(embeddings), self.size)
        if self.training:
            self.position.fill_((position + len(embeddings)) % self.size)
            self.fill.fill_(fill)
        usable = torch.arange(self.size, device=own.device) < fill
        if self.max_age is not None:
            usable &= queue.entered >= now - self.max_age
        rows = usable.nonzero().squeeze(1)
        value: Tensor = self.loss(
            embeddings,
            as_int64(labels),
            # Indexing copies, so what backward needs of raw losses outlives the next call's writing.
            references=queue.embeddings[rows],
            reference_labels=queue.labels[rows],
            positions=(usable.cumsum(0) - 1)[own],
        )
        return value

    def _check(self, embeddings: Tensor, labels: Tensor) -> None:
        check_labelled(embeddings, labels)
        held = self.embeddings
        if embeddings.shape[1] != held.shape[1]:
            raise SizeError(
                f"the memory is {held.shape[1]} wide, embeddings {embeddings.shape[1]}. "
                f"Build it with embedding_dim={embeddings.shape[1]}."
            )
        if len(embeddings) > self.size:
            raise SizeError(
                f"a batch of {len(embeddings)} does not fit a memory of {counted(self.size, 'row')}. Make it with "
                f"size={len(embeddings)} or more."
            )
        if embeddings.device != held.device:
            raise SizeError(
                f"the memory is on {held.device}, embeddings on {embeddings.device}. Call memory.to(device)."
            )
        kept_as = torch.promote_types(embeddings.dtype, torch.float32)
        if held.dtype != kept_as:
            raise SizeError(
                f"the memory holds {held.dtype}, and embeddings of {embeddings.dtype} want {kept_as}. "
                f"Call memory.to({kept_as})."
            )

    def _check_fresh(self, position: int, fill: int, now: int) -> None:
        """Raise if even the latest row is too old."""
        if not fill:
            return
        latest = int(self.entered[position - 1])
        if latest > now:
            raise RunError(
                f"the memory's latest rows are of step {latest}, and this is step {now}: they are of another training. "
                "Call memory.reset(), or load the state that was saved with the model."
            )
        if self.max_age is not None and now - latest > self.max_age:
            raise RunError(
                f"the memory is stale: its latest rows are of step {latest}, this is step {now}, and max_age is "
                f"{self.max_age}. Call memory.reset(), or load the state that was saved with the model."
            )

    def _load_from_state_dict(self, state_dict: Mapping[str, Any], prefix: str, *rest: Any) -> None:
        saved = state_dict.get(f"{prefix}embeddings")
        if saved is not None and saved.shape != self.embeddings.shape:
            raise SizeError(
                f"the saved memory is {tuple(saved.shape)}, rows by width, and this one {tuple(self.embeddings.shape)}. "
                f"Build it with embedding_dim={saved.shape[-1]}, size={saved.shape[0]}."
            )
        super()._load_from_state_dict(state_dict, prefix, *rest)


def _why_not(loss: object) -> str:
    text = f"a memory wraps a pair loss, which can compare the batch with other images; got {type(loss).__name__}. "
    if isinstance(loss, ClassLoss):
        return text + "Losses with class weights see all classes already."
    return text + "This one takes no references=. Choose a loss that derives from PairLoss."


def _check_step(name: str, value: object) -> int:
    if not is_whole(value) or value < 0:
        raise SettingsError(f"{name} must be a whole number of steps >= 0; got {value!r}.")
    return int(value)
