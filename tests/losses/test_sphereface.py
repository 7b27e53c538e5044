import math
import warnings

import pytest
import torch

from cosphere.errors import SettingsError
from cosphere.losses import SphereFaceLoss, sphereface_loss

W3 = torch.tensor([[2.0, 2.0, 1.0], [0.0, 3.0, 4.0], [2.0, -1.0, 2.0]], dtype=torch.float64)


def cosine(a, b):
    return sum(x * y for x, y in zip(a, b, strict=True)) / math.hypot(*a) / math.hypot(*b)


def psi(angle, margin):
    k = min(int(margin * angle / math.pi), margin - 1)
    return (-1) ** k * math.cos(margin * angle) - 2 * k


def by_hand(row, label, weights, margin, easing, factor):
    logits = [factor(row) * cosine(row, weight) for weight in weights]
    own = min(1, max(-1, cosine(row, weights[label])))
    logits[label] = factor(row) * (easing * own + psi(math.acos(own), margin)) / (1 + easing)
    top = max(logits)
    return top + math.log(sum(math.exp(value - top) for value in logits)) - logits[label]


def test_official_value_and_gradient_without_annealing(h6, gradient):
    def loss(points, labels):
        return sphereface_loss(points, labels, W3, easing=0).mean()

    assert loss(*h6).item() == pytest.approx(7.4606998034808365, rel=1e-9)
    want = [
        [-0.1688812978, 0.1868862819, -0.4305543824],
        [-0.1315460186, 0.1495965248, 0.3094367753],
        [0.5956032504, 0.039875205, -0.5107439462],
        [0.6329406527, 0.0987176808, -0.2536466128],
        [-0.0019308264, 0.0083442613, -0.0014942029],
        [-0.1771620497, 0.6295063685, 0.1814742061],
    ]
    torch.testing.assert_close(gradient(loss, *h6), torch.tensor(want).double(), rtol=1e-7, atol=1e-9)


def test_official_value_at_the_floor(h6):
    assert sphereface_loss(*h6, W3, easing=5).mean().item() == pytest.approx(2.4051148524382104, rel=1e-9)


@pytest.mark.parametrize("margin", [1, 2, 3, 4, 5])
@pytest.mark.parametrize("easing", [0, 5, 300.0])
@pytest.mark.parametrize("normalize_features", [False, True])
def test_per_sample_values_agree_with_loops(margin, easing, normalize_features):
    generator = torch.Generator().manual_seed(0)
    points = 2 * torch.randn(40, 3, generator=generator, dtype=torch.float64)
    weights = torch.randn(5, 3, generator=generator, dtype=torch.float64)
    labels = torch.randint(5, (40,), generator=generator)
    got = sphereface_loss(
        points, labels, weights, margin=margin, easing=easing, scale=1.7, normalize_features=normalize_features
    )

    def factor(row):
        return 1.7 * (1 if normalize_features else math.hypot(*row))

    rows = zip(points.tolist(), labels.tolist(), strict=True)
    want = [by_hand(row, label, weights.tolist(), margin, easing, factor) for row, label in rows]
    assert got.tolist() == pytest.approx(want, rel=1e-9)


@pytest.mark.parametrize("margin", [2, 3, 4])
def test_psi_falls_from_angle_0_to_pi(margin):
    angles = torch.linspace(0, math.pi, 721, dtype=torch.float64)
    points = torch.stack([angles.cos(), angles.sin()], dim=1)
    points[-1] = torch.tensor([-1.0, 0.0])
    values = sphereface_loss(points, torch.zeros(721, dtype=torch.long), torch.eye(2).double(), easing=0, margin=margin)
    logits = points[:, 1] - values.expm1().log()  # loss = log(1 + e^(other - own))
    assert logits[0].item() == pytest.approx(1, abs=1e-9)
    assert logits[-1].item() == pytest.approx(1 - 2 * margin, abs=1e-9)
    assert logits.diff().max() < 1e-9


@pytest.mark.parametrize("angle", [0, math.pi / 4, math.pi / 2, 3 * math.pi / 4, math.pi])
@pytest.mark.parametrize("normalize_features", [False, True])
def test_gradients_are_finite_and_right_where_psi_turns(angle, normalize_features):
    start = 1e-12 if angle in (0, math.pi) else 0  # a hair off the ends, where the cosine of rounding would pass 1
    points = torch.tensor([[2 * math.cos(angle), 2 * math.sin(angle) + start, 0.3]], dtype=torch.float64)
    weights = torch.tensor([[3.0, 0.0, 0.0], [0.0, 1.0, 1.0]], dtype=torch.float64)
    assert torch.autograd.gradcheck(
        lambda x, w: sphereface_loss(x, torch.tensor([0]), w, easing=0, normalize_features=normalize_features),
        (points.requires_grad_(), weights.requires_grad_()),
    )


@pytest.mark.parametrize("side", [1.0, -1.0])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_on_a_class_direction_values_and_gradients_are_exact(side, dtype):
    points = torch.tensor([[2 * side, 0.0]], dtype=dtype, requires_grad=True)
    value = sphereface_loss(points, torch.tensor([0]), torch.eye(2, dtype=dtype), easing=0)
    value.sum().backward()
    own = 2.0 if side > 0 else -14.0
    assert value.item() == pytest.approx(math.log1p(math.exp(-own)), rel=1e-6)
    outward = -math.exp(-own) / (1 + math.exp(-own)) * own / 2  # longer along its own direction
    assert points.grad[0, 0].item() * side == pytest.approx(outward, rel=1e-6)
    assert points.grad.isfinite().all()


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(("margin", "scale"), [(4, 1), (2, 0.5)])
def test_agrees_with_pml_on_random_batches(pml, ragged, gradient, seed, margin, scale):
    from pytorch_metric_learning.losses import SphereFaceLoss as Theirs

    points, names = ragged(seed, size=[8, 61, 256][seed])
    labels = names.unique(return_inverse=True)[1]
    settings = {"margin": margin, "scale": scale, "annealing": None, "easing": 0}
    ours = SphereFaceLoss(int(labels.max()) + 1, 5, **settings).double()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it hands tensors to scipy
        theirs = Theirs(len(ours.class_weight), 5, margin=margin, scale=scale)
    theirs.W = torch.nn.Parameter(ours.class_weight.detach().T.clone())
    assert ours(points, labels).item() == pytest.approx(theirs(points, labels).item(), rel=1e-9)
    torch.testing.assert_close(gradient(ours, points, labels), gradient(theirs, points, labels), rtol=1e-7, atol=1e-9)
    torch.testing.assert_close(ours.class_weight.grad, theirs.W.grad.T, rtol=1e-7, atol=1e-9)


def test_only_the_normalised_form_forgets_the_length(h6):
    points, labels = h6
    stretched = points * torch.tensor([[0.1], [2], [3], [4], [5], [6]])
    first, second = (
        sphereface_loss(x, labels, W3, easing=5, normalize_features=True, scale=30) for x in (points, stretched)
    )
    torch.testing.assert_close(first, second, rtol=1e-9, atol=0)
    first, second = (sphereface_loss(x, labels, W3, easing=5) for x in (points, stretched))
    assert ((first - second).abs() > 1e-3).all()


@pytest.mark.parametrize(
    ("annealing", "step", "want"),
    [
        ("caffe", 1, 1000 / 1.12),
        ("caffe", 100, 1000 / 13),
        ("caffe", 10_000, 5),
        ("clcarwin", 1, 1500 / 1.1),
        ("clcarwin", 100, 1500 / 11),
        ("clcarwin", 10_000, 5),
        ("face_pytorch", 1, 1000 / 1.0001**2),
        ("face_pytorch", 10_000, 250),
        ("face_pytorch", 500_000, 5),
        (None, 1, 5),
        (None, 77, 5),
    ],
)
def test_annealing_at_a_step(h6, annealing, step, want):
    module = SphereFaceLoss(3, 3, annealing=annealing).double()
    module.steps.fill_(step - 1)
    value = module(*h6)
    assert int(module.steps) == step
    assert module.easing_now() == pytest.approx(want, rel=1e-12)
    again = sphereface_loss(*h6, module.class_weight, easing=want).mean()
    assert value.item() == pytest.approx(again.item(), rel=1e-12)


def test_annealing_stands_still_in_evaluation_and_survives_saving(h6):
    module = SphereFaceLoss(3, 3).double()
    for _ in range(4):
        module(*h6)
    module.eval()
    assert module(*h6) == module(*h6)
    assert int(module.steps) == 4
    other = SphereFaceLoss(3, 3).double()
    other.load_state_dict(module.state_dict())
    assert other.eval()(*h6) == module(*h6)
    assert other.half().steps.dtype == torch.int64


def test_another_floor(h6):
    module = SphereFaceLoss(3, 3, easing=20).double()
    module.steps.fill_(10**6)
    assert module.easing_now() == 20
    bare = SphereFaceLoss(3, 3, easing=0, annealing=None)
    assert bare.easing_now() == 0


def test_class_weights_start_as_directions():
    torch.manual_seed(0)
    weight = SphereFaceLoss(1000, 16).class_weight.detach()
    torch.testing.assert_close(weight.norm(dim=1), torch.ones(1000))
    assert weight.mean().abs() < 0.01


def test_sampling_settings_are_passed_on():
    loss = SphereFaceLoss(100, 4, sample_rate=0.3, sample_rule="norm_softmax")
    loss(torch.randn(5, 4), torch.arange(5)).backward()
    assert int(loss.class_weight.grad.any(dim=1).sum()) == 5 + round(0.3 * 95)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"margin": 0}, "margin must be a whole number >= 1"),
        ({"margin": 1.35}, "margin must be a whole number >= 1"),
        ({"annealing": "caffee"}, "annealing must be 'caffe' or 'clcarwin' or 'face_pytorch'; got 'caffee'"),
        ({"easing": -1}, "easing must be a number >= 0"),
        ({"scale": 0}, "scale must be a number above 0"),
        ({"normalize_features": 1}, "normalize_features must be true or false"),
    ],
)
def test_wrong_settings_are_named(settings, message):
    with pytest.raises(SettingsError, match=message):
        SphereFaceLoss(3, 2, **settings)
