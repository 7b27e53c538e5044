"""From paired differences to a verdict: *yes*, *no*, or *not decided at this budget*.

A question asks whether one arm scores higher than another. Two claims are tested, each over the study's comparisons with Holm's
correction:

- *yes*: the difference is above 0;
- *no*: the difference is below the smallest gain that matters. A significant loss is a *no* too.

Everything else is not decided, and the number of seeds says what a decision would take. Each p-value is the larger of two, one over
seeds and one over classes, so that neither a lucky seed nor a few classes make a verdict.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal, NamedTuple

from scipy.stats import t as student

from cosphere._types import Floats
from cosphere.checks import check_number
from cosphere.evaluate.significance import holm, seeds_test
from cosphere.evaluate.statistics import Interval, Summary, check_level, check_values, seeds_summary
from cosphere.studies.power import MOST_SEEDS, seeds_for

Answer = Literal["yes", "no", "not decided"]
POWER = 0.8
"""Probability of a decision that the number of seeds is worked out for."""


class Evidence(NamedTuple):
    """What the seeds, and where known the classes, say about one difference. Scores are fractions."""

    seeds: Summary
    """Of the paired differences, with Student's t interval."""
    d: float | None
    """Effect size: mean over standard deviation of the paired differences; None for one seed or no variation."""
    p: float
    """Of no difference, two-sided: the larger of those over seeds and over classes; 1 for one seed."""
    p_seeds: float | None
    """Of no difference, over seeds alone."""
    p_smallest: float
    """Of a gain of at least the smallest one that matters, one-sided: the larger of those over seeds and over classes; 1 for one
    seed."""
    classes: Interval | None = None
    """Interval over seeds and classes."""
    p_classes: float | None = None
    """Of no difference, over classes alone; None where there are none."""
    p_smallest_classes: float | None = None
    """Of a gain of at least the smallest one that matters, over classes alone; None where there are none."""


class Verdict(NamedTuple):
    """The answer to one comparison."""

    answer: Answer
    reason: str
    """One sentence."""
    evidence: Evidence
    p_holm: float
    """``evidence.p``, corrected for all comparisons of the study."""
    p_smallest_holm: float
    """``evidence.p_smallest``, corrected in the same way."""
    seeds_needed: int | None
    """Number of seeds that would probably decide; None where it is decided, where no number of seeds up to 1000 would, or where the
    classes leave both answers open, which more seeds do not change."""


def evidence_of(
    change: Sequence[float] | Floats,
    *,
    smallest: float = 0.005,
    level: float = 0.95,
    classes: Interval | None = None,
    p_classes: float | None = None,
    p_smallest_classes: float | None = None,
) -> Evidence:
    """The evidence of paired differences.

    Args:
        change: (S,) first arm minus second, one number for each seed.
        smallest: smallest gain that matters, a fraction, >= 0.
        level: of the interval, in (0, 1).
        classes: interval over seeds and classes, where there is one.
        p_classes: p-value of no difference over classes, where there is one.
        p_smallest_classes: p-value over classes of a gain of at least ``smallest``, where there is one.

    Raises:
        SizeError, DataError: not (S,) finite numbers.
        SettingsError: a setting is out of range.
    """
    check_number("smallest", smallest, at_least=0)
    values = check_values(change, "differences")
    summary, p_seeds = seeds_summary(values, level=level), seeds_test(values)
    if summary.sd is None or p_seeds is None:
        return Evidence(summary, None, 1.0, None, 1.0, classes, p_classes, p_smallest_classes)
    error = summary.sd / math.sqrt(summary.n)
    varies = error > 1e-9 * max(abs(summary.mean), 1e-9)
    if varies:
        p_smallest = float(student.cdf((summary.mean - smallest) / error, summary.n - 1))
    else:
        p_smallest = 0.0 if summary.mean < smallest else 1.0
    d = summary.mean / summary.sd if varies else None
    p = max(p_seeds, p_classes or 0.0)
    p_smallest = max(p_smallest, p_smallest_classes or 0.0)
    return Evidence(summary, d, p, p_seeds, p_smallest, classes, p_classes, p_smallest_classes)


def decide(
    evidence: Sequence[Evidence], *, smallest: float = 0.005, level: float = 0.95, power: float = POWER
) -> list[Verdict]:
    """One verdict for each comparison of a study, corrected for their number.

    Args:
        evidence: of all comparisons of the study.
        smallest: smallest gain that matters, the same as in :func:`evidence_of`.
        level: 1 minus the probability of even one false *yes*, and of even one false *no*, in the whole study.
        power: probability of a decision that the number of seeds is worked out for, in (0, 1).

    Raises:
        SettingsError: a setting is out of range.
    """
    check_level(level)
    check_number("smallest", smallest, at_least=0)
    corrected = holm([one.p for one in evidence])
    corrected_smallest = holm([one.p_smallest for one in evidence])
    alpha = 1 - level
    answers = [
        _answer(one, p, p_smallest, alpha, smallest)
        for one, p, p_smallest in zip(evidence, corrected, corrected_smallest, strict=True)
    ]
    # Holm multiplies the smallest p that is not significant yet by the number of those.
    alphas = [alpha / max(1, sum(p >= alpha for p in family)) for family in (corrected, corrected_smallest)]
    verdicts = []
    for (answer, reason), one, p, p_smallest in zip(answers, evidence, corrected, corrected_smallest, strict=True):
        needed = None
        if answer == "not decided":
            effects = _open_answers(one, smallest, *alphas)
            needed = _seeds_needed(one, effects, power)
            reason = _undecided(one, effects, needed)
        verdicts.append(Verdict(answer, reason, one, p, p_smallest, needed))
    return verdicts


def _answer(one: Evidence, p: float, p_smallest: float, alpha: float, smallest: float) -> tuple[Answer, str]:
    gain, floor = f"{100 * one.seeds.mean:+.2f} points", f"{100 * smallest:g} points"
    if p < alpha and one.seeds.mean > 0:
        small = f"; it is below {floor}, the smallest that matters here" if p_smallest < alpha else ""
        return "yes", f"the gain of {gain} is not chance (p {p_text(p)} after Holm){small}."
    if p < alpha and one.seeds.mean < 0:
        return "no", f"the score falls by {100 * -one.seeds.mean:.2f} points (p {p_text(p)} after Holm)."
    if p_smallest < alpha:
        return "no", f"a gain of {floor} or more is ruled out (p {p_text(p_smallest)} after Holm); measured: {gain}."
    return "not decided", ""


class _Effect(NamedTuple):
    """What a t-test over seeds would have to find for one of the answers."""

    size: float
    """d of Cohen, >= 0."""
    alpha: float
    two_sided: bool


def _open_answers(one: Evidence, smallest: float, alpha: float, alpha_smallest: float) -> list[_Effect]:
    """The answers that more seeds could give: those that the classes support already.

    Args:
        one: undecided.
        smallest: smallest gain that matters.
        alpha: level of a test of no difference, corrected for the comparisons that are open.
        alpha_smallest: level of a test of a gain that matters, likewise.
    """
    mean, sd = one.seeds.mean, one.seeds.sd
    if not sd:
        return []  # The seeds agree exactly: if the classes did too, it would be decided.
    effects = []
    if (one.p_classes or 0.0) < alpha:
        effects.append(_Effect(abs(mean) / sd, alpha, two_sided=True))
    if mean < smallest and (one.p_smallest_classes or 0.0) < alpha_smallest:
        effects.append(_Effect((smallest - mean) / sd, alpha_smallest, two_sided=False))
    return effects


def _seeds_needed(one: Evidence, effects: Sequence[_Effect], power: float) -> int | None:
    """The smallest number of seeds that gives one of the answers, if the measured effect is the true one."""
    if one.seeds.sd is None:
        return 3
    numbers = (seeds_for(size, power=power, alpha=alpha, two_sided=both) for size, alpha, both in effects)
    known = [number for number in numbers if number is not None]
    # As many as there are have not decided it.
    return max(min(known), one.seeds.n + 1) if known else None


def _undecided(one: Evidence, effects: Sequence[_Effect], needed: int | None) -> str:
    if one.seeds.sd is None:
        return "one seed says nothing about another; give at least 3."
    if needed is not None:
        return f"about {needed} seeds would be needed; there are {one.seeds.n}."
    if effects or one.p_classes is None:
        return f"more than {MOST_SEEDS} seeds would be needed: the difference is small beside its variation over seeds."
    return (
        f"it depends on the classes (p {p_text(one.p_classes)} over classes): more seeds would not decide, "
        "more test classes would."
    )


def p_text(p: float) -> str:
    """A p-value in words.

    >>> p_text(0.0004), p_text(0.0321)
    ('below 0.001', '0.032')
    """
    return "below 0.001" if p < 0.001 else f"{p:.3f}"
