"""Candidates: the same for all arms, low-discrepancy, and kept in Optuna's journal."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pytest
from scipy.stats import qmc

from cosphere.studies import Study, study_of
from cosphere.studies.search import Search, shared_candidates


def made(**others: Any) -> Study:
    content = {
        "arms": {
            "plain": {"sec.weight": 0},
            "sec": {"tune": {"sec.weight": {"from": 1e-3, "to": 1}}},
            "own": {"tune": {"optimizer.head_rate": {"from": 1, "to": 100}, "batch.images_per_class": [2, 3, [4][0]]}},
        },
        "tune": {"optimizer.head_rate": {"from": 1e-4, "to": 1e-2}},
        "candidates": 16,
        **others,
    }
    return study_of("x", content)


def test_candidates_are_scrambled_sobol_points_by_the_seed() -> None:
    study = made()
    names = ["batch.images_per_class", "optimizer.head_rate", "sec.weight"]
    drawn = np.array([[one[name] for name in names] for one in shared_candidates(study)])
    assert drawn == pytest.approx(qmc.Sobol(3, scramble=True, seed=0).random(16))
    again = shared_candidates(made(search={"seed": 1}))
    assert again[0] != shared_candidates(study)[0]
    # The first points of a longer search are those of a shorter one.
    assert shared_candidates(made(candidates=8)) == shared_candidates(study)[:8]


def test_arms_take_the_same_place_of_a_setting_in_their_own_ranges(tmp_path: Path) -> None:
    search = Search(made(), tmp_path / "journal")
    for number in (0, 5, 15):
        plain, sec, own = (search.candidate(arm, number) for arm in ("plain", "sec", "own"))
        assert plain == {"optimizer.head_rate": sec["optimizer.head_rate"]}
        # [1e-4, 1e-2] and [1, 100] both span two decades.
        assert own["optimizer.head_rate"] == pytest.approx(1e4 * plain["optimizer.head_rate"], rel=0.01)
        assert own["batch.images_per_class"] in (2, 3, 4)


def test_what_is_told_stands_in_optunas_journal_once(tmp_path: Path) -> None:
    study = made()
    for _ in range(2):  # a resumed study tells again
        search = Search(study, tmp_path / "journal")
        for number, score in enumerate((0.5, None, 0.7)):
            search.tell("sec", number, search.candidate("sec", number), score)
    storage = optuna.storages.JournalStorage(optuna.storages.journal.JournalFileBackend(str(tmp_path / "journal")))
    trials = optuna.load_study(study_name="sec", storage=storage).trials
    assert [trial.value for trial in trials] == [0.5, None, 0.7]
    assert [trial.state.name for trial in trials] == ["COMPLETE", "FAIL", "COMPLETE"]
    assert trials[2].params == Search(study, tmp_path / "journal").candidate("sec", 2)


@pytest.mark.parametrize("restarted", [False, True])
def test_candidates_keep_their_values_whatever_the_order_in_which_they_end(restarted: bool, tmp_path: Path) -> None:
    study = made(candidates=4)
    names = list(study.arms["own"].tune)
    wanted = [{name: study.arms["own"].tune[name].at(one[name]) for name in names} for one in shared_candidates(study)]
    search = Search(study, tmp_path / "journal")
    for number in (2, 0, 3, 2, 1):
        search.tell("own", number, wanted[number], float(number))
        search = Search(study, tmp_path / "journal") if restarted else search
        assert [search.candidate("own", place) for place in range(4)] == wanted
    trials = search.arms["own"].trials
    assert [(trial.user_attrs["candidate"], trial.value) for trial in trials] == [(2, 2), (0, 0), (3, 3), (1, 1)]


def test_a_journal_of_an_earlier_version_is_told_nothing_twice(tmp_path: Path) -> None:
    """Its trials do not say which candidate they are of."""
    study = made(candidates=3)
    search = Search(study, tmp_path / "journal")
    for number in (1, 0):
        values = search.candidate("plain", number)
        space = study.arms["plain"].tune["optimizer.head_rate"]
        search.arms["plain"].add_trial(
            optuna.trial.create_trial(
                value=float(number),
                params=values,
                distributions={
                    "optimizer.head_rate": optuna.distributions.FloatDistribution(space.low, space.high, log=True)
                },
            )
        )
    for number in range(3):
        search.tell("plain", number, search.candidate("plain", number), float(number))
    assert [trial.value for trial in search.arms["plain"].trials] == [1, 0, 2]


def test_tpe_proposes_the_same_after_a_restart_and_looks_where_scores_were_high(tmp_path: Path) -> None:
    study = made(search={"sampler": "tpe"}, candidates=24)

    def score(values: dict[str, Any]) -> float:
        return -abs(np.log10(values["optimizer.head_rate"]) + 3)  # best at 1e-3

    searches = [Search(study, tmp_path / "one"), Search(study, tmp_path / "two")]
    rates = []
    for number in range(24):
        searches[1] = Search(study, tmp_path / "two")  # restarted before every candidate
        values = [search.candidate("plain", number) for search in searches]
        assert values[0] == values[1]
        rates.append(values[0]["optimizer.head_rate"])
        for search in searches:
            search.tell("plain", number, values[0], score(values[0]))
    distance = np.abs(np.log10(rates) + 3)
    assert distance[16:].mean() < 0.6 * distance[:8].mean()


def test_a_candidate_that_was_asked_and_not_told_is_asked_again_as_it_was(tmp_path: Path) -> None:
    study = made(search={"sampler": "tpe"})
    first = Search(study, tmp_path / "journal").candidate("sec", 0)
    again = Search(study, tmp_path / "journal")
    assert again.candidate("sec", 0) == first
    again.tell("sec", 0, first, 0.3)
    assert again.arms["sec"].best_value == 0.3
