"""Planning a training run: what the data is, what each choice costs on this machine, and three settings to start with."""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, get_args

import numpy as np

from cosphere._types import Device
from cosphere.checks import check_choice, check_switches
from cosphere.data import Catalogue, Classes, TrainingParts, read_catalogue
from cosphere.errors import DataError
from cosphere.experiment.images import parts_of_training
from cosphere.experiment.listener import SILENT, Listener
from cosphere.experiment.models import choose_device
from cosphere.experiment.trial import Cost, measure_cost
from cosphere.fields import flatten
from cosphere.files import path_of
from cosphere.images import read_image
from cosphere.origins import machine_memory
from cosphere.train import TrainSettings
from cosphere.train.setup import check_classes

_SAMPLED = 32
"""Images that are decoded to learn the usual size."""
_STEP = 32
"""Backbones halve an image five times, so sizes are multiples of this."""
_MEASURED, _PRETRAINED = 160, 224
"""Input sizes, in pixels, that the evidence compares: a quick one, and that at which the default backbone saw ImageNet."""
_USABLE = 0.8
"""Share of a machine's memory that one process can fill before the others feel it."""


class DataSummary(NamedTuple):
    """What a plan depends on. Counts are of training classes; validation classes are held out already."""

    train_images: int
    val_images: int
    classes: int
    per_class: tuple[int, int, int]
    """Smallest, median and largest number of images of a class."""
    side: int
    """Median shorter side of the images, in pixels."""


@dataclass(frozen=True, eq=False, kw_only=True)
class Choice:
    """Settings to start with, and what they cost."""

    name: str
    changes: dict[str, Any]
    """Settings that differ from the defaults, by dotted name."""
    settings: TrainSettings
    reason: str
    cost: Cost | None
    """Measured on this machine; None if it was not."""
    seconds: float | None
    """Estimate of the whole run."""

    def too_large(self, memory: int | None) -> bool:
        """Whether the run would fill most of a memory of so many bytes. False where either is unknown."""
        return memory is not None and self.cost is not None and self.cost.memory > _USABLE * memory

    def command(self, source: str | Path) -> str:
        """The command line that starts this run."""
        words = [f"--{name} {shlex.quote(str(value))}" for name, value in self.changes.items()]
        return " ".join(["cosphere train", shlex.quote(str(source)), "--name", self.name, *words])


@dataclass(frozen=True, eq=False, kw_only=True)
class Plan:
    """Three choices for one set of images, cheapest first."""

    source: str
    summary: DataSummary
    choices: tuple[Choice, ...]
    memory: int | None = None
    """Of this machine, in bytes; None if unknown."""


def plan(
    source: str | Path,
    *,
    layout: str = "auto",
    classes: Classes = "top",
    device: str = "auto",
    measure: bool = True,
    listener: Listener = SILENT,
) -> Plan:
    """Read the data, time a short trial of each choice on this machine, and estimate the whole runs.

    A trial takes a few steps on a sample of the images in a process of its own, so that its peak memory is its own. No test
    image is read.

    Args:
        source: image folder, table or benchmark root.
        layout: how the source is laid out.
        classes: which of nested class folders is the class, "top" or "leaf".
        device: "auto", "cpu", "cuda" or "mps".
        measure: time the trials; without, only settings and reasons are given.
        listener: receives notes and progress.

    Raises:
        DataError: there are fewer than two training classes, or the images cannot be read.
        SettingsError: there is no such device.
        WeightsError: the backbone's weights are not there.
        RunError: a trial failed.
    """
    check_switches(measure=measure)
    check_choice(
        "device", device, get_args(Device)
    )  # without measuring, one that only another machine has is right too
    if measure:
        choose_device(device)
    catalogue = read_catalogue(source, layout=layout, classes=classes)
    listener.listed(catalogue.remarks)
    base = TrainSettings().with_values(
        {"data.root": str(path_of(source).absolute()), "data.layout": layout, "data.classes": classes, "device": device}
    )
    parts = parts_of_training(catalogue, base)
    check_classes(parts.train, catalogue)
    summary = summarise(parts)
    choices = []
    places = {"data.layout": layout, "data.classes": classes, "device": device}
    defaults = flatten(TrainSettings().as_dict())
    given = {name: value for name, value in places.items() if value != defaults[name]}
    proposed = [(name, given | changes, reason) for name, changes, reason in proposals(summary)]
    with listener.progress("timing a few steps of each choice") as progress:
        for done, (name, changes, reason) in enumerate(proposed):
            settings = base.with_values(changes)
            cost = measure_cost(settings) if measure else None
            seconds = None if cost is None else estimate(settings, summary, cost)
            choices.append(
                Choice(name=name, changes=changes, settings=settings, reason=reason, cost=cost, seconds=seconds)
            )
            if progress is not None:
                progress(done + 1, len(proposed))
    return Plan(source=str(source), summary=summary, choices=tuple(choices), memory=machine_memory())


def summarise(parts: TrainingParts) -> DataSummary:
    """Counts of the training images, and the size of a few of them.

    Raises:
        DataError: none of the sampled images can be read.
    """
    counts = np.bincount(parts.train.labels)
    return DataSummary(
        train_images=len(parts.train),
        val_images=0 if parts.val is None else len(parts.val),
        classes=len(counts),
        per_class=(int(counts.min()), int(np.median(counts)), int(counts.max())),
        side=_usual_side(parts.train),
    )


def _usual_side(catalogue: Catalogue) -> int:
    rows = np.unique(np.linspace(0, len(catalogue) - 1, _SAMPLED).astype(int))
    sides, error = [], None
    for row in rows:
        try:
            sides.append(min(read_image(catalogue.paths[row], box=catalogue.box(int(row))).shape[:2]))
        except DataError as unreadable:
            error = unreadable
    if not sides:
        raise error or DataError(f"no image of {catalogue.root} can be read. Run `cosphere data check`.")
    return int(np.median(sides))


def proposals(summary: DataSummary) -> list[tuple[str, dict[str, Any], str]]:
    """(name, settings, reason) of three runs, cheapest first."""
    small = min(_MEASURED, max(64, _STEP * round(summary.side / _STEP)))
    large = min(_PRETRAINED, 2 * small)
    each = 5 if summary.per_class[1] >= 5 else 3 if summary.per_class[1] >= 3 else 2
    shared = {"batch.images_per_class": each}
    return [
        (
            "quick",
            {"features.copies": 4, "images.size": small, **shared},
            "the backbone stays frozen and runs once per image, so the head trains in seconds: a first number, and a check of the "
            "labels, before an hour is spent. Without SEC: with a frozen backbone and this loss it lowers Recall@1 on car photos by "
            "2.3 points (docs/evidence.md)",
        ),
        (
            "standard",
            {"images.size": small, "sec.weight": 0.02, **shared},
            f"trains the backbone too, at {small} px: nearly always better than a frozen one, at the lowest price. With SEC: on car "
            "photos +6.5 points of Recall@1 over three seeds (95 % -7.5 to +20.5, docs/evidence.md); --sec.weight 0 leaves it out",
        ),
        (
            "large",
            {"images.size": large, "steps": 2000, "sec.weight": 0.02, **shared},
            f"{large} px before a bigger backbone: {_why_larger(small)}; a step takes about {(large / small) ** 2:.1f} times as long",
        ),
    ]


def _why_larger(small: int) -> str:
    """The evidence for a larger input than ``small`` pixels, and how far it holds."""
    if small == _MEASURED:
        return "on car photos the frozen backbone's Recall@1 rises from 40.2 % at 160 px to 44.6 % at 224 px (docs/evidence.md)"
    return (
        f"it was pretrained at {_PRETRAINED} px, and enlarging 160 px car photos to 224 px gains 4.4 points of Recall@1 "
        "(docs/evidence.md); nobody measured smaller ones"
    )


def estimate(settings: TrainSettings, summary: DataSummary, cost: Cost) -> float:
    """Seconds of a whole run: start, cached features, steps and validations."""
    frozen = settings.features.copies > 0
    every = settings.validation.every
    looks = 0
    if summary.val_images:
        looks = int(settings.validation.before) + (-(-settings.steps // every) if every else 1)
    embedded = summary.val_images / cost.embedded
    seconds = cost.start + settings.steps * cost.step + looks * cost.lens
    if frozen:
        return seconds + settings.features.copies * summary.train_images / cost.features + embedded
    return seconds + looks * embedded
