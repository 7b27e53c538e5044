"""The demo never removes what is not its own."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from cosphere.cli.demo import demo_settings, is_broken_off, show
from cosphere.errors import RunError
from cosphere.runs import RunFolder


def make(folder: Path, stamps: Path, *, report: bool = False) -> RunFolder:
    run = RunFolder.create(folder / "run")
    run.config.write_text(yaml.safe_dump({"about": {}, **demo_settings(stamps, steps=2, seed=0).as_dict()}))
    run.append_metrics({"step": 1})
    if report:
        run.report.write_text("a page")
    return run


def test_a_demo_without_its_report_was_broken_off(tmp_path: Path) -> None:
    assert not is_broken_off(tmp_path)
    make(tmp_path, tmp_path / "stamps")
    assert is_broken_off(tmp_path)


def test_a_finished_demo_is_kept(tmp_path: Path) -> None:
    run = make(tmp_path, tmp_path / "stamps", report=True)
    with pytest.raises(RunError, match=r"is there already.*--out"):
        show(tmp_path, steps=2, seed=0, weights="none")
    assert run.report.exists()


def test_a_run_on_other_images_is_kept(tmp_path: Path) -> None:
    run = make(tmp_path, tmp_path / "photos")
    with pytest.raises(RunError, match="is there already"):
        show(tmp_path, steps=2, seed=0, weights="none")
    assert run.read_metrics() == [{"step": 1}]
