from __future__ import annotations

import warnings

import pytest
import torch
from torch import nn

from cosphere.errors import DivergenceError
from cosphere.models.inference import evaluation_mode, infer, rows_of


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


@pytest.mark.parametrize(
    ("count", "part", "want"), [(70, None, [32, 32, 6]), (32, None, [32]), (70, 70, [70]), (70, 40, [40, 30])]
)
def test_a_cpu_embeds_a_batch_in_parts_which_bounds_its_memory(count: int, part: int | None, want: list[int]) -> None:
    seen = []

    class Model(nn.Module):
        def embed_inputs(self, inputs: torch.Tensor) -> torch.Tensor:
            seen.append(len(inputs))
            return inputs.flatten(1)

    images = torch.randn(count, 3, 2, 2)
    assert torch.equal(infer(Model(), images, part=part), images.flatten(1))
    assert seen == want
    seen.clear()
    infer(Model(), images.flatten(1))
    assert seen == [count], "pooled features are small"


class Scale(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.factor = nn.Parameter(torch.ones(2))
        self.register_buffer("steps", torch.tensor(3))

    def embed_inputs(self, inputs: torch.Tensor) -> torch.Tensor:
        return inputs * self.factor


@pytest.mark.parametrize(
    ("factor", "inputs", "words"),
    [
        (float("nan"), 1.0, r"3 of 3 embeddings are not finite, because factor of the model holds NaN.*diverged"),
        (float("inf"), 1.0, "factor of the model holds NaN or infinity"),
        (1.0, float("nan"), r"1 of 3 embeddings are not finite, because the input holds NaN"),
        (1e30, 1e30, r"1 of 3 embeddings are not finite although all weights are: values overflow.*float32"),
    ],
)
def test_embeddings_that_are_not_finite_are_an_error_that_says_why(factor: float, inputs: float, words: str) -> None:
    model = Scale()
    nn.init.constant_(model.factor, factor)
    batch = torch.ones(3, 2)
    batch[1, 0] = inputs
    with pytest.raises(DivergenceError, match=words):
        infer(model, batch)


@pytest.mark.parametrize(
    ("factor", "batches", "warns"),
    [
        (0.0, [[1.0, 2.0], [3.0]], True),
        (0.0, [[1.0, 1.0, 1.0]], False),  # copies of one image
        (0.0, [[1.0], [2.0]], False),  # batches of one are not compared
        (1.0, [[1.0, 2.0], [2.0, 2.0]], False),
        (1.0, [], False),
    ],
)
def test_one_embedding_for_images_that_differ_is_a_warning(
    factor: float, batches: list[list[float]], warns: bool, recwarn: pytest.WarningsRecorder
) -> None:
    """F3: whatever weight silences the network, such as a bias of 1e38."""
    warnings.simplefilter("always")
    rows = rows_of([torch.tensor(one)[:, None] for one in batches], lambda inputs: 7 + factor * inputs, 1)
    assert rows.shape == (sum(map(len, batches)), 1)
    assert [str(one.message)[:28] for one in recwarn] == ["all 3 embeddings are equal, "] * warns
