"""What a reader of a study's results should know beside its verdicts."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from cosphere.data import Catalogue
from cosphere.errors import agreeing, counted
from cosphere.experiment.images import parts_of_training
from cosphere.studies.definition import Study
from cosphere.studies.jobs import Phase
from cosphere.train.stream import sampler_of


def notes(study: Study, records: Sequence[Mapping[str, Any]], missing: Mapping[Phase, int]) -> Iterator[str]:
    """One sentence each: runs that are left, runs of other studies, several commits or devices, arms without tuning.

    Args:
        study: the study.
        records: of its finished runs.
        missing: runs that are left.
    """
    if missing["tune"]:
        yield (
            f"{counted(missing['tune'], 'run')} of candidates {agreeing(missing['tune'], 'are')} left, so nothing is chosen, no test "
            "image was read, and every question is open. The same command goes on."
        )
    elif missing["final"]:
        whole = counted(len(study.arms) * study.seeds, "final run")
        yield f"{missing['final']} of {whole} {agreeing(missing['final'], 'are')} left. The same command goes on."
    taken = sum("taken_from" in record for record in records)
    if taken:
        yield (
            f"{counted(taken, 'run')} of {len(records)} were trained by other studies with the same settings, seeds and images; "
            "the column taken_from of the table names them."
        )
    made_by = commits(records)
    if len(made_by) > 1:
        several = ", ".join(f"{name[:12]} ({counted(count, 'run')})" for name, count in made_by.items())
        yield f"The runs were made by several commits: {several}."
    devices = sorted({str(one["device"]) for one in records if "device" in one})
    if len(devices) > 1:
        yield f"The runs were done on several devices, which round differently: {', '.join(devices)}."
    untuned = [name for name, arm in study.arms.items() if not arm.tune and arm.values_of is None]
    if untuned and len(untuned) < len(study.arms):
        yield f"Nothing is tuned for {', '.join(untuned)}; the other arms had {study.candidates} candidates each."


def commits(records: Sequence[Mapping[str, Any]]) -> dict[str, int]:
    """Runs by the commit or, where Cosphere was installed, the version that did them; the most frequent first."""
    counts: dict[str, int] = {}
    for record in records:
        origin = record["provenance"]
        name = origin["commit"] or f"version {origin['cosphere']}"
        counts[name] = counts.get(name, 0) + 1
    return dict(sorted(counts.items(), key=lambda item: (-item[1], item[0])))


def batch_notes(study: Study, training: Catalogue) -> list[str]:
    """Where the batches of arms are not as the study says, because the images do not allow it; one sentence each, with its arms.

    Args:
        study: the study.
        training: training and validation images.
    """
    arms: dict[str, dict[str, None]] = {}
    parts: dict[str, Catalogue] = {}
    found: dict[str, tuple[str, ...]] = {}
    for name in study.arms:
        for values in study.extremes(name):
            settings = study.settings(name, values, 0)
            if settings.batch.sampler == "views":  # Each image is a class of its own there.
                continue
            key, whole = str(settings.data), repr((settings.data, settings.batch))
            if whole not in found:
                parts[key] = parts.get(key) or parts_of_training(training, settings).train
                found[whole] = sampler_of(settings.batch, parts[key], 0).notes
            for note in found[whole]:
                arms.setdefault(note, {})[name] = None
    return [
        f"{'all arms' if len(names) == len(study.arms) else ', '.join(names)}: {note}" for note, names in arms.items()
    ]
