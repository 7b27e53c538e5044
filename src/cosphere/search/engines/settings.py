"""Settings of the kinds of index, with their bounds."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from cosphere.checks import check_whole
from cosphere.errors import SettingsError, did_you_mean

COARSE_SHORTLIST = 2000
"""Default shortlist of kind ``coarse-bits``."""
_FEWEST_COARSE = 256


@dataclass(frozen=True, kw_only=True)
class IndexSettings:
    """Settings of an index; each kind reads its own. None takes the default.

    Raises:
        SettingsError: a value is out of range.
    """

    shortlist: int | None = None
    """Rows that are ranked again: of ``rerank`` (100) and ``coarse-bits`` (2000). More finds more and takes longer."""
    parts: int | None = None
    """Bytes per row of ``pq``; None takes ceil(D / 8), as many as packed bits."""
    coarse_bits: int | None = None
    """First bits of each code that ``coarse-bits`` makes its shortlist by, a multiple of 8; None takes a quarter, at least 256."""
    m: int = 32
    """M of ``hnsw`` and ``hnsw-bits`` (Malkov & Yashunin, 2018): links of a row, twice as many on the lowest level."""
    ef_construction: int = 120
    """Candidates while a row is linked: more makes a better graph and a slower build."""
    ef_search: int | None = None
    """Candidates of a query in a graph (128). More finds more and takes longer."""
    nlist: int | None = None
    """Lists of ``ivf`` and ``ivf-bits``; None takes the square root of the number of rows."""
    nprobe: int | None = None
    """Lists that a query visits; None takes an eighth of them, at least 8."""

    def __post_init__(self) -> None:
        for name, least, most in _BOUNDS:
            value = getattr(self, name)
            if value is not None:
                object.__setattr__(self, name, check_whole(name, value, least=least, most=most))
        if self.coarse_bits is not None and self.coarse_bits % 8:
            raise SettingsError(f"coarse_bits must be a multiple of 8; got {self.coarse_bits}.")

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> IndexSettings:
        """Settings by name.

        Raises:
            SettingsError: there is no such setting, or a value is out of range.
        """
        names = [one.name for one in dataclasses.fields(cls)]
        for name in values:
            if name not in names:
                raise SettingsError(f"an index has no setting {name!r}. {did_you_mean(name, names)}")
        return cls(**values)

    def coarse_bytes(self, width: int) -> int:
        """Bytes of each code of ``width`` bytes that a shortlist is made by."""
        bits = max(_FEWEST_COARSE, 2 * width) if self.coarse_bits is None else self.coarse_bits
        return min(width, bits // 8)

    def lists(self, rows: int) -> int:
        """``nlist`` of an index of so many rows.

        Raises:
            SettingsError: more lists than rows.
        """
        if self.nlist is None:
            return max(1, math.isqrt(rows))
        return check_whole("nlist", self.nlist, least=1, most=rows)

    def arrays(self) -> dict[str, npt.NDArray[Any]]:
        """The settings that are not None, as arrays of one number."""
        values = dataclasses.asdict(self)
        return {name: np.array(value) for name, value in values.items() if value is not None}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, npt.NDArray[Any]]) -> IndexSettings:
        """The inverse of :meth:`arrays`; other arrays are passed over.

        Raises:
            SettingsError, ValueError: a value is no whole number in range.
        """
        names = [one.name for one in dataclasses.fields(cls) if one.name in arrays]
        return cls(**{name: arrays[name].item() for name in names})


_BOUNDS = (
    ("shortlist", 1, None),
    ("coarse_bits", 8, 2**16),
    ("m", 2, 512),
    ("ef_construction", 1, 10**5),
    ("ef_search", 1, 10**5),
    ("nlist", 1, 10**6),
    ("nprobe", 1, 10**6),
)
