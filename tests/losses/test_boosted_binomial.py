import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from cosphere.errors import SettingsError, SizeError
from cosphere.losses import BoostedBinomialLoss, boosted_binomial, boosted_binomial_loss, similarities_held

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
    got = boosted_binomial._boosting_weight([z], negative, "simple", 0.06)
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


def test_the_default_sizes_are_the_papers_in_proportion(ragged):
    assert BoostedBinomialLoss().groups(512) == (96, 160, 256)
    assert BoostedBinomialLoss().groups(64) == (12, 20, 32)
    assert BoostedBinomialLoss().groups(2) == (1, 1)
    x, labels = ragged(1, size=20, dim=16)
    loss = BoostedBinomialLoss(boosting="eta", negative_cost=3.0)
    want = boosted_binomial_loss(x, labels, sizes=(3, 5, 8), boosting="eta", negative_cost=3.0)
    assert loss(x, labels) == want


def test_boosted_among_references_and_tuples(ragged):
    x, labels = ragged(2, size=18, dim=6)
    loss = BoostedBinomialLoss(sizes=(2, 4), negative_cost=2.0)
    among = {"references": x, "reference_labels": labels, "positions": torch.arange(18)}
    assert loss(x, labels, **among).item() == pytest.approx(loss(x, labels).item(), rel=1e-12)
    pairs = [(i, j) for i in range(18) for j in range(18) if i != j]
    same = torch.tensor([pair for pair in pairs if labels[pair[0]] == labels[pair[1]]])
    other = torch.tensor([pair for pair in pairs if labels[pair[0]] != labels[pair[1]]])
    listed = loss(x, labels, (same[:, 0], same[:, 1], other[:, 0], other[:, 1]))
    # Positives that were listed are divided by their number; all of them by theirs and the diagonal.
    halves = [
        loss(x, labels, (same[:0, 0], same[:0, 1], other[:, 0], other[:, 1])).item(),
        loss(x, labels, (same[:, 0], same[:, 1], other[:0, 0], other[:0, 1])).item(),
    ]
    assert listed.item() == pytest.approx(sum(halves), rel=1e-12)
    assert loss(x, labels).item() == pytest.approx(halves[0] + halves[1] * len(same) / (len(same) + 18), rel=1e-12)


def test_boosted_settings_out_of_range():
    with pytest.raises(SettingsError, match="sizes must be a list, one width for each learner; got 4"):
        BoostedBinomialLoss(sizes=4)
    with pytest.raises(SettingsError, match="each of sizes must be a whole number >= 1; got 0"):
        BoostedBinomialLoss(sizes=(0, 4))
    with pytest.raises(SettingsError, match="scale must be a number above 0"):
        BoostedBinomialLoss(scale=0)
