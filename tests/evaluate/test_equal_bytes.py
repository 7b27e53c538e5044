from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from cosphere.codes import to_bits
from cosphere.errors import DataError, SettingsError, SizeError
from cosphere.evaluate import Embeddings, bootstrap_all, retrieval
from cosphere.evaluate._relevance import GroupRule
from cosphere.evaluate.equal_bytes import EqualBytes, equal_bytes


def clouds(classes: int, each: int, width: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Rows around a random centre for each class, in a random order of classes."""
    generator = np.random.default_rng(seed)
    labels = generator.permutation(np.repeat(np.arange(classes), each))
    centres = generator.normal(size=(classes, width))
    return (centres[labels] + 1.5 * generator.normal(size=(len(labels), width))).astype(np.float32), labels


@pytest.fixture(scope="module")
def table() -> EqualBytes:
    rows, labels = clouds(52, 5, 64)
    return equal_bytes(rows, labels, bootstrap_samples=50, shortlist=259)


def test_forms_and_their_bytes(table: EqualBytes) -> None:
    assert [(form.name, form.bytes_per_image) for form in table.forms] == [
        ("float32", 256),
        ("float16", 128),
        ("int8", 64),
        ("bits", 8),
        ("bits, float query", 8),
        ("bits + re-rank", 264),
        ("PQ", 8),
        ("first 2 dims", 8),
        ("PCA to 2 dims", 8),
    ]
    assert (table.gallery, table.queries, table.skipped, table.dim, table.notes) == (260, 260, 0, 64, ())


def test_scores_are_those_of_retrieval(table: EqualBytes) -> None:
    rows, labels = clouds(52, 5, 64)
    unit = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    signs = np.where(rows > 0, 1.0, -1.0).astype(np.float32)
    own = {"gallery_labels": labels, "exclude": np.arange(260)}
    want = {
        "float32": retrieval(rows, labels, (1,)),
        "float16": retrieval(rows, labels, (1,), gallery=unit.astype(np.float16), **own),
        "bits": retrieval(to_bits(rows), labels, (1,)),
        "bits, float query": retrieval(rows, labels, (1,), gallery=signs, **own),
        "bits + re-rank": retrieval(rows, labels, (1,)),  # all are on the shortlist
        "first 2 dims": retrieval(rows[:, :2].copy(), labels, (1,)),
    }
    for name, scores in want.items():
        form, per_query = table.form(name), scores.per_query()
        for score in ("recall@1", "map@r"):
            np.testing.assert_allclose(form.per_query[score], per_query[score], atol=1e-9, err_msg=name)
            assert form.values[score] == pytest.approx(per_query[score].mean())
    bits = table.form("bits")
    assert bits.intervals == bootstrap_all(dict(bits.per_query), samples=50)


def test_what_was_lost_shows_in_the_self_check(table: EqualBytes) -> None:
    found = {form.name: form.check.recall for form in table.forms}
    assert found["float32"] == 1.0
    assert found["bits + re-rank"] == 1.0
    assert found["bits"] < found["bits, float query"] < found["int8"] <= 1.0
    assert found["first 2 dims"] < 0.3
    assert all(form.seconds_per_1000 > 0 for form in table.forms)


def lists_by_hand(rows: np.ndarray, labels: np.ndarray, shortlist: int) -> tuple[list[float], list[float]]:
    unit = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    bits = rows > 0
    recalls, precisions = [], []
    for i in range(len(rows)):
        others = [j for j in range(len(rows)) if j != i]
        by_bits = sorted(others, key=lambda j: int((bits[i] != bits[j]).sum()))
        ranked = sorted(by_bits[:shortlist], key=lambda j: -float(unit[i] @ unit[j])) + by_bits[shortlist:]
        right = [labels[j] == labels[i] for j in ranked]
        relevant = sum(right)
        recalls.append(float(right[0]))
        precisions.append(sum(sum(right[: p + 1]) / (p + 1) for p in range(relevant) if right[p]) / relevant)
    return recalls, precisions


def test_a_short_shortlist_agrees_with_loops_also_behind_its_end() -> None:
    rows, labels = clouds(6, 9, 40)
    found = equal_bytes(rows, labels, shortlist=5, bootstrap_samples=0).form("bits + re-rank")
    recalls, precisions = lists_by_hand(rows, labels, 5)
    assert found.per_query["recall@1"].tolist() == recalls
    assert found.per_query["map@r"].tolist() == pytest.approx(precisions)
    assert found.intervals == {}
    assert found.check.k == 5


def embeddings(rows: np.ndarray, labels: np.ndarray, **flags: np.ndarray) -> Embeddings:
    names = tuple(f"class {number}" for number in range(int(labels.max()) + 1))
    paths = tuple(f"/{number}.png" for number in range(len(rows)))
    return Embeddings(embeddings=rows, labels=labels, paths=paths, class_names=names, **flags)


def test_query_and_gallery_flags_are_kept() -> None:
    rows, labels = clouds(8, 6, 32)
    is_query, is_gallery = np.arange(48) < 20, np.arange(48) >= 10
    found = equal_bytes(embeddings(rows, labels, is_query=is_query, is_gallery=is_gallery), bootstrap_samples=0)
    exclude = np.where(np.arange(20) >= 10, np.arange(20) - 10, -1)
    want = retrieval(rows[:20], labels[:20], (1,), gallery=rows[10:], gallery_labels=labels[10:], exclude=exclude)
    assert found.form("float32").per_query["map@r"].tolist() == want.per_query()["map@r"].tolist()
    assert (found.gallery, found.queries, found.skipped) == (38, want.queries, want.skipped)
    assert len(found.form("bits + re-rank").per_query["map@r"]) == want.queries
    assert found.notes == ("PQ is left out: it learns from at least 256 images, and the gallery has 38.",)
    whole = equal_bytes(embeddings(rows, labels), bootstrap_samples=0)
    again = equal_bytes(torch.from_numpy(rows), torch.from_numpy(labels), bootstrap_samples=0)
    for one, other in zip(whole.forms, again.forms, strict=True):
        assert one.values == other.values


@pytest.mark.parametrize("rule", ["any_class", "same_class"])
def test_every_form_leaves_out_the_groups(rule: GroupRule) -> None:
    """Also the re-ranked list, whose shortlist is the whole gallery here."""
    rows, labels = clouds(8, 6, 32)
    groups = np.arange(48) // 3 % 5
    found = equal_bytes(embeddings(rows, labels, groups=groups), group_rule=rule, bootstrap_samples=0)
    want = retrieval(rows, labels, (1,), groups=groups, group_rule=rule).per_query()
    for name in ("float32", "bits + re-rank"):
        for score in ("recall@1", "map@r"):
            np.testing.assert_allclose(found.form(name).per_query[score], want[score], err_msg=name)
    bits = retrieval(to_bits(rows), labels, (1,), groups=groups, group_rule=rule).per_query()
    np.testing.assert_allclose(found.form("bits").per_query["map@r"], bits["map@r"])
    plain = equal_bytes(rows, labels, bootstrap_samples=0).form("float32").values
    assert found.form("float32").values["map@r"] != plain["map@r"]


def test_classes_of_one_image_are_left_out_of_every_form() -> None:
    rows, labels = clouds(5, 4, 16)
    labels[labels == 2] = [100, 101, 102, 103]
    found = equal_bytes(rows, labels, bootstrap_samples=0)
    assert (found.queries, found.skipped) == (16, 4)
    assert {len(form.per_query["recall@1"]) for form in found.forms} == {16}
    assert "Cut dimensions are left out: 16 bits take fewer bytes than one float." in found.notes


def test_collapsed_rows_have_scores() -> None:
    found = equal_bytes(np.ones((12, 32), dtype=np.float32), np.repeat([0, 1, 2], 4), bootstrap_samples=0)
    for form in found.forms:  # a query that ties with everything counts at chance
        assert form.values["recall@1"] == pytest.approx(3 / 11), form.name


def test_the_table_is_plain_numbers_and_progress_is_told() -> None:
    rows, labels = clouds(4, 4, 32)
    told: list[tuple[int, int]] = []
    found = equal_bytes(rows, labels, bootstrap_samples=20, progress=lambda done, total: told.append((done, total)))
    assert told == [(number, 8) for number in range(1, 9)]
    content = json.loads(json.dumps(found.as_dict(), allow_nan=False))
    first = content["forms"][0]
    assert (first["name"], first["bytes_per_image"]) == ("float32", 128)
    assert first["recall@1"]["low"] <= first["recall@1"]["value"] <= first["recall@1"]["high"]
    assert first["self_check"] == {"recall": 1.0, "k": 10, "queries": 16}
    with pytest.raises(SettingsError, match="the table has no form 'bit'; it has float32, float16"):
        found.form("bit")


def test_wrong_input_is_named() -> None:
    rows, labels = clouds(4, 4, 32)
    with pytest.raises(SizeError, match="embeddings are uint8, packed bits already"):
        equal_bytes(to_bits(rows), labels)
    with pytest.raises(SettingsError, match="rows came without labels"):
        equal_bytes(rows)
    with pytest.raises(SettingsError, match="have labels of their own"):
        equal_bytes(embeddings(rows, labels), labels)
    with pytest.raises(SizeError, match=r"want labels \(16,\)"):
        equal_bytes(rows, labels[1:])
    with pytest.raises(DataError, match="hold NaN or infinity"):
        equal_bytes(rows * np.float32(np.nan), labels)
    with pytest.raises(DataError, match="none of 16 queries has an image of its class"):
        equal_bytes(rows, np.arange(16))
    with pytest.raises(SettingsError, match="shortlist must be a whole number >= 1; got 0"):
        equal_bytes(rows, labels, shortlist=0)
    with pytest.raises(DataError, match="no image has is_query set"):
        equal_bytes(embeddings(rows, labels, is_query=np.zeros(16, dtype=bool)))


def test_no_form_finds_the_other_row_of_a_picture() -> None:
    rows, labels = clouds(8, 4, 32, seed=3)
    once = equal_bytes(rows, labels, bootstrap_samples=0, shortlist=100)
    paths = tuple(f"{row}.jpg" for row in range(32))
    twice = Embeddings(
        embeddings=np.tile(rows, (2, 1)), labels=np.tile(labels, 2), paths=paths * 2, class_names=tuple("abcdefgh")
    )
    found = equal_bytes(twice, bootstrap_samples=0, shortlist=100)
    for form in once.forms:
        assert found.form(form.name).values["recall@1"] == pytest.approx(form.values["recall@1"])
    assert found.form("float32").values["recall@1"] < 1
    assert found.form("bits + re-rank").values == pytest.approx(found.form("float32").values)
