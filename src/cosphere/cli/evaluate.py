"""`cosphere evaluate`: score a run's model on images that it was not trained on."""

from __future__ import annotations

import dataclasses
from typing import Any

from jsonargparse import Namespace

from cosphere.cli import codes_table, console, protocol_tables
from cosphere.cli.options import add_embedding, add_source, add_split, embedding_options
from cosphere.cli.parsing import CommandParser, settings_of
from cosphere.errors import SettingsError, counted
from cosphere.evaluate import EvaluationSettings
from cosphere.evaluate.agreement import worth_printing
from cosphere.experiment import Evaluation, evaluate_protocol, evaluate_run
from cosphere.experiment.class_tables import BY, CLASSES, SUSPECTS
from cosphere.experiment.evaluation import ClassTables, own_settings
from cosphere.experiment.protocols import PROTOCOLS
from cosphere.runs import RunFolder

_EXAMPLES = [
    "cosphere evaluate runs/first",
    "cosphere evaluate runs/first other-photos/ --split all",
    "cosphere evaluate runs/sop Stanford_Online_Products --ks '[1,10,100,1000]'",
    "cosphere evaluate runs/first --metrics '[mrr,ndcg]'",
    "cosphere evaluate runs/first --codes",
    "cosphere evaluate runs/first --untrained",
    "cosphere evaluate runs/faces lfw/ --protocol lfw --options.flip none",
    "cosphere evaluate runs/faces photos/ --protocol pairs --pairs pairs.csv",
    "cosphere evaluate runs/simclr cifar10/ --protocol linear",
]
WEAKEST = 3
"""Classes that are named in the terminal."""


def parser() -> CommandParser:
    """The command's options."""
    made = CommandParser(
        "evaluate", "Score a run's model: Recall@K, MAP@R, R-precision, NMI and F1, with intervals.", _EXAMPLES
    )
    made.add_argument("run", type=str, help="a run's folder")
    add_source(made, optional="by default the images that the run was trained from")
    add_split(made, default=None, without="by default test, or val where there is no test split")
    made.add_argument("--untrained", type=bool, default=False, help="score the untrained backbone: the score to beat")
    made.add_argument(
        "--codes", type=bool, default=False, help="also compare bits and other smaller forms: a table and codes.json"
    )
    made.add_argument(
        "--protocol",
        type=str | None,
        default=None,
        help=f"score by a protocol instead, into scores-PROTOCOL.json: {', '.join(PROTOCOLS)}",
    )
    made.add_argument("--pairs", type=str | None, default=None, help="table of pairs, of --protocol pairs")
    made.add_argument(
        "--options",
        type=dict[str, Any],
        default={},
        help="settings of the protocol, as --options.flip none; see docs/metrics.md",
    )
    add_embedding(made)
    made.add_class_arguments(EvaluationSettings, None)
    return made


def run(arguments: list[str]) -> int:
    """Print a table and write `scores.json`, or with a protocol `scores-PROTOCOL.json`."""
    parser_ = parser()
    asked = parser_.read(arguments)
    if asked.protocol is not None:
        return _run_protocol(asked)
    if asked.pairs is not None or asked.options:
        raise SettingsError("--pairs and --options belong to a protocol. Add --protocol pairs, or leave them out.")
    # What the run's recipe asks for stands in for the defaults, and the command line overrides it.
    parser_.set_defaults(dataclasses.asdict(own_settings(RunFolder.open(asked.run))))
    given = parser_.read(arguments)
    evaluation = evaluate_run(
        given.run,
        given.source,
        split=given.split,
        layout=given.layout,
        classes=given.classes,
        settings=settings_of(EvaluationSettings, given),
        untrained=given.untrained,
        codes=given.codes,
        **embedding_options(given),
        listener=console.ConsoleListener(),
    )
    show(evaluation)
    return 0


def _run_protocol(given: Namespace) -> int:
    """Print the tables of a protocol and write its file."""
    options = dict(given.options)
    if given.pairs is not None:
        if given.protocol != "pairs":
            raise SettingsError(
                f"--pairs belongs to --protocol pairs; got --protocol {given.protocol}. Leave out one of the two."
            )
        options["pairs"] = given.pairs
    if given.untrained or given.codes:
        raise SettingsError("--untrained and --codes do not go with --protocol. Leave them out.")
    defaults = dataclasses.asdict(EvaluationSettings())
    ranking = next((name for name, value in defaults.items() if given[name] != value), None)
    if ranking is not None:
        raise SettingsError(f"--{ranking} does not go with --protocol, whose settings are --options. Leave it out.")
    evaluation = evaluate_protocol(
        given.run,
        given.source,
        protocol=given.protocol,
        options=options,
        split=given.split,
        layout=given.layout,
        classes=given.classes,
        **embedding_options(given),
        listener=console.ConsoleListener(),
    )
    protocol_tables.show(evaluation)
    return 0


def show(evaluation: Evaluation) -> None:
    """The table of scores, the weakest classes, and the table of smaller forms if there is one."""
    show_scores(evaluation)
    if evaluation.tables is not None:
        show_class_tables(evaluation, evaluation.tables)
    if evaluation.codes is not None:
        codes_table.show(evaluation, evaluation.codes)


def show_scores(evaluation: Evaluation) -> None:
    """Value, interval and, for a recipe of a published row, the published score."""
    scores, published = evaluation.scores, evaluation.published
    over = "" if scores.interval_over == "queries" else f" over {scores.interval_over}"
    table = console.table_of(
        f"{evaluation.name}, {evaluation.split}: {counted(scores.images, 'image')}, {counted(scores.classes, 'class')}",
        "score",
        "%",
        f"{100 * scores.settings.level:g} % interval{over}",
        *(["published"] if published else []),
    )
    for name in worth_printing({name: score.value for name, score in scores.values.items()}):
        value = scores.values[name]
        ends = "" if value.interval is None else " to ".join(f"{100 * end:.1f}" for end in value.interval)
        beside = [f"{published[name]:.2f}" if name in published else ""] if published else []
        table.add_row(name, f"{100 * value.value:.2f}", ends, *beside)
    console.show(table)
    if scores.retrieval is not None and "median_rank" in scores.retrieval.medians:
        console.line(f"median rank of the first relevant image: {scores.retrieval.median_rank:g}")
    for text in scores.notes:
        console.note(text)
    health = scores.health
    for text in () if health is None else health.findings if evaluation.untrained else health.warnings:
        console.warning(text)
    console.line(f"written to {evaluation.path}")


def show_class_tables(evaluation: Evaluation, tables: ClassTables) -> None:
    """Name the weakest classes and count the suspicious images."""
    weakest = ", ".join(
        f"{row['class']} ({100 * row[BY]:.1f} %, {counted(row['queries'], 'query')})"
        for row in tables.classes.head(WEAKEST).to_dict("records")
    )
    folder = evaluation.folder.path
    console.line(f"weakest classes by {BY}: {weakest}; all in {folder / CLASSES}")
    suspects = int((tables.suspects["agreement"] > 0.5).sum())
    console.line(f"{suspects_line(suspects, evaluation.scores.images)} {folder / SUSPECTS}")


def suspects_line(suspects: int, images: int) -> str:
    """How many images are suspicious, and where they stand in the file that is named next."""
    one = suspects == 1
    return (
        f"{suspects:,} of {counted(images, 'image')} {'has' if one else 'have'} most of {'its' if one else 'their'} neighbours "
        f"in one other class: wrong {'label' if one else 'labels'}, or {'an error' if one else 'errors'} of the model; "
        f"{'it comes' if one else 'they come'} first in"
    )
