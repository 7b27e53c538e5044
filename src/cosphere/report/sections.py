"""The parts of the report that are words, tables and figures."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, cast

import numpy as np
import torch

from cosphere._types import Floats
from cosphere.embeddings import Embeddings
from cosphere.evaluate.agreement import worth_printing
from cosphere.evaluate.metrics import metric_title
from cosphere.fields import flatten
from cosphere.report import curves, figures
from cosphere.report.data import ReportData, Score, read_scores
from cosphere.report.drawing import charts
from cosphere.report.markup import facts, missing, paragraph, percent, safe, section, shown, table
from cosphere.spherical import length_statistics
from cosphere.tensors import exact_lengths
from cosphere.train import BatchSettings

SCORE_NAMES = {
    "nmi": "NMI",
    "nmi_geometric": "NMI, geometric",
    "ami": "AMI",
    "f1": "F1 of pairs",
    "purity": "Purity",
    "auc": "AUC",
    "eer": "EER",
}


def score_name(key: str) -> str:
    """A score's name for reading.

    >>> score_name("recall@8"), score_name("map@r/bits"), score_name("same_pairs"), score_name("lfw/unseen/tar@far=1e-3")
    ('Recall@8', 'MAP@R, bits', 'Same pairs', 'lfw, unseen, TAR@FAR 1e-3')
    """
    *around, last = key.split("/")
    if last == "bits":
        return f"{score_name('/'.join(around))}, {last}"
    if around:
        return ", ".join((*around, score_name(last)))
    rate, equals, value = key.partition("=")
    if equals:
        return f"{rate.upper()} {value}"
    return metric_title(key) or SCORE_NAMES.get(key, key.replace("_", " ").capitalize())


def part(content: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    """A nested mapping, empty when absent or of another kind: a report must not fail over an odd file."""
    value = content.get(name)
    return cast(Mapping[str, Any], value) if isinstance(value, Mapping) else {}


def header(data: ReportData) -> str:
    """Title and the numbers that matter most."""
    tiles = "".join(_tiles(data))
    split = data.scores.get("split")
    about = f"measured on the {split} split" if split else "not evaluated yet"
    return (
        f'<header>\n<p class="eyebrow">Cosphere report</p>\n<h1>{safe(data.name)}</h1>\n'
        f'<p class="lead">{safe(about)}</p>\n<div class="tiles">{tiles}</div>\n</header>'
    )


def _tiles(data: ReportData) -> list[str]:
    after, before = read_scores(part(data.scores, "scores")), read_scores(data.baseline_scores)
    tiles = []
    if "recall@1" in after:
        tiles.append(_score_tile("Recall@1", after["recall@1"], before.get("recall@1"), main=True))
    if "map@r" in after:
        tiles.append(_score_tile("MAP@R", after["map@r"], before.get("map@r")))
    best = curves.curve(data.metrics, "val/recall@1", limit=10**9)
    if len(best.steps):
        top = int(best.values.argmax())
        tiles.append(_tile("Best validation Recall@1", percent(best.values[top]), f"at step {best.steps[top]:.0f}"))
    if data.embeddings is not None:
        cv = length_statistics(torch.from_numpy(lengths_of(data.embeddings))[:, None]).cv
        tiles.append(_tile("CV of the lengths", f"{cv:.2f}", "std / mean of the lengths"))
        classes = len(np.unique(data.embeddings.labels))
        tiles.append(_tile("Images", shown(len(data.embeddings)), f"of {classes} classes"))
    return tiles


def _score_tile(name: str, after: Score, before: Score | None, *, main: bool = False) -> str:
    """A score, its value before training, and its interval."""
    value = percent(after.value) if before is None else f"{100 * before.value:.1f} → {percent(after.value)}"
    notes = [] if before is None else [f"{100 * (after.value - before.value):+.1f} points by training"]
    if after.low is not None and after.high is not None:
        notes.append(f"interval {100 * after.low:.1f}–{100 * after.high:.1f} %")
    return _tile(name, value, ", ".join(notes), main=main)


def _tile(name: str, value: str, note: str, *, main: bool = False) -> str:
    kind = "tile main" if main else "tile"
    return (
        f'<div class="{kind}"><span>{safe(name)}</span><strong>{safe(value)}</strong><small>{safe(note)}</small></div>'
    )


def lengths_of(embeddings: Embeddings) -> Floats:
    """(N,) lengths of the rows."""
    norms: Floats = exact_lengths(torch.from_numpy(embeddings.embeddings)).numpy()
    return norms


def scores(data: ReportData) -> str:
    """The table of scores, and Recall@K as a figure."""
    after, before = read_scores(part(data.scores, "scores")), read_scores(data.baseline_scores)
    if not after:
        return section(
            "scores", "Scores", missing("No scores yet. Evaluate the run to see them: cosphere evaluate RUN DATA.")
        )
    shares = {key: score for key, score in after.items() if not isinstance(score.value, int)}
    printed = worth_printing({key: score.value for key, score in shares.items()})
    rows = [_score_row(key, shares[key], before.get(key), compared=bool(before)) for key in printed]
    head = ["score, in %", "before", "after", "change", "interval"] if before else ["score, in %", "value", "interval"]
    counts = ", ".join(
        f"{score_name(key).lower()}: {shown(score.value)}" for key, score in after.items() if key not in shares
    )
    drawn = figures.recall_figure(part(data.scores, "scores"), data.baseline_scores)
    shapes = charts([("recall", drawn, "Recall at K with its interval")])
    note = "The interval covers other queries of the same kind, not other training seeds."
    remarks = data.scores.get("notes")
    paragraphs = "".join(paragraph(str(one)) for one in remarks) if isinstance(remarks, list) else ""
    words = paragraph(counts.capitalize() + "." if counts else "") + paragraphs + paragraph(note, "note")
    return section(
        "scores", "Scores", f'<div class="beside"><div>{table(head, rows, kind="numbers")}{words}</div>{shapes}</div>'
    )


def _score_row(key: str, score: Score, before: Score | None, *, compared: bool) -> list[str]:
    value = f"{100 * score.value:.2f}"
    interval = "–" if score.low is None or score.high is None else f"{100 * score.low:.1f}–{100 * score.high:.1f}"
    if not compared:
        return [score_name(key), value, interval]
    if before is None:
        return [score_name(key), "–", value, "–", interval]
    return [score_name(key), f"{100 * before.value:.2f}", value, f"{100 * (score.value - before.value):+.2f}", interval]


def training(data: ReportData) -> str:
    """Curves over steps."""
    drawn = charts(
        [
            ("loss", curves.training_curves(data.metrics), "Loss and its terms over steps"),
            ("validation", curves.validation_curve(data.metrics), "Validation scores over steps, the best one marked"),
            ("share", curves.sec_share_curve(data.metrics), "Weighted SEC over metric loss, over steps"),
            ("norms", curves.norm_curves(data.metrics), "Mean and variation of the lengths over steps"),
            ("ridges", curves.length_ridges(data.metrics), "Histograms of the lengths at several validations"),
        ]
    )
    return section("training", "Training", drawn or missing("This run logged no training steps."), _sec_warning(data))


def _sec_warning(data: ReportData) -> str:
    share = curves.curve(data.metrics, "train/sec_share", limit=10**9).values
    if not len(share) or np.median(share) <= 1:
        return ""
    return paragraph(
        f"SEC outweighed the metric loss in most steps (median {np.median(share):.2g} times as large). "
        "Training then follows the lengths rather than the similarity of images; try a smaller weight.",
        "warning",
    )


LENS = {
    "max_abs_gradient_cosine": (
        "Largest |cosine| of gradient and embedding",
        "0",
        "the metric loss turns embeddings, it does not stretch them",
    ),
    "gradient_slope": ("Slope of log gradient on log length", "-1", "twice as long, half the gradient"),
    "angle_slope": ("Slope of log turning angle on log length", "-2", "twice as long, a quarter of the turn"),
}
"""What the norm lens logs: a name, the value for free embeddings under plain gradient descent, and what that means."""


SLOPES = ("gradient_slope", "angle_slope")
LEAST_VARIATION = 0.5
"""CV of the lengths, times the root of the number of images, below which a slope over their logarithm is not meaningful:
gradients that vary by half of their size give it a standard error of 0.5 / (CV * sqrt(images)), above 1 there."""


def lengths(data: ReportData) -> str:
    """The norm lens: how long embeddings are and what that does to a step."""
    intro = paragraph(
        "Comparing images uses only the direction of an embedding, yet its length determines how fast training "
        "can turn it: the gradient shrinks as the length grows, and the same step turns a long embedding less. "
        "Unequal lengths therefore train some images faster than others. SEC pulls all lengths towards one radius; "
        "the CV (standard deviation over mean) says how equal they are, 0 being equal."
    )
    if data.embeddings is None:
        shape = missing(
            "No embeddings to measure yet. Evaluate the run to see their lengths: cosphere evaluate RUN DATA."
        )
        return section("lengths", "Lengths", intro, _lens_table(data), shape)
    norms = lengths_of(data.embeddings)
    shape = charts([("histogram", figures.norm_histogram(norms), "How long the embeddings are")])
    tables = f"<div>{_length_table(norms)}{_lens_table(data)}</div>"
    return section("lengths", "Lengths", intro, f'<div class="beside">{tables}{shape}</div>')


def _length_table(norms: Floats) -> str:
    statistics = length_statistics(torch.from_numpy(norms)[:, None])
    row = [f"{statistics.mean:.3g}", f"{norms.min():.3g} to {norms.max():.3g}", f"{statistics.cv:.3f}"]
    return table(["lengths", "mean", "range", "CV"], [["this run", *row]], kind="numbers")


def _lens_table(data: ReportData) -> str:
    """The last logged value of each part of the lens."""
    variation = curves.curve(data.metrics, "train/norm_cv", limit=10**9).values
    images = (data.config.get("batch") or {}).get("size") or BatchSettings().size  # of the lens's probe batch
    nearly_equal = len(variation) > 0 and variation[-1] * math.sqrt(images) < LEAST_VARIATION
    rows = []
    for key, (name, free, meaning) in LENS.items():
        values = curves.curve(data.metrics, f"lens/{key}", limit=10**9).values
        if len(values):
            shown = "lengths differ too little to tell" if nearly_equal and key in SLOPES else f"{values[-1]:.2f}"
            rows.append([name, shown, free, meaning])
    if not rows:
        return missing("The norm lens was not logged, so its slopes are unknown.")
    note = paragraph(
        "“Free” is what plain gradient descent does to embeddings that move one by one. "
        "Embeddings of a network share weights, so other slopes are not a fault.",
        "note",
    )
    return table(["norm lens, last step", "here", "free", "meaning"], rows, kind="lens") + note


def skipped(data: ReportData, unreadable: Mapping[str, str]) -> str:
    """Images left out, of the evaluation and of this page."""
    lost = {one.path: one.reason for one in data.skipped} | dict(unreadable)
    if not lost:
        return section("skipped", "Skipped images", paragraph("None: every image on this page could be read."))
    shown_rows = list(lost.items())[:100]
    more = paragraph(f"… and {len(lost) - len(shown_rows)} more.", "note") if len(lost) > len(shown_rows) else ""
    count = "1 image was" if len(lost) == 1 else f"{len(lost)} images were"
    return section(
        "skipped",
        "Skipped images",
        paragraph(f"{count} left out."),
        table(["image", "reason"], shown_rows, kind="words"),
        more,
    )


def about(data: ReportData) -> str:
    """Settings, data and provenance: enough to make it again."""
    settings = list(flatten(data.config).items())
    origin = list(flatten(part(data.scores, "provenance")).items())
    rules = {name: data.scores[name] for name in ("settings", "ties", "clustering") if data.scores.get(name)}
    changed = [pair for pair in flatten(part(rules, "settings")).items() if pair not in settings]
    evaluation = [*changed, *flatten({k: v for k, v in rules.items() if k != "settings"}).items()]
    parts = [
        ("Data", _data_facts(data), "No information about the data yet."),
        ("Training settings", settings, "This run has no settings."),
        ("Evaluation settings, beside those of the training", evaluation, "No evaluation settings were stored."),
        (
            "Where the numbers come from",
            origin,
            "The evaluation writes commit and machine; this run has not been evaluated.",
        ),
    ]
    blocks = [
        f"<div><h3>{safe(title)}</h3>{facts(pairs) if pairs else missing(none)}</div>" for title, pairs, none in parts
    ]
    return section("about", "Settings and provenance", f'<div class="columns">{"".join(blocks)}</div>')


def _data_facts(data: ReportData) -> list[tuple[str, object]]:
    pairs: list[tuple[str, object]] = [("split", data.scores["split"])] if data.scores.get("split") else []
    pairs += flatten(part(data.scores, "data")).items()
    if data.embeddings is None:
        return pairs
    embeddings = data.embeddings
    pairs += [("embedded images", len(embeddings)), ("dimensions", int(embeddings.embeddings.shape[1]))]
    sizes = np.unique(embeddings.labels, return_counts=True)[1]
    pairs.append(("images per class", f"{sizes.min()} to {sizes.max()}, median {np.median(sizes):g}"))
    for name, flags in (("queries", embeddings.is_query), ("gallery", embeddings.is_gallery)):
        if flags is not None:
            pairs.append((name, int(flags.sum())))
    return pairs


def footer(data: ReportData) -> str:
    """Who made the page."""
    origin = part(data.scores, "provenance")
    words = [
        "Written by Cosphere",
        shown(origin.get("cosphere")) if origin.get("cosphere") else "",
        shown(origin.get("time")) if origin.get("time") else "",
    ]
    return f"<footer>{safe(' · '.join(word for word in words if word))}. This file needs no network.</footer>"
