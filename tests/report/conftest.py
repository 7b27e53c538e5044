"""A tiny run with everything in it: flat-coloured pictures, embeddings with known outcomes, logged steps, scores."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image

from cosphere.data import Skipped
from cosphere.embeddings import Embeddings
from cosphere.health import embedding_health
from cosphere.report import ReportData
from cosphere.report.page import page

HOSTILE = '<script>alert("x")</script>'
CLASSES = ("cat & dog", HOSTILE, 'quote " and $dollar$', "plain")


@pytest.fixture
def blank_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Figures are not drawn, which is most of a page's time: for tests of a page's words and pictures."""

    def savefig(figure: Figure, target: Any, *, format: str, **_: object) -> None:
        target.write('<svg width="1pt" height="1pt"></svg>' if format == "svg" else b"")

    monkeypatch.setattr(Figure, "savefig", savefig)


@pytest.fixture(scope="session")
def small(tmp_path_factory: pytest.TempPathFactory) -> Embeddings:
    """N = 24 images of 4 classes."""
    folder = tmp_path_factory.mktemp("pictures")
    draw = np.random.default_rng(0)
    labels = np.repeat(np.arange(4), 6)
    centres = draw.normal(size=(4, 5))
    # Scattered widely, so that some queries fail.
    embeddings = (centres[labels] + draw.normal(size=(24, 5))).astype(np.float32)
    paths = []
    for row in range(24):
        path = folder / f"picture {row}.png"
        Image.new("RGB", (40, 20), (10 * row, 255 - 10 * row, 128)).save(path)
        paths.append(str(path))
    return Embeddings(embeddings=embeddings, labels=labels, paths=tuple(paths), class_names=CLASSES)


def metrics() -> list[dict[str, float]]:
    rows = []
    for step in range(0, 60, 2):
        row = {"step": step, "train/loss": 2.5 - step / 40, "train/loss_metric": 2 - step / 40, "train/loss_sec": 5.0}
        row |= {"train/sec_share": 0.25, "train/norm_mean": 7.0, "train/norm_var": 1.44, "train/norm_cv": 0.17}
        if step % 20 == 0:
            row |= {"val/recall@1": {0: 0.4, 20: 0.625, 40: 0.55}[step], "val/map@r": 0.2, "lens/angle_slope": -1.37}
            row |= {"val/effective_rank": 4.0 - step / 40, "val/uniformity": -2.0 + step / 90}
        rows.append(row)
    return rows


SCORES = {
    "split": "test",
    "scores": {
        "recall@1": {"value": 0.6104, "low": 0.5951, "high": 0.6262},
        "recall@10": {"value": 0.9, "low": 0.88, "high": 0.92},
        "recall@2": {"value": 0.71, "low": 0.69, "high": 0.73},
        "nmi": 0.583,
        "queries": 24,
    },
    "data": {"fingerprint": "abc123", "images": 24, "classes": 4},
    "provenance": {
        "cosphere": "0.1.0",
        "commit": "0123abcd",
        "machine": {"processor": "Test <CPU>"},
        "time": "2026-01-01",
    },
    "settings": {"batch_size": 64},
    "ties": "optimistic",
    "clustering": {"restarts": 5},
    "notes": ["Left out: 3 of <27> queries."],
}
BASELINE = {"recall@1": {"value": 0.4471, "low": 0.43, "high": 0.46}}


@pytest.fixture(scope="session")
def data(small: Embeddings) -> ReportData:
    return ReportData(
        name="first try",
        config={"loss": {"name": "triplet"}, "seed": 3},
        metrics=metrics(),
        scores=json.loads(json.dumps({**SCORES, "health": embedding_health(small.embeddings, small.labels).as_dict()})),
        baseline_scores=BASELINE,
        embeddings=small,
        skipped=(Skipped("far/bad <b>.jpg", "truncated"),),
    )


@pytest.fixture(scope="session")
def text(data: ReportData) -> str:
    """The whole page, drawn once."""
    return page(data)


@pytest.fixture(scope="session")
def bare(data: ReportData) -> ReportData:
    """Without what takes long to draw."""
    return replace(data, metrics=(), scores={})
