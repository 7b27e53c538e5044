"""How a filtered search on PostgreSQL is answered: exactly where the filter keeps little, else by more candidates of the index.

An index walks through the rows nearest to the query and drops those that the filter does not keep. A filter that keeps one row of
a hundred therefore needs a thousand candidates for ten answers, which an index finds less and less well; comparing the kept rows
is then both exact and quicker. PostgreSQL's own estimate of a filter of jsonb is a constant, so the share is counted in a sample.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

from cosphere.checks import FEW_KEPT
from cosphere.gallery.postgres.filters import Clause

FEW_ROWS = 1000
"""So many kept rows are compared at once in any case: it takes less than the index."""
SAMPLE = 4000
"""Rows that a share is counted in. They are drawn page by page, so shares of columns that lie in runs are off by a little more."""
MOST_EF = 1000
"""Most candidates that pgvector takes at once."""
_CANDIDATES = 6
"""Candidates for each row that lies as near as the last answer, kept or not."""


class Estimate(NamedTuple):
    """How much a filter keeps."""

    share: float
    """In [0, 1]."""
    rows: float

    @property
    def few(self) -> bool:
        """Whether it is answered exactly over the kept rows."""
        return self.share < FEW_KEPT or self.rows <= FEW_ROWS


def kept_by(connection: Any, table: str, clause: Clause) -> Estimate:
    """How many rows meet a condition, counted in about :data:`SAMPLE` of them, or in all where there are few.

    Args:
        connection: in a transaction.
        table: its quoted name.
        clause: the condition.
    """
    (plan,) = connection.execute(f"EXPLAIN (FORMAT JSON) SELECT FROM {table}").fetchone()
    # From the size of the table now, and the rows of a page when it was analysed.
    rows = float(plan[0]["Plan"]["Plan Rows"])
    percent = 100 * SAMPLE / max(1.0, rows)
    counted = f"SELECT count(*) FILTER (WHERE {clause.sql}), count(*) FROM {table}"
    sampled = f"{counted} TABLESAMPLE SYSTEM ({percent:.6f}) REPEATABLE (0)"
    for query in (sampled, counted) if percent < 50 else (counted,):
        kept, seen = connection.execute(query, clause.values).fetchone()
        if seen:
            return Estimate(kept / seen, kept if query is counted else kept / seen * rows)
    return Estimate(0.0, 0.0)


def candidates(ef_search: int, k: int, share: float) -> int:
    """Candidates of the index for k answers through a filter that keeps a share of the rows.

    >>> candidates(100, 10, 1.0), candidates(100, 10, 0.1), candidates(100, 10, 0.05)
    (100, 600, 1000)
    """
    if share >= 1:
        return ef_search
    return max(ef_search, min(MOST_EF, math.ceil(_CANDIDATES * k / share)))
