"""MegaFace's files, written here with struct as InsightFace's write_bin does."""

from __future__ import annotations

import json
import struct
from pathlib import Path

import numpy as np
import pytest

from cosphere.data import (
    MegaFaceList,
    read_megaface_feature,
    read_megaface_list,
    read_megaface_noises,
    write_megaface_feature,
)
from cosphere.errors import DataError, SizeError


def test_a_feature_as_insightface_writes_it(tmp_path: Path) -> None:
    values = [0.5, -1.25, 3.0]
    (tmp_path / "a_r100.bin").write_bytes(struct.pack("4i", 3, 1, 4, 5) + struct.pack("3f", *values))
    feature = read_megaface_feature(tmp_path / "a_r100.bin")
    assert feature.tolist() == values
    assert feature.dtype == np.float32


@pytest.mark.parametrize("shape", [(4,), (4, 1)])
def test_what_is_written(tmp_path: Path, shape: tuple[int, ...]) -> None:
    feature = np.arange(4.0).reshape(shape)
    path = tmp_path / "Ann" / "a_r100.bin"
    write_megaface_feature(path, feature)
    assert path.read_bytes() == struct.pack("<4i4f", 4, 1, 4, 5, 0, 1, 2, 3)
    assert read_megaface_feature(path).tolist() == [0, 1, 2, 3]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "has 0 bytes, which is less than the header"),
        (struct.pack("4i", 3, 1, 4, 5) + b"\0" * 8, "should have 28 bytes for 3 values"),
        (struct.pack("4i", 3, 1, 4, 5) + b"\0" * 16, "should have 28 bytes for 3 values"),
        (struct.pack("4i", 3, 1, 8, 6) + b"\0" * 24, "its header is 3, 1, 8, 6; wanted the width"),
        (struct.pack("4i", -1, 1, 4, 5), "its header is -1, 1, 4, 5"),
        (struct.pack("4i", 2**31 - 1, 1, 4, 5), "its header is 2147483647, 1, 4, 5"),
    ],
)
def test_damaged_features(tmp_path: Path, content: bytes, words: str) -> None:
    (tmp_path / "a.bin").write_bytes(content)
    with pytest.raises(DataError, match=words):
        read_megaface_feature(tmp_path / "a.bin")


def test_features_that_cannot_be_written(tmp_path: Path) -> None:
    for wrong in (np.zeros((2, 2)), np.zeros(0), np.zeros(()), np.zeros(2**16 + 1)):
        with pytest.raises(SizeError, match=r"a feature is \(D,\)"):
            write_megaface_feature(tmp_path / "a.bin", wrong)
    with pytest.raises(DataError, match="NaN or infinity"):
        write_megaface_feature(tmp_path / "a.bin", [1.0, float("nan")])
    (tmp_path / "a.bin").write_bytes(struct.pack("<4if", 1, 1, 4, 5, float("inf")))
    with pytest.raises(DataError, match=r"a\.bin holds NaN or infinity"):
        read_megaface_feature(tmp_path / "a.bin")
    with pytest.raises(DataError, match=r"none\.bin cannot be read"):
        read_megaface_feature(tmp_path / "none.bin")


def test_the_devkits_lists(tmp_path: Path) -> None:
    probes, distractors = tmp_path / "probes.json", tmp_path / "megaface_features_list.json_10_1"
    probes.write_text(json.dumps({"path": ["Ann/Ann_1.png", "Bob/Bob_2.png"], "id": ["Ann", "Bob"]}, indent=1))
    distractors.write_text('{"path": ["363/41990311@N00/104_0.jpg"]}')
    assert read_megaface_list(probes).people == ("Ann", "Bob")
    assert read_megaface_list(distractors).names == ("363/41990311@N00/104_0.jpg",)
    assert read_megaface_list(distractors).people is None


def test_lists_with_folders_of_another_machine(tmp_path: Path) -> None:
    path = tmp_path / "facescrub_lst"
    path.write_text("/raid/facescrub_images/Ann Lee/Ann_1.png\n/raid/facescrub_images/Bob/Bob_2.png\n")
    assert read_megaface_list(path, parts=2).names == ("Ann Lee/Ann_1.png", "Bob/Bob_2.png")
    with pytest.raises(DataError, match=r"is outside the folder of the images\. Give parts"):
        read_megaface_list(path)


def test_noises_are_named_by_path_or_by_file(tmp_path: Path) -> None:
    path = tmp_path / "noises.txt"
    path.write_text("# our list\nAnn_1.png\n12\t363/41990311@N00/104_0.jpg\n\n")
    noisy = read_megaface_noises(path)
    assert noisy == {"Ann_1.png", "363/41990311@N00/104_0.jpg"}
    images = MegaFaceList(names=("Ann/Ann_1.png", "Ann/Ann_2.png", "363/41990311@N00/104_0.jpg", "3/4/104_0.jpg"))
    assert images.without(noisy).tolist() == [False, True, False, True]
    assert len(images) == 4


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "lists no images"),
        ("{", "is not a list of the devkit"),
        ('{"path": []}', "should hold a list 'path'"),
        ('{"path": ["a", 3]}', "should hold a list 'path'"),
        ('{"path": ["a"], "id": ["x", "y"]}', "a list 'id' of the same length"),
        ("../../x.png\n", "is outside the folder"),
    ],
)
def test_lists_that_are_none(tmp_path: Path, text: str, words: str) -> None:
    (tmp_path / "list").write_text(text)
    with pytest.raises(DataError, match=words):
        read_megaface_list(tmp_path / "list")
