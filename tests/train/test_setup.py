"""What a run is built from: the precision that a machine can compute in."""

from __future__ import annotations

import copy
import platform
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from cosphere.data import Catalogue, training_parts
from cosphere.errors import SettingsError
from cosphere.losses import CrossBatchMemory, Loss, TripletLoss
from cosphere.models import norm_layers
from cosphere.train import LossSettings, TrainSettings, bfloat16_is_native, build_model
from cosphere.train.journal import greeting
from cosphere.train.setup import build_accelerator, build_loss, synchronise_norms


@pytest.mark.parametrize(
    ("machine", "avx512", "amx", "native"),
    [
        ("x86_64", False, False, False),
        ("AMD64", True, False, True),
        ("x86_64", False, True, True),
        ("arm64", False, False, True),
    ],
)
def test_bfloat16_needs_instructions(
    machine: str, avx512: bool, amx: bool, native: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(platform, "machine", lambda: machine)
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: avx512, raising=False)
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: amx, raising=False)
    assert bfloat16_is_native() == native


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"model.weights": "none"}, True),
        ({"model.weights": "none", "freeze_norm": False}, False),
        ({}, False),
        ({"model.weights": "none", "features.copies": 1}, False),
    ],
)
def test_frozen_norms_of_random_weights_are_said(catalogue: Catalogue, changes: dict[str, Any], expected: bool) -> None:
    parts = training_parts(catalogue, val_share=0, seed=0)
    lines = list(greeting(TrainSettings().with_values(changes), parts, (), torch.device("cpu")))
    assert any("--freeze_norm false trains them" in line for line in lines) == expected


def test_an_emulated_precision_is_said(catalogue: Catalogue, monkeypatch: pytest.MonkeyPatch) -> None:
    parts = training_parts(catalogue, val_share=0, seed=0)
    for native, precision, expected in ((False, "bf16", True), (True, "bf16", False), (False, "float32", False)):
        monkeypatch.setattr("cosphere.train.journal.bfloat16_is_native", lambda native=native: native)
        settings = TrainSettings().with_values({"precision": precision})
        lines = list(greeting(settings, parts, (), torch.device("cpu")))
        assert any("no bfloat16 instructions" in line for line in lines) == expected


@pytest.mark.parametrize("own", [False, True])
def test_every_part_of_a_loss_knows_how_many_calls_make_a_step(own: bool) -> None:
    values = {"batch.accumulate": 4, "loss.name": "triplet", "loss.memory": 500, "loss.memory_after": 10}
    settings = TrainSettings().with_values(values)
    loss = build_loss(settings, CrossBatchMemory(TripletLoss(), 8) if own else None, 3, 8)
    assert [part.calls_per_step for part in loss.modules() if isinstance(part, Loss)] == [4, 4]
    assert build_loss(replace(settings, loss=LossSettings()), None, 3, 8).calls_per_step == 4


def test_a_memory_holds_the_batch_of_all_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cosphere.train.setup.Accelerator", lambda **_: launched(3, "cpu"))
    settings = TrainSettings().with_values({"device": "cpu", "batch.size": 120, "loss.memory": 359})
    with pytest.raises(
        SettingsError, match=r"loss\.memory 359 does not hold a batch of all 3 processes, 360 images\. Set it to"
    ):
        build_accelerator(settings)
    assert build_accelerator(settings.with_values({"loss.memory": 360})).num_processes == 3


def launched(processes: int, device: str) -> Any:
    return SimpleNamespace(num_processes=processes, device=torch.device(device))


def test_batch_norm_of_several_gpus_is_synchronised_and_the_model_stays_what_it_was() -> None:
    """This network's norms have an activation inside."""
    values = {"model.backbone": "test_efficientnet", "model.weights": "none", "model.dim": 8, "images.size": 32}
    embedder, _ = build_model(TrainSettings().with_values({**values, "freeze_norm": False}))
    plain, inputs = copy.deepcopy(embedder), torch.randn(4, 3, 32, 32)
    assert synchronise_norms(embedder, launched(1, "cuda")) == ()
    assert not any(isinstance(layer, torch.nn.SyncBatchNorm) for layer in embedder.modules())
    parameters = dict(embedder.named_parameters())
    assert synchronise_norms(embedder, launched(2, "cuda")) == ()
    kinds = [isinstance(layer, torch.nn.SyncBatchNorm) for layer in norm_layers(embedder)]
    assert all(kinds)
    assert len(kinds) == len(norm_layers(plain))
    assert list(embedder.state_dict()) == list(plain.state_dict())
    assert all(one is parameters[name] for name, one in embedder.named_parameters())
    for mode in (True, False):  # outside of a launch there is nobody to agree with
        assert torch.equal(embedder.train(mode)(inputs), plain.train(mode)(inputs))


def test_norms_that_are_not_trained_or_not_on_gpus_are_left_alone() -> None:
    values = {"model.backbone": "test_resnet", "model.weights": "none", "model.dim": 8, "images.size": 32}
    for head, device, notes in (("batch", "cpu", 1), ("batch", "cuda", 0), ("none", "cuda", 0), ("none", "cpu", 0)):
        embedder, _ = build_model(TrainSettings().with_values({**values, "model.norm": head}))
        found = synchronise_norms(embedder, launched(2, device))
        assert len(found) == notes
        assert all("batch norm is synchronised on GPUs alone" in note for note in found)
        changed = any(isinstance(layer, torch.nn.SyncBatchNorm) for layer in embedder.modules())
        assert changed == (head == "batch" and device == "cuda")
