import math

import pytest
import torch

from cosphere.errors import SettingsError
from cosphere.losses import MagFaceLoss, magface_loss
from cosphere.losses.engine.maths import similarities_held


def cosine(a, b):
    return sum(x * y for x, y in zip(a, b, strict=True)) / math.hypot(*a) / math.hypot(*b)


def by_hand(points, labels, weights, *, easy=True, scale=64.0, weight_of_length=35.0):
    values = []
    for point, label in zip(points.tolist(), labels.tolist(), strict=True):
        a = min(max(math.hypot(*point), 10), 110)
        margin = 0.45 + (0.8 - 0.45) * (a - 10) / (110 - 10)
        logits = [cosine(point, weight) for weight in weights.tolist()]
        theta = math.acos(logits[label])
        if easy:
            logits[label] = math.cos(theta + margin) if logits[label] > 0 else logits[label]
        else:
            past = theta >= math.pi - margin
            logits[label] = logits[label] - margin * math.sin(margin) if past else math.cos(theta + margin)
        logits = [scale * v for v in logits]
        top = max(logits)
        entropy = top + math.log(sum(math.exp(v - top) for v in logits)) - logits[label]
        values.append(entropy + weight_of_length * (a / 110**2 + 1 / a))
    return values


def random_batch(seed=0, size=18, classes=9, dim=3, shortest=2.0, longest=150.0):
    """Images near their class, but for a few that lie opposite; lengths on both sides of the limits."""
    generator = torch.Generator().manual_seed(seed)
    weights = torch.randn(classes, dim, generator=generator, dtype=torch.float64)
    labels = torch.randint(classes, (size,), generator=generator)
    points = weights[labels] + 0.5 * torch.randn(size, dim, generator=generator, dtype=torch.float64)
    points[::5] = -weights[labels[::5]] + 0.1
    lengths = torch.linspace(shortest, longest, size, dtype=torch.float64)[:, None]
    return points / points.norm(dim=1, keepdim=True) * lengths, labels, weights


@pytest.mark.parametrize("easy", [True, False])
@pytest.mark.parametrize("held", [50, 10**6])
def test_agrees_with_the_papers_equations(easy, held):
    points, labels, weights = random_batch()
    own = [cosine(point, weights[label].tolist()) for point, label in zip(points.tolist(), labels, strict=True)]
    assert min(own) < -0.95  # this data tells the two targets apart
    with similarities_held(held):
        got = magface_loss(points, labels, weights, easy_margin=easy)
    assert got.tolist() == pytest.approx(by_hand(points, labels, weights, easy=easy), rel=1e-9)


def test_the_module_is_the_mean():
    points, labels, weights = random_batch(seed=1)
    loss = MagFaceLoss(9, 3, length_weight=20.0, scale=32.0, easy_margin=False).double()
    with torch.no_grad():
        loss.class_weight.copy_(weights)
    want = by_hand(points, labels, weights, easy=False, scale=32.0, weight_of_length=20.0)
    assert loss(points, labels).item() == pytest.approx(sum(want) / len(want), rel=1e-9)


@pytest.mark.parametrize("easy", [True, False])
@pytest.mark.parametrize("held", [50, 10**6])
def test_gradients_by_finite_differences_through_the_length_too(easy, held):
    points, labels, weights = random_batch(size=8, shortest=12.0, longest=100.0)
    leaves = points.requires_grad_(), weights.requires_grad_()

    def of(x, w):
        return magface_loss(x, labels, w, scale=4.0, easy_margin=easy)

    with similarities_held(held):
        assert torch.autograd.gradcheck(of, leaves)
    of(*leaves).sum().backward()
    assert (points.grad * points.detach()).sum(dim=1).abs().min() > 1e-3  # every length is pulled


def test_lengths_beyond_the_limits_get_no_gradient():
    points, labels, weights = random_batch()
    leaf = points.requires_grad_()
    magface_loss(leaf, labels, weights).sum().backward()
    outside = (points.norm(dim=1) < 10) | (points.norm(dim=1) > 110)
    assert 0 < outside.sum() < len(points)
    radial = (leaf.grad * points).sum(dim=1).abs().detach()
    assert radial[outside].max() < 1e-9
    assert radial[~outside].min() > 1e-3


def test_sampled_classes_are_the_loss_over_just_them():
    points, labels, weights = random_batch(classes=30)
    sampled = torch.unique(torch.cat([labels, torch.tensor([1, 4, 29])]))
    got = magface_loss(points, labels, weights, sampled=sampled)
    want = by_hand(points, torch.searchsorted(sampled, labels), weights[sampled])
    assert got.tolist() == pytest.approx(want, rel=1e-9)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"shortest": 0}, "shortest must be a number above 0"),
        ({"longest": 10}, "longest must be a number above 10"),
        ({"smallest_margin": 4}, "smallest_margin is in radians, at most pi"),
        ({"largest_margin": 0.4}, "largest_margin 0.4 is below smallest_margin 0.45"),
        ({"scale": 0}, "scale must be a number above 0"),
        ({"length_weight": -1}, "length_weight must be a number >= 0"),
        ({"easy_margin": "yes"}, "easy_margin must be true or false"),
    ],
)
def test_wrong_settings_are_named(settings, message):
    with pytest.raises(SettingsError, match=message):
        MagFaceLoss(3, 3, **settings)
