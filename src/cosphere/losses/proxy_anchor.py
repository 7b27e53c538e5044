"""Proxy-Anchor: each class proxy is an anchor, compared with the whole batch."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from cosphere.checks import check_number
from cosphere.losses.engine.base import describe
from cosphere.losses.engine.classes import ClassBlock, ClassLoss, classify
from cosphere.losses.engine.columns import sum_over_classes
from cosphere.tensors import outside_autocast

__all__ = ["ProxyAnchorLoss", "proxy_anchor_loss"]


def proxy_anchor_loss(
    embeddings: Tensor, labels: Tensor, class_weight: Tensor, *, alpha: float = 32.0, margin: float = 0.1
) -> Tensor:
    """Log-sum-exp over the batch of each proxy's positives, mean over the classes present, and of its negatives, over all.

    ``mean_{p present} log(1 + sum_{y = p} e^{-alpha (cos - margin)}) + mean_p log(1 + sum_{y != p} e^{alpha (cos + margin)})``

    Args:
        embeddings: (B, D) float; L2-normalized internally.
        labels: (B,) integers in [0, C).
        class_weight: (C, D) float, the proxies; L2-normalized internally.
        alpha: scale, > 0. Larger values emphasize hard images.
        margin: of the cosine, >= 0.

    Returns:
        () loss, in nats. A differentiable 0 if no row has a direction; rows without one are left out.

    Raises:
        SizeError: incompatible shapes, dtypes or devices, or a label outside [0, C).

    >>> axes = torch.eye(2)
    >>> proxy_anchor_loss(axes, torch.tensor([0, 1]), axes, alpha=1.0, margin=0.0)
    tensor(1.0064)
    """
    batch = classify(embeddings, labels, class_weight)
    present = max(len(torch.unique(batch.targets)), 1)
    columns = _Anchors(alpha, margin, pull=1 / present, push=1 / max(len(class_weight), 1))
    with outside_autocast(embeddings):
        return sum_over_classes(batch, columns) + batch.zero


class _Anchors:
    """Both terms of a block of classes, weighted: the columns of :func:`sum_over_classes`."""

    def __init__(self, alpha: float, margin: float, *, pull: float, push: float) -> None:
        self.alpha, self.margin, self.pull, self.push = alpha, margin, pull, push

    def value(self, cosines: Tensor, block: ClassBlock) -> Tensor:
        positive = self._positive(cosines, block)
        top, mass = self._negative(cosines, block)
        pushes = self.push * (top + mass.log()).sum()
        top, mass, _ = self._pulling(positive, block, cosines.shape[1])
        return pushes + self.pull * (top + mass.log()).sum()

    def cosine_gradients(self, cosines: Tensor, block: ClassBlock) -> Tensor:
        positive = self._positive(cosines, block)
        _, mass = self._negative(cosines, block)
        gradients = cosines.mul_(self.push * self.alpha / mass)
        _, mass, weights = self._pulling(positive, block, cosines.shape[1])
        gradients[block.images, block.places] = -self.pull * self.alpha * weights / mass[block.places]
        return gradients

    def _positive(self, cosines: Tensor, block: ClassBlock) -> Tensor:
        """(n,) exponents of the images that belong to these classes."""
        return -self.alpha * (cosines[block.images, block.places] - self.margin)

    def _negative(self, cosines: Tensor, block: ClassBlock) -> tuple[Tensor, Tensor]:
        """(c,) top and mass of each class's other images, and in place of the cosines their e^(x - top); 0 for its own."""
        cosines.mul_(self.alpha).add_(self.alpha * self.margin)
        cosines[block.images, block.places] = -torch.inf
        # log(1 + sum e^x) = top + log(e^-top + sum e^(x - top)), stable for any alpha.
        top = cosines.amax(dim=0).clamp_(min=0) if len(cosines) else cosines.new_zeros(cosines.shape[1])
        cosines.sub_(top).exp_()
        return top, (-top).exp() + cosines.sum(dim=0)

    def _pulling(self, positive: Tensor, block: ClassBlock, classes: int) -> tuple[Tensor, Tensor, Tensor]:
        """(c,) top and mass of each class's own images, and their (n,) e^(x - top)."""
        top = positive.new_zeros(classes).scatter_reduce_(0, block.places, positive, "amax")
        weights = (positive - top[block.places]).exp()
        return top, (-top).exp().index_add_(0, block.places, weights), weights


@describe(
    name="proxy_anchor",
    paper="Kim et al.: Proxy Anchor Loss for Deep Metric Learning, CVPR 2020",
    batch="any, random; larger is better (180 in the paper)",
    normalises="embeddings and proxies",
    defaults_source="paper and official code: alpha 32, margin 0.1, proxies kaiming_normal (fan out)",
    cost="O(B C D) time, O(B D + C D) memory and one block",
    choose_when="training should converge fast on a few thousand classes; proxies want 100 times the network's rate",
)
class ProxyAnchorLoss(ClassLoss):
    """The proxies of :func:`proxy_anchor_loss`. Its terms are classes, all of them, so none can be left out by sampling.

    Args:
        num_classes: C, number of training classes.
        embedding_dim: D, embedding dimension.
        alpha: scale, > 0.
        margin: of the cosine, >= 0.

    Raises:
        SettingsError: a value is out of range.
    """

    gathers = True
    """Each proxy takes the log-sum-exp over all images of the batch, which is no mean over its parts."""

    def __init__(self, num_classes: int, embedding_dim: int, *, alpha: float = 32.0, margin: float = 0.1) -> None:
        super().__init__(num_classes, embedding_dim)
        self.alpha = check_number("alpha", alpha, above=0)
        self.margin = check_number("margin", margin, at_least=0)
        nn.init.kaiming_normal_(self.class_weight, mode="fan_out")

    def of_batch(self, embeddings: Tensor, labels: Tensor) -> Tensor:
        """(B, D), (B,) in [0, C) -> (), in nats."""
        return proxy_anchor_loss(embeddings, labels, self.class_weight, alpha=self.alpha, margin=self.margin)
