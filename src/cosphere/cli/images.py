"""Which images a command works on: a split, or the classes that training held out."""

from __future__ import annotations

from pathlib import Path

from rich.console import Console

from cosphere.cli.train import show_notes
from cosphere.data import Catalogue, read_catalogue, training_parts
from cosphere.data.splits import TrainingParts
from cosphere.errors import DataError
from cosphere.models import Embedder
from cosphere.train import TrainSettings

HELD_OUT = "held-out"
"""The name of the split that :func:`choose_images` makes where the data has none."""
OTHER_IMAGES = (
    "these are not the images that the run was trained from, so the classes held out here may be among the trained "
    "ones, which lie farther apart than new ones: give the same images, or --split all for others"
)
"""What to say unless :func:`as_trained`."""


def open_split(source: str | Path, split: str, *, layout: str = "auto") -> Catalogue:
    """One split of the images at `source`, with notes printed; "all" for every image.

    Raises:
        DataError: there is no such split.
    """
    catalogue = read_catalogue(source, layout=layout)
    show_notes(catalogue)
    return take_split(catalogue, split)


def take_split(catalogue: Catalogue, split: str) -> Catalogue:
    """One split; "all" for every image.

    Raises:
        DataError: there is no such split.
    """
    if split == "all":
        return catalogue
    known = catalogue.split_names
    if split not in known:
        named = f"Use --split {known[0]}" if known != ["all"] else "Leave --split out"
        there = ", ".join(known)
        raise DataError(f"{catalogue.root} has no split {split!r}; it has {there}. {named}, or use --split all.")
    return catalogue.select(split)


def choose_images(catalogue: Catalogue, split: str | None, settings: TrainSettings) -> tuple[Catalogue, str]:
    """The images to score and the name of their split.

    Without a wish, that is the test split. Data without splits gives the classes that training held out: the only ones that
    the model was not trained on, though it was chosen on them.

    Raises:
        DataError: there is no such split, or nothing was held out.
    """
    if split is not None or catalogue.split_names != ["all"]:
        return take_split(catalogue, split or "test"), split or "test"
    held_out = parts_of_training(catalogue, settings).val
    if held_out is None:
        raise DataError(
            f"{catalogue.root} has no splits and no classes were held out of training. Use --split all, or give other images."
        )
    show_note(
        "no test split, so the classes held out of training are scored; the model was chosen on them, which flatters it"
    )
    return held_out, HELD_OUT


def parts_of_training(catalogue: Catalogue, settings: TrainSettings) -> TrainingParts:
    """What these settings train and validate on."""
    return training_parts(catalogue, val_share=settings.data.validation_share, seed=settings.data.validation_seed)


def as_trained(embedder: Embedder, catalogue: Catalogue, settings: TrainSettings) -> bool:
    """Whether the classes of this catalogue fall into trained and held-out ones as they did when the model was trained."""
    trained = (embedder.provenance.get("data") or {}).get("fingerprint")
    return trained in (None, parts_of_training(catalogue, settings).train.fingerprint())


def show_note(text: str) -> None:
    """One line beside the output, for people."""
    Console(stderr=True).print(f"note: {text}", markup=False, highlight=False, soft_wrap=True)
