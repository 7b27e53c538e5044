import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from cosphere.errors import SettingsError, SizeError
from cosphere.losses import ensembles
from cosphere.losses.engine.maths import similarities_held
from cosphere.losses.ensembles import abe_divergence_loss, boosted_binomial_loss

FIVE_WIDE = torch.tensor(
    [
        [3.0, 4.0, 0.0, 3.0, 2.5],
        [0.0, 6.0, 8.0, 4.0, 1.0],
        [4.0, 3.0, 0.0, 2.5, 3.0],
        [1.0, 2.0, 2.0, 2.0, 1.5],
        [4.0, -2.0, 4.0, 0.0, 3.0],
        [0.0, 0.8, 0.6, 1.4, 1.0],
    ],
    dtype=torch.float64,
)
LABELS = torch.tensor([0, 0, 1, 1, 2, 2])


def boosted_by_numpy(x, labels, sizes, *, boosting="simple", shrinkage=None, scale=2.0, base=0.5, negative_cost=25.0):
    x, labels = x.numpy(), labels.numpy()
    same = labels[:, None] == labels
    side = np.where(same, 1 / same.sum(), 1 / (~same).sum()) * (1 - np.eye(len(x)))
    sums, weight, total = np.full(same.shape, 0.5 if boosting == "simple" else 0.0), 1.0, 0.0
    weights = []
    for k, part in enumerate(np.split(x, np.cumsum(sizes)[:-1], axis=1), start=1):
        unit = part / np.linalg.norm(part, axis=1, keepdims=True)
        z = scale * (unit @ unit.T - base) * np.where(same, 1.0, -negative_cost)
        total += (np.log1p(np.exp(-z)) * weight * side).sum()
        if boosting == "simple":
            sums = sums + (0.06 if shrinkage is None else shrinkage) * z
            weight = np.where(same, 1.0, 2.0) / (1 + np.exp(sums))
        else:
            nu = 2 / (k + 1)
            sums = (1 - nu) * sums + nu * (1.0 if shrinkage is None else shrinkage) * z
            weight = 1 / (1 + np.exp(sums))
        weights.append(weight)
    return total / len(sizes), weights


def test_known_boosted_value_and_weights():
    assert float(boosted_binomial_loss(FIVE_WIDE, LABELS, sizes=(2, 3))) == pytest.approx(13.204623717317535, rel=1e-9)
    want = [0.36354746, 0.36911857, 1.41364444, 1.44287759, 0.3759129, 1.19737532]
    assert boosted_by_numpy(FIVE_WIDE, LABELS, (2, 3))[1][0][0] == pytest.approx(want, abs=1e-8)
    unit = F.normalize(FIVE_WIDE[:, :2])
    negative = LABELS[:, None] != LABELS
    z = 2 * (unit @ unit.T - 0.5) * torch.where(negative, -25.0, 1.0)
    got = ensembles._boosting_weight([z], negative, "simple", 0.06)
    assert got[0].tolist() == pytest.approx(want, abs=1e-8)


@pytest.mark.parametrize("held", [2**20, 40])
@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"boosting": "eta"},
        {"boosting": "eta", "shrinkage": 0.3},
        {"shrinkage": 0.2, "scale": 3.0, "base": 0.3, "negative_cost": 1.7},
    ],
    ids=str,
)
def test_boosted_agrees_with_numpy(ragged, settings, held):
    for seed in range(3):
        x, labels = ragged(seed, size=20, dim=9)
        want, _ = boosted_by_numpy(x, labels, (2, 3, 4), **settings)
        with similarities_held(held):
            assert float(boosted_binomial_loss(x, labels, sizes=(2, 3, 4), **settings)) == pytest.approx(want, rel=1e-9)


@pytest.mark.parametrize("boosting", ["simple", "eta"])
def test_boosted_gradient_does_not_pass_through_the_weights(ragged, boosting):
    x, labels = ragged(3, size=14, dim=6)
    _, weights = boosted_by_numpy(x, labels, (2, 2, 2), boosting=boosting)
    same = labels[:, None] == labels
    side = torch.where(same, 1 / same.sum().double(), 1 / (~same).sum().double()).fill_diagonal_(0)
    leaf = x.clone().requires_grad_()
    total = 0
    for k, part in enumerate(leaf.split(2, dim=1)):
        unit = part / part.norm(dim=1, keepdim=True)
        z = 2 * (unit @ unit.T - 0.5) * torch.where(same, 1.0, -25.0)
        total = total + (torch.log1p(torch.exp(-z)) * side * (torch.from_numpy(weights[k - 1]) if k else 1)).sum() / 3
    total.backward()
    ours = x.clone().requires_grad_()
    boosted_binomial_loss(ours, labels, sizes=(2, 2, 2), boosting=boosting).backward()
    torch.testing.assert_close(ours.grad, leaf.grad, rtol=1e-7, atol=1e-9)


def test_boosted_edges(ragged):
    x, labels = ragged(4, size=12, dim=4)
    with_zero = torch.cat([x, x[:1]])
    with_zero[12, 2:] = 0  # no direction for the second learner: takes no part in either
    both = boosted_binomial_loss(with_zero, torch.cat([labels, labels[:1]]), sizes=(2, 2))
    assert float(both) == pytest.approx(float(boosted_binomial_loss(x, labels, sizes=(2, 2))), rel=1e-12)
    for few, names in ((x[:0], labels[:0]), (x[:1], labels[:1])):
        leaf = few.clone().requires_grad_()
        value = boosted_binomial_loss(leaf, names, sizes=(2, 2))
        value.backward()
        assert value == 0
    for one_kind in (torch.zeros(12, dtype=torch.long), torch.arange(12)):
        assert boosted_binomial_loss(x, one_kind, sizes=(2, 2)) > 0
    # Negatives at cosine 1 cost 25: in float32 that must neither overflow nor be lost.
    assert boosted_binomial_loss(torch.ones(4, 4), torch.tensor([0, 0, 1, 1]), sizes=(2, 2)) > 25 / 2
    x[3, 1] = math.nan
    assert boosted_binomial_loss(x, labels, sizes=(2, 2)).isnan()


def test_boosted_wrong_input(ragged):
    x, labels = ragged(4, size=12, dim=4)
    with pytest.raises(SizeError, match=r"add up to the 4 of the embeddings, got \(2, 3\)"):
        boosted_binomial_loss(x, labels, sizes=(2, 3))
    with pytest.raises(SizeError, match="sizes >= 1"):
        boosted_binomial_loss(x, labels, sizes=(4, 0))
    with pytest.raises(SizeError, match=r"got \(12, 4\) and \(11,\)"):
        boosted_binomial_loss(x, labels[:11], sizes=(4,))
    with pytest.raises(SettingsError, match="boosting must be 'simple' or 'eta'"):
        boosted_binomial_loss(x, labels, sizes=(4,), boosting="adaboost")


def test_known_divergence():
    rows = [
        [0.6031082748717461, 0.7976593312819867, 0.9997026906430498, 0.024382992454708537],
        [0.01639124023930107, 0.9998656545973652, 0.6015767391116984, 0.7988150142302881],
        [0.7976593312819867, 0.6031082748717461, 0.9994801143396996, 0.03224129401095805],
        [0.4640069946705576, 0.8858315352801555, 0.7071067811865476, 0.7071067811865476],
        [0.9073106065337808, -0.4204610127839472, -0.4204610127839472, 0.9073106065337808],
        [0.11043152607484655, 0.9938837346736189, 0.7893522173763262, 0.6139406135149204],
    ]
    learners = torch.tensor(rows, dtype=torch.float64).view(6, 2, 2).transpose(0, 1)
    lengths = torch.arange(1, 13, dtype=torch.float64).view(2, 6, 1)
    assert float(abe_divergence_loss(learners * lengths, margin=1.0)) == pytest.approx(0.46649038041202956, rel=1e-9)
    leaf = learners.clone().requires_grad_()
    assert torch.autograd.gradcheck(lambda x: abe_divergence_loss(x, margin=1.0), leaf)


def test_divergence_by_loops():
    learners = torch.randn(4, 5, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    learners[2, 3] = 0
    units = [[[v / (math.hypot(*row) or 1) for v in row] for row in one] for one in learners.tolist()]
    hinges = [
        max(1.5 - math.dist(units[p][i], units[q][i]) ** 2, 0)
        for i in range(5)
        for p in range(4)
        for q in range(p + 1, 4)
        if any(units[p][i]) and any(units[q][i])
    ]
    assert len(hinges) == 5 * 6 - 3
    assert float(abe_divergence_loss(learners, margin=1.5)) == pytest.approx(sum(hinges) / len(hinges), rel=1e-9)


def test_divergence_edges():
    for shape in ((1, 4, 3), (0, 4, 3), (3, 0, 2)):
        learners = torch.zeros(shape, requires_grad=True)
        value = abe_divergence_loss(learners, margin=1.0)
        value.backward()
        assert value == 0
    same = torch.ones(3, 2, 4, dtype=torch.float16, requires_grad=True)
    assert abe_divergence_loss(same, margin=0.2).item() == pytest.approx(0.2, rel=1e-5)
    assert abe_divergence_loss(torch.full((2, 2, 2), math.nan), margin=1.0).isnan()
    for wrong in (torch.zeros(3, 4), torch.zeros(2, 3, 4, dtype=torch.long)):
        with pytest.raises(SizeError, match=r"want learners \(M, B, D\)"):
            abe_divergence_loss(wrong, margin=1.0)
    with pytest.raises(SizeError, match="want learners as a tensor, got list"):
        abe_divergence_loss([torch.zeros(2, 4)] * 2, margin=1.0)


def test_dreml_is_plain_cross_entropy(h6):
    """As the room's head says: raw logits, meta-classes as targets."""
    assert F.cross_entropy(*h6).item() == pytest.approx(2.2259423389336956, rel=1e-9)
