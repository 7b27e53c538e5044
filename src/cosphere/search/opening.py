"""A gallery by its address, in a folder or on a server."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from cosphere.gallery.address import Server, place_of
from cosphere.models import Embedder
from cosphere.search.gallery import Gallery
from cosphere.search.postgres_gallery import PostgresGallery


def open_gallery(gallery: str | Path, *, embedder: Embedder | None = None) -> Gallery | PostgresGallery:
    """Open a gallery wherever it lies.

    Args:
        gallery: its folder, or its address on a server: ``postgresql://user@host/database#name``.
        embedder: the model that its embeddings are of, to add and search with images.

    Raises:
        SettingsError: the address is wrong.
        MissingExtraError: it is on a server, and the packages for that are not installed.
        RunError: there is none, it is damaged, or the server cannot be reached.
        DataError: its embeddings are of another model.
    """
    place = place_of(gallery)
    if isinstance(place, Server):
        return PostgresGallery.open(place.address, place.name, embedder=embedder)
    return Gallery.open(place, embedder=embedder)


def create_gallery(
    gallery: str | Path,
    *,
    dim: int | None = None,
    holds: str = "floats",
    embedder: Embedder | None = None,
    model: str | Path = "",
    model_id: str = "",
    thumbnail: int = 0,
) -> Gallery | PostgresGallery:
    """Make an empty gallery wherever it shall lie; see :meth:`Gallery.create`.

    Args:
        gallery: as for :func:`open_gallery`.
        dim: D, numbers in an embedding; of an embedder's by default.
        holds: ``floats``, ``codes`` (one bit for each number) or ``both``.
        embedder: the model whose embeddings it will hold.
        model: where the model lies, for commands that load it.
        model_id: :attr:`Embedder.id` of the model, where no embedder is given; empty where unknown.
        thumbnail: longer side in pixels of the thumbnails to keep of added images; 0 for none.

    Raises:
        SettingsError: the address or a setting is wrong, or neither a width nor an embedder is given.
        MissingExtraError: as for :func:`open_gallery`.
        RunError: there is one already, or it cannot be made there.
    """
    place = place_of(gallery)
    settings: dict[str, Any] = {"dim": dim, "holds": holds, "embedder": embedder, "thumbnail": thumbnail}
    settings |= {"model": model, "model_id": model_id}
    if isinstance(place, Server):
        return PostgresGallery.create(place.address, place.name, **settings)
    return Gallery.create(place, **settings)
