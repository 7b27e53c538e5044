"""Small ResNets: the sizes of their papers, timm's conventions, and the stem for images of 32 pixels."""

from __future__ import annotations

from pathlib import Path

import pytest
import timm
import torch
from torch import nn

from cosphere.errors import SettingsError, WeightsError
from cosphere.models import Embedder, EmbedderSettings, build_backbone, build_embedder
from cosphere.models.heads import LAST


@pytest.mark.parametrize(
    ("name", "layers", "width"),
    [
        ("resnet8_cifar", 8, 64),
        ("resnet8x4_cifar", 8, 256),
        ("resnet14_cifar", 14, 64),
        ("resnet20_cifar", 20, 64),
        ("resnet18_quarter", 18, 128),
        ("resnet18_half", 18, 256),
    ],
)
def test_depth_width_and_stages_are_those_of_the_name(name: str, layers: int, width: int) -> None:
    backbone = build_backbone(name, "none", image_size=32).eval()
    convolutions = [m for m in backbone.net.modules() if isinstance(m, nn.Conv2d) and m.kernel_size != (1, 1)]
    assert len(convolutions) + 1 == layers  # and the classifier
    with torch.no_grad():
        features = backbone.features(torch.zeros(2, 3, 32, 32), (LAST, 0, 1))
    stages = len(backbone.net.feature_info) - 1  # type: ignore[arg-type]
    side = 32 // 2 ** (stages - 1)
    assert features[0].values.shape == (2, width, side, side)
    assert features[1].values.shape == features[2].values.shape == (2, width // 2 ** (stages - 1), 32, 32)
    assert [one["reduction"] for one in backbone.net.feature_info] == [1, *(2**stage for stage in range(stages))]  # type: ignore[union-attr]


def test_resnet20_has_the_weights_of_the_paper() -> None:
    net = timm.create_model("resnet20_cifar", num_classes=10)
    count = sum(parameter.numel() for parameter in net.parameters())
    projections = 16 * 32 + 64 + 32 * 64 + 128  # with their batch norms; the paper pads with zeros
    assert count - projections == 269_722  # 0.27 million


def test_the_cifar_stem_keeps_all_pixels_and_survives_a_bundle(tmp_path: Path) -> None:
    torch.manual_seed(0)
    plain = build_backbone("resnet18", "none", image_size=32)
    settings = EmbedderSettings(backbone="resnet18", weights="none", stem="cifar", dim=8)
    embedder = build_embedder(settings, image_size=32).eval()
    images = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        assert plain(images).shape == (2, 512, 1, 1)
        assert embedder.backbone(images).shape == (2, 512, 4, 4)
        embedder.save(tmp_path)
        loaded = Embedder.load(tmp_path)
        assert torch.equal(loaded(images), embedder(images))
    assert loaded.id == embedder.id
    assert loaded.feature_id == embedder.feature_id
    other = build_embedder(EmbedderSettings(backbone="resnet18", weights="none", dim=8), image_size=32)
    assert other.feature_id != embedder.feature_id
    kept = build_backbone("resnet18", str(tmp_path), image_size=32, stem="cifar")
    assert torch.equal(kept.net.conv1.weight, embedder.backbone.net.conv1.weight)  # type: ignore[union-attr]


def test_weights_that_nobody_published_are_named_as_such() -> None:
    with pytest.raises(
        WeightsError, match=r"no weights of 'resnet8_cifar' are shipped or downloaded\. Use weights=none"
    ):
        build_backbone("resnet8_cifar")


def test_a_stem_that_cannot_be_is_refused() -> None:
    with pytest.raises(
        SettingsError, match=r"model\.stem 'cifar' is for ResNets .* 'test_vit' does not\. Use a backbone"
    ):
        build_backbone("test_vit", "none", image_size=160, stem="cifar")
    with pytest.raises(SettingsError, match=r"replaces the first layer of 'resnet18'.*--model\.weights none"):
        build_backbone("resnet18", "imagenet", image_size=32, stem="cifar")
    with pytest.raises(SettingsError, match=r"model\.stem must be 'own' or 'cifar'; got 'cifa'"):
        EmbedderSettings(stem="cifa")  # type: ignore[arg-type]
