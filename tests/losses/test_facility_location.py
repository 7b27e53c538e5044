import math
from itertools import combinations

import pytest
import torch
from sklearn.metrics import normalized_mutual_info_score

from cosphere.errors import SettingsError
from cosphere.losses.engine.maths import similarities_held
from cosphere.losses.facility_location import FacilityLocationLoss


class ByHand:
    """The objective over sets of medoids, by loops; NMI by scikit-learn."""

    def __init__(self, x, labels, gamma=1.0, distance="l2", nmi="geometric"):
        rows = [[v / math.hypot(*row) for v in row] for row in x.tolist()]
        power = 2 if distance == "squared" else 1
        self.d = [[math.dist(a, b) ** power for b in rows] for a in rows]
        self.labels, self.gamma, self.nmi = labels.tolist(), gamma, nmi

    def assign(self, medoids):
        return [i if i in medoids else min(medoids, key=lambda j: self.d[i][j]) for i in range(len(self.d))]

    def objective(self, medoids):
        chosen = self.assign(medoids)
        agreement = normalized_mutual_info_score(self.labels, chosen, average_method=self.nmi)
        return self.gamma * (1 - agreement) - sum(self.d[i][j] for i, j in enumerate(chosen))

    def of_classes(self):
        classes = [[i for i, c in enumerate(self.labels) if c == label] for label in set(self.labels)]
        return [min(own, key=lambda j: sum(self.d[i][j] for i in own)) for own in classes], classes

    def hinge(self, medoids):
        best, classes = self.of_classes()
        return max(
            self.objective(medoids) + sum(self.d[i][j] for j, own in zip(best, classes, strict=True) for i in own), 0
        )

    def exhaustive(self):
        return max(combinations(range(len(self.d)), len(set(self.labels))), key=self.objective)

    def search(self, passes):
        medoids, everyone = [], range(len(self.d))
        for _ in set(self.labels):
            free = [j for j in everyone if j not in medoids]
            medoids.append(max(free, key=lambda j: self.objective([*medoids, j])))
        for _ in range(passes):
            for k in range(len(medoids)):
                chosen = self.assign(medoids)
                members = [i for i in everyone if chosen[i] == medoids[k]]
                swapped = [[*medoids[:k], j, *medoids[k + 1 :]] for j in members]
                medoids = max([medoids, *swapped], key=self.objective)
        return medoids


@pytest.mark.parametrize(
    ("distance", "passes", "want"),
    [
        ("l2", 5, 2.920106765755673),
        ("l2", 0, 2.8378011065601814),
        ("squared", 5, 3.8447455681866396),
        ("squared", 0, 3.791412234853306),
    ],
)
def test_known_values(h6, distance, passes, want):
    assert float(FacilityLocationLoss(distance=distance, passes=passes)(*h6)) == pytest.approx(want, rel=1e-9)


@pytest.mark.parametrize("distance", ["l2", "squared"])
@pytest.mark.parametrize("nmi", ["geometric", "arithmetic"])
def test_no_set_of_medoids_is_better(h6, nmi, distance):
    want = ByHand(*h6, distance=distance, nmi=nmi)
    assert float(FacilityLocationLoss(distance=distance, nmi=nmi)(*h6)) == pytest.approx(want.hinge(want.exhaustive()))


@pytest.mark.parametrize("held", [pytest.param(2**20, marks=pytest.mark.slow), 60])
@pytest.mark.parametrize("passes", [0, 5])
@pytest.mark.parametrize("distance", ["l2", "squared"])
def test_agrees_with_a_search_by_loops(ragged, distance, passes, held):
    above = 0
    for seed in range(3):
        x, labels = ragged(seed, size=15, dim=3)
        gamma = (0.3, 1.0, 3.0)[seed]
        by_hand = ByHand(x, labels, gamma, distance)
        medoids = by_hand.search(passes)
        with similarities_held(held):
            got = FacilityLocationLoss(gamma=gamma, distance=distance, passes=passes)(x, labels)
        assert float(got) == pytest.approx(by_hand.hinge(medoids), rel=1e-9)
        above += by_hand.hinge(medoids) > 0.1
    assert above == 3


@pytest.mark.slow
def test_a_larger_batch_by_loops(ragged):
    """Where bounds on the agreement rule most medoids out."""
    x, labels = ragged(5, size=40, dim=6)
    by_hand = ByHand(x, labels)
    assert float(FacilityLocationLoss(passes=1)(x, labels)) == pytest.approx(by_hand.hinge(by_hand.search(1)), rel=1e-9)


@pytest.mark.parametrize("distance", ["l2", "squared"])
def test_gradient_passes_through_the_medoids_distances_only(ragged, gradient, distance):
    x, labels = ragged(1, size=12, dim=4)  # on H6 two sets of medoids are equally good
    by_hand = ByHand(x, labels, distance=distance)
    leaf = x.clone().requires_grad_()
    unit = leaf / leaf.norm(dim=1, keepdim=True)

    def summed(pairs):
        squares = torch.stack([(unit[i] - unit[j]).square().sum() for i, j in pairs if i != j])
        return (squares if distance == "squared" else squares.sqrt()).sum()

    best, classes = by_hand.of_classes()
    oracle = summed((i, j) for j, own in zip(best, classes, strict=True) for i in own)
    (oracle - summed(enumerate(by_hand.assign(by_hand.search(5))))).backward()
    got = gradient(FacilityLocationLoss(distance=distance), x, labels)
    torch.testing.assert_close(got, leaf.grad, rtol=1e-7, atol=1e-9)


def test_duplicates_own_themselves_as_medoids():
    x = torch.tensor([[1.0, 0.0]] * 4 + [[0.0, 1.0]] * 2, dtype=torch.float64)
    labels = torch.tensor([0, 0, 1, 1, 2, 2])
    by_hand = ByHand(x, labels)
    # Three medoids, at least one at either place, or F drops: then it is NMI that counts, and F and F~ are 0.
    want = max(by_hand.objective(s) for s in combinations(range(6), 3))
    assert 0 < float(FacilityLocationLoss()(x, labels)) <= want + 1e-12
    for passes in (0, 5):
        x = torch.ones(12, 2, requires_grad=True)
        loss = FacilityLocationLoss(passes=passes)(x, torch.arange(12) % 5)
        loss.backward()
        assert 0 < loss.item() < 1
        assert not x.grad.any()


def test_nothing_to_cluster(ragged):
    x, _ = ragged(0, size=6)
    assert FacilityLocationLoss()(x, torch.zeros(6, dtype=torch.long)) == 0
    assert FacilityLocationLoss()(x, torch.arange(6)) == 0


def test_a_row_without_direction_takes_no_part(ragged):
    x, labels = ragged(6, size=20)
    with_zeros = torch.cat([x[:4], torch.zeros(1, 5, dtype=torch.float64), x[4:]])
    also = torch.cat([labels[:4], labels[:1], labels[4:]])
    loss = FacilityLocationLoss()
    assert float(loss(with_zeros, also)) == pytest.approx(float(loss(x, labels)), rel=1e-12)


def test_settings_out_of_range():
    with pytest.raises(SettingsError, match="gamma must be a number >= 0"):
        FacilityLocationLoss(gamma=-1)
    with pytest.raises(SettingsError, match="distance must be 'l2' or 'squared'"):
        FacilityLocationLoss(distance="l1")
    with pytest.raises(SettingsError, match="nmi must be 'geometric' or 'arithmetic'"):
        FacilityLocationLoss(nmi="max")
    for passes in (-1, 2.0, True):
        with pytest.raises(SettingsError, match=f"passes must be a whole number >= 0; got {passes}"):
            FacilityLocationLoss(passes=passes)


@pytest.mark.parametrize("seed", [26, 47, 162])
def test_the_last_bit_of_a_distance_does_not_choose_a_medoid(seed):
    """Either image of a pair is as good a medoid of it; which one decides what can be added next."""
    generator = torch.Generator().manual_seed(seed)
    x, labels = torch.randn(9, 4, generator=generator, dtype=torch.float64), torch.arange(9) % 4
    stretched = x * (0.05 + 9 * torch.rand(9, 1, generator=generator, dtype=torch.float64))
    loss = FacilityLocationLoss()
    assert loss(stretched, labels).item() == pytest.approx(loss(x, labels).item(), rel=1e-9)
