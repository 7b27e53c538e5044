"""Indexed RecordIO, written here from the format's description (dmlc-core recordio.h, MXNet recordio.py IRHeader)."""

from __future__ import annotations

import io
import multiprocessing
import struct
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cosphere.errors import DataError, ImageError
from cosphere.images import read_image
from cosphere.images.containers import recordio

MAGIC = 0xCED7230A


def framed(part: bytes, continuation: int = 0) -> bytes:
    word = continuation << 29 | len(part)
    return struct.pack("<II", MAGIC, word) + part + bytes(-len(part) % 4)


def record(payload: bytes) -> bytes:
    """Split where the magic lies at a multiple of 4, as dmlc's writer does."""
    cuts, start = [], 0
    for at in range(0, len(payload) - 3, 4):
        if payload[at : at + 4] == struct.pack("<I", MAGIC):
            cuts.append(payload[start:at])
            start = at + 4
    parts = [*cuts, payload[start:]]
    if len(parts) == 1:
        return framed(payload)
    kinds = [1] + [2] * (len(parts) - 2) + [3]
    return b"".join(framed(part, kind) for part, kind in zip(parts, kinds, strict=True))


def payload(image: bytes, *labels: float, scalar: bool = True) -> bytes:
    if scalar:
        return struct.pack("<IfQQ", 0, labels[0], 0, 0) + image
    return struct.pack("<IfQQ", len(labels), 0.0, 0, 0) + struct.pack(f"<{len(labels)}f", *labels) + image


def write(path: Path, records: dict[int, bytes]) -> Path:
    lines, content = [], b""
    for key, one in records.items():
        lines.append(f"{key}\t{len(content)}\n")
        content += record(one)
    path.write_bytes(content)
    path.with_suffix(".idx").write_text("".join(lines))
    return path


def jpeg(gray: int) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (11, 13), (gray, gray, gray)).save(file, "JPEG")
    return file.getvalue()


def faces(path: Path) -> Path:
    """InsightFace's layout: a header, images 1 to 4, then a record for each of two identities."""
    records = {0: payload(b"", 5.0, 7.0, scalar=False)}
    for key, (person, gray) in enumerate([(0, 10), (0, 60), (1, 120), (1, 200)], start=1):
        records[key] = payload(jpeg(gray), float(person))
    records[5] = payload(b"", 1.0, 3.0, scalar=False)
    records[6] = payload(b"", 3.0, 5.0, scalar=False)
    return write(path, records)


def test_images_and_labels_of_insightface(tmp_path: Path) -> None:
    path = faces(tmp_path / "train.rec")
    assert recordio.keys(path) == ["1", "2", "3", "4"]
    assert recordio.labels(path) == ["0", "0", "1", "1"]
    for key, gray in (("3", 120), ("1", 10), ("4", 200)):  # in any order
        image = read_image(f"{path}#{key}")
        assert image.shape == (13, 11, 3)
        assert np.abs(image.astype(int) - gray).max() <= 2


def test_a_file_without_insightfaces_header(tmp_path: Path) -> None:
    path = write(tmp_path / "data.rec", {0: payload(jpeg(50), 7.0), 9: payload(jpeg(90), 2.5)})
    assert recordio.keys(path) == ["0", "9"]
    assert recordio.labels(path) == ["7", "2.5"]
    assert np.abs(read_image(f"{path}#9").astype(int) - 90).max() <= 2


def test_of_several_labels_the_first_counts(tmp_path: Path) -> None:
    path = write(tmp_path / "data.rec", {3: payload(jpeg(50), 4.0, 11.0, 12.0, scalar=False), 1: payload(jpeg(9), 8.0)})
    assert recordio.keys(path) == ["1", "3"]
    assert recordio.labels(path) == ["8", "4"]
    assert read_image(f"{path}#3").shape == (13, 11, 3)


@pytest.mark.parametrize("first", [0.0, 3.0])
def test_an_image_with_several_labels_at_key_0_is_no_header(tmp_path: Path, first: float) -> None:
    """im2rec writes data with several labels so, from key 0 on."""
    records = {key: payload(jpeg(10 * key), first + key // 4, 0.5, scalar=False) for key in range(12)}
    path = write(tmp_path / "data.rec", records)
    assert recordio.keys(path) == [str(key) for key in range(12)]
    assert recordio.labels(path) == [str(int(first) + key // 4) for key in range(12)]
    assert [record.labels for record in recordio.records(path)] == [(first + key // 4, 0.5) for key in range(12)]
    assert read_image(f"{path}#0").shape == (13, 11, 3)


@pytest.mark.parametrize("places", [(24,), (24, 28), (28, 64)])
def test_a_payload_that_holds_the_magic_number(tmp_path: Path, places: tuple[int, ...]) -> None:
    inside = bytearray(payload(bytes(range(100)), 1.0))
    for place in places:
        inside[place : place + 4] = struct.pack("<I", MAGIC)
    path = write(tmp_path / "data.rec", {1: bytes(inside), 2: payload(jpeg(90), 2.0)})
    assert recordio.read_record(path, "1") == bytes(inside[24:])
    assert read_image(f"{path}#2").shape == (13, 11, 3)


def test_large_keys_and_labels(tmp_path: Path) -> None:
    path = write(tmp_path / "data.rec", {2**40: payload(jpeg(1), 85741.0)})
    assert recordio.labels(path) == ["85741"]
    assert read_image(f"{path}#{2**40}").shape == (13, 11, 3)


@pytest.mark.parametrize("key", ["5", "", "x", "-1", "1.0", "99", "9" * 5000])
def test_keys_that_are_not_there(tmp_path: Path, key: str) -> None:
    path = write(tmp_path / "data.rec", {1: payload(jpeg(1), 1.0), 7: payload(jpeg(1), 1.0)})
    with pytest.raises(ImageError, match=rf"has no record '{key[:40]}'; its keys go from 1 to 7"):
        read_image(f"{path}#{key}")


def test_a_missing_index(tmp_path: Path) -> None:
    path = faces(tmp_path / "train.rec")
    path.with_suffix(".idx").unlink()
    with pytest.raises(ImageError, match=r"train\.rec wants its index train\.idx beside it"):
        read_image(f"{path}#1")


@pytest.mark.parametrize("text", ["", "1\n", "a\tb\n", "1\t-5\n", "1\t2\t3\n", "\x00\x01"])
def test_an_index_that_is_none(tmp_path: Path, text: str) -> None:
    path = faces(tmp_path / "train.rec")
    path.with_suffix(".idx").write_text(text)
    with pytest.raises(DataError, match=r"train\.idx should hold a line 'key<TAB>offset'"):
        recordio.keys(path)


def test_damaged_records(tmp_path: Path) -> None:
    path = faces(tmp_path / "train.rec")
    whole = path.read_bytes()
    places = [int(line.split()[1]) for line in path.with_suffix(".idx").read_text().splitlines()]
    for content, words in [
        (whole[: places[1] + 300], "it is cut off"),
        (whole[: places[1]] + b"X" + whole[places[1] + 1 :], f"there is no record at byte {places[1]}"),
        (whole[: places[1] + 7] + b"\x60" + whole[places[1] + 8 :], "begins or ends in the middle"),
        (whole[: places[1] + 8] + b"\xff\xff" + whole[places[1] + 10 :], "says that it has 65535 labels"),
    ]:
        path.write_bytes(content)
        with pytest.raises(ImageError, match=words):
            read_image(f"{path}#1")
    path.write_bytes(whole[: places[-1]])
    assert recordio.labels(path) == ["0", "0", "1", "1"]
    path.write_bytes(whole[: places[3]])
    with pytest.raises(DataError, match="the index points behind its end"):
        recordio.labels(path)
    path.write_bytes(b"")
    with pytest.raises(DataError, match="there is no record at byte 0"):
        recordio.labels(path)


def test_a_record_of_two_gigabytes_is_refused_before_it_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write(tmp_path / "data.rec", {1: payload(jpeg(1), 1.0)})
    monkeypatch.setattr(recordio, "MAX_ITEM_BYTES", 100)
    with pytest.raises(ImageError, match="has a record of more than 100 bytes"):
        read_image(f"{path}#1")


def test_records_in_the_order_of_the_file(tmp_path: Path) -> None:
    path = faces(tmp_path / "train.rec")
    read = list(recordio.records(path))
    assert [(record.key, record.labels) for record in read] == [(1, (0.0,)), (2, (0.0,)), (3, (1.0,)), (4, (1.0,))]
    assert [record.content for record in read] == [jpeg(gray) for gray in (10, 60, 120, 200)]
    lines = path.with_suffix(".idx").read_text().splitlines()
    path.with_suffix(".idx").write_text("\n".join(reversed(lines)) + "\n")  # the index may have another order
    assert list(recordio.records(path)) == read


def test_records_with_several_labels_and_gaps_between_them(tmp_path: Path) -> None:
    images = {3: payload(jpeg(1), 4.0, 11.5, scalar=False), 900: payload(jpeg(2), 85741.0), 7: payload(jpeg(3), 2.0)}
    path = write(tmp_path / "data.rec", images)
    assert [(record.key, record.labels) for record in recordio.records(path)] == [
        (3, (4.0, 11.5)),
        (900, (85741.0,)),
        (7, (2.0,)),
    ]
    assert dict(zip(recordio.keys(path), recordio.labels(path), strict=True)) == {"3": "4", "7": "2", "900": "85741"}


def test_damaged_records_are_errors_or_counted_skips(tmp_path: Path) -> None:
    path = faces(tmp_path / "train.rec")
    offsets = [int(line.split()[1]) for line in path.with_suffix(".idx").read_text().splitlines()]
    content = bytearray(path.read_bytes())
    content[offsets[2]] ^= 1  # no magic number
    content[offsets[4] + 8] = 255  # more labels than bytes
    path.write_bytes(content)
    with pytest.raises(DataError, match=f"there is no record at byte {offsets[2]}"):
        list(recordio.records(path))
    skipped: list[tuple[int, str]] = []
    read = list(recordio.records(path, damaged=lambda *reason: skipped.append(reason)))
    assert [record.key for record in read] == [1, 3]
    assert [key for key, _ in skipped] == [2, 4]
    assert "there is no record" in skipped[0][1]
    assert "labels" in skipped[1][1]


def test_a_file_that_is_cut_anywhere(tmp_path: Path) -> None:
    path = faces(tmp_path / "train.rec")
    whole = path.read_bytes()
    offsets = [int(line.split()[1]) for line in path.with_suffix(".idx").read_text().splitlines()]
    for end in range(offsets[1], offsets[5], 131):
        path.write_bytes(whole[:end])
        skipped: list[int] = []
        read = list(recordio.records(path, damaged=lambda key, _: skipped.append(key)))  # noqa: B023
        there = [key for key in range(1, 5) if offsets[key + 1] <= end]
        assert [record.key for record in read] == there
        assert skipped == [key for key in range(1, 5) if key not in there]


def test_an_index_that_points_to_wrong_places(tmp_path: Path) -> None:
    path = faces(tmp_path / "train.rec")
    lines = [line.split() for line in path.with_suffix(".idx").read_text().splitlines()]
    path.with_suffix(".idx").write_text(
        "".join(f"{key}\t{int(place) + 4 * (key in ('2', '3'))}\n" for key, place in lines)
    )
    with pytest.raises(
        DataError, match=f"2 entries of its index point to no record, first to byte {int(lines[2][1]) + 4}"
    ):
        recordio.labels(path)
    with pytest.raises(ImageError, match="there is no record at byte"):
        read_image(f"{path}#2")
    assert read_image(f"{path}#1").shape == (13, 11, 3)
    path.with_suffix(".idx").write_text("".join(f"{key}\t{10**15 if key == '4' else place}\n" for key, place in lines))
    with pytest.raises(DataError, match="the index points behind its end"):
        recordio.labels(path)
    with pytest.raises(ImageError, match="there is no record at byte"):
        read_image(f"{path}#4")


def test_keys_beyond_those_of_the_header_are_no_images(tmp_path: Path) -> None:
    path = faces(tmp_path / "train.rec")
    with path.with_suffix(".idx").open("a") as file:
        file.write("999\t0\n1000000000000\t0\n")
    assert recordio.keys(path) == ["1", "2", "3", "4"]
    assert len(list(recordio.records(path))) == 4


@pytest.mark.parametrize("end", [float("nan"), float("inf"), 0.0, -3.0])
def test_a_header_that_makes_no_sense(tmp_path: Path, end: float) -> None:
    path = write(tmp_path / "data.rec", {0: payload(b"", end, 7.0, scalar=False), 1: payload(jpeg(1), 1.0)})
    with pytest.raises(DataError, match="its header says that the images end at key"):
        recordio.keys(path)


@pytest.mark.parametrize("label", [float("nan"), float("inf")])
def test_a_label_that_is_no_number(tmp_path: Path, label: float) -> None:
    path = write(tmp_path / "data.rec", {1: payload(jpeg(1), 1.0), 2: payload(jpeg(1), label)})
    with pytest.raises(DataError, match=r"data\.rec is damaged: 1 record has no number for a label, first 2"):
        recordio.labels(path)


def test_an_index_with_two_keys_for_one_record(tmp_path: Path) -> None:
    path = faces(tmp_path / "train.rec")
    lines = path.with_suffix(".idx").read_text().splitlines()
    path.with_suffix(".idx").write_text("\n".join([*lines[:3], f"3\t{lines[2].split()[1]}", *lines[4:]]))
    with pytest.raises(DataError, match=rf"several keys of its index point to byte {lines[2].split()[1]}"):
        recordio.keys(path)


def test_an_index_with_a_key_twice(tmp_path: Path) -> None:
    path = faces(tmp_path / "train.rec")
    path.with_suffix(".idx").write_text("1\t0\n2\t8\n1\t16\n")
    with pytest.raises(DataError, match=r"train\.idx has key 1 twice"):
        recordio.keys(path)


def test_a_changed_file_is_read_again(tmp_path: Path) -> None:
    path = write(tmp_path / "data.rec", {1: payload(jpeg(10), 1.0)})
    assert read_image(f"{path}#1").mean() < 20
    write(tmp_path / "data.rec", {1: payload(jpeg(200), 1.0), 2: payload(jpeg(1), 1.0)})
    assert read_image(f"{path}#1").mean() > 190
    path.unlink()
    with pytest.raises(DataError, match=r"data\.rec cannot be read: No such file"):
        recordio.keys(path)


def test_threads_and_forked_processes_read_side_by_side(tmp_path: Path) -> None:
    path = write(tmp_path / "data.rec", {key: payload(b"%d" % key * 500, 1.0) for key in range(200)})
    names = [str(key % 200) for key in range(2000)]
    wanted = [name.encode() * 500 for name in names]
    assert recordio.read_record(path, "7") == b"7" * 500  # the file is open before the fork
    with multiprocessing.get_context("fork").Pool(2) as pool:
        in_processes = pool.starmap_async(recordio.read_record, [(path, name) for name in names])
        with ThreadPoolExecutor(4) as threads:
            assert list(threads.map(lambda name: recordio.read_record(path, name), names)) == wanted
        assert in_processes.get(timeout=60) == wanted
