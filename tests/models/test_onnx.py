"""The export that docs/path.md shows, compared with the model."""

import numpy as np
import pytest
import torch

onnxruntime = pytest.importorskip("onnxruntime", reason="needs onnxruntime, onnx and onnxscript")
pytest.importorskip("onnx", reason="needs onnxruntime, onnx and onnxscript")
pytest.importorskip("onnxscript", reason="needs onnxruntime, onnx and onnxscript")


@pytest.mark.filterwarnings("ignore")  # of the exporter, about its own parts
@pytest.mark.parametrize(
    "settings",
    [
        {"backbone": "test_resnet"},
        {"backbone": "test_vit", "size": 64, "pooling": "token"},
        {"pooling": "concat", "norm": "layer"},
    ],
)
def test_an_exported_model_gives_the_same_embeddings(small, tmp_path, settings):
    embedder = small(**settings)
    size = embedder.preprocessing.size
    batch = torch.zeros(2, 3, size, size)
    torch.onnx.export(
        embedder, (batch,), tmp_path / "model.onnx", dynamo=True, dynamic_shapes=({0: "batch"},), verbose=False
    )
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx")
    inputs = torch.randn(5, 3, size, size, generator=torch.Generator().manual_seed(0))
    (found,) = session.run(None, {session.get_inputs()[0].name: inputs.numpy()})
    with torch.no_grad():
        np.testing.assert_allclose(found, embedder(inputs).numpy(), atol=1e-5)
