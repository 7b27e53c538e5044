import math
import subprocess
import sys

import numpy as np
import pytest
import torch

from cosphere.errors import SizeError
from cosphere.tensors import (
    check_embeddings,
    check_labelled,
    directions,
    full_precision,
    gather_rows,
    length_histogram,
    lengths,
    mean_everywhere,
    outside_autocast,
    several_processes,
    total_everywhere,
)


def test_full_precision_widens_only_what_is_narrow():
    wanted = {
        torch.float16: torch.float32,
        torch.bfloat16: torch.float32,
        torch.float32: torch.float32,
        torch.float64: torch.float64,
    }
    for given, want in wanted.items():
        assert full_precision(torch.ones(2, dtype=given)).dtype == want


def test_lengths_agree_with_hypot_and_do_not_overflow():
    rows = [[3.0, 4.0, 12.0], [0.0, 0.0, 0.0], [-1e-20, 0.0, 0.0]]
    assert lengths(torch.tensor(rows, dtype=torch.float64)).tolist() == pytest.approx(
        [math.hypot(*row) for row in rows]
    )
    assert float(lengths(torch.full((1, 512), 16.0).half())) == pytest.approx(16 * math.sqrt(512))


def test_gradient_of_a_length_is_the_direction_and_zero_at_zero():
    rows = torch.tensor([[3.0, 4.0], [0.0, 0.0]], requires_grad=True)
    lengths(rows).sum().backward()
    torch.testing.assert_close(rows.grad, torch.tensor([[0.6, 0.8], [0.0, 0.0]]))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_directions_agree_with_division(dtype):
    rows = torch.tensor([[3.0, 4.0], [0.0, 0.0], [-2.0, 0.0], [1e-7, 0.0]]).to(dtype)
    found = directions(rows)
    want = torch.tensor([[0.6, 0.8], [0.0, 0.0], [-1.0, 0.0], [0.0, 0.0]])
    torch.testing.assert_close(found.unit.float(), want)
    assert found.unit.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    assert found.alive.tolist() == [True, False, True, False]


def test_directions_pass_a_tangential_gradient_and_none_at_zero():
    rows = torch.tensor([[3.0, 4.0], [0.0, 0.0], [1e-9, 0.0]], dtype=torch.float64, requires_grad=True)
    (directions(rows).unit * torch.tensor([1.0, 2.0])).sum().backward()
    # (w - (w . u) u) / n with w = (1, 2), u = (.6, .8), n = 5
    want = [(1 - 2.2 * 0.6) / 5, (2 - 2.2 * 0.8) / 5]
    assert rows.grad[0].tolist() == pytest.approx(want)
    assert rows.grad[1:].tolist() == [[0.0, 0.0], [0.0, 0.0]]


@pytest.mark.parametrize(
    ("dtype", "far"), [(torch.float32, 1e20), (torch.bfloat16, 1e25), (torch.float64, 1e200)], ids=str
)
def test_directions_of_rows_whose_squares_overflow(dtype, far):
    rows = torch.tensor([[3 * far, 4 * far], [0.0, 1.0], [0.0, 0.0]], dtype=torch.float64).to(dtype).requires_grad_()
    assert lengths(rows.detach())[0] == math.inf
    found = directions(rows)
    assert found.alive.tolist() == [True, True, False]
    want = torch.tensor([[0.6, 0.8], [0.0, 1.0], [0.0, 0.0]])
    torch.testing.assert_close(found.unit.float(), want, rtol=0.01, atol=0.0)
    (found.unit * torch.tensor([1.0, 2.0])).sum().backward()
    # (w - (w . u) u) / n with w = (1, 2), u = (.6, .8), n = 5 far
    slopes = torch.tensor([[-0.32 / 5, 0.24 / 5], [1.0, 0.0], [0.0, 0.0]])
    got = rows.grad.double()
    got[0] *= far
    torch.testing.assert_close(got.float(), slopes, rtol=0.03, atol=0.0)


def test_one_endless_row_leaves_the_others_alone():
    rows = torch.tensor([[math.inf, 1.0], [3e20, 4e20], [math.nan, 0.0]])
    found = directions(rows)
    assert not found.unit[0].isfinite().all()
    assert found.unit[1].tolist() == pytest.approx([0.6, 0.8])
    assert found.unit[2].tolist() == [0, 0]


def test_directions_of_nothing():
    found = directions(torch.zeros(0, 3))
    assert found.unit.shape == (0, 3)
    assert found.alive.shape == (0,)


def test_outside_autocast_keeps_float32_products_exact():
    rows = torch.tensor([[1.0, 1 / 512]])
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert (rows @ rows.T).dtype == torch.bfloat16
        with outside_autocast(rows):
            assert float(rows @ rows.T) == 1 + 2**-18


def test_what_fits_passes():
    check_embeddings(torch.ones(0, 3))
    check_labelled(torch.ones(2, 3).half(), torch.tensor([2**63 - 1, -1]))
    check_labelled(torch.ones(2, 3), torch.tensor([0, 1], dtype=torch.uint8))


@pytest.mark.parametrize(
    ("embeddings", "labels", "message"),
    [
        (
            torch.ones(2),
            torch.ones(2).long(),
            r"want things \(B, D\), got \(2,\)\. A convolutional feature map needs pooling",
        ),
        (
            torch.ones(2, 3).long(),
            torch.ones(2).long(),
            r"want things of a floating type, got torch\.int64\. Call \.float",
        ),
        (torch.ones(2, 3), torch.ones(3).long(), r"want things \(B, D\) with labels \(B,\), got \(2, 3\) and \(3,\)"),
        (torch.ones(2, 3), torch.ones(2, 1).long(), r"got \(2, 3\) and \(2, 1\)\. Give one label for each row"),
        (torch.ones(2, 3), torch.ones(2), r"want integer labels, got torch\.float32\. Call \.long\(\)"),
        (torch.ones(2, 3), torch.ones(2).bool(), r"want integer labels, got torch\.bool"),
        (torch.ones(2, 3, device="meta"), torch.ones(2).long(), r"things are on meta, labels on cpu\. Move one"),
        ([[1.0], [2.0]], torch.ones(2).long(), r"want things as a tensor, got list\. Call torch\.as_tensor\(things\)"),
        (torch.ones(2, 3).numpy(), torch.ones(2).long(), "want things as a tensor, got ndarray"),
        (torch.ones(2, 3), [0, 1], "want labels as a tensor, got list"),
    ],
)
def test_what_does_not_fit_is_named(embeddings, labels, message):
    with pytest.raises(SizeError, match=message):
        check_labelled(embeddings, labels, name="things")


def test_directions_have_both_derivatives():
    rows = torch.randn(4, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    rows[2] = 0
    rows.requires_grad_()
    alive = torch.tensor([0, 1, 3])  # a finite difference would step off zero

    def unit(three):
        return directions(torch.cat([three, torch.zeros(1, 3, dtype=torch.float64)])).unit

    three = rows.detach()[alive].requires_grad_()
    assert torch.autograd.gradcheck(unit, three)
    assert torch.autograd.gradgradcheck(unit, three)
    directions(rows).unit.sum().backward()
    assert rows.grad[2].tolist() == [0, 0, 0]


# Several processes

RANK = """
import os, sys, torch
import torch.distributed as distributed
from torch.nn.parallel import DistributedDataParallel
from cosphere.errors import SizeError
from cosphere.losses import TripletLoss
from cosphere.tensors import gather_rows
rank = int(os.fork() == 0)  # importing takes seconds, so that the two share it
sys.stdout = open(f"{sys.argv[1]}.{rank}", "w")
distributed.init_process_group("gloo", init_method="file://" + sys.argv[1], rank=rank, world_size=2)
torch.manual_seed(0)
points, labels = torch.randn(8, 5).double(), torch.tensor([0, 1, 0, 2, 1, 2, 0, 1])
linear = DistributedDataParallel(torch.nn.Linear(5, 3).double())
mine = slice(4 * rank, 4 * rank + 4)
loss = TripletLoss()(gather_rows(linear(points[mine])), gather_rows(labels[mine]))
loss.backward()
print(float(loss.detach()), *linear.module.weight.grad.flatten().tolist())
try:
    gather_rows(torch.zeros(3 + rank, 2))
except SizeError as error:
    print(error)
sys.stdout.flush()
distributed.barrier()
rank or os.waitpid(-1, 0)
os._exit(0)  # gloo's threads may outlive the interpreter's end and abort it
"""


@pytest.mark.slow
def test_a_gathered_loss_is_the_loss_of_the_whole_batch(tmp_path):
    from cosphere.losses import TripletLoss

    subprocess.run([sys.executable, "-W", "ignore", "-c", RANK, str(tmp_path / "meet")], check=True, timeout=600)
    outputs = [(tmp_path / f"meet.{rank}").read_text().splitlines() for rank in range(2)]
    torch.manual_seed(0)
    points, labels = torch.randn(8, 5).double(), torch.tensor([0, 1, 0, 2, 1, 2, 0, 1])
    linear = torch.nn.Linear(5, 3).double()
    loss = TripletLoss()(linear(points), labels)
    loss.backward()
    want = [loss.item(), *linear.weight.grad.flatten().tolist()]
    for numbers, error in outputs:
        assert [float(word) for word in numbers.split()] == pytest.approx(want, rel=1e-9)
        assert error.startswith("want equal batches in all processes, got [(3, 2), (4, 2)]")


def test_totals_of_one_process_are_its_own():
    values = torch.tensor([1.0, 2.0, 6.0], requires_grad=True)
    total, count = total_everywhere(values)
    assert (float(total), float(count), float(mean_everywhere(values))) == (9.0, 3.0, 3.0)
    assert not any(one.requires_grad for one in (total, count, mean_everywhere(values)))
    assert not several_processes()


def test_one_process_gathers_nothing():
    rows = torch.randn(3, 2)
    assert gather_rows(rows) is rows


def test_the_histogram_of_lengths_is_numpys() -> None:
    rows = torch.randn(200, 5, generator=torch.Generator().manual_seed(0))
    found = length_histogram(rows, bins=17)
    norms = rows.double().norm(dim=1).numpy()
    counts, edges = np.histogram(norms, 17)
    assert found["low"] == pytest.approx(edges[0], rel=1e-6)
    assert found["high"] == pytest.approx(edges[-1], rel=1e-6)
    assert found["shares"] == pytest.approx(
        (counts / 200).tolist(), abs=1.01 / 200
    )  # rounding may move a length by a bin
    assert sum(found["shares"]) == pytest.approx(1)


def test_the_histogram_of_equal_or_missing_lengths() -> None:
    assert length_histogram(torch.ones(3, 4), bins=2) == {"low": 2.0, "high": 2.0, "shares": [1.0, 0.0]}
    nothing = length_histogram(torch.full((2, 3), float("nan")))
    assert nothing == {"low": 0.0, "high": 0.0, "shares": []}
