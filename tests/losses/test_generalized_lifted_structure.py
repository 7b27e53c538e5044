import math

import pytest
import torch

from cosphere.errors import SettingsError
from cosphere.losses.engine.maths import similarities_held
from cosphere.losses.generalized_lifted_structure import GeneralizedLiftedStructureLoss


def by_hand(points, labels, others, other_labels, *, same_set, margin, unit):
    def scaled(rows):
        rows = rows.tolist()
        return [[x / math.hypot(*row) for x in row] for row in rows] if unit else rows

    points, others = scaled(points), scaled(others)
    costs = []
    for i, name in enumerate(labels.tolist()):
        d = [math.dist(points[i], row) for row in others]
        pull = [math.exp(x) for j, x in enumerate(d) if other_labels[j] == name and not (same_set and i == j)]
        push = [math.exp(margin - x) for j, x in enumerate(d) if other_labels[j] != name]
        if pull and push:
            costs.append(max(math.log(sum(pull)) + math.log(sum(push)), 0.0))
    return sum(costs) / len(costs)


def test_published_value_and_gradient(h6, gradient):
    loss = GeneralizedLiftedStructureLoss()
    assert float(loss(*h6)) == pytest.approx(2.680356428264727, rel=1e-9)
    want = [
        [0.0372355358, -0.0279266519, -0.0223939819],
        [-0.0019085445, -0.00556619, 0.0041746425],
        [-0.0023989393, 0.0031985858, -0.0309215143],
        [-0.1141369539, -0.0099400756, 0.0670085525],
        [0.011846114, -0.0056458907, -0.0146690594],
        [0.0227035329, 0.0558335055, -0.0744446739],
    ]
    torch.testing.assert_close(gradient(loss, *h6), torch.tensor(want).double(), rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("unit", [False, True])
@pytest.mark.parametrize("margin", [-2.0, 1.0])
@pytest.mark.parametrize("seed", range(3))
def test_agrees_with_loops(ragged, seed, margin, unit):
    points, labels = ragged(seed, 30)
    loss = GeneralizedLiftedStructureLoss(margin=margin, normalize=unit)
    want = by_hand(points, labels, points, labels, same_set=True, margin=margin, unit=unit)
    assert want > 0
    assert float(loss(points, labels)) == pytest.approx(want, rel=1e-9)
    want = by_hand(points[:9], labels[:9], points[5:], labels[5:], same_set=False, margin=margin, unit=unit)
    got = loss(points[:9], labels[:9], references=points[5:], reference_labels=labels[5:])
    assert float(got) == pytest.approx(want, rel=1e-9)


@pytest.mark.parametrize("unit", [False, True])
@pytest.mark.parametrize("seed", range(3))
def test_agrees_with_pml_where_every_class_has_two(pml, ragged, gradient, seed, unit):
    from pytorch_metric_learning import distances, losses

    points, _ = ragged(seed, 40)
    drawn = torch.randint(0, 4, (32,), generator=torch.Generator().manual_seed(seed))
    labels = torch.cat([torch.arange(8) // 2, drawn])
    theirs = losses.GeneralizedLiftedStructureLoss(1, distance=distances.LpDistance(normalize_embeddings=unit))
    mine = GeneralizedLiftedStructureLoss(normalize=unit)
    assert float(mine(points, labels)) == pytest.approx(float(theirs(points, labels)), rel=1e-9)
    torch.testing.assert_close(gradient(mine, points, labels), gradient(theirs, points, labels), rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("unit", [False, True])
def test_blocks_and_references_that_are_the_batch_do_not_matter(ragged, gradient, unit):
    points, labels = ragged(1, 40)
    loss = GeneralizedLiftedStructureLoss(normalize=unit)

    def as_references(x, y):
        return loss(x, y, references=x, reference_labels=y, positions=torch.arange(40))

    value, slope = float(loss(points, labels)), gradient(loss, points, labels)
    for held in (1, 130, 2**20):
        with similarities_held(held):
            for call in (loss, as_references):
                assert float(call(points, labels)) == pytest.approx(value, rel=1e-12)
                torch.testing.assert_close(gradient(call, points, labels), slope, rtol=1e-9, atol=1e-12)


def test_raw_lengths_count_and_have_a_gradient(ragged):
    points, labels = ragged(3, 12)
    loss = GeneralizedLiftedStructureLoss(normalize=False)
    assert float(loss(points, labels)) != pytest.approx(float(loss(2 * points, labels)), rel=0.1)
    references, names = ragged(4, 12)[0], labels.roll(3)

    def among(x, y):
        return loss(x, labels, references=y, reference_labels=names)

    leaves = (points.clone().requires_grad_(), references.clone().requires_grad_())
    with similarities_held(2**20):
        assert torch.autograd.gradcheck(among, leaves)
        whole = torch.autograd.grad(among(*leaves), leaves)
    with similarities_held(40):
        torch.testing.assert_close(torch.autograd.grad(among(*leaves), leaves), whole, rtol=1e-9, atol=1e-12)


def test_wrong_settings_are_named():
    with pytest.raises(SettingsError, match="margin must be a number, finite; got 'x'"):
        GeneralizedLiftedStructureLoss(margin="x")
    with pytest.raises(SettingsError, match="normalize must be true or false; got None"):
        GeneralizedLiftedStructureLoss(normalize=None)
