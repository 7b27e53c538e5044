"""The equal-bytes table in a terminal and in a run's folder."""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from cosphere.cli.codes_table import score_codes, show_codes
from cosphere.evaluate import Embeddings
from cosphere.evaluate.equal_bytes import EqualBytes, Form
from cosphere.evaluate.statistics import Interval
from cosphere.runs import RunFolder
from cosphere.search import SelfCheck


def test_the_table_fits_80_columns_with_the_widest_numbers() -> None:
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
    assert "note: PQ is left out." in shown


def test_it_is_written_beside_the_scores(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = np.random.default_rng(0).normal(size=(20, 32)).astype(np.float32)
    labels = np.arange(20) % 5
    found = Embeddings(embeddings=rows, labels=labels, paths=tuple(map(str, range(20))), class_names=tuple("abcde"))
    folder = RunFolder.create(tmp_path / "run")
    table = score_codes(folder, found, "test", seed=0)
    content = json.loads((folder.path / "codes.json").read_text())
    assert content["split"] == "test"
    assert [form["name"] for form in content["forms"]] == [form.name for form in table.forms]
    assert "bits, float query" in capsys.readouterr().out
    score_codes(folder, found, "test", seed=0, untrained=True)
    assert (folder.path / "codes-untrained.json").exists()
