"""Proxy-NCA: pull each image towards the proxy of its class and push it away from all others."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from cosphere.checks import check_number, check_switch, check_switches
from cosphere.errors import SettingsError
from cosphere.losses.engine.base import Traits, describe
from cosphere.losses.engine.classes import ClassLoss, SampleRule, classify
from cosphere.losses.engine.maths import log_one_plus_exp
from cosphere.losses.engine.softmax import against_classes
from cosphere.tensors import outside_autocast

__all__ = ["ProxyNCALoss", "proxy_nca_loss"]


def proxy_nca_loss(
    embeddings: Tensor,
    labels: Tensor,
    class_weight: Tensor,
    *,
    positive_in_denominator: bool = False,
    embedding_scale: float = 1.0,
    proxy_scale: float = 1.0,
    smoothing: float = 0.0,
    sampled: Tensor | None = None,
) -> Tensor:
    """``-log(exp(-|x - p_y|^2) / sum_k exp(-|x - p_k|^2))``, x and p of fixed lengths.

    The sum of the paper (Movshovitz-Attias et al., ICCV 2017) leaves the image's own class out, so the loss can be negative;
    the reimplementations of dichotomies and of pytorch-metric-learning count it in. pytorch-metric-learning's
    ``softmax_scale`` s is ``embedding_scale = proxy_scale = sqrt(s)``.

    Args:
        embeddings: (B, D) float; L2-normalized internally.
        labels: (B,) integers in [0, C).
        class_weight: (C, D) float, the proxies; L2-normalized internally.
        positive_in_denominator: whether the sum counts the image's own class.
        embedding_scale: norm to which embeddings are scaled, > 0.
        proxy_scale: norm to which proxies are scaled, > 0.
        smoothing: in [0, 1), the share of the target that is spread evenly over the other classes. Values above 0
            require ``positive_in_denominator``.
        sampled: (S,) int64 ascending class indices to compute logits for, including those of the batch. Default: all.

    Returns:
        (B,) loss per sample, in nats. Rows without a direction, and in the paper's form all rows if there is but one
        class, give a differentiable 0.

    Raises:
        SizeError: incompatible shapes, dtypes or devices, or a label outside [0, C).
        SettingsError: smoothing of the paper's form.

    >>> axes = torch.eye(2)
    >>> proxy_nca_loss(axes, torch.tensor([0, 1]), axes)
    tensor([-2., -2.])
    """
    check_switches(positive_in_denominator=positive_in_denominator)
    _check_smoothing(smoothing, positive_in_denominator)
    batch = classify(embeddings, labels, class_weight)
    # |x - p|^2 is a constant minus this multiple of the cosine, and the constant cancels.
    scale = 2 * embedding_scale * proxy_scale
    with outside_autocast(embeddings):
        target, others, total = against_classes(batch, scale=scale, sampled=sampled, with_total=smoothing > 0)
        if not positive_in_denominator:
            return batch.scatter(torch.where(others == -torch.inf, 0.0, others - scale * target))
        losses = log_one_plus_exp(others - scale * target)
        if smoothing:
            classes = len(class_weight) if sampled is None else len(sampled)
            mean_of_others = (total - target) / max(classes - 1, 1)
            losses = losses + smoothing * scale * (target - mean_of_others) * (classes > 1)
        return batch.scatter(losses)


def _check_smoothing(smoothing: float, positive_in_denominator: bool) -> None:
    if smoothing and not positive_in_denominator:
        raise SettingsError(
            "smoothing spreads the target over all classes, so it wants positive_in_denominator=True; or leave it at 0."
        )


@describe(
    name="proxy_nca",
    paper="Movshovitz-Attias et al.: No Fuss Distance Metric Learning using Proxies, ICCV 2017",
    batch="any",
    normalises="embeddings and proxies, then each to its own length",
    defaults_source="paper: unit lengths, own class not in the denominator; proxies of length about 1 as in dichotomies' code",
    cost="O(B C D) time, O(B D + C D) memory and one block",
    choose_when="a run of the paper is wanted; otherwise proxy_nca_plus_plus or proxy_anchor",
    traits=Traits(may_be_negative=True),
)
class ProxyNCALoss(ClassLoss):
    """The proxies of :func:`proxy_nca_loss`, and its mean over the rows of nonzero norm.

    Proxies need a much higher learning rate than the network. The recipe of dichotomies is
    ``positive_in_denominator=True, smoothing=0.1`` with both scales 3 (CUB, Cars), or 1 and 8 (Stanford Online
    Products).

    Args:
        num_classes: C, number of training classes.
        embedding_dim: D, embedding dimension.
        positive_in_denominator: whether the sum counts the image's own class.
        embedding_scale: length that every embedding is brought to, > 0.
        proxy_scale: length that every proxy is brought to, > 0.
        smoothing: in [0, 1), the share of the target that is spread over the other classes.
        sample_rate: fraction of classes sampled for the softmax of each training step; see
            :class:`cosphere.losses.ClassLoss`.
        sample_rule: "partial_fc" or "norm_softmax".

    Raises:
        SettingsError: a value out of range, or smoothing of the paper's form.
    """

    function = staticmethod(proxy_nca_loss)

    def __init__(
        self,
        num_classes: int,
        embedding_dim: int,
        *,
        positive_in_denominator: bool = False,
        embedding_scale: float = 1.0,
        proxy_scale: float = 1.0,
        smoothing: float = 0.0,
        sample_rate: float = 1.0,
        sample_rule: SampleRule = "partial_fc",
    ) -> None:
        super().__init__(num_classes, embedding_dim, sample_rate=sample_rate, sample_rule=sample_rule)
        self.positive_in_denominator = check_switch("positive_in_denominator", positive_in_denominator)
        self.embedding_scale = check_number("embedding_scale", embedding_scale, above=0)
        self.proxy_scale = check_number("proxy_scale", proxy_scale, above=0)
        self.smoothing = check_number("smoothing", smoothing, at_least=0)
        if self.smoothing >= 1:
            raise SettingsError(f"smoothing is a share below 1; got {smoothing!r}.")
        _check_smoothing(self.smoothing, positive_in_denominator)
        nn.init.normal_(self.class_weight, std=1 / math.sqrt(embedding_dim))
