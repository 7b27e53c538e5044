"""What a run is built from: the precision that a machine can compute in."""

from __future__ import annotations

import platform
from typing import Any

import pytest
import torch

from cosphere.data import Catalogue, training_parts
from cosphere.train import TrainSettings, bfloat16_is_native
from cosphere.train.journal import greeting


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
