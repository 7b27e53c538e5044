"""Options that several of a gallery's verbs share."""

from __future__ import annotations

from jsonargparse import Namespace

from cosphere.cli import console
from cosphere.cli.parsing import CommandParser
from cosphere.gallery import ReceiptFile, Store, Where
from cosphere.gallery.about import no_such_columns
from cosphere.gallery.address import FORM, folder_of
from cosphere.gallery.erasure import NO_PROOF
from cosphere.gallery.postgres import PostgresStore
from cosphere.gallery.where_text import FORMS, where_of


def add_gallery(parser: CommandParser) -> None:
    """The folder or the address, as the first word."""
    parser.add_argument("gallery", type=str, help=f"the gallery's folder, or {FORM}")


def add_gallery_folder(parser: CommandParser) -> None:
    """The folder, as the first word, for what a server cannot do."""
    parser.add_argument("gallery", type=str, help="the gallery's folder")


def add_where(parser: CommandParser, what: str) -> None:
    """``--where``, repeatable."""
    parser.add_argument("--where", action="append", type=str, help=f"{what}: {FORMS}; repeatable, all must hold")


def where_given(given: Namespace) -> Where | None:
    """The filter of :func:`add_where`; None without one."""
    return where_of(given.where or [])


def note_columns(store: Store | PostgresStore, where: Where | None, found: int) -> None:
    """A note where nothing meets a filter because no item has its column."""
    text = no_such_columns(store, where) if where is not None and not found else ""
    if text:
        console.note(text)


def add_receipt(parser: CommandParser, what: str) -> None:
    """``--receipt``."""
    parser.add_argument(
        "--receipt",
        type=str | None,
        default=None,
        help=f"a file to which salted hashes of what is {what} are appended; `index prove-deleted` looks for these",
    )


def receipts_given(given: Namespace) -> ReceiptFile | None:
    """The file of :func:`add_receipt`; None without one.

    Raises:
        SettingsError: the gallery is on a server, or the file lies in its folder.
        RunError: the file holds something else, or cannot be written.
    """
    if not given.receipt:
        return None
    return ReceiptFile(given.receipt, folder_of(given.gallery, "--receipt", f"{NO_PROOF}; leave it out."))
