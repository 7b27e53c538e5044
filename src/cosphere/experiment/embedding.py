"""Embedding images as one call."""

from __future__ import annotations

from pathlib import Path

from cosphere.data import Classes, read_catalogue
from cosphere.embeddings import Embeddings, EmbeddingStore, embed, number_classes
from cosphere.experiment.images import ALL, take_split
from cosphere.experiment.listener import SILENT, Listener
from cosphere.experiment.models import load_model
from cosphere.runs import RunFolder
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
        batch_size: images in one forward pass.
        workers: processes that decode.
        listener: receives notes of the data, and progress.

    Raises:
        RunError, WeightsError: there is no model, or it is damaged.
        DataError: there is no such split, or too many images cannot be read.
        SettingsError: a setting is out of range.
    """
    settings = settings_of_model(model)
    own = "top" if settings is None else settings.data.classes
    catalogue = read_catalogue(source, layout=layout, classes=classes or own, labels="optional")
    listener.listed(catalogue)
    chosen = take_split(catalogue, split, settings)
    embedder = load_model(model, device)
    with listener.progress("embedding") as progress:
        table = embed(
            embedder,
            chosen.images,
            batch_size=batch_size,
            workers=workers,
            store=store_of(model),
            progress=progress,
        )
    return number_classes(table, chosen.images, catalogue)


def store_of(model: str | Path) -> EmbeddingStore | None:
    """Where rows of a run's model are kept, `embeddings/cache`; None for a bundle that lies in no run."""
    path = Path(model)
    for folder in (RunFolder(path), RunFolder(path.parent)):
        if folder.marker.exists() and path in (folder.path, folder.model):
            return EmbeddingStore(folder.path / "embeddings" / "cache")
    return None


def settings_of_model(path: str | Path) -> TrainSettings | None:
    """What the model of a run was trained with; None for a bundle."""
    folder = RunFolder(Path(path))
    return TrainSettings.read(folder.config) if folder.marker.exists() and folder.config.exists() else None
