import numpy as np
import pytest
import torch

from cosphere.errors import SettingsError, SizeError
from cosphere.models.heads import Pooling, make_linear, make_norm


@pytest.fixture
def features():
    return torch.randn(3, 5, 4, 2, generator=torch.Generator().manual_seed(0))


def by_hand(kind, features):
    flat = features.numpy().astype(np.float64).reshape(features.shape[0], features.shape[1], -1)
    wanted = np.zeros(flat.shape[:2])
    for image, channels in enumerate(flat):
        for channel, places in enumerate(channels):
            wanted[image, channel] = {
                "avg": sum(places) / len(places),
                "max": max(places),
                "avg+max": sum(places) / len(places) + max(places),
                "gem": (sum(max(place, 1e-6) ** 3 for place in places) / len(places)) ** (1 / 3),
            }[kind]
    return torch.from_numpy(wanted).float()


def test_concatenated_pooling_is_average_and_maximum_side_by_side(features):
    pool = Pooling("concat")
    torch.testing.assert_close(pool(features), torch.cat([by_hand("avg", features), by_hand("max", features)], 1))
    assert (pool.parts, Pooling("avg+max").parts) == (2, 1)
    tokens = torch.cat([torch.full((3, 2, 5), 1e3), features.flatten(2).mT], 1)
    torch.testing.assert_close(Pooling("concat", prefix_tokens=2)(tokens), pool(features))


@pytest.mark.parametrize("kind", ["avg", "max", "avg+max", "gem"])
def test_pooling_of_a_map_agrees_with_loops(kind, features):
    torch.testing.assert_close(Pooling(kind)(features), by_hand(kind, features))


@pytest.mark.parametrize("kind", ["avg", "max", "avg+max", "gem"])
def test_pooling_of_tokens_leaves_out_those_of_no_place(kind, features):
    tokens = features.flatten(2).mT
    prefix = torch.full((3, 2, 5), 1e3)
    found = Pooling(kind, prefix_tokens=2, class_token=True)(torch.cat([prefix, tokens], 1))
    torch.testing.assert_close(found, by_hand(kind, features))


def test_token_pooling_takes_the_first_token(features):
    tokens = features.flatten(2).mT
    assert torch.equal(Pooling("token", prefix_tokens=2, class_token=True)(tokens), tokens[:, 0])
    with pytest.raises(SettingsError, match="and this one has none"):
        Pooling("token", prefix_tokens=4)  # register tokens, but no class token


def test_gem_learns_its_power_and_moves_from_average_towards_maximum(features):
    pool = Pooling("gem").double()
    positive = features.double().abs().requires_grad_()
    pool(positive).sum().backward()
    # d(mean x^3)^(1/3) / dx = x^2 / n * (mean x^3)^(-2/3), n = 8 places
    value = positive.detach().clamp(min=1e-6)
    want = value**2 / 8 * value.pow(3).mean((2, 3), keepdim=True) ** (-2 / 3)
    torch.testing.assert_close(positive.grad, want, atol=1e-5, rtol=1e-4)
    rise = 1e-2  # slope of the power, by differences
    with torch.no_grad():
        high, low = (sum((value**p).mean((2, 3)).pow(1 / p).sum() for p in (3 + step,)) for step in (rise, -rise))
    torch.testing.assert_close(pool.power.grad, (high - low) / (2 * rise), atol=1e-3, rtol=1e-3)
    with torch.no_grad():
        pool.power.fill_(1.0)
        torch.testing.assert_close(
            pool(positive), by_hand("avg", positive.detach()), check_dtype=False, atol=1e-5, rtol=1e-5
        )
        pool.power.fill_(200.0)
        torch.testing.assert_close(
            pool(positive), by_hand("max", positive.detach()), check_dtype=False, atol=0.1, rtol=0.03
        )


def test_gem_keeps_float32_inside_half_precision():
    large = torch.full((1, 1, 2, 2), 100.0, dtype=torch.float16)  # 100^3 is beyond float16
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = Pooling("gem")(large)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, torch.tensor([[100.0]]))


def test_batch_norm_is_secs():
    norm = make_norm("batch", 4)
    assert norm.eps == 1e-5
    assert norm.affine
    x = torch.randn(6, 4, generator=torch.Generator().manual_seed(0)) * 3 + 1
    want = (x - x.mean(0)) / (x.var(0, unbiased=False) + 1e-5).sqrt()
    torch.testing.assert_close(norm(x), want)


def test_layer_norm_has_no_parameters_and_centres_each_row():
    norm = make_norm("layer", 8)
    assert not list(norm.parameters())
    x = torch.randn(3, 8, generator=torch.Generator().manual_seed(0)) + 5
    found = norm(x)
    torch.testing.assert_close(found.mean(1), torch.zeros(3), atol=1e-6, rtol=0)
    variance = x.var(1, unbiased=False)
    torch.testing.assert_close(found.norm(dim=1), (8 / (1 + 1e-5 / variance)).sqrt())


def test_no_norm_and_no_linear_pass_through():
    x = torch.randn(2, 3)
    assert torch.equal(make_norm("none", 3)(x), x)
    assert torch.equal(make_linear(3, 0, bias=True)(x), x)
    assert make_linear(3, 2, bias=False).bias is None
    assert make_linear(3, 2, bias=True)(x).shape == (2, 2)


def test_wrong_input_is_explained():
    with pytest.raises(SettingsError, match="Did you mean 'gem'"):
        Pooling("gme")
    with pytest.raises(SettingsError, match="norm must be 'batch' or 'layer' or 'none'; got 'layr'"):
        make_norm("layr", 3)
    with pytest.raises(SizeError, match=r"got \(2, 3\)"):
        Pooling("avg")(torch.zeros(2, 3))


def test_flattened_positions_stand_side_by_side_row_by_row(features):
    pool = Pooling("flatten", channels=5, positions=8)
    assert pool.parts == 8
    want = torch.stack([features[:, :, row, column] for row in range(4) for column in range(2)], dim=1)
    assert torch.equal(pool(features), want.flatten(1))
    tokens = torch.cat([torch.full((3, 2, 5), 1e3), features.flatten(2).mT], 1)
    assert torch.equal(Pooling("flatten", prefix_tokens=2, channels=5, positions=8)(tokens), want.flatten(1))


def test_depthwise_pooling_is_a_convolution_of_each_channel_and_batch_norm(features):
    torch.manual_seed(0)
    pool = Pooling("depthwise", channels=5, positions=8)
    assert pool.parts == 1
    summed = torch.nn.functional.conv2d(features, pool.weight.reshape(5, 1, 4, 2), groups=5).flatten(1)
    want = (summed - summed.mean(0)) / (summed.var(0, unbiased=False) + 1e-5).sqrt()
    torch.testing.assert_close(pool(features), want)
    pool(features).square().sum().backward()
    assert pool.weight.grad.abs().min() > 0


@pytest.mark.parametrize("kind", ["flatten", "depthwise"])
def test_poolings_of_one_size_say_so(kind, features):
    with pytest.raises(SettingsError, match=rf"pooling '{kind}' is for the last level of a backbone"):
        Pooling(kind, channels=5)
    with pytest.raises(
        SizeError, match=rf"pooling '{kind}' was built for 9 positions, got 8\. Give images of the size"
    ):
        Pooling(kind, channels=5, positions=9)(features)
