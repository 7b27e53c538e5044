"""The section of the protocols by which a run was scored: tables, ROC, errors after rejecting short embeddings, and the hardest pairs."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from cosphere.report.data import ReportData, Score, read_scores
from cosphere.report.drawing import COLOURS, charts, drawing, gid_of, line_look
from cosphere.report.markup import paragraph, percent, safe, section, shown, table
from cosphere.report.pictures import Thumbnails
from cosphere.report.sections import part, score_name

AT_ONCE = 6
"""Pairs of each kind shown before the reader asks for more."""
KINDS = {
    "same": ("Same, with the lowest cosine", "same"),
    "different": ("Different, with the highest cosine", "different"),
}


def protocols(data: ReportData, pictures: Thumbnails) -> str:
    """Everything that the protocols say; nothing where the run was scored by none."""
    return "".join(_protocol(name, own, data.protocols[name], pictures) for name, own in section_ids(data).items())


def section_ids(data: ReportData) -> dict[str, str]:
    """For each protocol that has scores an id of letters, digits and dashes, of which those of its figures and their files are made.

    A file of scores may come from anybody, and its protocol may have any name.
    """
    ids: dict[str, str] = {}
    for place, name in enumerate(name for name, content in data.protocols.items() if _scored(content)):
        own = "-".join(re.findall(r"[A-Za-z0-9]+", name)) or str(place)
        while own in ids.values():
            own = f"{own}-{place}"
        ids[name] = own
    return ids


def _scored(content: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """The parts of a protocol that have scores."""
    return [one for one in _items(content, "parts") if part(one, "scores")]


def _protocol(name: str, own: str, content: Mapping[str, Any], pictures: Thumbnails) -> str:
    parts = _scored(content)
    tables = "".join(_table(one) for one in parts)
    drawn = charts(
        [
            (f"roc-{own}", roc_figure(parts), "True-accept rate over the false-accept rate"),
            (f"reject-{own}", reject_figure(parts), "Errors after rejecting the pairs with the shortest embeddings"),
        ]
    )
    notes = "".join(paragraph(_sentence(str(one)), "note") for one in content.get("notes") or [])
    body = f'<div class="beside"><div>{tables}</div>{drawn}</div>' if drawn else tables
    return section(f"protocol-{own}", f"Protocol {name}", body, _hardest(parts[0], pictures), notes)


def _sentence(text: str) -> str:
    """A note as a sentence of a page; a file's name at its start stays as it is."""
    first = text.split()[0].rstrip(":") if text.split() else ""
    start = text[:1] if "." in first else text[:1].upper()
    return f"{start}{text[1:].rstrip('.')}." if text else ""


def _items(content: Mapping[str, Any], name: str) -> list[Mapping[str, Any]]:
    """The mappings of a list; a report must not fail over an odd file."""
    values = content.get(name)
    return [one for one in values if isinstance(one, Mapping)] if isinstance(values, list) else []


def _table(one: Mapping[str, Any]) -> str:
    """Scores of a part with intervals, and what was counted."""
    folds = part(one, "folds")
    rows = [_row(key, score, folds) for key, score in read_scores(part(one, "scores")).items()]
    counts = ", ".join(f"{shown(number)} {str(what).replace('_', ' ')}" for what, number in part(one, "counts").items())
    words = [counts + "." if counts else "", _lengths_in_words(part(one, "lengths"))]
    head = ["score, in %", "value", "interval"]
    return f"<h3>{safe(one.get('title', ''))}</h3>{table(head, rows, kind='numbers')}" + paragraph(
        " ".join(word for word in words if word), "note"
    )


def _row(key: str, score: Score, folds: Mapping[str, Any]) -> list[str]:
    value = f"{100 * score.value:.2f}"
    if key == "accuracy" and isinstance(folds.get("accuracy_std"), float):
        value += f" ± {100 * folds['accuracy_std']:.2f}"
    interval = "–" if score.low is None or score.high is None else f"{100 * score.low:.1f}–{100 * score.high:.1f}"
    return [score_name(key), value, interval]


def _lengths_in_words(lengths: Mapping[str, Any]) -> str:
    correlation, gain = lengths.get("correlation"), lengths.get("gain")
    if not isinstance(correlation, float):
        return ""
    text = f"Length of the shorter embedding and being right: correlation {correlation:+.2f}"
    return text + (
        f", rejecting short ones gains {percent(gain, 0)} of what is possible." if isinstance(gain, float) else "."
    )


def roc_figure(parts: Sequence[Mapping[str, Any]]) -> str | None:
    """TAR over the logarithm of FAR, a line for each part; None where no part has a curve."""
    curves = [(str(one.get("title", "")), part(one, "roc")) for one in parts]
    known = [(title, roc["far"], roc["tar"]) for title, roc in curves if roc.get("far") and roc.get("tar")]
    if not known:
        return None
    with drawing() as (figure, (axes,), svg):
        for line, (title, far, tar) in enumerate(known):
            colour, dash = line_look(line)
            points = [(rate, 100 * hit) for rate, hit in zip(far, tar, strict=True) if rate > 0]
            axes.step(
                *zip(*points, strict=True),
                where="post",
                color=COLOURS[colour],
                linestyle=dash,
                label=title,
                gid=gid_of(title),
            )
        axes.set_xscale("log")
        axes.set_ylim(0, 102)
        axes.set(title="ROC", xlabel="false-accept rate", ylabel="true-accept rate (%)")
        _name_lines(figure, len(known))
    return svg[0]


def reject_figure(parts: Sequence[Mapping[str, Any]]) -> str | None:
    """Errors among what is left after rejecting pairs with short embeddings, a line for each part; None where none has them."""
    known = [(str(one.get("title", "")), part(one, "lengths")) for one in parts]
    known = [(title, lengths) for title, lengths in known if lengths.get("errors")]
    if not known:
        return None
    with drawing() as (figure, (axes,), svg):
        for line, (title, lengths) in enumerate(known):
            colour, dash = line_look(line)
            shares, errors = ([100 * value for value in lengths[name]] for name in ("shares", "errors"))
            axes.plot(shares, errors, color=COLOURS[colour], linestyle=dash, label=title, gid=gid_of(title))
        axes.set_ylim(bottom=0)
        axes.set(
            title="Does length tell quality?",
            xlabel="pairs with the shortest embeddings rejected (%)",
            ylabel="wrong among the others (%)",
        )
        _name_lines(figure, len(known))
    return svg[0]


def _name_lines(figure: Figure, count: int) -> None:
    """A legend below the axes, where long titles hide no line; none for one line, whose part has its title beside it."""
    if count > 1:
        figure.legend(loc="outside lower left", fontsize=8, frameon=False)


def _hardest(one: Mapping[str, Any], pictures: Thumbnails) -> str:
    """The hardest pairs of both kinds, side by side."""
    kinds = part(one, "hardest")
    columns = [
        f"<div><h3>{title}</h3>{_pairs(pairs, word, pictures)}</div>"
        for kind, (title, word) in KINDS.items()
        if (pairs := _items(kinds, kind))
    ]
    return f'<div class="columns">{"".join(columns)}</div>' if columns else ""


def _pairs(pairs: Sequence[Mapping[str, Any]], word: str, pictures: Thumbnails) -> str:
    items = [_pair(pair, word, pictures) for pair in pairs]
    first, rest = "".join(items[:AT_ONCE]), "".join(items[AT_ONCE:])
    more = f'<details class="more"><summary>Show {len(items) - AT_ONCE} more</summary><ul class="pairs">{rest}</ul></details>'
    return f'<ul class="pairs">{first}</ul>' + (more if rest else "")


def _pair(pair: Mapping[str, Any], word: str, pictures: Thumbnails) -> str:
    """Two pictures, their names, the cosine, and whether the threshold judges them right."""
    files = [str(pair.get(side, "")) for side in ("a", "b")]
    verdict = {True: f"✓ judged {word}", False: "✗ judged wrong"}.get(pair.get("right"), "")  # type: ignore[arg-type]
    cosine = pair.get("cosine")
    text = f"cosine {cosine:.3f}" if isinstance(cosine, float) else ""
    names = " and ".join(Path(file).name for file in files)
    return (
        f'<li><span class="shots">{"".join(_picture(file, pictures) for file in files)}</span>'
        f'<span class="text"><b>{safe(text)}</b> {safe(verdict)}<small>{safe(names)}</small></span></li>'
    )


def _picture(file: str, pictures: Thumbnails) -> str:
    """The thumbnail of a file, or a grey square that says so."""
    name = pictures.name(file)
    if name is None:
        return f'<span class="pic none" title="{safe(file)}">no picture</span>'
    return f'<span class="pic {name}" role="img" aria-label="{safe(Path(file).name)}" title="{safe(file)}"></span>'
