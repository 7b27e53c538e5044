"""Convert a data set: read images one by one, keep their bytes, write them in another form with a table of all columns."""

from __future__ import annotations

import hashlib
import json
import os
import time
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from cosphere._types import Progress
from cosphere.checks import check_number
from cosphere.data.catalogue import Catalogue
from cosphere.data.converting.plan import Plan, make_plan
from cosphere.data.converting.replacing import check_apart, check_free, containers
from cosphere.data.converting.targets import Form, Target, form_of
from cosphere.data.converting.working import VERSION, Working, unwritable
from cosphere.data.folders import Classes
from cosphere.data.listing import is_image
from cosphere.data.pairs import read_verification_bin
from cosphere.data.reading import read_catalogue
from cosphere.data.remarks import MAX_UNREADABLE, Skipped
from cosphere.errors import DataError, ImageError, counted
from cosphere.images import encoded_image

_FEWEST = 200
"""Images between two checkpoints, at least; later an eighth of those that are done, so that checkpoints stay cheap."""
_SECONDS = 10.0
"""Seconds after which there is a checkpoint in any case."""


@dataclass(frozen=True, kw_only=True)
class Conversion:
    """What :func:`convert` wrote.

    Attributes:
        target: the folder or file.
        form: ``folder``, ``table``, ``zip archive`` or ``RecordIO file``.
        table: the table with every column of the source; :func:`read_catalogue` reads it.
        pairs: the table of pairs of a verification set; None for other data.
        images: number of images written, each once.
        resumed: how many of them an earlier process had written.
        skipped: images that were left out because they cannot be read.
        notes: how the source was read.
    """

    target: Path
    form: str
    table: Path
    pairs: Path | None
    images: int
    resumed: int
    skipped: tuple[Skipped, ...]
    notes: tuple[str, ...]


def convert(
    source: Catalogue | str | Path,
    target: str | Path,
    *,
    layout: str = "auto",
    classes: Classes = "top",
    overwrite: bool = False,
    max_unreadable: float = MAX_UNREADABLE,
    progress: Progress | None = None,
) -> Conversion:
    """Copy a data set into another form.

    The name of the target says which: ``train.rec`` (with ``train.idx`` and ``property``, as InsightFace has them),
    ``photos.zip``, ``photos.csv`` / ``.tsv`` / ``.parquet`` (a table, with its images in ``photos/``), or a folder. A table
    with every column of the source lies in a folder as ``labels.csv`` and beside a file under its name: ``train.csv``. Pairs
    of a verification set are written as ``pairs.csv`` or ``NAME.pairs.csv``, for :func:`read_pairs`.

    Images keep their bytes; only what a container holds as pixels is encoded, as PNG. One image is in memory at a time, beside
    the table. Labels become names of folders as far as file systems allow; the table has them unchanged. In a RecordIO file
    classes are numbers: their labels where these are whole numbers, otherwise counted from 0 in natural order.

    The target is built in a hidden folder beside it and moved at the end. After a kill, the same call goes on.

    Args:
        source: a catalogue, or any source of :func:`read_catalogue`; labels may be missing, except for RecordIO.
        target: what to write.
        layout: layout of the source; see :func:`read_catalogue`.
        classes: see :func:`read_catalogue`.
        overwrite: replace what is there. Of folders, only one that holds nothing but a conversion.
        max_unreadable: tolerated share of images that cannot be read, in [0, 1]; they are left out and listed.
        progress: called with (images done, total) after each image.

    Returns:
        What was written.

    Raises:
        SettingsError: the target is of another kind, or another argument is out of range.
        DataError: the source cannot be read, or too many images.
        RunError: the target exists, lies among the images, or cannot be written; or another process converts to it.
    """
    check_number("max_unreadable", max_unreadable, at_least=0, at_most=1)
    target = Path(target)
    form = form_of(target)
    catalogue = source if isinstance(source, Catalogue) else _catalogue(source, layout, classes, max_unreadable)
    pairs = _pairs_of(source)
    outputs = _outputs(form, target, pairs is not None)
    check_apart(outputs, catalogue, source)
    plan = make_plan(catalogue, numbered=form.numbered)
    with Working.claimed(target, _digest(plan, form, target), restart=overwrite) as working:
        try:
            resumed = sum(reference is not None for reference in working.references)
            if not working.finished:
                check_free(outputs, target.parent / form.table(target.name), overwrite=overwrite)
                _write(working, form, target, plan, max_unreadable, progress)
                _write_tables(working, form, target, plan, pairs)
                working.save({}, finished=True)
            working.move_out(outputs, replace=overwrite)
        except OSError as error:
            raise unwritable(target, error) from error
    return Conversion(
        target=target,
        form=form.name,
        table=target.parent / form.table(target.name),
        pairs=None if pairs is None else target.parent / form.pairs(target.name),
        images=sum(reference is not None for reference in working.references),
        resumed=resumed,
        skipped=tuple(working.skipped),
        notes=catalogue.notes,
    )


def _catalogue(source: str | Path, layout: str, classes: Classes, max_missing: float) -> Catalogue:
    return read_catalogue(
        source, layout=layout, classes=classes, max_missing=max_missing, labels="optional", all_columns=True
    )


def _pairs_of(source: Catalogue | str | Path) -> pd.DataFrame | None:
    """The pairs of a verification set, as a table of the numbers of its images; None for other sources."""
    if isinstance(source, Catalogue) or Path(source).suffix.lower() != ".bin" or not Path(source).is_file():
        return None
    listed = read_verification_bin(source)
    numbers = [[int(name.rpartition("#")[2]) for name in pair] for pair in listed.names]
    table = pd.DataFrame(numbers, columns=["a", "b"]).assign(same=listed.same)
    return table if listed.folds is None else table.assign(fold=listed.folds)


def _digest(plan: Plan, form: Form, target: Path) -> str:
    """A digest of all that a conversion depends on, but for the bytes of image files."""
    stats = [(name, os.stat(name).st_size, os.stat(name).st_mtime_ns) for name in sorted(containers(plan.sources))]  # noqa: PTH116
    digest = hashlib.sha256(json.dumps([VERSION, form.name, target.name, stats, list(plan.catalogue.table)]).encode())
    for source, name in zip(plan.sources, plan.names, strict=True):
        digest.update(f"{source}\n{name}\n".encode("utf-8", "surrogatepass"))
    return digest.hexdigest()


def _outputs(form: Form, target: Path, pairs: bool) -> list[Path]:
    """What is written, the target itself last."""
    names = form.outputs(target.name)
    if pairs and "/" not in form.pairs(target.name):
        names = (form.pairs(target.name), *names)
    return [target.parent / name for name in names]


def _write(
    working: Working, form: Form, target: Path, plan: Plan, max_unreadable: float, progress: Progress | None
) -> None:
    """Write the images that are not written yet.

    Raises:
        DataError: too many of them cannot be read.
    """
    total = len(plan.sources)
    writer = form.make(working.out, target.name, plan, working.target_state)
    try:
        saved, moment = len(working.references), time.monotonic()
        for number in range(saved, total):
            _write_one(working, writer, plan, number)
            if len(working.skipped) > max_unreadable * total:
                raise DataError(_too_many(working.skipped, total, max_unreadable))
            if progress is not None:
                progress(number + 1, total)
            since = number + 1 - saved
            if since >= max(_FEWEST, number // 8) or time.monotonic() - moment > _SECONDS:
                working.save(writer.checkpoint())
                saved, moment = number + 1, time.monotonic()
        if len(working.skipped) == total:
            raise DataError(_too_many(working.skipped, total, max_unreadable))
        writer.finish()
    finally:
        writer.leave()


def _write_one(working: Working, writer: Target, plan: Plan, number: int) -> None:
    source, name = plan.sources[number], plan.names[number]
    try:
        image = encoded_image(source)
    except ImageError as error:
        working.left_out(source, str(error))
        return
    name = name if is_image(name) else name + image.suffix
    working.done(writer.write(number, name, image.content))


def _too_many(skipped: list[Skipped], total: int, share: float) -> str:
    return (
        f"{len(skipped)} of {counted(total, 'image')} cannot be read, and at most {share:.1%} may be left out. First: "
        f"{skipped[0].reason} Mend or remove them, or raise max_unreadable."
    )


def _write_tables(working: Working, form: Form, target: Path, plan: Plan, pairs: pd.DataFrame | None) -> None:
    """Write the table of images, and that of pairs whose two images were written."""
    _write_table(plan.table(working.references), working.out / form.table(target.name))
    if pairs is not None:
        names = pd.Series(working.references, dtype=object)
        whole = pairs.assign(a=names[pairs["a"]].to_numpy(), b=names[pairs["b"]].to_numpy()).dropna()
        _write_table(whole, working.out / form.pairs(target.name))


def _write_table(table: pd.DataFrame, path: Path) -> None:
    if path.suffix.lower() == ".parquet":
        table.to_parquet(path, index=False)
    else:
        table.to_csv(path, index=False, sep="\t" if path.suffix.lower() == ".tsv" else ",", lineterminator="\n")
