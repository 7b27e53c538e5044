"""Measuring the losses: what is measured, with which batch, and wrong numbers."""

import time

import pytest
import torch

from cosphere import losses
from cosphere.errors import SettingsError
from cosphere.losses import Timing, time_losses, timing

SMALL = {"batch": 16, "dim": 4, "repeats": 2}


def test_every_loss_can_be_measured():
    names = [about.name for about in losses.table()]
    said = []
    found = time_losses(names, **SMALL, progress=said.append)
    assert said == names
    assert sorted(timing.name for timing in found) == sorted(names)
    assert [timing.seconds for timing in found] == sorted(timing.seconds for timing in found)
    for timed in found:
        assert 0 < timed.seconds < 60
        assert timed.times_floor == timed.seconds / timed.floor_seconds
        assert timed.extra_bytes is None  # a CPU does not tell
        assert timed.classes == (4 if losses.about(timed.name).uses_class_weights else None)
        assert timed.repeats == 2


def test_what_is_measured_is_forward_and_backward_of_the_whole_batch(monkeypatch):
    calls, steps = [], []

    class Slow(losses.TripletLoss):
        def forward(self, embeddings, labels, *rest, **more):
            calls.append((embeddings.shape, embeddings.dtype, labels.bincount().tolist(), embeddings.requires_grad))
            embeddings.register_hook(lambda slope: steps.append(slope.shape))
            time.sleep(0.02)
            return super().forward(embeddings, labels, *rest, **more)

    monkeypatch.setattr(timing, "build", lambda name, *, num_classes, dim: Slow())
    (found,) = time_losses(["triplet"], batch=12, dim=5, per_class=3, repeats=3)
    assert calls == [(torch.Size([12, 5]), torch.float32, [3, 3, 3, 3], True)] * 4  # one warms up
    assert steps == [torch.Size([12, 5])] * 4
    assert 0.02 <= found.seconds < 0.5
    assert found.floor_seconds < 0.02


def test_a_slow_loss_is_measured_less_often(monkeypatch):
    monkeypatch.setattr(timing, "LONGEST", 0.0)
    (found,) = time_losses(["triplet"], batch=8, dim=4, repeats=100)
    assert found.repeats == 1


@pytest.mark.parametrize(
    ("numbers", "message"),
    [
        ({"batch": 0}, "batch must be a whole number from 1 to 65536; got 0"),
        ({"dim": -1}, "dim must be a whole number from 1 to 65536; got -1"),
        ({"per_class": 0}, "per_class must be a whole number from 1 to 65536; got 0"),
        ({"repeats": 0}, "repeats must be a whole number from 1 to 65536; got 0"),
        ({"batch": 10}, "batch 10 does not divide by per_class 4; try 8"),
        ({"batch": 3}, "batch 3 does not divide by per_class 4; try 4"),
    ],
)
def test_wrong_numbers_are_named(numbers, message):
    with pytest.raises(SettingsError, match=message):
        time_losses(["triplet"], **{**SMALL, **numbers})


def test_a_wrong_name_is_said_before_anything_is_measured():
    said = []
    with pytest.raises(SettingsError, match=r"no loss is called 'tripplet'. Did you mean 'triplet'\?"):
        time_losses(["triplet", "tripplet"], **SMALL, progress=said.append)
    assert said == []


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="wants a CUDA device")
def test_a_gpu_tells_the_memory():
    (found,) = time_losses(["triplet"], batch=1024, dim=64, device="cuda")
    assert found.extra_bytes is not None
    assert 1024 * 64 * 4 < found.extra_bytes < 1e9


def test_a_timing_tells_times_of_the_floor():
    found = Timing(name="x", seconds=0.03, floor_seconds=0.01, extra_bytes=None, classes=None, repeats=1)
    assert found.times_floor == pytest.approx(3)
