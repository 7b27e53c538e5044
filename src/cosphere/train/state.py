"""The state of a run, and the check that a checkpoint belongs to it."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from cosphere.data import Catalogue, TrainingParts
from cosphere.errors import RunError, counted
from cosphere.fields import first_difference
from cosphere.models import weights_identity
from cosphere.train.settings import TrainSettings


class Stateful(Protocol):
    """What a checkpoint keeps: a module, an optimiser, the batch stream, the run's own state."""

    def state_dict(self) -> dict[str, Any]:
        """Tensors and plain values."""
        ...

    def load_state_dict(self, state: dict[str, Any]) -> Any:
        """Continue from what :meth:`state_dict` returned."""
        ...


@dataclass
class RunState:
    """The counters, scores and one-time warnings of a run, kept in every checkpoint."""

    step: int = 0
    """Optimiser steps done."""
    seconds: float = 0.0
    """Wall time of training and validation."""
    best: dict[str, Any] = field(default_factory=lambda: {"step": 0, "scores": {}, "rank": None})
    """Step and validation scores of the model that is kept, and the rank by which it won; None before the first validation."""
    before: dict[str, float] = field(default_factory=dict)
    """Validation scores of the untrained model."""
    stale: int = 0
    """Validations since the best one."""
    warned: set[str] = field(default_factory=set)
    """Warnings that were given; each is given once in a run."""

    def state_dict(self) -> dict[str, Any]:
        """Plain values."""
        return {**vars(self), "warned": sorted(self.warned)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from what :meth:`state_dict` returned.

        Raises:
            KeyError: a value is missing.
        """
        for name in vars(self):
            setattr(self, name, state[name])
        self.warned = set(state["warned"])


SAMPLES = "bytes in their files"
"""What the digest of the ends of the image files covers, in words."""
_END = 4096
"""Bytes at the end of a file that are compared."""


def made_with(settings: TrainSettings, images: TrainingParts) -> dict[str, Any]:
    """What a run is made with, as its checkpoints keep it.

    Returns:
        ``settings``, ``classes`` of the training images, the fingerprints ``data`` of these and ``validation`` of the validation
        images (empty without any), and ``weights``, the identity of those that training begins with.

    Raises:
        RunError, WeightsError: there are no weights at ``model.weights``.
    """
    return {
        "settings": settings.as_dict(),
        "classes": images.train.class_names,
        "data": fingerprints(images.train),
        "validation": {} if images.val is None else fingerprints(images.val),
        "weights": weights_identity(settings.model.weights),
    }


def check_same_run(
    saved: Mapping[str, Any],
    settings: Mapping[str, Any],
    class_names: list[str],
    data: Mapping[str, str],
    *,
    config: object,
    validation: Mapping[str, str] | None = None,
    weights: str | None = None,
) -> None:
    """Raise unless a checkpoint was made with these settings, classes and images.

    Args:
        saved: the checkpoint, with ``settings``, ``classes`` and ``data``.
        settings: of this run that must not change, as :meth:`TrainSettings.step_identity` gives them.
        class_names: of the training images.
        data: fingerprints of the training images by what they cover, in words.
        config: the file that the settings come from, for the message.
        validation: fingerprints of the validation images, likewise; None compares none.
        weights: identity of the weights that training begins with. Where the checkpoint has the same, their place may be another;
            where it has another, cached features computed from them are not those of its backbone.

    Raises:
        RunError: they differ; the message names the setting, the number of classes, the part of the images or the weights.
    """
    for key, kind in (("settings", Mapping), ("classes", list), ("data", Mapping)):
        if not isinstance(saved.get(key), kind):
            raise RunError(f"the checkpoint holds no {key}, so it cannot be resumed. Start a new run.")
    if weights is not None and saved.get("weights") == weights:
        settings = {**settings, "model": {key: one for key, one in settings["model"].items() if key != "weights"}}
    difference = first_difference(saved["settings"], settings)
    if difference:
        name, old, new = difference
        raise RunError(
            f"the checkpoint was made with {name} {old!r}, the settings now say {new!r}. "
            f"Put {config} back as it was, or start a new run."
        )
    if saved["classes"] != class_names:
        raise RunError(
            f"the checkpoint was trained on {counted(len(saved['classes']), 'class')}, the data now has {len(class_names)} "
            "or other names. Put the data back as it was, or start a new run."
        )
    _check_images(saved["data"], data, "trained on images")
    # Checkpoints of earlier versions do not say which; the best model is the best on these.
    if validation is not None and isinstance(saved.get("validation"), Mapping):
        _check_images(saved["validation"], validation, "validated on images")
    # A checkpoint of an earlier version does not say which weights; one of a run on images holds all that counts.
    if weights is not None and settings["features"]["copies"] and saved.get("weights", weights) != weights:
        raise RunError(
            f"the checkpoint was trained on features of other weights: model.weights was {_short(saved['weights'])}, now it is "
            f"{_short(weights)}. Put the weights back as they were, or start a new run."
        )


def _check_images(saved: Mapping[str, str], now: Mapping[str, str], words: str) -> None:
    for what in dict.fromkeys([*now, *saved]):
        if what == SAMPLES and what not in saved:  # a checkpoint of an earlier version
            continue
        if saved.get(what) != now.get(what):
            raise RunError(
                f"the checkpoint was {words} with other {what}: their fingerprint was {str(saved.get(what))[:12]}, now it is "
                f"{str(now.get(what))[:12]}. Put the data back as it was, or start a new run."
            )


def _short(weights: object) -> str:
    """An identity of weights for a message.

    >>> _short("sha256:0123456789abcdef"), _short("imagenet")
    ('sha256:0123456789ab', 'imagenet')
    """
    return str(weights)[: len("sha256:") + 12]


def fingerprints(images: Catalogue) -> dict[str, str]:
    """Digests of the training images, by what they cover: the table, and the sizes and last bytes of the files in its order.

    The last 4 kB of an image differ whenever the picture does, and are read thousands of times a second. A time of change is
    not used: copying the data to another machine changes it.
    """
    sizes, samples = hashlib.sha256(), hashlib.sha256()
    ends: dict[str, tuple[bytes, bytes]] = {}  # items of one container share a file
    for path in images.paths:
        file = path.split("#", 1)[0] if not os.path.exists(path) else path  # noqa: PTH110  60 000 Path objects are slow
        size, end = ends[file] if file in ends else ends.setdefault(file, _size_and_end(file))
        sizes.update(size)
        samples.update(end)
    return {
        "paths, labels or boxes": images.fingerprint(),
        "file contents": sizes.hexdigest(),
        SAMPLES: samples.hexdigest(),
    }


def _size_and_end(file: str) -> tuple[bytes, bytes]:
    """The size of a file as text, and a digest of its last bytes; "? " and nothing where it cannot be read."""
    try:
        with open(file, "rb") as content:  # noqa: PTH123
            size = os.fstat(content.fileno()).st_size
            content.seek(max(0, size - _END))
            return b"%d " % size, hashlib.blake2b(content.read(_END)).digest()
    except (OSError, ValueError):
        return b"? ", b""
