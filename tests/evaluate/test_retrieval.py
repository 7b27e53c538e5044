from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cosphere.errors import DataError, SettingsError, SizeError
from cosphere.evaluate import retrieval

KS = (1, 2, 3, 5)


def cosine(a: Any, b: Any) -> float:
    scale = math.hypot(*a) * math.hypot(*b)
    return round(sum(x * y for x, y in zip(a, b, strict=True)) / scale, 6) if scale else 0.0


def scores_of_order(relevant: list[bool], ks: tuple[int, ...]) -> list[float]:
    """Recall@K, AP@R, R-precision and first rank of one query, from the relevance of its gallery in ranked order."""
    total = sum(relevant)
    recall = [float(any(relevant[:k])) for k in ks]
    found, average = 0, 0.0
    for place, hit in enumerate(relevant[:total], start=1):
        if hit:
            found += 1
            average += found / place
    return [*recall, average / total, found / total, relevant.index(True) + 1.0]


def by_hand(
    queries: Any, labels: Any, gallery: Any, gallery_labels: Any, skip: Any, ks: tuple[int, ...], ties: str
) -> tuple[list[int], list[list[float]]]:
    """Sort each query's gallery in Python; expected ties are the mean over every order of the gallery."""
    rows, scores = [], []
    for i, query in enumerate(queries):
        pairs = [
            (cosine(query, other), gallery_labels[j] == labels[i]) for j, other in enumerate(gallery) if j != skip[i]
        ]
        if not any(hit for _, hit in pairs):
            continue
        if ties == "expected":
            orders = [sorted(order, key=lambda pair: -pair[0]) for order in itertools.permutations(pairs)]
        else:
            orders = [sorted(pairs, key=lambda pair: (-pair[0], pair[1] == (ties == "pessimistic")))]
        each = [scores_of_order([hit for _, hit in order], ks) for order in orders]
        rows.append(i)
        scores.append(np.mean(each, axis=0).tolist())
    return rows, scores


def check(found: Any, want: tuple[list[int], list[list[float]]], ks: tuple[int, ...], total: int) -> None:
    rows, scores = want
    table = np.stack(
        [*(found.hits[k] for k in ks), found.average_precisions, found.r_precisions, found.first_ranks], axis=1
    )
    assert found.query_rows.tolist() == rows
    np.testing.assert_allclose(table, scores, atol=1e-12)
    assert found.skipped == total - len(rows)
    assert found.queries == len(rows)
    means = np.mean(scores, axis=0)
    assert [found.recall[k] for k in ks] == pytest.approx(means[: len(ks)].tolist())
    summary = found.as_dict()
    assert [summary[f"recall@{k}"] for k in ks] == pytest.approx(means[: len(ks)].tolist())
    assert (summary["map@r"], summary["r_precision"]) == pytest.approx(tuple(means[len(ks) : len(ks) + 2]))


def test_published_definitions_on_seven_points() -> None:
    points = [[1.0, 0.0], [0.8, 0.6], [0.6, 0.8], [0.0, 1.0], [-0.6, 0.8], [-1.0, 0.0], [0.96, 0.28]]
    found = retrieval(torch.tensor(points), [0, 0, 1, 1, 2, 2, 1], ks=(1, 2, 4)).as_dict()
    assert found == pytest.approx(
        {
            "recall@1": 0.2857142857142857,
            "recall@2": 0.7142857142857143,
            "recall@4": 1.0,
            "map@r": 0.25,
            "r_precision": 0.2857142857142857,
            "queries": 7,
            "skipped": 0,
        }
    )


def test_a_query_is_left_out_by_row_not_by_similarity_zero() -> None:
    """Subtracting the identity leaves self as a relevant image at cosine 0, and gives 1.0 here."""
    points = [[1.0, 0.0], [-0.6, 0.8], [-0.8, -0.6], [-0.28, -0.96]]
    assert retrieval(torch.tensor(points), [0, 0, 1, 1], ks=(1,)).recall == {1: 0.5}


@pytest.mark.parametrize(("ties", "want"), [("optimistic", 0.6), ("pessimistic", 0.4), ("expected", 0.5)])
def test_the_three_rules_for_ties(ties: Any, want: float) -> None:
    points = [[1.0, 0.0], [0.6, 0.8], [0.6, -0.8], [0.0, 1.0], [0.0, -1.0]]
    found = retrieval(torch.tensor(points), [0, 0, 1, 1, 1], ks=(1,), ties=ties)
    assert found.recall[1] == pytest.approx(want, abs=1e-12)
    assert found.ties == ties


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("ties", ["optimistic", "pessimistic"])
def test_agrees_with_loops_on_ragged_classes(seed: int, ties: Any) -> None:
    """Negative cosines, duplicates, a zero row, singletons and classes of very different size."""
    generator = np.random.default_rng(seed)
    labels = generator.permutation([0] * 17 + [1] * 2 + [2] * 5 + [3] + [4] + [5] * 9 + [6] * 3)
    points = generator.standard_normal((len(labels), 3)) + np.eye(3)[labels % 3] * 0.7
    points[10] = points[3]
    points[20] = points[3] * 4
    points[30] = 0
    found = retrieval(points, labels, ks=KS, ties=ties, block_bytes=40_000)
    want = by_hand(points, labels, points, labels, range(len(labels)), KS, ties)
    check(found, want, KS, len(labels))
    assert found.skipped == 2


@settings(deadline=None, max_examples=40)
@given(data=st.data(), ties=st.sampled_from(["optimistic", "pessimistic", "expected"]))
def test_agrees_with_every_order_of_equals(data: st.DataObject, ties: Any) -> None:
    """Cosines are -1, 0 or 1, so nearly all is tied; the expected rule is checked against all orders of the gallery."""
    spots = st.sampled_from([(1, 0), (0, 1), (-1, 0), (0, -1), (0, 0)])
    size = data.draw(st.integers(2, 6))
    points = data.draw(st.lists(spots, min_size=size, max_size=size))
    labels = data.draw(st.lists(st.integers(0, 2), min_size=size, max_size=size))
    ks = tuple(k for k in KS if k < size)
    want = by_hand(points, labels, points, labels, range(size), ks, ties)
    array = np.array(points, dtype=np.float32)
    if not want[0]:
        with pytest.raises(DataError, match="has an image of its class to find"):
            retrieval(array, labels, ks, ties=ties)
        return
    check(retrieval(array, labels, ks, ties=ties), want, ks, size)


@settings(deadline=None, max_examples=40)
@given(data=st.data(), ties=st.sampled_from(["optimistic", "pessimistic", "expected"]))
def test_agrees_with_loops_on_query_and_gallery(data: st.DataObject, ties: Any) -> None:
    spots = st.sampled_from([(1, 0), (0, 1), (-1, 0), (1, 1), (0, 0)])
    asked, size = data.draw(st.integers(1, 5)), data.draw(st.integers(2, 5))
    queries = data.draw(st.lists(spots, min_size=asked, max_size=asked))
    gallery = data.draw(st.lists(spots, min_size=size, max_size=size))
    labels = data.draw(st.lists(st.integers(0, 2), min_size=asked, max_size=asked))
    gallery_labels = data.draw(st.lists(st.integers(0, 3), min_size=size, max_size=size))
    skip = data.draw(st.lists(st.integers(-1, size - 1), min_size=asked, max_size=asked))
    want = by_hand(queries, labels, gallery, gallery_labels, skip, (1,), ties)
    arrays = np.array(queries, dtype=np.float32), np.array(gallery, dtype=np.float32)
    settings = {"gallery": arrays[1], "gallery_labels": gallery_labels, "exclude": skip, "ties": ties}
    if want[0]:
        check(retrieval(arrays[0], labels, (1,), **settings), want, (1,), asked)
    else:
        with pytest.raises(DataError):
            retrieval(arrays[0], labels, (1,), **settings)


def made(seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(0, 25, (200,), generator=generator)
    labels[:60] = 99
    centres = torch.randn(100, 16, generator=generator)
    points = torch.randn(200, 16, generator=generator) + 0.6 * centres[labels]
    points[::11] = points[5]
    return points, labels


def values(found: Any) -> list[Any]:
    names = ("average_precisions", "r_precisions", "first_ranks", "margins", "relevant", "query_rows", "nearest")
    return [*(found.hits[k].tolist() for k in KS), *(getattr(found, name).tolist() for name in names)]


@settings(deadline=None, max_examples=12)
@given(block_bytes=st.integers(1, 400_000), ties=st.sampled_from(["optimistic", "pessimistic", "expected"]))
def test_block_size_does_not_matter(block_bytes: int, ties: Any) -> None:
    points, labels = made()
    want = retrieval(points, labels, KS, ties=ties)
    assert values(retrieval(points, labels, KS, ties=ties, block_bytes=block_bytes)) == values(want)


@settings(deadline=None, max_examples=12)
@given(seed=st.integers(0, 1000), ties=st.sampled_from(["optimistic", "pessimistic", "expected"]))
def test_order_of_the_images_does_not_matter(seed: int, ties: Any) -> None:
    points, labels = made()
    want = retrieval(points, labels, KS, ties=ties)
    order = torch.randperm(200, generator=torch.Generator().manual_seed(seed))
    found = retrieval(points[order], labels[order], KS, ties=ties)
    back = np.argsort(order.numpy()[found.query_rows])
    for ours, theirs in zip(values(found)[:-2], values(want)[:-2], strict=True):
        assert np.array(ours)[back].tolist() == theirs  # the last two are row numbers, which the order does change


def test_neither_threads_nor_autocast_matter() -> None:
    points, labels = made()
    want = values(retrieval(points, labels, KS))
    threads = torch.get_num_threads()
    try:
        for count in (1, 2, 3):
            torch.set_num_threads(count)
            assert values(retrieval(points, labels, KS)) == want
    finally:
        torch.set_num_threads(threads)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert values(retrieval(points.requires_grad_(), labels, KS)) == want


def test_labels_of_any_size_and_kind() -> None:
    points, labels = made()
    want = values(retrieval(points, labels, KS))
    huge = labels * (2**63 // 100) - 2**62
    assert values(retrieval(points, huge, KS)) == want
    for kind in (np.uint8, np.int16, np.uint64):
        assert values(retrieval(points.numpy(), labels.numpy().astype(kind), KS)) == want
    assert values(retrieval(points, labels.tolist(), KS)) == want


def test_what_a_query_met() -> None:
    points = np.array([[1.0, 0.0], [0.8, 0.6], [0.6, 0.8], [0.0, 1.0], [-1.0, 0.0]], dtype=np.float32)
    found = retrieval(points, [0, 0, 1, 1, 7], ks=(1,))
    assert found.query_rows.tolist() == [0, 1, 2, 3]
    assert found.nearest.tolist() == [1, 2, 1, 2]
    assert found.margins == pytest.approx([0.8 - 0.6, 0.8 - 0.96, 0.8 - 0.96, 0.8 - 0.6], abs=1e-6)
    assert found.relevant.tolist() == [1, 1, 1, 1]
    assert found.first_ranks.tolist() == [1, 2, 2, 1]
    assert found.per_query()["recall@1"].tolist() == [1, 0, 0, 1]


def test_one_class_is_all_right() -> None:
    points = np.random.default_rng(0).standard_normal((9, 3))
    found = retrieval(points, np.full(9, 3), ks=(1, 8))
    assert found.as_dict() == pytest.approx(
        {"recall@1": 1, "recall@8": 1, "map@r": 1, "r_precision": 1, "queries": 9, "skipped": 0}
    )
    assert np.isposinf(found.margins).all()


def test_far_below_the_first_places() -> None:
    """The best relevant image lies behind many others, so it must be counted, not read off the first R places."""
    angles = np.linspace(0, 3, 100)
    points = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    labels = np.arange(100)
    labels[-1] = 0
    found = retrieval(points, labels, ks=(97, 98, 99))
    assert found.query_rows.tolist() == [0, 99]
    assert found.first_ranks.tolist() == [99, 99]
    assert found.recall == {97: 0, 98: 0, 99: 1}
    assert found.map_at_r == 0


@pytest.mark.filterwarnings("ignore")
def test_agrees_with_pytorch_metric_learning() -> None:
    accuracy = pytest.importorskip("pytorch_metric_learning.utils.accuracy_calculator", reason="extra bench")
    from pytorch_metric_learning.distances import CosineSimilarity
    from pytorch_metric_learning.utils.inference import CustomKNN

    points, labels = made()
    points = points[[row for row in range(200) if row % 11]]  # PML leaves self out by position, so no duplicates
    labels = labels[[row for row in range(200) if row % 11]]
    calculator = accuracy.AccuracyCalculator(
        include=("precision_at_1", "r_precision", "mean_average_precision_at_r"),
        k="max_bin_count",
        knn_func=CustomKNN(CosineSimilarity()),
    )
    want = calculator.get_accuracy(points, labels)
    found = retrieval(points, labels, (1,))
    assert found.recall[1] == pytest.approx(want["precision_at_1"], abs=1e-9)
    assert found.r_precision == pytest.approx(want["r_precision"], abs=1e-6)
    assert found.map_at_r == pytest.approx(want["mean_average_precision_at_r"], abs=1e-6)
    assert 0.1 < found.map_at_r < 0.9


X = np.eye(4, dtype=np.float32)


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        ({"ks": (4,)}, SizeError, "Recall@4 wants K to be from 1 to 3, the images that a query ranks"),
        ({"ks": (0,)}, SizeError, "Recall@0 wants K"),
        ({"ks": (True,)}, SizeError, "Recall@True wants K"),
        ({"ks": (1.0,)}, SizeError, "Recall@1.0 wants K"),
        ({"ks": ()}, SizeError, "ks is empty"),
        ({"labels": [0, 0, 1]}, SizeError, "want labels (4,), one for each row, got (3,)"),
        ({"labels": [0.0, 0.0, 1.0, 1.0]}, SizeError, "want integer labels, got float64"),
        ({"labels": list("aabb")}, SizeError, "want integer labels, got <U1"),
        ({"labels": [0, 1, 2, 3]}, DataError, "none of 4 queries has an image of its class to find"),
        ({"ties": "optimstic"}, SettingsError, "Did you mean 'optimistic'?"),
        ({"gallery": X}, SettingsError, "gallery came without gallery_labels"),
        ({"gallery_labels": [0, 0, 1, 1]}, SettingsError, "gallery_labels came without gallery"),
        ({"exclude": [0, 1, 2, 3]}, SettingsError, "exclude came without gallery"),
        ({"gallery": X, "gallery_labels": [0, 0]}, SizeError, "want gallery_labels (4,), one for each row, got (2,)"),
        ({"gallery": X[:, :3], "gallery_labels": [0, 0, 1, 1]}, SizeError, "queries have 4 dimensions, the gallery 3"),
        ({"gallery": X[:0], "gallery_labels": []}, SizeError, "want gallery with at least one row"),
        ({"gallery": X, "gallery_labels": [5, 6, 7, 8]}, DataError, "none of 4 queries"),
        ({"embeddings": X[:1], "labels": [0]}, SizeError, "one image alone has nothing to be compared with"),
        ({"embeddings": X[:0], "labels": []}, SizeError, "want embeddings with at least one row"),
        ({"embeddings": X * np.nan}, DataError, "4 of 4 rows of embeddings hold NaN or infinity"),
        ({"block_bytes": 0}, SettingsError, "block_bytes must be above 0"),
    ],
)
def test_wrong_input_is_named(arguments: dict[str, Any], error: type[Exception], words: str) -> None:
    with pytest.raises(error) as caught:
        retrieval(**{"embeddings": X, "labels": [0, 0, 1, 1], "ks": (1,), **arguments})
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_gallery_as_large_as_k_is_enough() -> None:
    assert retrieval(X, [0, 0, 1, 1], (4,), gallery=X, gallery_labels=[0, 0, 1, 1]).recall == {4: 1.0}
