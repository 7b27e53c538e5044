import math

import pytest
import torch

from cosphere.errors import SettingsError
from cosphere.losses import ProxyNCALoss, proxy_nca_loss
from cosphere.losses.engine.maths import similarities_held

W3 = torch.tensor([[2, 2, 1], [0, 3, 4], [2, -1, 2]], dtype=torch.float64)


def scaled(row, length):
    return [length * v / math.hypot(*row) for v in row]


def by_hand(rows, labels, weights, *, include=False, x_scale=1.0, p_scale=1.0, smoothing=0.0):
    """The papers' sums over squared distances, term by term."""
    values = []
    for row, label in zip(rows.tolist(), labels.tolist(), strict=True):
        point = scaled(row, x_scale)
        nearness = [
            -sum((a - b) ** 2 for a, b in zip(point, scaled(weight, p_scale), strict=True))
            for weight in weights.tolist()
        ]
        summed = math.log(sum(math.exp(v) for k, v in enumerate(nearness) if include or k != label))
        spread = smoothing / (len(nearness) - 1)
        targets = [1 - smoothing if k == label else spread for k in range(len(nearness))]
        values.append(sum(t * (summed - v) for t, v in zip(targets, nearness, strict=True)))
    return values


def random_batch(seed=0, size=17, classes=9, dim=4):
    generator = torch.Generator().manual_seed(seed)
    points = 3 * torch.randn(size, dim, generator=generator, dtype=torch.float64)
    weights = torch.randn(classes, dim, generator=generator, dtype=torch.float64)
    return points, torch.randint(classes, (size,), generator=generator), weights


@pytest.mark.parametrize(
    ("settings", "value"),
    [
        ({}, 0.6145291586671998),
        ({"positive_in_denominator": True}, 1.1490145404777492),
        (
            {"positive_in_denominator": True, "embedding_scale": 3, "proxy_scale": 3, "smoothing": 0.1},
            5.42047403799582,
        ),
    ],
)
def test_published_values(h6, settings, value):
    loss = ProxyNCALoss(3, 3, **settings).double()
    with torch.no_grad():
        loss.class_weight.copy_(W3)
    assert loss(*h6).item() == pytest.approx(value, rel=1e-9)


def test_published_gradients(h6):
    points, weights = h6[0].requires_grad_(), W3.clone().requires_grad_()
    proxy_nca_loss(points, h6[1], weights, positive_in_denominator=True).mean().backward()
    want = [
        [-0.0025941115, 0.0019455836, 0.010618852],
        [-0.0125053708, -0.0089578043, 0.0067183532],
        [0.0170990444, -0.0227987259, -0.0208713567],
        [0.0453728799, -0.0068074181, -0.0158790219],
        [0.0022094767, 0.015893779, 0.0057374128],
        [-0.1216378268, 0.1099234819, -0.1465646425],
    ]
    torch.testing.assert_close(points.grad, torch.tensor(want).double(), rtol=1e-7, atol=1e-9)
    want = [
        [0.0263534835, -0.0204145428, -0.0118778813],
        [-0.03797417, -0.0137087505, 0.0102815629],
        [0.0249390425, -0.0309150191, -0.040396552],
    ]
    torch.testing.assert_close(weights.grad, torch.tensor(want).double(), rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("scales", [(1.0, 1.0), (3.0, 3.0), (1.0, 8.0), (0.5, 3.0)])
@pytest.mark.parametrize(("include", "smoothing"), [(False, 0.0), (True, 0.0), (True, 0.1), (True, 0.7)])
def test_agrees_with_loops(scales, include, smoothing):
    points, labels, weights = random_batch()
    got = proxy_nca_loss(
        points,
        labels,
        weights,
        positive_in_denominator=include,
        embedding_scale=scales[0],
        proxy_scale=scales[1],
        smoothing=smoothing,
    )
    want = by_hand(points, labels, weights, include=include, x_scale=scales[0], p_scale=scales[1], smoothing=smoothing)
    assert got.tolist() == pytest.approx(want, rel=1e-9)


@pytest.mark.parametrize("settings", [{}, {"positive_in_denominator": True, "smoothing": 0.2}])
def test_gradients_by_finite_differences_in_any_blocks(settings):
    points, labels, weights = random_batch(size=6, classes=5)

    def of(x, w):
        return proxy_nca_loss(x, labels, w, embedding_scale=1.5, **settings)

    leaves = points.requires_grad_(), weights.requires_grad_()
    whole = torch.autograd.grad(of(*leaves).sum(), leaves)
    with similarities_held(50):
        assert torch.autograd.gradcheck(of, leaves)
        torch.testing.assert_close(torch.autograd.grad(of(*leaves).sum(), leaves), whole, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("softmax_scale", [1, 9])
def test_agrees_with_pml(pml, softmax_scale):
    from pytorch_metric_learning.losses import ProxyNCALoss as Theirs

    points, labels, weights = random_batch(seed=3, size=60, classes=20, dim=6)
    theirs = Theirs(20, 6, softmax_scale=softmax_scale)
    theirs.proxies = torch.nn.Parameter(weights)
    scale = math.sqrt(softmax_scale)
    ours = proxy_nca_loss(
        points, labels, weights, positive_in_denominator=True, embedding_scale=scale, proxy_scale=scale
    )
    assert ours.mean().item() == pytest.approx(theirs(points, labels).item(), rel=1e-9)


@pytest.mark.parametrize("smoothing", [0.0, 0.3])
def test_sampled_classes_are_the_loss_over_just_them(smoothing):
    points, labels, weights = random_batch(classes=30)
    sampled = torch.unique(torch.cat([labels, torch.tensor([1, 4, 29])]))
    settings = {"positive_in_denominator": True, "smoothing": smoothing}
    got = proxy_nca_loss(points, labels, weights, sampled=sampled, **settings)
    want = by_hand(points, torch.searchsorted(sampled, labels), weights[sampled], include=True, smoothing=smoothing)
    assert got.tolist() == pytest.approx(want, rel=1e-9)


@pytest.mark.parametrize("settings", [{}, {"positive_in_denominator": True, "smoothing": 0.5}])
def test_a_single_class_costs_nothing(settings):
    loss = ProxyNCALoss(1, 3, **settings)
    points = torch.randn(4, 3, requires_grad=True)
    value = loss(points, torch.zeros(4, dtype=torch.long))
    value.backward()
    assert value == 0
    assert not points.grad.any()
    assert not loss.class_weight.grad.any()


def test_proxies_start_about_one_long():
    torch.manual_seed(0)
    assert ProxyNCALoss(500, 64).class_weight.norm(dim=1).mean().item() == pytest.approx(1, rel=0.02)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"smoothing": 0.1}, "smoothing .* wants positive_in_denominator=True"),
        ({"smoothing": 1.0, "positive_in_denominator": True}, "smoothing is a share below 1; got 1.0"),
        ({"smoothing": -0.1}, "smoothing must be a number >= 0"),
        ({"embedding_scale": 0}, "embedding_scale must be a number above 0"),
        ({"proxy_scale": -1}, "proxy_scale must be a number above 0"),
        ({"positive_in_denominator": 1}, "positive_in_denominator must be true or false"),
    ],
)
def test_wrong_settings_are_named(settings, message):
    with pytest.raises(SettingsError, match=message):
        ProxyNCALoss(3, 3, **settings)


def test_smoothing_the_papers_form_is_named():
    points, labels, weights = random_batch()
    with pytest.raises(SettingsError, match="wants positive_in_denominator=True"):
        proxy_nca_loss(points, labels, weights, smoothing=0.1)
