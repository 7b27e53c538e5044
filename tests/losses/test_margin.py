import math
import warnings

import pytest
import torch

from cosphere.errors import SettingsError, SizeError
from cosphere.losses import MarginLoss, distance_weighted_triplets, margin_loss, similarities_held

H6_GRADIENT = [
    [0.0176858617, -0.0132643962, -0.0101151077],
    [-0.0007803282, -0.0052330995, 0.0039248246],
    [-0.0087866096, 0.0117154794, 0.0187280546],
    [-0.012087523, 0.0042448959, 0.0017988656],
    [0.0083444763, 0.0006706415, -0.0080091555],
    [0.0189481758, 0.0537486963, -0.0716649284],
]
SIX = torch.tensor([[0, 1, 2], [1, 0, 3], [2, 3, 0], [3, 2, 1], [4, 5, 3], [5, 4, 1]])
SIX_GRADIENT = [
    [0.0358122277, -0.0268591707, -0.026148818],
    [0.0054087087, 0.0031006865, -0.0023255149],
    [-0.0116340241, 0.0155120321, -0.0272165527],
    [-0.0729826838, -0.030557416, 0.0670487579],
    [0.0023634491, -0.0070805832, -0.0059037407],
    [-0.0843949473, 0.0062031905, -0.0082709207],
]


def close(got, want):
    torch.testing.assert_close(got, torch.as_tensor(want, dtype=torch.float64), rtol=1e-7, atol=1e-9)


def double(boundary):
    return torch.tensor(boundary, dtype=torch.float64, requires_grad=True)


def everything(labels, others=None, same_set=True):
    """Every (anchor, positive, negative), in loops."""
    others = labels if others is None else others
    return [
        (i, p, q)
        for i, own in enumerate(labels)
        for p, first in enumerate(others)
        for q, second in enumerate(others)
        if first == own != second and not (same_set and i == p)
    ]


def by_hand(rows, others, triplets, boundary, margin, boundary_weight):
    """boundary: one for each anchor. Value, and d value / d boundary of each anchor."""

    def distance(a, b):
        cosine = sum(x * y for x, y in zip(a, b, strict=True)) / math.hypot(*a) / math.hypot(*b)
        return math.sqrt(max(2 - 2 * cosine, 0))

    total, count, slopes = 0.0, 0, [0.0] * len(rows)
    for a, p, n in triplets:
        pull = distance(rows[a], others[p]) - boundary[a] + margin
        push = boundary[a] - distance(rows[a], others[n]) + margin
        total += max(pull, 0) + max(push, 0) + boundary_weight * boundary[a]
        count += (pull > 0) + (push > 0)
        slopes[a] += (push > 0) - (pull > 0) + boundary_weight
    return (total / count, [slope / count for slope in slopes]) if count else (0.0, [0.0] * len(rows))


@pytest.mark.parametrize("held", [2**20, 6, 13])
def test_all_triplets_official_value_and_gradient(h6, held):
    x, labels = h6[0].clone().requires_grad_(), h6[1]
    with similarities_held(held):
        value = margin_loss(x, labels, boundary=double(1.2), margin=0.2, sampling="all")
    value.backward()
    assert value.item() == pytest.approx(0.42197118553409974, rel=1e-9)
    close(x.grad, H6_GRADIENT)


@pytest.mark.parametrize("held", [2**20, 6])
def test_listed_triplets_with_a_boundary_per_class(h6, held):
    x, labels, boundary = h6[0].clone().requires_grad_(), h6[1], double([1.2, 1.0, 1.1])
    order = torch.tensor([4, 1, 5, 0, 3, 2])  # a miner's list need not be sorted
    with similarities_held(held):
        value = margin_loss(x, labels, boundary=boundary, margin=0.2, tuples=tuple(SIX[order].T))
    value.backward()
    assert value.item() == pytest.approx(0.5060671572963801, rel=1e-9)
    close(x.grad, SIX_GRADIENT)
    close(boundary.grad, [0.0, 0.0, 0.0])


@pytest.mark.parametrize(("margin", "boundary_weight"), [(0.25, 0.0), (0.25, 0.3), (1.2, 0.0)])
@pytest.mark.parametrize("seed", range(4))
def test_all_triplets_agree_with_loops(ragged, seed, margin, boundary_weight):
    x, names = ragged(seed, 20 + seed)
    labels = names.unique(return_inverse=True)[1]
    boundary = (0.6 + torch.rand(int(labels.max()) + 1, dtype=torch.float64)).requires_grad_()
    own = boundary.detach()[labels].tolist()
    want, slopes = by_hand(x.tolist(), x.tolist(), everything(labels.tolist()), own, margin, boundary_weight)
    settings = {"margin": margin, "boundary_weight": boundary_weight, "sampling": "all"}
    value = margin_loss(x, labels, boundary=boundary, **settings)
    value.backward()
    assert value.item() == pytest.approx(want, rel=1e-9)
    by_class = torch.zeros_like(boundary).index_add_(0, labels, torch.tensor(slopes, dtype=torch.float64))
    close(boundary.grad, by_class)
    positions = torch.arange(len(x))
    again = margin_loss(
        x, labels, boundary=boundary, references=x, reference_labels=labels, positions=positions, **settings
    )
    assert again.item() == pytest.approx(want, rel=1e-9)


def test_references_and_one_shared_boundary_with_any_labels(ragged):
    (x, names), y = ragged(3, 30), ragged(4, 40)[0]
    others = names[torch.arange(40) % 30]
    triplets = everything(names.tolist(), others.tolist(), same_set=False)
    want, slopes = by_hand(x.tolist(), y.tolist(), triplets, [1.1] * 30, 0.2, 0.1)
    boundary = double(1.1)
    with similarities_held(70):
        value = margin_loss(
            x,
            names,
            boundary=boundary,
            margin=0.2,
            boundary_weight=0.1,
            sampling="all",
            references=y,
            reference_labels=others,
        )
    value.backward()
    assert value.item() == pytest.approx(want, rel=1e-9)
    assert boundary.grad.item() == pytest.approx(sum(slopes), rel=1e-7)


@pytest.mark.parametrize(("size", "seed"), [(8, 0), (40, 1), (256, 2)])
def test_agrees_with_pml(ragged, pml, size, seed):
    from pytorch_metric_learning import losses

    x, names = ragged(seed, size, dim=9)
    labels = names.unique(return_inverse=True)[1]
    start = 0.8 + torch.rand(int(labels.max()) + 1, dtype=torch.float64)
    torch.set_default_dtype(torch.float64)
    try:
        theirs = losses.MarginLoss(margin=0.3, nu=0.2, learn_beta=True, num_classes=len(start))
        theirs.beta.data = start.clone()
        first, boundary = x.clone().requires_grad_(), start.clone().requires_grad_()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            expected = theirs(first, labels)
            expected.backward()
    finally:
        torch.set_default_dtype(torch.float32)
    second = x.clone().requires_grad_()
    with similarities_held(900):
        value = margin_loss(second, labels, boundary=boundary, margin=0.3, boundary_weight=0.2, sampling="all")
    value.backward()
    assert value.item() == pytest.approx(expected.item(), rel=1e-9)
    close(second.grad, first.grad)
    close(boundary.grad, theirs.beta.grad)


@pytest.mark.parametrize("held", [2**20, 90])
def test_sampling_takes_the_triplets_that_the_miner_draws(ragged, held):
    x, names = ragged(7, 40, dim=6)
    x[5] = 0
    labels = names.unique(return_inverse=True)[1]
    start = 0.8 + torch.rand(int(labels.max()) + 1, dtype=torch.float64)
    drawn = distance_weighted_triplets(x, labels, generator=torch.Generator().manual_seed(3))
    want, _ = by_hand(x.tolist(), x.tolist(), torch.stack(drawn, 1).tolist(), start[labels].tolist(), 0.2, 0.4)
    results = []
    for settings in ({"tuples": drawn}, {"generator": torch.Generator().manual_seed(3)}):
        leaf, boundary = x.clone().requires_grad_(), start.clone().requires_grad_()
        with similarities_held(held):
            value = margin_loss(leaf, labels, boundary=boundary, margin=0.2, boundary_weight=0.4, **settings)
        value.backward()
        assert value.item() == pytest.approx(want, rel=1e-9)
        results.append((leaf.grad, boundary.grad))
    close(results[0][0], results[1][0])
    close(results[0][1], results[1][1])


def test_each_call_draws_afresh_from_the_global_generator(ragged):
    x, labels = ragged(7, 40, dim=6)
    loss = MarginLoss(None, per_class=False)
    torch.manual_seed(1)
    values = [loss(x, labels).item() for _ in range(3)]
    assert len(set(values)) == 3
    torch.manual_seed(1)
    assert [loss(x, labels).item() for _ in range(3)] == values


def test_a_triplet_listed_twice_counts_twice(h6):
    twice = torch.cat([SIX, SIX[1:2]])
    want, _ = by_hand(h6[0].tolist(), h6[0].tolist(), twice.tolist(), [1.2] * 6, 0.2, 0.0)
    assert margin_loss(*h6, boundary=double(1.2), margin=0.2, tuples=tuple(twice.T)).item() == pytest.approx(
        want, rel=1e-9
    )
    assert want != pytest.approx(
        by_hand(h6[0].tolist(), h6[0].tolist(), SIX.tolist(), [1.2] * 6, 0.2, 0.0)[0], rel=1e-3
    )


def test_a_miners_pairs_make_all_triplets_that_their_anchors_join(h6):
    pairs = tuple(torch.tensor(part) for part in ([0, 2, 3, 4], [1, 3, 2, 5], [0, 0, 2, 5], [2, 4, 0, 1]))
    triplets = [(0, 1, 2), (0, 1, 4), (2, 3, 0)]
    want, _ = by_hand(h6[0].tolist(), h6[0].tolist(), triplets, [1.2] * 6, 0.2, 0.0)
    value = margin_loss(*h6, boundary=double(1.2), margin=0.2, sampling="all", tuples=pairs)
    assert value.item() == pytest.approx(want, rel=1e-9)
    for _ in range(5):  # here only these negatives can be drawn
        torch.manual_seed(0)
        value = margin_loss(*h6, boundary=double(1.2), margin=0.2, tuples=pairs)
        options = [
            by_hand(h6[0].tolist(), h6[0].tolist(), [(0, 1, q), (2, 3, 0)], [1.2] * 6, 0.2, 0)[0] for q in (2, 4)
        ]
        assert min(abs(value.item() - option) for option in options) < 1e-9


@pytest.mark.parametrize("sampling", ["all", "distance_weighted"])
def test_boundaries_alone_are_no_loss(sampling):
    x = torch.tensor([[1.0, 0.0], [1.0, 0.1], [-1.0, 0.0], [-1.0, 0.1]], requires_grad=True)
    boundary = torch.tensor(1.0, requires_grad=True)
    settings = {"margin": 0.1, "boundary_weight": 5.0, "sampling": sampling}
    value = margin_loss(x, torch.tensor([3, 3, 9, 9]), boundary=boundary, **settings)
    value.backward()
    assert value == 0
    assert boundary.grad == 0
    assert not x.grad.any()
    # With active terms they count again.
    assert margin_loss(x, torch.tensor([3, 3, 9, 9]), boundary=torch.tensor(1.95), **settings) > 5


def test_the_boundary_is_learned_saved_and_trained_alone(h6):
    loss = MarginLoss(3, sampling="all", boundary_start=1.0)
    assert [name for name, _ in loss.named_parameters()] == ["boundary"]
    before = loss(*h6).item()
    optimizer = torch.optim.SGD(loss.parameters(), lr=0.1)
    for _ in range(5):
        optimizer.zero_grad()
        loss(*h6).backward()
        optimizer.step()
    assert loss(*h6).item() < before
    other = MarginLoss(3, sampling="all")
    other.load_state_dict(loss.state_dict())
    assert other(*h6) == loss(*h6)
    assert "boundary_start=1.0, per_class=True" in repr(loss)
    assert MarginLoss(None, per_class=False).boundary.shape == ()


def test_labels_without_a_boundary_are_named(h6):
    x, labels = h6
    for wrong, text in [(labels - 1, "from -1 to 1"), (labels + 1, "from 1 to 3")]:
        with pytest.raises(
            SizeError, match=f"labels run {text}, but the loss has a boundary for each of 3 classes: want 0 to 2"
        ):
            MarginLoss(3)(x, wrong)
    with pytest.raises(SizeError, match=r"want boundaries \(C,\), or \(\) for one that all share; got \(1, 3\)"):
        margin_loss(x, labels, boundary=torch.ones(1, 3), margin=0.2)
    with pytest.raises(SizeError, match="boundaries are on meta, embeddings on cpu"):
        MarginLoss(3).to("meta")(x, labels)


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        ({"margin": -0.1}, "margin must be a number >= 0"),
        ({"boundary_start": -1}, "boundary_start must be a number >= 0"),
        ({"boundary_weight": -1}, "boundary_weight must be a number >= 0"),
        ({"per_class": 1}, "per_class must be true or false"),
        ({"sampling": "hard"}, "sampling must be 'distance_weighted' or 'all'"),
        ({"cutoff": 1.5}, r"cutoff must lie below farthest and below 2"),
        ({"num_classes": None}, "num_classes must be a whole number from 1 to 100000000"),
        ({"num_classes": 0}, "num_classes must be a whole number from 1 to 100000000"),
    ],
)
def test_settings_out_of_range(settings, text):
    with pytest.raises(SettingsError, match=text):
        MarginLoss(**{"num_classes": 3, **settings})
