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
    """Cross-entropy over ``scale * cosine``, where the cosine to the own class is first made smaller by ``margin``.

    Args:
        embeddings: (B, D) float. Any length; only the direction counts.
        labels: (B,) integers in [0, C).
        class_weight: (C, D) float. Any length; only the direction counts.
        margin: how much nearer an image must be to its class than to others, in cosine, >= 0.
        scale: of all logits, > 0.
        sampled: (S,) int64 ascending classes to run over, those of the batch among them; all by default.

    Returns:
        (B,) loss per sample, in nats. Rows without a direction give a connected 0.

    Raises:
        SizeError: shapes, types or devices that do not fit, or a label outside [0, C).

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
    choose_when="many classes, and pairs of unseen classes to be told apart by one threshold; the plainest of the margins",
)
class CosFaceLoss(ClassLoss):
    """The class directions of :func:`cosface_loss`, and its mean over the rows that have a direction.

    Args:
        num_classes: C, training classes.
        embedding_dim: D, width of the embedding.
        margin: in cosine, >= 0.
        scale: of all logits, > 0.
        sample_rate: share of the classes in a training step's softmax; see :class:`cosphere.losses.ClassLoss`.
        sample_rule: Partial FC's by default.

    Raises:
        SettingsError: a value out of range.
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
