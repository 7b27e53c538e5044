"""The frame of every page: one HTML file that opens offline, asks nobody for anything and runs no script."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib import resources

from cosphere.report.markup import safe

POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"
"""The browser itself then refuses every request and every script, whatever a class may be called."""


def document(
    name: str, *, header: str, links: Mapping[str, str], body: Sequence[str], footer: str = "", css: str = ""
) -> str:
    """A whole page.

    Args:
        name: what the page is about, for its title; plain text.
        header: HTML.
        links: anchor -> title of each section, in order.
        body: HTML of each section.
        footer: HTML.
        css: rules on top of those of all pages.
    """
    style = resources.files("cosphere.report").joinpath("page.css").read_text(encoding="utf-8")
    navigation = "".join(f'<a href="#{anchor}">{title}</a>' for anchor, title in links.items())
    return "\n".join(
        [
            "<!doctype html>",
            '<html lang="en">',
            "<head>",
            '<meta charset="utf-8">',
            f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            '<meta name="color-scheme" content="light dark">',
            f"<title>{safe(name)} · Cosphere report</title>",
            f"<style>\n{style}\n{css}\n</style>",
            "</head>",
            "<body>",
            header,
            f'<nav aria-label="Parts of this page">{navigation}</nav>',
            "<main>",
            *body,
            "</main>",
            footer,
            "</body>",
            "</html>",
            "",
        ]
    )
