import math

import pytest
import torch

from cosphere.errors import SettingsError
from cosphere.losses import ProxyNCAPlusPlusLoss, proxy_nca_plus_plus_loss


def by_hand(points, labels, weights, temperature):
    """-log of equation 5: distances of unit vectors, squared, over the temperature."""
    values = []
    for row, label in zip(points.tolist(), labels.tolist(), strict=True):
        nearness = []
        for weight in weights.tolist():
            apart = [a / math.hypot(*row) - b / math.hypot(*weight) for a, b in zip(row, weight, strict=True)]
            nearness.append(math.exp(-sum(v * v for v in apart) / temperature))
        values.append(-math.log(nearness[label] / sum(nearness)))
    return values


def random_batch(seed=0, size=17, classes=9, dim=4):
    generator = torch.Generator().manual_seed(seed)
    points = 3 * torch.randn(size, dim, generator=generator, dtype=torch.float64)
    weights = torch.randn(classes, dim, generator=generator, dtype=torch.float64)
    return points, torch.randint(classes, (size,), generator=generator), weights


@pytest.mark.parametrize("temperature", [1 / 9, 0.5, 2.0])
def test_agrees_with_the_papers_equation(temperature):
    points, labels, weights = random_batch()
    got = proxy_nca_plus_plus_loss(points, labels, weights, temperature=temperature)
    assert got.tolist() == pytest.approx(by_hand(points, labels, weights, temperature), rel=1e-9)


def test_the_module_is_the_mean_at_one_ninth():
    points, labels, weights = random_batch(seed=1)
    loss = ProxyNCAPlusPlusLoss(9, 4).double()
    with torch.no_grad():
        loss.class_weight.copy_(weights)
    want = by_hand(points, labels, weights, 1 / 9)
    assert loss(points, labels).item() == pytest.approx(sum(want) / len(want), rel=1e-9)


def test_gradients_by_finite_differences():
    points, labels, weights = random_batch(size=6, classes=5)
    leaves = points.requires_grad_(), weights.requires_grad_()
    assert torch.autograd.gradcheck(lambda x, w: proxy_nca_plus_plus_loss(x, labels, w), leaves)


def test_agrees_with_pml(pml):
    from pytorch_metric_learning.losses import ProxyNCALoss

    points, labels, weights = random_batch(seed=3, size=60, classes=20, dim=6)
    theirs = ProxyNCALoss(20, 6, softmax_scale=9)
    theirs.proxies = torch.nn.Parameter(weights)
    ours = proxy_nca_plus_plus_loss(points, labels, weights).mean()
    assert ours.item() == pytest.approx(theirs(points, labels).item(), rel=1e-9)


def test_sampled_classes_are_the_loss_over_just_them():
    points, labels, weights = random_batch(classes=30)
    sampled = torch.unique(torch.cat([labels, torch.tensor([1, 4, 29])]))
    got = proxy_nca_plus_plus_loss(points, labels, weights, sampled=sampled)
    want = by_hand(points, torch.searchsorted(sampled, labels), weights[sampled], 1 / 9)
    assert got.tolist() == pytest.approx(want, rel=1e-9)


def test_the_module_samples_in_training_only():
    torch.manual_seed(0)
    loss = ProxyNCAPlusPlusLoss(200, 4, sample_rate=0.2)
    points, labels = torch.randn(8, 4), torch.arange(8)
    sampled = loss(points, labels)
    sampled.backward()
    assert int(loss.class_weight.grad.any(dim=1).sum()) == 40
    assert sampled < loss.eval()(points, labels)


def test_proxies_start_about_one_long():
    torch.manual_seed(0)
    assert ProxyNCAPlusPlusLoss(500, 64).class_weight.norm(dim=1).mean().item() == pytest.approx(1, rel=0.02)


def test_wrong_settings_are_named():
    with pytest.raises(SettingsError, match="temperature must be a number above 0"):
        ProxyNCAPlusPlusLoss(3, 3, temperature=0)
