import pytest
import torch

from cosphere.errors import SettingsError
from cosphere.models.heads import Features, HeadSettings, LevelShape, build_head


def build(dim=3, norm="none", **own):
    torch.manual_seed(0)
    return build_head("mlp", lambda level: LevelShape(channels=5, width=5), HeadSettings(dim=dim, norm=norm), own)


def features():
    return [Features(torch.randn(4, 5, 2, 2, generator=torch.Generator().manual_seed(1)), lambda pooled: pooled * 2)]


def test_projection_agrees_with_loops():
    head = build(hidden=7)
    found = head(features())
    weights = {name: value.tolist() for name, value in head.state_dict().items()}

    def layer(name, row):
        pairs = zip(weights[f"{name}.weight"], weights[f"{name}.bias"], strict=True)
        return [sum(w * x for w, x in zip(column, row, strict=True)) + bias for column, bias in pairs]

    for row, want in zip((features()[0].values.mean((2, 3)) * 2).tolist(), found.tolist(), strict=True):
        assert layer("linear", [max(0.0, value) for value in layer("hidden", row)]) == pytest.approx(want, abs=1e-6)
    assert found.shape == (4, 3)
    assert head.hidden.out_features == 7
    assert build().hidden.out_features == 5


def test_the_projection_is_dropped_at_test_time_unless_asked_for():
    head, level = build(norm="batch").eval(), features()
    assert torch.equal(head.embed(level), level[0].values.mean((2, 3)) * 2)
    assert (head.dim, head.output_dim) == (3, 5)
    head = build(output="projection")
    assert torch.equal(head.embed(level), head(level))
    assert (head.dim, head.output_dim) == (3, 3)


def test_wrong_settings_are_explained():
    with pytest.raises(SettingsError, match="output must be 'features' or 'projection'; got 'x'"):
        build(output="x")
    with pytest.raises(SettingsError, match=r"hidden must be a whole number from 0 to 65536; got -1"):
        build(hidden=-1)
    with pytest.raises(SettingsError, match=r"model\.dim with head 'mlp' must be a whole number >= 1; got 0"):
        build(dim=0)
