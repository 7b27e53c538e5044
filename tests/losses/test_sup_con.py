import math

import pytest
import torch

from cosphere.errors import SettingsError
from cosphere.losses import SupConLoss, sup_con_loss
from cosphere.losses.engine.maths import similarities_held

LABELS = torch.tensor([0, 0, 0, 1, 1, 2])


def cosine(a, b):
    return sum(x * y for x, y in zip(a, b, strict=True)) / math.hypot(*a) / math.hypot(*b)


def by_hand(rows, labels, others, other_labels, temperature, first=0):
    """Costs of the anchors that have a positive and a negative. ``first``: the row of the others that row 0 itself is."""
    costs = []
    for i, a in enumerate(rows):
        everything = [j for j in range(len(others)) if first is None or j != first + i]
        s = [cosine(a, b) / temperature for b in others]
        positives = [s[j] for j in everything if other_labels[j] == labels[i]]
        if positives and len(positives) < len(everything):
            denominator = math.log(sum(math.exp(s[j]) for j in everything))
            costs.append(-sum(value - denominator for value in positives) / len(positives))
    return costs


def test_published_value_and_gradient(h6, gradient):
    assert float(SupConLoss()(h6[0], LABELS)) == pytest.approx(3.5645899416604108, rel=1e-9)
    assert float(SupConLoss(reduction="batch")(h6[0], LABELS)) == pytest.approx(2.9704916180503425, rel=1e-9)
    want = [
        [0.1801856491, -0.1351392368, -0.260603042],
        [-0.1938893276, -0.1538980224, 0.1154235168],
        [0.0833670878, -0.1111561171, -0.2445562612],
        [-0.7020439255, 0.6781396311, -0.3271176684],
        [0.0086321423, -0.2824627764, -0.1498635305],
        [0.3901132347, -0.2599752628, 0.3466336838],
    ]
    want = torch.tensor(want).double()
    torch.testing.assert_close(gradient(SupConLoss(), h6[0], LABELS), want, rtol=1e-7, atol=1e-9)
    shared = gradient(SupConLoss(reduction="batch", base_temperature=0.05), h6[0], LABELS)
    torch.testing.assert_close(shared, want * 2 * 5 / 6, rtol=1e-7, atol=1e-9)


def test_two_views_have_the_value_of_the_authors_code(h6):
    views = torch.tensor([0, 1, 0, 0, 1, 0])
    assert float(SupConLoss()(h6[0], views)) == pytest.approx(3.136522136413868, rel=1e-9)
    assert float(SupConLoss(base_temperature=0.07)(h6[0], views)) == pytest.approx(4.4807459091626685, rel=1e-9)


@pytest.mark.parametrize("seed", range(3))
def test_agrees_with_loops(ragged, seed):
    points, labels = ragged(seed)
    rows, names = points.tolist(), labels.tolist()
    costs = by_hand(rows, names, rows, names, 0.2)
    got = sup_con_loss(points, labels, temperature=0.2)
    assert float(got) == pytest.approx(sum(costs) / len(costs), rel=1e-9)
    got = sup_con_loss(points, labels, temperature=0.2, reduction="batch")
    assert float(got) == pytest.approx(sum(costs) / len(rows), rel=1e-9)
    costs = by_hand(rows[:9], names[:9], rows[9:], names[9:], 0.2, first=None)
    apart = {"references": points[9:], "reference_labels": labels[9:]}
    got = sup_con_loss(points[:9], labels[:9], temperature=0.2, **apart)
    assert float(got) == pytest.approx(sum(costs) / max(len(costs), 1), rel=1e-9)
    costs = by_hand(rows[3:12], names[3:12], rows, names, 0.2, first=3)
    among = {"references": points, "reference_labels": labels, "positions": torch.arange(3, 12)}
    got = sup_con_loss(points[3:12], labels[3:12], temperature=0.2, **among)
    assert float(got) == pytest.approx(sum(costs) / len(costs), rel=1e-9)


@pytest.mark.parametrize("size", [8, 60, 256])
def test_agrees_with_pml(pml, ragged, gradient, size):
    from pytorch_metric_learning.losses import SupConLoss as Theirs

    batch = ragged(size, size)
    ours, theirs = SupConLoss(temperature=0.07), Theirs(0.07)
    assert float(ours(*batch)) == pytest.approx(float(theirs(*batch)), rel=1e-9)
    torch.testing.assert_close(gradient(ours, *batch), gradient(theirs, *batch), rtol=1e-7, atol=1e-9)


def test_only_the_pairs_of_a_miner_count(pml, ragged):
    from pytorch_metric_learning import losses, miners

    points, labels = ragged(2, 40)
    # Margins that leave each anchor a pair on both sides: the library also counts anchors without a negative.
    chosen = miners.PairMarginMiner(0.2, 1.7)(points, labels)
    assert set(chosen[0].tolist()) <= set(chosen[2].tolist())
    theirs = float(losses.SupConLoss(0.2)(points, labels, chosen))
    assert theirs != pytest.approx(float(losses.SupConLoss(0.2)(points, labels)))
    assert float(SupConLoss(temperature=0.2)(points, labels, chosen)) == pytest.approx(theirs, rel=1e-9)


def test_blocks_do_not_show(ragged, gradient):
    loss, batch = SupConLoss(), ragged(3, 40)
    value, slope = loss(*batch), gradient(loss, *batch)
    for held in (50, 200):
        with similarities_held(held):
            assert float(loss(*batch)) == pytest.approx(float(value), rel=1e-12)
            torch.testing.assert_close(gradient(loss, *batch), slope, rtol=1e-10, atol=1e-14)


def test_a_low_temperature_does_not_overflow(h6):
    rows = h6[0].half().requires_grad_()
    value = SupConLoss(temperature=0.001)(rows, LABELS)
    value.backward()
    assert value.isfinite()
    assert rows.grad.isfinite().all()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"temperature": 0}, "temperature must be a number above 0, finite; got 0"),
        ({"base_temperature": -1}, "base_temperature must be a number above 0"),
        ({"reduction": "mean"}, "reduction must be 'valid_anchors' or 'batch'; got 'mean'"),
    ],
)
def test_wrong_settings_are_named(settings, message):
    with pytest.raises(SettingsError, match=message):
        SupConLoss(**settings)
