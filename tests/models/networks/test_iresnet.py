"""iResNet against its published definition, written out over the names of InsightFace's files."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F
from written import Written, filled, norm_shapes

from cosphere.errors import SizeError, WeightsError
from cosphere.models import Embedder, EmbedderSettings, build_embedder

BLOCKS = {
    "iresnet18": (2, 2, 2, 2),
    "iresnet34": (3, 4, 6, 3),
    "iresnet50": (3, 4, 14, 3),
    "iresnet100": (3, 13, 30, 3),
}
HEAD = {"pooling": "flatten", "norm": "none", "head_settings": {"after": "batch-shift"}}


def published_file(name: str, *, side: int = 48, dim: int = 512) -> dict[str, Tensor]:
    """A state dict with the names and shapes of arcface_torch, for pictures of ``side`` px."""
    shapes: dict[str, tuple[int, ...]] = {
        "conv1.weight": (64, 3, 3, 3),
        **norm_shapes("bn1", 64),
        "prelu.weight": (64,),
    }
    inputs = 64
    for number, (width, count) in enumerate(zip((64, 128, 256, 512), BLOCKS[name], strict=True), 1):
        for place in range(count):
            block = f"layer{number}.{place}"
            shapes |= norm_shapes(f"{block}.bn1", inputs)
            shapes |= {f"{block}.conv1.weight": (width, inputs, 3, 3), **norm_shapes(f"{block}.bn2", width)}
            shapes |= {f"{block}.prelu.weight": (width,), f"{block}.conv2.weight": (width, width, 3, 3)}
            shapes |= norm_shapes(f"{block}.bn3", width)
            if place == 0:
                shapes |= {f"{block}.downsample.0.weight": (width, inputs, 1, 1)}
                shapes |= norm_shapes(f"{block}.downsample.1", width)
            inputs = width
    shapes |= norm_shapes("bn2", 512)
    shapes |= {"fc.weight": (dim, 512 * (side // 16) ** 2), "fc.bias": (dim,), **norm_shapes("features", dim)}
    tensors = filled(shapes)
    for key, value in tensors.items():
        if key.endswith("bn3.weight"):  # a sum of thirty blocks stays of order 1
            value.mul_(0.3)
    return tensors


def embedded(tensors: dict[str, Tensor], x: Tensor, blocks: tuple[int, ...]) -> Tensor:
    """The published network with its head, layer by layer."""
    net = Written(tensors)
    x = net.prelu("prelu", net.norm("bn1", net.conv("conv1", x)))
    for number, count in enumerate(blocks, 1):
        for place in range(count):
            block, stride = f"layer{number}.{place}", 1 if place else 2
            y = net.norm(f"{block}.bn2", net.conv(f"{block}.conv1", net.norm(f"{block}.bn1", x)))
            y = net.norm(f"{block}.bn3", net.conv(f"{block}.conv2", net.prelu(f"{block}.prelu", y), stride=stride))
            if place == 0:
                x = net.norm(f"{block}.downsample.1", net.conv(f"{block}.downsample.0", x, stride=stride))
            x = x + y
    return net.norm("features", F.linear(net.norm("bn2", x).flatten(1), tensors["fc.weight"], tensors["fc.bias"]))


def loaded(name: str, file: Path, *, side: int = 48, **settings: object) -> Embedder:
    torch.save(published_file(name, side=side), file)
    chosen = EmbedderSettings(backbone=name, weights=str(file), **{**HEAD, "dim": 512, **settings})  # type: ignore[arg-type]
    return build_embedder(chosen, image_size=side).eval()


@pytest.mark.parametrize(
    ("name", "side"),
    [
        ("iresnet18", 48),
        pytest.param("iresnet18", 112, marks=pytest.mark.slow),
        pytest.param("iresnet34", 48, marks=pytest.mark.slow),
        pytest.param("iresnet50", 48, marks=pytest.mark.slow),
        pytest.param("iresnet100", 48, marks=pytest.mark.slow),
    ],
)
def test_a_published_file_gives_its_embeddings(name: str, side: int, tmp_path: Path) -> None:
    embedder = loaded(name, tmp_path / "backbone.pth", side=side)
    images = torch.randn(2, 3, side, side, generator=torch.Generator().manual_seed(3))
    with torch.no_grad():
        found, want = embedder(images), embedded(published_file(name, side=side), images, BLOCKS[name])
    assert (want[0] - want[1]).norm() > 0.1 * want.norm()
    torch.testing.assert_close(found, want, rtol=1e-5, atol=1e-5 * float(want.abs().max()))
    assert embedder.provenance["weights"] == str(tmp_path / "backbone.pth")
    # The embedding is raw: its length is not 1, and SEC sees it.
    assert (found.norm(dim=1) - 1).abs().min() > 0.1


@pytest.mark.parametrize(("name", "millions"), [("iresnet18", 24.03), ("iresnet50", 43.59)])
def test_parameters_are_as_many_as_in_insightface(name: str, millions: float) -> None:
    settings = EmbedderSettings(backbone=name, weights="none", dim=512, **HEAD)  # type: ignore[arg-type]
    embedder = build_embedder(settings, image_size=112)
    assert sum(one.numel() for one in embedder.parameters()) / 1e6 == pytest.approx(millions, abs=0.005)
    assert embedder.preprocessing.mean == embedder.preprocessing.std == (0.5, 0.5, 0.5)  # (level - 127.5) / 127.5
    frozen = [key for key, value in embedder.named_parameters() if not value.requires_grad]
    assert frozen == ["head.output.weight"]


def test_a_bundle_keeps_the_published_head(tmp_path: Path) -> None:
    embedder = loaded("iresnet18", tmp_path / "r18.pth", side=32)
    embedder.save(tmp_path / "model")
    images = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        assert torch.equal(Embedder.load(tmp_path / "model")(images), embedder(images))
        with pytest.raises(
            SizeError, match=r"pooling 'flatten' was built for 4 positions, got 9.*size that the model was made"
        ):
            embedder(torch.zeros(2, 3, 48, 48))


def test_another_head_is_trained_anew_and_provenance_says_so(tmp_path: Path) -> None:
    file = tmp_path / "r18.pth"
    embedder = loaded("iresnet18", file, side=32, pooling="avg", norm="batch", head_settings={}, dim=16)
    assert embedder.provenance["weights"] == f"{file} (backbone only)"
    assert torch.equal(embedder.backbone.net.state_dict()["bn2.bias"], published_file("iresnet18")["bn2.bias"])


def test_a_head_of_other_sizes_is_refused(tmp_path: Path) -> None:
    with pytest.raises(
        WeightsError, match=r"linear.weight is \(512, 2048\), not \(128, 2048\).*set model.dim and images.size"
    ):
        loaded("iresnet18", tmp_path / "r18.pth", side=32, dim=128)


def test_other_layers_are_named(tmp_path: Path) -> None:
    tensors = published_file("iresnet34", side=32)
    torch.save(tensors, tmp_path / "r34.pth")
    with pytest.raises(WeightsError, match=r"do not fit 'iresnet18': .*unknown \(layer1.2.bn1.weight"):
        build_embedder(EmbedderSettings(backbone="iresnet18", weights=str(tmp_path / "r34.pth")), image_size=32)
    tensors = published_file("iresnet18", side=32)
    del tensors["prelu.weight"]
    torch.save(tensors, tmp_path / "r18.pth")
    with pytest.raises(WeightsError, match=r"1 missing \(prelu.weight\)"):
        build_embedder(EmbedderSettings(backbone="iresnet18", weights=str(tmp_path / "r18.pth")), image_size=32)


def test_weights_are_not_shipped() -> None:
    with pytest.raises(
        WeightsError, match=r"no weights of 'iresnet50' are shipped or downloaded. Use weights=none, or"
    ):
        build_embedder(EmbedderSettings(backbone="iresnet50"), image_size=112)


def test_first_weights_are_those_of_the_published_code() -> None:
    torch.manual_seed(0)
    embedder = build_embedder(EmbedderSettings(backbone="iresnet18", weights="none", **HEAD), image_size=32)  # type: ignore[arg-type]
    tensors = embedder.backbone.net.state_dict()
    for name in ("conv1.weight", "layer1.0.conv1.weight", "layer4.1.conv2.weight"):  # normal(0, 0.1) whatever the fan
        assert tensors[name].std().item() == pytest.approx(0.1, rel=0.05)
    assert tensors["layer1.0.prelu.weight"].unique().tolist() == [0.25]
