"""What a report is made from, and reading it out of a run's folder."""

from __future__ import annotations

import math
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import yaml

from cosphere._types import Flags, Integers
from cosphere.errors import RunError, SizeError
from cosphere.files import read_json
from cosphere.runs import RunFolder

Floats = npt.NDArray[np.float32]


class Skipped(NamedTuple):
    """An image that was left out, and why."""

    path: str
    reason: str


class Score(NamedTuple):
    """A number and its interval."""

    value: float
    low: float | None = None
    high: float | None = None


def read_scores(scores: Mapping[str, Any]) -> dict[str, Score]:
    """The numbers among scores, each given bare or as ``{"value": ..., "low": ..., "high": ...}``.

    >>> read_scores({"recall@1": {"value": 0.5, "low": 0.4, "high": 0.6}, "queries": 20, "ties": "optimistic"})
    {'recall@1': Score(value=0.5, low=0.4, high=0.6), 'queries': Score(value=20, low=None, high=None)}
    """
    found = {}
    for name, content in scores.items():
        parts = content if isinstance(content, Mapping) else {"value": content}
        value, low, high = (
            parts.get(part) if _is_number(parts.get(part)) else None for part in ("value", "low", "high")
        )
        if value is not None:
            found[str(name)] = Score(value, low, high)
    return found


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


@dataclass(frozen=True, kw_only=True, eq=False)
class ReportData:
    """Everything a report can show. Only the name is needed; each missing piece becomes one friendly line.

    N images were embedded, in D dimensions. Images that are no query are only found, never asked for.

    Raises:
        SizeError: the parts that speak of the same N images do not have N rows.
    """

    name: str
    config: Mapping[str, Any] = field(default_factory=dict)
    """Every setting, nested as in the run's YAML."""
    metrics: Sequence[Mapping[str, Any]] = ()
    """Logged lines in order, with the keys of ``metrics.jsonl``."""
    scores: Mapping[str, Any] = field(default_factory=dict)
    """As in ``scores.json``: split, scores, data, provenance, settings."""
    baseline_scores: Mapping[str, Any] = field(default_factory=dict)
    """The scores before training: ``{"recall@1": {"value": 0.4, "low": ..., "high": ...}}``."""
    embeddings: Floats | None = None
    """(N, D) raw, any length."""
    baseline_embeddings: Floats | None = None
    """(M, D') raw, before training; only the lengths are used."""
    labels: Integers | None = None
    """(N,) rows of ``class_names``."""
    paths: Sequence[str] = ()
    """N image files; relative ones are taken from ``image_root``."""
    class_names: Sequence[str] = ()
    is_query: Flags | None = None
    """(N,) which images are asked for; None: all."""
    is_gallery: Flags | None = None
    """(N,) which images can be found; None: all."""
    boxes: Sequence[tuple[int, int, int, int] | None] = ()
    """N crops in pixels: left, top, right, bottom."""
    neighbour_ids: Integers | None = None
    """(N, k) nearest rows of each row, nearest first, the row itself excluded; None: searched for when needed."""
    neighbour_scores: Floats | None = None
    """(N, k) their cosines."""
    skipped: Sequence[Skipped] = ()
    image_root: Path | None = None

    def __post_init__(self) -> None:
        if self.embeddings is None:
            return
        if self.embeddings.ndim != 2:
            raise SizeError(f"want embeddings (N, D), got {self.embeddings.shape}. Give one row for each image.")
        parts = {
            name: getattr(self, name)
            for name in ("labels", "is_query", "is_gallery", "neighbour_ids", "neighbour_scores")
        }
        parts |= {name: getattr(self, name) or None for name in ("paths", "boxes")}
        for name, part in parts.items():
            if part is not None and len(part) != len(self.embeddings):
                raise SizeError(
                    f"want one row of {name} for each of {len(self.embeddings)} embeddings, got {len(part)}. "
                    "Take both from the same evaluation."
                )
        self._check_labels()

    def _check_labels(self) -> None:
        if self.labels is None or not self.class_names or not len(self.labels):
            return
        low, high = int(self.labels.min()), int(self.labels.max())
        if low < 0 or high >= len(self.class_names):
            raise SizeError(
                f"want labels from 0 to {len(self.class_names) - 1}, the rows of class_names; got {low} to {high}. "
                "Number the classes from zero."
            )

    def file(self, row: int) -> str:
        """Where the image of a row is. Empty when unknown."""
        if not self.paths:
            return ""
        path = str(self.paths[row])
        return path if self.image_root is None else str(self.image_root / path)

    def box(self, row: int) -> tuple[int, int, int, int] | None:
        """The crop of a row, or None for the whole image."""
        return self.boxes[row] if self.boxes else None

    def class_name(self, label: int) -> str:
        """The name of a class, or its number when there are no names."""
        return str(self.class_names[label]) if self.class_names else f"class {label}"


def report_data_from_run(path: str | Path, *, split: str | None = None, image_root: Path | None = None) -> ReportData:
    """Read what a run's folder holds.

    Args:
        path: the run's folder.
        split: which embeddings to show; None takes the split of ``scores.json``, else the only or first one of
            test, val, train and the rest by name.
        image_root: where relative image paths start.

    Raises:
        RunError: there is no run, a file in it is broken, or ``split`` was asked for and never embedded.
    """
    folder = RunFolder.open(path)
    scores = _mapping(read_json(folder.scores, what="a run's scores"), folder.scores) if folder.scores.exists() else {}
    arrays = _read_split(folder, split, scores.get("split"))
    return ReportData(
        name=folder.path.resolve().name,
        config=_read_config(folder.config),
        metrics=folder.read_metrics(),
        scores=scores,
        baseline_scores=scores.get("baseline_scores") or {},
        skipped=tuple(Skipped(str(one["path"]), str(one["reason"])) for one in scores.get("skipped_images") or ()),
        image_root=image_root,
        **arrays,
    )


def _mapping(content: Any, path: Path) -> dict[str, Any]:
    if not isinstance(content, dict):
        raise RunError(f"{path} holds a {type(content).__name__}, not names with values. Evaluate the run again.")
    return content


def _read_config(path: Path) -> dict[str, Any]:
    if not path.exists():
        return {}
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        reason = str(error).splitlines()[0]
        raise RunError(
            f"{path} is not a run's settings: {reason}. Restore it, or remove it to report without."
        ) from error
    return _mapping(content or {}, path)


def _read_split(folder: RunFolder, asked: str | None, evaluated: Any) -> dict[str, Any]:
    """The arrays of one split as fields of :class:`ReportData`; empty when the run embedded nothing yet."""
    files = {file.stem: file for file in sorted((folder.path / "embeddings").glob("*.npz"))}
    splits = {name: file for name, file in files.items() if not name.startswith(BEFORE)}
    if asked is not None and asked not in splits:
        known = f"It has {', '.join(splits)}." if splits else "It has none yet."
        raise RunError(
            f"{folder.path} has no embeddings of split {asked!r}. {known} "
            f"Run: cosphere evaluate {folder.path} DATA --split {asked}."
        )
    wanted = next((name for name in (asked, evaluated, "test", "val", "train", *splits) if name in splits), None)
    if wanted is None:
        return {}
    before = files.get(f"{BEFORE}{wanted}")
    return _read_arrays(splits[wanted]) | {
        "baseline_embeddings": None if before is None else _load(before)["embeddings"]
    }


BEFORE = "before-"
"""``embeddings/before-<split>.npz`` holds what the untrained network made of the split."""


def _load(path: Path) -> dict[str, npt.NDArray[Any]]:
    """All arrays of an .npz. Pickled objects are refused: they could run code."""
    try:
        # Opened here, because np.load leaves a broken file open.
        with path.open("rb") as opened, np.load(opened, allow_pickle=False) as file:
            return {"embeddings": np.asarray(file["embeddings"], dtype=np.float32)} | {
                name: file[name] for name in file.files if name != "embeddings"
            }
    except (OSError, ValueError, KeyError, zipfile.BadZipFile, EOFError) as error:
        raise RunError(f"{path} does not hold embeddings: {error}. Evaluate the run again.") from error


def _read_arrays(path: Path) -> dict[str, Any]:
    arrays = _load(path)
    fields: dict[str, Any] = {"embeddings": arrays["embeddings"]}
    if "labels" in arrays:
        fields["labels"] = np.asarray(arrays["labels"], dtype=np.int64)
    for name in ("paths", "class_names"):
        if name in arrays:
            fields[name] = tuple(str(value) for value in arrays[name])
    for name in ("is_query", "is_gallery"):
        if name in arrays:
            fields[name] = np.asarray(arrays[name], dtype=bool)
    if "boxes" in arrays:
        # A row of negative numbers stands for "the whole image": an array has no None.
        fields["boxes"] = tuple(
            (int(box[0]), int(box[1]), int(box[2]), int(box[3])) if min(box) >= 0 else None for box in arrays["boxes"]
        )
    return fields
