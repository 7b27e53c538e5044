"""The numbers behind a logged line, against plain arithmetic."""

from __future__ import annotations

import statistics

import pytest
import torch

from cosphere.train.ledger import LOGGED, Ledger, step_numbers

ROWS = torch.tensor([[3.0, 4.0], [0.0, 10.0], [6.0, 8.0], [0.0, 1.0]])
LABELS = torch.tensor([0, 0, 1, 1])


def numbers(total: float = 3.0, metric: float = 2.0, sec: float = 10.0) -> torch.Tensor:
    return step_numbers(ROWS, LABELS, *(torch.tensor(value) for value in (total, metric, sec)))


def test_the_numbers_of_one_batch() -> None:
    found = dict(zip(LOGGED, numbers().tolist(), strict=True))
    lengths = [5.0, 10.0, 10.0, 1.0]
    assert found["norm_mean"] == pytest.approx(statistics.fmean(lengths))
    assert found["norm_var"] == pytest.approx(statistics.pvariance(lengths), rel=1e-6)
    assert found["norm_cv"] == pytest.approx(statistics.pstdev(lengths) / statistics.fmean(lengths), rel=1e-6)
    assert found["positive_cosine"] == pytest.approx(0.8)  # (3,4)/5 . (0,1) and (6,8)/10 . (0,1)
    assert found["negative_cosine"] == pytest.approx((1.0 + 0.8 + 0.8 + 1.0) / 4)
    assert (found["loss"], found["loss_metric"], found["loss_sec"]) == (3.0, 2.0, 10.0)


def test_means_and_the_share_of_sec() -> None:
    ledger = Ledger()
    ledger.add(numbers(metric=2.0, sec=10.0), images=4)
    ledger.add(numbers(metric=4.0, sec=20.0), images=4)
    found = ledger.means(0.1, processes=2)
    assert found["train/loss_metric"] == 3.0
    assert found["train/loss_sec"] == 15.0
    assert found["train/sec_share"] == pytest.approx(0.1 * 15 / 3)
    assert found["train/images_per_second"] is not None
    assert found["train/images_per_second"] > 0
    assert set(found) == {f"train/{name}" for name in LOGGED} | {"train/sec_share", "train/images_per_second"}


def test_after_a_line_it_starts_afresh() -> None:
    ledger = Ledger()
    ledger.add(numbers(metric=2.0), images=4)
    ledger.means(0.1)
    ledger.add(numbers(metric=8.0), images=4)
    assert ledger.means(0.1)["train/loss_metric"] == 8.0


def test_without_sec_its_numbers_are_none() -> None:
    ledger = Ledger()
    ledger.add(numbers(), images=4)
    found = ledger.means(0.0)
    assert found["train/loss_sec"] is None
    assert found["train/sec_share"] is None


def test_a_batch_without_negatives_is_left_out_of_that_mean_only() -> None:
    ledger = Ledger()
    ledger.add(step_numbers(ROWS, torch.zeros(4, dtype=torch.long), *(torch.tensor(1.0),) * 3), images=4)
    assert ledger.means(0.0)["train/negative_cosine"] is None
    ledger.add(step_numbers(ROWS, torch.zeros(4, dtype=torch.long), *(torch.tensor(1.0),) * 3), images=4)
    ledger.add(numbers(), images=4)
    assert ledger.means(0.0)["train/negative_cosine"] == pytest.approx(0.9)


def test_what_is_done_aside_is_not_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter([0.0, 1.0, 9.0, 10.0, 10.0])
    monkeypatch.setattr("time.monotonic", lambda: next(clock))
    ledger = Ledger()
    ledger.add(numbers(), images=8)
    with ledger.aside():
        pass
    assert ledger.means(0.0)["train/images_per_second"] == pytest.approx(8 / (10 - 8))


def test_nothing_added_is_no_number() -> None:
    assert Ledger().means(1.0)["train/loss"] is None
