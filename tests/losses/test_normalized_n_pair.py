import math

import pytest
import torch

from cosphere.errors import SettingsError
from cosphere.losses import NormalizedNPairLoss


def cosine(a, b):
    return sum(x * y for x, y in zip(a, b, strict=True)) / math.hypot(*a) / math.hypot(*b)


def by_hand(pairs, scale):
    """Mean cross-entropy of each anchor against all positives. pairs: (anchor row, positive row)."""
    total = 0.0
    for i, (anchor, _) in enumerate(pairs):
        logits = [scale * cosine(anchor, positive) for _, positive in pairs]
        top = max(logits)
        total += top + math.log(sum(math.exp(value - top) for value in logits)) - logits[i]
    return total / max(len(pairs), 1)


def first_and_second(rows, labels):
    seen = {}
    for row, label in zip(rows, labels, strict=True):
        seen.setdefault(label, []).append(row)
    return [tuple(members[:2]) for members in seen.values() if len(members) > 1]


def test_official_value_and_gradient(h6, e4, gradient):
    assert float(NormalizedNPairLoss()(*h6)) == pytest.approx(4.7586067750693815, rel=1e-9)
    assert float(NormalizedNPairLoss(scale=1)(*h6)) == pytest.approx(1.153709109029821, rel=1e-9)
    assert float(NormalizedNPairLoss()(*e4)) == pytest.approx(10.000000001030577, rel=1e-12)
    want = [
        [0.2609394408, -0.1957045806, -0.2316693136],
        [-0.4663750142, -0.451834761, 0.3388760708],
        [-0.0029235643, 0.0038980857, -0.0009316047],
        [2.23868413, -0.863637234, -0.255704831],
        [0.1537583713, -0.0495639556, -0.1785403491],
        [-5.0500036974, 3.8937982626, -5.1917310169],
    ]
    torch.testing.assert_close(gradient(NormalizedNPairLoss(), *h6), torch.tensor(want).double(), rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("seed", range(6))
def test_ragged_classes_use_their_first_two_images(ragged, seed):
    points, labels = ragged(seed)
    want = by_hand(first_and_second(points.tolist(), labels.tolist()), 8.0)
    assert want > 0
    assert float(NormalizedNPairLoss(scale=8)(points, labels)) == pytest.approx(want, rel=1e-9)


def test_images_beyond_the_second_are_not_used(h6, gradient):
    points, labels = torch.cat([h6[0], h6[0][:1]]), torch.cat([h6[1], h6[1][:1]])
    assert float(NormalizedNPairLoss()(points, labels)) == float(NormalizedNPairLoss()(*h6))
    assert not gradient(NormalizedNPairLoss(), points, labels)[6].any()


def test_a_row_without_direction_does_not_count_as_an_image(h6):
    points = torch.cat([torch.zeros(1, 3, dtype=torch.float64), h6[0]])
    labels = torch.cat([h6[1][:1], h6[1]])
    assert float(NormalizedNPairLoss()(points, labels)) == pytest.approx(4.7586067750693815, rel=1e-9)


def test_references_give_the_candidates(ragged):
    points, labels = ragged(1, 40)
    rows, names = points.tolist(), labels.tolist()
    pairs = []
    for label in dict.fromkeys(names[:20]):
        if label in names[20:]:
            pairs.append((rows[names.index(label)], rows[20 + names[20:].index(label)]))
    assert len(pairs) > 2
    got = NormalizedNPairLoss(scale=6)(points[:20], labels[:20], references=points[20:], reference_labels=labels[20:])
    assert float(got) == pytest.approx(by_hand(pairs, 6.0), rel=1e-9)


@pytest.mark.parametrize("seed", range(3))
def test_agrees_with_pml_on_five_times_unit_vectors(pml, seed):
    from pytorch_metric_learning import distances, losses

    generator = torch.Generator().manual_seed(seed)
    points = torch.randn(40, 6, generator=generator, dtype=torch.float64)
    labels = (torch.arange(40) // 2)[torch.randperm(40, generator=generator)]
    theirs = losses.NPairsLoss(distance=distances.DotProductSimilarity(normalize_embeddings=False))
    want = float(theirs(5 * torch.nn.functional.normalize(points), labels))
    assert float(NormalizedNPairLoss()(points, labels)) == pytest.approx(want, rel=1e-9)


def test_wrong_scale_is_named():
    with pytest.raises(SettingsError, match="scale must be a number above 0, finite; got 0"):
        NormalizedNPairLoss(scale=0)
