"""Where a score comes from: a table of the classes, and one of the images whose neighbours contradict their label."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from cosphere.evaluate import LabelSuspects, Scores

CLASSES, SUSPECTS = "classes.csv", "suspects.csv"
"""The tables, in a run's folder."""
BY = "map@r"
"""The score that orders the classes: finer than Recall@1, which has few values in small classes."""


def class_table(scores: Scores) -> pd.DataFrame:
    """One row for each class with its name, queries and every retrieval score as a fraction; the weakest first."""
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


def as_csv(table: pd.DataFrame) -> str:
    """The table as CSV. Text that a spreadsheet would run as a formula gets a leading apostrophe."""
    return table.map(lambda cell: f"'{cell}" if isinstance(cell, str) and cell.startswith(_FORMULA) else cell).to_csv(
        index=False
    )


_FORMULA = ("=", "@", "+", "-", "\t", "\r")


def _common_root(paths: tuple[str, ...]) -> Path:
    """The deepest folder that holds all images."""
    parents = {Path(path).parent for path in paths}
    root = parents.pop()
    while not all(parent.is_relative_to(root) for parent in parents):
        root = root.parent
    return root
