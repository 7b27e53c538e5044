import math

import pytest
import torch

from cosphere.errors import SettingsError
from cosphere.losses import CurricularFaceLoss, curricularface_loss
from cosphere.losses.engine.maths import similarities_held


def cosine(a, b):
    return sum(x * y for x, y in zip(a, b, strict=True)) / math.hypot(*a) / math.hypot(*b)


def by_hand(points, labels, weights, t, *, margin=0.5, scale=64.0):
    """Values, how many other classes were hard and how many easy, and how many targets fell back."""
    values, hard, easy, fallen = [], 0, 0, 0
    for point, label in zip(points.tolist(), labels.tolist(), strict=True):
        cosines = [cosine(point, weight) for weight in weights.tolist()]
        theta = math.acos(cosines[label])
        limit = math.cos(theta + margin)
        logits = []
        for k, c in enumerate(cosines):
            if k == label:
                fallen += theta >= math.pi - margin
                logits.append(limit if theta < math.pi - margin else c - margin * math.sin(math.pi - margin))
            else:
                hard, easy = hard + (c > limit), easy + (c <= limit)
                logits.append(c * (t + c) if c > limit else c)
        logits = [scale * v for v in logits]
        top = max(logits)
        values.append(top + math.log(sum(math.exp(v - top) for v in logits)) - logits[label])
    return values, hard, easy, fallen


def random_batch(seed=0, size=17, classes=9, dim=3):
    """Images near their class, but for a few that lie opposite to it."""
    generator = torch.Generator().manual_seed(seed)
    weights = torch.randn(classes, dim, generator=generator, dtype=torch.float64)
    labels = torch.randint(classes, (size,), generator=generator)
    points = weights[labels] + 0.5 * torch.randn(size, dim, generator=generator, dtype=torch.float64)
    points[:3] = -weights[labels[:3]] + 0.1
    return 3 * points, labels, weights


def module(weights, **settings):
    loss = CurricularFaceLoss(len(weights), weights.shape[1], **settings).double()
    with torch.no_grad():
        loss.class_weight.copy_(weights)
    return loss


@pytest.mark.parametrize("t", [0.0, 0.3, 0.9])
@pytest.mark.parametrize("held", [50, 10**6])
def test_agrees_with_the_papers_equations(t, held):
    points, labels, weights = random_batch()
    want, hard, easy, fallen = by_hand(points, labels, weights, t)
    assert min(hard, easy, fallen) > 0  # this data takes every branch
    with similarities_held(held):
        got = curricularface_loss(points, labels, weights, curriculum=t)
    assert got.tolist() == pytest.approx(want, rel=1e-9)


@pytest.mark.parametrize("held", [50, 10**6])
def test_gradients_by_finite_differences(held):
    points, labels, weights = random_batch(size=7)
    leaves = points.requires_grad_(), weights.requires_grad_()
    with similarities_held(held):
        assert torch.autograd.gradcheck(
            lambda x, w: curricularface_loss(x, labels, w, scale=4.0, curriculum=0.4), leaves
        )


def test_the_curriculum_moves_before_it_is_used():
    points, labels, weights = random_batch()
    loss, t = module(weights), 0.0
    own = [cosine(point, weights[label].tolist()) for point, label in zip(points.tolist(), labels, strict=True)]
    for _ in range(3):
        t = 0.01 * sum(own) / len(own) + 0.99 * t
        want = by_hand(points, labels, weights, t)[0]
        assert loss(points, labels).item() == pytest.approx(sum(want) / len(want), rel=1e-9)
        assert loss.curriculum.item() == pytest.approx(t, rel=1e-12)
    assert loss.eval()(points, labels).item() == pytest.approx(sum(want) / len(want), rel=1e-9)
    assert loss.curriculum.item() == pytest.approx(t, rel=1e-12)


def test_the_curriculum_is_saved():
    points, labels, weights = random_batch()
    loss = module(weights, momentum=0.5)
    loss(points, labels)
    other = module(weights)
    other.load_state_dict(loss.state_dict())
    assert other.curriculum == loss.curriculum
    assert other.curriculum != 0


@pytest.mark.parametrize("bad", [torch.zeros(2, 3), torch.zeros(0, 3), torch.full((2, 3), math.nan)])
def test_a_batch_that_says_nothing_leaves_the_curriculum(bad):
    loss = module(random_batch()[2])
    loss.curriculum.fill_(0.3)
    loss(bad.double(), torch.zeros(len(bad), dtype=torch.long))
    assert loss.curriculum.item() == pytest.approx(0.3)


def test_backward_takes_the_curriculum_of_its_own_forward():
    points, labels, weights = random_batch()
    leaf = points.requires_grad_()
    loss = module(weights, momentum=1.0)
    value = loss(leaf, labels)
    t = loss.curriculum.item()
    loss(leaf[3:], labels[3:])
    assert loss.curriculum.item() != pytest.approx(t)
    (got,) = torch.autograd.grad(value, leaf)
    (want,) = torch.autograd.grad(curricularface_loss(leaf, labels, weights, curriculum=t).mean(), leaf)
    torch.testing.assert_close(got, want, rtol=1e-9, atol=1e-12)


def test_images_on_their_class_or_opposite_have_a_gradient():
    weights = torch.tensor([[1.0, 0.0], [0.0, 1.0]], requires_grad=True)
    points = torch.tensor([[2.0, 0.0], [0.0, -3.0]], requires_grad=True)
    curricularface_loss(points, torch.tensor([0, 1]), weights).sum().backward()
    assert points.grad.isfinite().all()
    assert weights.grad.isfinite().all()


def test_sampled_classes_are_the_loss_over_just_them():
    points, labels, weights = random_batch(classes=30)
    sampled = torch.unique(torch.cat([labels, torch.tensor([1, 4, 29])]))
    got = curricularface_loss(points, labels, weights, curriculum=0.2, sampled=sampled)
    want = by_hand(points, torch.searchsorted(sampled, labels), weights[sampled], 0.2)[0]
    assert got.tolist() == pytest.approx(want, rel=1e-9)


def test_class_weights_start_as_the_official_code_has_them():
    torch.manual_seed(0)
    assert CurricularFaceLoss(500, 64).class_weight.std().item() == pytest.approx(0.01, rel=0.02)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"margin": 28.6}, "margin is in radians, at most pi"),
        ({"margin": -0.1}, "margin must be a number >= 0"),
        ({"scale": 0}, "scale must be a number above 0"),
        ({"momentum": 0}, "momentum must be a number above 0"),
        ({"momentum": 2}, "momentum is a share"),
    ],
)
def test_wrong_settings_are_named(settings, message):
    with pytest.raises(SettingsError, match=message):
        CurricularFaceLoss(3, 3, **settings)
