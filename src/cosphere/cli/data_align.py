"""`cosphere data align`: the aligned faces of images, as a data set of faces."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from cosphere.cli import console
from cosphere.cli.data_convert import show
from cosphere.cli.options import add_source
from cosphere.cli.parsing import CommandParser
from cosphere.data import align_faces
from cosphere.errors import counted
from cosphere.images import load_detector

_EXAMPLES = [
    "cosphere data align photos/ faces/ --detector face_detection_yunet_2023mar.onnx",
    "cosphere data align photos/ faces.rec --detector scrfd_10g.onnx --faces all",
]


def parser() -> CommandParser:
    """The command's options."""
    made = CommandParser(
        "data align",
        "Find faces, align them by five points and write them as a folder, RecordIO file, zip archive or table. "
        "The detector is an .onnx file of yours; none is downloaded. After a kill, the same command goes on.",
        _EXAMPLES,
    )
    add_source(made)
    made.add_argument("target", type=str, help="a folder, or a name that ends with .rec, .zip, .csv, .tsv or .parquet")
    made.add_argument(
        "--detector", type=str, required=True, help="the .onnx file of YuNet or of SCRFD with five points"
    )
    made.add_argument(
        "--kind",
        type=Literal["auto", "yunet", "scrfd"],
        default="auto",
        help="what the detector is; auto: yunet where its name holds that word, otherwise scrfd",
    )
    made.add_argument("--threshold", type=float, default=0.6, help="least score of a face, above 0 and at most 1")
    made.add_argument(
        "--faces", type=Literal["largest", "all"], default="largest", help="which of several faces in an image"
    )
    made.add_argument("--height", type=int, default=112, help="height of an aligned face, in pixels")
    made.add_argument(
        "--width",
        type=int,
        default=112,
        help="its width; 96 is SphereFace's, but models here take square input: they stretch or crop it",
    )
    made.add_argument("--overwrite", type=bool, default=False, help="replace what is there")
    made.add_argument(
        "--max_unreadable",
        type=float,
        default=0.01,
        help="tolerated share of unreadable images, 0 to 1; they are left out",
    )
    return made


def run(arguments: list[str]) -> int:
    """Align, and say what was written and in how many images no face was found."""
    given = parser().read(arguments)
    detect = load_detector(given.detector, given.kind, threshold=given.threshold)
    with console.progress_bar("finding faces") as progress:
        result = align_faces(
            given.source,
            given.target,
            detect,
            faces=given.faces,
            size=(given.height, given.width),
            layout=given.layout,
            classes=given.classes or "top",
            overwrite=given.overwrite,
            max_unreadable=given.max_unreadable,
            about=f"{Path(given.detector).name} {given.kind} {given.threshold}",
            progress=progress,
        )
    if result.without:
        first = ", ".join(result.without[:3]) + (", ..." if len(result.without) > 3 else "")
        console.note(f"no face in {counted(len(result.without), 'image')}: {first}")
    if given.width != given.height:
        console.note(
            f"faces are {given.height} x {given.width} px, and models here take square input: --images.preset normsoftmax stretches "
            "them, sec and none crop them. Leave out --width and --height for training"
        )
    show(result)
    return 0
