"""The mark by which the picture of a search is told from a photo: EXIF data that names what wrote it."""

from __future__ import annotations

import re
from pathlib import Path

from PIL import Image

from cosphere.disk import check_waits

_SOFTWARE = 305
"""The EXIF tag that names the program which wrote a picture."""
_MARK = "cosphere search"
_DEFAULT_NAME = re.compile(r"search(-\d+)?\.png")
"""The names under which a search writes its pictures unless told otherwise."""


def picture_mark() -> Image.Exif:
    """EXIF data for the picture of a search, by which :func:`is_marked` recognises it."""
    mark = Image.Exif()
    mark[_SOFTWARE] = _MARK
    return mark


def is_marked(path: str | Path) -> bool:
    """Whether a file is the picture of a search; its pixels are not decoded."""
    try:
        check_waits(Path(path))
        with Image.open(path) as picture:
            return picture.getexif().get(_SOFTWARE) == _MARK
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):  # of every file that is no picture
        return False


def is_left_by_search(name: str, path: str | Path) -> bool:
    """Whether a file among images was left there by a search: its default name, which costs nothing to compare, and its mark."""
    return _DEFAULT_NAME.fullmatch(name) is not None and is_marked(path)
