"""Pages of a PDF as images: ``scan.pdf#3`` is the third page. Needs pypdfium2 (extra ``pdf``)."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cosphere.errors import DataError, MissingExtraError
from cosphere.images.containers.kind import Container, ForkSafeLock, item_number

DPI = 200
"""Resolution of a rendered page, in pixels per inch: an A4 page has 1654 x 2339 pixels."""

MAX_PAGE_PIXELS = 100_000_000
"""A page that would have more pixels than this is refused before it is rendered."""

_lock = ForkSafeLock()
"""PDFium may be called by one thread at a time."""


def pages(path: Path) -> list[str]:
    """The page numbers, from 1.

    Raises:
        DataError: the file is not a PDF, is damaged or needs a password.
        MissingExtraError: pypdfium2 is not installed.
    """
    with _document(path) as document:
        return [str(number) for number in range(1, len(document) + 1)]


def read_page(path: Path, page: str) -> NDArray[np.uint8]:
    """One page at :data:`DPI` on white, turned as the PDF says. (H, W, 3) uint8 RGB.

    Raises:
        DataError: there is no such page, it is too large, or the file cannot be read.
        MissingExtraError: pypdfium2 is not installed.
    """
    with _document(path) as document:
        if not 1 <= item_number(page) <= len(document):
            raise DataError(f"{path} has pages 1 to {len(document)}, so there is no page {page[:40]!r}.")
        sheet = document[item_number(page) - 1]
        width, height = (side * DPI / 72 for side in sheet.get_size())  # a point is 1/72 inch
        if width * height > MAX_PAGE_PIXELS:
            raise DataError(
                f"page {page} of {path} is too large: {width:.0f} x {height:.0f} pixels at {DPI} pixels per inch. "
                "Export it as PNG at a lower resolution."
            )
        pixels: NDArray[np.uint8] = sheet.render(scale=DPI / 72, rev_byteorder=True).to_numpy()
        return pixels[:, :, :3].copy()  # PDFium's memory goes with the document


@contextlib.contextmanager
def _document(path: Path) -> Iterator[Any]:
    try:
        import pypdfium2
    except ImportError:
        raise MissingExtraError("pypdfium2", "pdf") from None
    with _lock:
        try:
            document = pypdfium2.PdfDocument(path)
        except (OSError, pypdfium2.PdfiumError) as error:
            raise _unreadable(path, error) from error
        try:
            yield document
        except pypdfium2.PdfiumError as error:
            raise _unreadable(path, error) from error
        finally:
            document.close()


def _unreadable(path: Path, error: Exception) -> DataError:
    return DataError(f"{path} cannot be read as a PDF: {error}. Copy or download it again, or export its pages as PNG.")


CONTAINER = Container(
    name="PDF",
    pattern=re.compile(r".+\.pdf", re.IGNORECASE),
    items=pages,
    read=read_page,
)
