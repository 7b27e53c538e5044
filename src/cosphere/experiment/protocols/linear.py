"""A linear layer on frozen features."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from cosphere.checks import MOST_IMAGES
from cosphere.embeddings import Embeddings
from cosphere.evaluate import linear_probe
from cosphere.evaluate.scores import Value
from cosphere.evaluate.statistics import share_interval
from cosphere.experiment.protocols.base import Part, ProtocolEntry, ProtocolScores, Subject
from cosphere.experiment.protocols.probing import ProbeData, chance, halves, probe_data
from cosphere.fields import Settings, setting


@dataclass(frozen=True, kw_only=True)
class LinearSettings(Settings):
    """How the layer is trained.

    Args:
        recipe: "lbfgs", logistic regression on standardised features to convergence, without a rate to tune; or "sgd", the SEC
            authors' recipe: momentum 0.9, no decay, the rate times 0.2 after 60, 75 and 90 % of the epochs.
        epochs: of "sgd"; most iterations of "lbfgs".
        rate: of "sgd".
        batch_size: images in a step of "sgd".
        decay: weight of half the squared weights, of "lbfgs".
        level: confidence level of the interval over test images.
        seed: of the first weights and the order of "sgd".
    """

    SECTION: ClassVar[str] = "options."

    recipe: Literal["lbfgs", "sgd"] = "lbfgs"
    epochs: int = setting(100, at_least=1, at_most=10**6)
    rate: float = setting(5.0, above=0)
    batch_size: int = setting(256, at_least=1, at_most=MOST_IMAGES)
    decay: float = setting(1e-4, at_least=0)
    level: float = setting(0.95, above=0, below=1)
    seed: int = setting(0, at_least=0, at_most=2**31 - 1)


def run(subject: Subject, settings: LinearSettings) -> ProtocolScores:
    """Train a linear layer on the training images and test it."""
    return _scores(probe_data(subject, "linear"), settings)


def label_scores(table: Embeddings, settings: LinearSettings) -> ProtocolScores:
    """Train a linear layer on one half of labelled embeddings and test it on the other half."""
    return _scores(halves(table, "these images", "linear"), settings)


def _scores(data: ProbeData, settings: LinearSettings) -> ProtocolScores:
    probe = linear_probe(
        data.train,
        data.train_labels,
        data.test,
        data.test_labels,
        recipe=settings.recipe,
        epochs=settings.epochs,
        rate=settings.rate,
        batch_size=settings.batch_size,
        decay=settings.decay,
        seed=settings.seed,
    )
    values = {
        "accuracy": Value(
            probe.final, share_interval(round(probe.final * len(data.test)), len(data.test), settings.level)
        ),
        "accuracy_train": Value(probe.train, None),
    }
    notes = list(data.notes)
    if settings.recipe == "sgd":  # "lbfgs" has no epochs
        values["accuracy_best_epoch"] = Value(probe.best, None)
        notes.append(
            "accuracy is after the last epoch, the number to report; accuracy_best_epoch is chosen on the test images"
        )
    part = Part(key="", title=f"linear layer, {settings.recipe}", values=values, counts=data.counts)
    return ProtocolScores(protocol="linear", settings=settings, parts=(part,), notes=tuple(notes), data=data.data)


ENTRY = ProtocolEntry(
    name="linear",
    title="a linear layer on frozen features",
    wants="a train and a test split with the same classes, or --split NAME",
    settings=LinearSettings,
    run=run,
    label_scores=label_scores,
    scores=("accuracy",),
    chance=chance,
)
