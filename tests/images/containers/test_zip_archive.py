"""Images inside a zip archive, hostile archives among them. Nothing is ever written to disk."""

from __future__ import annotations

import io
import multiprocessing
import os
import struct
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cosphere.errors import ImageError
from cosphere.images import PixelCache, find_item, read_image
from cosphere.images.containers import kind, zip_archive


def png(number: int, size: tuple[int, int] = (7, 5)) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", size, (number, 2, 3)).save(file, "PNG")
    return file.getvalue()


def archive(path: Path, members: dict[str, bytes], method: int = zipfile.ZIP_DEFLATED) -> Path:
    with zipfile.ZipFile(path, "w", method) as made:
        for name, content in members.items():
            made.writestr(name, content)
    return path


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_members_come_back_as_they_went_in(tmp_path: Path, method: int) -> None:
    path = archive(tmp_path / "photos.zip", {f"bus/{n}.png": png(n) for n in range(4)}, method)
    for number in range(4):
        image = read_image(f"{path}#bus/{number}.png")
        assert image.shape == (5, 7, 3)
        assert (image == (number, 2, 3)).all()
        assert image.flags.writeable


def test_orientation_and_boxes_hold_inside_an_archive(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    file = io.BytesIO()
    Image.new("RGB", (30, 20)).save(file, "JPEG", exif=exif)
    path = archive(tmp_path / "photos.zip", {"a.jpg": file.getvalue()})
    assert read_image(f"{path}#a.jpg").shape == (30, 20, 3)
    assert read_image(f"{path}#a.jpg", box=(2, 3, 12, 9)).shape == (6, 10, 3)


def test_marks_in_names_of_folder_archive_and_member(tmp_path: Path) -> None:
    folder = tmp_path / "a#1"
    folder.mkdir()
    path = archive(folder / "b#2.ZIP", {"c#3.png": png(9)})
    item = find_item(f"{path}#c#3.png")
    assert item is not None
    assert (item.file, item.name) == (path, "c#3.png")
    assert (read_image(f"{path}#c#3.png") == (9, 2, 3)).all()


@pytest.mark.parametrize(
    ("member", "words"),
    [
        ("bus/11.png", r"has no member 'bus/11\.png'\. Did you mean 'bus/1\.png'\?"),
        ("zzz", r"has no member 'zzz'\. Check the name"),
        ("empty.png", r"photos\.zip#empty\.png is empty \(0 bytes\)"),
        ("notes.txt", r"photos\.zip#notes\.txt cannot be read as an image"),
    ],
)
def test_members_that_are_no_image(tmp_path: Path, member: str, words: str) -> None:
    path = archive(tmp_path / "photos.zip", {"bus/1.png": png(1), "empty.png": b"", "notes.txt": b"no image at all"})
    with pytest.raises(ImageError, match=words):
        read_image(f"{path}#{member}")


def test_damage_is_named(tmp_path: Path) -> None:
    path = archive(tmp_path / "photos.zip", {"a.png": png(1)}, zipfile.ZIP_STORED)
    whole = path.read_bytes()
    at = whole.index(b"IDAT")
    for stamp, (content, words) in enumerate(
        [
            (whole[:at] + b"XXXX" + whole[at + 4 :], r"photos\.zip#a\.png is damaged: Bad CRC"),
            (whole[: len(whole) // 2], r"photos\.zip is not a whole zip archive"),
            (b"", r"photos\.zip is not a whole zip archive"),
        ]
    ):
        path.write_bytes(content)
        os.utime(path, ns=(stamp, stamp))
        with pytest.raises(ImageError, match=words):
            read_image(f"{path}#a.png")


def test_an_encrypted_member(tmp_path: Path) -> None:
    path = archive(tmp_path / "photos.zip", {"a.png": png(1)}, zipfile.ZIP_STORED)
    content = bytearray(path.read_bytes())
    content[6] |= 1  # general purpose flags of the local and of the central header
    content[content.index(b"PK\x01\x02") + 8] |= 1
    path.write_bytes(content)
    with pytest.raises(ImageError, match=r"photos\.zip#a\.png is encrypted"):
        read_image(f"{path}#a.png")


def test_a_bomb_is_refused_by_its_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = archive(tmp_path / "photos.zip", {"a.bmp": bytes(5_000_000)})
    assert path.stat().st_size < 10_000
    monkeypatch.setattr(zip_archive, "MAX_ITEM_BYTES", 4_999_999)
    with pytest.raises(ImageError, match=r"a\.bmp has 5,000,000 bytes, and at most 4,999,999 are read"):
        read_image(f"{path}#a.bmp")
    assert kind.MAX_ITEM_BYTES == 256 * 2**20


def test_a_bomb_that_lies_about_its_size_gives_no_more_than_it_says(tmp_path: Path) -> None:
    path = archive(tmp_path / "photos.zip", {"a.bmp": bytes(5_000_000)})
    content = bytearray(path.read_bytes())
    at = content.index(b"PK\x01\x02") + 24  # uncompressed size in the directory
    content[at : at + 4] = struct.pack("<I", 100)
    path.write_bytes(content)
    with pytest.raises(ImageError, match=r"photos\.zip#a\.bmp is damaged: Bad CRC"):
        read_image(f"{path}#a.bmp")


def test_names_that_climb_out_are_not_listed(tmp_path: Path) -> None:
    names = ["a/1.png", "../2.png", "/etc/3.png", "a/../../4.png", "a//5.png", "./6.png", "a/7.png"]
    path = archive(tmp_path / "photos.zip", dict.fromkeys(names, png(1)))
    assert zip_archive.members(path) == ["a/1.png", "a/7.png"]
    assert sorted(tmp_path.rglob("*")) == [path]


def test_backslashes_are_slashes_and_climb_no_more_than_those(tmp_path: Path) -> None:
    names = ["a\\1.png", "..\\2.png", "\\etc\\3.png", "b\\", "c/4.png", "c\\4.png", "d\\e/5.png"]
    path = archive(tmp_path / "photos.zip", {name: png(place) for place, name in enumerate(names)})
    listed = ["a/1.png", "c/4.png", "c\\4.png", "d/e/5.png"]
    assert zip_archive.members(path) == listed
    assert [read_image(f"{path}#{name}")[0, 0, 0] for name in [*listed, "a\\1.png"]] == [0, 4, 5, 6, 0]


def test_a_replaced_archive_is_read_again_and_cached_anew(tmp_path: Path) -> None:
    path = archive(tmp_path / "photos.zip", {"a.png": png(1)})
    cache = PixelCache(tmp_path / "cache", rule="r", keep_free=0)
    source = f"{path}#a.png"
    assert cache.get(source, lambda: read_image(source))[0, 0, 0] == 1
    assert cache.get(source, lambda: pytest.fail("it is in the cache"))[0, 0, 0] == 1
    archive(path, {"a.png": png(8)})
    os.utime(path, ns=(1, 1))
    assert cache.get(source, lambda: read_image(source))[0, 0, 0] == 8


def _first_red(source: str) -> int:
    return int(read_image(source)[0, 0, 0])


def test_threads_and_forked_processes_read_side_by_side(tmp_path: Path) -> None:
    path = archive(tmp_path / "photos.zip", {f"{n}.png": png(n, (64, 64)) for n in range(40)})
    sources = [f"{path}#{n}.png" for n in range(40)]
    assert _first_red(sources[3]) == 3  # the archive is open before the fork
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(_first_red, sources)) == list(range(40))
    with multiprocessing.get_context("fork").Pool(2) as pool:
        assert pool.map(_first_red, sources, chunksize=1) == list(range(40))


def test_folders_are_not_members(tmp_path: Path) -> None:
    path = archive(tmp_path / "photos.zip", {"a.png": png(1), "b/": b""})
    assert zip_archive.members(path) == ["a.png"]
    assert np.array_equal(read_image(f"{path}#a.png"), read_image(png(1)))
