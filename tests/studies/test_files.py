"""Pixels that change under the same names: a study that has seen the others is refused."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from cosphere.data import read_catalogue
from cosphere.errors import RunError
from cosphere.studies import StudyListener, StudyResult, run, study_of
from cosphere.studies.sources import image_files


class Notes(StudyListener):
    def __init__(self) -> None:
        self.texts: list[str] = []

    def note(self, text: str) -> None:
        self.texts.append(text)


@pytest.fixture
def folders(photos: Path, whole: StudyResult, tmp_path: Path) -> tuple[Path, Path]:
    """Images and a finished study of them, to be changed."""
    return shutil.copytree(photos, tmp_path / "photos"), shutil.copytree(whole.folder.path, tmp_path / "study")


def shrink(folder: Path) -> None:
    """Replace an image by a smaller one of the same name."""
    file = next(path for path in sorted(folder.rglob("*")) if path.suffix in {".jpg", ".png"})
    with Image.open(file) as image:
        smaller = image.convert("RGB").resize((24, 24))
    smaller.save(file)


def test_other_training_images_are_refused(content: dict[str, Any], folders: tuple[Path, Path]) -> None:
    photos, folder = folders
    before = read_catalogue(photos)
    old = image_files(before)
    shrink(photos / "train")
    after = read_catalogue(photos)
    assert after.fingerprint() == before.fingerprint()
    assert image_files(after) != old
    with pytest.raises(RunError, match=r"holds a study with other image files; .*--name"):
        run(study_of("tiny", content), after, folder)


def test_other_test_images_are_refused_before_another_seed_is_trained(
    content: dict[str, Any], folders: tuple[Path, Path]
) -> None:
    photos, folder = folders
    shrink(photos / "test")
    images, study = read_catalogue(photos), study_of("tiny", content)
    assert run(study, images, folder).complete  # nothing is read
    with pytest.raises(RunError, match=r"other image files \(plain final-seed0\); .*Put the images back"):
        run(study.with_numbers(seeds=3), images, folder)


def test_a_study_of_an_earlier_version_goes_on_and_says_what_it_does_not_know(
    content: dict[str, Any], folders: tuple[Path, Path]
) -> None:
    photos, folder = folders
    marker = json.loads((folder / "study.json").read_text())
    del marker["rules"]["image files"]
    (folder / "study.json").write_text(json.dumps(marker))
    for file in folder.glob("arms/*/*/record.json"):
        record = json.loads(file.read_text())
        for name in ("weights", "device"):
            del record[name]
        record["data"] = {name: record["data"][name] for name in ("training", "whole")}
        file.write_text(json.dumps(record))
    shrink(photos / "train")
    heard = Notes()
    assert run(study_of("tiny", content), read_catalogue(photos), folder, listener=heard).complete
    assert heard.texts == [
        f"{folder} was made by an earlier version that did not record its image files; whether its runs are of the same ones is not "
        "checked"
    ]
