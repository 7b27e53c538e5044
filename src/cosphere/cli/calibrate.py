"""`cosphere calibrate`: from which cosine on two images count as the same, chosen on held-out classes, kept in the model."""

from __future__ import annotations

from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from cosphere.cli.evaluate import choose_device, embed_with_progress
from cosphere.cli.images import OTHER_IMAGES, as_trained, parts_of_training, take_split
from cosphere.cli.parsing import CommandParser
from cosphere.cli.train import show_notes
from cosphere.data import Catalogue, read_catalogue
from cosphere.errors import DataError
from cosphere.evaluate import Embeddings, OpenSetScores, calibrate, convert_threshold, open_set, pair_rates
from cosphere.evaluate.calibration import check_far
from cosphere.evaluate.thresholds import Measure
from cosphere.models import Calibration, Embedder
from cosphere.runs import RunFolder
from cosphere.train import TrainSettings

_EXAMPLES = [
    "cosphere calibrate runs/first",
    "cosphere calibrate runs/first photos/ --far 0.0001",
    "cosphere calibrate runs/first photos/ --split val --test false",
]
_ENOUGH = 30
"""False accepts from which a rate is known to within about a third of itself, were pairs independent."""


def run(arguments: list[str]) -> int:
    """Print the threshold and what it is worth, and store it in the run's model."""
    parser = CommandParser(
        "calibrate",
        "Choose the cosine above which two images count as the same, for a wanted false accept rate, and keep it in the model.",
        _EXAMPLES,
    )
    parser.add_argument("run", type=str, help="a run's folder")
    parser.add_argument(
        "source", nargs="?", type=str, help="the run's images, if they moved, or others with --split all"
    )
    parser.add_argument("--far", type=float, default=1e-3, help="wanted false accept rate of pairs, in (0, 1)")
    parser.add_argument(
        "--split",
        type=str | None,
        default=None,
        help="split to choose on, or `all`; by default the classes held out of training",
    )
    parser.add_argument(
        "--test", type=bool, default=True, help="show what it is worth on the test split, if there is one"
    )
    parser.add_argument("--layout", type=str, default="auto", help="layout of the source")
    parser.add_argument("--seed", type=int, default=0, help="seed of the intervals and of the known classes")
    parser.add_argument("--batch_size", type=int, default=64, help="images in one forward pass")
    parser.add_argument("--workers", type=int, default=0, help="processes that decode")
    parser.add_argument("--device", type=str, default="auto", help="auto, cpu, cuda or mps")
    given = parser.read(arguments)
    check_far(given.far)  # before minutes of embedding
    folder = RunFolder.open(given.run)
    settings, device = TrainSettings.read(folder.config), choose_device(given.device)
    catalogue = read_catalogue(given.source or settings.data.root, layout=given.layout)
    show_notes(catalogue)
    images, split = validation_images(catalogue, given.split, settings)
    embedder = Embedder.load(folder.model, device)
    decoding = {"batch_size": given.batch_size, "workers": given.workers}
    found = _calibrated(
        embed_with_progress(embedder, images, **decoding), given.far, data=images.fingerprint(), seed=given.seed
    )
    embedder.calibration = found
    embedder.save(folder.model)
    show(found, split)
    if split == "validation" and not as_trained(embedder, catalogue, settings):
        _note(OTHER_IMAGES)
    if given.test and split not in ("test", "all") and "test" in catalogue.split_names:
        show_test(embed_with_progress(embedder, catalogue.select("test"), **decoding), found, seed=given.seed)
    Console().print(f"stored in {folder.model}", soft_wrap=True, highlight=False, markup=False)
    return 0


def _note(text: str) -> None:
    Console().print(f"note: {text}", markup=False, highlight=False, soft_wrap=True)


def validation_images(catalogue: Catalogue, split: str | None, settings: TrainSettings) -> tuple[Catalogue, str]:
    """The images to choose a threshold on and what they are: a split, or the classes that training held out.

    Raises:
        DataError: there is no such split, or nothing was held out.
    """
    if split is not None:
        return take_split(catalogue, split), split
    held_out = parts_of_training(catalogue, settings).val
    if held_out is None:
        raise DataError(
            "no classes were held out of training, so there is nothing to choose a threshold on. "
            "Name a split that was not trained on with --split, or give other images and --split all."
        )
    return held_out, "validation"


def _calibrated(images: Embeddings, far: float, *, data: str, seed: int) -> Calibration:
    with Progress(console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("comparing all pairs", total=None)
        return calibrate(
            images.embeddings,
            images.labels,
            far,
            data=data,
            seed=seed,
            progress=lambda done, total: bar.update(task, completed=done, total=total),
        )


def show(found: Calibration, split: str) -> None:
    """The table, and what its reader should know."""
    console = Console()
    table = Table(title=f"threshold from {split}: {found.images:,} images, {found.classes:,} classes")
    table.add_column("")
    table.add_column("value", justify="right")
    table.add_column(f"{100 * found.level:g} % interval", justify="right")
    measures: list[tuple[str, Measure, int]] = [
        ("cosine above", "cosine", 4),
        ("angle below, degrees", "degrees", 2),
        ("L2 below", "l2", 4),
    ]
    for name, to, digits in measures:
        value, *ends = (convert_threshold(one, to=to) for one in (found.threshold, *found.threshold_interval))
        table.add_row(name, f"{value:.{digits}f}", f"{min(ends):.{digits}f} to {max(ends):.{digits}f}")
    table.add_row("false accept rate, wanted, %", f"{100 * found.wanted_far:g}", "")
    low, high = found.far_interval
    table.add_row("false accept rate, reached, %", f"{100 * found.far:.4g}", f"{100 * low:.4g} to {100 * high:.4g}")
    if found.tar is not None and found.tar_interval is not None:
        low, high = found.tar_interval
        table.add_row("true accept rate, %", f"{100 * found.tar:.2f}", f"{100 * low:.2f} to {100 * high:.2f}")
    table.add_row("pairs of two classes, of one", f"{found.different_pairs:,}", f"{found.same_pairs:,}")
    console.print(table)
    for note in notes(found, split):
        _note(note)


def notes(found: Calibration, split: str) -> list[str]:
    """What a reader of the threshold should know, one sentence each."""
    shown = []
    if split == "validation":
        shown.append("the model was chosen on these classes, which may flatter the rates a little")
    if split in ("train", "all"):
        among = "" if split == "train" else ", if these are among them"
        shown.append(
            f"classes that the model was trained on lie farther apart than new ones: expect more false accepts{among}"
        )
    if found.wanted_far * found.different_pairs < _ENOUGH:
        shown.append(
            f"{found.different_pairs:,} pairs are few for a rate of {found.wanted_far:g}: want at least "
            f"{_ENOUGH / found.wanted_far:,.0f}, so take more images or a higher --far"
        )
    return shown


def show_test(images: Embeddings, found: Calibration, *, seed: int) -> None:
    """What the threshold is worth on the test split: over pairs, and as an open set."""
    console = Console()
    try:
        rates = pair_rates(images.embeddings, images.labels, found.threshold)
        scores = open_set(images.embeddings, images.labels, threshold=found.threshold, seed=seed)
    except DataError as error:
        _note(f"no open-set scores of the test split: {error}")
        return
    table = Table(title=f"the same threshold on test: {len(images):,} images")
    table.add_column("score")
    table.add_column("%", justify="right")
    table.add_column("95 % interval", justify="right")
    table.add_row("false accept rate of pairs", f"{100 * rates.far:.4g}", "")
    if rates.tar is not None:
        table.add_row("true accept rate of pairs", f"{100 * rates.tar:.2f}", "")
    for name, value, interval in _open_set_rows(scores):
        table.add_row(name, value, interval)
    console.print(table)
    _note(
        f"open set: {scores.known_classes} classes are known by {scores.gallery:,} images; {scores.known_queries:,} queries "
        f"are of them, {scores.unknown_queries:,} of {scores.unknown_classes} other classes. A query meets the whole gallery, so "
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
