import math

import pytest
import torch

from cosphere.errors import SettingsError
from cosphere.losses import CosFaceLoss, cosface_loss

W3 = torch.tensor([[2.0, 2.0, 1.0], [0.0, 3.0, 4.0], [2.0, -1.0, 2.0]], dtype=torch.float64)


def cosine(a, b):
    return sum(x * y for x, y in zip(a, b, strict=True)) / math.hypot(*a) / math.hypot(*b)


def by_hand(row, label, weights, margin, scale, classes):
    logits = {k: scale * (cosine(row, weights[k]) - margin * (k == label)) for k in classes}
    top = max(logits.values())
    return top + math.log(sum(math.exp(value - top) for value in logits.values())) - logits[label]


@pytest.fixture
def loss():
    module = CosFaceLoss(3, 3).double()
    with torch.no_grad():
        module.class_weight.copy_(W3)
    return module


def test_official_value_and_both_gradients(h6, loss, gradient):
    assert loss(*h6).item() == pytest.approx(32.9483721299032, rel=1e-9)
    want = [
        [-0.0011286841, 0.0008465131, 0.0013345927],
        [-0.7111111111, -0.2844444444, 0.2133333333],
        [0.4437333333, -0.5916444444, -0.9955555556],
        [2.4230452597, 0.3423868302, -1.55390946],
        [1.2733e-06, 2.8045e-06, 1.29e-07],
        [-7.1111075485, 2.9013346586, -3.8684462115],
    ]
    torch.testing.assert_close(gradient(loss, *h6), torch.tensor(want).double(), rtol=1e-7, atol=1e-9)
    want = [
        [1.2906425793, -0.3695754181, -1.8421343224],
        [-2.4160618684, -0.5674248905, 0.4255686679],
        [0.3160493827, -3.0024691358, -1.8172839506],
    ]
    torch.testing.assert_close(loss.class_weight.grad, torch.tensor(want).double(), rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize(("margin", "scale"), [(0.35, 64.0), (0.4, 30.0), (0.0, 1.0)])
def test_per_sample_values_agree_with_loops(margin, scale):
    generator = torch.Generator().manual_seed(0)
    points = torch.randn(9, 4, generator=generator, dtype=torch.float64)
    weights = torch.randn(5, 4, generator=generator, dtype=torch.float64)
    labels = torch.randint(5, (9,), generator=generator)
    got = cosface_loss(points, labels, weights, margin=margin, scale=scale)
    rows = zip(points.tolist(), labels.tolist(), strict=True)
    want = [by_hand(row, label, weights.tolist(), margin, scale, range(5)) for row, label in rows]
    assert got.tolist() == pytest.approx(want, rel=1e-9)


def test_partial_fc_runs_over_the_sampled_classes_alone(h6):
    points, labels = h6[0][:2], h6[1][:2]
    some = cosface_loss(points, labels, W3, margin=0.4, sampled=torch.tensor([0, 2]))
    assert some.mean().item() == pytest.approx(2.140298822637895, rel=1e-9)
    assert cosface_loss(points, labels, W3, margin=0.4).mean().item() == pytest.approx(23.482866982025463, rel=1e-9)


@pytest.mark.parametrize("seed", range(3))
def test_agrees_with_pml_on_random_batches(pml, ragged, gradient, seed):
    from pytorch_metric_learning.losses import CosFaceLoss as Theirs

    points, names = ragged(seed, size=[8, 61, 256][seed])
    labels = names.unique(return_inverse=True)[1]
    ours = CosFaceLoss(int(labels.max()) + 1, 5).double()
    theirs = Theirs(len(ours.class_weight), 5, margin=0.35, scale=64)
    theirs.W = torch.nn.Parameter(ours.class_weight.detach().T.clone())
    assert ours(points, labels).item() == pytest.approx(theirs(points, labels).item(), rel=1e-9)
    torch.testing.assert_close(gradient(ours, points, labels), gradient(theirs, points, labels), rtol=1e-7, atol=1e-9)
    torch.testing.assert_close(ours.class_weight.grad, theirs.W.grad.T, rtol=1e-7, atol=1e-9)


def test_class_weights_start_as_insightface_does():
    torch.manual_seed(0)
    weight = CosFaceLoss(1000, 16).class_weight.detach()
    assert weight.shape == (1000, 16)
    assert weight.std() == pytest.approx(0.01, rel=0.02)
    assert weight.mean().abs() < 3e-4


def test_sampling_settings_are_passed_on():
    loss = CosFaceLoss(100, 4, sample_rate=0.3, sample_rule="norm_softmax")
    loss(torch.randn(5, 4), torch.arange(5)).backward()
    assert int(loss.class_weight.grad.any(dim=1).sum()) == 5 + round(0.3 * 95)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"margin": -0.1}, "margin must be a number >= 0"),
        ({"scale": 0}, "scale must be a number above 0"),
        ({"sample_rate": 2.0}, "sample_rate is a share"),
    ],
)
def test_wrong_settings_are_named(settings, message):
    with pytest.raises(SettingsError, match=message):
        CosFaceLoss(3, 2, **settings)
