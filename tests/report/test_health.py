"""The health panel: the numbers that are measured, warnings where they are due, and runs that know nothing of health."""

from __future__ import annotations

import html
import re
from dataclasses import replace

import numpy as np
import pytest

from cosphere.health import embedding_health
from cosphere.report import ReportData
from cosphere.report.health import panel


def words(text: str) -> str:
    return " ".join(html.unescape(re.sub(r"<[^>]*>", " ", re.sub(r"<svg.*?</svg>", "", text, flags=re.DOTALL))).split())


def test_the_numbers_are_those_of_the_evaluation(data: ReportData) -> None:
    want = embedding_health(data.embeddings.embeddings, data.embeddings.labels)
    told = words(panel(data))
    for line in (
        f"Effective rank {want.effective_rank:.3g} of 5 directions",
        f"Participation ratio {want.participation_ratio:.3g} ",
        f"Mean cosine {want.mean_cosine:.3f} ",
        f"Uniformity {want.uniformity:.2f} ",
        f"Alignment {want.alignment:.2f} ",
        f"Margin {want.margin:+.3f} to the nearest other class; below 0 for {100 * want.margin_below_zero:.0f} % of images",
        f"Hubness {want.hubness:.2f} 0 is fair; the largest hub is near to {want.largest_hub:.0f} images",
        f"Orphans {100 * want.orphans:.1f} % images among the 10 nearest of nobody",
        "Nothing here looks like a collapse.",
    ):
        assert line in told, line
    changed = words(panel(replace(data, scores={"health": {"effective_rank": 99.0, "warnings": ["a warning"]}})))
    assert "Effective rank 99" in changed
    assert "a warning" in changed


def measured(rows: np.ndarray, labels: np.ndarray | None) -> ReportData:
    return ReportData(name="x", scores={"health": embedding_health(rows, labels).as_dict()})


def test_a_collapse_is_told_with_its_remedy(data: ReportData) -> None:
    rows, labels = data.embeddings.embeddings * 0.01 + 5, data.embeddings.labels
    text = panel(measured(rows, labels))
    assert text.count('<p class="warning">') == 1
    assert embedding_health(rows, labels).warnings[0] in words(text)
    assert "--optimizer.head_rate" in text
    assert "Nothing here" not in text


def test_without_an_evaluation_nothing_is_shown(bare: ReportData) -> None:
    assert "No embeddings to examine yet." in words(panel(bare))


def test_curves_are_drawn_when_they_were_logged(data: ReportData, bare: ReportData) -> None:
    assert panel(data).count("<svg") == 3  # with the pairs and the spectrum of the embeddings
    assert panel(bare).count("<svg") == 2  # its embeddings alone
    only = replace(data, embeddings=None, scores={})
    assert panel(only).count("<svg") == 1


@pytest.mark.parametrize(
    "odd", [None, [], "x", {"effective_rank": "<b>", "warnings": 3}, {"dim": None, "margin": float("nan"), "rows": 9}]
)
def test_an_odd_file_does_not_break_the_page(odd: object) -> None:
    text = panel(ReportData(name="odd", scores={"health": odd}))
    assert '<section id="health">' in text
    assert "nan" not in text
    assert "<b>" not in text


def test_numbers_that_there_are_none_of_are_left_out(data: ReportData) -> None:
    rows = data.embeddings.embeddings
    told = words(panel(measured(rows, None)))
    assert "Uniformity" in told
    assert "Margin" not in told
    assert "Alignment" not in told
    assert "Effective rank" not in words(panel(measured(rows[:1], None)))


def test_a_sample_is_said_to_be_one() -> None:
    numbers = {"rows": 60502, "zero_rows": 2, "compared": 20000, "effective_rank": 9.0, "dim": 64}
    told = words(panel(ReportData(name="many", scores={"health": numbers})))
    assert "those of a random 20000 of the 60502 images" in told
    whole = words(panel(ReportData(name="few", scores={"health": {**numbers, "compared": 60500}})))
    assert "random" not in whole


def test_zero_rows_are_told(data: ReportData) -> None:
    rows = np.array(data.embeddings.embeddings)
    rows[3] = 0
    assert "Zero rows: 1 of 24 embeddings are zero" in words(panel(measured(rows, data.embeddings.labels)))


def test_settings_in_a_warning_are_not_broken_and_hostile_text_stays_text() -> None:
    kept = {"rows": 3, "warnings": ["Raise --sec.weight, or --loss.name x; <script>--a.b</script>."]}
    text = panel(ReportData(name="odd", scores={"health": kept}))
    assert (
        "Raise <code>--sec.weight</code>, or <code>--loss.name</code> x; &lt;script&gt;<code>--a.b</code>&lt;/script&gt;."
        in text
    )


def test_a_number_that_rounds_to_zero_has_no_sign_of_its_own() -> None:
    text = panel(ReportData(name="x", scores={"health": {"uniformity": -1e-9, "margin": -1e-9, "mean_cosine": -1e-9}}))
    assert "-0.0" not in text
    assert "+0.000" in text
