"""Collapses made on purpose are named with their numbers and a remedy; what was healthy when measured is left in peace."""

from __future__ import annotations

import json
import re
from dataclasses import replace

import numpy as np
import pytest

from cosphere.health import Health, embedding_health
from cosphere.health.concerns import LOGGED
from cosphere.train import TrainSettings


def healthy(count: int = 400, width: int = 32, classes: int = 20) -> tuple[np.ndarray, np.ndarray]:
    draw = np.random.default_rng(0)
    labels = np.arange(count) % classes
    return draw.normal(size=(classes, width))[labels] + draw.normal(size=(count, width)), labels


def kinds(rows: np.ndarray, labels: np.ndarray | None = None) -> list[str]:
    return list(embedding_health(rows, labels).concerns)


def test_classes_that_spread_are_healthy() -> None:
    assert kinds(*healthy()) == []
    assert kinds(healthy()[0]) == []


def test_zero_rows_are_counted() -> None:
    rows, labels = healthy()
    rows[[4, 7, 9]] = 0
    (sentence,) = embedding_health(rows, labels).warnings
    assert sentence.startswith("Zero rows: 3 of 400 embeddings are zero")
    assert "--optimizer.head_rate" in sentence


def test_all_in_one_place_is_a_total_collapse() -> None:
    rows, labels = healthy()
    found = embedding_health(rows + 40, labels)
    (sentence,) = found.warnings
    assert sentence.startswith(
        f"Total collapse: the cosine of two images is {found.mean_cosine:.3f} on average (limit 0.9)"
    )
    assert "--optimizer.head_rate and --optimizer.backbone_rate tenfold" in sentence
    assert kinds(np.ones((40, 8)), np.arange(40) // 4) == ["total collapse"]


@pytest.mark.parametrize("noise", [0.0, 1e-4, 0.01])
def test_two_directions_are_a_dimension_collapse_also_below_noise(noise: float) -> None:
    """Noise lifts the effective rank; the participation ratio stays near 2."""
    rows, labels = healthy()
    rows = rows @ np.diag([1.0, 1.0] + [noise] * 30)
    found = embedding_health(rows, labels)
    (sentence,) = found.warnings
    numbers = f"participation ratio {found.participation_ratio:.1f}, limit 3.0; effective rank {found.effective_rank:.1f}, limit 1.9"
    assert sentence.startswith(f"Dimension collapse: the embeddings vary in few of 19 possible directions ({numbers})")
    assert found.participation_ratio < 2.2
    assert "--loss.settings.temperature" in sentence
    assert kinds(rows) == ["dimension collapse"]


def test_a_low_rank_among_many_classes_is_a_collapse_though_it_is_even() -> None:
    draw = np.random.default_rng(0)
    rows = draw.normal(size=(600, 5)) @ np.linalg.qr(draw.normal(size=(128, 128)))[0][:5]
    found = embedding_health(rows, np.arange(600) // 3)
    assert found.participation_ratio > 4.5
    assert list(found.concerns) == ["dimension collapse"]


@pytest.mark.parametrize("classes", [2, 3, 10])
def test_well_trained_classes_are_points_and_no_collapse(classes: int) -> None:
    """As many directions as classes less one are all that there can be."""
    draw = np.random.default_rng(0)
    labels = np.arange(50 * classes) % classes
    rows = np.eye(classes, 64)[labels] + 1e-3 * draw.normal(size=(len(labels), 64))
    assert kinds(rows, labels) == []


@pytest.mark.parametrize("width", [1, 2, 3])
def test_small_widths_are_no_collapse(width: int) -> None:
    assert kinds(np.random.default_rng(0).normal(size=(200, width))) == []


def test_lengths_that_blow_up_ask_for_sec() -> None:
    rows, labels = healthy()
    found = embedding_health(rows * np.exp(1.2 * np.random.default_rng(1).normal(size=(400, 1))), labels)
    (sentence,) = found.warnings
    assert sentence.startswith(
        f"Unequal lengths: their standard deviation is {found.norm_cv:.2f} times their mean (limit 1)"
    )
    assert "--sec.weight" in sentence


def test_a_few_images_that_answer_everything_are_hubs_and_centring_cures_them() -> None:
    draw = np.random.default_rng(0)
    rows = draw.normal(size=(1500, 256)) * np.where(draw.random((1500, 1)) < 0.5, 1, 0.1) + 0.5
    found = embedding_health(rows)
    (sentence,) = found.warnings
    share = f"{100 * found.orphans:.0f} % of the images are among those of none (limit 30 %"
    assert sentence.startswith(
        f"Hubs: one image is among the 10 nearest of {found.largest_hub:.0f} others, and {share}"
    )
    assert "--model.norm batch and --model.bias false" in sentence
    assert kinds(rows - rows.mean(axis=0)) == []


MEASURED = {
    "triplet": (512, 98, 0.237, 0.0538, 244, 6.32, 1.29, 0.0413),
    "triplet, other seed": (512, 98, 0.168, 0.160, 235, 6.42, 1.38, 0.0418),
    "triplet with SEC": (512, 98, 0.213, 0.138, 307, 13.2, 1.44, 0.0283),
    "multi-similarity": (512, 98, 0.391, 0.472, 242, 7.46, 2.19, 0.0313),
    "multi-similarity, other seed": (512, 98, 0.452, 0.333, 281, 12.3, 1.54, 0.0291),
    "multi-similarity with SEC": (512, 98, 0.232, 0.201, 316, 15.8, 1.46, 0.0298),
    "norm softmax": (2048, 98, 0.0223, 0.139, 793, 49.7, 1.96, 0.0349),
    "untrained backbone": (1280, 98, 0.0961, 0.527, 734, 33.7, 2.17, 0.0345),
    "faces": (128, 5749, 0.113, 0.0141, 120, 85.9, 1.94, 0.00423),
}
"""Of real embeddings: width, classes, CV of the lengths, mean cosine, both ranks, hubness, orphans."""


def health_of(name: str) -> Health:
    dim, classes, cv, cosine, rank, ratio, skew, orphans = MEASURED[name]
    rows = 13233 if name == "faces" else 4092
    return Health(
        rows=rows, dim=dim, compared=rows, classes=classes, k=10, zero_rows=0, norm_cv=cv, mean_cosine=cosine,
        effective_rank=rank, participation_ratio=ratio, uniformity=-2.5, alignment=0.8, hubness=skew, orphans=orphans,
        largest_hub=60, margin=0.0, margin_below_zero=0.5,
    )  # fmt: skip


@pytest.mark.parametrize("name", MEASURED)
def test_what_was_healthy_when_measured_is_left_in_peace(name: str) -> None:
    assert health_of(name).warnings == ()


def test_findings_are_the_warnings_without_what_to_set_in_training() -> None:
    most = replace(health_of("faces"), zero_rows=3, norm_cv=2.0, participation_ratio=1.0, hubness=9.0, orphans=0.5)
    for found in (most, replace(most, mean_cosine=0.99)):
        assert len(found.findings) == len(found.warnings) == 4
        for finding, warning in zip(found.findings, found.warnings, strict=True):
            assert warning.startswith(finding.removesuffix(".") + "; ")
            assert "--" not in finding
    assert health_of("faces").findings == ()


def test_every_limit_stands_between_the_healthy_and_the_collapsed() -> None:
    """Numbers of heads that collapsed when trained on real features, and of those cut down on purpose."""
    sound = health_of("triplet")
    for kind, broken in {
        "total collapse": {"mean_cosine": 0.965},  # hardest triplets at a rate of 1e-3; at 1e-1: 0.997
        "dimension collapse": {"participation_ratio": 1.94},  # two directions and 2 % of noise
        "unequal lengths": {"norm_cv": 1.5},
        "hubs": {"orphans": 0.489},
        "zero rows": {"zero_rows": 1},
    }.items():
        assert list(replace(sound, **broken).concerns) == [kind]
    assert list(replace(sound, effective_rank=7.13).concerns) == ["dimension collapse"]  # cut to eight directions
    assert list(replace(sound, hubness=5.1).concerns) == ["hubs"]


def test_each_warning_is_one_sentence_and_names_settings_that_exist() -> None:
    worst = replace(
        health_of("triplet"),
        zero_rows=4, participation_ratio=1.2, effective_rank=2.0, norm_cv=3.0, hubness=9.0, orphans=0.6,
    )  # fmt: skip
    total = replace(worst, mean_cosine=0.99)
    # In a total collapse the directions that are left say nothing: one fault, one remedy.
    assert set(worst.concerns) ^ set(total.concerns) == {"dimension collapse", "total collapse"}
    assert len(worst.warnings) == 4
    known = TrainSettings().as_dict()
    for sentence in {*worst.warnings, *total.warnings}:
        assert sentence.endswith(".")
        assert not re.search(r"\. [A-Z]", sentence)
        assert re.search(r"\d", sentence)
        named = re.findall(r"--(\w+)\.(\w+)", sentence)
        assert named
        for room, setting in named:
            assert setting in known[room]


def test_plain_numbers_for_files_and_logs() -> None:
    rows, labels = healthy()
    found = embedding_health(rows, labels)
    content = json.loads(json.dumps(found.as_dict(), allow_nan=False))
    assert content["warnings"] == []
    assert content["effective_rank"] == found.effective_rank
    assert set(content) == {*Health.__dataclass_fields__, "warnings"}
    assert set(found.logged()) == set(LOGGED)
    assert set(embedding_health(rows).logged()) == set(LOGGED) - {"alignment", "margin"}
    assert embedding_health(rows[:1]).logged() == {"norm_cv": 0.0}
