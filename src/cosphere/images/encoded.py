"""The bytes of an image as they are stored, without decoding them."""

from __future__ import annotations

import io
import stat
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from cosphere.errors import ImageError
from cosphere.images.containers import find_item
from cosphere.images.containers.kind import MAX_ITEM_BYTES
from cosphere.images.decode import image_kind


class EncodedImage(NamedTuple):
    """An image file in memory."""

    content: bytes
    suffix: str
    """The usual suffix of its format, such as ``.jpg``."""


def encoded_image(source: str | Path) -> EncodedImage:
    """Read an image file or an item of a container, and look at its header only.

    What a container holds as pixels (pages of a PDF, rows of CIFAR) is encoded as PNG, which loses nothing.

    Args:
        source: a path, or ``"<container>#<item>"``.

    Raises:
        ImageError: it is missing, empty, larger than 256 MiB, not an image, or cannot be read.
        MissingExtraError: the container's format needs an optional package.
    """
    item = find_item(source)
    content = _file(Path(source)) if item is None else item.read()
    if isinstance(content, np.ndarray):
        file = io.BytesIO()
        Image.fromarray(content).save(file, "PNG")
        return EncodedImage(file.getvalue(), ".png")
    if not content:
        raise ImageError(f"{source} is empty (0 bytes). Copy or download it again, or remove it.")
    return EncodedImage(content, image_kind(content, str(source)).suffix)


def _file(path: Path) -> bytes:
    try:
        if not stat.S_ISREG(path.stat().st_mode):  # opening a pipe would wait for its writer
            raise ImageError(f"{path} is not a regular file. Name an image file.")
        with path.open("rb") as file:
            content = file.read(MAX_ITEM_BYTES + 1)
    except FileNotFoundError:
        raise ImageError(f"{path} does not exist. Check the path.") from None
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise ImageError(f"{path} cannot be read: {reason}. Check the path and the disk.") from error
    if len(content) > MAX_ITEM_BYTES:
        raise ImageError(f"{path} has more than {MAX_ITEM_BYTES:,} bytes, which are not read. Make it smaller.")
    return content
