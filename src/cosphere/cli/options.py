"""Options that several commands share, each declared once."""

from __future__ import annotations

from typing import Any, Literal

from jsonargparse import Namespace

from cosphere._types import Device, Precision
from cosphere.cli.parsing import CommandParser


def add_source(parser: CommandParser, *, optional: str = "", also: str = "") -> None:
    """The images: a positional word, ``--layout`` and ``--classes``.

    Args:
        parser: of the command.
        optional: what happens without it; empty where it is required.
        also: what else it may be; empty for nothing.
    """
    what = "image folder, table or benchmark root" + (f", or {also}" if also else "")
    if optional:
        parser.add_argument("source", nargs="?", type=str, help=f"{what}; {optional}")
    else:
        parser.add_argument("source", type=str, help=what)
    parser.add_argument("--layout", type=str, default="auto", help="layout of the source")
    parser.add_argument(
        "--classes",
        type=Literal["top", "leaf"] | None,
        default=None,
        help="class of an image in nested folders: top, or leaf, the folder that contains it",
    )


def add_split(parser: CommandParser, *, default: str | None, without: str) -> None:
    """``--split``: the images of a split, ``val`` for the validation images, ``all`` for every image.

    Args:
        parser: of the command.
        default: the split without the option; None leaves the choice to the library.
        without: what happens without it, in words.
    """
    parser.add_argument(
        "--split",
        type=str | None,
        default=default,
        help=f"split to use: train, val (the validation images), test, another of the data, or all; {without}",
    )


def add_embedding(parser: CommandParser) -> None:
    """Where and how to run the model."""
    parser.add_argument("--device", type=Device, default="auto", help="auto, cpu, cuda or mps")
    parser.add_argument("--batch_size", type=int, default=64, help="images that are read together")
    parser.add_argument("--workers", type=int, default=0, help="processes that decode images")
    parser.add_argument(
        "--max_unreadable",
        type=float | None,
        default=None,
        help="tolerated share of unreadable images, 0 to 1; by default that of the run's data.max_unreadable",
    )


def add_precision(parser: CommandParser) -> None:
    """``--precision`` of what embeds many images."""
    parser.add_argument(
        "--precision",
        type=Precision,
        default="float32",
        help="number format that the network computes in; bf16 is faster on processors that have it, and rows differ slightly from "
        "those of float32",
    )


def embedding_options(given: Namespace) -> dict[str, Any]:
    """What :func:`add_embedding` declared, as arguments of the library."""
    return {name: given[name] for name in ("device", "batch_size", "workers", "max_unreadable")}


def add_seed(parser: CommandParser, what: str) -> None:
    """``--seed``: of ``what``."""
    parser.add_argument("--seed", type=int, default=0, help=f"seed of {what}")
