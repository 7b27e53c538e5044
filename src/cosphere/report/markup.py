"""HTML helpers. All text from data is escaped here, by :func:`safe`."""

from __future__ import annotations

import html
import math
from collections.abc import Iterable, Sequence

from cosphere.report.drawing import clean


def safe(text: object) -> str:
    """Escape text for element content or double-quoted attributes: one line, without markup or control characters.

    >>> safe('<b title="x">')
    '&lt;b title=&quot;x&quot;&gt;'
    """
    return html.escape(clean(str(text)), quote=True)


def section(name: str, title: str, *parts: str) -> str:
    """A page section with an anchor. ``parts`` are HTML."""
    body = "\n".join(part for part in parts if part)
    return f'<section id="{name}">\n<h2>{safe(title)}</h2>\n{body}\n</section>'


def paragraph(text: str, kind: str = "") -> str:
    """A paragraph of plain text, with a style class if one is named; nothing for no text."""
    if not text:
        return ""
    return f'<p class="{kind}">{safe(text)}</p>' if kind else f"<p>{safe(text)}</p>"


def missing(text: str) -> str:
    """A note in place of data that the run does not have."""
    return paragraph(text, "missing")


def table(head: Sequence[str], rows: Iterable[Sequence[object]], *, kind: str = "") -> str:
    """A table of plain values; the first column names the row. It scrolls by itself on narrow screens."""
    titles = "".join(f'<th scope="col">{safe(title)}</th>' for title in head)
    lines = [
        f'<tr><th scope="row">{safe(first)}</th>{"".join(f"<td>{safe(value)}</td>" for value in rest)}</tr>'
        for first, *rest in rows
    ]
    return (
        f'<div class="scroll"><table class="{kind}">\n<thead><tr>{titles}</tr></thead>\n'
        f"<tbody>\n{chr(10).join(lines)}\n</tbody></table></div>"
    )


def facts(pairs: Iterable[tuple[str, object]]) -> str:
    """Names with values, as a description list."""
    lines = [f"<div><dt>{safe(name)}</dt><dd>{safe(shown(value))}</dd></div>" for name, value in pairs]
    return '<dl class="facts">\n' + "\n".join(lines) + "\n</dl>"


def shown(value: object) -> str:
    """Format a value for display: short numbers, a dash for None.

    >>> [shown(value) for value in (None, True, 12345, 0.123456, 1e-5, [1, 2])]
    ['–', 'yes', '12 345', '0.1235', '1e-05', '1, 2']
    """
    if value is None or value == "":
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}".replace(",", " ") if abs(value) >= 10_000 else str(value)
    if isinstance(value, float):
        return f"{value:.4g}" if math.isfinite(value) else "–"
    if isinstance(value, (list, tuple)):
        return ", ".join(shown(part) for part in value) or "–"
    return str(value)


def percent(share: float | None, digits: int = 1) -> str:
    """A share of one as a percentage."""
    # Adding 0 turns the -0.0 of a share that rounds to nothing into 0.0.
    return "–" if share is None or not math.isfinite(share) else f"{round(100 * share, digits) + 0:.{digits}f} %"
