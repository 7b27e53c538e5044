import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils._python_dispatch import TorchDispatchMode

from cosphere.errors import SettingsError, SizeError
from cosphere.losses import (
    BatchHardTripletLoss,
    SemihardTripletLoss,
    TripletLoss,
    similarities_held,
    triplet_loss,
)
from cosphere.losses.engine import triplets


def distance(a, b, squared):
    cosine = sum(x * y for x, y in zip(a, b, strict=True)) / math.hypot(*a) / math.hypot(*b)
    square = max(2 - 2 * cosine, 0.0)
    return square if squared else math.sqrt(square)


def hinges_by_hand(rows, labels, others, other_labels, *, same_set, margin, squared):
    found = []
    for i, a in enumerate(rows):
        d = [distance(a, b, squared) for b in others]
        for p in range(len(others)):
            for q in range(len(others)):
                if other_labels[p] == labels[i] != other_labels[q] and not (same_set and p == i):
                    found.append(max(margin + d[p] - d[q], 0.0))
    return found


def mean(values, reduction):
    kept = values if reduction == "mean_all" else [v for v in values if v > 0]
    return sum(kept) / max(len(kept), 1)


def test_official_value_and_gradient(h6, gradient):
    assert float(TripletLoss()(*h6)) == pytest.approx(1.354074074074074, rel=1e-9)
    want = [
        [0.0490666667, -0.0368, -0.0422222222],
        [-0.01, -0.0311111111, 0.0233333333],
        [0.012, -0.016, -0.02],
        [-0.1144032922, -0.0436213992, 0.1008230453],
        [0.0349794239, -0.0082304527, -0.0390946502],
        [-0.1555555556, 0.336, -0.448],
    ]
    torch.testing.assert_close(gradient(TripletLoss(), *h6), torch.tensor(want).double(), rtol=1e-7, atol=1e-9)


def test_a_class_of_one_image_gives_negatives_only(h5, gradient):
    assert float(TripletLoss()(*h5)) == pytest.approx(1.0562962962962963, rel=1e-9)
    want = [
        [0.0849777778, -0.0637333333, -0.0933333333],
        [-0.0111111111, -0.0437333333, 0.0328],
        [0.0229333333, -0.0305777778, -0.0577777778],
        [-0.1588477366, -0.0547325103, 0.1341563786],
        [0.0251028807, 0.0855967078, 0.0176954733],
    ]
    torch.testing.assert_close(gradient(TripletLoss(), *h5), torch.tensor(want).double(), rtol=1e-7, atol=1e-9)


def test_pml_defaults_and_the_hand_example(h6, e4, gradient):
    loss = TripletLoss(margin=0.05, squared=False, reduction="mean_nonzero")
    assert float(loss(*h6)) == pytest.approx(0.4881189674583212, rel=1e-9)
    want = torch.tensor([0.0264040624, -0.0198030468, -0.00207056]).double()
    torch.testing.assert_close(gradient(loss, *h6)[0], want, rtol=1e-7, atol=1e-9)
    assert float(TripletLoss()(*e4)) == pytest.approx(0.625, rel=1e-9)  # 5.0 over 8 triplets, 5 of them zero
    assert float(TripletLoss(reduction="mean_nonzero")(*e4)) == pytest.approx(5 / 3, rel=1e-9)


@pytest.mark.parametrize("squared", [True, False])
@pytest.mark.parametrize("reduction", ["mean_all", "mean_nonzero"])
@given(labels=st.lists(st.integers(-3, 3), min_size=2, max_size=20), seed=st.integers(0, 10**6), margin=st.floats(0, 2))
@settings(max_examples=25, deadline=None)
def test_agrees_with_loops(squared, reduction, labels, seed, margin):
    points = torch.randn(len(labels), 3, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    rows = points.tolist()
    hinges = hinges_by_hand(rows, labels, rows, labels, same_set=True, margin=margin, squared=squared)
    got = triplet_loss(points, torch.tensor(labels), margin=margin, squared=squared, reduction=reduction)
    assert float(got) == pytest.approx(mean(hinges, reduction), rel=1e-9, abs=1e-12)


@pytest.mark.parametrize("squared", [True, False])
@pytest.mark.parametrize("seed", range(3))
def test_references_are_other_images(ragged, squared, seed):
    points, labels = ragged(seed, 24)
    rows, names = points.tolist(), labels.tolist()
    hinges = hinges_by_hand(rows[:8], names[:8], rows[4:], names[4:], same_set=False, margin=0.7, squared=squared)
    loss = TripletLoss(margin=0.7, squared=squared)
    got = loss(points[:8], labels[:8], references=points[4:], reference_labels=labels[4:])
    assert float(got) == pytest.approx(mean(hinges, "mean_all"), rel=1e-9)


@pytest.mark.parametrize("seed", range(3))
def test_agrees_with_pml_in_value_and_gradient(pml, ragged, gradient, seed):
    from pytorch_metric_learning import distances, losses, reducers

    points, labels = ragged(seed)
    for mine, theirs in [
        (
            TripletLoss(),
            losses.TripletMarginLoss(1, distance=distances.LpDistance(power=2), reducer=reducers.MeanReducer()),
        ),
        (TripletLoss(margin=0.05, squared=False, reduction="mean_nonzero"), losses.TripletMarginLoss()),
    ]:
        assert float(mine(points, labels)) == pytest.approx(float(theirs(points, labels)), rel=1e-9)
        torch.testing.assert_close(
            gradient(mine, points, labels), gradient(theirs, points, labels), rtol=1e-7, atol=1e-10
        )


def test_float32_is_close_even_when_few_triplets_cost_something():
    """The sum is taken over weighted distances, so it must not lose the few that matter among the many."""
    generator = torch.Generator().manual_seed(0)
    centres = torch.eye(16, dtype=torch.float64).repeat_interleave(8, dim=0)
    points = centres + 0.12 * torch.randn(128, 16, generator=generator, dtype=torch.float64)
    labels = torch.arange(128) // 8
    loss = TripletLoss(margin=0.9)
    exact = float(loss(points, labels))
    assert 0 < exact < 1e-2
    assert float(loss(points.float(), labels)) == pytest.approx(exact, abs=1e-6, rel=1e-4)


def test_a_duplicate_image_is_a_real_positive():
    points = torch.tensor([[2.0, 0.0], [1.0, 0.0], [0.0, 3.0]])
    # Anchors 0 and 1, each with the other as positive at 0 and one negative at 2: margin 3 leaves 1.
    assert float(TripletLoss(margin=3.0)(points, torch.tensor([7, 7, 9]))) == pytest.approx(1.0)


def test_a_triplet_exactly_at_the_margin_costs_nothing_and_pulls_nothing(gradient):
    points = torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]])  # squared distances 0 and 2, exact in floats
    labels = torch.tensor([0, 0, 1])
    for reduction in ("mean_all", "mean_nonzero"):
        loss = TripletLoss(margin=2.0, reduction=reduction)
        assert float(loss(points, labels)) == 0
        assert not gradient(loss, points, labels).any()


class LargestTensor(TorchDispatchMode):
    """Remembers the most elements that any operation made."""

    def __init__(self):
        super().__init__()
        self.elements = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        for value in result if isinstance(result, tuple | list) else [result]:
            if isinstance(value, torch.Tensor):
                self.elements = max(self.elements, value.numel())
        return result


@pytest.mark.parametrize(
    "loss",
    [
        TripletLoss(),
        TripletLoss(squared=False),
        SemihardTripletLoss(),
        SemihardTripletLoss(variant="facenet"),
        BatchHardTripletLoss(),
    ],
    ids=repr,
)
@pytest.mark.parametrize("classes", [1, 2, 24])
def test_no_tensor_is_larger_than_a_block(loss, classes):
    points = torch.randn(96, 4, generator=torch.Generator().manual_seed(0), requires_grad=True)
    labels = torch.arange(96) % classes  # with 2, a list of triplets would be 48 times the matrix
    with LargestTensor() as largest:
        loss(points, labels).backward()
    assert largest.elements <= 96 * 96 * (2 if classes == 1 else 1)
    with LargestTensor() as largest, similarities_held(8 * 96):
        loss(points, labels).backward()
    assert largest.elements <= 8 * 96 * 2


def mined_by_pml(points, labels, kind="all", margin=0.3, references=None):
    from pytorch_metric_learning import distances, miners

    miner = miners.TripletMarginMiner(margin, kind, distance=distances.LpDistance(power=2))
    return miner(points, labels, *(references or ()))


@pytest.mark.parametrize("kind", ["all", "semihard", "hard", "easy"])
@pytest.mark.parametrize("reduction", ["mean_all", "mean_nonzero"])
def test_listed_triplets_are_taken_one_by_one_as_pml_does(pml, ragged, gradient, kind, reduction):
    from pytorch_metric_learning import distances, losses, reducers

    reducer = reducers.MeanReducer() if reduction == "mean_all" else reducers.AvgNonZeroReducer()
    squared = distances.LpDistance(power=2)
    theirs = losses.TripletMarginLoss(0.5, distance=squared, reducer=reducer)
    mine = TripletLoss(margin=0.5, reduction=reduction)
    points, labels = ragged(1, 40)
    listed = mined_by_pml(points, labels, kind)
    order = torch.randperm(len(listed[0]), generator=torch.Generator().manual_seed(0))
    listed = tuple(part[order] for part in listed)  # a miner may list in any order
    assert float(mine(points, labels, listed)) == pytest.approx(float(theirs(points, labels, listed)), rel=1e-9)
    got, want = (gradient(lambda x, y, loss=loss: loss(x, y, listed), points, labels) for loss in (mine, theirs))
    torch.testing.assert_close(got, want, rtol=1e-7, atol=1e-10)
    with similarities_held(90):
        assert float(mine(points, labels, listed)) == pytest.approx(float(theirs(points, labels, listed)), rel=1e-9)
        got = gradient(lambda x, y: mine(x, y, listed), points, labels)
        torch.testing.assert_close(got, want, rtol=1e-7, atol=1e-10)


def test_listed_triplets_with_references_as_pml_does(pml, ragged):
    from pytorch_metric_learning import distances, losses, reducers

    points, labels = ragged(2, 30)
    theirs = losses.TripletMarginLoss(0.5, distance=distances.LpDistance(power=2), reducer=reducers.MeanReducer())
    first, others = (points[:11], labels[:11]), (points[11:], labels[11:])
    listed = mined_by_pml(*first, references=others)
    slopes = []
    for loss in (TripletLoss(margin=0.5), theirs):
        leaves = [first[0].clone().requires_grad_(), others[0].clone().requires_grad_()]
        value = loss(leaves[0], first[1], listed, leaves[1], others[1])
        value.backward()
        slopes.append((value.detach(), *(leaf.grad for leaf in leaves)))
    torch.testing.assert_close(*slopes, rtol=1e-7, atol=1e-10)
    assert slopes[0][2].any()


def test_listed_pairs_make_all_triplets_that_their_anchors_join(pml, ragged, gradient):
    from pytorch_metric_learning import distances, losses, miners, reducers

    points, labels = ragged(3, 40)
    listed = miners.MultiSimilarityMiner(0.1)(points, labels)
    theirs = losses.TripletMarginLoss(0.5, distance=distances.LpDistance(power=2), reducer=reducers.MeanReducer())
    mine = TripletLoss(margin=0.5)
    assert float(mine(points, labels, listed)) == pytest.approx(float(theirs(points, labels, listed)), rel=1e-9)
    got, want = (gradient(lambda x, y, loss=loss: loss(x, y, listed), points, labels) for loss in (mine, theirs))
    torch.testing.assert_close(got, want, rtol=1e-7, atol=1e-10)


def test_a_triplet_listed_twice_counts_twice(e4):
    points, labels = e4
    # Hinges of (1, 0, 2) and (2, 3, 0) at margin 1: 1 + 0.8 - 0.4 and 1 + 2 - 2.
    listed = (torch.tensor([2, 1, 1]), torch.tensor([3, 0, 0]), torch.tensor([0, 2, 2]))
    assert float(TripletLoss()(points, labels, listed)) == pytest.approx((1.4 + 1.4 + 1.0) / 3)


def test_listed_triplets_with_a_row_without_a_direction_are_skipped(e4, gradient):
    points, labels = e4
    points = torch.cat([points[:1] * 0, points])
    labels = torch.cat([labels[:1], labels])
    listed = (torch.tensor([2, 0, 2, 2]), torch.tensor([1, 1, 0, 1]), torch.tensor([3, 3, 3, 3]))
    assert float(TripletLoss()(points, labels, listed)) == pytest.approx(1.4)
    assert not gradient(lambda x, y: TripletLoss()(x, y, listed), points, labels)[0].any()


def test_an_empty_list_is_a_connected_zero(e4, gradient):
    none = torch.zeros(0, dtype=torch.int64)
    for listed in [(none, none, none), (none, none, none, none)]:
        for reduction in ("mean_all", "mean_nonzero"):
            loss = TripletLoss(reduction=reduction)
            assert float(loss(*e4, listed)) == 0
            assert not gradient(lambda x, y, loss=loss, listed=listed: loss(x, y, listed), *e4).any()


def test_lists_that_do_not_fit_are_named(e4):
    one = torch.tensor([0])
    with pytest.raises(SizeError, match="indices of negatives run from 4 to 4; want 0 to 3"):
        TripletLoss()(*e4, (one, one, one + 4))
    with pytest.raises(SizeError, match="equal length"):
        TripletLoss()(*e4, (one, one, torch.tensor([2, 3])))
    with pytest.raises(SizeError, match="want integer indices of anchors"):
        TripletLoss()(*e4, (one.double(), one, one))


@pytest.mark.parametrize("few", [0, 10**6])
@pytest.mark.parametrize("squared", [True, False])
def test_blocks_and_ways_of_counting_do_not_matter(ragged, gradient, monkeypatch, squared, few):
    points, labels = ragged(5, 48)
    loss = TripletLoss(margin=0.4, squared=squared)
    value, slope = float(loss(points, labels)), gradient(loss, points, labels)
    monkeypatch.setattr(triplets, "FEW", few)
    for held in (50, 500, 10**6):
        with similarities_held(held):
            assert float(loss(points, labels)) == pytest.approx(value, rel=1e-12)
            torch.testing.assert_close(gradient(loss, points, labels), slope, rtol=1e-9, atol=1e-12)


def test_positions_leave_self_out_of_references(ragged):
    points, labels = ragged(6, 24)
    loss = TripletLoss(margin=0.4)
    where = torch.arange(4, 14)
    got = loss(points[4:14], labels[4:14], references=points, reference_labels=labels, positions=where)
    rows, names = points.tolist(), labels.tolist()
    found = [
        max(0.4 + distance(rows[a], rows[p], True) - distance(rows[a], rows[n], True), 0.0)
        for a in range(4, 14)
        for p in range(24)
        for n in range(24)
        if p != a and names[a] == names[p] != names[n]
    ]
    assert float(got) == pytest.approx(mean(found, "mean_all"), rel=1e-9)


def test_wrong_settings_are_named():
    with pytest.raises(SettingsError, match="margin must be a number >= 0, finite; got nan"):
        TripletLoss(margin=float("nan"))
    with pytest.raises(SettingsError, match="margin must be a number >= 0, finite; got True"):
        TripletLoss(margin=True)
    with pytest.raises(SettingsError, match="squared must be true or false; got 1"):
        TripletLoss(squared=1)
    with pytest.raises(SettingsError, match="reduction must be"):
        TripletLoss(reduction="mean")
