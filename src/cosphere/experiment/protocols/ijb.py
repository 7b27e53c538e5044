"""IJB-B and IJB-C: templates of several images, compared one to one and searched one to many.

A template is pooled as InsightFace does: an image's embedding is the sum of its raw embedding and that of its mirror image, perhaps
times the detector's score; images of one medium (a video) are averaged, media are added, and the sum is brought to length 1. Raw lengths
count as quality there. The part ``plain`` brings each embedding to length 1 first. With SEC lengths are nearly equal, so both parts
nearly coincide.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pandas as pd

from cosphere._types import Floats, Integers
from cosphere.checks import MOST_SAMPLES
from cosphere.data import Catalogue
from cosphere.data.catalogue import EVERYTHING
from cosphere.data.faces.ijb import IJB, TemplatePairs, TemplateSubjects, read_ijb, read_template_subjects
from cosphere.errors import DataError, counted
from cosphere.evaluate import open_set, pool_templates, retrieval, verification
from cosphere.evaluate.scores import Value
from cosphere.evaluate.verification import far_name, tar_at_far
from cosphere.experiment.protocols.base import Part, ProtocolEntry, ProtocolScores, Subject
from cosphere.experiment.protocols.comparing import Embedded
from cosphere.experiment.protocols.verifying import OPEN_NAMES, Flip, chance, roc_points, too_few
from cosphere.fields import Settings, setting

PAIRS_AT_ONCE = 2**16
WANTS = "meta/ijbc_face_tid_mid.txt (or ijbb_...) and loose_crop/"


@dataclass(frozen=True, kw_only=True)
class IJBSettings(Settings):
    """How templates are pooled and scored.

    Args:
        flip: what an image's embedding is: "sum" of the raw embeddings of the image and of its mirror image, "concat" or "none".
        detector: weigh each image with the detector's score.
        images: folder of the aligned faces in the root; null takes `aligned`, or else `loose_crop` as it is.
        fars: false-accept rates of the comparisons.
        fpirs: false-alarm rates of the searches.
        ranks: of the closed-set searches.
        samples: resamples of people behind the intervals of searches.
        seed: of the intervals.
    """

    SECTION: ClassVar[str] = "options."

    flip: Flip = "sum"
    detector: bool = True
    images: str | None = None
    fars: tuple[float, ...] = setting((1e-2, 1e-3, 1e-4, 1e-5, 1e-6), above=0, below=1)
    fpirs: tuple[float, ...] = setting((1e-1, 1e-2), above=0, below=1)
    ranks: tuple[int, ...] = setting((1, 5, 10), at_least=1)
    samples: int = setting(1000, at_least=1, at_most=MOST_SAMPLES)
    seed: int = setting(0, at_least=0, at_most=2**31 - 1)


def run(subject: Subject, settings: IJBSettings) -> ProtocolScores:
    """Score a model by IJB's protocols.

    Raises:
        DataError: the source is not IJB-B or IJB-C, or a list is damaged.
    """
    if subject.source is None or not subject.source.is_dir():
        raise DataError(
            f"the protocol ijb wants a folder with {WANTS}; got {subject.source}. Give the folder of one set."
        )
    lists = read_ijb(subject.source)
    folder = _folder_of_images(subject.source, settings)
    notes = []
    if folder.name == "loose_crop":
        notes.append(
            "images of loose_crop are embedded as they are; align them into aligned/ by their five landmarks first"
        )
    names = list(dict.fromkeys(lists.images.names))
    table = pd.DataFrame({"path": names, "label": "", "split": EVERYTHING})
    embedded = Embedded(subject, Catalogue(table=table, root=folder), settings.flip)
    number = {name: at for at, name in enumerate(names)}
    places = embedded.place[[number[name] for name in lists.images.names]]
    lost = int((places < 0).sum())
    if lost:
        notes.append(f"{counted(lost, 'image')} that cannot be read left out of their templates")
    parts = list(_parts(lists, embedded.rows, places, settings, _galleries(subject.source, lists.name), notes))
    return ProtocolScores(
        protocol="ijb", settings=settings, parts=tuple(parts), notes=tuple(dict.fromkeys(notes)), data=embedded.data
    )


def _folder_of_images(root: Path, settings: IJBSettings) -> Path:
    folders = ["aligned", "loose_crop"] if settings.images is None else [settings.images]
    inside = [root / name for name in folders if (root / name).resolve().is_relative_to(root.resolve())]
    folder = next((folder for folder in inside if folder.is_dir()), None)
    if folder is None:
        raise DataError(
            f"{root} has no folder {' or '.join(folders)} with the images. Give its name with --options.images."
        )
    return folder


def _parts(
    lists: IJB,
    rows: Floats,
    places: Integers,
    settings: IJBSettings,
    galleries: dict[str, Path],
    notes: list[str],
) -> Iterator[Part]:
    """Both ways to pool, one to one and one to many."""
    there = places >= 0
    weights = lists.images.scores[there] if settings.detector else None
    for key, lengths in (("", True), ("plain", False)):
        templates, numbers = pool_templates(
            rows[places[there]],
            lists.media.templates[there],
            lists.media.media[there],
            weights=weights,
            keep_lengths=lengths,
        )
        how = "raw lengths as weights" if lengths else "lengths made equal first"
        how += ", detector's scores as weights" if settings.detector else ""
        yield _one_to_one(key, how, templates, numbers, lists.pairs, settings, notes)
        for name, file in galleries.items():
            part = _one_to_many(key, name, how, templates, numbers, file, settings, notes)
            if part is not None:
                yield part


def _one_to_one(
    key: str,
    how: str,
    templates: Floats,
    numbers: Integers,
    pairs: TemplatePairs,
    settings: IJBSettings,
    notes: list[str],
) -> Part:
    """TAR at each FAR by both rules."""
    cosines, same = template_cosines(templates, numbers, pairs)
    lost = len(pairs.same) - len(same)
    if lost:
        notes.append(f"{counted(lost, 'comparison')} of templates without a readable image left out")
    found = verification(cosines, same, None, fars=settings.fars)
    values = {name: Value(value, None) for name, value in found.as_dict().items()}
    values |= {
        f"tar@far={far_name(far)}, nearest": Value(tar_at_far(cosines, same, far, rule="nearest").tar, None)
        for far in settings.fars
    }
    counts = {
        "templates": len(templates),
        "same_pairs": found.same_pairs,
        "different_pairs": found.different_pairs,
    }
    note = too_few(found.different_pairs, settings.fars)
    notes += [note] if note else []
    details = {"roc": roc_points(found.roc, found.different_pairs)}
    return Part(key=key, title=f"1:1, {how}", values=values, counts=counts, details=details)


def template_cosines(templates: Floats, numbers: Integers, pairs: TemplatePairs) -> tuple[Floats, Any]:
    """The cosines of pairs of unit templates, a block at a time, and which pairs show one person.

    Pairs of a template that has no image any more are left out. Beside the templates, the lists and a block this takes 10 bytes a pair:
    157 MB for IJB-C's 15.7 million. Their ROC takes eight times as much.
    """
    cosines, keep = np.empty(len(pairs.same)), np.zeros(len(pairs.same), dtype=bool)
    done = 0
    for start in range(0, len(keep), PAIRS_AT_ONCE):
        wanted = pairs.templates[start : start + PAIRS_AT_ONCE]
        rows = np.searchsorted(numbers, wanted)
        there = ((rows < len(numbers)) & (numbers[np.minimum(rows, len(numbers) - 1)] == wanted)).all(axis=1)
        keep[start : start + len(there)] = there
        some = rows[there]
        cosines[done : done + len(some)] = np.einsum("nd,nd->n", templates[some[:, 0]], templates[some[:, 1]])
        done += len(some)
    return cosines[:done], pairs.same[keep]


def _galleries(root: Path, name: str) -> dict[str, Path]:
    """The galleries of 1:N by their name, such as G1; empty without probes."""
    meta = root / "meta" if (root / "meta").is_dir() else root
    if not (meta / f"{name}_1N_probe_mixed.csv").is_file():
        return {}
    start = f"{name}_1N_gallery_"
    return {file.stem.removeprefix(start): file for file in sorted(meta.glob(f"{start}*.csv"))}


def _one_to_many(
    key: str,
    gallery_name: str,
    how: str,
    templates: Floats,
    numbers: Integers,
    file: Path,
    settings: IJBSettings,
    notes: list[str],
) -> Part | None:
    """Rank-k of known probes, and TPIR at each false-alarm rate where some probes are unknown."""
    gallery = read_template_subjects(file)
    probes = read_template_subjects(file.with_name(file.name.partition("_gallery_")[0] + "_probe_mixed.csv"))
    gallery, probes = _with_images(gallery, probes, numbers, f"1:N {gallery_name}", notes)
    known = np.isin(probes.subjects, gallery.subjects)
    if not known.any():
        notes.append(f"1:N {gallery_name} left out: no probe shows anybody of the gallery")
        return None
    queries, images = (templates[np.searchsorted(numbers, listed.templates)] for listed in (probes, gallery))
    values = _ranks(queries[known], probes.subjects[known], images, gallery, settings.ranks)
    if known.all():
        notes.append(f"1:N {gallery_name}: every probe is known, so there are no false alarms to count")
    else:
        found = open_set(
            queries,
            probes.subjects,
            threshold=1.0,
            gallery=images,
            gallery_labels=gallery.subjects,
            fpirs=settings.fpirs,
            samples=settings.samples,
            seed=settings.seed,
        )
        values |= {f"tpir@fpir={far_name(rate)}": Value(value, None) for rate, value in found.dir_at_fpir.items()}
    counts = {"gallery_templates": len(images), "known_probes": int(known.sum()), "unknown_probes": int((~known).sum())}
    inner = f"{key}/{gallery_name}" if key else gallery_name
    return Part(key=inner, title=f"1:N, gallery {gallery_name}, {how}", values=values, counts=counts)


def _with_images(
    gallery: TemplateSubjects, probes: TemplateSubjects, numbers: Integers, name: str, notes: list[str]
) -> tuple[TemplateSubjects, TemplateSubjects]:
    """Those templates that have a readable image.

    A probe whose person lost the only template in the gallery is left out too: it would count as a stranger.
    """
    there = np.isin(gallery.templates, numbers)
    enrolled = gallery.subjects[there]
    readable = np.isin(probes.templates, numbers)
    without_mate = readable & np.isin(probes.subjects, np.setdiff1d(gallery.subjects, enrolled))
    lost = {"gallery template": int((~there).sum()), "probe template": int((~readable).sum())}
    if any(lost.values()):
        both = " and ".join(counted(count, kind) for kind, count in lost.items())
        notes.append(f"{name}: {both} without a readable image left out")
    if without_mate.any():
        count = int(without_mate.sum())
        notes.append(f"{name}: {counted(count, 'probe')} left out whose person has no template left in the gallery")
    keep = readable & ~without_mate
    return (
        TemplateSubjects(templates=gallery.templates[there], subjects=enrolled),
        TemplateSubjects(templates=probes.templates[keep], subjects=probes.subjects[keep]),
    )


def _ranks(
    queries: Floats, subjects: Integers, images: Floats, gallery: TemplateSubjects, ranks: Sequence[int]
) -> dict[str, Value]:
    """Share of known probes whose person is among the first k."""
    fitting = tuple(rank for rank in ranks if rank <= len(images)) or (1,)
    found = retrieval(queries, subjects, fitting, gallery=images, gallery_labels=gallery.subjects)
    return {f"rank@{rank}": Value(float(found.per_query()[f"recall@{rank}"].mean()), None) for rank in fitting}


ENTRY = ProtocolEntry(
    name="ijb",
    title="IJB-B or IJB-C: templates one to one, and one to many where the lists are there",
    wants=WANTS,
    settings=IJBSettings,
    run=run,
    scores=("auc", "plain/auc"),
    open_names=tuple(f"{part}{name}" for part in ("", "plain/") for name in OPEN_NAMES),
    chance=chance,
)
