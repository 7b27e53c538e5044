from __future__ import annotations

import io
import multiprocessing
import os
import pickle
import random
import signal
import time
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from cosphere.data import Catalogue, check, convert, find_pairs, read_catalogue, read_pairs
from cosphere.data.converting import convert as converting
from cosphere.errors import CosphereError, DataError, RunError, SettingsError
from cosphere.images import encoded_image, read_image
from cosphere.images.containers import recordio

FORMS = ["out", "out.csv", "out.tsv", "out.parquet", "out.zip", "out.rec"]
TABLES = {"out": "out/labels.csv", "out.zip": "out.csv", "out.rec": "out.csv"}


def jpeg(number: int, kind: str = "JPEG") -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (9 + number % 5, 11), (number % 256, 7 * number % 256, 50)).save(file, kind)
    return file.getvalue()


def folder_of(root: Path, names: list[str]) -> Path:
    for number, name in enumerate(names):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(jpeg(number))
    return root


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    names = [
        f"{split}/{label}/{n}.jpg" for split in ("train", "test") for label in ("Ann Lee", "Čapek", "3") for n in (1, 2)
    ]
    return folder_of(tmp_path / "photos", names)


@pytest.fixture
def table(tmp_path: Path) -> Path:
    """All columns that a table may have, some of our own names, boxes, and an image in two rows."""
    folder_of(tmp_path / "images", ["a/1.jpg", "a/2.JPG", "b/1.jpg", "b/c.d.jpg", "e.jpg"])
    rows = [
        ("a/1.jpg", "7", "train", "", "", "cats", "s1", 0, 0, 4, 5, "f/2", "x, y"),
        ("a/2.JPG", "100", "train", "", "", "cats", "s1", "", "", "", "", "", 'say "hi"'),
        ("b/1.jpg", "007", "test", True, False, "dogs", "", 1, 2, 3, 8, "f/4", "two\nlines"),
        ("b/1.jpg", "7", "test", True, True, "dogs", "", 3, 2, 8, 8, "", ""),
        ("b/c.d.jpg", "../../x", "test", False, True, "dogs", "s2", "", "", "", "", "f/4", "é"),
        ("e.jpg", "CON", "test", True, True, "", "", "", "", "", "", "", "NA"),
    ]
    columns = ["path", "label", "split", "is_query", "is_gallery", "category", "sequence", "x_1", "y_1", "x_2", "y_2"]
    frame = pd.DataFrame(rows, columns=[*columns, "Aperture", "remark"])
    frame["path"] = "images/" + frame["path"]
    frame.to_csv(tmp_path / "table.csv", index=False)
    return tmp_path / "table.csv"


def contents(catalogue: Catalogue) -> list[bytes]:
    return [encoded_image(path).content for path in catalogue.paths]


def same(one: Catalogue, other: Catalogue, *, ordered: bool = True) -> None:
    """The same rows, but for the names of images, and the same bytes."""
    frames = [catalogue.table.drop(columns="path").assign(content=contents(catalogue)) for catalogue in (one, other)]
    assert sorted(frames[0]) == sorted(frames[1])
    if not ordered:
        frames = [frame.sort_values(["content", "label"]).reset_index(drop=True) for frame in frames]
    pd.testing.assert_frame_equal(frames[0], frames[1][list(frames[0])], check_dtype=False)


@pytest.mark.parametrize("name", FORMS)
def test_every_column_survives(tmp_path: Path, table: Path, name: str) -> None:
    result = convert(table, tmp_path / "new" / name)
    assert (result.images, result.skipped, result.resumed, result.pairs) == (5, (), 0, None)
    assert result.table == tmp_path / "new" / TABLES.get(name, name)
    same(read_catalogue(table, all_columns=True), read_catalogue(result.table, all_columns=True))
    several = [note for note in result.notes if "several labels" in note]
    said = "1 image has several labels; a RecordIO file keeps the first of each image, the table beside it keeps all"
    assert several == ([said] if name == "out.rec" else [])
    assert sorted(path.name for path in (tmp_path / "new").glob(".*")) == []


@pytest.mark.parametrize(("one", "other"), list(zip(FORMS, [*FORMS[1:], FORMS[0]], strict=True)))
def test_there_and_back(tmp_path: Path, photos: Path, one: str, other: str) -> None:
    first = convert(photos, tmp_path / "1" / one)
    second = convert(first.table, tmp_path / "2" / other)
    third = convert(second.table, tmp_path / "3" / "photos")
    source = read_catalogue(photos)
    same(source, read_catalogue(first.table))
    same(source, read_catalogue(third.target), ordered=False)
    names = {path.relative_to(tmp_path / "3" / "photos").as_posix() for path in third.target.rglob("*.jpg")}
    if "out.rec" not in (one, other):
        assert names == {path.relative_to(photos).as_posix() for path in photos.rglob("*.jpg")}
    assert len(names) == 12


def test_a_record_file_alone_is_a_data_set(tmp_path: Path, photos: Path) -> None:
    result = convert(photos, tmp_path / "out.rec")
    catalogue = read_catalogue(tmp_path / "out.rec")
    assert catalogue.table["label"].tolist() == ["0"] * 4 + ["1"] * 4 + ["2"] * 4  # 3, Ann Lee, Čapek
    names = read_catalogue(result.table).table.set_index("path")["label"]
    assert [names[path] for path in catalogue.table["path"]] == ["3"] * 4 + ["Ann Lee"] * 4 + ["Čapek"] * 4
    assert (tmp_path / "property").read_text() == "3,11,13\n" or (tmp_path / "property").read_text().startswith("3,11,")


def test_whole_numbers_stay_the_numbers_of_classes_with_their_gaps(tmp_path: Path) -> None:
    folder_of(tmp_path / "faces", [f"{person}/{n}.jpg" for person in (85741, 3, 12) for n in range(person % 3 + 1)])
    convert(tmp_path / "faces", tmp_path / "train.rec")
    assert recordio.labels(tmp_path / "train.rec") == ["3", "12", "85741", "85741"]
    convert(tmp_path / "train.rec", tmp_path / "back")
    assert sorted(path.name for path in (tmp_path / "back").iterdir()) == ["12", "3", "85741", "labels.csv"]


def test_a_verification_set_keeps_its_pairs(tmp_path: Path) -> None:
    images = [jpeg(n) for n in range(24)]
    (tmp_path / "lfw.bin").write_bytes(pickle.dumps((images, [n % 2 == 0 for n in range(12)])))
    for name in ("lfw", "lfw.parquet", "lfw.zip"):
        result = convert(tmp_path / "lfw.bin", tmp_path / name / name)
        catalogue = read_catalogue(result.table, labels="optional")
        assert contents(catalogue) == images
        assert not catalogue.labelled
        assert result.pairs is not None
        pairs = find_pairs(read_pairs(result.pairs), catalogue.paths)
        assert pairs.rows.tolist() == [[2 * n, 2 * n + 1] for n in range(12)]
        assert pairs.same.tolist() == [n % 2 == 0 for n in range(12)]
        assert pairs.folds is not None
        assert pairs.folds.tolist() == [0, 0, 1, 1, *range(2, 10)]
    assert contents(read_catalogue(tmp_path / "lfw" / "lfw", labels="optional")) == images
    with pytest.raises(DataError, match="some images have no label, and a RecordIO file keeps one"):
        convert(tmp_path / "lfw.bin", tmp_path / "lfw.rec")


def test_pairs_of_images_that_cannot_be_read_are_left_out(tmp_path: Path) -> None:
    images = [jpeg(0), jpeg(1), b"no image", jpeg(2), jpeg(3), jpeg(4)]
    (tmp_path / "lfw.bin").write_bytes(pickle.dumps((images, [True, True, False])))
    result = convert(tmp_path / "lfw.bin", tmp_path / "out", max_unreadable=0.5)
    assert result.images == 5
    assert [skipped.path for skipped in result.skipped] == [str(tmp_path / "lfw.bin#2")]
    assert read_pairs(tmp_path / "out" / "pairs.csv").names == (("0.jpg", "1.jpg"), ("4.jpg", "5.jpg"))


def test_pixels_of_a_container_become_png(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (3, 3072), dtype=np.uint8)
    labels = np.array([[3], [0], [9]], dtype=np.uint8)
    (tmp_path / "test_batch.bin").write_bytes(np.hstack([labels, pixels]).tobytes())
    lines = "".join(f"test_batch.bin#{n},{n}\n" for n in range(3))
    (tmp_path / "list.csv").write_text(f"path,label\n{lines}")
    result = convert(tmp_path / "list.csv", tmp_path / "out")
    assert sorted(path.name for path in result.target.rglob("*.png")) == ["0.png", "1.png", "2.png"]
    for n, path in enumerate(read_catalogue(result.target).paths):
        assert (read_image(path) == pixels[n].reshape(3, 32, 32).transpose(1, 2, 0)).all()


ODD = ["../x", "/abs", "con", "a/b", "A", "a", "x" * 300, ".hidden", "labels.csv", "a:b", "a_b", "\u00e9", "e\u0301"]


@pytest.mark.parametrize("name", FORMS)
def test_labels_that_are_no_names_of_folders(tmp_path: Path, name: str) -> None:
    folder_of(tmp_path / "images", [f"{n}.jpg" for n in range(len(ODD))])
    frame = pd.DataFrame({"path": [f"images/{n}.jpg" for n in range(len(ODD))], "label": ODD})
    frame.to_csv(tmp_path / "table.csv", index=False)
    before = {path for path in tmp_path.rglob("*") if "new" not in path.parts}
    result = convert(tmp_path / "table.csv", tmp_path / "new" / name)
    same(read_catalogue(tmp_path / "table.csv"), read_catalogue(result.table))
    assert {path for path in tmp_path.rglob("*") if "new" not in path.relative_to(tmp_path).parts} == before
    if name == "out.zip":
        names = zipfile.ZipFile(result.target).namelist()
    else:
        names = [path.relative_to(tmp_path / "new").as_posix() for path in (tmp_path / "new").rglob("*.jpg")]
    assert len({one.casefold() for one in names}) == (0 if name == "out.rec" else len(ODD))
    assert all(".." not in one.split("/") and not one.startswith("/") for one in names)


def test_images_of_one_name(tmp_path: Path) -> None:
    folder_of(tmp_path, ["x/a/1.jpg", "x/b/1.jpg", "x/b/deep/1.JPG", "y/1.jpeg"])
    lines = "x/a/1.jpg,p\nx/b/1.jpg,p\nx/b/deep/1.JPG,p\ny/1.jpeg,p\n"
    (tmp_path / "table.csv").write_text(f"path,label\n{lines}")
    convert(tmp_path / "table.csv", tmp_path / "out")
    assert sorted(path.name for path in (tmp_path / "out" / "p").iterdir()) == ["1-2.jpg", "1-3.jpg", "1.jpeg", "1.jpg"]
    same(read_catalogue(tmp_path / "table.csv"), read_catalogue(tmp_path / "out"))


def test_unreadable_images_are_counted_or_too_many(tmp_path: Path) -> None:
    root = folder_of(tmp_path / "photos", [f"{label}/{n}.jpg" for label in "ab" for n in range(10)])
    (root / "a" / "3.jpg").write_bytes(b"")
    (root / "b" / "4.jpg").write_bytes(b"<html>")
    with pytest.raises(
        DataError, match=r"1 of 20 images cannot be read, and at most 1\.0% may be left out\. First: .*3\.jpg"
    ):
        convert(root, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    for name in FORMS:
        result = convert(root, tmp_path / f"for {name}" / name, max_unreadable=0.1)
        assert result.images == 18
        assert [Path(skipped.path).name for skipped in result.skipped] == ["3.jpg", "4.jpg"]
        assert "is empty" in result.skipped[0].reason
        assert "web page" in result.skipped[1].reason
        assert len(read_catalogue(result.table)) == 18
    (root / "b" / "pipe.jpg").unlink(missing_ok=True)
    os.mkfifo(root / "b" / "pipe.jpg")
    assert len(convert(root, tmp_path / "pipe", max_unreadable=0.2).skipped) == 3


def test_damaged_records_are_left_out(tmp_path: Path, photos: Path) -> None:
    convert(photos, tmp_path / "train.rec")
    offsets = [int(line.split()[1]) for line in (tmp_path / "train.idx").read_text().splitlines()]
    content = bytearray((tmp_path / "train.rec").read_bytes())
    content[offsets[3] + 40 : offsets[3] + 44] = (
        b"oops"  # inside the JPEG's header: the record is whole, the image is not
    )
    (tmp_path / "train.rec").write_bytes(content)
    result = convert(tmp_path / "train.csv", tmp_path / "back", max_unreadable=0.1)
    assert [skipped.path.rpartition("#")[2] for skipped in result.skipped] in (["3"], [])
    assert result.images + len(result.skipped) == 12


def test_what_is_there_stays(tmp_path: Path, photos: Path) -> None:
    for name in FORMS:
        (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine.txt").write_text("mine")
    for name in ("out.csv", "out.rec", "out.zip", "property"):
        (tmp_path / name).write_text("mine")
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    for name in ("out", "out.csv", "out.rec", "out.zip"):
        with pytest.raises(RunError, match=r"exists\. Choose another name, or set overwrite \(--overwrite\)\."):
            convert(photos, tmp_path / name)
    with pytest.raises(RunError, match="holds more than a conversion wrote, so it is not replaced"):
        convert(photos, tmp_path / "out", overwrite=True)
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before
    assert not list(tmp_path.glob(".*"))


def test_a_conversion_may_be_replaced_if_asked_to(tmp_path: Path, photos: Path) -> None:
    for name in FORMS:
        convert(photos, tmp_path / "new" / name)
        other = folder_of(tmp_path / "other" / name, ["x/1.jpg", "y/2.jpg"])
        result = convert(other, tmp_path / "new" / name, overwrite=True)
        assert len(read_catalogue(result.table)) == 2
        for path in (tmp_path / "new").iterdir():
            path.rename(tmp_path / f"{name}-{path.name}")
    convert(photos, tmp_path / "mixed")
    (tmp_path / "mixed" / "train" / "mine.jpg").write_bytes(jpeg(5))
    with pytest.raises(RunError, match="holds more than a conversion wrote"):
        convert(photos, tmp_path / "mixed", overwrite=True)
    assert (tmp_path / "mixed" / "train" / "mine.jpg").exists()


def test_a_target_among_the_images(tmp_path: Path, photos: Path, table: Path) -> None:
    for source, target in [
        (photos, photos),
        (photos, photos / "train" / "new"),
        (photos, photos / "out.rec"),
        (photos, tmp_path),
        (table, tmp_path / "images"),
        (table, tmp_path / "images.csv"),
        (table, table),
        (read_catalogue(photos), photos / "out"),
    ]:
        with pytest.raises(RunError, match="lies among the images that are read"):
            convert(source, target, overwrite=True)
    (tmp_path / "link").symlink_to(photos)
    with pytest.raises(RunError, match="lies among the images that are read"):
        convert(photos, tmp_path / "link" / "out")
    convert(photos, tmp_path / "train.rec")
    with pytest.raises(RunError, match="lies among the images that are read"):
        convert(tmp_path / "train.csv", tmp_path / "train.rec", overwrite=True)
    convert(table, tmp_path / "beside")
    assert (tmp_path / "photos").exists()


@pytest.mark.parametrize("name", ["x.bin", "x.pdf", "x.jpg", "x.tar.gz", "x.npz", "x.txt"])
def test_targets_of_another_kind(tmp_path: Path, photos: Path, name: str) -> None:
    with pytest.raises(SettingsError, match="is no form that data is converted into"):
        convert(photos, tmp_path / name)


def test_settings(tmp_path: Path, photos: Path) -> None:
    with pytest.raises(SettingsError, match="max_unreadable"):
        convert(photos, tmp_path / "out", max_unreadable=1.5)
    with pytest.raises(SettingsError, match="no layout"):
        convert(photos, tmp_path / "out", layout="fodler")
    seen: list[tuple[int, int]] = []
    convert(photos, tmp_path / "out", progress=lambda *at: seen.append(at))
    assert seen == [(n, 12) for n in range(1, 13)]
    assert check(tmp_path / "out").clean


# Killed processes


def tree(root: Path) -> dict[str, bytes]:
    """Every file but tables in Parquet, which are compared by their content."""
    files = {path.relative_to(root).as_posix(): path for path in root.rglob("*") if path.is_file()}
    return {
        name: repr(pd.read_parquet(path).to_dict()).encode() if name.endswith("parquet") else path.read_bytes()
        for name, path in files.items()
    }


def killed(source: Path, target: Path, before: Callable[[], None]) -> bool:
    """Convert in a process of its own that may kill itself; whether it did."""

    def work() -> None:
        before()
        convert(source, target)
        os._exit(0)

    process = multiprocessing.get_context("fork").Process(target=work)
    process.start()
    process.join(60)
    assert process.exitcode in (0, -signal.SIGKILL)
    return process.exitcode != 0


def die_at_call(owner: object, name: str, number: int) -> Callable[[], None]:
    """Kill the process when a function is called for this time."""

    def prepare() -> None:
        real, calls = getattr(owner, name), iter(range(1, 10**9))

        def counting(*args: object, **options: object) -> object:
            if next(calls) == number:
                os.kill(os.getpid(), signal.SIGKILL)
            return real(*args, **options)

        setattr(owner, name, counting)

    return prepare


@pytest.fixture
def many(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(converting, "_FEWEST", 4)
    return folder_of(tmp_path / "many", [f"{person}/{n}.jpg" for person in range(8) for n in range(4)])


@pytest.mark.parametrize("name", ["out.csv", "out.zip", "out.rec"])
def test_a_killed_conversion_goes_on(tmp_path: Path, many: Path, name: str) -> None:
    convert(many, tmp_path / "whole" / name)
    wanted = tree(tmp_path / "whole")
    target = tmp_path / "broken" / name
    for number in (1, 3, 6, 6, 13, 6):  # images that each process reads: the fourth one goes on after 4
        assert killed(many, target, die_at_call(converting, "encoded_image", number))
        assert not target.exists()
    result = convert(many, target)
    assert tree(tmp_path / "broken") == wanted
    assert result.images == 32
    assert result.resumed == 24


@pytest.mark.parametrize(
    "name", ["out.zip", *(pytest.param(name, marks=pytest.mark.slow) for name in ("out", "out.csv", "out.rec"))]
)
def test_killed_between_any_two_steps_on_the_disk(
    tmp_path: Path, many: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At each rename: of the state, and of what was built to its place; each time by a process that begins afresh."""
    monkeypatch.setattr(converting, "_FEWEST", 12)
    convert(many, tmp_path / "whole" / name)
    wanted = tree(tmp_path / "whole")
    number, alive = 1, False
    while not alive:
        place = tmp_path / f"broken{number}"
        alive = not killed(many, place / name, die_at_call(Path, "replace", number))
        if not alive:
            convert(many, place / name)
        assert tree(place) == wanted
        number += 1
    assert number > 5


@pytest.mark.slow
@pytest.mark.parametrize("name", ["out.csv", "out.zip", "out.rec"])
def test_killed_at_random_moments(tmp_path: Path, many: Path, name: str) -> None:
    many = folder_of(tmp_path / "more", [f"{person}/{n}.jpg" for person in range(20) for n in range(20)])
    began = time.perf_counter()
    convert(many, tmp_path / "whole" / name)
    took = time.perf_counter() - began
    wanted = tree(tmp_path / "whole")
    for seed in range(4):
        draw = random.Random(seed)
        place = tmp_path / f"broken{seed}"
        for _ in range(4):
            process = multiprocessing.get_context("fork").Process(target=convert, args=(many, place / name))
            process.start()
            process.join(draw.random() * took)
            process.kill()
            process.join()
        if (place / name).exists():  # one came to its end; what a later one left goes with the next call
            with pytest.raises(RunError, match="exists"):
                convert(many, place / name)
        else:
            convert(many, place / name)
        assert tree(place) == wanted


def test_what_is_unfinished_is_not_taken_for_another(tmp_path: Path, many: Path, photos: Path) -> None:
    target = tmp_path / "new" / "out.rec"
    assert killed(many, target, die_at_call(converting, "encoded_image", 20))
    with pytest.raises(RunError, match=r"is an unfinished conversion to .* of other images or with other settings"):
        convert(photos, target)
    assert convert(photos, target, overwrite=True).resumed == 0
    assert len(read_catalogue(target)) == 12


def test_two_processes_do_not_write_to_one_target(tmp_path: Path, photos: Path) -> None:
    def second(done: int, total: int) -> None:
        if done == 1:
            with pytest.raises(RunError, match="another process is converting to"):
                convert(photos, tmp_path / "out")

    assert convert(photos, tmp_path / "out", progress=second).images == 12


def test_a_full_disk_is_one_sentence_and_the_same_call_goes_on(
    tmp_path: Path, many: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, calls = Path.write_bytes, iter(range(100))

    def full(self: Path, content: bytes) -> int:
        if next(calls) == 21:
            raise OSError(28, "No space left on device")
        return real(self, content)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_bytes", full)
        with pytest.raises(
            CosphereError, match=r"No space left on device\. Make room or choose another folder; the same"
        ):
            convert(many, tmp_path / "out")
    assert convert(many, tmp_path / "out").resumed == 20
