"""Choice of a kind of index: by size, memory and wanted recall, measured on a sample of the gallery on this machine."""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator
from dataclasses import replace
from typing import NamedTuple, cast

import numpy as np
import torch

from cosphere.codes import from_bits
from cosphere.errors import counted
from cosphere.rows import BLOCK_BYTES, UnitRows, unit_rows
from cosphere.search.allowed import Allowed
from cosphere.search.engines import ENGINES, Engine, IndexSettings, Tunable
from cosphere.search.exact import Neighbours
from cosphere.search.hamming import Rows, SignRows, rows_at
from cosphere.search.self_check import NEIGHBOURS, check_search

SAMPLE = 10_000
"""Rows that kinds are tried on."""
QUERIES = 50
QUICK = 0.005
"""Seconds of one query below which exact search is taken: nothing would be noticed."""
_REPEATS = 15
_CANDIDATES = ("exact", "hnsw", "ivf", "float16", "int8", "coarse-bits", "hnsw-bits", "ivf-bits", "bits", "asymmetric")
"""Kinds that are tried, all but those that need training on labelled scale (``pq``) or hold more than exact does (``rerank``)."""
_FEWEST = 2_000
"""Rows below which no kind can be told from another by time."""


class Trial(NamedTuple):
    """One kind on the sample, and what follows for all rows."""

    kind: str
    seconds: float
    """Estimate of one query over all rows."""
    recall: float
    """On the sample: more rows lie closer together, so an approximate kind finds less of them."""
    bytes: float
    """Estimate of the index of all rows."""

    def __str__(self) -> str:
        """One readable clause."""
        return f"{self.kind} {1000 * self.seconds:.2g} ms a query, recall {self.recall:.3f}"


def choose(
    rows: Rows, settings: IndexSettings, wanted: float, most_bytes: float | None, seed: int
) -> Iterator[tuple[str, str]]:
    """Kinds to build, best first, each with the reason: the fastest of those that fit the memory and find enough.

    Exact search is taken where it fits and answers within :data:`QUICK`; of packed codes that is kind ``bits``, and only kinds that
    compare signs are tried. Otherwise every kind that fits is built on a sample of :data:`SAMPLE` rows; its time is scaled to all rows
    by how it searches, and its recall is measured there. Whoever builds the index measures again, on all rows, and takes the next kind
    where that is below what is wanted.

    Args:
        rows: of the gallery.
        settings: of the kinds.
        wanted: recall in [0, 1].
        most_bytes: bound of the index; None for none.
        seed: of the sample.
    """
    count = counted(rows.size, "row")
    sample = _sample(rows, seed)
    whole = "bits" if isinstance(rows, SignRows) else "exact"
    exact = _tried(whole, sample, rows, settings, seed)
    fits = most_bytes is None or exact.bytes <= most_bytes
    if fits and (exact.seconds <= QUICK or rows.size < _FEWEST):
        yield whole, f"{whole}: one query over {count} takes about {1000 * exact.seconds:.2g} ms"
        return
    candidates = [kind for kind in _CANDIDATES if ENGINES[kind].takes_codes or whole == "exact"]
    trials = [_tried(kind, sample, rows, settings, seed) for kind in candidates if kind != whole]
    within = [one for one in [exact, *trials] if most_bytes is None or one.bytes <= most_bytes]
    enough = sorted((one for one in within if one.recall >= wanted), key=lambda one: one.seconds)
    bound = "" if most_bytes is None else f" of those within {most_bytes:,.0f} bytes"
    listed = "; ".join(str(one) for one in sorted([exact, *trials], key=lambda one: one.seconds))
    for one in enough:
        yield (
            one.kind,
            f"{one.kind}: the fastest{bound} that reached a recall of {wanted:g} on {counted(sample.size, 'row')}, with times for "
            f"{count}: {listed}",
        )
        if one.kind == whole:
            return


def _sample(rows: Rows, seed: int) -> UnitRows:
    """Some rows; of codes the directions that they stand for, whose cosines have the order of Hamming distances."""
    if rows.size > SAMPLE:
        drawn = np.sort(np.random.default_rng(seed).choice(rows.size, SAMPLE, replace=False))
        some = rows_at(rows, torch.from_numpy(drawn).to(rows.device))
        return unit_rows(from_bits(some.rows, some.dim) if isinstance(some, SignRows) else some.rows)
    return unit_rows(from_bits(rows.rows, rows.dim)) if isinstance(rows, SignRows) else rows


def _tried(kind: str, sample: UnitRows, rows: Rows, settings: IndexSettings, seed: int) -> Trial:
    # Lists of the sample hold at least 64 rows, as those of all rows do.
    small = replace(settings, nlist=min(settings.lists(rows.size), max(1, sample.size // 64)))
    engine = ENGINES[kind].build(sample, small, seed)

    def answer(queries: torch.Tensor, k: int, exclude: torch.Tensor | None) -> Neighbours:
        found = UnitRows(queries, len(queries))
        return engine.search(found, k, Allowed.of(sample.size, len(queries), None, exclude), BLOCK_BYTES)

    recall = check_search(answer, sample, k=min(NEIGHBOURS, max(1, sample.size - 1)), count=QUERIES, seed=seed).recall
    seconds = _seconds(engine, sample) * _growth(kind, engine, sample.size, rows.size)
    return Trial(kind, seconds, recall, engine.bytes_per_row * rows.size)


def _seconds(engine: Engine, sample: UnitRows) -> float:
    """Median of one query."""
    times = []
    everyone, k = Allowed(sample.size), min(NEIGHBOURS, sample.size)
    for at in range(_REPEATS):
        query = UnitRows(sample.rows[at % sample.size].unsqueeze(0), 1)
        start = time.perf_counter()
        engine.search(query, k, everyone, BLOCK_BYTES)
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def _growth(kind: str, engine: Engine, sample: int, rows: int) -> float:
    """How much longer a query over all rows takes than one over the sample."""
    if kind.startswith("hnsw"):
        return float(np.log(rows) / np.log(max(2, sample)))
    if kind == "coarse-bits" and cast(Tunable, engine).effort >= sample:
        return max(1.0, rows / sample / 8)
    return rows / sample
