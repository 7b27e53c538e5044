import math

import pytest
import torch

from cosphere.errors import SettingsError
from cosphere.losses import ArcFaceLoss, arcface_loss

W3 = torch.tensor([[2.0, 2.0, 1.0], [0.0, 3.0, 4.0], [2.0, -1.0, 2.0]], dtype=torch.float64)
FAR = torch.tensor([[-2.0, -2.0, -0.5], [0.0, 3.0, 4.0]], dtype=torch.float64), torch.tensor([0, 1])
HALF_A_RADIAN = 28.64788975654116  # degrees


def cosine(a, b):
    return sum(x * y for x, y in zip(a, b, strict=True)) / math.hypot(*a) / math.hypot(*b)


def by_hand(row, label, weights, target):
    """``target(angle)`` makes the own class's logit; scale 64."""
    logits = [64 * cosine(row, weight) for weight in weights]
    logits[label] = 64 * target(math.acos(min(1, max(-1, cosine(row, weights[label])))))
    top = max(logits)
    return top + math.log(sum(math.exp(value - top) for value in logits)) - logits[label]


def agrees_with_loops(target, **settings):
    generator = torch.Generator().manual_seed(0)
    points = torch.randn(40, 3, generator=generator, dtype=torch.float64)
    weights = torch.randn(5, 3, generator=generator, dtype=torch.float64)
    labels = torch.randint(5, (40,), generator=generator)
    got = arcface_loss(points, labels, weights, **settings)
    rows = zip(points.tolist(), labels.tolist(), strict=True)
    want = [by_hand(row, label, weights.tolist(), target) for row, label in rows]
    assert got.tolist() == pytest.approx(want, rel=1e-9, abs=1e-12)


@pytest.fixture
def loss():
    module = ArcFaceLoss(3, 3).double()
    with torch.no_grad():
        module.class_weight.copy_(W3)
    return module


def test_official_value_and_both_gradients(h6, loss, gradient):
    assert loss(*h6).item() == pytest.approx(36.235066913351325, rel=1e-9)
    got = gradient(loss, *h6)
    want = [
        [-2.51136e-05, 1.88352e-05, 4.4908e-06],
        [-0.9289911464, -0.3715964586, 0.2786973439],
        [0.4821820954, -0.6429094606, -1.1023576725],
        [3.6663405776, 0.4311936072, -2.264363896],
        [-6.6992452566, 2.629505546, -3.5060073947],
    ]
    rest = [0, 1, 2, 3, 5]  # row 4 lies on its class's direction, where there is no slope
    torch.testing.assert_close(got[rest], torch.tensor(want).double(), rtol=1e-7, atol=1e-9)
    assert got[4].abs().max() < 1e-6
    want = [[1.7747159781, -0.5382167399, -2.4729984763], [-3.3238120414, -0.8758928133, 0.65691961]]
    torch.testing.assert_close(loss.class_weight.grad[:2], torch.tensor(want).double(), rtol=1e-7, atol=1e-9)
    assert loss.class_weight.grad.isfinite().all()


def test_the_default_of_pml_is_28_6_degrees(h6):
    value = arcface_loss(*h6, W3, margin=math.radians(28.6)).mean()
    assert value.item() == pytest.approx(36.202426009445524, rel=1e-9)


def test_beyond_pi_the_fallback_keeps_falling():
    assert arcface_loss(*FAR, W3, margin=0.5).mean().item() == pytest.approx(28.095921717525858, rel=1e-9)
    value = arcface_loss(*FAR, W3, margin=0.5, fallback=False).mean()
    assert value.item() == pytest.approx(19.078770976974436, rel=1e-9)


def test_per_sample_values_agree_with_loops():
    def falling(angle):
        return math.cos(angle + 0.5) if angle <= math.pi - 0.5 else math.cos(angle) - 0.5 * math.sin(0.5)

    agrees_with_loops(falling, margin=0.5)
    agrees_with_loops(lambda angle: math.cos(angle + 0.5), margin=0.5, fallback=False)
    agrees_with_loops(lambda angle: falling(angle) - 0.1, margin=0.5, cosine_margin=0.1)


def test_combined_margins_agree_with_loops():
    settings = {"margin": 0.3, "angle_factor": 1.2, "cosine_margin": 0.2, "fallback": False}
    agrees_with_loops(lambda angle: math.cos(1.2 * angle + 0.3) - 0.2, **settings)


@pytest.mark.parametrize("seed", range(3))
def test_agrees_with_pml_on_random_batches(pml, ragged, gradient, seed):
    from pytorch_metric_learning.losses import ArcFaceLoss as Theirs

    points, names = ragged(seed, size=[8, 61, 256][seed])
    labels = names.unique(return_inverse=True)[1]
    ours = ArcFaceLoss(int(labels.max()) + 1, 5).double()
    theirs = Theirs(len(ours.class_weight), 5, margin=HALF_A_RADIAN, scale=64)
    theirs.W = torch.nn.Parameter(ours.class_weight.detach().T.clone())
    assert ours(points, labels).item() == pytest.approx(theirs(points, labels).item(), rel=1e-9)
    torch.testing.assert_close(gradient(ours, points, labels), gradient(theirs, points, labels), rtol=1e-7, atol=1e-9)
    torch.testing.assert_close(ours.class_weight.grad, theirs.W.grad.T, rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("fallback", [True, False])
@pytest.mark.parametrize("batch", ["near", "far"])
def test_insightface_differentiates_without_the_margin(h6, gradient, batch, fallback):
    points, labels = h6 if batch == "near" else FAR
    kinds = {"exact": None, "insightface": None}
    for kind in kinds:
        kinds[kind] = arcface_loss(points, labels, W3, margin=0.5, fallback=fallback, gradient=kind).sum()
    assert kinds["insightface"].item() == pytest.approx(kinds["exact"].item(), rel=1e-12)

    def by_their_code(points, labels):
        directions = torch.nn.functional.normalize(points)
        logits = directions @ torch.nn.functional.normalize(W3).T
        with torch.no_grad():
            places = torch.arange(len(labels))
            angles = logits[places, labels].clamp(-1, 1).acos()
            shifted = (angles + 0.5).cos()
            if fallback:
                shifted = torch.where(angles > math.pi - 0.5, angles.cos() - 0.5 * math.sin(0.5), shifted)
            logits[places, labels] = shifted
        return torch.nn.functional.cross_entropy(64 * logits, labels, reduction="sum")

    got = gradient(
        lambda x, y: arcface_loss(x, y, W3, margin=0.5, fallback=fallback, gradient="insightface").sum(), points, labels
    )
    torch.testing.assert_close(got, gradient(by_their_code, points, labels), rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("side", [1, -1])
@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"fallback": False},
        {"gradient": "insightface"},
        {"angle_factor": 1.5, "fallback": False},
    ],
    ids=str,
)
def test_on_and_near_a_class_direction_gradients_stay_of_the_size_of_the_scale(settings, side, dtype):
    generator = torch.Generator().manual_seed(0)
    weights = torch.randn(6, 8, generator=generator).to(dtype)
    for gap in [0, 1e-9, 1e-7, 1e-5, 1e-4, 1e-3]:
        shift = gap * torch.randn(6, 8, generator=generator)
        points = (side * weights + shift.to(dtype)).requires_grad_()
        own = weights.clone().requires_grad_()
        value = arcface_loss(points, torch.arange(6), own, margin=0.5, **settings).sum()
        value.backward()
        assert value.isfinite()
        # At most 64 from the own class, whatever the slope of the angle, and 64 from the others.
        assert (points.grad.norm(dim=1) * points.detach().norm(dim=1)).max() < 128
        assert (own.grad.norm(dim=1) * weights.norm(dim=1)).max() < 6 * 128


def test_the_value_on_a_class_direction_is_exact():
    weights = torch.eye(2, dtype=torch.float64)
    got = arcface_loss(weights, torch.arange(2), weights, margin=0.5, scale=2.0)
    want = math.log1p(math.exp(-2 * math.cos(0.5)))
    assert got.tolist() == pytest.approx([want, want], rel=1e-12)


def test_the_module_passes_every_setting(h6):
    settings = {
        "margin": 0.3,
        "scale": 20.0,
        "angle_factor": 1.1,
        "cosine_margin": 0.1,
        "fallback": False,
        "gradient": "insightface",
    }
    module = ArcFaceLoss(3, 3, **settings, sample_rule="norm_softmax", sample_rate=0.5).double().eval()
    want = arcface_loss(*h6, module.class_weight, **settings).mean()
    assert module(*h6).item() == pytest.approx(want.item(), rel=1e-12)
    module.train()(h6[0][:2], h6[1][:2]).backward()
    assert int(module.class_weight.grad.any(dim=1).sum()) == 2
    assert not torch.equal(
        torch.autograd.grad(want, module.class_weight)[0],
        torch.autograd.grad(
            arcface_loss(*h6, module.class_weight, **{**settings, "gradient": "exact"}).mean(), module.class_weight
        )[0],
    )


def test_class_weights_start_as_insightface_does():
    torch.manual_seed(0)
    assert ArcFaceLoss(1000, 16).class_weight.std().item() == pytest.approx(0.01, rel=0.02)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"margin": 28.6}, r"margin is in radians, at most pi; got 28\.6"),
        ({"margin": -0.1}, "margin must be a number >= 0"),
        ({"scale": 0}, "scale must be a number above 0"),
        ({"angle_factor": 0.5}, "angle_factor must be a number >= 1"),
        ({"angle_factor": 1.5}, r"the fallback is for angle_factor 1, got 1\.5\. Set fallback=False"),
        ({"cosine_margin": -1}, "cosine_margin must be a number >= 0"),
        ({"fallback": "yes"}, "fallback must be true or false"),
        ({"gradient": "none"}, "gradient must be 'exact' or 'insightface'"),
    ],
)
def test_wrong_settings_are_named(settings, message):
    with pytest.raises(SettingsError, match=message):
        ArcFaceLoss(3, 2, **settings)
