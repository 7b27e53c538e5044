"""Where a score comes from: a table of the classes, and one of the images whose neighbours contradict their label."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
from rich.console import Console

from cosphere.evaluate import LabelSuspects, Scores, likely_mislabelled
from cosphere.files import write_text
from cosphere.runs import RunFolder

CLASSES, SUSPECTS = "classes.csv", "suspects.csv"
"""The tables, in a run's folder."""
WEAKEST = 3
"""Classes that are named in the terminal."""
BY = "map@r"
"""What orders the classes: finer than Recall@1, of which small classes have few values."""


def write_class_tables(folder: RunFolder, scores: Scores) -> None:
    """Write both tables, weakest and most suspicious first, and name the weakest classes in the terminal."""
    classes = class_table(scores)
    suspects = likely_mislabelled(scores.embeddings.embeddings, scores.embeddings.labels)
    table = suspects_table(scores, suspects)
    write_text(folder.path / CLASSES, classes.to_csv(index=False))
    write_text(folder.path / SUSPECTS, table.to_csv(index=False))
    weakest = ", ".join(
        f"{row['class']} ({100 * row[BY]:.1f} % of {row['queries']:,} queries)"
        for row in classes.head(WEAKEST).to_dict("records")
    )
    console = Console()
    for line in (
        f"weakest classes by {BY}: {weakest}; all in {folder.path / CLASSES}",
        f"{int((table['agreement'] > 0.5).sum()):,} of {scores.images:,} images have most of their neighbours in one other class: "
        f"wrong labels, or what the model misreads; they come first in {folder.path / SUSPECTS}",
    ):
        console.print(line, markup=False, highlight=False, soft_wrap=True)


def class_table(scores: Scores) -> pd.DataFrame:
    """One row a class with its name, queries and every retrieval score as a fraction; the weakest first."""
    if scores.retrieval is None:
        return pd.DataFrame(columns=["class", BY])
    rows = pd.DataFrame(scores.retrieval.per_class().as_rows())
    names = scores.embeddings.class_names
    rows.insert(0, "class", [names[label] for label in rows.pop("label")])
    return rows.sort_values([BY, "class"], kind="stable")


def suspects_table(scores: Scores, suspects: LabelSuspects) -> pd.DataFrame:
    """One row for each image that its neighbours outvote, the most suspicious first."""
    names, paths = scores.embeddings.class_names, scores.embeddings.paths
    root = _common_root(paths)
    rows = suspects.as_rows()
    return pd.DataFrame(
        {
            "path": [str(Path(paths[row["row"]]).relative_to(root)) for row in rows],  # type: ignore[index]  # whole numbers
            "label": [names[row["label"]] for row in rows],  # type: ignore[index]
            "suggested": [names[row["suggested"]] for row in rows],  # type: ignore[index]
            "agreement": [row["agreement"] for row in rows],
            "own": [row["own"] for row in rows],
        }
    )


def _common_root(paths: tuple[str, ...]) -> Path:
    """The deepest folder that holds all images."""
    parents = {Path(path).parent for path in paths}
    root = parents.pop()
    while not all(parent.is_relative_to(root) for parent in parents):
        root = root.parent
    return root
