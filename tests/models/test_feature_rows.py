"""Pooled features of images stand for the images: the head gives the same embeddings of both."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from cosphere.errors import SettingsError, SizeError
from cosphere.models import Embedder, EmbedderSettings, Head, build_embedder, register_head
from cosphere.models.heads import base


def make(**settings: Any) -> Embedder:
    torch.manual_seed(0)
    made = {"backbone": "test_resnet", "weights": "none", "dim": 6, **settings}
    return build_embedder(EmbedderSettings(**made), image_size=32)


IMAGES = torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize(
    "settings",
    [
        {"pooling": "avg"},
        {"pooling": "max", "norm": "layer"},
        {"pooling": "avg+max", "norm": "none"},
        {"pooling": "concat"},
        {"head": "mlp"},
        {"head": "mlp", "head_settings": {"output": "projection"}},
        {"head": "groups"},
        {"head": "groups", "head_settings": {"parts": [1, 2, 3], "levels": [-3, 1, -1]}, "pooling": "concat"},
        {"backbone": "test_vit", "pooling": "token"},
        {"backbone": "test_vit", "pooling": "avg"},
        {"dim": 0, "norm": "none"},
    ],
    ids=str,
)
@pytest.mark.parametrize("training", [True, False])
def test_the_head_gives_the_same_of_features_as_of_images(settings: dict[str, Any], training: bool) -> None:
    embedder = make(**settings).train(training)
    embedder.backbone.eval()
    with torch.no_grad():
        rows = embedder.pooled(IMAGES)
        assert rows.shape == (4, embedder.feature_width)
        # A class token is a strided view of its map, which batch norm sums in another order than its copy.
        bound = 1e-5 if settings.get("pooling") == "token" else 0.0
        for apply in (embedder, embedder.embed_inputs):
            torch.testing.assert_close(apply(rows), apply(IMAGES), rtol=bound, atol=bound)


def test_features_are_what_the_network_gives_averaged_over_positions() -> None:
    embedder = make().eval()
    with torch.no_grad():
        want = embedder.backbone.net.forward_features(IMAGES).double().mean((2, 3))  # type: ignore[operator]
        torch.testing.assert_close(embedder.pooled(IMAGES).double(), want, rtol=1e-5, atol=1e-6)


def test_gradients_reach_the_head_alone() -> None:
    embedder = make()
    embedder(embedder.pooled(IMAGES).detach()).square().sum().backward()
    assert all(parameter.grad is None for parameter in embedder.backbone.parameters())
    assert all(parameter.grad is not None for parameter in embedder.head.parameters())


def test_the_fingerprint_is_that_of_everything_below_the_head() -> None:
    first = make()
    assert len(first.feature_id) == 64
    assert first.feature_id == make(dim=9, norm="none", head="mlp").feature_id
    others = [make(pooling="max"), make(head="groups", head_settings={"parts": 2, "levels": [-2, -1]}, dim=6)]
    changed = make()
    with torch.no_grad():
        next(changed.backbone.parameters()).add_(1e-3)
    statistics = make()
    next(value for name, value in statistics.backbone.named_buffers() if name.endswith("running_mean")).add_(1e-3)
    bigger = build_embedder(first.settings, image_size=40)
    ids = {model.feature_id for model in (first, *others, changed, statistics, bigger)}
    assert len(ids) == 6
    trained = make()
    before = trained.feature_id
    with torch.no_grad():
        next(trained.head.parameters()).add_(1.0)
    assert trained.feature_id == before
    assert trained.id != first.id


def test_rows_of_another_width_are_refused() -> None:
    embedder = make()
    width = embedder.feature_width
    with pytest.raises(
        SizeError, match=rf"got \(2, {width + 1}\) torch.float32; rows of pooled features have width {width}"
    ):
        embedder(torch.zeros(2, width + 1))
    with pytest.raises(SizeError, match="a training batch of 1 image has no variance"):
        embedder(torch.zeros(1, width))


def test_a_trained_pooling_has_no_constant_features() -> None:
    with pytest.raises(SettingsError, match=r"pooling 'gem' is trained with the head.*Use 'avg'"):
        make(pooling="gem").pooled(IMAGES)
    with pytest.raises(SettingsError, match="gem"):
        _ = make(pooling="gem").feature_id
    with pytest.raises(SettingsError, match=r"pooling 'depthwise' is trained"):
        make(pooling="depthwise").pooled(IMAGES)


def test_flattened_positions_are_rows_like_others() -> None:
    embedder = make(pooling="flatten")
    rows = embedder.pooled(IMAGES)
    assert rows.shape[1] == embedder.feature_width == embedder.backbone.positions * embedder.backbone.width
    torch.testing.assert_close(embedder(rows), embedder(IMAGES))


def test_a_head_that_pools_by_itself_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(base, "_HEADS", dict(base._HEADS))

    @register_head("own-pooling")
    class OwnPooling(Head):
        def __init__(self, shape_of: Any, settings: Any) -> None:
            super().__init__(settings.dim)
            self.layer = torch.nn.Linear(shape_of(-1).width, settings.dim)

        def forward(self, features: Any) -> Any:
            return self.layer(features[0].values.mean((2, 3)))

    embedder = make(head="own-pooling")
    assert embedder(IMAGES).shape == (4, 6)
    with pytest.raises(SettingsError, match=r"head OwnPooling has 0 Pooling layers for 1 levels.*features\.copies 0"):
        embedder.pooled(IMAGES)
