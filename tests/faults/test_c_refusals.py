"""Section C: input whose meaning is plain and that was once refused. One row for each input, with what is made of it."""

from __future__ import annotations

import codecs
import os
import unicodedata
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from faults.making import class_folders, flat

from cosphere.data import check, make_batches, read_catalogue, training_parts
from cosphere.data.patches import apply_patch
from cosphere.embeddings import Embeddings
from cosphere.evaluate import EvaluationSettings, score_embeddings
from cosphere.images import read_image

Made = Callable[[Path], Any]
PATHS = ["img/a.png", "img/b.png"]
PLAIN = "path,label\r\nimg/a.png,x\r\nimg/b.png,y\r\n"
CAFE = "caf\N{LATIN SMALL LETTER E WITH ACUTE}"


def written(content: str | bytes, *, name: str = "list.csv", form: str = "NFC") -> Made:
    """The labels of a table as a program left it, of two pictures that exist; a third has an accent in its name."""

    def measure(root: Path) -> list[str]:
        for path in (*PATHS, f"img/{unicodedata.normalize(form, CAFE)}.png"):
            flat(root / path)
        (root / name).write_bytes(content.encode() if isinstance(content, str) else content)
        catalogue = read_catalogue(root / name)
        assert all(os.path.isfile(path) for path in catalogue.paths)  # noqa: PTH113
        return catalogue.table["label"].tolist()

    return measure


def accented(form: str) -> str:
    return f"path,label\nimg/a.png,x\nimg/{unicodedata.normalize(form, CAFE)}.png,y\n"


TABLES = {
    "as it should be": PLAIN,
    "backslashes": PLAIN.replace("img/", "img\\"),
    "backslashes and a dot": PLAIN.replace("img/", ".\\img\\"),
    "a comma at the end": PLAIN.replace("\r\n", ",\r\n"),
    "commas at the end of the rows": "path,label\nimg/a.png,x,\nimg/b.png,y,\n",
    "two commas at the end of the rows": "path,label\nimg/a.png,x,,\nimg/b.png,y,,\n",
    "quotes after a space": 'path, label\nimg/a.png, "x"\nimg/b.png, "y"\n',
    "quoted paths after a space": 'label, path\nx, "img/a.png"\ny, "img/b.png"\n',
    "semicolons": PLAIN.replace(",", ";"),
    "tabs": PLAIN.replace(",", "\t"),
    "pipes": PLAIN.replace(",", "|"),
    "sep=;": "sep=;\r\n" + PLAIN.replace(",", ";"),
    "sep=,": "sep=,\r\n" + PLAIN,
    "sep=tab": "sep=\t\r\n" + PLAIN.replace(",", "\t"),
    "quoted sep=;": '"sep=;"\r\n' + PLAIN.replace(",", ";"),
    "UTF-8 with a mark": codecs.BOM_UTF8 + PLAIN.encode(),
    "a mark and sep=;": codecs.BOM_UTF8 + ("sep=;\r\n" + PLAIN.replace(",", ";")).encode(),
    "UTF-16 little end first": codecs.BOM_UTF16_LE + PLAIN.encode("utf-16-le"),
    "UTF-16 big end first": codecs.BOM_UTF16_BE + PLAIN.encode("utf-16-be"),
    "UTF-16 without a mark": PLAIN.encode("utf-16-le"),
    "UTF-16 with tabs, as Excel's Unicode text": codecs.BOM_UTF16_LE + PLAIN.replace(",", "\t").encode("utf-16-le"),
    "UTF-32": codecs.BOM_UTF32_LE + PLAIN.encode("utf-32-le"),
    "old Macintosh lines": PLAIN.replace("\r\n", "\r"),
    "empty lines": "\n\n" + PLAIN.replace("\r\n", "\n\n"),
    "empty cells between": PLAIN + ",\n,\n",
    "capitals": PLAIN.replace("path,label", "Path, LABEL"),
}


class Says(str):
    """Equal to every text that has these words."""

    __slots__ = ()
    __hash__ = str.__hash__

    def __eq__(self, other: object) -> bool:
        return isinstance(other, str) and str(self) in other


def flat_photos(names: list[str]) -> Made:
    def measure(root: Path) -> list[str]:
        for name in names:
            flat(root / name)
        return read_catalogue(root, labels="optional").label_names

    return measure


def table_of_paths(root: Path) -> list[str]:
    flat(root / "a.png")
    (root / "list.csv").write_text("path\na.png\n")
    return read_catalogue(root / "list.csv", labels="optional").label_names


def checked(files: dict[str, str], source: str) -> Made:
    """What the check makes of photos without labels, or with some: images, classes, and the reason why training wants more."""

    def measure(root: Path) -> tuple[int, int, str]:
        for place in range(4):
            flat(root / "p" / f"{place}.png", (60 * place, 9, 9))
        for name, content in files.items():
            (root / name).write_text(content)
        report = check(root / source)
        assert report.clean
        return report.images, report.classes, report.notes[-1].partition("training and scores need labels: ")[2]

    return measure


def zipped(members: list[str], listed: list[str] | None = None) -> Made:
    """The labels of a zip with such members, read whole or through a table; every image can be read."""

    def measure(root: Path) -> list[str]:
        picture = flat(root / "x.png").read_bytes()
        with zipfile.ZipFile(root / "z.zip", "w") as archive:
            for name in members:
                archive.writestr(name, picture)
        lines = (
            [] if listed is None else [f"z.zip#{name},{label}\n" for name, label in zip(listed, "xyz", strict=False)]
        )
        (root / "list.csv").write_text("path,label\n" + "".join(lines))
        catalogue = read_catalogue(root / ("z.zip" if listed is None else "list.csv"))
        assert all(read_image(path).shape == (10, 12, 3) for path in catalogue.paths)
        return catalogue.table["label"].tolist()

    return measure


def flags(cells: list[Any]) -> Made:
    """A column of queries as it is read from a file, and from a frame."""

    def measure(root: Path) -> list[bool]:
        class_folders(root, "a", images=len(cells))
        frame = pd.DataFrame({"path": [f"a/{i}.png" for i in range(len(cells))], "label": "a", "is_query": cells})
        frame.to_csv(root / "list.csv", index=False)
        read, given = (
            read_catalogue(source, root=root).table["is_query"].tolist() for source in (root / "list.csv", frame)
        )
        assert read == given
        return read

    return measure


def patched(path: str, label: str, new: str, columns: str = ";") -> Made:
    """The labels after a patch that went through a spreadsheet or another system."""

    def measure(root: Path) -> list[str]:
        class_folders(root / "photos", ["a", CAFE], images=1)
        rows = [("action", "path", "label", "new_label", "score"), ("relabel", path, label, new, "0,5")]
        text = "".join(f"{columns.join(row)}\r\n" for row in rows)
        (root / "patch.csv").write_bytes(text.encode("utf-8-sig"))
        apply_patch(root / "patch.csv", root / "photos")
        return read_catalogue(root / "photos").table["label"].tolist()

    return measure


def labelled_twice(root: Path) -> tuple[list[str], list[str]]:
    flat(root / "a.png")
    (root / "list.csv").write_text("path,label,label\na.png,x,y\n")
    catalogue = read_catalogue(root / "list.csv")
    return catalogue.label_names, [note for note in catalogue.notes if "more than once" in note]


def scored(each: int, classes: int = 2) -> Made:
    """Default K that a small set cannot reach: the scores that remain, and the note."""

    def measure(_: Path) -> tuple[list[str], bool]:
        count = each * classes
        images = Embeddings(
            embeddings=np.random.default_rng(0).normal(size=(count, 4)).astype(np.float32),
            labels=np.arange(count) // each,
            paths=tuple(f"/{i}" for i in range(count)),
            class_names=tuple(f"c{i}" for i in range(classes)),
        )
        scores = score_embeddings(images, EvaluationSettings(clustering=False, bootstrap_samples=0))
        return [name for name in scores.values if name.startswith("recall")], any(
            "Left out: Recall@" in n for n in scores.notes
        )

    return measure


def batch(classes: int, each: int, size: int, images_per_class: int, **more: Any) -> Made:
    """Rows and classes of the first batch."""

    def measure(_: Path) -> tuple[int, int]:
        labels = np.repeat(np.arange(classes), each)
        sampler = make_batches("balanced", labels, size, images_per_class=images_per_class, **more)
        rows = [draw.row for draw in next(iter(sampler))]
        return len(rows), len(np.unique(labels[rows]))

    return measure


def shuffled(_: Path) -> int:
    labels = np.repeat(np.arange(3), [1, 5, 20])
    return len({draw.row for one in make_batches("shuffled", labels, 13) for draw in one})


def held_out(classes: int) -> Made:
    """Classes that are trained on and held out by default."""

    def measure(root: Path) -> tuple[int, int]:
        parts = training_parts(
            read_catalogue(class_folders(root, [f"c{i}" for i in range(classes)])), val_share=0.15, seed=0
        )
        return len(parts.train.label_names), 0 if parts.val is None else len(parts.val.label_names)

    return measure


READ = [
    *(pytest.param(written(content), ["x", "y"], id=f"C4 {name}") for name, content in TABLES.items()),
    *(
        pytest.param(written(accented(one), form=other), ["x", "y"], id=f"C4 {one} for {other}")
        for one, other in (("NFC", "NFD"), ("NFD", "NFC"))
    ),
    pytest.param(
        written(accented("NFC").replace(",y", ",th\u00e9").encode("cp1252")), ["x", "th\u00e9"], id="C4 Windows-1252"
    ),
    pytest.param(zipped(["a\\0.png", "b\\0.png"]), ["a", "b"], id="C4 a zip with backslashes"),
    pytest.param(zipped(["a/0.png", "b\\0.png"], ["a\\0.png", "b/0.png"]), ["x", "y"], id="C4 backslashes of items"),
    *(
        pytest.param(
            zipped([unicodedata.normalize(other, f"{CAFE}/0.png")], [unicodedata.normalize(one, f"{CAFE}/0.png")]),
            ["x"],
            id=f"C4 items, {one} for {other}",
        )
        for one, other in (("NFC", "NFD"), ("NFD", "NFC"))
    ),
    pytest.param(patched("a/0.png", "a", CAFE), [CAFE, CAFE], id="C4 a patch of a spreadsheet"),
    pytest.param(patched("a\\0.png", "a", CAFE), [CAFE, CAFE], id="C4 a patch with backslashes"),
    *(
        pytest.param(
            patched(f"{unicodedata.normalize('NFD', CAFE)}/0.png", *labels), right, id=f"C4 a patch in NFD {way}"
        )
        for way, labels, right in (
            ("there", (unicodedata.normalize("NFD", CAFE), "a"), ["a", "a"]),
            ("to a new class", (unicodedata.normalize("NFD", CAFE), "b"), ["a", "b"]),
        )
    ),
    pytest.param(
        patched("a/0.png", "a", unicodedata.normalize("NFD", CAFE)), [CAFE, CAFE], id="C4 a patch to a label in NFD"
    ),
    pytest.param(flags([1.0, 0.0, None]), [True, False, False], id="C4 flags with a gap"),
    pytest.param(
        labelled_twice, (["x"], ["column 'label' is there more than once; its first one was read"]), id="C4 two labels"
    ),
    pytest.param(flat_photos(["a.png", "b.png"]), [""], id="C2 no folders"),
    pytest.param(flat_photos(["a.png"]), [""], id="C2 one photo"),
    pytest.param(flat_photos(["query/a.png", "gallery/b.png"]), [""], id="C2 query and gallery"),
    pytest.param(flat_photos(["train/a.png", "test/b.png", "c.png"]), [""], id="C2 splits and a loose photo"),
    pytest.param(flat_photos(["album/a.png", "album/b.png"]), ["album"], id="C2 one album"),
    pytest.param(table_of_paths, [""], id="C2 a table of paths"),
    pytest.param(
        checked({}, "p"), (4, 0, Says("holds 4 images but no class folders. Put the images")), id="C2 check of photos"
    ),
    pytest.param(
        checked({"t.csv": "image\np/0.png\np/1.png\n"}, "t.csv"),
        (2, 0, Says("has no column 'label'")),
        id="C2 check of paths",
    ),
    pytest.param(
        checked({"t.csv": "path,label\np/0.png,a\np/1.png,\np/2.png,b\np/3.png,\n"}, "t.csv"),
        (4, 2, Says("2 of 4 rows have no label (lines 3, 5)")),
        id="C2 check of some labels",
    ),
    pytest.param(scored(2), (["recall@1", "recall@2"], True), id="C3 four images"),
    pytest.param(scored(4), (["recall@1", "recall@2", "recall@4"], True), id="C3 eight images"),
    pytest.param(scored(5), (["recall@1", "recall@2", "recall@4", "recall@8"], False), id="C3 ten images"),
    pytest.param(batch(2, 2, 120, 3), (4, 2), id="C1 two classes of two"),
    pytest.param(batch(5, 12, 120, 3), (15, 5), id="C1 five classes"),
    pytest.param(batch(46, 3, 120, 3), (120, 40), id="C1 46 classes"),
    pytest.param(batch(40, 40, 75, 12), (72, 6), id="C5 75 with 12 a class"),
    pytest.param(batch(40, 40, 75, 37), (74, 2), id="C5 75 with 37 a class"),
    pytest.param(shuffled, 26, id="C5 shuffled"),
    pytest.param(held_out(2), (2, 0), id="C1 nothing is held out of two classes"),
    pytest.param(held_out(10), (8, 2), id="C1 ten classes"),
]


@pytest.mark.parametrize(("measure", "right"), READ)
def test_plain_meaning(measure: Made, right: Any, tmp_path: Path) -> None:
    assert measure(tmp_path) == right


@pytest.mark.parametrize("of", ["classes", "images"])
@pytest.mark.parametrize(
    "roles", [{}, {"is_query": False, "is_gallery": True}, {"is_query": True, "is_gallery": False}]
)
def test_a_table_of_roles_in_the_test_rows_validates(roles: dict[str, bool], of: Any, tmp_path: Path) -> None:
    """F2: held-out training rows have no roles, or one for all of them, so they are compared all with all."""
    class_folders(tmp_path, "abcdefghij", images=3)
    rows = [{"path": f"{c}/{i}.png", "label": c, "split": "train", **roles} for c in "abcdefg" for i in (0, 1, 2)]
    rows += [
        {"path": f"{c}/{i}.png", "label": c, "split": "test", "is_query": not i, "is_gallery": i}
        for c in "hij"
        for i in (0, 1)
    ]
    catalogue = read_catalogue(pd.DataFrame(rows), root=tmp_path)
    parts = training_parts(catalogue, val_share=0.3, seed=0, of=of)
    assert parts.val is not None
    assert not {"is_query", "is_gallery"} & set(parts.val.table)
    assert "is_query" in catalogue.select("test").table
