import random

import pytest
import torch

from cosphere.losses.engine import triplets
from cosphere.losses.engine.pairs import compare
from cosphere.losses.engine.rows import Block
from cosphere.losses.engine.triplets import compare_listed, count_active, count_triplets, count_window


@pytest.fixture(params=["passes", "search"])
def both_ways(request, monkeypatch):
    monkeypatch.setattr(triplets, "FEW", 10**6 if request.param == "passes" else 0)


def stepped(seed, dtype=torch.float64):
    """Distances in steps of 1/8, so that ties abound and every comparison is exact; classes of random size."""
    draw = random.Random(seed)
    labels = [draw.randrange(4) for _ in range(17)]
    distances = [[draw.randrange(17) / 8 for _ in labels] for _ in labels]
    pairs = compare(torch.ones(17, 2, dtype=dtype), torch.tensor(labels))
    distances = torch.tensor(distances, dtype=dtype)
    return distances, Block(pairs, slice(0, 17), distances), labels


def triplets_by_hand(labels):
    everyone = range(len(labels))
    return [
        (a, p, n)
        for a in everyone
        for p in everyone
        for n in everyone
        if a != p and labels[a] == labels[p] != labels[n]
    ]


def weights_by_hand(triplets, size):
    weight = [[0] * size for _ in range(size)]
    for a, p, n in triplets:
        weight[a][p] += 1
        weight[a][n] -= 1
    return weight


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@pytest.mark.usefixtures("both_ways")
def test_counts_agree_with_loops(seed, dtype):
    distances, rows, labels = stepped(seed, dtype)
    d = distances.tolist()
    active = [(a, p, n) for a, p, n in triplets_by_hand(labels) if d[a][p] + 0.25 > d[a][n]]
    counts = count_triplets(distances, rows, 0.25)
    assert counts.weight.tolist() == weights_by_hand(active, 17)
    assert counts.active == len(active) > 0
    total = sum(d[a][p] - d[a][n] + 0.25 for a, p, n in active)
    assert float(counts.hinges(distances, 0.25)) == pytest.approx(total)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.usefixtures("both_ways")
def test_window_counts_agree_with_loops(seed):
    distances, rows, labels = stepped(seed)
    d = distances.tolist()
    inside = [(a, p, n) for a, p, n in triplets_by_hand(labels) if d[a][p] < d[a][n] <= d[a][p] + 0.5]
    active = [(a, p, n) for a, p, n in inside if d[a][n] < d[a][p] + 0.5]
    window = count_window(distances, rows, 0.5)
    assert window.counts.weight.tolist() == weights_by_hand(active, 17)
    assert window.counts.active == len(active) > 0
    assert window.size == len(inside) > len(active)


@pytest.mark.usefixtures("both_ways")
def test_a_margin_lost_in_rounding_leaves_an_empty_window():
    distances, rows, _ = stepped(0)
    window = count_window(distances + 1, rows, 1e-30)
    assert not window.counts.weight.any()
    assert window.counts.active == window.size == 0


@pytest.mark.usefixtures("both_ways")
def test_rows_without_positives_or_negatives_count_nothing():
    inf = torch.inf
    of_positive, of_negative = count_active(
        torch.tensor([[1.0, inf, 2.0], [inf, inf, inf], [1.0, 2.0, 3.0]]),
        torch.tensor([[1.5, -inf], [7.0, 8.0], [-inf, -inf]]),
    )
    assert of_positive.tolist() == [[1, 0], [0, 0], [0, 0]]
    assert of_negative.tolist() == [[1, 0, 0], [0, 0, 0], [0, 0, 0]]


def test_listed_triplets_are_renumbered_when_rows_go():
    points = torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0], [1.0, 1.0]])
    references = torch.tensor([[1.0, 0.0], [0.0, 0.0], [0.0, 1.0]])
    tuples = tuple(torch.tensor(part) for part in ([3, 1, 0, 3, 2, 3], [0, 2, 2, 1, 0, 0], [2, 0, 2, 2, 1, 2]))
    pairs, listed = compare_listed(
        points,
        torch.arange(4),
        {"references": references, "reference_labels": torch.arange(3), "tuples": tuples},
    )
    assert pairs.anchors.shape == (3, 2)
    # (3, 0, 2) twice and (1, 2, 0); every other has a row without a direction.
    assert [listed.anchors.tolist(), listed.positives.tolist(), listed.negatives.tolist()] == [
        [0, 2, 2],
        [1, 0, 0],
        [0, 1, 1],
    ]
