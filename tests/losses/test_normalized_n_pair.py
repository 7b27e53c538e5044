import math

import pytest
import torch

from cosphere.errors import SettingsError
from cosphere.losses import NormalizedNPairLoss
from cosphere.losses.engine.maths import similarities_held


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


def test_among_references_the_anchor_is_not_its_own_candidate(ragged, gradient):
    points, labels = ragged(1, 40)
    places = torch.randperm(40, generator=torch.Generator().manual_seed(0))
    rows, names, order = points.tolist(), labels.tolist(), places.tolist()
    pairs = []
    for label in dict.fromkeys(names):
        anchor = names.index(label)
        others = [row for row in order if names[row] == label and row != anchor]
        if others:
            pairs.append((rows[anchor], rows[others[0]]))
    among = {"references": points[places], "reference_labels": labels[places], "positions": places.argsort()}
    got = NormalizedNPairLoss(scale=6)(points, labels, **among)
    assert float(got) == pytest.approx(by_hand(pairs, 6.0), rel=1e-9)
    # In batch order this is the loss without references.
    own = {"references": points, "reference_labels": labels, "positions": torch.arange(40)}
    assert float(NormalizedNPairLoss()(points, labels, **own)) == float(NormalizedNPairLoss()(points, labels))


def test_blocks_do_not_show(ragged, gradient):
    loss, batch = NormalizedNPairLoss(scale=6), ragged(3, 60)
    value, slope = loss(*batch), gradient(loss, *batch)
    assert len(first_and_second(*(part.tolist() for part in batch))) > 7
    for held in (1, 50):
        with similarities_held(held):
            assert float(loss(*batch)) == pytest.approx(float(value), rel=1e-12)
            torch.testing.assert_close(gradient(loss, *batch), slope, rtol=1e-10, atol=1e-14)


@pytest.mark.parametrize("size", [8, 60, 256])
def test_agrees_with_pml_on_five_times_unit_vectors(pml, ragged, gradient, size):
    from pytorch_metric_learning import distances, losses

    batch = ragged(size, size)
    criterion = losses.NPairsLoss(distance=distances.DotProductSimilarity(normalize_embeddings=False))

    def theirs(x, y):
        return criterion(5 * torch.nn.functional.normalize(x), y)

    assert float(NormalizedNPairLoss()(*batch)) == pytest.approx(float(theirs(*batch)), rel=1e-9)
    mine = gradient(NormalizedNPairLoss(), *batch)
    torch.testing.assert_close(mine, gradient(theirs, *batch), rtol=1e-7, atol=1e-9)
    assert float(NormalizedNPairLoss(scale=1)(*batch)) == pytest.approx(float(losses.NPairsLoss()(*batch)), rel=1e-9)


@pytest.mark.parametrize("parts", [3, 4])
def test_a_miner_names_the_pairs(pml, ragged, parts):
    from pytorch_metric_learning import losses

    points, labels = ragged(4, 40)
    anchors, positives = ((labels[:, None] == labels) & ~torch.eye(40, dtype=torch.bool)).nonzero(as_tuple=True)
    shuffled = torch.randperm(len(anchors), generator=torch.Generator().manual_seed(0))[: len(anchors) // 2]
    anchors, positives = anchors[shuffled], positives[shuffled]
    negatives = torch.zeros_like(anchors)
    chosen = (anchors, positives, negatives) if parts == 3 else (anchors, positives, anchors, negatives)
    got = NormalizedNPairLoss(scale=1)(points, labels, chosen)
    assert float(got) == pytest.approx(float(losses.NPairsLoss()(points, labels, chosen)), rel=1e-9)


def test_wrong_scale_is_named():
    with pytest.raises(SettingsError, match="scale must be a number above 0, finite; got 0"):
        NormalizedNPairLoss(scale=0)
