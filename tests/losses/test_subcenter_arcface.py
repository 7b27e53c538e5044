import math

import pytest
import torch

from cosphere.errors import SettingsError, SizeError
from cosphere.losses import SubCenterArcFaceLoss, subcenter_arcface_loss
from cosphere.losses.engine.maths import similarities_held


def cosine(a, b):
    return sum(x * y for x, y in zip(a, b, strict=True)) / math.hypot(*a) / math.hypot(*b)


def by_hand(points, labels, weights, centres, *, margin=0.5, scale=64.0, fallback=True):
    values, fallen = [], 0
    rows = weights.tolist()
    for point, label in zip(points.tolist(), labels.tolist(), strict=True):
        logits = [
            max(cosine(point, row) for row in rows[first : first + centres]) for first in range(0, len(rows), centres)
        ]
        theta = math.acos(logits[label])
        past = theta >= math.pi - margin
        fallen += past
        logits[label] = logits[label] - margin * math.sin(margin) if past and fallback else math.cos(theta + margin)
        logits = [scale * v for v in logits]
        top = max(logits)
        values.append(top + math.log(sum(math.exp(v - top) for v in logits)) - logits[label])
    return values, fallen


def random_batch(seed=0, size=17, classes=9, centres=3, dim=4):
    generator = torch.Generator().manual_seed(seed)
    weights = torch.randn(classes * centres, dim, generator=generator, dtype=torch.float64)
    labels = torch.randint(classes, (size,), generator=generator)
    points = 3 * torch.randn(size, dim, generator=generator, dtype=torch.float64)
    own = weights.unflatten(0, (-1, centres))[labels[0]]
    points[0] = -(own / own.norm(dim=1, keepdim=True)).sum(dim=0) + 0.05  # far from all its centres
    return points, labels, weights


def module(weights, centres, **settings):
    loss = SubCenterArcFaceLoss(len(weights) // centres, weights.shape[1], centres=centres, **settings).double()
    with torch.no_grad():
        loss.class_weight.copy_(weights)
    return loss


@pytest.mark.parametrize("fallback", [True, False])
@pytest.mark.parametrize("centres", [1, 2, 5])
@pytest.mark.parametrize("held", [50, 10**6])
def test_agrees_with_the_papers_equations(centres, fallback, held):
    points, labels, weights = random_batch(centres=centres)
    want, fallen = by_hand(points, labels, weights, centres, margin=1.2, fallback=fallback)
    assert fallen
    with similarities_held(held):
        got = subcenter_arcface_loss(points, labels, weights, centres=centres, margin=1.2, fallback=fallback)
    assert got.tolist() == pytest.approx(want, rel=1e-9)


def test_the_module_is_the_mean_with_three_centres():
    points, labels, weights = random_batch()
    want = by_hand(points, labels, weights, 3)[0]
    assert module(weights, 3)(points, labels).item() == pytest.approx(sum(want) / len(want), rel=1e-9)
    assert SubCenterArcFaceLoss(4, 2).class_weight.shape == (12, 2)


@pytest.mark.parametrize("held", [50, 10**6])
def test_gradients_by_finite_differences(held):
    points, labels, weights = random_batch(size=7)
    leaves = points.requires_grad_(), weights.requires_grad_()
    with similarities_held(held):
        assert torch.autograd.gradcheck(lambda x, w: subcenter_arcface_loss(x, labels, w, scale=4.0), leaves)


def test_of_equal_centres_the_first_has_the_gradient():
    weights = torch.tensor(
        [[1.0, 0.0], [1.0, 0.0], [-1.0, 0.0], [0.0, 1.0], [0.0, -1.0], [0.0, 1.0]], requires_grad=True
    )
    points = torch.tensor([[3.0, 4.0]], requires_grad=True)
    subcenter_arcface_loss(points, torch.tensor([0]), weights, scale=4.0, margin=0.2).sum().backward()
    assert weights.grad.any(dim=1).tolist() == [True, False, False, True, False, False]
    alone = torch.tensor([[1.0, 0.0], [0.0, 1.0]], requires_grad=True)
    point = points.detach().requires_grad_()
    subcenter_arcface_loss(point, torch.tensor([0]), alone, centres=1, scale=4.0, margin=0.2).sum().backward()
    torch.testing.assert_close(point.grad, points.grad)


def test_agrees_with_pml(pml):
    from pytorch_metric_learning.losses import SubCenterArcFaceLoss as Theirs

    points, labels, weights = random_batch(seed=3, size=60, classes=20, dim=6)
    theirs = Theirs(num_classes=20, embedding_size=6, margin=math.degrees(0.5))
    theirs.W = torch.nn.Parameter(weights.T.clone())
    loss = module(weights, 3)
    value, want = loss(points, labels), theirs(points, labels)
    assert value.item() == pytest.approx(want.item(), rel=1e-9)
    value.backward()
    want.backward()
    torch.testing.assert_close(loss.class_weight.grad, theirs.W.grad.T, rtol=1e-7, atol=1e-9)


def test_angles_clean_a_data_set_as_pml_does(pml):
    from pytorch_metric_learning.losses import SubCenterArcFaceLoss as Theirs

    points, labels, weights = random_batch(seed=4, size=80, classes=6)
    theirs = Theirs(num_classes=6, embedding_size=4)
    theirs.W = torch.nn.Parameter(weights.T.clone())
    angles = module(weights, 3).centre_angles(points, labels)
    dropped = []
    for label in range(6):
        images = (labels == label).nonzero().squeeze(1)
        main = torch.bincount(angles[images].argmin(dim=1)).argmax()
        dropped += images[angles[images, main] > math.radians(75)].tolist()
    want, _ = theirs.get_outliers(points, labels)
    assert sorted(dropped) == sorted(want.tolist())
    assert 0 < len(dropped) < 80


def test_angles_are_those_to_the_own_centres():
    loss = module(torch.tensor([[9.0, 9.0], [9.0, 9.0], [0.0, 2.0], [-3.0, 0.0]]).double(), 2)
    got = loss.centre_angles(torch.tensor([[5.0, 0.0], [0.0, 0.0]]), torch.tensor([1, 1]))
    assert got.tolist() == [pytest.approx([math.pi / 2, math.pi]), pytest.approx([math.pi / 2] * 2)]
    assert not got.requires_grad
    with pytest.raises(SizeError, match="labels run from 2 to 2, but the loss has 2 classes"):
        loss.centre_angles(torch.ones(1, 2), torch.tensor([2]))


def test_sampled_classes_are_the_loss_over_just_them():
    points, labels, weights = random_batch(classes=30)
    sampled = torch.unique(torch.cat([labels, torch.tensor([1, 4, 29])]))
    got = subcenter_arcface_loss(points, labels, weights, sampled=sampled)
    kept = weights.unflatten(0, (-1, 3))[sampled].flatten(0, 1)
    want = by_hand(points, torch.searchsorted(sampled, labels), kept, 3)[0]
    assert got.tolist() == pytest.approx(want, rel=1e-9)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"centres": 0}, "centres must be a whole number from 1 to 1000"),
        ({"margin": 28.6}, "margin is in radians, at most pi"),
        ({"scale": 0}, "scale must be a number above 0"),
        ({"fallback": 1}, "fallback must be true or false"),
    ],
)
def test_wrong_settings_are_named(settings, message):
    with pytest.raises(SettingsError, match=message):
        SubCenterArcFaceLoss(3, 3, **settings)
