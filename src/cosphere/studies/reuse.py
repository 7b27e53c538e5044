"""Runs of other studies in the same runs folder that have the settings, seed and images of one that is to be done.

A run is a function of its settings, its seed, its images, its first weights and the code, so a study need not train what another one
has trained. What is taken over keeps its own provenance and says where it comes from. The test is not scored again: the scores are those
of the other study.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple

from cosphere.errors import CosphereError
from cosphere.fields import flatten
from cosphere.files import read_json
from cosphere.models import weights_identity
from cosphere.runs import RunFolder, provenance
from cosphere.studies.folder import StudyFolder
from cosphere.studies.forms import of_protocols, of_ranking
from cosphere.studies.jobs import Context, Job
from cosphere.train import TrainSettings

Reuse = Literal["same", "any", "none"]
"""Which runs of other studies are taken over: of the same code, machine and device, of any, or none."""
_CODE = ("cosphere", "python", "torch", "timm", "commit")


class Source(NamedTuple):
    """A run of another study."""

    folder: Path
    """Of the run."""
    study: str
    """Name of the other study's folder."""
    record: Mapping[str, Any]


class Others:
    """The finished runs of the other studies in a runs folder.

    Args:
        context: of the study that asks.
        reuse: which runs may be taken over.
        threads: of torch in a run of this study; "same" wants as many, as sums are rounded by it.
    """

    def __init__(self, context: Context, reuse: Reuse, *, threads: int) -> None:
        self.context, self.reuse = context, reuse
        self._origin = _code(provenance(), threads)
        self._equal: dict[str, list[Source]] = {}
        self.elsewhere: set[tuple[str, str]] = set()
        """Arm and run of each job that another study has done with other code, machine or device, and that was not taken over."""
        if reuse != "none":
            for source in _sources(context.folder):
                with contextlib.suppress(CosphereError, KeyError, TypeError):  # of a version whose settings are gone
                    old = TrainSettings().with_values(flatten(source.record["settings"]))
                    key = _key(source.record["phase"], old, source.record.get("weights"))
                    self._equal.setdefault(key, []).append(source)

    def find(self, job: Job) -> Source | None:
        """A run to take over for a job; None if it has to be done."""
        weights = job.settings.model.weights
        # A record of an earlier version knows its weights by their path alone.
        keys = {_key(job.phase, job.settings, name): None for name in (weights_identity(weights), weights)}
        equal = [one for key in keys for one in self._equal.get(key, ()) if self._suits(one, job)]
        own = [one for one in equal if self._is_ours(one.record, job)]
        if equal and not own and self.reuse == "same":
            self.elsewhere.add((job.arm, job.name))
        # Runs of this code come first, also where those of any code may be taken over.
        return next(iter([*own, *(equal if self.reuse == "any" else ())]), None)

    def _is_ours(self, record: Mapping[str, Any], job: Job) -> bool:
        """Whether a run was done by this code on this machine and device, with files that its record knows.

        Of a checkout with changed files nobody knows.
        """
        origin = record["provenance"]
        return (
            _code(origin, None) == self._origin
            and not str(origin["commit"]).endswith("+")
            and record.get("device") == job.settings.device
            and "weights" in record
            and set(record["data"]) >= self._data(job).keys()
        )

    def _suits(self, source: Source, job: Job) -> bool:
        """Whether a run with the settings of a job has its images, as far as its record knows them, and all that the job would leave."""
        record, known = source.record, source.record["data"]
        return (
            all(known.get(name) == self.context.data[name] for name in ("training", "whole"))
            and all(known.get(name, digest) == digest for name, digest in self._data(job).items())
            and (bool(record.get("lens")) or not job.settings.validation.lens)
            and (job.phase == "tune" or record["status"] == "diverged" or self._scored(source))
        )

    def _data(self, job: Job) -> dict[str, str]:
        """Digests of all that a job sees."""
        return {**self.context.data, **job.data}

    def _scored(self, source: Source) -> bool:
        """Whether a final run has the scores of this study, those of each query and its embeddings.

        Scores of protocols depend on settings that no record keeps, so they are always measured.
        """
        names, record = of_ranking(self.context.scores), source.record
        if of_protocols(self.context.scores) or not set(names) <= set(record["scores"]):
            return False
        run = RunFolder(source.folder)
        parts = [source.folder / "queries.npz", run.embeddings(record["split"])]
        return all(part.exists() for part in (*parts, *([run.model] if "model" in self.context.keep else ())))


def adopt(source: Source, job: Job, context: Context) -> dict[str, Any] | None:
    """Take a run over into a study's folder and return its record; None if it cannot be copied.

    Files are linked where the file system allows, so they take no space.
    """
    folder = StudyFolder(context.folder)
    target = folder.run(job.arm, job.name)
    folder.discard(job.arm, job.name)
    try:
        shutil.copytree(
            source.folder,
            target,
            copy_function=_link,
            ignore=shutil.ignore_patterns("record.json", ".*", "checkpoints"),
        )
    except (OSError, shutil.Error):  # the other study was removed meanwhile
        folder.discard(job.arm, job.name)
        return None
    scores = source.record["scores"]
    record = {
        **source.record,
        "arm": job.arm,
        "run": job.name,
        "candidate": job.candidate,
        "values": dict(job.values),
        "scores": {name: scores[name] for name in context.scores if name in scores} if job.phase == "final" else scores,
        "taken_from": source.record.get("taken_from")
        or "/".join((source.study, source.record["arm"], source.record["run"])),
    }
    folder.save(record, None)
    folder.prune(record, keep=context.keep if job.phase == "final" else ())
    return record


def _link(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)


def _sources(own: Path) -> Iterator[Source]:
    """The finished runs of all studies beside one, those that trained them by themselves first."""
    found = []
    for marker in sorted(own.parent.glob("*/study.json")):
        if marker.parent.resolve() == own.resolve():
            continue
        for file in sorted(marker.parent.glob("arms/*/*/record.json")):
            try:
                record = read_json(file, what="a record of a study")
            except CosphereError:
                continue
            found.append(Source(file.parent, marker.parent.name, record))
    yield from sorted(found, key=lambda one: "taken_from" in one.record)


def _key(phase: str, settings: TrainSettings, weights: str | None) -> str:
    """Phase and all settings that a number depends on, as text.

    The images are known by their fingerprint, wherever they lie, and the augmentation by what it does, as a setting that is left to the
    preset says the same as the preset's value.

    Args:
        phase: of the run.
        settings: of the run.
        weights: what identifies its first weights, see :func:`cosphere.models.weights_identity`; None takes the setting as it is.
    """
    identity = settings.identity()
    identity["model"]["weights"] = weights or settings.model.weights
    del identity["data"]["root"]
    identity["images"] = {
        **{name: identity["images"][name] for name in ("size", "preset", "resize", "decoding")},
        "augmentation": settings.images.augmentation().as_dict(),
    }
    return json.dumps([phase, identity], sort_keys=True, default=str)


def _code(origin: Mapping[str, Any], threads: int | None) -> dict[str, Any]:
    """Code and machine of a run; ``threads`` in place of those of the process that asks."""
    machine = {**origin["machine"], **({} if threads is None else {"threads": threads})}
    return {**{key: origin.get(key) for key in _CODE}, "machine": machine}
