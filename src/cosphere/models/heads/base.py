"""What a head is, and the registry that finds one by name."""

from __future__ import annotations

import abc
import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeVar

from torch import Tensor, nn

from cosphere.errors import SettingsError, did_you_mean, no_own_setting
from cosphere.models.heads.layers import NormName, Pooled, Pooling, PoolingName

LAST = -1
"""The level of a backbone's final features."""


class Features(NamedTuple):
    """The features of one level of a backbone for a batch of images."""

    values: Tensor | Pooled
    """(B, C, H, W), or (B, N, C) from a network of tokens; or what is pooled already, with nothing to finish."""
    finish: Callable[[Tensor], Tensor]
    """The backbone's own layers between pooling and classifier. (B, C) -> (B, width); the identity below the last level."""


@dataclass(frozen=True, kw_only=True)
class LevelShape:
    """The sizes a head needs to know of one level.

    Attributes:
        channels: C of the features.
        width: what ``finish`` turns C into; the same for most networks.
        prefix_tokens: number of class and register tokens; 0 for a feature map.
        class_token: whether the first of them is a class token.
        positions: how many the features have, prefix tokens left out; None where that is not known.
    """

    channels: int
    width: int
    prefix_tokens: int = 0
    class_token: bool = False
    positions: int | None = None


def make_pooling(kind: PoolingName, shape: LevelShape) -> Pooling:
    """The pooling of one level.

    Raises:
        SettingsError: an unknown kind, or one that does not suit the level.
    """
    return Pooling(
        kind,
        prefix_tokens=shape.prefix_tokens,
        class_token=shape.class_token,
        channels=shape.channels,
        positions=shape.positions,
    )


ShapeOf = Callable[[int], LevelShape]
"""The shape of a level: :data:`LAST`, or an index into the backbone's stages, counted from the end where negative."""


@dataclass(frozen=True, kw_only=True)
class HeadSettings:
    """The settings that every head shares; see :class:`cosphere.models.EmbedderSettings`."""

    dim: int = 512
    pooling: PoolingName = "avg"
    norm: NormName = "batch"
    bias: bool = True


class Head(nn.Module, abc.ABC):
    """Turns features into embeddings.

    A subclass is created as ``MyHead(shape_of, settings, **own)``: ``shape_of(level)`` gives the shape of a level, ``settings``
    the shared settings, and each further keyword is a setting of its own with a default, given as ``model.head_settings``.
    It sets ``dim``, and ``wants`` and ``output_dim`` where they differ from the defaults.

    Attributes:
        wants: levels of the backbone that :meth:`forward` gets, in this order.
        dim: D, the width of :meth:`forward`, which losses see.
        output_dim: D', the width of :meth:`embed`, which is stored and searched.
    """

    wants: tuple[int, ...] = (LAST,)

    def __init__(self, dim: int, *, output_dim: int | None = None) -> None:
        super().__init__()
        self.dim = dim
        self.output_dim = dim if output_dim is None else output_dim

    @abc.abstractmethod
    def forward(self, features: Sequence[Features]) -> Tensor:
        """Embeddings of raw length for the loss. One entry for each level of ``wants`` -> (B, D)."""

    def combine(self, embedding: Tensor) -> Tensor:
        """Turn an embedding as trained into the one that is compared at test time. (B, D) -> (B, D'); here the identity."""
        return embedding

    def embed(self, features: Sequence[Features]) -> Tensor:
        """The embedding at test time. One entry for each level of ``wants`` -> (B, D').

        :meth:`forward` and :meth:`combine`, unless a head compares something else than it trains.
        """
        return self.combine(self(features))


HeadClass = TypeVar("HeadClass", bound=type[Head])

_HEADS: dict[str, Callable[..., Head]] = {}


def register_head(name: str) -> Callable[[HeadClass], HeadClass]:
    """Class decorator: makes a head available as ``model.head``."""

    def register(head: HeadClass) -> HeadClass:
        _HEADS[name] = head
        return head

    return register


def head_names() -> list[str]:
    """The names of all heads."""
    return sorted(_HEADS)


def own_settings(name: str) -> dict[str, Any]:
    """The settings of one head and their defaults.

    Raises:
        SettingsError: no such head.
    """
    if name not in _HEADS:
        raise SettingsError(f"unknown model.head {name!r}. {did_you_mean(str(name), head_names())}")
    parameters = inspect.signature(_HEADS[name]).parameters.values()
    return {one.name: one.default for one in parameters if one.kind is inspect.Parameter.KEYWORD_ONLY}


def check_head(name: str, settings: Mapping[str, Any]) -> None:
    """Raise unless there is a head of this name with these settings.

    Raises:
        SettingsError: no such head, or it has no such setting.
    """
    options = own_settings(name)
    for setting in settings:
        if setting not in options:
            raise SettingsError(no_own_setting(f"head {name!r}", str(setting), options))


def build_head(name: str, shape_of: ShapeOf, settings: HeadSettings, own: Mapping[str, Any]) -> Head:
    """Create a head. Its initial values come from torch's global generator.

    Args:
        name: see :func:`head_names`.
        shape_of: shape of each level of the backbone.
        settings: what all heads share.
        own: the head's own settings; those left out keep their defaults.

    Raises:
        SettingsError: no such head or setting, or a value out of range.
    """
    check_head(name, own)
    return _HEADS[name](shape_of, settings, **own)
