"""Which weights a setting ``model.weights`` or a bundle stands for: the same ones in another place, and others under the same name."""

from __future__ import annotations

import functools
import hashlib
import re
from pathlib import Path

from cosphere.disk import FileState, file_state
from cosphere.errors import WeightsError
from cosphere.files import path_of
from cosphere.images import Preprocessing
from cosphere.models import bundle, fingerprint
from cosphere.models.published import source_of
from cosphere.models.settings import EmbedderSettings
from cosphere.models.timm_part import timm_part
from cosphere.models.weights import check_weights_file

_DIGITS = re.compile(r"-([0-9a-f]{8,64})\.")
"""First digits of a file's SHA-256 in its name, as torch's hub has them: ``resnet50-0676ba61.pth``."""


def weights_identity(weights: str) -> str:
    """What identifies weights wherever they lie: the words "imagenet" and "none" as they are, for a path a digest of what is there.

    Args:
        weights: as :func:`cosphere.models.build_backbone` takes them: "imagenet", "none", a file, or the folder of a run or bundle.

    Returns:
        "imagenet", "none", or ``sha256:`` and 64 hexadecimal digits: of a file's bytes, or of the weights in a folder.

    Raises:
        RunError: a folder holds no bundle.
        WeightsError: there is no such file, or it cannot be read.

    >>> weights_identity("imagenet")
    'imagenet'
    """
    if weights in ("imagenet", "none"):
        return weights
    path = Path(weights)
    if path.is_dir():
        stored = bundle.read(path)
        digest = stored.content.get("digest")
        return f"sha256:{digest or file_digest(stored.path / bundle.WEIGHTS)}"
    check_weights_file(path)
    return f"sha256:{file_digest(path)}"


def stored_model_id(path: str | Path) -> str:
    """:attr:`cosphere.models.Embedder.id` of a model on disk, from its description: the weights are not read.

    Args:
        path: a bundle, or the folder of a run.

    Returns:
        64 hexadecimal digits; empty for a bundle of a version that stored no digest of the weights.

    Raises:
        RunError: there is no bundle, or it does not describe a model.
    """
    stored = bundle.read(path_of(path))
    digest = stored.content.get("digest")
    with stored.explained():
        settings = EmbedderSettings(**stored.section("settings"))
        preprocessing = Preprocessing.from_dict(stored.section("preprocessing"))
        return fingerprint.of_model(settings, preprocessing, str(digest)) if digest else ""


def file_digest(path: Path) -> str:
    """SHA-256 of a file, as 64 hexadecimal digits; read again only where its size or times of change are others.

    Raises:
        WeightsError: it cannot be read.
    """
    try:
        return _digest(str(path.absolute()), file_state(path.stat()))
    except OSError as error:
        raise WeightsError(f"{path} cannot be read: {error.strerror or error}. Check its permissions.") from error


@functools.lru_cache(maxsize=64)
def _digest(path: str, state: FileState) -> str:
    del state
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def is_published_file(backbone: str, path: Path) -> bool | None:
    """Whether a file holds the published weights of a backbone, by the digits of its SHA-256 in the published file's name.

    Args:
        backbone: a name that :func:`cosphere.models.build_backbone` takes.
        path: the file, under any name.

    Returns:
        None where that cannot be said: the published name has no digits, or the weights are also published in another form.

    Raises:
        WeightsError: the file cannot be read.
    """
    facts = timm_part(backbone).get_pretrained_cfg(backbone)
    digits = _DIGITS.search(getattr(facts, "url", None) or "")
    if digits is not None and file_digest(path).startswith(digits[1]):
        return True
    source = source_of(facts)
    return None if digits is None or source is None or source.on_hub else False
