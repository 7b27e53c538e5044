import math

import pytest
import torch

from cosphere.errors import SettingsError, SizeError
from cosphere.losses import NormSoftmaxLoss, norm_softmax_loss

W3 = [[2.0, 2.0, 1.0], [0.0, 3.0, 4.0], [2.0, -1.0, 2.0]]


def cosine(a, b):
    return sum(x * y for x, y in zip(a, b, strict=True)) / math.hypot(*a) / math.hypot(*b)


def by_hand(rows, labels, weights, temperature):
    values = []
    for row, label in zip(rows, labels, strict=True):
        logits = [cosine(row, weight) / temperature for weight in weights]
        top = max(logits)
        values.append(top + math.log(sum(math.exp(v - top) for v in logits)) - logits[label])
    return values


@pytest.fixture
def loss():
    module = NormSoftmaxLoss(3, 3).double()
    with torch.no_grad():
        module.class_weight.copy_(torch.tensor(W3))
    return module


def test_official_value_and_both_gradients(h6, loss, gradient):
    assert loss(*h6).item() == pytest.approx(5.837199138130863, rel=1e-9)
    want = [
        [-3.03369e-05, 2.27526e-05, 3.59389e-05],
        [-0.2219394152, -0.0887761974, 0.0665821481],
        [0.1386671805, -0.184889574, -0.3111064874],
        [0.2206306759, 0.0311437245, -0.1414590624],
        [2.8752e-06, 7.4051e-06, 8.274e-07],
        [-2.1985985744, 0.9154545504, -1.2206060672],
    ]
    torch.testing.assert_close(gradient(loss, *h6), torch.tensor(want).double(), rtol=1e-7, atol=1e-9)
    want = [
        [0.601039957, -0.1696917159, -0.8626964821],
        [-0.5980292189, -0.128932145, 0.0966991088],
        [0.0987706879, -0.9382289305, -0.5678851532],
    ]
    torch.testing.assert_close(loss.class_weight.grad, torch.tensor(want).double(), rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("temperature", [0.05, 0.5])
def test_per_sample_values_agree_with_loops(temperature):
    generator = torch.Generator().manual_seed(0)
    points = torch.randn(9, 4, generator=generator, dtype=torch.float64)
    weights = torch.randn(5, 4, generator=generator, dtype=torch.float64)
    labels = torch.randint(5, (9,), generator=generator)
    got = norm_softmax_loss(points, labels, weights, temperature=temperature)
    want = by_hand(points.tolist(), labels.tolist(), weights.tolist(), temperature)
    assert got.tolist() == pytest.approx(want, rel=1e-9)


def test_agrees_with_pml(pml, h6, loss):
    from pytorch_metric_learning.losses import NormalizedSoftmaxLoss

    theirs = NormalizedSoftmaxLoss(3, 3, temperature=0.05)
    theirs.W = torch.nn.Parameter(torch.tensor(W3).double().T)
    assert loss(*h6).item() == pytest.approx(theirs(*h6).item(), rel=1e-9)


def test_class_weights_are_checked_by_finite_differences(h6):
    points = h6[0].requires_grad_()
    weights = torch.tensor(W3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x, w: norm_softmax_loss(x, h6[1], w, temperature=0.5), (points, weights))


def test_class_weights_start_within_one_over_root_d():
    torch.manual_seed(0)
    weight = NormSoftmaxLoss(1000, 16).class_weight.detach()
    assert weight.shape == (1000, 16)
    assert weight.abs().max() <= 0.25
    assert weight.std() == pytest.approx(0.5 / math.sqrt(12), rel=0.02)  # of a uniform draw that is 0.5 wide


def test_rows_without_a_direction_are_left_out_of_the_mean(h6, loss):
    points = torch.cat([h6[0], torch.zeros(2, 3, dtype=torch.float64)])
    labels = torch.cat([h6[1], torch.tensor([0, 1])])
    assert loss(points, labels).item() == pytest.approx(5.837199138130863, rel=1e-9)


def test_class_weights_that_are_not_finite_show_in_the_loss(h6, loss):
    with torch.no_grad():
        loss.class_weight[2, 0] = math.nan
    assert loss(*h6).isnan()


@pytest.mark.parametrize("wrong", [3, -1, 2**62])
def test_a_label_out_of_range_is_named(h6, loss, wrong):
    labels = h6[1].clone()
    labels[2] = wrong
    with pytest.raises(SizeError, match=rf"labels run from .*{wrong}.* the loss has 3 classes: want 0 to 2"):
        loss(h6[0], labels)


def test_another_width_is_named(h6):
    with pytest.raises(SizeError, match=r"want class weights \(C, 3\) .* Build the loss with embedding_dim=3"):
        NormSoftmaxLoss(3, 4)(h6[0].float(), h6[1])


def test_another_device_is_named(h6):
    with pytest.raises(SizeError, match=r"the loss is on meta, embeddings on cpu"):
        NormSoftmaxLoss(3, 3).to("meta")(h6[0].float(), h6[1])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_classes": 0, "embedding_dim": 2}, "num_classes must be a whole number from 1 to 100000000; got 0"),
        ({"num_classes": 2, "embedding_dim": 2.0}, "embedding_dim must be a whole number from 1 to 65536; got 2.0"),
        ({"num_classes": 2, "embedding_dim": 2, "temperature": 0}, "temperature must be a number above 0"),
    ],
)
def test_wrong_settings_are_named(arguments, message):
    with pytest.raises(SettingsError, match=message):
        NormSoftmaxLoss(**arguments)


def test_sampling_is_by_its_own_rule():
    loss = NormSoftmaxLoss(100, 4, sample_rate=0.3)
    loss(torch.randn(5, 4), torch.arange(5)).backward()
    assert int(loss.class_weight.grad.any(dim=1).sum()) == 5 + round(0.3 * 95)
    assert loss.class_weight.grad[:5].any(dim=1).all()


def test_one_sample_may_be_checked_against_a_part_of_the_classes(h6):
    weights = torch.tensor(W3, dtype=torch.float64)
    got = norm_softmax_loss(h6[0][:2], h6[1][:2], weights, temperature=0.05, sampled=torch.tensor([0, 2]))
    want = by_hand(h6[0][:2].tolist(), [0, 0], [W3[0], W3[2]], 0.05)
    assert got.tolist() == pytest.approx(want, rel=1e-9)
