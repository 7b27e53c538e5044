"""`cosphere index migrate`: a gallery to another model."""

from __future__ import annotations

from cosphere._types import Device
from cosphere.cli import console
from cosphere.cli.index.options import add_gallery_folder, add_receipt, receipts_given
from cosphere.cli.parsing import CommandParser
from cosphere.data.remarks import MAX_UNREADABLE
from cosphere.errors import SettingsError, counted
from cosphere.experiment import migrate_index
from cosphere.gallery import Store, migration
from cosphere.gallery.address import NO_MIGRATION, folder_of
from cosphere.gallery.schema import HOLDS

_EXAMPLES = [
    "cosphere index migrate photos.gallery runs/second",
    "cosphere index migrate photos.gallery runs/second --holds codes",
    "cosphere index migrate photos.gallery runs/second --drop_unreadable true --receipt deleted.json",
    "cosphere index migrate photos.gallery --abandon",
]


def parser() -> CommandParser:
    """The command's options."""
    made = CommandParser(
        "index migrate",
        "Embed the images of a gallery again with another model. Searches change over at once when all are done; after a kill, the "
        "same command goes on.",
        _EXAMPLES,
    )
    add_gallery_folder(made)
    made.add_argument("model", nargs="?", type=str, help="a run's folder or a model bundle")
    made.add_argument(
        "--holds",
        type=str | None,
        default=None,
        help=f"what to keep of an image: {', '.join(HOLDS)}; by default what the gallery holds",
    )
    made.add_argument(
        "--drop_unreadable", type=bool, default=False, help="delete items whose image is missing or cannot be read"
    )
    made.add_argument(
        "--max_unreadable",
        type=float | None,
        default=None,
        help="with --drop_unreadable: share of the items that may be deleted, 0 to 1; by default 0.01. Where more images are missing, "
        "nothing is deleted",
    )
    add_receipt(made, "deleted (with --drop_unreadable)")
    made.add_argument("--abandon", type=bool, default=False, help="give up a migration that was stopped")
    made.add_argument("--device", type=Device, default="auto", help="auto, cpu, cuda or mps")
    made.add_argument("--batch_size", type=int, default=64, help="images that are read together")
    return made


def run(arguments: list[str]) -> int:
    """Migrate, or give a migration up."""
    given = parser().read(arguments)
    folder = folder_of(given.gallery, "`index migrate`", NO_MIGRATION)
    if given.abandon:
        with Store.open(folder) as store:
            there = migration.abandon(store)
        console.line(f"{given.gallery}: {'the migration was given up' if there else 'no migration was under way'}")
        return 0
    if given.model is None:
        raise SettingsError("which model should embed the images? Give a run or a bundle, such as runs/second.")
    if not given.drop_unreadable and (given.max_unreadable is not None or given.receipt):
        raise SettingsError(
            "--max_unreadable and --receipt are of what is deleted, and without --drop_unreadable true nothing is. Leave them out."
        )
    receipts = receipts_given(given)
    count = migrate_index(
        folder,
        given.model,
        holds=given.holds,
        drop_unreadable=given.drop_unreadable,
        max_unreadable=MAX_UNREADABLE if given.max_unreadable is None else given.max_unreadable,
        on_receipt=None if receipts is None else receipts.append,
        device=given.device,
        batch_size=given.batch_size,
        listener=console.ConsoleListener(),
    )
    console.line(f"{given.gallery}: {counted(count, 'item')}, embedded by {given.model}")
    return 0
