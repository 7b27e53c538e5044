"""The kinds of index: what each is, how it is built and how it is read from a file."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch

from cosphere.search.engines.base import Approximate, Arrays, Engine, Tunable
from cosphere.search.engines.coarse import CoarseBits
from cosphere.search.engines.exhaustive import builder, reader
from cosphere.search.engines.graph import Graph
from cosphere.search.engines.lists import BitLists, FloatLists
from cosphere.search.engines.settings import IndexSettings
from cosphere.search.hamming import Rows

__all__ = [
    "COSINE",
    "ENGINES",
    "SIGNS",
    "Approximate",
    "Arrays",
    "Engine",
    "IndexSettings",
    "Kind",
    "Tunable",
]

COSINE = "cosine"
"""What a calibrated threshold applies to: cosines of whole embeddings."""
SIGNS = "1 - 2 x share of differing bits"
"""Of packed codes."""


@dataclass(frozen=True)
class Kind:
    """One kind of index."""

    summary: str
    """How it keeps and searches rows."""
    measure: str
    """What its scores are."""
    build: Callable[[Rows, IndexSettings, int], Engine]
    """From rows, settings and a seed."""
    read: Callable[[Arrays, IndexSettings, str | torch.device], Engine]
    """From the arrays of a file; raises KeyError or ValueError where they do not fit."""
    effort: str = ""
    """The setting that trades time for recall; empty where there is none."""

    @property
    def takes_codes(self) -> bool:
        """Whether it compares signs only, so that packed codes are as good as float rows."""
        return self.measure == SIGNS


def _exhaustive(kind: str, summary: str, measure: str, effort: str = "") -> Kind:
    return Kind(summary, measure, builder(kind), reader(kind), effort)


ENGINES: dict[str, Kind] = {
    "exact": _exhaustive("exact", "float32 rows, by cosine", COSINE),
    "float16": _exhaustive("float16", "rows in half precision", "cosine of rounded rows"),
    "int8": _exhaustive("int8", "rows of one byte per dimension", "cosine of rounded rows"),
    "bits": _exhaustive("bits", "packed signs, by Hamming distance; the query becomes bits too", SIGNS),
    "asymmetric": _exhaustive("asymmetric", "packed signs; the query keeps its floats", "cosine to the signs"),
    "rerank": _exhaustive(
        "rerank", "packed signs find a shortlist, float32 rows re-rank it", COSINE, effort="shortlist"
    ),
    "pq": _exhaustive("pq", "product quantisation, trained on the gallery", "cosine of quantised rows"),
    "coarse-bits": Kind(
        "the first bits find a shortlist, whole codes rank it",
        SIGNS,
        CoarseBits.build,
        CoarseBits.read,
        effort="shortlist",
    ),
    "hnsw": Kind(
        "a graph of near float32 rows",
        COSINE,
        partial(Graph.build, bits=False),
        partial(Graph.read, bits=False),
        effort="ef_search",
    ),
    "hnsw-bits": Kind(
        "a graph of near packed signs",
        SIGNS,
        partial(Graph.build, bits=True),
        partial(Graph.read, bits=True),
        effort="ef_search",
    ),
    "ivf": Kind(
        "float32 rows in lists around trained centres", COSINE, FloatLists.build, FloatLists.read, effort="nprobe"
    ),
    "ivf-bits": Kind(
        "packed signs in lists around trained centres", SIGNS, BitLists.build, BitLists.read, effort="nprobe"
    ),
}
"""By name. Kinds before ``coarse-bits`` are exhaustive: they differ only in how a row is stored."""
