"""Pages of a PDF that matplotlib draws here."""

from __future__ import annotations

import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from matplotlib.backends.backend_pdf import PdfPages
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from cosphere.errors import ImageError, MissingExtraError
from cosphere.images import read_image
from cosphere.images.containers import container_of, pdf


@pytest.fixture(scope="module")
def scan(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three pages of 3 x 2 inches, white, with the lower left quarter red, green and blue."""
    path = tmp_path_factory.mktemp("pdf") / "scan.pdf"
    with PdfPages(path) as pages:
        for colour in ("red", "lime", "blue"):
            figure = Figure(figsize=(3, 2))
            figure.add_artist(Rectangle((0, 0), 0.5, 0.5, color=colour, linewidth=0))
            pages.savefig(figure)
    return path


def test_each_page_is_an_image_at_200_dots_per_inch(scan: Path) -> None:
    assert pdf.pages(scan) == ["1", "2", "3"]
    for page, colour in (("1", (255, 0, 0)), ("2", (0, 255, 0)), ("3", (0, 0, 255))):
        image = read_image(f"{scan}#{page}")
        assert image.shape == (400, 600, 3)
        assert image.dtype == np.uint8
        assert (image[210:390, 10:290] == colour).all()
        assert (image[:190] == 255).all()
        assert (image[:, 310:] == 255).all()


def test_a_box_of_a_page(scan: Path) -> None:
    assert (read_image(f"{scan}#3", box=(0, 300, 100, 400)) == (0, 0, 255)).all()


@pytest.mark.parametrize("page", ["0", "4", "x", "", "1.0", "-1", "9" * 5000])
def test_pages_that_are_not_there(scan: Path, page: str) -> None:
    with pytest.raises(ImageError, match=rf"scan\.pdf has pages 1 to 3, so there is no page '{page[:40]}'"):
        read_image(f"{scan}#{page}")


def test_no_pdf(tmp_path: Path) -> None:
    for content in (b"", b"%PDF-1.7 and then nothing", b"no pdf"):
        (tmp_path / "x.pdf").write_bytes(content)
        with pytest.raises(ImageError, match=r"x\.pdf cannot be read as a PDF: .*export its pages as PNG"):
            read_image(f"{tmp_path}/x.pdf#1")


def test_a_page_of_many_metres_is_refused_before_it_is_rendered(scan: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pdf, "MAX_PAGE_PIXELS", 239_999)
    with pytest.raises(ImageError, match=r"page 2 of \S+ is too large: 600 x 400 pixels at 200 pixels per inch"):
        read_image(f"{scan}#2")


def test_the_size_limit_of_reading_holds_for_pages(scan: Path) -> None:
    with pytest.raises(ImageError, match="600 x 400 = 240,000 pixels, at most 1,000 are decoded"):
        read_image(f"{scan}#1", max_pixels=1000)


def test_threads(scan: Path) -> None:
    with ThreadPoolExecutor(4) as pool:
        images = list(pool.map(lambda page: read_image(f"{scan}#{page}"), ["1", "2", "3"] * 4))
    assert [image[300, 100].tolist().index(255) for image in images] == [0, 1, 2] * 4


def test_without_pypdfium2_the_extra_is_named(scan: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pypdfium2", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'cosphere\[pdf\]'"):
        read_image(f"{scan}#1")


def test_the_name_alone_makes_a_pdf() -> None:
    assert container_of("a/Scan.PDF") is pdf.CONTAINER
    assert container_of("a/scan.png") is None
