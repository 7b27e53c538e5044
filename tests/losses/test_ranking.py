import math

import numpy as np
import pytest
import torch

from cosphere.losses import _ranking
from cosphere.losses._ranking import Ranking


def find(values, share, rows_at_once, **wanted):
    ranking = Ranking(share, values.dtype, most=values.numel(), **wanted)
    passes = 0
    while ranking.cut is None:
        passes += 1
        assert passes < 70  # it always ends
        for first in range(0, len(values), rows_at_once):
            ranking.look(values[first : first + rows_at_once], first)
        ranking.conclude()
    kept = [
        ranking.cut.kept(values[first : first + rows_at_once], first) for first in range(0, len(values), rows_at_once)
    ]
    return torch.cat(kept), passes


def kept_by_numpy(values, share, count):
    order = np.argsort(-values.flatten().numpy(), kind="stable")
    kept = np.zeros(values.numel(), dtype=bool)
    kept[order[: int(count * share)]] = True
    return torch.from_numpy(kept).view(values.shape) & (values > -torch.inf)


def sample(kind, dtype):
    generator = torch.Generator().manual_seed(3)
    if kind == "any":
        values = torch.rand(40, 25, generator=generator, dtype=dtype) * 2 - 1
    elif kind == "ties":
        values = torch.randint(-4, 5, (40, 25), generator=generator).to(dtype) / 4
    elif kind == "crowded":  # neighbouring floats, on both sides of zero and near one
        places = torch.randint(-3, 4, (40, 25), generator=generator).to(dtype)
        values = torch.where(places > 0, 0.7 + places * torch.finfo(dtype).eps, places * torch.finfo(dtype).tiny).to(
            dtype
        )
    else:
        values = torch.full((40, 25), 0.25, dtype=dtype)
    values[torch.rand(40, 25, generator=generator) < 0.2] = -torch.inf
    return values


@pytest.fixture(params=[(_ranking.FEW, _ranking.BINS), (7, 16), (0, 2)], ids=["large", "small", "smallest"])
def _sizes(request, monkeypatch):
    monkeypatch.setattr(_ranking, "FEW", request.param[0])
    monkeypatch.setattr(_ranking, "BINS", request.param[1])


@pytest.mark.usefixtures("_sizes")
@pytest.mark.parametrize("rows_at_once", [40, 7])
@pytest.mark.parametrize("kind", ["any", "ties", "crowded", "equal"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_the_cut_keeps_exactly_the_largest(kind, dtype, rows_at_once):
    values = sample(kind, dtype)
    count = int((values > -torch.inf).sum())
    for share in (0.5 / count, 1 / count, 0.3, 0.9, 1.0):
        kept, _ = find(values, share, rows_at_once)
        assert torch.equal(kept, kept_by_numpy(values, share, count)), share
        assert torch.equal(find(values, share, rows_at_once, count=count)[0], kept)


@pytest.mark.usefixtures("_sizes")
@pytest.mark.parametrize("kind", ["any", "ties", "crowded"])
def test_small_values_count_but_are_not_kept(kind):
    values = sample(kind, torch.float32)
    count = int((values > -torch.inf).sum())
    for low in (-0.5, 0.25):
        for share in (0.1, 0.5, 0.9):
            kept, _ = find(values, share, 7, count=count, low=low)
            assert torch.equal(kept, kept_by_numpy(values, share, count) & (values > low))


def test_how_many_passes_it_takes():
    values = sample("any", torch.float32)
    assert find(values, 1.0, 9)[1] == 0
    assert find(values, 0.5, 9)[1] == 1  # few: sorted at once
    many = torch.rand(600, 500, generator=torch.Generator().manual_seed(0))
    kept, passes = find(many, 0.3, 100, low=0.5, count=many.numel())
    assert int(kept.sum()) == 90_000
    assert passes == 2
    assert find(many, 0.9, 100, low=0.5, count=many.numel())[1] == 1  # all that are of interest are kept


def test_nothing_to_rank():
    assert not find(torch.full((3, 4), -torch.inf), 0.5, 2)[0].any()
    ranking = Ranking(0.5, torch.float32, most=0)
    ranking.conclude()
    assert ranking.cut.value == math.inf
    assert ranking.kept == 0
