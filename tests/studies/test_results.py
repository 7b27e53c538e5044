"""Chance scores against random rankings."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.stats import ttest_1samp

from cosphere.evaluate.retrieval import retrieval
from cosphere.studies import StudyFolder, study_of
from cosphere.studies.notes import notes
from cosphere.studies.results import _p_smallest, arm_results, chance, compared


@pytest.mark.slow
def test_chance_is_the_mean_score_of_random_embeddings() -> None:
    labels = np.repeat([0, 1, 2], [3, 5, 8])
    rng = np.random.default_rng(0)
    drawn = [
        retrieval(embeddings=rng.normal(size=(16, 12)).astype(np.float32), labels=labels, ks=(1, 4)).per_query()
        for _ in range(500)
    ]
    for score in ("recall@1", "recall@4", "map@r", "r_precision"):
        # Random directions are not quite a random order (near ones are near to many), hence the width.
        assert chance(score, labels).mean() == pytest.approx(np.mean([one[score] for one in drawn]), abs=0.012), score


def test_a_gain_over_classes_is_ruled_out_by_how_many_of_them_lie_below_it() -> None:
    classes = np.repeat(np.arange(8), 3)
    below = np.repeat([0.0, 0.001, -0.002, 0.003, -0.001, 0.0005, 0.0, -0.003], 3)
    assert _p_smallest(below, classes, 0.005) == pytest.approx(
        1 / 2**8
    )  # all eight lie below: one pattern of 256 goes as far
    assert _p_smallest(below + 0.1, classes, 0.005) == pytest.approx(1 - 1 / 2**8)
    assert _p_smallest(below + 0.1, None, 0.005) > 0.99


def test_chance_of_recall_at_1_is_the_share_of_the_class() -> None:
    assert chance("recall@1", np.array([0, 0, 0, 1, 1])).tolist() == pytest.approx([2 / 4] * 3 + [1 / 4] * 2)
    assert chance("recall@4", np.array([0, 0, 0, 1, 1])).tolist() == pytest.approx([1.0] * 5)


def test_chance_is_that_of_any_order_whatever_the_form() -> None:
    labels = np.array([0, 0, 0, 1, 1])
    assert chance("map@r/bits", labels).tolist() == chance("map@r", labels).tolist()
    assert chance("recall@1/bits", labels).tolist() == chance("recall@1", labels).tolist()


def test_a_question_compares_the_score_of_each_arm(tmp_path: Path) -> None:
    """Also two scores of one arm: query by query, and class by class."""
    ask = {"ask": "?", "arm": "wide", "score": "recall@1/bits", "against_score": "recall@1"}
    content = {
        "seeds": 3,
        "arms": {"wide": {"model.dim": 64}, "narrow": {"model.dim": 8}},
        "scores": ["recall@1", "recall@1/bits"],
        "questions": [{**ask, "against": "narrow"}, {**ask, "against": "wide"}],
    }
    folder, records, generator = StudyFolder(tmp_path), [], np.random.default_rng(0)
    values = {}
    for arm in ("wide", "narrow"):
        for seed in range(3):
            own = {score: generator.integers(0, 2, 40).astype(float) for score in content["scores"]}
            record = {"arm": arm, "run": f"final-seed{seed}", "phase": "final", "seed": seed, "status": "ok"}
            record["scores"] = {score: float(one.mean()) for score, one in own.items()}
            folder.save(record, {"classes": np.repeat(list("abcd"), 10), **own})
            records.append(record)
            values[arm, seed] = own
    first, second = compared(study_of("x", content), folder, records, {})
    for one, against in ((first, "narrow"), (second, "wide")):
        means = [
            values["wide", seed]["recall@1/bits"].mean() - values[against, seed]["recall@1"].mean() for seed in range(3)
        ]
        assert one.changes == pytest.approx(means)
        assert one.difference is not None
        assert one.difference.value == pytest.approx(np.mean(means))
        assert one.as_dict()["against_score"] == "recall@1"


def test_seeds_that_disagree_are_not_taken_for_classes_that_do(tmp_path: Path) -> None:
    """60 classes gain in each of three seeds, by 1, 3 and 6 points: only the seeds leave the question open."""
    content = {
        "seeds": 3,
        "arms": {"new": {"model.dim": 64}, "old": {"model.dim": 8}},
        "scores": ["map@r"],
        "questions": [{"ask": "?", "arm": "new", "against": "old"}],
    }
    folder, records, classes = StudyFolder(tmp_path), [], np.repeat(np.arange(60), 2).astype(str)
    for arm, gains in (("old", (0, 0, 0)), ("new", (0.01, 0.03, 0.06))):
        for seed, gain in enumerate(gains):
            record: dict[str, Any] = {"arm": arm, "run": f"final-seed{seed}", "phase": "final", "seed": seed}
            records.append({**record, "status": "ok", "scores": {"map@r": 0.5 + gain}})
            folder.save(records[-1], {"classes": classes, "map@r": np.full(120, 0.5 + gain)})
    (one,) = compared(study_of("x", content), folder, records, {})
    assert one.verdict is not None
    evidence = one.verdict.evidence
    assert evidence.p_seeds == pytest.approx(ttest_1samp([0.01, 0.03, 0.06], 0).pvalue)
    # All classes gain, so of 10000 drawn patterns of signs only the measured one goes as far.
    assert evidence.p_classes == pytest.approx(1 / 10_001)
    assert (evidence.p, one.answer, one.verdict.seeds_needed) == (evidence.p_seeds, "not decided", 7)
    assert one.reason == "about 7 seeds would be needed; there are 3."


def test_candidates_are_counted_however_many_seeds_each_has() -> None:
    search = {"seeds": [1000, 1001]}
    content = {"arms": {"a": {"model.dim": 8}, "b": {}}, "tune": {"sec.weight": [0.1, 0.2]}, "search": search}
    study = study_of("x", {**content, "candidates": 3})
    status = {(0, 1000): "diverged", (0, 1001): "diverged", (1, 1001): "diverged"}
    records: list[Any] = [
        {
            "arm": "a",
            "phase": "tune",
            "candidate": candidate,
            "seed": seed,
            "status": status.get((candidate, seed), "ok"),
        }
        for candidate in range(3)
        for seed in search["seeds"]
    ]
    for one in records:
        one |= {"provenance": {"commit": "c"}}
    assert [arm.failed_candidates for arm in arm_results(study, records, {})] == [2, 0]
    texts = [next(notes(study, records, {"tune": left, "final": 10})) for left in (6, 1)]
    assert [text.partition(",")[0] for text in texts] == [
        "6 runs of candidates are left",
        "1 run of candidates is left",
    ]


def test_a_score_without_a_known_chance_counts_as_zero() -> None:
    assert chance("mrr", np.array([0, 0, 1, 1])).tolist() == [0.0] * 4
