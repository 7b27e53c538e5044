"""Which images to work on: a split of the data, or the validation classes that were held out of training."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any, NamedTuple

from cosphere import data
from cosphere.errors import DataError, agreeing, counted, did_you_mean
from cosphere.files import path_of
from cosphere.models import Embedder
from cosphere.models.bundle import trained_classes

if TYPE_CHECKING:
    from cosphere.data import Catalogue, Classes, TrainingParts
    from cosphere.train import TrainSettings

ALL, VAL, TEST = "all", "val", "test"
"""Names of splits: every image, the validation images and the test images."""
_NAMES_OF_VAL = ("val", "held-out")
OTHER_IMAGES = (
    "these are not the images that the run was trained from, so its validation classes may have been trained on, and trained "
    "classes lie farther apart than new ones: give the same images, or --split all for others"
)
"""The note for validation classes where :func:`as_trained` is False."""


class Chosen(NamedTuple):
    """Images, the name of their split, and what a reader of their scores should know."""

    images: Catalogue
    split: str
    notes: tuple[str, ...] = ()


def take_split(catalogue: Catalogue, split: str, settings: TrainSettings | None = None) -> Chosen:
    """One split of a catalogue.

    Args:
        catalogue: all images.
        split: its name, in any form that the data may have (``Test``, ``testing``); ``all`` for every image. ``val`` (also
            ``validation`` or ``held-out``) is the data's own split of that name, else the classes that training held out.
        settings: of the run whose validation classes are meant; None where there is no run.

    Raises:
        DataError: there is no such split.
    """
    from cosphere.data.catalogue import normal_split  # here, because a search in saved embeddings needs no pandas

    names = catalogue.split_names
    if split not in names:
        split = normal_split(split)
    if split == ALL:
        return Chosen(catalogue, ALL)
    if split in names:
        return Chosen(catalogue.select(split), split)
    if split in _NAMES_OF_VAL:
        if VAL in names:
            return Chosen(catalogue.select(VAL), VAL)
        held_out = None if settings is None else parts_of_training(catalogue, settings).val
        if held_out is not None:
            return Chosen(held_out, VAL)
    if names == [ALL]:
        raise DataError(f"the data has no splits, so no split {split!r}. Leave --split out, or use --split all.")
    near = did_you_mean(split, names)
    advice = near if near.startswith("Did") else "Give one of these, or --split all for every image."
    raise DataError(f"{catalogue.root} has no split {split!r}; it has {', '.join(names)}. {advice}")


def choose_images(catalogue: Catalogue, split: str | None, settings: TrainSettings) -> Chosen:
    """The images to score: the named split, else ``test``, else the validation images.

    Raises:
        DataError: there is no such split, or no image that the model was not trained on.
    """
    if split is not None:
        return take_split(catalogue, split, settings)
    if TEST in catalogue.split_names:
        return take_split(catalogue, TEST)
    has_val = VAL in catalogue.split_names
    if not has_val and (catalogue.split_names != [ALL] or parts_of_training(catalogue, settings).val is None):
        raise DataError(
            "there is no test split and no classes were held out of training. Use --split all, or give other images."
        )
    which = "validation images" if has_val else "classes held out of training"
    note = f"no test split, so the {which} are scored; the model was chosen on them, which flatters it"
    return take_split(catalogue, VAL, settings)._replace(notes=(note,))


def has_unseen(catalogue: Catalogue, settings: TrainSettings) -> bool:
    """Whether :func:`choose_images` finds images without a split's name."""
    try:
        choose_images(catalogue, None, settings)
    except DataError:
        return False
    return True


def validation_images(catalogue: Catalogue, split: str | None, settings: TrainSettings) -> Chosen:
    """The images to choose a threshold on: the named split, or the validation images.

    Raises:
        DataError: there is no such split, or no validation image.
    """
    if split is not None:
        return take_split(catalogue, split, settings)
    held_out = parts_of_training(catalogue, settings).val
    if held_out is None:
        raise DataError(
            "no classes were held out of training, so there is nothing to choose a threshold on. "
            "Name a split that was not trained on with --split, or give other images and --split all."
        )
    return Chosen(held_out, VAL)


class HowRead(NamedTuple):
    """How a source is read, and what a reader of its scores should know about that."""

    layout: str
    classes: Classes
    notes: tuple[str, ...] = ()


def how_read(source: object, layout: str, classes: Classes | None, settings: TrainSettings | None) -> HowRead:
    """The layout and classes to read a source with: as asked for, else for a run's own images as they were read for training.

    Args:
        source: a path, or None for the images that the run was trained from.
        layout: what was asked for; "auto" for nothing.
        classes: what was asked for; None takes what the run was trained with, on other images too.
        settings: of the run; None where there is none.
    """
    if settings is None:
        return HowRead(layout, classes or "top")
    trained = settings.data
    if source is None or _is_same_place(source, trained.root):
        return HowRead(trained.layout if layout == "auto" else layout, classes or trained.classes)
    notes = []
    if layout == "auto" and trained.layout != "auto":
        notes.append(
            f"these are other images than the run was trained from, so their layout is detected; for that of the training, give "
            f"--layout {trained.layout}"
        )
    if classes is None and trained.classes != "top":
        notes.append(f"classes are read as for training, --classes {trained.classes}")
    return HowRead(layout, classes or trained.classes, tuple(notes))


def _is_same_place(source: object, root: str) -> bool:
    """Whether two paths lead to one file or folder."""
    try:
        return bool(root) and path_of(str(source)).samefile(root)
    except (OSError, ValueError, RuntimeError):  # one of them is not there
        return False


def training_images(settings: TrainSettings) -> Catalogue:
    """The images at ``data.root``. A run that makes a class of each image takes images without labels too.

    Raises:
        DataError, SettingsError: see :func:`cosphere.data.read_catalogue`.
    """
    from cosphere.train.setup import learns_from_labels  # here, because a search needs neither losses nor training

    how = settings.data
    places: dict[str, Any] = {"layout": how.layout, "classes": how.classes}
    if not learns_from_labels(settings):
        return data.read_catalogue(how.root, labels="optional", **places)
    try:
        return data.read_catalogue(how.root, **places)
    except DataError as error:
        unlabelled = False
        with contextlib.suppress(DataError):
            unlabelled = not data.read_catalogue(how.root, labels="optional", **places).labelled
        if unlabelled:
            raise DataError(f"{error} Or learn without labels: --config ssl/simclr-small.") from error
        raise


def parts_of_training(catalogue: Catalogue, settings: TrainSettings) -> TrainingParts:
    """What these settings train and validate on."""
    how = settings.data
    return data.training_parts(
        catalogue, val_share=how.validation_share, seed=how.validation_seed, of=how.validation_of
    )


def as_trained(embedder: Embedder, catalogue: Catalogue, settings: TrainSettings) -> bool:
    """Whether this catalogue's classes fall into trained and validation ones as they did when the model was trained."""
    trained = (embedder.provenance.get("data") or {}).get("fingerprint")
    return trained in (None, parts_of_training(catalogue, settings).train.fingerprint())


def trained_classes_note(embedder: Embedder, images: Catalogue, where: str = "here") -> list[str]:
    """A note if these images have classes of the names that the model was trained on; else empty.

    Args:
        embedder: the model.
        images: the images.
        where: what the note calls them, such as ``of the test split``.

    Models of versions that did not store their classes give no note.
    """
    trained = trained_classes(embedder.provenance)
    shared = [name for name in images.label_names if name in trained]
    if not shared:
        return []
    examples = ", ".join(repr(name) for name in shared[:3]) + (", ..." if len(shared) > 3 else "")
    return [
        f"{len(shared)} of {len(images.label_names)} classes {where} have the name of a class that the model was trained on "
        f"({examples}): its scores on trained classes are higher than on new ones"
    ]


def trained_pictures_note(
    embedder: Embedder, catalogue: Catalogue, chosen: Chosen, settings: TrainSettings, where: str = "here"
) -> list[str]:
    """A note if some of these images are files that the model was trained on, perhaps under another label; else empty.

    Args:
        embedder: the model.
        catalogue: all images.
        chosen: those that are scored.
        settings: of the run.
        where: what the note calls them, such as ``of the test split``.

    Of images that the run was not trained from, nothing is known.
    """
    if chosen.split in ("train", ALL):
        return []  # of the images of these splits that is plain
    try:
        if not as_trained(embedder, catalogue, settings):
            return []
        train = parts_of_training(catalogue, settings).train
    except DataError:  # there are no training images
        return []
    known = set(train.pictures())
    count = sum(picture in known for picture in chosen.images.pictures())
    if not count:
        return []
    of = f"{count} of {counted(len(chosen.images), 'image')} {where}"
    return [f"{of} {agreeing(count, 'are')} among the images that the model was trained on, which flatters it"]
