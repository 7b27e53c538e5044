import math

import pytest
import torch

from cosphere.errors import SettingsError, SizeError
from cosphere.losses import HeatedUpSoftmaxLoss, heated_up_softmax_loss

W3 = torch.tensor([[2.0, 2.0, 1.0], [0.0, 3.0, 4.0], [2.0, -1.0, 2.0]], dtype=torch.float64)


def cosine(a, b):
    return sum(x * y for x, y in zip(a, b, strict=True)) / math.hypot(*a) / math.hypot(*b)


def by_hand(row, label, weights, scale, bias):
    logits = [scale * cosine(row, weight) + shift for weight, shift in zip(weights, bias, strict=True)]
    top = max(logits)
    return top + math.log(sum(math.exp(value - top) for value in logits)) - logits[label]


@pytest.mark.parametrize(
    ("scale", "rest", "pull"),
    [
        (1.0, 0.5135854664351533, 0.5135854664351533),
        (4.0, 0.14973034899681759, 0.5989213959872703),
        (16.0, 0.00033810904408393405, 0.005409744705342945),
    ],
)
def test_gradient_is_alpha_times_what_is_not_yet_probable(scale, rest, pull):
    """Cosines 0.6 to the own class, 0.1 and -0.2 to the others; each weight leans into a dimension of its own."""
    cosines = [0.6, 0.1, -0.2]
    point = torch.tensor([[2.0, 0, 0, 0]], dtype=torch.float64)
    weights = torch.zeros(3, 4, dtype=torch.float64)
    for k, value in enumerate(cosines):
        weights[k, 0], weights[k, k + 1] = value, math.sqrt(1 - value**2)
    weights.requires_grad_()
    loss = heated_up_softmax_loss(point, torch.tensor([0]), weights, scale=scale)
    loss.sum().backward()
    assert 1 - math.exp(-loss.item()) == pytest.approx(rest, rel=1e-9)
    # d cosine / d weight has the length of the sine.
    assert weights.grad[0].norm().item() / 0.8 == pytest.approx(pull, rel=1e-9)


def test_without_a_bias_it_is_the_normalised_softmax(h6, gradient):
    """Its oracle, temperature 0.05."""

    def loss(points, labels):
        return heated_up_softmax_loss(points, labels, W3, scale=20.0).mean()

    assert loss(*h6).item() == pytest.approx(5.837199138130863, rel=1e-9)
    want = torch.tensor([0.2206306759, 0.0311437245, -0.1414590624]).double()
    torch.testing.assert_close(gradient(loss, *h6)[3], want, rtol=1e-7, atol=1e-8)


@pytest.mark.parametrize("scale", [16.0, 4.0])
def test_per_sample_values_agree_with_loops(scale):
    generator = torch.Generator().manual_seed(0)
    points = torch.randn(9, 4, generator=generator, dtype=torch.float64)
    weights = torch.randn(5, 4, generator=generator, dtype=torch.float64)
    bias = torch.randn(5, generator=generator, dtype=torch.float64)
    labels = torch.randint(5, (9,), generator=generator)
    for shift in (bias, None):
        got = heated_up_softmax_loss(points, labels, weights, scale=scale, bias=shift)
        rows = zip(points.tolist(), labels.tolist(), strict=True)
        numbers = [0.0] * 5 if shift is None else shift.tolist()
        want = [by_hand(row, label, weights.tolist(), scale, numbers) for row, label in rows]
        assert got.tolist() == pytest.approx(want, rel=1e-9)


def test_batch_normed_rows_keep_their_length_and_alpha_is_divided():
    """The official code's --bn: alpha / sqrt(64) for its 64 dimensions."""
    generator = torch.Generator().manual_seed(0)
    points = torch.nn.functional.batch_norm(
        torch.randn(9, 64, generator=generator, dtype=torch.float64), None, None, training=True
    )
    weights = torch.randn(5, 64, generator=generator, dtype=torch.float64)
    bias = torch.randn(5, generator=generator, dtype=torch.float64)
    labels = torch.arange(9) % 5
    found = heated_up_softmax_loss(points, labels, weights, scale=16.0, bias=bias, normalize_features=False)
    logits = 16 / 8 * points @ torch.nn.functional.normalize(weights).T + bias
    want = torch.nn.functional.cross_entropy(logits, labels, reduction="none")
    torch.testing.assert_close(found, want, rtol=1e-9, atol=0)
    loss = HeatedUpSoftmaxLoss(5, 64, normalize_features=False).double()
    loss.class_weight.data, loss.class_bias.data = weights, bias
    assert loss(points, labels).item() == pytest.approx(want.mean().item(), rel=1e-9)


@pytest.mark.parametrize("sampled", [None, torch.tensor([0, 2, 3])], ids=["all", "sampled"])
def test_every_gradient_by_finite_differences(sampled):
    generator = torch.Generator().manual_seed(0)
    points, weights, bias = (
        torch.randn(*shape, generator=generator, dtype=torch.float64, requires_grad=True)
        for shape in [(5, 3), (4, 3), (4,)]
    )
    scale = torch.tensor(4.0, dtype=torch.float64, requires_grad=True)
    labels = torch.tensor([0, 2, 2, 3, 0])
    assert torch.autograd.gradcheck(
        lambda x, w, b, s: heated_up_softmax_loss(x, labels, w, scale=s, bias=b, sampled=sampled),
        (points, weights, bias, scale),
    )


def scales(steps, **settings):
    loss = HeatedUpSoftmaxLoss(3, 3, total_steps=8, **settings)
    seen = []
    for _ in range(steps):
        seen.append(float(loss.scale_now()))
        loss(torch.eye(3), torch.arange(3))
    return seen


def test_schedules_step_by_step():
    assert scales(10) == [16] * 6 + [4] * 4
    assert scales(10, heat_from=0.5, scale=8.0, heat=0.5) == [8] * 4 + [4] * 6
    assert scales(10, heat_from=0.0) == [4] * 10
    assert scales(10, heat_from=1.0) == [16] * 8 + [4] * 2
    assert scales(10, schedule="constant") == [16] * 10
    want = [16] * 4 + [16 * 0.25 ** (k / 4) for k in range(5)] + [4]
    assert scales(10, schedule="geometric", heat_from=0.5) == pytest.approx(want, rel=1e-12)
    want = [16 * 0.25 ** (k / 8) for k in range(9)] + [4]
    assert scales(10, schedule="geometric", heat_from=0.0) == pytest.approx(want, rel=1e-12)
    assert scales(9, schedule="geometric", heat_from=1.0) == [16] * 8 + [4]


def test_the_default_is_the_official_run_on_cars():
    loss = HeatedUpSoftmaxLoss(98, 64)
    epoch = math.ceil(8054 / 32)
    for step, want in [(60 * epoch - 1, 16), (60 * epoch, 4), (80 * epoch, 4)]:
        loss.steps.fill_(step)
        assert loss.scale_now() == want
    assert loss.total_steps == 80 * epoch


def test_the_step_is_taken_before_the_scale_changes(h6):
    loss = HeatedUpSoftmaxLoss(3, 3, total_steps=4, bias=False).double()
    want = [heated_up_softmax_loss(*h6, loss.class_weight, scale=s).mean().item() for s in (16, 16, 16, 4, 4)]
    assert [loss(*h6).item() for _ in range(5)] == pytest.approx(want, rel=1e-12)


def test_the_schedule_stands_still_in_evaluation_and_survives_saving(h6):
    loss = HeatedUpSoftmaxLoss(3, 3, total_steps=4).double()
    for _ in range(3):
        loss(*h6)
    loss.eval()
    assert loss(*h6) == loss(*h6)
    assert int(loss.steps) == 3
    other = HeatedUpSoftmaxLoss(3, 3, total_steps=4).double()
    other.load_state_dict(loss.state_dict())
    assert other.scale_now() == 4
    assert other.eval()(*h6) == loss(*h6)


def test_a_learned_scale_moves_and_stays_above_zero(h6):
    loss = HeatedUpSoftmaxLoss(3, 3, schedule="learned", scale=2.0).double()
    assert loss.scale_now().item() == pytest.approx(2)
    assert dict(loss.named_parameters()).keys() == {"class_weight", "class_bias", "log_scale"}
    optimiser = torch.optim.SGD([loss.log_scale], lr=1.0)
    first = loss(*h6)
    for _ in range(20):
        optimiser.zero_grad()
        loss(*h6).backward()
        optimiser.step()
    assert 0 < loss.scale_now().item() != pytest.approx(2, abs=0.1)
    assert loss(*h6) < first


def test_class_weights_and_biases_start_as_the_official_code_does():
    torch.manual_seed(0)
    loss = HeatedUpSoftmaxLoss(1000, 16)
    assert loss.class_weight.std().item() == pytest.approx(0.25, rel=0.02)
    assert loss.class_bias.shape == (1000,)
    assert not loss.class_bias.any()
    loss(torch.randn(3, 16), torch.tensor([0, 1, 2])).backward()
    assert loss.class_bias.grad.all()
    assert HeatedUpSoftmaxLoss(10, 4, bias=False).class_bias is None


def test_biases_of_classes_left_out_rest():
    loss = HeatedUpSoftmaxLoss(100, 4, sample_rate=0.3, sample_rule="norm_softmax")
    loss(torch.randn(5, 4), torch.arange(5)).backward()
    seen = loss.class_weight.grad.any(dim=1)
    assert int(seen.sum()) == 5 + round(0.3 * 95)
    assert torch.equal(loss.class_bias.grad != 0, seen)


def test_a_bias_that_does_not_fit_is_named(h6):
    with pytest.raises(SizeError, match=r"want a bias \(3,\), one number a class; got \(2,\)"):
        heated_up_softmax_loss(*h6, W3, scale=16.0, bias=torch.zeros(2))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"scale": 0}, "scale must be a number above 0"),
        ({"heat": -1}, "heat must be a number above 0"),
        ({"schedule": "linear"}, "schedule must be 'step' or 'geometric' or 'learned' or 'constant'; got 'linear'"),
        ({"heat_from": 1.5}, r"heat_from is a share of total_steps, at most 1; got 1\.5"),
        ({"heat_from": -1}, "heat_from must be a number >= 0"),
        ({"total_steps": 0}, "total_steps must be a whole number >= 1"),
        ({"bias": 1}, "bias must be true or false"),
    ],
)
def test_wrong_settings_are_named(settings, message):
    with pytest.raises(SettingsError, match=message):
        HeatedUpSoftmaxLoss(3, 2, **settings)
