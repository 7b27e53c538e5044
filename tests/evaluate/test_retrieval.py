from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cosphere.codes import from_bits, to_bits
from cosphere.errors import DataError, SettingsError, SizeError
from cosphere.evaluate import _pass, _ranks, _symmetric, _ties, retrieval

KS = (1, 2, 3, 5)
RULES = st.sampled_from(["optimistic", "pessimistic", "expected"])


def cosine(a: Any, b: Any) -> float:
    scale = math.hypot(*a) * math.hypot(*b)
    return round(sum(x * y for x, y in zip(a, b, strict=True)) / scale, 6) if scale else 0.0


def scores_of_order(relevant: list[bool], ks: tuple[int, ...]) -> dict[str, float]:
    """Every metric of one query, from the relevance of its gallery in ranked order."""
    total = sum(relevant)
    ranks = [place for place, hit in enumerate(relevant, start=1) if hit]

    def summed_precisions(depth: int) -> float:
        return sum(number / rank for number, rank in enumerate(ranks, start=1) if rank <= depth)

    def gain(places: list[int]) -> float:
        return sum(1 / math.log2(1 + place) for place in places)

    scores = {
        "map@r": summed_precisions(total) / total,
        "r_precision": sum(rank <= total for rank in ranks) / total,
        "map@all": summed_precisions(len(relevant)) / total,
        "mrr": 1 / ranks[0],
        "first": float(ranks[0]),
    }
    for k in ks:
        within = [rank for rank in ranks if rank <= k]
        scores[f"recall@{k}"] = float(bool(within))
        scores[f"precision@{k}"] = len(within) / k
        scores[f"map@{k}"] = summed_precisions(k) / min(k, total)
        scores[f"ndcg@{k}"] = gain(within) / gain(list(range(1, min(k, total) + 1)))
    return scores


Meets = Callable[[int, int], bool]
Want = tuple[list[int], dict[str, list[float]]]


def by_hand(
    queries: Any, labels: Any, gallery: Any, gallery_labels: Any, meets: Meets, ks: tuple[int, ...], ties: str,
    similar: Callable[[Any, Any], float] = cosine,
) -> Want:  # fmt: skip
    """Sort each query's gallery in Python; expected ties are the mean over every order of the gallery."""
    rows, scores = [], []
    for i, query in enumerate(queries):
        pairs = [
            (similar(query, other), bool(gallery_labels[j] == labels[i]))
            for j, other in enumerate(gallery)
            if meets(i, j)
        ]
        if not any(hit for _, hit in pairs):
            continue
        if ties == "expected":
            orders = [sorted(order, key=lambda pair: -pair[0]) for order in itertools.permutations(pairs)]
        else:
            orders = [sorted(pairs, key=lambda pair: (-pair[0], pair[1] == (ties == "pessimistic")))]
        each = [scores_of_order([hit for _, hit in order], ks) for order in orders]
        rows.append(i)
        scores.append({name: sum(one[name] for one in each) / len(each) for name in each[0]})
    return rows, {name: [one[name] for one in scores] for name in (scores[0] if scores else ())}


def not_itself(i: int, j: int) -> bool:
    return i != j


def check(found: Any, want: Want, total: int) -> None:
    rows, columns = want
    assert found.query_rows.tolist() == rows
    values = {**found.per_query(), "first": found.first_ranks}
    assert set(values) == set(columns)
    for name, column in columns.items():
        np.testing.assert_allclose(values[name], column, atol=1e-10, err_msg=name)
    summary = found.as_dict()
    assert (summary.pop("queries"), summary.pop("skipped")) == (len(rows), total - len(rows))
    assert summary.pop("median_rank") == pytest.approx(np.median(columns.pop("first")))
    assert summary == pytest.approx({name: np.mean(column) for name, column in columns.items()}, abs=1e-10)


@contextmanager
def small_steps(places: int, *, symmetric: bool = False) -> Iterator[None]:
    """Few places from the partition, so that the rest is counted, and few rows at a time, over three threads.

    ``symmetric``: one set is ranked with itself by tiles of the upper triangle, whatever its size, in small tiles.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(3)
    tiles = {"_SHALLOW": 0, "_PAIR_BYTES": 0, "_EDGE": 32, "_CHUNK_ROWS": 7, "_FIRST_COLUMNS": 3, "_CLASS_ROWS": 9}
    if not symmetric:
        tiles = {"_SHALLOW": 10**9}
    try:
        with (
            mock.patch.multiple(_ranks, _FEWEST_RANKS=places, _CHUNK_BYTES=32),
            mock.patch.object(_ties, "_CHUNK_TERMS", 3),
            mock.patch.multiple(_symmetric, **tiles),
        ):
            yield
    finally:
        torch.set_num_threads(threads)


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


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("places", [1, 9, 100])
@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize("ties", ["optimistic", "pessimistic"])
def test_agrees_with_loops_on_ragged_classes(seed: int, places: int, ties: Any, symmetric: bool) -> None:
    """Negative cosines, duplicates, a zero row, singletons and classes of very different size."""
    generator = np.random.default_rng(seed)
    labels = generator.permutation([0] * 17 + [1] * 2 + [2] * 5 + [3] + [4] + [5] * 9 + [6] * 3)
    points = generator.standard_normal((len(labels), 3)) + np.eye(3)[labels % 3] * 0.7
    points[10] = points[3]
    points[20] = points[3] * 4
    points[30] = 0
    want = by_hand(points, labels, points, labels, not_itself, KS, ties)
    with small_steps(places, symmetric=symmetric):
        found = retrieval(points.astype(np.float32), labels, ks=KS, ties=ties, metrics=("all",), block_bytes=40_000)
    check(found, want, len(labels))
    assert found.skipped == 2


@settings(deadline=None, max_examples=60)
@given(data=st.data(), ties=RULES, places=st.sampled_from([1, 2, 100]), symmetric=st.booleans())
def test_agrees_with_every_order_of_equals(data: st.DataObject, ties: Any, places: int, symmetric: bool) -> None:
    """Cosines are -1, 0 or 1, so nearly all is tied; the expected rule is checked against all orders of the gallery."""
    spots = st.sampled_from([(1, 0), (0, 1), (-1, 0), (0, -1), (0, 0)])
    size = data.draw(st.integers(2, 6))
    points = data.draw(st.lists(spots, min_size=size, max_size=size))
    labels = data.draw(st.lists(st.integers(0, 2), min_size=size, max_size=size))
    ks = tuple(k for k in KS if k < size)
    want = by_hand(points, labels, points, labels, not_itself, ks, ties)
    array = np.array(points, dtype=np.float32)
    if not want[0]:
        with pytest.raises(DataError, match="has an image of its class to find"):
            retrieval(array, labels, ks, ties=ties)
        return
    with small_steps(places, symmetric=symmetric):
        check(retrieval(array, labels, ks, ties=ties, metrics=("all",)), want, size)


@settings(deadline=None, max_examples=60)
@given(data=st.data(), ties=RULES, rule=st.sampled_from(["same_class", "any_class", None]), pictures=st.booleans())
def test_agrees_with_loops_on_query_and_gallery(data: st.DataObject, ties: Any, rule: Any, pictures: bool) -> None:
    """With a row, a group (of the class or whole) and a picture to leave out, and any of them at once."""
    spots = st.sampled_from([(1, 0), (0, 1), (-1, 0), (1, 1), (0, 0)])
    few = st.integers(0, 2)
    asked, size = data.draw(st.integers(1, 5)), data.draw(st.integers(2, 5))

    def drawn(values: Any, count: int) -> Any:
        return data.draw(st.lists(values, min_size=count, max_size=count))

    queries, gallery = drawn(spots, asked), drawn(spots, size)
    labels, gallery_labels = drawn(few, asked), drawn(few, size)
    groups, gallery_groups = drawn(few, asked), drawn(few, size)
    shown, gallery_shown = drawn(few, asked), drawn(few, size)
    skip = drawn(st.integers(-1, size - 1), asked)

    def meets(i: int, j: int) -> bool:
        apart = groups[i] != gallery_groups[j] or (rule == "same_class" and labels[i] != gallery_labels[j])
        return j != skip[i] and (rule is None or apart) and not (pictures and shown[i] == gallery_shown[j])

    want = by_hand(queries, labels, gallery, gallery_labels, meets, (1,), ties)
    arrays = np.array(queries, dtype=np.float32), np.array(gallery, dtype=np.float32)
    settings = {"gallery": arrays[1], "gallery_labels": gallery_labels, "exclude": skip, "ties": ties}
    if rule is not None:
        settings |= {"groups": groups, "gallery_groups": gallery_groups, "group_rule": rule}
    if pictures:
        settings |= {"identities": shown, "gallery_identities": gallery_shown}
    if want[0]:
        check(retrieval(arrays[0], labels, (1,), metrics=("all",), **settings), want, asked)
    else:
        with pytest.raises(DataError):
            retrieval(arrays[0], labels, (1,), **settings)


@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize("rule", ["same_class", "any_class"])
def test_groups_of_one_set(rule: Any, symmetric: bool) -> None:
    """Image by image: a row does not meet itself, nor those of its camera."""
    points, labels = made()
    cameras = np.random.default_rng(1).integers(0, 3, 200) - 2**62
    names = labels.tolist()

    def meets(i: int, j: int) -> bool:
        return bool(i != j and (cameras[i] != cameras[j] or (rule == "same_class" and names[i] != names[j])))

    want = by_hand(points.tolist(), names, points.tolist(), names, meets, KS, "optimistic")
    with small_steps(1, symmetric=symmetric):
        found = retrieval(points, labels, KS, groups=cameras, group_rule=rule, metrics=("all",), block_bytes=1)
    check(found, want, 200)
    assert found.as_dict() != retrieval(points, labels, KS, metrics=("all",)).as_dict()
    assert (cameras[found.nearest] == cameras[found.query_rows]).any() == (rule == "same_class")
    most = 200 - np.unique(cameras, return_counts=True)[1].max()
    if rule == "any_class":
        with pytest.raises(SizeError, match=f"K to be from 1 to {most}, the images that a query ranks"):
            retrieval(points, labels, (int(most) + 1,), groups=cameras, group_rule=rule)


@pytest.mark.parametrize("ties", ["optimistic", "pessimistic", "expected"])
@pytest.mark.parametrize(("places", "symmetric"), [(1, False), (128, False), (1, True)])
def test_agrees_with_loops_on_bits(ties: Any, places: int, symmetric: bool) -> None:
    """Ten bits and 120 images: large groups of equals, beyond what the partition holds."""
    codes, labels = coded()
    want = of_groups(codes, labels, KS, ties)
    with small_steps(places, symmetric=symmetric):
        check(retrieval(codes, labels, KS, ties=ties, metrics=("all",)), want, 120)


def coded() -> tuple[Any, Any]:
    generator = np.random.default_rng(3)
    labels = np.sort(generator.integers(0, 15, 120))
    centres = generator.standard_normal((15, 10))
    return to_bits(centres[labels] + 1.2 * generator.standard_normal((120, 10))), labels


def of_groups(codes: Any, labels: Any, ks: tuple[int, ...], ties: str) -> Want:
    """Rank by sorting. The expected values come from walking each place of each group of equals, in fractions."""
    bits = np.unpackbits(codes, axis=1).astype(int)
    apart = (bits[:, None] != bits[None]).sum(axis=2)
    if ties != "expected":
        return by_hand(
            range(120), labels, range(120), labels, not_itself, ks, ties, lambda i, j: -float(apart[i, j])
        )  # fmt: skip
    rows, columns = [], []
    for i in range(120):
        others = [j for j in range(120) if j != i]
        total = sum(labels[j] == labels[i] for j in others)
        if total:
            rows.append(i)
            columns.append(walked([(int(apart[i, j]), labels[j] == labels[i]) for j in others], total, ks))
    return rows, {name: [one[name] for one in columns] for name in columns[0]}


def walked(pairs: list[tuple[int, bool]], total: int, ks: tuple[int, ...]) -> dict[str, float]:
    start, before, missed = 0, 0, Fraction(1)
    depths = {"r": total, "all": len(pairs), **{str(k): k for k in ks}}
    found = dict.fromkeys(depths, 0.0)
    precise, gains = dict(found), dict(found)
    scores = {"mrr": 0.0, "first": 0.0, **{f"recall@{k}": 0.0 for k in ks}}
    for distance in sorted({distance for distance, _ in pairs}):
        group = [hit for apart, hit in pairs if apart == distance]
        size, hits = len(group), sum(group)
        none = Fraction(1)  # chance that the group's first t places hold no relevant image
        for t in range(1, size + 1):
            place = start + t
            upto = before + 1 + (Fraction((t - 1) * (hits - 1), size - 1) if size > 1 else 0)
            for name, depth in depths.items():
                if place <= depth:
                    found[name] += hits / size
                    precise[name] += float(Fraction(hits, size) * upto / place)
                    gains[name] += hits / size / math.log2(1 + place)
            first = missed * none * Fraction(hits, size - t + 1) if before == 0 else Fraction(0)
            none *= 1 - Fraction(hits, size - t + 1)
            scores["mrr"] += float(first / place)
            scores["first"] += float(first * place)
            for k in ks:
                scores[f"recall@{k}"] += float(first) if place <= k else 0.0
        start, before = start + size, before + hits
        missed = missed if before == 0 else Fraction(0)
    scores |= {"map@r": precise["r"] / total, "r_precision": found["r"] / total, "map@all": precise["all"] / total}
    for k in ks:
        ideal = sum(1 / math.log2(1 + place) for place in range(1, min(k, total) + 1))
        scores[f"precision@{k}"] = found[str(k)] / k
        scores[f"map@{k}"] = precise[str(k)] / min(k, total)
        scores[f"ndcg@{k}"] = gains[str(k)] / ideal
    return scores


@settings(deadline=None, max_examples=40)
@given(
    ties=RULES,
    rule=st.sampled_from(["same_class", "any_class", None]),
    metrics=st.sampled_from([(), ("mrr",), ("all",)]),
    packed=st.booleans(),
    seed=st.integers(0, 10**6),
)
@pytest.mark.slow
def test_tiles_of_the_triangle_give_what_whole_rows_give(
    ties: Any, rule: Any, metrics: Any, packed: bool, seed: int
) -> None:
    """Bit for bit: several hundred images, duplicates, rows without a direction, alone and in large classes."""
    generator = np.random.default_rng(seed)
    labels = generator.permutation(np.concatenate([generator.integers(0, 40, 150), np.full(20, 99), [100, 101]]))
    points = generator.standard_normal((172, 12)).astype(np.float32)
    points += 0.8 * generator.standard_normal((102, 12)).astype(np.float32)[labels]
    points[generator.integers(0, 172, 20)] = points[3]
    points[generator.integers(0, 172, 3)] = 0
    rows = to_bits(points) if packed else points
    wanted: dict[str, Any] = {"ties": ties, "metrics": metrics}
    if rule is not None:
        wanted |= {"groups": generator.integers(0, 30, 172), "group_rule": rule}
    if seed % 2:
        wanted["identities"] = generator.integers(0, 120, 172)
    with mock.patch.object(_pass, "is_symmetric", return_value=False):
        by_rows = values(retrieval(rows, labels, (1, 7), **wanted))
    with small_steps(1, symmetric=True):
        assert values(retrieval(rows, labels, (1, 7), block_bytes=30_000, **wanted)) == by_rows


def test_a_set_is_ranked_with_itself_by_tiles_where_ranks_are_shallow_and_pairs_few() -> None:
    generator = np.random.default_rng(0)
    points = generator.standard_normal((640, 8)).astype(np.float32)
    labels = np.arange(640) // 5

    def passed(rows: Any = points, **settings: Any) -> bool:
        with mock.patch.object(_pass, "by_triangle", side_effect=_symmetric.by_triangle) as triangle:
            retrieval(rows, settings.pop("labels", labels), (1,), **settings)
        return bool(triangle.called)

    assert passed()
    assert passed(to_bits(points))
    assert not passed(points.astype(np.float64))
    assert not passed(gallery=points, gallery_labels=labels)
    assert not passed(metrics=("map@all",))
    assert not passed(labels=np.arange(640) // 40)
    assert not passed(block_bytes=500_000)
    seen: list[tuple[int, int]] = []
    with mock.patch.object(_symmetric, "_EDGE", 320):
        retrieval(points, labels, (1,), progress=lambda done, total: seen.append((done, total)))
    assert seen == [(213, 640), (426, 640), (640, 640)]


@pytest.mark.parametrize("symmetric", [False, True])
def test_a_picture_in_two_rows_does_not_find_itself(symmetric: bool) -> None:
    """Noise, each file listed twice: every query found its own file, and nothing else can be found but by chance."""
    noise = np.random.default_rng(0).standard_normal((60, 16)).astype(np.float32)
    labels, files = np.arange(60) % 5, np.tile(np.arange(60), 2)
    twice, names = np.concatenate([noise, noise]), np.concatenate([labels, labels])
    alone = retrieval(noise, labels, (1,)).recall[1]
    with small_steps(1, symmetric=symmetric):
        found = retrieval(twice, names, (1,), identities=files)
    assert retrieval(twice, names, (1,)).recall[1] == 1
    assert found.recall[1] == alone < 0.5
    assert (files[found.nearest] != files[found.query_rows]).all()
    assert found.relevant.tolist() == [22] * 120
    sides = {"gallery": noise, "gallery_labels": labels, "gallery_identities": files[:60]}
    assert retrieval(noise, labels, (1,), identities=files[:60], **sides).recall[1] == alone
    other = names.copy()
    other[60:] = 9  # The same file under another label is no answer either, right or wrong.
    assert (files[retrieval(twice, other, (1,), identities=files).nearest] != files).all()


def test_bits_and_their_signs_are_one_ranking() -> None:
    """64 bits: the cosines of the -1/+1 vectors are multiples of 1/32 and exact. Bits are expected unless told."""
    generator = np.random.default_rng(0)
    labels = np.repeat(np.arange(20), 6)
    codes = to_bits(generator.standard_normal((120, 64)) + 0.9 * generator.standard_normal((20, 64))[labels])
    found = retrieval(codes, labels, KS, metrics=("all",))
    signs = retrieval(from_bits(codes, 64), labels, KS, metrics=("all",), ties="expected")
    assert found.ties == "expected"
    assert values(found)[:-7] == values(signs)[:-7]
    assert values(found)[-5:] == values(signs)[-5:]
    assert found.margins.tolist() == (32 * signs.margins).tolist()
    assert found.as_dict() == signs.as_dict()
    assert 0.2 < found.map_at_r < 0.8
    assert retrieval(codes, labels, KS, ties="optimistic").map_at_r > found.map_at_r
    tensor = torch.from_numpy(codes)
    again = retrieval(tensor[:50], labels[:50], KS, gallery=tensor, gallery_labels=labels, exclude=torch.arange(50))
    assert again.hits[1].tolist() == found.hits[1][:50].tolist()


def test_codes_too_wide_for_short_integers() -> None:
    """32 768 bits, all of them apart: the distance does not fit 16 bits."""
    codes = np.zeros((3, 4096), dtype=np.uint8)
    codes[2] = 255
    found = retrieval(codes, [0, 0, 0], (1, 2), metrics=("all",)).as_dict()
    assert (found.pop("queries"), found.pop("skipped")) == (3, 0)
    assert set(found.values()) == {1.0}
    assert retrieval(codes, [0, 1, 0], (1,)).margins.tolist() == [-(2.0**15), 0.0]


def test_agrees_with_scikit_learn() -> None:
    """It averages tied gains too, so it is an oracle of the expected rule."""
    from sklearn.metrics import average_precision_score, ndcg_score

    generator = np.random.default_rng(0)
    labels = generator.integers(0, 4, 150)
    spots = np.array([[1, 0], [0, 1], [-1, 0], [0, -1], [0, 0]], dtype=float)
    points = spots[generator.integers(0, 5, 150)]  # everything is tied
    found = retrieval(points, labels, (5, 40, 149), ties="expected", metrics=("ndcg",))
    unit = points / np.maximum(np.linalg.norm(points, axis=1, keepdims=True), 1e-9)
    cosines = np.round(unit @ unit.T, 6)
    others = ~np.eye(150, dtype=bool)
    truth = (labels[:, None] == labels)[others].reshape(150, 149)
    for k in (5, 40, 149):
        assert found.as_dict()[f"ndcg@{k}"] == pytest.approx(ndcg_score(truth, cosines[others].reshape(150, 149), k=k))
    smooth = generator.standard_normal((150, 5))
    unit = smooth / np.linalg.norm(smooth, axis=1, keepdims=True)
    want = [
        average_precision_score(t, s) for t, s in zip(truth, (unit @ unit.T)[others].reshape(150, 149), strict=True)
    ]
    np.testing.assert_allclose(retrieval(smooth, labels, (1,), metrics=("map@all",)).scores["map@all"], want, atol=1e-9)


def test_the_mean_inverse_rank_of_large_groups() -> None:
    """Against exact fractions; it is not the inverse of the mean rank."""
    cases = [(0, 0, 1), (5, 0, 3), (0, 7, 1), (3, 400, 1), (2, 9, 2), (0, 500, 4), (40, 120, 60)]
    first = _ties.FirstArrays(*(np.array(column) for column in zip(*cases, strict=True)))
    found = _ties.reciprocal_ranks(first, "expected", 1000)
    for (above, tied, relevant), value in zip(cases, found, strict=True):
        size = tied + relevant
        want = sum(
            Fraction(math.comb(size - t, relevant - 1), math.comb(size, relevant)) / (above + t)
            for t in range(1, tied + 2)
        )
        assert value == pytest.approx(float(want), rel=1e-10)
    assert found[5] > 1.5 / _ties.first_ranks(first, "expected")[5]


def made(seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(0, 25, (200,), generator=generator)
    labels[:60] = 99
    centres = torch.randn(100, 16, generator=generator)
    points = torch.randn(200, 16, generator=generator) + 0.6 * centres[labels]
    points[::11] = points[5]
    return points, labels


def values(found: Any) -> list[Any]:
    names = ("first_ranks", "right_similarity", "wrong_similarity", "relevant")
    names += ("query_rows", "nearest", "nearest_right", "nearest_wrong")
    columns = list(found.scores.values())
    return [column.tolist() for column in columns] + [getattr(found, name).tolist() for name in names]


@settings(deadline=None, max_examples=12)
@given(block_bytes=st.integers(1, 400_000), ties=RULES)
def test_block_size_does_not_matter(block_bytes: int, ties: Any) -> None:
    points, labels = made()
    settings = {"ties": ties, "metrics": ("all",), "groups": np.arange(200) % 7}
    want = retrieval(points, labels, KS, **settings)
    assert values(retrieval(points, labels, KS, block_bytes=block_bytes, **settings)) == values(want)
    codes = to_bits(points)
    want = retrieval(codes, labels, KS, **settings)
    assert values(retrieval(codes, labels, KS, block_bytes=block_bytes, **settings)) == values(want)


@settings(deadline=None, max_examples=12)
@given(seed=st.integers(0, 1000), ties=RULES)
def test_order_of_the_images_does_not_matter(seed: int, ties: Any) -> None:
    points, labels = made()
    want = retrieval(points, labels, KS, ties=ties, metrics=("all",))
    order = torch.randperm(200, generator=torch.Generator().manual_seed(seed))
    found = retrieval(points[order], labels[order], KS, ties=ties, metrics=("all",))
    back = np.argsort(order.numpy()[found.query_rows])
    for ours, theirs in zip(values(found)[:-4], values(want)[:-4], strict=True):
        assert np.array(ours)[back].tolist() == theirs  # the last four are row numbers, which the order does change


def test_neither_threads_nor_autocast_matter() -> None:
    points, labels = made()
    codes, every = to_bits(points), {"metrics": ("all",)}
    want, of_codes = values(retrieval(points, labels, KS, **every)), values(retrieval(codes, labels, KS, **every))
    threads = torch.get_num_threads()
    try:
        for count in (1, 2, 3):
            torch.set_num_threads(count)
            with mock.patch.object(_ranks, "_CHUNK_BYTES", 2000):
                assert values(retrieval(points, labels, KS, **every)) == want
                assert values(retrieval(codes, labels, KS, **every)) == of_codes
    finally:
        torch.set_num_threads(threads)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert values(retrieval(points.requires_grad_(), labels, KS, **every)) == want


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
    assert (found.nearest_right.tolist(), found.nearest_wrong.tolist()) == ([1, 0, 3, 2], [2, 2, 1, 1])
    assert found.right_similarity == pytest.approx([0.8] * 4, abs=1e-6)
    assert found.wrong_similarity == pytest.approx([0.6, 0.96, 0.96, 0.6], abs=1e-6)


@settings(deadline=None, max_examples=60)
@given(
    data=st.data(),
    rule=st.sampled_from(["same_class", "any_class", None]),
    packed=st.booleans(),
    symmetric=st.booleans(),
)
def test_the_nearest_of_both_kinds_agree_with_loops(
    data: st.DataObject, rule: Any, packed: bool, symmetric: bool
) -> None:
    """Few spots, so that most similarities are tied and the lowest row has to win."""
    size = data.draw(st.integers(2, 9))
    small = st.lists(st.integers(0, 2), min_size=size, max_size=size)
    spots, labels, groups = data.draw(small), data.draw(small), data.draw(small)
    shown = data.draw(st.none() | st.lists(st.integers(0, 4), min_size=size, max_size=size))
    table = np.array([[1, 0], [0, 1], [-1, 0]], dtype=np.float32)
    rows = np.array([[0], [1], [7]], dtype=np.uint8)[spots] if packed else table[spots]

    def similar(i: int, j: int) -> float:
        return -int(rows[i, 0] ^ rows[j, 0]).bit_count() if packed else cosine(rows[i], rows[j])

    def meets(i: int, j: int) -> bool:
        apart = groups[i] != groups[j] or (rule == "same_class" and labels[i] != labels[j])
        return i != j and (rule is None or apart) and (shown is None or shown[i] != shown[j])

    want: list[tuple[float, ...]] = []
    for i in range(size):
        sides = [
            [j for j in range(size) if meets(i, j) and (labels[j] == labels[i]) == right] for right in (True, False)
        ]
        if sides[0]:
            best = [max(side, key=lambda j: (similar(i, j), -j), default=-1) for side in sides]
            nearness = [similar(i, j) if j >= 0 else -math.inf for j in best]
            nearest = best[0] if best[1] < 0 or (nearness[0], -best[0]) > (nearness[1], -best[1]) else best[1]
            want.append((i, *best, *nearness, nearest))
    known: dict[str, Any] = {} if rule is None else {"groups": groups, "group_rule": rule}
    known["identities"] = shown
    if not want:
        return
    with small_steps(1, symmetric=symmetric):
        found = retrieval(rows, labels, (1,), **known)
    names = ("query_rows", "nearest_right", "nearest_wrong", "right_similarity", "wrong_similarity", "nearest")
    assert list(zip(*(getattr(found, name).tolist() for name in names), strict=True)) == want


def test_one_class_is_all_right() -> None:
    points = np.random.default_rng(0).standard_normal((9, 3))
    found = retrieval(points, np.full(9, 3), ks=(1, 8))
    assert found.as_dict() == pytest.approx(
        {"recall@1": 1, "recall@8": 1, "map@r": 1, "r_precision": 1, "queries": 9, "skipped": 0}
    )
    assert np.isposinf(found.margins).all()
    assert (found.nearest_wrong == -1).all()
    assert np.isneginf(found.wrong_similarity).all()


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


def test_what_else_the_seven_points_score() -> None:
    """PML with k = 2 neighbours has mean_average_precision .3928571429 (ours from K = R on) and MRR .5: 0 beyond them."""
    points = [[1.0, 0.0], [0.8, 0.6], [0.6, 0.8], [0.0, 1.0], [-0.6, 0.8], [-1.0, 0.0], [0.96, 0.28]]
    found = retrieval(torch.tensor(points), [0, 0, 1, 1, 2, 2, 1], ks=(1, 2), metrics=("mrr", "map"))
    summary = found.as_dict()
    assert summary["map@2"] == pytest.approx(0.3928571429)
    assert np.where(found.first_ranks <= 2, found.scores["mrr"], 0).mean() == pytest.approx(0.5)
    assert summary["mrr"] == pytest.approx((2 + 3 / 2 + 2 / 3) / 7)
    names = ["recall@1", "recall@2", "map@r", "r_precision", "map@1", "map@2", "mrr", "queries", "skipped"]
    assert list(summary) == names


def test_only_what_is_asked_for_is_there() -> None:
    points, labels = made()
    plain = retrieval(points, labels, (1, 5)).as_dict()
    assert list(plain) == ["recall@1", "recall@5", "map@r", "r_precision", "queries", "skipped"]
    added = retrieval(points, labels, (1, 5), metrics=("recall", "ndcg", "median_rank")).as_dict()
    assert set(added) - set(plain) == {"ndcg@1", "ndcg@5", "median_rank"}
    assert {name: added[name] for name in plain} == plain


def test_classes_and_categories() -> None:
    points, labels = made()
    labels = labels.numpy() + 2**40
    labels[:3] = [-1, -2, -3]  # alone in their class
    categories = np.arange(200) % 5
    found = retrieval(points, labels, KS, metrics=("all",), categories=categories)
    each = {**found.per_query(), "median_rank": found.first_ranks}
    for table, names in ((found.per_class(), labels), (found.per_category(), categories)):
        asked = names[found.query_rows]
        assert table.labels.tolist() == sorted(set(asked.tolist()))
        assert len(table) == len(table.labels)
        for row, line in zip(table.labels, table.as_rows(), strict=True):
            want = {name: (np.median if name == "median_rank" else np.mean)(each[name][asked == row]) for name in each}
            assert line == pytest.approx({"label": row, "queries": (asked == row).sum(), **want})
        assert table.macro() == pytest.approx({name: np.mean(table.values[name]) for name in each})
    assert found.skipped == 3
    assert found.macro() == found.per_class().macro()
    assert found.macro()["map@r"] != pytest.approx(found.map_at_r, abs=0.01)  # 57 images are of one class
    least = found.per_class().worst("map@r", 3)
    assert found.per_class().values["map@r"][least].tolist() == sorted(found.per_class().values["map@r"])[:3]
    with pytest.raises(SettingsError, match="these scores know no categories"):
        retrieval(points, labels, KS).per_category()


def test_labels_that_floats_cannot_tell_apart() -> None:
    points, labels = made()
    want = values(retrieval(points, labels, KS))
    huge = labels.numpy().astype(np.uint64) + np.uint64(2**64 - 200)
    found = retrieval(points, huge, KS)
    assert values(found) == want
    assert found.per_class().labels.tolist() == np.unique(huge[found.query_rows]).tolist()
    sides = {"gallery": points, "exclude": torch.arange(200)}
    assert values(retrieval(points, huge, KS, gallery_labels=huge, **sides)) == want
    large = labels.numpy() + 2**62
    assert values(retrieval(points, large, KS, gallery_labels=large.astype(np.uint64), **sides)) == want
    with pytest.raises(SizeError, match="do not fit one type"):
        retrieval(points, huge, KS, gallery_labels=labels - 500, **sides)


@pytest.mark.parametrize("kind", [torch.float16, torch.bfloat16])
def test_half_precision_is_widened_before_it_is_compared(kind: torch.dtype) -> None:
    points, labels = made()
    half = points.to(kind)
    found = retrieval(half, labels, KS, metrics=("all",))
    assert values(found) == values(retrieval(half.float().numpy(), labels, KS, metrics=("all",)))
    assert found.margins.dtype == np.float64


@pytest.mark.parametrize("sides", ["one set", "gallery", "gallery in float32"])
def test_float64_is_compared_in_float64(sides: str) -> None:
    """2000 points on an arc of 0.2 radians with random labels: in float32, near ones tie, and ties count as hits."""
    generator = np.random.default_rng(0)
    angles, labels = np.sort(generator.uniform(0, 0.2, 2000)), generator.integers(0, 20, 2000)
    points = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    other: dict[str, Any] = {}
    if sides != "one set":
        other = {"gallery": torch.from_numpy(points), "gallery_labels": labels, "exclude": np.arange(2000)}
    if sides == "gallery in float32":
        other["gallery"] = other["gallery"].float()
    gaps = np.abs(angles[:, None] - angles) + np.diag(np.full(2000, np.inf))
    want = (labels[gaps.argmin(axis=1)] == labels).mean()
    found = retrieval(points, labels, (1,), block_bytes=10**7, **other)
    if sides == "gallery in float32":  # the gallery itself is rounded, so some neighbours change places
        assert found.recall[1] == pytest.approx(want, abs=0.02)
    else:
        assert found.recall[1] == want
    assert retrieval(points.astype(np.float32), labels, (1,)).recall[1] > 1.5 * want


def test_any_layout_in_memory(tmp_path: Path) -> None:
    points, labels = made()
    array, codes = points.numpy(), to_bits(points.numpy())
    np.save(tmp_path / "points.npy", array)
    np.save(tmp_path / "codes.npy", codes)
    want, of_codes = values(retrieval(array, labels, KS)), values(retrieval(codes, labels, KS))
    wide = np.repeat(array, 2, axis=1)[:, ::2]
    for layout in (np.load(tmp_path / "points.npy", mmap_mode="r"), np.asfortranarray(array), wide, points.T.clone().T):
        assert values(retrieval(layout, labels, KS)) == want
    for layout in (np.load(tmp_path / "codes.npy", mmap_mode="r"), np.asfortranarray(codes)):
        assert values(retrieval(layout, labels, KS)) == of_codes


def test_progress_is_told() -> None:
    points, labels = made()
    labels[:3] = torch.tensor([-1, -2, -3])
    seen: list[tuple[int, int]] = []
    retrieval(points, labels, KS, block_bytes=1, progress=lambda done, total: seen.append((done, total)))
    assert seen == [(done, 197) for done in (*range(32, 197, 32), 197)]


def test_all_images_the_same() -> None:
    """A collapsed model scores what drawing at random would. Only the optimistic rule, if requested, calls it perfect."""
    points, labels = np.zeros((40, 3), dtype=np.float32), np.repeat(np.arange(8), 5)
    found = retrieval(points, labels, (1, 39), ties="expected", metrics=("all",)).as_dict()
    assert (found["recall@1"], found["recall@39"]) == pytest.approx((4 / 39, 1))
    assert found["precision@39"] == pytest.approx(4 / 39)
    assert retrieval(points, labels, (1,), ties="optimistic").recall == {1: 1.0}
    assert retrieval(points, labels, (1,), ties="pessimistic").recall == {1: 0.0}


@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize("row", [[0.0, 0.0, 0.0], [0.3, -0.2, 0.5]])
def test_what_ties_with_everything_counts_at_chance(row: Any, symmetric: bool) -> None:
    """All rows zero, or all the same: every score, and the rank of the best relevant image, is the mean over all orders."""
    points, labels = np.tile(np.float32(row), (70, 1)), np.arange(70) // 5
    groups = np.arange(70) % 7
    for rules in ({}, {"groups": groups, "group_rule": "any_class"}):
        with small_steps(1, symmetric=symmetric):
            found = retrieval(points, labels, KS, metrics=("all",), **rules)
        want = retrieval(points, labels, KS, metrics=("all",), ties="expected", **rules)
        assert found.as_dict() == want.as_dict()
        assert found.first_ranks.tolist() == want.first_ranks.tolist()
        assert found.ties == "optimistic"
        assert found.recall[1] == pytest.approx(4 / 69 if not rules else 4 / 59, abs=0.02)


def test_rows_without_a_direction_count_at_chance_and_leave_the_others_alone() -> None:
    points, labels = made()
    points = points.clone()
    points[[7, 70, 170]] = 0
    found, optimistic = (retrieval(points, labels, KS, ties=ties) for ties in (None, "optimistic"))
    zero = np.isin(found.query_rows, [7, 70, 170])
    assert found.hits[1][~zero].tolist() == optimistic.hits[1][~zero].tolist()
    chance = found.relevant[zero] / 199
    assert found.hits[1][zero] == pytest.approx(chance)
    assert optimistic.hits[1][zero].tolist() == [1.0] * zero.sum()
    two = torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0], [0.0, 2.0]])  # tied for the first rank, but not with all
    assert retrieval(two[1:], [0, 0, 1], (1,), gallery=two, gallery_labels=[0, 0, 0, 1]).recall[1] == 1


@pytest.mark.filterwarnings("ignore")
def test_macro_average_agrees_with_pytorch_metric_learning_and_map_at_k_where_it_can() -> None:
    """Its MAP@K divides by R: a perfect ranking of a large class scores K / R, not 1."""
    accuracy = pytest.importorskip("pytorch_metric_learning.utils.accuracy_calculator", reason="extra bench")
    from pytorch_metric_learning.distances import CosineSimilarity
    from pytorch_metric_learning.utils.inference import CustomKNN

    def theirs(points: Any, labels: Any, **settings: Any) -> Any:
        names = ("mean_average_precision", "r_precision", "mean_reciprocal_rank")
        knn = CustomKNN(CosineSimilarity())
        return accuracy.AccuracyCalculator(include=names, knn_func=knn, **settings).get_accuracy(points, labels)

    points, labels = made()
    rows = [row for row in range(200) if row % 11]
    points, labels = points[rows], labels[rows]
    found = retrieval(points, labels, (len(rows) - 1,), metrics=("mrr", "map"))
    want = theirs(points, labels, k=len(rows) - 1, avg_of_avgs=True)
    assert found.macro()["r_precision"] != pytest.approx(found.r_precision, abs=0.01)
    assert found.macro()["mrr"] == pytest.approx(want["mean_reciprocal_rank"])
    assert found.macro()[f"map@{len(rows) - 1}"] == pytest.approx(want["mean_average_precision"])
    axes, classes = torch.eye(2).repeat_interleave(11, dim=0), torch.arange(2).repeat_interleave(11)
    assert retrieval(axes, classes, (5,), metrics=("map",)).as_dict()["map@5"] == 1
    assert theirs(axes, classes, k=5)["mean_average_precision"] == pytest.approx(5 / 10)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="wants a CUDA device")
@pytest.mark.parametrize("ties", ["optimistic", "pessimistic", "expected"])
def test_a_gpu_gives_the_same(ties: Any) -> None:
    """Points whose cosines are exact in float32, so that every device must agree."""
    codes, labels = coded()
    signs = from_bits(np.concatenate([codes, ~codes], axis=1)[:, :2], 16)
    for rows in (torch.from_numpy(signs), torch.from_numpy(codes)):
        want = retrieval(rows, labels, KS, ties=ties, metrics=("all",))
        with small_steps(1):
            found = retrieval(rows.cuda(), labels, KS, ties=ties, metrics=("all",), groups=np.arange(120))
        for name, column in want.per_query().items():
            np.testing.assert_allclose(found.per_query()[name], column, atol=1e-12, err_msg=name)
        assert found.margins.tolist() == want.margins.tolist()


X = np.eye(4, dtype=np.float32)
BITS = np.eye(4, 2, dtype=np.uint8)


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        ({"ks": (4,)}, SizeError, "Recall@4 wants K to be from 1 to 3, the images that a query ranks"),
        ({"ks": (0,)}, SizeError, "Recall@0 wants K"),
        ({"ks": (True,)}, SizeError, "Recall@True wants K"),
        ({"ks": (1.0,)}, SizeError, "Recall@1.0 wants K"),
        ({"ks": ()}, SizeError, "ks is empty"),
        ({"ks": 3}, SizeError, "want ks as a list of whole numbers, got 3. Write ks=(3,)."),
        ({"ks": (1, "2")}, SizeError, "Recall@2 wants K to be a whole number from 1 on"),
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
        ({"metrics": "mrr"}, SettingsError, "want metrics as a list of names, got 'mrr'"),
        ({"metrics": ("ndgc",)}, SettingsError, "there is no metric 'ndgc'. Did you mean 'ndcg'?"),
        ({"groups": [0, 1]}, SizeError, "want groups (4,), one for each row, got (2,)"),
        ({"groups": [0.5] * 4}, SizeError, "want integer groups, got float64"),
        ({"groups": [0] * 4}, DataError, "none of 4 queries has an image of its class to find"),
        ({"groups": [0] * 4}, DataError, "The groups of a table are its column sequence. Leave that column out"),
        (
            {"identities": [0] * 4},
            DataError,
            "none of 4 queries has an image of its class to find: all of them are the query's",
        ),
        ({"identities": [0, 1]}, SizeError, "want identities (4,), one for each row, got (2,)"),
        ({"gallery_identities": [0] * 4}, SettingsError, "gallery_identities came without identities"),
        ({"gallery_groups": [0] * 4}, SettingsError, "gallery_groups came without groups"),
        ({"groups": [0] * 4, "gallery_groups": [0] * 4}, SettingsError, "gallery_groups came without gallery"),
        (
            {"groups": [0] * 4, "gallery": X, "gallery_labels": [0, 0, 1, 1]},
            SettingsError,
            "groups came without gallery_groups",
        ),
        ({"group_rule": "class"}, SettingsError, "there is no group rule 'class'"),
        ({"categories": [1]}, SizeError, "want categories (4,)"),
        (
            {"embeddings": BITS, "gallery": X, "gallery_labels": [0, 0, 1, 1]},
            SizeError,
            "embeddings are packed bits (uint8), but gallery are not",
        ),
        (
            {"gallery": BITS, "gallery_labels": [0, 0, 1, 1]},
            SizeError,
            "gallery are packed bits (uint8), but embeddings are not",
        ),
        (
            {"embeddings": BITS, "gallery": BITS[:, :1], "gallery_labels": [0, 0, 1, 1]},
            SizeError,
            "queries have 16 bits, the gallery 8",
        ),
        ({"embeddings": BITS[:0], "labels": []}, SizeError, "want embeddings with at least one row"),
        ({"embeddings": X.astype(int)}, SizeError, "of a floating type"),
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
