"""A gallery by its address, in a folder or on a server."""

from __future__ import annotations

from pathlib import Path

from cosphere.gallery import Space, Store
from cosphere.gallery.address import Server, place_of
from cosphere.gallery.postgres import PostgresStore
from cosphere.models import Embedder
from cosphere.search.gallery import Gallery
from cosphere.search.gallery_rows import check_model
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
    gallery: str | Path, space: Space, *, embedder: Embedder | None = None, thumbnail: int = 0
) -> Gallery | PostgresGallery:
    """Make an empty gallery wherever it shall lie.

    Args:
        gallery: as for :func:`open_gallery`.
        space: what its rows are.
        embedder: the model that they are of, to add and search with images.
        thumbnail: longer side in pixels of the thumbnails to keep of added images; 0 for none.

    Raises:
        SettingsError: the address or a setting is wrong.
        MissingExtraError: as for :func:`open_gallery`.
        RunError: there is one already, or it cannot be made there.
        DataError: the embedder is another model than the one of the rows.
    """
    place = place_of(gallery)
    if embedder is not None:
        check_model(space, embedder, str(place))
    if isinstance(place, Server):
        return PostgresGallery(PostgresStore.create(place.address, place.name, space, thumbnail=thumbnail), embedder)
    return Gallery(Store.create(place, space, thumbnail=thumbnail), embedder)
