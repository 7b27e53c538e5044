"""The section of the protocols: tables, curves and the hardest pairs, from the files in a run's folder."""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
from PIL import Image
from svg import affine, group, line_points, texts

from cosphere.files import write_json
from cosphere.report import ReportData, write_report
from cosphere.report.data import report_data_from_run
from cosphere.report.page import page
from cosphere.report.protocols import reject_figure, roc_figure
from cosphere.runs import RunFolder

HOSTILE = '<script>alert("x")</script>'


@pytest.fixture
def part(tmp_path: Path) -> dict[str, Any]:
    files = []
    for number in range(4):
        files.append(str(tmp_path / f"face {number}.png"))
        Image.new("RGB", (30, 30), (60 * number, 9, 9)).save(files[-1])
    pairs = [{"a": files[0], "b": files[1], "cosine": -0.125, "right": False}] * 8
    other = [{"a": files[2], "b": str(tmp_path / f"{HOSTILE}.png"), "cosine": 0.875, "right": True}]
    return {
        "key": "",
        "title": "View 2, all pairs",
        "scores": {
            "accuracy": {"value": 0.91, "low": 0.9, "high": 0.92},
            "tar@far=1e-3": {"value": 0.5, "low": None, "high": None},
        },
        "counts": {"same_pairs": 3000, "different_pairs": 3000},
        "roc": {"far": [0.0, 0.001, 0.01, 0.1, 1.0], "tar": [0.1, 0.5, 0.7, 0.9, 1.0]},
        "folds": {"accuracy_std": 0.0123},
        "lengths": {"correlation": 0.25, "gain": 0.4, "shares": [0, 0.25, 0.5], "errors": [0.09, 0.06, 0.05]},
        "hardest": {"same": pairs, "different": other},
    }


@pytest.fixture
def data(part: dict[str, Any]) -> ReportData:
    content = {"protocol": "lfw", "parts": [part], "notes": ["the first note", "lfw.bin: one", HOSTILE]}
    return ReportData(name="run", protocols={"lfw": content})


def test_the_roc_is_drawn_over_the_logarithm_of_the_rate(part: dict[str, Any]) -> None:
    svg = roc_figure([part])
    assert svg is not None
    drawn = line_points(svg, "view-all-pairs")
    # Steps: each rate holds from its own place to the next one.
    places = [math.log10(rate) for rate in (0.001, 0.01, 0.1, 1)]
    corners = [(places[0], 50), (places[1], 50), (places[1], 70), (places[2], 70), (places[2], 90), (places[3], 90)]
    corners.append((places[3], 100))
    for axis in (0, 1):
        assert affine(drawn[:, axis], np.array(corners)[:, axis]) < 1e-3
    assert "false-accept rate" in texts(svg)


def test_the_errors_are_drawn_over_the_rejected_share(part: dict[str, Any]) -> None:
    svg = reject_figure([part])
    assert svg is not None
    drawn, values = line_points(svg, "view-all-pairs"), np.array([(0, 9), (25, 6), (50, 5)])
    for axis in (0, 1):
        assert affine(drawn[:, axis], values[:, axis]) < 1e-3


@pytest.mark.parametrize("figure", [roc_figure, reject_figure])
def test_several_lines_are_named_below_the_axes(part: dict[str, Any], figure: Any) -> None:
    assert not {"View 2, all pairs", "unseen"} & set(texts(figure([part])))
    assert {part["title"], "unseen"} <= set(texts(figure([part, {**part, "title": "unseen"}])))


@pytest.mark.parametrize("figure", [roc_figure, reject_figure])
def test_a_fifth_part_is_drawn_and_looks_like_no_other(part: dict[str, Any], figure: Any) -> None:
    titles = ["first", "second", "third", "fourth", "fifth"]
    svg = figure([{**part, "title": title} for title in titles])
    looks = [
        re.sub(r" d=\S+", "", ElementTree.tostring(group(svg, title)[0], "unicode").split("style=")[1])
        for title in titles
    ]
    assert len(set(looks)) == 5


def test_parts_without_curves_give_no_figure(part: dict[str, Any]) -> None:
    assert roc_figure([{**part, "roc": {}}]) is None
    assert reject_figure([{"title": "x"}]) is None


@pytest.mark.usefixtures("blank_figures")
def test_tables_pairs_and_notes_are_on_the_page(data: ReportData) -> None:
    text = page(data)
    assert '<a href="#protocol-lfw">lfw</a>' in text
    assert "<h2>Protocol lfw</h2>" in text
    assert '<th scope="row">Accuracy</th><td>91.00 ± 1.23</td><td>90.0–92.0</td>' in text
    assert '<th scope="row">TAR@FAR 1e-3</th><td>50.00</td><td>–</td>' in text
    assert "3000 same pairs, 3000 different pairs." in text
    assert "correlation +0.25, rejecting short ones gains 40 % of what is possible." in text
    data.protocols["lfw"]["parts"][0]["lengths"]["gain"] = -0.001
    assert "gains 0 % of what" in page(data)
    assert '<p class="note">The first note.</p>' in text
    assert '<p class="note">lfw.bin: one.</p>' in text
    assert text.count("cosine -0.125</b> ✗ judged wrong") == 8
    assert "<summary>Show 2 more</summary>" in text  # of the same pairs
    assert "cosine 0.875</b> ✓ judged different" in text
    assert "no picture" in text  # of the file that is not there
    assert "<script" not in text
    assert text.count("data:image/jpeg") == 3  # each picture once


def test_a_protocol_of_any_name_has_a_section_and_figures_of_its_own_in_their_folder(
    part: dict[str, Any], tmp_path: Path
) -> None:
    folder = RunFolder.create(tmp_path / "run")
    names = ["../../evil", "evil", '"><script>', "../..", "é", "empty"]
    for number, name in enumerate(names):
        parts = [{**part, "hardest": {}, "lengths": {}}] if name != "empty" else []
        write_json(folder.path / f"scores-{number}.json", {"protocol": name, "parts": parts})
    text = write_report(folder.path).read_text(encoding="utf-8")
    anchors = re.findall(r'href="#(protocol-[^"]*)"', text)
    assert anchors == re.findall(r'<section id="(protocol-[^"]*)"', text)
    assert anchors == [f"protocol-{own}" for own in ("evil", "evil-1", "script", "3", "4")]
    assert "<script" not in text
    assert {file.stem for file in tmp_path.rglob("roc-*.png")} == {
        file.stem for file in (folder.path / "figures").glob("roc-*")
    }
    assert len(list(tmp_path.rglob("*.png"))) == 5 + 4  # and the four faces


@pytest.mark.usefixtures("blank_figures")
def test_a_run_without_protocols_has_no_such_section() -> None:
    assert "protocol" not in page(ReportData(name="run")).lower().split("<main>")[1]


@pytest.mark.usefixtures("blank_figures")
@pytest.mark.parametrize(
    "odd", [{"parts": "none"}, {"parts": [1, {"scores": 3}]}, {"notes": None, "parts": [{"title": 1}]}]
)
def test_odd_files_do_not_break_the_page(odd: dict[str, Any]) -> None:
    page(ReportData(name="run", protocols={"lfw": {"protocol": "lfw", **odd}}))


def test_files_of_a_run_are_read_and_figures_written(part: dict[str, Any], tmp_path: Path) -> None:
    folder = RunFolder.create(tmp_path / "run")
    write_json(folder.path / "scores-lfw.json", {"protocol": "lfw", "parts": [part], "notes": []})
    write_json(folder.path / "scores-untrained.json", {"split": "test", "scores": {}})
    assert list(report_data_from_run(folder.path).protocols) == ["lfw"]
    write_report(folder.path)
    assert {f"{name}-lfw.{kind}" for name in ("roc", "reject") for kind in ("svg", "png")} <= {
        file.name for file in (folder.path / "figures").iterdir()
    }
