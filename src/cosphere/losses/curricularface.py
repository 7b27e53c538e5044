"""CurricularFace: an angular margin with hard negative classes weighted more as training progresses."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from cosphere.checks import check_number, check_share
from cosphere.losses.engine.base import describe
from cosphere.losses.engine.classes import Classified, ClassLoss, SampleRule, Workspace, classify, own_cosines
from cosphere.losses.engine.maths import add_angle, check_angle, log_one_plus_exp, running_mean
from cosphere.losses.engine.softmax import against_classes
from cosphere.tensors import outside_autocast

__all__ = ["CurricularFaceLoss", "curricularface_loss"]


def curricularface_loss(
    embeddings: Tensor,
    labels: Tensor,
    class_weight: Tensor,
    *,
    margin: float = 0.5,
    scale: float = 64.0,
    curriculum: Tensor | float = 0.0,
    sampled: Tensor | None = None,
) -> Tensor:
    """ArcFace that replaces ``cos`` by ``cos (t + cos)`` for hard negative classes.

    Equations 5 to 8 of Huang et al. (CVPR 2020), and the official code: a negative class is hard if its cosine exceeds
    ``cos(theta + margin)`` of the target class. Past ``theta = pi - margin`` the target is ``cos - margin
    sin(margin)``.

    Args:
        embeddings: (B, D) float; L2-normalized internally.
        labels: (B,) integers in [0, C).
        class_weight: (C, D) float; L2-normalized internally.
        margin: radians, in [0, pi].
        scale: logit scale, > 0.
        curriculum: t, treated as a constant: a running mean of the target cosines, near 0 at first and near 1 at the
            end of training.
        sampled: (S,) int64 ascending class indices to compute logits for, including those of the batch. Default: all.

    Returns:
        (B,) loss per sample, in nats. Zero-norm rows give a differentiable 0.

    Raises:
        SizeError: incompatible shapes, dtypes or devices, or a label outside [0, C).

    >>> axes = torch.eye(2)
    >>> curricularface_loss(axes, torch.tensor([0, 1]), axes, margin=0.0, scale=1.0)
    tensor([0.3133, 0.3133])
    """
    batch = classify(embeddings, labels, class_weight)
    with outside_autocast(embeddings):
        # The mean cosine is a statistic of the whole batch, so it is computed before the pass over the classes.
        limit = add_angle(own_cosines(batch), margin, fallback=False)[:, None]
        t = torch.as_tensor(curriculum, dtype=limit.dtype, device=limit.device)
        target, others, _ = against_classes(batch, scale=scale, logits=_Harder(limit, t), sampled=sampled)
        return batch.scatter(log_one_plus_exp(others - scale * add_angle(target, margin)))


class _Harder:
    """cos, or cos (t + cos) where cos > limit: a stage of :func:`against_classes`.

    Avoids torch.where, which is twenty times slower than a product on such an irregular mask.
    """

    def __init__(self, limit: Tensor, curriculum: Tensor) -> None:
        self.limit = limit
        self.more = curriculum - 1

    def values(self, inputs: Tensor, space: Workspace) -> Tensor:
        hard = torch.gt(inputs, self.limit, out=space.take("hard", inputs))
        factor = torch.add(inputs, self.more, out=space.take("harder", inputs)).mul_(hard)
        return torch.addcmul(inputs, inputs, factor, out=factor)

    def pull_back(self, inputs: Tensor, gradient: Tensor, space: Workspace) -> Tensor:
        hard = space.take("hard", inputs)
        rates = torch.add(self.more, inputs, alpha=2, out=space.take("rates", inputs)).mul_(hard)
        return gradient.addcmul_(gradient, rates)


@describe(
    name="curricularface",
    paper="Huang et al.: CurricularFace: Adaptive Curriculum Learning Loss for Deep Face Recognition, CVPR 2020",
    batch="any",
    normalises="embeddings and class weights",
    defaults_source="paper and official code: margin 0.5, scale 64, momentum 0.01, class weights normal with deviation 0.01",
    cost="O(B C D) time, O(B D + C D) memory and one block",
    choose_when="many classes in a long run: easy images first, hard ones later; its state t is saved with it",
)
class CurricularFaceLoss(ClassLoss):
    """Module form of :func:`curricularface_loss` with learned class weights and the curriculum; averages over nonzero rows.

    In training mode each call first updates ``curriculum`` with the batch's mean target cosine; each process updates
    its own copy, as in the official code. In evaluation mode it is fixed.

    Args:
        num_classes: C, number of training classes.
        embedding_dim: D, embedding dimension.
        margin: radians, in [0, pi].
        scale: logit scale, > 0.
        momentum: weight of the batch in the running mean, in (0, 1].
        sample_rate: fraction of classes sampled for the softmax of each training step; see
            :class:`cosphere.losses.ClassLoss`.
        sample_rule: "partial_fc" or "norm_softmax".

    Raises:
        SettingsError: a value is out of range.
    """

    curriculum: Tensor
    """() the paper's t."""

    def __init__(
        self,
        num_classes: int,
        embedding_dim: int,
        *,
        margin: float = 0.5,
        scale: float = 64.0,
        momentum: float = 0.01,
        sample_rate: float = 1.0,
        sample_rule: SampleRule = "partial_fc",
    ) -> None:
        super().__init__(num_classes, embedding_dim, sample_rate=sample_rate, sample_rule=sample_rule)
        self.margin = check_angle("margin", margin)
        self.scale = check_number("scale", scale, above=0)
        self.momentum = check_share("momentum", momentum)
        self.register_buffer("curriculum", torch.zeros(()))
        nn.init.normal_(self.class_weight, std=0.01)

    def per_sample(self, embeddings: Tensor, labels: Tensor) -> Tensor:
        """(B, D), (B,) in [0, C) -> (B,), in nats."""
        if self.training:
            self._advance(classify(embeddings.detach(), labels, self.class_weight))
        return curricularface_loss(
            embeddings,
            labels,
            self.class_weight,
            margin=self.margin,
            scale=self.scale,
            curriculum=self.curriculum.clone(),  # backward recomputes the logits, possibly after another step
            sampled=self.sampled(labels),
        )

    @torch.no_grad()
    def _advance(self, batch: Classified) -> None:
        self.curriculum.copy_(running_mean(self.curriculum, own_cosines(batch).mean(), self.momentum))
