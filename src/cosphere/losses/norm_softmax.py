"""NormSoftmax: classification by the cosine to one learned direction per class."""

from __future__ import annotations

import math

from torch import Tensor, nn

from cosphere.checks import check_number
from cosphere.losses.engine.base import describe
from cosphere.losses.engine.classes import ClassLoss, SampleRule, classify
from cosphere.losses.engine.maths import log_one_plus_exp
from cosphere.losses.engine.softmax import against_classes
from cosphere.tensors import outside_autocast

__all__ = ["NormSoftmaxLoss", "norm_softmax_loss"]


def norm_softmax_loss(
    embeddings: Tensor, labels: Tensor, class_weight: Tensor, *, temperature: float, sampled: Tensor | None = None
) -> Tensor:
    """Cross-entropy over the cosines to one learned direction per class.

    Args:
        embeddings: (B, D) float; L2-normalized internally.
        labels: (B,) integers in [0, C).
        class_weight: (C, D) float; L2-normalized internally.
        temperature: unitless, > 0. Smaller is sharper.
        sampled: (S,) int64 ascending class indices to compute logits for, including those of the batch. Default: all.

    Returns:
        (B,) loss per sample, in nats. Zero-norm rows give a differentiable 0.

    Raises:
        SizeError: incompatible shapes, dtypes or devices, or a label outside [0, C).

    >>> import torch
    >>> axes = torch.eye(2)
    >>> norm_softmax_loss(axes, torch.tensor([0, 1]), axes, temperature=1.0)
    tensor([0.3133, 0.3133])
    """
    batch = classify(embeddings, labels, class_weight)
    with outside_autocast(embeddings):
        target, others, _ = against_classes(batch, scale=1 / temperature, sampled=sampled)
        # -log(e^t / (e^t + sum e^o)) = log(1 + e^(o - t)).
        return batch.scatter(log_one_plus_exp(others - target / temperature))


@describe(
    name="norm_softmax",
    paper="Zhai, Wu: Classification is a Strong Baseline for Deep Metric Learning, BMVC 2019",
    batch="any; the official recipe takes 25 images of each of 3 classes, and a frozen backbone wants many classes in a batch",
    normalises="embeddings and class weights",
    defaults_source="paper and official code: temperature 0.05, weights uniform in +-1/sqrt(D), no bias",
    cost="O(B C D) time, O(B D + C D) memory and one block",
    choose_when="classes are known, or bits are wanted: with a LayerNorm head its codes lose little",
)
class NormSoftmaxLoss(ClassLoss):
    """Module form of :func:`norm_softmax_loss` with learned class weights; averages over the rows of nonzero norm.

    Args:
        num_classes: C, number of training classes.
        embedding_dim: D, embedding dimension.
        temperature: unitless, > 0. Smaller is sharper.
        sample_rate: fraction of classes sampled for the softmax of each training step; see
            :class:`cosphere.losses.ClassLoss`.
        sample_rule: default: the paper's rule.

    Raises:
        SettingsError: a value is out of range.
    """

    function = staticmethod(norm_softmax_loss)

    def __init__(
        self,
        num_classes: int,
        embedding_dim: int,
        *,
        temperature: float = 0.05,
        sample_rate: float = 1.0,
        sample_rule: SampleRule = "norm_softmax",
    ) -> None:
        super().__init__(num_classes, embedding_dim, sample_rate=sample_rate, sample_rule=sample_rule)
        self.temperature = check_number("temperature", temperature, above=0)
        bound = 1 / math.sqrt(embedding_dim)
        nn.init.uniform_(self.class_weight, -bound, bound)
