"""One run of a study, from its settings to its record."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt
import torch

from cosphere._types import Floats
from cosphere.data import Catalogue
from cosphere.errors import DivergenceError, RunError
from cosphere.experiment import Evaluation, evaluate_protocol, evaluate_run, run
from cosphere.experiment.images import TEST, VAL
from cosphere.experiment.stopwatch import Stopwatch
from cosphere.models import weights_identity
from cosphere.runs import RunFolder, provenance
from cosphere.studies.costs import measured
from cosphere.studies.folder import StudyFolder, text_column
from cosphere.studies.forms import of_protocols, of_ranking, per_query, protocol_options, settings_of
from cosphere.train import TrainResult, TrainSettings, Validation

Phase = Literal["tune", "final"]
PATIENCE = 10.0
"""Seconds to wait for a run that the worker of a killed study still holds: workers end within a second of their study."""


@dataclass(frozen=True)
class Job:
    """One run to do."""

    arm: str
    phase: Phase
    candidate: int
    """Number of the candidate that its tuned settings are of."""
    seed: int
    values: Mapping[str, Any]
    """Of the tuned settings."""
    settings: TrainSettings
    data: Mapping[str, str] = field(default_factory=dict)
    """Digests of images that only final runs see, beside those of :attr:`Context.data`."""

    @property
    def name(self) -> str:
        """Of its folder."""
        return f"final-seed{self.seed}" if self.phase == "final" else f"tune-{self.candidate:03d}-seed{self.seed}"


@dataclass(frozen=True)
class Context:
    """What all runs of a study share. It is sent to each worker once."""

    folder: Path
    training: Catalogue
    """Training and validation images: all that exists before the last choice."""
    whole: Catalogue
    """All images, with the test split; only final runs look at it."""
    data: Mapping[str, str]
    """Fingerprints of both by their names, and as ``training files`` a digest of the files of the first."""
    scores: tuple[str, ...]
    """To measure on the test images."""
    protocols: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """Settings of the protocols of the scores."""
    keep: tuple[str, ...] = field(default=("embeddings",))
    """Folders that stay of a final run that this call does, see :data:`cosphere.studies.folder.KEPT`."""


class Finished(NamedTuple):
    """A finished run."""

    record: dict[str, Any]
    seconds: float
    """Wall time of the run itself."""


def perform(job: Job, context: Context) -> Finished:
    """Do one run, or go on with it where a kill left it, and keep its record.

    A run that diverges has a record too.

    Raises:
        CosphereError: the run cannot be done at all, for example because an image cannot be read.
    """
    folder = StudyFolder(context.folder)
    began, resumed = time.monotonic(), (folder.run(job.arm, job.name) / "metrics.jsonl").exists()
    record: dict[str, Any] = {
        "arm": job.arm,
        "run": job.name,
        "phase": job.phase,
        "candidate": job.candidate,
        "seed": job.seed,
        "split": TEST if job.phase == "final" else VAL,
        "values": dict(job.values),
        "status": "ok",
        "reason": "",
        "scores": {},
        "norms": {},
        "lens": {},
    }
    queries = None
    try:
        with measured(record, job.settings.device) as watch:
            result = _train(job, context, watch)
        record |= {"steps": result.steps, "best_step": result.best_step, "training_seconds": result.seconds}
        if job.phase == "tune":
            record["scores"] = dict(result.best_scores)
        else:  # Its validation scores are no scores of the test, also if measuring those fails.
            evaluation = _score(job, context)
            ranked = of_ranking(context.scores)
            values = per_query(evaluation.scores, ranked)
            others, failed = _score_by_protocols(job, context)
            record |= _measured(evaluation, ranked, values, others)
            record |= {"failed": failed} if failed else {}
            queries = _queries(evaluation, values)
    except DivergenceError as error:
        record |= {"status": "diverged", "reason": str(error)}
    logged = RunFolder(folder.run(job.arm, job.name)).read_metrics()
    record["norms"] = record["norms"] or _last_norms(logged)
    record["lens"] = _last_lens(logged)
    seconds = time.monotonic() - began
    record |= {"seconds": seconds, "resumed": resumed, **_origin(job, context)}
    folder.save(record, queries)
    folder.prune(record, keep=context.keep if job.phase == "final" else ())
    return Finished(record, seconds)


def _train(job: Job, context: Context, watch: Stopwatch) -> TrainResult:
    """Train, from the last checkpoint if there is one."""
    path = StudyFolder(context.folder).run(job.arm, job.name)
    begun = RunFolder(path)
    until = time.monotonic() + PATIENCE
    while begun.is_claimed and time.monotonic() < until:
        time.sleep(0.1)
    if begun.marker.exists() and begun.has_begun:
        try:
            return run(job.settings, path, resume=True, catalogue=context.training, reporter=watch)
        except RunError:
            if begun.is_claimed:
                raise
            StudyFolder(context.folder).discard(job.arm, job.name)  # Killed inside a write: it starts again.
    return run(job.settings, path, catalogue=context.training, reporter=watch)


def _score(job: Job, context: Context) -> Evaluation:
    """Score the run's model on the test images."""
    return evaluate_run(
        StudyFolder(context.folder).run(job.arm, job.name),
        context.whole,
        split=TEST,
        settings=settings_of(context.scores),
        tables=False,  # nobody looks at the suspects of a hundred runs, and they take a fifth of the scoring
        device=job.settings.device,
    )


def _score_by_protocols(job: Job, context: Context) -> tuple[dict[str, float], dict[str, str]]:
    """The scores of protocols among those of the study, and why others have none; all images are there by now.

    A probe that diverges says nothing about the model's other scores.
    """
    values, failed = dict[str, float](), dict[str, str]()
    for protocol, names in of_protocols(context.scores).items():
        try:
            scores = evaluate_protocol(
                StudyFolder(context.folder).run(job.arm, job.name),
                context.whole,
                protocol=protocol,
                options=protocol_options(protocol, context.protocols.get(protocol, {})),
                device=job.settings.device,
            ).scores
        except DivergenceError as error:
            failed |= dict.fromkeys(names, str(error))
            continue
        values |= {whole: scores.value(own) for whole, own in names.items()}
    return values, failed


def _measured(
    evaluation: Evaluation, names: tuple[str, ...], queries: Mapping[str, Floats], others: Mapping[str, float]
) -> dict[str, Any]:
    """Scores, lengths and health of a final run.

    Args:
        evaluation: of its model.
        names: scores of a ranking or a clustering.
        queries: (Q,) values of those that have them.
        others: scores that are measured already.
    """
    scores = evaluation.scores
    values = {name: float(queries[name].mean()) if name in queries else scores.value(name) for name in names}
    values |= others
    collapsed = Validation(values, scores.health).collapsed
    return {
        "scores": values,
        "norms": scores.norms._asdict(),
        "status": "collapsed" if collapsed else "ok",
        "reason": "all embeddings are zero or point in nearly the same direction" if collapsed else "",
    }


def _queries(evaluation: Evaluation, values: Mapping[str, Floats]) -> dict[str, npt.NDArray[Any]]:
    """The class and the scores of each query."""
    scores = evaluation.scores
    if scores.retrieval is None:
        return {}
    classes = np.asarray(scores.embeddings.class_names)[scores.embeddings.labels[scores.retrieval.query_rows]]
    return {"classes": text_column(classes), **values}


def _last_norms(logged: list[dict[str, Any]]) -> dict[str, float | None]:
    """Lengths of the last logged training batches."""
    rows = [row for row in logged if "train/norm_mean" in row]
    if not rows:
        return {}
    return {
        name: rows[-1].get(f"train/norm_{key}") for name, key in (("mean", "mean"), ("variance", "var"), ("cv", "cv"))
    }


def _last_lens(logged: list[dict[str, Any]]) -> dict[str, float | None]:
    """The last norm lens, if the run measured it."""
    rows = [own for row in logged if (own := {key: value for key, value in row.items() if key.startswith("lens/")})]
    return {key.removeprefix("lens/"): value for key, value in rows[-1].items()} if rows else {}


@cache
def _machine(threads: int) -> dict[str, Any]:
    """Commit and machine, asked once in a process for each number of torch's threads."""
    origin = provenance()
    del origin["time"]
    return origin


def _origin(job: Job, context: Context) -> dict[str, Any]:
    """Where the numbers come from: identity of the run, settings, data, weights, device, commit, machine and time."""
    identity = job.settings.identity()
    del identity["data"]["root"]  # The images are identified by their fingerprint, wherever they lie.
    weights = weights_identity(job.settings.model.weights)
    training = [context.data[name] for name in ("training", "training files") if name in context.data]
    text = json.dumps([identity, weights, *training], sort_keys=True, default=str)
    return {
        "identity": hashlib.sha256(text.encode()).hexdigest()[:16],
        "settings": identity,
        "data": {**context.data, **job.data},
        "weights": weights,
        "device": job.settings.device,
        "provenance": {**_machine(torch.get_num_threads()), "time": datetime.now(UTC).isoformat(timespec="seconds")},
    }
