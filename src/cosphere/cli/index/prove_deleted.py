"""`cosphere index prove-deleted`: every byte of a gallery's folder, read for what was deleted."""

from __future__ import annotations

from cosphere.cli import console
from cosphere.cli.index.options import add_gallery_folder
from cosphere.cli.parsing import CommandParser
from cosphere.errors import SettingsError, agreeing, counted
from cosphere.gallery import Proof, load_receipts, prove_deleted
from cosphere.gallery.address import folder_of
from cosphere.gallery.erasure import NO_PROOF
from cosphere.gallery.values import quoted

_EXAMPLES = [
    "cosphere index prove-deleted photos.gallery /photos/mug/1.jpg --receipt deleted.json",
    "cosphere index prove-deleted photos.gallery --text 'Jane Doe' --receipt deleted.json",
]
_SHOWN = 10


def parser() -> CommandParser:
    """The command's options."""
    made = CommandParser(
        "index prove-deleted",
        "Empty the write-ahead log, read every byte of every file of the folder, and say whether anything is left of what was "
        "deleted. Exits with 1 if something is.",
        _EXAMPLES,
    )
    add_gallery_folder(made)
    made.add_argument("id", nargs="*", type=str, help="ids of deleted items")
    made.add_argument(
        "--receipt",
        action="append",
        type=str,
        help="of `index delete --receipt` or `index add --receipt`: look for vectors, codes and thumbnails too; repeatable",
    )
    made.add_argument(
        "--text", action="append", type=str, help="another text that must be gone, such as a label; repeatable"
    )
    return made


def run(arguments: list[str]) -> int:
    """Search, and say what was found."""
    given = parser().read(arguments)
    folder = folder_of(given.gallery, "`index prove-deleted`", f"{NO_PROOF}; ask who runs the server.")
    ids, texts, files = given.id or [], given.text or [], given.receipt or []
    if not (ids or texts or files):
        raise SettingsError("what should be gone? Give ids, --receipt FILE of the deletion, or --text.")
    receipts = [one for file in files for one in load_receipts(file)]
    if not (ids or texts or any(one.items for one in receipts)):
        raise SettingsError(
            f"{', '.join(files)} {agreeing(len(files), 'are')} of 0 deleted items, so there is nothing to look for. Give the receipt of "
            "a deletion that found items."
        )
    with console.progress_bar("reading bytes") as progress:
        proof = prove_deleted(folder, ids, receipts, texts=texts, progress=progress)
    show(proof, asked=len(ids) + len(texts), receipts=len(receipts))
    return 0 if proof.holds else 1


def show(proof: Proof, *, asked: int, receipts: int) -> None:
    """What was read, looked for and found."""
    table = console.table_of("files read", "file", "bytes")
    for name, size in proof.files:
        table.add_row(console.plain(name), f"{size:,}")
    console.show(table)
    console.line(
        f"looked for {counted(asked, 'text')} and {counted(proof.windows, 'window')} of deleted vectors, codes and thumbnails"
    )
    if not receipts:
        console.note("without --receipt, vectors, codes and thumbnails were not looked for")
    for receipt in proof.receipts:
        if not receipt.items:
            console.note(f"the receipt of {receipt.time} is of 0 deleted items, so it proves nothing")
        if receipt.left_out:
            console.note(
                f"the receipt of {receipt.time} is a sample: it covers {receipt.covered:,} of {receipt.payloads:,} vectors, codes and "
                "thumbnails; the others were not looked for"
            )
        if receipt.short:
            console.note(
                f"{receipt.short:,} of the vectors, codes and thumbnails of the receipt of {receipt.time} are too short or too uniform "
                "to be told from chance; they were not looked for"
            )
    if not proof.flushed:
        console.note("the write-ahead log could not be emptied first; it was read as it is")
    for one in proof.short:
        console.note(
            f"{quoted(one)} is too short or too uniform to be told from chance; only the items were asked for it"
        )
    if proof.shared:
        console.note(f"{counted(proof.shared, 'window')} occur in items that are still there, such as equal pictures")
    for one in proof.alive:
        console.line(f"still an item: {one}")
    for time in proof.unknown:
        console.line(
            f"the receipt of {time} does not belong to a deletion of this gallery, or to one that was stopped before its items were gone"
        )
    for found in proof.found[:_SHOWN]:
        console.line(f"found: {found.what} in {found.file}, at byte {found.offset:,}")
    if len(proof.found) > _SHOWN:
        console.line(f"... and {len(proof.found) - _SHOWN:,} more")
    if proof.holds:
        complete = receipts and proof.complete and not proof.short
        console.line("nothing is left" if complete else "nothing is left of what was looked for")
    elif proof.found:
        console.line("run `cosphere index compact`, which rewrites the file, and prove it again")
