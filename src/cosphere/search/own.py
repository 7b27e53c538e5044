"""Which rows of a gallery show the query's own file. A query does not meet itself, by whatever path or link it was added."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, NamedTuple

from cosphere.data.boxes import BOX
from cosphere.data.listing import file_keys
from cosphere.embeddings import Embeddings
from cosphere.gallery import Where
from cosphere.search.any_gallery import AnyGallery, GalleryHit


def own_rows(query: Any, gallery: Embeddings) -> tuple[int, ...]:
    """Rows of embeddings that show the query's file; none for a picture that is not a path.

    Saved embeddings have keys of the time when they were made. A file with several links now is therefore compared with the files as
    they are, and a row that had several links then is looked at again.
    """
    if not isinstance(query, str | Path):
        return ()
    whole = [os.path.abspath(query)]  # noqa: PTH100
    (own,), (path,), (inode,) = file_keys(whole), file_keys(whole, by="path"), file_keys(whole, by="inode")
    if gallery.files is None or own != path:
        return tuple(row for row, file in enumerate(file_keys(gallery.paths)) if file == own)
    rows = [row for row, file in enumerate(gallery.files) if file in (path, inode)]
    return tuple(row for row in rows if gallery.files[row] == path or file_keys([gallery.paths[row]]) == [own])


class Others(NamedTuple):
    """What a gallery has for a query besides the query itself."""

    hits: list[GalleryHit]
    own: int
    """Items that show the query and were left out."""


def other_files(
    gallery: AnyGallery, query: str | Path, k: int, where: Where | None = None, *, precision: Any = None
) -> Others:
    """The k items nearest to an image file, without those that show the file itself."""
    path = os.path.abspath(query)  # noqa: PTH100
    names = {path, os.path.realpath(query)}
    (own,) = file_keys([path])
    return _others(
        lambda k: gallery.search(query, k, where, precision=precision),
        lambda hit: hit.metadata.get("path") in names or _key(hit.metadata) == own,
        k,
        gallery.count({"path": sorted(names)}),
    )


def other_pictures(
    gallery: AnyGallery, id_: str, k: int, where: Where | None = None, *, precision: Any = None
) -> Others:
    """The k items nearest to an item, without those that show the same box of the same file."""
    metadata = gallery.get(id_).metadata
    own, box = _key(metadata), _box(metadata)
    others = _others(
        lambda k: gallery.search(id=id_, k=k, where=where, precision=precision),
        lambda hit: own is not None and _box(hit.metadata) == box and _key(hit.metadata) == own,
        k,
        0,
    )
    return others._replace(own=others.own + 1)  # the search leaves the item itself out


def _others(search: Any, is_own: Any, k: int, known: int) -> Others:
    """Search for more until k other items are found, or all: only what is found shows whether it is the query's file."""
    wide = k + known
    while True:
        found = search(wide)
        others = [hit for hit in found if not is_own(hit)]
        own = len(found) - len(others)
        if len(others) >= k or len(found) < wide:
            return Others(others[:k], max(known, own))
        wide = k + own


def _key(metadata: Any) -> str | None:
    path = metadata.get("path")
    return file_keys([path])[0] if isinstance(path, str) else None


def _box(metadata: Any) -> list[Any]:
    return [metadata.get(name) for name in BOX]
