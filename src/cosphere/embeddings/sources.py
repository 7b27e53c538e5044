"""The images of a source that were embedded before: taken from disk without reading the source again, while it is unchanged.

Reading a source as a catalogue takes longer than a search in it. What follows from it depends on the folder alone, so it is kept
with the state of every file in the folder: its size, times and place on the disk.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from cosphere._version import __version__
from cosphere.data.listing import walk
from cosphere.data.remarks import LayoutCheck, Remarks
from cosphere.disk import file_state
from cosphere.embeddings.store import KEY_BYTES, EmbeddingStore, image_keys
from cosphere.embeddings.table import Embeddings
from cosphere.errors import CosphereError, RunError
from cosphere.files import path_of, read_arrays, remove_left_parts, write_arrays
from cosphere.images.decode import DECODING
from cosphere.models import Embedder

if TYPE_CHECKING:
    from cosphere.data import Catalogue

MOST_SOURCES = 8
"""Sources that are kept in a folder; the oldest go first."""


class Known(NamedTuple):
    """The embeddings of a source, and what there is to say about it."""

    images: Embeddings
    remarks: Remarks


@dataclass(frozen=True)
class SourceState:
    """What a folder or an archive holds, and how it is to be read.

    Attributes:
        source: its path.
        digest: of the state of every file in it.
        files: absolute paths of these files.
        request: digest of how it is read.
    """

    source: Path
    digest: str
    files: frozenset[str]
    request: str

    @classmethod
    def of(cls, source: str | Path, request: Mapping[str, object]) -> SourceState | None:
        """The present state; None for a source that is neither a folder nor a zip archive, or cannot be read.

        Args:
            source: its path.
            request: names and values of what decides how it is read.
        """
        lines, files = [], []
        try:
            path = path_of(source)
            whole = os.path.abspath(path)  # noqa: PTH100  # the catalogue's paths are not resolved either
            if path.is_dir():
                for relative, entry, kind in walk(path):
                    lines.append(f"{kind} {relative} {_state(entry.path) if kind == 'file' else ''}")
                    files.append(f"{whole}/{relative}")
            elif path.suffix.lower() == ".zip":
                lines.append(_state(whole))
                files.append(whole)
            else:  # a table, whose images may lie anywhere, or a file that has another beside it
                return None
            real = os.path.realpath(path)
        except (CosphereError, OSError, RuntimeError, ValueError):
            return None
        asked = [whole, real, __version__, DECODING, *(f"{name}={value}" for name, value in sorted(request.items()))]
        return cls(path, _digest(sorted(lines)), frozenset(files), _digest(map(str, asked)))


class SourceStore:
    """One file for each source and model, beside the rows of an :class:`EmbeddingStore`, which it refers to.

    Args:
        store: holds the rows.
    """

    def __init__(self, store: EmbeddingStore) -> None:
        self.store = store
        self.folder = store.folder / "sources"

    def find(self, embedder: Embedder, state: SourceState) -> Known | None:
        """The embeddings of a source; None where they are not there, or the source has changed since."""
        file = self._file(embedder, state)
        if not file.exists():
            return None
        try:
            arrays = read_arrays(file, what="a stored source")
            if (str(arrays["state"]), str(arrays["request"])) != (state.digest, state.request):
                return None
            images = Embeddings.from_arrays(arrays, file)
            rows = self.store.rows(embedder, [key.tobytes() for key in images.embeddings])
            checks = [LayoutCheck(*line) for line in arrays["checks"].tolist()]
            root, layout = Path(str(arrays["root"])), str(arrays["layout"])
            remarks = Remarks(root=root, layout=layout, notes=tuple(arrays["notes"].tolist()), checks=tuple(checks))
        except (RunError, KeyError, TypeError):
            return None
        return None if rows is None else Known(replace(images, embeddings=rows), remarks)

    def keep(
        self, embedder: Embedder, state: SourceState, images: Embeddings, catalogue: Catalogue, remarks: Remarks
    ) -> None:
        """Store the embeddings of a source, unless they depend on more than its files. A folder that may not be written keeps nothing.

        Args:
            embedder: the model.
            state: of the source before it was read.
            images: embeddings of ``catalogue``, whose rows the :class:`EmbeddingStore` holds.
            catalogue: the images.
            remarks: about the whole source.
        """
        keys = image_keys(catalogue)
        whole = len(images) == len(catalogue) and all(keys)  # else images that cannot be read are tried again
        # A listed file that was missing may lie anywhere, and come later.
        found = not any("missing" in note for note in remarks.notes)
        if not whole or not found or not state.files.issuperset(map(_file_of, images.paths)):
            return
        arrays = replace(images, embeddings=np.frombuffer(b"".join(keys), np.uint8).reshape(-1, KEY_BYTES)).arrays()  # type: ignore[arg-type]
        texts = {
            "state": state.digest,
            "request": state.request,
            "root": str(remarks.root),
            "layout": remarks.layout,
            "notes": remarks.notes,
        }
        arrays |= {name: np.array(text, dtype=np.str_) for name, text in texts.items()}
        arrays["checks"] = np.array(remarks.checks, dtype=np.str_).reshape(-1, len(LayoutCheck._fields))
        with contextlib.suppress(RunError, OSError, UnicodeError):
            write_arrays(self._file(embedder, state), arrays)
            remove_left_parts(self.folder)  # of models and images that are not written again
            files = sorted(self.folder.glob("*.npz"), key=lambda file: file.stat().st_mtime_ns)
            for file in files[:-MOST_SOURCES]:
                file.unlink()

    def _file(self, embedder: Embedder, state: SourceState) -> Path:
        device = next(embedder.parameters()).device.type
        return self.folder / f"{_digest([embedder.id, device, state.request])}.npz"


def _file_of(path: str) -> str:
    """The file of an image, which may be an item of a container."""
    path = os.path.normpath(path)
    return path if os.path.exists(path) else path.rpartition("#")[0]  # noqa: PTH110


def _state(path: str) -> str:
    """Everything by which one can see that a file has changed, and its links."""
    try:
        status = os.stat(path)  # noqa: PTH116
    except OSError:
        return "missing"
    place = f"{status.st_dev} {status.st_ino} {status.st_nlink}"
    return f"{' '.join(map(str, file_state(status)))} {place}"


def _digest(lines: Iterable[str]) -> str:
    text = "\n".join(lines)
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=KEY_BYTES).hexdigest()
