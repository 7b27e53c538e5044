"""Embedding images as one call."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, get_args

from cosphere import data, embeddings, train
from cosphere.checks import MOST_IMAGES, MOST_WORKERS, check_choice, check_number, check_switches, check_whole
from cosphere.data.remarks import MAX_UNREADABLE
from cosphere.embeddings import Embeddings, EmbeddingStore, Precision, sources
from cosphere.experiment.images import ALL, how_read, take_split
from cosphere.experiment.listener import SILENT, Listener
from cosphere.experiment.models import load_model
from cosphere.files import path_of
from cosphere.models import Embedder
from cosphere.models.inference import one_row
from cosphere.runs import RunFolder

if TYPE_CHECKING:
    from cosphere.data import Classes
    from cosphere.train import TrainSettings


def embed_images(
    model: str | Path,
    source: str | Path,
    *,
    split: str = ALL,
    layout: str = "auto",
    classes: Classes | None = None,
    device: str = "auto",
    batch_size: int = 64,
    workers: int = 0,
    max_unreadable: float | None = None,
    fast: bool = False,
    precision: Precision = "float32",
    listener: Listener = SILENT,
) -> Embeddings:
    """The raw embeddings of images.

    Args:
        model: a run's folder or a model bundle.
        source: image folder, table or benchmark root.
        split: split to embed; ``all`` for every image.
        layout: how the source is laid out.
        classes: which of nested class folders is the class, "top" or "leaf"; None takes what the run was trained with.
        device: "auto", "cpu", "cuda" or "mps".
        batch_size: images that are read together, see :meth:`cosphere.models.Embedder.encode`.
        workers: processes that decode.
        max_unreadable: tolerated share of unreadable images, in [0, 1]; None takes what the run was trained with, for a bundle
            0.01.
        fast: embed in the quick form of the model on a CPU, see :func:`cosphere.embeddings.embed`. Evaluations do not.
        precision: ``bf16`` runs the network in bfloat16; rows are float32 either way, and evaluations do not take them.
        listener: receives notes of the data and of the quick form, and progress.

    Raises:
        RunError, WeightsError: there is no model, or it is damaged.
        DataError: there is no such split, or too many images cannot be read.
        SettingsError: a setting is out of range.
    """
    check_switches(fast=fast)
    check_embedding(batch_size, workers, max_unreadable)
    check_choice("precision", precision, get_args(Precision))
    return embed_source(
        load_model(model, device),
        model,
        source,
        split=split,
        layout=layout,
        classes=classes,
        batch_size=batch_size,
        workers=workers,
        max_unreadable=max_unreadable,
        fast=fast,
        precision=precision,
        listener=listener,
    )


def embed_source(
    embedder: Embedder,
    model: str | Path,
    source: str | Path,
    *,
    split: str,
    layout: str,
    classes: Classes | None,
    batch_size: int,
    workers: int,
    max_unreadable: float | None,
    listener: Listener,
    fast: bool = False,
    precision: Precision = "float32",
) -> Embeddings:
    """:func:`embed_images` with the model of ``model`` loaded already.

    A source that a run's model embedded before, and that has not changed since, is not read again.
    """
    store = store_of(model)
    request = {"split": split, "layout": layout, "classes": classes, "run": _config_of(model)}
    state = None if store is None else sources.SourceState.of(source, request)
    if store is not None and state is not None:
        known = sources.SourceStore(store).find(embedder, state)
        if known is not None:
            listener.listed(known.remarks)
            _say_one_row(known.images, listener)
            return known.images
    settings = settings_of_model(model)
    read = how_read(source, layout, classes, settings)
    catalogue = data.read_catalogue(source, layout=read.layout, classes=read.classes, labels="optional")
    listener.listed(catalogue.remarks)
    chosen = take_split(catalogue, split, settings)
    with listener.progress("embedding") as progress:
        table = embeddings.embed(
            embedder,
            chosen.images,
            batch_size=batch_size,
            workers=workers,
            max_unreadable=tolerated(max_unreadable, settings),
            store=store,
            fast=fast,
            precision=precision,
            progress=progress,
        )
    say_how(embedder, listener)
    _say_one_row(table, listener)
    table = embeddings.number_classes(table, chosen.images, catalogue)
    if store is not None and state is not None and not fast and precision == "float32":
        sources.SourceStore(store).keep(embedder, state, table, chosen.images, catalogue.remarks)
    return table


def say_how(embedder: Embedder, listener: Listener) -> None:
    """Note that images were embedded by the quick form of a model; nothing where that is the plain network."""
    if embedder.quick_note:
        listener.note(embedder.quick_note)


def _say_one_row(table: Embeddings, listener: Listener) -> None:
    """Note that all embeddings are equal, so that whatever is found among them means nothing."""
    if one_row(table.embeddings):
        listener.note(
            f"all {len(table.embeddings)} embeddings are equal: unless the images are copies of one, the training of the model diverged "
            "or its weights are damaged"
        )


def check_embedding(batch_size: int, workers: int, max_unreadable: float | None) -> None:
    """Raise unless images can be embedded so. Call it before a model is loaded and images are listed.

    Raises:
        SettingsError: a setting is out of range.
    """
    check_whole("batch_size", batch_size, least=1, most=MOST_IMAGES)
    check_whole("workers", workers, least=0, most=MOST_WORKERS)
    tolerated(max_unreadable, None)


def tolerated(max_unreadable: float | None, settings: TrainSettings | None) -> float:
    """The share of unreadable images to tolerate: as given, or else what the run was trained with, or the default."""
    if max_unreadable is not None:
        return check_number("max_unreadable", max_unreadable, at_least=0, at_most=1)
    return MAX_UNREADABLE if settings is None else settings.data.max_unreadable


def store_of(model: str | Path) -> EmbeddingStore | None:
    """Where rows of a run's model are kept, `embeddings/cache`; None for a bundle that lies in no run."""
    path = Path(model)
    for folder in (RunFolder(path), RunFolder(path.parent)):
        if folder.marker.exists() and path in (folder.path, folder.model):
            return EmbeddingStore(folder.path / "embeddings" / "cache")
    return None


def _config_of(path: str | Path) -> str:
    """The text of the settings that decide which images of a run's data are its validation images; empty for a bundle."""
    folder = RunFolder(path_of(path))
    return folder.config.read_text(encoding="utf-8") if folder.marker.exists() and folder.config.exists() else ""


def settings_of_model(path: str | Path) -> TrainSettings | None:
    """What the model of a run was trained with; None for a bundle."""
    folder = RunFolder(path_of(path))
    return train.TrainSettings.read(folder.config) if folder.marker.exists() and folder.config.exists() else None
