import math

import numpy as np
import pytest
import torch

from cosphere.errors import SettingsError
from cosphere.losses.engine.maths import similarities_held
from cosphere.losses.lifted_structure import LiftedStructureLoss

RAW_SLOPE = [
    [0.3939462596, -1.3477215984, -0.7413616664],
    [-0.2973718442, -0.0385201446, 0.7100326556],
    [0.0842216143, 0.42811624, -0.2682959195],
    [-0.6749310434, -0.3784877603, 0.2324912127],
    [0.4960883045, 0.1024512708, 0.329780467],
    [-0.0019532907, 1.2341619925, -0.2626467493],
]
UNIT_SLOPE = [  # of the rows that were unit before
    [0.6851845917, -0.2633223161, -0.3757153109],
    [-0.0802360511, 0.0205213787, 0.2710078831],
    [-0.0053195091, 0.0946723362, -0.5037486584],
    [-1.1800313774, 0.0185686854, 0.6897317107],
    [0.4346489007, -0.3631312492, -0.1127113228],
    [0.1457534451, 0.4926911651, 0.0314356983],
]


def by_hand(points, positives, negatives_of_anchor, negatives_of_other, others=None, margin=1.0, unit=False):
    """Loops: pairs (i, j) of row i and other j, and the exponents of both their negatives."""
    points = np.asarray(points)
    others = points if others is None else np.asarray(others)
    if unit:
        points, others = (rows / np.linalg.norm(rows, axis=1, keepdims=True) for rows in (points, others))
    costs = []
    for i, j in positives:
        gaps = [margin - math.dist(points[i], others[k]) for k in negatives_of_anchor(i)]
        gaps += [margin - math.dist(others[j], rows) for rows in negatives_of_other(j, points)]
        if gaps:
            costs.append(max(math.log(sum(map(math.exp, gaps))) + math.dist(points[i], others[j]), 0.0) ** 2 / 2)
    return sum(costs) / len(costs)


def in_batch(points, labels, **settings):
    labels = labels.tolist()
    every = range(len(labels))

    def negatives(i):
        return [k for k in every if labels[k] != labels[i]]

    positives = [(i, j) for i in every for j in every if i != j and labels[i] == labels[j]]
    return by_hand(points, positives, negatives, lambda j, block: block[negatives(j)], **settings)


def test_published_values_and_gradients(h6, gradient):
    points, labels = h6[0] / 5, h6[1]
    loss = LiftedStructureLoss()
    assert float(loss(points, labels)) == pytest.approx(5.394737767142458, rel=1e-9)
    want = torch.tensor(RAW_SLOPE).double()
    torch.testing.assert_close(gradient(loss, points, labels), want, rtol=1e-7, atol=1e-9)
    unit = points / points.norm(dim=1, keepdim=True)
    assert float(loss(unit, labels)) == pytest.approx(5.7578125289504385, rel=1e-9)
    want = torch.tensor(UNIT_SLOPE).double()
    torch.testing.assert_close(gradient(loss, unit, labels), want, rtol=1e-7, atol=1e-9)
    assert float(LiftedStructureLoss(normalize=True)(*h6)) == pytest.approx(5.7578125289504385, rel=1e-9)


@pytest.mark.parametrize("unit", [False, True])
@pytest.mark.parametrize("margin", [-0.5, 1.0])
@pytest.mark.parametrize("seed", range(3))
def test_agrees_with_loops(ragged, seed, margin, unit):
    points, labels = ragged(seed, 20)
    got = LiftedStructureLoss(margin=margin, normalize=unit)(points, labels)
    assert float(got) == pytest.approx(in_batch(points, labels, margin=margin, unit=unit), rel=1e-9)


@pytest.mark.parametrize("unit", [False, True])
@pytest.mark.parametrize("seed", range(3))
def test_agrees_with_pml(pml, ragged, gradient, seed, unit):
    from pytorch_metric_learning import distances, losses

    points, labels = ragged(seed)
    theirs = losses.LiftedStructureLoss(1, distance=distances.LpDistance(normalize_embeddings=unit))
    mine = LiftedStructureLoss(normalize=unit)
    assert float(mine(points, labels)) == pytest.approx(float(theirs(points, labels)), rel=1e-9)
    torch.testing.assert_close(gradient(mine, points, labels), gradient(theirs, points, labels), rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("held", [1, 50, 2**20])
def test_a_miner_may_choose_negatives_for_one_end_only(pml, ragged, held):
    from pytorch_metric_learning import distances, losses

    points, labels = ragged(4, 24)
    i, j = torch.meshgrid(torch.arange(24), torch.arange(24), indexing="ij")
    drawn = torch.rand(24, 24, generator=torch.Generator().manual_seed(0)) < 0.5
    positive, negative = (labels[i] == labels[j]) & (i != j) & drawn, (labels[i] != labels[j]) & drawn
    tuples = (i[positive], j[positive], i[negative], j[negative])
    mine, theirs = points.clone().requires_grad_(), points.clone().requires_grad_()
    with similarities_held(held):
        got = LiftedStructureLoss()(mine, labels, tuples)
    want = losses.LiftedStructureLoss(1, distance=distances.LpDistance(normalize_embeddings=False))(
        theirs, labels, tuples
    )
    assert got.item() == pytest.approx(want.item(), rel=1e-9)
    got.backward()
    want.backward()
    torch.testing.assert_close(mine.grad, theirs.grad, rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("held", [1, 50, 2**20])
@pytest.mark.parametrize("unit", [False, True])
def test_references_that_are_the_batch_change_nothing_of_what_a_miner_chose(ragged, unit, held):
    points, labels = ragged(4, 24)
    points[5] = 0  # without a direction: left out where only directions count
    i, j = torch.meshgrid(torch.arange(24), torch.arange(24), indexing="ij")
    drawn = torch.rand(24, 24, generator=torch.Generator().manual_seed(0)) < 0.5
    positive, negative = (labels[i] == labels[j]) & (i != j) & drawn, (labels[i] != labels[j]) & drawn
    tuples = (i[positive], j[positive], i[negative], j[negative])
    found = []
    for among in (
        lambda rows: {},
        lambda rows: {"references": rows, "reference_labels": labels},
        lambda rows: {"references": rows, "reference_labels": labels, "positions": torch.arange(24)},
        lambda rows: {
            "references": torch.cat([points[:3] + 1, rows.flip(0)]),
            "reference_labels": torch.cat([labels[:3], labels.flip(0)]),
            "positions": 26 - torch.arange(24),
        },
    ):
        leaf = points.clone().requires_grad_()
        more = among(leaf)
        renamed = more.get("positions", torch.arange(24))
        chosen = (tuples[0], renamed[tuples[1]], tuples[2], renamed[tuples[3]])
        with similarities_held(held):
            value = LiftedStructureLoss(normalize=unit)(leaf, labels, chosen, **more)
        value.backward()
        found.append((value.item(), leaf.grad))
    for value, slope in found[1:]:
        assert value == pytest.approx(found[0][0], rel=1e-12)
        torch.testing.assert_close(slope, found[0][1], rtol=1e-9, atol=1e-12)


def test_a_reference_that_is_no_anchor_has_the_images_it_was_chosen_for(ragged):
    points, labels = ragged(6, 20)
    names = labels.tolist()
    batch, others = range(8), range(8, 20)
    positives = [(i, j - 8) for i in batch for j in others if names[i] == names[j]]
    negatives = [(i, j - 8) for i in batch for j in others if names[i] != names[j] and (i + j) % 3]
    tuples = tuple(torch.tensor(part) for pairs in (positives, negatives) for part in zip(*pairs, strict=True))
    got = LiftedStructureLoss()(points[:8], labels[:8], tuples, references=points[8:], reference_labels=labels[8:])
    want = by_hand(
        points[:8],
        positives,
        lambda i: [j for a, j in negatives if a == i],
        lambda j, rows: rows[[a for a, other in negatives if other == j]],
        others=points[8:],
    )
    assert got.item() == pytest.approx(want, rel=1e-9)


@pytest.mark.parametrize("unit", [False, True])
def test_blocks_do_not_matter(ragged, gradient, unit):
    points, labels = ragged(1, 40)
    loss = LiftedStructureLoss(normalize=unit)
    value, slope = float(loss(points, labels)), gradient(loss, points, labels)
    for held in (1, 130, 400):
        with similarities_held(held):
            assert float(loss(points, labels)) == pytest.approx(value, rel=1e-12)
            torch.testing.assert_close(gradient(loss, points, labels), slope, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("unit", [False, True])
def test_references(ragged, gradient, unit):
    points, labels = ragged(2, 30)
    names = labels.tolist()
    loss = LiftedStructureLoss(normalize=unit)
    got = loss(points[:10], labels[:10], references=points[6:], reference_labels=labels[6:])
    want = by_hand(
        points[:10],
        [(i, j) for i in range(10) for j in range(24) if names[i] == names[6 + j]],
        lambda i: [k for k in range(24) if names[6 + k] != names[i]],
        lambda j, block: [block[i] for i in range(10) if names[i] != names[6 + j]],
        others=points[6:],
        unit=unit,
    )
    assert float(got) == pytest.approx(want, rel=1e-9)

    def among(x, y):
        return loss(x, labels[:10], references=y, reference_labels=labels[10:])

    leaves = (points[:10].clone().requires_grad_(), points[10:].clone().requires_grad_())
    with similarities_held(2**20):
        assert torch.autograd.gradcheck(among, leaves)
        whole = torch.autograd.grad(among(*leaves), leaves)
    with similarities_held(60):
        torch.testing.assert_close(torch.autograd.grad(among(*leaves), leaves), whole, rtol=1e-9, atol=1e-12)

    def as_references(x, y):
        return loss(x, y, references=x, reference_labels=y, positions=torch.arange(30))

    assert float(as_references(points, labels)) == pytest.approx(float(loss(points, labels)), rel=1e-9)
    torch.testing.assert_close(
        gradient(as_references, points, labels), gradient(loss, points, labels), rtol=1e-9, atol=1e-11
    )


def test_far_apart_points_do_not_overflow():
    points = torch.tensor([[0.0, 0.0], [500.0, 0.0], [0.0, 900.0], [0.0, 800.0]], requires_grad=True)
    value = LiftedStructureLoss()(points, torch.tensor([0, 0, 1, 1]))
    value.backward()
    # d 500 to its positive and 800 to its negative; the other pair is 100 apart and as far from the first.
    assert value.item() == 0
    assert points.grad.isfinite().all()
    moved = torch.tensor([[0.0, 0.0], [500.0, 0.0], [0.0, 300.0], [0.0, 800.0]])
    first = (1 - 300 + 500) ** 2 / 2
    second = (1 - 300 + 500) ** 2 / 2
    assert float(LiftedStructureLoss()(moved, torch.tensor([0, 0, 1, 1]))) == pytest.approx((first + second) / 2)


@pytest.mark.parametrize("unit", [False, True])
def test_duplicates_have_a_bounded_gradient(ragged, gradient, unit):
    points, labels = ragged(3, 12)
    points, labels = points.repeat(3, 1), torch.cat([labels, labels, labels + 1])  # in the same class, and in another
    slope = gradient(LiftedStructureLoss(normalize=unit), points, labels)
    assert 0 < slope.abs().max() < 100


def test_wrong_settings_are_named():
    with pytest.raises(SettingsError, match="margin must be a number, finite; got nan"):
        LiftedStructureLoss(margin=float("nan"))
    with pytest.raises(SettingsError, match="normalize must be true or false; got 1"):
        LiftedStructureLoss(normalize=1)
