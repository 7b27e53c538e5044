import copy
import dataclasses
import math

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from cosphere.errors import DivergenceError, ImageError, RunError, SettingsError, SizeError
from cosphere.images.preprocessing import Preprocessing
from cosphere.models import Embedder, EmbedderSettings, build_embedder, norm_layers


def by_hand(embedder, picture):
    """One embedding, from a decoded picture, layer by layer."""
    inputs = embedder.preprocessing.to_input(embedder.preprocessing.pixels(picture)[None])
    with torch.no_grad():
        z = embedder.backbone.net.forward_features(inputs).mean((2, 3))
        norm, linear = embedder.head.norm, embedder.head.linear
        z = (z - norm.running_mean) / (norm.running_var + 1e-5).sqrt() * norm.weight + norm.bias
        return (z @ linear.weight.T + linear.bias)[0].numpy()


def test_forward_gives_raw_lengths(small, pictures):
    embedder = small()
    inputs = embedder.preprocessing.to_input(torch.stack([embedder.preprocessing.pixels(p) for p in pictures]))
    found = embedder(inputs)
    assert found.shape == (7, 12)
    assert embedder.dim == 12
    np.testing.assert_allclose(found.detach().numpy(), [by_hand(embedder, p) for p in pictures], rtol=1e-4, atol=1e-5)
    assert found.norm(dim=1).std() > 1e-3
    assert (found.norm(dim=1) - 1).abs().min() > 0.1


@pytest.mark.parametrize("backbone", ["test_resnet", "test_convnext", "test_vit2", "mobilenetv3_small_050"])
@pytest.mark.parametrize("pooling", ["flatten", "depthwise"])
def test_poolings_for_aligned_faces_take_any_backbone_at_112_px(small, backbone, pooling):
    embedder = small(backbone=backbone, size=112, pooling=pooling, norm="none", head_settings={"after": "batch"})
    with torch.no_grad():
        (last,) = embedder.backbone.features(torch.randn(2, 3, 112, 112))
        pooled = embedder.head.pool(last.values)
        rows = last.finish(pooled)
    width, positions = embedder.backbone.width, embedder.backbone.positions
    assert rows.shape == (2, width * (positions if pooling == "flatten" else 1))
    with torch.no_grad():  # of flattened positions, each is finished by itself
        torch.testing.assert_close(rows[:, -width:], last.finish(pooled[:, -embedder.backbone.channels :]))
    assert embedder.embed_inputs(torch.randn(2, 3, 112, 112)).shape == (2, 12)
    with pytest.raises(
        SizeError, match=r"training batch of 1 image has no variance for batch norm\. Use at least 2\.$"
    ):
        embedder.train()(torch.randn(1, 3, 112, 112))


def test_settings_reach_the_head(small):
    assert isinstance(small(norm="layer").head.norm, nn.LayerNorm)
    assert small(bias=False).head.linear.bias is None
    assert "head.pool.power" in dict(small(pooling="gem").named_parameters())
    plain = small(dim=0, norm="none")
    assert plain.dim == 96  # test_resnet's width
    assert plain(torch.zeros(2, 3, 32, 32)).shape == (2, 96)
    layered = small(dim=0, norm="layer")(torch.randn(3, 3, 32, 32))
    torch.testing.assert_close(layered.norm(dim=1), torch.full((3,), math.sqrt(96)), rtol=1e-2, atol=0)


@pytest.mark.parametrize("batch_size", [1, 3, 7, 64])
def test_encode_keeps_the_order_whatever_the_batch(small, pictures, paths, batch_size):
    embedder = small()
    raw = np.stack([by_hand(embedder, picture) for picture in pictures])
    np.testing.assert_allclose(embedder.encode(paths, batch_size, normalize=False), raw, rtol=1e-4, atol=1e-5)
    found = embedder.encode(paths, batch_size)
    assert found.dtype == np.float32
    want = np.stack([row / math.sqrt(sum(float(x) ** 2 for x in row)) for row in raw])
    np.testing.assert_allclose(found, want, rtol=1e-4, atol=1e-5)
    bits = embedder.encode(paths, batch_size, precision="bits")
    assert bits.dtype == np.uint8
    for row, packed in zip(raw, bits, strict=True):
        text = "".join("1" if x > 0 else "0" for x in row) + "0000"
        assert packed.tolist() == [int(text[:8], 2), int(text[8:], 2)]


def test_encode_takes_every_kind_of_picture(small, pictures, paths):
    embedder = small()
    picture = pictures[1]
    tensor = torch.from_numpy(picture).permute(2, 0, 1)
    kinds = [paths[1], str(paths[1]), Image.fromarray(picture), picture, tensor]
    found = embedder.encode(kinds)
    np.testing.assert_allclose(found, found[[0] * 5], atol=1e-6)
    for kind in kinds:
        np.testing.assert_allclose(embedder.encode(kind), found[:1], atol=1e-6)  # one picture is a list of one
    assert embedder.encode(iter(paths)).shape == (7, 12)
    assert embedder.encode(np.array([str(path) for path in paths])).shape == (7, 12)


def test_encode_takes_gray_and_turned_pictures(small, pictures):
    embedder = small()
    gray = pictures[0][:, :, 0]
    rgb = np.repeat(gray[:, :, None], 3, axis=2)
    found = embedder.encode([gray, Image.fromarray(gray), rgb])
    np.testing.assert_allclose(found, found[[2, 2, 2]], atol=1e-6)
    turned = Image.fromarray(np.rot90(pictures[1]).copy())
    turned.getexif()[0x0112] = 6  # shown turned clockwise
    np.testing.assert_allclose(embedder.encode([turned]), embedder.encode([pictures[1]]), atol=1e-6)


def test_encode_takes_batches(small):
    embedder = small()
    pixels = torch.randint(0, 256, (5, 3, 40, 50), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    want = embedder.encode(list(pixels))
    np.testing.assert_allclose(embedder.encode(pixels, batch_size=2), want, atol=1e-6)
    np.testing.assert_allclose(embedder.encode(pixels.permute(0, 2, 3, 1).numpy()), want, atol=1e-6)
    ready = embedder.preprocessing.to_input(
        torch.stack([embedder.preprocessing.pixels(p.permute(1, 2, 0).numpy()) for p in pixels])
    )
    np.testing.assert_allclose(embedder.encode(ready, batch_size=2), want, atol=1e-6)
    for dtype, tolerance in ((torch.float64, 1e-6), (torch.float16, 1e-2), (torch.bfloat16, 0.1)):
        found = embedder.encode(ready.to(dtype), batch_size=2)
        assert found.dtype == np.float32
        np.testing.assert_allclose(found, want, atol=tolerance)


def test_a_model_in_half_precision_encodes(small, pictures):
    want = small().encode(pictures)
    found = small().to(torch.bfloat16).encode(pictures)
    assert found.dtype == np.float32
    assert (found * want).sum(1).min() > 0.99


@pytest.mark.parametrize("precision", ["float32", "bits"])
def test_a_weight_that_is_not_a_number_is_an_error(small, pictures, precision):
    embedder = small()
    with torch.no_grad():
        embedder.head.linear.weight[3, 5] = float("nan")
    with pytest.raises(DivergenceError, match=r"7 of 7 embeddings are not finite, because head\.linear\.weight"):
        embedder.encode(pictures, precision=precision)


def test_encode_of_nothing(small):
    embedder = small()
    assert embedder.encode([]).shape == (0, 12)
    assert embedder.encode([]).dtype == np.float32
    assert embedder.encode(torch.zeros(0, 3, 32, 32)).shape == (0, 12)
    assert embedder.encode(torch.zeros(0, 3, 32, 32, dtype=torch.uint8)).shape == (0, 12)
    bits = embedder.encode([], precision="bits")
    assert (bits.shape, bits.dtype) == ((0, 2), np.uint8)


def test_encode_leaves_every_mode_as_it_was_even_after_an_error(small, paths, tmp_path):
    embedder = small().train()
    embedder.head.pool.eval()  # somebody's own mixture
    before = [module.training for module in embedder.modules()]
    statistics = embedder.head.norm.running_mean.clone()
    first, second = embedder.encode(paths), embedder.encode(paths)
    np.testing.assert_array_equal(first, second)
    assert [module.training for module in embedder.modules()] == before
    assert torch.equal(embedder.head.norm.running_mean, statistics)
    with pytest.raises(ImageError):
        embedder.encode([tmp_path / "none.png"])
    assert [module.training for module in embedder.modules()] == before


def test_a_row_without_direction_stays_zero(small, pictures):
    embedder = small()
    nn.init.zeros_(embedder.head.linear.weight)
    nn.init.zeros_(embedder.head.linear.bias)
    with pytest.warns(RuntimeWarning, match="all 7 embeddings are equal"):
        assert (embedder.encode(pictures) == 0).all()
    with pytest.warns(RuntimeWarning, match="all 7 embeddings are equal"):
        assert (embedder.encode(pictures, precision="bits") == 0).all()  # zero is not above zero
    embedder.head.linear.bias.data[:2] = torch.tensor([3.0, 4.0])
    with pytest.warns(RuntimeWarning, match="all 7 embeddings are equal"):
        rows = embedder.encode(pictures)
    np.testing.assert_allclose(rows[:, :3], [[0.6, 0.8, 0.0]] * len(pictures), rtol=1e-6)


def test_autocast_changes_little_and_comes_back_as_float32(small, paths):
    embedder = small()
    exact, half = embedder.encode(paths), embedder.encode(paths, autocast=torch.bfloat16)
    assert half.dtype == np.float32
    assert not np.array_equal(exact, half)
    assert (exact * half).sum(1).min() > 0.99


def test_progress_goes_to_stderr(small, paths, capsys):
    quiet = small().encode(paths)
    assert capsys.readouterr() == ("", "")
    np.testing.assert_allclose(small().encode(paths, batch_size=3, progress=True), quiet, atol=1e-5)
    seen = capsys.readouterr()
    assert seen.out == ""
    assert "Embedding" in seen.err


def test_a_bad_picture_is_named(small, paths, tmp_path):
    bad = tmp_path / "bad.png"
    bad.write_bytes(paths[0].read_bytes()[:60])
    with pytest.raises(ImageError, match=r"bad\.png"):
        small().encode([*paths, bad], batch_size=2)
    torn = Image.open(paths[0])
    torn.close()
    with pytest.raises(ImageError, match="picture 1 cannot be read"):
        small().encode([paths[0], torn])


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ([np.zeros((4, 4, 3))], r"picture 0 is \(4, 4, 3\) float64"),
        ([torch.zeros(3, 4, 4)], r"picture 0 is \(3, 4, 4\) torch.float32.*one ready batch"),
        (np.zeros((2, 4, 4, 3)), r"picture 0 is \(4, 4, 3\) float64"),
        ([np.zeros((4, 4, 5), np.uint8)], r"picture 0 is \(4, 4, 5\) uint8"),
        ([7], "picture 0 is int"),
        (7, "want pictures or paths, got int"),
        (torch.zeros(2, 5), r"want a float batch \(B, 3, H, W\), got \(2, 5\)"),
    ],
)
def test_what_is_no_picture_is_refused(small, wrong, words):
    with pytest.raises(SizeError, match=words):
        small().encode(wrong)


def test_wrong_settings_are_explained(small, paths):
    with pytest.raises(SettingsError, match="precision must be 'float32' or 'bits'; got 'bit'"):
        small().encode(paths, precision="bit")
    with pytest.raises(SettingsError, match=r"precision is 'ubinary', .* Use precision='bits'"):
        small().encode(paths, precision="ubinary")
    with pytest.raises(SettingsError, match=r"batch_size must be a whole number from 1 to 1000000; got 0"):
        small().encode(paths, batch_size=0)
    with pytest.raises(SettingsError, match=r"model\.pooling 'gme'.*Did you mean 'gem'"):
        EmbedderSettings(pooling="gme")
    with pytest.raises(SettingsError, match=r"model\.norm must be 'batch' or 'layer' or 'none'; got 'batchnorm'"):
        EmbedderSettings(norm="batchnorm")
    for dim in (-1, 1.5, True):
        with pytest.raises(SettingsError, match=r"model\.dim"):
            EmbedderSettings(dim=dim)
    with pytest.raises(SettingsError, match="class token"):
        small(pooling="token")


def test_forward_explains_wrong_input(small):
    embedder = small()
    with pytest.raises(SizeError, match="to_input"):
        embedder(torch.zeros(2, 3, 32, 32, dtype=torch.uint8))
    with pytest.raises(SizeError, match=r"got \(2, 1, 32, 32\)"):
        embedder(torch.zeros(2, 1, 32, 32))
    with pytest.raises(SizeError, match="batch of 1 image"):
        embedder.train()(torch.zeros(1, 3, 32, 32))
    assert small(norm="layer").train()(torch.zeros(1, 3, 64, 64)).shape == (1, 12)


def test_a_transformer_takes_only_its_size(small):
    embedder = small("test_vit", 64, pooling="token")
    assert embedder(torch.zeros(2, 3, 64, 64)).shape == (2, 12)
    with pytest.raises(SizeError, match=r"built for 64 px, got \(96, 64\)"):
        embedder(torch.zeros(2, 3, 96, 64))
    with pytest.raises(SizeError, match="preprocessing gives 96 px"):
        Embedder(embedder.settings, embedder.backbone, Preprocessing(size=96, resize=96))


def test_frozen_backbone_norm_survives_train_and_has_no_gradient(small):
    embedder = small("test_efficientnet")
    layers = norm_layers(embedder.backbone)
    assert len(layers) == sum("running_mean" in key for key in embedder.backbone.state_dict()) > 5
    assert embedder.head.norm not in layers
    embedder.set_trainable(backbone_norm=False)
    embedder.eval().train()
    images = torch.randn(4, 3, 32, 32)
    before = {key: value.clone() for key, value in embedder.state_dict().items()}
    embedder(images).square().sum().backward()
    after = embedder.state_dict()
    moved = {key for key in after if "running" in key and not torch.equal(after[key], before[key])}
    assert moved == {"head.norm.running_mean", "head.norm.running_var"}  # the head's norm still learns
    assert all(value.grad is None for layer in layers for value in layer.parameters())
    assert embedder.head.norm.weight.grad is not None
    assert embedder.backbone.net.conv_stem.weight.grad.abs().sum() > 0

    embedder.set_trainable(backbone_norm=True)
    assert all(layer.training for layer in layers)
    embedder(images).square().sum().backward()
    assert all(value.grad is not None for layer in layers for value in layer.parameters())
    assert not torch.equal(
        embedder.state_dict()["backbone.net.bn1.running_mean"], before["backbone.net.bn1.running_mean"]
    )


def test_freezing_does_not_wake_a_model_in_evaluation_mode(small):
    embedder = small()
    embedder.set_trainable(backbone_norm=False)
    assert not any(module.training for module in embedder.modules())


def test_a_backbone_that_rests_wakes_without_its_frozen_norms(small):
    embedder = small("test_efficientnet").train()
    norms = {id(value) for layer in norm_layers(embedder.backbone) for value in layer.parameters()}

    def trained():
        return {id(value) for value in embedder.backbone.parameters() if value.requires_grad}

    everything = trained()
    assert norms < everything
    embedder.set_trainable(backbone=False)
    assert not trained()
    embedder.set_trainable(backbone_norm=True)
    assert not trained()  # norms belong to a backbone that rests
    embedder.set_trainable(backbone_norm=False)
    embedder.set_trainable(backbone=True)
    assert trained() == everything - norms
    assert all(value.requires_grad for value in embedder.head.parameters())
    embedder.train()
    assert not any(layer.training for layer in norm_layers(embedder.backbone))
    embedder.set_trainable(backbone_norm=True)
    assert trained() == everything
    assert all(layer.training for layer in norm_layers(embedder.backbone))


def test_channels_last_gives_the_same(small, pictures):
    embedder = small()
    want = embedder.encode(pictures)
    np.testing.assert_allclose(embedder.to(memory_format=torch.channels_last).encode(pictures), want, atol=1e-5)


def test_build_embedder_uses_the_backbones_numbers():
    embedder = build_embedder(EmbedderSettings(backbone="test_resnet", weights="none", dim=4), image_size=64)
    assert (embedder.preprocessing.size, embedder.preprocessing.mean) == (64, (0.5, 0.5, 0.5))
    assert embedder.provenance == {"weights": "none (random)"}
    assert embedder.calibration is None


def test_the_seed_decides_all_initial_values():
    settings = EmbedderSettings(backbone="test_resnet", weights="none", dim=4)
    states = []
    for seed in (3, 3, 4):
        torch.manual_seed(seed)
        states.append(build_embedder(settings, image_size=32).state_dict())
    assert all(torch.equal(states[0][key], states[1][key]) for key in states[0])
    assert not torch.equal(states[0]["head.linear.weight"], states[2]["head.linear.weight"])


def test_the_head_combines_at_test_time_only(small, pictures):
    embedder = small(head="groups", head_settings={"parts": [4, 8]})
    inputs = embedder.preprocessing.to_input(torch.stack([embedder.preprocessing.pixels(p) for p in pictures]))
    with torch.no_grad():
        raw, final = embedder(inputs), embedder.embed_inputs(inputs)
    want = torch.cat(
        [raw[:, :4] / raw[:, :4].norm(dim=1, keepdim=True), raw[:, 4:] / raw[:, 4:].norm(dim=1, keepdim=True)], 1
    )
    torch.testing.assert_close(final, want)
    np.testing.assert_allclose(embedder.encode(pictures, normalize=False), want, atol=1e-6)
    np.testing.assert_allclose(embedder.encode(pictures), want / math.sqrt(2), atol=1e-6)


def test_encode_gives_the_width_of_the_combined_embedding(small, pictures):
    embedder = small(head="mlp")
    assert (embedder.dim, embedder.output_dim) == (12, 96)
    assert embedder(torch.zeros(2, 3, 32, 32)).shape == (2, 12)
    assert embedder.encode(pictures).shape == (7, 96)
    assert embedder.encode([]).shape == (0, 96)
    assert embedder.encode([], precision="bits").shape == (0, 12)


def test_concatenated_pooling_doubles_the_width(small):
    embedder = small("mobilenetv3_small_050", pooling="concat", dim=0, norm="none")
    assert embedder.dim == 2 * embedder.backbone.width
    images = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        features = embedder.backbone(images)
        parts = [embedder.backbone.finish(features.mean((2, 3))), embedder.backbone.finish(features.amax((2, 3)))]
        torch.testing.assert_close(embedder(images), torch.cat(parts, 1))


def test_the_id_is_that_of_what_makes_embeddings(small, tmp_path):
    embedder = small()
    first = embedder.id
    assert len(first) == 64
    assert int(first, 16) >= 0
    assert small().id == first  # the same seed
    assert embedder.to(memory_format=torch.channels_last).id == first
    assert copy.deepcopy(embedder).id == first
    embedder.save(tmp_path)
    assert Embedder.load(tmp_path).id == first
    embedder.provenance = {"weights": "elsewhere"}
    embedder.settings = dataclasses.replace(embedder.settings, weights="/another/place.pth")
    assert embedder.id == first
    embedder.preprocessing = dataclasses.replace(embedder.preprocessing, resize=40)
    assert embedder.id != first
    embedder.preprocessing = dataclasses.replace(embedder.preprocessing, resize=36)
    assert embedder.id == first
    with torch.no_grad():
        embedder.head.linear.weight[3, 5] += 1e-3
    changed = embedder.id
    assert changed != first
    embedder.train()(torch.randn(4, 3, 32, 32))  # running statistics count too
    assert embedder.id not in (first, changed)
    assert small(pooling="max").id != first  # the same weights, pooled differently


def test_the_id_is_the_same_on_every_machine_and_in_every_version(small):
    # Weights of whole numbers, so that no machine's arithmetic matters. This number may not change: galleries keep it.
    embedder = small()
    with torch.no_grad():
        for position, value in enumerate(embedder.state_dict().values()):
            value.copy_(torch.arange(value.numel()).reshape(value.shape) % 7 + position)
    assert embedder.id == "0d374d9bc6e2009ba3955aa24537f3537fadfb860e1c059f6a947b2eb42c5750"


@pytest.mark.parametrize("changes", [{}, {"norm": "none"}, {"dim": 5}, {"head": "mlp"}])
def test_a_model_starts_from_a_run_of_ones_own(small, tmp_path, changes):
    first = small(dim=12)
    first.save(tmp_path / "run" / "model")
    torch.manual_seed(9)
    settings = EmbedderSettings(**{"backbone": "test_resnet", "dim": 12, "weights": tmp_path / "run", **changes})
    second = build_embedder(settings, image_size=32)
    old, new = first.state_dict(), second.state_dict()
    same = {
        name for name in new if name in old and new[name].shape == old[name].shape and torch.equal(new[name], old[name])
    }
    backbone = {name for name in new if name.startswith("backbone.")}
    assert backbone <= same
    # The head only where it is made alike; counters of batch norm are equal by chance.
    assert ("head.linear.weight" in same) == (not changes)
    assert (set(new) == same) == (not changes)
    scale = first.preprocessing
    assert (second.preprocessing.mean, second.preprocessing.std) == (scale.mean, scale.std)
    assert second.provenance == {"weights": str(tmp_path / "run")}
    second.save(tmp_path / "second")
    assert Embedder.load(tmp_path / "second").id == second.id  # without the first


def test_a_start_from_another_network_or_from_no_model_is_explained(small, tmp_path):
    small().save(tmp_path / "model")
    with pytest.raises(
        SettingsError, match=r"is a model with backbone 'test_resnet', not 'test_vit'\. Set model\.backbone to"
    ):
        build_embedder(EmbedderSettings(backbone="test_vit", weights=tmp_path / "model"), image_size=64)
    (tmp_path / "empty").mkdir()
    with pytest.raises(RunError, match="bundle"):
        build_embedder(EmbedderSettings(backbone="test_resnet", weights=tmp_path / "empty"), image_size=32)
