import dataclasses
import json
import math
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import timm
import torch

import cosphere
from cosphere.errors import RunError, WeightsError
from cosphere.models import Calibration, Embedder, bundle
from cosphere.models.fingerprint import of_tensors


def calibration(threshold):
    return Calibration(
        threshold=threshold,
        wanted_far=0.01,
        far=0.009,
        tar=None,
        threshold_interval=(threshold - 0.1, threshold + 0.1),
        far_interval=(0.005, 0.02),
        tar_interval=None,
        level=0.95,
        different_pairs=1000,
        same_pairs=0,
        classes=9,
        images=9,
        data="ab12",
    )


@pytest.fixture
def saved(small, tmp_path):
    embedder = small(pooling="gem")
    embedder.provenance = {"weights": "none (random)", "trained_on": {"images": 7}}
    embedder.calibration = calibration(0.25)
    embedder.save(tmp_path / "model")
    return embedder, tmp_path / "model"


def described(path, content):
    """Give the bundle another description, in both of its files, as if it had been saved with it."""
    tensors = safetensors.torch.load_file(path / "model.safetensors")
    safetensors.torch.save_file(tensors, path / "model.safetensors", metadata={"cosphere": json.dumps(content)})
    (path / "bundle.json").write_text(json.dumps(content))


def edited(path, **changes):
    described(path, {**json.loads((path / "bundle.json").read_text()), **changes})


@pytest.mark.parametrize(
    "settings",
    [
        {"backbone": "test_resnet", "pooling": "gem"},
        {"backbone": "test_vit", "size": 96, "pooling": "token", "norm": "layer", "bias": False},
        {"backbone": "test_convnext", "size": 64, "dim": 0, "norm": "none"},
        {"backbone": "bn_inception", "size": 64, "pooling": "avg+max"},
        {
            "pooling": "concat",
            "head": "groups",
            "head_settings": {"parts": [4, 8], "levels": [2, -1], "weights": "size"},
        },
        {"head": "mlp", "norm": "none", "head_settings": {"hidden": 7}},
    ],
)
def test_a_loaded_model_gives_the_same_numbers(small, pictures, tmp_path, settings):
    embedder = small(**settings)
    embedder.save(tmp_path / "model")
    loaded = Embedder.load(tmp_path / "model")
    np.testing.assert_array_equal(loaded.encode(pictures), embedder.encode(pictures))
    assert loaded.settings == embedder.settings
    assert loaded.preprocessing == embedder.preprocessing
    assert not loaded.training


def test_the_folder_holds_all_there_is_to_know(saved):
    embedder, path = saved
    assert sorted(file.name for file in path.iterdir()) == ["bundle.json", "model.safetensors"]
    content = json.loads((path / "bundle.json").read_text())
    assert content["format"] == 2
    assert content["cosphere"] == cosphere.__version__
    assert content["settings"]["backbone"] == "test_resnet"
    assert content["preprocessing"]["size"] == 32
    assert content["provenance"] == embedder.provenance
    assert content["calibration"]["threshold"] == 0.25
    assert content["calibration"]["tar"] is None
    loaded = Embedder.load(path)
    assert (loaded.provenance, loaded.calibration) == (embedder.provenance, calibration(0.25))


def test_loading_needs_no_pretrained_weights(small, tmp_path, monkeypatch, pictures):
    embedder = small()
    embedder.settings = dataclasses.replace(embedder.settings, weights="imagenet")
    embedder.save(tmp_path / "model")
    real = timm.create_model

    def create(name, pretrained=False, **settings):
        assert not pretrained
        return real(name, pretrained=False, **settings)

    monkeypatch.setattr(timm, "create_model", create)
    loaded = Embedder.load(str(tmp_path / "model"))
    assert loaded.settings.weights == "imagenet"
    np.testing.assert_array_equal(loaded.encode(pictures), embedder.encode(pictures))


def test_a_network_to_be_filled_draws_no_numbers_and_others_do(small):
    with bundle.ToBeFilled():
        linear, normed = torch.nn.Linear(4, 3), torch.nn.LayerNorm(3)
        assert torch.nn.init.normal_(tensor=torch.ones(2)).tolist() == [0, 0]
        assert torch.add(torch.ones(2), 1).tolist() == [2, 2]
    assert not linear.weight.any()
    assert linear.weight.requires_grad
    assert normed(torch.randn(2, 3)).shape == (2, 3)
    assert torch.nn.Linear(4, 3).weight.any()


def test_a_runs_folder_stands_for_its_model(saved):
    _, path = saved
    assert Embedder.load(path.parent).calibration == calibration(0.25)


def test_a_bundle_from_before_calibrations_loads(saved):
    _, path = saved
    content = json.loads((path / "bundle.json").read_text())
    del content["calibration"]
    described(path, {**content, "threshold": None})
    assert Embedder.load(path).calibration is None


def test_a_bundle_of_format_1_loads(saved, pictures):
    embedder, path = saved
    tensors = {name.removeprefix("head."): value for name, value in embedder.state_dict().items()}
    assert {"pool.power", "norm.weight", "linear.bias"} < tensors.keys()
    settings = dataclasses.asdict(embedder.settings)
    del settings["head"], settings["head_settings"]
    content = {**json.loads((path / "bundle.json").read_text()), "format": 1, "settings": settings}
    del content["digest"]
    safetensors.torch.save_file(tensors, path / "model.safetensors", metadata={"cosphere": json.dumps(content)})
    (path / "bundle.json").write_text(json.dumps(content))
    loaded = Embedder.load(path)
    np.testing.assert_array_equal(loaded.encode(pictures), embedder.encode(pictures))
    assert loaded.id == embedder.id


def test_training_forgets_the_calibration_and_encoding_does_not(saved, pictures):
    embedder, path = saved
    embedder.encode(pictures)
    assert embedder.eval().calibration is not None
    embedder.train()
    assert embedder.calibration is None
    embedder.save(path)
    assert Embedder.load(path).calibration is None


def test_channels_last_and_shared_tensors_are_stored_plainly(small, tmp_path, pictures):
    embedder = small().to(memory_format=torch.channels_last)
    assert any(not value.is_contiguous() for value in embedder.parameters())
    embedder.backbone.net.register_parameter("twin", embedder.head.linear.weight)
    state = embedder.state_dict()
    bundle.write(tmp_path / "model", tensors=state, content={})
    stored = safetensors.torch.load_file(tmp_path / "model" / "model.safetensors")
    assert stored.keys() == state.keys()
    assert all(torch.equal(stored[key], state[key]) for key in state)


def test_saving_again_replaces(saved, pictures):
    embedder, path = saved
    with torch.no_grad():
        embedder.head.linear.weight.mul_(-2)
    embedder.calibration = None
    embedder.save(path)
    loaded = Embedder.load(path)
    assert loaded.calibration is None
    np.testing.assert_array_equal(loaded.encode(pictures), embedder.encode(pictures))


@pytest.mark.parametrize("where", ["weights", "description"])
def test_a_full_disk_leaves_a_bundle_that_loads(saved, pictures, monkeypatch, where):
    embedder, path = saved
    old = embedder.encode(pictures)
    with torch.no_grad():
        embedder.head.linear.weight.mul_(-2)
    embedder.calibration = calibration(0.75)

    def full(*args, **kwargs):
        raise OSError(28, "No space left on device")

    if where == "weights":
        monkeypatch.setattr(safetensors.torch, "save_file", full)
    else:
        monkeypatch.setattr(Path, "write_text", full)
    with pytest.raises(RunError, match="No space left"):
        embedder.save(path)
    monkeypatch.undo()
    loaded = Embedder.load(path)
    # Cut off before the weights were in place: all old. After it: all new. Never a mixture.
    np.testing.assert_array_equal(loaded.encode(pictures), old if where == "weights" else embedder.encode(pictures))
    assert loaded.calibration == calibration(0.25 if where == "weights" else 0.75)
    assert not [file for file in path.iterdir() if file.suffix == ".part"]


def test_a_folder_that_cannot_be_made_is_explained(small, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(RunError, match="cannot write"):
        small().save(tmp_path / "file" / "model")


def test_what_is_no_bundle_is_explained(saved, tmp_path):
    _, path = saved
    with pytest.raises(RunError, match=r"there is no model bundle at .*nowhere"):
        Embedder.load(tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(RunError, match="this is not a model bundle"):
        Embedder.load(tmp_path / "empty")
    foreign = tmp_path / "foreign"
    shutil.copytree(path, foreign)
    (foreign / "bundle.json").write_text('{"architectures": ["BertModel"]}')
    with pytest.raises(RunError, match="is not a Cosphere bundle"):
        Embedder.load(foreign)
    (foreign / "bundle.json").write_text("{")
    with pytest.raises(RunError, match="is not a model bundle"):
        Embedder.load(foreign)
    (path / "model.safetensors").unlink()
    with pytest.raises(RunError, match=r"has no model\.safetensors"):
        Embedder.load(path)


def test_a_bundle_of_another_version_is_explained(saved):
    _, path = saved
    edited(path, format=3, cosphere="9.9")
    with pytest.raises(
        RunError, match=r"bundle format 3, written by Cosphere 9\.9; this one reads formats 1 to 2\. Update your clone"
    ):
        Embedder.load(path)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"settings": {"backbone": "test_resnet", "weights": "none", "swirl": 3}}, "swirl"),
        ({"settings": {"backbone": "test_resnxt", "weights": "none"}}, "unknown backbone 'test_resnxt'"),
        ({"settings": {"backbone": 3.5, "weights": "none"}}, r"model\.backbone is 3\.5; wanted text"),
        ({"settings": {"backbone": "test_resnet", "head": []}}, r"model\.head is \[\]; wanted text"),
        ({"settings": {"head_settings": [1]}}, r"model\.head_settings is \[1\]; wanted names with values"),
        ({"settings": None}, "settings is None; wanted names with values"),
        ({"settings": "x" * 999}, r"settings is 'x{59}\.\.\.; wanted names with values"),
        ({"preprocessing": {"size": 32, "resize": 36, "blur": 1}}, r"preprocessing\.blur"),
        ({"preprocessing": {"size": -1}}, r"preprocessing\.size"),
        ({"preprocessing": None}, "preprocessing is None; wanted names with values"),
        ({"calibration": {"threshold": 0.5}}, r"calibration\.wanted_far is missing"),
        ({"calibration": {**calibration(0.5).as_dict(), "mood": 1}}, r"calibration\.mood"),
        ({"calibration": {**calibration(0.5).as_dict(), "threshold": "high"}}, r"calibration\.threshold is 'high'"),
        ({"calibration": 0.5}, "calibration is 0.5; wanted names with values"),
        ({"provenance": [1]}, r"provenance is \[1\]; wanted names with values"),
    ],
)
def test_a_description_that_makes_no_model_is_explained(saved, changes, words):
    _, path = saved
    edited(path, **changes)
    with pytest.raises(
        RunError, match=rf"bundle\.json does not describe a model that this Cosphere can make \(.*{words}"
    ):
        Embedder.load(path)


def replaced(content, dotted, value):
    """A copy with one value replaced by dotted name; ``...`` removes it."""
    head, _, rest = dotted.partition(".")
    if rest:
        return {**content, head: replaced(content[head], rest, value)}
    return {key: one for key, one in content.items() if key != head} | ({} if value is ... else {head: value})


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("preprocessing.mean", [0.5, 0.5, 0.5], r"is \[0\.5, 0\.5, 0\.5\] there, and \[0\.5, 0\.4, 0\.3\]"),
        ("preprocessing.mean", ..., r"is missing there, and \[0\.5, 0\.4"),
        ("preprocessing.size", 31, "is 31 there, and 32"),
        ("preprocessing.channels", "bgr", "is 'bgr' there, and 'rgb'"),
        ("preprocessing.blur", 1, "is 1 there, and missing"),
        ("settings.norm", "none", "is 'none' there, and 'batch'"),
        ("calibration.threshold", 0.2, r"is 0\.2 there, and 0\.25"),
        ("calibration.threshold", math.nan, r"is nan there, and 0\.25"),
        ("digest", None, "is None there, and '"),
    ],
)
def test_a_description_that_was_changed_later_is_refused_by_name(saved, name, value, words):
    _, path = saved
    content = json.loads((path / "bundle.json").read_text())
    (path / "bundle.json").write_text(json.dumps(replaced(content, name, value)))
    with pytest.raises(RunError, match=rf"bundle\.json was changed after it was saved: {re.escape(name)} {words}"):
        Embedder.load(path)


@pytest.mark.parametrize("whole", ["settings", "preprocessing", "calibration"])
def test_a_part_that_is_gone_from_the_description_is_named(saved, whole):
    _, path = saved
    content = json.loads((path / "bundle.json").read_text())
    (path / "bundle.json").write_text(json.dumps(replaced(content, whole, ...)))
    with pytest.raises(RunError, match=rf"was changed after it was saved: {whole}\.\w+ is missing there"):
        Embedder.load(path)


@pytest.mark.parametrize(
    ("name", "value"), [("provenance", {}), ("settings.weights", "elsewhere"), ("cosphere", "0.0.1"), ("note", "mine")]
)
def test_what_no_embedding_depends_on_may_be_edited(saved, pictures, name, value):
    embedder, path = saved
    content = json.loads((path / "bundle.json").read_text())
    (path / "bundle.json").write_text(json.dumps(replaced(content, name, value)))
    np.testing.assert_array_equal(Embedder.load(path).encode(pictures), embedder.encode(pictures))


def test_weights_that_do_not_fit_are_refused(saved):
    _, path = saved
    content = json.loads((path / "bundle.json").read_text())
    edited(path, settings={**content["settings"], "dim": 13})
    with pytest.raises(WeightsError, match=r"head\.linear\.weight is \(12, 96\), not \(13, 96\)"):
        Embedder.load(path)
    edited(path, settings={**content["settings"], "pooling": "avg"})
    with pytest.raises(WeightsError, match=r"1 unknown \(head\.pool\.power\)"):
        Embedder.load(path)


def test_every_flipped_bit_of_the_weights_is_noticed(saved):
    _, path = saved
    file = path / "model.safetensors"
    whole = file.read_bytes()
    start = 8 + int.from_bytes(whole[:8], "little")
    draw = np.random.default_rng(0)
    for place in draw.integers(start, len(whole), 20):
        damaged = bytearray(whole)
        damaged[place] ^= 1 << int(draw.integers(8))
        file.write_bytes(damaged)
        with pytest.raises(WeightsError, match=r"is damaged: its weights are not those that bundle\.json describes"):
            Embedder.load(path)
    file.write_bytes(whole)
    Embedder.load(path)
    content = json.loads((path / "bundle.json").read_text())
    assert content.pop("digest") == of_tensors(safetensors.torch.load_file(file))
    described(path, content)
    Embedder.load(path)  # as one saved before there were digests


def test_damaged_weights_are_refused(saved):
    _, path = saved
    file = path / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(WeightsError, match="is damaged"):
        Embedder.load(path)
    file.write_bytes(b"\x80\x04not safetensors at all")
    with pytest.raises(WeightsError, match="is damaged"):
        Embedder.load(path)


@pytest.mark.parametrize(("end", "value"), [("running_var", float("inf")), ("linear.weight", float("nan"))])
def test_a_model_with_a_weight_that_is_no_number_is_not_loaded(saved, end, value):
    """With an infinite variance every image has the same finite embedding."""
    embedder, folder = saved
    tensors = embedder.state_dict()
    name = next(one for one in tensors if one.endswith(end))
    tensors[name].view(-1)[1] = value
    embedder.save(folder)
    with pytest.raises(WeightsError, match=rf"{name} in .*model.safetensors holds NaN or infinity: .* diverged"):
        Embedder.load(folder)
