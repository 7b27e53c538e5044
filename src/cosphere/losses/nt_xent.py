"""NT-Xent, the loss of SimCLR: each positive pair against all negatives of its anchor."""

from __future__ import annotations

from typing import Unpack

from torch import Tensor

from cosphere.checks import check_number
from cosphere.losses.engine.base import PairLoss, describe
from cosphere.losses.engine.maths import mean_or_zero
from cosphere.losses.engine.pairs import Compared, compare
from cosphere.losses.engine.rows import each_positive_against_negatives, sum_over_rows

__all__ = ["NTXentLoss", "nt_xent_loss"]


def nt_xent_loss(
    embeddings: Tensor,
    labels: Tensor,
    *,
    temperature: float,
    base_temperature: float | None = None,
    **compared: Unpack[Compared],
) -> Tensor:
    """``log(e^(s_p / t) + sum_n e^(s_n / t)) - s_p / t``, mean over all ordered positive pairs.

    With two views of each image as its class this is SimCLR's loss. With more positives an anchor has one term for
    each, and other positives are excluded from the denominator, as in pytorch-metric-learning; :func:`sup_con_loss`
    includes them.

    Args:
        embeddings: (B, D) float; L2-normalized internally.
        labels: (B,) integers; for two views, the index of the image.
        temperature: t, > 0, in units of cosine. SimCLR on CIFAR 0.5, pytorch-metric-learning 0.07.
        base_temperature: multiplies the loss by ``temperature / base_temperature``, as the SupContrast code does, and the
            SEC authors' self-supervised runs with its 0.07. None: 1.
        compared: see :func:`cosphere.losses.compare`.

    Returns:
        () >= 0, in nats; a differentiable 0 when there is no positive pair or no negative.

    Raises:
        SizeError: incompatible shapes, dtypes, devices or indices.
    """
    pairs = compare(embeddings, labels, **compared)
    total = sum_over_rows(pairs, lambda block: each_positive_against_negatives(block, 1 / temperature)).total
    factor = 1.0 if base_temperature is None else temperature / base_temperature
    return factor * mean_or_zero(total, pairs.positives_per_anchor.sum()) + pairs.zero


@describe(
    name="nt_xent",
    paper="Chen et al.: A Simple Framework for Contrastive Learning of Visual Representations, ICML 2020",
    batch="2 views of each image, or at least 2 images per class; at least 2 classes",
    normalises="embeddings",
    defaults_source="SimCLR on CIFAR and the SEC authors' self-supervised code, whose base temperature is 0.07",
    cost="O(B^2 D) time, O(B D) memory and one block",
    choose_when="learning without labels, from two views of each image",
    forms=[{"base_temperature": 0.07}],
)
class NTXentLoss(PairLoss):
    """Module form of :func:`nt_xent_loss`.

    >>> import torch
    >>> points = torch.tensor([[2.0, 0.0], [1.2, 1.6], [0.0, 1.0], [-3.0, 0.0]])
    >>> NTXentLoss()(points, torch.tensor([0, 0, 1, 1]))
    tensor(0.8861)
    """

    function = staticmethod(nt_xent_loss)
    labels_from = "image"

    def __init__(self, *, temperature: float = 0.5, base_temperature: float | None = None) -> None:
        super().__init__()
        self.temperature = check_number("temperature", temperature, above=0)
        self.base_temperature = (
            None if base_temperature is None else check_number("base_temperature", base_temperature, above=0)
        )
