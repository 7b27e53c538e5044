"""Scoring a run by a protocol as one call: from a run's folder to `scores-PROTOCOL.json` in it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from cosphere import fields
from cosphere.data import Catalogue, Classes, read_catalogue
from cosphere.embeddings import Embeddings, embed
from cosphere.experiment.embedding import check_embedding, store_of, tolerated
from cosphere.experiment.images import how_read
from cosphere.experiment.listener import SILENT, Listener
from cosphere.experiment.models import ready
from cosphere.experiment.protocols import ProtocolScores, find_protocol
from cosphere.files import check_writable, write_json
from cosphere.models import Embedder
from cosphere.models.bundle import trained_classes
from cosphere.runs import RunFolder, provenance
from cosphere.train import TrainSettings
from cosphere.train.features import feature_cache


@dataclass(frozen=True, eq=False, kw_only=True)
class ProtocolEvaluation:
    """A run that was scored by a protocol."""

    folder: RunFolder
    scores: ProtocolScores
    path: Path
    """The file that holds the scores."""


def scores_file(folder: RunFolder, protocol: str) -> Path:
    """Where the scores of a protocol are in a run's folder."""
    return folder.path / f"scores-{protocol}.json"


def evaluate_protocol(
    folder: str | Path,
    source: str | Path | Catalogue | None = None,
    *,
    protocol: str,
    options: Mapping[str, Any] | None = None,
    split: str | None = None,
    layout: str = "auto",
    classes: Classes | None = None,
    device: str = "auto",
    batch_size: int = 64,
    workers: int = 0,
    max_unreadable: float | None = None,
    listener: Listener = SILENT,
) -> ProtocolEvaluation:
    """Score a run's model by a protocol and write `scores-PROTOCOL.json` into its folder.

    Images are embedded once for each model: their embeddings, and those of their mirror images, are kept in `embeddings/cache`.

    Args:
        folder: of the run.
        source: what the protocol wants; None takes the images that the run was trained from.
        protocol: a name of :data:`cosphere.experiment.protocols.PROTOCOLS`.
        options: settings of the protocol by name; those left out keep their defaults.
        split: of the images, for protocols that score one.
        layout: how the source is laid out; for the images that the run was trained from, "auto" takes what it was trained with.
        classes: which of nested class folders is the class, "top" or "leaf"; None takes what the run was trained with.
        device: "auto", "cpu", "cuda" or "mps".
        batch_size: images that are read together, see :meth:`cosphere.models.Embedder.encode`.
        workers: processes that decode.
        max_unreadable: tolerated share of unreadable images, in [0, 1]; None takes what the run was trained with.
        listener: receives notes and progress.

    Raises:
        SettingsError: there is no such protocol, or it has no such setting.
        RunError: there is no run, or a file in it cannot be read or written.
        DataError: the source is not what the protocol wants, or too many images cannot be read.
    """
    entry = find_protocol(protocol)
    settings = fields.build(entry.settings, options or {}, section="options.")
    check_embedding(batch_size, workers, max_unreadable)
    run_folder = RunFolder.open(folder)
    path = scores_file(run_folder, protocol)
    check_writable(path)
    trained_with = TrainSettings.read(run_folder.config)
    read = how_read(source, layout, classes, trained_with)
    for note in read.notes:
        listener.note(note)
    subject = RunSubject(
        folder=run_folder,
        settings=trained_with,
        embedder=Embedder.load(run_folder.model, ready(device)),
        given=trained_with.data.root if source is None else source,
        split=split,
        layout=read.layout,
        classes=read.classes,
        embedding={
            "batch_size": batch_size,
            "workers": workers,
            "max_unreadable": tolerated(max_unreadable, trained_with),
        },
        listener=listener,
    )
    scores = entry.run(subject, settings)
    origin = {"provenance": provenance(), "trained_with": trained_with.as_dict(), "model_id": subject.embedder.id}
    write_json(path, {**scores.as_dict(), **origin})
    return ProtocolEvaluation(folder=run_folder, scores=scores, path=path)


@dataclass(kw_only=True)
class RunSubject:
    """The model of a run and a source of images; see :class:`cosphere.experiment.protocols.Subject`."""

    folder: RunFolder
    settings: TrainSettings
    embedder: Embedder
    given: str | Path | Catalogue
    split: str | None
    layout: str
    classes: Classes
    embedding: Mapping[str, Any]
    listener: Listener

    @property
    def source(self) -> Path | None:
        """What the user named; None where the images were listed by the caller."""
        return None if isinstance(self.given, Catalogue) else Path(self.given)

    @cached_property
    def trained(self) -> frozenset[str] | None:
        """Labels of the classes that the model was trained on; None where it does not say, or was trained on images without classes."""
        return trained_classes(self.embedder.provenance) or None

    def catalogue(self) -> Catalogue:
        """The images of the source, listed once."""
        return self._listed

    @cached_property
    def _listed(self) -> Catalogue:
        if isinstance(self.given, Catalogue):
            return self.given
        catalogue = read_catalogue(self.given, layout=self.layout, classes=self.classes, labels="optional")
        self.listener.listed(catalogue.remarks)
        return catalogue

    def embed(self, images: Catalogue, *, mirrored: bool = False) -> Embeddings:
        """Raw embeddings of images, or of their mirror images; computed once and stored."""
        with self.listener.progress("mirror images" if mirrored else "embedding") as progress:
            return embed(
                self.embedder,
                images,
                **self.embedding,
                store=store_of(self.folder.path),
                features=feature_cache(self.settings, self.folder.path),
                mirrored=mirrored,
                progress=progress,
            )
