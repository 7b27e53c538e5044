"""The metadata of IJB-B and IJB-C in the form that InsightFace distributes and most published code reads.

``PREFIX`` is ``ijbb`` or ``ijbc``; the images lie in ``loose_crop/`` beside the folder of the lists:

==================================  ========================================================================
``PREFIX_face_tid_mid.txt``         a line ``image template medium`` for each image
``PREFIX_name_5pts_score.txt``      a line ``image x1 y1 ... x5 y5 score`` for each image, in the same order
``PREFIX_template_pair_label.txt``  a line ``template template label`` for each comparison; label 1: one person
``PREFIX_1N_*.csv``                 a header, then ``template,person,...``: galleries (G1, G2 or S1, S2), probes
==================================  ========================================================================

Source: InsightFace ``ijb_11.py`` and ``ijb_1n.py``.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from cosphere._types import Flags, Float32s, Integers
from cosphere.errors import DataError, counted
from cosphere.files import path_of

MAX_ROWS = 100_000_000
"""Most lines of a list that are read; the longest published one has 15.7 million."""
_ROWS_AT_ONCE = 2**20
_ADVICE = "Copy or download the metadata again."


@dataclass(frozen=True, kw_only=True, eq=False)
class FaceImages:
    """N images with landmarks and a detector's score.

    Attributes:
        names: N file names, relative to ``loose_crop``.
        landmarks: (N, 5, 2) float32, pixels (x, y): left eye, right eye, nose, left and right corner of the mouth, as seen
            in the image.
        scores: (N,) float32, how sure the detector is.
    """

    names: tuple[str, ...]
    landmarks: Float32s
    scores: Float32s


@dataclass(frozen=True, kw_only=True, eq=False)
class TemplateMedia:
    """Which template and medium each of N images belongs to; an image may be listed several times.

    Attributes:
        names: N file names.
        templates: (N,) int64.
        media: (N,) int64, the photograph or video that the image comes from.
    """

    names: tuple[str, ...]
    templates: Integers
    media: Integers


@dataclass(frozen=True, kw_only=True, eq=False)
class TemplatePairs:
    """P comparisons of templates.

    Attributes:
        templates: (P, 2) int32.
        same: (P,) bool, whether both templates show one person.
    """

    templates: NDArray[np.int32]
    same: Flags


@dataclass(frozen=True, kw_only=True, eq=False)
class TemplateSubjects:
    """T templates of a gallery or of probes.

    Attributes:
        templates: (T,) int64, ascending, each once.
        subjects: (T,) int64, the person whom each shows.
    """

    templates: Integers
    subjects: Integers


@dataclass(frozen=True, kw_only=True, eq=False)
class IJB:
    """The lists of IJB-B or IJB-C for 1:1 verification.

    Attributes:
        name: ``ijbb`` or ``ijbc``.
        folder: where the images lie, ``loose_crop``.
        images: names, landmarks and scores of the N images.
        media: template and medium of the same N images.
        pairs: the comparisons.
    """

    name: str
    folder: Path
    images: FaceImages
    media: TemplateMedia
    pairs: TemplatePairs

    @property
    def paths(self) -> list[str]:
        """N paths of the images."""
        return [str(self.folder / name) for name in self.images.names]


def read_ijb(root: str | Path) -> IJB:
    """Read the lists of IJB-B or IJB-C.

    Args:
        root: the folder with ``meta/`` and ``loose_crop/``.

    Returns:
        The lists. Whether the images exist is not checked.

    Raises:
        DataError: a list is missing, damaged, or does not fit to another one.
    """
    root = path_of(root)
    name, meta = _found(root)
    images = read_face_images(meta / f"{name}_name_5pts_score.txt")
    media = read_template_media(meta / f"{name}_face_tid_mid.txt")
    if images.names != media.names:
        raise DataError(
            f"{name}_name_5pts_score.txt and {name}_face_tid_mid.txt do not list the same images in the same order. {_ADVICE}"
        )
    pairs = read_template_pairs(meta / f"{name}_template_pair_label.txt")
    missing = np.setdiff1d(pairs.templates, media.templates)
    if len(missing):
        raise DataError(
            f"{name}_template_pair_label.txt compares {counted(len(missing), 'template')} without images, first {missing[0]}. "
            f"{_ADVICE}"
        )
    return IJB(name=name, folder=root / "loose_crop", images=images, media=media, pairs=pairs)


def _found(root: Path) -> tuple[str, Path]:
    """Which of the two sets a folder holds, and the folder of its lists."""
    places = [
        (name, meta)
        for meta in (root / "meta", root)
        for name in ("ijbb", "ijbc")
        if (meta / f"{name}_face_tid_mid.txt").is_file()
    ]
    if len(places) != 1:
        what = "the lists of both IJB-B and IJB-C" if places else "no ijbb_face_tid_mid.txt or ijbc_face_tid_mid.txt"
        raise DataError(f"{root} has {what} in meta/. Give the folder of one set, with meta/ and loose_crop/.")
    return places[0]


def read_face_images(path: str | Path) -> FaceImages:
    """Read ``PREFIX_name_5pts_score.txt``: 60 bytes of memory for each image, and its name.

    Raises:
        DataError: the file cannot be read, or a line has another form.
    """
    path = path_of(path)
    numbers = [f"{axis}{point}" for point in range(1, 6) for axis in "xy"] + ["score"]
    table = _table(path, {"name": str, **dict.fromkeys(numbers, np.float32)})
    values = table[numbers].to_numpy(dtype=np.float32)
    _check_finite(values, path)
    return FaceImages(
        names=_names(table["name"], path),
        landmarks=values[:, :10].reshape(-1, 5, 2).copy(),
        scores=values[:, 10].copy(),
    )


def read_template_media(path: str | Path) -> TemplateMedia:
    """Read ``PREFIX_face_tid_mid.txt``.

    Raises:
        DataError: the file cannot be read, or a line has another form.
    """
    path = path_of(path)
    table = _table(path, {"name": str, "template": np.int64, "medium": np.int64})
    return TemplateMedia(
        names=_names(table["name"], path), templates=table["template"].to_numpy(), media=table["medium"].to_numpy()
    )


def read_template_pairs(path: str | Path) -> TemplatePairs:
    """Read ``PREFIX_template_pair_label.txt``: 9 bytes of memory for each of its up to 15.7 million lines, twice while reading.

    Raises:
        DataError: the file cannot be read, a line has another form, or a label is neither 0 nor 1.
    """
    path = path_of(path)
    table = _table(path, {"one": np.int32, "other": np.int32, "same": np.int8})
    same = table["same"].to_numpy()
    wrong = np.flatnonzero((same != 0) & (same != 1))
    if len(wrong):
        raise DataError(f"{path.name}: the label in line {wrong[0] + 1} is {same[wrong[0]]}; wanted 0 or 1. {_ADVICE}")
    return TemplatePairs(templates=table[["one", "other"]].to_numpy(dtype=np.int32), same=same.astype(bool))


def read_template_subjects(path: str | Path) -> TemplateSubjects:
    """Read a list for identification, such as ``ijbc_1N_gallery_G1.csv`` or ``ijbb_1N_probe_mixed.csv``.

    Its first two columns are the template and the person; the others, which differ between releases, are ignored. A template
    with several images has several lines.

    Raises:
        DataError: the file cannot be read, a line has another form, or a template shows two persons.
    """
    path = path_of(path)
    table = _table(path, {"template": np.int64, "subject": np.int64}, header=True).drop_duplicates()
    twice = table["template"][table["template"].duplicated()]
    if len(twice):
        raise DataError(f"{path.name}: template {twice.iloc[0]} shows two persons. {_ADVICE}")
    table = table.sort_values("template")
    return TemplateSubjects(templates=table["template"].to_numpy(), subjects=table["subject"].to_numpy())


def _table(path: Path, columns: dict[str, Any], *, header: bool = False) -> pd.DataFrame:
    """A list with these columns, separated by spaces, or by commas below a header; read a million lines at a time.

    Raises:
        DataError: the file cannot be read, is too long, has no lines, or a line has another form.
    """
    options: dict[str, Any] = {"sep": ",", "skiprows": 1, "usecols": range(len(columns))} if header else {"sep": r"\s+"}
    parts: list[pd.DataFrame] = []
    rows = 0
    try:
        if not header:
            _check_width(path, len(columns))
        with pd.read_csv(
            path,
            header=None,
            names=list(columns),
            index_col=False,
            dtype=columns,
            na_filter=False,
            quoting=3,  # csv.QUOTE_NONE: a name may hold a quote
            chunksize=_ROWS_AT_ONCE,
            **options,
        ) as chunks:
            for chunk in chunks:
                parts.append(chunk)
                rows += len(chunk)
                if rows > MAX_ROWS:
                    raise DataError(f"{path.name} has more than {MAX_ROWS:,} lines, which are not read. {_ADVICE}")
    except FileNotFoundError:
        raise DataError(f"{path} is missing. {_ADVICE}") from None
    except (OSError, ValueError, OverflowError) as error:  # pandas' own errors are ValueErrors
        reason = str(error).strip().splitlines()[0]
        form = "template,person below a header" if header else " ".join(columns)
        raise DataError(f"{path.name} wants lines of the form '{form}': {reason}. {_ADVICE}") from error
    if not rows:
        raise DataError(f"{path.name} has no lines. {_ADVICE}")
    return pd.concat(parts, ignore_index=True)


def _check_width(path: Path, width: int) -> None:
    """Check the first line, because pandas would take cells beyond the named columns for an index."""
    with path.open("rb") as file:
        first = file.readline(2**16).split()
    if first and len(first) != width:
        raise ValueError(f"line 1 has {counted(len(first), 'cell')}, wanted {width}")


def _names(column: pd.Series, path: Path) -> tuple[str, ...]:
    names = tuple(column)
    outside = next((name for name in names if name.startswith("/") or ".." in name.replace("\\", "/").split("/")), None)
    if outside is not None:
        raise DataError(f"{path.name}: {outside!r} leaves the folder of the images. {_ADVICE}")
    return names


def _check_finite(values: Float32s, path: Path) -> None:
    if not math.isfinite(float(values.sum())):
        rows = np.flatnonzero(~np.isfinite(values).all(axis=1))
        if len(rows):
            raise DataError(f"{path.name}: line {rows[0] + 1} holds a number that is not finite. {_ADVICE}")
