"""`cosphere losses`: list the losses, show one, or time them on this machine."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count

import torch
from jsonargparse import Namespace
from rich.table import Table

from cosphere import losses
from cosphere._types import Device
from cosphere.checks import check_whole
from cosphere.cli import console
from cosphere.cli.parsing import CommandParser
from cosphere.errors import SettingsError, counted
from cosphere.losses.engine.document import GROUPS, loss_table_markdown

_EXAMPLES = [
    "cosphere losses",
    "cosphere losses multi_similarity",
    "cosphere losses --time --batch 1024 --dim 512",
    "cosphere losses triplet --time --device cuda",
]
_TIMING = ("batch", "dim", "per_class", "repeats", "threads", "device")


def parser() -> CommandParser:
    """The command's options."""
    made = CommandParser(
        "losses", "List the losses, show one in full, or time their forward and backward passes.", _EXAMPLES
    )
    made.add_argument("name", nargs="?", type=str, help="one loss to show in full, or to time")
    made.add_argument("--markdown", type=bool, default=False, help="print the table of docs/losses.md")
    made.add_argument(
        "--time", type=bool, default=False, help="time the losses, beside the bare matrix of similarities"
    )
    made.add_argument("--batch", type=int, default=1024, help="with --time: embeddings in the batch")
    made.add_argument("--dim", type=int, default=512, help="with --time: width of the embedding")
    made.add_argument("--per_class", type=int, default=4, help="with --time: embeddings of each class")
    made.add_argument("--repeats", type=int, default=10, help="with --time: maximum number of measurements of each")
    made.add_argument(
        "--threads",
        type=int | None,
        default=None,
        help="with --time: CPU threads; by default those that PyTorch chooses",
    )
    made.add_argument("--device", type=Device, default="auto", help="with --time: auto, cpu, cuda or mps")
    return made


def run(arguments: list[str]) -> int:
    """Print the loss table, one loss in full, or what the losses take on this machine."""
    given = parser().read(arguments)
    _check_together(given, parser().get_defaults())
    if given.time:
        _time(given)
    elif given.markdown:
        print(loss_table_markdown())
    elif given.name:
        _show_one(losses.about(given.name))
    else:
        _show_all(losses.table())
    return 0


def _check_together(given: Namespace, defaults: Namespace) -> None:
    if given.markdown and (given.time or given.name):
        raise SettingsError("--markdown prints the whole table; it goes with no name and not with --time.")
    alone = [name for name in _TIMING if given[name] != defaults[name]]
    if alone and not given.time:
        raise SettingsError(f"--{alone[0].replace('_', '-')} says how to measure; add --time.")


def _show_all(entries: list[losses.About]) -> None:
    for weights, title in GROUPS.items():
        table = Table(title=title.lower(), title_justify="left", show_lines=True, expand=True)
        table.add_column("name", no_wrap=True)
        table.add_column("a batch needs", overflow="fold", ratio=4)
        table.add_column("normalises", overflow="fold", ratio=3)
        table.add_column("when to choose it", overflow="fold", ratio=5)
        for entry in entries:
            if entry.uses_class_weights is weights:
                cells = (entry.name, entry.batch, entry.normalises, entry.choose_when)
                table.add_row(*map(console.plain, cells))
        console.show(table)
    console.line("cosphere losses NAME shows one in full; --time measures them here.")


def _show_one(entry: losses.About) -> None:
    table = Table(title=console.plain(entry.title), show_header=False)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for field in dataclasses.fields(entry):
        if field.name == "traits":  # of interest to tests
            continue
        table.add_row(field.name.replace("_", " "), console.plain(_as_text(getattr(entry, field.name))))
    console.show(table)


def _as_text(value: object) -> str:
    if isinstance(value, tuple):
        return "; ".join(map(_as_text, value)) or "none"
    if isinstance(value, dict):
        return ", ".join(f"{name}={default!r}" for name, default in value.items()) or "none"
    return {True: "yes", False: "no"}[value] if isinstance(value, bool) else str(value)


def _time(given: Namespace) -> None:
    from cosphere.experiment import choose_device  # loads the models, which the plain table does not need

    device = choose_device(given.device)
    names = [given.name] if given.name else [entry.name for entry in losses.table()]
    with _threads(given.threads), console.progress_bar("losses") as move:
        done = count()
        timings = losses.time_losses(
            names,
            batch=given.batch,
            dim=given.dim,
            per_class=given.per_class,
            device=device,
            repeats=given.repeats,
            progress=lambda _: move(next(done), len(names)),
        )
        threads = torch.get_num_threads()
    where = f"{device}, {threads} thread{'s' if threads > 1 else ''}" if device == "cpu" else device
    _show_times(timings, given, where=where)


@contextmanager
def _threads(threads: int | None) -> Iterator[None]:
    before = torch.get_num_threads()
    if threads is not None:
        torch.set_num_threads(check_whole("threads", threads, least=1, most=1024))
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _show_times(timings: list[losses.Timing], given: Namespace, *, where: str) -> None:
    memory = any(timing.extra_bytes is not None for timing in timings)
    table = console.table_of(
        f"forward and backward: {given.batch} x {given.dim}, {given.per_class} a class, float32, {where}",
        *("name", "ms", "x floor", *(["extra MB at peak"] if memory else []), "runs"),
    )
    table.columns[0].no_wrap = True
    for timing in timings:
        extra = [f"{timing.extra_bytes / 1e6:.1f}"] if memory and timing.extra_bytes is not None else []
        table.add_row(
            console.plain(timing.name + (f" ({counted(timing.classes, 'class')})" if timing.classes else "")),
            f"{timing.seconds * 1e3:.2f}",
            f"{timing.times_floor:.2f}",
            *extra,
            str(timing.repeats),
        )
    console.show(table)
    console.line(
        "The floor is forward and backward of (x @ x.T).sum(), measured in turn with each loss; times are medians. "
        "Losses with class weights have the batch's own classes."
    )
