"""A study as data: questions, arms, what is tuned and how, and the settings of each of its runs."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from cosphere.checks import check_number, check_whole
from cosphere.errors import SettingsError
from cosphere.evaluate.statistics import check_level
from cosphere.studies.spaces import Space
from cosphere.train import TrainSettings
from cosphere.train.input_settings import LARGEST_SEED

Sampler = Literal["qmc", "tpe"]


@dataclass(frozen=True)
class Arm:
    """One method: what sets it apart from the other arms, and what is tuned for it."""

    name: str
    settings: Mapping[str, Any]
    """By dotted name, on top of the study's base."""
    tune: Mapping[str, Space]
    """By dotted name; a candidate gives each a value."""
    values: Mapping[str, str] = field(default_factory=dict)
    """Axis -> value, for an arm of a grid."""
    values_of: str | None = None
    """An arm whose chosen values this one takes, except of settings that it fixes; it is not tuned itself."""

    def taken_from(self, chosen: Mapping[str, Any]) -> dict[str, Any]:
        """What this arm takes of the values that were chosen for :attr:`values_of`."""
        return {name: value for name, value in chosen.items() if name not in self.settings}


@dataclass(frozen=True)
class Comparison:
    """One arm against another on one score, or on a score each: what a verdict is about."""

    question: str
    arm: str
    against: str
    score: str
    against_score: str = ""
    """Of the other arm; empty for the same."""

    @property
    def scores(self) -> tuple[str, str]:
        """Of the arm and of the other."""
        return self.score, self.against_score or self.score


@dataclass(frozen=True, kw_only=True)
class Study:
    """Questions, arms and rules. Made by :func:`cosphere.studies.read_study`; see `docs/studies.md`."""

    name: str
    title: str
    about: str = ""
    mode: str = ""
    """Which of the file's modes this is; empty without modes."""
    base: Mapping[str, Any]
    """Settings of every run, by dotted name."""
    final: Mapping[str, Any] = field(default_factory=dict)
    """Settings of the final runs on top of all others, such as more steps."""
    arms: Mapping[str, Arm]
    comparisons: tuple[Comparison, ...]
    candidates: int = 8
    """Settings that are tried for each arm: the same number for all."""
    sampler: Sampler = "qmc"
    """``qmc``: the same quasi-random candidates for all arms. ``tpe``: each arm's candidates follow from its earlier ones."""
    search_seed: int = 0
    tuning_seeds: tuple[int, ...] = (1000,)
    """Training seeds of each candidate, none of which is a seed of the final runs."""
    metric: str = "recall@1"
    """Validation score by which candidates are chosen."""
    seeds: int = 5
    """Final runs of each arm, with seeds 0, 1, ..."""
    scores: tuple[str, ...] = ("recall@1", "map@r")
    """Test scores of the final runs; with ``/bits`` at its end, a score of one bit for each dimension; with a protocol in front, as
    ``lfw/unseen/auc``, a score of that."""
    protocols: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """Settings of the protocols of those scores, by protocol and name."""
    smallest: float = 0.005
    """Smallest gain that matters, a fraction."""
    level: float = 0.95

    @property
    def tuning_runs(self) -> int:
        """Runs before the last choice."""
        return sum(map(self.tuning_runs_of, self.arms.values()))

    def tuning_runs_of(self, arm: Arm) -> int:
        """Those of one arm: each candidate once with every tuning seed."""
        return self.candidates * len(self.tuning_seeds) if arm.tune else 0

    @property
    def runs(self) -> int:
        """All runs."""
        return self.tuning_runs + len(self.arms) * self.seeds

    def settings(self, arm: str, values: Mapping[str, Any], seed: int, *, final: bool = False) -> TrainSettings:
        """The settings of one run.

        Args:
            arm: its name.
            values: of the tuned settings.
            seed: of the run.
            final: whether it is a final run rather than a candidate.

        Raises:
            SettingsError: an unknown name (the nearest is given), a value of another type or out of bounds.
        """
        layers = [self.base, self.arms[arm].settings, values, self.final if final else {}]
        merged = {name: value for layer in layers for name, value in layer.items()}
        return TrainSettings().with_values({**merged, "validation.metric": self.metric, "seed": seed})

    def extremes(self, arm: str) -> Iterator[dict[str, Any]]:
        """Values for an arm that cover each end and each choice of what is tuned once, for it or for the arm whose values it takes."""
        own = self.arms[arm]
        tuned = own if own.values_of is None else self.arms[own.values_of]
        return map(own.taken_from, extreme_values(tuned))

    def example(self, arm: str, *, final: bool = False) -> TrainSettings:
        """The settings of a run with one of the allowed values of each tuned setting, which their defaults need not be."""
        return self.settings(arm, next(self.extremes(arm)), 0, final=final)

    def identity(self) -> str:
        """Digest of everything that a run of the study depends on; seeds, questions and texts are left out.

        More seeds and other questions are welcome in the folder of a study; other arms or candidates are not.
        """
        content = {
            "base": dict(self.base),
            "final": dict(self.final),
            "arms": {
                name: [dict(arm.settings), {key: space.as_dict() for key, space in arm.tune.items()}]
                + ([] if arm.values_of is None else [arm.values_of])
                for name, arm in self.arms.items()
            },
            "search": [self.candidates, self.sampler, self.search_seed, list(self.tuning_seeds), self.metric],
            "scores": list(self.scores),
            # A study without protocols keeps the identity that it had before there were any.
            **({"protocols": {name: dict(given) for name, given in self.protocols.items()}} if self.protocols else {}),
        }
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()

    def with_numbers(self, *, seeds: int | None = None, candidates: int | None = None) -> Study:
        """A copy with other numbers of final seeds or candidates; None keeps them.

        Raises:
            SettingsError: a number is out of range, or a final seed is a tuning seed.
        """
        changed = replace(
            self,
            seeds=self.seeds if seeds is None else seeds,
            candidates=self.candidates if candidates is None else candidates,
        )
        check_numbers(changed)
        return changed


def check_numbers(study: Study) -> None:
    """Raise unless the study's numbers are in range and no tuning seed is given twice or is a final seed."""
    check_whole("seeds", study.seeds, least=1, most=1000)
    check_whole("candidates", study.candidates, least=1, most=10_000)
    check_whole("search.seed", study.search_seed, least=0, most=2**32 - 1)  # The largest that Optuna takes.
    check_number("smallest", study.smallest, at_least=0, at_most=1)
    check_level(study.level)
    if not study.tuning_seeds:
        raise SettingsError("search.seeds is empty; wanted at least one. Leave it out to have 1000.")
    for place, seed in enumerate(study.tuning_seeds):
        check_whole("search.seeds", seed, least=0, most=LARGEST_SEED)
        if seed in study.tuning_seeds[:place]:
            raise SettingsError(f"search.seeds has {seed} twice; wanted different seeds. Leave one of them out.")
        if seed < study.seeds:
            raise SettingsError(
                f"seed {seed} would choose the settings and then score them: final runs take the seeds 0 to {study.seeds - 1}. "
                f"Give search.seeds numbers from {max(1000, study.seeds)} on."
            )


def extreme_values(arm: Arm) -> Iterator[dict[str, Any]]:
    """Values of the tuned settings that cover each end and each choice once."""
    first = {name: space.extremes()[0] for name, space in arm.tune.items()}
    yield first
    for name, space in arm.tune.items():
        for value in space.extremes()[1:]:
            yield {**first, name: value}
