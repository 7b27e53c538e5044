"""Rows of pooled features: where the backbone ends and the layers of the head begin.

    images (B, 3, H, W) -> backbone -> pooling -> row (B, W) | -> the head's layers -> embedding (B, D)

With a frozen backbone a row is a constant of its image, so it can be computed once and trained on many times.
"""

from __future__ import annotations

import torch
from torch import Tensor

from cosphere.errors import SettingsError, SizeError
from cosphere.models.backbones import Backbone
from cosphere.models.heads import Features, Head, Pooled, Pooling


def pooled(backbone: Backbone, head: Head, inputs: Tensor) -> Tensor:
    """The pooled features of each level that the head uses, side by side. (B, 3, H, W) -> (B, W).

    Raises:
        SettingsError: the head's pooling is trained, or is none of ours.
    """
    pools = poolings(head)
    levels = backbone.features(inputs, head.wants)
    return torch.cat([level.finish(pool(level.values)) for level, pool in zip(levels, pools, strict=True)], dim=1)


def widths(backbone: Backbone, head: Head) -> list[int]:
    """The width of each level in a row; their sum is W.

    Raises:
        SettingsError: as for :func:`pooled`.
    """
    pools = poolings(head)
    return [pool.parts * backbone.shape(level).width for pool, level in zip(pools, head.wants, strict=True)]


def as_levels(rows: Tensor, backbone: Backbone, head: Head) -> list[Features]:
    """Rows as the features that a head takes. (B, W) -> one entry (B, W_k) for each level.

    Raises:
        SettingsError: as for :func:`pooled`.
        SizeError: the rows have another width.
    """
    parts = widths(backbone, head)
    if rows.shape[1] != sum(parts):
        raise SizeError(
            f"want a float batch (B, 3, H, W), got {tuple(rows.shape)} {rows.dtype}; rows of pooled features have width "
            f"{sum(parts)} here. embedder.pooled makes such rows of images."
        )
    # Contiguous, as the pooling leaves them: a view of another layout may be multiplied in another order.
    return [Features(Pooled(part.contiguous()), _as_it_is) for part in torch.split(rows, parts, dim=1)]


def poolings(head: Head) -> list[Pooling]:
    """The head's pooling of each level, in the order of ``head.wants``.

    Raises:
        SettingsError: the head does not pool with one :class:`Pooling` for each level, or a pooling has parameters.
    """
    pools = [module for module in head.modules() if isinstance(module, Pooling)]
    if len(pools) != len(head.wants):
        raise SettingsError(
            f"head {type(head).__name__} has {len(pools)} Pooling layers for {len(head.wants)} levels of the backbone, so its "
            "pooled features cannot be taken out. Give it one for each level, or train it on images: features.copies 0."
        )
    trained = [pool.kind for pool in pools if any(True for _ in pool.parameters())]
    if trained:
        raise SettingsError(
            f"pooling {trained[0]!r} is trained with the head, so its result is no constant of an image. Use 'avg' with features."
        )
    return pools


def _as_it_is(pooled: Tensor) -> Tensor:
    return pooled
