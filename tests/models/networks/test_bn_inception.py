import pytest
import timm
import torch
from torch import nn

from cosphere.errors import WeightsError
from cosphere.models import build_backbone
from cosphere.models.networks.bn_inception import BNInception

# Inputs and outputs of each block, from the paper's table, with the sums of its branches worked out by hand.
BLOCK_WIDTHS = {
    "3a": (192, 256), "3b": (256, 320), "3c": (320, 576), "4a": (576, 576), "4b": (576, 576), "4c": (576, 608),
    "4d": (608, 608), "4e": (608, 1056), "5a": (1056, 1024), "5b": (1024, 1024),
}  # fmt: skip


@pytest.fixture(scope="module")
def net():
    torch.manual_seed(0)
    return BNInception(num_classes=0).eval()


def cadene_file(net, *, classes=1000):
    """A state dict as the published file has it: batch-norm vectors (1, C), no counters, the classifier."""
    found = {}
    generator = torch.Generator().manual_seed(1)
    for key, value in net.state_dict().items():
        if key.endswith("num_batches_tracked"):
            continue
        made = torch.rand(value.shape, generator=generator) * 0.02 + (1.0 if "_bn." in key else -0.01)
        found[key] = made[None] if "_bn." in key else made
    found["last_linear.weight"] = torch.zeros(classes, 1024)
    found["last_linear.bias"] = torch.zeros(classes)
    return found


def test_names_and_shapes_are_the_published_ones(net):
    shapes = {name: tuple(value.shape) for name, value in net.state_dict().items()}
    assert shapes["conv1_7x7_s2.weight"] == (64, 3, 7, 7)
    assert shapes["conv1_7x7_s2_bn.running_var"] == (64,)
    assert shapes["conv2_3x3_reduce.bias"] == (64,)
    assert shapes["conv2_3x3.weight"] == (192, 64, 3, 3)
    assert shapes["inception_3a_1x1.weight"] == (64, 192, 1, 1)
    assert shapes["inception_3a_double_3x3_1.weight"] == (96, 64, 3, 3)
    assert shapes["inception_3c_3x3.weight"] == (160, 128, 3, 3)
    assert shapes["inception_4d_double_3x3_reduce_bn.weight"] == (160,)
    assert shapes["inception_4e_double_3x3_2.weight"] == (256, 256, 3, 3)
    assert shapes["inception_5a_double_3x3_reduce.weight"] == (160, 1056, 1, 1)
    assert shapes["inception_5b_pool_proj.weight"] == (128, 1024, 1, 1)
    absent = ("inception_3c_1x1", "inception_4e_1x1", "inception_3c_pool_proj", "inception_4e_pool_proj", "last_linear")
    assert not [name for name in shapes if name.startswith(absent)]
    # 3 stem layers, 7 in each of eight blocks, 5 in each of the two that halve the map; conv and norm for each. Beside
    # them three poolings and the place of the classifier.
    assert len(list(net.modules())) - 1 - 4 == 2 * (3 + 8 * 7 + 2 * 5)


def test_parameter_count_agrees_with_the_table(net):
    # Each convolution has weights, a bias, and a scale and shift after it.
    def layer(inputs, outputs, size):
        return inputs * outputs * size * size + 3 * outputs

    table = {
        "3a": (64, 64, 64, 64, 96, 32), "3b": (64, 64, 96, 64, 96, 64), "3c": (0, 128, 160, 64, 96, 0),
        "4a": (224, 64, 96, 96, 128, 128), "4b": (192, 96, 128, 96, 128, 128), "4c": (160, 128, 160, 128, 160, 128),
        "4d": (96, 128, 192, 160, 192, 128), "4e": (0, 128, 192, 192, 256, 0),
        "5a": (352, 192, 320, 160, 224, 128), "5b": (352, 192, 320, 192, 224, 128),
    }  # fmt: skip
    total = layer(3, 64, 7) + layer(64, 64, 1) + layer(64, 192, 3)
    for name, (one, reduce, three, double_reduce, double, projection) in table.items():
        inputs, outputs = BLOCK_WIDTHS[name]
        assert one + three + double + (projection or inputs) == outputs
        total += (
            layer(inputs, one, 1) + layer(inputs, reduce, 1) + layer(reduce, three, 3) + layer(inputs, projection, 1)
        )
        total += layer(inputs, double_reduce, 1) + layer(double_reduce, double, 3) + layer(double, double, 3)
    assert sum(value.numel() for value in net.parameters()) == total
    assert 10.2e6 < total < 10.4e6


@pytest.mark.parametrize(("side", "places"), [(224, 7), (227, 7), (96, 3), (104, 4)])
def test_feature_map_has_about_one_place_for_32_pixels(net, side, places):
    with torch.no_grad():
        features = net.forward_features(torch.zeros(1, 3, side, side))
    assert features.shape == (1, 1024, places, places)
    assert (features >= 0).all()


def run_by_hand(weights, x):
    """The network written out from the published file's layer list, without modules, as an independent oracle."""
    F = nn.functional

    def layer(name, x, stride=1):
        weight = weights[f"{name}.weight"]
        x = F.conv2d(x, weight, weights[f"{name}.bias"], stride=stride, padding=weight.shape[2] // 2)
        mean, var, scale, shift = (
            weights[f"{name}_bn.{key}"].reshape(1, -1, 1, 1)
            for key in ("running_mean", "running_var", "weight", "bias")
        )
        return ((x - mean) / (var + 1e-5).sqrt() * scale + shift).clamp(min=0)

    def halve(x):  # ceil_mode: windows may start up to the last pixel
        return (
            F.max_pool2d(F.pad(x, (0, 1, 0, 1), value=-torch.inf), 3, 2)
            if x.shape[2] % 2 == 0
            else F.max_pool2d(x, 3, 2)
        )

    def halve_up(x):  # as many places as a convolution of stride 2 and padding 1 leaves
        return F.max_pool2d(F.pad(x, (0, 2, 0, 2), value=-torch.inf), 3, 2) if x.shape[2] % 2 else halve(x)

    def average(x):  # zeros at the border are counted
        return F.conv2d(x, torch.full((x.shape[1], 1, 3, 3), 1 / 9), padding=1, groups=x.shape[1])

    x = halve(layer("conv1_7x7_s2", x, 2))
    x = halve(layer("conv2_3x3", layer("conv2_3x3_reduce", x)))
    for block in ("3a", "3b", "3c", "4a", "4b", "4c", "4d", "4e", "5a", "5b"):
        n = f"inception_{block}"
        step = 2 if block in ("3c", "4e") else 1
        middle = layer(f"{n}_3x3", layer(f"{n}_3x3_reduce", x), step)
        double = layer(f"{n}_double_3x3_2", layer(f"{n}_double_3x3_1", layer(f"{n}_double_3x3_reduce", x)), step)
        if step == 2:
            x = torch.cat([middle, double, halve_up(x)], 1)
            continue
        pooled = F.max_pool2d(x, 3, 1, 1) if block == "5b" else average(x)
        x = torch.cat([layer(f"{n}_1x1", x), middle, double, layer(f"{n}_pool_proj", pooled)], 1)
    return x


@pytest.mark.parametrize(
    "side", [70, pytest.param(104, marks=pytest.mark.slow)]
)  # even before each halving block; odd before the first of them
def test_forward_agrees_with_the_layers_written_out(net, side):
    weights = {}
    generator = torch.Generator().manual_seed(2)
    for key, value in net.state_dict().items():
        noise = torch.randn(value.shape, generator=generator)
        fan = value[0].numel() if value.ndim == 4 else 1
        positive = "running_var" in key or "_bn.weight" in key
        weights[key] = noise.abs() * 0.3 + 0.7 if positive else noise * (1.5 / fan**0.5 if value.ndim == 4 else 0.1)
    other = BNInception(num_classes=0).eval()
    other.load_state_dict({key: value.to(other.state_dict()[key].dtype) for key, value in weights.items()})
    picture = torch.randn(1, 3, side, side, generator=generator)
    with torch.no_grad():
        found, want = other.forward_features(picture), run_by_hand(weights, picture)
    assert want.std() > 1e-3  # the signal has not died on the way
    torch.testing.assert_close(found, want, rtol=1e-4, atol=1e-4 * float(want.abs().max()))


def test_published_file_format_loads(net, tmp_path):
    published = cadene_file(net)
    torch.save(published, tmp_path / "bn_inception.pth")
    backbone = build_backbone("bn_inception", str(tmp_path / "bn_inception.pth"), image_size=64)
    loaded = backbone.net.state_dict()
    assert loaded["inception_4c_3x3_bn.running_mean"].shape == (160,)
    for key, value in published.items():
        if not key.startswith("last_linear"):
            assert torch.equal(loaded[key], value.reshape(loaded[key].shape)), key


def test_a_file_with_a_layer_missing_is_refused_by_name(net, tmp_path):
    published = cadene_file(net)
    del published["inception_4b_3x3.weight"]
    published["inception_9z.weight"] = torch.zeros(1)
    torch.save(published, tmp_path / "half.pth")
    with pytest.raises(WeightsError, match=r"1 missing \(inception_4b_3x3.weight\); 1 unknown \(inception_9z.weight\)"):
        build_backbone("bn_inception", str(tmp_path / "half.pth"), image_size=64)


def test_published_weights_come_from_torchs_cache_or_say_where_to_put_them(net, tmp_path, monkeypatch):
    folder = tmp_path / "hub" / "checkpoints"
    folder.mkdir(parents=True)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr("cosphere.models.backbones.unreachable", lambda address: "no route to host")
    with pytest.raises(
        WeightsError, match=r"no route to host.*place bn_inception-52deb4733.pth .*checkpoints"
    ) as caught:
        build_backbone("bn_inception", "imagenet", image_size=64)
    assert str(folder) in str(caught.value)
    torch.save(cadene_file(net), folder / "bn_inception-52deb4733.pth")
    assert build_backbone("bn_inception", "imagenet", image_size=64).weights_source == "bn_inception-52deb4733.pth"


def test_timm_makes_it_with_the_published_classifier(net, tmp_path):
    published = cadene_file(net)
    published["last_linear.weight"][3, 5] = 2.0
    torch.save(published, tmp_path / "bn_inception.pth")
    whole = timm.create_model(
        "bn_inception", pretrained=True, pretrained_cfg_overlay={"file": tmp_path / "bn_inception.pth"}
    )
    assert torch.equal(whole.get_classifier().weight, published["last_linear.weight"])
    features = torch.randn(2, 1024, 3, 3, generator=torch.Generator().manual_seed(0))
    logits = whole.eval().forward_head(features)
    assert logits.shape == (2, 1000)
    torch.testing.assert_close(logits[:, 3], 2 * features.mean((2, 3))[:, 5])
    assert torch.equal(
        whole(torch.zeros(1, 3, 64, 64)), whole.forward_head(whole.forward_features(torch.zeros(1, 3, 64, 64)))
    )
    whole.reset_classifier(0)
    assert whole(torch.zeros(1, 3, 64, 64)).shape == (1, 1024)


def test_stages_are_the_maps_before_each_halving(net):
    images = torch.randn(1, 3, 128, 128, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        final, maps = net.forward_intermediates(images, [0, 1, 2, 3, 4])
        assert torch.equal(final, net.forward_features(images))
        assert torch.equal(net.forward_intermediates(images, indices=[3])[1][0], maps[3])
    assert torch.equal(maps[4], final)
    assert [tuple(x.shape[1:]) for x in maps] == [(64, 64, 64), (192, 32, 32), (320, 16, 16), (608, 8, 8), (1024, 4, 4)]
    assert [stage["num_chs"] for stage in net.feature_info] == [x.shape[1] for x in maps]
    assert [stage["reduction"] for stage in net.feature_info] == [128 // x.shape[2] for x in maps]
    hooked = []
    net.inception_3b_1x1_bn.register_forward_hook(lambda *call: hooked.append(call[2]))
    with torch.no_grad():
        net.forward_intermediates(images, [2])
    assert torch.equal(maps[2][:, :64], hooked[0].relu())
