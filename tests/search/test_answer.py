from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from cosphere.embeddings import Embeddings
from cosphere.errors import SettingsError, SizeError
from cosphere.models import Calibration
from cosphere.search import Index, Refinement, k_reciprocal_search, refining
from cosphere.search.answer import MEASURES, WHOLE_KINDS, answer
from cosphere.search.exact import Neighbours
from cosphere.search.kinds import KINDS

COLOURS = {"red/0": (250, 10, 10), "red/1": (240, 40, 0), "green/0": (10, 250, 10), "blue/0": (0, 40, 255)}


class MeanColour:
    """Encodes a picture as its mean colour."""

    def __init__(self, threshold: float | None = None) -> None:
        self.calibration = None if threshold is None else calibrated(threshold)

    def encode(self, pictures: Any, batch_size: int = 64) -> Any:
        rows = [np.asarray(p if isinstance(p, Image.Image) else Image.open(p)).mean(axis=(0, 1)) for p in pictures]
        return np.array(rows, dtype=np.float32)


def calibrated(threshold: float) -> Calibration:
    return Calibration(
        threshold=threshold,
        wanted_far=0.001,
        far=0.001,
        tar=None,
        threshold_interval=(0, 1),
        far_interval=(0, 1),
        tar_interval=None,
        level=0.95,
        different_pairs=10,
        same_pairs=0,
        classes=3,
        images=4,
    )


@pytest.fixture
def gallery(tmp_path: Path) -> Embeddings:
    for name, colour in COLOURS.items():
        path = tmp_path / f"{name}.png"
        path.parent.mkdir(exist_ok=True)
        Image.new("RGB", (4, 4), colour).save(path)
    return Embeddings(
        embeddings=np.array(list(COLOURS.values()), dtype=np.float32),
        labels=np.array([0, 0, 1, 2]),
        paths=tuple(str(tmp_path / f"{name}.png") for name in COLOURS),
        class_names=("red", "green", "blue"),
    )


def cosine(first: str, second: str) -> float:
    a, b = np.array(COLOURS[first], float), np.array(COLOURS[second], float)
    return float(a @ b / np.sqrt(a @ a * (b @ b)))


def test_the_nearest_images_without_the_query_itself(gallery: Embeddings, tmp_path: Path) -> None:
    outside = tmp_path / "copy.png"
    outside.write_bytes(Path(gallery.paths[3]).read_bytes())
    inside, other = answer([gallery.paths[0], outside], MeanColour(), gallery, 2)
    assert [hit.row for hit in inside.hits] == [1, 2]
    assert [hit.label for hit in inside.hits] == ["red", "green"]
    assert [hit.path for hit in inside.hits] == [gallery.paths[1], gallery.paths[2]]
    assert [hit.score for hit in inside.hits] == pytest.approx([cosine("red/0", "red/1"), cosine("red/0", "green/0")])
    assert (inside.own_rows, inside.own_label, inside.measure) == ((0,), "red", "cosine")
    assert inside.notes == ("0.png is one of the images, so it is left out; its label is 'red'",)
    assert [hit.row for hit in other.hits] == [3, 2]
    assert other.hits[0].score == pytest.approx(1.0)
    assert (other.own_rows, other.own_label, other.notes) == ((), None, ())
    assert {hit.same for hit in inside.hits} == {None}


def test_every_row_of_the_query_file_is_left_out(gallery: Embeddings, tmp_path: Path) -> None:
    link = tmp_path / "link.png"
    link.symlink_to(gallery.paths[0])
    paths = (gallery.paths[0], str(link), *gallery.paths[2:])
    twice = dataclasses.replace(gallery, paths=paths)
    files = tuple(str(Path(path).resolve()) for path in paths)
    for table in (twice, dataclasses.replace(twice, files=files)):
        for query in (gallery.paths[0], link):
            (found,) = answer([query], MeanColour(), table, 2)
            assert found.own_rows == (0, 1)
            assert [hit.row for hit in found.hits] == [2, 3]


def test_fewer_hits_for_deleted_rows_are_said(gallery: Embeddings) -> None:
    index = Index.build(gallery.embeddings)
    index.delete([1, 2])
    (found,) = answer([gallery.paths[0]], MeanColour(), gallery, 3, index=index)
    assert [hit.row for hit in found.hits] == [3]
    assert "1 hit instead of 3: 2 rows of the index are deleted" in found.notes
    (enough,) = answer([gallery.paths[0]], MeanColour(), gallery, 1, index=index)
    assert not any("deleted" in note for note in enough.notes)


def test_a_picture_in_memory_is_not_recognised(gallery: Embeddings) -> None:
    (found,) = answer([Image.open(gallery.paths[0])], MeanColour(), gallery, 1)
    assert [hit.row for hit in found.hits] == [0]


def test_the_threshold_marks_hits_of_whole_embeddings_only(gallery: Embeddings) -> None:
    model = MeanColour(threshold=0.9)
    (found,) = answer([gallery.paths[0]], model, gallery, 2)
    assert [hit.same for hit in found.hits] == [True, False]
    rule = (
        "cosine 0.900, a false accept rate of 0.1 % of pairs, 0 to 100 % with other classes: about 0.004 (0 to 4) wrong images for "
        "each query among 4"
    )
    assert found.notes[0] == f"1 of 2 above the threshold ({rule}); hits below it are marked as unknown"
    (none,) = answer([gallery.paths[2]], model, gallery, 2)
    assert none.notes[0] == f"none is above the threshold ({rule}): no known class matches the query"
    model.calibration = dataclasses.replace(model.calibration, tested_far=0.25)
    (measured,) = answer([gallery.paths[2]], model, gallery, 2)
    assert "a false accept rate of 25 % of pairs, measured on test images: about 1 wrong images" in measured.notes[0]
    model.calibration = dataclasses.replace(model.calibration, tested_far=0.0, tested_pairs=49)
    (unseen,) = answer([gallery.paths[2]], model, gallery, 2)
    rule = "0 % of pairs, none of 49 on test images, which allows up to 7.3 %: about 0 (0 to 0.29) wrong images for"
    assert rule in unseen.notes[0]
    model.calibration = dataclasses.replace(model.calibration, tested_pairs=None)  # as earlier versions stored it
    (unknown,) = answer([gallery.paths[2]], model, gallery, 2)
    assert "0.1 % of pairs, 0 to 100 % with other classes" in unknown.notes[0]
    (bits,) = answer([gallery.paths[0]], model, gallery, 2, kind="bits")
    assert [hit.same for hit in bits.hits] == [None, None]
    assert bits.notes[0].startswith("index of kind bits, 1 byte an image: ")
    assert "nothing is marked as unknown by kind bits" in bits.notes[1]


def test_an_index_of_the_gallery_is_used_as_it_is(gallery: Embeddings) -> None:
    index = Index.build(gallery.embeddings, "float16")
    (found,) = answer([gallery.paths[0]], MeanColour(), gallery, 1, index=index)
    assert found.measure == MEASURES["float16"]
    assert found.notes[0].startswith("index of kind float16")


def test_every_kind_names_its_scores() -> None:
    assert set(MEASURES) == set(KINDS)
    assert {kind for kind, measure in MEASURES.items() if measure == "cosine"} == set(WHOLE_KINDS)


@pytest.mark.parametrize("k", [0, -1, True])
def test_k_is_a_number_of_images(gallery: Embeddings, k: int) -> None:
    with pytest.raises(SettingsError, match="k must be a whole number >= 1"):
        answer([gallery.paths[0]], MeanColour(), gallery, k)


def test_k_fits_the_gallery(gallery: Embeddings, tmp_path: Path) -> None:
    with pytest.raises(SizeError, match=r"from 1 to 3 neighbours \(gallery of 4, itself left out\)"):
        answer([gallery.paths[0]], MeanColour(), gallery, 4)
    with pytest.raises(SettingsError, match="no index of kind 'bit'"):
        answer([tmp_path / "none.png"], MeanColour(), gallery, 1, kind="bit")
    with pytest.raises(SettingsError, match="wanted_recall must be a number"):
        answer([tmp_path / "none.png"], MeanColour(), gallery, 1, wanted_recall=3)


def colours(values: list[tuple[int, int, int]], labels: list[int], folder: Path) -> Embeddings:
    for row, colour in enumerate(values):
        Image.new("RGB", (4, 4), colour).save(folder / f"{row}.png")
    return Embeddings(
        embeddings=np.array(values, dtype=np.float32),
        labels=np.array(labels),
        paths=tuple(str(folder / f"{row}.png") for row in range(len(values))),
        class_names=("red", "green", "blue"),
    )


REDS = [(250, 0, 0), (249, 1, 0), (248, 2, 0), (200, 60, 0), (120, 120, 0), (0, 250, 0), (0, 0, 250)]


def test_one_hit_of_each_class_or_of_each_picture(tmp_path: Path) -> None:
    images = colours(REDS, [0, 0, 0, 0, 1, 1, 2], tmp_path)
    (found,) = answer([images.paths[0]], MeanColour(), images, 3, refine=Refinement(per_label=1))
    assert [hit.row for hit in found.hits] == [1, 4, 6]
    assert list(found.by_label()) == ["red", "green", "blue"]
    (found,) = answer([images.paths[0]], MeanColour(), images, 3, refine=Refinement(collapse=0.99))
    assert [(hit.row, hit.alike) for hit in found.hits] == [(1, 1), (3, 0), (4, 0)]
    assert "1 near duplicate of these is not shown" in found.notes
    (few,) = answer([images.paths[0]], MeanColour(), images, 6, refine=Refinement(per_label=1, collapse=0.99))
    assert [hit.row for hit in few.hits] == [1, 4, 6]  # no more are there
    (plain,) = answer([images.paths[0]], MeanColour(), images, 6)
    assert [len(hits) for hits in plain.by_label().values()] == [3, 2, 1]


def test_expanded_and_re_ranked_answers_leave_the_query_out_and_mark_nothing(tmp_path: Path) -> None:
    images = colours(REDS, [0, 0, 0, 0, 1, 1, 2], tmp_path)
    model = MeanColour(threshold=0.9)
    for refine, measure in ((Refinement(expand=2, alpha=0), "cosine"), (Refinement(reciprocal=True), "re-ranked")):
        (found,) = answer([images.paths[0]], model, images, 6, refine=refine)
        assert sorted(hit.row for hit in found.hits) == [1, 2, 3, 4, 5, 6]
        assert found.hits[0].row in (1, 2)
        assert {hit.same for hit in found.hits} == {None}
        assert found.measure == measure
        assert "nothing is marked as unknown by a refined search" in found.notes[0]
    (expanded,) = answer([images.paths[0]], model, images, 1, refine=Refinement(expand=2, alpha=0))
    rows = images.embeddings / np.linalg.norm(images.embeddings, axis=1, keepdims=True)
    mean = rows[0] + rows[1] + rows[2]
    assert expanded.hits[0].score == pytest.approx(float((rows @ mean / np.linalg.norm(mean))[1:].max()))


@pytest.mark.parametrize("kind", ["exact", "bits"])
def test_a_shortlist_is_re_ranked_and_the_others_follow(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where classes are fewer than k, so that ever more rows are looked at: re-ranking takes the square of its rows."""
    monkeypatch.setattr("cosphere.search.refining.SHORTLIST", 20)
    monkeypatch.setattr("cosphere.search.answer.RECIPROCAL", 20)
    rows = np.random.default_rng(0).integers(1, 250, (300, 3)).astype(np.float32)
    images = Embeddings(
        embeddings=rows,
        labels=np.where(
            np.arange(300) == np.argmin(rows @ [1, 0, 0] / np.linalg.norm(rows, axis=1)), 2, np.arange(300) % 2
        ),
        paths=tuple(map(str, range(300))),
        class_names=("one", "two", "rare"),
    )
    sizes = []

    def watched(query: Any, gallery: Any, *, k: int) -> Neighbours:
        sizes.append(len(gallery))
        return k_reciprocal_search(query, gallery, k=k)

    monkeypatch.setattr(refining, "k_reciprocal_search", watched)
    query = Image.new("RGB", (2, 2), (255, 0, 0))
    refine = Refinement(reciprocal=True)
    (few,) = answer([query], MeanColour(), images, 8, kind=kind, refine=dataclasses.replace(refine, per_label=1))
    assert {hit.label for hit in few.hits} == {"one", "two", "rare"}
    (every,) = answer([query], MeanColour(), images, 300, kind=kind, refine=refine)
    assert set(sizes) == {20}
    cosines = rows[:, 0] / np.linalg.norm(rows, axis=1)
    near = np.argsort(-cosines, kind="stable")
    if kind == "bits":  # all colours have the same signs
        near = np.arange(300)
    best = k_reciprocal_search(np.array([[1.0, 0, 0]]), rows[near[:20]], k=20)
    scores = dict(zip(near[best.ids[0].numpy()].tolist(), best.scores[0].tolist(), strict=True))
    scores |= {row: 0.3 * (1 - (1 - cosines[row]) / (1 - cosines[near[:20]].min())) for row in near[20:].tolist()}
    assert [hit.score for hit in every.hits] == pytest.approx(sorted(scores.values(), reverse=True), abs=1e-5)
    assert [hit.score for hit in every.hits] == pytest.approx([scores[hit.row] for hit in every.hits], abs=1e-5)
    assert len({hit.row for hit in every.hits}) == 300
    if kind == "exact":
        assert [hit.row for hit in every.hits[20:]] == near[20:].tolist()


def test_a_short_shortlist_hides_nothing(tmp_path: Path) -> None:
    images = colours(REDS, [0, 0, 0, 0, 1, 1, 2], tmp_path)
    exact = [hit.row for hit in answer([images.paths[0]], MeanColour(), images, 6)[0].hits]
    index = Index.build(images.embeddings, "rerank", shortlist=2)
    for how in ({"kind": "rerank", "shortlist": 1}, {"index": index}):
        (found,) = answer([images.paths[0]], MeanColour(), images, 6, **how)
        assert [hit.row for hit in found.hits] == exact
        (thinned,) = answer([images.paths[0]], MeanColour(), images, 3, refine=Refinement(per_label=1), **how)
        assert [hit.row for hit in thinned.hits] == [1, 4, 6]


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"expand": -1}, "expand must be a whole number from 0 to 1000; got -1"),
        ({"alpha": 101}, "alpha must be a number >= 0 and at most 100"),
        ({"reciprocal": 1}, "reciprocal must be true or false; got 1"),
        ({"per_label": 0}, "per_label must be a whole number >= 1; got 0"),
        ({"collapse": 1.1}, "collapse must be a number above 0 and at most 1"),
    ],
)
def test_refinements_out_of_range(settings: dict[str, Any], words: str) -> None:
    with pytest.raises(SettingsError, match=words):
        Refinement(**settings)


def test_neither_deleted_rows_nor_own_ones_are_averaged_with_a_query() -> None:
    rows = np.random.default_rng(2).normal(size=(12, 6))
    queries, dead, own = rows[:2] + 0.01, np.zeros(12, dtype=bool), [(0, 3, 4), ()]
    dead[[1, 4, 5]] = True
    found = Refinement(expand=3, alpha=2).query_rows(queries, rows, own, dead)
    units = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    for query, left_out, one in zip(queries, own, np.asarray(found), strict=True):
        unit = query / np.linalg.norm(query)
        others = [row for row in range(12) if not dead[row] and row not in left_out]
        near = sorted(others, key=lambda row: -float(units[row] @ unit))[:3]
        mean = unit + sum(max(float(units[row] @ unit), 0) ** 2 * units[row] for row in near)
        assert np.allclose(one, mean / np.linalg.norm(mean), atol=1e-5)
    everything = Refinement(expand=9).query_rows(queries, rows, [tuple(range(12)), ()], dead)
    assert np.array_equal(everything, queries)
