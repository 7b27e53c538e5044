from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from cosphere.codes import to_bits
from cosphere.errors import SettingsError, SizeError
from cosphere.evaluate import likely_mislabelled, retrieval


def clustered(seed: int = 0, classes: int = 25, each: int = 20, apart: float = 1.6) -> tuple[Any, Any]:
    generator = np.random.default_rng(seed)
    labels = np.repeat(np.arange(classes), each)
    points = generator.standard_normal((len(labels), 16)) + apart * generator.standard_normal((classes, 16))[labels]
    return points, labels


@pytest.mark.parametrize("bits", [False, True])
def test_finds_five_percent_of_wrong_labels(bits: bool) -> None:
    points, right = clustered()
    generator = np.random.default_rng(1)
    wrong = generator.choice(len(right), len(right) // 20, replace=False)
    labels = right.copy()
    labels[wrong] = (right[wrong] + generator.integers(1, 25, len(wrong))) % 25
    found = likely_mislabelled(to_bits(points) if bits else points, labels, top=len(wrong))
    hit = np.isin(found.rows, wrong)
    assert hit.mean() > (0.5 if bits else 0.9)  # by chance .05
    assert (found.suggested == right[found.rows])[hit].mean() > 0.9
    scores = retrieval(points, labels, (1,)).per_class()  # The classes that the errors came from score lower.
    assert scores.values["map@r"].mean() < retrieval(points, right, (1,)).macro()["map@r"]


def by_hand(points: Any, labels: Any, k: int) -> list[tuple[int, int, float, float]]:
    """Loops; equal votes go to the class of the nearer neighbour, equal suspicion to the nearer suggestion."""
    unit = points / np.linalg.norm(points, axis=1, keepdims=True)
    found = []
    for i in range(len(points)):
        order = sorted((j for j in range(len(points)) if j != i), key=lambda j: -float(unit[i] @ unit[j]))[:k]
        near = [int(labels[j]) for j in order]
        others = [name for name in near if name != labels[i]]
        if not others:
            continue
        best = max(others, key=lambda name: (others.count(name), -near.index(name)))
        own, votes = near.count(int(labels[i])), others.count(best)
        if votes > own:
            cosine = float(unit[i] @ unit[order[near.index(best)]])
            found.append((-(votes - own), -cosine, i, best, votes / k, own / k))
    return [(i, best, votes, own) for _, _, i, best, votes, own in sorted(found)]


@pytest.mark.parametrize("k", [1, 4, 7])
def test_agrees_with_loops(k: int) -> None:
    points, labels = clustered(3, classes=9, each=6, apart=0.8)
    labels = labels * (2**62 // 9) - 2**61
    found = likely_mislabelled(points / 3, labels, neighbours=k)
    want = by_hand(points, labels, k)
    got = list(zip(found.rows, found.suggested, found.agreement, found.own, strict=True))
    assert [tuple(one) for one in got] == want
    assert 0 < len(found) < 54
    assert found.labels.tolist() == labels[found.rows].tolist()
    assert found.suspicion.tolist() == sorted(found.suspicion.tolist(), reverse=True)
    first = found.as_rows()[0]
    assert (first["row"], first["label"], first["suspicion"]) == (want[0][0], labels[want[0][0]], found.suspicion[0])
    assert likely_mislabelled(points, labels, neighbours=k, top=2).rows.tolist() == found.rows[:2].tolist()


def test_clean_and_small_sets() -> None:
    axes, labels = torch.eye(3).repeat_interleave(4, dim=0), torch.arange(3).repeat_interleave(4)
    assert len(likely_mislabelled(axes, labels, neighbours=3)) == 0
    assert len(likely_mislabelled(axes, labels * 0)) == 0
    pair = likely_mislabelled(axes[:2], [5, 9])
    assert (pair.suggested.tolist(), pair.agreement.tolist()) == ([9, 5], [1.0, 1.0])


def test_wrong_input_is_named() -> None:
    points, labels = clustered()
    with pytest.raises(SettingsError, match="neighbours must be a whole number >= 1; got 0"):
        likely_mislabelled(points, labels, neighbours=0)
    with pytest.raises(SettingsError, match="top must be a whole number >= 1; got 0"):
        likely_mislabelled(points, labels, top=0)
    with pytest.raises(SizeError, match="one for each row"):
        likely_mislabelled(points, labels[:5])
    with pytest.raises(SizeError, match="one image alone has no neighbours"):
        likely_mislabelled(points[:1], labels[:1])
    with pytest.raises(SizeError, match="at least one row"):
        likely_mislabelled(points[:0], labels[:0])
