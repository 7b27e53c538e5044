"""Odd labels, types and seeds, refused or understood by every measure alike."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from cosphere.codes import to_bits
from cosphere.errors import SettingsError, SizeError
from cosphere.evaluate import (
    EvaluationSettings,
    bootstrap,
    bootstrap_classes,
    clustering,
    equal_bytes,
    identification,
    linear_probe,
    matched_hamming,
    mcnemar_test,
    open_set,
    open_set_split,
    verification,
    verification_intervals,
)
from cosphere.evaluate.calibration import calibrate, pair_rates
from cosphere.health import embedding_health
from cosphere.search import Index


@pytest.mark.parametrize("labels", [[0.5, 1.5, 2.5], [0.0, np.nan, 1.0], [None, "a", "b"]])
def test_fractions_and_nan_are_no_classes(labels):
    rows = np.eye(3)
    for measure in (
        lambda: calibrate(rows, labels),
        lambda: pair_rates(rows, labels, 0.5),
        lambda: open_set(rows, labels, threshold=0.5),
        lambda: open_set_split(labels),
        lambda: identification(rows, labels, rows),
        lambda: matched_hamming(0.5, rows, to_bits(rows), labels=labels),
        lambda: bootstrap_classes([0, 1, 1], labels),
    ):
        with pytest.raises(SizeError, match=r"as integers or names, got .*\. Number the classes"):
            measure()


def test_names_are_classes():
    rows = np.array([[1.0, 0.0], [0.8, 0.6], [0.0, 1.0]])
    want = calibrate(rows, [0, 0, 1], far=0.5, samples=5)
    for labels in (["b", "b", "a"], np.array(["b", "b", "a"]), np.array(["b", "b", "a"], dtype=object)):
        assert calibrate(rows, labels, far=0.5, samples=5).threshold == want.threshold


def test_bfloat16_scores_and_values():
    values = torch.tensor([0.9, 0.7, 0.4, 0.2], dtype=torch.bfloat16)
    same = [1, 0, 1, 0]
    assert verification(values, same, folds=2).as_dict() == verification(values.float(), same, folds=2).as_dict()
    assert bootstrap(values, samples=50) == bootstrap(values.float(), samples=50)
    assert mcnemar_test(values > 0.5, values > 0.3) == 1.0


@pytest.mark.parametrize(
    "measure",
    [
        lambda rows, seed: calibrate(rows, [0, 0, 1, 1], seed=seed),
        lambda rows, seed: open_set(rows, [0, 0, 1, 1], threshold=0.5, seed=seed),
        lambda rows, seed: clustering(rows, [0, 0, 1, 1], seed=seed),
        lambda rows, seed: matched_hamming(0.5, rows, to_bits(rows), seed=seed),
        lambda rows, seed: embedding_health(rows, seed=seed),
        lambda rows, seed: Index.build(rows, seed=seed),
        lambda rows, seed: equal_bytes(rows, [0, 0, 1, 1], seed=seed),
        lambda rows, seed: linear_probe(rows, [0, 0, 1, 1], rows, [0, 0, 1, 1], seed=seed),
        lambda rows, seed: EvaluationSettings(seed=seed),
        lambda rows, seed: verification_intervals([0.9, 0.1], [1, 0], seed=seed),
        lambda rows, seed: open_set_split([0, 0, 1, 1], seed=seed),
    ],
)
def test_a_seed_below_zero_is_refused(measure):
    with pytest.raises(SettingsError, match="seed must be a whole number from 0 to 9223372036854775807; got -1"):
        measure(np.eye(4), -1)
