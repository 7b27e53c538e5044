"""Base of the losses that learn one or more vectors per training class."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from cosphere.checks import check_choice, check_share, check_whole
from cosphere.errors import SettingsError
from cosphere.losses._about import Loss
from cosphere.losses._classified import sample_classes
from cosphere.losses._ends import as_int64
from cosphere.tensors import SHORTEST, lengths

SampleRule = Literal["partial_fc", "norm_softmax"]


class ClassLoss(Loss):
    """The class weights, and which of them a training step sees.

    A subclass fills ``self.class_weight`` after ``super().__init__`` and names its pure function, whose settings are attributes
    of the same names. With state of its own it defines :meth:`per_sample`, and :meth:`of_batch` where its terms are not images.

    Args:
        num_classes: C, training classes.
        embedding_dim: D, width of the embedding.
        centres: vectors per class.
        sample_rate: in (0, 1], the share of classes in a training step's softmax; see
            :func:`cosphere.losses.sample_classes`. In evaluation mode all are used. The draw is from torch's global
            generator. Classes left out get a gradient of exactly zero: plain SGD leaves them, momentum, Adam's averages and
            weight decay still move them, as in the second version of Partial FC. For rows that truly rest, give the class
            weights an optimiser without either.
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
        self.num_classes = check_whole("num_classes", num_classes, least=1)
        self.embedding_dim = check_whole("embedding_dim", embedding_dim, least=1)
        self.sample_rate = check_share("sample_rate", sample_rate)
        check_choice("sample_rule", sample_rule, ["partial_fc", "norm_softmax"])
        self.sample_rule: SampleRule = sample_rule
        self.class_weight = nn.Parameter(torch.empty(num_classes * centres, embedding_dim))

    def sampled(self, labels: Tensor) -> Tensor | None:
        """The classes of this step, (S,) int64 ascending; None for all."""
        if not self.training or self.sample_rate == 1 or not len(labels):
            return None
        targets = as_int64(labels)
        inside = targets[(targets >= 0) & (targets < self.num_classes)]  # the loss itself names those outside
        return sample_classes(inside, self.num_classes, self.sample_rate, rule=self.sample_rule)

    def per_sample(self, embeddings: Tensor, labels: Tensor) -> Tensor:
        """(B,) loss of each image; a connected 0 for rows without a direction."""
        return type(self).function(
            embeddings, labels, self.class_weight, **self.settings(), sampled=self.sampled(labels)
        )

    def settings(self) -> dict[str, Any]:
        """What the function is called with beside the batch, the class weights and their sample."""
        return {name: getattr(self, name) for name in self.about.defaults if not name.startswith("sample_")}

    def of_batch(self, embeddings: Tensor, labels: Tensor) -> Tensor:
        """() mean of :meth:`per_sample` over the rows that have a direction; a connected 0 if none has."""
        losses = self.per_sample(embeddings, labels)
        return losses.sum() / (lengths(embeddings.detach()) > SHORTEST).sum().clamp(min=1)

    def forward(self, embeddings: Tensor, labels: Tensor, indices_tuple: None = None) -> Tensor:
        """(B, D), (B,) in [0, C) -> () loss; the mean over the rows that have a direction, unless the loss says otherwise.

        ``indices_tuple`` is there so that pytorch-metric-learning's trainers can call this; a loss against classes has no
        pairs to choose.

        Raises:
            SizeError: shapes, types or devices that do not fit, or a label outside [0, C).
            SettingsError: pairs were given.
        """
        if indices_tuple is not None:
            raise SettingsError(f"{type(self).__name__} compares images with classes; take the miner away.")
        return self.of_batch(embeddings, labels)
