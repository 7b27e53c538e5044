import math

import pytest
import torch

from cosphere.errors import SettingsError
from cosphere.losses import BatchHardTripletLoss, batch_hard_triplet_loss, similarities_held


def distance(a, b, squared):
    cosine = sum(x * y for x, y in zip(a, b, strict=True)) / math.hypot(*a) / math.hypot(*b)
    square = max(2 - 2 * cosine, 0.0)
    return square if squared else math.sqrt(square)


def costs_by_hand(rows, labels, others, other_labels, *, own, margin, soft, squared):
    """``own[i]`` is the row of the others that row i is, -1 for none."""
    costs = []
    for i, a in enumerate(rows):
        d = [distance(a, b, squared) for b in others]
        near = [d[p] for p in range(len(others)) if other_labels[p] == labels[i] and p != own[i]]
        far = [d[n] for n in range(len(others)) if other_labels[n] != labels[i]]
        if near and far:
            gap = max(near) - min(far)
            costs.append(math.log1p(math.exp(gap)) if soft else max(gap + margin, 0.0))
    return costs


def test_published_value_and_gradient(h6, e4, gradient):
    loss = BatchHardTripletLoss()
    assert float(loss(*h6)) == pytest.approx(0.8258519244586754, rel=1e-9)
    assert float(loss(*e4)) == pytest.approx(0.36093242232641487, rel=1e-9)
    want = [
        [0.0716244553, -0.0537183415, -0.052297636],
        [-0.004397098, 0.0145320546, -0.0108990409],
        [-0.0232680481, 0.0310240642, -0.0544331054],
        [-0.0986313194, -0.0577338285, 0.1070494882],
        [0.0047268982, -0.0141611665, -0.0118074814],
        [-0.1687898945, -0.0865885684, 0.1154514245],
    ]
    torch.testing.assert_close(gradient(loss, *h6), torch.tensor(want).double(), rtol=1e-7, atol=1e-9)


def test_published_soft_value_and_gradient(h6, gradient):
    loss = BatchHardTripletLoss(soft=True)
    assert float(loss(*h6)) == pytest.approx(1.0610481993391856, rel=1e-9)
    want = [
        [0.0472276046, -0.0354207034, -0.0353705122],
        [-0.0039684857, 0.0103193964, -0.0077395473],
        [-0.0157355367, 0.0209807157, -0.0337837612],
        [-0.0622708181, -0.0339610347, 0.0650964437],
        [0.0029951598, -0.0110759792, -0.0085331494],
        [-0.1099564213, -0.0674043691, 0.0898724921],
    ]
    torch.testing.assert_close(gradient(loss, *h6), torch.tensor(want).double(), rtol=1e-7, atol=1e-9)
    assert float(BatchHardTripletLoss(soft=True, margin=3.0)(*h6)) == float(loss(*h6))  # no margin in it


@pytest.mark.parametrize("squared", [True, False])
@pytest.mark.parametrize("soft", [True, False])
@pytest.mark.parametrize("seed", range(3))
def test_agrees_with_loops(ragged, seed, soft, squared):
    points, labels = ragged(seed, 20)
    labels[seed] = -1  # one image of its class
    settings = {"margin": 0.3, "soft": soft, "squared": squared}
    rows, names = points.tolist(), labels.tolist()
    costs = costs_by_hand(rows, names, rows, names, own=range(len(rows)), **settings)
    assert 0 < len(costs) < len(rows)  # so that the two divisors differ
    value = float(batch_hard_triplet_loss(points, labels, **settings))
    assert value == pytest.approx(sum(costs) / len(costs), rel=1e-9)
    value = float(batch_hard_triplet_loss(points, labels, reduction="mean_batch", **settings))
    assert value == pytest.approx(sum(costs) / len(rows), rel=1e-9)


def test_mean_batch_counts_rows_without_a_direction(e4):
    points, labels = torch.cat([e4[0], e4[0][:1] * 0]), torch.cat([e4[1], e4[1][:1]])
    loss = BatchHardTripletLoss(reduction="mean_batch")
    assert float(loss(points, labels)) == pytest.approx(0.36093242232641487 * 4 / 5, rel=1e-9)


@pytest.mark.parametrize("positions", [None, [-1, -1, 3, 4, 5, 6, -1, 7]])
def test_agrees_with_loops_among_references(ragged, positions):
    points, labels = ragged(7, 24)
    rows, names = points.tolist(), labels.tolist()
    own = positions or [-1] * 8
    costs = costs_by_hand(rows[:8], names[:8], rows[4:], names[4:], own=own, margin=0.4, soft=False, squared=False)
    got = BatchHardTripletLoss(margin=0.4)(
        points[:8],
        labels[:8],
        references=points[4:],
        reference_labels=labels[4:],
        positions=None if positions is None else torch.tensor(positions),
    )
    assert float(got) == pytest.approx(sum(costs) / len(costs), rel=1e-9)


@pytest.mark.parametrize("soft", [True, False])
@pytest.mark.parametrize("seed", range(3))
def test_agrees_with_pml_in_value_and_gradient(pml, ragged, gradient, seed, soft):
    from pytorch_metric_learning import losses, miners, reducers

    points, labels = ragged(seed)
    miner = miners.BatchHardMiner()
    criterion = losses.TripletMarginLoss(0.0 if soft else 0.2, smooth_loss=soft, reducer=reducers.MeanReducer())

    def theirs(x, y):
        return criterion(x, y, miner(x, y))

    mine = BatchHardTripletLoss(soft=soft)
    assert float(mine(points, labels)) == pytest.approx(float(theirs(points, labels)), rel=1e-9)
    torch.testing.assert_close(gradient(mine, points, labels), gradient(theirs, points, labels), rtol=1e-7, atol=1e-10)


@pytest.mark.parametrize("soft", [True, False])
def test_blocks_do_not_matter(ragged, gradient, soft):
    points, labels = ragged(4, 48)
    loss = BatchHardTripletLoss(soft=soft)
    value, slope = float(loss(points, labels)), gradient(loss, points, labels)
    for held in (50, 500):
        with similarities_held(held):
            assert float(loss(points, labels)) == pytest.approx(value, rel=1e-12)
            torch.testing.assert_close(gradient(loss, points, labels), slope, rtol=1e-9, atol=1e-12)


def test_a_miners_pairs_are_the_only_ones_to_choose_among(e4):
    points, labels = e4
    anchors, positives, negatives = torch.tensor([[1, 2], [0, 3], [3, 0]])
    # Anchor 1: sqrt(0.8) against sqrt(3.2), nothing. Anchor 2: sqrt(2) against sqrt(2), the margin.
    loss = BatchHardTripletLoss()
    for listed in [(anchors, positives, anchors, negatives), (anchors, positives, negatives)]:
        assert float(loss(points, labels, listed)) == pytest.approx(0.2 / 2)
    assert float(loss(points, labels, (anchors, positives, anchors[1:], negatives[1:]))) == pytest.approx(0.2)
    none = anchors[:0]
    assert float(loss(points, labels, (none, none, anchors, negatives))) == 0


def test_a_duplicate_is_a_positive_but_never_hides_a_farther_one():
    points = torch.tensor([[1.0, 0.0], [2.0, 0.0], [0.0, 1.0], [-1.0, 0.0]])
    # Anchors 0 and 1: farthest positive at sqrt 2, nearest negative at 2. Anchor 2: positives and negative at sqrt 2.
    got = BatchHardTripletLoss(margin=1.0)(points, torch.tensor([0, 0, 0, 1]))
    assert float(got) == pytest.approx((2 * (1 + math.sqrt(2) - 2) + 1) / 3)


def test_wrong_settings_are_named():
    with pytest.raises(SettingsError, match="margin must be a number >= 0, finite; got -1"):
        BatchHardTripletLoss(margin=-1)
    with pytest.raises(SettingsError, match="soft must be true or false; got 'yes'"):
        BatchHardTripletLoss(soft="yes")
    with pytest.raises(SettingsError, match="squared must be true or false; got 1"):
        BatchHardTripletLoss(squared=1)
    with pytest.raises(SettingsError, match="reduction must be 'mean_valid' or 'mean_batch'; got 'mean'"):
        BatchHardTripletLoss(reduction="mean")
