import numpy as np
import pytest
import torch

from cosphere.errors import SettingsError
from cosphere.losses.engine.maths import similarities_held
from cosphere.losses.smooth_ap import SmoothAPLoss


def sigmoid(x):
    return 1 / (1 + np.exp(-x)) if x > -500 else 0.0


def smooth_ap(scores, relevant, temperature):
    """Equation 6 of the paper for one query: mean over the relevant of (rank among relevant) / (rank among all)."""
    precisions = []
    for i in relevant:

        def above(k, i=i):
            return sigmoid((scores[k] - scores[i]) / temperature)

        rank = 1 + sum(above(k) for k in relevant if k != i)
        everywhere = 1 + sum(above(k) for k in range(len(scores)) if k != i and not np.isnan(scores[k]))
        precisions.append(rank / everywhere)
    return np.mean(precisions)


def by_hand(points, labels, others, other_labels, own, temperature, count_self):
    points, others = points.numpy(), others.numpy()
    costs = []
    for i, a in enumerate(points):
        scores = others @ a / np.linalg.norm(a) / np.linalg.norm(others, axis=1)
        relevant = [j for j in range(len(others)) if other_labels[j] == labels[i]]
        positives = [j for j in relevant if j != own[i]]
        if not count_self and own[i] >= 0:
            scores[own[i]] = np.nan
            relevant = positives
        if positives and any(other_labels != labels[i]):
            costs.append(1 - smooth_ap(scores, relevant, temperature))
    return np.mean(costs)


@pytest.mark.parametrize("count_self", [True, False])
@pytest.mark.parametrize("temperature", [0.01, 0.3])
@pytest.mark.parametrize("seed", range(3))
def test_agrees_with_loops_on_classes_of_any_size(ragged, seed, temperature, count_self):
    points, labels = ragged(seed, 24)
    loss = SmoothAPLoss(temperature=temperature, count_self=count_self)
    want = by_hand(points, labels, points, labels, range(24), temperature, count_self)
    assert float(loss(points, labels)) == pytest.approx(want, rel=1e-9)
    own = torch.tensor([-1, -1, -1, -1, -1, 0, -1])  # row 6 is among the references too, but not said to be itself
    got = loss(points[:7], labels[:7], references=points[5:], reference_labels=labels[5:], positions=own)
    want = by_hand(points[:7], labels[:7], points[5:], labels[5:], own.tolist(), temperature, count_self)
    assert float(got) == pytest.approx(want, rel=1e-9)


@pytest.mark.parametrize("seed", range(3))
def test_agrees_with_pml_on_as_many_sorted_classes_as_images_of_each(pml, ragged, gradient, seed):
    from pytorch_metric_learning import losses

    # Classes of equal size, and as many: it takes one number for the other.
    for each in (2, 4, 8):
        points, labels = ragged(seed, each**2)[0], torch.arange(each**2) // each
        for temperature in (0.01, 0.1):
            mine, theirs = SmoothAPLoss(temperature=temperature), losses.SmoothAPLoss(temperature)
            assert float(mine(points, labels)) == pytest.approx(float(theirs(points, labels)), rel=1e-6)
            torch.testing.assert_close(
                gradient(mine, points, labels), gradient(theirs, points, labels), rtol=1e-7, atol=1e-9
            )


def test_a_small_temperature_gives_average_precision():
    points, labels = torch.randn(30, 3, generator=torch.Generator().manual_seed(0)).double(), torch.arange(30) % 5
    from sklearn.metrics import average_precision_score

    unit = points / points.norm(dim=1, keepdim=True)
    cosines = (unit @ unit.T).numpy()
    scores = []
    for i in range(30):
        rest = np.arange(30) != i
        scores.append(average_precision_score((labels == labels[i]).numpy()[rest], cosines[i][rest]))
    got = SmoothAPLoss(temperature=1e-7, count_self=False)(points, labels)
    assert 1 - float(got) == pytest.approx(np.mean(scores), rel=1e-9)


@pytest.mark.parametrize("count_self", [True, False])
@pytest.mark.parametrize("classes", ["ragged", pytest.param("giant", marks=pytest.mark.slow)])
def test_blocks_and_references_that_are_the_batch_do_not_matter(ragged, gradient, classes, count_self):
    points, labels = ragged(1, 40)
    if classes == "giant":
        labels[:30] = 7
    loss = SmoothAPLoss(temperature=0.1, count_self=count_self)

    def as_references(x, y):
        return loss(x, y, references=x, reference_labels=y, positions=torch.arange(40))

    value, slope = float(loss(points, labels)), gradient(loss, points, labels)
    for held in (1, 130, 2**20):
        with similarities_held(held):
            for call in (loss, as_references):
                assert float(call(points, labels)) == pytest.approx(value, rel=1e-12)
                torch.testing.assert_close(gradient(call, points, labels), slope, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("count_self", [True, False])
def test_gradient_by_finite_differences(ragged, count_self):
    points, labels = ragged(6, 14)
    loss = SmoothAPLoss(temperature=0.2, count_self=count_self)
    assert torch.autograd.gradcheck(
        lambda x, y: loss(x, labels[:6], references=y, reference_labels=labels),
        (points[:6].clone().requires_grad_(), points.clone().requires_grad_()),
    )


def test_only_the_chosen_pairs_count(ragged):
    points, labels = ragged(2, 12)
    anchors, positives = torch.tensor([0, 0, 3]), torch.tensor([4, 5, 6])
    others, negatives = torch.tensor([0, 0, 3]), torch.tensor([7, 8, 9])
    got = SmoothAPLoss(count_self=False, temperature=0.2)(points, labels, (anchors, positives, others, negatives))
    unit = (points / points.norm(dim=1, keepdim=True)).numpy()
    first = smooth_ap(unit[[4, 5, 7, 8]] @ unit[0], [0, 1], 0.2)
    second = smooth_ap(unit[[6, 9]] @ unit[3], [0], 0.2)
    assert float(got) == pytest.approx(1 - (first + second) / 2, rel=1e-9)


def test_wrong_settings_are_named():
    with pytest.raises(SettingsError, match="temperature must be a number above 0, finite; got 0"):
        SmoothAPLoss(temperature=0)
    with pytest.raises(SettingsError, match="count_self must be true or false"):
        SmoothAPLoss(count_self="yes")
