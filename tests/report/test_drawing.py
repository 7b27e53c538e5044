from __future__ import annotations

import re

import matplotlib

from cosphere.report import curves, drawing, figures


def contrast(first: str, second: str) -> float:
    """Of two #rrggbb colours, as WCAG 2.1 defines it."""

    def light(colour: str) -> float:
        parts = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
        return sum(
            w * (p / 12.92 if p <= 0.03928 else ((p + 0.055) / 1.055) ** 2.4)
            for w, p in zip((0.2126, 0.7152, 0.0722), parts, strict=True)
        )

    high, low = sorted([light(first), light(second)], reverse=True)
    return (high + 0.05) / (low + 0.05)


def test_series_and_text_can_be_read_on_white() -> None:
    for name, code in drawing.COLOURS.items():
        assert name == "rule" or contrast(code, "#ffffff") >= 4.5, name


def test_inline_has_no_address_and_exchangeable_colours() -> None:
    svg = figures.class_figure(['id="x" href="#y" fill: #0072b2'], [0.5], [4])
    page = drawing.inline(svg, "one", "words")
    assert "http" not in page
    assert "<metadata" not in page
    assert page.startswith('<svg role="img" aria-label="words"')
    assert "var(--blue, #0072b2)" in page
    assert 'id="x" href="#y" ' in page  # between tags nothing changes
    inside = " ".join(re.findall(r"<[^>]*>", page))
    assert not re.search(r"(fill|stroke): #(0072b2|2b2f33|6a7078|d9dce0)", inside)
    ids = re.findall(r' id="([^"]*)"', inside)
    assert len(ids) == len(set(ids)) > 5
    assert all(name.startswith("one-") for name in ids)
    for target in re.findall(r'href="#([^"]*)"|url\(#([^)]*)\)', inside):
        assert "".join(target) in ids


def test_figures_do_not_change_the_callers_matplotlib() -> None:

    names = set(drawing.STYLE)
    before = {name: matplotlib.rcParams[name] for name in names}
    curves.training_curves([{"step": step, "train/loss": 1.0} for step in range(3)])
    assert {name: matplotlib.rcParams[name] for name in names} == before
