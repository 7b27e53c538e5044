import math

import pytest
import torch

from cosphere.errors import SettingsError
from cosphere.models import EmbedderSettings, build_embedder
from cosphere.models.heads import Features, HeadSettings, LevelShape, build_head

WIDTHS = {0: 4, 1: 5, -1: 6}


def shape_of(level):
    return LevelShape(channels=WIDTHS[level], width=WIDTHS[level])


def build(dim=6, **own):
    torch.manual_seed(0)
    return build_head("groups", shape_of, HeadSettings(dim=dim, norm="none"), own)


def features(*levels):
    draw = torch.Generator().manual_seed(1)
    return [Features(torch.randn(3, WIDTHS[level], 2, 2, generator=draw), lambda pooled: pooled) for level in levels]


def by_hand(rows, parts, weights):
    combined = []
    for row in rows.tolist():
        start, whole = 0, []
        for width, weight in zip(parts, weights, strict=True):
            part = row[start : start + width]
            length = math.hypot(*part)
            whole += [weight * value / length for value in part]
            start += width
        combined.append(whole)
    return torch.tensor(combined)


def test_one_level_gives_slices_of_one_linear_layer():
    head = build(parts=[1, 2, 3], weights="size")
    assert (head.parts, head.wants, len(head.stems)) == ([1, 2, 3], (-1,), 1)
    level = features(-1)
    with torch.no_grad():
        raw = head(level)
        torch.testing.assert_close(raw, head.stems[0].linear(level[0].values.mean((2, 3))))
        torch.testing.assert_close(head.embed(level), by_hand(raw, [1, 2, 3], [1 / 6, 2 / 6, 3 / 6]))


def test_each_part_can_have_a_depth_of_its_own():
    head = build(parts=[2, 1, 3], levels=[0, 1, -1])
    assert head.wants == (0, 1, -1)
    levels = features(0, 1, -1)
    with torch.no_grad():
        raw = head(levels)
        own = [stem.linear(level.values.mean((2, 3))) for stem, level in zip(head.stems, levels, strict=True)]
        torch.testing.assert_close(raw, torch.cat(own, 1))
        torch.testing.assert_close(head.embed(levels), by_hand(raw, [2, 1, 3], [1, 1, 1]))
    assert [stem.linear.in_features for stem in head.stems] == [4, 5, 6]


def test_cosines_of_combined_embeddings_weight_the_parts_as_a_bier_does():
    head = build(dim=512, parts=[96, 160, 256], weights="size")
    rows = torch.randn(2, 512, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    first, second = head.combine(rows)
    cosines = [
        torch.cosine_similarity(a, b, dim=0) for a, b in zip(*(row.split(head.parts) for row in rows), strict=True)
    ]
    want = sum((size / 512) ** 2 * cosine for size, cosine in zip(head.parts, cosines, strict=True))
    torch.testing.assert_close(first @ second, want)


def test_a_zero_part_stays_zero_and_half_precision_is_widened():
    head = build(parts=[2, 4])
    combined = head.combine(torch.tensor([[0.0, 0.0, 3.0, 0.0, 0.0, 4.0]]))
    torch.testing.assert_close(combined, torch.tensor([[0.0, 0.0, 0.6, 0.0, 0.0, 0.8]]))
    assert head.combine(torch.ones(1, 6, dtype=torch.bfloat16)).dtype == torch.float32


@pytest.mark.parametrize(("parts", "widths"), [(1, [6]), (4, [2, 2, 1, 1]), (3, [2, 2, 2]), (6, [1] * 6)])
def test_a_number_of_parts_shares_the_embedding_out(parts, widths):
    assert build(parts=parts).parts == widths


def test_wrong_settings_are_explained():
    with pytest.raises(SettingsError, match=r"parts \[1, 2\] add up to 3, but model.dim is 6"):
        build(parts=[1, 2])
    with pytest.raises(SettingsError, match=r"levels has 2 levels for 3 parts"):
        build(parts=3, levels=[0, -1])
    with pytest.raises(SettingsError, match="weights must be 'equal' or 'size'; got 'sise'"):
        build(weights="sise")
    with pytest.raises(SettingsError, match="parts must be a whole number from 1 to 6; got 7"):
        build(parts=7)
    with pytest.raises(SettingsError, match=r"model\.dim with head 'groups' must be a whole number >= 1; got 0"):
        build(dim=0)


def test_hdc_trains_three_depths_of_a_real_network():
    settings = EmbedderSettings(
        backbone="bn_inception", weights="none", dim=6, head="groups", head_settings={"parts": 3, "levels": [2, 3, -1]}
    )
    embedder = build_embedder(settings, image_size=64)
    embedder(torch.randn(2, 3, 64, 64)).split(embedder.head.parts, dim=1)[1].square().sum().backward()
    reached = {name for name, value in embedder.named_parameters() if value.grad is not None and value.grad.any()}
    assert "backbone.net.inception_4d_1x1.weight" in reached
    assert "backbone.net.inception_4e_3x3.weight" not in reached  # deeper than the second part
    assert {name for name in reached if name.startswith("head")} == {
        f"head.stems.1.{layer}" for layer in ("norm.weight", "norm.bias", "linear.weight", "linear.bias")
    }
