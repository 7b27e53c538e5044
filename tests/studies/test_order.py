"""Several runs under way that end in any order, and kills between them: each candidate is tried once, with its own values."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cosphere.data import Catalogue
from cosphere.studies import StudyFolder, budget, engine, run, study_of
from cosphere.studies.jobs import Context, Finished, Job
from cosphere.studies.search import Search, shared_candidates


class Stop(Exception):
    """What ends a study here."""


class Several:
    """Workers that have four runs under way, of which a random one ends next, and that are killed after some of them.

    Nothing is trained: a run leaves its record, with a score that follows from its values.
    """

    def __init__(self, draw: random.Random, kill_after: int) -> None:
        self.draw, self.kill_after, self.folder = draw, kill_after, None

    def __call__(self, context: Context, jobs: int, runs: int) -> Several:
        self.folder = StudyFolder(context.folder)
        return self

    def __enter__(self) -> Several:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def execute(self, take: Callable[[], Job | None], done: Callable[[Finished], None]) -> None:
        running: list[Job] = []
        while True:
            while len(running) < 4 and (job := take()) is not None:
                running.append(job)
            if not running:
                return
            job = running.pop(self.draw.randrange(len(running)))
            record = {"arm": job.arm, "run": job.name, "phase": job.phase, "candidate": job.candidate, "seed": job.seed}
            record |= {"values": dict(job.values), "status": "ok", "seconds": 1.0}
            record |= {"scores": {"recall@1": job.values["optimizer.head_rate"]}, "data": {}}
            assert self.folder is not None
            self.folder.save(record, None)
            self.kill_after -= 1
            if self.kill_after == 0 and self.draw.random() < 0.5:
                raise Stop  # between the record and the search
            done(Finished(record, 1.0))
            if self.kill_after == 0:
                raise Stop


@pytest.mark.parametrize("draw", range(2))
def test_each_candidate_is_tried_once_whatever_ends_first_and_whenever_it_is_killed(
    draw: int, content: dict[str, Any], images: Catalogue, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = study_of("tiny", {**content, "candidates": 4, "search": {"seeds": [1000, 1001]}})
    monkeypatch.setattr(budget, "probe", lambda *_: 1.0)
    order = random.Random(draw)
    for kill_after in (order.randint(1, 7), order.randint(1, 7)):
        monkeypatch.setattr(engine, "Workers", Several(order, kill_after))
        with pytest.raises(Stop):
            run(study, images, tmp_path / "study")
    monkeypatch.setattr(engine, "Workers", Several(order, 16 - len(StudyFolder(tmp_path / "study").records())))
    with contextlib.suppress(Stop):
        run(study, images, tmp_path / "study", budget=1e6)
    records = StudyFolder(tmp_path / "study").records()
    assert len(records) == 16
    places = shared_candidates(study)
    for record in records:
        spaces = study.arms[record["arm"]].tune
        assert record["values"] == {name: space.at(places[record["candidate"]][name]) for name, space in spaces.items()}
    search = Search(study, tmp_path / "study" / "search.journal")
    for own in search.arms.values():
        told = [trial.user_attrs["candidate"] for trial in own.trials]
        assert len(set(told)) == len(told)  # each at most once
