"""CosFace: a margin on the cosine to the image's own class."""

from __future__ import annotations

from torch import Tensor, nn

from cosphere.checks import check_number
from cosphere.losses.engine.base import describe
from cosphere.losses.engine.classes import ClassLoss, SampleRule, classify
from cosphere.losses.engine.maths import log_one_plus_exp
from cosphere.losses.engine.softmax import against_classes
from cosphere.tensors import outside_autocast

__all__ = ["CosFaceLoss", "cosface_loss"]


def cosface_loss(
    embeddings: Tensor,
    labels: Tensor,
    class_weight: Tensor,
    *,
    margin: float,
    scale: float = 64.0,
    sampled: Tensor | None = None,
) -> Tensor:
    """Cross-entropy over ``scale * cosine``, with ``margin`` subtracted from the cosine to the target class.

    Args:
        embeddings: (B, D) float; L2-normalized internally.
        labels: (B,) integers in [0, C).
        class_weight: (C, D) float; L2-normalized internally.
        margin: additive cosine margin, >= 0.
        scale: logit scale, > 0.
        sampled: (S,) int64 ascending class indices to compute logits for, including those of the batch. Default: all.

    Returns:
        (B,) loss per sample, in nats. Zero-norm rows give a differentiable 0.

    Raises:
        SizeError: incompatible shapes, dtypes or devices, or a label outside [0, C).

    >>> import torch
    >>> axes = torch.eye(2)
    >>> cosface_loss(axes, torch.tensor([0, 1]), axes, margin=1.0, scale=5.0)
    tensor([0.6931, 0.6931])
    """
    batch = classify(embeddings, labels, class_weight)
    with outside_autocast(embeddings):
        target, others, _ = against_classes(batch, scale=scale, sampled=sampled)
        return batch.scatter(log_one_plus_exp(others - scale * (target - margin)))


@describe(
    name="cosface",
    paper="Wang et al.: CosFace, Large Margin Cosine Loss for Deep Face Recognition, CVPR 2018",
    batch="any; large (512) for faces",
    normalises="embeddings and class weights",
    defaults_source="paper: margin 0.35, scale 64 (InsightFace's code takes 0.40); weights N(0, 0.01) as InsightFace's",
    cost="O(B C D) time, O(B D + C D) memory and one block",
    choose_when="many classes, and pairs of unseen classes separated by one threshold; the plainest of the margins",
)
class CosFaceLoss(ClassLoss):
    """Module form of :func:`cosface_loss` with learned class weights; averages over the rows of nonzero norm.

    Args:
        num_classes: C, number of training classes.
        embedding_dim: D, embedding dimension.
        margin: in cosine, >= 0.
        scale: logit scale, > 0.
        sample_rate: fraction of classes sampled for the softmax of each training step; see
            :class:`cosphere.losses.ClassLoss`.
        sample_rule: default: Partial FC's rule.

    Raises:
        SettingsError: a value is out of range.
    """

    function = staticmethod(cosface_loss)

    def __init__(
        self,
        num_classes: int,
        embedding_dim: int,
        *,
        margin: float = 0.35,
        scale: float = 64.0,
        sample_rate: float = 1.0,
        sample_rule: SampleRule = "partial_fc",
    ) -> None:
        super().__init__(num_classes, embedding_dim, sample_rate=sample_rate, sample_rule=sample_rule)
        self.margin = check_number("margin", margin, at_least=0)
        self.scale = check_number("scale", scale, above=0)
        nn.init.normal_(self.class_weight, std=0.01)
