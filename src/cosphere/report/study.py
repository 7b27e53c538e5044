"""The page of a study: its verdicts, differences, scores, candidates, rules and origin."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from cosphere.errors import RunError, counted
from cosphere.fields import flatten
from cosphere.files import path_of, read_json, write_text
from cosphere.report.convergence import convergence_table
from cosphere.report.document import document
from cosphere.report.drawing import Drawn, inline, printing
from cosphere.report.markup import facts, missing, paragraph, safe, section, shown, table
from cosphere.report.sections import score_name
from cosphere.report.study_figures import figures

Row = Mapping[str, Any]
LINKS = {
    "verdicts": "Verdicts",
    "differences": "Differences",
    "scores": "Scores",
    "candidates": "Candidates",
    "variance": "Variance",
    "convergence": "Speed",
    "rules": "Rules",
    "runs": "Runs",
    "about": "Origin",
}
_KINDS = {"yes": "answer-yes", "no": "answer-no", "not decided": "answer-open"}


def write_study_report(folder: str | Path, target: str | Path | None = None) -> Path:
    """Write the report of a study as one HTML file, and its figures as SVG and PNG into `figures/`.

    Args:
        folder: of the study, with `results.json` and `table.json`.
        target: the file; None writes `report.html` into the folder.

    Returns:
        The file.

    Raises:
        RunError: the folder holds no results, they are broken, or a file cannot be written.
    """
    place = path_of(folder)
    results = read_json(place / "results.json", what="the results of a study")
    rows = read_json(place / "table.json", what="the table of a study")
    try:
        with printing(place / "figures"):
            text = study_page(results, rows, figures(results, rows))
    except (KeyError, TypeError, AttributeError) as error:
        raise RunError(
            f"{place / 'results.json'} is damaged or of another version ({error!r}). Run the study's command again."
        ) from error
    path = place / "report.html" if target is None else Path(target)
    write_text(path, text)
    return path


def study_page(results: Row, rows: Sequence[Row], drawn: Sequence[Drawn]) -> str:
    """The page as text.

    Args:
        results: content of `results.json`.
        rows: of `table.json`.
        drawn: its figures.
    """
    charts = {one.name: one for one in drawn}
    body = [
        section("verdicts", "Verdicts", _verdicts(results), *[paragraph(note, "warning") for note in results["notes"]]),
        section("differences", "Differences", _chart(charts.get("differences")), _differences(results)),
        section("scores", "Scores", _chart(charts.get("scores")), _scores(results), _lens(results)),
        section("candidates", "Candidates", _chart(charts.get("candidates")), _chosen(results)),
        section(
            "variance",
            "Is it the variance?",
            _chart(charts.get("variance")),
            _variance(results),
            *([_chart(charts["spreads"])] if "spreads" in charts else []),
        ),
        section(
            "convergence",
            "How fast?",
            _chart(charts.get("convergence")),
            _chart(charts.get("lengths")),
            *([_chart(charts["ranks"])] if "ranks" in charts else []),
            convergence_table(results.get("convergence")),
        ),
        section("rules", "Rules", _rules(results)),
        section("runs", "Runs", _runs(rows)),
        section("about", "Origin", facts(flatten(results["provenance"]).items())),
    ]
    return document(results["title"], header=_header(results, rows), links=LINKS, body=body, css="")


def _header(results: Row, rows: Sequence[Row]) -> str:
    answers = [one["answer"] for one in results["comparisons"]]
    counts = ", ".join(f"{answers.count(answer)} {answer}" for answer in _KINDS if answer in answers)
    state = "" if results["complete"] else " so far"
    lead = f"{counted(len(rows), 'run')}{state}; {counted(len(answers), 'comparison')}: {counts or 'none'}."
    mode = f" · {results['mode']}" if results["mode"] else ""
    return (
        f'<header>\n<p class="eyebrow">Cosphere study{safe(mode)}</p>\n<h1>{safe(results["title"])}</h1>\n'
        f'<p class="lead">{safe(lead)}</p>\n{paragraph(results["about"])}</header>'
    )


def _chart(drawn: Drawn | None) -> str:
    if drawn is None:
        return missing("Nothing to draw yet.")
    return f'<figure class="chart wide">{inline(drawn.svg, drawn.name, safe(drawn.description))}</figure>'


def _verdicts(results: Row) -> str:
    """Question, answer and reason."""
    if not results["comparisons"]:
        return missing("The study asks no question.")
    lines = [
        f'<tr><th scope="row">{safe(one["question"])}</th>'
        f'<td class="{_KINDS[one["answer"]]}">{safe(one["answer"])}</td><td>{safe(one["reason"])}</td></tr>'
        for one in results["comparisons"]
    ]
    head = "".join(f'<th scope="col">{title}</th>' for title in ("question", "answer", "why"))
    return f'<div class="scroll"><table class="words">\n<thead><tr>{head}</tr></thead>\n<tbody>{"".join(lines)}</tbody></table></div>'


def _differences(results: Row) -> str:
    """The numbers behind the verdicts."""
    head = ["arm − other", "score", "points", "over seeds", "over seeds and classes", "d", "p", "p Holm", "seeds"]
    return table(head, map(_difference, results["comparisons"]), kind="numbers")


def _difference(one: Row) -> list[object]:
    pair = f"{one['arm']} − {one['against']}"
    if one["verdict"] is None:
        return [pair, compared_scores(one), *["–"] * 6, 0]
    evidence = one["verdict"]["evidence"]
    seeds, classes = evidence["seeds"], evidence["classes"]
    return [
        pair,
        compared_scores(one),
        f"{100 * seeds['mean']:+.2f}",
        _span(seeds["low"], seeds["high"]),
        "–" if classes is None else _span(classes["low"], classes["high"]),
        "–" if evidence["d"] is None else f"{evidence['d']:.2f}",
        _p(evidence["p"]),
        _p(one["verdict"]["p_holm"]),
        len(one["seeds"]),
    ]


def compared_scores(one: Row) -> str:
    """The score of a comparison, or that of each arm.

    >>> compared_scores({"score": "map@r/bits", "against_score": "map@r"}), compared_scores({"score": "map@r"})
    ('MAP@R, bits − MAP@R', 'MAP@R')
    """
    other = one.get("against_score") or one["score"]
    return score_name(one["score"]) if other == one["score"] else f"{score_name(one['score'])} − {score_name(other)}"


def _span(low: float | None, high: float | None) -> str:
    return "–" if low is None or high is None else f"{100 * low:+.2f} to {100 * high:+.2f}"


def _p(value: float) -> str:
    return "<0.001" if value < 0.001 else f"{value:.3f}"


def _scores(results: Row) -> str:
    """Final scores of each arm in percent, what became of its runs, and what they cost."""
    names = list(dict.fromkeys(name for arm in results["arms"] for name in arm["scores"]))
    rows = []
    for arm in results["arms"]:
        cells = [_mean(arm["scores"].get(name)) for name in names]
        count = max((one["n"] for one in arm["scores"].values()), default=0)
        cv = arm["norms"].get("cv")
        lost = ", ".join(f"{arm[kind]} {kind}" for kind in ("diverged", "collapsed") if arm[kind])
        rows.append(
            [
                arm["name"],
                *cells,
                "–" if cv is None else f"{cv:.3f}",
                *costs_shown(arm.get("costs") or {}),
                count,
                lost or "–",
            ]
        )
    head = [
        "arm",
        *(f"{score_name(name)}, %" for name in names),
        "length CV",
        "ms a step",
        "memory, MB",
        "seeds",
        "failed",
    ]
    note = "Memory is the peak while training: of the tensors on a GPU, or of the whole process on a CPU."
    return table(head, rows, kind="numbers") + paragraph(note, "note")


_LENS = {"gradient_slope": "gradient", "angle_slope": "turn", "angle_cv": "CV of turns"}


def _lens(results: Row) -> str:
    """Slopes of gradients and turns on lengths, of the arms whose runs measured them; else nothing."""
    rows = [
        [arm["name"], *(_plain(arm["lens"].get(name)) for name in _LENS)] for arm in results["arms"] if arm.get("lens")
    ]
    if not rows:
        return ""
    note = (
        "Norm lens: one step on a probe batch at the end of each run; slopes of the logarithms of gradient and turn on that of the "
        "length, mean ± sd over seeds. Embeddings that move freely have the slopes -1 and, with SGD, -2 (Proposition 2 of SEC)."
    )
    return table(["arm", *_LENS.values()], rows, kind="numbers") + paragraph(note, "note")


def _plain(value: Row | None) -> str:
    if value is None:
        return "–"
    return f"{value['mean']:+.2f}" + ("" if value["sd"] is None else f" ± {value['sd']:.2f}")


def costs_shown(costs: Row) -> tuple[str, str]:
    """Milliseconds of a step and megabytes of memory, that of the GPU where there is one, for a table.

    >>> costs_shown({"step_seconds": 0.00812, "memory": 1.2e9, "device_memory": 0}), costs_shown({})
    (('8.1', '1,200'), ('–', '–'))
    """
    seconds, memory = costs.get("step_seconds"), costs.get("device_memory") or costs.get("memory")
    return "–" if seconds is None else f"{1000 * seconds:.1f}", "–" if not memory else f"{memory / 1e6:,.0f}"


def _mean(score: Row | None) -> str:
    if score is None:
        return "–"
    return f"{100 * score['mean']:.2f}" + ("" if score["sd"] is None else f" ± {100 * score['sd']:.2f}")


def _chosen(results: Row) -> str:
    """What was chosen for each arm."""
    rows = []
    for arm in results["arms"]:
        values = "not chosen" if arm["chosen"] is None else _values(arm["chosen"].items())
        rows.append(
            [arm["name"], _values(arm["settings"].items()), _tuned(arm["tune"]), values, arm["failed_candidates"]]
        )
    return table(["arm", "settings", "tuned", "chosen", "diverged candidates"], rows, kind="words")


def _tuned(spaces: Row) -> str:
    """The ranges and choices of an arm."""
    parts = [
        f"{name}: {shown(space['choices'])}"
        if "choices" in space
        else f"{name}: {space['from']:g} to {space['to']:g} ({space['scale']})"
        for name, space in spaces.items()
    ]
    return "; ".join(parts) or "–"


def _values(pairs: Iterable[tuple[str, Any]]) -> str:
    return ", ".join(f"{name} {shown(value)}" for name, value in pairs) or "–"


def _variance(results: Row) -> str:
    """The correlation in words."""
    variance = results.get("variance")
    if not variance or variance["spearman"] is None:
        return paragraph("A correlation wants at least five pairs of final runs that differ in SEC.", "note")
    ends = variance["interval"]
    span = "" if ends is None else f" (95 % interval over pairs of arms {ends['low']:+.2f} to {ends['high']:+.2f})"
    return paragraph(
        f"Rank correlation of the fall of the relative variance of lengths with the gain in {score_name(variance['score'])}: "
        f"{variance['spearman']:+.2f}{span}, over {len(variance['points'])} pairs of final runs."
    )


def _rules(results: Row) -> str:
    rules = results["rules"]
    text = (
        "Every arm had the same number of candidates, chosen on classes held out of training; settings that arms share took the same "
        "values in all. The test classes were read after the last choice, once for each arm and seed. Runs of one seed share "
        "batches and first weights. A diverged run counts as chance."
    )
    names = {
        "candidates": "candidates for each arm",
        "sampler": "sampler",
        "tuning_seeds": "seeds of the candidates",
        "metric": "chosen by (validation)",
        "seeds": "final seeds",
        "smallest": "smallest gain that matters, a fraction",
        "level": "level",
    }
    settings = [
        *results.get("base", {}).items(),
        *((f"final: {key}", value) for key, value in results.get("final", {}).items()),
    ]
    every = (
        f'<details class="more"><summary>Settings of every run</summary>{facts(settings)}</details>' if settings else ""
    )
    return paragraph(text) + facts((title, rules[name]) for name, title in names.items()) + every


def _runs(rows: Sequence[Row]) -> str:
    """Every run, folded away."""
    names = list(dict.fromkeys(key for row in rows for key in row if key.startswith("score.")))
    head = ["arm", "phase", "candidate", "seed", "status", *(name.removeprefix("score.") for name in names), "seconds"]
    lines = [
        [
            *(row[key] for key in ("arm", "phase", "candidate", "seed", "status")),
            *("–" if row.get(name) is None else f"{100 * row[name]:.2f}" for name in names),
            shown(row["seconds"]),
        ]
        for row in rows
    ]
    note = paragraph(
        "Every setting, the commit and the machine of each run are in table.parquet and table.json.", "note"
    )
    return f'<details class="more"><summary>{counted(len(rows), "run")}</summary>{table(head, lines, kind="numbers")}</details>{note}'
