"""Running a study: candidates on validation classes, then the choice, then the final runs, which alone see the test classes."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pandas as pd

from cosphere.checks import check_choice, check_made, check_number, check_switches, check_whole
from cosphere.data import Catalogue
from cosphere.errors import SettingsError, counted, duration
from cosphere.experiment import Listener, choose_device
from cosphere.files import path_of, read_json, write_atomic, write_json
from cosphere.runs import provenance
from cosphere.studies.budget import Clock, Kind, guess, steps_of
from cosphere.studies.building import check_parts
from cosphere.studies.checking import check_study
from cosphere.studies.convergence import convergence
from cosphere.studies.definition import Study
from cosphere.studies.features import features_ready
from cosphere.studies.folder import KEPT, StudyFolder
from cosphere.studies.jobs import Context, Finished, Job, Phase
from cosphere.studies.notes import batch_notes, notes
from cosphere.studies.pool import Workers, share_of_threads, shared_threads
from cosphere.studies.results import StudyResult, arm_results, compared
from cosphere.studies.reuse import Others, Reuse, adopt
from cosphere.studies.search import Search
from cosphere.studies.sources import check_files, image_files, listed, parts, rules_of
from cosphere.studies.spreads import spreads
from cosphere.studies.variance import variance_against_gain
from cosphere.train import TrainSettings


class StudyListener(Listener):
    """Receives notes, progress and each run of a study. This one ignores them."""

    def started(self, arm: str, run: str) -> None:
        """A run starts."""

    def ended(self, record: Mapping[str, Any], done: int, total: int, left: float | None) -> None:
        """A run ended: its record, how many of all runs are done, and the seconds that the rest will take, if known."""


SILENT = StudyListener()


def run(
    study: Study,
    source: str | Path | Catalogue,
    folder: str | Path,
    *,
    budget: float | None = None,
    jobs: int = 1,
    device: str = "auto",
    keep_models: bool = False,
    reuse: Reuse = "same",
    listener: StudyListener = SILENT,
) -> StudyResult:
    """Run a study, or go on with it, and leave its table and verdicts in a folder.

    Whatever is done is kept: a study that is killed at any moment, or stopped by its budget, goes on when it is called again with the
    same arguments, and ends with the same table as an unbroken one. More seeds may be asked for later.

    Args:
        study: see :func:`cosphere.studies.read_study`.
        source: the images, with a train and a test split; of data without splits, 30 % of the classes are kept for the test.
        folder: of the study; made if missing.
        budget: seconds after which no run is started that would not end in time; None for no limit.
        jobs: runs at once, each in a process of its own.
        device: "auto", "cpu", "cuda" or "mps".
        keep_models: keep the models of the final runs; by default their embeddings and scores stay.
        reuse: take over runs of other studies beside the folder that have the settings, seed and images of one of this study: "same",
            those that the same commit and versions did on the same machine and device; "any", of any; "none", none.
        listener: receives notes, progress and finished runs.

    Returns:
        The result so far: its ``complete`` says whether all runs are done.

    Raises:
        SettingsError: a setting of any arm is wrong; nothing has run then.
        DataError: there is no test split, or too few classes.
        RunError: another process works on the folder, it holds another study, or a script calls this with several jobs without
            ``if __name__ == "__main__":``.
    """
    check_made("study", study, Study, "studies.read_study('sec')")
    check_switches(keep_models=keep_models)
    check_study(study)
    check_whole("jobs", jobs, least=1, most=1024)
    check_choice("reuse", reuse, get_args(Reuse))
    if budget is not None:
        check_number("budget", budget, above=0)
    catalogue, root = listed(study, source, listener)
    whole, training = parts(catalogue, listener)
    check_parts(study, len(training.label_names))
    place = StudyFolder(path_of(folder))
    data = {"training": training.fingerprint(), "whole": whole.fingerprint(), "training files": image_files(training)}
    with place.claim(rules_of(study, whole, data)) as unknown:
        if unknown:
            listener.note(
                f"{place.path} was made by an earlier version that did not record its {' and '.join(unknown)}; whether its runs are of "
                "the same ones is not checked"
            )
        fixed = {"data.root": root, "device": choose_device(device)}
        context = Context(
            folder=place.path.absolute(),
            training=training,
            whole=whole,
            data=data,
            scores=study.scores,
            protocols=study.protocols,
            keep=("embeddings", "model") if keep_models else ("embeddings",),
        )
        others = Others(context, reuse, threads=share_of_threads(jobs))
        clock = Clock(budget, jobs, steps_of(study))
        return Work(study, place, context, fixed, clock, others, listener).run()


class Work:
    """What is done of a study, and what is next."""

    def __init__(
        self,
        study: Study,
        folder: StudyFolder,
        context: Context,
        fixed: Mapping[str, Any],
        clock: Clock,
        others: Others,
        listener: StudyListener,
    ) -> None:
        self.study, self.folder, self.context, self.fixed = study, folder, context, fixed
        self.clock, self.others, self.listener = clock, others, listener
        self.records = {(one["arm"], one["run"]): one for one in folder.records()}
        self.before = len(self.records)
        self.spent = 0.0
        self.taken: set[tuple[str, str]] = set(self.records)
        self.choices: dict[str, Any] = {}
        self.final_data: dict[str, str] = {}
        """Digest of all image files; the test images are looked at after the last choice."""
        check_files(self.records.values(), context.data, folder.path)
        for record in self.records.values():
            self._time(record)
            folder.prune(record, keep=KEPT if record["phase"] == "final" else ())

    def run(self) -> StudyResult:
        """Do what is left, phase by phase, and write the results."""
        self.search = Search(self.study, self.folder.journal)
        self.batch_notes = batch_notes(self.study, self.context.training)
        if self.folder.choices.exists():
            self.choices = read_json(self.folder.choices, what="the choices of a study")["arms"]
        for number in range(self.study.candidates):  # A kill may have come between a record and the search.
            for name, arm in self.study.arms.items():
                if arm.tune:
                    self._tell(name, number)
        self._adopt("final" if self.choices else "tune")
        self._advance()
        self._prepare()
        with Workers(self.context, self.clock.jobs, max(self.missing().values())) as workers:
            if not self.choices:
                workers.execute(lambda: self._take("tune"), self._done)
                self._advance()
            if self.choices:
                workers.execute(lambda: self._take("final"), self._done)
        return self._conclude()

    def _advance(self) -> None:
        """Once all candidates are tried, choose, and go on to the final runs."""
        if not self.choices and self.count("tune") == self.study.tuning_runs:
            self._choose()
            self._adopt("final")

    def _adopt(self, phase: Phase) -> None:
        """Take over what other studies in the runs folder have done of a phase."""
        adopted, again = list[str](), True
        while again:  # With TPE an adopted candidate makes the next one known.
            again = False
            for job in self._jobs(phase):
                source = self.others.find(job)
                record = None if source is None else adopt(source, job, self.context)
                if record is not None:
                    self.taken.add((job.arm, job.name))
                    self._take_in(record)
                    adopted.append(record["taken_from"].partition("/")[0])
                    again = True
        if adopted:
            self.listener.note(f"{counted(len(adopted), 'run')} taken over from {', '.join(sorted(set(adopted)))}")
        if self.others.elsewhere:
            self.listener.note(
                f"{counted(len(self.others.elsewhere), 'run')} with the same settings, seeds and images lie in studies beside this one, "
                "done by another commit or version or on another machine or device; --reuse any takes them over"
            )
            self.others.elsewhere.clear()

    def count(self, phase: Phase) -> int:
        """Finished runs of a phase that belong to the study as it is now."""
        return sum(record["phase"] == phase for record in self.own_records())

    def own_records(self) -> list[dict[str, Any]]:
        """Records of the study's seeds; a folder may hold more seeds than this call asks for."""
        return [
            record for record in self.records.values() if record["phase"] == "tune" or record["seed"] < self.study.seeds
        ]

    def left(self) -> dict[Kind, int]:
        """Runs of each kind that are left."""
        study, done = self.study, Counter(Kind(record["arm"], record["phase"]) for record in self.own_records())
        tune = {Kind(name, "tune"): study.tuning_runs_of(arm) for name, arm in study.arms.items()}
        hopeless = {name for name, choice in self.choices.items() if choice is None}
        final = {Kind(name, "final"): study.seeds for name in study.arms if name not in hopeless}
        return {kind: count - done[kind] for kind, count in {**tune, **final}.items()}

    def missing(self) -> dict[Phase, int]:
        """Runs that are left, by phase."""
        left = self.left()
        return {phase: sum(left[kind] for kind in left if kind.phase == phase) for phase in get_args(Phase)}

    def _prepare(self) -> None:
        """Before the first run: compute cached features, if the study uses them, and say how long it will take."""
        if not any(self.missing().values()):
            return
        for text in self.batch_notes:
            self.listener.note(text)
        seed = self.study.tuning_seeds[0]
        arms = {name: self._settings(name, next(self.study.extremes(name)), seed) for name in self.study.arms}
        first = next(iter(arms.values()))
        begun = any("taken_from" not in record for record in self.records.values())
        if first.features.copies and not begun and not features_ready(first, self.context, self.clock, self.listener):
            return
        if not begun:
            with shared_threads(self.clock.jobs):
                guess(self.clock, arms.items(), self.context)
        left = self.left()
        seconds = self.clock.left(left)
        done = f", {len(self.records)} are done" if self.records else ""
        time_left = "" if seconds is None else f", about {duration(seconds)}"
        self.listener.note(f"{counted(sum(left.values()), 'run')} to do{time_left}{done}")

    def _settings(self, arm: str, values: Mapping[str, Any], seed: int, *, final: bool = False) -> TrainSettings:
        settings = self.study.settings(arm, values, seed, final=final).with_values(self.fixed)
        if settings.features.copies and settings.features.folder is None:
            own, shared = self.folder.features, self.folder.path.parent / ".features"
            settings = settings.with_values({"features.folder": str(own if own.is_dir() else shared)})
        return settings.with_absolute_paths()

    def _take(self, phase: Phase) -> Job | None:
        """The next run of a phase; None if none may start now."""
        job = next(self._jobs(phase), None)
        if job is None or not self.clock.fits(Kind(job.arm, phase)):
            return None
        self.taken.add((job.arm, job.name))
        self.listener.started(job.arm, job.name)
        return job

    def _jobs(self, phase: Phase) -> Iterator[Job]:
        """The runs of a phase that nobody has taken."""
        return self._tuning() if phase == "tune" else self._final()

    def _tuning(self) -> Iterator[Job]:
        """Candidates that nobody has taken, all arms side by side."""
        for number in range(self.study.candidates):
            for name, arm in self.study.arms.items():
                names = [(name, f"tune-{number:03d}-seed{seed}") for seed in self.study.tuning_seeds]
                waits = self.study.sampler == "tpe" and number and not self._scored(name, number - 1)
                if not arm.tune or waits or all(key in self.taken for key in names):
                    continue
                values = self.search.candidate(name, number)
                for key, seed in zip(names, self.study.tuning_seeds, strict=True):
                    if key not in self.taken:
                        yield Job(name, "tune", number, seed, values, self._settings(name, values, seed))

    def _final(self) -> Iterator[Job]:
        """Final runs that nobody has taken, seed by seed: a budget then leaves whole pairs."""
        for seed in range(self.study.seeds):
            for name in self.study.arms:
                choice = self.choices[name]
                if choice is None or (name, f"final-seed{seed}") in self.taken:
                    continue
                values = choice["values"]
                settings = self._settings(name, values, seed, final=True)
                yield Job(name, "final", choice["candidate"], seed, values, settings, self._seen_by_final())

    def _seen_by_final(self) -> dict[str, str]:
        """What final runs see beyond candidates. Asked only after the last choice.

        Raises:
            RunError: earlier final runs have seen other test images.
        """
        if not self.final_data:
            self.final_data = {"whole files": image_files(self.context.whole)}
            check_files(self.records.values(), self.final_data, self.folder.path)
        return self.final_data

    def _done(self, finished: Finished) -> None:
        """Take in a finished run."""
        record = finished.record
        self._take_in(record)
        self.spent += finished.seconds
        left = self.left()
        done = self.study.runs - sum(left.values())
        self.listener.ended(record, done, self.study.runs, self.clock.left(left))

    def _take_in(self, record: dict[str, Any]) -> None:
        """Count a run as done, and tell the search."""
        self.records[record["arm"], record["run"]] = record
        self._time(record)
        if record["phase"] == "tune":
            self._tell(record["arm"], record["candidate"])

    def _time(self, record: Mapping[str, Any]) -> None:
        """Learn how long a run takes from one that was done here."""
        if "taken_from" not in record:
            self.clock.add(Kind(record["arm"], record["phase"]), record["seconds"])

    def _scored(self, arm: str, number: int) -> list[dict[str, Any]]:
        """The records of a candidate once all its seeds are done; else empty."""
        keys = [(arm, f"tune-{number:03d}-seed{seed}") for seed in self.study.tuning_seeds]
        return [self.records[key] for key in keys] if all(key in self.records for key in keys) else []

    def _tell(self, arm: str, number: int) -> None:
        """Tell the search the score of a candidate whose seeds are all done."""
        records = self._scored(arm, number)
        if records:
            self.search.tell(arm, number, records[0]["values"], self._score(records))

    def _score(self, records: list[dict[str, Any]]) -> float | None:
        """Mean validation score of a candidate; None if one of its runs failed."""
        if any(record["status"] != "ok" for record in records):
            return None
        scores = [record["scores"].get(self.study.metric, math.nan) for record in records]
        if not all(math.isfinite(score) for score in scores):
            raise SettingsError(
                "no classes are held out of training, so there is nothing to choose candidates by. Set data.validation_share "
                "in the study's base, or give the data a val split."
            )
        return float(np.mean(scores))

    def _choose(self) -> None:
        """Choose the best candidate of each arm, the earlier of equals, and write all choices: the last choice of the study."""
        chosen: dict[str, Any] = {}
        for name, arm in self.study.arms.items():
            if arm.values_of is not None:
                continue
            if not arm.tune:
                chosen[name] = {"candidate": 0, "values": {}, "score": None}
                continue
            scored = [(number, self._scored(name, number)) for number in range(self.study.candidates)]
            scores = [(score, -number) for number, records in scored if (score := self._score(records)) is not None]
            best = max(scores, default=None)
            if best is None:
                chosen[name] = None
                self.listener.note(f"every candidate of {name} diverged, so it has no final run and counts as chance")
                continue
            values = scored[-best[1]][1][0]["values"]
            chosen[name] = {"candidate": -best[1], "values": values, "score": best[0]}
        for name, arm in self.study.arms.items():
            if arm.values_of is not None:
                other = chosen[arm.values_of]
                chosen[name] = other and {**other, "values": arm.taken_from(other["values"]), "score": None}
        write_json(self.folder.choices, {"arms": chosen, **provenance()})
        self.choices = chosen

    def _conclude(self) -> StudyResult:
        """Verdicts on what is done, and the files of the study."""
        records = self.own_records()
        missing = self.missing()
        result = StudyResult(
            study=self.study,
            folder=self.folder,
            records=tuple(records),
            arms=tuple(arm_results(self.study, records, self.choices)),
            comparisons=tuple(compared(self.study, self.folder, records, self.choices)),
            variance=variance_against_gain(self.study, records),
            convergence=convergence(self.study, records, self.folder.log),
            spreads=spreads(self.study, records, self.folder.lengths),
            notes=(*notes(self.study, records, missing), *self.batch_notes),
            seconds=self.clock.elapsed,
            overhead=self.clock.elapsed - self.spent / self.clock.jobs,
            missing=missing,
        )
        write_results(result)
        return result


def write_results(result: StudyResult) -> None:
    """Write `table.parquet`, `table.json` and `results.json`.

    Raises:
        RunError: a file cannot be written.
    """
    folder, table = result.folder, result.table
    write_atomic(folder.table, lambda part: table.to_parquet(part, index=False))
    rows = [{key: None if pd.isna(value) else value for key, value in row.items()} for row in table.to_dict("records")]
    write_json(folder.table.with_suffix(".json"), rows)
    write_json(folder.results, result.as_dict())
