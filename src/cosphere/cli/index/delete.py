"""`cosphere index delete`: items out of a gallery, by id or by their metadata."""

from __future__ import annotations

from cosphere.cli import console
from cosphere.cli.index.options import add_gallery, add_receipt, add_where, note_columns, receipts_given, where_given
from cosphere.cli.parsing import CommandParser
from cosphere.errors import SettingsError, counted
from cosphere.gallery import open_store
from cosphere.gallery.store import Deleted

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
    add_receipt(made, "deleted")
    made.add_argument("--dry_run", type=bool, default=False, help="only say what would be deleted")
    return made


def run(arguments: list[str]) -> int:
    """Delete, and say what."""
    given = parser().read(arguments)
    ids, where = given.id or None, where_given(given)
    if ids is None and where is None:
        raise SettingsError("what should be deleted? Give ids, or a condition such as --where label=mug.")
    receipts = receipts_given(given)
    with open_store(given.gallery) as store:
        if given.dry_run:
            found = store.find(ids, where=where)
            _list(f"would delete {counted(len(found), 'item')} of {len(store):,}", [item.id for item in found])
            note_columns(store, where, len(found))
            return 0
        deleted = store.delete(ids, where=where, on_receipt=None if receipts is None else receipts.append)
        note_columns(store, where, len(deleted.ids))
        _list(f"deleted {counted(len(deleted.ids), 'item')}; {len(store):,} left", deleted.ids)
        if receipts is not None:
            console.line(f"receipt: {receipts.path if deleted.ids else 'none, as nothing was deleted'}")
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
