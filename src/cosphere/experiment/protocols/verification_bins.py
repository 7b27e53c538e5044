"""InsightFace's verification sets, such as ``agedb_30.bin`` and ``cfp_fp.bin``: ten folds of aligned pairs in one file.

Protocols `lfw` and `pairs` take such a file too. The file names nobody, so pairs of people that were trained on cannot be left out.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

from cosphere.data import read_catalogue, read_verification_bin
from cosphere.errors import DataError
from cosphere.experiment.protocols.base import ProtocolEntry, ProtocolScores, Subject
from cosphere.experiment.protocols.comparing import compare_lists
from cosphere.experiment.protocols.verifying import (
    OPEN_NAMES,
    SCORES,
    VerificationSettings,
    chance,
    check_kinds,
    rate_notes,
    verification_part,
)

SUFFIX = ".bin"


def run_bin(
    subject: Subject, settings: VerificationSettings, *, protocol: str, names: tuple[str, ...]
) -> ProtocolScores:
    """Score a model on a verification set.

    Args:
        subject: whose source is the file, or a folder that holds it.
        settings: how to score.
        protocol: name of the protocol.
        names: of the file in a folder, without suffix.

    Raises:
        DataError: there is no such file, or it is damaged.
    """
    file = find_bin(subject.source, protocol, names)
    compared = compare_lists(
        subject, read_catalogue(file, labels="optional"), {file.name: read_verification_bin(file)}, settings
    )
    pairs = compared.scored(file.name)
    check_kinds(pairs, file.name)
    parts = (verification_part("", file.name, pairs, settings),)
    notes = (*compared.notes, f"{file.name} names nobody, so pairs of people that were trained on are not left out")
    if pairs.folds is None:
        notes = (*notes, "fewer than ten pairs, so there is no accuracy")
    return ProtocolScores(
        protocol=protocol,
        settings=settings,
        parts=parts,
        notes=(*notes, *rate_notes(parts, settings.fars)),
        data=compared.data,
    )


def find_bin(source: Path | None, protocol: str, names: tuple[str, ...]) -> Path:
    """The file of a verification set: the source itself, or in that folder.

    Raises:
        DataError: there is none.
    """
    file = bin_in(source, names)
    if file is None:
        wanted = " or ".join(f"{name}{SUFFIX}" for name in names)
        raise DataError(
            f"the protocol {protocol} wants {wanted}, InsightFace's file, or a folder that holds it; got {source}. Give its path."
        )
    return file


def bin_in(source: Path | None, names: tuple[str, ...]) -> Path | None:
    """The file of a verification set that a source is or, under one of these names, holds; None where there is none."""
    if source is not None and source.is_file() and source.suffix.lower() == SUFFIX:
        return source
    files = [] if source is None else [source / f"{name}{SUFFIX}" for name in names]
    return next((file for file in files if file.is_file()), None)


def _entry(name: str, title: str, names: tuple[str, ...]) -> ProtocolEntry:
    run: Callable[[Subject, VerificationSettings], ProtocolScores] = partial(run_bin, protocol=name, names=names)
    return ProtocolEntry(
        name=name,
        title=title,
        wants=f"{names[0]}{SUFFIX}",
        settings=VerificationSettings,
        run=run,
        scores=SCORES,
        open_names=OPEN_NAMES,
        chance=chance,
    )


AGEDB = _entry("agedb", "AgeDB-30: ten folds of InsightFace's agedb_30.bin", ("agedb_30",))
CFP = _entry("cfp", "CFP: ten folds of InsightFace's cfp_fp.bin (or cfp_ff.bin)", ("cfp_fp", "cfp_ff"))
