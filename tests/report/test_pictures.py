from __future__ import annotations

import base64
import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cosphere.errors import ImageError
from cosphere.report.pictures import Thumbnails, font, jpeg_uri, load, placeholder, shortened, wrapped


def decoded(address: str) -> Image.Image:
    kind, content = address.split(",")
    assert kind == "data:image/jpeg;base64"
    return Image.open(io.BytesIO(base64.b64decode(content)))


def test_load_fits_and_never_enlarges() -> None:
    assert load(np.zeros((100, 400, 3), np.uint8), 80).size == (80, 20)
    assert load(np.zeros((10, 5, 3), np.uint8), 80).size == (5, 10)


@pytest.mark.parametrize(
    "bad", [np.zeros((4, 4), np.uint8), np.zeros((4, 4, 3), np.float32), np.zeros((4, 4, 4), np.uint8)]
)
def test_load_refuses_what_is_no_picture(bad: np.ndarray) -> None:
    with pytest.raises(ImageError, match=r"want a picture \(H, W, 3\) uint8, got .*Convert it to RGB"):
        load(bad, 10)


def test_load_refuses_an_empty_crop() -> None:
    with pytest.raises(ImageError, match="leaves nothing"):
        load(np.zeros((4, 4, 3), np.uint8), 10, box=(5, 5, 9, 9))


def test_jpeg_address_holds_the_picture() -> None:
    picture = decoded(jpeg_uri(Image.new("RGB", (30, 20), (200, 30, 90))))
    assert picture.size == (30, 20)
    assert np.abs(np.asarray(picture).mean(axis=(0, 1)) - (200, 30, 90)).max() < 4


def test_shortened_keeps_both_ends() -> None:
    letters = font(12)
    text = "Mercedes-Benz Sprinter Van 2012"
    assert shortened(text, letters, 1000) == text
    for width in (40, 80, 150):
        short = shortened(text, letters, width)
        assert letters.getlength(short) <= width
        head, tail = short.split("…")
        assert text.startswith(head)
        assert text.endswith(tail)
        assert len(head) >= len(tail) > 0
    assert shortened(text, letters, 1) == "…"


def test_wrapped_lines_fit_and_lose_no_word() -> None:
    letters = font(10)
    words = "cannot read this file at all because it is gone"
    lines = wrapped(words, letters, 60)
    assert " ".join(lines) == words
    assert len(lines) > 2
    assert all(letters.getlength(line) <= 60 for line in lines)


def test_placeholder_is_grey_with_a_note() -> None:
    square = np.asarray(placeholder(100, "cannot read x"))
    assert square.shape == (100, 100, 3)
    assert (square[0, 0] == 128).all()
    assert (square == 255).any()


def test_each_picture_is_embedded_once(tmp_path: Path) -> None:
    for name, colour in (("a.png", "red"), ("b.png", "blue")):
        Image.new("RGB", (20, 20), colour).save(tmp_path / name)
    pictures = Thumbnails(16)
    a, b = str(tmp_path / "a.png"), str(tmp_path / "b.png")
    names = [pictures.name(a), pictures.name(b), pictures.name(a), pictures.name(a, (0, 0, 5, 9)), pictures.name(a)]
    assert names == ["p0", "p1", "p0", "p2", "p0"]
    assert pictures.css().count("data:image/jpeg") == 3
    assert np.asarray(decoded(pictures.addresses[1]))[8, 8].argmax() == 2
    assert decoded(pictures.addresses[2]).size == (5, 9)


def test_unreadable_pictures_are_kept_with_their_reason(tmp_path: Path) -> None:
    pictures = Thumbnails()
    gone = str(tmp_path / "gone.jpg")
    assert pictures.name(gone) is None
    assert pictures.name(gone) is None
    assert list(pictures.unreadable) == [gone]
    assert "gone.jpg" in pictures.unreadable[gone]
    assert pictures.css() == ""
