"""Section F: what is refused before a model is loaded or an image is embedded. One row for each wrong number and each place."""

from __future__ import annotations

import errno
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cosphere.errors import CosphereError
from cosphere.evaluate import EvaluationSettings
from cosphere.experiment import calibrate_run, compare_runs, embed_images, evaluate_run, search_images
from cosphere.experiment.outputs import check_output, check_output_folder
from cosphere.models import Embedder
from cosphere.report import write_report

Act = Callable[[Path, Path], object]


@pytest.fixture(autouse=True)
def no_work(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever embeds fails with another error than the one that is tested."""

    def work(*_: Any, **__: Any) -> None:
        raise AssertionError("this is work")

    for module in ("cosphere.embeddings", "cosphere.experiment.calibrating", "cosphere.evaluate.scores"):
        monkeypatch.setattr(f"{module}.embed", work)
    monkeypatch.setattr("cosphere.report.page.report_data_from_run", work)


def searching(**options: Any) -> Act:
    return lambda run, data: search_images(run, data, [data / "train" / "a" / "0.png"], **options)


def embedding(**options: Any) -> Act:
    return lambda run, data: embed_images(run, data, **options)


def evaluating(**options: Any) -> Act:
    return lambda run, data: evaluate_run(run, data, **options)


def calibrating(**options: Any) -> Act:
    return lambda run, data: calibrate_run(run, data, **options)


def comparing(**options: Any) -> Act:
    return lambda run, data: compare_runs([run, data], **options)


ODD = {"batch_size": 0, "workers": -1, "max_unreadable": 1.5}
NUMBERS = [
    *(
        pytest.param(searching(kind=kind, k=k), "k must be a whole number >= 1", id=f"F6 {kind} {k}")
        for kind in ("exact", "bits", "int8", "pq", "rerank")
        for k in (-1, 0)
    ),
    *(
        pytest.param(act(**{name: value}), f"{name} must be", id=f"F13 {act.__name__} {name}")
        for act in (searching, embedding, evaluating, calibrating)
        for name, value in ODD.items()
    ),
    pytest.param(searching(kind="nearest"), "no index kind|kind", id="search kind"),
    pytest.param(searching(wanted_recall=2), "wanted_recall", id="search wanted_recall"),
    pytest.param(calibrating(far=0), "far", id="calibrate far"),
    pytest.param(calibrating(seed=-1), "seed must be", id="calibrate seed"),
    pytest.param(comparing(level=95), "level must be", id="compare level"),
    pytest.param(comparing(samples=0), "samples must be", id="compare samples"),
    pytest.param(comparing(seed=-1), "seed must be", id="compare seed"),
    pytest.param(comparing(over="images"), "over must be", id="compare over"),
    pytest.param(
        evaluating(settings=EvaluationSettings(ks=(1, 2, 4, 800))),
        "K to be from 1 to 11, ",
        id="C3 typed K of evaluate",
    ),
]


@pytest.mark.parametrize(("act", "words"), NUMBERS)
def test_a_number_out_of_range_costs_no_work(act: Act, words: str, run: Path, data: Path) -> None:
    with pytest.raises(CosphereError, match=words):
        act(run, data)


PLACES = [
    pytest.param(evaluating(), id="evaluate"),
    pytest.param(calibrating(), id="calibrate"),
    pytest.param(lambda run, _: write_report(run), id="report"),
    pytest.param(
        lambda run, data: check_output(run.parent / "new" / "x.png", source=data), id="search and embed --out"
    ),
    pytest.param(lambda run, _: check_output_folder(run.parent / "new", ["comparison.json"]), id="compare --out"),
]


@pytest.mark.parametrize("act", PLACES)
def test_a_folder_that_may_not_be_written_is_said_at_once(
    act: Act, run: Path, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As for a user without rights: root may write everywhere."""

    def refused(*_: Any, **__: Any) -> None:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    monkeypatch.setattr(Embedder, "load", refused)
    monkeypatch.setattr(tempfile, "TemporaryFile", refused)
    with pytest.raises(CosphereError, match=r"cannot write .*: Permission denied\. Choose a folder that you may write"):
        act(run, data)


def test_a_folder_that_is_a_file_is_said_at_once(data: Path) -> None:
    with pytest.raises(CosphereError, match="cannot write"):
        check_output(data / "train" / "a" / "0.png" / "x.npz")
