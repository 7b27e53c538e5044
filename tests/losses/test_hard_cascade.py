import math

import pytest
import torch

from cosphere.errors import SettingsError, SizeError
from cosphere.losses.engine.maths import similarities_held
from cosphere.losses.hard_cascade import HardCascadeLoss, hard_cascade_loss


def squared(a, b):
    unit_a, unit_b = ([x / math.hypot(*row) for x in row] for row in (a, b))
    return sum((x - y) ** 2 for x, y in zip(unit_a, unit_b, strict=True))


def all_pairs(labels, other_labels=None):
    """Positive pairs once, negative ones from either side; against others every pair once."""
    if other_labels is not None:
        every = [(i, j) for i in range(len(labels)) for j in range(len(other_labels))]
        return tuple([p for p in every if (labels[p[0]] == other_labels[p[1]]) == same] for same in (True, False))
    every = [(i, j) for i in range(len(labels)) for j in range(len(labels)) if i != j]
    positive = [(i, j) for i, j in every if labels[i] == labels[j] and i < j]
    return positive, [(i, j) for i, j in every if labels[i] != labels[j]]


def by_hand(heads, pairs, ratios, margin, *, nested=False, others=None):
    """The loss, and the pairs that each head kept and that cost something."""
    total, costly = 0.0, []
    positive, negative = pairs
    for number, (head, ratio) in enumerate(zip(heads, ratios, strict=True)):
        rows, columns = head.tolist(), (head if others is None else others[number]).tolist()
        d = {pair: squared(rows[pair[0]], columns[pair[1]]) for pair in [*positive, *negative]}
        counted = [pair for pair in positive if d[pair] > 1e-12]
        near = sorted(counted, key=lambda pair: -d[pair])[: int(len(counted) * ratio)]
        far = sorted(negative, key=d.get)[: int(len(negative) * ratio)]
        costs = [d[pair] for pair in near] + [max(margin - d[pair], 0.0) for pair in far]
        total += sum(costs) / max(sum(cost > 0 for cost in costs), 1)
        costly.append((near, [pair for pair in far if d[pair] < margin]))
        if nested:
            positive, negative = near, far
    return total, costly


def gradient_by_autograd(x, dims, costly, margin):
    """Of the loss over pairs known beforehand."""
    leaf = x.clone().requires_grad_()
    total = 0
    for head, (near, far) in zip(leaf.split(dims, dim=1), costly, strict=True):
        unit = head / head.norm(dim=1, keepdim=True)
        (a, p), (b, n) = (torch.tensor(pairs).T for pairs in (near, far))
        costs = (unit[a] - unit[p]).square().sum() + (margin - (unit[b] - unit[n]).square().sum(dim=1)).sum()
        total = total + costs / (len(near) + len(far))
    total.backward()
    return leaf.grad


@pytest.mark.parametrize(
    ("ratio", "want"), [(1.0, 0.8053333333333335), (0.5, 0.797948717948718), (0.2, 0.9199999999999999)]
)
def test_official_values(h6, ratio, want):
    assert float(HardCascadeLoss(hard_ratios=[ratio])(*h6)) == pytest.approx(want, rel=1e-9)


def test_hand_example(e4):
    # Positives .8 and 2. Negatives: only d = .4 is nearer than 1, from both sides. With h = .5: 1 positive, 4 negatives.
    assert float(HardCascadeLoss()(*e4)) == pytest.approx((0.8 + 2 + 2 * 0.6) / 4)
    assert float(HardCascadeLoss(hard_ratios=(0.5,))(*e4)) == pytest.approx((2 + 2 * 0.6) / 3)
    assert float(HardCascadeLoss(hard_ratios=(0.125,))(*e4)) == pytest.approx(0.6)  # one side of that negative
    assert float(HardCascadeLoss(hard_ratios=(0.1,))(*e4)) == 0  # no pair at all


@pytest.mark.parametrize("margin", [0.6, 1.0, 2.7])
@pytest.mark.parametrize("cascade", ["independent", "nested"])
def test_agrees_with_loops(ragged, gradient, cascade, margin):
    ratios, dims = (0.9, 0.6, 0.3), (2, 3, 4)
    for seed in range(4):
        x, labels = ragged(seed, size=24, dim=9)
        labels = labels % 5  # positives enough
        heads = x.split(dims, dim=1)
        want, costly = by_hand(heads, all_pairs(labels.tolist()), ratios, margin, nested=cascade == "nested")
        assert all(near and far for near, far in costly)
        loss = HardCascadeLoss(hard_ratios=ratios, head_dims=dims, cascade=cascade, margin=margin)
        slope = gradient_by_autograd(x, dims, costly, margin)
        for held in (50, 2**20):
            with similarities_held(held):
                assert float(loss(x, labels)) == pytest.approx(want, rel=1e-9)
                torch.testing.assert_close(gradient(loss, x, labels), slope, rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("cascade", ["independent", "nested"])
def test_the_papers_three_heads(ragged, cascade):
    """The first keeps everything, and here passes everything on."""
    x, labels = ragged(7, size=30, dim=6)
    pairs = all_pairs(labels.tolist())
    want, _ = by_hand(x.split(2, dim=1), pairs, (1, 0.5, 0.2), 1.0, nested=cascade == "nested")
    assert float(hard_cascade_loss(x, labels, hard_ratios=(1, 0.5, 0.2), cascade=cascade)) == pytest.approx(
        want, rel=1e-9
    )
    other, _ = by_hand(x.split(2, dim=1), pairs, (1, 0.5, 0.2), 1.0, nested=cascade != "nested")
    assert want != pytest.approx(other, rel=1e-3)  # this batch can tell the two apart


@pytest.mark.parametrize("cascade", ["independent", "nested"])
def test_against_references_every_pair_counts_once(ragged, cascade):
    x, labels = ragged(1, size=20, dim=6)
    labels = labels % 4
    first, second = x[:8], x[8:]
    pairs = all_pairs(labels[:8].tolist(), labels[8:].tolist())
    want, _ = by_hand(first.split(3, 1), pairs, (0.7, 0.5), 1.0, nested=cascade == "nested", others=second.split(3, 1))
    loss = HardCascadeLoss(hard_ratios=(0.7, 0.5), cascade=cascade)
    assert float(loss(first, labels[:8], references=second, reference_labels=labels[8:])) == pytest.approx(
        want, rel=1e-9
    )


@pytest.mark.parametrize("held", [2**20, 40])
def test_chosen_pairs(ragged, held):
    x, labels = ragged(2, size=20, dim=4)[0], torch.arange(20) % 3
    positive, negative = all_pairs(labels.tolist())
    both = positive + [(j, i) for i, j in positive]
    some_sides = [
        pair for number, pair in enumerate(both) if number % 5
    ]  # of some both sides, of some the later one only
    chosen = {tuple(sorted(pair)) for pair in some_sides}
    assert any(pair not in some_sides for pair in chosen)
    for listed, wanted in ((both, positive), (some_sides, [pair for pair in positive if pair in chosen])):
        want, _ = by_hand([x], (wanted, negative[::2]), [0.4], 1.0)
        tuples = tuple(torch.tensor(side) for pairs in (listed, negative[::2]) for side in zip(*pairs, strict=True))
        with similarities_held(held):
            assert float(HardCascadeLoss(hard_ratios=[0.4])(x, labels, tuples)) == pytest.approx(want, rel=1e-9)


def test_identical_positives_are_not_counted():
    x = torch.tensor([[1.0, 2.0], [1.0, 2.0], [3.0, 1.0], [2.0, 2.5]], dtype=torch.float64)
    labels = torch.tensor([0, 0, 0, 1])
    want, costly = by_hand([x], all_pairs(labels.tolist()), [0.5], 3.0)
    assert len(costly[0][0]) == 1  # of three pairs two count, and half of them are kept
    assert float(HardCascadeLoss(hard_ratios=[0.5], margin=3)(x, labels)) == pytest.approx(want)
    # In float32 the cosine of two equal rows misses 1 by rounding. Lengths do not make images different.
    generator = torch.Generator().manual_seed(0)
    rows = torch.randn(64, 700, generator=generator)
    twice = torch.cat([rows, rows * 3.7])
    only_twins = HardCascadeLoss(margin=1e-3)(twice, torch.arange(64).repeat(2))
    assert only_twins == 0


def test_a_row_without_direction_in_one_head(ragged):
    x, labels = ragged(3, size=16, dim=4)
    labels = labels % 3
    x[5, :2] = 0
    rest = torch.arange(16) != 5
    settings = {"hard_ratios": (0.8, 0.5)}
    nested = HardCascadeLoss(**settings, cascade="nested")
    assert float(nested(x, labels)) == pytest.approx(float(nested(x[rest], labels[rest])), rel=1e-12)
    apart = HardCascadeLoss(**settings)(x, labels)
    one = HardCascadeLoss(hard_ratios=[0.8])(x[rest, :2], labels[rest])
    assert float(apart) == pytest.approx(float(one + HardCascadeLoss(hard_ratios=[0.5])(x[:, 2:], labels)), rel=1e-12)


def test_what_is_not_finite_ends(ragged):
    x, labels = ragged(4, size=30, dim=6)
    for bad in (math.nan, math.inf):
        x[3, 1] = bad
        for cascade in ("independent", "nested"):
            assert HardCascadeLoss(hard_ratios=(0.5, 0.5), cascade=cascade)(x, labels).isnan()


def test_settings_out_of_range():
    with pytest.raises(SettingsError, match=r"each of hard_ratios must be a number in \(0, 1\]; got 1\.5"):
        HardCascadeLoss(hard_ratios=(1.0, 1.5))
    with pytest.raises(SettingsError, match="each of hard_ratios must be a number above 0, finite; got 0"):
        HardCascadeLoss(hard_ratios=[0])
    with pytest.raises(
        SettingsError, match=r"want one of hard_ratios for each head, got \(1\.0,\) and head_dims \(2, 2\)"
    ):
        HardCascadeLoss(head_dims=(2, 2))
    with pytest.raises(SettingsError, match="head_dims must be a whole number >= 1; got 0"):
        HardCascadeLoss(hard_ratios=(1, 1), head_dims=(4, 0))
    with pytest.raises(SettingsError, match="head_dims must be a list, one number for each head; got 64"):
        HardCascadeLoss(head_dims=64)
    with pytest.raises(SettingsError, match=r"hard_ratios must be a list, one number for each head; got 0\.5"):
        HardCascadeLoss(hard_ratios=0.5)
    with pytest.raises(SettingsError, match="margin must be a number above 0"):
        HardCascadeLoss(margin=0)
    with pytest.raises(SettingsError, match="cascade must be 'independent' or 'nested'"):
        HardCascadeLoss(cascade="deep")


def test_heads_that_do_not_fit(h6):
    with pytest.raises(SizeError, match="2 heads do not divide 3 columns evenly; give head_dims="):
        HardCascadeLoss(hard_ratios=(1, 1))(*h6)
    with pytest.raises(SizeError, match=r"add up to the 3 of the embeddings, got \(2, 2\)"):
        HardCascadeLoss(hard_ratios=(1, 1), head_dims=(2, 2))(*h6)
