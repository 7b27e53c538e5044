"""Section B: input that once ended in a crash or a false reason. One row for each input, with words of the right reason."""

from __future__ import annotations

import os
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from faults.making import class_folders, flat
from mean_colour import MeanColour

from cosphere.cli import main
from cosphere.data import check, make_batches, read_catalogue
from cosphere.embeddings import Embeddings, embed
from cosphere.errors import CosphereError
from cosphere.evaluate import EvaluationSettings, score_embeddings
from cosphere.images import read_image
from cosphere.losses import (
    ContrastiveLoss,
    CrossBatchMemory,
    FacilityLocationLoss,
    NormSoftmaxLoss,
    ProxyAnchorLoss,
    TripletLoss,
)
from cosphere.runs import provenance
from cosphere.train import TrainSettings

Act = Callable[[Path], object]


def not_utf8(root: Path, name: bytes = b"caf\xe9", *, file: bool = False) -> Path:
    class_folders(root, ["a", "b"])
    where = os.path.join(os.fsencode(root / "a" if file else root), name)  # noqa: PTH118
    if file:
        os.link(root / "a" / "0.png", where + b".png")
    else:
        os.mkdir(where)  # noqa: PTH102
        os.link(root / "a" / "0.png", os.path.join(where, b"0.png"))  # noqa: PTH118
    return root


def one_sequence(root: Path) -> object:
    images = Embeddings(
        embeddings=np.random.default_rng(0).normal(size=(12, 4)).astype(np.float32),
        labels=np.arange(12) // 3,
        paths=tuple(f"/{i}" for i in range(12)),
        class_names=tuple("abcd"),
        groups=np.zeros(12, dtype=np.int64),
    )
    return score_embeddings(images, EvaluationSettings(ks=(1,), clustering=False))


def sequences_of_a_class(root: Path) -> object:
    """Each class has one sequence, so a query leaves out all that it could find."""
    class_folders(root, "ab")
    frame = pd.DataFrame(
        {"path": [f"{c}/{i}.png" for c in "ab" for i in (0, 1)], "label": list("aabb"), "sequence": list("1122")}
    )
    catalogue = read_catalogue(frame, root=root)
    images = Embeddings(
        embeddings=np.eye(4, dtype=np.float32),
        labels=catalogue.labels,
        paths=tuple(catalogue.paths),
        class_names=("a", "b"),
        groups=np.array([1, 1, 2, 2]),
    )
    return score_embeddings(images, EvaluationSettings(ks=(1,), clustering=False))


def queries_without_their_class(root: Path) -> object:
    """Two classes of two images: one asked for, the other in the gallery."""
    class_folders(root, "ab")
    rows = [(f"{c}/{i}.png", c, c == "a", c == "b") for c in "ab" for i in (0, 1)]
    catalogue = read_catalogue(pd.DataFrame(rows, columns=["path", "label", "is_query", "is_gallery"]), root=root)
    return score_embeddings(embed(MeanColour(), catalogue), EvaluationSettings(ks=(1,), clustering=False))


def frame_of(column: str) -> Act:
    """A DataFrame with a name that is not UTF-8."""

    def read(root: Path) -> object:
        class_folders(root, "a")
        cells = {"path": ["a/0.png", "a/1.png"], "label": ["a", "a"], "sequence": ["1", "1"]}
        cells[column] = [cells[column][0], ODD]
        frame = pd.DataFrame({name: pd.Series(values, dtype=object) for name, values in cells.items()})
        return read_catalogue(frame, root=root)

    return read


def table_of(content: bytes) -> Act:
    def read(root: Path) -> object:
        (root / "list.csv").write_bytes(content)
        return read_catalogue(root / "list.csv")

    return read


def photos_with_a_table_without_labels(root: Path) -> object:
    """A flat folder whose table lacks only the name of a column."""
    flat(root / "a.png")
    (root / "list.csv").write_text("file;Product name\na.png;mug\n")
    return read_catalogue(root)


def one_image_each(root: Path) -> object:
    return make_batches("balanced", np.arange(9), 6, images_per_class=2)


def zip_of_odd_names(root: Path) -> object:
    """A whole archive whose names have the flag of UTF-8 and are not."""
    with zipfile.ZipFile(root / "z.zip", "w") as archive:
        archive.writestr("th\N{LATIN SMALL LETTER E WITH ACUTE}/0.png", b"x")
    content = (root / "z.zip").read_bytes()
    (root / "z.zip").write_bytes(content.replace("th\N{LATIN SMALL LETTER E WITH ACUTE}".encode(), b"th\xe9\xe9"))
    return read_catalogue(root / "z.zip")


def command(*words: str) -> Act:
    return lambda root: main([word.replace("ROOT", os.fsdecode(os.fsencode(root))) for word in words])


ODD = os.fsdecode(b"caf\xe9")
REASONS = [
    pytest.param(lambda root: read_catalogue(not_utf8(root)), "are not UTF-8, first .*caf", id="B1 folder"),
    pytest.param(lambda root: read_catalogue(not_utf8(root, file=True)), "are not UTF-8, first .*caf", id="B1 file"),
    pytest.param(lambda root: check(not_utf8(root, b"\xff\xfe")), "are not UTF-8", id="B1 check"),
    pytest.param(
        lambda root: read_catalogue(os.fsdecode(os.fsencode(root) + b"/caf\xe9")),
        "does not exist|not UTF-8",
        id="B1 source",
    ),
    pytest.param(one_sequence, "The groups of a table are its column sequence", id="B2 equal everywhere"),
    pytest.param(sequences_of_a_class, "column sequence", id="B2 one for each class"),
    pytest.param(queries_without_their_class, "gallery has none of that class. Check is_query", id="B2 another class"),
    *(
        pytest.param(
            frame_of(column), rf"column '{column}' has names that are not UTF-8 in row 1, first caf", id=f"B1 {column}"
        )
        for column in ("path", "label", "sequence")
    ),
    pytest.param(
        photos_with_a_table_without_labels,
        "list.csv has no column 'label'; it has file, Product name",
        id="C4 no label",
    ),
    pytest.param(one_image_each, "no class has 2 images.*one label", id="C1 one image a class"),
    *(
        pytest.param(
            lambda _, name=name: TrainSettings().with_values({name: ODD}),
            f"{name} is caf.xe9, which is not UTF-8",
            id=f"B1 {name}",
        )
        for name in ("model.backbone", "loss.name", "data.root")
    ),
    pytest.param(zip_of_odd_names, "z.zip has names that are marked as UTF-8 and are not", id="B1 a zip"),
    *(
        pytest.param(table_of(content), f"list.csv {words}", id=f"C4 {name}")
        for name, content, words in (
            (
                "Shift-JIS",
                "path,label\n\u30fc.png,x\n".encode("shift-jis"),
                "cannot .* it is not UTF-8, UTF-16 or Windows-1252",
            ),
            (
                "GBK",
                b"path,label\na.png,\x81\x40\n",
                "cannot .*: it is not UTF-8, UTF-16 or Windows-1252. Save it as UTF-8",
            ),
            ("half of UTF-16", b"\xff\xfep\0a\0t", "cannot be read as a table: it begins as UTF-16 and is not"),
            ("quoted lines", b'"path,label"\n"a/0.png,a"\n', "has its whole first line .* quotes around whole lines"),
            ("quoted lines without a header", b'"a/0.png,a"\n"a/1.png,a"\n', "has its whole first line"),
        )
    ),
    pytest.param(
        lambda _: CrossBatchMemory(FacilityLocationLoss(), 8),
        "FacilityLocationLoss. This one takes no references",
        id="B3",
    ),
    pytest.param(
        lambda _: CrossBatchMemory(NormSoftmaxLoss(4, 8), 8), "class weights see all classes", id="B3 class weights"
    ),
    pytest.param(
        lambda root: read_image(flat(root / "x.png").parent), "is a folder, not an image", id="B1 a folder as a picture"
    ),
]


@pytest.mark.parametrize(("act", "words"), REASONS)
def test_the_true_reason(act: Act, words: str, tmp_path: Path) -> None:
    with pytest.raises(CosphereError, match=words):
        act(tmp_path)


ODD_FOLDERS = [
    pytest.param(["train", "DATA", "--runs", f"TMP/{ODD}"], id="B1 runs"),
    pytest.param(["train", "DATA", "--runs", f"TMP/{ODD}", "--name", "x"], id="B1 a named run"),
    pytest.param(["train", "DATA", "--name", ODD, "--runs", "TMP"], id="B1 the name of a run"),
    *(
        pytest.param(["data", "convert", "DATA", f"TMP/{ODD}{suffix}"], id=f"B1 convert {suffix}")
        for suffix in ("", ".zip", ".rec", ".csv")
    ),
    pytest.param(["evaluate", f"LINK/{ODD}", "DATA"], id="B1 evaluate"),
    pytest.param(["search", f"LINK/{ODD}", "DATA", "DATA/test/u/0.png"], id="B1 search"),
    pytest.param(["train", "DATA", "--model.weights", f"LINK/{ODD}", "--runs", "TMP"], id="B1 weights"),
]


@pytest.mark.parametrize("words", ODD_FOLDERS)
def test_a_run_whose_name_is_not_utf8_is_no_damaged_one(
    words: list[str], run: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "links").mkdir()
    os.symlink(os.fsencode(run), os.path.join(os.fsencode(tmp_path / "links"), b"caf\xe9"))  # noqa: PTH118, PTH211
    for name, place in {"DATA": data, "LINK": tmp_path / "links", "TMP": tmp_path}.items():
        words = [word.replace(name, str(place)) for word in words]
    assert main(words) == 2
    shown = capsys.readouterr().err.strip().splitlines()[-1]
    assert "caf\\xe9" in shown
    assert "is not UTF-8" in shown
    assert [path.name for path in tmp_path.iterdir()] == ["links"]


def test_a_command_of_odd_bytes_is_kept_readable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["cosphere", "train", f"--about={ODD}", "\x1b[31m"])
    assert provenance()["command"].encode() == b"cosphere train --about=caf\\udce9 \\x1b[31m"


@pytest.mark.parametrize("cells", [[1e20, 1e20, None], [7.0, None, 8.0], [float("inf"), 1.0, 2.0]])
def test_labels_of_a_frame_that_are_floats(cells: list[Any], tmp_path: Path) -> None:
    """Whole numbers as they are, also beyond 64 bits."""
    class_folders(tmp_path, "a", images=3)
    frame = pd.DataFrame({"path": [f"a/{i}.png" for i in range(3)], "label": cells})
    labels = read_catalogue(frame, root=tmp_path, labels="optional").table["label"].tolist()
    plain = [cell for cell in cells if cell is not None]
    text = [f"{cell:.0f}" for cell in plain] if 1e20 not in plain else list(map(str, plain))
    assert labels == [text.pop(0) if cell is not None else "" for cell in cells]


@pytest.mark.parametrize("verb", [["train"], ["data", "check"], ["embed"], ["search"]])
def test_no_command_has_a_traceback_for_odd_names(
    verb: list[str], run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = str(not_utf8(tmp_path / "photos"))
    words = {"embed": [str(run), source, "--out", str(tmp_path / "x.npz")], "search": [str(run), source, "x.png"]}
    assert main([*verb, *words.get(verb[-1], [source])]) == 2
    shown = capsys.readouterr().err
    assert "are not UTF-8" in shown
    assert len(shown.strip().splitlines()) == 1


LABELS_NEEDED = [
    NormSoftmaxLoss(4, 4),
    ProxyAnchorLoss(4, 4),
    FacilityLocationLoss(),
    CrossBatchMemory(TripletLoss(), 4),
]


@pytest.mark.parametrize("loss", LABELS_NEEDED, ids=lambda loss: type(loss).__name__)
def test_a_loss_without_pairs_names_the_miner_or_the_labels(loss: torch.nn.Module) -> None:
    """B4: not that ``forward`` misses an argument."""
    rows, pair = torch.randn(6, 4), (torch.tensor([0]), torch.tensor([1]), torch.tensor([4]))
    with pytest.raises(CosphereError, match=r"miner"):
        loss(rows, indices_tuple=pair)
    with pytest.raises(CosphereError, match=r"labels are missing\. Give labels="):
        loss(rows)


@pytest.mark.parametrize("loss", [TripletLoss(), ContrastiveLoss()])
def test_labels_are_not_needed_with_tuples(loss: torch.nn.Module) -> None:
    """B4: as in pytorch-metric-learning, ``loss(embeddings, indices_tuple=t)``."""
    rows = torch.randn(6, 4, generator=torch.Generator().manual_seed(0))
    labels = torch.tensor([0, 0, 1, 1, 2, 2])
    tuples = (torch.tensor([0, 2]), torch.tensor([1, 3]), torch.tensor([4, 4]))
    assert loss(rows, indices_tuple=tuples) == loss(rows, labels, indices_tuple=tuples)
