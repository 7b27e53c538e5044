"""A file to which receipts are appended, so that a command that is run again keeps the receipts of the first call.

Each receipt is one line of JSON, on disk before its deletion is committed. A line that a kill cut off therefore belongs to a deletion
that never happened: it is passed by, and the next receipt takes its place.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path

from cosphere.errors import RunError, SettingsError
from cosphere.files import check_writable, path_of, write_text
from cosphere.gallery.erasure import Receipt, read_receipts

OnReceipt = Callable[[Receipt], object]
"""Receives a receipt before its deletion is committed. What it raises stops the deletion."""


class ReceiptFile:
    """A receipt file of one gallery. Give :meth:`append` as ``on_receipt``.

    Args:
        path: the file: new, empty, or one that holds receipts.
        gallery: the gallery's folder. The file may not lie in it.

    Raises:
        SettingsError: the file lies in the gallery.
        RunError: it holds something else than receipts, which stays as it is, or it cannot be written.
    """

    def __init__(self, path: str | Path, gallery: str | Path) -> None:
        try:
            self.path = path_of(path).resolve()  # a link stays one: the file that it names is written
            inside = self.path.is_relative_to(Path(gallery).resolve())
        except (OSError, RuntimeError, ValueError) as error:  # too long a name, a loop of links, a zero byte
            raise RunError(f"{path} cannot be written: {error}. Choose another name.") from error
        if inside:
            raise SettingsError(f"the receipt file {path} lies in the gallery {gallery}. Choose a place outside of it.")
        check_writable(self.path)
        self._size = -1
        """Bytes after the last :meth:`append`; another size is the work of somebody else."""
        self._held()

    def append(self, receipt: Receipt) -> None:
        """Add a receipt behind those that are there. When this returns, it is on disk.

        Raises:
            RunError: it cannot be written, or the file holds something else by now. The receipts that were there are untouched.
        """
        if not self.path.is_file() or self.path.stat().st_size != self._size:
            save_receipts(self.path, [*self._held(), receipt])
        else:
            self._extend(_line(receipt))
        self._size = self.path.stat().st_size

    def _held(self) -> list[Receipt]:
        try:
            return read_receipts(self.path) if self.path.exists() and self.path.stat().st_size else []
        except RunError as error:
            raise RunError(
                f"{self.path} is there already and is not a receipt file, to which receipts are appended. Choose another name."
            ) from error

    def _extend(self, line: str) -> None:
        """Write a line behind the others; writing the whole file for each of many commits would take quadratic time."""
        try:
            with self.path.open("ab") as file:
                file.write(line.encode())
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            with contextlib.suppress(OSError):
                os.truncate(self.path, self._size)
            raise RunError(
                f"cannot write {self.path}: {error.strerror or error}. Free some space or choose another folder."
            ) from error


def save_receipts(path: str | Path, receipts: Sequence[Receipt]) -> None:
    """Write one receipt or several as one file, atomically. What was there is replaced: see :class:`ReceiptFile`.

    Raises:
        RunError: it cannot be written.
    """
    write_text(path_of(path), "".join(map(_line, receipts)))


def _line(receipt: Receipt) -> str:
    return json.dumps(receipt.as_dict()) + "\n"
