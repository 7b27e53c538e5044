"""Section F: hostile and careless input, and machines that die. One row for each input, with words of the answer."""

from __future__ import annotations

import base64
import contextlib
import errno
import hashlib
import io
import os
import shutil
import sqlite3
import subprocess
import sys
import time
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from faults.making import class_folders, flat
from PIL import Image

from cosphere.cli import main
from cosphere.cli.search import FORMATS, write_strip
from cosphere.data import check, convert, read_catalogue, read_lfw_people, read_megaface_feature, read_template_media
from cosphere.data.patches import undo_patch
from cosphere.data.table_files import load_table
from cosphere.data.text_lists import read_lines
from cosphere.embeddings import Embeddings
from cosphere.embeddings import embed as embed_catalogue
from cosphere.errors import CosphereError, RunError, escaped
from cosphere.evaluate import EvaluationSettings, calibrate, likely_mislabelled, retrieval
from cosphere.evaluate.probes import linear_probe
from cosphere.experiment import calibrate_run, calibrating, embed_images
from cosphere.experiment.class_tables import as_csv
from cosphere.experiment.outputs import check_output, check_pictures
from cosphere.files import read_arrays, read_json, read_yaml, write_json
from cosphere.images import load_detector, read_image
from cosphere.losses import CrossBatchMemory, TripletLoss
from cosphere.losses.timing import time_losses
from cosphere.models import Embedder, EmbedderSettings
from cosphere.runs import RunFolder
from cosphere.search import Gallery, Index
from cosphere.train import TrainSettings

fcntl: Any
try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

Act = Callable[[Path], object]
ROWS, LABELS = np.random.default_rng(0).normal(size=(12, 4)).astype(np.float32), np.arange(12) // 3
HUGE = 10**30


def setting(**values: Any) -> Act:
    return lambda _: TrainSettings().with_values({name.replace("__", "."): value for name, value in values.items()})


def file_of(content: str | bytes, read: Callable[[Path], object], name: str = "x.yaml") -> Act:
    def act(root: Path) -> object:
        (root / name).write_bytes(content.encode() if isinstance(content, str) else content)
        return read(root / name)

    return act


def arrays(**content: Any) -> Act:
    def act(root: Path) -> object:
        np.savez(root / "x.npz", **content)
        return Embeddings.load(root / "x.npz")

    return act


ALIASES = "a: &a [x, x]\n" + "".join(
    f"{chr(98 + i)}: &{chr(98 + i)} [*{chr(97 + i)}, *{chr(97 + i)}]\n" for i in range(20)
)
SIZES = {
    **dict.fromkeys(("model__dim", "data__workers", "batch__accumulate", "batch__views", "batch__neighbours"), 10**9),
    **dict.fromkeys(("images__size", "images__resize", "batch__size", "loss__memory", "steps", "log_every"), 10**12),
    "seed": 10**12,
}
NUMBERS = {
    "resamples": lambda: EvaluationSettings(bootstrap_samples=10**12),
    "working memory": lambda: EvaluationSettings(block_bytes=10**20),
    "seed of an evaluation": lambda: EvaluationSettings(seed=HUGE),
    "K": lambda: retrieval(ROWS, LABELS, ks=(HUGE,)),
    "resamples of a threshold": lambda: calibrate(ROWS, LABELS, 0.1, samples=HUGE),
    "neighbours that vote": lambda: likely_mislabelled(ROWS, LABELS, top=0),
    "epochs of a probe": lambda: linear_probe(ROWS, LABELS, ROWS, LABELS, epochs=HUGE),
    "rows of a memory": lambda: CrossBatchMemory(TripletLoss(), 4, size=10**15),
    "width of a model": lambda: EmbedderSettings(dim=HUGE),
    "width of a timed batch": lambda: time_losses(["triplet"], batch=10**9),
    "neighbours of an index": lambda: Index.build(ROWS).search(ROWS, k=-1),
    "no neighbours": lambda: Index.build(ROWS, "rerank").search(ROWS, k=0),
    "more neighbours than rows": lambda: Index.build(ROWS, "rerank").search(ROWS, k=HUGE),
}
LEFT_EMPTY = (
    "freeze_norm",
    "optimizer__decay_bias",
    "channels_last",
    "model__bias",
    "log_every",
    "images",
    "seed",
    "loss__name",
)
SETTINGS = [
    *(pytest.param(setting(**{name: None}), "is left empty", id=f"F4 {name}") for name in LEFT_EMPTY),
    *(pytest.param(setting(**{name: value}), "whole number from", id=f"F13 {name}") for name, value in SIZES.items()),
    *(pytest.param(setting(**{name: HUGE}), "whole number from", id=f"F13 {name}, 10^30") for name in SIZES),
    *(pytest.param(lambda _, act=act: act(), ".", id=f"F13 {name}") for name, act in NUMBERS.items()),
    *(
        pytest.param(setting(**{name: value}), "finite|whole|above|wanted", id=f"F17 {name} {value}")
        for name in ("schedule__gamma", "optimizer__backbone_rate", "sec__weight", "optimizer__clip_norm")
        for value in (-1, float("nan"), float("inf"), ".nan", 10**400)
    ),
    pytest.param(setting(seed=-1), "seed must be a whole number from 0", id="low seed -1"),
]


def linked_to_itself(root: Path) -> Path:
    class_folders(root, "ab")
    (root / "a" / "loop.png").symlink_to(root / "a" / "loop.png")
    return root


def odd_weights(root: Path, run: Path) -> Embedder:
    model = Embedder.load(run)
    with torch.no_grad():
        next(model.head.parameters()).fill_(float("nan"))
    return model


FILES = [
    pytest.param(file_of(ALIASES, lambda p: read_yaml(p, what="settings")), "aliases", id="F13 nested aliases"),
    pytest.param(
        file_of("a: caf\xe9".encode("latin-1"), lambda p: read_yaml(p, what="settings")),
        "cannot read",
        id="F13 Latin-1",
    ),
    pytest.param(file_of("steps: " + "9" * 5000, TrainSettings.read), "cannot read|whole number", id="F13 5000 digits"),
    pytest.param(file_of("steps: 1e999", TrainSettings.read), "steps is", id="F13 1e999"),
    pytest.param(file_of("[" * 2000, lambda p: read_yaml(p, what="settings")), "cannot read", id="F13 deep lists"),
    pytest.param(file_of("- a\n- b\n", lambda p: read_yaml(p, what="settings")), "holds a list", id="F13 a list"),
    pytest.param(
        file_of("a: 1\n...\n--- !!python/object/apply:os.system [ls]", TrainSettings.read), "cannot read", id="F13 code"
    ),
    pytest.param(file_of("\0\0", lambda p: read_json(p, what="a bundle")), "is not a bundle", id="F19 no JSON"),
    pytest.param(
        file_of("[" * 100_000, lambda p: read_json(p, what="a bundle")), "is not a bundle", id="F19 deep JSON"
    ),
    pytest.param(
        file_of(b"PK\3\4 cut off", lambda p: read_arrays(p, what="an index")), "is not an index", id="F19 cut off"
    ),
    pytest.param(arrays(embeddings=np.array([{}])), "pickled objects", id="F19 pickled"),
    pytest.param(arrays(embeddings=ROWS), "has no labels", id="F19 parts are missing"),
    pytest.param(
        arrays(embeddings=ROWS, labels=LABELS + 9, paths=LABELS.astype(str), class_names=["a"]),
        "label",
        id="F19 labels",
    ),
    pytest.param(
        arrays(embeddings=ROWS[:0], labels=LABELS[:0], paths=np.array([], str), class_names=np.array([], str)),
        "holds no image",
        id="F19 no image",
    ),
    pytest.param(
        arrays(embeddings=ROWS[0], labels=LABELS, paths=LABELS.astype(str), class_names=list("abcd")),
        ".",
        id="F19 one row",
    ),
    pytest.param(
        arrays(embeddings=ROWS.astype(str), labels=LABELS, paths=LABELS.astype(str), class_names=list("abcd")),
        ".",
        id="F19 text for numbers",
    ),
    pytest.param(
        arrays(embeddings=ROWS, labels=LABELS[:3], paths=LABELS.astype(str), class_names=list("abcd")),
        ".",
        id="F19 short labels",
    ),
]


def record_file(root: Path, index: bytes, records: bytes) -> Path:
    (root / "train.idx").write_bytes(index)
    (root / "train.rec").write_bytes(records)
    return root / "train.rec"


MANY_LONG_NUMBERS = b"".join(
    (
        b"\x80\x02(cnumpy.core.numeric\n_frombuffer\n(U\x01xcnumpy\ndtype\n(U\x02u1tR(",
        b"\x8a\xff" + b"\x7f" * 255 + b"q\0" + b"h\0" * 1_000_000,
        b"ttRl(\x88l\x86.",
    )
)
"""A pickle of an array with a million dimensions, each a number of 2040 bits."""
FACES = [
    pytest.param(
        file_of(b"\x80\x02cos\nsystem\n.", lambda p: check(p), "lfw.bin"), "could run code", id="a .bin that runs code"
    ),
    pytest.param(
        file_of(b"\x80\x04\x8e" + b"\xff" * 7 + b"\x7f.", lambda p: check(p), "lfw.bin"),
        "is cut off",
        id="a .bin that claims 2^63 bytes",
    ),
    pytest.param(
        file_of(b"\x80\x02" + b"]" * 9999 + b".", lambda p: check(p), "lfw.bin"), "two lists", id="deep lists in a .bin"
    ),
    pytest.param(
        file_of(MANY_LONG_NUMBERS, lambda p: check(p), "lfw.bin"),
        "an array has no shape",
        id="a .bin of a long product",
    ),
    pytest.param(
        lambda root: check(record_file(root, b"7\t12\n", b"\0" * 99)),
        "1 entry of its index points to no record",
        id="an index of wrong places",
    ),
    pytest.param(
        lambda root: check(record_file(root, b"7\t999999999999\n", b"\0" * 99)),
        "points behind its end",
        id="an index beyond the file",
    ),
    pytest.param(
        lambda root: check(record_file(root, b"0\t0\n", b"\x0a\x23\xd7\xce\xff\xff\xff\x1f")),
        "more than",
        id="a record that claims 512 MB",
    ),
    pytest.param(
        lambda root: convert(class_folders(root / "in", "ab"), root / "in" / "out"),
        "lies among the images",
        id="F16 a conversion into its source",
    ),
    pytest.param(
        lambda root: convert(class_folders(root / "in", "ab"), class_folders(root / "out", "c"), overwrite=True),
        "holds more than a conversion wrote",
        id="F16 a conversion over photos",
    ),
    pytest.param(
        lambda root: load_detector(record_file(root, b"", b"")), "cannot be used as", id="a detector that is none"
    ),
    pytest.param(
        file_of("1\n../../x\t1\n", read_lfw_people, "people.txt"), "is a path, not a name", id="a person who is a path"
    ),
    pytest.param(
        file_of("../../x.jpg 1 1\n", read_template_media, "tid.txt"),
        "leaves the folder",
        id="an IJB image that is a path",
    ),
    pytest.param(
        file_of(b"\xff\xff\xff\x7f\1\0\0\0\4\0\0\0\5\0\0\0", read_megaface_feature, "x.bin"),
        "is not a feature",
        id="a feature that claims 8 GB",
    ),
]


def long_name(root: Path) -> Path:
    return root / ("x" * 300)


PLACES = [
    pytest.param(
        lambda root: read_image(linked_to_itself(root) / "a" / "loop.png"),
        "cannot be opened",
        id="F10 a link to itself",
    ),
    pytest.param(lambda root: read_image(long_name(root)), "cannot be opened", id="F10 a long name"),
    pytest.param(lambda root: read_catalogue(long_name(root)), "cannot be read", id="F10 a long source"),
    pytest.param(lambda root: read_catalogue(root / "a\0b"), ".", id="F10 a zero byte"),
    pytest.param(lambda root: RunFolder.open(long_name(root)), ".", id="F10 a long run"),
    pytest.param(lambda root: RunFolder.create(long_name(root)), "cannot be read or written", id="F10 a long new run"),
    pytest.param(lambda root: Embedder.load(long_name(root)), ".", id="F10 a long model"),
    pytest.param(
        lambda root: TrainSettings.read(long_name(root)),
        "cannot be read or written: File name too long",
        id="F10 a long recipe",
    ),
    pytest.param(lambda root: check_output(root), "is a folder", id="F16 a folder"),
    pytest.param(lambda root: check_output(flat(root / "q.png"), inputs=[root / "q.png"]), "is read", id="F16 a query"),
    pytest.param(
        lambda root: check_output(flat(root / "in" / "q.png"), source=root / "in"),
        "among the images",
        id="F16 an image",
    ),
    pytest.param(
        lambda root: check_output(
            (root / "l.png", (root / "l.png").symlink_to(flat(root / "q.png")))[0], inputs=[root / "q.png"]
        ),
        "is read",
        id="F16 a link to a query",
    ),
]


def few_bytes(name: str) -> Act:
    """Files of a few kilobytes that stand for a gigabyte."""

    def act(root: Path) -> object:
        if name == "x.parquet":
            pyarrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
            column = pyarrow.DictionaryArray.from_arrays(np.zeros(2_000_000, np.int8), ["a/0.png"])
            parquet.write_table(pyarrow.table({"path": column, "label": column}), root / name)
            return read_catalogue(root / name)
        with (
            zipfile.ZipFile(root / name, "w", zipfile.ZIP_DEFLATED) as archive,
            archive.open("embeddings.npy", "w", force_zip64=True) as file,
        ):
            np.lib.format.write_array_header_1_0(
                file, {"descr": "<f4", "fortran_order": False, "shape": (75_000_000, 1)}
            )
            for _ in range(300):
                file.write(bytes(1_000_000))
        return Embeddings.load(root / name)

    return act


def stranger_record(root: Path, /, **content: Any) -> object:
    """Undo what a record says that came with a stranger's patch."""
    written = {"version": 1, "before": base64.b64encode(zlib.compress(b"evil")).decode()}
    digests = {"before_sha256": hashlib.sha256(b"evil").hexdigest(), "after_sha256": content.pop("after", "")}
    write_json(root / "patch.csv.applied.json", written | digests | content)
    (root / "notes.txt").write_text("mine")
    (root / "key").write_text("mine")
    try:
        return undo_patch(root / "patch.csv")
    finally:
        kept = {path.name: path.read_text() for path in root.iterdir() if path.name in ("new.csv", "notes.txt", "key")}
        assert kept == {"notes.txt": "mine", "key": "mine"}


MINE = hashlib.sha256(b"mine").hexdigest()
RECORDS = [
    pytest.param(
        lambda root: stranger_record(root, kind="table", table=str(root / "new.csv")),
        "new.csv is gone",
        id="F16 a record of a table that is not there",
    ),
    pytest.param(
        lambda root: stranger_record(root, kind="table", table=str(root / "key"), after=MINE),
        "which is no table",
        id="F16 a record of another file",
    ),
    pytest.param(
        lambda root: stranger_record(root, kind="folders", root=str(root), moves=[["a/key", "key"]]),
        "names files that are no images",
        id="F16 a record that moves other files",
    ),
]


def gallery_with(statement: str) -> Act:
    """A gallery whose file a stranger has changed so that reading or writing it computes without end."""

    def act(root: Path) -> object:
        with Gallery.create(root / "g", dim=4) as made:
            made.add(ROWS, [f"row{row}" for row in range(12)])
        connection = sqlite3.connect(root / "g" / "gallery.sqlite")
        connection.executescript(statement)
        connection.commit()
        connection.close()
        with Gallery.open(root / "g") as opened:
            return opened.add(ROWS, [f"more{row}" for row in range(12)])

    return act


ENDLESS = "WITH RECURSIVE c(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM c) SELECT x AS content, x AS digest FROM c"
RECORDS += [
    pytest.param(
        gallery_with(f"ALTER TABLE state RENAME TO old;CREATE VIEW state AS {ENDLESS}"),
        "holds a view 'state'",
        id="a gallery whose table is a view without end",
    ),
    pytest.param(
        gallery_with(f"CREATE TRIGGER evil AFTER INSERT ON item BEGIN SELECT max(content) FROM ({ENDLESS}); END"),
        "holds a trigger 'evil'",
        id="a gallery with a trigger without end",
    ),
]
BOMBS = [
    pytest.param(few_bytes("x.npz"), "unpacks to 300,000,128 bytes", id="F18 an .npz of zeros"),
    pytest.param(few_bytes("x.parquet"), "stands for 2,000,000 rows", id="F18 a Parquet file of one row, repeated"),
]


@pytest.mark.parametrize(("act", "words"), [*SETTINGS, *FILES, *FACES, *PLACES, *RECORDS, *BOMBS])
def test_one_sentence(act: Act, words: str, tmp_path: Path) -> None:
    with pytest.raises(CosphereError, match=words) as caught:
        act(tmp_path)
    assert "weights_only" not in str(caught.value)
    assert "allow_pickle" not in str(caught.value)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes on Windows")
@pytest.mark.parametrize("name", ["list.csv", "list.tsv", "x.parquet", "search.png", "a/search.png", "x.zip", "x.txt"])
def test_a_pipe_among_the_images_is_not_waited_for(name: str, tmp_path: Path) -> None:
    """F10: an archive can hold one, and opening it waits for whoever writes it."""
    class_folders(tmp_path, "ab")
    os.mkfifo(tmp_path / name)
    there = 5 if name == "a/search.png" else 4
    assert len(read_catalogue(tmp_path)) == there
    assert check(tmp_path).images == there


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes on Windows")
@pytest.mark.parametrize(
    "read",
    [
        load_table,
        Embeddings.load,
        lambda path: read_json(path, what="a bundle"),
        lambda path: read_yaml(path, what="settings"),
        read_lines,
    ],
)
def test_a_pipe_is_no_file(read: Act, tmp_path: Path) -> None:
    """F10."""
    os.mkfifo(tmp_path / "x.csv")
    with pytest.raises(CosphereError, match="is a pipe or a device, no file"):
        read(tmp_path / "x.csv")


@pytest.mark.parametrize(
    "label", ["[" + "1 " * 50_000, "('a','b'," * 12_000, "[" + "," * 100_000, "{" + "',  '" * 20_000]
)
def test_a_long_label_is_read_at_once(label: str, tmp_path: Path) -> None:
    """F13: what looks for several labels in one cell took the square of its length, minutes for one cell."""
    class_folders(tmp_path, "ab")
    frame = pd.DataFrame({"path": ["a/0.png", "b/0.png"], "label": [label, "b"]})
    began = time.monotonic()
    assert len(read_catalogue(frame, root=tmp_path).label_names) == 2
    assert time.monotonic() - began < 2


def test_a_wide_table_is_read_at_once(tmp_path: Path) -> None:
    """F13: a minute for 60 000 empty columns, which spreadsheets write where somebody formatted all of them."""
    class_folders(tmp_path, "ab")
    lines = ["path,label", *(f"{label}/{image}.png,x{label}" for label in "ab" for image in (0, 1))]
    (tmp_path / "t.csv").write_text("".join(f"{line}{',' * 60_000}\n" for line in lines))
    began = time.monotonic()
    assert read_catalogue(tmp_path).label_names == ["xa", "xb"]
    assert time.monotonic() - began < 10


def test_a_link_to_itself_is_a_counted_skip(tmp_path: Path) -> None:
    """F10: one picture that cannot be read stops neither the list nor the check."""
    report = check(linked_to_itself(tmp_path))
    assert report.images == 5
    assert [path for path, _ in report.unreadable] == ["a/loop.png"]


# Through the command line: rc 2, one line, nothing written outside and nothing replaced.

NEEDED = ("model/model.safetensors", "model/bundle.json", "run.json", "config.yaml", "metrics.jsonl", ".lock")


@pytest.mark.parametrize("name", NEEDED)
def test_no_file_of_a_run_is_an_output(name: str, run: Path) -> None:
    """F16: each command below calls this once."""
    with pytest.raises(CosphereError, match="would replace a file of"):
        check_output(run / name)


COMMANDS = [
    pytest.param(["embed", "RUN", "DATA", "--out", "RUN/model/bundle.json"], "would replace", id="F16 embed"),
    pytest.param(["report", "RUN", "--out", "RUN/config.yaml"], "would replace", id="F16 report"),
    pytest.param(["data", "check", "DATA", "--json", "RUN/run.json"], "would replace", id="F16 check"),
    pytest.param(
        ["data", "check", "DATA", "--json", "DATA/train/a/0.png"], "among the images", id="F16 check an image"
    ),
    pytest.param(
        ["data", "check", "TMP/list.csv", "--json", "TMP/list.csv"], "among the images", id="F16 check its table"
    ),
    pytest.param(["embed", "RUN", "DATA", "--out", "DATA/train/a/0.png"], "among the images", id="F16 embed an image"),
    pytest.param(
        ["embed", "RUN", "TMP/list.csv", "--out", "DATA/train/a/0.png"], "is there already", id="F16 embed a row"
    ),
    pytest.param(
        ["data", "check", "TMP/list.csv", "--json", "DATA/train/a/0.png"], "is there already", id="F16 check a row"
    ),
    pytest.param(["report", "RUN", "--out", "DATA/train/a/0.png"], "is there already", id="F16 report into an image"),
    *(
        pytest.param([*words, "--out", f"TMP/{name}.png"], f"{name}{number}.png is {what}", id=f"F16 {words[0]} {name}")
        for words in (["search", "RUN", "TMP/list.csv"], ["index", "search", "TMP/no.gallery"])
        for name, number, what in (("q", "-1", "read by"), ("photo", "-2", "a file that no search wrote"))
        for words in ([*words, "TMP/q-1.png", "TMP/q-2.png"],)
    ),
    pytest.param(
        ["search", "RUN", "TMP/photos", "TMP/q-1.png", "TMP/q-2.png", "--out", "TMP/photos/a/z.png"],
        "z-1.png is read by",
        id="F16 a numbered name among the images",
    ),
    pytest.param(
        ["search", "RUN", "TMP/list.csv", "TMP/q-1.png", "--out", "DATA/train/a/0.png"],
        "no search wrote",
        id="F16 search a row",
    ),
    pytest.param(["compare", "RUN", "RUN2", "--out", "RUN"], "is a run", id="F16 compare into a run"),
    pytest.param(["compare", "RUN", "RUN2", "--out", "RUN/model"], "would replace", id="F16 compare into a model"),
    pytest.param(["compare", "RUN", "RUN2", "--out", "TMP/list.csv"], "is a file", id="F16 compare into a file"),
    pytest.param(["train", "DATA", "--config", "TMP/aliases.yaml"], "aliases", id="F13 aliases in a recipe"),
    pytest.param(["train", "DATA", "--config", "TMP/latin.yaml"], "cannot read", id="F13 a Latin-1 recipe"),
    pytest.param(["train", "DATA", "--config", "TMP/digits.yaml"], ".", id="F13 a recipe of digits"),
    pytest.param(["train", "DATA", "--steps", "9" * 5000], ".", id="F13 5000 digits"),
    pytest.param(["train", "DATA", "--model.dim", "9" * 30], "from 0 to 65536", id="F13 a wide model"),
    pytest.param(["evaluate", "RUN", "--ks", f"[{'9' * 30}]"], ".", id="F13 a large K"),
    pytest.param(["evaluate", "RUN", "--bootstrap_samples", "9" * 12], "from 0 to 1000000", id="F13 many resamples"),
    pytest.param(["evaluate", "RUN", "--workers", "9" * 9], "from 0 to 256", id="F13 many workers"),
    pytest.param(["evaluate", "RUN", "--batch_size", "9" * 12], "from 1 to 1000000", id="F13 a large batch"),
    pytest.param(["losses", "--time", "--batch", "9" * 9], "from 1 to 65536", id="F13 a timed batch"),
    pytest.param(["losses", "--time", "--threads", "9" * 9], "from 1 to 1024", id="F13 many threads"),
    pytest.param(["demo", "--steps", "-1"], "steps", id="F13 a demo of no steps"),
    pytest.param(["train", "DATA", "--schedule.gamma", "-1"], "schedule.gamma", id="F17"),
    pytest.param(["train", "DATA", "--seed", "-1"], "seed must be", id="low seed -1"),
    pytest.param(
        ["train", "DATA", "--runs", "TMP/x[/b]", "--loss.name", "tripplet"], "no loss is called", id="F14 a runs folder"
    ),
    pytest.param(
        ["search", "RUN", "DATA", "DATA/train/a/0.png", "--kind", "rerank", "--k", "-1"], "k must be", id="F6 -1"
    ),
    pytest.param(
        ["search", "RUN", "DATA", "DATA/train/a/0.png", "--kind", "rerank", "--k", "0"], "k must be", id="F6 0"
    ),
    pytest.param(["evaluate", "RUN", "--split", "../../evil"], "has no split", id="F16 a split that is a path"),
    *(
        pytest.param(["embed", "RUN", "DATA", "--out", f"TMP/{name}"], "--out is an .npz file, got", id=f"E5 {name}")
        for name in ("x.csv", "x.parquet", "e.npy", "x")
    ),
    *(
        pytest.param(
            ["embed", f"RUN/{name}", "DATA", "--out", "TMP/x.npz"], "is a file of a run; wanted", id=f"E11 {name}"
        )
        for name in ("model/bundle.json", "model/model.safetensors", "checkpoints/best.pt")
    ),
]


@pytest.mark.parametrize(("words", "answer"), COMMANDS)
def test_one_line_from_a_command(
    words: list[str], answer: str, run: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "list.csv").write_text(f"path,label\n{data}/train/a/0.png,a\n")
    (tmp_path / "aliases.yaml").write_text(ALIASES)
    (tmp_path / "latin.yaml").write_bytes("about: {paper: caf\xe9}".encode("latin-1"))
    (tmp_path / "digits.yaml").write_text("steps: " + "9" * 5000)
    for name in ("q-1", "q-2", "photo-2", "photos/a/z-1"):
        flat(tmp_path / f"{name}.png")
    places = {"RUN2": str(run), "RUN": str(run), "DATA": str(data), "TMP": str(tmp_path)}
    for name, place in places.items():
        words = [word.replace(name, place) for word in words]
    before = {
        path: path.read_bytes()
        for root in (run, data, tmp_path)
        for path in root.rglob("*")
        if path.is_file() and "cache" not in path.parts
    }
    capsys.readouterr()
    assert main(words) == 2
    shown = capsys.readouterr().err.strip()
    assert answer in shown
    assert len([line for line in shown.splitlines() if line.startswith("cosphere: ")]) == 1
    assert {path: path.read_bytes() for path in before} == before
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize("suffix", FORMATS)
def test_a_search_replaces_its_own_picture(suffix: str, tmp_path: Path) -> None:
    """F16: of every format, and nothing else of that name but an empty file, such as one that reserves a name."""
    out = tmp_path / f"found{suffix}"
    out.touch()
    assert check_pictures(out, 1) == [out]
    write_strip(flat(tmp_path / "q.png"), [], out)
    assert check_pictures(out, 1) == [out]
    flat(out)
    with pytest.raises(CosphereError, match="no search wrote"):
        check_pictures(out, 1)


@pytest.mark.parametrize(
    ("meanwhile", "words"),
    [
        ("trains", "another process is training in"),
        ("begins", "another process is training in"),
        ("replaces", "was replaced while it was calibrated, so nothing was stored. Calibrate it again"),
    ],
)
def test_a_calibration_joins_the_weights_that_it_was_made_for(
    meanwhile: str, words: str, run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """F1: training that saves a better model meanwhile does not lose it to the one that was calibrated."""
    own = RunFolder(Path(shutil.copytree(run, tmp_path / "run")))
    better = Embedder.load(own.model)
    with torch.no_grad():
        next(better.head.parameters()).mul_(2)

    with contextlib.ExitStack() as training:

        def embed(*given: Any, **how: Any) -> Embeddings:
            if meanwhile == "begins":
                training.enter_context(RunFolder.claim(own.path, resume=True))
            elif meanwhile == "replaces":
                better.save(own.model)
            return embed_catalogue(*given, **how)

        monkeypatch.setattr(calibrating, "embed", embed)
        if meanwhile == "trains":
            training.enter_context(RunFolder.claim(own.path, resume=True))
        with pytest.raises(RunError, match=words):
            calibrate_run(own.path, far=0.3, split="test")
    kept = Embedder.load(own.model)
    assert kept.calibration is None
    assert kept.id == (better if meanwhile == "replaces" else Embedder.load(run)).id


def test_a_run_is_resumed_by_one_process(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """F1: the second is refused and changes nothing; tests/test_runs.py does the same with processes."""
    own = Path(shutil.copytree(run, tmp_path / "run"))
    with RunFolder.claim(own, resume=True):
        before = {path: path.read_bytes() for path in own.rglob("*") if path.is_file()}
        assert main(["train", "--resume", str(own), "--steps", "9"]) == 2
        assert capsys.readouterr().err == f"cosphere: another process is training in {own}. Wait for it to end.\n"
        assert {path: path.read_bytes() for path in own.rglob("*") if path.is_file()} == before


@pytest.mark.skipif(fcntl is None, reason="no file locks")
def test_what_a_killed_process_left_goes_with_the_next_write(run: Path, data: Path, tmp_path: Path) -> None:
    """F12: of names that are never written again too, but not what a living process writes."""
    own = Path(shutil.copytree(run, tmp_path / "run"))
    cache = own / "embeddings" / "cache"
    shutil.rmtree(cache, ignore_errors=True)  # Other tests may have filled it, and then nothing is written.
    (cache / "sources").mkdir(parents=True)
    left = [cache / ".0a.npz.abcdefg1.part", cache / "sources" / ".0b.npz.abcdefg2.part", own / ".x.abcdefg3.part"]
    for part in left:
        part.write_bytes(b"half")
    with left[1].open("rb+") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        embed_images(own, data, split="test")
        assert [part.exists() for part in left] == [False, True, True]
        with RunFolder.claim(own, resume=True):
            assert [part.exists() for part in left] == [False, True, False]
    with RunFolder.claim(own, resume=True):
        assert not list(own.rglob("*.part"))


def test_a_recipe_whose_blocks_are_empty(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """F13: ``about:`` and ``evaluation:`` left empty are blocks without content."""
    (tmp_path / "r.yaml").write_text("about:\nevaluation: null\nloss: {name: tripplet}\n")
    assert main(["train", str(data), "--config", str(tmp_path / "r.yaml"), "--runs", str(tmp_path / "runs")]) == 2
    assert "no loss is called 'tripplet'" in capsys.readouterr().err


@pytest.mark.parametrize(
    "name",
    [
        "[/x]",
        "a[/b]",
        "[bold red]",
        "\x1b[31mred",
        "\x9b31m",
        "a\x07b",
        "\x1b]0;title\x07",
        "a\nnote: b",
        "\u202egpj.exe",
    ],
)
def test_names_are_shown_and_never_run(
    name: str, run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """F14: markup and control characters of folders, splits and classes reach neither rich nor the terminal."""
    mark = name.replace("/", "")
    for label in (mark, "other"):
        for image in (0, 1):
            flat(tmp_path / "photos" / label / f"{image}{mark}.png", (image * 90, len(label), 9))
    (tmp_path / "photos" / mark / f"bad{mark}.png").write_bytes(b"no picture")
    source, query = str(tmp_path / "photos"), str(tmp_path / "photos" / "other" / f"0{mark}.png")
    for words in (
        ["data", "check", source],
        ["search", str(run), source, query, "--out", str(tmp_path / "x.png"), "--k", "2"],
    ):
        main(words)
        shown = "".join(capsys.readouterr())
        assert not set(shown) & {"\x1b", "\x9b", "\x07", "\u202e"}
        assert escaped(mark)[:5] in shown
        assert not any(line.startswith("note: b") for line in shown.splitlines())
    assert main(["evaluate", str(run), source, "--split", name]) == 2
    assert main([name]) == 2
    if name in ("[/x]", "\x1b[31mred"):  # the parser of train takes seconds: once for markup and once for an escape
        assert main(["train", str(tmp_path / name)]) == 2
    shown = "".join(capsys.readouterr())
    assert not set(shown) & {"\x1b", "\x9b", "\x07", "\u202e"}
    assert not any(line.startswith("note: b") for line in shown.splitlines())


FULL = "cosphere: cannot write the output: no space left. Free some space.\n"


class FullDisk(io.StringIO):
    """A standard output on a full disk: nothing can be flushed."""

    def write(self, text: str) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


class ClosedPipe(io.StringIO):
    """A standard output whose reader went away."""

    def write(self, text: str) -> int:
        raise BrokenPipeError(errno.EPIPE, os.strerror(errno.EPIPE))


@pytest.mark.parametrize("words", [["losses"], ["--help"], ["data", "check", "DATA"], ["losses", "triplet"]])
def test_a_full_output_is_one_line(
    words: list[str], data: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "stdout", FullDisk())
    assert main([word.replace("DATA", str(data)) for word in words]) == 2
    assert capsys.readouterr().err == FULL


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="Linux only")
def test_a_full_disk_is_told_once() -> None:
    """A short text fails only when it is flushed, and Python would complain again at its end."""
    with Path("/dev/full").open("w") as full:
        ended = subprocess.run(
            [sys.executable, "-m", "cosphere", "--help"], stdout=full, stderr=subprocess.PIPE, text=True, check=False
        )
    assert (ended.returncode, ended.stderr) == (2, FULL)


@pytest.mark.parametrize("words", [["losses"], ["--help"]])
def test_a_reader_that_went_away_is_no_fault(
    words: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """As in ``cosphere losses | head -1``."""
    monkeypatch.setattr(sys, "stdout", ClosedPipe())
    assert main(words) == 0
    assert capsys.readouterr().err == ""


@pytest.mark.skipif(not Path("/proc/self/mem").exists(), reason="Linux only")
def test_pixels_that_were_never_numbers_are_no_black_image(tmp_path: Path) -> None:
    """F18."""
    Image.fromarray(np.full((8, 8), np.nan, np.float32)).save(tmp_path / "x.tif")
    with pytest.raises(CosphereError, match="none of its values is a number"):
        read_image(tmp_path / "x.tif")


def test_a_broken_model_says_so(run: Path, tmp_path: Path) -> None:
    """F3."""
    model = odd_weights(tmp_path, run)
    with pytest.raises(CosphereError, match=r"not finite|NaN|infinite"):
        model.encode([np.zeros((8, 8, 3), np.uint8)])
    with pytest.raises(CosphereError, match="NaN or infinity"):
        Index.build(ROWS * np.float32("nan"))


def test_a_model_that_tells_no_images_apart_is_named(
    run: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """F3 in finite numbers: a bias that no feature can change."""
    model = Embedder.load(run)
    with torch.no_grad():
        model.head.linear.bias.fill_(1e30)  # type: ignore[union-attr, operator]
    model.save(tmp_path / "model")
    assert main(["embed", str(tmp_path / "model"), str(data), "--out", str(tmp_path / "rows.npz"), "--device=cpu"]) == 0
    assert "note: all 24 embeddings are equal: unless the images are copies" in " ".join(
        capsys.readouterr().err.split()
    )
    with pytest.warns(RuntimeWarning, match="all 2 embeddings are equal, so the model tells no two images apart"):
        model.encode([np.zeros((8, 8, 3), np.uint8), np.full((8, 8, 3), 200, np.uint8)])


@pytest.mark.parametrize("shape", [(9, 7), (9, 7, 2), (9, 7, 3), (9, 7, 4)])
def test_one_array_is_one_picture(shape: tuple[int, ...], run: Path) -> None:
    """F15."""
    assert Embedder.load(run).encode(np.zeros(shape, np.uint8)).shape == (1, 8)


@pytest.mark.parametrize("channels", [5, 6, 7])
def test_a_picture_of_many_channels_is_not_many_pictures(channels: int, run: Path) -> None:
    """F15."""
    with pytest.raises(CosphereError, match=rf"picture 0 is \(9, 9, {channels}\) uint8; want .* with 1 to 4 channels"):
        Embedder.load(run).encode(np.zeros((9, 9, channels), np.uint8))


def test_a_threshold_tested_on_trained_classes_says_so(run: Path, data: Path, tmp_path: Path) -> None:
    """F8: chosen on classes a to f, tested on classes that the model saw."""
    own = Path(shutil.copytree(run, tmp_path / "run"))
    model = Embedder.load(own)
    model.provenance = {**model.provenance, "data": {"classes": ["u", "v", "w"]}}
    model.save(own / "model")
    notes = calibrate_run(own, data, far=0.3, split="train").notes
    said = [note for note in notes if "was trained on ('" in note]
    assert [note[:62] for note in said] == ["3 of 6 classes of the test split have the name of a class that"]


@pytest.mark.parametrize("cell", ["=1+1", "@sum", "+1", "-1", "\t=1", "\r=1"])
def test_no_cell_is_a_formula(cell: str) -> None:
    assert as_csv(pd.DataFrame({"class": [cell]})).splitlines()[1].lstrip('"').startswith("'")


@pytest.mark.parametrize("line", [b"[1]\n", b"\xff\xfe\n", b'{"step": "x"}\n', b"3\n", b"null\n"])
def test_an_odd_line_of_the_metrics_is_skipped(line: bytes, tmp_path: Path) -> None:
    folder = RunFolder.create(tmp_path / "run")
    folder.metrics.write_bytes(b'{"step": 1}\n' + line + b'{"step": 2}\n')
    folder.cut_metrics_after(2)
    assert [row["step"] for row in folder.read_metrics()] == [1, 2]


@pytest.mark.parametrize("labels", [[0.5] * 6 + [1.5] * 6, [float("nan")] * 12])
def test_labels_that_are_no_numbers_of_classes(labels: list[float]) -> None:
    for score in (retrieval, likely_mislabelled, lambda rows, names: calibrate(rows, names, 0.1)):
        with pytest.raises(CosphereError):
            score(ROWS, labels)
