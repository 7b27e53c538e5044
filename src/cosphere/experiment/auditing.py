"""Auditing labelled images as one call: embeddings, ranked findings, and a patch of proposed changes."""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import os
import shlex
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from cosphere import data, embeddings
from cosphere._types import Floats, Integers, Progress
from cosphere.data.patches import RELABEL, REMOVE, Change, boxes_of_one_label, patch_text, record_of
from cosphere.embeddings import Embeddings
from cosphere.errors import ImageError, RunError, SettingsError
from cosphere.evaluate import AuditFindings, AuditSettings, audit_embeddings
from cosphere.experiment.embedding import check_embedding, settings_of_model, store_of, tolerated
from cosphere.experiment.images import ALL, how_read, take_split
from cosphere.experiment.listener import SILENT, Listener
from cosphere.experiment.models import load_model, ready
from cosphere.experiment.outputs import check_output_folder
from cosphere.files import path_of, read_json, write_json, write_text
from cosphere.images import read_image
from cosphere.train import TrainSettings, untrained_model

if TYPE_CHECKING:
    from cosphere.data import Catalogue, Classes

PATCH, FINDINGS, PAGE = "patch.csv", "audit.json", "audit.html"
"""Files of an audit."""
SURE = 0.5
"""Share of the neighbours from which a new label is proposed; below it, the line of the patch says ``keep``."""
KEEP = "keep"
_DIGEST = "patch_sha256"
_SIDE = 16
"""Pixels of the small versions that are compared."""


@dataclass(frozen=True, eq=False, kw_only=True)
class Audit:
    """What was found in a set of images."""

    images: Embeddings
    splits: npt.NDArray[np.str_]
    """(N,) split of each row."""
    names: tuple[str, ...]
    """(N,) path of each row as in the source's table, relative to its root."""
    labels: tuple[str, ...]
    """(C,) labels as in the source; :attr:`Embeddings.class_names` are for display."""
    findings: AuditFindings
    changes: tuple[Change, ...]
    """What the patch proposes."""
    model: str
    """What made the embeddings, in words."""
    source: str
    layout: str
    """How the source was read, as :func:`cosphere.data.patches.apply_patch` has to read it."""
    classes: Classes
    """Likewise."""
    folder: Path
    """Where :data:`PATCH` and :data:`FINDINGS` were written."""

    @property
    def proposed(self) -> int:
        """Changes that applying the patch as it is would make."""
        return sum(change.action != KEEP for change in self.changes)

    @property
    def patch_command(self) -> str:
        """What applies the patch, as it is typed in a shell: the source is read as it was for the audit."""
        words = ["cosphere", "data", "patch", str(self.folder / PATCH), self.source]
        words += [] if self.layout == "auto" else ["--layout", self.layout]
        return shlex.join(words + ([] if self.classes == "top" else ["--classes", self.classes]))


def audit(
    source: str | Path,
    model: str | Path | None = None,
    *,
    out: str | Path = "audit",
    settings: AuditSettings | None = None,
    split: str = ALL,
    layout: str = "auto",
    classes: Classes | None = None,
    device: str = "auto",
    batch_size: int = 64,
    workers: int = 0,
    max_unreadable: float | None = None,
    listener: Listener = SILENT,
) -> Audit:
    """Rank likely wrong labels, near duplicates, classes that look like one or two, and outliers; write a patch of proposals.

    Nothing of the source is changed: :func:`cosphere.data.patches.apply_patch` does that, and can be undone.

    Args:
        source: image folder, table or benchmark root, with labels.
        model: a run's folder or a bundle, best one that was trained on other images; None takes the pretrained backbone.
        out: folder for `patch.csv` and `audit.json`.
        settings: how to look; None takes the defaults.
        split: split to audit; ``all`` for every image.
        layout: how the source is laid out.
        classes: which of nested class folders is the class, "top" or "leaf"; None takes what the run was trained with.
        device: "auto", "cpu", "cuda" or "mps".
        batch_size: images that are read together, see :meth:`cosphere.models.Embedder.encode`.
        workers: processes that decode.
        max_unreadable: tolerated share of unreadable images, in [0, 1].
        listener: receives notes of the data, and progress.

    Raises:
        RunError, WeightsError: there is no model, or a file cannot be written.
        DataError: there are no labels, no such split, or too many images cannot be read.
        SettingsError, SizeError: a setting is out of range, there is one image only, or ``out`` holds a patch that is applied or was
            edited.
    """
    check_embedding(batch_size, workers, max_unreadable)
    check_output_folder(out, (PATCH, FINDINGS, PAGE))
    folder, around = path_of(out), path_of(source)
    _check_patch(folder)
    if around.is_dir() and folder.resolve().is_relative_to(around.resolve()):
        raise SettingsError(f"--out {out} lies among the images of {source}. Choose a folder outside of them.")
    trained = None if model is None else settings_of_model(model)
    read = how_read(source, layout, classes, trained)
    catalogue = data.read_catalogue(source, layout=read.layout, classes=read.classes)  # as `patch_command` says
    listener.listed(catalogue.remarks)
    chosen = take_split(catalogue, split, trained).images
    embedder = untrained_model(TrainSettings()).to(ready(device)) if model is None else load_model(model, device)
    with listener.progress("embedding") as progress:
        images = embeddings.embed(
            embedder,
            chosen,
            batch_size=batch_size,
            workers=workers,
            max_unreadable=tolerated(max_unreadable, trained),
            store=None if model is None else store_of(model),
            progress=progress,
        )
    images = embeddings.number_classes(images, chosen, catalogue)
    rows = _rows_read(images, chosen)
    splits = chosen.splits[rows].astype(np.str_)
    with listener.progress("comparing pictures") as progress:
        findings = audit_embeddings(
            images, splits=splits, settings=settings, compare=lambda pairs: likeness(images, pairs, progress)
        )
    names, labels = tuple(chosen.table["path"].iloc[rows]), tuple(catalogue.label_names)
    found = Audit(
        images=images,
        splits=splits,
        names=names,
        labels=labels,
        findings=findings,
        changes=tuple(proposals(images, splits, names, labels, findings)),
        model="the pretrained backbone" if model is None else str(model),
        source=str(source),
        layout=read.layout,
        classes=read.classes,
        folder=folder,
    )
    _write(found)
    return found


def _check_patch(out: Path) -> None:
    """Refuse a folder whose patch is applied or was edited: a new one would make undoing wrong, or lose the edits.

    Raises:
        SettingsError: it is.
    """
    patch, record = out / PATCH, record_of(out / PATCH)
    free = next(one for one in (out.with_name(f"{out.name}-{n}") for n in itertools.count(2)) if not one.exists())
    if record.exists():
        raise SettingsError(
            f"{patch} is applied, as {record.name} says. Undo it first, or give another folder: --out {shlex.quote(str(free))}."
        )
    if patch.exists() and hashlib.sha256(patch.read_bytes()).hexdigest() != _digest_of_patch(out):
        raise SettingsError(
            f"{patch} was edited, or no audit wrote it. Move it away, or give another folder: --out {shlex.quote(str(free))}."
        )


def _digest_of_patch(out: Path) -> str:
    """SHA-256 of the patch that the last audit wrote into a folder; empty where unknown."""
    content: Any = None
    with contextlib.suppress(RunError):
        content = read_json(out / FINDINGS, what="an audit")
    return str(content.get(_DIGEST, "")) if isinstance(content, dict) else ""


def _write(found: Audit) -> None:
    """Write the patch and the findings, which hold its digest."""
    text = patch_text(found.changes)
    # Whoever ends this between two of its steps leaves no patch, rather than one that looks edited.
    (found.folder / PATCH).unlink(missing_ok=True)
    digest = hashlib.sha256(text.encode()).hexdigest()
    write_json(found.folder / FINDINGS, as_dict(found) | {_DIGEST: digest})
    write_text(found.folder / PATCH, text)


def _rows_read(images: Embeddings, chosen: Catalogue) -> list[int]:
    """The rows of a catalogue that its embeddings are of, which leave out images that could not be read.

    By row and not by path: a table may list a picture in two splits.
    """
    boxes = None if chosen.boxes is None else chosen.boxes.tolist()
    own = None if images.boxes is None else images.boxes.tolist()
    rows: list[int] = []
    for row, path in enumerate(chosen.paths):
        at = len(rows)
        there = at < len(images) and os.path.abspath(path) == images.paths[at]  # noqa: PTH100
        if there and (boxes is None or own is None or boxes[row] == own[at]):
            rows.append(row)
    return rows


def likeness(images: Embeddings, pairs: Integers, progress: Progress | None = None) -> Floats:
    """How alike the pixels of pairs of images are: the correlation of both as 16 x 16 grey levels.

    A copy that was scaled, compressed or sharpened stays near 1; another photo of the same thing does not.

    Args:
        images: N rows.
        pairs: (P, 2) rows.
        progress: called with the number of images that were read.

    Returns:
        (P,) from -1 to 1; 0 for an image without contrast or that cannot be read.
    """
    rows, places = np.unique(pairs, return_inverse=True)
    small = np.empty((len(rows), _SIDE * _SIDE))
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        for at, levels in enumerate(pool.map(lambda row: _grey(images, row), rows.tolist())):
            small[at] = levels
            if progress is not None:
                progress(at + 1, len(rows))
    one, other = places.reshape(pairs.shape).T
    alike: Floats = (small[one] * small[other]).sum(axis=1)
    return alike


def _grey(images: Embeddings, row: int) -> Floats:
    """Grey levels of a small version, of mean 0 and length 1."""
    box = None if images.boxes is None or images.boxes[row].min() < 0 else tuple(images.boxes[row].tolist())
    try:
        picture = Image.fromarray(read_image(images.paths[row], box=box, target=4 * _SIDE))
    except ImageError:
        return np.zeros(_SIDE * _SIDE)
    levels = np.asarray(picture.convert("L").resize((_SIDE, _SIDE), Image.Resampling.BOX), dtype=np.float64).ravel()
    levels -= levels.mean()
    length = float(np.linalg.norm(levels))
    return levels / length if length > 1 else np.zeros_like(levels)


def proposals(
    images: Embeddings,
    splits: npt.NDArray[np.str_],
    names: tuple[str, ...],
    labels: tuple[str, ...],
    findings: AuditFindings,
) -> list[Change]:
    """What a patch should say: of near duplicates across splits, the one outside of the test set goes; suspects get the suggested label.

    A suspect whose suggested class holds half of its neighbours or less is listed with the action ``keep``; so is one of several boxes
    of an image that carry one label, because a patch names the image and the label only.
    """
    own_labels = [labels[label] for label in images.labels.tolist()]
    several = boxes_of_one_label(names, own_labels, images.boxes)
    changes: dict[tuple[str, ...], Change] = {}

    def propose(row: int, action: str, new: str, score: float, reason: str) -> None:
        image = names[row], own_labels[row]
        box = f"box {images.boxes[row].tolist()}" if images.boxes is not None and image in several else ""
        change = Change(KEEP if box else action, *image, new, score, f"{box}: {reason}" if box else reason)
        changes.setdefault((*image, box), change)

    for pair in findings.duplicates:
        if not pair.across_splits:
            continue
        goes, stays = (pair.second, pair.first) if splits[pair.first] == "test" else (pair.first, pair.second)
        if (names[goes], own_labels[goes]) == (names[stays], own_labels[stays]):  # a patch cannot tell these rows apart
            reason = f"listed in split {splits[goes]} and in split {splits[stays]}; change the table by hand"
            propose(goes, KEEP, "", pair.likeness, reason)
        else:
            propose(goes, REMOVE, "", pair.likeness, f"near duplicate of {names[stays]} in split {splits[stays]}")
    suspects = findings.suspects
    columns = (suspects.rows, suspects.suggested, suspects.agreement, suspects.suspicion)
    for row, other, agreement, score in zip(*(column.tolist() for column in columns), strict=True):
        reason = f"nearer to class {images.class_names[other]}, which {100 * agreement:.0f} % of its neighbours carry"
        propose(row, RELABEL if agreement > SURE else KEEP, labels[other], score, reason)
    return list(changes.values())


def as_dict(found: Audit) -> dict[str, Any]:
    """The findings as plain values."""
    names, classes, findings = found.names, found.images.class_names, found.findings
    suspects = findings.suspects.as_rows()
    return {
        "source": found.source,
        "model": found.model,
        "images": len(names),
        "classes": len(classes),
        "counts": {name.strip(): count for name, count in findings.counts().items()},
        "likely_wrong_labels": [
            {
                "path": names[int(one["row"])],
                "label": classes[int(one["label"])],
                "suggested": classes[int(one["suggested"])],
                **{name: one[name] for name in ("agreement", "own", "suspicion")},
            }
            for one in suspects
        ],
        "near_duplicates": [
            {
                "paths": [names[pair.first], names[pair.second]],
                "likeness": pair.likeness,
                "across_splits": pair.across_splits,
                "across_classes": pair.across_classes,
            }
            for pair in findings.duplicates
        ],
        "classes_that_look_like_one": [
            {"classes": [classes[pair.first], classes[pair.second]], "mixing": pair.mixing} for pair in findings.alike
        ],
        "classes_that_look_like_two": [
            {"class": classes[one.label], "gap": one.gap, "parts": [[names[row] for row in part] for part in one.parts]}
            for one in findings.divided
        ],
        "outliers": [{"path": names[one.row], "cosine": one.cosine, "score": one.score} for one in findings.outliers],
    }
