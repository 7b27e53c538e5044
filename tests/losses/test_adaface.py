import math
import statistics

import pytest
import torch

from cosphere.errors import SettingsError
from cosphere.losses import AdaFaceLoss, adaface_loss
from cosphere.losses.engine.maths import similarities_held


def cosine(a, b):
    return sum(x * y for x, y in zip(a, b, strict=True)) / math.hypot(*a) / math.hypot(*b)


def clip(value, low, high):
    return min(max(value, low), high)


def by_hand(points, labels, weights, mean, deviation, *, margin=0.4, h=0.333, scale=64.0):
    """Values, and the qualities they came from."""
    values, qualities = [], []
    for point, label in zip(points.tolist(), labels.tolist(), strict=True):
        length = clip(math.hypot(*point), 0.001, 100)
        quality = clip(h * (length - mean) / (deviation + 0.001), -1, 1)
        logits = [clip(cosine(point, weight), -0.999, 0.999) for weight in weights.tolist()]
        angle = clip(math.acos(logits[label]) - margin * quality, 0.001, math.pi - 0.001)
        logits[label] = math.cos(angle) - (margin + margin * quality)
        logits = [scale * v for v in logits]
        top = max(logits)
        values.append(top + math.log(sum(math.exp(v - top) for v in logits)) - logits[label])
        qualities.append(quality)
    return values, qualities


def random_batch(seed=0, size=17, classes=9, dim=3):
    generator = torch.Generator().manual_seed(seed)
    weights = torch.randn(classes, dim, generator=generator, dtype=torch.float64)
    labels = torch.randint(classes, (size,), generator=generator)
    points = weights[labels] + 0.5 * torch.randn(size, dim, generator=generator, dtype=torch.float64)
    lengths = torch.linspace(0.5, 150, size, dtype=torch.float64)[:, None]  # beyond 100, where they are clipped
    return points / points.norm(dim=1, keepdim=True) * lengths, labels, weights


def module(weights, **settings):
    loss = AdaFaceLoss(len(weights), weights.shape[1], **settings).double()
    with torch.no_grad():
        loss.class_weight.copy_(weights)
    return loss


@pytest.mark.parametrize(("mean", "deviation"), [(20.0, 100.0), (40.0, 10.0), (0.0, 0.0)])
@pytest.mark.parametrize("held", [50, 10**6])
def test_agrees_with_the_papers_equations(mean, deviation, held):
    points, labels, weights = random_batch()
    points[4] = -7 * weights[labels[4]]  # opposite to its own class, where cosine and angle are clipped
    points[5] = 90 * weights[labels[5]]
    points[6] = 2 * weights[(labels[6] + 1) % 9]  # on another class
    want, qualities = by_hand(points, labels, weights, mean, deviation)
    assert max(qualities) > 0
    if deviation == 10.0:
        assert min(qualities) == -1
        assert max(qualities) == 1
    with similarities_held(held):
        got = adaface_loss(points, labels, weights, mean_length=mean, length_deviation=deviation)
    assert got.tolist() == pytest.approx(want, rel=1e-9)


def test_statistics_move_before_they_are_used():
    points, labels, weights = random_batch()
    loss, mean, deviation = module(weights), 20.0, 100.0
    lengths = [clip(math.hypot(*point), 0.001, 100) for point in points.tolist()]
    for _ in range(3):
        mean = 0.01 * statistics.mean(lengths) + 0.99 * mean
        deviation = 0.01 * statistics.stdev(lengths) + 0.99 * deviation
        want = by_hand(points, labels, weights, mean, deviation)[0]
        assert loss(points, labels).item() == pytest.approx(sum(want) / len(want), rel=1e-9)
    assert loss.mean_length.item() == pytest.approx(mean, rel=1e-12)
    assert loss.length_deviation.item() == pytest.approx(deviation, rel=1e-12)
    assert loss.eval()(points, labels).item() == pytest.approx(sum(want) / len(want), rel=1e-9)
    assert loss.mean_length.item() == pytest.approx(mean, rel=1e-12)


def test_statistics_are_saved():
    points, labels, weights = random_batch()
    loss = module(weights, momentum=0.5)
    loss(points, labels)
    other = module(weights)
    other.load_state_dict(loss.state_dict())
    assert (other.mean_length, other.length_deviation) == (loss.mean_length, loss.length_deviation)
    assert other.mean_length != 20


@pytest.mark.parametrize("bad", [torch.zeros(2, 3), torch.zeros(0, 3), torch.full((2, 3), math.nan)])
def test_a_batch_that_says_nothing_leaves_the_statistics(bad):
    loss = module(random_batch()[2])
    loss(bad.double(), torch.zeros(len(bad), dtype=torch.long))
    assert (loss.mean_length, loss.length_deviation) == (20, 100)


def test_one_image_has_a_length_but_no_deviation():
    loss = module(random_batch()[2])
    assert loss(torch.tensor([[30.0, 0, 0]]).double(), torch.tensor([0])).isfinite()
    assert loss.mean_length.item() == pytest.approx(20.1)
    assert loss.length_deviation == 100


def test_the_length_gets_no_gradient():
    points, labels, weights = random_batch()
    leaf = points.requires_grad_()
    adaface_loss(leaf, labels, weights, length_deviation=10.0).sum().backward()
    assert leaf.grad.norm() > 1e-3
    assert (leaf.grad * points).sum(dim=1).abs().max() < 1e-12 * leaf.grad.norm() * points.norm()


@pytest.mark.parametrize("held", [50, 10**6])
def test_gradients_by_finite_differences(held):
    points, labels, weights = random_batch(size=8)
    lengths = points.norm(dim=1, keepdim=True)

    def of(x, w):  # lengths held, as they are no variable of the loss
        x = x / x.norm(dim=1, keepdim=True) * lengths
        return adaface_loss(x, labels, w, scale=5.0, length_deviation=30.0)

    with similarities_held(held):
        assert torch.autograd.gradcheck(of, (points.requires_grad_(), weights.requires_grad_()))


def test_without_concentration_all_images_are_equal():
    points, labels, weights = random_batch()
    got = adaface_loss(points, labels, weights, concentration=0.0)
    assert got.tolist() == pytest.approx(by_hand(points, labels, weights, 20, 100, h=0.0)[0], rel=1e-9)
    torch.testing.assert_close(adaface_loss(points * 3, labels, weights, concentration=0.0), got)


def test_sampled_classes_are_the_loss_over_just_them():
    points, labels, weights = random_batch(classes=30)
    sampled = torch.unique(torch.cat([labels, torch.tensor([1, 4, 29])]))
    got = adaface_loss(points, labels, weights, sampled=sampled)
    want = by_hand(points, torch.searchsorted(sampled, labels), weights[sampled], 20, 100)[0]
    assert got.tolist() == pytest.approx(want, rel=1e-9)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"margin": 28.6}, "margin is in radians, at most pi"),
        ({"concentration": -1}, "concentration must be a number >= 0"),
        ({"scale": 0}, "scale must be a number above 0"),
        ({"momentum": 2}, "momentum is a share"),
    ],
)
def test_wrong_settings_are_named(settings, message):
    with pytest.raises(SettingsError, match=message):
        AdaFaceLoss(3, 3, **settings)
