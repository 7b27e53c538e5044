import copy

import pytest
import torch
from torch import nn
from torch.nn import functional

from cosphere.models.folding import FoldedConvolution, can_pack, folded, observe

ACTIVATIONS = [nn.ReLU, nn.ReLU6, nn.SiLU, nn.Hardswish, nn.LeakyReLU, nn.GELU, nn.Hardtanh, nn.Tanh]


def norm(width, **settings):
    """Batch norm that is not at its initial values."""
    layer = nn.BatchNorm2d(width, **settings)
    layer.running_mean.normal_()
    layer.running_var.uniform_(0.2, 3)
    if layer.affine:
        nn.init.normal_(layer.weight)
        nn.init.normal_(layer.bias)
    return layer


def same(width, out, **settings):
    from timm.layers import Conv2dSame

    return Conv2dSame(width, out, **settings)


def norm_and_activation(width):
    from timm.layers import BatchNormAct2d

    layer = BatchNormAct2d(width, act_layer=nn.ReLU6)
    layer.load_state_dict(norm(width).state_dict())
    return layer


class Shared(nn.Module):
    """One batch norm after two convolutions."""

    def __init__(self):
        super().__init__()
        self.one, self.two, self.norm = nn.Conv2d(4, 4, 1), nn.Conv2d(4, 4, 1), norm(4)

    def forward(self, images):
        return self.norm(self.one(images)) + self.norm(self.two(images))


class Residual(nn.Module):
    """The shortcut is added in place, between batch norm and activation."""

    def __init__(self):
        super().__init__()
        self.one, self.first, self.two, self.second = nn.Conv2d(4, 4, 1), norm(4), nn.Conv2d(4, 4, 1), norm(4)
        self.activation = nn.ReLU(inplace=True)

    def forward(self, images):
        rows = self.second(self.two(self.first(self.one(images))))
        rows += images
        return self.activation(rows)


def build(kind):
    """A network on (B, 4, H, W), and how many convolutions of it are folded."""
    torch.manual_seed(0)
    if isinstance(kind, type):
        return nn.Sequential(nn.Conv2d(4, 6, 3, 2, 1), norm(6), nn.Identity(), kind()), 1
    networks = {
        "bias": lambda: (nn.Sequential(nn.Conv2d(4, 6, 3), norm(6, eps=0.1), nn.Conv2d(6, 5, 1), norm(5)), 2),
        "no bias": lambda: (nn.Sequential(nn.Conv2d(4, 6, 3, padding=1, bias=False), norm(6, affine=False)), 1),
        "groups": lambda: (nn.Sequential(nn.Conv2d(4, 4, 3, 1, 2, 2, groups=4), norm(4), nn.ReLU(inplace=True)), 1),
        "same": lambda: (nn.Sequential(same(4, 4, kernel_size=3, stride=2, groups=4), norm_and_activation(4)), 1),
        "same 5": lambda: (nn.Sequential(same(4, 8, kernel_size=5, stride=2), norm(8), nn.ReLU()), 1),
        "act inside": lambda: (nn.Sequential(nn.Conv2d(4, 6, 3), norm_and_activation(6), nn.SiLU()), 1),
        "norm first": lambda: (nn.Sequential(norm(4), nn.Conv2d(4, 4, 3), nn.ReLU(inplace=True), norm(4)), 0),
        "no statistics": lambda: (nn.Sequential(nn.Conv2d(4, 6, 3), norm_without_statistics()), 0),
        "layer norm": lambda: (nn.Sequential(nn.Conv2d(4, 6, 3), nn.GroupNorm(1, 6)), 0),
        "reflected": lambda: (nn.Sequential(nn.Conv2d(4, 6, 3, padding=1, padding_mode="reflect"), norm(6)), 0),
        "shared": lambda: (Shared(), 0),
        "residual": lambda: (Residual(), 2),
    }
    return networks[kind]()


def norm_without_statistics():
    return nn.BatchNorm2d(6, track_running_stats=False)


KINDS = [
    *ACTIVATIONS,
    *("bias", "no bias", "groups", "same", "same 5", "act inside", "norm first", "no statistics", "layer norm"),
    *("reflected", "shared", "residual"),
]


@pytest.mark.parametrize("size", [(9, 12), (10, 11)])
@pytest.mark.parametrize("kind", KINDS)
def test_a_folded_network_gives_what_the_network_gives_in_float64(kind, size):
    network, count = build(kind)
    network.eval()
    before, modules = copy.deepcopy(network.state_dict()), list(network.modules())
    images = 3 * torch.randn(3, 4, *size).contiguous(memory_format=torch.channels_last)
    with torch.inference_mode():
        chains = observe(network, lambda: network(images[:1])).chains
        assert len(chains) == count
        for packed in {False, can_pack()}:
            quick = folded(network, chains, packed=packed)
            assert sum(isinstance(part, FoldedConvolution) for part in quick.modules()) == count
            assert not count or kind == "act inside" or not any(map(is_norm, quick.modules()))
            want = copy.deepcopy(network).double()(images.double())
            torch.testing.assert_close(quick(images).double(), want, rtol=1e-4, atol=1e-5)
    assert list(network.modules()) == modules
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())


@pytest.mark.skipif(not can_pack(torch.bfloat16), reason="oneDNN has no bfloat16 on this processor")
@pytest.mark.parametrize("kind", KINDS)
def test_packed_in_bfloat16_it_rounds_inputs_weights_and_results_once(kind):
    network, count = build(kind)
    network.eval()
    images = torch.randn(3, 4, 9, 12).contiguous(memory_format=torch.channels_last)
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
        chains = observe(network, lambda: network(images[:1])).chains
        quick = folded(network, chains, packed=True, dtype=torch.bfloat16)
        layers = [part for part in quick.modules() if isinstance(part, FoldedConvolution)]
        assert [part.weight.dtype for part in layers] == [torch.bfloat16] * count
        want = copy.deepcopy(network).double()(images.double())
        found = quick(images)
    assert not count or found.dtype == torch.bfloat16
    torch.testing.assert_close(found.double(), want, rtol=0.03, atol=0.03 * float(want.abs().max()))


def test_only_types_that_onednn_has_are_packed(monkeypatch):
    assert not can_pack(torch.float16)
    monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: False)
    assert not can_pack(torch.bfloat16)


def is_norm(part):
    return isinstance(part, nn.modules.batchnorm._NormBase)


def test_the_largest_result_is_measured():
    network = nn.Sequential(nn.Conv2d(3, 8, 1), nn.ReLU(), nn.Conv2d(8, 2, 1))
    assert observe(network, lambda: network(torch.zeros(1, 3, 5, 7))).largest == 8 * 5 * 7 * 4


def test_a_copy_shares_what_is_not_folded_and_leaves_hooks_alone():
    network = nn.Sequential(nn.Conv2d(3, 4, 1), norm(4), nn.Conv2d(4, 4, 1), norm(4), nn.Flatten(), nn.Linear(16, 2))
    seen = []
    network[2].register_forward_hook(lambda *_: seen.append(1))
    network.eval()
    images = torch.randn(1, 3, 2, 2)
    with torch.inference_mode():
        chains = observe(network, lambda: network(images)).chains
        assert [chain.convolution for chain in chains] == ["0"]
        seen.clear()
        quick = folded(network, chains, packed=False)
        quick(images)
    assert seen == [1]
    assert quick[5].weight is network[5].weight
    assert quick[2].weight is network[2].weight


def test_the_formula_of_a_folded_weight():
    network = nn.Sequential(nn.Conv2d(2, 3, 1), norm(3)).eval()
    image = torch.randn(1, 2, 1, 1)
    with torch.inference_mode():
        quick = folded(network, observe(network, lambda: network(image)).chains, packed=False)
        found = quick(image).flatten().tolist()
    network.requires_grad_(requires_grad=False)
    layer = network[1]
    for place in range(3):
        plain = float(network[0].bias[place]) + sum(
            float(network[0].weight[place, channel, 0, 0]) * float(image[0, channel, 0, 0]) for channel in range(2)
        )
        scaled = (plain - float(layer.running_mean[place])) / (float(layer.running_var[place]) + layer.eps) ** 0.5
        assert found[place] == pytest.approx(scaled * float(layer.weight[place]) + float(layer.bias[place]), abs=1e-5)
    assert functional.conv2d(image, quick[0].weight, quick[0].bias).flatten().tolist() == pytest.approx(found)
