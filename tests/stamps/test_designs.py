from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from cosphere.stamps.designs import BORDERS, EMBLEMS, FILLINGS, SHAPES, Template, design, draw_design, outline

PLAIN = Template(
    shape="round",
    border="single",
    filling="rows",
    typeface="DejaVuSans",
    height=0.6,
    weight=0.03,
    inner_ring=True,
    rules=True,
)


def inked(image: Image.Image) -> np.ndarray:
    return np.asarray(image) > 127


def test_a_design_hangs_on_its_seed_and_number() -> None:
    assert design(5, seed=3) == design(5, seed=3)
    assert design(5, seed=3) != design(5, seed=4)


def test_twins_share_a_layout_and_nothing_that_makes_them_one() -> None:
    same_firm = 0
    for pair in range(40):
        one, two = design(2 * pair, seed=0), design(2 * pair + 1, seed=0)
        assert one.template == two.template
        assert one.word != two.word
        assert one.emblem != two.emblem
        assert one.name != two.name
        same_firm += one.firm == two.firm
    assert 5 < same_firm < 35  # some pairs are of one firm, some of two
    templates = [design(2 * pair, seed=0).template for pair in range(40)]
    assert len(set(templates)) == 40
    assert {template.shape for template in templates} == set(SHAPES)
    assert {template.border for template in templates} == set(BORDERS)
    assert {template.filling for template in templates} == set(FILLINGS)


def test_names_can_be_read() -> None:
    one = design(17, seed=0)
    words = replace(one, firm="North Harbour Trading", word="PAID", template=PLAIN)
    assert words.name == "017-round-north-harbour-trading-paid"
    assert (
        replace(words, emblem="leaf", template=replace(PLAIN, filling="emblem")).name
        == "017-round-north-harbour-trading-leaf"
    )


@pytest.mark.parametrize("shape", sorted(set(SHAPES)))
@pytest.mark.parametrize("border", BORDERS)
@pytest.mark.parametrize("filling", FILLINGS)
def test_every_layout_draws_a_whole_stamp(shape: str, border: str, filling: str) -> None:
    template = replace(PLAIN, shape=shape, border=border, filling=filling)
    one = replace(design(0, seed=0), template=template)
    image = draw_design(one, 160)
    assert (image.mode, image.size) == ("L", (160, 160))
    ink = inked(image)
    assert 0.03 < ink.mean() < 0.45
    rows, columns = np.flatnonzero(ink.any(axis=1)), np.flatnonzero(ink.any(axis=0))
    assert rows[0] > 0
    assert columns[0] > 0
    assert rows[-1] < 159
    assert columns[-1] < 159
    if shape != "triangle":  # the rubber fills the sheet from left to right and sits in its middle
        assert columns[0] + columns[-1] == pytest.approx(159, abs=4)
        assert rows[0] + rows[-1] == pytest.approx(159, abs=4)
        assert columns[-1] - columns[0] > 135


CHANGES = {
    "word": {"word": "URGENT"},
    "date": {"date": "9 SEP 1999"},
    "firm": {"firm": "Lower Lantern Seeds"},
    "city": {"city": "Eskholm"},
    "emblem": {"emblem": "gear"},
}


@pytest.mark.parametrize("shape", sorted(set(SHAPES)))
@pytest.mark.parametrize(
    ("filling", "what"),
    [("emblem", "emblem"), ("emblem", "firm"), ("emblem", "city"), ("rows", "word"), ("rows", "date"), ("rows", "firm"),
     ("both", "emblem"), ("both", "word"), ("both", "firm")],
)  # fmt: skip
def test_what_is_written_is_drawn(shape: str, filling: str, what: str) -> None:
    one = replace(design(0, seed=0), template=replace(PLAIN, shape=shape, filling=filling), emblem="moon")
    two = replace(one, **CHANGES[what])
    assert (inked(draw_design(one, 160)) != inked(draw_design(two, 160))).sum() > 30  # pixels


@pytest.mark.parametrize("shape", sorted(set(SHAPES)))
def test_an_inset_outline_keeps_its_distance(shape: str) -> None:
    template = replace(PLAIN, shape=shape)
    edge, inside = outline(template, 0.0), outline(template, 0.1)
    assert edge.shape == inside.shape == (720, 2)
    nearest = np.array([min(np.hypot(*(point - other)) for other in edge) for point in inside[::9]])
    # An ellipse whose half axes shrink by one amount stays close to its parallel curve, no more.
    assert nearest == pytest.approx(np.full(80, 0.1), abs=0.02 if shape == "oval" else 0.003)
    assert (np.hypot(*inside.T) < np.hypot(*edge.T).max()).all()


@pytest.mark.parametrize("shape", sorted(set(SHAPES)))
def test_an_outline_goes_evenly_clockwise(shape: str) -> None:
    path = outline(replace(PLAIN, shape=shape), 0.05)
    steps = np.hypot(*(np.roll(path, -1, axis=0) - path).T)
    assert steps.max() / steps.min() < 1.5  # a step that cuts a corner is shorter
    x, y = path.T
    twice_the_area = sum(x[i - 1] * y[i] - x[i] * y[i - 1] for i in range(720))
    assert twice_the_area > 0  # clockwise where y points down


@pytest.mark.parametrize("name", EMBLEMS)
def test_an_emblem_fills_its_box(name: str) -> None:
    painted = [points for ink, points in EMBLEMS[name]() if ink]
    assert painted
    assert max(np.abs(points).max() for points in painted) <= 1.06
    assert max(np.abs(points).max() for points in painted) > 0.85  # and fills it


def test_emblems_differ() -> None:
    one = replace(design(0, seed=0), template=replace(PLAIN, filling="emblem"))
    masks = [inked(draw_design(replace(one, emblem=name), 96)) for name in EMBLEMS]
    assert len(masks) >= 10
    for i, first in enumerate(masks):
        for second in masks[:i]:
            assert (first != second).mean() > 0.02
