"""Taking over runs of other studies: which are equal, what is copied, and that nothing is trained or scored again."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from cosphere.data import Catalogue, read_catalogue
from cosphere.models import weights_identity
from cosphere.runs import provenance
from cosphere.studies import StudyFolder, StudyListener, StudyResult, reuse, run, study_of
from cosphere.studies.engine import Others
from cosphere.studies.jobs import Context, Job

SCORES = ["score.recall@1", "score.map@r", "norm.cv", "identity", "commit"]


class Heard(StudyListener):
    """Keeps notes, and the runs that are really done."""

    def __init__(self) -> None:
        self.notes: list[str] = []
        self.trained: list[str] = []

    def note(self, text: str) -> None:
        self.notes.append(text)

    def started(self, arm: str, run: str) -> None:
        self.trained.append(f"{arm}/{run}")


@pytest.fixture
def beside(whole: StudyResult, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A runs folder with the tiny study, as if a clean checkout of commit c0ffee had done it; this process is of that commit too."""
    shutil.copytree(whole.folder.path, tmp_path / "whole")
    commit(tmp_path / "whole", "c0ffee")
    monkeypatch.setattr(reuse, "provenance", lambda: {**provenance(), "commit": "c0ffee"})
    return tmp_path


def commit(study: Path, name: str) -> None:
    """Rewrite by which commit a study was done."""
    for file in study.glob("arms/*/*/record.json"):
        record = json.loads(file.read_text())
        record["provenance"]["commit"] = name
        file.write_text(json.dumps(record))


def test_equal_runs_of_another_study_are_taken_over_and_no_image_is_decoded(
    content: dict[str, Any], photos: Path, whole: StudyResult, beside: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    content["arms"] = {"without": content["arms"]["plain"], "constraint": content["arms"]["sec"]}
    content["questions"] = [{"ask": "Does SEC raise Recall@1?", "arm": "constraint", "against": "without"}]
    copy = shutil.copytree(photos, beside / "photos")
    listed = read_catalogue(copy)

    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("an image was decoded")

    monkeypatch.setattr("PIL.Image.open", refuse)
    listener = Heard()
    result = run(study_of("other", content), listed, beside / "other", listener=listener)
    assert result.complete
    assert listener.trained == []
    assert listener.notes == ["4 runs taken over from whole"] * 2  # candidates, and after the choice the final runs
    rows, old = (table.sort_values(["phase", "identity"]).reset_index() for table in (result.table, whole.table))
    pd.testing.assert_frame_equal(rows[SCORES[:-1]], old[SCORES[:-1]])
    assert set(rows["commit"]) == {"c0ffee"}
    assert set(rows["arm"]) == {"without", "constraint"}
    assert rows["taken_from"].str.fullmatch(r"whole/(plain|sec)/(tune-00[01]-seed1000|final-seed[01])").all()
    assert result.comparisons[0].changes == whole.comparisons[0].changes
    assert any(note.startswith("8 runs of 8 were trained by other studies") for note in result.notes)
    assert StudyFolder(beside / "whole").records()  # the other study keeps its own
    again = run(study_of("other", content), listed, beside / "other", listener=listener)
    pd.testing.assert_frame_equal(again.table, result.table)


def test_runs_of_another_commit_are_named_and_taken_over_only_if_asked_for(
    content: dict[str, Any], images: Catalogue, beside: Path
) -> None:
    commit(beside / "whole", "bad5eed")
    study, listener = study_of("other", content), Heard()
    idle = run(study, images, beside / "idle", budget=1e-6, listener=listener)  # no run fits this budget
    assert idle.missing == {"tune": 4, "final": 4}
    assert listener.notes[0].startswith(
        "4 runs with the same settings, seeds and images lie in studies beside this one"
    )
    commit(beside / "whole", "c0ffee")
    files = sorted((beside / "whole").glob("arms/*/*/record.json"))
    old = json.loads(files[0].read_text())
    old["provenance"]["commit"] = "bad5eed"
    files[0].write_text(json.dumps(old))
    result = run(study, images, beside / "any", reuse="any")
    assert result.complete
    assert any(
        note == "The runs were made by several commits: c0ffee (7 runs), bad5eed (1 run)." for note in result.notes
    )


def others(
    folder: Path, images: Catalogue, record: dict[str, Any], how: reuse.Reuse = "same"
) -> tuple[Others, Context]:
    context = Context(
        folder=folder / "mine", training=images, whole=images, data=record["data"], scores=("recall@1", "map@r")
    )
    return Others(context, how, threads=record["provenance"]["machine"]["threads"]), context


def job_of(record: dict[str, Any], content: dict[str, Any], **changes: Any) -> Job:
    """The job that a record is of, with other settings."""
    study = study_of("tiny", content)
    final = record["phase"] == "final"
    settings = study.settings(record["arm"], record["values"], record["seed"], final=final)
    settings = settings.with_values({"device": "cpu", **changes})
    return Job(record["arm"], record["phase"], record["candidate"], record["seed"], record["values"], settings)


@pytest.mark.parametrize("phase", ["tune", "final"])
@pytest.mark.parametrize(
    ("changes", "record_changes", "taken"),
    [
        ({}, {}, True),
        ({"log_every": 7}, {}, True),  # no number depends on it
        ({"steps": 3}, {}, False),
        ({"seed": 99}, {}, False),
        ({"validation.lens": True}, {}, False),  # the run has not measured it
        ({}, {"data": {"training": "other", "whole": "other"}}, False),
        ({}, {"provenance": {"commit": "bad5eed"}}, False),
        ({}, {"provenance": {"commit": "c0ffee+"}}, False),
        ({}, {"provenance": {"torch": "1.0"}}, False),
        ({}, {"provenance": {"timm": "0.1"}}, False),
        ({}, {"data": {"training files": "other"}}, False),  # other pixels under the same names
        ({}, {"data": {"training files": None}}, False),  # of a version that did not record it: nobody knows
        ({"device": "cuda"}, {}, False),
        ({}, {"settings": {"steps": None}}, False),  # older than the setting, and the study's value is not its default
        ({}, {"settings": {"precision": None}}, True),
        ({}, {"settings": {"gone": 1}}, False),
    ],
)
def test_a_run_is_taken_over_only_where_all_that_it_depends_on_is_equal(
    phase: str,
    changes: dict[str, Any],
    record_changes: dict[str, dict[str, Any]],
    taken: bool,
    content: dict[str, Any],
    images: Catalogue,
    beside: Path,
) -> None:
    file = next(iter(sorted((beside / "whole").glob(f"arms/sec/{phase}*/record.json"))))
    record = json.loads(file.read_text())
    changed = json.loads(json.dumps(record))
    for part, values in record_changes.items():
        changed[part] |= values
        changed[part] = {key: value for key, value in changed[part].items() if value is not None}
    file.write_text(json.dumps(changed))
    found = others(beside, images, record)[0].find(job_of(record, content, **changes))
    assert (found is not None) is taken
    assert others(beside, images, record, "none")[0].find(job_of(record, content, **changes)) is None


@pytest.mark.parametrize("lost", ["queries.npz", "embeddings", "score"])
def test_a_final_run_that_lacks_something_is_not_taken_over(
    lost: str, content: dict[str, Any], images: Catalogue, beside: Path
) -> None:
    run_folder = beside / "whole" / "arms" / "sec" / "final-seed0"
    record = json.loads((run_folder / "record.json").read_text())
    if lost == "embeddings":
        shutil.rmtree(run_folder / lost)
    elif lost == "queries.npz":
        (run_folder / lost).unlink()
    else:
        changed = {**record, "scores": {"recall@1": 0.5}}
        (run_folder / "record.json").write_text(json.dumps(changed))
    assert others(beside, images, record)[0].find(job_of(record, content)) is None


def test_other_code_is_taken_over_on_request_and_other_pixels_never(
    content: dict[str, Any], images: Catalogue, beside: Path
) -> None:
    file = beside / "whole" / "arms" / "sec" / "tune-000-seed1000" / "record.json"
    record = json.loads(file.read_text())
    for data, taken in (
        ({}, True),
        ({"training files": None}, True),
        ({"training files": "other"}, False),
    ):
        changed = {**record["data"], **data}
        known = {key: value for key, value in changed.items() if value is not None}
        file.write_text(json.dumps({**record, "data": known, "device": "cuda"}))
        found = others(beside, images, record, "any")[0].find(job_of(record, content))
        assert (found is not None) is taken


def test_weights_are_known_by_their_bytes(
    content: dict[str, Any], images: Catalogue, beside: Path, tmp_path: Path
) -> None:
    file = beside / "whole" / "arms" / "sec" / "tune-000-seed1000" / "record.json"
    record = json.loads(file.read_text())
    first, moved, other = (tmp_path / name for name in ("first.pth", "moved.pth", "other.pth"))
    for path, bytes_ in ((first, b"one"), (moved, b"one"), (other, b"two")):
        path.write_bytes(bytes_)
    record["settings"]["model"]["weights"] = str(first)
    record["weights"] = weights_identity(str(first))
    for known, how, taken in (
        (True, "same", {"first": True, "moved": True, "other": False}),
        (False, "same", {"first": False, "moved": False, "other": False}),
        (False, "any", {"first": True, "moved": False, "other": False}),
    ):
        written = {key: value for key, value in record.items() if known or key != "weights"}
        file.write_text(json.dumps(written))
        for path in (first, moved, other):
            job = job_of(record, content, **{"model.weights": str(path)})
            found = others(beside, images, record, how)[0].find(job)  # type: ignore[arg-type]
            assert (found is not None) is taken[path.stem], (known, how, path.stem)
