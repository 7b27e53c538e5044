"""`cosphere index delete`: items out of a gallery, by id or by their metadata."""

from __future__ import annotations

from pathlib import Path

from cosphere.cli import console
from cosphere.cli.index.options import add_gallery, add_where, where_given
from cosphere.cli.parsing import CommandParser
from cosphere.errors import SettingsError, counted
from cosphere.files import check_writable
from cosphere.gallery import open_store
from cosphere.gallery.address import NO_PROOF, folder_of
from cosphere.gallery.store import Deleted, Store

_EXAMPLES = [
    "cosphere index delete photos.gallery /photos/mug/1.jpg /photos/mug/2.jpg",
    "cosphere index delete photos.gallery --where 'label=Jane Doe' --receipt deleted.json",
    "cosphere index delete photos.gallery --where 'path^=/photos/2019/' --dry_run",
]
_SHOWN = 5


def parser() -> CommandParser:
    """The command's options."""
    made = CommandParser(
        "index delete",
        "Delete items from a gallery: vectors, codes, thumbnails, metadata and index files. It cannot be undone. Where copies are left "
        "in the file, it is rewritten, which takes its size in the folder of temporary files (TMPDIR), and again in the gallery's.",
        _EXAMPLES,
    )
    add_gallery(made)
    made.add_argument("id", nargs="*", type=str, help="ids of the items, as `index search` shows them")
    add_where(made, "which items are deleted")
    made.add_argument(
        "--receipt",
        type=str | None,
        default=None,
        help="a file for salted hashes of what is deleted, with which `index prove-deleted` can look for its vectors",
    )
    made.add_argument("--dry_run", type=bool, default=False, help="only say what would be deleted")
    return made


def run(arguments: list[str]) -> int:
    """Delete, and say what."""
    given = parser().read(arguments)
    ids, where = given.id or None, where_given(given)
    if ids is None and where is None:
        raise SettingsError("what should be deleted? Give ids, or a condition such as --where label=mug.")
    if given.receipt:
        folder_of(given.gallery, "--receipt", f"{NO_PROOF}; leave it out.")
        check_writable(Path(given.receipt))
    with open_store(given.gallery) as store:
        if given.dry_run:
            found = store.find(ids, where=where)
            _list(f"would delete {counted(len(found), 'item')} of {len(store):,}", [item.id for item in found])
            return 0
        deleted = (
            store.delete(ids, where=where, on_receipt=lambda receipt: receipt.save(given.receipt))
            if given.receipt and isinstance(store, Store)
            else store.delete(ids, where=where)
        )
        _list(f"deleted {counted(len(deleted.ids), 'item')}; {len(store):,} left", deleted.ids)
        if given.receipt and deleted.ids:
            console.line(f"receipt: {given.receipt}")
        if isinstance(deleted, Deleted) and not deleted.flushed:
            console.note(
                deleted.problem
                or "a reader kept the write-ahead log from being emptied; the next deletion or compaction does it"
            )
    return 0


def _list(head: str, ids: list[str] | tuple[str, ...]) -> None:
    console.line(head)
    for one in ids[:_SHOWN]:
        console.line(f"  {one}")
    if len(ids) > _SHOWN:
        console.line(f"  ... and {len(ids) - _SHOWN:,} more")
