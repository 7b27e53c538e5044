"""Pooling, normalisation and one linear layer: the head of SEC and of NormSoftmax."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from cosphere.models.heads.base import LAST, Features, Head, HeadSettings, ShapeOf, register_head
from cosphere.models.heads.layers import Pooling, make_linear, make_norm


@register_head("linear")
class LinearHead(Head):
    """pool -> backbone's own last layers -> norm -> linear.

    Attributes:
        pool: the pooling.
        norm: the normalisation before the linear layer.
        linear: the linear layer; the identity where ``settings.dim`` is 0.
    """

    def __init__(self, shape_of: ShapeOf, settings: HeadSettings, *, level: int = LAST) -> None:
        """Create the head.

        Args:
            shape_of: shape of each level of the backbone.
            settings: what all heads share.
            level: which level of the backbone to use.

        Raises:
            SettingsError: the backbone has no such level, or the pooling does not suit it.
        """
        shape = shape_of(level)
        pool = Pooling(settings.pooling, prefix_tokens=shape.prefix_tokens, class_token=shape.class_token)
        width = pool.parts * shape.width
        super().__init__(settings.dim or width)
        self.wants = (level,)
        self.pool = pool
        self.norm = make_norm(settings.norm, width)
        self.linear = make_linear(width, settings.dim, bias=settings.bias)

    def forward(self, features: Sequence[Features]) -> Tensor:
        """Features of one level -> (B, D)."""
        (level,) = features
        embedding: Tensor = self.linear(self.norm(level.finish(self.pool(level.values))))
        return embedding
