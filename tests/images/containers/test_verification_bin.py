"""Verification sets as their writers make them: Python's own pickle, and Python 2's instructions spelled out here."""

from __future__ import annotations

import io
import os
import pickle
import struct
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from cosphere.errors import DataError, ImageError
from cosphere.images import read_image, verification_labels
from cosphere.images.containers import plain_pickle, verification_bin


def jpeg(gray: int) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (12, 14), (gray, gray, gray)).save(file, "JPEG")
    return file.getvalue()


IMAGES = [jpeg(gray) for gray in (10, 60, 120, 200)]
SAME = [True, False]


def write(folder: Path, content: bytes, name: str = "lfw.bin") -> Path:
    (folder / name).write_bytes(content)
    return folder / name


# Python 2, protocol 2: what wrote the published files.


def python2_bytes(value: bytes) -> bytes:
    return b"U" + bytes([len(value)]) + value if len(value) < 256 else b"T" + struct.pack("<i", len(value)) + value


def python2_whole(number: int) -> bytes:
    return b"K" + bytes([number]) if number < 256 else b"M" + struct.pack("<H", number)


def python2_array(data: bytes, kind: bytes = b"u1", shape: tuple[int, ...] | None = None) -> bytes:
    lengths = b"".join(map(python2_whole, shape or (len(data), 1)))
    return (
        b"cnumpy.core.multiarray\n_reconstruct\nq\x01cnumpy\nndarray\nq\x02K\x00\x85q\x03U\x01b\x87q\x04Rq\x05(K\x01("
        + lengths
        + b"tq\x06cnumpy\ndtype\nq\x07U\x02"
        + kind
        + b"K\x00K\x01\x87q\x08Rq\x09(K\x03U\x01|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tq\x0ab\x89"
        + python2_bytes(data)
        + b"tq\x0bb"
    )


def python2_pickle(encoded: list[bytes], flags: bytes) -> bytes:
    return b"\x80\x02](" + b"".join(encoded) + b"e" + flags + b"\x86q\x0c."


FLAGS = b"](\x88\x89e"


class Code:
    """Runs a command when it is unpickled by pickle.load."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch {self.path}",)


WRITERS = {
    **{f"protocol {number}": pickle.dumps((IMAGES, SAME), protocol=number) for number in (3, 4, 5)},
    "tuples": pickle.dumps((tuple(IMAGES), tuple(SAME)), protocol=4),
    "a list of two lists": pickle.dumps([IMAGES, SAME], protocol=4),
    "numbers for booleans": pickle.dumps((IMAGES, [1, 0]), protocol=4),
    "bytearrays": pickle.dumps((list(map(bytearray, IMAGES)), SAME), protocol=5),
    **{
        f"arrays in protocol {number}": pickle.dumps(
            ([np.frombuffer(image, np.uint8) for image in IMAGES], SAME), protocol=number
        )
        for number in (3, 4, 5)
    },
    "columns as OpenCV 3 made them": pickle.dumps(
        ([np.frombuffer(image, np.uint8)[:, None].copy() for image in IMAGES], SAME), protocol=5
    ),
    **{f"numpy booleans {n}": pickle.dumps((IMAGES, list(np.array(SAME))), protocol=n) for n in (3, 4, 5)},
    **{f"an array of booleans {n}": pickle.dumps((IMAGES, np.array(SAME)), protocol=n) for n in (3, 4, 5)},
    "Python 2": python2_pickle([python2_bytes(image) for image in IMAGES], FLAGS),
    "Python 2 with arrays": python2_pickle([python2_array(image) for image in IMAGES], FLAGS),
    "Python 2, protocol 1": b"(](" + b"".join(map(python2_bytes, IMAGES)) + b"e](I01\nI00\net.",
}


@pytest.mark.parametrize("content", WRITERS.values(), ids=WRITERS)
def test_what_writers_write(tmp_path: Path, content: bytes) -> None:
    path = write(tmp_path, content)
    assert verification_bin.images(path) == ["0", "1", "2", "3"]
    assert verification_labels(path).tolist() == SAME
    assert [verification_bin.read_item(path, str(number)) for number in range(4)] == IMAGES
    assert np.abs(read_image(f"{path}#2").astype(int) - 120).max() <= 2


def test_python_agrees_about_the_instructions_spelled_out_here() -> None:
    for name in ("Python 2", "Python 2 with arrays", "Python 2, protocol 1"):
        images, same = pickle.loads(WRITERS[name], encoding="bytes")
        assert [bytes(image) for image in images] == IMAGES
        assert same == SAME


def test_an_image_that_two_pairs_share(tmp_path: Path) -> None:
    one, other = IMAGES[:2]
    path = write(tmp_path, pickle.dumps(([one, other, one, one], SAME), protocol=2 + 1))
    assert [verification_bin.read_item(path, name) for name in ("2", "1", "3")] == [one, other, one]


def test_a_changed_file_is_read_again(tmp_path: Path) -> None:
    path = write(tmp_path, WRITERS["protocol 4"])
    assert len(verification_bin.images(path)) == 4
    write(tmp_path, pickle.dumps((IMAGES[:2], [True])))
    assert len(verification_bin.images(path)) == 2


@pytest.mark.parametrize("name", ["4", "-1", "", "x", "1.0", "9" * 60])
def test_numbers_that_are_not_there(tmp_path: Path, name: str) -> None:
    path = write(tmp_path, WRITERS["protocol 4"])
    with pytest.raises(ImageError, match="has images 0 to 3, so there is no image"):
        read_image(f"{path}#{name}")


def test_no_code_runs(tmp_path: Path) -> None:
    proof = tmp_path / "proof"
    for number in range(6):
        path = write(tmp_path, pickle.dumps(([Code(proof)], SAME), protocol=number))
        with pytest.raises(DataError, match=r"which could run code|old protocol"):
            verification_bin.images(path)
        assert not proof.exists()
    os.system(f"touch {proof}")
    assert proof.exists()  # the command would have left it


HOSTILE = {
    "a name": (b"\x80\x02cos\nsystem\n.", "holds the name os.system, which could run code"),
    "eval": (b"\x80\x02c__builtin__\neval\nU\x011\x85R.", "the name __builtin__.eval, which could run code"),
    "a name by the stack": (b"\x80\x04\x8c\x05posix\x8c\x06system\x93.", "the name posix.system, which could run code"),
    "an instance": (b"(ios\nsystem\n.", "the pickle instruction INST"),
    "a persistent id": (b"Pabc\n.", "the pickle instruction PERSID"),
    "an object": (b"\x80\x02cnumpy\nndarray\n)\x81.", "the pickle instruction NEWOBJ"),
    "numpy, called otherwise": (b"\x80\x02cnumpy\nndarray\nK\x05\x85R.", "holds a call"),
    "an array of objects": (b"\x80\x02cnumpy\ndtype\nU\x01O\x85R.", "a numpy array of type 'O'"),
    "a dictionary": (b"\x80\x02}.", "the pickle instruction EMPTY_DICT"),
    "a huge claimed size": (b"\x80\x04\x8e" + b"\xff" * 7 + b"\x7f.", "is cut off"),
    "a negative size": (b"\x80\x02T\xff\xff\xff\xff.", "is cut off"),
    "a huge frame": (b"\x80\x04\x95" + b"\xff" * 8 + b"N.", "does not hold two lists"),
    "a huge memo number": (b"\x80\x02Nr\xff\xff\xff\xff.", "does not hold two lists"),
    "a memo that is empty": (b"\x80\x02h\x07.", "refers to a value that it never stored"),
    "an empty stack": (b"\x80\x02.", "takes a value where there is none"),
    "a mark for a value": (b"\x80\x02(.", "takes a value where there is none"),
    "no mark": (b"\x80\x02e.", "a list ends that never began"),
    "an append to a number": (b"\x80\x02K\x01K\x02a.", "appends to something that is not a list"),
    "deep lists": (b"\x80\x02" + b"]" * 9_000 + b"a" * 8_999 + b".", "does not hold two lists"),
    "a list in itself": (b"\x80\x02]q\x00h\x00ah\x00\x86.", "something else than bytes among its images"),
    "a long text": (b"\x80\x02X\x00\x10\x00\x00" + b"x" * 4096 + b".", "holds text"),
    "a long number": (b"I" + b"9" * 4096 + b"\n.", "a long line of text"),
    "no instruction": (b"\xff\xff", "is not a pickle: byte 0 is no instruction"),
    "a web page": (b"<!DOCTYPE html><html>", "is not a pickle"),
    "no end": (b"\x80\x04]", "is cut off"),
    "nothing": (b"", "is empty"),
    "one list": (pickle.dumps((IMAGES,)), "does not hold two lists"),
    "one image too few": (
        pickle.dumps((IMAGES[:3], SAME)),
        "holds 3 images and 2 booleans, wanted two images for each",
    ),
    "no images": (pickle.dumps(([], [])), "holds 0 images and 0 booleans"),
    "other numbers": (pickle.dumps((IMAGES, [2, 0])), "something else than booleans"),
    "numbers for images": (pickle.dumps(([1, 2], [True])), "something else than bytes among its images"),
    "texts for images": (pickle.dumps((["a", "b"], [True])), "something else than bytes among its images"),
    "pixels": (pickle.dumps(([np.zeros((4, 4, 3), np.uint8)] * 2, [True])), "holds decoded pixels"),
    "float arrays": (pickle.dumps(([np.zeros(4)] * 2, [True])), "a numpy array of type 'f8'"),
    "protocol 0": (pickle.dumps((IMAGES, SAME), protocol=0), "old protocol; write it again with protocol=4"),
    "protocol 2 of Python 3": (
        pickle.dumps((IMAGES, SAME), protocol=2),
        "old protocol; write it again with protocol=4",
    ),
    "an array that claims more": (
        python2_pickle([python2_array(IMAGES[0], shape=(200, 3))] * 2, b"](\x88e"),
        "something else than bytes",
    ),
}


@pytest.mark.parametrize(("content", "words"), HOSTILE.values(), ids=HOSTILE)
def test_hostile_and_damaged_files(tmp_path: Path, content: bytes, words: str) -> None:
    path = write(tmp_path, content)
    tracemalloc.start()
    with pytest.raises(DataError, match=words) as caught:
        verification_bin.images(path)
    assert tracemalloc.get_traced_memory()[1] < 2**24
    tracemalloc.stop()
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("name", ["protocol 4", "arrays in protocol 5", "Python 2 with arrays"])
def test_a_file_that_is_cut_anywhere(tmp_path: Path, name: str) -> None:
    whole = WRITERS[name]
    for end in range(1, len(whole), 37):
        with pytest.raises(DataError, match="is cut off"):
            verification_bin.images(write(tmp_path, whole[:end], f"{end}.bin"))


def test_a_pickle_of_too_many_instructions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plain_pickle, "MAX_INSTRUCTIONS", 100)
    with pytest.raises(DataError, match="has more than 100 instructions"):
        verification_bin.images(write(tmp_path, b"\x80\x02" + b"]" * 1000 + b"."))


def test_an_image_beyond_the_bound(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path, WRITERS["protocol 4"])
    monkeypatch.setattr(verification_bin, "MAX_ITEM_BYTES", 100)
    with pytest.raises(ImageError, match="and at most 100 are read"):
        read_image(f"{path}#1")


def test_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"none\.bin cannot be read"):
        verification_bin.images(tmp_path / "none.bin")
