import math

import pytest
import torch

from cosphere.errors import SettingsError
from cosphere.losses import NTXentLoss, nt_xent_loss
from cosphere.losses.engine.maths import similarities_held


def cosine(a, b):
    return sum(x * y for x, y in zip(a, b, strict=True)) / math.hypot(*a) / math.hypot(*b)


def by_hand(rows, labels, others, other_labels, temperature, first=0):
    """``first``: the row of the others that row 0 itself is; None for no such row."""
    costs = []
    for i, a in enumerate(rows):
        s = [cosine(a, b) / temperature for b in others]
        itself = None if first is None else first + i
        negatives = sum(math.exp(s[j]) for j in range(len(others)) if other_labels[j] != labels[i])
        for j in range(len(others)):
            if other_labels[j] == labels[i] and j != itself:
                costs.append(math.log(math.exp(s[j]) + negatives) - s[j])
    return sum(costs) / len(costs)


def test_published_value_and_gradient(h6, e4, gradient):
    views = torch.tensor([0, 1, 2, 0, 1, 2])
    assert float(NTXentLoss()(h6[0], views)) == pytest.approx(1.8266359753900685, rel=1e-9)
    assert float(NTXentLoss(base_temperature=0.07)(h6[0], views)) == pytest.approx(13.047399824214773, rel=1e-9)
    assert float(NTXentLoss()(*e4)) == pytest.approx(0.8860777536572334, rel=1e-9)
    want = [
        [0.016511251, -0.0123834383, -0.0316884032],
        [-0.0194038102, 0.0445583376, -0.0334187532],
        [0.0350436346, -0.0467248461, -0.0253771964],
        [-0.0574144609, -0.0643189185, 0.093026149],
        [0.0372906464, -0.0165300272, -0.04555566],
        [-0.274789448, -0.1727657154, 0.2303542871],
    ]
    want = torch.tensor(want).double()
    torch.testing.assert_close(gradient(NTXentLoss(), h6[0], views), want, rtol=1e-7, atol=1e-9)
    scaled = gradient(NTXentLoss(base_temperature=0.25), h6[0], views)
    torch.testing.assert_close(scaled, 2 * want, rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("seed", range(3))
def test_agrees_with_loops(ragged, seed):
    points, labels = ragged(seed)
    rows, names = points.tolist(), labels.tolist()
    want = by_hand(rows, names, rows, names, 0.3)
    assert float(nt_xent_loss(points, labels, temperature=0.3)) == pytest.approx(want, rel=1e-9)
    apart = {"references": points[9:], "reference_labels": labels[9:]}
    if set(names[:9]) & set(names[9:]):
        want = by_hand(rows[:9], names[:9], rows[9:], names[9:], 0.3, first=None)
        assert float(nt_xent_loss(points[:9], labels[:9], temperature=0.3, **apart)) == pytest.approx(want, rel=1e-9)
    among = {"references": points, "reference_labels": labels, "positions": torch.arange(3, 12)}
    want = by_hand(rows[3:12], names[3:12], rows, names, 0.3, first=3)
    assert float(nt_xent_loss(points[3:12], labels[3:12], temperature=0.3, **among)) == pytest.approx(want, rel=1e-9)


@pytest.mark.parametrize("size", [8, 40, 120])
def test_agrees_with_pml(pml, ragged, gradient, size):
    from pytorch_metric_learning.losses import NTXentLoss as Theirs

    batch = ragged(size, size)
    ours, theirs = NTXentLoss(temperature=0.07), Theirs(0.07)
    assert float(ours(*batch)) == pytest.approx(float(theirs(*batch)), rel=1e-9)
    torch.testing.assert_close(gradient(ours, *batch), gradient(theirs, *batch), rtol=1e-7, atol=1e-9)


def test_two_views_of_many_images_are_a_softmax_over_everything_else():
    """256 rows: SimCLR as cross-entropy over the row without its diagonal."""
    rows = torch.randn(256, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    unit = torch.nn.functional.normalize(rows)
    logits = (unit @ unit.T / 0.5).fill_diagonal_(-torch.inf)
    want = torch.nn.functional.cross_entropy(logits, (torch.arange(256) + 128) % 256)
    assert float(NTXentLoss()(rows, torch.arange(256) % 128)) == pytest.approx(float(want), rel=1e-9)


def test_only_the_pairs_of_a_miner_count(pml, ragged):
    from pytorch_metric_learning import losses, miners

    points, labels = ragged(2, 40)
    chosen = miners.PairMarginMiner(0.4, 1.1)(points, labels)
    theirs = float(losses.NTXentLoss(0.2)(points, labels, chosen))
    assert theirs != pytest.approx(float(losses.NTXentLoss(0.2)(points, labels)))
    assert float(NTXentLoss(temperature=0.2)(points, labels, chosen)) == pytest.approx(theirs, rel=1e-9)


def test_blocks_do_not_show(ragged, gradient):
    loss, batch = NTXentLoss(temperature=0.1), ragged(3, 40)
    value, slope = loss(*batch), gradient(loss, *batch)
    for held in (50, 200):
        with similarities_held(held):
            assert float(loss(*batch)) == pytest.approx(float(value), rel=1e-12)
            torch.testing.assert_close(gradient(loss, *batch), slope, rtol=1e-10, atol=1e-14)


class Kept:
    """A tensor that waits for backward; counts what all of them hold at once."""

    held = most = 0

    def __init__(self, tensor):
        self.tensor = tensor
        Kept.held += tensor.numel()
        Kept.most = max(Kept.most, Kept.held)

    def __del__(self):
        Kept.held -= self.tensor.numel()


def test_4096_views_never_hold_all_their_cosines():
    """Two views of 2048 images: the value of the whole matrix, and a few blocks of it in memory."""
    rows = torch.randn(4096, 32, generator=torch.Generator().manual_seed(0)).requires_grad_()
    views = torch.arange(2048).repeat_interleave(2)
    with torch.autograd.graph.saved_tensors_hooks(Kept, lambda kept: kept.tensor):
        loss = NTXentLoss()(rows, views)
    assert Kept.most < 4096 * 4096 / 3
    loss.backward()
    unit = torch.nn.functional.normalize(rows.detach().double())
    logits = (unit @ unit.T / 0.5).fill_diagonal_(-torch.inf)
    want = torch.nn.functional.cross_entropy(logits, torch.arange(4096).view(-1, 2).flip(1).flatten())
    assert loss.item() == pytest.approx(want.item(), rel=1e-5)


def test_a_solved_pair_keeps_its_small_cost():
    """Where log-sum-exp minus the positive would round to zero: e^-50, far below the rounding of 25."""
    points = torch.tensor([[1.0, 0.0], [1.0, 0.0], [-1.0, 0.0]])
    got = float(NTXentLoss(temperature=0.04)(points, torch.tensor([0, 0, 1])))
    assert got == pytest.approx(math.exp(-50), rel=1e-4)


@pytest.mark.parametrize("name", ["temperature", "base_temperature"])
def test_wrong_settings_are_named(name):
    with pytest.raises(SettingsError, match=f"{name} must be a number above 0, finite; got 0"):
        NTXentLoss(**{name: 0})
