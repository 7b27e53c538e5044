"""What a report is made from, and reading it from a run's folder."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

from cosphere.data import Skipped
from cosphere.embeddings import Embeddings
from cosphere.errors import DataError, RunError, SizeError
from cosphere.evaluate import EvaluationSettings, RetrievalScores, score_embeddings
from cosphere.evaluate.scores import rank
from cosphere.evaluate.settings import stored_settings
from cosphere.experiment.evaluated_runs import outdated_note
from cosphere.files import read_json, read_yaml
from cosphere.runs import RunFolder


class Score(NamedTuple):
    """A number and its interval."""

    value: float
    low: float | None = None
    high: float | None = None


def read_scores(scores: Mapping[str, Any]) -> dict[str, Score]:
    """The numbers among scores, each given bare or as ``{"value": ..., "low": ..., "high": ...}``.

    >>> read_scores({"recall@1": {"value": 0.5, "low": 0.4, "high": 0.6}, "queries": 20, "ties": "optimistic"})
    {'recall@1': Score(value=0.5, low=0.4, high=0.6), 'queries': Score(value=20, low=None, high=None)}
    """
    numbers = {}
    for name, content in scores.items():
        parts = content if isinstance(content, Mapping) else {"value": content}
        value, low, high = (
            parts.get(part) if _is_number(parts.get(part)) else None for part in ("value", "low", "high")
        )
        if value is not None:
            numbers[str(name)] = Score(value, low, high)
    return numbers


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


@dataclass(frozen=True, kw_only=True, eq=False)
class ReportData:
    """Everything a report can show. Only the name is required; the page says what is missing."""

    name: str
    config: Mapping[str, Any] = field(default_factory=dict)
    """Every setting, nested as in the run's YAML."""
    metrics: Sequence[Mapping[str, Any]] = ()
    """Logged lines in order, with the keys of ``metrics.jsonl``."""
    scores: Mapping[str, Any] = field(default_factory=dict)
    """As in ``scores.json``: split, scores, data, evaluation, health, provenance, settings."""
    baseline_scores: Mapping[str, Any] = field(default_factory=dict)
    """The scores before training: ``{"recall@1": {"value": 0.4, "low": ..., "high": ...}}``."""
    embeddings: Embeddings | None = None
    """The N embeddings that were scored."""
    protocols: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """By name, what ``scores-NAME.json`` of each protocol holds."""
    skipped: Sequence[Skipped] = ()
    """Images that the evaluation left out."""
    image_root: Path | None = None
    """Where relative image paths start."""

    @property
    def evaluation(self) -> EvaluationSettings:
        """How the embeddings were scored: as ``scores`` say, and the defaults where they say nothing.

        Raises:
            RunError: the scores hold settings that are none.
        """
        return stored_settings(self.scores)

    @cached_property
    def ranking(self) -> RetrievalScores | None:
        """The retrieval scores of the embeddings, query by query; None where nothing can be ranked."""
        if self.embeddings is None:
            return None
        try:
            return rank(self.embeddings, replace(self.evaluation, ks=(1,), metrics=()))
        except (DataError, SizeError):  # such as one image, or no class with two
            return None

    def file(self, row: int) -> str:
        """The image file of a row. Empty when unknown."""
        if self.embeddings is None:
            return ""
        path = self.embeddings.paths[row]
        return path if self.image_root is None else str(self.image_root / path)

    def box(self, row: int) -> tuple[int, int, int, int] | None:
        """The crop of a row in pixels (left, top, right, bottom), or None for the whole image."""
        boxes = None if self.embeddings is None else self.embeddings.boxes
        if boxes is None or boxes[row].min() < 0:
            return None
        left, top, right, bottom = boxes[row].tolist()
        return left, top, right, bottom

    def class_of(self, row: int) -> str:
        """The name of the class of a row."""
        return "" if self.embeddings is None else self.class_name(int(self.embeddings.labels[row]))

    def class_name(self, label: int) -> str:
        """The name of a class, or its number where it has no name."""
        names = () if self.embeddings is None else self.embeddings.class_names
        return names[label] if label < len(names) else f"class {label}"


def report_data_from_run(path: str | Path, *, split: str | None = None, image_root: Path | None = None) -> ReportData:
    """Read what a run's folder holds.

    The scores are those of ``scores.json``. If another split is asked for, its embeddings are scored here, with the same settings.

    Args:
        path: the run's folder.
        split: which embeddings to show; None takes the split of ``scores.json``, else the only or first one of
            test, val, train and the rest by name.
        image_root: where relative image paths start.

    Raises:
        RunError: there is no run, a file in it is broken, or ``split`` was asked for and never embedded.
    """
    folder = RunFolder.open(path)
    scores = _mapping(read_json(folder.scores, what="a run's scores"), folder.scores) if folder.scores.exists() else {}
    shown = _split(folder, split, scores.get("split"))
    embeddings = None if shown is None else Embeddings.load(folder.embeddings(shown))
    if embeddings is not None and shown is not None and not _are_of(scores, embeddings, shown):
        scores = _scored(embeddings, shown, scores)
    if embeddings is not None:
        scores = _with_notes(scores, outdated_note(folder, embeddings.model_id, f"--split {shown}"))
    return ReportData(
        name=folder.path.resolve().name,
        config=read_yaml(folder.config, what="settings") if folder.config.exists() else {},
        metrics=folder.read_metrics(),
        scores=scores,
        baseline_scores=scores.get("baseline_scores") or {},
        embeddings=embeddings,
        protocols=_protocols(folder),
        skipped=tuple(Skipped(str(one["path"]), str(one["reason"])) for one in scores.get("skipped_images") or ()),
        image_root=image_root,
    )


def _protocols(folder: RunFolder) -> dict[str, Mapping[str, Any]]:
    """The scores by protocols that lie in a run's folder, by name."""
    files = sorted(folder.path.glob("scores-*.json"))
    contents = {file: _mapping(read_json(file, what="the scores of a protocol"), file) for file in files}
    # scores-untrained.json names no protocol.
    named = {str(content["protocol"]): content for content in contents.values() if content.get("protocol")}
    return {
        name: _with_notes(content, outdated_note(folder, str(content.get("model_id") or ""), f"--protocol {name}"))
        for name, content in named.items()
    }


def _with_notes(content: Mapping[str, Any], notes: list[str]) -> dict[str, Any]:
    """The content of a file of scores, with these notes as sentences before its own."""
    own = content.get("notes")
    first = [f"{text[:1].upper()}{text[1:]}" for text in notes]
    return {**content, "notes": [*first, *(own if isinstance(own, list) else [])]} if notes else dict(content)


def _mapping(content: Any, path: Path) -> dict[str, Any]:
    if not isinstance(content, dict):
        raise RunError(f"{path} holds a {type(content).__name__}, not names with values. Evaluate the run again.")
    return content


def _split(folder: RunFolder, requested: str | None, evaluated: Any) -> str | None:
    """The split to show; None when the run has no embeddings yet."""
    splits = folder.splits()
    if requested is not None and requested not in splits:
        others = f"It has {', '.join(splits)}." if splits else "It has none yet."
        raise RunError(
            f"{folder.path} has no embeddings of split {requested!r}. {others} "
            f"Run: cosphere evaluate {folder.path} DATA --split {requested}."
        )
    return next((name for name in (requested, evaluated, "test", "val", "train", *splits) if name in splits), None)


def _are_of(scores: Mapping[str, Any], embeddings: Embeddings, split: str) -> bool:
    """Whether scores are of these embeddings: not of another split, nor of other images, as where a file was copied or a run killed."""
    data = scores.get("data")
    known = data.get("fingerprint") if isinstance(data, Mapping) else None
    return split == scores.get("split") and (not known or embeddings.fingerprint in ("", known))


def _scored(embeddings: Embeddings, split: str, evaluated: Mapping[str, Any]) -> dict[str, Any]:
    """Scores of a split that ``scores.json`` does not hold, measured as those were."""
    settings = ReportData(name="", scores=evaluated).evaluation
    try:
        return {"split": split, **score_embeddings(embeddings, settings).as_dict()}
    except (DataError, SizeError) as error:
        return {"split": split, "notes": [f"This split cannot be scored: {error}"]}
