"""The page of a study: what it shows, what it does with hostile names, and that it needs nothing from outside."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from report.test_page import HOSTILE, Reader
from svg import affine, group, line_points, texts

from cosphere.errors import RunError
from cosphere.report import write_study_report
from cosphere.report.spreads import spread_figure
from cosphere.report.study import LINKS


def comparison(arm: str, answer: str, mean: float) -> dict[str, Any]:
    seeds = {"mean": mean, "sd": 0.01, "low": mean - 0.02, "high": mean + 0.02, "n": 3}
    evidence = {
        "seeds": seeds,
        "d": mean / 0.01,
        "p": 0.04,
        "p_seeds": 0.03,
        "p_smallest": 0.5,
        "classes": {"low": mean - 0.03, "high": mean + 0.03},
    }
    return {
        "question": f"Is {arm} better?",
        "arm": arm,
        "against": "plain",
        "score": "recall@1",
        "seeds": [0, 1, 2],
        "changes": [mean] * 3,
        "answer": answer,
        "reason": f"because of {arm}.",
        "verdict": {"answer": answer, "evidence": evidence, "p_holm": 0.0004, "seeds_needed": None},
        "classes": {"interval": {"low": mean - 0.03, "high": mean + 0.03}},
        "notes": [],
    }


def arm(name: str, chosen: dict[str, Any] | None, mean: float) -> dict[str, Any]:
    score = {"mean": mean, "sd": 0.01, "low": mean - 0.02, "high": mean + 0.02, "n": 3}
    return {
        "name": name,
        "values": {},
        "settings": {"sec.radius": "batch"},
        "tune": {"rate": {"from": 0.001, "to": 1.0, "scale": "log"}, "k": {"choices": [3, 5]}},
        "candidate": None if chosen is None else 1,
        "chosen": chosen,
        "scores": {"recall@1": score} if chosen is not None else {},
        "diverged": 0 if chosen is not None else 3,
        "collapsed": 0,
        "failed_candidates": 0 if chosen is not None else 2,
        "norms": {"cv": 0.123},
        "lens": {"angle_slope": {**score, "mean": -1.23}} if name == "sec" else {},
        "costs": {"step_seconds": 0.0123, "memory": 1.5e9, "device_memory": 0},
    }


RESULTS: dict[str, Any] = {
    "study": "x",
    "title": "Does it help?",
    "about": "A question.",
    "mode": "laptop",
    "complete": False,
    "base": {"images.size": 128},
    "final": {},
    "missing": {"tune": 0, "final": 2},
    "rules": {
        "candidates": 2,
        "sampler": "qmc",
        "tuning_seeds": [1000],
        "metric": "map@r",
        "seeds": 3,
        "smallest": 0.005,
        "level": 0.95,
    },
    "comparisons": [
        comparison("sec", "yes", 0.031),
        comparison("wild", "no", -0.4),
        comparison("l2", "not decided", 0.002),
    ],
    "variance": {
        "score": "recall@1",
        "points": [
            {"arm": "sec", "against": "plain", "seed": seed, "reduction": 0.5 + seed / 10, "gain": 0.01 * seed}
            for seed in range(5)
        ],
        "spearman": 1.0,
        "interval": None,
    },
    "convergence": {
        "metric": "map@r",
        "every": 100,
        "points": [
            {"arm": "sec", "against": "plain", "seed": 0, "target": 0.3, "steps": 150.0, "whole": 400},
            {"arm": "sec", "against": "plain", "seed": 1, "target": 0.3, "steps": None, "whole": 400},
        ],
        "speeds": [
            {
                "arm": "sec",
                "against": "plain",
                "seeds": 2,
                "reached": 1,
                "share": {"mean": 0.6875, "sd": 0.44, "low": 0.61, "high": 0.78, "n": 2},
            }
        ],
        "scores": {
            name: {"steps": [100, 200, 300, 400], "mean": [0.1, 0.2, end / 2, end], "sd": [0.01] * 4}
            for name, end in (("plain", 0.3), ("sec", 0.5))
        },
        "variances": {name: {"steps": [10, 20], "mean": [0.4, 0.1], "sd": [0.0] * 2} for name in ("plain", "sec")},
        "ranks": {name: {"steps": [100, 200], "mean": [9.0, 12.5], "sd": [0.5] * 2} for name in ("plain", "sec")},
    },
    "spreads": {
        "edges": [0.0, 0.5, 1.0, 1.5, 2.0],
        "pairs": [["sec", "plain"]],
        "arms": {
            "sec": {"mean": [0.0, 0.5, 0.5, 0.0], "sd": [0.0] * 4},
            "plain": {"mean": [0.2, 0.3, 0.3, 0.2], "sd": [0.02] * 4},
        },
    },
    "arms": [
        arm("plain", {"rate": 0.01}, 0.5),
        arm("sec", {"rate": 0.02, "weight": 0.5}, 0.531),
        arm("wild", None, 0.0),
    ],
    "notes": ["2 of 9 final runs are left."],
    "provenance": {"commit": "abc", "machine": {"cores": 2}},
}
TABLE: list[dict[str, Any]] = [
    {
        "arm": name,
        "phase": phase,
        "candidate": number,
        "seed": seed,
        "status": "ok",
        "seconds": 1.5,
        "score.recall@1": 0.5 + 0.01 * number,
        "score.map@r": 0.1 + 0.01 * number,
    }
    for name in ("plain", "sec")
    for phase, number, seed in [("tune", 0, 1000), ("tune", 1, 1000), ("final", 1, 0), ("final", 1, 1)]
]


def written(folder: Path, results: dict[str, Any], table: list[dict[str, Any]]) -> Reader:
    (folder / "results.json").write_text(json.dumps(results))
    (folder / "table.json").write_text(json.dumps(table))
    return Reader(write_study_report(folder).read_text(encoding="utf-8"))


@pytest.mark.usefixtures("blank_figures")
def test_the_page_holds_verdicts_numbers_choices_and_rules(tmp_path: Path) -> None:
    page = written(tmp_path, RESULTS, TABLE)
    assert [one["id"] for one in page.tags("section")] == list(LINKS)
    text = page.text
    for words in (
        "Does it help?",
        "8 runs so far; 3 comparisons: 1 yes, 1 no, 1 not decided.",
        "Is sec better?",
        "because of wild.",
        "+3.10",
        "+1.10 to +5.10",  # over seeds
        "+0.10 to +6.10",  # over seeds and classes
        "<0.001",
        "53.10 ± 1.00",
        "3 diverged",
        "rate 0.02, weight 0.5",
        "not chosen",
        "rate: 0.001 to 1 (log); k: 3, 5",
        "sec.radius batch",
        "images.size",
        "2 of 9 final runs are left.",
        "candidates for each arm",
        "gain in Recall@1: +1.00, over 5 pairs of final runs.",
        "12.3",  # ms a step
        "1,500",  # MB
        "-1.23 ± 0.01",  # slope of turns on lengths
        "150; never",
        "1 of 2",
        "61 to 78",
        "reaches what the other arm's run of the same seed ends with. Validations are 100 steps apart",
        "machine.cores",
    ):
        assert words in text, words
    assert len(page.of_class("answer-yes")) == len(page.of_class("answer-no")) == len(page.of_class("answer-open")) == 1
    assert len(page.tags("svg")) == 8


def test_the_page_runs_no_script_and_asks_nobody(tmp_path: Path) -> None:
    page = written(tmp_path, RESULTS, TABLE)
    assert not page.tags("script")
    assert any("default-src 'none'" in str(one.get("content")) for one in page.tags("meta"))
    text = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "http://" not in text
    assert "https://" not in text


@pytest.mark.slow
def test_figures_are_written_as_vector_and_picture(tmp_path: Path) -> None:
    written(tmp_path, RESULTS, TABLE)
    figures = tmp_path / "figures"
    assert sorted(file.name for file in figures.iterdir()) == [
        f"{name}.{kind}"
        for name in ("candidates", "convergence", "differences", "lengths", "ranks", "scores", "spreads", "variance")
        for kind in ("png", "svg")
    ]
    with Image.open(figures / "differences.png") as picture:
        assert picture.width > 1200
    svg = (figures / "differences.svg").read_text(encoding="utf-8")
    assert "sec − plain (recall@1)" in svg
    assert "not decided" in svg  # the legend, as answers are no matter of colour alone


def test_the_convergence_figure_draws_the_means_in_percent(tmp_path: Path) -> None:
    written(tmp_path, RESULTS, TABLE)
    svg = (tmp_path / "figures" / "convergence.svg").read_text(encoding="utf-8")
    assert {"sec", "plain", "validation map@r, %"} <= set(texts(svg))
    drawn = line_points(svg, "course-0-0")
    means = RESULTS["convergence"]["scores"]["sec"]["mean"]
    assert affine(drawn[:, 1], np.array(means)) < 1e-3 * np.ptp(drawn[:, 1])
    assert affine(drawn[:, 0], np.array([100, 200, 300, 400])) < 1e-3 * np.ptp(drawn[:, 0])


def test_the_figure_of_ranks_draws_them_as_they_are(tmp_path: Path) -> None:
    written(tmp_path, RESULTS, TABLE)
    svg = (tmp_path / "figures" / "ranks.svg").read_text(encoding="utf-8")
    assert {"sec", "plain", "effective rank"} <= set(texts(svg))
    assert affine(line_points(svg, "course-0-0")[:, 1], np.array([9.0, 12.5])) < 1e-9


def test_results_of_an_earlier_version_have_no_ranks(tmp_path: Path) -> None:
    results = copy.deepcopy(RESULTS)
    del results["convergence"]["ranks"]
    assert "effective rank" not in written(tmp_path, results, TABLE).text
    assert not (tmp_path / "figures" / "ranks.svg").exists()


def test_the_figure_of_scores_is_about_the_first_question(tmp_path: Path) -> None:
    results, table = copy.deepcopy((RESULTS, TABLE))
    for one in results["comparisons"]:
        one["score"] = "knn/accuracy"
    for row in table:
        row["score.knn/accuracy"] = 0.5
    written(tmp_path, results, table)
    assert "knn/accuracy, % (dots: seeds; line: their mean)" in texts(
        (tmp_path / "figures" / "scores.svg").read_text("utf-8")
    )


def test_the_figure_of_lengths_has_a_step_for_each_bin(tmp_path: Path) -> None:
    written(tmp_path, RESULTS, TABLE)
    svg = (tmp_path / "figures" / "spreads.svg").read_text(encoding="utf-8")
    assert {"sec", "plain", "test images, %"} <= set(texts(svg))
    heights = line_points(svg, "spread-0-1")[:, 1]
    shares = np.repeat([0.2, 0.3, 0.3, 0.2], 2)
    middle = heights[1:-1] if len(heights) == 10 else heights  # matplotlib may close the outline on the axis
    assert affine(middle, shares) < 1e-3 * np.ptp(middle)


def test_five_arms_in_the_figure_of_lengths_look_different() -> None:
    content = RESULTS["spreads"]
    names = ["sec", *(f"other {number}" for number in range(4))]
    arms = dict.fromkeys(names, content["arms"]["plain"])
    svg = spread_figure({**content, "pairs": [["sec", name] for name in names[1:]], "arms": arms}).svg
    looks = {group(svg, f"spread-0-{line}")[0].get("style") for line in range(5)}
    assert len(looks) == 5


def test_a_comparison_of_two_scores_names_both(tmp_path: Path) -> None:
    results = copy.deepcopy(RESULTS)
    results["comparisons"][0] |= {"score": "recall@1/bits", "against_score": "recall@1"}
    assert "Recall@1, bits − Recall@1" in written(tmp_path, results, TABLE).text
    svg = (tmp_path / "figures" / "differences.svg").read_text(encoding="utf-8")
    assert "sec − plain (recall@1/bits − recall@1)" in texts(svg)


def test_hostile_names_stay_text(tmp_path: Path) -> None:
    results, table = copy.deepcopy((RESULTS, TABLE))
    results["title"] = results["comparisons"][0]["question"] = results["arms"][1]["name"] = HOSTILE
    results["comparisons"][0]["arm"] = HOSTILE
    table[4]["arm"] = HOSTILE
    page = written(tmp_path, results, table)
    assert not page.tags("script")
    assert HOSTILE in page.text


@pytest.mark.usefixtures("blank_figures")
def test_a_study_without_any_final_run_has_a_page(tmp_path: Path) -> None:
    results = copy.deepcopy(RESULTS)
    for one in results["comparisons"]:
        one |= {"verdict": None, "classes": None, "seeds": [], "changes": [], "answer": "not decided"}
    results["variance"] = None
    del results["arms"][0]["costs"], results["convergence"], results["spreads"]  # as in results of an earlier version
    page = written(tmp_path, results, TABLE[:2])
    assert "Nothing to draw yet." in page.text
    assert len(page.tags("svg")) == 1


@pytest.mark.usefixtures("blank_figures")
def test_a_study_without_questions_has_a_page(tmp_path: Path) -> None:
    page = written(tmp_path, {**RESULTS, "comparisons": []}, TABLE)
    assert "The study asks no question." in page.text


def test_what_is_no_study_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="not the results of a study"):
        write_study_report(tmp_path)
    (tmp_path / "results.json").write_text("{}")
    (tmp_path / "table.json").write_text("[]")
    with pytest.raises(RunError, match=r"damaged or of another version .*Run the study's command again"):
        write_study_report(tmp_path)
