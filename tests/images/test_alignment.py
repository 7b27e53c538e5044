"""Alignment against known points, Umeyama's formula with an SVD, and bilinear interpolation in plain loops."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from cosphere.errors import ImageError, SettingsError, SizeError
from cosphere.images import align, face_template, read_image, similarity_transforms

ARCFACE = [[38.2946, 51.6963], [73.5318, 51.5014], [56.0252, 71.7366], [41.5493, 92.3655], [70.7299, 92.2041]]
SPHEREFACE = [[30.2946, 51.6963], [65.5318, 51.5014], [48.0252, 71.7366], [33.5493, 92.3655], [62.7299, 92.2041]]
RNG = np.random.default_rng(0)


def umeyama(source: np.ndarray, target: np.ndarray) -> np.ndarray:
    """The closed form of Umeyama 1991, as scikit-image and OpenCV-based code write it. (2, 3)."""
    mean_s, mean_t = source.mean(0), target.mean(0)
    s, t = source - mean_s, target - mean_t
    u, d, vt = np.linalg.svd(t.T @ s / len(source))
    signs = np.array([1.0, 1.0 if np.linalg.det(t.T @ s) >= 0 else -1.0])
    rotation = u @ np.diag(signs) @ vt
    if np.linalg.det(rotation) < 0:
        signs[1] = -signs[1]
        rotation = u @ np.diag(signs) @ vt
    scale = (d * signs).sum() / s.var(0).sum()
    return np.hstack([scale * rotation, (mean_t - scale * rotation @ mean_s)[:, None]])


def moved(points: np.ndarray, angle: float, scale: float, shift: tuple[float, float]) -> np.ndarray:
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    return scale * points @ turn.T + shift


def test_templates() -> None:
    assert face_template().tolist() == ARCFACE
    np.testing.assert_allclose(face_template((112, 96)), SPHEREFACE, atol=1e-12)
    np.testing.assert_allclose(face_template((224, 224)), 2 * np.array(ARCFACE))


@pytest.mark.parametrize(
    ("angle", "scale", "shift"), [(0, 1, (0, 0)), (0.7, 2.5, (40, -3)), (-2, 0.1, (9, 9)), (3.1, 1, (1, 0))]
)
def test_points_that_are_a_moved_template(angle: float, scale: float, shift: tuple[float, float]) -> None:
    points = moved(np.array(ARCFACE), angle, scale, shift)
    (matrix,) = similarity_transforms(points[None], ARCFACE)
    np.testing.assert_allclose(points @ matrix[:, :2].T + matrix[:, 2], ARCFACE, atol=1e-9)


def test_many_faces_against_umeyamas_formula() -> None:
    faces = RNG.normal(60, 25, (200, 5, 2))  # arbitrary points: some are nearer to a mirrored template
    matrices = similarity_transforms(faces, ARCFACE)
    for face, matrix in zip(faces, matrices, strict=True):
        np.testing.assert_allclose(matrix, umeyama(face, np.array(ARCFACE)), atol=1e-8)
        assert np.linalg.det(matrix[:, :2]) > 0


def test_a_mirrored_face_is_turned_but_not_mirrored() -> None:
    mirrored = np.array(ARCFACE) * [-1, 1]
    (matrix,) = similarity_transforms(mirrored[None], ARCFACE)
    np.testing.assert_allclose(matrix, umeyama(mirrored, np.array(ARCFACE)), atol=1e-8)
    assert np.linalg.det(matrix[:, :2]) > 0


def test_no_other_similarity_is_nearer() -> None:
    face = np.array(ARCFACE) + RNG.normal(0, 6, (5, 2))
    (best,) = similarity_transforms(face[None], ARCFACE)

    def error(matrix: np.ndarray) -> float:
        return float(((face @ matrix[:, :2].T + matrix[:, 2] - ARCFACE) ** 2).sum())

    for _ in range(300):
        a, b, x, y = RNG.normal(0, 0.05, 4)
        other = best + np.array([[a, -b, x], [b, a, y]])
        assert error(other) >= error(best)


def plain_bilinear(image: np.ndarray, matrix: np.ndarray, height: int, width: int) -> np.ndarray:
    """Go through the pixels of the aligned face, and interpolate in the image; NaN within a pixel of its border and outside."""
    out = np.full((height, width), np.nan)
    back = np.linalg.inv(np.vstack([matrix, [0, 0, 1]]))
    for row in range(height):
        for column in range(width):
            x, y, _ = back @ (column, row, 1)
            left, top = int(np.floor(x)), int(np.floor(y))
            if 0 <= left < image.shape[1] - 1 and 0 <= top < image.shape[0] - 1:
                fx, fy = x - left, y - top
                upper = image[top, left] * (1 - fx) + image[top, left + 1] * fx
                lower = image[top + 1, left] * (1 - fx) + image[top + 1, left + 1] * fx
                out[row, column] = upper * (1 - fy) + lower * fy
    return out


@pytest.mark.parametrize("size", [(112, 112), (112, 96), (40, 56)])
def test_pixels_against_plain_loops(size: tuple[int, int]) -> None:
    image = RNG.integers(0, 256, (50, 64), dtype=np.uint8)
    landmarks = moved(np.array(ARCFACE), 0.3, 0.4, (20, 2))
    aligned = align(image, landmarks, size)
    wanted = plain_bilinear(image.astype(float), similarity_transforms(landmarks[None], face_template(size))[0], *size)
    inside = ~np.isnan(wanted)
    assert inside.sum() > 500
    assert np.abs(aligned[inside] - wanted[inside]).max() <= 1


def test_landmarks_come_to_their_places_and_the_outside_is_black() -> None:
    image = np.full((300, 260, 3), 200, dtype=np.uint8)
    landmarks = np.rint(moved(np.array(ARCFACE), -0.4, 1.9, (30, 90)))
    colours = np.array([[255, 0, 0], [0, 255, 0], [0, 0, 255], [255, 255, 0], [0, 255, 255]], dtype=np.uint8)
    for (x, y), colour in zip(landmarks.astype(int), colours, strict=True):
        image[y - 5 : y + 6, x - 5 : x + 6] = colour
    face = align(image, landmarks)
    for (x, y), colour in zip(np.rint(ARCFACE).astype(int), colours, strict=True):
        assert (face[y, x] == colour).all()
    far = align(image, landmarks + 10_000)
    assert (far == 0).all()
    assert (align(image, moved(np.array(ARCFACE), 0, 1, (-60, 0)))[:, :55] == 0).all()


def test_several_faces_at_once_equal_each_alone() -> None:
    image = RNG.integers(0, 256, (120, 120, 3), dtype=np.uint8)
    faces = np.stack([moved(np.array(ARCFACE), angle, 0.5, (10, 40)) for angle in (0.0, 0.4, -0.6)])
    together = align(image, faces)
    assert together.shape == (3, 112, 112, 3)
    for face, landmarks in zip(together, faces, strict=True):
        assert (face == align(image, landmarks)).all()
    assert align(image, np.empty((0, 5, 2))).shape == (0, 112, 112, 3)


def test_a_gray_image_and_one_that_is_not_square() -> None:
    image = RNG.integers(0, 256, (30, 90), dtype=np.uint8)
    landmarks = moved(np.array(ARCFACE), 0.1, 0.2, (5, 2))
    gray = align(image, landmarks)
    assert gray.shape == (112, 112)
    assert (align(np.repeat(image[..., None], 3, axis=2), landmarks) == gray[..., None]).all()


@pytest.mark.parametrize(
    "landmarks",
    [
        np.full((5, 2), 50.0),
        np.full((5, 2), np.nan),
        np.vstack([np.array(ARCFACE)[:4], [np.inf, 3]]),
        np.array(ARCFACE) * 1e-9,
        np.full((5, 2), 1e308),
        np.full((5, 2), np.inf),
    ],
)
def test_landmarks_that_determine_no_alignment(landmarks: np.ndarray) -> None:
    assert np.isnan(similarity_transforms(landmarks[None], ARCFACE)).all()
    with pytest.raises(ImageError, match="determine no alignment"):
        align(np.zeros((9, 9, 3), np.uint8), landmarks)
    whole = similarity_transforms(np.stack([landmarks, np.array(ARCFACE)]), ARCFACE)
    assert np.isnan(whole[0]).all()
    np.testing.assert_allclose(whole[1], [[1, 0, 0], [0, 1, 0]], atol=1e-12)


def test_points_on_a_line_still_determine_one() -> None:
    points = np.array([[10.0, 10], [30, 30], [20, 20], [12, 12], [28, 28]])
    (matrix,) = similarity_transforms(points[None], ARCFACE)
    np.testing.assert_allclose(matrix, umeyama(points, np.array(ARCFACE)), atol=1e-8)


def test_what_is_refused() -> None:
    image = np.zeros((9, 9, 3), np.uint8)
    for wrong in (np.zeros((5, 3)), np.zeros(10), np.zeros((2, 4, 2))):
        with pytest.raises(SizeError, match="want landmarks"):
            align(image, wrong)
    for picture in (np.zeros((9, 9, 3)), np.zeros((9, 9, 4), np.uint8), np.zeros(9, np.uint8)):
        with pytest.raises(SizeError, match="want an image"):
            align(picture, ARCFACE)
    for size in ((0, 112), (112, 10**6), (112.0, 112)):
        with pytest.raises(SettingsError, match="size"):
            align(image, ARCFACE, size)
    with pytest.raises(SizeError, match=r"want landmarks \(N, P, 2\)"):
        similarity_transforms(np.zeros((5, 2)), ARCFACE)
    for words in ([["left", "eye"]] * 5, [[1, 2], [3]]):
        with pytest.raises(SizeError, match="landmarks are no array of numbers"):
            align(np.zeros((9, 9, 3), np.uint8), words)
    with pytest.raises(SizeError, match=r"want an image .* got \(9, 9, 3\) int64"):
        align(np.zeros((9, 9, 3), np.uint8).tolist(), ARCFACE)  # type: ignore[arg-type]


@pytest.mark.data
def test_aligned_faces_stay_where_they_are() -> None:
    """The faces of lfw-112 lie on the template, so aligning them by the template returns them."""
    if "COSPHERE_DATA" not in os.environ or not (root := Path(os.environ["COSPHERE_DATA"]) / "lfw-112").is_dir():
        pytest.skip("wants lfw-112 in the folder that COSPHERE_DATA names")
    image = read_image(next(root.glob("A*/*.jpg")))
    assert np.abs(align(image, face_template()).astype(int) - image).max() <= 1
    turned = align(image, moved(np.array(ARCFACE), np.pi, 1, (111, 111)))
    assert np.abs(turned.astype(int) - image[::-1, ::-1]).mean() < 0.5
