"""A synthetic data set: impressions of rubber stamps on printed paper.

The stamps (:mod:`cosphere.stamps.designs`), the paper, the print on it and the wear are all generated from random
numbers. Parameter ranges were chosen by eye, and such that an ImageNet backbone without training ranks another
impression of the same stamp first for slightly under half of the test images. A good score shows that training works;
it says nothing about real stamps, whose dates change, whose rubber wears out and whose paper ages.

Sources of difficulty: the two designs of a pair share a template, every ink colour occurs with every design, and
impressions are rotated, cut off, unevenly pressed, short of ink, blurred by bleeding, doubled, and overlaid by print and
handwriting.
"""

from __future__ import annotations

import io
import math
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter

from cosphere._types import Float32s, Progress
from cosphere.checks import check_whole
from cosphere.errors import DataError, RunError
from cosphere.files import path_of, read_json, write_json
from cosphere.stamps.designs import CITIES, PLACES, THINGS, TRADES, WORDS, Design, design, draw_design, load_typeface

Plane = Float32s  # (S, S), or (S, S, 3) for colour

MANIFEST = "stamps.json"
VERSION = 1  # raised when the same seed gives other images, so that folders drawn by an older version are not reused
VAL_SHARE, TEST_SHARE = 2 / 15, 4 / 15  # shares of the pairs: of 60 designs, 36 train, 8 val and 16 test
MIN_DESIGNS = 6  # one pair per split
MIN_SIZE = 32  # pixels; smaller stamps are illegible

_BOUNDS = {
    "designs": (MIN_DESIGNS, 100_000),
    "impressions": (2, 100_000),
    "size": (MIN_SIZE, 4096),
    "seed": (0, 2**31 - 1),
}

INKS = {  # RGB transmission of a full layer of ink, in [0, 1]
    "blue": (0.13, 0.22, 0.62),
    "violet": (0.37, 0.16, 0.55),
    "red": (0.76, 0.12, 0.16),
    "green": (0.08, 0.45, 0.27),
    "black": (0.13, 0.13, 0.15),
}
PAPERS = ((0.97, 0.96, 0.93), (0.93, 0.90, 0.80), (0.90, 0.92, 0.95), (0.94, 0.88, 0.86), (0.87, 0.92, 0.86))


def draw_stamps(
    folder: Path,
    *,
    designs: int = 60,
    impressions: int = 20,
    size: int = 160,
    seed: int = 0,
    progress: Progress | None = None,
) -> Path:
    """Draw stamp impressions to ``folder/{train,val,test}/<design>/<number>.jpg``, each design in one split.

    An image depends on the seed, its design and its own number only, so that more designs or impressions add images and
    change existing ones only in their split. A folder drawn with the same settings is reused; an interrupted drawing is
    completed.

    Args:
        folder: created if missing.
        designs: number of designs, >= 6. Pairs 2n and 2n + 1 stay in one split.
        impressions: images per design, >= 2.
        size: side of the square images, in pixels, >= 32.
        seed: >= 0. The same seed gives the same bytes with the same versions of Pillow and numpy.
        progress: called with (images done, total) after each image drawn.

    Returns:
        ``folder``.

    Raises:
        SettingsError: a number is too small.
        DataError: the folder contains other files, or stamps drawn with other settings.
        RunError: the folder cannot be written to.
    """
    given = {"designs": designs, "impressions": impressions, "size": size, "seed": seed}
    settings = {name: check_whole(name, given[name], least=least, most=most) for name, (least, most) in _BOUNDS.items()}
    designs, impressions, size, seed = (settings[name] for name in given)
    folder = path_of(folder)
    splits = _splits(designs, seed)
    _claim(folder, {"format": "cosphere stamps", "version": VERSION, **settings})
    missing: list[tuple[Design, int, Path]] = []
    for number, split in enumerate(splits):
        drawn = design(number, seed=seed)
        files = [folder / split / drawn.name / f"{i:03d}.jpg" for i in range(impressions)]
        missing += [(drawn, i, file) for i, file in enumerate(files) if not file.exists()]
    total = designs * impressions
    rubber: tuple[int, Image.Image] | None = None  # current design and its mask, drawn once for all impressions
    for done, (drawn, i, file) in enumerate(missing, total - len(missing) + 1):
        if rubber is None or rubber[0] != drawn.number:
            rubber = drawn.number, draw_design(drawn, 2 * size)
        rng = np.random.default_rng([seed, 2, drawn.number, i])
        _write(file, _jpeg(impression(rubber[1], size, rng), int(rng.integers(45, 90))))
        if progress is not None:
            progress(done, total)
    return folder


def _splits(designs: int, seed: int) -> list[str]:
    """Assign a split to each design at random, the same one to both designs of a pair."""
    pairs = math.ceil(designs / 2)
    val, test = (max(1, round(pairs * share)) for share in (VAL_SHARE, TEST_SHARE))
    dealt = ["val"] * val + ["test"] * test + ["train"] * (pairs - val - test)
    order = np.random.default_rng([seed, 3]).permutation(pairs)
    return [dealt[order[number // 2]] for number in range(designs)]


def _claim(folder: Path, manifest: dict[str, Any]) -> None:
    """Check that the folder is new, empty, or drawn with the same settings, and write its manifest."""
    if folder.exists() and not folder.is_dir():
        raise DataError(f"{folder} is a file; stamps need a folder. Choose another name.")
    if not (folder / MANIFEST).exists():
        try:
            foreign = folder.exists() and any(folder.iterdir())
        except OSError as error:
            raise DataError(f"cannot read {folder}: {error.strerror}. Choose a folder of your own.") from error
        if foreign:
            raise DataError(
                f"{folder} is not empty and holds no {MANIFEST}. Choose a new or empty folder for the stamps."
            )
        write_json(folder / MANIFEST, manifest)
        return
    try:
        existing = read_json(folder / MANIFEST, what="a list of drawn stamps")
    except RunError as error:
        raise DataError(f"{error} Delete {folder} or choose another.") from error
    if existing != manifest:
        there = existing if isinstance(existing, dict) else {}
        other = [
            f"{key} {there.get(key)!r} instead of {value!r}"
            for key, value in manifest.items()
            if there.get(key) != value
        ]
        raise DataError(f"{folder} holds other stamps ({', '.join(other)}). Delete it or choose another folder.")


def _write(file: Path, content: bytes) -> None:
    """Write atomically, but without fsync for each file: images lost in a power failure are drawn again."""
    part = file.with_suffix(".part")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        part.write_bytes(content)
        part.replace(file)
    except OSError as error:
        raise RunError(f"cannot write {file}: {error.strerror}. Free some space or choose another folder.") from error


def _jpeg(picture: NDArray[np.uint8], quality: int) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, "JPEG", quality=quality)
    return buffer.getvalue()


# --- one impression -------------------------------------------------------------------------------------------------


def impression(mask: Image.Image, size: int, rng: np.random.Generator) -> NDArray[np.uint8]:
    """Draw one impression of a stamp on paper.

    Args:
        mask: ink mask of mode L, 255 where there is ink; a side of 2 * ``size`` is enough for full detail.
        size: side of the image, in pixels.
        rng: source of all random choices.

    Returns:
        (size, size, 3) uint8 RGB.
    """
    ink = _press(_place(mask, size, rng), rng)
    colour = np.array(list(INKS.values())[rng.integers(len(INKS))]) + rng.normal(0, 0.05, 3)
    through = 1 - ink[..., None] * (1 - np.clip(colour, 0, 1)).astype(np.float32)
    return _photograph(_paper(size, rng) * _print(size, rng)[..., None] * through, rng)


def _smooth(size: int, cells: float, rng: np.random.Generator) -> Plane:
    """Smooth noise with about ``cells`` bumps across: (size, size), mean 0, standard deviation about 1."""
    few = max(3, round(cells) + 2)
    coarse = Image.fromarray(rng.standard_normal((few, few), dtype=np.float32))
    start = tuple(rng.uniform(0, 1, 2))
    box = (*start, start[0] + few - 1, start[1] + few - 1)
    bumps = np.asarray(coarse.resize((size, size), Image.Resampling.BICUBIC, box=box), dtype=np.float32)
    return bumps * np.float32(1.3)  # restores the standard deviation, which resizing reduces


def _blur(plane: Plane, radius: float) -> Plane:
    """Gaussian blur of values in [0, 1], at a precision of 8 bits."""
    image = Image.fromarray((plane * 255).astype(np.uint8)).filter(ImageFilter.GaussianBlur(radius))
    return np.asarray(image, dtype=np.float32) / np.float32(255)


def _place(mask: Image.Image, size: int, rng: np.random.Generator) -> Plane:
    """Rotate, scale, tilt and shift the mask; return the coverage of each pixel, (size, size) in [0, 1]."""
    turn = math.radians(rng.uniform(-180, 180) if rng.random() < 0.1 else rng.normal(0, 20))
    scale = rng.uniform(0.72, 1.05)
    shift = rng.normal(0, 0.07, 2)  # relative to the side; some impressions are cut off
    tilt = rng.normal(0, 0.05, 2)  # perspective of a tilted camera
    stretch = rng.uniform(0.95, 1.05)
    cos, sin = math.cos(turn) / scale, math.sin(turn) / scale
    turned = np.array(
        [[cos * stretch, sin * stretch, 0], [-sin, cos, 0], [*tilt, 1]]
    )  # image to mask coordinates, both in [-1, 1]
    moved = turned @ np.array([[1, 0, -2 * shift[0]], [0, 1, -2 * shift[1]], [0, 0, 1]])
    fine, rubber = 2 * size, mask.width
    to_unit = np.array([[2 / fine, 0, -1], [0, 2 / fine, -1], [0, 0, 1]])
    to_rubber = np.array([[rubber / 2, 0, rubber / 2], [0, rubber / 2, rubber / 2], [0, 0, 1]])
    whole = to_rubber @ moved @ to_unit
    placed = mask.transform(
        (fine, fine), Image.Transform.PERSPECTIVE, tuple((whole / whole[2, 2]).ravel()[:8]), Image.Resampling.BILINEAR
    )
    cover = np.asarray(placed.reduce(2), dtype=np.float32) / np.float32(255)
    if rng.random() < 0.12:  # double impression
        by = rng.integers(-4, 5, 2) * max(1, size // 80)
        cover = np.maximum(cover, np.float32(rng.uniform(0.3, 0.6)) * np.roll(cover, tuple(by), (0, 1)))
    return cover


def _press(cover: Plane, rng: np.random.Generator) -> Plane:
    """Turn coverage into the amount of ink on the paper, (size, size) in [0, 1]."""
    size = len(cover)
    unit = size / 160  # sizes below are for 160 pixels
    grain = rng.standard_normal(cover.shape, dtype=np.float32)
    rough = _smooth(size, size / 3, rng)
    # Blur, then threshold: below one half the ink bleeds, above it thin lines dry out. The noise makes edges ragged.
    spread = _blur(cover, rng.uniform(0.4, 1.0) * unit) + 0.08 * rough + 0.04 * grain
    ink = np.clip((spread - rng.uniform(0.22, 0.5)) / rng.uniform(0.15, 0.35), 0, 1)
    # Pressure varies smoothly, and is higher on one side.
    y, x = np.mgrid[-1 : 1 : size * 1j, -1 : 1 : size * 1j].astype(np.float32)
    lean = rng.uniform(0, 2 * math.pi)
    pressure = rng.uniform(0.75, 1.4) + rng.uniform(0.1, 0.4) * _smooth(size, 3, rng)
    pressure += rng.uniform(0, 0.5) * (math.cos(lean) * x + math.sin(lean) * y)
    # Ink is missing where the pressure is low, following the paper's texture; a dry pad leaves spots everywhere.
    tooth = 0.6 * rough + 0.5 * grain + 0.5 * _smooth(size, size / 8, rng)
    retained = 1 / (1 + np.exp(-4 * (2.2 * pressure - 0.3 + rng.uniform(-0.5, 0.5) - tooth)))
    density = rng.uniform(0.7, 1.0) * np.clip(0.75 + 0.25 * pressure, 0.3, 1)
    return np.asarray(ink * retained * density, dtype=np.float32)


def _paper(size: int, rng: np.random.Generator) -> Plane:
    """Blank paper with tint, large-scale variation and grain, (size, size, 3) in [0, 1]."""
    tint = np.array(PAPERS[rng.integers(len(PAPERS))], dtype=np.float32) * np.float32(rng.uniform(0.88, 1.0))
    clouds = 1 + 0.015 * _smooth(size, 5, rng) + 0.012 * _smooth(size, size / 4, rng)
    return np.asarray(tint * clouds[..., None], dtype=np.float32)


def _print(size: int, rng: np.random.Generator) -> Plane:
    """Content under the stamp: text, a table, a form, handwriting or nothing. (size, size), 1 where blank."""
    page = Image.new("L", (size, size), 255)
    draw = ImageDraw.Draw(page)
    kind = rng.choice(["blank", "text", "table", "form", "hand"], p=[0.25, 0.25, 0.15, 0.2, 0.15])
    tone = int(rng.integers(40, 150))
    if kind in ("text", "table"):
        _type_lines(draw, size, tone, rng)
    if kind in ("table", "form"):
        _rule(draw, size, tone, rng, columns=kind == "table")
    page = page.rotate(rng.normal(0, 2.5), Image.Resampling.BILINEAR, fillcolor=255)
    if kind == "hand" or rng.random() < 0.2:
        draw = ImageDraw.Draw(page)
        for _ in range(rng.integers(1, 3)):
            _scrawl(draw, size, int(rng.integers(30, 130)), rng)
    return np.asarray(page, dtype=np.float32) / np.float32(255)


def _type_lines(draw: ImageDraw.ImageDraw, size: int, tone: int, rng: np.random.Generator) -> None:
    """Draw lines of invented words and amounts from edge to edge."""
    face = load_typeface(
        str(rng.choice(["DejaVuSans", "DejaVuSerif", "DejaVuSansMono", "STIXGeneral"])),
        round(size * rng.uniform(0.05, 0.085)),
    )
    pool = [*PLACES, *THINGS, *TRADES, *CITIES, *WORDS]
    y = rng.uniform(-0.05, 0.1) * size
    while y < size:
        words = [str(word).lower() for word in rng.choice(pool, rng.integers(2, 6))] + [f"{rng.uniform(1, 900):.2f}"]
        draw.text((rng.uniform(-0.3, 0.1) * size, y), " ".join(words), fill=tone, font=face)
        y += face.size * (1.35 if rng.random() < 0.85 else 2.7)


def _rule(draw: ImageDraw.ImageDraw, size: int, tone: int, rng: np.random.Generator, *, columns: bool) -> None:
    """Draw the horizontal lines of a form; with ``columns``, also the vertical lines of a table."""
    width = max(1, round(size / 130))
    step = rng.uniform(0.12, 0.25) * size
    for y in np.arange(rng.uniform(0, step), size, step):
        draw.line([(0, y), (size, y)], fill=tone, width=width)
    if columns:
        for x in rng.uniform(0, size, rng.integers(1, 4)):
            draw.line([(x, 0), (x, size)], fill=tone, width=width)


def _scrawl(draw: ImageDraw.ImageDraw, size: int, tone: int, rng: np.random.Generator) -> None:
    """Draw a scrawl like a signature: a few loops that end in a line."""
    t = np.linspace(0, 1, 240)
    start, length, height = rng.uniform(-0.1, 0.5), rng.uniform(0.35, 0.8), rng.uniform(0.03, 0.08)
    waves = [np.sin(2 * math.pi * (rng.uniform(*turns) * t + rng.random())) for turns in ((0.5, 2), (2, 4), (5, 9))]
    swing = 2 * math.pi * rng.uniform(5, 9) * (t + 0.04 * waves[1])  # uneven speed
    up = height * (0.5 + 0.5 * waves[0] + 0.4 * waves[1]) * np.sin(swing) * (1 - t**4) + 0.3 * height * waves[2]
    x = start + length * t + 0.4 * height * np.cos(swing) - 0.5 * up  # slanted
    y = rng.uniform(0.1, 0.9) + rng.normal(0, 0.12) * t + up
    path = [(float(a), float(b)) for a, b in zip(x * size, y * size, strict=True)]
    draw.line(path, fill=tone, width=max(1, round(size * rng.uniform(0.004, 0.011))), joint="curve")


def _photograph(scene: Plane, rng: np.random.Generator) -> NDArray[np.uint8]:
    """Apply lighting from one side, slight defocus and sensor noise: (size, size, 3) uint8."""
    size = len(scene)
    y, x = np.mgrid[-1 : 1 : size * 1j, -1 : 1 : size * 1j].astype(np.float32)
    light = rng.uniform(0.8, 1.06) + rng.normal(0, 0.06) * x + rng.normal(0, 0.06) * y
    lit = Image.fromarray((np.clip(scene * light[..., None], 0, 1) * 255).astype(np.uint8))
    soft = lit.filter(ImageFilter.GaussianBlur(rng.uniform(0.0, 1.3) * size / 160))
    noise = rng.standard_normal(scene.shape, dtype=np.float32) * np.float32(rng.uniform(1, 6))
    return np.clip(np.asarray(soft, dtype=np.float32) + noise, 0, 255).astype(np.uint8)
