import math

import pytest
import torch

from cosphere.errors import SettingsError
from cosphere.losses import MultiSimilarityLoss, multi_similarity_loss
from cosphere.losses.engine.maths import similarities_held


def cosine(a, b):
    return sum(x * y for x, y in zip(a, b, strict=True)) / math.hypot(*a) / math.hypot(*b)


def by_hand(rows, labels, others, other_labels, *, first=0, alpha, beta, base, mining):
    """Per-anchor losses; None for an anchor that is skipped. ``first``: the row of the others that row 0 itself is."""
    values = []
    for i, a in enumerate(rows):
        s = [cosine(a, b) for b in others]
        itself = None if first is None else first + i
        positives = [s[j] for j in range(len(others)) if other_labels[j] == labels[i] and j != itself]
        negatives = [s[j] for j in range(len(others)) if other_labels[j] != labels[i]]
        if not positives or not negatives:
            values.append(None)
            continue
        if mining is not None:
            low, high = min(positives), max(negatives)
            negatives = [v for v in negatives if v + mining > low]
            positives = [v for v in positives if v - mining < high]
        if not positives or not negatives:
            values.append(None)
            continue
        pull = math.log1p(sum(math.exp(-alpha * (v - base)) for v in positives)) / alpha
        push = math.log1p(sum(math.exp(beta * (v - base)) for v in negatives)) / beta
        values.append(pull + push)
    return values


def test_official_value_and_gradient(h6, e4, gradient):
    loss = MultiSimilarityLoss()
    assert float(loss(*h6)) == pytest.approx(0.7812202406700285, rel=1e-9)
    assert float(loss(*e4)) == pytest.approx(0.3889251464148954, rel=1e-9)
    assert float(MultiSimilarityLoss(divisor="kept")(*e4)) == pytest.approx(2 * 0.3889251464148954, rel=1e-9)
    want = [
        [0.0247233642, -0.0185425232, -0.0271935321],
        [-0.0059875023, -0.0018153284, 0.0013614963],
        [-0.0056183331, 0.0074911108, -0.018526978],
        [-0.0501140505, -0.0040892067, 0.029146232],
        [0.0034476602, -0.0294386722, -0.0181669963],
        [-0.1081213054, 0.0473376606, -0.0631168808],
    ]
    torch.testing.assert_close(gradient(loss, *h6), torch.tensor(want).double(), rtol=1e-7, atol=1e-9)


def test_without_mining_has_the_pml_default_value(h6, gradient):
    loss = MultiSimilarityLoss(beta=50, mining=None)
    assert float(loss(*h6)) == pytest.approx(0.7795008923784983, rel=1e-9)
    want = torch.tensor([-0.1107526539, 0.0453127878, -0.0604170504]).double()
    torch.testing.assert_close(gradient(loss, *h6)[5], want, rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("mining", [None, 0.0, 0.1, 0.5])
@pytest.mark.parametrize("seed", range(3))
def test_agrees_with_loops(ragged, mining, seed):
    points, labels = ragged(seed)
    options = {"alpha": 1.5, "beta": 12.0, "base": 0.3, "mining": mining}
    rows, names = points.tolist(), labels.tolist()
    values = by_hand(rows, names, rows, names, **options)
    kept = [value for value in values if value is not None]
    assert float(multi_similarity_loss(points, labels, **options)) == pytest.approx(sum(kept) / len(rows), rel=1e-9)
    got = multi_similarity_loss(points, labels, divisor="kept", **options)
    assert float(got) == pytest.approx(sum(kept) / len(kept), rel=1e-9)
    values = by_hand(rows[:6], names[:6], rows[3:], names[3:], first=None, **options)
    got = multi_similarity_loss(points[:6], labels[:6], references=points[3:], reference_labels=labels[3:], **options)
    assert float(got) == pytest.approx(sum(value or 0.0 for value in values) / 6, rel=1e-9)
    values = by_hand(rows[2:8], names[2:8], rows, names, first=2, **options)
    among = {"references": points, "reference_labels": labels, "positions": torch.arange(2, 8)}
    got = multi_similarity_loss(points[2:8], labels[2:8], **among, **options)
    assert float(got) == pytest.approx(sum(value or 0.0 for value in values) / 6, rel=1e-9)


@pytest.mark.parametrize("size", [8, 60, 256])
def test_agrees_with_pml(pml, ragged, gradient, size):
    from pytorch_metric_learning import losses, miners

    batch = ragged(size, size)
    miner, criterion = miners.MultiSimilarityMiner(0.1), losses.MultiSimilarityLoss(2, 40, 0.5)

    def mined(x, y):
        return criterion(x, y, miner(x, y))

    assert float(MultiSimilarityLoss()(*batch)) == pytest.approx(float(mined(*batch)), rel=1e-9)
    mine = gradient(MultiSimilarityLoss(), *batch)
    torch.testing.assert_close(mine, gradient(mined, *batch), rtol=1e-7, atol=1e-10)


@pytest.mark.parametrize("divisor", ["batch", "kept"])
def test_anchors_with_one_side_count_in_the_form_of_the_paper(pml, divisor):
    """Equation 15: the second image of class 1 is alone, so its anchor has negatives only; the authors' code skips it."""
    rows = torch.tensor([[1.0, 0.0], [0.8, 0.6], [0.0, 1.0]], dtype=torch.float64)
    labels = torch.tensor([0, 0, 1])
    settings = {"alpha": 2.0, "beta": 50.0, "base": 0.5, "mining": None}
    pull = math.log1p(math.exp(-2 * (0.8 - 0.5))) / 2
    push = [
        math.log1p(math.exp(50 * (0.0 - 0.5))) / 50,
        math.log1p(math.exp(50 * (0.6 - 0.5))) / 50,
        math.log1p(math.exp(50 * (0.0 - 0.5)) + math.exp(50 * (0.6 - 0.5))) / 50,
    ]
    every = MultiSimilarityLoss(**settings, divisor=divisor, anchors="all")(rows, labels)
    assert every.item() == pytest.approx((2 * pull + sum(push)) / 3, rel=1e-12)
    from pytorch_metric_learning import losses

    theirs = losses.MultiSimilarityLoss(alpha=2, beta=50, base=0.5)
    assert every.item() == pytest.approx(theirs(rows, labels).item(), rel=1e-9)
    both = MultiSimilarityLoss(**settings, divisor=divisor)(rows, labels)
    assert both.item() == pytest.approx((2 * pull + push[0] + push[1]) / (3 if divisor == "batch" else 2), rel=1e-12)


def test_mining_leaves_no_anchor_with_one_side(ragged):
    for seed in range(4):
        rows, labels = ragged(seed)
        assert MultiSimilarityLoss(anchors="all")(rows, labels) == MultiSimilarityLoss()(rows, labels)


def test_the_library_miner_and_our_own_mining_are_one(pml, ragged):
    from pytorch_metric_learning import miners

    points, labels = ragged(5, 60)
    classes = labels.unique(return_inverse=True)[1]
    points = points + 6 * torch.eye(60, dtype=torch.float64)[classes, :5]  # the first classes lie close
    chosen = miners.MultiSimilarityMiner(0.1)(points, labels)
    assert 0 < len(chosen[0]) < sum(int((labels == label).sum()) - 1 for label in labels)
    got = MultiSimilarityLoss(mining=None)(points, labels, chosen)
    assert float(got) == pytest.approx(float(MultiSimilarityLoss()(points, labels)), rel=1e-12)


@pytest.mark.parametrize("settings", [{}, {"mining": None}, {"divisor": "kept"}])
def test_blocks_do_not_show(ragged, gradient, settings):
    loss, batch = MultiSimilarityLoss(**settings), ragged(3, 40)
    value, slope = loss(*batch), gradient(loss, *batch)
    for held in (50, 200):
        with similarities_held(held):
            assert float(loss(*batch)) == pytest.approx(float(value), rel=1e-12)
            torch.testing.assert_close(gradient(loss, *batch), slope, rtol=1e-10, atol=1e-14)


def test_references_without_a_common_class_give_zero():
    points = torch.tensor([[1.0, 0.0], [0.6, 0.8]], requires_grad=True)
    for mining in (None, 0.1):
        loss = MultiSimilarityLoss(mining=mining)
        value = loss(points, torch.tensor([0, 1]), references=points.detach(), reference_labels=torch.tensor([2, 3]))
        value.backward()
        assert value == 0
        assert not points.grad.any()


def test_a_duplicate_survives_although_its_cosine_is_one():
    """The official code takes every cosine above 1 - 1e-5 for self and drops it."""
    points = torch.tensor([[1.0, 0.0], [3.0, 0.0], [0.6, 0.8]])
    got = float(MultiSimilarityLoss(mining=None)(points, torch.tensor([0, 0, 1])))
    anchor = math.log1p(math.exp(-1)) / 2 + math.log1p(math.exp(4)) / 40
    assert got == pytest.approx(2 * anchor / 3, rel=1e-6)


def test_large_beta_does_not_overflow(h6):
    embeddings = h6[0].half().requires_grad_()
    loss = MultiSimilarityLoss(beta=1000.0)(embeddings, h6[1])
    loss.backward()
    assert loss.isfinite()
    assert embeddings.grad.isfinite().all()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"alpha": 0}, "alpha must be a number above 0"),
        ({"beta": -1.0}, "beta must be a number above 0"),
        ({"base": "x"}, "base must be a number, finite; got 'x'"),
        ({"mining": -0.1}, "mining must be a number >= 0"),
        ({"divisor": "all"}, "divisor must be 'batch' or 'kept'; got 'all'"),
    ],
)
def test_wrong_settings_are_named(settings, message):
    with pytest.raises(SettingsError, match=message):
        MultiSimilarityLoss(**settings)
