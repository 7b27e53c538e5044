import math

import pytest
import torch

from cosphere.errors import SettingsError
from cosphere.losses.engine.maths import similarities_held
from cosphere.losses.intra_pair_variance import IntraPairVarianceLoss


def by_hand(points, labels, others, other_labels, own, low, high):
    positive, negative = [], []
    for i, a in enumerate(points.tolist()):
        for j, b in enumerate(others.tolist()):
            if own[i] != j:
                cosine = sum(x * y for x, y in zip(a, b, strict=True)) / math.hypot(*a) / math.hypot(*b)
                (positive if labels[i] == other_labels[j] else negative).append(cosine)
    loss = 0.0
    if positive:
        mean = sum(positive) / len(positive)
        loss += sum(max((1 - low) * mean - s, 0) ** 2 for s in positive) / len(positive)
    if negative:
        mean = sum(negative) / len(negative)
        loss += sum(max(s - (1 + high) * mean, 0) ** 2 for s in negative) / len(negative)
    return loss


def test_published_value_and_gradient(h6, gradient):
    loss = IntraPairVarianceLoss()
    assert float(loss(*h6)) == pytest.approx(0.06710136101508912, rel=1e-9)
    want = [
        [-0.0032226057, 0.0024169543, 0.0053822853],
        [0.0018219888, 0.004757006, -0.0035677545],
        [-0.0026516516, 0.0035355355, -0.0002269527],
        [0.0017349873, 0.0093743381, -0.0102418318],
        [-0.0012596891, -0.0289897352, -0.0132351785],
        [-0.1015843827, 0.0387496, -0.0516661333],
    ]
    torch.testing.assert_close(gradient(loss, *h6), torch.tensor(want).double(), rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize(("low", "high"), [(0.01, 0.01), (0.5, 0.0), (0.0, 2.0)])
@pytest.mark.parametrize("seed", range(3))
def test_agrees_with_loops(ragged, seed, low, high):
    points, labels = ragged(seed, 20)
    loss = IntraPairVarianceLoss(positive_tolerance=low, negative_tolerance=high)
    want = by_hand(points, labels, points, labels, range(20), low, high)
    assert float(loss(points, labels)) == pytest.approx(want, rel=1e-9)
    own = torch.tensor([-1, -1, -1, -1, -1, 0, -1])  # row 6 is among the references too, but not said to be itself
    got = loss(points[:7], labels[:7], references=points[5:], reference_labels=labels[5:], positions=own)
    want = by_hand(points[:7], labels[:7], points[5:], labels[5:], own.tolist(), low, high)
    assert float(got) == pytest.approx(want, rel=1e-9)


@pytest.mark.parametrize("mined", [False, True])
@pytest.mark.parametrize("seed", range(3))
def test_agrees_with_pml(pml, ragged, seed, mined):
    from pytorch_metric_learning import losses

    points, labels = ragged(seed)
    i, j = torch.meshgrid(torch.arange(len(labels)), torch.arange(len(labels)), indexing="ij")
    drawn = torch.rand(i.shape, generator=torch.Generator().manual_seed(0)) < 0.6
    positive, negative = (labels[i] == labels[j]) & (i != j) & drawn, (labels[i] != labels[j]) & drawn
    tuples = (i[positive], j[positive], i[negative], j[negative]) if mined else None
    mine, theirs = points.clone().requires_grad_(), points.clone().requires_grad_()
    got = IntraPairVarianceLoss()(mine, labels, tuples)
    want = losses.IntraPairVarianceLoss()(theirs, labels, tuples)
    assert got.item() == pytest.approx(want.item(), rel=1e-9)
    got.backward()
    want.backward()
    torch.testing.assert_close(mine.grad, theirs.grad, rtol=1e-7, atol=1e-11)


def test_blocks_and_references_that_are_the_batch_do_not_matter(ragged, gradient):
    points, labels = ragged(1, 40)
    loss = IntraPairVarianceLoss()

    def as_references(x, y):
        return loss(x, y, references=x, reference_labels=y, positions=torch.arange(40))

    value, slope = float(loss(points, labels)), gradient(loss, points, labels)
    for held in (1, 130, 2**20):
        with similarities_held(held):
            for call in (loss, as_references):
                assert float(call(points, labels)) == pytest.approx(value, rel=1e-12)
                torch.testing.assert_close(gradient(call, points, labels), slope, rtol=1e-9, atol=1e-13)


def test_a_side_without_pairs_counts_nothing(ragged):
    points, _ = ragged(2, 9)
    for labels in (torch.zeros(9, dtype=torch.long), torch.arange(9)):
        want = by_hand(points, labels, points, labels, range(9), 0.01, 0.01)
        assert want > 0.01
        assert float(IntraPairVarianceLoss()(points, labels)) == pytest.approx(want, rel=1e-9)


def test_few_positives_among_many_images_keep_their_mean_in_float32():
    points = torch.randn(600, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    labels = torch.arange(600)
    labels[[1, 3]] = labels[[0, 2]]  # two pairs; the sum over equal labels is 600 images with themselves and 4 cosines
    exact = float(IntraPairVarianceLoss()(points, labels))
    assert float(IntraPairVarianceLoss()(points.float(), labels)) == pytest.approx(exact, rel=5e-6)


def test_wrong_settings_are_named():
    with pytest.raises(SettingsError, match="positive_tolerance must be a number >= 0"):
        IntraPairVarianceLoss(positive_tolerance=-0.1)
    with pytest.raises(SettingsError, match="negative_tolerance must be a number >= 0"):
        IntraPairVarianceLoss(negative_tolerance=float("inf"))
