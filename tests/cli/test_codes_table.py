"""The equal-bytes table in a terminal and in a run's folder."""

from __future__ import annotations

import io

import numpy as np
import pytest
from rich.console import Console

from cosphere.cli.codes_table import show_codes
from cosphere.evaluate.equal_bytes import EqualBytes, Form
from cosphere.evaluate.statistics import Interval
from cosphere.search import SelfCheck


def test_the_table_fits_80_columns_with_the_widest_numbers(capsys: pytest.CaptureFixture[str]) -> None:
    one = np.ones(3)
    interval = Interval(0.98765, 1.0)
    form = Form(
        "bits, float query",
        16_448,
        {"recall@1": one, "map@r": one},
        {"recall@1": interval, "map@r": interval},
        1234.567,
        SelfCheck(1.0, 10, 100),
    )
    table = EqualBytes((form,), 4096, 60_502, 3, 0, 100, ("PQ is left out.",))
    text = io.StringIO()
    show_codes(table, "run, test", Console(file=text, width=80))
    shown = text.getvalue()
    assert "…" not in shown
    row = next(line for line in shown.splitlines() if "bits, float" in line)
    for cell in ("bits, float query", "16,448", "100.0 (98.8-100.0)", "1235", "100"):
        assert cell in row
    assert capsys.readouterr().err == "note: PQ is left out.\n"
