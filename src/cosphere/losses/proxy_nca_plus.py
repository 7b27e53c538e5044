"""Proxy-NCA++: Proxy-NCA as a probability over all classes, at a low temperature."""

from __future__ import annotations

import math

from torch import Tensor, nn

from cosphere.checks import check_number
from cosphere.losses.engine.base import describe
from cosphere.losses.engine.classes import ClassLoss, SampleRule, classify
from cosphere.losses.engine.maths import log_one_plus_exp
from cosphere.losses.engine.softmax import against_classes
from cosphere.tensors import outside_autocast

__all__ = ["ProxyNCAPlusPlusLoss", "proxy_nca_plus_plus_loss"]


def proxy_nca_plus_plus_loss(
    embeddings: Tensor,
    labels: Tensor,
    class_weight: Tensor,
    *,
    temperature: float = 1 / 9,
    sampled: Tensor | None = None,
) -> Tensor:
    """``-log(exp(-|u - p_y|^2 / T) / sum_k exp(-|u - p_k|^2 / T))`` over all classes, u and p of unit length.

    Equations 5 and 6 of Teh, DeVries, Taylor (ECCV 2020); the official code scales both vectors by ``sqrt(1 / T)``. As
    ``|u - p|^2 = 2 - 2 cos``, it is NormSoftmax at half the temperature; what else the paper changes is not in the loss
    (global maximum pooling, balanced classes, layer norm, a fast rate for the proxies).

    Args:
        embeddings: (B, D) float; L2-normalized internally.
        labels: (B,) integers in [0, C).
        class_weight: (C, D) float, the proxies; L2-normalized internally.
        temperature: T, of squared distances; unitless, > 0. Smaller is sharper.
        sampled: (S,) int64 ascending class indices to compute logits for, including those of the batch. Default: all.

    Returns:
        (B,) loss per sample, in nats. Zero-norm rows give a differentiable 0.

    Raises:
        SizeError: incompatible shapes, dtypes or devices, or a label outside [0, C).

    >>> import torch
    >>> axes = torch.eye(2)
    >>> proxy_nca_plus_plus_loss(axes, torch.tensor([0, 1]), axes, temperature=2.0)
    tensor([0.3133, 0.3133])
    """
    batch = classify(embeddings, labels, class_weight)
    scale = 2 / temperature
    with outside_autocast(embeddings):
        target, others, _ = against_classes(batch, scale=scale, sampled=sampled)
        return batch.scatter(log_one_plus_exp(others - scale * target))


@describe(
    name="proxy_nca_plus_plus",
    paper="Teh, DeVries, Taylor: ProxyNCA++: Revisiting and Revitalizing Proxy Neighborhood Component Analysis, ECCV 2020",
    batch="any; the paper takes 4 images per class (2 for SOP and In-Shop)",
    normalises="embeddings and proxies",
    defaults_source="paper and official code: temperature 1/9; proxies of length about 1 (randn / 8 at the code's width 64)",
    cost="O(B C D) time, O(B D + C D) memory and one block",
    choose_when="proxies without margins are wanted; they need a learning rate far above the network's",
)
class ProxyNCAPlusPlusLoss(ClassLoss):
    """The proxies of :func:`proxy_nca_plus_plus_loss`, and its mean over the rows of nonzero norm.

    Args:
        num_classes: C, number of training classes.
        embedding_dim: D, embedding dimension.
        temperature: of squared distances; unitless, > 0. Smaller is sharper.
        sample_rate: fraction of classes sampled for the softmax of each training step; see
            :class:`cosphere.losses.ClassLoss`.
        sample_rule: "partial_fc" or "norm_softmax".

    Raises:
        SettingsError: a value is out of range.
    """

    function = staticmethod(proxy_nca_plus_plus_loss)

    def __init__(
        self,
        num_classes: int,
        embedding_dim: int,
        *,
        temperature: float = 1 / 9,
        sample_rate: float = 1.0,
        sample_rule: SampleRule = "partial_fc",
    ) -> None:
        super().__init__(num_classes, embedding_dim, sample_rate=sample_rate, sample_rule=sample_rule)
        self.temperature = check_number("temperature", temperature, above=0)
        nn.init.normal_(self.class_weight, std=1 / math.sqrt(embedding_dim))
