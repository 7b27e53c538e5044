"""LFW's protocols: View 2's ten folds, the same without people that were trained on, and View 1's test pairs.

View 2 (``pairs.txt``) has ten folds of 300 same and 300 different pairs. Its people are those of View 1, so a model that was trained on
View 1's training people knows most of them. The part ``unseen`` keeps, in each fold, the pairs in which neither person is of a class
that the model was trained on; the folds stay as they are, only smaller, and of same pairs more are left than of different ones. Its
``balanced_accuracy`` weighs both kinds equally; without that, a threshold that accepts everything would score well.

View 1 (``pairsDevTrain.txt``, ``pairsDevTest.txt``) has people of its own on both sides: the threshold that is best on the training pairs
judges the test pairs.

InsightFace's ``lfw.bin`` holds View 2 too, without names, and so without these parts.

The parts ``templates`` and ``templates_plain`` add up images of people who were not trained on, with raw lengths as weights and without.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from cosphere.data import read_lfw_pairs
from cosphere.errors import DataError, counted
from cosphere.experiment.protocols.base import Part, ProtocolEntry, ProtocolScores, Subject
from cosphere.experiment.protocols.comparing import Compared, compare_lists
from cosphere.experiment.protocols.pooling import template_parts
from cosphere.experiment.protocols.verification_bins import bin_in, run_bin
from cosphere.experiment.protocols.verifying import (
    OPEN_NAMES,
    SCORES,
    TRAINED_ON_UNKNOWN,
    VerificationSettings,
    chance,
    check_kinds,
    rate_notes,
    verification_part,
    without,
)

VIEW_2, TRAIN, TEST = "pairs.txt", "pairsDevTrain.txt", "pairsDevTest.txt"
_TEMPLATES = ("templates/", "templates_plain/")
WANTS = f"{VIEW_2} and <Person>/<Person>_0001.jpg, or InsightFace's lfw.bin"
BINS = ("lfw",)


def run(subject: Subject, settings: VerificationSettings) -> ProtocolScores:
    """Score a model by LFW's protocols. See the head of this file.

    Raises:
        DataError: the source has neither ``pairs.txt`` nor ``lfw.bin``, or too many of its images are missing.
    """
    folder = _folder_of_lists(subject)
    if folder is None:
        return run_bin(subject, settings, protocol="lfw", names=BINS)
    catalogue = subject.catalogue()
    names = [name for name in (VIEW_2, TRAIN, TEST) if (folder / name).is_file()]
    lists = {name: read_lfw_pairs(folder / name) for name in names}
    if lists[VIEW_2].folds is None:
        raise DataError(f"{folder / VIEW_2} has no folds; wanted '10<TAB>300' in its first line. Use LFW's own list.")
    compared = compare_lists(subject, catalogue, lists, settings)
    whole = compared.scored(VIEW_2)
    check_kinds(whole, VIEW_2)
    parts = [verification_part("", "View 2, all pairs", whole, settings)]
    notes = list(compared.notes)
    unseen = _unseen(compared, subject, settings, notes)
    parts += [unseen] if unseen is not None else []
    if TRAIN in lists and TEST in lists:
        parts.append(
            verification_part(
                "view_1",
                "View 1, test pairs, threshold of its training pairs",
                compared.scored(TEST),
                settings,
                chosen_on=compared.scored(TRAIN),
            )
        )
    notes += rate_notes(parts, settings.fars)
    parts += _templates(compared, subject, settings)
    return ProtocolScores(protocol="lfw", settings=settings, parts=tuple(parts), notes=tuple(notes), data=compared.data)


def _folder_of_lists(subject: Subject) -> Path | None:
    """The folder with ``pairs.txt``: that of the source or the one around it. None where there is InsightFace's file instead.

    Raises:
        DataError: there is neither, which is said before any image is listed.
    """
    source = (subject.catalogue().root if subject.source is None else subject.source).absolute()
    folder = source if source.is_dir() else source.parent
    place = next((place for place in (folder, folder.parent) if (place / VIEW_2).is_file()), None)
    if place is None and bin_in(subject.source, BINS) is None:
        raise DataError(
            f"the protocol lfw wants {WANTS}; {source} has no {VIEW_2}. Give the root of LFW, or use --protocol pairs "
            "with --pairs FILE."
        )
    return place


def _unseen(compared: Compared, subject: Subject, settings: VerificationSettings, notes: list[str]) -> Part | None:
    """View 2 without the people that were trained on; None where none of them, or too few others, are there."""
    if subject.trained is None:
        notes.append(TRAINED_ON_UNKNOWN)
        return None
    people = set(compared.people(VIEW_2).ravel().tolist())
    trained = people & subject.trained
    if not trained:
        notes.append("nobody here has the name of a class that the model was trained on")
        return None
    notes.append(
        f"{len(trained):,} of {len(people):,} people of View 2 were trained on: the part 'unseen' leaves out their pairs"
    )
    pairs, about = without(compared.scored(VIEW_2), compared.people(VIEW_2), trained)
    if not pairs.same.any() or pairs.same.all():
        notes.append("too few pairs are left without people that were trained on, so they are not scored")
        return None
    part = verification_part("unseen", "View 2, people never trained on", pairs, settings)
    same = int(pairs.same.sum())
    notes += [
        f"unseen: {same:,} same and {len(pairs.same) - same:,} different pairs in {counted(_folds(part), 'fold')}; accepting every "
        f"pair has an accuracy of {100 * same / len(pairs.same):.1f} % there, so read balanced_accuracy",
        *about,
    ]
    return part


def _templates(compared: Compared, subject: Subject, settings: VerificationSettings) -> list[Part]:
    """Templates of the embedded people who were not trained on."""
    new = ~np.isin(compared.labels.astype(str), sorted(subject.trained or ()))
    return template_parts(compared.rows[new], compared.labels[new], settings.fars)


def _folds(part: Part) -> int:
    return len(part.details["folds"]["accuracies"]) if "folds" in part.details else 1


ENTRY = ProtocolEntry(
    name="lfw",
    title="View 2's ten folds, those without trained people, and View 1's test pairs",
    wants=WANTS,
    settings=VerificationSettings,
    run=run,
    scores=(
        *(f"{part}{name}" for part in ("", "unseen/", "view_1/") for name in SCORES),
        *(f"{part}auc" for part in _TEMPLATES),
    ),
    open_names=tuple(f"{part}{name}" for part in ("", "unseen/", "view_1/", *_TEMPLATES) for name in OPEN_NAMES),
    chance=chance,
)
