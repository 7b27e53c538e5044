from __future__ import annotations

import numpy as np
import pytest
import torch

from cosphere.errors import SettingsError, SizeError
from cosphere.rows import unit_rows
from cosphere.search import ProductQuantiser, first_dimensions, principal_dimensions, search
from cosphere.search.storage import Bits, Floats, Int8, Storage, Stored, search_stored


def drawn(count: int, width: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(count, width, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(
    ("storage", "size", "error"),
    [(Floats(20), 80, 1e-7), (Floats(20, torch.float16), 40, 5e-4), (Int8(20), 20, 4e-3), (Bits(20), 3, None)],
)
def test_what_is_kept_of_a_row(storage: Storage, size: int, error: float | None) -> None:
    x = unit_rows(drawn(50, 20))
    stored = Stored.of(x, storage)
    assert stored.kept[0].nbytes == storage.bytes_per_row == size
    rows = stored.rows()
    assert rows.norm(dim=1).numpy() == pytest.approx(1.0, abs=1e-6)
    if error is not None:
        assert (rows - x.rows).abs().max() <= error
    else:
        assert torch.equal(rows > 0, x.rows > 0)
    want = search(x.rows, rows, k=8, exclude=torch.arange(50))
    found = search_stored(x, stored, 8, torch.arange(50), block_bytes=1)
    assert torch.equal(found.ids, want.ids)
    torch.testing.assert_close(found.scores, want.scores, atol=1e-6, rtol=0)


def test_int8_rows_by_hand_and_without_a_direction() -> None:
    kept = Int8(3).encode(torch.tensor([[0.6, -0.8, 0.0], [0.0, 0.0, 0.0]]))
    assert kept.dtype == torch.int8
    assert kept.tolist() == [[95, -127, 0], [0, 0, 0]]


def test_product_quantiser_names_the_nearest_word_of_each_part() -> None:
    x = drawn(400, 10)
    quantiser = ProductQuantiser.train(x, 4, seed=0)  # 4 does not divide 10: parts of 3, lengthened by zeros
    assert quantiser.words.shape == (4, 256, 3)
    assert quantiser.bytes_per_row == 4
    rows = unit_rows(x).rows[:40]
    codes = quantiser.encode(rows)
    assert codes.dtype == torch.uint8
    wide = np.pad(rows.numpy(), ((0, 0), (0, 2))).reshape(40, 4, 3)
    for i in range(40):
        for part in range(4):
            distances = ((quantiser.words[part] - wide[i, part]) ** 2).sum(axis=1)
            assert distances[int(codes[i, part])] == pytest.approx(distances.min(), abs=1e-6)
    want = np.concatenate([quantiser.words[part][codes[:, part].numpy()] for part in range(4)], axis=1)[:, :10]
    assert np.array_equal(quantiser.decode(codes).numpy(), want)
    assert (quantiser.decode(codes) - rows).square().sum(dim=1).mean() < 0.3
    again = ProductQuantiser.train(x, 4, seed=0)
    assert np.array_equal(again.words, quantiser.words)
    assert not np.array_equal(ProductQuantiser.train(x, 4, seed=1).words, quantiser.words)


def test_a_quantiser_that_cannot_be_trained() -> None:
    with pytest.raises(SizeError, match="wants as many rows, got 255"):
        ProductQuantiser.train(drawn(255, 4), 2)
    with pytest.raises(SettingsError, match="parts must be a whole number from 1 to 4; got 5"):
        ProductQuantiser.train(drawn(256, 4), 5)


def test_first_dimensions_are_cut_and_made_unit_again() -> None:
    x = drawn(12, 6)
    x[3, :2] = 0.0
    want = x[:, :2] / x[:, :2].norm(dim=1, keepdim=True).clamp_min(1e-12)
    torch.testing.assert_close(first_dimensions(6, 2)(x * 4), want)
    with pytest.raises(SettingsError, match="size must be a whole number from 1 to 6; got 7"):
        first_dimensions(6, 7)
    with pytest.raises(SizeError, match="queries have 5 dimensions, the gallery 6"):
        first_dimensions(6, 2)(x[:, :5])


def test_principal_dimensions_agree_with_scikit_learn() -> None:
    from sklearn.decomposition import PCA

    x = drawn(80, 9) * torch.linspace(3, 0.1, 9)
    unit = unit_rows(x).rows.double().numpy()
    theirs = PCA(4, svd_solver="full").fit(unit).transform(unit)
    theirs /= np.linalg.norm(theirs, axis=1, keepdims=True)
    ours = principal_dimensions(x, 4)(x).numpy()
    np.testing.assert_allclose(ours @ ours.T, theirs @ theirs.T, atol=1e-5)  # signs of directions do not count
    with pytest.raises(SettingsError, match="size must be a whole number from 1 to 9; got 0"):
        principal_dimensions(x, 0)
