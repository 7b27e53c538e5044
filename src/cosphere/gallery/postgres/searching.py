"""Search in a gallery on PostgreSQL: exactly, or through pgvector's HNSW index, always with as many answers as there are."""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from cosphere.checks import check_choice, check_whole
from cosphere.errors import SettingsError, SizeError
from cosphere.gallery.postgres.conversion import TYPES, as_bits, as_stored
from cosphere.gallery.postgres.filters import Clause, clause_of
from cosphere.gallery.postgres.planning import MOST_EF, candidates, kept_by
from cosphere.gallery.postgres.store import PostgresStore
from cosphere.gallery.values import Value
from cosphere.gallery.where import Where, parse

By = Literal["floats", "codes", "rerank"]
_WIDEST = {"vector": 2000, "halfvec": 4000, "bit": 64_000}
"""Numbers of a row that pgvector's HNSW index takes, by column type."""
_COLUMNS = ("vector", "code")
_EVERY_TUPLE = 2**31 - 1
_SCAN_MEMORY = 16
"""Multiples of ``work_mem`` (4 MB by default) that a scan may take before it ends with what it has."""


class Index(NamedTuple):
    """An HNSW index of one column."""

    expression: str
    """What is indexed; a query must write it in the same way."""
    operators: str


@dataclass(frozen=True)
class Found:
    """One item that was found."""

    row: int
    id: str
    metadata: Mapping[str, Value]
    score: float
    """Cosine in [-1, 1], or for codes minus the Hamming distance in bits: larger is nearer."""


def build_index(store: PostgresStore, *, m: int = 16, ef_construction: int = 64, memory_mb: int = 1024) -> None:
    """Index every column that the gallery keeps, in place of an older index. Rows that are added later are indexed as they come.

    Building after the first large load is several times faster than loading into an index. Writers wait meanwhile; searches go on
    with the older index until the new one takes its name.

    Args:
        store: the gallery.
        m: links of a row, 2 to 100.
        ef_construction: candidates while linking, 4 to 1000 and at least 2 m.
        memory_mb: what the server may use meanwhile; a graph that does not fit is built several times more slowly.

    Raises:
        SettingsError: a number is out of range, or the rows are too wide for an index.
        RunError: the server refuses.
    """
    check_whole("m", m, least=2, most=100)
    check_whole("ef_construction", ef_construction, least=max(4, 2 * m), most=1000)
    check_whole("memory_mb", memory_mb, least=1, most=2**20)
    space = store.space()
    kept = dict(zip(_COLUMNS, (space.has_floats, space.has_codes), strict=True))
    columns = {name: index_of(store, name) for name in _COLUMNS if kept[name]}
    with store.transaction() as connection:
        store.take_turn(connection)
        connection.execute("SELECT set_config('maintenance_work_mem', %s, true)", (f"{memory_mb}MB",))
        for name, index in columns.items():
            connection.execute(
                f"CREATE INDEX item_{name}_new ON {store.table} USING hnsw ({index.expression} {index.operators}) "
                f"WITH (m = {m}, ef_construction = {ef_construction})"
            )
        connection.execute(f"ANALYZE {store.table}")
        # A new name takes no lock that a search has to wait for; dropping an index here would.
        old = secrets.token_hex(4)
        for name in columns:
            connection.execute(f"ALTER INDEX IF EXISTS {_schema(store)}.item_{name} RENAME TO item_{name}_old_{old}")
            connection.execute(f"ALTER INDEX {_schema(store)}.item_{name}_new RENAME TO item_{name}")
    _drop(store, [name for name, _ in _all_indexes(store) if "_old_" in name])


def drop_index(store: PostgresStore) -> None:
    """Remove the HNSW indexes: every search is exact afterwards."""
    _drop(store, [name for name, _ in _all_indexes(store)])


def _drop(store: PostgresStore, names: Sequence[str]) -> None:
    """Remove indexes as soon as no search is in the middle of one; those that begin meanwhile do not wait."""
    with store.single_statements() as connection:
        for name in names:
            connection.execute(f"DROP INDEX CONCURRENTLY IF EXISTS {_schema(store)}.{name}")


def indexes(store: PostgresStore) -> tuple[str, ...]:
    """The columns that have an HNSW index."""
    with store.transaction(reading=True) as connection:
        return _indexed(store, connection)


def _indexed(store: PostgresStore, connection: Any) -> tuple[str, ...]:
    named = {f"item_{column}": column for column in _COLUMNS}
    return tuple(sorted(named[name] for name, valid in _listed(store, connection) if valid and name in named))


def _all_indexes(store: PostgresStore) -> list[tuple[str, bool]]:
    with store.transaction(reading=True) as connection:
        return _listed(store, connection)


def _listed(store: PostgresStore, connection: Any) -> list[tuple[str, bool]]:
    """HNSW indexes, also those that a call left behind which was stopped, and whether PostgreSQL uses each."""
    query = (
        "SELECT relname, indisvalid FROM pg_index JOIN pg_class ON pg_class.oid = indexrelid WHERE indrelid = %s::regclass "
        "AND relname ~ '^item_(vector|code)(_old_[0-9a-f]+)?$'"
    )
    return list(connection.execute(query, (store.table,)).fetchall())


def index_of(store: PostgresStore, column: str) -> Index:
    """How a column is indexed: as it is, or a row of more than 2000 numbers in half precision.

    Raises:
        SettingsError: the rows are too wide for an index.
    """
    space, stored, _ = store.about()
    if column == "code":
        bits = 8 * space.code_bytes
        if bits > _WIDEST["bit"]:
            raise SettingsError(
                f"pgvector indexes codes of up to {_WIDEST['bit']:,} bits; these have {bits:,}. Search exactly."
            )
        return Index("code", "bit_hamming_ops")
    kind = TYPES[stored]
    if space.dim <= _WIDEST[kind]:
        return Index("vector", f"{kind}_cosine_ops")
    if space.dim > _WIDEST["halfvec"]:
        raise SettingsError(
            f"pgvector indexes rows of up to {_WIDEST['halfvec']:,} numbers; these have {space.dim:,}. Search exactly, or by codes."
        )
    return Index(f"(vector::halfvec({space.dim}))", "halfvec_cosine_ops")


def search(
    store: PostgresStore,
    vectors: npt.NDArray[Any] | None = None,
    codes: npt.NDArray[Any] | None = None,
    *,
    k: int = 10,
    by: By = "floats",
    where: Where | None = None,
    exact: bool = False,
    ef_search: int = 100,
    shortlist: int = 1000,
) -> list[list[Found]]:
    """The k nearest items of each query, best first; all of them where fewer meet the filter.

    All queries see one committed state. With an index, a filter that keeps less than 5 % of the rows or at most 1000, counted in a
    sample, is answered exactly; a wider one gets more candidates the less it keeps. A search goes on through the index until k rows
    meet the filter (``hnsw.iterative_scan = strict_order``); where it ends with fewer than there are, the answer is found exactly.

    Args:
        store: the gallery.
        vectors: (Q, D) float, for "floats" and "rerank".
        codes: (Q, ceil(D / 8)) uint8, for "codes" and "rerank".
        k: items to find.
        by: "floats" ranks by cosine, "codes" by Hamming distance, "rerank" takes the nearest by code and ranks them by cosine.
        where: a filter, see :mod:`cosphere.gallery.where`.
        exact: pass the index by.
        ef_search: candidates of the index without a filter, 1 to 1000: more find more, and take longer.
        shortlist: rows that "rerank" takes by code; at least k are taken.

    Raises:
        SettingsError, SizeError: a setting is out of range, or the queries do not fit the gallery.
        DataError: the filter is wrong.
        RunError: the server refuses.
    """
    check_choice("by", by, ["floats", "codes", "rerank"])
    check_whole("k", k, least=1, most=2**20)
    check_whole("ef_search", ef_search, least=1, most=MOST_EF)
    check_whole("shortlist", shortlist, least=1, most=2**20)
    asked = _queries(store, vectors, codes, by)
    clause = clause_of(None if where is None else parse(where))
    answers = []
    with store.transaction(reading=True) as connection:
        # Without an index every search is exact, and equal scores come by row.
        exact = exact or ("vector" if by == "floats" else "code") not in _indexed(store, connection)
        share = 1.0
        if not exact and where is not None:
            kept = kept_by(connection, store.table, clause)
            share, exact = kept.share, kept.few
        if not exact:
            _set_scan(connection, candidates(ef_search, k, share))
        for vector, code in asked:
            query = _Query(vector, code, k, by, max(k, shortlist))
            found = [] if exact else _nearest(store, connection, query, clause)
            answers.append(found if len(found) == k else _nearest(store, connection, query, clause, exact=True))
    return answers


def _set_scan(connection: Any, ef_search: int) -> None:
    """How the index is scanned until the end of the transaction."""
    _set(
        connection,
        {
            "hnsw.ef_search": ef_search,
            "hnsw.iterative_scan": "strict_order",
            "hnsw.max_scan_tuples": _EVERY_TUPLE,
            "hnsw.scan_mem_multiplier": _SCAN_MEMORY,
        },
    )


def _switch(connection: Any, **plans: bool) -> None:
    """Which ways the planner may take until the end of the transaction."""
    _set(connection, {name: "on" if may else "off" for name, may in plans.items()})


def _set(connection: Any, settings: Mapping[str, Any]) -> None:
    query = f"SELECT {', '.join(['set_config(%s, %s, true)'] * len(settings))}"
    connection.execute(query, [str(one) for pair in settings.items() for one in pair])


def _queries(
    store: PostgresStore, vectors: npt.NDArray[Any] | None, codes: npt.NDArray[Any] | None, by: By
) -> list[tuple[Any, Any]]:
    """What each query is compared with, as the driver takes it."""
    space, stored, _ = store.about()
    needs = {"vectors": by != "codes", "codes": by != "floats"}
    for name, given, kept in (("vectors", vectors, space.has_floats), ("codes", codes, space.has_codes)):
        if needs[name] and not kept:
            raise SettingsError(
                f"the gallery holds {space.holds}, so by={by!r} cannot rank it. Search by what it holds."
            )
        if needs[name] and given is None:
            raise SizeError(f"by={by!r} wants {name} of the queries. Give them.")
    count = len(vectors if vectors is not None and needs["vectors"] else codes)  # type: ignore[arg-type]
    if needs["vectors"] and (vectors is None or vectors.shape != (count, space.dim) or vectors.dtype.kind != "f"):
        raise SizeError(f"want queries (Q, {space.dim}) of a floating type, got {getattr(vectors, 'shape', None)}.")
    if needs["vectors"] and not (np.isfinite(vectors).all() and vectors.any(axis=1).all()):  # type: ignore[arg-type, union-attr]
        raise SizeError("a query is zero, or holds NaN or infinity; it has no direction. Leave it out.")
    if needs["codes"] and (codes is None or codes.shape != (count, space.code_bytes) or codes.dtype != np.uint8):
        raise SizeError(f"want codes (Q, {space.code_bytes}) uint8, got {getattr(codes, 'shape', None)}.")
    return [
        (
            as_stored(_unit(vectors[at]), stored) if needs["vectors"] else None,  # type: ignore[index]
            as_bits(codes, at) if needs["codes"] else None,
        )
        for at in range(count)
    ]


def _unit(row: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
    """A row of length 1: pgvector adds squares in float32, which end at 3.4e38."""
    scaled = (row / np.abs(row).max()).astype(np.float64)
    unit: npt.NDArray[np.float32] = (scaled / np.linalg.norm(scaled)).astype(np.float32)
    return unit


class _Query(NamedTuple):
    vector: Any
    code: Any
    k: int
    by: By
    shortlist: int


def _nearest(
    store: PostgresStore, connection: Any, query: _Query, clause: Clause, *, exact: bool = False
) -> list[Found]:
    """One query; equal scores by row number."""
    # The planner does not count what reading long rows costs, and takes a scan of a small table for cheaper than its index.
    _switch(connection, enable_indexscan=not exact, enable_seqscan=exact, enable_bitmapscan=exact)
    space, stored, _ = store.about()
    # A second key keeps PostgreSQL from using the index, so only an exact search breaks ties inside the server.
    columns, ties = "row, id, columns", ", row" if exact else ""
    hamming, cosine = "code <~> %s", f"vector <=> %s::{TYPES[stored]}"
    where = f"FROM {store.table} WHERE {clause.sql}"
    if query.by == "rerank":
        inside = f"SELECT {columns}, vector {where} ORDER BY {hamming}{ties} LIMIT %s"
        text = f"SELECT {columns}, {cosine} AS distance FROM ({inside}) AS short ORDER BY distance, row LIMIT %s"
        values = (query.vector, *clause.values, query.code, query.shortlist, query.k)
    elif query.by == "codes":
        text = f"SELECT {columns}, {hamming} AS distance {where} ORDER BY {hamming}{ties} LIMIT %s"
        values = (query.code, *clause.values, query.code, query.k)
    else:
        half = f"halfvec({space.dim})"
        order = cosine if exact or space.dim <= _WIDEST[TYPES[stored]] else f"(vector::{half}) <=> %s::{half}"
        text = f"SELECT {columns}, {cosine} AS distance {where} ORDER BY {order}{ties} LIMIT %s"
        values = (query.vector, *clause.values, query.vector, query.k)
    found = [
        Found(row, id_, metadata, float(-distance if query.by == "codes" else 1 - distance))
        for row, id_, metadata, distance in connection.execute(text, values).fetchall()
    ]
    return sorted(found, key=lambda one: (-one.score, one.row))


def _schema(store: PostgresStore) -> str:
    return store.table.removesuffix(".item")
