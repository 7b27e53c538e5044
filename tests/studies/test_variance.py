"""Variance reduction against gain, on made-up records."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from scipy.stats import spearmanr

from cosphere.studies import Study, study_of
from cosphere.studies.variance import variance_against_gain


def grid(losses: int, seeds: int) -> Study:
    return study_of(
        "x",
        {
            "seeds": seeds,
            "search": {"seeds": [1000]},
            "grids": [
                {
                    "loss": {f"l{at}": {"loss.settings": {"alpha": 1.0 + at}} for at in range(losses)},
                    "constraint": {"none": {"sec.weight": 0}, "sec": {"sec.weight": 0.1}},
                }
            ],
            "questions": [
                {"ask": "{loss}?", "arm": "sec", "against": "none", "along": "constraint"},
                {"ask": "{loss}, again?", "arm": "sec", "against": "none", "along": "constraint", "score": "map@r"},
            ],
        },
    )


def record(arm: str, seed: int, cv: float | None, score: float, **others: Any) -> dict[str, Any]:
    base = {
        "arm": arm,
        "seed": seed,
        "phase": "final",
        "status": "ok",
        "norms": {"cv": cv},
        "scores": {"recall@1": score},
    }
    return {**base, **others}


def test_each_pair_of_runs_is_a_point_by_hand() -> None:
    records = [
        record("l0+none", 0, 0.4, 0.50),
        record("l0+sec", 0, 0.1, 0.53),
        record("l0+none", 1, 0.2, 0.50),
        record("l0+sec", 1, 0.2, 0.49),
        record("l0+sec", 0, 0.1, 0.99, phase="tune"),
    ]
    found = variance_against_gain(grid(1, 2), records)
    assert found is not None
    assert [(point.seed, point.reduction, point.gain) for point in found.points] == [
        (0, pytest.approx(1 - 1 / 16), pytest.approx(0.03)),
        (1, pytest.approx(0.0), pytest.approx(-0.01)),
    ]
    assert (found.spearman, found.interval) == (None, None)  # two points say nothing


def test_the_correlation_is_scipys_and_its_interval_resamples_pairs_of_arms() -> None:
    rng = np.random.default_rng(0)
    records, reductions, gains = [], [], []
    for loss in range(4):
        for seed in range(3):
            cv, gain = rng.uniform(0.05, 0.4), rng.normal(0, 0.02)
            records += [record(f"l{loss}+none", seed, 0.4, 0.5), record(f"l{loss}+sec", seed, cv, 0.5 + gain)]
            reductions.append(1 - (cv / 0.4) ** 2)
            gains.append(gain)
    found = variance_against_gain(grid(4, 3), records)
    assert found is not None
    assert len(found.points) == 12  # the second question is about the same pairs
    assert found.spearman == pytest.approx(spearmanr(reductions, gains).statistic)
    assert found.interval is not None
    assert found.interval.low < found.spearman < found.interval.high
    pairs, generator = np.arange(12).reshape(4, 3), np.random.default_rng(0)
    samples = (pairs[generator.integers(0, 4, 4)].ravel() for _ in range(2000))
    resampled = [spearmanr(np.array(reductions)[rows], np.array(gains)[rows]).statistic for rows in samples]
    assert found.interval == pytest.approx(np.quantile(resampled, [0.025, 0.975]))


def test_equal_values_and_pairs_of_several_sizes_are_resampled_as_scipy_ranks_them() -> None:
    """Seeds are missing, reductions are rounded, and samples of one pair alone vary in nothing."""
    rng, records, rows = np.random.default_rng(1), [], []
    for loss, seeds in enumerate([3, 1, 2]):
        for seed in range(seeds):
            cv, gain = 0.1 * (1 + loss % 2), round(float(rng.normal(0, 0.02)), 2)
            records += [record(f"l{loss}+none", seed, 0.4, 0.5), record(f"l{loss}+sec", seed, cv, 0.5 + gain)]
            rows.append((loss, 1 - (cv / 0.4) ** 2, (0.5 + gain) - 0.5))
    found = variance_against_gain(grid(3, 3), records)
    assert found is not None
    table, resampled, generator = np.array(rows), [], np.random.default_rng(0)
    assert found.spearman == pytest.approx(spearmanr(table[:, 1], table[:, 2]).statistic)
    for _ in range(2000):
        sample = np.concatenate([table[table[:, 0] == pair] for pair in generator.integers(0, 3, 3)])
        if len(sample) >= 5 and np.ptp(sample[:, 1]) > 0 and np.ptp(sample[:, 2]) > 0:
            resampled.append(spearmanr(sample[:, 1], sample[:, 2]).statistic)
    assert 0 < len(resampled) < 2000
    assert found.interval == pytest.approx(np.quantile(resampled, [0.025, 0.975]))


def test_failed_runs_and_missing_lengths_are_no_points() -> None:
    records = [
        record("l0+none", 0, 0.4, 0.5),
        record("l0+sec", 0, 0.1, 0.5, status="diverged"),
        record("l0+none", 1, 0.0, 0.5),
        record("l0+sec", 1, None, 0.5),
    ]
    found = variance_against_gain(grid(1, 2), records)
    assert found is not None
    assert found.points == ()


def test_a_study_without_sec_has_none() -> None:
    content = {
        "arms": {"a": {"steps": 10}, "b": {"steps": 20}},
        "questions": [{"ask": "?", "arm": "a", "against": "b"}],
    }
    assert variance_against_gain(study_of("x", content), []) is None
