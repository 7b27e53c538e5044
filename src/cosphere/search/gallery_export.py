"""A gallery as a file for other programs: Parquet, an .npz file of embeddings or an index, or a faiss index."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from cosphere.data.boxes import NO_BOX
from cosphere.embeddings import Embeddings
from cosphere.errors import DataError, SettingsError
from cosphere.files import write_arrays, write_atomic, write_json
from cosphere.gallery import Item, Space
from cosphere.gallery.blocks import Rows
from cosphere.gallery.interface import ItemStore
from cosphere.rows import unit_rows
from cosphere.search._faiss import faiss_for
from cosphere.search.gallery_items import box_of
from cosphere.search.index import FORMAT, Index

SUFFIXES = (".parquet", ".npz", ".faiss")


class _Long(int):
    """A whole number that no float equals."""


_OWN = ("id", "embedding", "code")
"""Columns of a Parquet file that are not metadata; metadata of these names gets the prefix ``metadata.``."""


def export(store: ItemStore, path: Path) -> Path:
    """Write all items of one committed state to a file.

    Args:
        store: the gallery.
        path: its suffix says what is written. ``.parquet``: id, embedding (float32) and code (bytes), and a column for each metadata
            column, of text where its values are of several kinds. ``.npz``: what ``cosphere search`` and
            :func:`cosphere.search.load_gallery` read: embeddings with paths, labels and boxes, or an index of kind ``bits``.
            ``.faiss``: an ``IndexFlatIP`` of unit rows, or an ``IndexBinaryFlat`` of codes, with the ids in their order beside it,
            in ``NAME.faiss.ids.json``.

    Returns:
        the file.

    Raises:
        SettingsError: another suffix.
        DataError: the gallery is empty.
        RunError: it cannot be written.
    """
    kinds = {".parquet": _write_parquet, ".npz": _write_npz, ".faiss": _write_faiss}
    write = kinds.get(path.suffix.lower())
    if write is None:
        raise SettingsError(f"{path} has suffix {path.suffix!r}; wanted {', '.join(SUFFIXES)}.")
    while True:
        space = store.space()
        try:
            write(store, space, path)
        except _Changed:
            continue
        if store.space() == space:
            return path


class _Changed(Exception):
    """Somebody changed what the rows are, or added a column, between two looks: begin again."""


def _parts(store: ItemStore, space: Space) -> Iterator[tuple[list[Item], Rows]]:
    """All items with their rows, of one committed state.

    Raises:
        DataError: there is none.
        _Changed: the rows are of another space.
    """
    empty = True
    for items, rows in store.vectors():
        widths = [None if part is None else part.shape[1] for part in rows[1:]]
        if widths != [space.dim if space.has_floats else None, space.code_bytes if space.has_codes else None]:
            raise _Changed
        empty = False
        yield items, rows
    if empty:
        raise DataError(f"{store.place} is empty, so there is nothing to export. Add items first.")


def _write_parquet(store: ItemStore, space: Space, path: Path) -> None:
    import pyarrow as pa
    from pyarrow import parquet

    kinds: dict[str, type] = {}
    _take_in(kinds, store)
    types = {str: pa.string(), bool: pa.bool_(), int: pa.int64(), _Long: pa.int64(), float: pa.float64()}
    fields = [pa.field("id", pa.string())]
    if space.has_floats:
        fields.append(pa.field("embedding", pa.list_(pa.float32(), space.dim)))
    if space.has_codes:
        fields.append(pa.field("code", pa.binary(space.code_bytes)))
    fields += [pa.field(_shown(name), types[kind]) for name, kind in kinds.items()]
    about = {"cosphere.model_id": space.model_id, "cosphere.dim": str(space.dim)}
    schema = pa.schema(fields, metadata=about)

    def write(part: Path) -> None:
        with parquet.ParquetWriter(part, schema) as file:
            for items, rows in _parts(store, space):
                if _take_in(kinds, items):  # added since the columns were collected
                    raise _Changed
                file.write_table(pa.table(_columns(pa, items, rows, space, kinds), schema=schema))

    write_atomic(path, write)


_WIDER: dict[frozenset[type], type] = {frozenset((int, _Long)): _Long, frozenset((int, float)): float}
"""What a column of two types becomes without loss; text for all others."""


def _take_in(kinds: dict[str, type], items: Iterable[Item]) -> bool:
    """Widen the type of each metadata column to that of more items: text where values are of several kinds.

    Returns:
        whether a type has changed, or a column is new.
    """
    before = dict(kinds)
    for item in items:
        for name, value in item.metadata.items():
            kind = _Long if type(value) is int and int(float(value)) != value else type(value)
            known = kinds.get(name, kind)
            kinds[name] = kind if kind is known else _WIDER.get(frozenset((kind, known)), str)
    return kinds != before


def _shown(name: str) -> str:
    return f"metadata.{name}" if name in _OWN else name


def _columns(pa: Any, items: Sequence[Item], rows: Rows, space: Space, kinds: dict[str, type]) -> dict[str, Any]:
    columns: dict[str, Any] = {"id": [item.id for item in items]}
    if rows.vectors is not None:
        columns["embedding"] = pa.FixedSizeListArray.from_arrays(pa.array(rows.vectors.ravel()), space.dim)
    if rows.codes is not None:
        columns["code"] = pa.array([code.tobytes() for code in rows.codes], pa.binary(space.code_bytes))
    for name, kind in kinds.items():
        values = [item.metadata.get(name) for item in items]
        plain = int if kind is _Long else kind
        columns[_shown(name)] = [None if value is None else plain(value) for value in values]
    return columns


def _whole(store: ItemStore, space: Space) -> tuple[list[Item], npt.NDArray[Any]]:
    """All items and their rows: floats where the gallery has them, else codes."""
    items: list[Item] = []
    parts: list[npt.NDArray[Any]] = []
    for some, rows in _parts(store, space):
        items += some
        parts.append(_numbers(rows))
    return items, np.concatenate(parts)


def _numbers(rows: Rows) -> npt.NDArray[Any]:
    found: Iterator[npt.NDArray[Any]] = (part for part in rows[1:] if part is not None)
    return next(found)


def _write_npz(store: ItemStore, space: Space, path: Path) -> None:
    items, rows = _whole(store, space)
    labels = [str(item.metadata.get("label", "")) for item in items]
    names = sorted(set(labels))
    number = {name: at for at, name in enumerate(names)}
    boxes = [box_of(item.metadata) for item in items]
    images = Embeddings(
        embeddings=rows,
        labels=np.array([number[label] for label in labels], dtype=np.int64),
        paths=tuple(str(item.metadata.get("path", item.id)) for item in items),
        class_names=tuple(names),
        boxes=np.array([box or [NO_BOX] * 4 for box in boxes], dtype=np.int64) if any(boxes) else None,
        ids=tuple(item.id for item in items),
        model_id=space.model_id,
    )
    if space.has_floats:
        write_arrays(path, images.arrays())
        return
    stored = {"format": FORMAT, "kind": "bits", "dim": space.dim, "model_id": space.model_id}
    index = Index.from_arrays({name: np.array(value) for name, value in stored.items()} | {"kept": rows}, path)
    columns = {name: values for name, values in images.arrays().items() if name not in ("embeddings", "model_id")}
    index.save(path, images=columns)


def _write_faiss(store: ItemStore, space: Space, path: Path) -> None:
    faiss = faiss_for("writing a faiss index")
    items, rows = _whole(store, space)
    if space.has_floats:
        index = faiss.IndexFlatIP(space.dim)
        index.add(unit_rows(rows).rows.numpy())
        write_atomic(path, lambda part: faiss.write_index(index, str(part)))
    else:
        binary = faiss.IndexBinaryFlat(8 * space.code_bytes)
        binary.add(rows)
        write_atomic(path, lambda part: faiss.write_index_binary(binary, str(part)))
    write_json(path.with_name(f"{path.name}.ids.json"), [item.id for item in items])
