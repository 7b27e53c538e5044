"""Section A: input that once gave a wrong number, wrong pixels or a wrong set without a word. One row for each input."""

from __future__ import annotations

import contextlib
import os
import shutil
import unicodedata
import zipfile
from collections.abc import Callable
from dataclasses import replace
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from faults.making import Searching, class_folders, flat, on_a_circle
from mean_colour import MeanColour
from PIL import Image

from cosphere.cli import main
from cosphere.data import Catalogue, check, read_catalogue
from cosphere.data.listing import list_images
from cosphere.data.splits import hold_out_images, training_parts
from cosphere.embeddings import Embeddings, EmbeddingStore, FeatureCache, embed, number_classes
from cosphere.errors import DataError
from cosphere.evaluate import (
    EvaluationSettings,
    calibrate,
    clustering,
    evaluate,
    likely_mislabelled,
    retrieval,
    score_embeddings,
)
from cosphere.evaluate.equal_bytes import equal_bytes
from cosphere.experiment import Listener, audit, calibrate_run, embed_images, evaluate_run
from cosphere.experiment.protocols.pairs import PairSettings
from cosphere.experiment.protocols.pairs import run as run_pairs
from cosphere.experiment.protocols.probing import probe_data
from cosphere.experiment.training import settings_for
from cosphere.files import read_json
from cosphere.images import PixelCache, read_image
from cosphere.losses import CrossBatchMemory, HierarchicalTripletLoss, LiftedStructureLoss
from cosphere.models import Embedder, EmbedderSettings, build_embedder, weights_identity
from cosphere.models.bundle import trained_classes
from cosphere.report.data import report_data_from_run
from cosphere.runs import RunFolder
from cosphere.search.answer import answer
from cosphere.search.gallery_items import box_of, boxes_of
from cosphere.search.own import own_rows
from cosphere.train import TrainSettings

ONLY_RECALL = EvaluationSettings(ks=(1,), clustering=False, bootstrap_samples=0)
Made = Callable[[Path], Any]


# Rows of noise: no neighbour has the query's class, so only a picture that meets itself scores.


def noise(root: Path) -> pd.DataFrame:
    """Eight pictures on a circle, two in each class, none beside the other of its class."""
    on_a_circle(root)
    return pd.DataFrame({"path": [f"{i}.png" for i in range(8)], "label": [f"class{i % 4}" for i in range(8)]})


def table(root: Path, frame: pd.DataFrame) -> Catalogue:
    frame.to_csv(root / "table.csv", index=False)
    return read_catalogue(root / "table.csv")


def listed_twice(root: Path) -> Catalogue:
    frame = noise(root)
    return table(root, pd.concat([frame, frame]))


def written_twice(root: Path) -> Catalogue:
    frame = noise(root)
    whole = frame.assign(path=[str(root / path) for path in frame["path"]])
    return table(root, pd.concat([frame, whole]))


def linked(make: Callable[[Path, Path], None]) -> Callable[[Path], Catalogue]:
    def build(root: Path) -> Catalogue:
        frame = noise(root)
        for path in frame["path"]:
            make(root / f"again{path}", root / path)
        return table(root, pd.concat([frame, frame.assign(path=[f"again{path}" for path in frame["path"]])]))

    return build


def query_and_gallery(root: Path) -> Catalogue:
    frame = noise(root).assign(split="test")
    queries, gallery = frame.assign(is_query=1, is_gallery=0), frame.assign(is_query=0, is_gallery=1)
    return table(root, pd.concat([queries, gallery]))


def with_boxes(root: Path) -> Catalogue:
    frame = noise(root).assign(x_1=0, y_1=0, x_2=12, y_2=10)
    return table(root, pd.concat([frame, frame]))


SOURCES: dict[str, Callable[[Path], Catalogue]] = {
    "listed twice": listed_twice,
    "written twice": written_twice,
    "linked": linked(lambda link, file: link.symlink_to(file)),
    "hard link": linked(lambda link, file: os.link(file, link)),
    "query and gallery": query_and_gallery,
    "boxes listed twice": with_boxes,
}
"""Every source shows each of its pictures in two rows."""


def recall(source: Callable[[Path], Catalogue], settings: EvaluationSettings = ONLY_RECALL) -> Made:
    return lambda root: evaluate(MeanColour(), source(root), settings).value("recall@1")


def said(root: Path) -> bool:
    return any(
        "rows repeat the picture" in text for text in evaluate(MeanColour(), listed_twice(root), ONLY_RECALL).notes
    )


def smaller_forms(root: Path) -> list[float]:
    forms = equal_bytes(embed(MeanColour(), listed_twice(root)), bootstrap_samples=0).forms
    return [float(form.values["recall@1"]) for form in forms if form.name in ("float32", "float16")]


def met_by_search(source: Callable[[Path], Catalogue]) -> Made:
    def measure(root: Path) -> list[str]:
        gallery = embed(MeanColour(), source(root))
        hits = answer([root / "0.png"], Searching(), gallery, k=2)[0].hits  # type: ignore[arg-type]
        return [hit.path for hit in hits if Path(hit.path).samefile(root / "0.png")]

    return measure


def met_after(link: Callable[[Path], Path]) -> Made:
    """Rows that were embedded before the query got another link, searched with that link."""

    def measure(root: Path) -> list[int]:
        gallery = embed(MeanColour(), table(root, noise(root)))
        return list(own_rows(link(root), gallery))

    return measure


def hard_link(root: Path) -> Path:
    os.link(root / "0.png", root / "q.png")
    return root / "q.png"


def soft_link(root: Path) -> Path:
    (root / "q.png").symlink_to(root / "0.png")
    return root / "q.png"


def link_that_went(root: Path) -> list[int]:
    """The file had two links when it was embedded, and has one now."""
    frame = noise(root)
    os.link(root / "0.png", root / "q.png")
    gallery = embed(MeanColour(), table(root, frame))
    (root / "q.png").unlink()
    return list(own_rows(root / "0.png", gallery))


def another_file_of_that_number(root: Path) -> list[int]:
    """A key of device and inode that another file had, such as on another machine, is not the query."""
    gallery = embed(MeanColour(), table(root, noise(root)))
    status = (root / "0.png").stat()
    files = (*gallery.files[:-1], f"{status.st_dev}:{status.st_ino}")  # type: ignore[index]
    return list(own_rows(root / "0.png", replace(gallery, files=files)))


def suspects_of_a_picture_with_two_labels(_: Path) -> list[int]:
    """Rows 2 and 3 show one picture of the first class; only the row with the wrong label is suspected."""
    angles = np.array([0.0, 0.1, 0.25, 0.25, 2.0, 2.1])
    rows = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    found = likely_mislabelled(rows, [0, 0, 0, 1, 1, 1], identities=[0, 1, 2, 2, 3, 4], neighbours=1)
    return [int(row) for row in found.rows]


def mounted_twice(root: Path) -> list[Any]:
    """Pictures in a folder that has two names and is no link: mounted twice, or on a disk that tells no capitals apart."""
    frame = noise(root / "photos")
    (root / "PHOTOS").symlink_to(root / "photos")
    both = [frame.assign(path=f"{name}/" + frame["path"]) for name in ("photos", "PHOTOS")]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os.path, "realpath", lambda path, **_: str(Path(path).absolute()))
        gallery = embed(MeanColour(), read_catalogue(both[0], root=root))
        own = own_rows(root / "PHOTOS" / "3.png", gallery)
        return [recall(lambda _: read_catalogue(pd.concat(both), root=root))(root), list(own)]


def item_of_another_name(root: Path) -> list[str]:
    """What is read under other numbers of a row: an image inside a file has one name."""
    records = np.zeros((3, 3073), np.uint8)
    records.tofile(root / "test_batch.bin")
    read = []
    for name in ("1", "01", "001", "0", "00"):
        with contextlib.suppress(DataError):
            read_image(f"{root}/test_batch.bin#{name}")
            read.append(name)
    return read


def held_out_twice(choose: Callable[[Catalogue], Any]) -> Made:
    """How many pictures are on both sides where each is listed twice."""

    def measure(root: Path) -> int:
        frame = noise(root).assign(label=["a"] * 4 + ["b"] * 4)
        left, held = choose(table(root, pd.concat([frame, frame])))
        assert len(left) + len(held) == 16
        return len(set(left.paths) & set(held.paths))

    return measure


def without_labels(catalogue: Catalogue) -> Any:
    parts = training_parts(replace(catalogue, table=catalogue.table.assign(label="")), val_share=0.4)
    return parts.train, parts.val


REPEATS = [
    pytest.param(mounted_twice, [0.0, [3]], id="A1 mounted twice"),
    pytest.param(item_of_another_name, ["1", "0"], id="A1 a row of a container under another number"),
    pytest.param(held_out_twice(lambda images: hold_out_images(images, share=0.4)), 0, id="A1 held-out images"),
    pytest.param(held_out_twice(without_labels), 0, id="A1 held-out images without labels"),
    *(pytest.param(recall(make), 0.0, id=f"A1 {name}") for name, make in SOURCES.items()),
    *(pytest.param(met_by_search(make), [], id=f"A1 search, {name}") for name, make in SOURCES.items()),
    pytest.param(met_after(hard_link), [0], id="A1 a hard link made after embedding"),
    pytest.param(met_after(soft_link), [0], id="A1 a link made after embedding"),
    pytest.param(link_that_went, [0], id="A1 a hard link removed after embedding"),
    pytest.param(another_file_of_that_number, [0], id="A1 another file of that number"),
    pytest.param(recall(listed_twice, settings_for(("recall@1",))), 0.0, id="A1 validation"),
    pytest.param(recall(listed_twice, EvaluationSettings(ks=(1,), bits=True, clustering=False)), 0.0, id="A1 bits"),
    pytest.param(smaller_forms, [0.0, 0.0], id="A1 smaller forms"),
    pytest.param(said, True, id="F7 said in scores.json"),
]


# Files that changed in place, with the size and the time that they had.


def changed_in_place(look: Callable[[Path], Any], file: str = "a.bmp") -> Made:
    """Whether what is seen follows the change."""

    def measure(root: Path) -> bool:
        flat(root / "pictures" / file, (10, 20, 30)), flat(root / "pictures" / "b.bmp")
        before, status = look(root), (root / "pictures" / file).stat()
        flat(root / "pictures" / file, (200, 100, 0))
        os.utime(root / "pictures" / file, ns=(status.st_atime_ns, status.st_mtime_ns))
        assert (root / "pictures" / file).stat().st_size == status.st_size
        return bool(np.any(look(root) != before))

    return measure


def pictures(root: Path) -> Catalogue:
    return read_catalogue(pd.DataFrame({"path": ["a.bmp", "b.bmp"], "label": ["a", "b"]}), root=root / "pictures")


def stored_rows(root: Path) -> Any:
    return embed(MeanColour(), pictures(root), store=EmbeddingStore(root / "store")).embeddings


def cached_pixels(root: Path) -> Any:
    cache, path = PixelCache(root / "cache", rule="x", keep_free=0), root / "pictures" / "a.bmp"
    return cache.get(path, lambda: read_image(path))


def digest_of_weights(root: Path) -> Any:
    return np.array(weights_identity(str(root / "pictures" / "a.bmp")))


def zipped(root: Path) -> Any:
    """An item of an archive that is written anew with other pixels of the same size."""
    path, status = root / "p.zip", (root / "p.zip").stat() if (root / "p.zip").exists() else None
    with zipfile.ZipFile(path, "w") as archive:
        archive.write(root / "pictures" / "a.bmp", "a.bmp")
    if status is not None:
        os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    return read_image(f"{path}#a.bmp")


def renamed_rows(root: Path) -> bool:
    """Rows that one model computed, in a file with the name of another's."""
    class_folders(root / "p", "ab")
    images, store, one, other = read_catalogue(root / "p"), EmbeddingStore(root / "store"), MeanColour(), MeanColour()
    with torch.no_grad():
        other.linear.weight.mul_(3)
    embed(one, images, store=store)  # type: ignore[arg-type]
    (file,) = store.folder.glob("*.npz")
    file.rename(file.with_name(file.name.replace(one.id[:32], other.id[:32])))
    return bool(np.allclose(embed(other, images, store=store).embeddings, embed(other, images).embeddings))  # type: ignore[arg-type]


def renamed_features(root: Path) -> bool:
    """Features of one backbone, in a folder with the name of another's."""
    class_folders(root / "p", "ab")
    images, rows = read_catalogue(root / "p"), np.arange(4)
    settings, made = EmbedderSettings(backbone="test_resnet", weights="none", dim=4), []
    for seed in (0, 1):
        torch.manual_seed(seed)
        made.append(build_embedder(settings, image_size=32).eval())
    FeatureCache(root / "f").table(made[0], images)
    (folder,) = (root / "f").iterdir()
    folder.rename(folder.with_name(folder.name.replace(made[0].feature_id[:32], made[1].feature_id[:32])))
    found = FeatureCache(root / "f").table(made[1], images).take(rows)
    return torch.equal(found, FeatureCache(root / "new").table(made[1], images).take(rows))


CHANGED = [
    pytest.param(renamed_rows, True, id="E1 rows under another model's name"),
    pytest.param(renamed_features, True, id="E1 features under another backbone's name"),
]
CHANGED += [
    pytest.param(changed_in_place(look), True, id=f"E1 {look.__name__}")
    for look in (stored_rows, cached_pixels, digest_of_weights, zipped)
]


# Groups, ties, floats.


def six(rule: str) -> Made:
    """Six images of two classes, sequences 7 7 7 7 8 9."""
    angles = np.array([0.0, 0.1, 0.2, 0.45, 0.3, 0.7])
    rows = np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)
    images = Embeddings(
        embeddings=rows,
        labels=np.array([0, 0, 1, 1, 0, 1]),
        paths=tuple(f"/{i}" for i in range(6)),
        class_names=("a", "b"),
        groups=np.array([7, 7, 7, 7, 8, 9]),
    )

    def measure(_: Path) -> list[float]:
        chosen = EvaluationSettings(ks=(1,), clustering=False, bootstrap_samples=0, group_rule=rule)  # type: ignore[arg-type]
        forms = equal_bytes(images, bootstrap_samples=0, group_rule=rule).forms  # type: ignore[arg-type]
        table = next(form.values["recall@1"] for form in forms if form.name == "float32")
        return [score_embeddings(images, chosen).value("recall@1"), float(table)]

    return measure


def by_loops(rule: str) -> list[float]:
    """The same six images, counted by hand; the scores and the table of smaller forms agree."""
    angles, labels, groups = [0.0, 0.1, 0.2, 0.45, 0.3, 0.7], [0, 0, 1, 1, 0, 1], [7, 7, 7, 7, 8, 9]
    hits = []
    for i in range(6):
        out = [j for j in range(6) if groups[j] == groups[i] and (rule == "any_class" or labels[j] == labels[i])]
        near = min((j for j in range(6) if j != i and j not in out), key=lambda j: abs(angles[j] - angles[i]))
        hits.append(labels[near] == labels[i])
    return [pytest.approx(np.mean(hits))] * 2


def recall_of(rows: Any, labels: Any, **more: Any) -> Made:
    return lambda _: retrieval(rows, labels, ks=(1,), **more).recall[1]


PAIRS = np.arange(100) // 2
RANDOM = np.random.default_rng(0).integers(0, 2, 2000)
ARC = np.linspace(0, 0.2, 2000)
"""Radians: neighbours are 1e-4 apart, so their cosines differ by 5e-9."""


def on_the_arc(_: Path) -> bool:
    rows = np.stack([np.cos(ARC), np.sin(ARC)], axis=1)
    labels = np.random.default_rng(0).integers(0, 10, 2000)
    score = retrieval(rows, labels, ks=(1,)).recall[1]
    left, right = np.r_[-1, labels[:-1]] == labels, np.r_[labels[1:], -1] == labels
    return bool(max(0.0, (left & right).mean()) <= score <= (left | right).mean())


def two_names_for_each(_: Path) -> tuple[bool, float]:
    """40 pictures under two labels: the largest cosine of two classes is exactly 1."""
    rows = np.random.default_rng(1).normal(size=(40, 5)).astype(np.float32)
    labels = np.arange(80) % 40 + 40 * (np.arange(80) >= 40)
    result = calibrate(np.concatenate([rows, rows]), labels // 2, far=0.01)
    return result.threshold <= 1.0, 1.0


def perfect(each: int, classes: int = 100) -> Made:
    rows = np.eye(classes).repeat(each, axis=0) + 1e-3 * np.random.default_rng(0).normal(size=(classes * each, classes))
    return lambda _: len(likely_mislabelled(rows, np.arange(classes).repeat(each)))


def mixed_sizes(_: Path) -> int:
    labels = np.arange(60).repeat(np.arange(60) % 7 + 1)
    rows = np.eye(60)[labels] + 1e-3 * np.random.default_rng(0).normal(size=(len(labels), 60))
    return len(likely_mislabelled(rows, labels))


def tree_behind_a_memory(_: Path) -> bool:
    loss = CrossBatchMemory(HierarchicalTripletLoss(), 4, size=24)
    rows, labels = torch.randn(24, 4), torch.arange(24) // 4
    loss.after_epoch(lambda: (rows, labels))
    return loss.loss.tree is not None  # type: ignore[attr-defined]


def lifted_with_and_without(_: Path) -> float:
    generator = torch.Generator().manual_seed(0)
    rows, labels = torch.randn(12, 4, generator=generator), torch.arange(12) // 3
    every = torch.cartesian_prod(torch.arange(12), torch.arange(12)).T
    same = labels[every[0]] == labels[every[1]]
    positive, negative = every[:, same & (every[0] != every[1])], every[:, ~same]
    tuples = (*positive[:, ::2], *negative[:, ::3])
    loss = LiftedStructureLoss()
    references = {"references": rows, "reference_labels": labels, "positions": torch.arange(12)}
    return float(loss(rows, labels, tuples) - loss(rows, labels, tuples, **references))


def nearly_collapsed(_: str, points: Any, **more: Any) -> tuple[Made, Any]:
    """Rows in few places, classes of two: every score of the default rule, and by loops Recall@1."""
    rows, labels = np.eye(4)[points], np.arange(len(points)) // 2
    wanted = []
    for query, point in enumerate(points):
        tied = [row for row, other in enumerate(points) if row != query and other == point]
        if not tied:  # it is as near to all others
            tied = [row for row in range(len(points)) if row != query]
        right = sum(labels[row] == labels[query] for row in tied)
        others = len(points) - 1
        crowd = len(tied) == others or (len(tied) > 10 and len(tied) > others / 3)
        wanted.append(right / len(tied) if crowd else float(right > 0))

    def measure(_: Path) -> float:
        alone = retrieval(rows, labels, ks=(1,), metrics=("all",))
        apart = retrieval(
            rows, labels, ks=(1,), metrics=("all",), gallery=rows, gallery_labels=labels, exclude=np.arange(len(rows))
        )
        assert alone.as_dict() == apart.as_dict()
        given = retrieval(rows, labels, ks=(1,), ties="optimistic").recall[1]
        assert given == np.mean([bool(want) for want in wanted])  # a rule that is given is kept
        return alone.recall[1]

    return measure, pytest.approx(np.mean(wanted), rel=1e-12)


def within_rounding(kind: Any, width: int, gallery: bool = False) -> Made:
    """Recall@1 of ten classes whose rows differ by less than their cosines are rounded by."""

    def measure(_: Path) -> float:
        draw = np.random.default_rng(0)
        point = draw.normal(size=width)
        rows = (point * (1 + np.finfo(kind).eps * draw.normal(size=(200, width)))).astype(kind)
        labels = np.arange(200) % 10
        if not gallery:
            return retrieval(rows, labels, ks=(1,)).recall[1]
        more = {"gallery": rows, "gallery_labels": labels, "exclude": np.arange(200)}
        return retrieval(rows, labels, ks=(1,), **more).recall[1]

    return measure


def reranked(points: Any) -> Made:
    """Recall@1 of every form of few places: none is better than the floats."""

    def measure(_: Path) -> bool:
        rows, labels = np.eye(4, dtype=np.float32)[points], np.arange(len(points)) // 2
        forms = {
            form.name: float(form.values["recall@1"]) for form in equal_bytes(rows, labels, bootstrap_samples=0).forms
        }
        return forms["bits + re-rank"] == forms["float32"]

    return measure


COLLAPSES = (
    ("one odd row", np.array([1] + [0] * 39)),
    ("two places", np.arange(40) // 3 % 2),
    ("two places of 11", np.arange(22) // 3 % 2),
    ("two places of 12", np.arange(24) // 3 % 2),
    ("more than a third, and less", np.array([0] * 37 + [1] * 36 + [2] * 29)),
)
NUMBERS = [
    *(pytest.param(six(rule), by_loops(rule), id=f"A4 {rule}") for rule in ("any_class", "same_class")),
    pytest.param(recall_of(np.ones((100, 4)), PAIRS), pytest.approx(1 / 99), id="A5 constant"),
    *(pytest.param(*nearly_collapsed(*case), id=f"A5 {case[0]}") for case in COLLAPSES),
    *(pytest.param(reranked(case[1]), True, id=f"A5 re-ranked, {case[0]}") for case in COLLAPSES[:2]),
    pytest.param(reranked(np.arange(100) // 2 % 2), True, id="A5 re-ranked, halves"),
    *(
        pytest.param(within_rounding(*case), pytest.approx(19 / 199), id=f"A5 collapsed but for rounding, {case}")
        for case in ((np.float32, 16), (np.float32, 512), (np.float64, 4), (np.float64, 512), (np.float64, 16, True))
    ),
    pytest.param(recall_of(np.zeros((100, 4)), PAIRS), pytest.approx(1 / 99), id="A5 zero rows"),
    pytest.param(recall_of(np.full((100, 4), 1e-30), PAIRS), pytest.approx(1 / 99), id="A5 shorter than a direction"),
    pytest.param(recall_of(np.zeros((100, 2), dtype=np.uint8), PAIRS), pytest.approx(1 / 99), id="A5 bits"),
    pytest.param(
        lambda _: float(settings_for(("recall@1",)).ties == "expected"), 1.0, id="A5 validation takes expected ties"
    ),
    *(pytest.param(perfect(each), 0, id=f"A9 classes of {each}") for each in (2, 3, 5)),
    pytest.param(mixed_sizes, 0, id="A9 classes of 1 to 7"),
    pytest.param(suspects_of_a_picture_with_two_labels, [3], id="A1 suspects"),
    pytest.param(two_names_for_each, (True, 1.0), id="A18"),
    pytest.param(on_the_arc, True, id="A19"),
    pytest.param(tree_behind_a_memory, True, id="A3"),
    pytest.param(lifted_with_and_without, pytest.approx(0, abs=1e-6), id="A20"),
]


# Boxes.


def boxed(*box: float, columns: str = "x_1,y_1,x_2,y_2") -> Made:
    """What a box of a picture of 12 x 10 pixels becomes, and whether the check calls it clean."""

    def measure(root: Path) -> Any:
        flat(root / "a" / "0.png")
        cells = ",".join("" if edge is None else str(edge) for edge in box)
        (root / "table.csv").write_text(f"path,label,{columns}\na/0.png,a,{cells}\n")
        try:
            catalogue = read_catalogue(root / "table.csv")
        except DataError:
            return "refused"
        report = check(catalogue)
        if report.unreadable:
            return "refused by the check"
        height, width, _ = read_image(catalogue.paths[0], box=catalogue.box(0)).shape
        return width, height

    return measure


def boxes_lost(root: Path) -> list[Any]:
    """What is said of boxes of a file that cannot be read, and whether many boxes of few files hide how many files are lost."""
    on_a_circle(root, 8)
    (root / "broken.png").write_bytes(b"no picture")
    boxes = [(x, y, x + 5, y + 5) for x in range(6) for y in range(5)]
    rows = [(f"{i}.png", "ab"[i % 2], *box) for i in range(8) for box in boxes]
    rows += [("broken.png", "a", *box) for box in boxes]
    columns = ["path", "label", "x_1", "y_1", "x_2", "y_2"]
    images = read_catalogue(pd.DataFrame(rows, columns=columns), root=root)
    notes = evaluate(MeanColour(), images, ONLY_RECALL).notes
    (root / "7.png").write_bytes(b"no picture either")
    with pytest.raises(DataError, match="2 of 9 images cannot be read"):
        embed(MeanColour(), images)
    return [note for note in notes if "could not be read" in note]


def in_a_gallery(metadata: dict[str, Any]) -> Made:
    """The boxes that a gallery embeds and shows, or words of the error, which names the item."""

    def measure(_: Path) -> Any:
        try:
            return [*boxes_of([metadata], ["one"]), box_of(metadata)]
        except DataError as error:
            said = str(error)
            assert said.startswith("one: ")
            assert said.endswith("a whole image has none of them.")
            return next((words for words in EDGES if words in said), said)

    return measure


EDGES = ("an edge that is missing", "an edge that is infinite", "an edge beyond", "wanted a number", "shares")
INF, NAN = "inf", None
BOXES = [
    pytest.param(boxed(2, 3, 8, 9), (6, 6), id="A6 inside"),
    *(
        pytest.param(boxed(*box), size, id=f"A6 one over {side}")
        for side, box, size in (
            ("left", (-1, 0, 6, 5), (6, 5)),
            ("top", (0, -1, 6, 5), (6, 5)),
            ("right", (6, 5, 13, 10), (6, 5)),
            ("bottom", (6, 5, 12, 11), (6, 5)),
        )
    ),
    *(
        pytest.param(boxed(*box), "refused", id=f"A6 far over {side}")
        for side, box in (("left", (-20, 0, 6, 5)), ("top", (0, -20, 6, 5)))
    ),
    *(
        pytest.param(boxed(*box), "refused by the check", id=f"A8 far over {side}")
        for side, box in (("right", (6, 5, 40, 10)), ("bottom", (6, 5, 12, 40)), ("all", (60, 50, 70, 60)))
    ),
    pytest.param(boxed(0.05, 0.1, 0.95, 0.9), "refused", id="A7 shares"),
    pytest.param(boxed(0, 0, 1, 1), "refused", id="A7 the whole as shares"),
    pytest.param(boxed(0.4, 0.4, 0.3, 0.2, columns="x,y,w,h"), "refused", id="A7 shares with a size"),
    *(
        pytest.param(boxed(*box, columns=names), "refused", id=f"A7 shares that overshoot, {box}")
        for names, box in (
            ("x_1,y_1,x_2,y_2", (-0.01, 0.1, 0.95, 0.9)),
            ("x_1,y_1,x_2,y_2", (0.05, 0.1, 1.01, 0.9)),
            ("x,y,w,h", (0.7, 0.3, 0.9, 0.9)),
        )
    ),
    pytest.param(boxed(0, 0.25, 2, 2), (2, 2), id="A7 two pixels"),
    pytest.param(boxed(-0.5, 0.3, 6.4, 5.2), (6, 5), id="A7 an overshoot of pixels"),
    pytest.param(boxes_lost, ["Left out: 30 of 270 images, which could not be read."], id="A8 boxes of one file"),
    pytest.param(boxed(2, 3, 1e300, 9), "refused", id="F5 beyond every image"),
    pytest.param(boxed(8, 3, 2, 9), "refused", id="F5 reversed"),
    pytest.param(boxed(2, 3, 2, 9), "refused", id="F5 empty"),
    pytest.param(boxed(2, 3, 8, INF), "refused", id="F5 infinite"),
    pytest.param(boxed(2, 3, 8, NAN), "refused", id="F5 missing edge"),
    pytest.param(boxed(NAN, NAN, NAN, NAN), (12, 10), id="F5 no box"),
    pytest.param(boxed(2, 3, 8, 9, columns="xmin,ymin,xmax,ymax"), (6, 6), id="E8 corners"),
    pytest.param(boxed(2, 3, 6, 6, columns="x,y,w,h"), (6, 6), id="E8 size"),
    pytest.param(boxed(2, 3, 8, 9, columns="bbox_xmin,bbox_ymin,bbox_xmax,bbox_ymax"), (6, 6), id="E8 bbox corners"),
    pytest.param(boxed(2, 3, 6, 6, columns="bbox_left,bbox_top,bbox_width,bbox_height"), (6, 6), id="E8 bbox size"),
    *(
        pytest.param(in_a_gallery(box), words, id=f"F5 gallery, {words}")
        for box, words in (
            ({"x_1": 2, "y_1": 3, "x_2": 8}, "an edge that is missing"),
            ({"x_1": None, "y_1": 3, "x_2": 8, "y_2": 9}, "an edge that is missing"),
            ({"x_1": float("nan"), "y_1": 3, "x_2": 8, "y_2": 9}, "an edge that is missing"),
            ({"x_1": 2, "y_1": 3, "x_2": float("inf"), "y_2": 9}, "an edge that is infinite"),
            ({"x_1": 2, "y_1": 3, "x_2": 1e300, "y_2": 9}, "an edge beyond"),
            ({"x_1": "left", "y_1": 3, "x_2": 8, "y_2": 9}, "wanted a number"),
            ({"x_1": True, "y_1": 3, "x_2": 8, "y_2": 9}, "wanted a number"),
            ({"x_1": 0.05, "y_1": 0.1, "x_2": 1.45, "y_2": 1.4}, "shares"),
        )
    ),
    pytest.param(in_a_gallery({"x_1": 1.6, "y_1": -1, "x_2": "8", "y_2": 9}), [(2, 0, 8, 9)] * 2, id="F5 gallery"),
    pytest.param(in_a_gallery({"x_1": None, "y_1": None}), [None, None], id="F5 gallery, no box"),
]


# Folders, names and tables.


def splits_linked(*names: str) -> Made:
    def measure(root: Path) -> dict[str, int]:
        class_folders(root / "train", ["a", "b"])
        class_folders(root / "data", ["c", "d"])
        for name in names:
            (root / name).symlink_to(root / "data")
        images = list_images(root).images
        return {name: sum(path.startswith(f"{name}/") for path in images) for name in names}

    return measure


def loop(root: Path) -> int:
    class_folders(root, ["a", "b"])
    (root / "a" / "up").symlink_to(root)
    return len(read_catalogue(root))


def beside_classes(name: str) -> Made:
    """The classes when a system's folder lies at every depth."""

    def measure(root: Path) -> list[str]:
        class_folders(root, ["a", "b"])
        for folder in (root, root / "a", root / "a" / "deep"):
            flat(folder / name / "thumbnail.jpg")
        catalogue = read_catalogue(root)
        return [*catalogue.label_names, str(len(catalogue))]

    return measure


CAFE = "caf\N{LATIN SMALL LETTER E WITH ACUTE}"


def several(labels: list[Any]) -> Made:
    """Whether a note says that labels look like several in one cell."""

    def measure(root: Path) -> bool:
        class_folders(root, ["a"])
        frame = pd.DataFrame({"path": ["a/0.png", "a/1.png"], "label": labels})
        return any("like several in one cell" in note for note in read_catalogue(frame, root=root).notes)

    return measure


def links_inside(count: int) -> Made:
    """A split whose images lie below so many links, each in the folder of the one before; and whether a link was left out."""

    def measure(root: Path) -> tuple[int, bool]:
        class_folders(root / "data" / "test", ["z"])
        class_folders(root / f"real{count}", ["."])
        for place in reversed(range(count)):
            folder = root / ("data" if place == 0 else f"real{place}")
            folder.mkdir(exist_ok=True)
            (folder / ("train" if place == 0 else "in")).symlink_to(root / f"real{place + 1}")
        catalogue = read_catalogue(root / "data")
        return len(catalogue), any("not followed" in note for note in catalogue.notes)

    return measure


def links_that_meet(root: Path) -> bool:
    """Folders that all link to each other: it ends, and the reason of what is left out is the true one."""
    for one in range(5):
        class_folders(root, [str(one)], images=1)
        for two in range(5):
            (root / str(one) / f"to{two}").symlink_to(root / str(two))
    notes = list_images(root).notes()
    return any("below 3 other links that led to the same folder" in note for note in notes)


def names_as_typed(form: str) -> Made:
    """Rows of a split and of a class asked for in a Unicode form, and of the class under a new label."""

    def measure(root: Path) -> list[int]:
        class_folders(root, ["a"], images=4)
        paths, labels = [f"a/{i}.png" for i in range(4)], [CAFE, CAFE, "x", "x"]
        frame = pd.DataFrame({"path": paths, "label": labels, "split": [CAFE, "train", CAFE, "train"]})
        catalogue, typed = read_catalogue(frame, root=root), unicodedata.normalize(form, CAFE)
        renamed = catalogue.relabelled({typed: "new", "x": "x"})
        parts = catalogue.select(typed), catalogue.select(classes=[typed]), renamed.select(classes=["new"])
        return [len(part) for part in parts]

    return measure


def groups_of_splits(root: Path) -> list[list[int]]:
    """The numbers of sequences in train and in test, and of the images without one."""
    class_folders(root, "ab", images=3)
    rows = [(f"{c}/{i}.png", c, s) for c, s in (("a", "train"), ("b", "test")) for i in range(3)]
    frame = pd.DataFrame(rows, columns=["path", "label", "split"]).assign(sequence=["s1", "s2", None, "s1", "s3", None])
    whole, numbers = read_catalogue(frame, root=root), []
    for split in ("train", "test"):
        table = embed(MeanColour(), part := whole.select(split))
        groups = number_classes(table, part, whole).groups
        assert groups is not None
        numbers.append(groups.tolist())
    alone = [group[2] for group in numbers]
    assert len(set(alone)) == 2
    assert min(alone) >= len(whole)
    return [group[:2] for group in numbers]


def forms(where: str) -> Made:
    def measure(root: Path) -> list[str]:
        one, other = CAFE, unicodedata.normalize("NFD", CAFE)
        class_folders(root / "train", [one, "a"])
        class_folders(root / "test", [other, "b"])
        if where == "folders":
            return [str(len(read_catalogue(root).label_names)), check(root).protocol]
        frame = pd.DataFrame({"path": [f"train/{one}/0.png", f"test/{other}/0.png"], "label": [one, other]})
        return [str(len(read_catalogue(frame, root=root).label_names)), "mixed"]

    return measure


def labels_of(values: Any) -> Made:
    def measure(root: Path) -> list[str]:
        class_folders(root, ["a"], images=len(values))
        frame = pd.DataFrame({"path": [f"a/{i}.png" for i in range(len(values))], "label": pd.Series(values)})
        return read_catalogue(frame, root=root).label_names

    return measure


def alike(one: str, other: str) -> Made:
    def measure(root: Path) -> bool:
        class_folders(root / "train", [one])
        class_folders(root / "test", [other])
        return any("differ only in capitals" in note for note in read_catalogue(root).notes)

    return measure


FORM = "spaces or form of characters"


def similar(column: str, values: list[str]) -> Made:
    """The first note about names in a column that look alike."""

    def measure(root: Path) -> str:
        class_folders(root, ["a", "b"])
        frame = pd.DataFrame({"path": [f"{c}/{i}.png" for c in "ab" for i in (0, 1)], "label": ["a", "a", "b", "b"]})
        notes = read_catalogue(frame.assign(**{column: values}), root=root).notes
        return next((note.partition(":")[0] for note in notes if "differ only" in note), "")

    return measure


def nested(choice: Any) -> Made:
    def measure(root: Path) -> tuple[int, bool]:
        for path in ("Fruit/Apple/Granny", "Fruit/Apple/Pink", "Fruit/Pear", "Packages/Milk/Skim", "Vegetables/Leek"):
            class_folders(root / "train" / path, ["."])
        catalogue = read_catalogue(root, classes=choice)
        return len(catalogue.label_names), any("class folders contain folders" in note for note in catalogue.notes)

    return measure


def with_table(name: str, rows: int, *, labels: tuple[str, ...] = ("a", "b")) -> Made:
    """How many images are read where a table beside two class folders of 3 images names some of them."""

    def measure(root: Path) -> int:
        class_folders(root, ["a", "b"], images=3)
        paths = [f"{label}/{image}.png" for label in ("a", "b") for image in range(3)][:rows]
        lines = [f"{path},{labels[place % len(labels)]}" for place, path in enumerate(paths)]
        (root / name).write_text("\n".join(["path,label", *lines]) + "\n")
        return len(read_catalogue(root))

    return measure


def beside_two_classes(files: dict[str, str], **more: Any) -> Made:
    """What is read of two class folders of 2 images with these files beside them: the labels, how many images, and whether it is said."""

    def measure(root: Path) -> tuple[list[str], int, bool]:
        class_folders(root, ["a", "b"])
        for name, content in files.items():
            (root / name).write_text(content)
        catalogue = read_catalogue(root, **more)
        said = any("the class folders were read" in note for note in catalogue.notes)
        return catalogue.label_names, len(catalogue), said

    return measure


def in_folders(*folders: str, rows: Any, columns: str = "path,label", name: str = "list.csv", **more: Any) -> Made:
    """Two pictures in each folder beside a table of them: splits, roles, labels, and the numbers in the notes about what is left out.

    Args:
        rows: the cells after the path, by folder; a folder without any is not listed.
    """

    def measure(root: Path) -> tuple[dict[str, int], str, list[str], bool]:
        for folder in folders:
            class_folders(root / folder, ["."])
        lines = [f"{folder}/{image}.png,{cells}" for folder, cells in rows.items() for image in (0, 1)]
        (root / name).write_text("\n".join([columns, *lines]) + "\n")
        table = (catalogue := read_catalogue(root, **more)).table
        roles = table.get("is_query", pd.Series(dtype=bool)).sum(), table.get("is_gallery", pd.Series(dtype=bool)).sum()
        said = any(f"names {2 * len(rows)} of the {2 * len(folders)} images" in note for note in catalogue.notes)
        return dict(table["split"].value_counts()), "{}/{}".format(*roles), catalogue.label_names, said

    return measure


TRAIN_TEST = ("train/a", "train/b", "test/c", "test/d")
QUERY_GALLERY = ("query/a", "gallery/a", "query/b", "gallery/b")
OF_FOLDER = {folder: folder[-1] for folder in (*TRAIN_TEST, *QUERY_GALLERY)}


def listed(*folders: str, end: str = "") -> dict[str, str]:
    return {folder: OF_FOLDER.get(folder, folder[-1]) + end for folder in folders}


BOTH = {"train": 4, "test": 4}
ROLES = ({"test": 8}, "4/4", ["a", "b"], False)
TABLES = {
    "train and test": (in_folders(*TRAIN_TEST, rows=listed(*TRAIN_TEST)), (BOTH, "0/0", list("abcd"), False)),
    "other labels": (
        in_folders(*TRAIN_TEST, rows=listed(*TRAIN_TEST, end="x")),
        (BOTH, "0/0", ["ax", "bx", "cx", "dx"], False),
    ),
    "boxes": (
        in_folders(*TRAIN_TEST, rows=listed(*TRAIN_TEST, end=",0,0,5,5"), columns="path,label,x_1,y_1,x_2,y_2"),
        (BOTH, "0/0", list("abcd"), False),
    ),
    "read as a table": (
        in_folders(*TRAIN_TEST, rows=listed(*TRAIN_TEST), layout="table"),
        (BOTH, "0/0", list("abcd"), False),
    ),
    "a split column stays": (
        in_folders(*TRAIN_TEST, rows=listed(*TRAIN_TEST, end=",val"), columns="path,label,split"),
        ({"val": 8}, "0/0", list("abcd"), False),
    ),
    "query and gallery": (in_folders(*QUERY_GALLERY, rows=listed(*QUERY_GALLERY)), ROLES),
    "query and gallery, the split listed": (
        in_folders(*QUERY_GALLERY, rows=listed(*QUERY_GALLERY, end=",test"), columns="path,label,split"),
        ROLES,
    ),
    "splits without class folders": (
        in_folders("train", "test", rows={"train": "x", "test": "y"}),
        ({"train": 2, "test": 2}, "0/0", ["x", "y"], False),
    ),
    "one folder down": (
        in_folders("p/train/a", "p/test/c", rows={"p/train/a": "a", "p/test/c": "c"}),
        ({"train": 2, "test": 2}, "0/0", ["a", "c"], False),
    ),
    "a class called train": (
        in_folders("train", "bus", rows={"train": "x", "bus": "y"}),
        ({"all": 4}, "0/0", ["x", "y"], False),
    ),
    "the training classes alone": (
        in_folders(*TRAIN_TEST, rows={"train/a": "1", "train/b": "2"}, name="train.csv"),
        (BOTH, "0/0", list("abcd"), True),
    ),
    "whole classes renamed": (
        in_folders("a", "b", "c", rows={"a": "x", "b": "y"}),
        ({"all": 6}, "0/0", ["a", "b", "c"], True),
    ),
    "classes of several folders": (
        in_folders("a", "b", "c", rows={"a": "x", "b": "x"}),
        ({"all": 4}, "0/0", ["x"], True),
    ),
}
"""Tables in folders, and what is read: splits, queries/gallery, labels, and whether it is said how many images the table names."""

ALL_PATHS = "a/0.png\na/1.png\nb/0.png\nb/1.png\n"
LISTED = "path,label\n" + ALL_PATHS.replace(".png", ".png,z")


def numbers_of_splits(root: Path) -> bool:
    """A class has one number in the files of two splits."""
    class_folders(root / "train", ["a", "b", "c"])
    class_folders(root / "test", ["b", "c", "d"])
    whole = read_catalogue(root)
    numbers = []
    for split in ("train", "test"):
        part = whole.select(split)
        table = number_classes(embed(MeanColour(), part), part, whole)
        numbers.append(dict(zip(part.table["label"], table.labels.tolist(), strict=True)))
    return all(numbers[0][name] == numbers[1][name] for name in ("b", "c"))


class Looking:
    """A subject of a protocol: mean colours of a table's pictures."""

    trained: frozenset[str] | None = frozenset()
    split: str | None = None

    def __init__(self, source: Path) -> None:
        self.source: Path | None = source

    def catalogue(self) -> Catalogue:
        return read_catalogue(self.source)  # type: ignore[arg-type]  # always given here

    def embed(self, images: Catalogue, *, mirrored: bool = False) -> Embeddings:
        return embed(MeanColour(), images, mirrored=mirrored)


def both_splits(root: Path) -> Path:
    """Eight pictures of noise in train and in test, and four more in train; labels tell nothing."""
    frame = noise(root)
    more = [flat(root / f"more{i}.png", (250, 250, 10 * i)).name for i in range(4)]
    rest = pd.DataFrame({"path": more, "label": [f"class{i}" for i in range(4)]})
    whole = pd.concat([frame.assign(split="train"), rest.assign(split="train"), frame.assign(split="test")])
    whole.to_csv(root / "table.csv", index=False)
    return root / "table.csv"


def probed(root: Path) -> list[Any]:
    data = probe_data(Looking(both_splits(root)), "knn")
    return [len(data.train), len(data.test), list(data.notes)]


def nothing_to_learn(root: Path) -> bool:
    frame = noise(root)
    both = pd.concat([frame.assign(split="train"), frame.assign(split="test")])
    both.to_csv(root / "table.csv", index=False)
    with pytest.raises(DataError, match="every picture of train is in test too"):
        probe_data(Looking(root / "table.csv"), "knn")
    return True


REPEATED = "8 rows that repeat a picture, or name it under two labels, left out"


def drawn(frame: Callable[[Path], pd.DataFrame], **settings: Any) -> Made:
    """Pairs of a protocol: how many, and whether two rows of a pair show one picture."""

    def measure(root: Path) -> list[Any]:
        frame(root).to_csv(root / "table.csv", index=False)
        chosen = {name: str(root / value) if name == "pairs" else value for name, value in settings.items()}
        scores = run_pairs(Looking(root / "table.csv"), PairSettings(**chosen, flip="none"))
        return [scores.parts[0].counts["same_pairs"], [note for note in scores.notes if "left out" in note]]

    return measure


def noise_twice(root: Path) -> pd.DataFrame:
    frame = noise(root)
    (root / "pairs.csv").write_text(
        "a,b,same\n" + "".join(f"{i}.png,{i + 4}.png,1\n{i}.png,{i + 1}.png,0\n" for i in range(4))
    )
    return pd.concat([frame, frame])


SETS = [
    pytest.param(splits_linked("val", "test"), {"val": 4, "test": 4}, id="A10 val and test"),
    pytest.param(splits_linked("query", "gallery"), {"query": 4, "gallery": 4}, id="A10 query and gallery"),
    pytest.param(loop, 4, id="A10 a link to an ancestor"),
    *(
        pytest.param(beside_classes(name), ["a", "b", "4"], id=f"A11 {name}")
        for name in (
            *("@eaDir", "$RECYCLE.BIN", "System Volume Information", "lost+found", "__MACOSX", ".Trashes", "@__thumb"),
            *("#recycle", "LOST.DIR", "Network Trash Folder", "found.000", "FOUND.001", "~snapshot", "@SynoResource"),
            *("_gsdata_",),
            *("System Volume Information ", "$RECYCLE.BIN. ", " lost+found"),
        )
    ),
    pytest.param(forms("folders"), ["3", "mixed"], id="A12 folders"),
    pytest.param(forms("table"), ["1", "mixed"], id="A12 table"),
    *(
        pytest.param(alike(*names), True, id=f"A12 {names}")
        for names in (
            *(("Mug", "mug"), ("tea cup", "tea_cup"), ("\N{FULLWIDTH DIGIT ONE}", "1"), ("1", "01"), ("1", "1.0")),
            *(("mug", "mug\N{ZERO WIDTH SPACE}"), ("tea-cup", "tea\N{NON-BREAKING HYPHEN}cup")),
        )
    ),
    *(
        pytest.param(labels_of(values), right, id=f"A12 numbers {values}")
        for values, right in (
            ([1, 1.0, "x"], ["1", "x"]),
            ([np.float32(2), 2, "y"], ["2", "y"]),
            ([Decimal("3.0"), 3, 3.5], ["3", "3.5"]),
            (["1", "01", "1.0"], ["01", "1", "1.0"]),
        )
    ),
    *(
        pytest.param(
            similar(column, values), words and f"2 {words} differ only in capitals, {FORM}", id=f"A12 {values}"
        )
        for column, values, words in (
            ("split", ["train", "train", "train\N{ZERO WIDTH SPACE}", "test"], "splits"),
            ("sequence", ["cam1", "cam2", "Cam1", "cam3"], "sequences"),
            ("category", ["7", "8", "07", "9"], "categories"),
            ("sequence", ["1", "2", "3", "10"], ""),
        )
    ),
    pytest.param(labels_of(["1" * 5000, "1" * 4999, "2"]), ["2", "1" * 4999, "1" * 5000], id="A12 long numbers"),
    pytest.param(nested("top"), (3, True), id="A13 top"),
    pytest.param(nested("leaf"), (5, True), id="A13 leaf"),
    pytest.param(with_table("suspects.csv", 2), 6, id="A14 suspects.csv"),
    pytest.param(with_table("classes.csv", 6), 6, id="A14 classes.csv"),
    pytest.param(with_table("some.csv", 4), 6, id="A14 a part"),
    pytest.param(with_table("some.csv", 1, labels=("z",)), 6, id="A14 one row"),
    pytest.param(with_table("all.csv", 6), 6, id="A14 all"),
    *(pytest.param(measure, right, id=f"A14 {name}") for name, (measure, right) in TABLES.items()),
    *(
        pytest.param(several(cells), True, id=f"E14 {cells[0]!r}")
        for cells in (["x;y", "x"], [["x", "y"], ["x"]], [np.array(["x", "y"]), "x"], ['["red", "apple"]', "x"])
    ),
    pytest.param(several(["[x]", "Cup (red, big)"]), False, id="E14 names in brackets"),
    pytest.param(links_inside(5), (4, False), id="A10 links inside each other"),
    pytest.param(links_that_meet, True, id="A10 links that meet below others"),
    *(pytest.param(names_as_typed(form), [2, 2, 2], id=f"A12 asked for in {form}") for form in ("NFC", "NFD")),
    pytest.param(groups_of_splits, [[0, 1], [0, 2]], id="A13 a sequence has one number in the files of two splits"),
    *(
        pytest.param(
            beside_two_classes({"files.csv": text}, labels="optional"), (["a", "b"], 4, True), id=f"A14 {name}"
        )
        for name, text in {
            "paths of all": f"path\n{ALL_PATHS}",
            "paths of a class": "path\na/0.png\na/1.png\n",
            "empty labels": "path,label\n" + ALL_PATHS.replace(".png", ".png,"),
        }.items()
    ),
    *(
        pytest.param(
            beside_two_classes({"list.csv": LISTED, other: LISTED}, **more), (["z"], 4, False), id=f"A14 {other} {more}"
        )
        for other in ("suspects.csv", "Classes.CSV", "PATCH.csv")
        for more in ({}, {"layout": "table"})
    ),
    pytest.param(
        beside_two_classes({"list.csv": LISTED, "files.csv": f"path\n{ALL_PATHS}"}, labels="optional"),
        (["z"], 4, False),
        id="A14 a table of labels beside one of paths",
    ),
    pytest.param(numbers_of_splits, True, id="A15"),
    pytest.param(probed, [4, 8, ["8 rows of train left out: test has the same pictures"]], id="A1 probes"),
    pytest.param(nothing_to_learn, True, id="A1 probes of one set"),
    pytest.param(drawn(noise), [4, []], id="A1 pairs of labels"),
    pytest.param(drawn(noise_twice), [4, [REPEATED]], id="A1 pairs of labels, listed twice"),
    pytest.param(drawn(noise_twice, pairs="pairs.csv"), [4, []], id="A1 listed pairs, listed twice"),
]


# Pixels.


def jpeg_called(name: str) -> Made:
    def measure(root: Path) -> tuple[int, int]:
        class_folders(root, ["a", "b"])
        Image.new("RGB", (12, 10)).save(root / "x", "JPEG")
        (root / "x").rename(root / "a" / name)
        return len(read_catalogue(root)), len(check(root).unreadable)

    return measure


def gray(values: Any) -> Made:
    """The smallest and largest level of a TIFF of these values."""

    def measure(root: Path) -> tuple[int, int]:
        Image.fromarray(np.asarray(values)).save(root / "x.tif")
        pixels = read_image(root / "x.tif")
        return int(pixels.min()), int(pixels.max())

    return measure


def with_over(side: int, count: int) -> Any:
    """Shares of a square, some of them a little over."""
    values = np.linspace(0, 1, side * side, dtype=np.float32)
    values[-count:] = 1.001
    return values.reshape(side, side)


RAMP = np.linspace(0, 1, 10_000, dtype=np.float32).reshape(100, 100)
PIXELS = [
    pytest.param(jpeg_called("photo.HEIC"), (5, 0), id="A16 a JPEG called HEIC"),
    pytest.param(jpeg_called("photo.heif"), (5, 0), id="A16 a JPEG called heif"),
    pytest.param(gray(RAMP), (0, 255), id="A17 shares"),
    pytest.param(gray(np.where(RAMP == 1, np.float32(1.001), RAMP)), (0, 255), id="A17 one value over"),
    pytest.param(gray(np.where(RAMP == 0, np.float32(-0.001), RAMP)), (0, 255), id="A17 one value under"),
    *(
        pytest.param(gray(values), (0, 255), id=f"A17 {name}")
        for name, values in {
            "one of 64 over": with_over(8, 1),
            "two of 1024 over": with_over(32, 2),
            "five of 4096 over": with_over(64, 5),
            "a ramp that overshoots": 1.02 * RAMP,
            "a filter that overshoots": 1.5 * RAMP - 0.25,
        }.items()
    ),
    pytest.param(gray(40 * RAMP), (0, 40), id="A17 dark gray levels"),
    pytest.param(gray(np.full((9, 9), 0.5, np.float32)), (128, 128), id="A17 uniform"),
    pytest.param(gray(np.zeros((9, 9), np.int32)), (0, 0), id="A17 uniform whole numbers"),
    pytest.param(gray(np.full((9, 9), -3e9, np.float32)), (0, 0), id="A17 uniform, no known scale"),
]


@pytest.mark.parametrize(("measure", "right"), [*REPEATS, *CHANGED, *NUMBERS, *BOXES, *SETS, *PIXELS])
def test_no_silent_fault(measure: Made, right: Any, tmp_path: Path) -> None:
    assert measure(tmp_path) == right


def test_a_class_has_one_number_in_the_files_of_two_evaluations(run: Path, data: Path, tmp_path: Path) -> None:
    """A15: the classes of train and test of the same run, as `cosphere evaluate` writes them."""
    own = RunFolder(Path(shutil.copytree(run, tmp_path / "run")))
    names: dict[str, int] = {}
    for split in ("train", "test"):
        evaluate_run(own.path, split=split, settings=ONLY_RECALL, tables=False, device="cpu")
        table = Embeddings.load(own.embeddings(split))
        names |= {Path(path).parent.name: label for path, label in zip(table.paths, table.labels.tolist(), strict=True)}
        assert [table.class_names[label] for label in table.labels] == [Path(path).parent.name for path in table.paths]
    assert names == {name: number for number, name in enumerate("abcdefuvwxyz")}


def test_an_audit_finds_one_picture_in_two_splits(run: Path, data: Path, tmp_path: Path) -> None:
    """A1: rows are told apart by row, not by path; a patch cannot remove one of two rows of one name and label."""
    frame = pd.DataFrame(
        [(str(path), path.parent.name) for path in sorted((data / "train").rglob("*.png"))], columns=["path", "label"]
    )
    (tmp_path / "broken.png").write_bytes(b"no picture")
    frame.loc[len(frame)] = [str(tmp_path / "broken.png"), "a"]
    pd.concat([frame.assign(split="train"), frame.assign(split="test")]).to_csv(tmp_path / "table.csv", index=False)
    found = audit(tmp_path / "table.csv", run, out=tmp_path / "out", device="cpu", max_unreadable=0.2)
    assert found.splits.tolist() == ["train"] * 12 + ["test"] * 12
    same = [pair for pair in found.findings.duplicates if found.names[pair.first] == found.names[pair.second]]
    assert sorted((pair.first, pair.second) for pair in same) == [(row, row + 12) for row in range(12)]
    assert {(pair.likeness, pair.across_splits, pair.across_classes) for pair in same} == {(1.0, True, False)}
    reasons = {(one.action, one.reason) for one in found.changes if "listed in" in one.reason}
    assert reasons == {("keep", "listed in split train and in split test; change the table by hand")}


@pytest.mark.parametrize(
    ("before", "said"),
    [
        ({}, None),
        ({"bits": True}, "--bits true and the trained ones with false"),
        ({"ties": "pessimistic"}, "--ties pessimistic and the trained ones with none"),
        ({"group_rule": "same_class"}, "--group_rule same_class and the trained ones with any_class"),
    ],
)
@pytest.mark.parametrize("untrained_first", [True, False])
def test_an_improvement_is_of_scores_that_were_measured_alike(
    untrained_first: bool, before: dict[str, Any], said: str | None, run: Path, tmp_path: Path
) -> None:
    """A2: `scores.json` set the untrained bits beside the trained floats."""
    own, notes = Path(shutil.copytree(run, tmp_path / "run")), Notes()
    for untrained in (untrained_first, not untrained_first):
        settings = replace(ONLY_RECALL, **(before if untrained else {}))
        evaluate_run(own, untrained=untrained, settings=settings, tables=False, device="cpu", listener=notes)
    content = read_json(own / "scores.json", what="scores")
    assert ("baseline_scores" in content) == (said is None)
    assert [note for note in notes.heard if "untrained scores were measured" in note] == (
        [] if said is None else [f"the untrained scores were measured with {said}, so they are not set beside these"]
    )


class Notes(Listener):
    """Keeps what it is told."""

    def __init__(self) -> None:
        self.heard: list[str] = []

    def note(self, text: str) -> None:
        self.heard.append(text)


def test_what_was_embedded_of_one_split_is_not_taken_for_another(run: Path, data: Path, tmp_path: Path) -> None:
    """E1: the two files of a source, each under the other's name."""
    own = Path(shutil.copytree(run, tmp_path / "run"))
    shutil.rmtree(own / "embeddings", ignore_errors=True)
    before = [embed_images(own, data, split=split, device="cpu").paths for split in ("train", "test")]
    one, other = (own / "embeddings" / "cache" / "sources").glob("*.npz")
    aside = other.rename(tmp_path / "aside.npz")
    one.rename(other)
    aside.rename(one)
    assert [embed_images(own, data, split=split, device="cpu").paths for split in ("train", "test")] == before


def test_a_report_shows_scores_of_the_embeddings_that_are_there(run: Path, data: Path, tmp_path: Path) -> None:
    """A2: a file of another evaluation, as where one was copied or an evaluation was killed between its two files."""
    own = Path(shutil.copytree(run, tmp_path / "run"))
    evaluate_run(own, data, split="test", settings=ONLY_RECALL, tables=False, device="cpu")
    table = Embeddings.load(own / "embeddings" / "test.npz")
    replace(table.rows(slice(0, 6)), fingerprint="another").save(own / "embeddings" / "test.npz")
    shown = report_data_from_run(own)
    assert shown.scores["data"]["images"] == 6


def test_pictures_that_were_trained_on_are_said(run: Path, data: Path, tmp_path: Path) -> None:
    """F8: under other labels, so that no class has the name of a trained one; by a link, too."""
    rows = [(str(path), path.parent.name, "train") for path in sorted((data / "train").rglob("*.png"))]
    (tmp_path / "linked").symlink_to(data / "train")
    rows += [
        (str(tmp_path / "linked" / Path(path).relative_to(data / "train")), f"new {label}", "test")
        for path, label, _ in rows[:5]
    ]
    rows += [(str(path), path.parent.name, "test") for path in sorted((data / "test").rglob("*.png"))]
    pd.DataFrame(rows, columns=["path", "label", "split"]).to_csv(tmp_path / "table.csv", index=False)
    own, notes = Path(shutil.copytree(run, tmp_path / "run")), Notes()
    TrainSettings.read(own / "config.yaml").with_values({"data.validation_share": 0}).write(own / "config.yaml")
    evaluate_run(own, tmp_path / "table.csv", settings=ONLY_RECALL, tables=False, device="cpu", listener=notes)
    text = "are among the images that the model was trained on, which flatters it"
    assert [note for note in notes.heard if text in note] == [f"5 of 17 images here {text}"]
    calibrated = calibrate_run(own, tmp_path / "table.csv", far=0.3, split="test", device="cpu").notes
    assert f"5 of 17 images here {text}" in calibrated


def test_a_model_begun_from_another_knows_what_that_was_trained_on(run: Path, tmp_path: Path) -> None:
    """F8: classes of the run that another was fine-tuned from were new to nobody."""
    first = Embedder.load(run)
    first.provenance = {**first.provenance, "data": {"classes": ["u"]}, "classes_before": ["a"]}
    first.save(tmp_path / "first")
    second = build_embedder(replace(first.settings, weights=str(tmp_path / "first")), image_size=32)
    assert trained_classes(second.provenance) == {"u", "a"}


def test_other_weights_have_no_calibration(run: Path) -> None:
    """A18: the threshold of a model is not that of the weights that are loaded into it."""
    model = Embedder.load(run)
    rows = np.random.default_rng(0).normal(size=(20, 8)).astype(np.float32)
    model.calibration = calibrate(rows, np.arange(20) // 2, far=0.3)
    model.load_state_dict(Embedder.load(run).state_dict())
    assert model.calibration is None


def one_class_only(_: Path) -> list[str]:
    rows, labels = np.random.default_rng(0).normal(size=(6, 4)).astype(np.float32), np.zeros(6, dtype=np.int64)
    images = Embeddings(embeddings=rows, labels=labels, paths=tuple("abcdef"), class_names=("a",))
    return [note for note in score_embeddings(images, ONLY_RECALL).notes if "cannot fail" in note]


def test_scores_that_no_model_can_miss_are_named(tmp_path: Path) -> None:
    """A5: images of one class score 100 % whatever the model."""
    words = (
        "6 of 6 queries rank images of one class alone and cannot fail, so these scores say nothing of the model there."
    )
    assert one_class_only(tmp_path) == [words]


def test_a_table_names_the_level_of_its_intervals(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A22: the head said 95 % whatever level was asked for."""
    own = str(shutil.copytree(run, tmp_path / "run"))
    words = ["--level", "0.9", "--bootstrap_samples", "20", "--clustering", "false", "--device", "cpu"]
    assert main(["evaluate", own, *words]) == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert "90 % interval" in shown
    assert "95 %" not in shown


def test_the_default_clustering_says_what_it_costs() -> None:
    """A21: one start from random rows finds worse clusters than the papers' ten, and the scores say so."""
    draw = np.random.default_rng(0)
    rows = draw.normal(size=(200, 8)) + 0.6 * draw.normal(size=(40, 8)).repeat(5, axis=0)
    images = Embeddings(
        embeddings=rows.astype(np.float32),
        labels=np.arange(40).repeat(5),
        paths=tuple(f"/{i}" for i in range(200)),
        class_names=tuple(f"c{i}" for i in range(40)),
    )
    scores = score_embeddings(images, EvaluationSettings(bootstrap_samples=0))
    assert any("one k-means start from random rows" in note for note in scores.notes)
    assert clustering(rows, np.arange(40).repeat(5), restarts=10).objective <= scores.clustering.objective  # type: ignore[union-attr]
    for settings in (EvaluationSettings(clustering_preset="norm_softmax"), EvaluationSettings(clustering=False)):
        notes = score_embeddings(images, EvaluationSettings(**{**vars(settings), "bootstrap_samples": 0})).notes
        assert not any("k-means start" in note for note in notes)
