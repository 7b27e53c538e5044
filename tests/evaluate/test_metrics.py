from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import cosphere
from cosphere.errors import SettingsError
from cosphere.evaluate import EvaluationSettings
from cosphere.evaluate.metrics import METRICS, check_metrics, find_metric, metric_title, metrics_help

ROOT = Path(__file__).parents[2]

ADDED = '''
def success_in_three(ranking: Ranking) -> Values:
    """Share of the first three that are relevant."""
    return ranking.relevant_within(3) / 3


METRICS += (Metric(name="three", title="Three", values=success_in_three, depth="all"),)
'''
TEST = """
import numpy as np
import pytest

from cosphere.embeddings import Embeddings
from cosphere.errors import SettingsError
from cosphere.evaluate import EvaluationSettings, retrieval, score_embeddings
from cosphere.report.sections import score_name

AXES = np.array([[1, 0], [1, 0.1], [0, 1], [0.1, 1]], dtype=np.float32)


def test_three():
    scores = retrieval(AXES, [0, 0, 1, 1], (1,), metrics=("three",))
    assert scores.as_dict()["three"] == 1 / 3
    assert scores.macro()["three"] == 1 / 3
    assert score_name("three") == "Three"
    table = Embeddings(embeddings=AXES, labels=np.array([0, 0, 1, 1]), paths=tuple("abcd"), class_names=("a", "b"))
    wanted = EvaluationSettings(ks=(1,), clustering=False, metrics=("three",))
    evaluated = score_embeddings(table, wanted)
    assert evaluated.as_dict()["scores"]["three"]["value"] == 1 / 3
"""

TEST_AND_WRITE = """
import runpy, sys
import pytest

code = pytest.main(["-q", "-p", "no:cacheprovider", "test_three.py"])
sys.argv = ["quick"]
code or runpy.run_module("cosphere.cli.quick", run_name="__main__")  # writes the help again, as after any change of a setting
sys.exit(code)
"""
"""One process for both, because importing everything takes seconds."""


@pytest.mark.slow
def test_a_metric_is_its_function_its_entry_and_its_test(tmp_path: Path) -> None:
    """In a copy of the package: computed, with an interval, titled in the report, and accepted by the command."""
    shutil.copytree(Path(cosphere.__file__).parent, tmp_path / "cosphere", ignore=shutil.ignore_patterns("__pycache__"))
    source = tmp_path / "cosphere" / "evaluate" / "metrics.py"
    head, mark, tail = source.read_text().partition("\ndef check_metrics")
    source.write_text(f"{head}{ADDED}\n{mark}{tail}")
    (tmp_path / "test_three.py").write_text(TEST)
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}

    def run(*words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, *words], env=environment, cwd=tmp_path, text=True, capture_output=True, check=False
        )

    tested = run("-c", TEST_AND_WRITE)
    assert tested.returncode == 0, tested.stdout + tested.stderr
    assert "1 passed" in tested.stdout
    assert "three" in run("-m", "cosphere", "evaluate", "--help-all").stdout


def test_every_metric_is_on_the_page() -> None:
    rows = re.findall(r"^\| ([^|]+) \|", (ROOT / "docs" / "metrics.md").read_text(encoding="utf-8"), flags=re.MULTILINE)
    titles = {metric.title + ("@K" if metric.at_k else "") for metric in METRICS}
    assert {title.lower() for title in titles} <= {row.lower() for row in rows}


def test_every_metric_has_names_of_its_own_and_a_line_of_help() -> None:
    for field in ("name", "title", "about"):
        column = [getattr(metric, field) for metric in METRICS]
        assert len(set(column)) == len(column)
        assert all(0 < len(value) < 110 for value in column)
    assert metrics_help() == "precision, map, ndcg, map@all, mrr, median_rank, or all"
    assert metrics_help() in str(EvaluationSettings.__doc__)


def test_a_score_is_traced_to_its_metric() -> None:
    assert [find_metric(key) and find_metric(key).name for key in ("ndcg@10", "map@5", "map@all", "map@r", "mrr")] == [
        "ndcg",
        "map",
        "map@all",
        "map@r",
        "mrr",
    ]
    for key in ("nmi", "ndcg", "mrr@3", "recall@x", ""):
        assert find_metric(key) is None
        assert metric_title(key) is None
    assert metric_title("precision@100") == "Precision@100"


def test_what_is_requested_comes_in_the_order_of_the_table() -> None:
    assert [metric.name for metric in check_metrics(())] == ["recall", "map@r", "r_precision"]
    assert [metric.name for metric in check_metrics(("mrr", "ndcg"))] == [
        "recall",
        "map@r",
        "r_precision",
        "ndcg",
        "mrr",
    ]
    assert check_metrics(("all",)) == METRICS
    with pytest.raises(SettingsError, match="there is no metric 'ndgc'. Did you mean 'ndcg'?"):  # noqa: RUF043
        check_metrics(("ndgc",))
