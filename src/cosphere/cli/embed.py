"""`cosphere embed`: the embeddings of images, in a file that numpy, pandas or faiss reads."""

from __future__ import annotations

from pathlib import Path

from cosphere.cli import console
from cosphere.cli.options import add_embedding, add_precision, add_source, add_split, embedding_options
from cosphere.cli.parsing import CommandParser
from cosphere.errors import SettingsError, counted
from cosphere.experiment import embed_images
from cosphere.experiment.outputs import check_output

_EXAMPLES = [
    "cosphere embed runs/first photos/ --out photos.npz",
    "cosphere embed runs/first/model photos/ --split test --out test.npz",
    "cosphere embed runs/first photos/ --out photos.npz --fast true --precision bf16",
]


def parser() -> CommandParser:
    """The command's options."""
    made = CommandParser(
        "embed",
        "Write the raw embeddings of images to an .npz file: embeddings (N, D) float32, labels, paths, class_names.",
        _EXAMPLES,
    )
    made.add_argument("model", type=str, help="a run's folder or a model bundle")
    add_source(made)
    made.add_argument("--out", type=str, required=True, help="the .npz file to write")
    add_split(made, default="all", without="by default all")
    add_embedding(made)
    add_precision(made)
    made.add_argument(
        "--fast",
        type=bool,
        default=False,
        help="embed with batch norm folded into the convolutions where that is faster; rows differ by rounding and are not "
        "kept for evaluations",
    )
    return made


def run(arguments: list[str]) -> int:
    """Write one .npz with raw embeddings, labels, paths and class names."""
    given = parser().read(arguments)
    check_output(given.out, source=given.source, model=given.model, replaces=(".npz",))
    if Path(given.out).suffix.lower() != ".npz":
        raise SettingsError(
            f"--out is an .npz file, got {given.out!r}. For a table, put the images into a gallery and use `cosphere index export`."
        )
    embeddings = embed_images(
        given.model,
        given.source,
        split=given.split,
        layout=given.layout,
        classes=given.classes,
        **embedding_options(given),
        fast=given.fast,
        precision=given.precision,
        listener=console.ConsoleListener(),
    )
    embeddings.save(Path(given.out))
    count, width = embeddings.embeddings.shape
    console.line(f"{counted(count, 'embedding')} of width {width} in {given.out}")
    for _, reason in embeddings.skipped[:3]:
        console.note(f"left out: {reason}")
    return 0
