import copy
import pickle
import threading

import numpy as np
import pytest
import torch
from torch import nn

from cosphere.errors import DivergenceError
from cosphere.models import quick
from cosphere.models.folding import FoldedConvolution, can_pack, folded
from cosphere.models.inference import evaluation_mode, infer
from cosphere.models.quick import MANY, QuickForms


@pytest.fixture(autouse=True)
def measured(monkeypatch):
    """What the clock says: the quick form and the plain network take these many seconds."""
    seconds = [1.0, 2.0]
    monkeypatch.setattr(quick, "_seconds", lambda *_: seconds)
    monkeypatch.setitem(quick._memory, "kept", False)  # other tests of this process may have kept it
    return seconds


def images(count=5, size=32):
    return torch.randn(count, 3, size, size, generator=torch.Generator().manual_seed(1))


def forms(embedder):
    return list(embedder._quick._forms.values())


@pytest.mark.parametrize(
    ("backbone", "settings", "convolutions"),
    [
        ("test_resnet", {}, 15),
        ("test_resnet", {"dim": 0, "norm": "none"}, 15),
        ("test_resnet", {"head": "groups", "head_settings": {"parts": [4, 8], "levels": [-2, -1]}}, 15),
        ("test_efficientnet", {"norm": "layer", "pooling": "gem"}, 13),
        ("mobilenetv3_small_050", {"norm": "none"}, 34),
        ("test_convnext", {}, 0),
        ("test_vit", {"pooling": "token"}, 0),
    ],
)
def test_quick_rows_are_the_plain_rows_up_to_rounding(small, backbone, settings, convolutions):
    embedder = small(backbone, 64, **settings)
    batch = images(5, 64)
    plain = embedder.encode(batch, normalize=False, fast=False)
    with torch.no_grad():  # of what training and evaluation use
        np.testing.assert_array_equal(
            plain, embedder.embed_inputs(batch.contiguous(memory_format=torch.channels_last)).numpy()
        )
    found = embedder.encode(batch, normalize=False, fast=True)
    gaps = np.linalg.norm(found - plain, axis=1) / np.linalg.norm(plain, axis=1)
    assert gaps.max() < 1e-5
    (form,) = forms(embedder)
    count = sum(isinstance(part, FoldedConvolution) for part in form.network.modules())
    assert count == convolutions
    assert not any(isinstance(part, FoldedConvolution) for part in embedder.modules())
    if convolutions:
        assert embedder.quick_note.startswith(
            f"batch norm is folded into {convolutions} convolutions, 64 images at a time: 2.0 times"
        )
    else:
        assert embedder.quick_note == ""


def test_only_calls_with_many_images_are_quick_by_themselves(small):
    embedder = small("test_resnet")
    pixels = torch.randint(0, 256, (MANY, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    embedder.encode(pixels[:-1])
    embedder.encode(iter(pixels[:3]))
    assert not forms(embedder)
    embedder.encode(pixels, fast=False)
    assert not forms(embedder)
    embedder.encode(pixels)
    assert embedder.quick_note


@pytest.mark.parametrize("way", ["step", "load", "data", "numpy", "statistics", "exchange"])
def test_other_weights_are_folded_again(small, way):
    embedder, other = small("test_resnet"), small("test_resnet")
    batch = images()
    before = embedder.encode(batch, fast=True)
    convolution = embedder.backbone.net.conv1[0].weight
    if way == "step":
        embedder.train()(batch).square().sum().backward()
        torch.optim.SGD(embedder.parameters(), 0.1).step()
        embedder.eval()
    elif way == "load":
        with torch.no_grad():
            other.backbone.net.conv1[0].weight.mul_(-1.5)
        embedder.load_state_dict(other.state_dict())
    elif way == "data":
        convolution.data.mul_(-1.5)
    elif way == "numpy":
        convolution.detach().numpy()[:] *= -1.5
    elif way == "statistics":
        embedder.backbone.net.conv1[1].running_mean.add_(1)
    else:
        embedder.backbone.net.conv1[0] = copy.deepcopy(embedder.backbone.net.conv1[0])
        nn.init.ones_(embedder.backbone.net.conv1[0].weight)
    found, want = embedder.encode(batch, fast=True), embedder.encode(batch, fast=False)
    np.testing.assert_allclose(found, want, atol=1e-5)
    assert np.abs(found - before).max() > 1e-3
    assert len(forms(embedder)) == 1


def test_training_is_never_folded_and_frees_the_copy(small):
    embedder = small("test_resnet")
    batch = images()
    embedder.encode(batch, fast=True)
    statistics = embedder.backbone.net.bn1.running_mean.clone()
    embedder.train()
    assert not forms(embedder)
    modes = [module.training for module in embedder.modules()]
    embedder.encode(batch, fast=True)
    assert [module.training for module in embedder.modules()] == modes
    assert torch.equal(embedder.backbone.net.bn1.running_mean, statistics)
    embedder(batch).sum().backward()
    assert not torch.equal(embedder.backbone.net.bn1.running_mean, statistics)
    assert embedder.backbone.net.bn1.weight.grad is not None


def test_a_copy_or_saved_model_takes_no_quick_form_along(small, tmp_path):
    embedder = small("test_resnet")
    names, first = list(embedder.state_dict()), embedder.id
    embedder.encode(images(), fast=True)
    assert (list(embedder.state_dict()), embedder.id) == (names, first)
    for other in (copy.deepcopy(embedder), pickle.loads(pickle.dumps(embedder))):
        assert not forms(other)
        np.testing.assert_array_equal(other.encode(images(), fast=True), embedder.encode(images(), fast=True))
    embedder.save(tmp_path / "model")
    assert type(embedder).load(tmp_path / "model").quick_note == ""


def test_threads_share_one_quick_form(small):
    embedder = small("test_resnet")
    batches = [images(4) * (place + 1) for place in range(6)]
    want = [embedder.encode(batch, fast=False) for batch in batches]
    found = [None] * len(batches)
    gate = threading.Barrier(len(batches))

    def work(place):
        gate.wait()
        found[place] = embedder.encode(batches[place], fast=True)

    threads = [threading.Thread(target=work, args=[place]) for place in range(len(batches))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    np.testing.assert_allclose(found, want, atol=1e-5)
    assert len(forms(embedder)) == 1


def test_the_plain_network_stays_where_it_is_faster(small, measured):
    embedder = small("test_resnet")
    measured[:] = [2.0, 1.0]
    np.testing.assert_array_equal(embedder.encode(images(), fast=True), embedder.encode(images(), fast=False))
    assert embedder.quick_note == ""
    assert forms(embedder)[0].network is embedder


class Branching(nn.Module):
    """A network that uses what lies between a convolution and its batch norm, or reads the convolution's weights."""

    def __init__(self, reads):
        super().__init__()
        self.convolution, self.norm, self.reads = nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), reads
        self.norm.running_mean.fill_(0.5)

    def embed_inputs(self, inputs):
        between = self.convolution(inputs)
        more = self.convolution.in_channels if self.reads else between.mean((2, 3))
        return self.norm(between).mean((2, 3)) + more


@pytest.mark.parametrize("reads", [False, True])
def test_a_network_that_uses_what_is_folded_away_stays_plain(reads):
    model = Branching(reads).eval()
    batch = images()
    forms_of_model = QuickForms()
    with evaluation_mode(model):
        rows = forms_of_model.forward(model)(batch)
    assert torch.equal(rows, infer(model, batch.contiguous(memory_format=torch.channels_last)))
    (form,) = forms_of_model._forms.values()
    assert form.network is model


def test_rows_of_features_half_precision_and_autocast_are_taken_too(small):
    embedder = small("test_resnet")
    with torch.no_grad():
        features = embedder.pooled(images())
    with evaluation_mode(embedder):
        assert torch.equal(embedder.inference(fast=True)(features), embedder.inference()(features))
    exact, half = embedder.encode(images(), fast=False), embedder.encode(images(), fast=True, autocast=torch.bfloat16)
    assert 1e-7 < 1 - (exact * half).sum(1).min() < 1e-2
    small_numbers = small("test_resnet").to(torch.bfloat16)
    found = small_numbers.encode(images(), fast=True)
    np.testing.assert_array_equal(found, small_numbers.encode(images(), fast=False))


@pytest.mark.skipif(not can_pack(torch.bfloat16), reason="oneDNN has no bfloat16 on this processor")
@pytest.mark.parametrize("backbone", ["test_resnet", "test_efficientnet", "mobilenetv3_small_050"])
def test_in_bfloat16_the_copy_is_as_near_to_float32_as_the_plain_network(small, backbone):
    embedder = small(backbone, 64, norm="none")
    exact = embedder.encode(images(16, 64), fast=False)
    plain = embedder.encode(images(16, 64), fast=False, autocast=torch.bfloat16)
    half = embedder.encode(images(16, 64), fast=True, autocast=torch.bfloat16)
    (form,) = forms(embedder)
    layers = [part for part in form.network.modules() if isinstance(part, FoldedConvolution)]
    assert {part.weight.dtype for part in layers} == {torch.bfloat16}
    assert "2.0 times as fast as the plain network in bfloat16, embeddings equal to those of float32 to" in form.note
    assert 1e-7 < 1 - (exact * half).sum(1).min() < 4 * (1 - (exact * plain).sum(1).min())
    assert half.dtype == np.float32


@pytest.mark.skipif(not can_pack(torch.bfloat16), reason="oneDNN has no bfloat16 on this processor")
@pytest.mark.parametrize("error", [0.0, 1.0])
def test_a_copy_that_is_less_exact_in_bfloat16_is_not_taken(small, monkeypatch, error):
    """Its float32 rows are right, so that only a look at those of bfloat16 shows it."""
    embedder = small("test_resnet", norm="none", dim=0)

    def worse(*args, **settings):
        copied = folded(*args, **settings)
        if settings.get("dtype") == torch.bfloat16:
            next(part for part in copied.modules() if isinstance(part, FoldedConvolution)).bias.add_(error)
        return copied

    monkeypatch.setattr(quick, "folded", worse)
    embedder.encode(images(16), fast=True, autocast=torch.bfloat16)
    assert (forms(embedder)[0].network is embedder) == bool(error)


def test_parts_in_bfloat16_have_twice_the_images(small, monkeypatch):
    embedder = small("test_resnet")
    monkeypatch.setattr(quick, "_LARGEST", 2**17)
    counts = []
    for autocast in (None, torch.bfloat16):
        embedder.encode(images(4), fast=True, autocast=autocast)
        counts.append(forms(embedder)[-1].part)
    assert counts[1] == 2 * counts[0]


def test_sizes_have_forms_of_their_own_and_few_are_kept(small):
    embedder = small("test_efficientnet")
    for size in (33, 34, 47, 64, 65, 33):
        found = embedder.encode(images(2, size), fast=True)
        np.testing.assert_allclose(found, embedder.encode(images(2, size), fast=False), atol=1e-5)
    assert len(forms(embedder)) == 4


def test_parts_hold_the_largest_tensor_to_its_bound(small, monkeypatch):
    embedder = small("test_resnet")
    want = embedder.encode(images(7), fast=False)
    monkeypatch.setattr(quick, "_LARGEST", 3 * 32 * 16 * 16 * 4 + 100)  # 32 channels, 16 x 16 positions, 4 bytes
    sizes = []
    real = quick.infer
    monkeypatch.setattr(
        quick, "infer", lambda model, some, **how: (sizes.append(len(some)), real(model, some, **how))[1]
    )
    found = embedder.encode(images(7), fast=True)
    np.testing.assert_allclose(found, want, atol=1e-5)
    assert forms(embedder)[0].part == 3
    assert sizes[-3:] == [3, 3, 1]
    quick.expect_kept_memory()  # as commands do
    other = small("test_resnet")
    np.testing.assert_allclose(other.encode(images(7), fast=True), want, atol=1e-5)
    assert (forms(other)[0].part, sizes[-1]) == (64, 7)


@pytest.mark.parametrize("name", ["backbone.net.layer1.0.conv1.weight", "head.linear.weight"])
def test_a_weight_that_is_not_a_number_is_named(small, name):
    embedder = small("test_resnet")
    with torch.no_grad():
        embedder.get_parameter(name).view(-1)[3] = float("nan")
    with pytest.raises(DivergenceError, match=f"5 of 5 embeddings are not finite, because {name} of the model"):
        embedder.encode(images(), fast=True)


def test_the_least_of_several_times_is_taken_in_turn(monkeypatch):
    monkeypatch.undo()
    clock = iter([0, 5, 5, 7, 7, 9, 9, 12, 12, 13, 13, 20])
    monkeypatch.setattr(quick.time, "thread_time", lambda: next(clock))
    order = []
    monkeypatch.setattr(quick, "infer", lambda network, *_, **__: order.append(network))
    assert quick._seconds(["quick", "plain"], images(), None) == [1, 2]
    assert order == ["quick", "plain"] * 3
