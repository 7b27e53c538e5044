"""Face detectors: a callable ``detect(image) -> Faces``, and adapters for model files that the user has.

No model is shipped and none is downloaded: weights of face detectors have licences of their own, which whoever uses them has
to read. Any function with the signature of :data:`Detector` can stand in for the adapters.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from cosphere._types import Float32s
from cosphere.checks import check_choice, check_share
from cosphere.errors import MissingExtraError, WeightsError
from cosphere.files import path_of
from cosphere.images.modes import Pixels

DetectorKind = Literal["auto", "yunet", "scrfd"]
_ADVICE = (
    "Give an .onnx file of your own: YuNet (face_detection_yunet_2023mar.onnx of OpenCV Zoo) or SCRFD with five points "
    "(of InsightFace). Read the licence that it was published under first: that of InsightFace's models allows research only."
)
_LONGEST = 1024
"""Images are brought to at most this side for YuNet, in pixels, whose time and memory grow with it."""
_SIDE = 640
"""Side of SCRFD's input, in pixels."""
_OVERLAP = 0.4
"""Intersection over union above which two boxes are one face."""


class Faces(NamedTuple):
    """F faces in an image, in pixels (x, y)."""

    boxes: Float32s
    """(F, 4): left, top, right, bottom."""
    landmarks: Float32s
    """(F, 5, 2): left eye, right eye, nose, left and right corner of the mouth, as seen in the image."""
    scores: Float32s
    """(F,) from 0 to 1: how sure the detector is."""


Detector = Callable[[Pixels], Faces]
"""Finds the faces in an image (H, W, 3) uint8 RGB."""


def load_detector(file: str | Path, kind: DetectorKind = "auto", *, threshold: float = 0.6) -> Detector:
    """A detector from a model file.

    Args:
        file: an .onnx file of YuNet (needs opencv-python-headless) or of SCRFD with five points (needs onnxruntime); both come
            with the extra ``faces``.
        kind: ``yunet``, ``scrfd``, or ``auto``: yunet where the name of the file holds it, otherwise scrfd.
        threshold: least score of a face, above 0 and at most 1.

    Raises:
        WeightsError: there is no such file, or it is another model.
        MissingExtraError: the package is not installed.
        SettingsError: another argument is out of range.
    """
    check_choice("kind", kind, get_args(DetectorKind))
    threshold = check_share("threshold", threshold)
    path = path_of(file)
    if not path.is_file():
        raise WeightsError(f"there is no detector {path}. {_ADVICE}")
    if kind == "yunet" or (kind == "auto" and "yunet" in path.name.lower()):
        return _YuNet(path, threshold)
    return _Scrfd(path, threshold)


class _YuNet:
    """OpenCV's FaceDetectorYN. Its first point is the person's right eye, which is the left one in the image."""

    def __init__(self, path: Path, threshold: float) -> None:
        try:
            import cv2
        except ImportError:
            raise MissingExtraError("opencv-python-headless", "faces") from None
        with _readable(path, "YuNet"), _quiet(cv2):
            self.model: Any = cv2.FaceDetectorYN.create(str(path), "", (320, 320), threshold, _OVERLAP, 5000)
        self.path = path

    def __call__(self, image: Pixels) -> Faces:
        """Find the faces in an image (H, W, 3) uint8 RGB."""
        small, scale = _at_most(image, _LONGEST)
        with _readable(self.path, "YuNet"):
            self.model.setInputSize((small.shape[1], small.shape[0]))
            rows = self.model.detect(np.ascontiguousarray(small[:, :, ::-1]))[1]
        rows = np.zeros((0, 15), np.float32) if rows is None else np.asarray(rows, dtype=np.float32)
        boxes = np.hstack([rows[:, :2], rows[:, :2] + rows[:, 2:4]])
        return _scaled(boxes, rows[:, 4:14].reshape(-1, 5, 2), rows[:, 14], 1 / scale)


class _Scrfd:
    """SCRFD as InsightFace exports it: for each stride a score, a box and five points at each anchor.

    Source: InsightFace ``scrfd.py``.
    """

    def __init__(self, path: Path, threshold: float) -> None:
        try:
            import onnxruntime
        except ImportError:
            raise MissingExtraError("onnxruntime", "faces") from None
        with _readable(path, "SCRFD"):
            self.session: Any = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
            outputs = len(self.session.get_outputs())
        layouts = {9: ((8, 16, 32), 2), 15: ((8, 16, 32, 64, 128), 1)}
        if outputs not in layouts:
            raise WeightsError(f"{path} has {outputs} outputs; SCRFD with five points has 9 or 15. {_ADVICE}")
        self.strides, self.anchors = layouts[outputs]
        self.path, self.threshold = path, threshold

    def __call__(self, image: Pixels) -> Faces:
        """Find the faces in an image (H, W, 3) uint8 RGB."""
        small, scale = _at_most(image, _SIDE, enlarge=True)
        canvas = np.zeros((_SIDE, _SIDE, 3), np.float32)
        canvas[: small.shape[0], : small.shape[1]] = small
        canvas[:] = (canvas - 127.5) / 128
        with _readable(self.path, "SCRFD"):
            name = self.session.get_inputs()[0].name
            outputs = self.session.run(None, {name: canvas.transpose(2, 0, 1)[None]})
        parts = [self._decoded(outputs, level, stride) for level, stride in enumerate(self.strides)]
        boxes, points, scores = (np.concatenate(part) for part in zip(*parts, strict=True))
        kept = _distinct(boxes, scores)
        return _scaled(boxes[kept], points[kept], scores[kept], 1 / scale)

    def _decoded(self, outputs: list[Any], level: int, stride: int) -> tuple[Float32s, Float32s, Float32s]:
        """Boxes, points and scores above the threshold of one stride."""
        count = len(self.strides)
        side = _SIDE // stride
        cells = side * side * self.anchors
        values = [np.asarray(outputs[level + part * count], dtype=np.float32) for part in range(3)]
        if [value.size for value in values] != [cells, 4 * cells, 10 * cells]:
            raise WeightsError(f"{self.path} is not SCRFD with five points for {_SIDE} x {_SIDE} pixels. {_ADVICE}")
        scores = values[0].reshape(-1)
        rows = np.flatnonzero(scores >= self.threshold)
        cell = rows // self.anchors
        centres = np.stack([cell % side, cell // side], axis=1).astype(np.float32) * stride
        distances = values[1].reshape(-1, 4)[rows] * stride
        boxes = np.hstack([centres - distances[:, :2], centres + distances[:, 2:]])
        points = centres[:, None] + values[2].reshape(-1, 5, 2)[rows] * stride
        return boxes, points, scores[rows]


def _scaled(boxes: Float32s, points: Float32s, scores: Float32s, factor: float) -> Faces:
    """Faces in pixels of the whole image."""
    return Faces((boxes * factor).astype(np.float32), (points * factor).astype(np.float32), scores)


def _distinct(boxes: Float32s, scores: Float32s) -> NDArray[np.int64]:
    """The rows of boxes that overlap with no surer one."""
    import torch
    from torchvision.ops import nms

    kept = nms(torch.from_numpy(boxes), torch.from_numpy(scores), _OVERLAP)
    return np.asarray(kept.numpy(), dtype=np.int64)


def _at_most(image: Pixels, side: int, *, enlarge: bool = False) -> tuple[Pixels, float]:
    """An image whose longer side is at most, or with ``enlarge`` exactly, this many pixels; and its scale."""
    height, width = image.shape[:2]
    scale = side / max(height, width)
    if scale == 1 or (scale > 1 and not enlarge):
        return image, 1.0
    size = max(1, round(width * scale)), max(1, round(height * scale))
    return np.asarray(Image.fromarray(image).resize(size, Image.Resampling.BILINEAR)), scale


@contextlib.contextmanager
def _quiet(cv2: Any) -> Iterator[None]:
    """OpenCV 5 warns on stderr about each model that it loads; its errors are still raised."""
    logging = cv2.utils.logging
    before = logging.setLogLevel(logging.LOG_LEVEL_SILENT)
    try:
        yield
    finally:
        logging.setLogLevel(before)


@contextlib.contextmanager
def _readable(path: Path, model: str) -> Iterator[None]:
    """Turn what a library raises about a model file into one sentence; their own errors have no common base."""
    try:
        yield
    except WeightsError:
        raise
    except Exception as error:
        reason = " ".join(str(error).rpartition("error: ")[2].split())[:120].rstrip(
            ". "
        )  # OpenCV begins with its own source file
        raise WeightsError(f"{path} cannot be used as {model}: {reason}. {_ADVICE}") from error
