"""How fast arms learn, on made-up curves whose answer is known."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from cosphere.report.convergence import convergence_table
from cosphere.studies import Study, study_of
from cosphere.studies.convergence import Convergence, convergence, logged, steps_to


def study(seeds: int = 3) -> Study:
    return study_of(
        "x",
        {
            "seeds": seeds,
            "arms": {"none": {"sec.weight": 0}, "sec": {"sec.weight": 0.1}, "wide": {"model.dim": 64}},
            "search": {"metric": "map@r"},
            "questions": [
                {"ask": "SEC?", "arm": "sec", "against": "none"},
                {"ask": "SEC on the other score?", "arm": "sec", "against": "none", "score": "map@r"},
                {"ask": "Width?", "arm": "wide", "against": "none"},
            ],
        },
    )


def record(arm: str, seed: int, **others: Any) -> dict[str, Any]:
    return {"arm": arm, "seed": seed, "phase": "final", "status": "ok", **others}


def curve(end: float, steps: int = 400, every: int = 100, cv: float = 0.5) -> list[dict[str, Any]]:
    """A straight rise from 0 at step 0 to ``end``, and lengths of one CV."""
    lines: list[dict[str, Any]] = [{"step": step, "train/norm_cv": cv} for step in range(10, steps + 1, 10)]
    return lines + [
        {"step": step, "val/map@r": end * step / steps, "val/effective_rank": step / 10}
        for step in range(every, steps + 1, every)
    ]


def measured(logs: dict[tuple[str, int], list[dict[str, Any]]], seeds: int = 3) -> Convergence | None:
    records = [record(arm, seed) for arm, seed in logs]
    return convergence(study(seeds), records, lambda one: logs[one["arm"], one["seed"]])


def test_twice_as_steep_a_line_needs_half_the_steps() -> None:
    logs = {("none", seed): curve(0.30 + 0.02 * seed) for seed in range(3)}
    logs |= {("sec", seed): curve(0.60 + 0.04 * seed) for seed in range(3)}
    found = measured(logs)
    assert found is not None
    assert (found.metric, found.every) == ("map@r", 100)
    assert [(one.seed, one.steps, one.whole) for one in found.points] == [
        (seed, pytest.approx(200.0), 400) for seed in range(3)
    ]
    (speed,) = found.speeds  # two questions about one pair, and one that is not about SEC
    assert (speed.arm, speed.against, speed.reached, speed.seeds) == ("sec", "none", 3, 3)
    assert speed.share is not None
    assert speed.share.mean == pytest.approx(0.5)
    assert found.ranks["sec"] == ((100, 200, 300, 400), (10, 20, 30, 40), (0, 0, 0, 0))
    assert found.as_dict()["ranks"]["none"]["mean"] == (10, 20, 30, 40)


def test_between_validations_the_curve_is_straight() -> None:
    logs = {("none", 0): curve(0.3), ("sec", 0): curve(0.48)}
    found = measured(logs, seeds=1)
    assert found is not None
    assert found.points[0].steps == pytest.approx(400 * 0.3 / 0.48)


def test_the_interval_is_students_over_seeds() -> None:
    ends = [0.4, 0.6, 0.8]
    logs = {("none", seed): curve(0.3) for seed in range(3)} | {
        ("sec", seed): curve(end) for seed, end in enumerate(ends)
    }
    found = measured(logs)
    assert found is not None
    shares = [0.3 / end for end in ends]
    half = 4.302652729911275 * np.std(shares, ddof=1) / np.sqrt(3)  # t of 0.975 with 2 degrees of freedom
    share = found.speeds[0].share
    assert share is not None
    assert share.low == pytest.approx(np.mean(shares) - half)
    assert share.high == pytest.approx(np.mean(shares) + half)


def test_the_share_is_of_the_seeds_that_get_there_beside_their_number() -> None:
    logs = {("none", 0): curve(0.3), ("none", 1): curve(0.3), ("sec", 0): curve(0.2), ("sec", 1): curve(0.6)}
    found = measured(logs)
    assert found is not None
    assert [point.steps for point in found.points] == [None, pytest.approx(200.0)]
    (speed,) = found.speeds
    assert (speed.reached, speed.seeds) == (1, 2)
    assert speed.share == (pytest.approx(0.5), None, None, None, 1)


def test_no_seed_that_gets_there_leaves_no_share() -> None:
    found = measured({("none", 0): curve(0.3), ("sec", 0): curve(0.2)}, seeds=1)
    assert found is not None
    assert (found.speeds[0].reached, found.speeds[0].share) == (0, None)
    assert found.as_dict()["speeds"][0]["share"] is None
    page = convergence_table(found.as_dict())
    assert "never" in page
    assert "0 of 1" in page


def test_the_courses_are_means_over_seeds_at_shared_steps() -> None:
    logs = {("none", seed): curve(0.3, cv=0.4) for seed in range(2)}
    logs |= {("sec", 0): curve(0.4, cv=0.1), ("sec", 1): curve(0.6, every=200, cv=0.3)}
    found = measured(logs)
    assert found is not None
    assert found.scores["sec"].steps == (200.0, 400.0)
    assert found.scores["sec"].mean == pytest.approx((0.25, 0.5))
    assert found.scores["sec"].sd == pytest.approx((np.std([0.2, 0.3], ddof=1), np.std([0.4, 0.6], ddof=1)))
    assert found.variances["sec"].mean == pytest.approx([(0.01 + 0.09) / 2] * 40)


def test_a_run_that_diverged_never_gets_there_and_is_no_target() -> None:
    logs = {(arm, seed): curve(end) for arm, end in (("none", 0.3), ("sec", 0.6)) for seed in range(3)}
    records = [
        record("none", 0),
        record("sec", 0, status="diverged"),
        record("none", 1, status="diverged"),
        record("sec", 1),
        record("none", 2, status="collapsed"),  # its measured scores count
        record("sec", 2),
    ]
    found = convergence(study(), records, lambda one: logs[one["arm"], one["seed"]])
    assert found is not None
    assert [(point.seed, point.steps) for point in found.points] == [(0, None), (2, pytest.approx(200.0))]
    assert (found.speeds[0].reached, found.speeds[0].seeds) == (1, 2)
    assert found.speeds[0].share is not None
    assert found.speeds[0].share.mean == pytest.approx(0.5)


def test_only_final_runs_count() -> None:
    logs = {("none", 0): curve(0.3), ("sec", 0): curve(0.6), ("none", 1): curve(0.3)}
    records = [record("none", 0, phase="tune"), record("none", 1), record("sec", 0)]
    found = convergence(study(), records, lambda one: logs[one["arm"], one["seed"]])
    assert found is not None
    assert (found.points, found.speeds) == ((), ())


def test_without_validations_there_is_nothing_to_say() -> None:
    assert measured({("none", 0): [{"step": 10, "train/norm_cv": 0.1}], ("sec", 0): []}) is None
    assert (
        convergence(study_of("y", {"arms": {"a": {}, "b": {"model.dim": 64}}}), [record("a", 0)], lambda _: curve(1))
        is None
    )


@pytest.mark.parametrize(
    ("target", "steps"),
    [(0.1, 100.0), (0.2, 100.0), (0.3, 150.0), (0.4, 200.0), (0.41, 300 + 100 * 0.06 / 0.15), (0.6, None)],
)
def test_the_first_time_counts(target: float, steps: float | None) -> None:
    """The curve falls in between, and rises again."""
    reached = steps_to(np.array([100.0, 200.0, 300.0, 400.0]), np.array([0.2, 0.4, 0.35, 0.5]), target)
    assert reached == (None if steps is None else pytest.approx(steps))


def test_what_is_not_a_number_is_left_out() -> None:
    log = [
        {"step": 0, "a": 9.0},
        {"step": 1, "a": 1},
        {"step": 2, "a": None},
        {"step": 3, "a": float("nan")},
        {"step": 4, "b": 1},
    ]
    steps, values = logged(log, "a")
    assert (steps.tolist(), values.tolist()) == ([1.0], [1.0])
