"""`cosphere index add`: images into a gallery."""

from __future__ import annotations

from typing import Literal

from cosphere.cli import console
from cosphere.cli.index.options import add_gallery, add_receipt, receipts_given
from cosphere.cli.options import add_embedding, add_precision, add_source, add_split, embedding_options
from cosphere.cli.parsing import CommandParser
from cosphere.errors import SettingsError, counted
from cosphere.experiment import add_to_index
from cosphere.gallery.address import place_of
from cosphere.gallery.schema import HOLDS

_EXAMPLES = [
    "cosphere index add photos.gallery photos/ --model runs/first",
    "cosphere index add photos.gallery more-photos/",
    "cosphere index add photos.gallery photos/ --model runs/first --holds both --thumbnail 96",
    "cosphere index add photos.gallery photos.npz",
    "cosphere index add postgresql://me@host/images#photos photos/ --model runs/first",
]


def parser() -> CommandParser:
    """The command's options."""
    made = CommandParser(
        "index add",
        "Add images to a gallery, which is made if there is none. Every batch is saved: after a kill, the same command goes on.",
        _EXAMPLES,
    )
    add_gallery(made)
    add_source(made, also="an .npz file of `cosphere embed`")
    made.add_argument(
        "--model",
        type=str | None,
        default=None,
        help="a run's folder or a model bundle; by default the one that the gallery was filled with",
    )
    made.add_argument(
        "--holds",
        type=str | None,
        default=None,
        help=f"of a new gallery, what it keeps of an image: {', '.join(HOLDS)}; by default floats",
    )
    made.add_argument(
        "--thumbnail",
        type=int | None,
        default=None,
        help="of a new gallery, longer side in pixels of the thumbnails that it keeps; by default none",
    )
    made.add_argument(
        "--existing",
        type=Literal["skip", "replace", "refuse"],
        default="skip",
        help="what happens to images that are there",
    )
    add_receipt(made, "replaced (with --existing replace)")
    add_split(made, default="all", without="by default all")
    add_embedding(made)
    add_precision(made)
    return made


def run(arguments: list[str]) -> int:
    """Add, and say how many."""
    given = parser().read(arguments)
    if given.receipt and given.existing != "replace":
        raise SettingsError("--receipt is of what is replaced; without --existing replace nothing is. Leave it out.")
    receipts = receipts_given(given)
    filled = add_to_index(
        given.gallery,
        given.source,
        model=given.model,
        holds=given.holds,
        thumbnail=given.thumbnail,
        existing=given.existing,
        split=given.split,
        layout=given.layout,
        classes=given.classes,
        **embedding_options(given),
        precision=given.precision,
        on_receipt=None if receipts is None else receipts.append,
        listener=console.ConsoleListener(),
    )
    added, replaced, skipped = filled.added
    parts = [f"{added:,} added"] + [f"{number:,} {what}" for number, what in ((replaced, "replaced"),) if number]
    parts += [f"{skipped:,} were there already and stay as they are"] if skipped else []
    parts += [f"{counted(filled.unread, 'image')} could not be read"] if filled.unread else []
    console.line(f"{place_of(given.gallery)}: {', '.join(parts)}; {counted(filled.items, 'item')} in all")
    if skipped:
        console.note("pictures that have changed since they were added are embedded again with --existing replace")
    if receipts is not None:
        console.line(f"receipt: {receipts.path if replaced else 'none, as nothing was replaced'}")
    return 0
