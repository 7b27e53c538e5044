"""What `cosphere evaluate --protocol` prints."""

from __future__ import annotations

from cosphere.cli import console
from cosphere.experiment import ProtocolEvaluation
from cosphere.experiment.protocols import Part


def show(evaluation: ProtocolEvaluation) -> None:
    """One table for each part, the notes, and where the file is."""
    scores = evaluation.scores
    for part in scores.parts:
        show_part(f"{evaluation.folder.path.name}, {scores.protocol}", part, getattr(scores.settings, "level", 0.95))
    for text in scores.notes:
        console.note(text)
    console.line(f"written to {evaluation.path}")


def show_part(name: str, part: Part, level: float) -> None:
    """Scores in percent with intervals; of folds their standard deviation too."""
    folds = part.details.get("folds")
    table = console.table_of(
        f"{name}: {part.title}",
        "score",
        "%",
        f"{100 * level:g} % interval",
        *(["sd over folds"] if folds else []),
    )
    for score, value in part.values.items():
        ends = "" if value.interval is None else " to ".join(f"{100 * end:.1f}" for end in value.interval)
        spread = [f"{100 * folds['accuracy_std']:.2f}" if score == "accuracy" else ""] if folds else []
        table.add_row(f"{part.key}/{score}" if part.key else score, f"{100 * value.value:.2f}", ends, *spread)
    lengths = part.details.get("lengths")
    console.show(table)
    console.line(", ".join(f"{number:,} {what.replace('_', ' ')}" for what, number in part.counts.items()))
    if lengths is not None and lengths["correlation"] is not None:
        gain = (
            ""
            if lengths["gain"] is None
            else f"; rejecting short ones gains {round(100 * lengths['gain'])} % of what is possible"
        )
        console.line(f"length and being right: correlation {lengths['correlation']:+.2f}{gain}")
