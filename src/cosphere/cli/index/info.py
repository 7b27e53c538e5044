"""`cosphere index info`: what a gallery holds."""

from __future__ import annotations

import dataclasses
import json

from cosphere.cli import console
from cosphere.cli.index.options import add_gallery
from cosphere.cli.parsing import CommandParser
from cosphere.errors import counted
from cosphere.gallery import Store, check_all, open_store
from cosphere.gallery.about import About, AboutServer, Contents, about
from cosphere.gallery.address import folder_of, place_of

_EXAMPLES = [
    "cosphere index info photos.gallery",
    "cosphere index info photos.gallery --check",
    "cosphere index info photos.gallery --json",
]
_SHOWN = 12


def parser() -> CommandParser:
    """The command's options."""
    made = CommandParser(
        "index info", "Show what a gallery holds, its model, its size and its SQLite library.", _EXAMPLES
    )
    add_gallery(made)
    made.add_argument("--check", type=bool, default=False, help="also read everything and compare it with its digests")
    made.add_argument("--json", type=bool, default=False, help="print it as JSON")
    return made


def run(arguments: list[str]) -> int:
    """Print it."""
    given = parser().read(arguments)
    if given.check:
        folder_of(given.gallery, "--check", "A server checks its pages itself; leave it out.")
    with open_store(given.gallery) as store:
        known = about(store)
        if given.json:
            print(json.dumps(dataclasses.asdict(known), indent=1))
        else:
            show(known, str(place_of(given.gallery)))
        if given.check and isinstance(store, Store):
            with console.progress_bar("checking") as progress:
                check_all(store, progress)
            if not given.json:
                console.line("checked: everything is as it was written")
    return 0


def show(known: About | AboutServer, path: str) -> None:
    """A table of two columns, and notes."""
    space = known.space
    table = console.table_of(path, "what", "")
    table.columns[1].justify, table.columns[1].overflow = "left", "fold"
    table.show_header = False
    number = "float16" if isinstance(known, AboutServer) and known.stored == "float16" else "float32"
    kept = {"floats": number, "codes": "bits", "both": f"{number} and bits"}[space.holds]
    rows = [
        ("items", f"{known.items:,}"),
        ("embeddings", f"{space.dim} x {kept}, {counted(space.bytes_per_row, 'byte')} each"),
        ("model", f"{space.model_id[:12] or 'unknown'}{f', from {space.model}' if space.model else ''}"),
        ("thumbnails", f"{known.thumbnails:,} of up to {known.thumbnail} px" if known.thumbnail else "none"),
        ("columns", _columns(known)),
        ("ids", ", ".join(known.first_ids) + (", ..." if known.items > len(known.first_ids) else "") or "none"),
        *(_of_server(known) if isinstance(known, AboutServer) else _of_folder(known)),
    ]
    for what, text in rows:
        table.add_row(what, console.plain(text))
    console.show(table)
    if isinstance(known, About) and known.warning is not None:
        console.warning(known.warning)


def _of_folder(known: About) -> list[tuple[str, str]]:
    dead = f"{known.dead:,} still take space; `cosphere index compact` frees it" if known.dead else "none"
    deletions = f"{len(known.deletions):,}, the last at {known.deletions[-1][0]}" if known.deletions else "none"
    rows = [
        ("file", f"{known.file_bytes:,} bytes, and {known.log_bytes:,} in the write-ahead log"),
        ("deleted rows", dead),
        ("deletions", deletions),
        ("commits", f"{known.generation:,}"),
        ("SQLite", known.library),
    ]
    if known.migrating is not None:
        target, done, total = known.migrating
        rows.append(("migration", f"to model {target.model_id[:12]}: {done:,} of {counted(total, 'block')} done"))
    return rows


def _of_server(known: AboutServer) -> list[tuple[str, str]]:
    return [
        ("table", f"{known.table_bytes:,} bytes, and {known.index_bytes:,} of indexes"),
        ("HNSW index", ", ".join(known.indexes) or "none; `cosphere index build` makes one"),
        ("server", known.library),
    ]


def _columns(known: Contents) -> str:
    shown = [f"{name} ({count:,})" for name, count in known.columns[:_SHOWN]]
    more = len(known.columns) - len(shown)
    return ", ".join(shown + ([f"and {more:,} more"] if more else [])) or "none"
