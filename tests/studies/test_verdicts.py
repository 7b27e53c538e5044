"""Verdicts on simulated studies of known effect: their size, their coverage, and what each sentence says."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import t, ttest_1samp

from cosphere.errors import DataError, SettingsError
from cosphere.evaluate.statistics import Interval
from cosphere.studies import verdicts
from cosphere.studies.verdicts import Evidence, decide, evidence_of

SMALLEST = 0.005


def simulated(effect: float, *, studies: int = 1000, seeds: int = 5, sd: float = 0.01, seed: int = 0) -> list[Evidence]:
    drawn = np.random.default_rng(seed).normal(effect, sd, (studies, seeds))
    return [evidence_of(row, smallest=SMALLEST) for row in drawn]


@pytest.mark.parametrize(("effect", "seeds"), [(0.0, 5), (0.02, 5), (-0.01, 3), (0.004, 12)])
def test_intervals_of_95_percent_cover_the_true_effect_in_93_to_97_percent_of_studies(
    effect: float, seeds: int
) -> None:
    found = simulated(effect, seeds=seeds)
    covered = np.mean([one.seeds.low <= effect <= one.seeds.high for one in found])  # type: ignore[operator]
    assert 0.93 <= covered <= 0.97


def test_a_study_of_no_effect_says_yes_as_rarely_as_its_level_allows() -> None:
    answers = [decide([one], smallest=SMALLEST)[0].answer for one in simulated(0.0, studies=400)]
    assert np.mean([answer == "yes" for answer in answers]) <= 0.045  # 2.5 % and the noise of 400 studies


def test_many_comparisons_without_effect_give_a_false_yes_in_few_studies(monkeypatch: pytest.MonkeyPatch) -> None:
    """Eight comparisons in each study: without Holm's correction one study in six would claim a gain."""
    monkeypatch.setattr(
        verdicts, "seeds_for", lambda *_, **__: None
    )  # as slow as all the rest, and not in question here
    found = simulated(0.0, studies=800, seed=1)
    studies = [found[start : start + 8] for start in range(0, 800, 8)]
    claimed = [any(one.answer == "yes" for one in decide(study, smallest=SMALLEST)) for study in studies]
    uncorrected = [any(one.p < 0.05 and one.seeds.mean > 0 for one in study) for study in studies]
    assert np.mean(claimed) <= 0.06
    assert np.mean(uncorrected) > 0.1  # the test can see the difference


def test_a_gain_of_exactly_the_smallest_that_matters_is_ruled_out_as_rarely_as_its_level_allows() -> None:
    found = simulated(SMALLEST, studies=400, seed=2)
    assert np.mean([decide([one], smallest=SMALLEST)[0].answer == "no" for one in found]) <= 0.08


def test_a_large_effect_is_found_and_a_loss_is_refused() -> None:
    gains = [decide([one], smallest=SMALLEST)[0] for one in simulated(0.05, studies=50)]
    losses = [decide([one], smallest=SMALLEST)[0] for one in simulated(-0.05, studies=50)]
    assert {one.answer for one in gains} == {"yes"}
    assert {one.answer for one in losses} == {"no"}
    assert all("is not chance" in one.reason for one in gains)
    assert all("the score falls by" in one.reason or "is ruled out" in one.reason for one in losses)


def test_the_numbers_are_those_of_scipy() -> None:
    change = [0.012, 0.03, -0.004, 0.021, 0.015]
    one = evidence_of(change, smallest=SMALLEST)
    assert one.p == pytest.approx(ttest_1samp(change, 0).pvalue)
    assert one.p_smallest == pytest.approx(ttest_1samp(change, SMALLEST, alternative="less").pvalue)
    low, high = t.interval(0.95, 4, np.mean(change), np.std(change, ddof=1) / np.sqrt(5))
    assert (one.seeds.low, one.seeds.high) == pytest.approx((low, high))
    assert one.d == pytest.approx(np.mean(change) / np.std(change, ddof=1))


def test_the_number_of_seeds_decides_a_study_of_that_effect() -> None:
    """Simulated studies with the number of seeds that the verdict asks for are decided about four times in five."""
    change = np.array([0.02, -0.004, 0.025, 0.001])
    verdict = decide([evidence_of(change, smallest=SMALLEST)], smallest=SMALLEST)[0]
    assert verdict.answer == "not decided"
    assert verdict.seeds_needed is not None
    assert f"about {verdict.seeds_needed} seeds would be needed; there are 4." in verdict.reason
    again = simulated(change.mean(), studies=300, seeds=verdict.seeds_needed, sd=change.std(ddof=1))
    decided = [decide([one], smallest=SMALLEST)[0].answer != "not decided" for one in again]
    assert 0.74 <= np.mean(decided) <= 0.92


def test_classes_that_disagree_leave_a_question_open_and_no_number_of_seeds_is_promised() -> None:
    change = [0.02, 0.021, 0.019, 0.02]
    one = evidence_of(change, smallest=SMALLEST, classes=Interval(-0.01, 0.05), p_classes=0.3)
    (verdict,) = decide([one], smallest=SMALLEST)
    assert (verdict.answer, one.p) == ("not decided", 0.3)
    assert verdict.seeds_needed is None
    assert verdict.reason == (
        "it depends on the classes (p 0.300 over classes): more seeds would not decide, more test classes would."
    )
    assert (one.p_classes, one.p_smallest_classes) == (0.3, None)


def test_the_promised_number_of_seeds_decides_or_none_is_promised() -> None:
    """Whole studies: each open question gets its seeds, with the same mean and variation; its classes stay as they are."""
    generator, kept, refused = np.random.default_rng(3), 0, 0

    def differences(mean: float, sd: float, seeds: int) -> np.ndarray:
        drawn = generator.normal(size=seeds)
        return mean + sd * (drawn - drawn.mean()) / drawn.std(ddof=1)

    for _ in range(12):
        means, p_values = generator.normal(0.004, 0.006, 6), generator.uniform(0, 0.5, (6, 2)) ** 3
        classes = [{"p_classes": p, "p_smallest_classes": other} for p, other in p_values]
        before = [evidence_of(differences(mean, 0.008, 5), **own) for mean, own in zip(means, classes, strict=True)]
        verdicts = decide(before)
        for at, verdict in enumerate(verdicts):
            if verdict.answer != "not decided":
                continue
            if verdict.seeds_needed is None:
                refused += "more test classes would" in verdict.reason
                more = differences(means[at], 0.008, 1000)
                after = decide([*before[:at], evidence_of(more, **classes[at]), *before[at + 1 :]])
                assert after[at].answer == "not decided"
            else:
                assert verdict.seeds_needed > 5
                more = differences(means[at], 0.008, verdict.seeds_needed)
                after = decide([*before[:at], evidence_of(more, **classes[at]), *before[at + 1 :]])
                assert after[at].answer != "not decided"
                kept += 1
    assert min(kept, refused) > 5  # both happen


def test_a_no_too_holds_for_other_classes_or_is_none() -> None:
    change = [0.0, 0.0005, -0.0005, 0.0002]
    assert decide([evidence_of(change, p_classes=0.8)])[0].answer == "no"
    assert decide([evidence_of(change, p_classes=0.8, p_smallest_classes=0.2)])[0].answer == "not decided"


def test_one_seed_decides_nothing() -> None:
    (verdict,) = decide([evidence_of([0.3])])
    assert (verdict.answer, verdict.seeds_needed) == ("not decided", 3)
    assert "one seed" in verdict.reason


def test_seeds_that_agree_exactly_are_no_division_by_zero() -> None:
    same, more = decide([evidence_of([0.0, 0.0, 0.0]), evidence_of([0.02, 0.02, 0.02])])
    assert (same.answer, more.answer) == ("no", "yes")
    assert same.evidence.d is None


def test_a_small_gain_that_is_certain_is_a_yes_that_says_how_small() -> None:
    (verdict,) = decide([evidence_of([0.0011, 0.001, 0.0009, 0.001])])
    assert verdict.answer == "yes"
    assert "below 0.5 points, the smallest that matters" in verdict.reason


def test_wrong_numbers_are_refused() -> None:
    with pytest.raises(DataError, match="NaN"):
        evidence_of([0.1, float("nan")])
    with pytest.raises(SettingsError, match="smallest must be a number >= 0"):
        evidence_of([0.1, 0.2], smallest=-1)
    with pytest.raises(SettingsError, match="level"):
        decide([evidence_of([0.1, 0.2])], level=1.5)
