import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cosphere.errors import SettingsError
from cosphere.losses import SemihardTripletLoss, semihard_triplet, semihard_triplet_loss, similarities_held
from cosphere.losses.engine.pairs import compare
from cosphere.losses.engine.rows import Block


def distance(a, b, squared):
    cosine = sum(x * y for x, y in zip(a, b, strict=True)) / math.hypot(*a) / math.hypot(*b)
    square = max(2 - 2 * cosine, 0.0)
    return square if squared else math.sqrt(square)


def terms_by_hand(rows, labels, others, other_labels, *, same_set, margin, squared, variant):
    terms = []
    for i, a in enumerate(rows):
        d = [distance(a, b, squared) for b in others]
        negatives = [d[q] for q in range(len(others)) if other_labels[q] != labels[i]]
        for p in range(len(others)):
            if other_labels[p] != labels[i] or (same_set and p == i) or not negatives:
                continue
            farther = [value for value in negatives if value > d[p]]
            if variant == "facenet":
                terms += [margin + d[p] - value for value in farther if value <= d[p] + margin]
            else:
                terms.append(max(margin + d[p] - (min(farther) if farther else max(negatives)), 0.0))
    return terms


def mean(values):
    return sum(values) / max(len(values), 1)


def test_official_value_and_gradient(h6, e4, gradient):
    loss = SemihardTripletLoss()
    assert float(loss(*h6)) == pytest.approx(0.1822222222222222, rel=1e-9)
    assert float(loss(*e4)) == pytest.approx(0.05, rel=1e-9)
    want = [
        [0.0391111111, -0.0293333333, 0.0444444444],
        [0.0, 0.0, 0.0],
        [-0.0256, 0.0341333333, 0.04],
        [0.0, 0.0, 0.0],
        [0.0382716049, -0.0469135802, -0.0617283951],
        [-0.1777777778, 0.3653333333, -0.4871111111],
    ]
    torch.testing.assert_close(gradient(loss, *h6), torch.tensor(want).double(), rtol=1e-7, atol=1e-9)


def test_facenet_window(h6, gradient):
    loss = SemihardTripletLoss(margin=0.5, variant="facenet")
    assert float(loss(*h6)) == pytest.approx(0.162222222222222, rel=1e-9)
    want = [
        [0.0576, -0.0432, -0.16],
        [0.0133333333, -0.0586666667, 0.044],
        [-0.0272, 0.0362666667, 0.0066666667],
        [-0.1061728395, -0.1567901235, 0.2098765432],
        [-0.0154320988, 0.1271604938, 0.0790123457],
        [0.4, 0.108, -0.144],
    ]
    torch.testing.assert_close(gradient(loss, *h6), torch.tensor(want).double(), rtol=1e-7, atol=1e-9)


def test_an_empty_window_is_zero(h6):
    assert float(SemihardTripletLoss(margin=0.2, variant="facenet")(*h6)) == 0


@pytest.mark.parametrize("squared", [True, False])
@pytest.mark.parametrize("variant", ["tensorflow", "facenet"])
@given(
    labels=st.lists(st.integers(0, 4), min_size=2, max_size=20), seed=st.integers(0, 10**6), margin=st.floats(0.01, 2)
)
@settings(max_examples=25, deadline=None)
def test_agrees_with_loops(squared, variant, labels, seed, margin):
    points = torch.randn(len(labels), 3, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    rows = points.tolist()
    options = {"margin": margin, "squared": squared, "variant": variant}
    terms = terms_by_hand(rows, labels, rows, labels, same_set=True, **options)
    got = semihard_triplet_loss(points, torch.tensor(labels), **options)
    assert float(got) == pytest.approx(mean(terms), rel=1e-9, abs=1e-12)
    got = semihard_triplet_loss(points, torch.tensor(labels), reduction="mean_nonzero", **options)
    assert float(got) == pytest.approx(mean([term for term in terms if term > 0]), rel=1e-9, abs=1e-12)


@pytest.mark.parametrize("variant", ["tensorflow", "facenet"])
def test_references_are_other_images(ragged, variant):
    points, labels = ragged(3, 24)
    rows, names = points.tolist(), labels.tolist()
    terms = terms_by_hand(
        rows[:8], names[:8], rows[4:], names[4:], same_set=False, margin=0.6, squared=True, variant=variant
    )
    loss = SemihardTripletLoss(margin=0.6, variant=variant)
    got = loss(points[:8], labels[:8], references=points[4:], reference_labels=labels[4:])
    assert float(got) == pytest.approx(mean(terms), rel=1e-9)


@pytest.mark.parametrize("seed", range(3))
def test_facenet_window_agrees_with_pml(pml, ragged, gradient, seed):
    from pytorch_metric_learning import distances, losses, miners, reducers

    points, labels = ragged(seed)
    squared = distances.LpDistance(power=2)
    miner = miners.TripletMarginMiner(0.5, "semihard", distance=squared)
    criterion = losses.TripletMarginLoss(0.5, distance=squared, reducer=reducers.MeanReducer())

    def theirs(x, y):
        return criterion(x, y, miner(x, y))

    mine = SemihardTripletLoss(margin=0.5, variant="facenet")
    assert float(mine(points, labels)) == pytest.approx(float(theirs(points, labels)), rel=1e-9)
    torch.testing.assert_close(gradient(mine, points, labels), gradient(theirs, points, labels), rtol=1e-7, atol=1e-10)


def test_a_negative_as_near_as_the_positive_is_not_semihard():
    """On the axes all squared distances are 2 or 4, exactly: the tie at 2 is passed over for 4."""
    points = torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.0, -1.0], [-1.0, 0.0]])
    assert float(SemihardTripletLoss()(points, torch.tensor([0, 0, 1, 1]))) == 0


def test_a_triplet_at_the_end_of_the_window_counts_and_costs_nothing():
    points = torch.tensor(
        [[1.0, 0.0], [1.0, 0.0], [0.0, 1.0], [0.6, 0.8]]
    )  # negatives at 2 and at 0.8 of either anchor
    labels = torch.tensor([0, 0, 1, 2])
    # The positive is at 0, so both negatives lie in the window (0, 2]: costs 0 and 1.2.
    assert float(SemihardTripletLoss(margin=2.0, variant="facenet")(points, labels)) == pytest.approx(0.6)
    loss = SemihardTripletLoss(margin=2.0, variant="facenet", reduction="mean_nonzero")
    assert float(loss(points, labels)) == pytest.approx(1.2)


def test_one_class_is_zero_although_the_official_code_says_1_063(h6):
    assert float(SemihardTripletLoss()(h6[0], torch.zeros(6, dtype=torch.long))) == 0


@pytest.fixture(params=["passes", "sorting"])
def both_ways(request, monkeypatch):
    monkeypatch.setattr(semihard_triplet, "FEW", 10**6 if request.param == "passes" else 0)


def by_autograd(points, labels, margin, squared):
    """TensorFlow's rule with one small graph for each pair."""
    unit = points / points.norm(dim=1, keepdim=True)
    terms = []
    for i in range(len(labels)):
        far = [2 - 2 * unit[i] @ unit[n] for n in range(len(labels)) if labels[n] != labels[i]]
        for p in range(len(labels)):
            if p != i and labels[p] == labels[i] and far:
                near = 2 - 2 * unit[i] @ unit[p]
                farther = [d for d in far if d > near]
                chosen = min(farther, key=torch.detach) if farther else max(far, key=torch.detach)
                terms.append((near - chosen if squared else near.sqrt() - chosen.sqrt()).add(margin).relu())
    return sum(terms) / len(terms)


@pytest.mark.parametrize("squared", [True, False])
@pytest.mark.parametrize("held", [50, 10**6])
@pytest.mark.usefixtures("both_ways")
def test_value_and_gradient_agree_with_autograd_in_blocks_of_any_size(ragged, gradient, squared, held):
    points, labels = ragged(4, 36)
    slope = gradient(lambda x, y: by_autograd(x, y.tolist(), 0.3, squared), points, labels)
    value = float(by_autograd(points, labels.tolist(), 0.3, squared))
    loss = SemihardTripletLoss(margin=0.3, squared=squared)
    with similarities_held(held):
        assert float(loss(points, labels)) == pytest.approx(value, rel=1e-9)
        torch.testing.assert_close(gradient(loss, points, labels), slope, rtol=1e-7, atol=1e-10)


@pytest.mark.usefixtures("both_ways")
def test_ties_fallbacks_and_duplicates_both_ways(h6, e4):
    loss = SemihardTripletLoss()
    assert float(loss(*h6)) == pytest.approx(0.1822222222222222, rel=1e-9)
    assert float(loss(*e4)) == pytest.approx(0.05, rel=1e-9)
    # Positives and a negative all at distance 0: the other negative, at 2, is the closest that is farther.
    points = torch.tensor([[0.3, 0.7], [0.6, 1.4], [0.9, 2.1], [0.7, -0.3]])
    assert float(loss(points, torch.tensor([0, 0, 1, 2]))) == 0
    assert float(SemihardTripletLoss(margin=2.5)(points, torch.tensor([0, 0, 1, 2]))) == pytest.approx(0.5)


@pytest.mark.usefixtures("both_ways")
def test_a_cosine_that_rounding_lifts_above_one_is_distance_zero():
    pairs = compare(torch.ones(4, 2), torch.tensor([0, 0, 1, 2]))
    cosines = torch.tensor([[1.0, 1.0000002, 1.0000001, 0.5]])
    chosen = semihard_triplet.semihard_negatives(Block(pairs, slice(0, 1), cosines))
    # The positive in column 1 and the negative in column 2 are both as near as can be.
    assert chosen[0][pairs.positives_of(slice(0, 1))[1][0]].tolist() == [3]


def test_facenet_blocks_do_not_matter(ragged, gradient):
    points, labels = ragged(4, 36)
    loss = SemihardTripletLoss(margin=0.3, variant="facenet")
    value, slope = float(loss(points, labels)), gradient(loss, points, labels)
    with similarities_held(50):
        assert float(loss(points, labels)) == pytest.approx(value, rel=1e-12)
        torch.testing.assert_close(gradient(loss, points, labels), slope, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("variant", ["tensorflow", "facenet"])
def test_positions_leave_self_out_of_references(ragged, variant):
    points, labels = ragged(6, 24)
    loss = SemihardTripletLoss(margin=0.6, variant=variant)
    order = torch.randperm(24, generator=torch.Generator().manual_seed(0))
    among = {"references": points[order], "reference_labels": labels[order], "positions": order.argsort()}
    assert float(loss(points, labels, **among)) == pytest.approx(float(loss(points, labels)), rel=1e-12)
    among.pop("positions")
    assert float(loss(points, labels, **among)) != pytest.approx(float(loss(points, labels)), rel=1e-3)


@pytest.mark.usefixtures("both_ways")
def test_a_miners_pairs_are_the_only_ones_to_choose_among(e4):
    points, labels = e4
    anchors, positives, negatives = torch.tensor([[1, 2], [0, 3], [3, 0]])
    # Squared distances: (1, 0) 0.8 with the negative 3 at 3.2; (2, 3) 2 with the negative 0 at 2.
    for listed in [(anchors, positives, anchors, negatives), (anchors, positives, negatives)]:
        assert float(SemihardTripletLoss()(points, labels, listed)) == pytest.approx(0.2 / 2)
    # Anchor 1 keeps its positive and loses its negative: it no longer counts.
    listed = (anchors, positives, anchors[1:], negatives[1:])
    assert float(SemihardTripletLoss()(points, labels, listed)) == pytest.approx(0.2)
    none = anchors[:0]
    for variant in ("tensorflow", "facenet"):
        assert float(SemihardTripletLoss(variant=variant)(points, labels, (none, none, none, none))) == 0


def test_wrong_settings_are_named():
    with pytest.raises(SettingsError, match="variant must be 'tensorflow' or 'facenet'; got 'keras'"):
        SemihardTripletLoss(variant="keras")
    with pytest.raises(SettingsError, match="window of variant 'facenet' is as wide as the margin; got margin 0"):
        SemihardTripletLoss(margin=0, variant="facenet")
    with pytest.raises(SettingsError, match="reduction"):
        SemihardTripletLoss(reduction="none")
