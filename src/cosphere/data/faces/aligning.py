"""Find the faces in the images of a data set, align them, and write them as a data set of faces."""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from cosphere._types import Integers, Progress
from cosphere.checks import check_choice, check_number, check_switches
from cosphere.data.boxes import BOX
from cosphere.data.catalogue import Catalogue
from cosphere.data.converting.convert import Conversion, Job, Piece, run_job
from cosphere.data.converting.plan import make_plan
from cosphere.data.converting.targets import form_of
from cosphere.data.folders import Classes
from cosphere.data.reading import read_catalogue
from cosphere.data.remarks import MAX_UNREADABLE
from cosphere.errors import SizeError
from cosphere.images import Detector, Faces, align, face_template, read_image
from cosphere.images.alignment import FACE_SIZE

Which = Literal["largest", "all"]
"""Which of several faces in an image."""
_QUALITY = 95
"""Of the written JPEGs, without colour subsampling."""


def align_faces(
    source: Catalogue | str | Path,
    target: str | Path,
    detect: Detector,
    *,
    faces: Which = "largest",
    size: tuple[int, int] = FACE_SIZE,
    layout: str = "auto",
    classes: Classes = "top",
    overwrite: bool = False,
    max_unreadable: float = MAX_UNREADABLE,
    about: str = "",
    progress: Progress | None = None,
) -> Conversion:
    """Write the aligned faces of images as a folder, RecordIO, zip archive or table, as :func:`convert` does.

    Each face is brought onto :func:`cosphere.images.face_template` and saved as JPEG. Its row has the columns of its image, and
    ``source`` (the path of the image) and ``face_score`` (of the detector). Boxes of the source are not used and do not stay,
    because their pixels are those of the whole image. A call that was killed goes on.

    Args:
        source: a catalogue, or any source of :func:`read_catalogue`.
        target: what to write; see :func:`convert`.
        detect: a callable that takes an image (H, W, 3) uint8 RGB, such as one of :func:`cosphere.images.load_detector`.
        faces: of several faces in an image the ``largest`` (area of its box), or ``all``, from the largest on.
        size: (height, width) of an aligned face, in pixels: (112, 112) for ArcFace, (112, 96) for SphereFace.
        layout: see :func:`read_catalogue`.
        classes: see :func:`read_catalogue`.
        overwrite: see :func:`convert`.
        max_unreadable: tolerated share of images that cannot be read, in [0, 1].
        about: names the detector and its settings; an unfinished call is continued only with the same.
        progress: called with (images done, total) after each image.

    Returns:
        What was written. ``without`` lists the images in which no face was found.

    Raises:
        SettingsError: an argument is out of range.
        SizeError: the detector returns other shapes than a :class:`Faces`.
        DataError: the source cannot be read, no face was found in any image, or too many images cannot be read.
        RunError: as of :func:`convert`.
    """
    check_switches(overwrite=overwrite)
    check_choice("faces", faces, get_args(Which))
    check_number("max_unreadable", max_unreadable, at_least=0, at_most=1)
    face_template(size)  # checks the size before any image is read
    form = form_of(Path(target))
    catalogue = source
    if not isinstance(catalogue, Catalogue):
        catalogue = read_catalogue(
            catalogue, layout=layout, classes=classes, max_missing=max_unreadable, labels="optional", all_columns=True
        )
    plan = make_plan(_without_boxes(catalogue), numbered=form.numbered, suffixes=False)
    settings = f"faces {faces} {size} {about}"
    job = Job(Path(target), form, plan, _cutter(detect, faces, size), settings, max_unreadable)
    return run_job(job, source, overwrite=overwrite, progress=progress)


def _without_boxes(catalogue: Catalogue) -> Catalogue:
    columns = [name for name in catalogue.table if name in BOX]
    table = catalogue.table.drop(columns=columns)
    return replace(catalogue, table=table.drop_duplicates().reset_index(drop=True) if columns else table)


def _cutter(detect: Detector, which: Which, size: tuple[int, int]) -> Callable[[str], list[Piece]]:
    """What makes the faces of one image."""

    def cut(path: str) -> list[Piece]:
        image = read_image(path)
        found = checked_faces(detect(image))
        order = _by_area(found)
        if which == "largest":
            order = order[:1]
        if not len(order):
            return []
        aligned = align(image, found.landmarks[order], size)
        scores = found.scores[order].tolist()
        return [
            Piece(_jpeg(face), ".jpg", {"source": path, "face_score": round(score, 4)})
            for face, score in zip(aligned, scores, strict=True)
        ]

    return cut


def checked_faces(faces: Faces) -> Faces:
    """The faces that a detector found, without those that cannot be aligned.

    Args:
        faces: boxes, landmarks and scores, as arrays or lists.

    Returns:
        The same as float32 arrays. Faces with values that are not finite, or whose landmarks are one point, are left out.

    Raises:
        SizeError: the shapes are not (F, 4), (F, 5, 2) and (F,).
    """
    boxes, landmarks, scores = (np.asarray(part, dtype=np.float32) for part in faces)
    count = len(scores) if scores.ndim == 1 else -1
    if not count and not boxes.size and not landmarks.size:
        return Faces(np.empty((0, 4), np.float32), np.empty((0, 5, 2), np.float32), np.empty(0, np.float32))
    if (boxes.shape, landmarks.shape) != ((count, 4), (count, 5, 2)):
        raise SizeError(
            f"a detector returns boxes (F, 4), landmarks (F, 5, 2) and scores (F,); got {boxes.shape}, {landmarks.shape} and "
            f"{scores.shape}."
        )
    finite = np.isfinite(boxes).all(axis=1) & np.isfinite(landmarks).all(axis=(1, 2)) & np.isfinite(scores)
    usable = finite & (np.ptp(landmarks, axis=1).max(axis=1) >= 1)  # less than a pixel is one point
    return Faces(boxes[usable], landmarks[usable], scores[usable])


def _by_area(faces: Faces) -> Integers:
    """The faces from the largest box to the smallest; equal ones as they come."""
    sides = np.maximum(faces.boxes[:, 2:] - faces.boxes[:, :2], 0).astype(np.float64)
    return np.argsort(-sides.prod(axis=1), kind="stable")


def _jpeg(face: NDArray[np.uint8]) -> bytes:
    file = io.BytesIO()
    Image.fromarray(face).save(file, "JPEG", quality=_QUALITY, subsampling=0)
    return file.getvalue()
