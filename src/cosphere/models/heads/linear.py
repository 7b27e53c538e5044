"""Pooling, normalisation and one linear layer: the head of SEC and of NormSoftmax."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations

from cosphere.checks import check_number, check_switch
from cosphere.errors import SettingsError
from cosphere.models.heads.base import LAST, Features, Head, HeadSettings, ShapeOf, make_pooling, register_head
from cosphere.models.heads.layers import OutputName, make_linear, make_norm, make_output


@register_head("linear")
class LinearHead(Head):
    """pool -> backbone's own last layers -> norm -> linear -> output.

    Attributes:
        pool: the pooling.
        norm: the normalisation before the linear layer.
        linear: the linear layer; the identity where ``settings.dim`` is 0.
        output: what stands after it; the identity unless ``after`` says otherwise.
    """

    def __init__(
        self,
        shape_of: ShapeOf,
        settings: HeadSettings,
        *,
        level: int = LAST,
        after: OutputName = "none",
        weight_norm: bool = False,
        cut: float = 1.0,
    ) -> None:
        """Create the head.

        Args:
            shape_of: shape of each level of the backbone.
            settings: what all heads share.
            level: which level of the backbone to use.
            after: what stands after the linear layer; see :func:`cosphere.models.heads.layers.make_output`.
            weight_norm: train direction and length of each row of the linear layer's weight apart (Salimans and Kingma 2016).
            cut: divide the linear layer's first weights, so that embeddings start short (cut-initialisation, Draganov et al. 2025).

        Raises:
            SettingsError: the backbone has no such level, the pooling does not suit it, or a setting is out of range.
        """
        shape = shape_of(level)
        pool = make_pooling(settings.pooling, shape)
        width = pool.parts * shape.width
        super().__init__(settings.dim or width)
        self.wants = (level,)
        self.pool = pool
        self.norm = make_norm(settings.norm, width)
        self.linear = make_linear(width, settings.dim, bias=settings.bias)
        self.output = make_output(after, self.dim)
        _adapt(self.linear, weight_norm=weight_norm, cut=cut)

    def forward(self, features: Sequence[Features]) -> Tensor:
        """Features of one level -> (B, D)."""
        (level,) = features
        embedding: Tensor = self.output(self.linear(self.norm(level.finish(self.pool(level.values)))))
        return embedding


def _adapt(linear: nn.Module, *, weight_norm: bool, cut: float) -> None:
    """Cut the first weights of a linear layer, and parametrize them.

    Raises:
        SettingsError: a setting is out of range, or there is no linear layer.
    """
    check_number("model.head_settings.cut", cut, above=0)
    check_switch("model.head_settings.weight_norm", weight_norm)
    if not weight_norm and cut == 1:
        return
    if not isinstance(linear, nn.Linear):
        raise SettingsError("weight_norm and cut are for the linear layer, and model.dim 0 leaves it out. Give a dim.")
    if cut != 1:
        with torch.no_grad():
            for parameter in linear.parameters():
                parameter.div_(cut)
    if weight_norm:
        parametrizations.weight_norm(linear)
