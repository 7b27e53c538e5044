"""Section G: what callers of the library met. One row for each call: its right value, or the words of its error."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image, ImageSequence

from cosphere.errors import CosphereError, ImageError
from cosphere.images import Preprocessing
from cosphere.models.reading import input_batches, rgb_pixels
from cosphere.search.gallery_items import as_table

Made = Callable[[Path], Any]

# Images from a source that changes what it gave, or that several threads would read at once.

LEVELS = [40, 90, 140, 190, 240, 15]


def levels(source: Callable[[Path], Any]) -> Made:
    """The gray level of each image that a source gives."""

    def measure(root: Path) -> list[int]:
        tiny = Preprocessing(size=8, resize=8, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))
        rows = torch.cat(list(input_batches(source(root), 4, tiny, torch.device("cpu"))))
        return [round(level) for level in (255 * rows.mean(dim=(1, 2, 3))).tolist()]

    return measure


def in_a_gallery(source: Callable[[Path], Any]) -> Made:
    def measure(root: Path) -> list[int]:
        pictures = as_table(source(root), list(map(str, LEVELS)), None).pictures
        return [int(rgb_pixels(one, position=0)[0, 0, 0]) for one in pictures]

    return measure


def pages(kind: str) -> Callable[[Path], Any]:
    def source(root: Path) -> Iterator[Any]:
        first, *others = [Image.new("L", (300, 200), level) for level in LEVELS]
        first.save(root / f"pages.{kind}", save_all=True, append_images=others)
        with Image.open(root / f"pages.{kind}") as picture:
            yield from ImageSequence.Iterator(picture)

    return source


def one_buffer(make: Callable[[Any], Any]) -> Callable[[Path], Any]:
    def source(_: Path) -> Iterator[Any]:
        buffer = np.zeros((200, 300, 3), np.uint8)
        for level in LEVELS:
            buffer[:] = level
            yield make(buffer)

    return source


def files(root: Path, suffix: str = "png") -> list[Path]:
    paths = [root / f"{level}.{suffix}" for level in LEVELS]
    for path, level in zip(paths, LEVELS, strict=True):
        Image.new("RGB", (300, 200), (level,) * 3).save(path)
    return paths


def opened_by_pillow(suffix: str) -> Callable[[Path], Any]:
    def source(root: Path) -> Iterator[Any]:
        for path in files(root, suffix):
            with Image.open(path) as picture:
                yield picture

    return source


def opened(root: Path) -> Iterator[Any]:
    for path in files(root):
        with path.open("rb") as file:
            yield file


SOURCES: dict[str, Callable[[Path], Any]] = {
    "the pages of a TIFF": pages("tiff"),
    "the frames of a GIF": pages("gif"),
    "one array, filled again": one_buffer(lambda buffer: buffer),
    "one tensor, filled again": one_buffer(lambda buffer: torch.from_numpy(buffer).permute(2, 0, 1)),
    "PNG files closed after use": opened_by_pillow("png"),
    "JPEG files closed after use": opened_by_pillow("jpg"),
    "file objects closed after use": opened,
}


FORMS: dict[str, Callable[[Path], Any]] = {
    "one file": lambda path: io.BytesIO(path.read_bytes()),
    "one PNG": lambda path: Image.open(io.BytesIO(path.read_bytes())),
}


def one_of_many_uses(open_it: Callable[[Path], Any]) -> Callable[[Path], Any]:
    return lambda root: [open_it(files(root)[0])] * 60


def closed(root: Path) -> list[Any]:
    file = files(root)[0].open("rb")
    file.close()
    return [file]


VALUES = [
    *(pytest.param(levels(source), LEVELS, id=f"encode {name}") for name, source in SOURCES.items()),
    *(pytest.param(in_a_gallery(source), LEVELS, id=f"add {name}") for name, source in SOURCES.items()),
    *(
        pytest.param(levels(one_of_many_uses(open_it)), [LEVELS[0]] * 60, id=f"encode 60 times {name}")
        for name, open_it in FORMS.items()
    ),
]

REFUSALS = [
    pytest.param(
        levels(closed),
        ImageError,
        r"picture 0 cannot be read: .*closed file\. Open it again or leave it out\.",
        id="a closed file",
    ),
]


@pytest.mark.parametrize(("measure", "right"), VALUES)
def test_the_right_value(measure: Made, right: Any, tmp_path: Path) -> None:
    assert measure(tmp_path) == right


@pytest.mark.parametrize(("act", "error", "words"), REFUSALS)
def test_the_error_says_why(act: Made, error: type[CosphereError], words: str, tmp_path: Path) -> None:
    with pytest.raises(error, match=words):
        act(tmp_path)
