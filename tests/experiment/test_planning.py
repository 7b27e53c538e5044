"""Proposing runs, and estimating what they cost."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from cosphere.data import Catalogue
from cosphere.experiment.images import parts_of_training
from cosphere.experiment.planning import Choice, DataSummary, estimate, plan, proposals, summarise
from cosphere.experiment.trial import Cost
from cosphere.train import TrainSettings

COST = Cost(start=5.0, step=0.5, lens=2.0, embedded=50.0, features=20.0, memory=10**9, device_memory=0)


def summary(**values: object) -> DataSummary:
    return DataSummary(
        **{"train_images": 1000, "val_images": 200, "classes": 50, "per_class": (10, 20, 40), "side": 400, **values}
    )


def test_a_run_on_images_takes_its_steps_and_embeds_at_every_validation() -> None:
    settings = TrainSettings().with_values({"steps": 250, "validation.every": 100})
    # Validated before, at 100, 200 and 250: four times 200 / 50 s and 2 s.
    assert estimate(settings, summary(), COST) == pytest.approx(5 + 250 * 0.5 + 4 * (4 + 2))
    assert estimate(settings.with_values({"validation.before": False}), summary(), COST) == pytest.approx(148)
    assert estimate(settings, summary(val_images=0), COST) == pytest.approx(5 + 125)


def test_a_run_on_cached_features_embeds_once() -> None:
    settings = TrainSettings().with_values({"steps": 100, "validation.every": 50, "features.copies": 4})
    # 4 views of 1000 images at 20 a second, validation images once, three validations of 2 s.
    assert estimate(settings, summary(), COST) == pytest.approx(5 + 100 * 0.5 + 200 + 4 + 3 * 2)


@pytest.mark.parametrize(
    ("side", "per_class", "sizes", "each"),
    [
        (400, (10, 20, 40), (160, 160, 224), 5),
        (128, (5, 5, 5), (128, 128, 224), 5),
        (100, (3, 4, 9), (96, 96, 192), 3),
        (20, (2, 2, 2), (64, 64, 128), 2),
    ],
)
def test_proposals_fit_the_data(side: int, per_class: tuple[int, int, int], sizes: tuple[int, ...], each: int) -> None:
    made = proposals(summary(side=side, per_class=per_class))
    assert tuple(changes["images.size"] for _, changes, _ in made) == sizes
    assert {changes["batch.images_per_class"] for _, changes, _ in made} == {each}
    assert [changes.get("features.copies", 0) > 0 for _, changes, _ in made] == [True, False, False]
    for _, changes, _ in made:
        TrainSettings().with_values(changes)


def test_reasons_quote_what_was_measured_and_no_more() -> None:
    evidence = Path(__file__).parents[2].joinpath("docs", "evidence.md").read_text(encoding="utf-8")
    quick, standard, large = (reason for _, _, reason in proposals(summary(side=400)))
    assert (
        "sec.weight" not in proposals(summary())[0][1]
    )  # the evidence answers "no" for a frozen backbone and this loss
    for words, quoted in (
        (quick, ("with multi-similarity, against no constraint? | -2.3 ", "2.3 points")),
        (standard, ("multi-similarity | +6.5 (-7.5 to +20.5)", "+6.5 points", "-7.5 to +20.5")),
        (large, ("| 160 px | 40.2 ", "| 224 px | 44.6 ", "40.2 % at 160 px to 44.6 % at 224 px")),
    ):
        documented = [one for one in quoted if "|" in one]
        assert documented
        assert all(one in evidence for one in documented)
        assert all(one in words for one in quoted if one not in documented)
    assert "a step takes about 2.0 times as long" in large
    small = proposals(summary(side=64))[2][2]
    assert "nobody measured smaller ones; a step takes about 4.0 times as long" in small
    assert "40.2" not in small


def test_the_summary_counts_what_is_trained_on(catalogue: Catalogue) -> None:
    settings = TrainSettings()
    parts = parts_of_training(catalogue, settings)
    made = summarise(parts)
    counts = np.bincount(parts.train.labels)
    assert made.train_images == len(parts.train) == counts.sum()
    assert made.val_images == (0 if parts.val is None else len(parts.val))
    assert made.per_class == (counts.min(), np.median(counts), counts.max())


def test_without_measuring_there_are_settings_and_reasons(photos: object) -> None:
    made = plan(str(photos), measure=False)
    assert [choice.name for choice in made.choices] == ["quick", "standard", "large"]
    assert all(choice.cost is None and choice.seconds is None and choice.reason for choice in made.choices)
    assert made.summary.side == 40


def test_what_the_plan_was_asked_for_stands_in_its_commands(photos: Path) -> None:
    made = plan(photos, layout="folder", classes="leaf", device="cpu", measure=False)
    for choice in made.choices:
        words = choice.command("photos").split()
        given = {name.removeprefix("--"): value for name, value in zip(words[3::2], words[4::2], strict=True)}
        del given["name"]
        assert TrainSettings().with_values({**given, "data.root": str(photos)}) == choice.settings
    assert made.choices[0].changes["data.classes"] == "leaf"


def test_a_choice_says_its_command() -> None:
    changes = {"images.size": 160, "sec.weight": 0.02}
    choice = Choice(name="standard", changes=changes, settings=TrainSettings(), reason="", cost=None, seconds=None)
    assert (
        choice.command("my photos") == "cosphere train 'my photos' --name standard --images.size 160 --sec.weight 0.02"
    )
