from __future__ import annotations

import math
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
    assert hit.mean() > (0.75 if bits else 0.9)  # by chance .05
    assert (found.suggested == right[found.rows])[hit].mean() > (0.8 if bits else 0.9)
    scores = retrieval(points, labels, (1,)).per_class()  # The classes that the errors came from score lower.
    assert scores.values["map@r"].mean() < retrieval(points, right, (1,)).macro()["map@r"]


def by_hand(points: Any, labels: Any, k: int) -> list[tuple[int, int, float, float, float]]:
    """Loops: row, suggested class, agreement, own share and suspicion."""
    unit = points / np.linalg.norm(points, axis=1, keepdims=True)
    found = []
    for i in range(len(points)):
        order = sorted((j for j in range(len(points)) if j != i), key=lambda j: -float(unit[i] @ unit[j]))
        near = [int(labels[j]) for j in order[:k]]
        others = labels.tolist().count(labels[i]) - 1

        def nearness(name: int, i: int = i, order: list[int] = order, others: int = others) -> float:
            cosines = [float(unit[i] @ unit[j]) for j in order if labels[j] == name]
            count = math.ceil(round(max(0.2, 1 / others) * len(cosines), 9))
            return sum(cosines[:count]) / count

        names = {name for name in near if name != labels[i]}
        if not names:
            continue
        best = max(names, key=nearness)
        margin = nearness(best) - nearness(int(labels[i]))
        if margin > 0:
            own = near.count(int(labels[i])) / min(k, others)
            found.append((i, best, near.count(best) / k, own, margin * others / (others + 2)))
    return sorted(found, key=lambda one: -one[4])


@pytest.mark.parametrize("k", [1, 4, 7])
@pytest.mark.parametrize("block_bytes", [1, 2**27])
def test_agrees_with_loops(k: int, block_bytes: int) -> None:
    points, labels = clustered(3, classes=9, each=6, apart=0.8)
    points, labels = points[:-4], labels[:-4] * (2**62 // 9) - 2**61  # the last class has two images
    found = likely_mislabelled(points / 3, labels, neighbours=k, block_bytes=block_bytes)
    want = by_hand(points, labels, k)
    got = list(zip(found.rows, found.suggested, found.agreement, found.own, strict=True))
    assert [tuple(one) for one in got] == [one[:4] for one in want]
    assert found.suspicion.tolist() == pytest.approx([one[4] for one in want], abs=1e-6)
    assert 0 < len(found) < 50
    assert found.labels.tolist() == labels[found.rows].tolist()
    first = found.as_rows()[0]
    assert (first["row"], first["label"], first["suspicion"]) == (want[0][0], labels[want[0][0]], found.suspicion[0])
    assert likely_mislabelled(points, labels, neighbours=k, top=2).rows.tolist() == found.rows[:2].tolist()


def test_clean_and_small_sets() -> None:
    axes, labels = torch.eye(3).repeat_interleave(4, dim=0), torch.arange(3).repeat_interleave(4)
    assert len(likely_mislabelled(axes, labels, neighbours=3)) == 0
    assert len(likely_mislabelled(axes, labels * 0)) == 0
    assert len(likely_mislabelled(axes[:4], [5, 9, 9, 5], neighbours=1)) == 0  # four equal images: no class is nearer
    odd = likely_mislabelled(axes[:8], [5, 5, 5, 9, 9, 9, 9, 9])
    assert (odd.rows.tolist(), odd.suggested.tolist(), odd.margin.tolist()) == ([3], [5], [1.0])
    assert len(likely_mislabelled(axes[:2], [5, 9])) == 0  # no image can support a class of one


@pytest.mark.parametrize("sizes", [(2, 3), (3, 5), (20, 3)])
def test_images_that_the_model_cannot_read_do_not_fill_the_list_of_any_size(sizes: tuple[int, int]) -> None:
    generator = np.random.default_rng(0)
    labels = np.repeat(np.arange(80), np.where(np.arange(80) < 40, *sizes))
    small = np.bincount(labels)[labels] == min(sizes)
    found = likely_mislabelled(generator.standard_normal((len(labels), 24)), labels, top=len(labels) // 5)
    assert small[found.rows].mean() < small.mean() + 0.25


@pytest.mark.parametrize("each", [1, 2, 3, 5, 12])
def test_a_perfect_embedding_has_no_suspects_whatever_the_class_sizes(each: int) -> None:
    generator = np.random.default_rng(each)
    labels = np.repeat(np.arange(60), each)
    points = generator.standard_normal((60, 32))[labels] + 1e-4 * generator.standard_normal((60 * each, 32))
    assert len(likely_mislabelled(points, labels)) == 0


def test_true_errors_come_before_misread_images_of_rare_classes() -> None:
    generator = np.random.default_rng(0)
    right = np.concatenate([np.repeat(np.arange(8), 30), 8 + np.arange(24) // 2])  # eight classes of 30, twelve of two
    centres = generator.standard_normal((20, 16))
    points = 2 * centres[right] + generator.standard_normal((len(right), 16))
    points[240:] = generator.standard_normal((24, 16))  # pairs of images that the model cannot read
    labels, wrong = right.copy(), np.arange(0, 240, 24)
    labels[wrong] = (right[wrong] + 1) % 8
    found = likely_mislabelled(points, labels)
    assert set(found.rows[:10]) == set(wrong)


def test_copies_of_a_picture_do_not_vote_for_each_other() -> None:
    generator = np.random.default_rng(4)
    points = generator.standard_normal((12, 8))
    points = np.concatenate([points, points])
    labels, pictures = np.tile(np.arange(12) // 4, 2), np.tile(np.arange(12), 2)
    labels[12] = 2  # one picture under two labels
    alone = likely_mislabelled(points, labels, neighbours=1)
    assert 0 in alone.rows  # it has found its copy under the other label
    found = likely_mislabelled(points, labels, identities=pictures, neighbours=3)
    assert len(found) > 3
    unit = points / np.linalg.norm(points, axis=1, keepdims=True)
    for row, own, margin in zip(found.rows, found.own, found.margin, strict=True):
        cosines, mine = unit @ unit[row], (labels == labels[row]) & (pictures != pictures[row])
        order = sorted(np.flatnonzero(pictures != pictures[row]), key=lambda j, cosines=cosines: -float(cosines[j]))[:3]
        assert own == pytest.approx((labels[order] == labels[row]).sum() / min(3, mine.sum()))
        count = math.ceil(round(max(0.2, 1 / mine.sum()) * mine.sum(), 9))
        theirs = (labels == found.suggested[found.rows == row]) & (pictures != pictures[row])
        other = math.ceil(round(max(0.2, 1 / mine.sum()) * theirs.sum(), 9))
        means = [float(np.sort(cosines[some])[-many:].mean()) for some, many in ((theirs, other), (mine, count))]
        assert margin == pytest.approx(means[0] - means[1], abs=1e-6)


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
