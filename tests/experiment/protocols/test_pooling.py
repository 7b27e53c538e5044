"""Templates against loops."""

from __future__ import annotations

import numpy as np
import pytest

from cosphere.experiment.protocols.pooling import template_parts


def by_hand(rows: np.ndarray, labels: list[str], *, lengths: bool) -> float:
    """The AUC of the templates of people with four images or more."""
    sides: list[list[np.ndarray]] = []
    for person in sorted(set(labels)):
        own = [row for row, label in zip(rows, labels, strict=True) if label == person]
        own = own if lengths else [row / np.linalg.norm(row) for row in own]
        if len(own) >= 4:
            sums = [sum(own[half::2]) for half in (0, 1)]
            sides.append([one / np.linalg.norm(one) for one in sums])
    same = [first @ second for first, second in sides]
    different = [sides[a][0] @ sides[b][1] for a in range(len(sides)) for b in range(len(sides)) if a != b]
    return float(np.mean([(a > b) + (a == b) / 2 for a in same for b in different]))


@pytest.mark.parametrize("seed", range(3))
def test_templates_are_pooled_with_and_without_lengths(seed: int) -> None:
    rng = np.random.default_rng(seed)
    labels = [str(name) for name in rng.integers(0, 9, 60)] + ["alone"]
    centres = {
        name: rng.normal(size=5) for name in sorted(set(labels))
    }  # of a set's own order, each process would draw others
    rows = np.stack([centres[name] + 2 * rng.normal(size=5) for name in labels]) * rng.uniform(0.1, 9, (61, 1))
    weighted, plain = template_parts(rows, labels, (0.1,))
    assert weighted.values["auc"].value == pytest.approx(by_hand(rows, labels, lengths=True))
    assert plain.values["auc"].value == pytest.approx(by_hand(rows, labels, lengths=False))
    assert weighted.values["auc"] != plain.values["auc"]
    assert weighted.counts["people"] == sum(labels.count(name) >= 4 for name in set(labels))


def test_equal_lengths_make_both_equal() -> None:
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(40, 5))
    rows *= 7 / np.linalg.norm(rows, axis=1, keepdims=True)
    weighted, plain = template_parts(rows, np.repeat(np.arange(8), 5), (0.1,))
    assert weighted.values["auc"].value == plain.values["auc"].value


def test_too_few_images_make_no_templates() -> None:
    assert template_parts(np.eye(6), ["a", "a", "a", "a", "b", "b"], (0.1,)) == []
