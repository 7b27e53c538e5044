import math

import pytest
import torch

from cosphere.errors import DerivativeError, SettingsError
from cosphere.losses import SoftTripleLoss, centre_distance, soft_triple_loss
from cosphere.losses.engine.maths import similarities_held

W6 = torch.tensor([[2, 2, 1], [1, 0, 0], [0, 3, 4], [0, 1, 0], [2, -1, 2], [0, 0, 1]], dtype=torch.float64)


def cosine(a, b):
    return sum(x * y for x, y in zip(a, b, strict=True)) / math.hypot(*a) / math.hypot(*b)


def by_hand(points, labels, weights, centres, *, scale=20.0, gamma=0.1, margin=0.01):
    values = []
    rows = weights.tolist()
    for point, label in zip(points.tolist(), labels.tolist(), strict=True):
        logits = []
        for first in range(0, len(rows), centres):
            cosines = [cosine(point, row) for row in rows[first : first + centres]]
            shares = [math.exp((c - max(cosines)) / gamma) for c in cosines]
            mean = sum(s * c for s, c in zip(shares, cosines, strict=True)) / sum(shares)
            logits.append(scale * (mean - margin * (first // centres == label)))
        top = max(logits)
        values.append(top + math.log(sum(math.exp(v - top) for v in logits)) - logits[label])
    return values


def distance_by_hand(weights, centres):
    rows = weights.tolist()
    total = 0.0
    for first in range(0, len(rows), centres):
        for i in range(first, first + centres):
            for j in range(i + 1, first + centres):
                total += math.sqrt(2 + 1e-5 - 2 * cosine(rows[i], rows[j]))
    return total / (len(rows) * (centres - 1))


def random_batch(seed=0, size=17, classes=9, centres=3, dim=4):
    generator = torch.Generator().manual_seed(seed)
    points = 3 * torch.randn(size, dim, generator=generator, dtype=torch.float64)
    weights = torch.randn(classes * centres, dim, generator=generator, dtype=torch.float64)
    return points, torch.randint(classes, (size,), generator=generator), weights


def module(weights, centres, **settings):
    loss = SoftTripleLoss(len(weights) // centres, weights.shape[1], centres=centres, **settings).double()
    with torch.no_grad():
        loss.class_weight.copy_(weights)
    return loss


@pytest.mark.parametrize(("tau", "value"), [(0.0, 3.507103173205504), (0.2, 3.5913511128858584)])
def test_official_value(h6, tau, value):
    assert module(W6, 2, tau=tau)(*h6).item() == pytest.approx(value, rel=1e-9)


def test_official_gradient(h6, gradient):
    want = [
        [-0.0287214841, 0.0215411131, -0.0216780236],
        [-0.2213089912, -0.1034613006, 0.0775959754],
        [0.2757357729, -0.3676476972, 0.2776914371],
        [0.305488559, 0.069401592, -0.2221458715],
        [0.0003789375, 0.0001281534, -0.0003148608],
        [0.1145768822, 0.9622290142, -1.282972019],
    ]
    got = gradient(module(W6, 2), *h6)
    torch.testing.assert_close(got, torch.tensor(want).double(), rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("gamma", [0.1, 1.0, 0.001])
@pytest.mark.parametrize("centres", [1, 3])
def test_agrees_with_loops(centres, gamma):
    points, labels, weights = random_batch(centres=centres)
    got = soft_triple_loss(points, labels, weights, centres=centres, scale=7.0, gamma=gamma, margin=0.2)
    want = by_hand(points, labels, weights, centres, scale=7.0, gamma=gamma, margin=0.2)
    assert got.tolist() == pytest.approx(want, rel=1e-9)


@pytest.mark.parametrize("held", [50, 10**6])
@pytest.mark.parametrize("centres", [2, 5])
def test_the_distance_of_centres_agrees_with_loops(centres, held):
    _, _, weights = random_batch(centres=centres)
    with similarities_held(held):
        assert centre_distance(weights, centres).item() == pytest.approx(distance_by_hand(weights, centres), rel=1e-9)
        assert torch.autograd.gradcheck(lambda w: centre_distance(w, centres), weights.requires_grad_())


def test_centres_may_meet_or_vanish():
    weights = torch.tensor([[1.0, 2.0], [1.0, 2.0], [2.0, 4.0], [0.0, 0.0]], requires_grad=True)
    value = centre_distance(weights, 2)
    value.backward()
    assert value.item() == pytest.approx((math.sqrt(1e-5) + math.sqrt(2 + 1e-5)) / 4, rel=1e-2)
    assert weights.grad.isfinite().all()
    assert weights.grad.abs().max() < 1
    assert not weights.grad[3].any()


@pytest.mark.parametrize("held", [50, 10**6])
@pytest.mark.parametrize("tau", [0.0, 0.2])
def test_gradients_by_finite_differences(tau, held):
    points, labels, weights = random_batch(size=5, classes=4)
    loss = module(weights, 3, tau=tau, scale=3.0, gamma=0.4)

    def of(x, w):
        return torch.func.functional_call(loss, {"class_weight": w}, (x, labels))

    with similarities_held(held):
        assert torch.autograd.gradcheck(of, (points.requires_grad_(), weights.requires_grad_()))


def test_both_terms_reach_the_weights_once_each_time():
    points, labels, weights = random_batch()
    loss = module(weights, 3)
    value = loss(points, labels)
    (first,) = torch.autograd.grad(value, loss.class_weight, retain_graph=True)
    (second,) = torch.autograd.grad(value, loss.class_weight, retain_graph=True)
    leaf = weights.requires_grad_()
    apart = soft_triple_loss(points, labels, leaf, centres=3).mean() + 0.2 * centre_distance(leaf, 3)
    (want,) = torch.autograd.grad(apart, leaf)
    torch.testing.assert_close(first, want, rtol=1e-10, atol=1e-12)
    assert torch.equal(first, second)


def test_a_second_derivative_is_refused():
    points, labels, weights = random_batch()
    loss = module(weights, 3)
    (slope,) = torch.autograd.grad(loss(points, labels), loss.class_weight, create_graph=True)
    with pytest.raises(DerivativeError, match="first derivatives only"):
        slope.sum().backward()
    leaf = weights.requires_grad_()
    (slope,) = torch.autograd.grad(centre_distance(leaf, 3), leaf, create_graph=True)
    with pytest.raises(DerivativeError, match="first derivatives only"):
        slope.sum().backward()


def test_one_centre_has_no_distance():
    points, labels, weights = random_batch(centres=1)
    want = by_hand(points, labels, weights, 1)
    assert module(weights, 1)(points, labels).item() == pytest.approx(sum(want) / len(want), rel=1e-9)
    assert centre_distance(weights, 1) == 0


def test_agrees_with_pml(pml):
    from pytorch_metric_learning.losses import SoftTripleLoss as Theirs

    points, labels, weights = random_batch(seed=3, size=60, classes=20, centres=10, dim=6)
    theirs = Theirs(20, 6)
    theirs.fc = torch.nn.Parameter(weights.T.clone())
    ours = weights.requires_grad_()
    value, want = soft_triple_loss(points, labels, ours).mean(), theirs(points, labels)
    assert value.item() == pytest.approx(want.item(), rel=1e-9)
    value.backward()
    want.backward()
    torch.testing.assert_close(ours.grad, theirs.fc.grad.T, rtol=1e-7, atol=1e-9)


def test_sampling_spares_classes_but_not_the_distance():
    points, labels, weights = random_batch(classes=30)
    sampled = torch.unique(torch.cat([labels, torch.tensor([1, 4, 29])]))
    got = soft_triple_loss(points, labels, weights, centres=3, sampled=sampled)
    kept = weights.unflatten(0, (-1, 3))[sampled].flatten(0, 1)
    want = by_hand(points, torch.searchsorted(sampled, labels), kept, 3)
    assert got.tolist() == pytest.approx(want, rel=1e-9)
    loss = module(weights, 3, sample_rate=0.1)
    loss(points, labels).backward()
    assert loss.class_weight.grad.any(dim=1).all()  # each centre is drawn to its neighbours in every step
    loss = module(weights, 3, sample_rate=0.1, tau=0)
    loss(points, labels).backward()
    assert not loss.class_weight.grad.any(dim=1).all()


def test_a_batch_without_a_direction_costs_nothing():
    loss = module(random_batch()[2], 3)
    value = loss(torch.zeros(2, 4), torch.tensor([0, 1]))
    value.backward()
    assert value == 0
    assert not loss.class_weight.grad.any()


def test_centres_start_as_the_official_code_has_them():
    torch.manual_seed(0)
    weight = SoftTripleLoss(100, 16).class_weight.detach()
    assert weight.shape == (1000, 16)
    bound = 1 / math.sqrt(1000)
    assert weight.abs().max() <= bound
    assert weight.std().item() == pytest.approx(2 * bound / math.sqrt(12), rel=0.02)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"centres": 0}, "centres must be a whole number from 1 to 1000"),
        ({"scale": 0}, "scale must be a number above 0"),
        ({"gamma": 0}, "gamma must be a number above 0"),
        ({"margin": -1}, "margin must be a number >= 0"),
        ({"tau": -0.1}, "tau must be a number >= 0"),
    ],
)
def test_wrong_settings_are_named(settings, message):
    with pytest.raises(SettingsError, match=message):
        SoftTripleLoss(3, 3, **settings)
