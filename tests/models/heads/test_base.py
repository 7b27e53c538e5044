import pytest
import torch

from cosphere.errors import SettingsError
from cosphere.models import EmbedderSettings, Head, build_embedder, register_head
from cosphere.models.heads import LAST, Features, HeadSettings, LevelShape, base, build_head, check_head, head_names


def shape_of(level):
    return LevelShape(channels=4, width=6)


def test_a_new_head_is_one_class(monkeypatch):
    monkeypatch.setattr(base, "_HEADS", dict(base._HEADS))

    @register_head("two-depths")
    class TwoDepths(Head):
        wants = (1, LAST)

        def __init__(self, shape_of, settings, *, gain=2.0):
            super().__init__(settings.dim, output_dim=1)
            self.gain = gain
            self.layer = torch.nn.Linear(shape_of(1).width + shape_of(LAST).width, settings.dim)

        def forward(self, features):
            pooled = [level.finish(level.values.mean((2, 3))) for level in features]
            return self.layer(torch.cat(pooled, 1))

        def combine(self, embedding):
            return embedding[:, :1] * self.gain

    assert "two-depths" in head_names()
    settings = EmbedderSettings(
        backbone="test_resnet", weights="none", dim=3, head="two-depths", head_settings={"gain": 5.0}
    )
    embedder = build_embedder(settings, image_size=32).eval()
    images = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        raw = embedder(images)
        torch.testing.assert_close(embedder.embed_inputs(images), raw[:, :1] * 5)
        _, (stage,) = embedder.backbone.net.forward_intermediates(images, indices=[1])
        final = embedder.backbone.net.forward_features(images)
        want = embedder.head.layer(torch.cat([stage.mean((2, 3)), final.mean((2, 3))], 1))
    torch.testing.assert_close(raw, want)
    assert (embedder.dim, embedder.output_dim) == (3, 1)


def test_the_names_are_those_of_the_documentation():
    assert head_names() == ["groups", "linear", "mlp"]
    for name in head_names():
        assert f'"{name}"' in (EmbedderSettings.__doc__ or "")


def test_unknown_heads_and_settings_are_answered_with_the_nearest():
    with pytest.raises(SettingsError, match=r"unknown model\.head 'group'\. Did you mean 'groups'"):
        EmbedderSettings(head="group")
    with pytest.raises(SettingsError, match=r"head 'groups' has no setting 'part'\. Did you mean 'parts'"):
        EmbedderSettings(head="groups", head_settings={"part": 3})
    with pytest.raises(SettingsError, match=r"unknown model\.head 'x'"):
        build_head("x", shape_of, HeadSettings(), {})
    check_head("mlp", {"hidden": 3})


def test_by_default_the_embedding_is_compared_as_it_is_trained():
    head = build_head("linear", shape_of, HeadSettings(dim=0, norm="none"), {})
    values = torch.randn(2, 6, 3, 3)
    features = [Features(values, lambda pooled: pooled)]
    assert torch.equal(head.embed(features), head(features))
    assert torch.equal(head(features), values.mean((2, 3)))
    assert (head.wants, head.dim, head.output_dim) == ((LAST,), 6, 6)
