from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from mean_colour import MeanColour
from PIL import Image

from cosphere.codes import to_bits
from cosphere.data import Catalogue, read_catalogue
from cosphere.errors import DataError, SettingsError, SizeError
from cosphere.evaluate import (
    Embeddings,
    EvaluationSettings,
    bootstrap,
    clustering,
    evaluate,
    retrieval,
    score_embeddings,
)
from cosphere.evaluate.statistics import bootstrap_classes


def test_from_images_to_scores(embedder: Any, catalogue: Catalogue) -> None:
    """Red, green and dark images are each nearest to their own kind; the lonely one has nothing to find."""
    found = evaluate(embedder, catalogue, EvaluationSettings(ks=(1, 2)), batch_size=4)
    assert found.value("recall@1") == 1.0
    assert found.value("map@r") == 1.0
    assert (found.images, found.classes) == (10, 4)
    assert found.notes[0] == "Left out: 1 of 10 queries, with no other image of their class to find."
    assert found.notes[1].startswith("NMI and F1 come from one k-means start from random rows")
    assert len(found.notes) == 2
    content = json.loads(json.dumps(found.as_dict(), allow_nan=False))
    assert content["scores"]["recall@2"] == {"value": 1.0, "low": 1.0, "high": 1.0}
    assert set(content["scores"]) == {
        "recall@1",
        "recall@2",
        "map@r",
        "r_precision",
        *("nmi", "nmi_geometric", "ami", "f1", "purity"),
    }
    assert content["scores"]["nmi"] == {"value": found.value("nmi"), "low": None, "high": None}
    assert content["data"] == {
        "fingerprint": catalogue.fingerprint(),
        "images": 10,
        "classes": 4,
        "queries": 9,
        "queries_skipped": 1,
    }
    assert content["evaluation"]["ks"] == [1, 2]
    assert content["evaluation"]["group_rule"] == "any_class"
    lengths = np.linalg.norm(found.embeddings.embeddings.astype(float), axis=1)
    assert content["norms"] == pytest.approx(
        {"mean": lengths.mean(), "variance": lengths.var(), "cv": lengths.std() / lengths.mean()}, rel=1e-4
    )
    assert content["clustering"] == {
        "method": "faiss k-means",
        "preset": "default",
        "clusters": 4,
        "iterations": 50,
        "restarts": 1,
        "seed": 0,
    }
    assert content["ties"] == "optimistic"


def made(seed: int = 0, **changes: Any) -> Embeddings:
    generator = np.random.default_rng(seed)
    labels = np.repeat(np.arange(8), 10)
    points = generator.standard_normal((80, 6)) + 1.2 * generator.standard_normal((8, 6))[labels]
    parts: dict[str, Any] = {
        "embeddings": points.astype(np.float32),
        "labels": labels,
        "paths": tuple(f"{row}.jpg" for row in range(80)),
        "class_names": tuple("abcdefgh"),
    }
    return Embeddings(**(parts | changes))


def test_the_numbers_are_those_of_the_parts() -> None:
    data = made()
    found = score_embeddings(
        data, EvaluationSettings(ks=(1, 4), seed=3, level=0.8, bootstrap_samples=200), fingerprint="abc"
    )
    ranked = retrieval(data.embeddings, data.labels, (1, 4))
    clusters = clustering(data.embeddings, data.labels, seed=3)
    for name, value in {**ranked.as_dict(), **clusters.as_dict()}.items():
        if name not in ("queries", "skipped"):
            assert found.value(name) == value
    assert 0.2 < found.value("recall@1") < 0.9
    for name, values in found.per_query.items():
        assert found.values[name].interval == pytest.approx(bootstrap(values, samples=200, level=0.8, seed=3))
        low, high = found.values[name].interval or (1.0, 0.0)
        assert low < found.value(name) < high
    assert found.as_dict()["data"]["fingerprint"] == "abc"


def test_clustering_and_intervals_can_be_left_out() -> None:
    found = score_embeddings(made(), EvaluationSettings(ks=(1,), clustering=False, bootstrap_samples=0))
    assert set(found.values) == {"recall@1", "map@r", "r_precision"}
    assert found.as_dict()["scores"]["recall@1"]["low"] is None
    assert "clustering" not in found.as_dict()
    with pytest.raises(SettingsError, match="there is no score 'recal@1'. Did you mean 'recall@1'?"):  # noqa: RUF043
        found.value("recal@1")


def test_queries_rank_the_gallery_and_do_not_meet_themselves() -> None:
    generator = np.random.default_rng(5)
    is_query, is_gallery = generator.random(80) < 0.5, generator.random(80) < 0.7
    data = made(is_query=is_query, is_gallery=is_gallery)
    found = score_embeddings(data, EvaluationSettings(ks=(1, 3), clustering=False)).retrieval
    unit = data.embeddings / np.linalg.norm(data.embeddings, axis=1, keepdims=True)
    hits, nearest, right, wrong = [], [], [], []
    for query in np.flatnonzero(is_query):
        others = [row for row in np.flatnonzero(is_gallery) if row != query]
        order = sorted(others, key=lambda row: -float(unit[query] @ unit[row]))
        nearest.append(order[0])
        right.append(next(row for row in order if data.labels[row] == data.labels[query]))
        wrong.append(next(row for row in order if data.labels[row] != data.labels[query]))
        hits.append([any(data.labels[order[:k]] == data.labels[query]) for k in (1, 3)])
    assert (is_query & is_gallery).any()
    assert found.query_rows.tolist() == np.flatnonzero(is_query).tolist()
    assert found.nearest.tolist() == nearest
    assert (found.nearest_right.tolist(), found.nearest_wrong.tolist()) == (right, wrong)
    assert np.stack([found.hits[1], found.hits[3]], axis=1).tolist() == np.array(hits, dtype=float).tolist()


def test_a_query_without_a_wrong_image_has_none_as_a_row_of_the_embeddings_too() -> None:
    data = made(is_query=np.arange(80) < 20, is_gallery=np.arange(80) >= 20)
    only = dataclasses.replace(data, labels=np.zeros(80, dtype=np.int64))
    assert (score_embeddings(only, EvaluationSettings(ks=(1,), clustering=False)).retrieval.nearest_wrong == -1).all()


@pytest.mark.parametrize("flag", ["is_query", "is_gallery"])
def test_one_flag_alone_leaves_the_other_side_whole(flag: str) -> None:
    chosen = np.arange(80) % 2 == 0
    found = score_embeddings(made(**{flag: chosen}), EvaluationSettings(ks=(1,), clustering=False)).retrieval
    everyone = retrieval(made().embeddings, made().labels, (1,))
    if flag == "is_query":
        assert found.hits[1].tolist() == everyone.hits[1][::2].tolist()
    else:
        assert found.queries == 80
        assert set((found.nearest % 2).tolist()) == {0}
    with pytest.raises(DataError, match=f"no image has {flag} set"):
        score_embeddings(made(**{flag: chosen & False}))


def test_notes_name_what_was_left_out(embedder: Any, folder: Path) -> None:
    (folder / "red" / "0.png").write_bytes(b"no image")
    found = evaluate(
        embedder, read_catalogue(folder), EvaluationSettings(ks=(1,), clustering=False, bootstrap_samples=0)
    )
    assert found.notes[0] == "Left out: 1 of 10 images, which could not be read."
    skipped = found.as_dict()["skipped_images"]
    assert [Path(one["path"]).name for one in skipped] == ["0.png"]
    assert skipped[0]["reason"]
    data = made()
    data.embeddings[:3] = 0
    (warning,) = score_embeddings(data, EvaluationSettings(clustering=False)).health.warnings
    assert warning.startswith("Zero rows: 3 of 80 embeddings are zero and have no direction")


def test_wrong_settings_are_named(embedder: Any, catalogue: Catalogue) -> None:
    with pytest.raises(SettingsError, match="bootstrap_samples must be a whole number from 0 to 1000000; got -1"):
        EvaluationSettings(bootstrap_samples=-1)
    wrong: list[tuple[dict[str, Any], str]] = [
        ({"ks": (0,)}, "Recall@0 wants K"),
        ({"metrics": ("nonsense",)}, "there is no metric 'nonsense'"),
        ({"ties": "optimist"}, "there is no tie rule 'optimist'"),
        ({"clustering_preset": "nonsense"}, "clustering preset must be 'default' or"),
        ({"interval_over": "class"}, "interval_over must be 'queries' or 'classes'; got 'class'"),
        ({"level": 95}, "level must be a number above 0 and below 1, finite; got 95"),
        ({"seed": -1}, "seed must be a whole number from 0 to 9223372036854775807; got -1"),
    ]
    for settings, words in wrong:
        with pytest.raises((SettingsError, SizeError), match=words):
            EvaluationSettings(**settings)
    with pytest.raises(SizeError, match="Recall@10 wants K to be from 1 to 9"):
        evaluate(embedder, catalogue, EvaluationSettings(ks=(1, 10)))


def test_scores_cannot_be_changed() -> None:
    found = score_embeddings(made(), EvaluationSettings(clustering=False, bootstrap_samples=0))
    with pytest.raises(dataclasses.FrozenInstanceError):
        found.fingerprint = "other"  # type: ignore[misc]


def test_extra_settings_reach_the_ranking() -> None:
    data, groups, categories = made(), np.arange(80) % 3, np.arange(80) % 4
    told: list[tuple[int, int]] = []
    settings: dict[str, Any] = {"metrics": ("mrr", "median_rank", "ndcg"), "groups": groups, "categories": categories}
    found = score_embeddings(
        data,
        EvaluationSettings(ks=(1, 4), clustering=False, metrics=settings["metrics"]),
        groups=groups,
        categories=categories,
        progress=lambda *done: told.append(done),
    )
    want = retrieval(data.embeddings, data.labels, (1, 4), group_rule="any_class", **settings)
    assert {name: value.value for name, value in found.values.items()} | {"median_rank": want.median_rank} == {
        name: value for name, value in want.as_dict().items() if name not in ("queries", "skipped")
    }
    assert found.retrieval.per_category().as_rows() == want.per_category().as_rows()
    assert found.as_dict()["median_rank"] == want.median_rank
    assert found.as_dict()["scores"]["mrr"]["low"] < want.as_dict()["mrr"]
    assert told[-1] == (80, 80)
    assert found.notes == ("A query does not meet the images that its group (such as its sequence) leaves out.",)
    plain = score_embeddings(data, EvaluationSettings(ks=(1, 4), clustering=False))
    assert plain.value("map@r") != found.value("map@r")
    assert "median_rank" not in plain.as_dict()


def test_a_sequence_is_left_out_whole_unless_the_rule_says_so() -> None:
    """Six images, sequences 7 7 7 7 8 9 (open-metric-learning's example): its rule gives 2/3, that of the class 1/3."""
    angles = np.radians([0, 1, 10, 11, 20, 90])
    rows = np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)
    table = made(
        embeddings=rows,
        labels=np.array([0, 1, 0, 1, 0, 1]),
        paths=tuple("abcdef"),
        groups=np.array([7, 7, 7, 7, 8, 9]),
    )

    def by_hand(rule: str) -> float:
        hits = []
        for i in range(6):
            apart = [table.groups[i] != table.groups[j] for j in range(6)]
            ranked = [j for j in range(6) if i != j and (apart[j] or (rule == "same_class" and (i - j) % 2))]
            hits.append((min(ranked, key=lambda j: abs(angles[i] - angles[j])) - i) % 2 == 0)
        return sum(hits) / 6

    for rule in ("any_class", "same_class"):
        settings = EvaluationSettings(ks=(1,), clustering=False, group_rule=rule)
        assert score_embeddings(table, settings).value("recall@1") == pytest.approx(by_hand(rule))
    assert by_hand("any_class") != by_hand("same_class")
    assert EvaluationSettings().group_rule == "any_class"


def test_one_picture_in_two_rows_does_not_find_itself() -> None:
    """Also once as a query and once in the gallery; the scores say so."""
    data = made()
    twice = Embeddings.concat([data, data])
    assert score_embeddings(twice, EvaluationSettings(ks=(1,), clustering=False)).value("recall@1") == pytest.approx(
        score_embeddings(data, EvaluationSettings(ks=(1,), clustering=False)).value("recall@1")
    )
    sides = dataclasses.replace(twice, is_query=np.arange(160) < 80, is_gallery=np.arange(160) >= 80)
    found = score_embeddings(sides, EvaluationSettings(ks=(1,), clustering=False))
    assert (found.retrieval.nearest % 80 != found.retrieval.query_rows).all()
    assert any("repeat the picture of another row" in note for note in found.notes)


def test_groups_go_with_the_query_and_gallery_flags() -> None:
    flags, groups = np.arange(80) % 2 == 0, np.arange(80) // 5
    data = made(is_query=flags, is_gallery=~flags)
    settings = EvaluationSettings(ks=(1,), clustering=False, bootstrap_samples=0)
    any_class = dataclasses.replace(settings, group_rule="any_class")
    found = score_embeddings(data, any_class, groups=groups, categories=groups).retrieval
    assert (groups[found.nearest] != groups[found.query_rows]).all()
    assert found.categories is not None
    assert found.categories.tolist() == groups[found.query_rows].tolist()
    free = score_embeddings(data, settings).retrieval
    assert (groups[free.nearest] == groups[free.query_rows]).any()
    with pytest.raises(SizeError, match=r"want groups \(80,\)"):
        score_embeddings(data, settings, groups=groups[:3])


def test_bits_are_ranked_by_hamming_distance() -> None:
    data = made()
    codes = to_bits(data.embeddings)
    want = retrieval(codes, data.labels, (1, 4)).as_dict()
    found = score_embeddings(data, EvaluationSettings(ks=(1, 4), bits=True))
    assert found.retrieval.as_dict() == want
    assert found.as_dict()["ties"] == "expected"
    assert found.value("nmi") == score_embeddings(data).value("nmi")
    assert found.notes[:-1] == ("Ranked by one bit a dimension and Hamming distance, not by the floats.",)
    assert found.notes[-1].startswith("NMI and F1 come from one k-means start")
    packed = score_embeddings(made(embeddings=codes), EvaluationSettings(ks=(1, 4)))
    assert packed.retrieval.as_dict() == want
    assert packed.clustering is None
    assert packed.notes == ("NMI and F1 are left out: k-means wants floats, not packed bits.",)
    assert packed.norms.mean == pytest.approx(np.sqrt(np.unpackbits(codes, axis=1).sum(axis=1)).mean(), rel=1e-5)


def test_intervals_over_classes() -> None:
    data = made()
    found = score_embeddings(
        data, EvaluationSettings(ks=(1,), clustering=False, interval_over="classes", bootstrap_samples=200, seed=2)
    )
    values = found.per_query["recall@1"]
    want = bootstrap_classes(values, data.labels, samples=200, seed=2)
    assert found.values["recall@1"].interval == pytest.approx(want)
    assert found.as_dict()["interval_over"] == "classes"
    assert score_embeddings(data, EvaluationSettings(ks=(1,), clustering=False)).as_dict()["interval_over"] == "queries"
    with pytest.raises(SettingsError, match=r"interval_over must be 'queries' or 'classes'; got 'class'"):
        EvaluationSettings(interval_over="class")  # type: ignore[arg-type]


@pytest.mark.parametrize("broken", [False, True])
def test_a_catalogue_brings_its_sequences_and_categories(embedder: Any, folder: Path, broken: bool) -> None:
    """The two nearest reds are one sequence; a missing sequence is one by itself, and an unreadable image shifts none."""
    table = read_catalogue(folder).table.copy()
    stems = [Path(path).as_posix() for path in table["path"]]
    table["sequence"] = ["s" if stem in ("red/0.png", "red/1.png", "red/2.png") else None for stem in stems]
    table["category"] = ["bright" if stem.startswith(("red", "green")) else "dim" for stem in stems]
    if broken:
        (folder / "dark" / "0.png").write_bytes(b"no image")
    catalogue = read_catalogue(table, root=folder)
    found = evaluate(embedder, catalogue, EvaluationSettings(ks=(1,), clustering=False, bootstrap_samples=0))
    names = [Path(path).parent.name for path in found.embeddings.paths]
    scored = [names[row] for row in found.retrieval.query_rows]
    assert scored.count("red") == 0
    assert (scored.count("green"), scored.count("dark")) == (3, 2 if broken else 3)
    assert found.notes[-1] == "A query does not meet the images that its group (such as its sequence) leaves out."
    assert found.retrieval.per_category().queries.tolist() == ([2, 3] if broken else [3, 3])
    assert found.value("recall@1") == 1.0


def test_a_picture_never_meets_itself() -> None:
    """Noise listed twice, in one table or as queries and gallery, is found by chance and not by its own copy."""
    generator = np.random.default_rng(7)
    noise = generator.standard_normal((40, 16)).astype(np.float32)
    labels = np.arange(40) // 4
    files = tuple(f"{row}.jpg" for row in range(40))
    plain = EvaluationSettings(ks=(1,), clustering=False, bootstrap_samples=0)
    once = made(embeddings=noise, labels=labels, paths=files, class_names=tuple(map(str, range(10))))
    want = score_embeddings(once, plain).value("recall@1")
    assert want < 0.5
    twice = dataclasses.replace(
        once,
        embeddings=np.tile(noise, (2, 1)),
        labels=np.tile(labels, 2),
        paths=tuple(f"link{row}" for row in range(80)),
    )
    assert (
        score_embeddings(twice, plain).value("recall@1") == 1.0
    )  # 80 files: copies of other files are images like any
    asking = np.arange(80) < 40
    for flags in ({}, {"is_query": asking, "is_gallery": ~asking}):
        table = dataclasses.replace(twice, files=files * 2, **flags)
        found = score_embeddings(table, plain)
        assert found.value("recall@1") == want
        assert (
            found.notes[0] == "40 of 80 rows repeat the picture of another row. A query does not meet its own picture."
        )
    labelled = dataclasses.replace(twice, files=files * 2, labels=np.concatenate([labels, (labels + 1) % 10]))
    assert (
        score_embeddings(labelled, plain).notes[1]
        == "40 pictures have more than one label. Look at them: one is wrong."
    )
    boxes = np.concatenate([np.full((40, 4), -1), np.tile([0, 0, 5, 5], (40, 1))])
    assert score_embeddings(dataclasses.replace(twice, files=files * 2, boxes=boxes), plain).value("recall@1") == 1.0


def test_default_ks_that_do_not_fit_are_left_out_with_a_note() -> None:
    few = Embeddings(
        embeddings=np.eye(4, 3, dtype=np.float32) + 0.1,
        labels=np.array([0, 0, 1, 1]),
        paths=("a", "b", "c", "d"),
        class_names=("x", "y"),
    )
    scores = score_embeddings(few, EvaluationSettings(clustering=False, bootstrap_samples=0))
    assert [name for name in scores.values if name.startswith("recall@")] == ["recall@1", "recall@2"]
    assert "Left out: Recall@4, Recall@8, because a query ranks fewer than 4 images." in scores.notes
    assert scores.as_dict()["evaluation"]["ks"] == (1, 2, 4, 8)
    with pytest.raises(SizeError, match="Recall@4 wants K to be from 1 to 3"):
        score_embeddings(few, EvaluationSettings(ks=(1, 4), clustering=False))
    with pytest.raises(SizeError, match="Recall@8 wants K to be from 1 to 3"):
        score_embeddings(few, EvaluationSettings(ks=(1, 2, 4, 8), clustering=False))


@pytest.mark.parametrize(
    ("columns", "most"),
    [
        ({}, 5),
        ({"is_query": [1, 0, 0, 1, 0, 0], "is_gallery": [0, 1, 1, 1, 1, 1]}, 4),
        ({"sequence": [0, 0, 1, 2, 2, 2]}, 4),
    ],
)
def test_a_typed_k_that_does_not_fit_is_refused_before_embedding(
    columns: dict[str, list[int]], most: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The sequence of the second class leaves nothing to find, so its queries do not count."""
    for name in range(6):
        Image.new("RGB", (8, 8), (40 * name, 9, 9)).save(tmp_path / f"{name}.png")
    table = pd.DataFrame({"path": [f"{name}.png" for name in range(6)], "label": list("aaabbb"), **columns})
    for name in ("is_query", "is_gallery"):
        if name in table:
            table[name] = table[name].astype(bool)
    catalogue = read_catalogue(table, root=tmp_path)
    embedded: list[int] = []
    monkeypatch.setattr("cosphere.evaluate.scores.embed", lambda *_, **__: embedded.append(1))
    with pytest.raises(SizeError, match=f"Recall@8 wants K to be from 1 to {most}, the images that a query ranks"):
        evaluate(MeanColour(), catalogue, EvaluationSettings(ks=(1, 2, 4, 8)))
    assert embedded == []
