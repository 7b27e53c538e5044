"""Depthwise convolutions under autocast on a CPU: float32 inside, the type of autocast outside, and nothing else changed."""

from __future__ import annotations

import contextlib
import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from cosphere.models.depthwise import depthwise_in_float32


def under_autocast(layer: nn.Module, images: Tensor, *, mended: bool = True) -> Tensor:
    with torch.autocast("cpu", dtype=torch.bfloat16):
        with depthwise_in_float32(images) if mended else contextlib.nullcontext():
            result: Tensor = layer(images)
        return result


def gradients(result: Tensor, layer: nn.Module, images: Tensor) -> list[Tensor]:
    slopes = torch.linspace(-1, 1, result.numel()).view(result.shape)
    return list(torch.autograd.grad((result.float() * slopes).sum(), [images, *layer.parameters()]))


@pytest.mark.parametrize(
    "how",
    [
        {"kernel_size": 3, "padding": 1},
        {"kernel_size": 3, "stride": 2, "padding": 1},
        {"kernel_size": 5, "stride": 2, "padding": 2, "bias": False},
        {"kernel_size": 3, "dilation": 2, "padding": "same"},
        {"kernel_size": 3, "padding": 1, "padding_mode": "reflect"},
        {"kernel_size": 3, "padding": 1, "multiplier": 2},
    ],
    ids=str,
)
def test_values_and_gradients_are_those_of_float32_rounded_once(how: dict[str, Any]) -> None:
    """The input has a type of its own: bfloat16, as a layer before it gives."""
    torch.manual_seed(0)
    how = dict(how)
    layer = nn.Conv2d(6, 6 * how.pop("multiplier", 1), groups=6, **how).to(memory_format=torch.channels_last)
    images = torch.randn(3, 6, 9, 8).bfloat16().contiguous(memory_format=torch.channels_last).requires_grad_()
    exact = images.detach().float().requires_grad_()
    found, want = under_autocast(layer, images), layer(exact)
    assert found.dtype == torch.bfloat16
    assert torch.equal(found, want.bfloat16())
    assert found.is_contiguous(memory_format=torch.channels_last)
    slopes, wanted = gradients(found, layer, images), gradients(layer(exact).bfloat16(), layer, exact)
    assert [one.dtype for one in slopes] == [torch.bfloat16] + [torch.float32] * (len(slopes) - 1)
    assert torch.equal(slopes[0], wanted[0].bfloat16())
    assert all(torch.equal(one, other) for one, other in zip(slopes[1:], wanted[1:], strict=True))
    # Of float32 throughout, they are apart by the rounding of the result alone.
    for one, other in zip(slopes, gradients(want, layer, exact), strict=True):
        torch.testing.assert_close(one.float(), other, rtol=1e-2, atol=1e-2 * float(other.abs().max()))


@pytest.mark.parametrize("groups", [1, 2])
def test_other_convolutions_stay_in_the_type_of_autocast(groups: int) -> None:
    torch.manual_seed(0)
    layer, images = nn.Conv2d(4, 4, 3, groups=groups), torch.randn(2, 4, 8, 8)
    found, plain = under_autocast(layer, images), under_autocast(layer, images, mended=False)
    assert torch.equal(found, plain)
    assert not torch.equal(found, layer(images).bfloat16()), "the images are rounded before this one, not after it"


def test_a_layer_of_another_type_is_left_to_autocast() -> None:
    layer, images = nn.Conv2d(4, 4, 3, groups=4).double(), torch.randn(2, 4, 8, 8).double()
    assert torch.equal(under_autocast(layer, images), layer(images))


@pytest.mark.parametrize("grad", [False, True])
@pytest.mark.parametrize("autocast", [False, True])
@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_only_training_under_autocast_on_a_cpu_is_changed(device: str, autocast: bool, grad: bool) -> None:
    seen = []

    class Spy(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            seen.append(torch.overrides._get_current_function_mode())  # type: ignore[attr-defined]
            return images

    images = torch.empty(1, 4, 2, 2, device=device)
    with torch.set_grad_enabled(grad), torch.autocast("cpu", enabled=autocast), depthwise_in_float32(images):
        Spy()(images)
    assert (seen[0] is not None) == (device == "cpu" and autocast and grad)


def test_a_model_trains_with_gradients_near_those_of_float32(small: Any) -> None:
    """Through the whole network, whose types and names stay as they are."""
    embedder = small("test_efficientnet").train()
    assert any(isinstance(one, nn.Conv2d) and one.groups > 1 for one in embedder.modules())
    names, kinds = list(embedder.state_dict()), [type(one) for one in embedder.modules()]
    images = torch.randn(16, 3, 32, 32, generator=torch.Generator().manual_seed(1))

    def slopes(mended: bool, autocast: bool) -> Tensor:
        model = copy.deepcopy(embedder)
        call = model if mended else (lambda inputs: model.head(model._features(inputs)))
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast):
            rows = call(images)
        functional.normalize(rows.float())[:, 0].sum().backward()
        return torch.cat([one.grad.flatten() for one in model.parameters() if one.grad is not None])

    exact = slopes(mended=True, autocast=False)
    assert torch.equal(exact, slopes(mended=False, autocast=False)), "float32 is as it was, bit for bit"
    half, old = slopes(mended=True, autocast=True), slopes(mended=False, autocast=True)
    assert not torch.equal(half, old)
    assert float(torch.cosine_similarity(half, exact, dim=0)) > 0.98
    assert (list(embedder.state_dict()), [type(one) for one in embedder.modules()]) == (names, kinds)
