import math

import pytest
import torch

from cosphere.errors import SettingsError
from cosphere.losses.engine.maths import similarities_held
from cosphere.losses.tuplet_margin import TupletMarginLoss

PML_SLACK = math.radians(5.73)


def by_hand(points, labels, others, other_labels, *, same_set, scale, slack, stop=False):
    costs = []
    for i, a in enumerate(points.tolist()):
        cosines = [
            sum(x * y for x, y in zip(a, b, strict=True)) / math.hypot(*a) / math.hypot(*b) for b in others.tolist()
        ]
        negatives = [c for c, name in zip(cosines, other_labels.tolist(), strict=True) if name != labels[i]]
        for j, c in enumerate(cosines):
            if negatives and other_labels[j] == labels[i] and not (same_set and i == j):
                angle = math.acos(min(c, 1.0)) - slack
                near = math.cos(max(angle, 0.0) if stop else angle)
                costs.append(math.log(1 + sum(math.exp(scale * (n - near)) for n in negatives)))
    return sum(costs) / len(costs)


def test_published_value_and_gradient(h6, gradient):
    loss = TupletMarginLoss(slack=PML_SLACK)
    assert float(loss(*h6)) == pytest.approx(23.090448522890345, rel=1e-9)
    want = [
        [2.1112654874, -1.5834491155, -3.2098115929],
        [-0.9707117226, -0.5487714473, 0.4115785855],
        [0.0567613175, -0.0756817566, -2.5750604593],
        [-3.326565626, -2.8753992885, 4.5386821015],
        [0.376476054, -1.4988785133, -1.1259153107],
        [-11.6362249007, 5.6224336779, -7.4965782372],
    ]
    torch.testing.assert_close(gradient(loss, *h6), torch.tensor(want).double(), rtol=1e-7, atol=1e-9)
    assert TupletMarginLoss().slack == 0.1


@pytest.mark.parametrize(("scale", "slack", "stop"), [(64.0, 0.1, False), (8.0, 0.5, False), (8.0, 0.5, True)])
@pytest.mark.parametrize("seed", range(3))
def test_agrees_with_loops(ragged, seed, scale, slack, stop):
    points, labels = ragged(seed, 24, dim=2)  # in the plane, so that some positives are nearer than the slack
    loss = TupletMarginLoss(scale=scale, slack=slack, stop_at_zero=stop)
    want = by_hand(points, labels, points, labels, same_set=True, scale=scale, slack=slack, stop=stop)
    assert float(loss(points, labels)) == pytest.approx(want, rel=1e-9)
    want = by_hand(points[:9], labels[:9], points[5:], labels[5:], same_set=False, scale=scale, slack=slack, stop=stop)
    shared = loss(points[:9], labels[:9], references=points[5:] * 1.7, reference_labels=labels[5:])
    # Rows 5 to 8 are their own positives here, at angle 0, where the cosine is clamped: 4.5e-4 radians.
    assert float(shared) == pytest.approx(want, rel=1e-2)
    apart = loss(points[:9], labels[:9], references=points[9:], reference_labels=labels[9:])
    want = by_hand(points[:9], labels[:9], points[9:], labels[9:], same_set=False, scale=scale, slack=slack, stop=stop)
    assert float(apart) == pytest.approx(want, rel=1e-9)


@pytest.mark.parametrize("seed", range(3))
def test_agrees_with_pml(pml, ragged, gradient, seed):
    from pytorch_metric_learning import losses

    points, labels = ragged(seed)
    mine, theirs = TupletMarginLoss(slack=PML_SLACK), losses.TupletMarginLoss()
    assert float(mine(points, labels)) == pytest.approx(float(theirs(points, labels)), rel=1e-9)
    torch.testing.assert_close(gradient(mine, points, labels), gradient(theirs, points, labels), rtol=1e-7, atol=1e-8)


def test_agrees_with_pml_on_mined_triplets(pml, ragged):
    from pytorch_metric_learning import losses

    points, labels = ragged(5, 40)
    i, j = torch.meshgrid(torch.arange(40), torch.arange(40), indexing="ij")
    drawn = torch.rand(40, 40, generator=torch.Generator().manual_seed(0)) < 0.6
    positive, negative = (labels[i] == labels[j]) & (i != j) & drawn, (labels[i] != labels[j]) & drawn
    tuples = (i[positive], j[positive], i[negative], j[negative])
    got = TupletMarginLoss(slack=PML_SLACK)(points, labels, tuples)
    assert float(got) == pytest.approx(float(losses.TupletMarginLoss()(points, labels, tuples)), rel=1e-9)


def test_blocks_and_references_that_are_the_batch_do_not_matter(ragged, gradient):
    points, labels = ragged(1, 40)
    loss = TupletMarginLoss()

    def as_references(x, y):
        return loss(x, y, references=x, reference_labels=y, positions=torch.arange(40))

    value, slope = float(loss(points, labels)), gradient(loss, points, labels)
    for held in (1, 130, 2**20):
        with similarities_held(held):
            for call in (loss, as_references):
                assert float(call(points, labels)) == pytest.approx(value, rel=1e-12)
                torch.testing.assert_close(gradient(call, points, labels), slope, rtol=1e-8, atol=1e-10)


def pair_at(angle):
    rows = [[1.0, 0.0], [math.cos(angle), math.sin(angle)], [math.cos(1.2), -math.sin(1.2)]]
    return torch.tensor(rows, dtype=torch.float64), torch.tensor([0, 0, 1])


def test_positives_nearer_than_the_slack_are_pushed_apart_unless_stopped(gradient):
    for angle, stop, sign in [(0.05, False, 1), (0.05, True, 0), (0.2, False, -1), (0.2, True, -1)]:
        points, labels = pair_at(angle)
        loss = TupletMarginLoss(scale=8.0, stop_at_zero=stop)
        # Anchor 1 alone has the angle to its positive as its only one that row 1 turns, but for the negative.
        rows, names = points[1:2], labels[1:2]
        leaf = rows.clone().requires_grad_()
        references, other = torch.stack([points[0], -points[0]]), torch.tensor([0, 1])
        loss(leaf, names, references=references, reference_labels=other).backward()
        alone = leaf.clone().detach().requires_grad_()
        cosine = (alone @ -points[0]) / alone.norm()
        near = math.cos(max(angle - 0.1, 0) if stop else angle - 0.1)
        of_negative = torch.autograd.grad(torch.log1p((8 * (cosine - near)).exp()).sum(), alone)[0]
        turning = torch.tensor([-math.sin(angle), math.cos(angle)], dtype=torch.float64)
        push = float(-(leaf.grad - of_negative)[0] @ turning)  # > 0: a step of descent opens the angle
        assert (push > 1e-12) - (push < -1e-12) == sign


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_gradient_of_a_nearly_equal_pair_is_finite_and_that_of_the_value(gradient, dtype):
    for gap in (0.0, 1e-9, 1e-6, 1e-4, 1e-3):
        points, labels = pair_at(gap)
        points[2] = torch.tensor([math.cos(0.05), -math.sin(0.05)])  # as near as the slack, so that the pair matters
        slope = gradient(TupletMarginLoss(), points.to(dtype), labels)
        assert slope.isfinite().all()
        assert slope.abs().max() < 100
        if dtype == torch.float64 and 0 < gap < 4e-4:  # where the cosine is clamped
            assert torch.autograd.gradcheck(lambda x, y=labels: TupletMarginLoss()(x, y), points.requires_grad_())


def test_wrong_settings_are_named():
    with pytest.raises(SettingsError, match="scale must be a number above 0, finite; got 0"):
        TupletMarginLoss(scale=0)
    with pytest.raises(SettingsError, match=r"slack must be a number >= 0, finite; got -0\.1"):
        TupletMarginLoss(slack=-0.1)
    with pytest.raises(SettingsError, match=r"slack must be at most pi radians; got 5\.73"):
        TupletMarginLoss(slack=5.73)
    with pytest.raises(SettingsError, match="stop_at_zero must be true or false"):
        TupletMarginLoss(stop_at_zero=0)
