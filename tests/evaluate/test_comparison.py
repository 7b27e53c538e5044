from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from scipy import stats

from cosphere.errors import DataError, SettingsError, SizeError
from cosphere.evaluate.comparison import Arm, Comparison, compare
from cosphere.evaluate.significance import sign_flip_test
from cosphere.evaluate.statistics import bootstrap_classes, bootstrap_seeds

CLASSES = np.repeat([f"class {number:02d}" for number in range(24)], 10)


def arm(seed: int, *, runs: int = 1, gain: float = 0.0, seeds: tuple[int | None, ...] | None = None) -> Arm:
    """Hits and precisions of 240 queries in 24 classes; arms share what makes a class hard."""
    easy = np.random.default_rng(99).random(24).repeat(10) * 0.6 + 0.2
    generator = np.random.default_rng(seed)
    hits = (generator.random((runs, 240)) < easy + gain).astype(float)
    return Arm({"recall@1": hits, "map@r": np.sqrt(easy) * generator.random((runs, 240))}, seeds or tuple(range(runs)))


def one(found: Comparison, name: str, score: str) -> Any:
    return next(row for row in found.differences if (row.arm, row.score) == (name, score))


@pytest.fixture(scope="module")
def pair() -> Comparison:
    return compare({"plain": arm(0), "better": arm(1, gain=0.15)}, CLASSES, samples=300)


def test_values_and_differences_are_plain_means(pair: Comparison) -> None:
    plain, better = arm(0).values["recall@1"][0], arm(1, gain=0.15).values["recall@1"][0]
    values = {(row.arm, row.score): row.value for row in pair.scores}
    assert values["plain", "recall@1"] == pytest.approx(sum(plain.tolist()) / 240)
    assert one(pair, "better", "recall@1").value == pytest.approx(sum((better - plain).tolist()) / 240)
    assert [(row.score, row.arm) for row in pair.differences] == [("recall@1", "better"), ("map@r", "better")]
    assert pair.baseline == "plain"
    assert one(pair, "better", "recall@1").interval == pytest.approx(
        bootstrap_classes(better - plain, CLASSES, samples=300)
    )
    assert pair.scores[0].interval == pytest.approx(bootstrap_classes(plain, CLASSES, samples=300))


def test_classes_won_and_lost_are_counted_by_hand(pair: Comparison) -> None:
    plain, better = arm(0).values["recall@1"][0], arm(1, gain=0.15).values["recall@1"][0]
    sums: dict[str, float] = {}
    for name, ours, theirs in zip(CLASSES.tolist(), better, plain, strict=True):
        sums[name] = sums.get(name, 0) + ours - theirs
    row = one(pair, "better", "recall@1")
    assert row.won == sum(gain > 0 for gain in sums.values())
    assert row.lost == sum(gain < 0 for gain in sums.values())
    assert row.won + row.tied + row.lost == 24
    assert row.tied == sum(gain == 0 for gain in sums.values()) > 0
    gains = dict(zip(pair.class_names, pair.gains("better", "recall@1"), strict=True))
    assert gains == pytest.approx({name: total / 10 for name, total in sums.items()})
    assert pair.class_queries.tolist() == [10] * 24


def test_another_baseline_turns_every_sign(pair: Comparison) -> None:
    turned = compare({"plain": arm(0), "better": arm(1, gain=0.15)}, CLASSES, baseline="better", samples=300)
    forth, back = one(pair, "better", "recall@1"), one(turned, "plain", "recall@1")
    assert back.value == pytest.approx(-forth.value)
    assert back.interval == pytest.approx((-forth.interval.high, -forth.interval.low))
    assert (back.won, back.lost, back.p) == (forth.lost, forth.won, pytest.approx(forth.p))


def test_the_test_suits_the_score_and_what_is_drawn(pair: Comparison) -> None:
    arms = {"plain": arm(0), "better": arm(1, gain=0.15)}
    by_query = compare(arms, CLASSES, over="queries", samples=50)
    hits = [one.values["recall@1"][0] for one in arms.values()]
    won, lost = int((hits[1] > hits[0]).sum()), int((hits[1] < hits[0]).sum())
    row = one(by_query, "better", "recall@1")
    assert (row.test, row.p) == ("McNemar, exact", pytest.approx(stats.binomtest(won, won + lost).pvalue))
    assert one(by_query, "better", "map@r").test == "sign flips over queries"
    change = arms["better"].values["map@r"][0] - arms["plain"].values["map@r"][0]
    assert one(by_query, "better", "map@r").p == sign_flip_test(change)
    assert one(pair, "better", "map@r").test == "sign flips over classes"
    assert one(pair, "better", "map@r").p == sign_flip_test(change, classes=CLASSES)
    assert any("not other classes" in note for note in by_query.notes)


def test_holm_counts_every_difference() -> None:
    found = compare({"a": arm(0), "b": arm(1, gain=0.15), "c": arm(2, gain=0.02)}, CLASSES, samples=50)
    smallest = min(found.differences, key=lambda row: row.p)
    assert smallest.p_holm == pytest.approx(4 * smallest.p)
    assert all(row.p <= row.p_holm for row in found.differences)


def test_seeds_are_paired_by_their_number_not_by_their_place() -> None:
    first, second = arm(3, runs=3), arm(4, runs=3, gain=0.1)
    turned = Arm({name: values[[2, 0, 1]] for name, values in second.values.items()}, (2, 0, 1))
    found, again = (compare({"a": first, "b": other}, CLASSES, samples=200) for other in (second, turned))
    row = one(found, "b", "map@r")
    of_seeds = (second.values["map@r"] - first.values["map@r"]).mean(axis=1)
    want = stats.ttest_1samp(of_seeds, 0)
    assert row.seeds is not None
    assert row.p_seeds == pytest.approx(want.pvalue)
    assert (row.seeds.low, row.seeds.high) == pytest.approx(tuple(want.confidence_interval(0.95)))
    change = (second.values["map@r"] - first.values["map@r"]).mean(axis=0)
    assert row.p_units == sign_flip_test(change, classes=CLASSES)
    assert row.p == max(row.p_seeds, row.p_units)
    assert "Student's t over seeds" in row.test
    assert row.interval == pytest.approx(
        bootstrap_seeds(second.values["map@r"] - first.values["map@r"], classes=CLASSES, samples=200)
    )
    twin = one(again, "b", "map@r")
    assert (twin.value, twin.p, twin.p_seeds) == pytest.approx((row.value, row.p, row.p_seeds))
    assert not [note for note in found.notes if "believe p Holm" not in note]


def test_other_seeds_are_not_paired_and_that_is_said() -> None:
    found = compare({"a": arm(3, runs=2), "b": arm(4, runs=2, seeds=(0, 7))}, CLASSES, samples=50)
    row = one(found, "b", "recall@1")
    assert row.seeds is None
    assert row.p_seeds is None
    assert "do not have the same seeds" in found.notes[0]
    unknown = compare(
        {"a": arm(3, runs=2, seeds=(None, None)), "b": arm(4, runs=2, seeds=(None, None))}, CLASSES, samples=9
    )
    assert one(unknown, "b", "recall@1").seeds is None
    assert "another training seed" in compare({"a": arm(3), "b": arm(4)}, CLASSES, samples=9).notes[0]


def test_the_same_run_twice_is_no_difference() -> None:
    found = compare({"a": arm(5), "b": arm(5)}, CLASSES, samples=50)
    for row in found.differences:
        assert (row.value, row.interval, row.p, row.p_holm) == (0.0, (0.0, 0.0), 1.0, 1.0)
        assert (row.won, row.tied, row.lost) == (0, 24, 0)


def test_few_classes_are_said_and_one_is_refused() -> None:
    values = {"recall@1": np.ones((1, 4))}
    arms = {"a": Arm(values, (0,)), "b": Arm({"recall@1": np.zeros((1, 4))}, (0,))}
    assert "With 2 classes" in compare(arms, ["x", "x", "y", "y"], samples=9).notes[0]
    with pytest.raises(DataError, match="all 4 queries are of one class"):
        compare(arms, ["x"] * 4, samples=9)
    found = compare(arms, [3] * 4, over="queries", samples=9)
    assert one(found, "b", "recall@1").lost == 1
    assert one(found, "b", "recall@1").p == 2 / 2**4


def test_as_dict_is_plain(pair: Comparison) -> None:
    content = json.loads(json.dumps(pair.as_dict(), allow_nan=False))
    row = content["differences"][0]
    assert set(row) >= {"arm", "score", "value", "interval", "p", "p_holm", "test", "seeds", "won", "tied", "lost"}
    assert row["interval"] == {"low": row["interval"]["low"], "high": row["interval"]["high"]}
    assert len(content["class_scores"]["recall@1"]["plain"]) == content["classes"] == 24


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (lambda: compare({"a": arm(0)}, CLASSES), SettingsError, "at least two arms, got 1"),
        (lambda: compare({"a": arm(0), "b": arm(1)}, CLASSES, baseline="aa"), SettingsError, "no arm 'aa'"),
        (
            lambda: compare({"a": arm(0), "b": arm(1)}, CLASSES, over="class"),
            SettingsError,
            "over must be 'queries' or 'classes'",
        ),  # type: ignore[arg-type]
        (lambda: compare({"a": arm(0), "b": arm(1)}, CLASSES[:-1]), SizeError, "(1, 239), got (1, 240)"),
        (lambda: compare({"a": arm(0), "b": Arm({}, (0,))}, CLASSES), SizeError, "'b' has the scores none"),
        (lambda: compare({"a": arm(0), "b": arm(1, runs=2, seeds=(1,))}, CLASSES), SizeError, "(1, 240), got (2, 240)"),
        (lambda: compare({"a": arm(0), "b": arm(1)}, CLASSES, level=0), SettingsError, "level must be"),
        (
            lambda: compare({"a": arm(0), "b": arm(1)}, CLASSES, samples=0),
            SettingsError,
            "samples must be a whole number from 1 to 1000000",
        ),
    ],
)
def test_wrong_input_is_named(call: Any, error: type[Exception], words: str) -> None:
    with pytest.raises(error) as caught:
        call()
    assert words in str(caught.value)


def test_where_interval_and_p_disagree_one_sentence_says_what_to_believe() -> None:
    draw = np.random.default_rng(2)
    words = {}
    for shift in (0.0, 0.35, 3.0):
        base = draw.normal(size=(1, 40))
        arms = {"a": Arm({"s": base}, (0,)), "b": Arm({"s": base + shift + draw.normal(size=(1, 40))}, (0,))}
        found = compare(arms, [str(i // 2) for i in range(40)], samples=200)
        (one,) = found.differences
        odd = (one.interval.low > 0 or one.interval.high < 0) != (one.p_holm <= 0.05)
        words[shift] = any("believe p Holm" in note for note in found.notes)
        assert words[shift] == odd
    assert not words[3.0]


def test_an_interval_above_zero_beside_a_large_p(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cosphere.evaluate.comparison.holm", lambda values: [0.08 for _ in values])
    rows = np.random.default_rng(0).normal(size=(1, 40))
    arms = {"a": Arm({"s": rows}, (0,)), "b": Arm({"s": rows + 1 + 0.1 * rows[:, ::-1]}, (0,))}
    notes = compare(arms, [str(i // 2) for i in range(40)], samples=200).notes
    assert "Interval and p disagree for b in s: believe p Holm" in notes[-1]
