import math

import pytest
import torch

from cosphere.errors import SettingsError
from cosphere.losses import ProxyAnchorLoss, proxy_anchor_loss
from cosphere.losses.engine.maths import similarities_held

W3 = torch.tensor([[2, 2, 1], [0, 3, 4], [2, -1, 2]], dtype=torch.float64)


def by_hand(points, labels, weights, alpha, margin):
    pulls = pushes = 0.0
    for proxy, weight in enumerate(weights.tolist()):
        near = far = 0.0
        for row, label in zip(points.tolist(), labels.tolist(), strict=True):
            inner = sum(a * b for a, b in zip(row, weight, strict=True))
            cosine = inner / math.hypot(*row) / math.hypot(*weight)
            if label == proxy:
                near += math.exp(-alpha * (cosine - margin))
            else:
                far += math.exp(alpha * (cosine + margin))
        pulls += math.log1p(near)
        pushes += math.log1p(far)
    return pulls / len(set(labels.tolist())) + pushes / len(weights)


def random_batch(seed=0, size=17, classes=9, dim=4):
    generator = torch.Generator().manual_seed(seed)
    points = 3 * torch.randn(size, dim, generator=generator, dtype=torch.float64)
    weights = torch.randn(classes, dim, generator=generator, dtype=torch.float64)
    return points, torch.randint(classes, (size,), generator=generator), weights


def test_official_value_and_both_gradients(h6):
    loss = ProxyAnchorLoss(3, 3).double()
    with torch.no_grad():
        loss.class_weight.copy_(W3)
    points = h6[0].requires_grad_()
    value = loss(points, h6[1])
    value.backward()
    assert value.item() == pytest.approx(28.834408235877238, rel=1e-9)
    want = [
        [5.61615e-05, -4.21211e-05, 6.39315e-05],
        [0.0192145746, -0.015371671, 0.0115287533],
        [-0.1141128616, 0.1521504822, 0.6101801631],
        [1.9994512945, -2.0664930693, 1.0667674221],
        [8.49e-08, 1.877e-07, 8.9e-09],
        [-1.8112042965, 0.8129602168, -1.0839469558],
    ]
    torch.testing.assert_close(points.grad, torch.tensor(want).double(), rtol=1e-7, atol=1e-9)
    want = [
        [0.3273881252, -0.0109867411, -0.6328027681],
        [-0.0004155757, 0.1037605404, -0.0778204053],
        [0.2397261607, 2.1084530443, 0.8145003614],
    ]
    torch.testing.assert_close(loss.class_weight.grad, torch.tensor(want).double(), rtol=1e-7, atol=1e-9)


def test_an_absent_class_counts_in_one_mean_only(h6):
    value = proxy_anchor_loss(h6[0][:4], h6[1][:4], W3)
    assert value.item() == pytest.approx(28.65363945971801, rel=1e-9)


@pytest.mark.parametrize(("alpha", "margin"), [(32.0, 0.1), (1.0, 0.0), (5.0, 0.7)])
@pytest.mark.parametrize("held", [50, 10**6])
def test_agrees_with_loops_in_any_blocks(alpha, margin, held):
    points, labels, weights = random_batch(classes=13)
    with similarities_held(held):
        got = proxy_anchor_loss(points, labels, weights, alpha=alpha, margin=margin)
    assert got.item() == pytest.approx(by_hand(points, labels, weights, alpha, margin), rel=1e-9)


@pytest.mark.parametrize("held", [50, 10**6])
def test_gradients_by_finite_differences(held):
    points, labels, weights = random_batch(size=7, classes=12)
    leaves = points.requires_grad_(), weights.requires_grad_()
    with similarities_held(held):
        assert torch.autograd.gradcheck(lambda x, w: proxy_anchor_loss(x, labels, w, alpha=4.0), leaves)


def test_agrees_with_pml(pml):
    from pytorch_metric_learning.losses import ProxyAnchorLoss as Theirs

    points, labels, weights = random_batch(seed=3, size=60, classes=70, dim=6)
    theirs = Theirs(70, 6)
    theirs.proxies = torch.nn.Parameter(weights.clone())
    ours = weights.requires_grad_()
    value, want = proxy_anchor_loss(points, labels, ours), theirs(points, labels)
    assert value.item() == pytest.approx(want.item(), rel=1e-9)
    value.backward()
    want.backward()
    torch.testing.assert_close(ours.grad, theirs.proxies.grad, rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("alpha", [1000.0, 1e-3])
def test_any_alpha_is_sound_in_float32(alpha):
    points, labels, weights = (v.float() if v.is_floating_point() else v for v in random_batch())
    leaf = points.requires_grad_()
    value = proxy_anchor_loss(leaf, labels, weights, alpha=alpha)
    value.backward()
    assert value.item() == pytest.approx(
        proxy_anchor_loss(points.double(), labels, weights.double(), alpha=alpha).item()
    )
    assert leaf.grad.isfinite().all()


def test_rows_without_a_direction_take_their_class_with_them():
    points, labels, weights = random_batch()
    labels[3] = 8
    labels[labels == 8] = 7
    padded = torch.cat([points, torch.zeros(2, 4, dtype=torch.float64)])
    value = proxy_anchor_loss(padded, torch.cat([labels, torch.tensor([8, 0])]), weights)
    assert value.item() == pytest.approx(by_hand(points, labels, weights, 32.0, 0.1), rel=1e-9)


def test_proxies_start_as_the_official_code_has_them():
    torch.manual_seed(0)
    assert ProxyAnchorLoss(800, 64).class_weight.std().item() == pytest.approx(math.sqrt(2 / 800), rel=0.02)


def test_pairs_are_refused(h6):
    with pytest.raises(SettingsError, match="ProxyAnchorLoss compares images with classes; take the miner away"):
        ProxyAnchorLoss(3, 3)(h6[0].float(), h6[1], (h6[1],) * 3)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"alpha": 0}, "alpha must be a number above 0"),
        ({"margin": -0.1}, "margin must be a number >= 0"),
    ],
)
def test_wrong_settings_are_named(settings, message):
    with pytest.raises(SettingsError, match=message):
        ProxyAnchorLoss(3, 3, **settings)
