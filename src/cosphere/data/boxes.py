"""Boxes of images: which values are boxes in pixels, and which other columns hold them.

Boxes are checked where a catalogue is made, so that a catalogue holds only boxes that can be cropped from an image that is
large enough.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from cosphere._types import Flags, Floats, Integers

if TYPE_CHECKING:
    import pandas as pd

BOX = ("x_1", "y_1", "x_2", "y_2")
"""Left, top, right and bottom in pixels; right and bottom are exclusive."""

NO_BOX = -1
"""All four edges of a row without a box. No valid box has a negative edge."""

_CORNERS = (
    ("x1", "y1", "x2", "y2"),
    ("xmin", "ymin", "xmax", "ymax"),
    ("x_min", "y_min", "x_max", "y_max"),
    ("bbox_x1", "bbox_y1", "bbox_x2", "bbox_y2"),
    ("bbox_xmin", "bbox_ymin", "bbox_xmax", "bbox_ymax"),
    ("left", "top", "right", "bottom"),
)
_SIZES = (
    ("x", "y", "w", "h"),
    ("bbox_x", "bbox_y", "bbox_w", "bbox_h"),
    ("bbox_x", "bbox_y", "bbox_width", "bbox_height"),
    ("bbox_left", "bbox_top", "bbox_width", "bbox_height"),
)
"""Left, top, width and height."""
BOX_NAMES = frozenset(name for names in (BOX, *_CORNERS, *_SIZES) for name in names)
"""Every name of a column of boxes that is read."""
_AMBIGUOUS = re.compile(
    r"(^|[._ ])((bounding)?[._ ]?b?box(es)?|roi)(?![a-z])"
    r"|^[xy][._ ]?(min|max|cent(er|re)|[012])$|^cent(er|re)[._ ]?[xy]$|^(x|y|left|right)$"
)
"""Lower-case names of columns that suggest boxes where none of the forms above is complete."""
MOST_EDGE = 2**31
"""Pixels of an edge, beyond which no image reaches."""


def edges(values: Floats) -> Integers:
    """Round boxes to pixels. (N, 4) float with NaN in rows without a box -> (N, 4) int64 with :data:`NO_BOX` there.

    An overshoot of up to one pixel over the left or top border, as left by rounding, is clipped to 0.
    """
    empty = _all(np.isnan(values))
    rounded = np.maximum(np.rint(np.nan_to_num(values)), 0).astype(np.int64)
    return np.where(empty[:, None], NO_BOX, rounded)


def faults(values: Floats) -> dict[int, str]:
    """Find boxes that cannot be used, whatever the size of the image.

    Args:
        values: (N, 4) edges in the order of :data:`BOX`; all NaN in rows without a box.

    Returns:
        What is wrong, by row.
    """
    missing = np.isnan(values)
    with np.errstate(invalid="ignore"):  # comparisons with NaN are False
        start, end = values[:, :2], values[:, 2:]
        # Shares may overshoot the image a little. Pixels are told from them by whole numbers, or by a side of two pixels.
        near = _all((values > -1) & (values < 2)) & _all(end - start <= 1.5) & ~_all(values == np.rint(values))
        checks: dict[str, Flags] = {
            "has an edge that is missing": ~_all(~missing) & ~_all(missing),
            "has an edge that is infinite": ~_all(~np.isinf(values)),
            "has an edge beyond 2^31 pixels": ~_all(~(np.abs(values) > MOST_EDGE)),
            "looks like shares of the image; write pixels": near | _all((values >= 0) & (values <= 1)),
            "is reversed or empty; want x_1 < x_2 and y_1 < y_2": ~_all(~(end <= start)),
            "is smaller than one pixel": ~_all(~(np.rint(end) <= np.rint(start))),
            "lies to the left of or above the image": ~_all(~(np.rint(start) < -1)) | ~_all(~(np.rint(end) < 1)),
        }
    reasons: dict[int, str] = {}
    for reason, wrong in checks.items():
        for row in np.flatnonzero(wrong).tolist():
            reasons.setdefault(row, f"the box ({', '.join(f'{edge:g}' for edge in values[row])}) {reason}")
    return reasons


def _all(flags: Flags) -> Flags:
    """Whether all of each row are set. (N, k) -> (N,)."""
    return np.asarray(flags.all(axis=1), dtype=bool)


def box_names(given: Mapping[str, object]) -> tuple[tuple[str, ...], tuple[str, ...]] | None:
    """Which of the lower-case names of columns are a box, and what they are: as in :data:`BOX`, or ``x_1, y_1, w, h``; None without."""
    forms = [(one, BOX) for one in (BOX, *_CORNERS)] + [(one, ("x_1", "y_1", "w", "h")) for one in _SIZES]
    return next((form for form in forms if all(name in given for name in form[0])), None)


def box_columns(frame: pd.DataFrame, given: dict[str, object], notes: list[str]) -> pd.DataFrame | None:
    """Find the columns of boxes under one of their usual names.

    Args:
        frame: the table.
        given: lower-case names of the columns, and the names in the table.
        notes: receives a sentence about the names that were used or not understood.

    Returns:
        Columns named as in :data:`BOX`, or as ``x_1, y_1, w, h`` for boxes with a size; None without boxes.
    """
    form = box_names(given)
    if form is not None:
        names, columns = form
        own = [given[name] for name in names]
        if names != BOX:
            meaning = "x_1, y_1, x_2, y_2" if columns == BOX else "x_1, y_1, width and height"
            notes.append(f"columns {', '.join(map(str, own))} were read as the box {meaning}")
        return frame[own].set_axis(list(columns), axis=1)
    odd = [str(column) for column in frame.columns if _AMBIGUOUS.search(str(column).strip().lower())]
    if odd and [name.lower() for name in odd] != ["y"]:  # y alone is a label
        notes.append(
            f"columns {', '.join(odd)} look like boxes and were not read; name them x_1, y_1, x_2, y_2 (pixels)"
        )
    return None
