"""Text files that list images: their lines, columns and numbers."""

from __future__ import annotations

from pathlib import Path

from cosphere.disk import check_waits
from cosphere.errors import DataError


def read_lines(path: Path) -> list[str]:
    """Read the lines of a list file that are not blank.

    Raises:
        DataError: the file is missing, cannot be read or is not text.
    """
    try:
        check_waits(path)
        text = path.read_text(encoding="utf-8-sig")  # Windows' editors begin a file with a mark
        # Not splitlines, which also breaks at form feeds and Unicode's separators: those may stand in a name.
        return [line for line in text.split("\n") if line.strip()]
    except FileNotFoundError:
        raise DataError(f"{path} is missing. Unpack the whole archive of the data set.") from None
    except PermissionError:
        raise DataError(f"{path} may not be read: permission denied. Change its rights.") from None
    except UnicodeDecodeError as error:
        raise DataError(
            f"{path} cannot be read as text: {error}. Unpack the archive again, or save your own list as UTF-8."
        ) from error
    except OSError as error:
        raise DataError(f"{path} cannot be read as text: {error}. Unpack the archive again.") from error


def read_columns(path: Path, columns: int, *, skip: int = 0) -> list[list[str]]:
    """Read a list file with columns separated by spaces; the last column may contain spaces.

    Args:
        path: the file.
        columns: number of columns.
        skip: number of header lines.

    Raises:
        DataError: a line has fewer columns, or there are no lines.
    """
    rows = []
    for number, line in enumerate(read_lines(path)[skip:], start=1 + skip):
        cells = line.split(maxsplit=columns - 1)
        if len(cells) < columns:
            raise DataError(
                f"{path.name} wants {columns} columns, line {number} is {line!r}. Unpack the archive again."
            )
        rows.append([cell.strip() for cell in cells])
    if not rows:
        raise DataError(f"{path} lists no images. Unpack the archive again.")
    return rows


def is_count(text: str) -> bool:
    """Whether a cell is a whole number from 0, in ASCII digits and below a billion.

    >>> [is_count(text) for text in ("12", "-1", "\u00b2", "9" * 6000)]
    [True, False, False, False]
    """
    return text.isascii() and text.isdigit() and len(text) < 10


def whole_number(text: str, path: Path) -> int:
    """Parse a class number from a list file.

    Raises:
        DataError: ``text`` is not an integer.
    """
    try:
        return int(text)
    except ValueError:
        raise DataError(
            f"{path.name} should hold a number where it holds {text[:40]!r}. Unpack the archive again."
        ) from None
