import math
import warnings

import pytest
import torch

from cosphere.errors import SettingsError
from cosphere.losses.engine.maths import similarities_held
from cosphere.losses.histogram import HistogramLoss


def density(cosines, bins):
    """Triangles of width 2 / bins around each node."""
    nodes = [-1 + 2 * r / bins for r in range(bins + 1)]
    return [sum(max(0.0, 1 - abs(c - t) * bins / 2) for c in cosines) / len(cosines) for t in nodes]


def by_hand(near, far, bins):
    near, far, below, loss = density(near, bins), density(far, bins), 0.0, 0.0
    for p, n in zip(near, far, strict=True):
        below += p
        loss += n * below
    return loss


def cosine(a, b):
    return sum(x * y for x, y in zip(a, b, strict=True)) / math.hypot(*a) / math.hypot(*b)


def in_batch(points, labels, bins):
    rows, labels = points.tolist(), labels.tolist()
    near, far = [], []
    for i in range(len(rows)):
        for j in range(i):
            if labels[i] == labels[j]:
                near.append(cosine(rows[i], rows[j]))
            elif labels.count(labels[i]) > 1 or labels.count(labels[j]) > 1:
                far.append(cosine(rows[i], rows[j]))
    return by_hand(near, far, bins)


def test_published_value_and_gradient(h6, gradient):
    loss = HistogramLoss(bins=20)
    assert float(loss(*h6)) == pytest.approx(0.6951851851851854, rel=1e-9)
    want = [
        [0.0289975309, -0.0217481481, -0.055308642],
        [-0.0255555556, -0.0295901235, 0.0221925926],
        [-0.0091555556, 0.0122074074, 0.0207407407],
        [0.0063100137, -0.0552812071, 0.0521262003],
        [0.0152949246, 0.0303155007, -0.0001371742],
        [0.1654320988, 0.1828148148, -0.2437530864],
    ]
    torch.testing.assert_close(gradient(loss, *h6), torch.tensor(want).double(), rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("bins", [1, 7, 100])
@pytest.mark.parametrize("seed", range(4))
def test_agrees_with_loops(ragged, seed, bins):
    points, labels = ragged(seed, 26)
    labels[4:7] = torch.arange(3)  # images without a positive, whose pairs with each other do not count
    assert float(HistogramLoss(bins=bins)(points, labels)) == pytest.approx(in_batch(points, labels, bins), rel=1e-9)


def test_references(ragged):
    points, labels = ragged(3, 30)
    labels[[2, 7, 8, 20, 21]] = torch.arange(5)
    rows, names = points.tolist(), labels.tolist()
    near, far = [], []
    for i in range(10):
        for j in range(6, 30):
            if names[i] == names[j]:
                near.append(cosine(rows[i], rows[j]))
            elif names[i] in names[6:] or names[j] in names[:10]:
                far.append(cosine(rows[i], rows[j]))
    assert len(far) + len(near) < 240
    got = HistogramLoss()(points[:10], labels[:10], references=points[6:], reference_labels=labels[6:])
    assert float(got) == pytest.approx(by_hand(near, far, 100), rel=1e-9)


@pytest.mark.parametrize("mined", [False, True])
@pytest.mark.parametrize("seed", range(3))
def test_agrees_with_pml(pml, ragged, monkeypatch, seed, mined):
    from pytorch_metric_learning import losses
    from pytorch_metric_learning.losses import histogram_loss

    # It indexes with a list of lists, which torch reads as one tensor now.
    original = histogram_loss.filter_pairs
    monkeypatch.setattr(histogram_loss, "filter_pairs", lambda *tensors: tuple(original(*tensors)))
    points, labels = ragged(seed)
    labels[2:4] = torch.arange(2)
    i, j = torch.meshgrid(torch.arange(len(labels)), torch.arange(len(labels)), indexing="ij")
    drawn = torch.rand(i.shape, generator=torch.Generator().manual_seed(0)) < 0.4
    positive, negative = (labels[i] == labels[j]) & (i != j) & drawn, (labels[i] != labels[j]) & drawn
    tuples = (i[positive], j[positive], i[negative], j[negative]) if mined else None
    mine, theirs = points.clone().requires_grad_(), points.clone().requires_grad_()
    got = HistogramLoss()(mine, labels, tuples)
    torch.set_default_dtype(torch.float64)  # or it places the nodes in float32
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            want = losses.HistogramLoss(n_bins=100)(theirs, labels, tuples)
    finally:
        torch.set_default_dtype(torch.float32)
    assert got.item() == pytest.approx(want.item(), rel=1e-9)
    got.backward()
    want.backward()
    torch.testing.assert_close(mine.grad, theirs.grad, rtol=1e-7, atol=1e-10)


def test_blocks_and_references_that_are_the_batch_do_not_matter(ragged, gradient):
    points, labels = ragged(1, 40)
    labels[5:8] = torch.arange(3)
    loss = HistogramLoss()

    def as_references(x, y):
        return loss(x, y, references=x, reference_labels=y, positions=torch.arange(40))

    value, slope = float(loss(points, labels)), gradient(loss, points, labels)
    assert slope.norm() > 1e-3
    for held in (1, 130, 2**20):
        with similarities_held(held):
            for call in (loss, as_references):
                assert float(call(points, labels)) == pytest.approx(value, rel=1e-12)
                torch.testing.assert_close(gradient(call, points, labels), slope, rtol=1e-9, atol=1e-13)


def test_the_ends_of_the_range_are_in_a_bin():
    points = torch.tensor([[1.0, 0.0], [1.0, 0.0], [-1.0, 0.0], [-1.0, 0.0]], dtype=torch.float64)
    assert float(HistogramLoss()(points, torch.tensor([0, 0, 1, 1]))) == 0  # positives at 1, negatives at -1
    assert float(HistogramLoss()(points, torch.tensor([0, 1, 0, 1]))) == pytest.approx(1.0)  # positives at -1


def test_an_infinite_row_gives_nan_and_not_an_index_error():
    points = torch.tensor([[1.0, 0.0], [1.0, torch.inf], [-1.0, 0.0], [-1.0, 2.0]], requires_grad=True)
    value = HistogramLoss()(points, torch.tensor([0, 0, 1, 1]))
    value.backward()
    assert value.isnan()


def test_wrong_settings_are_named():
    with pytest.raises(SettingsError, match="bins must be a whole number from 1 to 1000000; got 0"):
        HistogramLoss(bins=0)
    with pytest.raises(SettingsError, match=r"bins must be a whole number from 1 to 1000000; got 10\.0"):
        HistogramLoss(bins=10.0)
