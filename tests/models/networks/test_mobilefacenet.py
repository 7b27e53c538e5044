"""MobileFaceNet against the table of its paper, written out, over the names of three published files."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F
from written import Written, filled, norm_shapes

from cosphere.errors import SettingsError, WeightsError
from cosphere.models import EmbedderSettings, build_embedder

HEAD = {"pooling": "depthwise", "norm": "none", "bias": False, "head_settings": {"after": "batch"}}
SIDE, DIM = 64, 128


class Layer(NamedTuple):
    """One convolution of the paper's table with its batch norm; ``begins`` and ``ends`` bound a shortcut."""

    inputs: int
    outputs: int
    size: int = 1
    stride: int = 1
    groups: int = 1
    linear: bool = False
    begins: bool = False
    ends: bool = False
    padding: int | None = None


def table(*, scale: int = 1, groups: int = 64) -> list[Layer]:
    """The paper's table. InsightFace's "mbf" has twice the channels between bottlenecks: ``scale`` 2."""
    layers = [Layer(3, 64 * scale, 3, 2), Layer(64 * scale, 64 * scale, 3, 1, groups)]
    width = 64
    for expand, outputs, count, stride in (
        (2, 64, 5, 2),
        (4, 128, 1, 2),
        (2, 128, 6, 1),
        (4, 128, 1, 2),
        (2, 128, 2, 1),
    ):
        for place in range(count):
            step, inner = (stride if place == 0 else 1), width * expand
            own = step == 1 and width == outputs
            layers += [
                Layer(width * scale, inner, begins=own),
                Layer(inner, inner, 3, step, inner),
                Layer(inner, outputs * scale, linear=True, ends=own),
            ]
            width = outputs
    return [*layers, Layer(128 * scale, 512)]


Names = list[tuple[str, str, str]]
"""Names of convolution, norm and PReLU of each layer of the table, then of the head's depth-wise and linear layer."""


def insightface_names() -> Names:
    groups = [["layers.0"], ["layers.1"], ["layers.2"], [f"layers.3.layers.{k}" for k in range(4)], ["layers.4"]]
    groups += [[f"layers.5.layers.{k}" for k in range(6)], ["layers.6"], [f"layers.7.layers.{k}" for k in range(2)]]
    places = [f"{name}.layers.{part}" for group in groups[2:] for name in group for part in range(3)]
    bases = ["layers.0", "layers.1", *places, "conv_sep", "features.layers.0"]
    return [(f"{base}.layers.0", f"{base}.layers.1", f"{base}.layers.2") for base in bases] + [
        ("features.layers.2", "features.layers.3", "")
    ]


def treb1en_names() -> Names:
    groups = ["conv_23", *(f"conv_3.model.{k}" for k in range(4)), "conv_34", *(f"conv_4.model.{k}" for k in range(6))]
    groups += ["conv_45", *(f"conv_5.model.{k}" for k in range(2))]
    places = [f"{name}.{part}" for name in groups for part in ("conv", "conv_dw", "project")]
    bases = ["conv1", "conv2_dw", *places, "conv_6_sep", "conv_6_dw"]
    return [(f"{base}.conv", f"{base}.bn", f"{base}.prelu") for base in bases] + [("linear", "bn", "")]


def face_pytorch_names() -> Names:
    def bottleneck(k: int) -> Names:
        return [tuple(f"blocks.{k}.conv.{part}" for part in parts) for parts in ((0, 1, 2), (3, 4, 5), (6, 7, 8))]  # type: ignore[misc]

    def layer(base: str) -> Names:
        return [(f"{base}.conv", f"{base}.bn", f"{base}.prelu")]

    blocks = [names for k in range(15) for names in bottleneck(k)]
    return [*layer("conv1"), *layer("dw_conv1"), *blocks, *layer("conv2"), *layer("linear7"), *layer("linear1")]


FAMILIES = {"insightface": insightface_names, "treb1en": treb1en_names, "face_pytorch": face_pytorch_names}


def published_file(
    family: str = "insightface", layers: list[Layer] | None = None, *, side: int = SIDE
) -> dict[str, Tensor]:
    names, chosen = FAMILIES[family](), table() if layers is None else layers
    shapes: dict[str, tuple[int, ...]] = {}
    for (conv, norm, prelu), layer in zip(names[:-2], chosen, strict=True):
        shapes[f"{conv}.weight"] = (layer.outputs, layer.inputs // layer.groups, layer.size, layer.size)
        shapes |= norm_shapes(norm, layer.outputs)
        if not layer.linear:
            shapes[f"{prelu}.weight"] = (layer.outputs,)
    (depthwise, its_norm, _), (linear, last, _) = names[-2:]
    shapes |= {f"{depthwise}.weight": (512, 1, side // 16, side // 16), **norm_shapes(its_norm, 512)}
    shapes[f"{linear}.weight"] = (DIM, 512, 1, 1) if family == "face_pytorch" else (DIM, 512)
    return filled({**shapes, **norm_shapes(last, DIM)})


def embedded(tensors: dict[str, Tensor], x: Tensor, names: Names, layers: list[Layer]) -> Tensor:
    """The published network with its head, layer by layer."""
    net, shortcut = Written(tensors), x
    for (conv, norm, prelu), layer in zip(names[:-2], layers, strict=True):
        shortcut = x if layer.begins else shortcut
        x = net.norm(norm, net.conv(conv, x, stride=layer.stride, groups=layer.groups))
        x = x if layer.linear else net.prelu(prelu, x)
        x = x + shortcut if layer.ends else x
    (depthwise, its_norm, _), (linear, last, _) = names[-2:]
    pooled = net.norm(its_norm, net.conv(depthwise, x, groups=512, padding=0)).flatten(1)
    return net.norm(last, F.linear(pooled, tensors[f"{linear}.weight"].flatten(1)))


@pytest.mark.parametrize("family", FAMILIES)
def test_a_published_file_gives_its_embeddings(family: str, tmp_path: Path) -> None:
    tensors = published_file(family)
    torch.save({"net_state_dict": tensors} if family == "face_pytorch" else tensors, tmp_path / "face.pth")
    settings = EmbedderSettings(backbone="mobilefacenet", weights=str(tmp_path / "face.pth"), dim=DIM, **HEAD)  # type: ignore[arg-type]
    embedder = build_embedder(settings, image_size=SIDE).eval()
    images = torch.randn(2, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(3))
    with torch.no_grad():
        found, want = embedder(images), embedded(tensors, images, FAMILIES[family](), table())
    assert (want[0] - want[1]).norm() > 0.1 * want.norm()
    torch.testing.assert_close(found, want, rtol=1e-5, atol=1e-5 * float(want.abs().max()))
    assert embedder.provenance["weights"] == str(tmp_path / "face.pth")


def test_insightfaces_mbf_is_a_network_of_its_own(tmp_path: Path) -> None:
    layers = table(scale=2)
    tensors = published_file(layers=layers)
    torch.save(tensors, tmp_path / "mbf.pth")

    def built(backbone: str):  # type: ignore[no-untyped-def]
        settings = EmbedderSettings(backbone=backbone, weights=str(tmp_path / "mbf.pth"), dim=DIM, **HEAD)  # type: ignore[arg-type]
        return build_embedder(settings, image_size=SIDE).eval()

    images = torch.randn(2, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(3))
    with torch.no_grad():
        want = embedded(tensors, images, insightface_names(), layers)
        torch.testing.assert_close(
            built("mobilefacenet_mbf")(images), want, rtol=1e-5, atol=1e-5 * float(want.abs().max())
        )
    with pytest.raises(WeightsError, match=r"layers.0.layers.0.weight is \(128, 3, 3, 3\), not \(64, 3, 3, 3\)"):
        built("mobilefacenet")


def test_a_file_with_a_layer_missing_is_refused_by_name(tmp_path: Path) -> None:
    for family, missing in (
        ("insightface", "layers.3.layers.2.layers.1.layers.0.weight"),
        ("treb1en", "conv_6_dw.conv.weight"),
    ):
        tensors = published_file(family)
        del tensors[missing]
        torch.save(tensors, tmp_path / "cut.pth")
        with pytest.raises(WeightsError, match=r"do not fit 'mobilefacenet': .* missing"):
            build_embedder(
                EmbedderSettings(backbone="mobilefacenet", weights=str(tmp_path / "cut.pth")), image_size=SIDE
            )


def test_sizes_and_parameters_are_the_papers() -> None:
    settings = EmbedderSettings(backbone="mobilefacenet", weights="none", dim=128, **HEAD)  # type: ignore[arg-type]
    embedder = build_embedder(settings, image_size=112)
    assert (embedder.backbone.channels, embedder.backbone.positions) == (512, 49)
    filters = (
        sum(layer.inputs * layer.outputs * layer.size**2 // layer.groups for layer in table()) + 49 * 512 + 512 * 128
    )
    total = sum(one.numel() for name, one in embedder.named_parameters() if one.ndim > 1)
    assert total == filters
    # The paper says 0.99 million: between the filters alone and all with norms and slopes.
    assert total / 1e6 < 0.99 < sum(one.numel() for one in embedder.parameters()) / 1e6 < 1.005


@pytest.mark.parametrize(("share", "name"), [(0.5, "mobilefacenet_050"), (0.25, "mobilefacenet_025")])
def test_smaller_ones_have_a_share_of_the_channels(share: float, name: str) -> None:
    full, small = (
        build_embedder(EmbedderSettings(backbone=one, weights="none"), image_size=SIDE).backbone.net.state_dict()
        for one in ("mobilefacenet", name)
    )
    assert list(full) == list(small)
    for key, value in full.items():
        if value.ndim:
            assert small[key].shape[0] == share * value.shape[0], key


def test_first_weights_are_those_of_the_published_code() -> None:
    torch.manual_seed(0)
    settings = EmbedderSettings(backbone="mobilefacenet", weights="none", dim=128, **HEAD)  # type: ignore[arg-type]
    embedder = build_embedder(settings, image_size=112)
    tensors = embedder.backbone.net.state_dict()
    # kaiming_normal with fan_out, which counts all output channels, of a depth-wise convolution too
    deviations = {name: (2 / (tensors[name].shape[0] * tensors[name][0, 0].numel())) ** 0.5 for name in (
        "layers.0.layers.0.weight", "layers.5.layers.3.layers.1.layers.0.weight", "conv_sep.layers.0.weight")}  # fmt: skip
    for name, deviation in deviations.items():
        assert tensors[name].std().item() == pytest.approx(deviation, rel=0.06), name
    assert embedder.head.pool.weight.std().item() == pytest.approx((2 / (512 * 49)) ** 0.5, rel=0.06)


def test_the_depthwise_pooling_wants_the_last_level() -> None:
    settings = EmbedderSettings(
        backbone="mobilefacenet_025", weights="none", pooling="depthwise", head_settings={"level": 1}
    )
    with pytest.raises(SettingsError, match="pooling 'depthwise' is for the last level"):
        build_embedder(settings, image_size=SIDE)
