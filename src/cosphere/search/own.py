"""Which rows of a gallery show the query's own file. A query does not meet itself, by whatever path or link it was added."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple
from weakref import WeakKeyDictionary

from cosphere.data.boxes import BOX
from cosphere.data.listing import file_keys
from cosphere.data.names import nfc
from cosphere.embeddings import Embeddings

if TYPE_CHECKING:  # a search among plain embeddings loads no gallery
    from cosphere.gallery import Where
    from cosphere.search.any_gallery import AnyGallery, GalleryHit


def own_rows(query: Any, gallery: Embeddings) -> tuple[int, ...]:
    """Rows of embeddings that show the query's file; none for a picture that is not a path.

    Saved embeddings have keys of the time when they were made. A file with several links now is therefore compared with the files as
    they are, a row that had several links then is looked at again, and so is one whose path ends as the query's does, but for capitals
    and Unicode form: it may be the same file in a folder that is mounted twice.
    """
    if not isinstance(query, str | Path):
        return ()
    whole = [os.path.abspath(query)]  # noqa: PTH100
    (own,), (path,), (inode,) = file_keys(whole), file_keys(whole, by="path"), file_keys(whole, by="inode")
    if gallery.files is None or own != path:
        return tuple(row for row, file in enumerate(file_keys(gallery.paths)) if file == own)
    rows = {row for row, file in enumerate(gallery.files) if file in (path, inode)}
    alike = _by_name(gallery).get(_name(whole[0]), [])
    return tuple(
        row
        for row in sorted(rows.union(alike))
        if gallery.files[row] == path or _same_file(whole[0], gallery.paths[row])
    )


_names: WeakKeyDictionary[Embeddings, dict[str, list[int]]] = WeakKeyDictionary()


def _by_name(gallery: Embeddings) -> dict[str, list[int]]:
    """The rows of each file name."""
    if gallery not in _names:
        names: dict[str, list[int]] = {}
        for row, path in enumerate(gallery.paths):
            names.setdefault(_name(path), []).append(row)
        _names[gallery] = names
    return _names[gallery]


def _name(path: str) -> str:
    """The name of a file, or of an item of a container, as a disk compares names that tells no capitals and no Unicode forms apart."""
    return nfc(path.replace("\\", "/").rpartition("/")[2]).casefold()


def _same_file(path: str, other: str) -> bool:
    one, two = file_keys([path, other])
    return one == two


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
    return _others(
        lambda k: gallery.search(query, k, where, precision=precision),
        lambda hit: _is_file(hit.metadata, path, names),
        k,
        gallery.count({"path": sorted(names)}),
    )


def other_pictures(
    gallery: AnyGallery, id_: str, k: int, where: Where | None = None, *, precision: Any = None
) -> Others:
    """The k items nearest to an item, without those that show the same box of the same file."""
    metadata = gallery.get(id_).metadata
    own, box = metadata.get("path"), _box(metadata)
    others = _others(
        lambda k: gallery.search(id=id_, k=k, where=where, precision=precision),
        lambda hit: isinstance(own, str) and _box(hit.metadata) == box and _is_file(hit.metadata, own, {own}),
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


def _is_file(metadata: Any, path: str, names: set[str]) -> bool:
    """Whether an item shows a file that is known by these names."""
    own = metadata.get("path")
    return isinstance(own, str) and (own in names or _same_file(path, own))


def _box(metadata: Any) -> list[Any]:
    return [metadata.get(name) for name in BOX]
