from __future__ import annotations

import pytest
import torch
from torch import nn

from cosphere.models.inference import evaluation_mode, infer


def test_every_module_returns_to_its_own_mode_also_after_an_error() -> None:
    frozen, other = nn.Sequential(nn.BatchNorm1d(2), nn.Dropout()), nn.Linear(2, 2)
    frozen[0].eval()
    with evaluation_mode(frozen, other):
        assert not any(module.training for module in (*frozen.modules(), other))
    assert [module.training for module in (*frozen.modules(), other)] == [True, False, True, True]
    with pytest.raises(ValueError, match="stop"), evaluation_mode(frozen):
        raise ValueError("stop")
    assert [module.training for module in frozen.modules()] == [True, False, True]


def test_embeddings_are_raw_float32_whatever_computes_them() -> None:
    seen = []

    class Model(nn.Linear):
        def embed_inputs(self, inputs: torch.Tensor) -> torch.Tensor:
            rows = self(inputs)
            seen.append(rows.dtype)
            return rows

    model = Model(3, 2)
    inputs = torch.randn(4, 3)
    rows = infer(model, inputs, autocast=torch.bfloat16)
    assert (rows.dtype, seen) == (torch.float32, [torch.bfloat16])
    assert not rows.requires_grad
    want = inputs @ model.weight.T + model.bias
    torch.testing.assert_close(infer(model, inputs), want.detach())
