from __future__ import annotations

import numpy as np
import pytest
import torch

from cosphere.errors import SettingsError, SizeError
from cosphere.search import expanded_queries


def by_hand(queries: np.ndarray, gallery: np.ndarray, images: int, alpha: float, skip: list[int]) -> np.ndarray:
    unit = [rows / np.linalg.norm(rows, axis=1, keepdims=True) for rows in (queries, gallery)]
    found = []
    for query, left_out in zip(unit[0], skip, strict=True):
        cosines = {row: float(query @ other) for row, other in enumerate(unit[1]) if row != left_out}
        near = sorted(cosines, key=lambda row: -cosines[row])[:images]
        total = query + sum(max(cosines[row], 0.0) ** alpha * unit[1][row] for row in near)
        found.append(total / np.linalg.norm(total))
    return np.array(found)


@pytest.mark.parametrize(("images", "alpha"), [(1, 0.0), (4, 0.0), (4, 3.0), (19, 0.5)])
def test_expansion_is_the_weighted_mean_of_what_is_found(images: int, alpha: float) -> None:
    random = np.random.default_rng(0)
    queries, gallery = random.normal(size=(8, 5)), random.normal(size=(20, 5))
    for skip in ([-1] * 8, list(range(8))):
        found = expanded_queries(queries, 2 * gallery, images=images, alpha=alpha, exclude=skip)
        np.testing.assert_allclose(found.numpy(), by_hand(queries, gallery, images, alpha, skip), atol=1e-6)


def test_wrong_settings() -> None:
    rows = torch.eye(4)
    with pytest.raises(SizeError, match="5 images are to be averaged with each query, and the gallery has 4 for it"):
        expanded_queries(rows, rows, images=5)
    with pytest.raises(SizeError, match="the gallery has 3 for it"):
        expanded_queries(rows, rows, images=4, exclude=[0, 1, 2, 3])
    with pytest.raises(SettingsError, match="images must be a whole number from 1 to 1000; got 0"):
        expanded_queries(rows, rows, images=0)
    with pytest.raises(SettingsError, match="alpha must be a number >= 0 and at most 100"):
        expanded_queries(rows, rows, alpha=-1)
