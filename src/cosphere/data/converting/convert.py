"""Convert a data set: read images one by one, keep their bytes, write them in another form with a table of all columns."""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd

from cosphere._types import Progress
from cosphere.checks import check_number, check_switches
from cosphere.data.catalogue import Catalogue
from cosphere.data.converting.plan import Plan, make_plan
from cosphere.data.converting.replacing import check_apart, check_free, containers
from cosphere.data.converting.targets import Form, Target, form_of
from cosphere.data.converting.working import VERSION, Working, unwritable
from cosphere.data.folders import Classes
from cosphere.data.pairs import read_verification_bin
from cosphere.data.reading import read_catalogue
from cosphere.data.remarks import MAX_UNREADABLE, Skipped
from cosphere.disk import file_state
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
        resumed: how many images of the source an earlier process was through with.
        skipped: images that were left out because they cannot be read.
        without: images that could be read and of which nothing was made, such as images without a face.
        notes: how the source was read, and what the target cannot hold.
    """

    target: Path
    form: str
    table: Path
    pairs: Path | None
    images: int
    resumed: int
    skipped: tuple[Skipped, ...]
    without: tuple[str, ...]
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
    classes are numbers: their labels where these are whole numbers, otherwise counted from 0 in natural order,
    and an image with several labels keeps the first, which a note says; the table has them all.

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
    check_switches(overwrite=overwrite)
    form = form_of(Path(target))
    check_number("max_unreadable", max_unreadable, at_least=0, at_most=1)
    catalogue = source if isinstance(source, Catalogue) else _catalogue(source, layout, classes, max_unreadable)
    plan = make_plan(catalogue, numbered=form.numbered)
    job = Job(Path(target), form, plan, _whole, "bytes", max_unreadable, _pairs_of(source))
    return run_job(job, source, overwrite=overwrite, progress=progress)


class Piece(NamedTuple):
    """An encoded image that is made of an image of the source."""

    content: bytes
    suffix: str
    columns: dict[str, Any]
    """Columns of its own for the table."""


@dataclass(frozen=True, eq=False)
class Job:
    """What is to be written."""

    target: Path
    form: Form
    plan: Plan
    pieces: Callable[[str], list[Piece]]
    """What an image of the source becomes; an ImageError where it cannot be read."""
    about: str
    """What ``pieces`` does, with its settings. An unfinished job is continued by one that does the same."""
    max_unreadable: float
    pairs: pd.DataFrame | None = None

    @property
    def table(self) -> Path:
        """The table of images."""
        return self.target.parent / self.form.table(self.target.name)

    @property
    def outputs(self) -> list[Path]:
        """What is written, the target itself last."""
        names = self.form.outputs(self.target.name)
        if self.pairs is not None and "/" not in self.form.pairs(self.target.name):
            names = (self.form.pairs(self.target.name), *names)
        return [self.target.parent / name for name in names]

    def digest(self) -> str:
        """A digest of all that the result depends on, except the bytes of image files."""
        files = sorted(containers(self.plan.sources))
        stats = [(name, *file_state(os.stat(name))) for name in files]  # noqa: PTH116
        about = [VERSION, self.form.name, self.target.name, self.about, stats, list(self.plan.catalogue.table)]
        digest = hashlib.sha256(json.dumps(about).encode())
        for source, name in zip(self.plan.sources, self.plan.names, strict=True):
            digest.update(f"{source}\n{name}\n".encode("utf-8", "surrogatepass"))
        return digest.hexdigest()


def _whole(source: str) -> list[Piece]:
    """An image as it is."""
    image = encoded_image(source)
    return [Piece(image.content, image.suffix, {})]


def run_job(job: Job, source: object, *, overwrite: bool, progress: Progress | None) -> Conversion:
    """Write what a job says, or what a killed process left of it.

    Args:
        job: what is to be written.
        source: where the catalogue was read from.
        overwrite: see :func:`convert`.
        progress: see :func:`convert`.

    Raises:
        DataError: too many images cannot be read.
        RunError: see :func:`convert`.
    """
    check_apart(job.outputs, job.plan.catalogue, source)
    with Working.claimed(job.target, job.digest(), restart=overwrite) as working:
        try:
            resumed = len(working.done)
            if not working.finished:
                check_free(job.outputs, job.table, overwrite=overwrite)
                _write(working, job, progress)
                _write_tables(working, job)
                working.save({}, finished=True)
            working.move_out(job.outputs, replace=overwrite)
        except OSError as error:
            raise unwritable(job.target, error) from error
    return Conversion(
        target=job.target,
        form=job.form.name,
        table=job.table,
        pairs=None if job.pairs is None else job.target.parent / job.form.pairs(job.target.name),
        images=sum(1 if isinstance(one, str) else len(one) for one in working.done),
        resumed=resumed,
        skipped=tuple(working.skipped),
        without=tuple(job.plan.sources[number] for number in _empty(working)),
        notes=job.plan.notes,
    )


def _empty(working: Working) -> list[int]:
    """The images of which nothing was made although they could be read."""
    return [number for number, one in enumerate(working.done) if not one and number not in working.unreadable]


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


def _write(working: Working, job: Job, progress: Progress | None) -> None:
    """Write the images that are not written yet.

    Raises:
        DataError: too many of them cannot be read.
    """
    total = len(job.plan.sources)
    writer = job.form.make(working.out, job.target.name, job.plan, working.target_state)
    try:
        saved, moment = len(working.done), time.monotonic()
        for number in range(saved, total):
            _write_one(working, writer, job, number)
            if len(working.skipped) > job.max_unreadable * total:
                raise DataError(_too_many(working.skipped, total, job.max_unreadable))
            if progress is not None:
                progress(number + 1, total)
            since = number + 1 - saved
            if since >= max(_FEWEST, number // 8) or time.monotonic() - moment > _SECONDS:
                working.save(writer.checkpoint())
                saved, moment = number + 1, time.monotonic()
        if not any(working.done):
            working.discard()
            raise DataError(_nothing(working.skipped, total))
        writer.finish()
    finally:
        writer.leave()


def _write_one(working: Working, writer: Target, job: Job, number: int) -> None:
    source, name = job.plan.sources[number], job.plan.names[number]
    try:
        pieces = job.pieces(source)
    except ImageError as error:
        working.left_out(source, str(error))
        return
    written: list[tuple[str, dict[str, Any]]] = []
    for place, piece in enumerate(pieces):
        own = f"{name}{job.plan.mark}{place + 1}" if place else name
        reference = writer.write(number, own + (job.plan.suffixes[number] or piece.suffix), piece.content)
        written.append((reference, piece.columns))
    alone = len(written) == 1 and not written[0][1]
    working.note(written[0][0] if alone else written)


def _too_many(skipped: list[Skipped], total: int, share: float) -> str:
    return (
        f"{len(skipped)} of {counted(total, 'image')} cannot be read, and at most {share:.1%} may be left out. First: "
        f"{skipped[0].reason} Mend or remove them, or raise max_unreadable (--max_unreadable)."
    )


def _nothing(skipped: list[Skipped], total: int) -> str:
    if skipped:
        return f"none of {counted(total, 'image')} can be read. First: {skipped[0].reason}"
    return f"nothing was found in any of {counted(total, 'image')}. Check the images and the settings."


def _write_tables(working: Working, job: Job) -> None:
    """Write the table of images, and that of pairs whose two images were written."""
    _write_table(job.plan.table(working.done), working.out / job.form.table(job.target.name))
    if job.pairs is not None:
        names = pd.Series([one if isinstance(one, str) else None for one in working.done], dtype=object)
        whole = job.pairs.assign(a=names[job.pairs["a"]].to_numpy(), b=names[job.pairs["b"]].to_numpy()).dropna()
        _write_table(whole, working.out / job.form.pairs(job.target.name))


def _write_table(table: pd.DataFrame, path: Path) -> None:
    if path.suffix.lower() == ".parquet":
        table.to_parquet(path, index=False)
    else:
        table.to_csv(path, index=False, sep="\t" if path.suffix.lower() == ".tsv" else ",", lineterminator="\n")
