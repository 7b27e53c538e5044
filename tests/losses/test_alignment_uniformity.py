import math

import numpy as np
import pytest
import torch

from cosphere.errors import SettingsError
from cosphere.losses import AlignmentUniformityLoss, alignment_uniformity_loss
from cosphere.losses.engine.maths import similarities_held


def by_hand(points, labels, *, power=2.0, sharpness=2.0, alignment_weight=1.0, uniformity_weight=1.0):
    """The two formulas of the paper over unordered pairs, in numpy."""
    x, names = points.numpy(), labels.tolist()
    unit = x / np.sqrt((x**2).sum(axis=1, keepdims=True))
    near, every = [], []
    for i in range(len(x)):
        for j in range(i):
            distance = np.linalg.norm(unit[i] - unit[j])
            every.append(np.exp(-sharpness * distance**2))
            if names[i] == names[j]:
                near.append(distance**power)
    alignment = np.mean(near) if near else 0.0
    return alignment_weight * alignment + uniformity_weight * np.log(np.mean(every))


def by_autograd(points, labels, *, power=2.0, sharpness=2.0, alignment_weight=1.0, uniformity_weight=1.0):
    """The authors' own lines, fed all pairs at once."""
    unit = torch.nn.functional.normalize(points)
    first, second = torch.triu_indices(len(points), len(points), 1)
    same = labels[first] == labels[second]
    align = (unit[first[same]] - unit[second[same]]).norm(dim=1).pow(power).mean()
    uniform = torch.pdist(unit).pow(2).mul(-sharpness).exp().mean().log()
    return alignment_weight * align + uniformity_weight * uniform


SETTINGS = [
    {},
    {"power": 1.0, "sharpness": 5.0},
    {"alignment_weight": 0.98, "uniformity_weight": 0.96},
    {"power": 3.0, "alignment_weight": 0.0},
    {"uniformity_weight": 0.0},
]


@pytest.mark.parametrize("settings", SETTINGS)
@pytest.mark.parametrize("seed", range(3))
def test_agrees_with_the_paper(ragged, gradient, settings, seed):
    batch = ragged(seed)
    loss = AlignmentUniformityLoss(**settings)
    assert float(loss(*batch)) == pytest.approx(by_hand(*batch, **settings), rel=1e-9)
    want = gradient(lambda x, y: by_autograd(x, y, **settings), *batch)
    torch.testing.assert_close(gradient(loss, *batch), want, rtol=1e-7, atol=1e-9)


def test_value_by_hand(e4):
    """Squared distances .8, 2, 4, .4, 3.2 and 2; the first and the last are positives."""
    uniformity = math.log(sum(math.exp(-2 * square) for square in (0.8, 2, 4, 0.4, 3.2, 2)) / 6)
    assert float(AlignmentUniformityLoss()(*e4)) == pytest.approx((0.8 + 2) / 2 + uniformity, rel=1e-12)


def test_references(ragged, gradient):
    points, labels = ragged(1, 30)
    first, second = points[:12], points[12:]
    squares = torch.cdist(torch.nn.functional.normalize(first), torch.nn.functional.normalize(second)).square()
    same = labels[:12, None] == labels[12:]
    want = squares[same].mean() + (-2 * squares).exp().mean().log()
    got = AlignmentUniformityLoss()(first, labels[:12], references=second, reference_labels=labels[12:])
    assert float(got) == pytest.approx(float(want), rel=1e-9)
    places = torch.randperm(30, generator=torch.Generator().manual_seed(0))
    among = {"reference_labels": labels[places], "positions": places.argsort()}

    def loss(x, y):
        return AlignmentUniformityLoss()(x, y, references=x[places], **among)

    assert float(loss(points, labels)) == pytest.approx(by_hand(points, labels), rel=1e-9)
    want = gradient(by_autograd, points, labels)
    torch.testing.assert_close(gradient(loss, points, labels), want, rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("settings", SETTINGS)
def test_blocks_do_not_show(ragged, gradient, settings):
    loss, batch = AlignmentUniformityLoss(**settings), ragged(3, 40)
    value, slope = loss(*batch), gradient(loss, *batch)
    for held in (50, 200):
        with similarities_held(held):
            assert float(loss(*batch)) == pytest.approx(float(value), rel=1e-12)
            torch.testing.assert_close(gradient(loss, *batch), slope, rtol=1e-10, atol=1e-14)


def test_each_term_stands_alone():
    points = torch.tensor([[1.0, 0.0], [0.6, 0.8]])  # squared distance 0.8
    distinct, together = torch.tensor([0, 1]), torch.tensor([0, 0])
    assert float(AlignmentUniformityLoss()(points, distinct)) == pytest.approx(-1.6)
    assert float(AlignmentUniformityLoss()(points, together)) == pytest.approx(0.8 - 1.6)


def test_a_sharp_kernel_does_not_underflow():
    """exp(-2000) is no float, but its log is."""
    points = torch.tensor([[1.0, 0.0], [-1.0, 0.0]], requires_grad=True)
    value = AlignmentUniformityLoss(sharpness=500.0)(points, torch.tensor([0, 1]))
    assert value.item() == pytest.approx(-2000)
    value.backward()
    assert points.grad.isfinite().all()


def test_equal_images_give_no_infinite_slope():
    points = torch.tensor([[0.3, 0.7], [0.3, 0.7], [0.5, -0.1]], requires_grad=True)
    AlignmentUniformityLoss(power=0.5)(points, torch.tensor([0, 0, 0])).backward()
    assert points.grad.isfinite().all()
    assert points.grad.any()


def test_only_listed_pairs_count(e4):
    points, labels = e4
    chosen = tuple(torch.tensor(part) for part in ([0], [1], [0, 1], [2, 2]))
    want = 0.8 + math.log((math.exp(-1.6) + math.exp(-4) + math.exp(-0.8)) / 3)
    got = alignment_uniformity_loss(points, labels, power=2, sharpness=2, tuples=chosen)
    assert float(got) == pytest.approx(want, rel=1e-12)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"power": 0}, "power must be a number above 0, finite; got 0"),
        ({"sharpness": -1}, "sharpness must be a number above 0"),
        ({"alignment_weight": -1}, "alignment_weight must be a number >= 0"),
        ({"uniformity_weight": "x"}, "uniformity_weight must be a number >= 0"),
    ],
)
def test_wrong_settings_are_named(settings, message):
    with pytest.raises(SettingsError, match=message):
        AlignmentUniformityLoss(**settings)
