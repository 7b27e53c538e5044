import math
import warnings

import numpy as np
import pytest
import torch

from cosphere.errors import SettingsError, SizeError
from cosphere.losses import distance_weighted_triplets, similarities_held
from cosphere.losses.distance_weighted import log_weights


def chances(distances, dim, cutoff=0.5, farthest=1.4):
    """Exact, in float64 and log space, for one anchor's negatives."""
    d = np.asarray(distances, dtype=np.float64)
    near = np.maximum(d, cutoff)
    ok = (d < farthest) & (d < 2)
    logs = np.full(len(d), -np.inf)
    logs[ok] = (2.0 - dim) * np.log(near[ok]) - (dim - 3) / 2 * np.log1p(-(near[ok] ** 2) / 4)
    if not ok.any():
        return np.full(len(d), 1 / len(d))
    weights = np.exp(logs - logs.max())
    return weights / weights.sum()


def around(distances, dim, seed=0):
    """The pole (1, dim), and points at these distances from it in random directions (n, dim). Float64."""
    cosines = 1 - torch.tensor(distances, dtype=torch.float64).square() / 2
    sides = torch.randn(len(distances), dim, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    sides[:, 0] = 0
    sides /= sides.norm(dim=1, keepdim=True)
    points = (1 - cosines.square()).clamp(min=0).sqrt()[:, None] * sides
    points[:, 0] = cosines
    pole = torch.zeros(1, dim, dtype=torch.float64)
    pole[0, 0] = 1
    return pole, points


def frequencies(distances, dim, draws=20_000, **settings):
    """How often each negative of one anchor is drawn: the anchor has so many positives, and each draws one."""
    pole, points = around(distances, dim)
    references = torch.cat([points, pole.expand(draws, dim)])
    labels = torch.cat([torch.ones(len(points), dtype=torch.long), torch.zeros(draws, dtype=torch.long)])
    generator = torch.Generator().manual_seed(4)
    drawn = distance_weighted_triplets(
        pole, torch.tensor([0]), references=references, reference_labels=labels, generator=generator, **settings
    )
    assert len(drawn[0]) == draws
    return torch.bincount(drawn[2], minlength=len(points))[: len(points)].numpy() / draws


def test_log_weights_of_the_formula():
    distances = torch.tensor([0.3, 0.5, 0.8, 1.0, 1.2, 1.39, 1.5], dtype=torch.float64)
    want = [91.37020232, 91.37020232, 39.01317416213904, 17.98012953, 4.92042776, -0.25722454, 0.5788072]
    torch.testing.assert_close(log_weights(distances, 128), torch.tensor(want).double(), rtol=1e-7, atol=1e-8)
    assert log_weights(distances, 128)[2].item() == pytest.approx(39.01317416213904, rel=1e-9)
    assert log_weights(torch.tensor([[0.1]]), 64, cutoff=0.2).item() == pytest.approx(
        -62 * math.log(0.2) - 61 / 2 * math.log(0.99), rel=1e-6
    )


@pytest.mark.parametrize("dim", [1, 2, 3, 4, 512])
def test_log_weights_are_never_nan_nor_positive_infinity(dim):
    got = log_weights(torch.tensor([0.0, 0.5, 1.9999, 2.0]), dim)
    assert got[:3].isfinite().all()
    assert got[3] == -torch.inf
    assert got[1].item() == pytest.approx((2 - dim) * math.log(0.5) - (dim - 3) / 2 * math.log(1 - 1 / 16), rel=1e-5)


@pytest.mark.parametrize("dim", [2, 3, 8, 32])
def test_frequencies_are_the_exact_chances(dim):
    distances = [0.2, 0.45, 0.62, 0.8, 0.99, 1.1, 1.25, 1.39, 1.41, 1.7]
    want = chances(distances, dim)
    assert ((want > 0) == (np.array(distances) < 1.4)).all()
    got = frequencies(distances, dim)
    assert (np.abs(got - want) <= 5 * np.sqrt(want * (1 - want) / 20_000) + 1e-12).all()


def test_other_cutoffs():
    distances = [0.2, 0.45, 0.62, 0.8, 1.39, 1.41, 1.7]
    for cutoff, farthest in [(0.3, 1.4), (0.5, 2.0), (0.7, 1.0)]:
        want = chances(distances, 6, cutoff, farthest)
        got = frequencies(distances, 6, cutoff=cutoff, farthest=farthest)
        assert (np.abs(got - want) <= 5 * np.sqrt(want * (1 - want) / 20_000) + 1e-12).all()


def test_wide_embeddings_do_not_fall_back_to_uniform():
    """At D = 512 the weights of this row are e^-200 of the largest of the batch, and yet they are not equal."""
    distances = [1.30, 1.3005, 1.301, 1.305, 1.31, 1.33, 1.36, 1.38, 1.39, 1.395]
    logs = log_weights(torch.tensor([0.5, *distances], dtype=torch.float64), 512)
    assert logs[0] - logs[1:].max() > 200  # a positive or another row this near would drown them
    want = chances(distances, 512)
    assert 0.2 < want.max() < 0.6
    got = frequencies(distances, 512)  # the positives lie at distance 0
    assert (np.abs(got - want) <= 5 * np.sqrt(want * (1 - want) / 20_000) + 1e-12).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_every_row_of_a_wide_batch_has_its_own_scale(dtype):
    x = torch.randn(64, 512, generator=torch.Generator().manual_seed(0), dtype=dtype)
    x[32:] += 0.9 * x[:32].roll(16, 0)  # some rows have a near negative, the others none
    labels = torch.arange(64) // 2
    unit = torch.nn.functional.normalize(x.double(), dim=1)
    distances = (2 - 2 * unit @ unit.T).clamp(min=0).sqrt()
    counts = torch.zeros(64, 64)
    for seed in range(300):
        a, _, n = distance_weighted_triplets(x, labels, generator=torch.Generator().manual_seed(seed))
        counts[a, n] += 1
    for row in range(64):
        negatives = (labels != labels[row]).nonzero().squeeze(1)
        want = chances(distances[row, negatives].tolist(), 512)
        got = counts[row, negatives].numpy() / 300
        assert (np.abs(got - want) <= 5 * np.sqrt(want * (1 - want) / 300) + 2.5 / 300).all()
        assert want.max() > 3 / 62 or (distances[row, negatives] >= 1.4).all()


def test_a_row_without_a_near_negative_draws_all_of_them_alike():
    distances = [1.45, 1.5, 1.8, 1.95, 2.0]
    got = frequencies(distances, 16)
    assert (np.abs(got - 0.2) < 5 * math.sqrt(0.16 / 20_000)).all()


@pytest.mark.parametrize(("dim", "farthest"), [(2, 2.0), (3, 2.5), (8, 2.5)])
def test_antipodes_are_not_drawn(dim, farthest):
    got = frequencies([1.0, 2.0, 2.0, 1.9], dim, farthest=farthest)
    assert got[[1, 2]].tolist() == [0, 0]
    want = chances([1.0, 1.9], dim, farthest=farthest)
    assert (np.abs(got[[0, 3]] - want) <= 5 * np.sqrt(want * (1 - want) / 20_000) + 1e-12).all()


def test_one_triplet_for_each_anchor_and_positive(ragged, pml):
    from pytorch_metric_learning import losses

    for seed in range(5):
        x, labels = ragged(seed)
        x[seed] = 0  # no direction, so it is in no triplet
        a, p, n = distance_weighted_triplets(x, labels, generator=torch.Generator().manual_seed(seed))
        want = [
            (i, j)
            for i in range(len(x))
            for j in range(len(x))
            if i != j and labels[i] == labels[j] and seed not in (i, j)
        ]
        assert sorted(zip(a.tolist(), p.tolist(), strict=True)) == want
        assert (a.diff() >= 0).all()
        assert (labels[a] != labels[n]).all()
        assert not (n == seed).any()
        assert a.dtype == p.dtype == n.dtype == torch.int64
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            assert losses.TripletMarginLoss()(x, labels, (a, p, n)).isfinite()


def test_references_and_positions(ragged):
    x, labels = ragged(2, 30)
    pool, others = (
        torch.cat([torch.zeros(3, 5, dtype=torch.float64), x.flip(0)]),
        torch.cat([labels[:3], labels.flip(0)]),
    )
    positions = torch.arange(32, 2, -1)
    settings = {"references": pool, "reference_labels": others}
    a, p, n = distance_weighted_triplets(x, labels, positions=positions, **settings)
    assert (others[p] == labels[a]).all()
    assert (others[n] != labels[a]).all()
    assert min(p.min(), n.min()) >= 3  # the zero rows are counted, but not drawn
    assert not (p == positions[a]).any()
    own = distance_weighted_triplets(x, labels, **settings)
    assert len(own[0]) == len(a) + 30  # every row now meets itself


def test_the_seed_decides_and_the_blocks_do_not(ragged):
    x, labels = ragged(9, 60)

    def drawn(held, seed):
        with similarities_held(held):
            return torch.stack(distance_weighted_triplets(x, labels, generator=torch.Generator().manual_seed(seed)))

    assert torch.equal(drawn(2**20, 1), drawn(2**20, 1))
    assert torch.equal(drawn(2**20, 1), drawn(70, 1))
    assert not torch.equal(drawn(2**20, 1), drawn(2**20, 2))
    torch.manual_seed(6)
    first = torch.stack(distance_weighted_triplets(x, labels))
    torch.manual_seed(6)
    assert torch.equal(torch.stack(distance_weighted_triplets(x, labels)), first)


@pytest.mark.parametrize("labels", [[], [0], [0, 0, 0], [0, 1, 2]])
def test_without_triplets_the_lists_are_empty(labels):
    x = torch.randn(len(labels), 4, requires_grad=True)
    parts = distance_weighted_triplets(x, torch.tensor(labels, dtype=torch.long))
    assert [tuple(part.shape) for part in parts] == [(0,)] * 3
    strangers = {"references": torch.randn(3, 4), "reference_labels": torch.tensor([7, 8, 9])}
    parts = distance_weighted_triplets(x, torch.tensor(labels, dtype=torch.long), **strangers)
    assert [tuple(part.shape) for part in parts] == [(0,)] * 3


def test_a_row_that_is_not_finite_does_not_stop_the_others():
    x = torch.randn(6, 4)
    x[1, 2], x[5, 0] = math.nan, math.inf
    a, _, n = distance_weighted_triplets(x, torch.tensor([0, 0, 0, 1, 1, 1]))
    assert len(a) == len(n) > 0


def test_arguments_out_of_range(h6):
    for cutoff, farthest in [(1.4, 1.4), (2.0, 3.0)]:
        with pytest.raises(SettingsError, match="cutoff must lie below farthest and below 2"):
            distance_weighted_triplets(*h6, cutoff=cutoff, farthest=farthest)
    with pytest.raises(SettingsError, match="cutoff must be a number above 0"):
        distance_weighted_triplets(*h6, cutoff=0)
    with pytest.raises(SizeError, match="reference_labels is missing"):
        distance_weighted_triplets(*h6, references=h6[0])
