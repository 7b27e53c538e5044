"""What may stand after the linear layer, and how its weights may begin."""

from __future__ import annotations

import pytest
import torch

from cosphere.errors import SettingsError
from cosphere.losses import TripletLoss
from cosphere.models import Embedder, EmbedderSettings, build_embedder
from cosphere.models.heads import LAST, Features, HeadSettings, LevelShape, build_head


def shape_of(level):
    return LevelShape(channels=6, width=6)


def made(dim=4, norm="none", **own):
    torch.manual_seed(0)
    return build_head("linear", shape_of, HeadSettings(dim=dim, norm=norm), own)


def features():
    torch.manual_seed(1)
    return [Features(torch.randn(8, 6, 2, 2) * torch.rand(8, 1, 1, 1) * 9, lambda pooled: pooled)]


def test_by_default_nothing_stands_after_and_first_weights_are_as_ever():
    head = made()
    torch.manual_seed(0)
    assert torch.equal(head.linear.weight, torch.nn.Linear(6, 4).weight)
    assert sorted(head.state_dict()) == ["linear.bias", "linear.weight"]
    assert head.wants == (LAST,)


def test_lengths_after_each_output():
    plain = made()(features()).detach()
    assert plain.norm(dim=1).std() > 0.3
    torch.testing.assert_close(made(after="unit")(features()).norm(dim=1), torch.ones(8))
    sides = made(after="layer")(features()).norm(dim=1)
    torch.testing.assert_close(sides, torch.full((8,), 2.0), rtol=1e-3, atol=0)  # sqrt(D)
    batch = made(after="batch")(features())
    assert batch.square().sum(1).mean().item() == pytest.approx(4, rel=1e-3)  # the mean square, not each length
    assert batch.norm(dim=1).std() > 0.1
    shifted = made(after="batch-shift")
    torch.testing.assert_close(shifted(features()), batch)
    assert {name for name, one in shifted.named_parameters() if one.requires_grad} == {
        "linear.weight",
        "linear.bias",
        "output.bias",  # the weight stays 1
    }
    fixed = made(after="fixed")
    torch.testing.assert_close(fixed(features()).norm(dim=1), plain.norm(dim=1).mean().expand(8))
    torch.testing.assert_close(fixed.eval()(features()), plain)


@pytest.mark.parametrize("after", ["unit", "fixed"])
def test_scaling_lengths_away_leaves_the_gradient_of_a_loss_on_directions_as_it_was(after):
    """Why a normalisation layer is no alternative to SEC: the gradient before it still carries 1 / length."""
    labels = torch.arange(8) // 2
    gradients = []
    for head in (made(), made(after=after)):
        TripletLoss()(head(features()), labels).backward()
        gradients.append(head.linear.weight.grad)
    torch.testing.assert_close(*gradients, rtol=1e-4, atol=1e-6)
    assert gradients[0].norm() > 0


def test_a_cut_divides_the_first_weights_and_so_the_embedding():
    torch.testing.assert_close(made(cut=5.0)(features()), made()(features()) / 5)


def test_weight_norm_changes_the_parameters_and_not_the_first_embedding():
    head = made(weight_norm=True)
    torch.testing.assert_close(head(features()), made()(features()))
    assert sorted(head.state_dict()) == [
        "linear.bias",
        "linear.parametrizations.weight.original0",
        "linear.parametrizations.weight.original1",
    ]


@pytest.mark.parametrize("own", [{"weight_norm": True}, {"after": "batch"}, {"after": "batch-shift"}, {"cut": 3.0}])
def test_a_bundle_keeps_them(own, tmp_path):
    settings = EmbedderSettings(backbone="test_resnet", weights="none", dim=4, head_settings=own)
    embedder = build_embedder(settings, image_size=32).eval()
    embedder.save(tmp_path / "model")
    images = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        torch.testing.assert_close(Embedder.load(tmp_path / "model").eval()(images), embedder(images))


@pytest.mark.parametrize(
    ("own", "words"),
    [
        ({"after": "l2"}, "after must be|after 'l2'"),
        ({"cut": 0.0}, r"cut must be a number above 0"),
        ({"weight_norm": 1}, r"weight_norm must be true or false"),
        ({"dim": 0, "cut": 2.0}, "model.dim 0 leaves it out"),
    ],
)
def test_wrong_settings_are_named(own, words):
    with pytest.raises(SettingsError, match=words):
        made(**own)
