"""Reading drawn figures back from their SVG text."""

from __future__ import annotations

import itertools
import re
from xml.etree import ElementTree

import numpy as np

SVG = "{http://www.w3.org/2000/svg}"


def texts(svg: str) -> list[str]:
    return ["".join(node.itertext()) for node in ElementTree.fromstring(svg).iter(f"{SVG}text")]


def group(svg: str, name: str) -> ElementTree.Element:
    found = [node for node in ElementTree.fromstring(svg).iter(f"{SVG}g") if node.get("id") == name]
    assert len(found) == 1, name
    return found[0]


def line_points(svg: str, name: str) -> np.ndarray:
    """Points of the drawn line, in the picture's units with y upwards."""
    path = group(svg, name).find(f"{SVG}path").get("d")
    points = np.array([[float(x), -float(y)] for x, y in re.findall(r"[ML] (\S+) (\S+)", path)])
    return points


def affine(drawn: np.ndarray, values: np.ndarray) -> np.ndarray:
    """How far drawn values are from values on the best linear axis; zero when the axis is linear and the data whole."""
    slope, offset = np.polyfit(values, drawn, 1)
    assert slope > 0
    return np.abs(slope * values + offset - drawn).max()


def bars(svg: str, name: str) -> np.ndarray:
    """Heights of the outlined histogram, one a bin: its flat parts."""
    points = line_points(svg, name)
    return np.array([b[1] for a, b in itertools.pairwise(points) if a[1] == b[1] and a[0] != b[0]])
