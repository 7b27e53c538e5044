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
    """Number of seeds that would probably decide; None where it is decided, or where no number of seeds up to 1000 would."""


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
        return Evidence(summary, None, 1.0, None, 1.0, classes)
    error = summary.sd / math.sqrt(summary.n)
    varies = error > 1e-9 * max(abs(summary.mean), 1e-9)
    if varies:
        p_smallest = float(student.cdf((summary.mean - smallest) / error, summary.n - 1))
    else:
        p_smallest = 0.0 if summary.mean < smallest else 1.0
    d = summary.mean / summary.sd if varies else None
    p_smallest = max(p_smallest, p_smallest_classes or 0.0)
    return Evidence(summary, d, max(p_seeds, p_classes or 0.0), p_seeds, p_smallest, classes)


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
    open_ones = max(1, sum(answer == "not decided" for answer, _ in answers))
    verdicts = []
    for (answer, reason), one, p, p_smallest in zip(answers, evidence, corrected, corrected_smallest, strict=True):
        needed = None
        if answer == "not decided":
            needed = _seeds_needed(one, smallest, alpha / open_ones, power)
            reason = _undecided(one, needed, alpha)
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


def _undecided(one: Evidence, needed: int | None, alpha: float) -> str:
    if one.seeds.sd is None:
        return "one seed says nothing about another; give at least 3."
    if one.p_seeds is not None and one.p_seeds < alpha <= one.p:
        return "the seeds agree, but it depends on the classes; more test classes would decide, more seeds would not."
    if needed is None:
        return f"more than {MOST_SEEDS} seeds would be needed: the difference is small beside its variation over seeds."
    if needed <= one.seeds.n:
        return "it is close: more test classes or a few more seeds would be needed."
    return f"about {needed} seeds would be needed; there are {one.seeds.n}."


def _seeds_needed(one: Evidence, smallest: float, alpha: float, power: float) -> int | None:
    """The smaller of the numbers for a *yes* (or a loss) and for ruling out a gain that matters, if the measured effect is true."""
    if not one.seeds.sd:
        return 3
    mean, sd = one.seeds.mean, one.seeds.sd
    numbers = [seeds_for(abs(mean) / sd, power=power, alpha=alpha)]
    if mean < smallest:
        numbers.append(seeds_for((smallest - mean) / sd, power=power, alpha=alpha, two_sided=False))
    known = [number for number in numbers if number is not None]
    return min(known) if known else None


def p_text(p: float) -> str:
    """A p-value in words.

    >>> p_text(0.0004), p_text(0.0321)
    ('below 0.001', '0.032')
    """
    return "below 0.001" if p < 0.001 else f"{p:.3f}"
