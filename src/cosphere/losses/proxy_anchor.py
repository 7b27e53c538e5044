"""Proxy-Anchor: each class's proxy is an anchor, and the whole batch are its positives and negatives."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from cosphere.losses._about import check_number, describe
from cosphere.losses._by_hand import with_slopes
from cosphere.losses._class_loss import ClassLoss
from cosphere.losses._classes import classify, sum_over_classes
from cosphere.tensors import outside_autocast


def proxy_anchor_loss(
    embeddings: Tensor, labels: Tensor, class_weight: Tensor, *, alpha: float = 32.0, margin: float = 0.1
) -> Tensor:
    """Log-sum-exp over the batch of each proxy's positives, mean over the classes present, and of its negatives, over all.

    ``mean_{p present} log(1 + sum_{y = p} e^{-alpha (cos - margin)}) + mean_p log(1 + sum_{y != p} e^{alpha (cos + margin)})``

    Args:
        embeddings: (B, D) float. Any length; only the direction counts.
        labels: (B,) integers in [0, C).
        class_weight: (C, D) float, the proxies. Any length; only the direction counts.
        alpha: scale, > 0. Larger looks harder at hard images.
        margin: of the cosine, >= 0.

    Returns:
        () loss, in nats. A connected 0 if no row has a direction; rows without one are left out.

    Raises:
        SizeError: shapes, types or devices that do not fit, or a label outside [0, C).

    >>> axes = torch.eye(2)
    >>> proxy_anchor_loss(axes, torch.tensor([0, 1]), axes, alpha=1.0, margin=0.0)
    tensor(1.0064)
    """
    batch = classify(embeddings, labels, class_weight)
    present = max(len(torch.unique(batch.targets)), 1)
    proxies = max(len(class_weight), 1)

    def of_classes(cosines: Tensor, own: Tensor) -> Tensor:
        pulls, pushes, slopes = _of_classes(cosines.detach(), own, alpha, margin, 1 / present, 1 / proxies)
        return with_slopes(pulls + pushes, (cosines, slopes))

    with outside_autocast(embeddings):
        return sum_over_classes(batch, of_classes) + batch.zero


@torch.no_grad()
def _of_classes(
    cosines: Tensor, own: Tensor, alpha: float, margin: float, pull: float, push: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Both terms of a block of classes, weighted, and the slopes of their sum in the (A, c) cosines.

    By hand: a graph through these passes would take as many again.
    """
    images, places = own.nonzero(as_tuple=True)
    positive = -alpha * (cosines[images, places] - margin)
    negative = (cosines * alpha).add_(alpha * margin)
    negative[images, places] = -torch.inf
    # log(1 + sum e^x) = top + log(e^-top + sum e^(x - top)), sound for any alpha.
    top = negative.amax(dim=0).clamp_(min=0) if len(negative) else negative.new_zeros(negative.shape[1])
    negative.sub_(top).exp_()
    mass = (-top).exp() + negative.sum(dim=0)
    pushes = push * (top + mass.log()).sum()
    slopes = negative.mul_(push * alpha / mass)

    top = torch.zeros_like(mass).scatter_reduce_(0, places, positive, "amax")
    weights = (positive - top[places]).exp()
    mass = (-top).exp().index_add_(0, places, weights)
    pulls = pull * (top + mass.log()).sum()
    slopes[images, places] = -pull * alpha * weights / mass[places]
    return pulls, pushes, slopes


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
        num_classes: C, training classes.
        embedding_dim: D, width of the embedding.
        alpha: scale, > 0.
        margin: of the cosine, >= 0.

    Raises:
        SettingsError: a value out of range.
    """

    def __init__(self, num_classes: int, embedding_dim: int, *, alpha: float = 32.0, margin: float = 0.1) -> None:
        super().__init__(num_classes, embedding_dim)
        self.alpha = check_number("alpha", alpha, above=0)
        self.margin = check_number("margin", margin, at_least=0)
        nn.init.kaiming_normal_(self.class_weight, mode="fan_out")

    def of_batch(self, embeddings: Tensor, labels: Tensor) -> Tensor:
        """(B, D), (B,) in [0, C) -> (), in nats."""
        return proxy_anchor_loss(embeddings, labels, self.class_weight, alpha=self.alpha, margin=self.margin)
