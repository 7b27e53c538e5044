"""A projection head with one hidden layer, for contrastive self-supervision."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, get_args

from torch import Tensor, nn

from cosphere.checks import MOST_DIM, check_choice, check_whole
from cosphere.models.heads.base import LAST, Features, Head, HeadSettings, ShapeOf, make_pooling, register_head
from cosphere.models.heads.layers import make_linear, make_norm

Output = Literal["features", "projection"]


@register_head("mlp")
class MLPHead(Head):
    """pool -> backbone's own last layers -> norm -> linear -> ReLU -> linear. The projection has raw length, as SEC needs.

    At test time the pooled features are used and the projection is dropped (SimCLR), unless ``output`` says otherwise.
    ``norm="none"`` gives the head of the SEC authors' self-supervised code. Source: Chen et al., "A Simple Framework for
    Contrastive Learning of Visual Representations", ICML 2020.

    Attributes:
        pool: the pooling.
        norm: the normalisation before the hidden layer.
        hidden: the hidden layer.
        linear: the projection.
    """

    def __init__(
        self, shape_of: ShapeOf, settings: HeadSettings, *, hidden: int = 0, output: Output = "features"
    ) -> None:
        """Create the head.

        Args:
            shape_of: shape of each level of the backbone.
            settings: what all heads share; ``dim`` is the width of the projection, at least 1.
            hidden: width of the hidden layer; 0 takes that of the pooled features.
            output: what :meth:`embed` gives: "features" or "projection".

        Raises:
            SettingsError: a value out of range.
        """
        check_choice("model.head_settings.output", output, get_args(Output))
        check_whole("model.head_settings.hidden", hidden, least=0, most=MOST_DIM)
        check_whole("model.dim with head 'mlp'", settings.dim, least=1)
        shape = shape_of(LAST)
        pool = make_pooling(settings.pooling, shape)
        width = pool.parts * shape.width
        super().__init__(settings.dim, output_dim=width if output == "features" else settings.dim)
        self.output = output
        self.pool = pool
        self.norm = make_norm(settings.norm, width)
        self.hidden = nn.Linear(width, hidden or width)
        self.linear = make_linear(hidden or width, settings.dim, bias=settings.bias)

    def forward(self, features: Sequence[Features]) -> Tensor:
        """Features of the last level -> projection (B, D)."""
        projection: Tensor = self.linear(self.hidden(self.norm(self._pooled(features))).relu())
        return projection

    def embed(self, features: Sequence[Features]) -> Tensor:
        """Features of the last level -> pooled features (B, width), or the projection (B, D)."""
        return self._pooled(features) if self.output == "features" else super().embed(features)

    def _pooled(self, features: Sequence[Features]) -> Tensor:
        (last,) = features
        return last.finish(self.pool(last.values))
