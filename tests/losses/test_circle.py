import numpy as np
import pytest
import torch

from cosphere.errors import SettingsError
from cosphere.losses import CircleLoss, circle_loss
from cosphere.losses.engine.maths import similarities_held


def by_hand(points, labels, scale, margin):
    """Mean and gradient to the raw embeddings, from equations 6, 7 and 10 of the paper, in numpy.

    The gradient to a similarity is ``Z * share * scale * weight`` with Z = 1 - exp(-cost): each weight is a constant.
    """
    x, names = points.numpy(), labels.numpy()
    lengths = np.sqrt((x**2).sum(axis=1))
    unit = x / lengths[:, None]
    total, anchors, to_unit = 0.0, 0, np.zeros_like(x)
    for i in range(len(x)):
        near = [j for j in range(len(x)) if names[j] == names[i] and j != i]
        far = [j for j in range(len(x)) if names[j] != names[i]]
        if not near or not far:
            continue
        s_p, s_n = unit[near] @ unit[i], unit[far] @ unit[i]
        a_p, a_n = np.maximum(1 + margin - s_p, 0), np.maximum(s_n + margin, 0)
        l_p, l_n = -scale * a_p * (s_p - (1 - margin)), scale * a_n * (s_n - margin)
        e_p, e_n = np.exp(l_p - l_p.max()), np.exp(l_n - l_n.max())
        cost = np.logaddexp(0, np.log(e_p.sum()) + l_p.max() + np.log(e_n.sum()) + l_n.max())
        total, anchors = total + cost, anchors + 1
        z = 1 - np.exp(-cost)
        pull, push = -z * e_p / e_p.sum() * scale * a_p, z * e_n / e_n.sum() * scale * a_n
        for j, slope in zip(near + far, [*pull, *push], strict=True):
            to_unit[i] += slope * unit[j]
            to_unit[j] += slope * unit[i]
    radial = (to_unit * unit).sum(axis=1, keepdims=True) * unit
    return total / anchors, torch.from_numpy((to_unit - radial) / lengths[:, None] / anchors)


@pytest.mark.parametrize(("scale", "margin"), [(80.0, 0.4), (256.0, 0.25), (2.0, 0.25), (5.0, -0.1), (10.0, 0.0)])
@pytest.mark.parametrize("seed", range(3))
def test_agrees_with_the_paper(ragged, gradient, scale, margin, seed):
    points, labels = ragged(seed)
    value, slope = by_hand(points, labels, scale, margin)
    loss = CircleLoss(scale=scale, margin=margin)
    assert float(loss(points, labels)) == pytest.approx(value, rel=1e-9)
    torch.testing.assert_close(gradient(loss, points, labels), slope, rtol=1e-7, atol=1e-9)


def test_the_defaults_are_those_for_retrieval(h6, h5):
    for points, labels in (h6, h5):
        assert float(CircleLoss()(points, labels)) == pytest.approx(by_hand(points, labels, 80, 0.4)[0], rel=1e-9)


def test_value_by_hand():
    """Similarities 0.6 of a positive, 0 and -1 of negatives: weights 0.65, 0.25 and 0."""
    points = torch.tensor([[2.0, 0.0], [1.2, 1.6], [0.0, 1.0], [-3.0, 0.0]], dtype=torch.float64)
    others = {"references": points[1:], "reference_labels": torch.tensor([0, 1, 1])}
    got = circle_loss(points[:1], torch.tensor([0]), scale=4, margin=0.25, **others)
    pull = np.exp(-4 * 0.65 * (0.6 - 0.75))
    push = np.exp(4 * 0.25 * (0 - 0.25)) + 1
    assert float(got) == pytest.approx(np.log1p(pull * push), rel=1e-12)


@pytest.mark.parametrize("size", [8, 60, 256])
@pytest.mark.parametrize(("scale", "margin"), [(80.0, 0.4), (256.0, 0.25)])
def test_agrees_with_pml(pml, ragged, gradient, size, scale, margin):
    from pytorch_metric_learning.losses import CircleLoss as Theirs

    batch = ragged(size, size)
    ours, theirs = CircleLoss(scale=scale, margin=margin), Theirs(m=margin, gamma=scale)
    assert float(ours(*batch)) == pytest.approx(float(theirs(*batch)), rel=1e-9)
    torch.testing.assert_close(gradient(ours, *batch), gradient(theirs, *batch), rtol=1e-7, atol=1e-9)


def test_references_that_hold_the_batch(ragged, gradient):
    points, labels = ragged(1, 30)
    places = torch.randperm(30, generator=torch.Generator().manual_seed(0))
    among = {"reference_labels": labels[places], "positions": places.argsort()}

    def loss(x, y):
        return CircleLoss()(x, y, references=x[places], **among)

    assert float(loss(points, labels)) == pytest.approx(by_hand(points, labels, 80, 0.4)[0], rel=1e-9)
    slope = by_hand(points, labels, 80, 0.4)[1]
    torch.testing.assert_close(gradient(loss, points, labels), slope, rtol=1e-7, atol=1e-9)


def test_blocks_do_not_show(ragged, gradient):
    loss, batch = CircleLoss(), ragged(3, 40)
    value, slope = loss(*batch), gradient(loss, *batch)
    for held in (50, 200):
        with similarities_held(held):
            assert float(loss(*batch)) == pytest.approx(float(value), rel=1e-12)
            torch.testing.assert_close(gradient(loss, *batch), slope, rtol=1e-10, atol=1e-14)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"scale": 0}, "scale must be a number above 0, finite; got 0"),
        ({"margin": "wide"}, "margin must be a number, finite; got 'wide'"),
    ],
)
def test_wrong_settings_are_named(settings, message):
    with pytest.raises(SettingsError, match=message):
        CircleLoss(**settings)
