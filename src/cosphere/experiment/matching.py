"""Matching runs: which are seeds of one arm, which images they share, and their values for the same queries."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import reduce
from itertools import takewhile
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import yaml

from cosphere._types import Floats, Integers, Progress
from cosphere.checks import check_switches
from cosphere.embeddings import Embeddings
from cosphere.errors import DataError, SettingsError, SizeError, did_you_mean
from cosphere.evaluate.comparison import Arm
from cosphere.evaluate.metrics import find_metric
from cosphere.evaluate.scores import rank
from cosphere.experiment.evaluated_runs import (
    EvaluatedRun,
    check_same_images,
    check_same_ranking,
    check_same_split,
    open_evaluated,
    outdated_note,
    ranking_note,
)
from cosphere.experiment.setting_differences import without_seed
from cosphere.files import path_of
from cosphere.runs import RunFolder
from cosphere.train import TrainSettings

Keys = npt.NDArray[np.str_]
METRICS = ("recall@1", "map@r")
"""Default metrics of a comparison."""
_REPORTED_GAP = 1e-3
"""Fraction; a recomputed score further than this from scores.json is of another evaluation."""


@dataclass(frozen=True, eq=False)
class MatchedRuns:
    """Arms on the queries shared by all their runs."""

    arms: Mapping[str, Arm]
    runs: Mapping[str, tuple[str, ...]]
    """Folder names of each arm's runs, in the order of its seeds."""
    classes: Keys
    """(Q,) class name of each query."""
    split: str
    fingerprint: str
    """Of the images; empty if the runs were scored on different ones."""
    images: int
    """Images that all runs share: the queries and what they were ranked among."""
    left_out: Mapping[str, int]
    """Images of each run, by its folder, that another run lacks; runs without any are left out."""
    notes: tuple[str, ...]
    ranking: Mapping[str, Any]
    """How all runs were evaluated, and are ranked here: ``bits``, ``ties`` and ``group_rule``."""


def group_runs(paths: Sequence[str | Path]) -> dict[str, list[Path]]:
    """Runs by arm: those whose settings differ in the seed alone, or in what changes no number, are one arm.

    An arm of several runs is named by what their folders' names share, without "seed"; an arm of one by its folder. If
    all runs are seeds of one arm, each is an arm of its own, since there would be nothing to compare otherwise.

    Raises:
        RunError: a path is not a run, or has no readable settings.
        SettingsError: one run is given twice.
    """
    folders = [path_of(path) for path in paths]
    check_once(folders)
    by_settings: dict[str, list[Path]] = {}
    for folder in folders:
        settings = TrainSettings.read(RunFolder.open(folder).config)
        by_settings.setdefault(yaml.safe_dump(without_seed(settings), sort_keys=True), []).append(folder)
    if len(by_settings) == 1:
        by_settings = {str(folder): [folder] for folder in folders}
    groups = list(by_settings.values())
    names = [_arm_name([folder.resolve().name for folder in group]) for group in groups]
    named = {}
    for name, group in zip(names, groups, strict=True):
        # Folders of the same name: the whole path tells them apart.
        more = f" and {len(group) - 1} more" if len(group) > 1 else ""
        named[name if names.count(name) == 1 else f"{group[0]}{more}"] = group
    return named


def check_once(folders: Sequence[Path]) -> None:
    """Raise when a run is given twice."""
    places = [folder.resolve() for folder in folders]
    twice = [str(folder) for at, folder in enumerate(folders) if places[at] in places[:at]]
    if twice:
        raise SettingsError(f"{twice[0]} is given twice. Give each run once.")


def _arm_name(names: list[str]) -> str:
    """The common start of the names; a single name unchanged.

    >>> _arm_name(["triplet-sec-seed0", "triplet-sec-seed1"])
    'triplet-sec'
    >>> _arm_name(["a", "b"])
    'a and 1 more'
    """
    if len(names) == 1:
        return names[0]
    letters = takewhile(lambda letter: len(set(letter)) == 1, zip(*names, strict=False))
    shared = re.sub(r"([-_. ]+(seed|run|s))?[-_. ]*\d*$", "", "".join(letter[0] for letter in letters))
    return shared or f"{names[0]} and {len(names) - 1} more"


def read_arms(
    groups: Mapping[str, Sequence[str | Path]],
    metrics: Sequence[str] = METRICS,
    *,
    split: str | None = None,
    shared_only: bool = False,
    progress: Progress | None = None,
) -> MatchedRuns:
    """Score the saved embeddings of runs on the images that all of them share.

    Images are the same if path, class and box are; where no path is shared, paths count from the folder that holds all
    images of a run, so a data set may lie elsewhere on another machine. Images that a run lacks are left out of all,
    from the queries and from what they are ranked among, so every run answers the same questions. The embeddings of one
    run at a time are in memory.

    Args:
        groups: the folders of each arm's runs. See :func:`group_runs`.
        metrics: names as in `scores.json`, such as ``recall@1``, ``map@r`` and ``mrr``: those that have a value for each query.
        split: the evaluated split; None takes that of `scores.json`, which must then be the same for all.
        shared_only: use only the shared images if the runs were scored on different sets.
        progress: called with the number of ranked runs.

    Raises:
        RunError: a folder is not a run, was never evaluated, or not on this split; the splits, or the rules of the ranking, differ.
        DataError: the runs were scored on different images, or share none.
        SettingsError: unknown metric, or no arm.
    """
    check_switches(shared_only=shared_only)
    ks = _ks(metrics)
    flat = [(arm, path) for arm, paths in groups.items() for path in paths]
    check_once([path_of(path) for _, path in flat])
    runs = [open_evaluated(path, split) for _, path in flat]
    if not runs:
        raise SettingsError("there is no run to compare. Give at least two.")
    check_same_split(runs)
    check_same_ranking(runs)
    fingerprint = check_same_images(runs, shared_only)
    images = [_images(run) for run in runs]
    rows, notes = _shared_rows(images, runs)
    _check_same_roles(images, runs, [kept for kept, _ in rows])
    left_out = {run.name: total - len(kept) for run, (kept, total) in zip(runs, rows, strict=True) if len(kept) < total}
    ranked = []
    for run, one, (kept, _) in zip(runs, images, rows, strict=True):
        notes += [f"{run.name}: {text}" for text in outdated_note(run.folder, one.model_id, f"--split {run.split}")]
        ranked.append(_ranked(run, kept, metrics, ks))
        if not left_out:
            notes += _check_reported(run, ranked[-1].values)
        notes += _warned(run)
        if progress is not None:
            progress(len(ranked), len(runs))
    queries = reduce(np.intersect1d, [one.rows for one in ranked])
    if not len(queries):
        raise DataError("the runs share no query. Evaluate all of them on the same images.")
    return MatchedRuns(
        arms=_arms(groups, [arm for arm, _ in flat], runs, [one.of(queries) for one in ranked]),
        runs={arm: tuple(Path(path).resolve().name for path in paths) for arm, paths in groups.items()},
        classes=ranked[0].classes[queries],
        split=runs[0].split,
        fingerprint=fingerprint,
        images=len(rows[0][0]),
        left_out=left_out,
        notes=(*ranking_note(runs[0].ranking), *_left_out_note(left_out), *dict.fromkeys(notes)),
        ranking=runs[0].ranking,
    )


def _ks(metrics: Sequence[str]) -> list[int]:
    """The K after the @ in the names."""
    if not metrics:
        raise SettingsError("there is no metric to compare. Give at least one, such as recall@1.")
    ks = {int(match[1]) for name in metrics if (match := re.search(r"@(\d+)$", name))}
    return sorted(ks) or [1]


class _Images(NamedTuple):
    """What identifies the images of a run. All (N,)."""

    root: str
    """The deepest folder that holds all images."""
    paths: Keys
    below: Keys
    """Paths from the root."""
    rest: Keys
    """Class and box."""
    model_id: str
    """Of the model that embedded them."""
    roles: dict[str, Integers]
    """What decides whom a query meets, by what it is called."""


def _images(run: EvaluatedRun) -> _Images:
    loaded = Embeddings.load(run.folder.embeddings(run.split))
    paths = np.array(loaded.paths, dtype=np.str_)
    root = os.path.commonpath([os.path.dirname(path) for path in loaded.paths])  # noqa: PTH120
    boxes = np.full((len(paths), 4), -1) if loaded.boxes is None else loaded.boxes  # -1: the whole image
    rest = reduce(
        lambda text, side: np.strings.add(text, np.strings.add(" ", side.astype(np.str_))),
        boxes.T,
        np.array(loaded.class_names, dtype=np.str_)[loaded.labels],
    )
    roles = {"queries": loaded.is_query, "gallery images": loaded.is_gallery}
    columns = {name: np.ones(len(paths), int) if part is None else part.astype(int) for name, part in roles.items()}
    columns["groups"] = np.arange(len(paths)) if loaded.groups is None else loaded.groups
    return _Images(root, paths, np.strings.replace(paths, root, "", count=1), rest, loaded.model_id, columns)


def _first_of_each(numbers: Integers) -> Integers:
    """For each row the first one of its number."""
    _, first, inverse = np.unique(numbers, return_index=True, return_inverse=True)
    return np.asarray(first[inverse], dtype=np.int64)


def _check_same_roles(images: Sequence[_Images], runs: Sequence[EvaluatedRun], rows: Sequence[Integers]) -> None:
    """Raise unless the shared images have the same roles and groups in all runs: else their queries rank others, or are others.

    Raises:
        DataError: they have not; the message names two runs.
    """
    for name in images[0].roles:
        columns = [one.roles[name][taken] for one, taken in zip(images, rows, strict=True)]
        if name == "groups":  # whose numbers may differ
            columns = [_first_of_each(column) for column in columns]
        other = next((at for at, column in enumerate(columns) if not np.array_equal(column, columns[0])), None)
        if other is not None:
            raise DataError(
                f"{runs[0].name} and {runs[other].name} were scored on the same images with other {name}, so their scores cannot be "
                "compared. Evaluate both on the same table."
            )


def _shared_rows(
    images: Sequence[_Images], runs: Sequence[EvaluatedRun]
) -> tuple[list[tuple[Integers, int]], list[str]]:
    """For each run, the rows of the shared images in the order of the first run and its number of images; and notes."""
    notes = []
    whole = [_keys(one.paths, one.rest) for one in images]
    if not len(reduce(np.intersect1d, whole)):
        whole = [_keys(one.below, one.rest) for one in images]
        roots = list(dict.fromkeys(one.root for one in images))
        if len(reduce(np.intersect1d, whole)):
            notes.append(
                f"Images lie in different folders ({', '.join(roots)}), so they are matched by the path below."
            )
        else:
            raise DataError(
                f"{' and '.join(run.name for run in runs[:2])}{' and others' * (len(runs) > 2)} share no image of the same "
                "path and class. Evaluate all of them on the same images."
            )
    shared = reduce(np.intersect1d, whole)
    first = np.sort(np.flatnonzero(np.isin(whole[0], shared)))
    first_rows = whole[0][first]
    taken = []
    for keys in whole:
        order = np.argsort(keys)
        taken.append((order[np.searchsorted(keys, first_rows, sorter=order)], len(keys)))
    return taken, notes


def _keys(paths: Keys, rest: Keys) -> Keys:
    """One text per image; copies of a repeated row are numbered."""
    keys = np.strings.add(np.strings.add(paths, "\n"), rest)
    order = np.argsort(keys, kind="stable")
    ordered = keys[order]
    first = np.searchsorted(ordered, ordered)  # where the copies of each begin
    copy = np.empty(len(keys), dtype=np.int64)
    copy[order] = np.arange(len(keys)) - first
    return np.strings.add(np.strings.add(keys, "\n"), copy.astype(np.str_))


class _Ranked(NamedTuple):
    """The values of one run."""

    values: Mapping[str, Floats]
    """By metric, one for each of ``rows``."""
    rows: Integers
    """The shared images that are queries with something to find; ascending."""
    classes: Keys
    """Class name of every shared image."""

    def of(self, queries: Integers) -> dict[str, Floats]:
        """The values of some rows."""
        place = np.searchsorted(self.rows, queries)
        return {name: values[place] for name, values in self.values.items()}


def _ranked(run: EvaluatedRun, rows: Integers, metrics: Sequence[str], ks: Sequence[int]) -> _Ranked:
    loaded = Embeddings.load(run.folder.embeddings(run.split)).rows(rows)
    named = {metric.name for name in metrics if (metric := find_metric(name)) is not None}
    try:
        scores = rank(loaded, replace(run.settings, ks=tuple(ks), metrics=tuple(sorted(named))))
    except (DataError, SizeError) as error:
        raise type(error)(f"{run.name}: {error}") from error
    values = scores.per_query()
    for name in metrics:
        if name not in values:
            raise SettingsError(
                f"there is no metric {name!r} with a value for each query. {did_you_mean(name, values)}"
            )
    classes = np.array(loaded.class_names, dtype=np.str_)[loaded.labels]
    return _Ranked({name: values[name] for name in metrics}, scores.query_rows, classes)


def _check_reported(run: EvaluatedRun, found: Mapping[str, Floats]) -> list[str]:
    """A note if scores.json disagrees: files of two evaluations were mixed."""
    if run.content.get("split") != run.split:
        return []
    reported = run.content.get("scores")
    if not isinstance(reported, Mapping):
        return []
    for name, values in found.items():
        said = reported.get(name, {}).get("value") if isinstance(reported.get(name), Mapping) else None
        if isinstance(said, float) and abs(said - float(values.mean())) > _REPORTED_GAP:
            return [
                f"{run.name}: {name} of the saved embeddings is {float(values.mean()):.4f}, its scores.json says "
                f"{said:.4f}. Run: cosphere evaluate {run.name}."
            ]
    return []


def _warned(run: EvaluatedRun) -> list[str]:
    """The warnings of its evaluation: a collapsed embedding scores well where ties count as hits."""
    health = run.content.get("health")
    warnings = health.get("warnings") if isinstance(health, Mapping) and run.content.get("split") == run.split else None
    return [f"{run.name}: {text}" for text in warnings if isinstance(text, str)] if isinstance(warnings, list) else []


def _arms(
    groups: Mapping[str, Sequence[str | Path]],
    names: Sequence[str],
    runs: Sequence[EvaluatedRun],
    values: Sequence[Mapping[str, Floats]],
) -> dict[str, Arm]:
    arms = {}
    for arm in groups:
        mine = [at for at, name in enumerate(names) if name == arm]
        if not mine:
            raise SettingsError(f"arm {arm!r} has no run. Give it at least one.")
        table = {name: np.stack([values[at][name] for at in mine]) for name in values[mine[0]]}
        arms[arm] = Arm(table, tuple(runs[at].seed for at in mine))
    return arms


def _left_out_note(left_out: Mapping[str, int]) -> list[str]:
    if not left_out:
        return []
    listed = ", ".join(f"{count:,} of {name}" for name, count in left_out.items())
    return [f"Left out, because another run lacks them: {listed} images. All runs are scored again on the shared ones."]
