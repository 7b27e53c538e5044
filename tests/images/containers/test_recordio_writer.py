"""What the writer writes, read by a plain reader that is written here from the description of the format."""

from __future__ import annotations

import io
import struct
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cosphere.errors import DataError, SettingsError
from cosphere.images.containers import recordio, recordio_writer
from cosphere.images.containers.recordio_writer import RecordWriter, WriterState


def jpeg(gray: int, size: tuple[int, int] = (96, 112)) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", size, (gray, gray, gray)).save(file, "JPEG")
    return file.getvalue()


def plain_records(path: Path) -> dict[int, tuple[list[float], bytes]]:
    """Labels and image of each record: a reader as MXNet's MXIndexedRecordIO and recordio.unpack."""
    content = path.read_bytes()
    found = {}
    for line in path.with_suffix(".idx").read_text().splitlines():
        key, at = map(int, line.split("\t"))
        parts = []
        while True:
            magic, word = struct.unpack_from("<II", content, at)
            assert magic == 0xCED7230A
            size = word & 0x1FFFFFFF
            parts.append(content[at + 8 : at + 8 + size])
            at += 8 + (size + 3) // 4 * 4
            if word >> 29 in (0, 3):
                break
        payload = struct.pack("<I", 0xCED7230A).join(parts)
        flag, label, _, _ = struct.unpack_from("<IfQQ", payload)
        labels = list(struct.unpack_from(f"<{flag}f", payload, 24)) if flag else [label]
        found[key] = labels, payload[24 + 4 * flag :]
    return found


IMAGES = [(3, jpeg(10)), (3, jpeg(60)), (9, jpeg(120)), (85741, jpeg(200))]


def test_insightfaces_layout(tmp_path: Path) -> None:
    with RecordWriter(tmp_path / "train.rec") as writer:
        assert [writer.add(content, identity) for identity, content in IMAGES] == [1, 2, 3, 4]
    found = plain_records(tmp_path / "train.rec")
    assert found[0] == ([5.0, 8.0], b"")  # images 1 to 4, identities 5 to 7
    assert [found[key] for key in range(1, 5)] == [([float(identity)], content) for identity, content in IMAGES]
    assert [found[key] for key in (5, 6, 7)] == [([1.0, 3.0], b""), ([3.0, 4.0], b""), ([4.0, 5.0], b"")]
    assert len(found) == 8
    assert (tmp_path / "property").read_text() == "3,112,96\n"


def test_our_reader_reads_it(tmp_path: Path) -> None:
    with RecordWriter(tmp_path / "train.rec") as writer:
        for identity, content in IMAGES:
            writer.add(content, identity)
    assert recordio.keys(tmp_path / "train.rec") == ["1", "2", "3", "4"]
    assert recordio.labels(tmp_path / "train.rec") == ["3", "3", "9", "85741"]
    assert [record.content for record in recordio.records(tmp_path / "train.rec")] == [content for _, content in IMAGES]


@pytest.mark.parametrize("places", [(0,), (4, 8), (3, 40), (41, 96), (1, 5, 9), (0, 4, 8, 12), (2, 6)])
def test_images_that_hold_the_magic_number(tmp_path: Path, places: tuple[int, ...]) -> None:
    image = bytearray(range(101))
    for place in places:
        image[place : place + 4] = struct.pack("<I", 0xCED7230A)
    with RecordWriter(tmp_path / "train.rec") as writer:
        writer.add(bytes(image), 1)
        writer.add(b"x", 2)
    found = plain_records(tmp_path / "train.rec")
    assert found[1] == ([1.0], bytes(image))
    assert found[2] == ([2.0], b"x")
    assert recordio.read_record(tmp_path / "train.rec", "1") == bytes(image)


def test_random_bytes_of_every_length(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    alphabet = [*struct.pack("<I", 0xCED7230A), 7]  # so that the magic number comes up
    images = [bytes(rng.choice(alphabet, size=length).astype(np.uint8)) for length in range(300)]
    with RecordWriter(tmp_path / "train.rec") as writer:
        for image in images:
            writer.add(image, 0)
    found = plain_records(tmp_path / "train.rec")
    assert [found[key][1] for key in range(1, 301)] == images
    assert [record.content for record in recordio.records(tmp_path / "train.rec")] == images


def test_a_writer_goes_on_where_a_killed_one_kept_its_state(tmp_path: Path) -> None:
    whole, broken = tmp_path / "whole.rec", tmp_path / "broken.rec"
    with RecordWriter(whole) as writer:
        for identity, content in IMAGES:
            writer.add(content, identity)
    for done in range(5):
        first = RecordWriter(broken)
        for identity, content in IMAGES[:done]:
            first.add(content, identity)
        state = WriterState.from_dict(first.checkpoint().as_dict())
        first.add(b"lost with its process", 99)
        first.leave()
        with RecordWriter(broken, state=state) as second:
            for identity, content in IMAGES[done:]:
                second.add(content, identity)
        assert broken.read_bytes() == whole.read_bytes()
        assert broken.with_suffix(".idx").read_bytes() == whole.with_suffix(".idx").read_bytes()
    broken.write_bytes(b"x")
    with pytest.raises(DataError, match=r"broken\.rec is shorter than it was"):
        RecordWriter(broken, state=state)


def test_what_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    writer = RecordWriter(tmp_path / "train.rec")
    writer.add(b"x", 4)
    writer.add(b"x", 2)
    with pytest.raises(DataError, match="the images of identity 4 do not follow each other"):
        writer.add(b"x", 4)
    for identity in (-1, 2**24 + 1, 1.0):
        with pytest.raises(SettingsError, match="identity must be a whole number from 0 to 16777216"):
            writer.add(b"x", identity)
    monkeypatch.setattr(recordio_writer, "MAX_ITEM_BYTES", 30)
    with pytest.raises(DataError, match="an image has 8 bytes, and at most 30 are written"):
        writer.add(b"x" * 8, 2)
    monkeypatch.setattr(recordio_writer, "MOST", 3)
    with pytest.raises(DataError, match="holds at most 3 images, because"):
        writer.add(b"x", 2)
    with pytest.raises(DataError, match="holds at most 3 images and identities"):
        writer.close()
    writer.leave()
