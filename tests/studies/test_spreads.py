"""Histograms of lengths of a study's arms, against counts by hand."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from cosphere.studies import Study, study_of
from cosphere.studies.spreads import BINS, LONGEST, Spreads, spreads


def study() -> Study:
    arms = {"none": {"sec.weight": 0}, "sec": {"sec.weight": 0.1}, "wide": {"model.dim": 64}}
    questions = [{"ask": "SEC?", "arm": "sec", "against": "none"}, {"ask": "Width?", "arm": "wide", "against": "none"}]
    return study_of("x", {"seeds": 2, "arms": arms, "questions": questions})


def record(arm: str, seed: int = 0, **others: Any) -> dict[str, Any]:
    return {"arm": arm, "seed": seed, "phase": "final", "status": "ok", **others}


def measured(lengths: dict[tuple[str, int], Any], records: list[dict[str, Any]] | None = None) -> Spreads | None:
    rows = [record(arm, seed) for arm, seed in lengths] if records is None else records
    return spreads(study(), rows, lambda one: lengths.get((one["arm"], one["seed"])))


def test_shares_are_of_lengths_over_their_mean() -> None:
    lengths = {("none", 0): np.array([1.0, 2.0, 3.0, 2.0]), ("sec", 0): np.array([40.0, 40.0])}
    found = measured(lengths)
    assert found is not None
    assert found.pairs == (("sec", "none"),)  # the width is no matter of SEC
    width = LONGEST / BINS
    expected = {int(value / width): 0.0 for value in (0.5, 1.0, 1.5)}
    for value, share in ((0.5, 0.25), (1.0, 0.5), (1.5, 0.25)):
        expected[int(value / width)] += share
    shares = found.arms["none"].mean
    assert {at: share for at, share in enumerate(shares) if share} == pytest.approx(expected)
    assert max(found.arms["sec"].mean) == 1.0


def test_seeds_are_averaged_and_spread() -> None:
    even, uneven = np.ones(4), np.array([0.5, 1.0, 1.0, 1.5])
    found = measured({("none", 0): even, ("none", 1): uneven, ("sec", 0): even})
    assert found is not None
    middle = int(1 / (LONGEST / BINS))
    assert found.arms["none"].mean[middle] == pytest.approx(0.75)
    assert found.arms["none"].sd[middle] == pytest.approx(np.std([1.0, 0.5], ddof=1))
    assert set(found.arms["sec"].sd) == {0.0}


def test_lengths_beyond_the_last_edge_stay_in_the_last_bin() -> None:
    found = measured({("none", 0): np.array([1.0] * 99 + [1000.0]), ("sec", 0): np.ones(3)})
    assert found is not None
    assert found.arms["none"].mean[-1] == pytest.approx(0.01)
    assert sum(found.arms["none"].mean) == pytest.approx(1)


def test_what_is_missing_or_diverged_is_left_out() -> None:
    ones = np.ones(3)
    assert measured({("none", 0): ones}) is None
    assert measured({("none", 0): ones, ("sec", 0): None}) is None
    assert measured({("none", 0): ones, ("sec", 0): np.zeros(3)}) is None
    lengths = {("none", 0): ones, ("sec", 0): ones}
    assert measured(lengths, [record("none"), record("sec", status="diverged")]) is None
    assert measured(lengths, [record("none"), record("sec", phase="tune")]) is None
