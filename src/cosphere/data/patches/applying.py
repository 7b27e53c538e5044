"""Applying a patch to a table or to class folders, and undoing it.

In a table, lines are rewritten or left out; the file as it was is kept in the record. In class folders, images move: to the folder of
their new class, or below :data:`REMOVED`. The record is written before anything changes, so an interrupted patch can be undone too.
"""

from __future__ import annotations

import base64
import hashlib
import zlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy.typing as npt

from cosphere.data.catalogue import Catalogue
from cosphere.data.folders import Classes
from cosphere.data.listing import is_image
from cosphere.data.names import nfc
from cosphere.data.patches.moving import Move, folders_to_make, move, moves_of, remove_made
from cosphere.data.patches.proposal import RELABEL, Change, read_patch
from cosphere.data.patches.rewriting import rewritten
from cosphere.data.reading import read_catalogue, table_in
from cosphere.data.remarks import Skipped
from cosphere.data.table_files import TABLE_SUFFIXES
from cosphere.errors import DataError, RunError, counted
from cosphere.files import read_json, write_atomic, write_json

VERSION = 1
_MOST_BYTES = 2**28
"""Of a table that is kept in a record."""


@dataclass(frozen=True, kw_only=True)
class AppliedPatch:
    """What a patch changed."""

    relabelled: int
    removed: int
    record: Path
    """What :func:`undo_patch` reads; it removes the file."""
    skipped: tuple[Skipped, ...]
    """Lines that do not fit the images as they are now, with the reason; nothing was changed for them."""


def record_of(patch: str | Path) -> Path:
    """The record of an applied patch, beside it."""
    return Path(patch).with_name(f"{Path(patch).name}.applied.json")


def apply_patch(
    patch: str | Path, source: str | Path, *, layout: str = "auto", classes: Classes = "top"
) -> AppliedPatch:
    """Change labels as a patch says.

    Args:
        patch: a file of :func:`cosphere.data.patches.write_patch`, perhaps edited.
        source: the table or the class folders that the patch was made from.
        layout: how the source is laid out.
        classes: which of nested class folders is the class.

    Raises:
        DataError: the patch or the source cannot be read, is of a kind that cannot be patched, or no line fits.
        RunError: the patch is applied already, or a file cannot be written. What was changed until then is undone by
            :func:`undo_patch`.
    """
    changes, record = read_patch(patch), record_of(patch)
    if record.exists():
        raise RunError(f"{patch} is applied already, as {record.name} says. Undo it first.")
    catalogue = read_catalogue(source, layout=layout, classes=classes, labels="optional")
    if not changes:
        raise DataError(f"{patch} changes nothing: every line is kept. Give actions relabel or remove.")
    fitting, skipped = _fitting(changes, catalogue)
    if not fitting:
        raise DataError(
            f"no line of {patch} fits {source}; first: {skipped[0].path}: {skipped[0].reason}. Give the images that it was made from."
        )
    if catalogue.layout == "table":
        _apply_to_table(Path(source), catalogue.root, fitting, record)
    elif catalogue.layout == "folder" and not any("#" in change.path for change in fitting):
        _apply_to_folders(catalogue, fitting, record)
    else:
        raise DataError(
            f"{source} is of layout {catalogue.layout}; patches change tables and class folders. "
            "Write the images and labels into a table, or unpack the archive."
        )
    relabelled = sum(change.action == RELABEL for change in fitting)
    return AppliedPatch(relabelled=relabelled, removed=len(fitting) - relabelled, record=record, skipped=tuple(skipped))


def undo_patch(patch: str | Path) -> int:
    """Restore what :func:`apply_patch` changed, byte for byte, and remove the record.

    Args:
        patch: the patch that was applied.

    Returns:
        number of files that were restored.

    Raises:
        RunError: the patch is not applied, its record is damaged, or a file was changed since; nothing is changed then.
    """
    record = record_of(patch)
    if not record.exists():
        raise RunError(f"{patch} is not applied: there is no {record.name}. Nothing to undo.")
    content = read_json(record, what="the record of a patch")
    try:
        if content["version"] != VERSION:
            raise RunError(f"{record} has version {content['version']}; this Cosphere reads {VERSION}.")
        if content["kind"] == "table":
            _restore_table(Path(content["table"]), content, record)
            restored = 1
        else:
            root = Path(content["root"])
            restored = _move_back([Move(*one) for one in content["moves"]], root, record)
            remove_made(root, content.get("made", []))
    except (KeyError, TypeError, ValueError, zlib.error) as error:
        raise RunError(f"{record} is damaged: {error}. Restore it.") from error
    record.unlink()
    return restored


def _fitting(changes: Sequence[Change], catalogue: Catalogue) -> tuple[list[Change], list[Skipped]]:
    """The changes of images that are there under the label that the patch says, and the others with the reason."""
    labels: dict[str, set[str]] = {}
    for path, label in zip(catalogue.table["path"], catalogue.table["label"], strict=True):
        labels.setdefault(path, set()).add(label)
    several = boxes_of_one_label(catalogue.table["path"].tolist(), catalogue.table["label"].tolist(), catalogue.boxes)
    spelled = {_spelling(path): path for path in labels}
    names = {nfc(label): label for label in catalogue.label_names}
    fitting, skipped = [], []
    for one in changes:
        change = one._replace(
            path=one.path if one.path in labels else spelled.get(_spelling(one.path), one.path),
            label=names.get(nfc(one.label), one.label),
            new_label=names.get(nfc(one.new_label), one.new_label),
        )
        there = labels.get(change.path)
        if there is None:
            skipped.append(Skipped(change.path, "there is no such image"))
        elif change.label not in there:
            skipped.append(Skipped(change.path, f"its label is {min(there)!r}, not {change.label!r}"))
        elif (change.path, change.label) in several:
            skipped.append(
                Skipped(change.path, f"several boxes of it carry {change.label!r}; change the table by hand")
            )
        elif change.new_label == change.label:
            skipped.append(Skipped(change.path, f"its label is {change.label!r} already"))
        else:
            fitting.append(change)
    return fitting, skipped


def _spelling(path: str) -> str:
    """A path as programs on other systems may have written it: with slashes, in one Unicode form."""
    return nfc(path.replace("\\", "/"))


def boxes_of_one_label(
    paths: Sequence[str], labels: Sequence[str], boxes: npt.NDArray[Any] | None
) -> set[tuple[str, str]]:
    """Images and labels that several boxes carry: the lines of a patch name an image and its label, and cannot tell these apart."""
    if boxes is None:
        return set()
    every = {(path, label, *box) for path, label, box in zip(paths, labels, boxes.tolist(), strict=True)}
    return {image for image, count in Counter(one[:2] for one in every).items() if count > 1}


def _apply_to_table(source: Path, root: Path, changes: Sequence[Change], record: Path) -> None:
    path = (table_in(source) if source.is_dir() else source).resolve()  # of a link, the table that it leads to
    before = path.read_bytes()
    if len(before) > _MOST_BYTES:
        raise DataError(
            f"{path} has {len(before):,} bytes, more than the {_MOST_BYTES:,} that a record keeps. Split it."
        )
    after = rewritten(path, before, changes, root)
    content: dict[str, Any] = {
        "version": VERSION,
        "kind": "table",
        "table": str(path),
        "before": base64.b64encode(zlib.compress(before)).decode(),
        "before_sha256": _digest(before),
        "after_sha256": _digest(after),
    }
    write_json(record, content)
    write_atomic(path, lambda part: part.write_bytes(after))


def _restore_table(path: Path, content: dict[str, Any], record: Path) -> None:
    unpacking = zlib.decompressobj()
    before = unpacking.decompress(base64.b64decode(content["before"]), _MOST_BYTES)
    if unpacking.unconsumed_tail or _digest(before) != content["before_sha256"]:
        raise RunError(f"{record} is damaged: its copy of {path.name} has another digest. Restore it.")
    if path.suffix.lower() not in TABLE_SUFFIXES:
        raise RunError(f"{record} names {path}, which is no table. Restore it.")
    now = _digest(path.read_bytes()) if path.is_file() else ""
    if not now or now not in (content["after_sha256"], content["before_sha256"]):
        raise RunError(
            f"{path} was changed since the patch was applied; undoing would lose that. Move it away to get the old one back."
            if now
            else f"{path} is gone. Put the patched table back, or copy the images' table by hand."
        )
    write_atomic(path, lambda part: part.write_bytes(before))


def _apply_to_folders(catalogue: Catalogue, changes: Sequence[Change], record: Path) -> None:
    root = catalogue.root.resolve()
    moves = moves_of(catalogue, changes)
    content: dict[str, Any] = {"version": VERSION, "kind": "folders", "root": str(root)}
    write_json(record, content | {"moves": [list(one) for one in moves], "made": folders_to_make(root, moves)})
    for one in moves:
        move(root, one.source, one.target)


def _move_back(moves: Sequence[Move], root: Path, record: Path) -> int:
    places = [(root / one.source, root / one.target) for one in moves]
    outside = [one for one in places if any(not path.parent.resolve().is_relative_to(root) for path in one)]
    if outside:
        raise RunError(f"{record} names files outside of {root}. Restore it.")
    if not all(is_image(path.name) for pair in places for path in pair):
        raise RunError(f"{record} names files that are no images. Restore it.")
    lost = [target for source, target in places if not source.exists() and not target.exists()]
    both = [one for one, two in places if one.exists() and two.exists() and not one.samefile(two)]
    if lost or both:
        what = f"{lost[0]} is gone" if lost else f"{both[0]} is there again"
        raise RunError(
            f"{what}; {counted(len(lost) + len(both), 'image')} cannot be moved back, so none was. Put the images back first."
        )
    for source, target in places:
        if source.exists() and target.exists():  # one file under both names: moving it was interrupted
            target.unlink()
    moved = [one for one, (source, _) in zip(moves, places, strict=True) if not source.exists()]
    for one in reversed(moved):
        move(root, one.target, one.source)
    return len(moved)


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
