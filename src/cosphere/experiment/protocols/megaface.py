"""MegaFace: each FaceScrub image must find another one of its person among a million distractors.

The root holds the lists ``facescrub_lst`` and ``megaface_lst`` (or the devkit's ``*_features_list.json*``) and the images below
``facescrub_images/`` and ``megaface_images/``, or features that were computed before, below ``facescrub/`` and ``megaface/`` of the
folder that ``--options.features`` names. ``facescrub_noises.txt`` and ``megaface_noises.txt`` name images that are left out ("refined").

Memory: the features of the distractors and a unit copy, 8 bytes x M x D, which is 4.1 GB for a million of 512 dimensions, and a block of
cosines. Before that, while images are embedded with their mirror images, 12 bytes x M x D, which is 6.1 GB; 16 with `concat`, then and in
the search.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pandas as pd

from cosphere._types import Float32s
from cosphere.data import Catalogue
from cosphere.data.catalogue import EVERYTHING
from cosphere.data.faces.megaface import (
    MegaFaceList,
    read_megaface_feature,
    read_megaface_list,
    read_megaface_noises,
)
from cosphere.errors import DataError, agreeing, counted
from cosphere.evaluate import identification, verification_among
from cosphere.evaluate.scores import Value
from cosphere.evaluate.verification import far_name
from cosphere.experiment.protocols.base import Part, ProtocolEntry, ProtocolScores, Subject
from cosphere.experiment.protocols.comparing import Embedded
from cosphere.experiment.protocols.verifying import Flip, too_few
from cosphere.fields import Settings, setting

PROBES, DISTRACTORS = "facescrub", "megaface"
LISTS = {
    name: (f"{name}_lst", f"{name}_features_list.json", f"{name}_features_list.json_1000000_1")
    for name in (PROBES, DISTRACTORS)
}
PARTS = {PROBES: 2, DISTRACTORS: 3}
"""Parts of a path in InsightFace's lists that are below the folder of the images."""
WANTS = "facescrub_lst, megaface_lst, facescrub_images/ and megaface_images/"


@dataclass(frozen=True, kw_only=True)
class MegaFaceSettings(Settings):
    """Where embeddings come from and what is scored.

    Args:
        flip: an image's embedding: "sum" of the raw embeddings of the image and of its mirror image, "concat" or "none".
        features: folder in the root with facescrub/ and megaface/, whose files `IMAGE_SUFFIX.bin` hold features that were computed
            before; null embeds the images.
        suffix: of the name of each such file, as in `Ann_1.png_cosphere.bin`.
        ranks: of the identification.
        fars: false-accept rates of the verification.
        refined: leave out the images that the lists of noises name.
    """

    SECTION: ClassVar[str] = "options."

    flip: Flip = "sum"
    features: str | None = None
    suffix: str = "cosphere"
    ranks: tuple[int, ...] = setting((1, 10), at_least=1)
    fars: tuple[float, ...] = setting((1e-4, 1e-5, 1e-6), above=0, below=1)
    refined: bool = True


def run(subject: Subject, settings: MegaFaceSettings) -> ProtocolScores:
    """Score a model, or features that lie on disk, by MegaFace's first challenge.

    Raises:
        DataError: a list is missing or damaged, or too many images or features are.
    """
    root = subject.source
    if root is None or not root.is_dir():
        raise DataError(f"the protocol megaface wants a folder with {WANTS}; got {root}. Give its path.")
    notes: list[str] = []
    listed = {name: _listed(root, name, settings, notes) for name in (PROBES, DISTRACTORS)}
    people = _people(listed[PROBES])
    rows, keep, data = {}, {}, {}
    for name, images in listed.items():
        if settings.features is None:
            rows[name], keep[name], data[name] = _embedded(
                subject, root / f"{name}_images", images.names, settings.flip
            )
        else:
            rows[name] = _read_features(root, settings, name, images.names)
            keep[name], data[name] = np.ones(len(images), dtype=bool), {"features": len(images)}
    persons = [person for person, there in zip(people, keep[PROBES].tolist(), strict=True) if there]
    lost = sum(int((~there).sum()) for there in keep.values())
    notes += [f"{counted(lost, 'image')} that cannot be read {agreeing(lost, 'were')} left out"] if lost else []
    found = identification(rows[PROBES], persons, rows[DISTRACTORS], settings.ranks)
    values = {f"rank@{rank}": Value(found[f"rank@{rank}"], None) for rank in settings.ranks}
    among = verification_among(rows[PROBES], persons, rows[DISTRACTORS], settings.fars)
    values |= {f"tar@far={far_name(far)}": Value(rate, None) for far, (rate, _) in among.items()}
    counts = {
        "probes": len(persons),
        "people": len(set(persons)),
        "distractors": len(rows[DISTRACTORS]),
        "trials": int(found["trials"]),
    }
    note = too_few(len(persons) * len(rows[DISTRACTORS]), settings.fars, "distractor pair")
    notes += [note] if note else []
    part = Part(key="", title="FaceScrub among distractors", values=values, counts=counts)
    return ProtocolScores(protocol="megaface", settings=settings, parts=(part,), notes=tuple(notes), data=data)


def _listed(root: Path, name: str, settings: MegaFaceSettings, notes: list[str]) -> MegaFaceList:
    """The images of a list, without noisy ones."""
    file = next((root / one for one in LISTS[name] if (root / one).is_file()), None)
    if file is None:
        raise DataError(f"the protocol megaface wants {WANTS}; {root} has no {LISTS[name][0]}. Give MegaFace's folder.")
    listed = read_megaface_list(file, parts=PARTS[name] if file.name.endswith("_lst") else None)
    noises = root / f"{name}_noises.txt"
    if not settings.refined:
        return listed
    if not noises.is_file():
        notes.append(f"{noises.name} is not there, so noisy images of {name} count too")
        return listed
    keep = listed.without(read_megaface_noises(noises)).tolist()
    names = tuple(one for one, kept in zip(listed.names, keep, strict=True) if kept)
    people = listed.people
    notes.append(f"{counted(len(keep) - len(names), 'image')} of {name} left out, which {noises.name} names")
    if not names:
        raise DataError(f"{noises.name} names every image of {file.name}. Check both.")
    return MegaFaceList(
        names=names,
        people=None if people is None else tuple(one for one, kept in zip(people, keep, strict=True) if kept),
    )


def _people(probes: MegaFaceList) -> Sequence[str]:
    """The person of each probe: as listed, or the name of its folder."""
    return probes.people if probes.people is not None else [name.split("/")[-2] for name in _in_folders(probes.names)]


def _in_folders(names: Sequence[str]) -> Sequence[str]:
    loose = next((name for name in names if "/" not in name), None)
    if loose is not None:
        raise DataError(f"the probe {loose!r} lies in no folder of a person. Use the published list.")
    return names


def _embedded(subject: Subject, folder: Path, names: Sequence[str], flip: Flip) -> tuple[Float32s, Any, Any]:
    """Embeddings of the images that can be read, which those are, and what the file of scores says of them."""
    if not folder.is_dir():
        raise DataError(f"there is no folder {folder} with the images. Unpack them there, or give --options.features.")
    table = pd.DataFrame({"path": list(names), "label": "", "split": EVERYTHING})
    embedded = Embedded(subject, Catalogue(table=table, root=folder), flip, np.float32)
    return embedded.rows, embedded.place >= 0, embedded.data


def _read_features(root: Path, settings: MegaFaceSettings, name: str, names: Sequence[str]) -> Float32s:
    """(N, D) features, one file each, as MegaFace's devkit reads them."""
    folder = (root / str(settings.features)).resolve()
    if not folder.is_relative_to(root.resolve()):
        raise DataError(f"options.features is {settings.features!r}, outside of {root}. Name a folder in it.")
    first = read_megaface_feature(folder / name / f"{names[0]}_{settings.suffix}.bin")
    rows = np.empty((len(names), len(first)), dtype=np.float32)
    for row, image in enumerate(names):
        file = folder / name / f"{image}_{settings.suffix}.bin"
        values = read_megaface_feature(file)
        if len(values) != len(first):
            raise DataError(f"{file} has {len(values)} values, and others have {len(first)}. Write all with one model.")
        rows[row] = values
    return rows


ENTRY = ProtocolEntry(
    name="megaface",
    title="MegaFace: FaceScrub among a million distractors, from images or feature files",
    wants=WANTS,
    settings=MegaFaceSettings,
    run=run,
    scores=("rank@1",),
    open_names=("rank@", "tar@far="),
)
