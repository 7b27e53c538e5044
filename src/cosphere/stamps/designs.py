"""Designs of synthetic rubber stamps: templates, wording and emblems, drawn as ink masks.

All content is invented: firms, cities, dates, numbers and emblems are combined at random from the lists below, and any
resemblance to a real stamp is accidental. Designs come in pairs: the two share a template (outline, border, typeface,
arrangement), some pairs also the firm, and differ in wording and emblem, as the stamps of one office do.

Coordinates on a mask span [-1, 1] in both directions, x to the right and y down.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Literal

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from cosphere._types import Floats

Points = Floats  # (N, 2) x, y
Shape = Literal["round", "oval", "rectangle", "triangle", "hexagon", "octagon"]
Border = Literal["single", "double", "dashed", "rope", "beads"]
Filling = Literal["emblem", "rows", "both"]

SHAPES: tuple[Shape, ...] = (
    "round",
    "rectangle",
    "oval",
    "round",
    "triangle",
    "rectangle",
    "hexagon",
    "oval",
    "octagon",
)
BORDERS: tuple[Border, ...] = ("single", "double", "dashed", "rope", "beads")
FILLINGS: tuple[Filling, ...] = ("emblem", "rows", "both")
TYPEFACES = (
    "DejaVuSans-Bold",
    "DejaVuSansMono-Bold",
    "DejaVuSerif-Bold",
    "STIXGeneralBol",
    "DejaVuSans",
    "STIXGeneralBolIta",
)

# fmt: off
PLACES = (
    "North", "South", "Upper", "Lower", "Grey", "Silver", "Amber", "Cedar",
    "Willow", "Falcon", "Heron", "Granite", "Copper", "Harvest", "Meridian", "Orchard",
)
THINGS = (
    "Harbour", "Bridge", "Valley", "Mill", "Quarry", "Lantern", "Meadow",
    "Tower", "Anchor", "Forest", "River", "Castle", "Summit", "Garden",
)
TRADES = (
    "Trading", "Freight", "Paper", "Timber", "Optics", "Seeds",
    "Assay", "Press", "Tools", "Bank", "Archive", "Customs",
)
CITIES = (
    "Alderport", "Brenfeld", "Castova", "Dunmarsh", "Eskholm", "Farrowby",
    "Gildern", "Hallvik", "Istrava", "Jorvale", "Kestrel", "Lunden",
)
WORDS = (
    "RECEIVED", "PAID", "APPROVED", "ENTERED", "CHECKED", "CANCELLED",
    "POSTED", "COPY", "URGENT", "CLEARED", "SHIPPED", "FILED",
)
MONTHS = ("JAN", "FEB", "MAR", "APR", "MAY", "JUN", "JUL", "AUG", "SEP", "OCT", "NOV", "DEC")
# fmt: on

MARGIN = 0.96  # half the width of the widest outline, in mask units
FINE = 2  # supersampling factor: masks are drawn larger and then reduced, for smooth edges
EMBLEM_SHARE_OF_STACK = 1.7  # height of an emblem relative to a line of text


@dataclass(frozen=True, kw_only=True)
class Template:
    """What the two designs of a pair have in common."""

    shape: Shape
    border: Border
    filling: Filling
    typeface: str
    height: float  # half the height of an oval or rectangle, in (0, 1)
    weight: float  # stroke width of the border, in mask units
    inner_ring: bool  # a second, thin outline between the rim text and the centre
    rules: bool  # thin lines between the rows


@dataclass(frozen=True, kw_only=True)
class Design:
    """One stamp: a template and its content."""

    number: int
    template: Template
    firm: str
    city: str
    word: str
    date: str
    code: str
    emblem: str

    @property
    def name(self) -> str:
        """Readable and unique folder name: ``017-round-north-harbour-trading-paid``."""
        mark = self.emblem if self.template.filling == "emblem" else self.word
        return f"{self.number:03d}-{self.template.shape}-{self.firm}-{mark}".lower().replace(" ", "-")


def design(number: int, *, seed: int) -> Design:
    """Generate a design.

    Args:
        number: >= 0. Numbers 2n and 2n + 1 form a pair.
        seed: >= 0. A design depends on the seed and its number only, not on how many are drawn.
    """
    pair, member = divmod(number, 2)
    ours = np.random.default_rng([seed, 0, pair])
    template = _template(pair, ours)
    shared_firm = _firm(ours) if ours.random() < 0.5 else None  # otherwise each design of the pair has its own firm
    words, emblems = ours.permutation(WORDS), ours.permutation(list(EMBLEMS))
    own = np.random.default_rng([seed, 1, number])
    firm, city = shared_firm or _firm(own)
    return Design(
        number=number,
        template=template,
        firm=firm,
        city=city,
        word=str(words[member]),
        date=f"{own.integers(1, 29)} {MONTHS[own.integers(12)]} {own.integers(1961, 2025)}",
        code=f"No. {own.integers(100, 9999)}",
        emblem=str(emblems[member]),
    )


def _template(pair: int, rng: np.random.Generator) -> Template:
    shape = SHAPES[(pair + int(rng.integers(3))) % len(SHAPES)]  # cycles, so that every shape occurs
    return Template(
        shape=shape,
        border=BORDERS[rng.integers(len(BORDERS))],
        filling=FILLINGS[rng.integers(len(FILLINGS))],
        typeface=TYPEFACES[rng.integers(len(TYPEFACES))],
        height=float(rng.uniform(0.60, 0.76) if shape == "oval" else rng.uniform(0.42, 0.64)),
        weight=float(rng.uniform(0.022, 0.045)),
        inner_ring=bool(rng.random() < 0.6),
        rules=bool(rng.random() < 0.4),
    )


def _firm(rng: np.random.Generator) -> tuple[str, str]:
    """Generate a firm and its city."""
    first, second, trade = (str(rng.choice(words)) for words in (PLACES, THINGS, TRADES))
    return f"{first} {second} {trade}", str(rng.choice(CITIES))


# --- outlines -------------------------------------------------------------------------------------------------------


def outline(template: Template, inset: float) -> Points:
    """Outline of the stamp, moved inwards by ``inset``: (720, 2) evenly spaced points, clockwise from the top."""
    if template.shape in ("round", "oval"):
        height = MARGIN if template.shape == "round" else template.height
        turn = np.linspace(0, 2 * math.pi, 721) - math.pi / 2
        return _even(np.stack([np.cos(turn) * (MARGIN - inset), np.sin(turn) * (height - inset)], axis=1))
    return _even(_shrink(_corners(template), inset))


def _corners(template: Template) -> Points:
    if template.shape == "rectangle":
        return np.array([(-1, -1), (1, -1), (1, 1), (-1, 1)]) * (MARGIN, template.height)
    sides = {"triangle": 3, "hexagon": 6, "octagon": 8}[template.shape]
    start = 0.0 if sides == 3 else math.pi / sides  # flat top, except for the triangle
    turn = np.arange(sides) * 2 * math.pi / sides + start - math.pi / 2
    return np.stack([np.cos(turn), np.sin(turn)], axis=1) * MARGIN


def _shrink(corners: Points, inset: float) -> Points:
    """Move all sides of a convex polygon inwards and close it."""
    along = np.roll(corners, -1, axis=0) - corners
    along /= np.linalg.norm(along, axis=1, keepdims=True)
    after = np.stack([-along[:, 1], along[:, 0]], axis=1)  # inward normals, because the corners are in clockwise order
    before = np.roll(after, 1, axis=0)
    moved = corners + inset * (before + after) / (1 + (before * after).sum(axis=1, keepdims=True))
    return np.concatenate([moved, moved[:1]])


def _even(path: Points, count: int = 720) -> Points:
    """Resample a closed path (last point equal to the first) to ``count`` points at equal distances."""
    walked = np.concatenate([[0.0], np.linalg.norm(np.diff(path, axis=0), axis=1).cumsum()])
    at = np.linspace(0, walked[-1], count, endpoint=False)
    return np.stack([np.interp(at, walked, path[:, 0]), np.interp(at, walked, path[:, 1])], axis=1)


# --- emblems: closed polygons in [-1, 1], filled in order; False cuts a hole ----------------------------------------

Painted = list[tuple[bool, Points]]


def _disc(x: float, y: float, radius: float, corners: int = 40) -> Points:
    turn = np.linspace(0, 2 * math.pi, corners, endpoint=False) - math.pi / 2
    return np.stack([x + radius * np.cos(turn), y + radius * np.sin(turn)], axis=1)


def _radial(radius: Callable[[Points], Points]) -> Points:
    """Closed curve given by its radius at each angle from the top."""
    turn = np.linspace(0, 2 * math.pi, 240, endpoint=False)
    away = radius(turn)
    return np.stack([away * np.sin(turn), -away * np.cos(turn)], axis=1)


def _mirrored(*right: tuple[float, float]) -> Points:
    """Closed symmetric shape given by its right half, top to bottom."""
    half = np.array(right)
    return np.concatenate([half, half[::-1] * (-1, 1)])


def _star() -> Painted:
    return [(True, _disc(0, 0.05, 1, 10) * np.tile([[1.0], [0.42]], (5, 1)))]


def _anchor() -> Painted:
    turn = np.linspace(0.12, math.pi - 0.12, 30)
    arc = np.stack([np.cos(turn), np.sin(turn)], axis=1)
    bow = np.concatenate([arc * (0.9, 0.72) + (0, 0.25), arc[::-1] * (0.68, 0.46) + (0, 0.25)])
    shaft = _mirrored((0.11, -0.6), (0.11, 0.9))
    stock = _mirrored((0.45, -0.42), (0.45, -0.22))
    return [(True, _disc(0, -0.75, 0.25)), (False, _disc(0, -0.75, 0.11)), (True, shaft), (True, stock), (True, bow)]


def _leaf() -> Painted:
    along = np.linspace(-1, 0.75, 30)
    blade = np.stack([0.62 * np.sin((along + 1) / 1.75 * math.pi) ** 0.8, along], axis=1)
    vein = _mirrored((0.03, -0.7), (0.05, 1.0))
    side = [_mirrored((0.0, y), (0.42, y - 0.28), (0.42, y - 0.2), (0.0, y + 0.1)) for y in (-0.2, 0.15, 0.5)]
    stalk = _mirrored((0.05, 0.7), (0.06, 1.0))
    return [
        (True, np.concatenate([blade, blade[::-1] * (-1, 1)])),
        (False, vein),
        *((False, s) for s in side),
        (True, stalk),
    ]


def _cross() -> Painted:
    return [(True, _mirrored((0.3, -0.95), (0.3, -0.3), (0.95, -0.3), (0.95, 0.3), (0.3, 0.3), (0.3, 0.95)))]


def _gear() -> Painted:
    return [(True, _radial(lambda turn: np.where(np.sin(10 * turn) > 0, 0.95, 0.72))), (False, _disc(0, 0, 0.34))]


def _shield() -> Painted:
    edge = _mirrored((0.0, -0.95), (0.8, -0.8), (0.8, 0.1), (0.5, 0.65), (0.0, 1.0))
    return [(True, edge), (False, edge * 0.8), (True, _mirrored((0.13, -0.75), (0.13, 0.75))), (True, edge * 0.36)]


def _crown() -> Painted:
    points = _mirrored((0.0, -0.8), (0.3, 0.0), (0.9, -0.6), (0.72, 0.5))
    return [
        (True, points),
        (True, _mirrored((0.72, 0.6), (0.72, 0.8))),
        *((True, _disc(x, -0.68, 0.13)) for x in (-0.9, 0, 0.9)),
    ]


def _flower() -> Painted:
    return [
        (True, _radial(lambda turn: 0.62 + 0.33 * np.cos(6 * turn))),
        (False, _disc(0, 0, 0.25)),
        (True, _disc(0, 0, 0.13)),
    ]


def _moon() -> Painted:
    return [(True, _disc(0, 0, 0.92)), (False, _disc(0.4, -0.1, 0.75))]


def _ship() -> Painted:
    hull = np.array([(-0.95, 0.35), (0.95, 0.35), (0.6, 0.85), (-0.6, 0.85)])
    sails = [np.array([(0.06, -0.95), (0.75, 0.2), (0.06, 0.2)]), np.array([(-0.06, -0.7), (-0.06, 0.2), (-0.65, 0.2)])]
    return [(True, hull), *((True, sail) for sail in sails)]


def _tree() -> Painted:
    tiers = [_mirrored((0.0, y), (w, y + 0.62)) for y, w in ((-1.0, 0.42), (-0.65, 0.6), (-0.25, 0.8))]
    return [*((True, tier) for tier in tiers), (True, _mirrored((0.12, 0.3), (0.12, 0.95)))]


def _sun() -> Painted:
    return [
        (True, _radial(lambda turn: 0.55 + 0.42 * np.abs(np.cos(6 * turn)) ** 3)),
        (False, _disc(0, 0, 0.5)),
        (True, _disc(0, 0, 0.4)),
    ]


EMBLEMS: dict[str, Callable[[], Painted]] = {
    "star": _star,
    "anchor": _anchor,
    "leaf": _leaf,
    "cross": _cross,
    "gear": _gear,
    "shield": _shield,
    "crown": _crown,
    "flower": _flower,
    "moon": _moon,
    "ship": _ship,
    "tree": _tree,
    "sun": _sun,
}


# --- drawing --------------------------------------------------------------------------------------------------------


@lru_cache(maxsize=512)
def load_typeface(typeface: str, pixels: int) -> ImageFont.FreeTypeFont:
    """Load a font bundled with matplotlib. The basic layout engine renders the same on every machine."""
    import matplotlib  # slow to import, and only its data folder is needed

    path = Path(matplotlib.get_data_path()) / "fonts" / "ttf" / f"{typeface}.ttf"
    return ImageFont.truetype(path, pixels, layout_engine=ImageFont.Layout.BASIC)


def draw_design(drawn: Design, side: int) -> Image.Image:
    """Draw a design as an ink mask.

    Args:
        drawn: the design.
        side: side of the square mask, in pixels.

    Returns:
        Image of mode L, (side, side): 255 where there is ink, with antialiased edges.
    """
    sheet = _Sheet(side * FINE, drawn.template.typeface)
    inset = _draw_border(sheet, drawn.template)
    if drawn.template.shape in ("round", "oval"):
        inset = _draw_rim_text(sheet, drawn, inset)
    _draw_middle(sheet, drawn, outline(drawn.template, inset))
    return sheet.image.reduce(FINE)


class _Sheet:
    """A square canvas with coordinates in [-1, 1]."""

    def __init__(self, side: int, typeface: str) -> None:
        self.image = Image.new("L", (side, side))
        self.draw = ImageDraw.Draw(self.image)
        self.half = side / 2
        self.typeface = typeface

    def pixels(self, points: Points) -> list[tuple[float, float]]:
        return [(float(x), float(y)) for x, y in (points + 1) * self.half]

    def line(self, points: Points, width: float, *, closed: bool = False) -> None:
        path = np.concatenate([points, points[:2]]) if closed else points
        self.draw.line(self.pixels(path), fill=255, width=max(1, round(width * self.half)), joint="curve")

    def fill(self, points: Points, ink: bool = True) -> None:
        self.draw.polygon(self.pixels(points), fill=255 if ink else 0)

    def emblem(self, name: str, x: float, y: float, radius: float) -> None:
        for ink, points in EMBLEMS[name]():
            self.fill(points * radius + (x, y), ink)

    def fitted(self, text: str, height: float, width: float) -> ImageFont.FreeTypeFont:
        """Largest font with capitals at most ``height`` tall in which ``text`` is at most ``width`` wide."""
        probe = load_typeface(self.typeface, 100)
        tall, wide = -probe.getbbox("H", anchor="ls")[1] / 100, probe.getlength(text) / 100
        return load_typeface(self.typeface, max(5, int(self.half * min(height / tall, width / wide))))

    def text(self, text: str, x: float, y: float, height: float, width: float) -> None:
        """Draw text centred on (x, y)."""
        face = self.fitted(text, height, width)
        capital = -face.getbbox("H", anchor="ls")[1]
        middle = ((x + 1) * self.half, (y + 1) * self.half + capital / 2)
        self.draw.text(middle, text, fill=255, font=face, anchor="ms")

    def text_along(self, text: str, path: Points, height: float, width: float) -> None:
        """Draw text along ``path``, centred on its middle, each letter rotated to the direction of the path."""
        face = self.fitted(text, height, width)
        capital = -face.getbbox("H", anchor="ls")[1]
        steps = np.linalg.norm(np.diff(path, axis=0), axis=1)
        walked = np.concatenate([[0.0], steps.cumsum()]) * self.half
        at = (walked[-1] - face.getlength(text)) / 2
        box = 2 * int(face.size)
        for letter in text:
            advance = face.getlength(letter)
            here, ahead = (
                np.array([np.interp(at + advance / 2 + d, walked, path[:, i]) for i in (0, 1)]) for d in (0, 2)
            )
            glyph = Image.new("L", (box, box))
            ImageDraw.Draw(glyph).text((box / 2, (box + capital) / 2), letter, fill=255, font=face, anchor="ms")
            degrees = math.degrees(math.atan2(here[1] - ahead[1], ahead[0] - here[0]))
            glyph = glyph.rotate(degrees, Image.Resampling.BICUBIC)
            x, y = (here + 1) * self.half - box / 2
            self.image.paste(255, (round(x), round(y)), glyph)
            at += advance


def _draw_border(sheet: _Sheet, template: Template) -> float:
    """Draw the border; return its extent inwards from the outline."""
    weight = template.weight
    if template.border == "single":
        sheet.line(outline(template, weight), weight * 1.4, closed=True)
        return 3 * weight
    if template.border == "double":
        sheet.line(outline(template, weight), weight * 1.5, closed=True)
        sheet.line(outline(template, 2.8 * weight), weight * 0.6, closed=True)
        return 4.2 * weight
    path = outline(template, 1.4 * weight)
    if template.border == "dashed":
        for start in range(0, 720, 20):
            sheet.line(path[start : start + 14], weight * 1.3)
        return 3.2 * weight
    if template.border == "rope":  # slanted strokes between two edges
        inner = outline(template, 3.2 * weight)
        for start in range(0, 720, 10):
            sheet.line(np.stack([path[start], inner[(start + 10) % 720]]), weight * 0.8)
        return 4.4 * weight
    for start in range(0, 720, 15):  # beads
        sheet.fill(_disc(path[start, 0], path[start, 1], weight * 0.95, 16))
    return 3.4 * weight


def _draw_rim_text(sheet: _Sheet, drawn: Design, inset: float) -> float:
    """Draw the firm along the top and the city along the bottom of a round stamp; return the inset of the centre."""
    template = drawn.template
    height = 0.13 if template.shape == "round" else 0.105
    path = outline(template, inset + 0.03 + height / 2)
    over = np.roll(path, 360, axis=0)[100:621]  # left, top, right
    under = path[::-1][200:520]  # left, bottom, right
    around = 720 * float(np.linalg.norm(path[1] - path[0]))
    sheet.text_along(drawn.firm.upper(), over, height, around * 0.58)
    sheet.text_along(drawn.city.upper(), under, height, around * 0.26)
    for point in (path[232], path[488]):  # between the two texts
        sheet.emblem("star", point[0], point[1], height * 0.45)
    if template.inner_ring:
        sheet.line(outline(template, inset + height + 0.08), template.weight * 0.6, closed=True)
    return inset + height + (0.13 if template.inner_ring else 0.09)


def _draw_middle(sheet: _Sheet, drawn: Design, inside: Points) -> None:
    """Draw the centre of the stamp: an emblem, rows of text, or both."""
    template, rows = drawn.template, _rows(drawn)
    left, top, bottom = inside[:, 0].min(), inside[:, 1].min(), inside[:, 1].max()
    if template.shape in ("round", "oval") and rows:  # text goes into the widest part
        top, bottom = top * 0.86, bottom * 0.86
    if template.filling != "rows" and template.shape == "rectangle":  # emblem to the left of the rows
        radius = (bottom - top) * 0.36
        sheet.emblem(drawn.emblem, left + radius * 1.15, (top + bottom) / 2, radius)
        left += 2.4 * radius
    elif template.filling != "rows":  # emblem above the rows
        share = EMBLEM_SHARE_OF_STACK / (EMBLEM_SHARE_OF_STACK + sum(height for _, height in rows))
        start = top + (0.30 * (bottom - top) if template.shape == "triangle" else 0.0)
        height = (bottom - start) * share
        sheet.emblem(drawn.emblem, 0.0, start + height / 2, height * 0.44)
        top = start + height
    elif template.shape == "triangle":
        top += 0.42 * (bottom - top)  # nothing legible fits into the tip
    _draw_rows(sheet, rows, inside, left, top, bottom, template.rules)


def _rows(drawn: Design) -> list[tuple[str, float]]:
    """Lines of text in the centre, top to bottom, each with its relative height."""
    template = drawn.template
    word, date, code = (drawn.word, 1.4), (drawn.date, 1.0), (drawn.code, 0.8)
    if template.shape in ("round", "oval"):  # the firm is on the rim
        return {"emblem": [], "rows": [word, date, code], "both": [word, date]}[template.filling]
    if template.shape == "triangle":  # the longest line where it is widest
        return {"emblem": [(drawn.city, 1.0)], "rows": [code, date, word], "both": [date, word]}[template.filling] + [
            (drawn.firm, 0.8)
        ]
    if (
        template.shape == "rectangle" and template.filling != "rows"
    ):  # only half the width is available, so the firm takes two lines
        name, _, trade = drawn.firm.rpartition(" ")
        return [(name, 1.0), (trade, 1.0), (drawn.city, 0.8) if template.filling == "emblem" else word]
    return [
        (drawn.firm, 0.9),
        *{"emblem": [(drawn.city, 0.8)], "rows": [word, date, code], "both": [word, date]}[template.filling],
    ]


def _draw_rows(
    sheet: _Sheet, rows: list[tuple[str, float]], inside: Points, left: float, top: float, bottom: float, rules: bool
) -> None:
    """Draw rows of text between ``top`` and ``bottom``, each as large as fits into the outline ``inside``."""
    unit = (bottom - top) / max(1.0, sum(height for _, height in rows))
    for number, (text, share) in enumerate(rows):
        height = unit * share
        spans = [_chord(inside, top + height * part) for part in (0.2, 0.8)]
        start, end = max(left, *(span[0] for span in spans)), min(span[1] for span in spans)
        sheet.text(text.upper(), (start + end) / 2, top + height / 2, height * 0.6, (end - start) * 0.94)
        if rules and number:
            start, end = _chord(inside, top)
            start = max(start, left)
            sheet.line(np.array([(start + 0.04, top), (end - 0.04, top)]), 0.012)
        top += height


def _chord(inside: Points, y: float) -> tuple[float, float]:
    """Where a horizontal line enters and leaves a convex outline; the centre twice if it misses the outline."""
    nearest = np.abs(inside[:, 1] - y)
    right, left = inside[:, 0] >= 0, inside[:, 0] < 0
    return float(inside[left][nearest[left].argmin(), 0]), float(inside[right][nearest[right].argmin(), 0])
