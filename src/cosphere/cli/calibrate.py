"""`cosphere calibrate`: choose a match threshold on validation images and store it in the model."""

from __future__ import annotations

from cosphere.cli import console
from cosphere.cli.options import add_embedding, add_seed, add_source, add_split, embedding_options
from cosphere.cli.parsing import CommandParser
from cosphere.errors import agreeing, counted
from cosphere.evaluate import OpenSetScores, convert_threshold
from cosphere.evaluate.thresholds import Measure
from cosphere.experiment import calibrate_run
from cosphere.experiment.calibrating import Tested
from cosphere.models import Calibration
from cosphere.models.calibration import most_unseen

_EXAMPLES = [
    "cosphere calibrate runs/first",
    "cosphere calibrate runs/first photos/ --far 0.0001",
    "cosphere calibrate runs/first photos/ --split val --test false",
]


def parser() -> CommandParser:
    """The command's options."""
    made = CommandParser(
        "calibrate",
        "Choose the cosine above which two images match, for a target false-accept rate, and store it in the model.",
        _EXAMPLES,
    )
    made.add_argument("run", type=str, help="a run's folder")
    add_source(made, optional="the run's images where they moved, or others with --split all")
    made.add_argument("--far", type=float, default=1e-3, help="target false-accept rate of pairs, in (0, 1)")
    add_split(made, default=None, without="by default val")
    made.add_argument(
        "--test", type=bool, default=True, help="also measure the threshold on the test split, if there is one"
    )
    add_seed(made, "the intervals and of the known classes")
    add_embedding(made)
    return made


def run(arguments: list[str]) -> int:
    """Print the threshold and its rates, and store it in the run's model."""
    given = parser().read(arguments)
    calibrated = calibrate_run(
        given.run,
        given.source,
        far=given.far,
        split=given.split,
        test=given.test,
        layout=given.layout,
        classes=given.classes,
        seed=given.seed,
        **embedding_options(given),
        listener=console.ConsoleListener(),
    )
    show(calibrated.calibration, calibrated.split)
    for text in calibrated.notes:
        console.note(text)
    if calibrated.tested is not None:
        show_test(calibrated.tested)
    console.line(f"stored in {calibrated.folder.model}")
    return 0


def show(calibration: Calibration, split: str) -> None:
    """The table of the threshold and its rates."""
    table = console.table_of(
        f"threshold from {split}: {counted(calibration.images, 'image')}, {counted(calibration.classes, 'class')}",
        "",
        "value",
        f"{100 * calibration.level:g} % interval",
    )
    measures: list[tuple[str, Measure, int]] = [
        ("cosine above", "cosine", 4),
        ("angle below, degrees", "degrees", 2),
        ("L2 below", "l2", 4),
    ]
    for name, to, digits in measures:
        value, *ends = (
            convert_threshold(one, to=to) for one in (calibration.threshold, *calibration.threshold_interval)
        )
        table.add_row(name, f"{value:.{digits}f}", f"{min(ends):.{digits}f} to {max(ends):.{digits}f}")
    table.add_row("false accept rate, wanted, %", f"{100 * calibration.wanted_far:g}", "")
    low, high = calibration.far_interval
    table.add_row(
        "false accept rate, reached, %", f"{100 * calibration.far:.4g}", f"{100 * low:.4g} to {100 * high:.4g}"
    )
    if calibration.tar is not None and calibration.tar_interval is not None:
        low, high = calibration.tar_interval
        table.add_row("true accept rate, %", f"{100 * calibration.tar:.2f}", f"{100 * low:.2f} to {100 * high:.2f}")
    table.add_row("pairs of two classes, of one", f"{calibration.different_pairs:,}", f"{calibration.same_pairs:,}")
    console.show(table)


def show_test(tested: Tested) -> None:
    """The rates of the threshold on the test split: over pairs, and as an open set."""
    rates, scores = tested.rates, tested.open_set
    table = console.table_of(
        f"the same threshold on test: {counted(tested.images, 'image')}", "score", "%", "95 % interval"
    )
    unseen = "" if rates.far else f"0 to {100 * most_unseen(rates.different_pairs):.4g}"
    table.add_row("false accept rate of pairs", f"{100 * rates.far:.4g}", unseen)
    if rates.tar is not None:
        table.add_row("true accept rate of pairs", f"{100 * rates.tar:.2f}", "")
    for name, value, interval in _open_set_rows(scores):
        table.add_row(name, value, interval)
    console.show(table)
    known, queries = scores.known_classes, scores.known_queries
    console.note(
        f"open set: {counted(known, 'class')} {agreeing(known, 'are')} known by {counted(scores.gallery, 'image')}; "
        f"{counted(queries, 'query')} {agreeing(queries, 'are')} of them, {scores.unknown_queries:,} of "
        f"{counted(scores.unknown_classes, 'other class')}. A query meets the whole gallery, so "
        "it raises more false alarms than a pair."
    )


def _open_set_rows(scores: OpenSetScores) -> list[tuple[str, str, str]]:
    ends = {name: f"{100 * low:.1f} to {100 * high:.1f}" for name, (low, high) in scores.intervals.items()}
    shown = {
        "known, found and right (DIR)": (scores.dir, ends["dir"]),
        "known, another class named": (scores.misnamed, ""),
        "known, rejected": (scores.rejected, ""),
        "unknown, false alarm": (scores.false_alarms, ends["false_alarms"]),
        "AUROC, known from unknown": (scores.auroc, ""),
    }
    shown |= {
        f"DIR at {100 * rate:g} % false alarms (cosine {scores.thresholds[rate]:.3f})": (value, "")
        for rate, value in scores.dir_at_fpir.items()
    }
    return [(name, f"{100 * value:.2f}", interval) for name, (value, interval) in shown.items()]
