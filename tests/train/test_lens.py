"""The lens on a real optimiser: the laws of a free embedding table, and that looking leaves no trace."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from cosphere.losses import TripletLoss
from cosphere.spherical import SphericalConstraint
from cosphere.train.lens import measure_lens


class Table(nn.Module):
    """Every embedding is a parameter of its own, as in Proposition 2; the picture is ignored."""

    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        rows = torch.randn(60, 32, generator=generator)
        lengths = torch.exp(0.6 * torch.randn(60, 1, generator=generator))
        self.rows = nn.Parameter(rows / rows.norm(dim=1, keepdim=True) * lengths)
        self.dropout = nn.Dropout(0.0)

    def forward(self, inputs: Tensor) -> Tensor:
        return self.rows + 0 * inputs.sum()


LABELS = torch.arange(20).repeat_interleave(3)
INPUTS = torch.zeros(60, 3, 1, 1)


def look(optimizer: torch.optim.Optimizer, table: Table, sec: SphericalConstraint) -> dict[str, float]:
    loss = TripletLoss()
    return measure_lens(table, loss, sec, optimizer, INPUTS, LABELS, loss)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("kind", "rate", "slope"), [(torch.optim.SGD, 0.05, -2.0), (torch.optim.Adam, 1e-5, -1.0)], ids=["sgd", "adam"]
)
def test_the_laws_of_a_free_table(kind: type, rate: float, slope: float) -> None:
    """Half the exponent with Adam, whose step takes one power of the length out again."""
    table = Table()
    found = look(kind(table.parameters(), lr=rate), table, SphericalConstraint())
    assert found["lens/gradient_slope"] == pytest.approx(-1.0, abs=0.05)
    assert found["lens/angle_slope"] == pytest.approx(slope, abs=0.05)
    assert found["lens/max_abs_gradient_cosine"] < 1e-5
    assert found["lens/short_share"] > 0.15  # A tenth of the embeddings, the shortest, holds more than its share.


def test_the_step_is_clipped_as_in_training() -> None:
    """A gradient cut to a tenth turns every free embedding a tenth as far."""
    table, loss = Table(), TripletLoss()
    loss(table(INPUTS), LABELS).backward()
    assert table.rows.grad is not None
    length = float(table.rows.grad.norm())
    angles = []
    for clip in (0.0, length / 10):
        optimizer = torch.optim.SGD(table.parameters(), lr=1e-3)
        found = measure_lens(table, loss, SphericalConstraint(), optimizer, INPUTS, LABELS, loss, clip_norm=clip)  # type: ignore[arg-type]
        angles.append(found["lens/angle_mean"])
    assert angles[1] == pytest.approx(angles[0] / 10, rel=0.05)


def test_looking_leaves_no_trace() -> None:
    table, sec = Table(), SphericalConstraint(radius="ema")
    sec(table.rows.detach() * 2)
    optimizer = torch.optim.Adam(table.parameters(), lr=0.1)
    table.rows.sum().backward()
    optimizer.step()
    optimizer.zero_grad()
    modules = {"table": table, "sec": sec}
    before = {name: copy.deepcopy(module.state_dict()) for name, module in modules.items()}
    kept = copy.deepcopy(optimizer.state_dict())
    table.eval()
    random = torch.get_rng_state()
    look(optimizer, table, sec)
    for name, module in modules.items():
        for key, value in module.state_dict().items():
            assert torch.equal(value, before[name][key]), key
    state, old = optimizer.state_dict()["state"][0], kept["state"][0]
    assert all(torch.equal(state[key], old[key]) for key in ("exp_avg", "exp_avg_sq", "step"))
    assert torch.equal(torch.get_rng_state(), random)
    assert (table.training, sec.training) == (False, True)
    assert table.rows.grad is None


def test_a_loss_without_gradient_leaves_out_what_it_cannot_measure() -> None:
    table = Table()
    labels = torch.arange(60)  # No two alike: no triplet, no gradient.
    loss = TripletLoss()
    optimizer = torch.optim.SGD(table.parameters(), lr=0.1)
    found = measure_lens(table, loss, SphericalConstraint(), optimizer, INPUTS, labels, loss)  # type: ignore[arg-type]
    assert all(value == value for value in found.values())
    assert "lens/gradient_slope" not in found
