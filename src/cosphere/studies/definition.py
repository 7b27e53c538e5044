"""A study as data: questions, arms, what is tuned and how, and the settings of each of its runs."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from cosphere import losses
from cosphere.checks import check_whole
from cosphere.errors import SettingsError, did_you_mean
from cosphere.experiment.training import validation_metric
from cosphere.studies.forms import base_of, check_protocols, check_scores
from cosphere.studies.spaces import Space
from cosphere.train import TrainSettings

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
        return sum(self.candidates for arm in self.arms.values() if arm.tune) * len(self.tuning_seeds)

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


def check_study(study: Study) -> None:
    """Raise unless every run of the study has valid settings, so that nothing fails after hours.

    Raises:
        SettingsError: an unknown setting, loss, score or arm (the nearest is given), or a value out of bounds; the arm is named.
    """
    check_numbers(study)
    check_scores((study.metric, *study.scores))
    check_protocols(study.protocols, study.scores)
    validation_metric(study.metric)
    if study.metric != base_of(study.metric):
        raise SettingsError(f"validation scores are of floats; got {study.metric!r}. Write {base_of(study.metric)!r}.")
    if len(study.arms) < 2:
        raise SettingsError(f"a study compares arms, and {study.name} has {len(study.arms)}. Give at least two.")
    for arm in study.arms.values():
        other = arm if arm.values_of is None else study.arms.get(arm.values_of)
        if other is None:
            raise SettingsError(
                f"the arm {arm.name} takes the values of {arm.values_of!r}. {_near(str(arm.values_of), study)}"
            )
        if arm.values_of is not None and not other.tune:
            raise SettingsError(
                f"the arm {arm.name} takes the values of {other.name}, which is not tuned. Name an arm that is."
            )
        try:
            for values in map(arm.taken_from, extreme_values(other)):
                for final in (False, True):
                    _check_loss(study.settings(arm.name, values, 0, final=final))
        except SettingsError as error:
            raise SettingsError(f"study {study.name}, arm {arm.name}: {error}") from error
    for one in study.comparisons:
        for name in (one.arm, one.against):
            if name not in study.arms:
                raise SettingsError(f"the question {one.question!r} is about an arm {name!r}. {_near(name, study)}")
        if one.arm == one.against and len(set(one.scores)) == 1:
            raise SettingsError(f"the question {one.question!r} compares {one.arm} with itself. Name another arm.")
        for score in one.scores:
            if score not in study.scores:
                raise SettingsError(
                    f"the question {one.question!r} is about {score!r}, which is not measured. "
                    f"{did_you_mean(score, study.scores)} Or add it to `scores`."
                )


def check_numbers(study: Study) -> None:
    """Raise unless the study's numbers are in range and no tuning seed is a final seed."""
    check_whole("seeds", study.seeds, least=1, most=1000)
    check_whole("candidates", study.candidates, least=1, most=10_000)
    check_whole("search.seed", study.search_seed, least=0)
    for seed in study.tuning_seeds:
        check_whole("search.seeds", seed, least=0)
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


def _check_loss(settings: TrainSettings) -> None:
    """Raise unless there is such a loss with such settings; TrainSettings takes any names for a loss's own settings."""
    about = losses.about(settings.loss.name)
    for name in settings.loss.settings:
        if name not in about.defaults:
            raise SettingsError(
                f"the loss {about.name} has no setting 'loss.settings.{name}'. {did_you_mean(name, about.defaults)}"
            )


def _near(name: str, study: Study) -> str:
    return f"There is none. {did_you_mean(name, study.arms)}"
