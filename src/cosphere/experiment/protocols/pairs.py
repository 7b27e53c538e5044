"""Any table of pairs, or pairs drawn from labels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from cosphere._types import Integers
from cosphere.data import PairList, Pairs, read_lfw_pairs, read_pairs, read_verification_bin
from cosphere.data.table_files import TABLE_SUFFIXES
from cosphere.embeddings import Embeddings
from cosphere.embeddings.table import distinct_rows
from cosphere.errors import DataError, agreeing, counted
from cosphere.experiment.images import ALL, take_split
from cosphere.experiment.protocols.base import Part, ProtocolEntry, ProtocolScores, Subject
from cosphere.experiment.protocols.comparing import Embedded, compare_lists
from cosphere.experiment.protocols.verification_bins import SUFFIX, bin_in, run_bin
from cosphere.experiment.protocols.verifying import (
    OPEN_NAMES,
    SCORES,
    TRAINED_ON_UNKNOWN,
    ScoredPairs,
    VerificationSettings,
    chance,
    check_kinds,
    even_folds,
    rate_notes,
    score_pairs,
    verification_part,
    without,
)
from cosphere.fields import setting


@dataclass(frozen=True, kw_only=True)
class PairSettings(VerificationSettings):
    """How pairs are found, embedded and scored.

    Args:
        pairs: a table with the columns a, b, same and perhaps fold (.csv, .tsv, .parquet), or a list in LFW's format; null takes
            those of InsightFace's file (.bin), or draws pairs from the labels of other images.
        count: pairs of each kind to draw, at most.
        folds: of lists without folds; drawn, each with its share of both kinds.
    """

    pairs: str | None = None
    count: int = setting(3000, at_least=2, at_most=10**6)
    folds: int = setting(10, at_least=2, at_most=1000)


def run(subject: Subject, settings: PairSettings) -> ProtocolScores:
    """Score a model on the pairs of a list, or on pairs drawn from the labels of the images.

    Raises:
        DataError: there is no such list, too many of its images are missing, or not both kinds of pairs can be made.
    """
    if settings.pairs is None and bin_in(subject.source, ()) is not None:
        return run_bin(subject, settings, protocol="pairs", names=())
    if settings.pairs is None:
        every = take_split(subject.catalogue(), subject.split or ALL).images
        chosen = every.rows(distinct_rows(every.identities(), every.labels))  # a picture is no pair with itself
        images = Embedded(subject, chosen, settings.flip)
        labels = chosen.table["label"].to_numpy(dtype=object)[images.place >= 0]
        return _of_labels(images.rows, labels, images.paths, settings, images.data, len(every) - len(chosen))
    path = Path(settings.pairs)
    compared = compare_lists(subject, subject.catalogue(), {path.name: read_list(path)}, settings)
    pairs = compared.scored(path.name)
    check_kinds(pairs, path.name)
    notes = list(compared.notes)
    pairs = _with_folds(pairs, settings, notes)
    parts = [verification_part("", path.name, pairs, settings)]
    people = compared.people(path.name)
    if subject.trained is None and any(people.ravel().tolist()):  # without labels there is nobody to leave out
        notes.append(TRAINED_ON_UNKNOWN)
    trained = set(people.ravel().tolist()) & (subject.trained or frozenset())
    if trained:
        new, about = without(pairs, people, trained)
        overlap = f"{counted(len(trained), 'class')} of these images {agreeing(len(trained), 'were')} trained on"
        if new.same.any() and not new.same.all():
            notes += [f"{overlap}: 'unseen' leaves out their pairs", *about]
            parts.append(verification_part("unseen", f"{path.name}, classes never trained on", new, settings))
        else:
            notes.append(f"{overlap}; too few pairs are left without them, so there is no part 'unseen'")
    return _result(parts, notes, settings, compared.data)


def label_scores(table: Embeddings, settings: PairSettings) -> ProtocolScores:
    """Score pairs of labelled embeddings, without mirror images."""
    table = table.distinct()
    names = np.array(table.class_names, dtype=object)[table.labels]
    return _of_labels(table.embeddings, names, table.paths, settings, {"images": len(table)})


def read_list(path: Path) -> PairList:
    """A table of pairs or InsightFace's file by its suffix, or LFW's format.

    Raises:
        DataError: it is none of them.
    """
    if not path.is_file():
        raise DataError(f"there is no list of pairs {path}. Check --pairs.")
    if path.suffix.lower() == SUFFIX:
        return read_verification_bin(path)
    table = path.suffix.lower() in TABLE_SUFFIXES - {".txt"}
    return read_pairs(path) if table else read_lfw_pairs(path)


def _of_labels(
    rows: Any, labels: Any, paths: tuple[str, ...], settings: PairSettings, data: Mapping[str, Any], repeated: int = 0
) -> ProtocolScores:
    pairs = drawn_pairs(labels, settings.count, settings.seed)
    notes = [
        f"{int(pairs.same.sum()):,} same and {int((~pairs.same).sum()):,} different pairs, drawn from the labels with seed "
        f"{settings.seed}"
    ]
    if repeated:
        notes.append(
            f"{counted(repeated, 'row')} that {agreeing(repeated, 'repeat')} a picture, or name it under two labels, left out"
        )
    scored = _with_folds(score_pairs(rows, pairs, paths), settings, notes)
    return _result([verification_part("", "pairs drawn from the labels", scored, settings)], notes, settings, data)


def drawn_pairs(labels: Any, count: int, seed: int = 0) -> Pairs:
    """Draw as many same as different pairs of images, each pair at most once.

    Same pairs are drawn as evenly over the classes as their sizes allow, and different pairs from two classes drawn evenly, so that a
    class with many images does not outweigh the others.

    Args:
        labels: (N,) the class of each image.
        count: of each kind, at most; all same pairs are taken where there are fewer.
        seed: of the draw.

    Raises:
        DataError: there is no pair of one class, or of two.
    """
    codes = np.unique(np.asarray(labels).astype(str), return_inverse=True)[1]
    order = np.argsort(codes, kind="stable")
    classes = np.split(order, np.cumsum(np.bincount(codes))[:-1])
    generator = np.random.default_rng(seed)
    same = _same_pairs(classes, count, generator)
    possible = (len(codes) ** 2 - sum(len(rows) ** 2 for rows in classes)) // 2
    if not len(same) or not possible:
        raise DataError(
            f"{counted(len(codes), 'image')} of {counted(len(classes), 'class')} make no pair of "
            f"{'two classes' if len(same) else 'one class'}. Give images of two classes, one of them with two images."
        )
    different = _different_pairs(classes, min(len(same), possible), generator)
    rows = np.concatenate([same, different])
    return Pairs(rows=rows, same=np.arange(len(rows)) < len(same))


def _same_pairs(classes: Sequence[Integers], count: int, generator: np.random.Generator) -> Integers:
    """(p, 2) rows of one class: at most so many of each class that ``count`` are reached, then as many as are wanted."""
    possible = np.array([len(rows) * (len(rows) - 1) // 2 for rows in classes])
    ordered = np.sort(possible)
    # With the most frequent classes cut to a level, sum(min(possible, level)) reaches the count at the smallest such level.
    rest = np.arange(len(ordered), 0, -1)
    reached = np.cumsum(ordered) - ordered + ordered * rest
    place = int(np.searchsorted(reached, count))
    level = (
        int(ordered[-1]) if place == len(ordered) else -(-(count - int(np.sum(ordered[:place]))) // int(rest[place]))
    )
    drawn = [
        rows[_pairs_of(generator.choice(number, min(level, number), replace=False))]
        for rows, number in zip(classes, possible.tolist(), strict=True)
        if number
    ]
    every = np.concatenate(drawn) if drawn else np.zeros((0, 2), dtype=np.int64)
    return np.asarray(generator.permutation(every)[:count], dtype=np.int64)


def _pairs_of(numbers: Integers) -> Integers:
    """(p, 2) the pairs with these numbers: pair (lower, upper) has number upper (upper - 1) / 2 + lower."""
    upper = ((1 + np.sqrt(8.0 * numbers + 1)) / 2).astype(np.int64)
    upper -= upper * (upper - 1) // 2 > numbers  # Where the root was rounded up, or down.
    upper += upper * (upper + 1) // 2 <= numbers
    return np.stack([numbers - upper * (upper - 1) // 2, upper], axis=1)


def _different_pairs(classes: Sequence[Integers], count: int, generator: np.random.Generator) -> Integers:
    """(count, 2) rows of two classes, each pair once."""
    sizes = np.array([len(rows) for rows in classes])
    first, order = np.cumsum(sizes) - sizes, np.concatenate(classes)
    found: dict[tuple[int, int], None] = {}
    while len(found) < count:
        drawn = np.sort(generator.integers(0, len(classes), (2 * count, 2)), axis=1)
        drawn = drawn[drawn[:, 0] != drawn[:, 1]]
        images = order[first[drawn] + (generator.random(drawn.shape) * sizes[drawn]).astype(np.int64)]
        for one, two in images.tolist():
            if len(found) < count:
                found.setdefault((one, two))
    return np.array(list(found), dtype=np.int64).reshape(-1, 2)


def _with_folds(pairs: ScoredPairs, settings: PairSettings, notes: list[str]) -> ScoredPairs:
    """The pairs with the folds of their list, or with drawn ones; without any where there are too few pairs."""
    if pairs.folds is not None and len(np.unique(pairs.folds)) > 1:
        return pairs
    least = min(int(pairs.same.sum()), int((~pairs.same).sum()))
    if least < settings.folds:
        notes.append(f"too few pairs for {settings.folds} folds, so there is no accuracy")
        return pairs._replace(folds=None)
    notes.append(f"{settings.folds} folds were drawn with seed {settings.seed}; their pairs may share images")
    return pairs._replace(folds=even_folds(pairs.same, settings.folds, settings.seed))


def _result(parts: list[Part], notes: list[str], settings: PairSettings, data: Mapping[str, Any]) -> ProtocolScores:
    every = (*notes, *rate_notes(parts, settings.fars))
    return ProtocolScores(protocol="pairs", settings=settings, parts=tuple(parts), notes=every, data=data)


ENTRY = ProtocolEntry(
    name="pairs",
    title="a table of pairs (--pairs FILE), or pairs drawn from the labels",
    wants="images that the pairs name, or images with labels",
    settings=PairSettings,
    run=run,
    label_scores=label_scores,
    scores=tuple(f"{part}{name}" for part in ("", "unseen/") for name in SCORES),
    open_names=tuple(f"{part}{name}" for part in ("", "unseen/") for name in OPEN_NAMES),
    chance=chance,
)
