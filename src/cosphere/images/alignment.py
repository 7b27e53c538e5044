"""Alignment of faces: five landmarks are brought to fixed places by a rotation, a scale and a shift.

Coordinates are pixels (x, y); the centre of the first pixel is (0, 0), as in OpenCV and InsightFace. Points are in the order
left eye, right eye, nose, left and right corner of the mouth, where left is the left of the image.

Source: Umeyama 1991 for the transform; the template is that of ArcFace (InsightFace ``face_align.py``), which is that of
SphereFace moved by 8 pixels from 96 to 112 columns.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray
from PIL import Image

from cosphere._types import Floats
from cosphere.checks import check_whole
from cosphere.errors import ImageError, SizeError

FACE_SIZE = (112, 112)
"""Height and width of an aligned face, in pixels."""
_TEMPLATE = np.array(
    [[38.2946, 51.6963], [73.5318, 51.5014], [56.0252, 71.7366], [41.5493, 92.3655], [70.7299, 92.2041]]
)
_MOST_SIDE = 4096
_SMALLEST_SPREAD = 1e-6
"""Root mean square distance of landmarks from their centre, in pixels, below which they are one point."""


def face_template(size: tuple[int, int] = FACE_SIZE) -> Floats:
    """Where the five landmarks belong in an aligned face.

    112 x 112 gives the template of ArcFace, 112 x 96 that of SphereFace. Other heights scale it, and other widths cut or
    extend both sides equally.

    Args:
        size: (height, width) of the aligned face, each 1 to 4096 pixels.

    Returns:
        (5, 2) float64.

    Raises:
        SettingsError: the size is out of range.
    """
    height, width = _checked_size(size)
    template: Floats = _TEMPLATE * (height / FACE_SIZE[0]) + np.array([(width - height) / 2, 0])
    return template


def similarity_transforms(landmarks: ArrayLike, template: ArrayLike) -> Floats:
    """The rotation, scale and shift that bring landmarks nearest to a template, in the sense of least squares.

    There is no reflection. The solution is exact and vectorised: with points as complex numbers, a rotation with a scale is a
    factor, and the best one is a linear regression.

    Args:
        landmarks: (N, P, 2), N faces of P points.
        template: (P, 2).

    Returns:
        (N, 2, 3) float64; ``A @ (x, y, 1)`` is the place in the aligned face. NaN for a face that determines none: points that
        are not finite, are all one point, or have nothing in common with the template.

    Raises:
        SizeError: the shapes do not fit.
    """
    points, goal = _numbers(landmarks), _numbers(template)
    if points.ndim != 3 or goal.shape != points.shape[1:] or goal.shape[1:] != (2,) or not len(goal):
        raise SizeError(f"want landmarks (N, P, 2) and a template (P, 2), got {points.shape} and {goal.shape}.")
    with np.errstate(all="ignore"):  # rows without a transform become NaN
        source, target = points[..., 0] + 1j * points[..., 1], goal[:, 0] + 1j * goal[:, 1]
        source_mean, target_mean = source.mean(axis=1), target.mean()
        centred = source - source_mean[:, None]
        spread = (np.abs(centred) ** 2).sum(axis=1)
        factor = (centred.conj() * (target - target_mean)).sum(axis=1) / spread
        shift = target_mean - factor * source_mean
        usable = (spread > len(goal) * _SMALLEST_SPREAD**2) & np.isfinite(shift) & (np.abs(factor) > 1e-9)
    matrices = np.stack(
        [np.stack([factor.real, -factor.imag, shift.real], -1), np.stack([factor.imag, factor.real, shift.imag], -1)], 1
    )
    matrices[~usable] = np.nan
    return matrices


def align(image: NDArray[np.uint8], landmarks: ArrayLike, size: tuple[int, int] = FACE_SIZE) -> NDArray[np.uint8]:
    """Cut aligned faces out of an image: bilinear, black outside of the image.

    Args:
        image: (H, W, 3) uint8 RGB, or (H, W) uint8 gray.
        landmarks: (5, 2) for one face, (N, 5, 2) for several, in pixels; they may lie outside of the image.
        size: (height, width) of an aligned face, each 1 to 4096 pixels.

    Returns:
        (height, width, 3) for one face, (N, height, width, 3) for several; without the 3 for a gray image.

    Raises:
        SizeError: the image or the landmarks have another shape.
        SettingsError: the size is out of range.
        ImageError: landmarks are not finite, or are all one point.
    """
    points, image = _numbers(landmarks), np.asarray(image)
    if points.ndim not in (2, 3) or points.shape[-2:] != (5, 2):
        raise SizeError(f"want landmarks (5, 2) or (N, 5, 2), got {points.shape}.")
    if image.dtype != np.uint8 or not (image.ndim == 2 or (image.ndim == 3 and image.shape[2] == 3)):
        raise SizeError(f"want an image (H, W, 3) or (H, W) uint8, got {image.shape} {image.dtype}.")
    height, width = _checked_size(size)
    faces = points.reshape(-1, 5, 2)
    matrices = similarity_transforms(faces, face_template(size))
    wrong = np.flatnonzero(np.isnan(matrices).any(axis=(1, 2)))
    if len(wrong):
        raise ImageError(f"the landmarks {faces[wrong[0]].tolist()} determine no alignment. Leave that face out.")
    picture = Image.fromarray(np.ascontiguousarray(image))
    aligned = np.empty((len(faces), height, width, *image.shape[2:]), dtype=np.uint8)
    for face, matrix in zip(aligned, matrices, strict=True):
        face[:] = np.asarray(_warped(picture, matrix, width, height))
    return aligned if points.ndim == 3 else aligned[0]


def _numbers(points: ArrayLike) -> Floats:
    try:
        numbers: Floats = np.asarray(points, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise SizeError(f"landmarks are no array of numbers: {error}. Give (5, 2) or (N, 5, 2).") from error
    return numbers


def _warped(picture: Image.Image, matrix: Floats, width: int, height: int) -> Image.Image:
    """Pillow wants the way back, from the aligned face to the image, with the corner of the first pixel at (0, 0)."""
    back = np.linalg.inv(matrix[:, :2])
    shift = -back @ matrix[:, 2] + 0.5 - back @ [0.5, 0.5]
    data = (*back[0].tolist(), float(shift[0]), *back[1].tolist(), float(shift[1]))
    return picture.transform((width, height), Image.Transform.AFFINE, data, Image.Resampling.BILINEAR, fillcolor=0)


def _checked_size(size: tuple[int, int]) -> tuple[int, int]:
    height, width = size
    return (
        check_whole("size (height)", height, least=1, most=_MOST_SIDE),
        check_whole("size (width)", width, least=1, most=_MOST_SIDE),
    )
