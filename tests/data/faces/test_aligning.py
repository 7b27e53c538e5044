"""Faces found by a stub detector: a face is a bright square, and its five points lie in it as in the template."""

from __future__ import annotations

import multiprocessing
import os
import signal
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cosphere.data import align_faces, read_catalogue
from cosphere.data.converting import convert as converting
from cosphere.data.faces.aligning import checked_faces
from cosphere.errors import DataError, RunError, SettingsError, SizeError
from cosphere.images import Faces, face_template, read_image

SQUARES = [(5, 5, 20), (40, 8, 30), (80, 30, 24)]
"""Left, top and side."""


def detect(image: np.ndarray) -> Faces:
    """Faces at the squares whose middle is bright."""
    found = [(x, y, side) for x, y, side in SQUARES if image[y + side // 2, x + side // 2].max() > 100]
    boxes = np.array([(x, y, x + side, y + side) for x, y, side in found], dtype=np.float32).reshape(-1, 4)
    points = np.array([face_template() * side / 112 + (x, y) for x, y, side in found]).reshape(-1, 5, 2)
    return Faces(boxes, points, np.linspace(0.9, 0.7, len(found), dtype=np.float32))


def draw(path: Path, faces: dict[int, tuple[int, int, int]], mode: str = "RGB") -> None:
    image = np.zeros((70, 120, 3), np.uint8)
    for number, colour in faces.items():
        x, y, side = SQUARES[number]
        image[y : y + side, x : x + side] = colour
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(image).convert(mode).save(path)


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    draw(tmp_path / "photos" / "Ann" / "1.png", {0: (200, 0, 0)})
    draw(tmp_path / "photos" / "Ann" / "2.png", {0: (200, 0, 0), 1: (0, 200, 0), 2: (0, 0, 200)})
    draw(tmp_path / "photos" / "Bob" / "1.jpg", {2: (0, 0, 200)})
    draw(tmp_path / "photos" / "Bob" / "1.png", {1: (150, 150, 150)}, "L")
    draw(tmp_path / "photos" / "Bob" / "nobody.png", {})
    return tmp_path / "photos"


def colour(path: str) -> list[int]:
    return np.rint(read_image(path)[30:80, 30:80].mean(axis=(0, 1)) / 50).astype(int).tolist()


def test_the_largest_face_of_each_image(tmp_path: Path, photos: Path) -> None:
    result = align_faces(photos, tmp_path / "faces", detect)
    assert result.images == 4
    assert result.without == (str(photos / "Bob" / "nobody.png"),)
    assert result.skipped == ()
    catalogue = read_catalogue(tmp_path / "faces", all_columns=True)
    assert catalogue.table["path"].tolist() == ["Ann/1.jpg", "Ann/2.jpg", "Bob/1.jpg", "Bob/1-2.jpg"]
    assert catalogue.table["label"].tolist() == ["Ann", "Ann", "Bob", "Bob"]
    assert catalogue.table["source"].tolist() == [
        str(photos / one) for one in ("Ann/1.png", "Ann/2.png", "Bob/1.jpg", "Bob/1.png")
    ]
    assert catalogue.table["face_score"].tolist() == ["0.9", "0.8", "0.9", "0.9"]
    assert [colour(path) for path in catalogue.paths] == [[4, 0, 0], [0, 4, 0], [0, 0, 4], [3, 3, 3]]
    assert all(read_image(path).shape == (112, 112, 3) for path in catalogue.paths)


@pytest.mark.parametrize("name", ["faces", "faces.rec", "faces.zip", "faces.parquet"])
def test_all_faces_of_each_image(tmp_path: Path, photos: Path, name: str) -> None:
    result = align_faces(photos, tmp_path / "new" / name, detect, faces="all", size=(112, 96))
    catalogue = read_catalogue(result.table, all_columns=True)
    assert result.images == len(catalogue) == 6
    own = catalogue.table["source"].to_numpy() == str(photos / "Ann" / "2.png")
    paths = [path for path, yes in zip(catalogue.paths, own, strict=True) if yes]
    assert [colour(path) for path in paths] == [[0, 4, 0], [0, 0, 4], [4, 0, 0]]  # from the largest to the smallest
    assert set(catalogue.table["label"][own]) == {"Ann"}
    assert read_image(paths[0]).shape == (112, 96, 3)
    if name == "faces":
        names = [Path(path).name for path in paths]
        assert names == ["2.jpg", "2-face2.jpg", "2-face3.jpg"]


def test_boxes_of_the_source_do_not_stay(tmp_path: Path, photos: Path) -> None:
    (tmp_path / "table.csv").write_text(
        "path,label,x_1,y_1,x_2,y_2\nphotos/Ann/1.png,Ann,0,0,60,60\nphotos/Ann/1.png,Ann,5,5,20,20\n"
    )
    result = align_faces(tmp_path / "table.csv", tmp_path / "faces", detect)
    catalogue = read_catalogue(tmp_path / "faces")
    assert (result.images, len(catalogue), catalogue.boxes) == (1, 1, None)


def test_unreadable_images_and_images_without_faces(tmp_path: Path, photos: Path) -> None:
    (photos / "Ann" / "bad.png").write_bytes(b"x")
    with pytest.raises(DataError, match="1 of 6 images cannot be read"):
        align_faces(photos, tmp_path / "faces", detect)
    result = align_faces(photos, tmp_path / "faces", detect, max_unreadable=0.2)
    assert [Path(image.path).name for image in result.skipped] == ["bad.png"]
    assert [Path(path).name for path in result.without] == ["nobody.png"]
    with pytest.raises(DataError, match="nothing was found in any of 1 image"):
        align_faces(read_catalogue(photos).rows([5]), tmp_path / "none", detect)
    assert not list(tmp_path.glob(".none*"))  # another threshold may find some


def test_what_a_detector_returns_is_checked() -> None:
    two = [[0, 0, 9, 9], [0, 0, 5, 5]], [face_template().tolist(), [[3, 3]] * 5], [0.9, 0.8]
    faces = checked_faces(Faces(*two))  # type: ignore[arg-type]
    assert faces.scores.tolist() == pytest.approx([0.9])  # the landmarks of the second are one point
    assert faces.landmarks.dtype == np.float32
    assert len(checked_faces(Faces([], [], [])).scores) == 0  # type: ignore[arg-type]
    odd = np.array(two[1], dtype=float)
    odd[0, 2, 1] = np.nan
    assert len(checked_faces(Faces(two[0], odd, two[2])).scores) == 0  # type: ignore[arg-type]
    for wrong in (
        ([[0, 0, 9]], [face_template()], [0.9]),
        ([[0, 0, 9, 9]], [np.zeros((4, 2))], [0.9]),
        (two[0], two[1], [0.9]),
    ):
        with pytest.raises(SizeError, match=r"a detector returns boxes \(F, 4\)"):
            checked_faces(Faces(*wrong))  # type: ignore[arg-type]


def test_settings_and_targets(tmp_path: Path, photos: Path) -> None:
    for options in ({"faces": "first"}, {"size": (0, 9)}, {"max_unreadable": 2}):
        with pytest.raises(SettingsError):
            align_faces(photos, tmp_path / "faces", detect, **options)  # type: ignore[arg-type]
    with pytest.raises(RunError, match="lies among the images"):
        align_faces(photos, photos / "faces", detect)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["photos"]


def test_a_killed_call_goes_on(tmp_path: Path, photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(converting, "_FEWEST", 1)
    align_faces(photos, tmp_path / "whole", detect, faces="all")

    def dying(image: np.ndarray) -> Faces:
        if image[20, 50, 1] > 100 and image[20, 50, 0] > 100:  # the gray one
            os.kill(os.getpid(), signal.SIGKILL)
        return detect(image)

    work = multiprocessing.get_context("fork").Process(
        target=align_faces, args=(photos, tmp_path / "broken", dying), kwargs={"faces": "all"}
    )
    work.start()
    work.join()
    assert work.exitcode == -signal.SIGKILL
    with pytest.raises(RunError, match="is an unfinished conversion"):
        align_faces(photos, tmp_path / "broken", detect, faces="all", about="another detector")
    result = align_faces(photos, tmp_path / "broken", detect, faces="all")
    assert result.resumed == 3
    assert result.without == (str(photos / "Bob" / "nobody.png"),)
    for path in (tmp_path / "whole").rglob("*.*"):
        assert path.read_bytes() == (tmp_path / "broken" / path.relative_to(tmp_path / "whole")).read_bytes()
