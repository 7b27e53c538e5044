"""Cut-initialisation: every first weight is divided once, and a saved model keeps what it is."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from cosphere.errors import SettingsError
from cosphere.models import Embedder, EmbedderSettings, build_embedder

PLAIN = EmbedderSettings(backbone="resnet8_cifar", weights="none", head="mlp", norm="none", dim=4)
CUT = EmbedderSettings(backbone="resnet8_cifar", weights="none", head="mlp", norm="none", dim=4, cut=3)


def made(settings: EmbedderSettings) -> Embedder:
    torch.manual_seed(0)
    return build_embedder(settings, image_size=16)


def test_a_cut_divides_all_first_weights_of_backbone_and_head() -> None:
    plain, cut = made(PLAIN), made(CUT)
    pairs = dict(cut.named_parameters())
    for name, value in plain.named_parameters():
        assert torch.allclose(value / 3, pairs[name]), name
    for name, buffer in plain.named_buffers():
        assert torch.equal(buffer, dict(cut.named_buffers())[name]), name
    images = torch.randn(4, 3, 16, 16)
    assert cut(images).norm(dim=1).mean() < plain(images).norm(dim=1).mean() / 3


def test_a_loaded_model_is_not_cut_again(tmp_path: Path) -> None:
    embedder = made(CUT).eval()
    embedder.save(tmp_path)
    loaded = Embedder.load(tmp_path)
    images = torch.randn(2, 3, 16, 16)
    assert torch.equal(loaded(images), embedder(images))
    same = made(PLAIN)
    same.load_state_dict(embedder.state_dict())
    assert same.id == loaded.id == embedder.id  # what made the weights is no part of a model


def test_weights_that_were_trained_are_not_cut() -> None:
    with pytest.raises(SettingsError, match=r"model\.cut 3 is for random weights; it would spoil those of 'imagenet'"):
        EmbedderSettings(cut=3)
    with pytest.raises(SettingsError, match=r"model\.cut must be a number above 0"):
        EmbedderSettings(weights="none", cut=0)
