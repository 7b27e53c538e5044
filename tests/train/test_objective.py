"""The terms of a batch, and what a loss sees when several processes train together."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor, nn

from cosphere.losses import NormSoftmaxLoss, TripletLoss
from cosphere.spherical import SphericalConstraint
from cosphere.train import SecSettings, objective
from cosphere.train.objective import Objective, across_processes

ROWS = torch.tensor([[3.0, 4.0], [0.0, 10.0], [6.0, 8.0], [0.0, 1.0]])
LABELS = torch.tensor([0, 0, 1, 1])


def mean_first(embeddings: Tensor, labels: Tensor) -> Tensor:
    return embeddings[:, 0].mean()


def test_the_terms_by_hand() -> None:
    terms = Objective(mean_first, SphericalConstraint(2.0), SecSettings(weight=0.5), steps=10)(ROWS, LABELS, step=3)
    lengths = [5.0, 10.0, 10.0, 1.0]
    sec = sum((length - 2) ** 2 for length in lengths) / 4
    assert float(terms.metric) == pytest.approx(9 / 4)
    assert float(terms.constraint) == pytest.approx(sec)
    assert float(terms.total) == pytest.approx(9 / 4 + 0.5 * sec)


def test_without_weight_the_constraint_is_not_called() -> None:
    class Never(nn.Module):
        def forward(self, embeddings: Tensor) -> Tensor:
            raise AssertionError

    terms = Objective(mean_first, Never(), SecSettings(), steps=10)(ROWS, LABELS, step=0)
    assert float(terms.constraint) == 0
    assert float(terms.total) == float(terms.metric)


def test_a_ramp_rises_over_the_run() -> None:
    rising = Objective(mean_first, SphericalConstraint(2.0), SecSettings(weight=0.4, ramp="linear"), steps=8)
    assert [rising.weight(step) for step in (0, 2, 8)] == [0.0, 0.1, 0.4]
    terms = rising(ROWS, LABELS, step=2)
    assert float(terms.total) == pytest.approx(float(terms.metric + 0.1 * terms.constraint))


@pytest.fixture
def two_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    """The other process holds the same rows, one further from the origin."""
    monkeypatch.setattr(objective, "gather_rows", lambda rows: torch.cat([rows, rows + 1]))


@pytest.mark.usefixtures("two_processes")
def test_a_loss_of_pairs_sees_the_rows_of_all_processes_and_one_of_class_weights_its_own() -> None:
    pairs, classes = TripletLoss(), NormSoftmaxLoss(2, 2)
    everything, labels = torch.cat([ROWS, ROWS + 1]), torch.cat([LABELS, LABELS + 1])
    assert torch.equal(across_processes(pairs, ROWS, LABELS), pairs(everything, labels))
    assert not torch.equal(pairs(everything, labels), pairs(ROWS, LABELS))
    assert torch.equal(across_processes(classes, ROWS, LABELS), classes(ROWS, LABELS))
    # A function that does not say compares images: the safe reading.
    assert float(across_processes(mean_first, ROWS, LABELS)) == float(everything[:, 0].mean())


@pytest.mark.usefixtures("two_processes")
def test_a_batch_that_all_processes_share_is_not_gathered() -> None:
    loss = TripletLoss()
    terms = Objective(loss, SphericalConstraint(2.0), SecSettings(weight=0.5), steps=10)
    assert torch.equal(terms(ROWS, LABELS, step=0, shared=True).metric, loss(ROWS, LABELS))
    assert not torch.equal(terms(ROWS, LABELS, step=0).metric, loss(ROWS, LABELS))


@pytest.fixture
def process_group() -> Iterator[None]:
    distributed = torch.distributed
    distributed.init_process_group("gloo", store=distributed.HashStore(), rank=0, world_size=1)
    yield
    distributed.destroy_process_group()


@pytest.mark.usefixtures("two_processes", "process_group")
def test_wrapped_for_several_processes_a_loss_still_says_what_it_needs() -> None:
    classes = NormSoftmaxLoss(2, 2)
    wrapped = nn.parallel.DistributedDataParallel(classes)
    assert torch.equal(across_processes(wrapped, ROWS, LABELS), classes(ROWS, LABELS))
