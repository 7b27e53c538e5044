"""The picture of the sphere: what is drawn is where the embeddings are, and its files are what they say."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.collections import PathCollection
from PIL import Image

from cosphere.errors import SizeError
from cosphere.report import SphereRun, write_sphere
from cosphere.report.sphere import sphere_figure

LABELS = np.arange(40) % 5


def shell(spread: float, snapshots: int = 3) -> np.ndarray:
    """Directions at random; lengths 3 and their spread."""
    generator = np.random.default_rng(0)
    points = generator.normal(size=(snapshots, len(LABELS), 3))
    points *= (
        3
        * (1 + spread * generator.uniform(-1, 1, (snapshots, len(LABELS), 1)))
        / np.linalg.norm(points, axis=2, keepdims=True)
    )
    return points


def marks(axes: Axes) -> np.ndarray:
    """All drawn points."""
    return np.concatenate([one.get_offsets() for one in axes.collections if isinstance(one, PathCollection)])


def test_equal_lengths_lie_within_the_circle_and_fill_it() -> None:
    figure = sphere_figure([SphereRun("even", shell(0.0))], LABELS, [0, 5, 9])
    radius = np.linalg.norm(marks(figure.axes[0]), axis=1)
    assert len(radius) == len(LABELS)
    assert radius.max() <= 1 + 1e-9
    assert radius.max() > 0.9


def test_the_view_is_from_18_degrees_above_the_equator() -> None:
    points = np.zeros((2, 4, 3))
    points[:] = [[2, 0, 0], [-2, 0, 0], [0, 2, 0], [0, -2, 0]]
    figure = sphere_figure([SphereRun("equator", points)], np.zeros(4, dtype=np.int64), [0, 1], at=0)
    seen = marks(figure.axes[0])
    assert np.allclose(sorted(np.abs(seen[:, 0])), [0, 0, 1, 1], atol=1e-9)  # unturned: x is to the right
    assert np.allclose(sorted(np.abs(seen[:, 1])), [0, 0, np.sin(np.deg2rad(18)), np.sin(np.deg2rad(18))], atol=1e-9)


def test_the_histogram_is_that_of_the_relative_lengths_and_names_their_variation() -> None:
    points = shell(0.9)
    figure = sphere_figure([SphereRun("uneven", points)], LABELS, [0, 5, 9])
    lengths = np.linalg.norm(points[-1], axis=1)
    relative = lengths / lengths.mean()
    drawn = figure.axes[1].patches[0].get_data()
    assert np.allclose(drawn.values, np.histogram(relative, drawn.edges)[0] / len(LABELS))
    assert f"CV {lengths.std() / lengths.mean():.2f}" in [text.get_text() for text in figure.axes[1].texts]


def test_points_beyond_the_edge_stand_at_it_and_are_counted_in_the_last_bin() -> None:
    points = np.tile(np.eye(3), (1, 4, 1))
    points[0, 0] *= 100
    figure = sphere_figure([SphereRun("one far", points)], np.zeros(12, dtype=np.int64), [0])
    assert np.abs(marks(figure.axes[0])).max() <= 2
    assert figure.axes[1].patches[0].get_data().values[-1] == pytest.approx(1 / 12)


def test_classes_differ_in_shape_where_they_share_a_colour() -> None:
    figure = sphere_figure([SphereRun("x", shell(0.1))], LABELS, [0, 1, 2])
    looks = {
        (one.get_paths()[0].vertices.tobytes(), tuple(one.get_facecolor()[0][:3]))
        for one in figure.axes[0].collections
        if isinstance(one, PathCollection)
    }
    assert len(looks) == 5


def test_files(tmp_path: Path) -> None:
    runs = [SphereRun("a $b$ <c>", shell(0.5)), SphereRun("with SEC", shell(0.01))]
    svg, png, gif = write_sphere(runs, LABELS, [0, 10, 20], tmp_path, name="ball")
    text = svg.read_text()
    assert "step 20" in text
    assert "a $b$ &lt;c&gt;" in text
    assert not re.search(r'href="http|url\(http', text)
    with Image.open(png) as still:
        assert still.size[0] > 1000
    with Image.open(gif) as moving:
        assert moving.n_frames == 3
        assert moving.info["loop"] == 0
        assert moving.convert("RGB").getpixel((2, 2)) == (255, 255, 255)
        moving.seek(2)
        assert moving.info["duration"] > 1000


@pytest.mark.parametrize(
    ("embeddings", "labels", "message"),
    [
        (np.zeros((3, 40, 2)), LABELS, r"3 steps, 40 images, 3.*got \(3, 40, 2\)\. Train with model\.dim 3"),
        (np.zeros((2, 40, 3)), LABELS, r"got \(2, 40, 3\)"),
        (np.zeros((3, 40, 3)), LABELS + 30, r"labels from 0 to 31; got 30 to 34\. Draw fewer classes"),
        (np.zeros((3, 0, 3)), LABELS[:0], r"at least one run, one image"),
    ],
)
def test_what_does_not_fit_is_refused(embeddings: np.ndarray, labels: np.ndarray, message: str, tmp_path: Path) -> None:
    with pytest.raises(SizeError, match=message):
        write_sphere([SphereRun("x", embeddings)], labels, [0, 1, 2], tmp_path)
    assert not list(tmp_path.iterdir())
