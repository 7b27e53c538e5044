"""Where a gallery lies: in a folder, or in a schema of a PostgreSQL database. One address stands for either.

photos.gallery                                  a folder
postgresql://user@host/database#photos          gallery "photos" on a server
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path

from cosphere.errors import SettingsError
from cosphere.files import path_of
from cosphere.gallery.folder import FILE, is_made
from cosphere.gallery.postgres.connection import shown
from cosphere.gallery.postgres.store import PostgresStore
from cosphere.gallery.store import Store

_SCHEME = re.compile(r"postgres(ql)?://")
FORM = "postgresql://user@host/database#name"
"""What the address of a gallery on a server looks like."""
NO_MIGRATION = "Fill another gallery there with the new model, and drop the old one."
"""What to do on a server instead of a migration."""


@dataclass(frozen=True)
class Server:
    """A gallery in a database."""

    address: str = field(repr=False)
    """Of the database, as libpq takes it; may hold a password."""
    name: str

    def __str__(self) -> str:
        """For messages: without the user and the password."""
        return f"gallery {self.name!r} in {shown(self.address)}"


def place_of(gallery: str | Path) -> Path | Server:
    """The place that an address stands for.

    Raises:
        SettingsError: it begins as one on a server does, and names no gallery, or its password is not written as a URL wants it.
    """
    text = str(gallery)
    if not _SCHEME.match(text):
        return path_of(gallery)
    address, _, name = text.rpartition("#")
    if not _SCHEME.match(address) or not name:
        raise SettingsError(f"the address of a database names no gallery; wanted {FORM}. Add # and the gallery's name.")
    user, at, _ = address.partition("://")[2].rpartition("@")
    if at and (re.search(r"[/?#@\s]", user) or not address.isprintable()):
        raise SettingsError(
            "user or password of a database's address hold a character that has a meaning in URLs. Write / as %2F, @ as %40, # as %23, "
            "? as %3F and a blank as %20, or leave the password to PGPASSWORD or ~/.pgpass."
        )
    return Server(address, name)


def open_store(gallery: str | Path) -> Store | PostgresStore:
    """The items of a gallery, wherever it lies.

    Args:
        gallery: its folder, or its address on a server: ``postgresql://user@host/database#name``.

    Raises:
        SettingsError: the address is wrong.
        MissingExtraError: it is on a server, and the packages for that are not installed.
        RunError: there is none, it cannot be read, or the server cannot be reached.
    """
    place = place_of(gallery)
    return PostgresStore.open(place.address, place.name) if isinstance(place, Server) else Store.open(place)


def is_gallery(gallery: str | Path) -> bool:
    """Whether there is one at an address. Raises as :func:`open_store` does where a server cannot tell."""
    place = place_of(gallery)
    return PostgresStore.exists(place.address, place.name) if isinstance(place, Server) else is_made(place / FILE)


def folder_of(gallery: str | Path, what: str, instead: str) -> Path:
    """The folder of a gallery that must lie in one.

    Args:
        gallery: its address.
        what: what wants a folder, such as a verb.
        instead: what to do on a server.

    Raises:
        SettingsError: it is on a server.
    """
    place = place_of(gallery)
    if isinstance(place, Server):
        raise SettingsError(
            f"{what} is for galleries in a folder, and gallery {place.name!r} is on a server. {instead}"
        )
    return place
