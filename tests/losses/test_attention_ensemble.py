import math

import pytest
import torch
import torch.nn.functional as F

from cosphere.errors import SettingsError, SizeError
from cosphere.losses import AttentionEnsembleLoss, abe_divergence_loss, attention_ensemble_loss


def by_loops(rows, labels, learners, margin, divergence_margin, weight):
    width = len(rows[0]) // learners
    units = [
        [F.normalize(torch.tensor(row[m * width : (m + 1) * width]).double(), dim=0) for row in rows]
        for m in range(learners)
    ]
    total, size = 0.0, len(rows)
    for unit in units:
        costs = [
            math.dist(unit[i], unit[j]) ** 2
            if labels[i] == labels[j]
            else max(margin - math.dist(unit[i], unit[j]), 0) ** 2
            for i in range(size)
            for j in range(size)
            if i != j
        ]
        total += sum(costs) / len(costs) / 2
    hinges = [
        max(divergence_margin - math.dist(units[p][i], units[q][i]) ** 2, 0)
        for i in range(size)
        for p in range(learners)
        for q in range(p + 1, learners)
    ]
    return total + weight * sum(hinges) / len(hinges)


def test_it_agrees_with_loops(ragged):
    for seed, learners in ((0, 2), (1, 3)):
        x, labels = ragged(seed, size=14, dim=6)
        settings = {"learners": learners, "margin": 0.8, "divergence_margin": 1.5, "divergence_weight": 0.3}
        want = by_loops(x.tolist(), labels.tolist(), learners, 0.8, 1.5, 0.3)
        assert attention_ensemble_loss(x, labels, **settings).item() == pytest.approx(want, rel=1e-9)
        assert AttentionEnsembleLoss(**settings)(x, labels).item() == pytest.approx(want, rel=1e-9)


def test_among_references_the_divergence_is_that_of_the_batch(ragged):
    x, labels = ragged(2, size=12, dim=4)
    loss = AttentionEnsembleLoss(learners=2, divergence_margin=3.0)
    among = {"references": x, "reference_labels": labels, "positions": torch.arange(12)}
    assert loss(x, labels, **among).item() == pytest.approx(loss(x, labels).item(), rel=1e-12)


def test_learners_must_divide_the_width(ragged):
    x, labels = ragged(2, size=12, dim=4)
    assert AttentionEnsembleLoss(learners=8).groups(512) == (64,) * 8
    with pytest.raises(SizeError, match="3 learners do not divide 4 columns evenly; choose another number of learners"):
        AttentionEnsembleLoss(learners=3)(x, labels)
    with pytest.raises(SettingsError, match="learners must be a whole number >= 1; got 0"):
        AttentionEnsembleLoss(learners=0)


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
    """DREML needs no loss of ours: raw logits, meta-classes as targets."""
    assert F.cross_entropy(*h6).item() == pytest.approx(2.2259423389336956, rel=1e-9)
