"""The candidates of each arm, by Optuna: quasi-random ones that all arms share, or TPE's.

The state lies in Optuna's journal file, one Optuna study for each arm, so `optuna-dashboard` and the like can read it. Only the process
that leads a study writes it, and whatever a kill leaves half done is done again in the same way: a sampler is made afresh for each
candidate, with a seed of its own.

Quasi-random candidates end in any order, so their trials carry the candidate's number as the user attribute ``candidate``, and their
values always come from the shared points. With TPE, candidates are tried one by one, and trial n is candidate n.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cosphere.studies.definition import Study
from cosphere.studies.spaces import Space

if TYPE_CHECKING:
    import optuna


class Search:
    """Gives candidates and takes their scores.

    Args:
        study: arms, number of candidates, sampler and seed.
        journal: file of the search's state; made if missing.
    """

    def __init__(self, study: Study, journal: Path) -> None:
        import optuna
        from optuna.storages import JournalStorage
        from optuna.storages.journal import JournalFileBackend

        optuna.logging.set_verbosity(optuna.logging.ERROR)
        self.study = study
        storage = JournalStorage(JournalFileBackend(str(journal)))
        self.arms = {
            name: optuna.create_study(storage=storage, study_name=name, direction="maximize", load_if_exists=True)
            for name in study.arms
        }
        self.shared = shared_candidates(study) if study.sampler == "qmc" else []

    def candidate(self, arm: str, number: int) -> dict[str, Any]:
        """The values of candidate ``number`` of an arm. With TPE the results of those before it must be recorded first."""
        if self.study.sampler == "qmc":
            return self._shared(arm, number)
        own = self.arms[arm]
        trial = self._trial(arm, number)
        if trial is None:
            own.sampler = _tpe(self.study.search_seed, number)
            return self._values(arm, own.ask(_distributions(self.study.arms[arm].tune)).params)
        return self._values(arm, trial.params)

    def tell(self, arm: str, number: int, values: Mapping[str, Any], score: float | None) -> None:
        """Keep the score of a candidate; None for one that diverged. Telling it again changes nothing."""
        from optuna.trial import TrialState, create_trial

        own = self.arms[arm]
        state = TrialState.FAIL if score is None else TrialState.COMPLETE
        trial = self._trial(arm, number)
        if trial is not None:
            if not trial.state.is_finished():
                own.tell(trial.number, score, state=state)
            return
        spaces = self.study.arms[arm].tune
        own.add_trial(
            create_trial(
                state=state,
                value=score,
                params={name: _to_optuna(space, values[name]) for name, space in spaces.items()},
                distributions=_distributions(spaces),
                user_attrs={"candidate": number},
            )
        )

    def _trial(self, arm: str, number: int) -> optuna.trial.FrozenTrial | None:
        """The trial of a candidate; None if there is none yet."""
        trials = self.arms[arm].get_trials(deepcopy=False)
        if self.study.sampler == "tpe":
            return trials[number] if number < len(trials) else None
        values = self._shared(arm, number)
        for trial in trials:
            # A journal of an earlier version says only which values a trial had.
            known = trial.user_attrs.get("candidate")
            if known == number or (known is None and self._values(arm, trial.params) == values):
                return trial
        return None

    def _shared(self, arm: str, number: int) -> dict[str, Any]:
        """The values of a quasi-random candidate."""
        return {name: space.at(self.shared[number][name]) for name, space in self.study.arms[arm].tune.items()}

    def _values(self, arm: str, params: Mapping[str, Any]) -> dict[str, Any]:
        spaces = self.study.arms[arm].tune
        return {name: _from_optuna(space, params[name]) for name, space in spaces.items()}


def shared_candidates(study: Study) -> list[dict[str, float]]:
    """For each candidate, a place in [0, 1] for every setting that any arm tunes: scrambled Sobol points.

    An arm takes the places of its own settings, so arms that tune the same setting try the same values of it, and candidate n of
    one arm differs from candidate n of another only in what the other does not tune.
    """
    import optuna

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    names = sorted({name for arm in study.arms.values() for name in arm.tune})
    if not names:
        return [{} for _ in range(study.candidates)]
    places = {name: optuna.distributions.FloatDistribution(0.0, 1.0) for name in names}
    with warnings.catch_warnings():
        # The interface may change with Optuna; the points are those of SciPy, and a test pins them.
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        sampler = optuna.samplers.QMCSampler(
            qmc_type="sobol", scramble=True, seed=study.search_seed, warn_independent_sampling=False
        )
    memory = optuna.create_study(sampler=sampler)
    # Optuna draws the first trial at random to learn what there is; this one takes its place.
    memory.add_trial(optuna.trial.create_trial(value=0.0, params=dict.fromkeys(names, 0.5), distributions=dict(places)))
    drawn = []
    for _ in range(study.candidates):
        trial = memory.ask(dict(places))
        drawn.append({name: float(trial.params[name]) for name in names})
        memory.tell(trial, 0.0)
    return drawn


def _tpe(seed: int, number: int) -> optuna.samplers.BaseSampler:
    """A sampler for one candidate: made afresh, so that a resumed search goes on as an unbroken one would."""
    import optuna

    return optuna.samplers.TPESampler(seed=(seed * 10_007 + number) % 2**32, n_startup_trials=4)


def _distributions(spaces: Mapping[str, Space]) -> dict[str, optuna.distributions.BaseDistribution]:
    import optuna

    return {
        name: optuna.distributions.CategoricalDistribution(tuple(range(len(space.choices))))
        if space.choices
        else optuna.distributions.FloatDistribution(space.low, space.high, log=space.log)
        for name, space in spaces.items()
    }


def _to_optuna(space: Space, value: Any) -> Any:
    """A choice by its number, since Optuna takes no lists."""
    return space.choices.index(value) if space.choices else value


def _from_optuna(space: Space, value: Any) -> Any:
    return space.choices[value] if space.choices else space.rounded(value)
