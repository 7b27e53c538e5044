"""Heads that come with weights: from a published file of a face network, or from a model that is fine-tuned."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Protocol, runtime_checkable

from torch import Tensor, nn

from cosphere.errors import WeightsError
from cosphere.models.heads import Head
from cosphere.models.weights import fit_weights, read_weights


@runtime_checkable
class HasPublishedHead(Protocol):
    """A network whose published files hold the layers up to the embedding, as those for faces do."""

    def own_names(self, tensors: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """A file's tensors by the names of this network."""

    def head_weights(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The published head by the names of the linear head; empty where a file holds none."""


def own_names(net: nn.Module, tensors: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    """A file's tensors by the names of a network; most networks have the names of their files."""
    return net.own_names(tensors) if isinstance(net, HasPublishedHead) else tensors


def take_published_head(head: Head, net: nn.Module, weights: str) -> str:
    """Load the head that a published file holds behind the network's feature map, where ``head`` has the same layers.

    Args:
        head: of the embedder.
        net: the network, which has loaded the file's other tensors.
        weights: the file; "imagenet" and "none" hold no head.

    Returns:
        where the weights come from, in words: the file, or that only the backbone was taken from it; empty where no file
        holds a head.

    Raises:
        WeightsError: the file's head has the same layers of other sizes.
    """
    if weights in ("imagenet", "none") or not isinstance(net, HasPublishedHead):
        return ""
    tensors = net.head_weights(net.own_names(read_weights(Path(weights))))
    own, theirs = (
        {name for name in names if not name.endswith("num_batches_tracked")} for names in (head.state_dict(), tensors)
    )
    if not theirs:
        return ""
    if own != theirs:
        return f"{weights} (backbone only)"
    try:
        fit_weights(head, tensors, source=weights, name="head")
    except WeightsError as error:
        raise WeightsError(
            f"{error} The file's head is for another width or image size: set model.dim and images.size to those of the file "
            "(most: 512 and 112), or train a new head with model.norm batch."
        ) from error
    return weights
