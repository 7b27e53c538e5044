"""What a protocol is, what it is given, and the one form of its result."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from cosphere.errors import SettingsError, did_you_mean
from cosphere.evaluate.scores import Value

if TYPE_CHECKING:
    from cosphere.data import Catalogue
    from cosphere.embeddings import Embeddings


@dataclass(frozen=True, kw_only=True)
class Part:
    """Scores of one list of pairs, or of one probe.

    Attributes:
        key: put before the name of each score, as in ``unseen/accuracy``; empty for the main part.
        title: what was scored, in words.
        values: scores by name, as fractions, each perhaps with an interval.
        counts: of pairs, images, folds and the like.
        details: plain values for the file: the ROC, folds, the hardest pairs.
    """

    key: str
    title: str
    values: Mapping[str, Value]
    counts: Mapping[str, int] = field(default_factory=dict)
    details: Mapping[str, Any] = field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        """Plain values."""
        return {
            "key": self.key,
            "title": self.title,
            "scores": {name: value.as_dict() for name, value in self.values.items()},
            "counts": dict(self.counts),
            **self.details,
        }


@dataclass(frozen=True, kw_only=True)
class ProtocolScores:
    """The result of any protocol.

    Attributes:
        protocol: its name.
        settings: how it was run.
        parts: the main one first.
        notes: what a reader of the numbers should know, one sentence each.
        data: fingerprint of the images and how many were embedded.
    """

    protocol: str
    settings: Any
    parts: tuple[Part, ...]
    notes: tuple[str, ...] = ()
    data: Mapping[str, Any] = field(default_factory=dict)

    @property
    def values(self) -> dict[str, Value]:
        """Every score by name, that of its part in front: ``accuracy``, ``unseen/accuracy``, ..."""
        return {
            f"{part.key}/{name}" if part.key else name: value
            for part in self.parts
            for name, value in part.values.items()
        }

    def value(self, name: str) -> float:
        """One score as a fraction.

        Raises:
            SettingsError: there is no such score; the error names the nearest.
        """
        values = self.values
        if name not in values:
            raise SettingsError(
                f"the protocol {self.protocol} has no score {name!r} here. {did_you_mean(name, values)}"
            )
        return values[name].value

    def as_dict(self) -> dict[str, Any]:
        """Plain values for `scores-PROTOCOL.json`."""
        return {
            "protocol": self.protocol,
            "settings": asdict(self.settings),
            "data": dict(self.data),
            "parts": [part.as_dict() for part in self.parts],
            "notes": list(self.notes),
        }


class Subject(Protocol):
    """What a protocol scores: a model, and the source of its images."""

    @property
    def source(self) -> Path | None:
        """What the user named; None where the images were listed by the caller."""

    @property
    def trained(self) -> frozenset[str] | None:
        """Labels of the classes that the model was trained on; None where the model does not say."""

    @property
    def split(self) -> str | None:
        """The split that was asked for."""

    def catalogue(self) -> Catalogue:
        """The images of the source, listed once."""

    def embed(self, images: Catalogue, *, mirrored: bool = False) -> Embeddings:
        """Raw embeddings of images, or of their mirror images; computed once and stored."""


@dataclass(frozen=True, kw_only=True)
class ProtocolEntry:
    """One protocol: what it is called, what it wants and how it is run.

    Attributes:
        name: as `--protocol` takes it.
        title: one line for help.
        wants: what the source must hold, for errors.
        settings: a :class:`cosphere.fields.Settings` class.
        run: scores a subject.
        label_scores: scores labelled embeddings alone, in validation passes; None where the protocol needs lists or splits.
        scores: names of its scores that a study may take, larger being better.
        open_names: starts of further such names, as ``tar@far=``.
        chance: of a score, by its name and the number of classes: what a run that diverged counts as.
    """

    name: str
    title: str
    wants: str
    settings: type[Any]
    run: Callable[[Subject, Any], ProtocolScores]
    label_scores: Callable[[Embeddings, Any], ProtocolScores] | None = None
    scores: Sequence[str] = ()
    open_names: Sequence[str] = ()
    chance: Callable[[str, int], float] = lambda name, classes: 0.0

    def check_score(self, name: str) -> None:
        """Raise unless the protocol may have a score of this name.

        Raises:
            SettingsError: it has not; the error names the nearest.
        """
        if name in self.scores or any(name.startswith(start) for start in self.open_names):
            return
        raise SettingsError(f"the protocol {self.name} has no score {name!r}. {did_you_mean(name, self.scores)}")
