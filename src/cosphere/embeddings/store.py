"""Rows that a model has computed, kept on disk, so that no image is embedded twice."""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from cosphere._types import Flags, Float32s
from cosphere.disk import file_state
from cosphere.errors import RunError
from cosphere.files import read_arrays, remove_left_parts, write_arrays
from cosphere.images.decode import DECODING
from cosphere.models import Embedder

if TYPE_CHECKING:
    from cosphere.data import Catalogue

MOST_BYTES = 2 * 2**30
"""Above this, only the rows of the images just embedded are kept."""
MOST_MODELS = 4
"""Files of as many models are kept in a folder; the oldest go first."""


class Stored(NamedTuple):
    """Rows for N images, and which of them are there."""

    rows: Float32s
    """(N, D) raw; zeros where there is none."""
    known: Flags
    """(N,)"""


class EmbeddingStore:
    """One file for each model, named by its fingerprint. A row belongs to a file's path, size and times of change, and to a box.

    Args:
        folder: where the files lie; it is made when something is kept.
        view: of the images, such as ``mirrored``; empty for the images as they are. Rows of different views lie in one file.
    """

    def __init__(self, folder: str | Path, view: str = "") -> None:
        self.folder, self.view = Path(folder), view

    def of(self, view: str) -> EmbeddingStore:
        """The same store for another view of the images."""
        return EmbeddingStore(self.folder, view)

    def find(self, embedder: Embedder, catalogue: Catalogue) -> Stored:
        """The rows that are there for these images. A file that cannot be read counts as none."""
        rows = np.zeros((len(catalogue), embedder.output_dim), dtype=np.float32)
        known = np.zeros(len(catalogue), dtype=bool)
        places, saved = self._read(embedder)
        for row, key in enumerate(image_keys(catalogue, self.view) if places else ()):
            place = places.get(key)
            if place is not None:
                rows[row], known[row] = saved[place], True
        return Stored(rows, known)

    def rows(self, embedder: Embedder, keys: Sequence[bytes]) -> Float32s | None:
        """The rows of images by their :func:`image_keys`, (N, D) raw; None where one is not there."""
        places, saved = self._read(embedder)
        rows = [places[key] for key in keys if key in places]
        return saved[rows] if len(rows) == len(keys) else None

    def keep(self, embedder: Embedder, catalogue: Catalogue, stored: Stored) -> None:
        """Add the known rows of these images. A folder that may not be written keeps nothing."""
        fresh = {key: row for row, key in enumerate(image_keys(catalogue, self.view)) if key and stored.known[row]}
        places, saved = self._read(embedder)
        others = {key: place for key, place in places.items() if key not in fresh}
        if saved.nbytes + stored.rows.nbytes > MOST_BYTES:
            others = {}
        rows = np.concatenate([saved[list(others.values())], stored.rows[list(fresh.values())]])
        with contextlib.suppress(RunError, OSError):
            content = np.frombuffer(b"".join([*others, *fresh]), dtype=np.uint8).reshape(-1, KEY_BYTES)
            own = np.array(self._model(embedder), dtype=np.str_)  # a file may be renamed or copied
            write_arrays(self._file(embedder), {"keys": content, "rows": rows, "model": own})
            remove_left_parts(self.folder)  # of models and images that are not written again
            files = sorted(self.folder.glob("*.npz"), key=lambda file: file.stat().st_mtime_ns)
            for file in files[:-MOST_MODELS]:
                file.unlink()

    def _file(self, embedder: Embedder) -> Path:
        return self.folder / f"{self._model(embedder)}.npz"

    def _model(self, embedder: Embedder) -> str:
        device = next(embedder.parameters()).device.type  # another device rounds differently
        return f"{embedder.id[:32]}-{device}"

    def _read(self, embedder: Embedder) -> tuple[dict[bytes, int], Float32s]:
        nothing: tuple[dict[bytes, int], Float32s] = {}, np.zeros((0, embedder.output_dim), dtype=np.float32)
        file = self._file(embedder)
        if not file.exists():
            return nothing
        try:
            arrays = read_arrays(file, what="stored embeddings")
            keys, rows, model = arrays["keys"], arrays["rows"], str(arrays["model"])
        except (RunError, KeyError):
            return nothing
        if keys.shape != (len(rows), KEY_BYTES) or rows.shape[1:] != (embedder.output_dim,) or rows.dtype != np.float32:
            return nothing
        if model != self._model(embedder):
            return nothing
        packed = keys.tobytes()
        return {packed[at : at + KEY_BYTES]: at // KEY_BYTES for at in range(0, len(packed), KEY_BYTES)}, rows


KEY_BYTES = 16


def image_keys(catalogue: Catalogue, view: str = "") -> list[bytes]:
    """For each image a digest of its path, its file's state, the decoding version, its box and the view; empty without a file."""
    boxes = None if catalogue.boxes is None else catalogue.boxes.tolist()
    states: dict[str, str] = {}
    keys = []
    for row, path in enumerate(map(str, catalogue.paths)):
        file = path if os.path.exists(path) else path.rpartition("#")[0]  # noqa: PTH110  # `file#item` of a container
        if file not in states:
            states[file] = _state(file)
        text = f"{os.path.abspath(path)}\n{states[file]}\n{DECODING}\n{None if boxes is None else boxes[row]}"  # noqa: PTH100
        text += f"\n{view}" if view else ""
        digest = hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=KEY_BYTES).digest()
        keys.append(digest if states[file] else b"")
    return keys


def _state(file: str) -> str:
    try:
        return " ".join(map(str, file_state(os.stat(file))))  # noqa: PTH116
    except (OSError, ValueError):
        return ""
