import math

import numpy as np
import pytest
import torch

from cosphere.errors import SettingsError
from cosphere.losses.angular import AngularLoss
from cosphere.losses.engine.maths import similarities_held


def one(t, a, p, negatives):
    return math.log(1 + sum(math.exp(4 * t * (a + p) @ n - 2 * (1 + t) * a @ p) for n in negatives))


def unit(points):
    points = points.numpy()
    return points / np.linalg.norm(points, axis=1, keepdims=True)


def all_pairs_by_hand(points, labels, others, other_labels, *, same_set, angle):
    t, costs = math.tan(math.radians(angle)) ** 2, []
    points, others, labels, other_labels = unit(points), unit(others), labels.tolist(), other_labels.tolist()
    for i, a in enumerate(points):
        negatives = [n for n, name in zip(others, other_labels, strict=True) if name != labels[i]]
        for j, p in enumerate(others):
            if negatives and other_labels[j] == labels[i] and not (same_set and i == j):
                costs.append(one(t, a, p, negatives))
    return sum(costs) / len(costs)


def n_pair_by_hand(points, labels, angle):
    t, points, labels = math.tan(math.radians(angle)) ** 2, unit(points), labels.tolist()
    found = [[i for i, name in enumerate(labels) if name == wanted][:2] for wanted in sorted(set(labels))]
    candidates = [rows for rows in found if len(rows) == 2]
    costs = [one(t, points[a], points[p], [points[n] for _, n in candidates if n != p]) for a, p in candidates]
    return sum(costs) / len(costs)


def test_published_values_and_gradient(h6, gradient):
    loss = AngularLoss()
    assert float(loss(*h6)) == pytest.approx(3.753529127280702, rel=1e-9)
    want = [
        [0.0522854815, -0.0392141111, 0.0036714342],
        [0.0003881675, -0.0424396715, 0.0318297536],
        [-0.0096275339, 0.0128367119, -0.0418321026],
        [-0.1493418049, -0.0264955161, 0.1011664185],
        [0.0261903395, -0.0258558536, -0.0391182663],
        [-0.0346730709, 0.5140014835, -0.6853353114],
    ]
    torch.testing.assert_close(gradient(loss, *h6), torch.tensor(want).double(), rtol=1e-7, atol=1e-9)
    assert float(AngularLoss(angle=45, form="n_pair")(*h6)) == pytest.approx(4.779841501223497, rel=1e-9)


@pytest.mark.parametrize("angle", [10.0, 40.0, 60.0, 70.0, 80.0])
@pytest.mark.parametrize("seed", range(2))
def test_agrees_with_loops(ragged, seed, angle):
    points, labels = ragged(seed, 24)
    got = AngularLoss(angle=angle)(points, labels)
    want = all_pairs_by_hand(points, labels, points, labels, same_set=True, angle=angle)
    assert float(got) == pytest.approx(want, rel=1e-9)
    got = AngularLoss(angle=angle)(points[:9], labels[:9], references=points[5:], reference_labels=labels[5:])
    want = all_pairs_by_hand(points[:9], labels[:9], points[5:], labels[5:], same_set=False, angle=angle)
    assert float(got) == pytest.approx(want, rel=1e-9)


@pytest.mark.parametrize("angle", [40.0, 45.0, 65.0, 80.0])
def test_float32_holds_the_products_of_any_angle(ragged, gradient, angle):
    points, labels = ragged(3, 40, dim=3)
    points[0], points[1] = points[2] * 3, -points[2]  # cosines 1 and -1 stretch the exponents as far as they go
    loss = AngularLoss(angle=angle)
    assert float(loss(points.float(), labels)) == pytest.approx(float(loss(points, labels)), rel=1e-4)
    exact = gradient(loss, points, labels)
    close = gradient(loss, points.float(), labels).double()
    torch.testing.assert_close(close, exact, rtol=1e-3, atol=1e-3 * float(exact.abs().max()))


@pytest.mark.parametrize("angle", [40, 55])
@pytest.mark.parametrize("seed", range(3))
def test_agrees_with_pml_on_rows_normalised_before(pml, ragged, gradient, seed, angle):
    from pytorch_metric_learning import losses

    points, labels = ragged(seed)
    theirs = losses.AngularLoss(alpha=angle).double()

    def normalised(x, y):
        return theirs(x / x.norm(dim=1, keepdim=True), y)

    mine = AngularLoss(angle=float(angle))
    # Their tangent is rounded to float32.
    assert float(mine(points, labels)) == pytest.approx(float(normalised(points, labels)), rel=1e-6)
    torch.testing.assert_close(
        gradient(mine, points, labels), gradient(normalised, points, labels), rtol=1e-5, atol=1e-6
    )


@pytest.mark.parametrize("classes", ["ragged", "one giant", pytest.param("two giants", marks=pytest.mark.slow)])
def test_blocks_and_references_that_are_the_batch_do_not_matter(ragged, gradient, classes):
    points, labels = ragged(1, 100)
    if classes == "one giant":  # more than a tile, and across blocks
        labels[torch.randperm(100, generator=torch.Generator().manual_seed(0))[:80]] = 7
    if classes == "two giants":
        labels = torch.arange(100) % 2
    loss = AngularLoss()
    want = all_pairs_by_hand(points, labels, points, labels, same_set=True, angle=40)
    slope = gradient(loss, points, labels)
    with similarities_held(2**20):
        along_slots = gradient(
            lambda x, y: loss(x, y, references=x, reference_labels=y, positions=torch.arange(100)), points, labels
        )
    torch.testing.assert_close(along_slots, slope, rtol=1e-9, atol=1e-12)
    for held in (700, 2500, 2**20):
        with similarities_held(held):
            assert float(loss(points, labels)) == pytest.approx(want, rel=1e-9)
            torch.testing.assert_close(gradient(loss, points, labels), slope, rtol=1e-9, atol=1e-12)


def test_a_miner_chooses_pairs_and_negatives(ragged, gradient):
    points, labels = ragged(2, 20)
    anchors, positives = torch.tensor([0, 0, 4]), torch.tensor([1, 2, 5])
    others, negatives = torch.tensor([0, 0, 4, 9]), torch.tensor([7, 8, 7, 3])
    got = AngularLoss()(points, labels, (anchors, positives, others, negatives))
    rows, t = unit(points), math.tan(math.radians(40)) ** 2
    costs = [one(t, rows[0], rows[p], rows[[7, 8]]) for p in (1, 2)] + [one(t, rows[4], rows[5], rows[[7]])]
    assert float(got) == pytest.approx(sum(costs) / 3, rel=1e-9)


@pytest.mark.parametrize("seed", range(3))
def test_n_pair_form_and_the_combined_loss(ragged, seed):
    points, labels = ragged(seed, 30)
    alone = n_pair_by_hand(points, labels, 45)
    assert float(AngularLoss(angle=45, form="n_pair")(points, labels)) == pytest.approx(alone, rel=1e-9)
    rows = points.numpy()
    names = labels.tolist()
    used = [[i for i, name in enumerate(names) if name == wanted][:2] for wanted in sorted(set(names))]
    used = [pair for pair in used if len(pair) == 2]
    crosses = []
    for a, p in used:
        logits = np.array([rows[a] @ rows[n] for _, n in used])
        crosses.append(np.logaddexp.reduce(logits) - rows[a] @ rows[p])
    combined = AngularLoss(angle=45, form="n_pair", angular_weight=2.0)(points, labels)
    assert float(combined) == pytest.approx(sum(crosses) / len(crosses) + 2 * alone, rel=1e-9)


@pytest.mark.parametrize("settings", [{"form": "n_pair"}, {"angular_weight": 2.0}, {"angle": 70.0}], ids=repr)
def test_gradient_by_finite_differences(ragged, settings):
    points, labels = ragged(5, 12)
    loss = AngularLoss(**settings)
    assert torch.autograd.gradcheck(lambda x: loss(x / 3, labels), points.requires_grad_())


def test_wrong_settings_are_named():
    with pytest.raises(SettingsError, match=r"angle must be at most 80 degrees; got 85\. The paper tries 36 to 55"):
        AngularLoss(angle=85)
    with pytest.raises(SettingsError, match="angle must be a number above 0"):
        AngularLoss(angle=0)
    with pytest.raises(SettingsError, match="form must be 'all_pairs' or 'n_pair'; got 'pairs'"):
        AngularLoss(form="pairs")
    with pytest.raises(SettingsError, match="angular_weight must be a number above 0"):
        AngularLoss(angular_weight=0)
