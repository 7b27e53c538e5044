"""What has to hold of a study before its first run, so that nothing fails after hours or is overruled without a word."""

from __future__ import annotations

from cosphere import losses
from cosphere.errors import SettingsError, did_you_mean
from cosphere.experiment.training import validation_metric
from cosphere.studies.changes import check_own, overlap
from cosphere.studies.definition import Study, check_numbers
from cosphere.studies.forms import base_of, check_protocols, check_scores
from cosphere.train import TrainSettings


def check_study(study: Study) -> None:
    """Raise unless every run of the study has valid settings, none of which is overruled.

    Raises:
        SettingsError: an unknown setting, loss, score or arm (the nearest is given), a value out of bounds, or a setting without effect;
            the arm is named.
    """
    check_numbers(study)
    if not study.scores:
        raise SettingsError("scores is empty; wanted at least one score. Leave it out to have recall@1 and map@r.")
    check_scores((study.metric, *study.scores))
    check_protocols(study.protocols, study.scores)
    validation_metric(study.metric)
    if study.metric != base_of(study.metric):
        raise SettingsError(f"validation scores are of floats; got {study.metric!r}. Write {base_of(study.metric)!r}.")
    if len(study.arms) < 2:
        raise SettingsError(f"a study compares arms, and {study.name} has {len(study.arms)}. Give at least two.")
    check_own(study.base, "base")
    check_own(study.final, "final")
    for name in study.arms:
        _check_arm(study, name)
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


def _check_arm(study: Study, name: str) -> None:
    """Raise unless an arm's runs have valid settings and its own ones count in all of them."""
    arm = study.arms[name]
    other = arm if arm.values_of is None else study.arms.get(arm.values_of)
    if other is None:
        raise SettingsError(
            f"the arm {arm.name} takes the values of {arm.values_of!r}. {_near(str(arm.values_of), study)}"
        )
    if arm.values_of is not None and not other.tune:
        raise SettingsError(
            f"the arm {arm.name} takes the values of {other.name}, which is not tuned. Name an arm that is."
        )
    check_own((*arm.settings, *arm.tune), f"the arm {name}")
    for own, verb in (*((one, "sets") for one in arm.settings), *((one, "tunes") for one in arm.tune)):
        for given in study.final:
            if overlap(given, own):
                raise SettingsError(
                    f"final sets {given}, and the arm {name} {verb} {own}, so that its final runs would not have its own value. "
                    "Leave it out of one of the two."
                )
    try:
        for values in study.extremes(name):
            for final in (False, True):
                _check_loss(study.settings(name, values, 0, final=final))
    except SettingsError as error:
        raise SettingsError(f"study {study.name}, arm {name}: {error}") from error


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
