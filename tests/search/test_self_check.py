from __future__ import annotations

import pytest
import torch
from torch import Tensor

from cosphere.errors import SettingsError, SizeError
from cosphere.search import Neighbours, check_search, search


def drawn(count: int, width: int, seed: int = 0) -> Tensor:
    return torch.randn(count, width, generator=torch.Generator().manual_seed(seed))


def test_a_search_that_is_wrong_in_a_known_share_is_told_so() -> None:
    x = drawn(150, 6)

    def ours(queries: Tensor, k: int, exclude: Tensor | None) -> Neighbours:
        found = search(queries, x, k=149, exclude=exclude)
        ids = torch.cat([found.ids[:, : k - 3], found.ids[:, -3:]], dim=1)  # 3 of 10 are the farthest
        return Neighbours(ids, found.scores[:, :k])

    found = check_search(ours, x, count=40)
    assert found.recall == pytest.approx(0.7)
    assert found.as_dict() == {"recall": found.recall, "k": 10, "queries": 40}
    assert str(found) == "70.0 % of the 10 nearest of exact search found (40 queries)"
    with pytest.raises(
        SettingsError, match=r"this search finds 0\.700 of the 10 nearest rows .* below the wanted 0\.9"
    ):
        found.require(0.9)
    assert found.require(0.7 - 1e-9) is found


def test_repetition_and_the_query_itself_earn_nothing() -> None:
    x = drawn(50, 6)

    def repeats(queries: Tensor, k: int, exclude: Tensor | None) -> Neighbours:
        return Neighbours(search(queries, x, k=1, exclude=exclude).ids.expand(-1, k), torch.zeros(len(queries), k))

    assert check_search(repeats, x, k=5).recall == pytest.approx(0.2)
    assert check_search(lambda q, k, _: search(q, x, k=k), x, k=1).recall == 0.0  # finds the query itself
    assert check_search(lambda q, k, e: search(q, x, k=k, exclude=e), x, k=1).recall == 1.0
    assert check_search(lambda q, k, e: search(q, x, k=k, exclude=e), x, x[:3]).recall == 1.0


def test_rows_that_tie_are_as_good_as_each_other() -> None:
    x = torch.eye(4).repeat(10, 1)

    def backwards(queries: Tensor, k: int, exclude: Tensor | None) -> Neighbours:
        found = search(queries, x.flip(0), k=k, exclude=None if exclude is None else 39 - exclude)
        return Neighbours(39 - found.ids, found.scores)

    assert check_search(backwards, x, k=5).recall == 1.0


def test_settings_and_shapes_are_checked() -> None:
    x = drawn(5, 3)
    with pytest.raises(SettingsError, match="k must be a whole number >= 1; got 0"):
        check_search(lambda q, k, e: search(q, x, k=k), x, k=0)
    with pytest.raises(SettingsError, match="count must be a whole number >= 1; got 0"):
        check_search(lambda q, k, e: search(q, x, k=k), x, count=0)
    with pytest.raises(SizeError, match=r"gave \(5, 1\) ids where \(5, 4\) were wanted"):
        check_search(lambda q, k, e: search(q, x, k=1), x)
