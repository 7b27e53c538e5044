"""The adapters with real OpenCV and onnxruntime on tiny models whose output is fixed, and with the packages missing."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

from cosphere.errors import CosphereError, MissingExtraError, SettingsError, WeightsError
from cosphere.images import load_detector


def fixed_model(path: Path, outputs: dict[str, np.ndarray], *, side: int | str) -> Path:
    """An ONNX file that gives these outputs whatever the image is: each is added to 0 times the mean of the image."""
    onnx = pytest.importorskip("onnx")
    helper, number = onnx.helper, onnx.TensorProto.FLOAT
    constants = {"zero_by_channel": np.zeros((1, 3, 1, 1), np.float32), "shape": np.array([1, 3], dtype=np.int64)}
    nodes = [
        helper.make_node("GlobalAveragePool", ["input"], ["mean"]),
        helper.make_node("Mul", ["mean", "zero_by_channel"], ["nothing"]),
        helper.make_node("Reshape", ["nothing", "shape"], ["flat"]),
        helper.make_node("ReduceSum", ["flat"], ["zero"], keepdims=1),
    ]
    for name, values in outputs.items():
        constants[f"{name}_values"] = values.astype(np.float32)
        nodes.append(helper.make_node("Add", [f"{name}_values", "zero"], [name]))
    graph = helper.make_graph(
        nodes,
        "fixed",
        [helper.make_tensor_value_info("input", number, [1, 3, side, side])],
        [helper.make_tensor_value_info(name, number, values.shape) for name, values in outputs.items()],
        [onnx.numpy_helper.from_array(values, name) for name, values in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 11)])
    model.ir_version = 8
    onnx.save(model, path)
    return path


POINTS = np.array([[8, 9], [20, 8], [14, 16], [9, 22], [19, 21]], dtype=np.float32)
BOX = np.array([4, 2, 26, 30], dtype=np.float32)


def yunet(path: Path, side: int = 64) -> Path:
    """One face, at the cell of stride 8 in row 1, column 1, encoded as OpenCV's FaceDetectorYN decodes it."""
    outputs = {}
    for name, width in (("cls", 1), ("obj", 1), ("bbox", 4), ("kps", 10)):
        for stride in (8, 16, 32):
            outputs[f"{name}_{stride}"] = np.zeros((1, (side // stride) ** 2, width))
    cell, corner = side // 8 + 1, np.array([1, 1])
    outputs["cls_8"][0, cell] = outputs["obj_8"][0, cell] = 0.9
    centre, size = (BOX[:2] + BOX[2:]) / 2, BOX[2:] - BOX[:2]
    outputs["bbox_8"][0, cell] = [*(centre / 8 - corner), *np.log(size / 8)]
    outputs["kps_8"][0, cell] = (POINTS / 8 - corner).ravel()
    return fixed_model(path, outputs, side=side)


def test_yunet_through_opencv(tmp_path: Path) -> None:
    pytest.importorskip("cv2")
    detect = load_detector(yunet(tmp_path / "face_detection_yunet.onnx"))
    faces = detect(np.zeros((64, 64, 3), np.uint8))
    np.testing.assert_allclose(faces.boxes, [BOX], atol=1e-3)
    np.testing.assert_allclose(faces.landmarks, [POINTS], atol=1e-3)
    np.testing.assert_allclose(faces.scores, [0.9], atol=1e-3)
    none = load_detector(tmp_path / "face_detection_yunet.onnx", threshold=0.95)(np.zeros((64, 64, 3), np.uint8))
    assert (none.boxes.shape, none.landmarks.shape, none.scores.shape) == ((0, 4), (0, 5, 2), (0,))


def test_a_large_image_is_made_smaller_for_yunet_and_its_faces_larger_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("cv2")
    monkeypatch.setattr("cosphere.images.detectors._LONGEST", 64)
    faces = load_detector(yunet(tmp_path / "yunet.onnx"))(np.zeros((160, 160, 3), np.uint8))
    np.testing.assert_allclose(faces.boxes, [BOX * 2.5], atol=1e-2)
    np.testing.assert_allclose(faces.landmarks, [POINTS * 2.5], atol=1e-2)


def scrfd(path: Path, faces: list[tuple[int, int, np.ndarray, np.ndarray, float]], *, parts: int = 3) -> Path:
    """Faces (stride, anchor of the centre's cell, box, points, score), encoded as InsightFace's scrfd.py decodes them."""
    strides, anchors = (8, 16, 32), 2
    values = {
        (kind, stride): np.zeros(((640 // stride) ** 2 * anchors, width))
        for kind, width in (("score", 1), ("bbox", 4), ("kps", 10))
        for stride in strides
    }
    for stride, anchor, box, points, score in faces:
        column, row = ((box[:2] + box[2:]) / 2 // stride).astype(int)
        centre = np.array([column, row]) * stride
        place = (row * (640 // stride) + column) * anchors + anchor
        values["score", stride][place] = score
        values["bbox", stride][place] = np.concatenate([centre - box[:2], box[2:] - centre]) / stride
        values["kps", stride][place] = ((points - centre) / stride).ravel()
    outputs = {f"{kind}_{stride}": array for (kind, stride), array in values.items()}
    return fixed_model(path, dict(list(outputs.items())[: 3 * parts]), side="any")


def test_scrfd_through_onnxruntime(tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    far = np.array([400.0, 300, 0, 0] * 1)
    path = scrfd(
        tmp_path / "det.onnx",
        [
            (8, 0, BOX * 4, POINTS * 4, 0.9),
            (8, 1, BOX * 4 + 1, POINTS * 4 + 1, 0.7),  # the same face, less sure
            (32, 1, BOX * 8 + far[[0, 1, 0, 1]], POINTS * 8 + far[:2], 0.8),
            (16, 0, BOX * 2 + 300, POINTS * 2 + 300, 0.5),  # below the threshold
        ],
    )
    faces = load_detector(path)(np.zeros((640, 640, 3), np.uint8))
    np.testing.assert_allclose(faces.boxes, [BOX * 4, BOX * 8 + far[[0, 1, 0, 1]]], atol=1e-2)
    np.testing.assert_allclose(faces.landmarks, [POINTS * 4, POINTS * 8 + far[:2]], atol=1e-2)
    np.testing.assert_allclose(faces.scores, [0.9, 0.8], atol=1e-3)
    small = load_detector(path)(np.zeros((160, 320, 3), np.uint8))  # enlarged by 2 to a side of 640
    np.testing.assert_allclose(small.boxes, faces.boxes / 2, atol=1e-2)
    assert len(load_detector(path, threshold=0.99)(np.zeros((640, 640, 3), np.uint8)).scores) == 0


def test_other_models(tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    pytest.importorskip("cv2")
    with pytest.raises(WeightsError, match=r"has 6 outputs; SCRFD with five points has 9 or 15"):
        load_detector(scrfd(tmp_path / "boxes.onnx", [], parts=2))
    path = fixed_model(tmp_path / "nine.onnx", {f"x{n}": np.zeros((4, 1)) for n in range(9)}, side="any")
    with pytest.raises(WeightsError, match="is not SCRFD with five points for 640 x 640"):
        load_detector(path)(np.zeros((64, 64, 3), np.uint8))
    (tmp_path / "broken.onnx").write_bytes(b"not a model")
    with pytest.raises(WeightsError, match=r"broken\.onnx cannot be used as SCRFD: .* Read the licence"):
        load_detector(tmp_path / "broken.onnx")
    with pytest.raises(WeightsError, match=r"broken\.onnx cannot be used as YuNet: .* Read the licence"):
        load_detector(tmp_path / "broken.onnx", "yunet")(np.zeros((64, 64, 3), np.uint8))


def test_what_is_missing_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(
        WeightsError, match=r"there is no detector .*none\.onnx\. Give an \.onnx file of your own: YuNet"
    ):
        load_detector(tmp_path / "none.onnx")
    (tmp_path / "x.onnx").write_bytes(b"x")
    monkeypatch.setitem(sys.modules, "cv2", None)
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(MissingExtraError, match=r"opencv-python-headless.*pip install 'cosphere\[faces\]'"):
        load_detector(tmp_path / "x.onnx", "yunet")
    with pytest.raises(MissingExtraError, match=r"onnxruntime.*pip install 'cosphere\[faces\]'"):
        load_detector(tmp_path / "x.onnx")


@pytest.mark.parametrize("options", [{"kind": "mtcnn"}, {"threshold": 0}, {"threshold": 1.5}])
def test_settings(tmp_path: Path, options: dict[str, object]) -> None:
    (tmp_path / "x.onnx").write_bytes(b"x")
    with pytest.raises(SettingsError, match=r"kind|threshold"):
        load_detector(tmp_path / "x.onnx", **options)
    assert issubclass(WeightsError, CosphereError)
