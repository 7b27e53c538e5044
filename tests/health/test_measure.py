"""Every number against plain numpy, scipy or the loss of the same name; what must not matter; input that has no answer."""

from __future__ import annotations

import itertools
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import scipy.stats
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cosphere.errors import DataError, SettingsError, SizeError
from cosphere.health import Health, embedding_health
from cosphere.losses import AlignmentUniformityLoss


def clusters(count: int = 60, width: int = 7, classes: int = 6, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Classes of unequal size, one of a single row, with unequal lengths and negative cosines."""
    draw = np.random.default_rng(seed)
    labels = np.sort(draw.integers(0, classes, count - 1))
    labels = np.append(labels, 1000)
    centres = draw.normal(size=(1001, width))[labels]
    rows = (centres + 0.8 * draw.normal(size=(count, width))) * draw.uniform(0.5, 3, size=(count, 1))
    mixed = draw.permutation(count)
    return rows[mixed].astype(np.float32), labels[mixed]


def unit(rows: np.ndarray) -> np.ndarray:
    wide = rows.astype(np.float64)
    return wide / np.sqrt((wide**2).sum(axis=1, keepdims=True))


def counted(rows: np.ndarray, k: int) -> list[int]:
    """How often each row is among the k nearest of another, from sorted lists."""
    found = [0] * len(rows)
    x = unit(rows)
    for i in range(len(x)):
        for j in sorted((j for j in range(len(x)) if j != i), key=lambda j: -float(x[i] @ x[j]))[:k]:
            found[j] += 1
    return found


def margins(rows: np.ndarray, labels: np.ndarray) -> list[float]:
    x, found = unit(rows), []
    for i, label in enumerate(labels):
        company = [j for j in range(len(x)) if j != i and labels[j] == label]
        if not company:
            continue
        means = [np.mean(x[company], axis=0)]
        means += [np.mean(x[labels == other], axis=0) for other in np.unique(labels) if other != label]
        own, *others = (float(x[i] @ mean / np.linalg.norm(mean)) for mean in means)
        found.append(own - max(others))
    return found


@pytest.mark.parametrize(("count", "width"), [(60, 7), (60, 3), (33, 200), (12, 12)])
def test_ranks_agree_with_the_singular_values(count: int, width: int) -> None:
    rows, labels = clusters(count, width)
    x = unit(rows)
    values = np.linalg.svd(x - x.mean(axis=0), compute_uv=False)
    shares = [value / values.sum() for value in values if value > 1e-9 * values.max()]
    found = embedding_health(rows, labels)
    assert found.effective_rank == pytest.approx(np.exp(-sum(p * np.log(p) for p in shares)), rel=1e-5)
    assert found.participation_ratio == pytest.approx((values**2).sum() ** 2 / (values**4).sum(), rel=1e-6)
    assert 1 < found.participation_ratio < found.effective_rank < min(width, count - 1) + 1e-3


def test_what_all_rows_share_is_in_the_mean_cosine_and_not_in_the_ranks() -> None:
    """Raw singular values would put one large direction first."""
    draw = np.random.default_rng(0)
    rows = draw.normal(size=(400, 8)) + 10 * np.eye(8)[0]
    found = embedding_health(rows)
    raw = np.linalg.svd(unit(rows), compute_uv=False)
    assert (raw**2).sum() ** 2 / (raw**4).sum() < 1.2
    assert found.participation_ratio > 6  # the eighth direction is the one along the mean
    cosines = [float(a @ b) for a, b in itertools.combinations(unit(rows), 2)]
    assert found.mean_cosine == pytest.approx(np.mean(cosines), rel=1e-6)
    assert found.mean_cosine > 0.85


@pytest.mark.parametrize("seed", [0, 1])
def test_uniformity_and_alignment_are_those_of_the_loss_and_of_pdist(seed: int) -> None:
    rows, labels = clusters(seed=seed)
    rows[[3, 10]] = 0  # rows without a direction are left out there too
    found = embedding_health(rows, labels)
    points, names = torch.from_numpy(rows).double(), torch.from_numpy(labels)
    uniform = AlignmentUniformityLoss(alignment_weight=0.0)(points, names)
    align = AlignmentUniformityLoss(uniformity_weight=0.0)(points, names)
    assert found.uniformity == pytest.approx(float(uniform), rel=1e-5)
    assert found.alignment == pytest.approx(float(align), rel=1e-5)
    x = torch.from_numpy(unit(np.delete(rows, [3, 10], axis=0)))
    assert found.uniformity == pytest.approx(float(torch.pdist(x).square().mul(-2).exp().mean().log()), rel=1e-5)
    assert (found.zero_rows, found.rows, found.compared) == (2, 60, 58)


@pytest.mark.parametrize("k", [1, 3, 10])
def test_hubness_agrees_with_counting(k: int) -> None:
    rows, _ = clusters(width=4)
    want = counted(rows, k)
    found = embedding_health(rows, k=k)
    assert found.hubness == pytest.approx(float(scipy.stats.skew(want)), rel=1e-9)
    assert found.hubness != pytest.approx(float(scipy.stats.skew(want, bias=False)), rel=1e-3)
    assert found.orphans == sum(count == 0 for count in want) / 60
    assert found.largest_hub == max(want)
    assert found.k == k
    assert k == 10 or found.orphans > 0  # this data can tell


def test_equal_cosines_share_a_place() -> None:
    """Three duplicates at one end: each finds the other two equally near, and the lone row all three."""
    rows = torch.tensor([[1.0, 0.0], [1.0, 0.0], [2.0, 0.0], [0.0, 1.0]])
    found = embedding_health(rows, k=1)
    want = [1 / 2 + 1 / 2 + 1 / 3] * 3 + [0]
    assert found.hubness == pytest.approx(float(scipy.stats.skew(want)))
    assert found.largest_hub == pytest.approx(4 / 3)
    assert found.orphans == 0.25
    # The second place of the last two rows is shared by the three, that of the three is not.
    two = embedding_health(torch.cat([rows, torch.tensor([[0.1, 1.0]])]), k=2)
    assert two.largest_hub == pytest.approx(2 + 1 / 3 + 1 / 3)
    assert two.hubness == pytest.approx(float(scipy.stats.skew([8 / 3] * 3 + [1, 1])))
    assert two.orphans == 0


def test_margins_agree_with_loops() -> None:
    rows, labels = clusters(width=4)
    want = margins(rows, labels)
    assert len(want) == 59  # the lone row has nobody to be near, but its class is there to be mistaken for
    found = embedding_health(rows, labels)
    assert found.margin == pytest.approx(float(np.median(want)), abs=1e-6)
    assert found.margin_below_zero == pytest.approx(np.mean([value < 0 for value in want]))
    assert 0 < found.margin_below_zero < 1
    assert found.classes == 7


def test_a_row_does_not_help_its_own_class_mean() -> None:
    """With itself in the mean, each of the first two would be nearest to its own class: 0.45 against 0."""
    rows = torch.tensor([[1.0, 0.0, 0.0], [-0.6, 0.8, 0.0], [0.0, 0.0, 1.0], [0.0, 0.0, 2.0]])
    found = embedding_health(rows, [0, 0, 1, 1])
    assert found.margin == pytest.approx((-0.6 + 1) / 2, abs=1e-6)
    assert found.margin_below_zero == 0.5


def test_cv_of_the_lengths() -> None:
    rows, _ = clusters()
    lengths = [sum(float(v) ** 2 for v in row) ** 0.5 for row in rows]
    assert embedding_health(rows).norm_cv == pytest.approx(np.std(lengths) / np.mean(lengths), rel=1e-6)
    huge = torch.tensor([[3e30, 4e30], [0.0, 1e31]])
    assert embedding_health(huge).norm_cv == pytest.approx(1 / 3, rel=1e-6)


def agree(one: Health, other: Health, tolerance: float = 2e-5) -> None:
    for name, value in one.as_dict().items():
        want = other.as_dict()[name]
        assert value == (want if want is None or name == "warnings" else pytest.approx(want, abs=tolerance)), name


@settings(max_examples=15, deadline=None)
@given(
    st.integers(0, 10**6), st.sampled_from([(40, 3), (40, 40), (24, 65)]), st.sampled_from([1, 5, 10]), st.booleans()
)
def test_rotation_order_names_and_blocks_do_not_matter(
    seed: int, shape: tuple[int, int], k: int, duplicates: bool
) -> None:
    rows, labels = clusters(*shape, seed=seed)
    if duplicates:
        rows[5:15] = rows[4] * np.linspace(1, 2, 10, dtype=np.float32)[:, None].round(0)
    draw = np.random.default_rng(seed)
    plain = embedding_health(rows, labels, k=k)
    order = draw.permutation(len(rows))
    agree(plain, embedding_health(rows[order], 7 - 3 * labels[order], k=k))
    agree(plain, embedding_health(rows, labels, k=k, block_bytes=1), 1e-12)
    scaled = rows * 2.0 ** draw.integers(-3, 4)
    agree(plain, embedding_health(scaled, labels, k=k), 1e-12)
    if not duplicates:  # rotated duplicates are duplicates up to rounding only
        turn = np.linalg.qr(draw.normal(size=(shape[1], shape[1])))[0]
        agree(plain, embedding_health(rows.astype(np.float64) @ turn, labels, k=k))
        lengths = draw.uniform(0.5, 2, size=(len(rows), 1))
        agree(replace(plain, norm_cv=0.0), replace(embedding_health(rows * lengths, labels, k=k), norm_cv=0.0))


@pytest.mark.parametrize("kind", ["float16", "bfloat16", "float64", "numpy", "strided", "mapped", "grad"])
def test_any_kind_of_rows_will_do(kind: str, tmp_path: Path) -> None:
    rows, labels = clusters()
    rows = torch.from_numpy(rows).bfloat16().float().numpy()  # the same numbers in every type
    if kind == "float16":
        rows = rows.astype(np.float16).astype(np.float32)
    want = embedding_health(torch.from_numpy(rows), torch.from_numpy(labels))
    np.save(tmp_path / "rows.npy", rows)
    given_rows = {
        "float16": torch.from_numpy(rows).half(),
        "bfloat16": torch.from_numpy(rows).bfloat16(),
        "float64": torch.from_numpy(rows).double(),
        "numpy": rows,
        "strided": np.repeat(rows, 2, axis=1)[:, ::2],
        "mapped": np.load(tmp_path / "rows.npy", mmap_mode="r"),
        "grad": torch.from_numpy(rows).requires_grad_(),
    }[kind]
    before = torch.as_tensor(np.array(rows))
    assert embedding_health(given_rows, labels.tolist()) == want
    assert torch.equal(torch.from_numpy(rows), before)


def test_many_rows_are_sampled_and_the_result_says_so() -> None:
    rows, labels = clusters(400, 5)
    whole = embedding_health(rows, labels)
    found = embedding_health(rows, labels, most=100, seed=3)
    assert (whole.compared, found.compared, found.rows) == (400, 100, 400)
    assert (found.alignment, found.mean_cosine, found.norm_cv) == (whole.alignment, whole.mean_cosine, whole.norm_cv)
    chosen = np.sort(np.random.default_rng(3).choice(400, 100, replace=False))
    part = embedding_health(rows[chosen])
    for name in ("effective_rank", "participation_ratio", "uniformity", "hubness", "orphans", "largest_hub"):
        assert getattr(found, name) == pytest.approx(getattr(part, name), rel=1e-9), name
    # Only who asks is sampled: class means are of all.
    every = dict(zip([i for i, label in enumerate(labels) if label != 1000], margins(rows, labels), strict=True))
    want = [every[i] for i in chosen.tolist() if i in every]
    assert found.margin == pytest.approx(float(np.median(want)), abs=1e-6)
    assert embedding_health(rows, labels, most=100, seed=3) == found
    assert embedding_health(rows, labels, most=100, seed=4) != found


NONE = dict.fromkeys(
    (
        "mean_cosine",
        "effective_rank",
        "participation_ratio",
        "uniformity",
        "alignment",
        "hubness",
        "orphans",
        "largest_hub",
        "margin",
        "margin_below_zero",
    )
)


@pytest.mark.parametrize("rows", [torch.ones(1, 3), torch.zeros(1, 3), torch.zeros(9, 3), torch.eye(4)[:, :1]])
def test_less_than_two_directions_have_no_numbers(rows: torch.Tensor) -> None:
    found = embedding_health(rows, torch.zeros(len(rows), dtype=torch.int64)).as_dict()
    assert {name: found[name] for name in NONE} == NONE
    assert found["k"] == 0
    assert found["zero_rows"] == int((rows == 0).all(dim=1).sum())


def test_one_class_has_no_margin_and_single_rows_no_alignment() -> None:
    rows, _ = clusters()
    one, alone = embedding_health(rows, np.zeros(60, int)), embedding_health(rows, np.arange(60))
    assert one.alignment is not None
    assert (one.margin, one.margin_below_zero, one.classes) == (None, None, 1)
    assert (alone.alignment, alone.margin, alone.classes) == (None, None, 60)
    bare = embedding_health(rows)
    assert (bare.alignment, bare.margin, bare.classes) == (None, None, None)
    assert bare.uniformity == one.uniformity == alone.uniformity


@pytest.mark.parametrize("width", [1, 5, 600])
def test_all_duplicates(width: int) -> None:
    """Rounding must not make ranks, hubs or margins out of nothing."""
    rows = np.full((50, width), 0.3) * np.linspace(1, 2, 50)[:, None]
    found = embedding_health(rows, np.arange(50) // 5)
    assert (found.effective_rank, found.participation_ratio) == (0, 0)
    assert (found.hubness, found.orphans, found.largest_hub) == (0, 0, pytest.approx(10))
    assert (found.mean_cosine, found.uniformity) == (pytest.approx(1, abs=1e-6), pytest.approx(0, abs=1e-5))
    assert (found.alignment, found.margin) == (pytest.approx(0, abs=1e-6), pytest.approx(0, abs=1e-6))
    assert found.margin_below_zero == 0


def test_one_dimension() -> None:
    found = embedding_health(torch.tensor([[2.0], [1.0], [-1.0], [-3.0]]), [0, 0, 1, 1], k=2)
    assert (found.effective_rank, found.participation_ratio) == (pytest.approx(1), pytest.approx(1))
    assert found.uniformity == pytest.approx(np.log((2 + 4 * np.exp(-8)) / 6), rel=1e-6)
    assert (found.alignment, found.margin, found.margin_below_zero) == (0, pytest.approx(2), 0)
    assert found.warnings == ()


def test_fewer_rows_than_neighbours() -> None:
    rows, _ = clusters(6, 3)
    found = embedding_health(rows, k=10)
    assert (found.k, found.hubness, found.orphans, found.largest_hub) == (5, 0, 0, 5)


def test_opposite_rows_of_a_class_have_no_mean() -> None:
    found = embedding_health(torch.tensor([[1.0, 0.0], [-1.0, 0.0], [0.6, 0.8], [0.6, 0.8]]), [5, 5, 9, 9])
    assert all(np.isfinite(value) for value in found.as_dict().values() if isinstance(value, float))


@pytest.mark.parametrize(
    ("rows", "labels", "words", "kind"),
    [
        (np.array([[1.0], [np.nan], [np.inf]]), None, r"2 of 3 rows of embeddings hold NaN or infinity \(rows 1, 2\)", DataError),
        (np.ones((3, 2)), [0, 1], r"one for each of 3 embeddings, got \(2,\) int64", SizeError),
        (np.ones((3, 2)), [0.0, 1.0, 2.0], r"want labels \(N,\) integers.*float64", SizeError),
        (np.ones((3, 2)), ["a", "b", "c"], "Give one class number for each row", SizeError),
        (np.ones((0, 2)), None, "at least one row", SizeError),
        (np.ones(3), None, r"want embeddings \(N, D\)", SizeError),
        (np.ones((3, 2), np.uint8), None, "floating type", SizeError),
    ],
)  # fmt: skip
def test_input_that_cannot_be_measured(rows: np.ndarray, labels: object, words: str, kind: type[Exception]) -> None:
    with pytest.raises(kind, match=words):
        embedding_health(rows, labels)


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ({"k": 0}, "k must be a whole number >= 1; got 0"),
        ({"k": 2.0}, "k must be a whole number >= 1; got 2.0"),
        ({"most": 1}, "most must be a whole number >= 2; got 1"),
        ({"block_bytes": 0}, "block_bytes must be above 0"),
    ],
)
def test_settings_out_of_range(setting: dict[str, int], words: str) -> None:
    with pytest.raises(SettingsError, match=words):
        embedding_health(torch.eye(3), **setting)
