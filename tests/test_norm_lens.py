import math

import pytest
import torch

from cosphere.errors import SizeError
from cosphere.losses import TripletLoss
from cosphere.norm_lens import gradient_lens, step_lens
from cosphere.spherical import length_statistics


def free_table(seed=0):
    """120 free embeddings of 64 numbers, 40 classes of 3, log-normal lengths whose CV is near 0.63."""
    generator = torch.Generator().manual_seed(seed)
    rows = torch.randn(120, 64, generator=generator, dtype=torch.float64)
    lengths = (0.58 * torch.randn(120, 1, generator=generator, dtype=torch.float64)).exp()
    table = (rows / rows.norm(dim=1, keepdim=True) * 5 * lengths).requires_grad_()
    assert 0.5 < length_statistics(table).cv < 0.8
    return table, torch.arange(120) // 3


@pytest.mark.parametrize(("optimiser", "slope"), [(torch.optim.SGD, -2.0), (torch.optim.Adam, -1.0)])
def test_a_step_turns_short_embeddings_more(optimiser, slope):
    table, labels = free_table()
    before = table.detach().clone()
    TripletLoss()(table, labels).backward()
    of_gradient = gradient_lens(table, table.grad)
    optimiser([table], lr=1e-5).step()
    of_step = step_lens(before, table)
    assert of_gradient.max_abs_cosine < 1e-12
    assert of_gradient.slope == pytest.approx(-1.0, abs=0.05)
    assert of_step.slope == pytest.approx(slope, abs=0.05)


def slope_by_hand(xs, ys):
    mean_x, mean_y = sum(xs) / len(xs), sum(ys) / len(ys)
    return sum((x - mean_x) * (y - mean_y) for x, y in zip(xs, ys, strict=True)) / sum((x - mean_x) ** 2 for x in xs)


def test_gradient_lens_by_hand():
    embeddings = torch.tensor([[3.0, 4.0], [2.0, 0.0], [0.0, 10.0]])
    gradient = torch.tensor([[4.0, -3.0], [3.0, 3.0], [1.0, 0.0]])
    lens = gradient_lens(embeddings, gradient)
    sizes = [5.0, math.sqrt(18), 1.0]
    assert lens.max_abs_cosine == pytest.approx(math.sqrt(0.5), rel=1e-6)
    assert lens.slope == pytest.approx(slope_by_hand([math.log(v) for v in (5, 2, 10)], [math.log(v) for v in sizes]))
    assert lens.short_share == pytest.approx(math.sqrt(18) / sum(sizes), rel=1e-6)


def test_share_counts_a_tenth_rounded_up():
    lengths = torch.arange(21, 0, -1.0)  # the shortest three are last
    gradient = torch.ones(21, 1)
    gradient[-3:] = 5.0
    assert gradient_lens(lengths[:, None], gradient).short_share == pytest.approx(15 / 33)
    assert gradient_lens(lengths[1:, None], gradient[1:]).short_share == pytest.approx(10 / 32)


def test_step_lens_by_hand():
    before = torch.tensor([[2.0, 0.0], [0.0, 1.0], [4.0, 0.0]])
    turns = [0.1, 0.3, 1e-6]
    after = torch.stack(
        [
            torch.tensor([5 * math.cos(turns[0]), 5 * math.sin(turns[0])], dtype=torch.float64),
            torch.tensor([-math.sin(turns[1]), math.cos(turns[1])], dtype=torch.float64),
            torch.tensor([4 * math.cos(turns[2]), -4 * math.sin(turns[2])], dtype=torch.float64),
        ]
    )
    lens = step_lens(before.double(), after)
    mean = sum(turns) / 3
    assert lens.mean_angle == pytest.approx(mean, rel=1e-9)
    assert lens.cv == pytest.approx(math.sqrt(sum((t - mean) ** 2 for t in turns) / 3) / mean, rel=1e-9)
    assert lens.slope == pytest.approx(
        slope_by_hand([math.log(v) for v in (2, 1, 4)], [math.log(t) for t in turns]), rel=1e-6
    )


def test_step_lens_measures_half_a_turn():
    assert step_lens(torch.tensor([[1.0, 0.0]]), torch.tensor([[-3.0, 0.0]])).mean_angle == pytest.approx(math.pi)
    many = torch.randn(200, 7, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    assert step_lens(many, -many / 3).mean_angle == pytest.approx(math.pi)  # some of these chords round above 2


def test_lens_leaves_out_what_has_no_direction_or_is_not_finite():
    embeddings = torch.tensor([[3.0, 4.0], [2.0, 0.0], [0.0, 0.0], [math.nan, 1.0], [1.0, 1.0], [0.0, 3.0]])
    gradient = torch.tensor([[4.0, -3.0], [0.0, 3.0], [1.0, 1.0], [1.0, 0.0], [math.inf, 0.0], [0.0, 0.0]])
    lens = gradient_lens(embeddings, gradient)
    assert lens.max_abs_cosine == pytest.approx(0.0, abs=1e-12)
    assert lens.slope == pytest.approx(math.log(5 / 3) / math.log(5 / 2))
    assert lens.short_share == pytest.approx(3 / 8)
    after = embeddings + torch.tensor([[0.0, 0.1], [0.0, 0.1], [1.0, 0.0], [0.0, 0.0], [-1.0, -1.0], [0.0, 0.0]])
    step = step_lens(embeddings, after)  # rows 0 and 1 turn, row 5 stays, row 4 loses its direction
    angles = [math.atan2(4.1, 3) - math.atan2(4, 3), math.atan2(0.1, 2), 0.0]
    assert step.mean_angle == pytest.approx(sum(angles) / 3, rel=1e-5)
    assert step.slope == pytest.approx(math.log(angles[0] / angles[1]) / math.log(5 / 2), rel=1e-4)


def test_lens_of_nothing_is_none():
    still = torch.tensor([[1.0, 0.0], [0.0, 2.0]])
    assert gradient_lens(still, torch.zeros(2, 2)) == (None, None, None)
    assert gradient_lens(still[:0], still[:0]) == (None, None, None)
    assert gradient_lens(still[:1], still[:1]).slope is None
    assert gradient_lens(torch.ones(3, 2), torch.randn(3, 2)).slope is None  # all lengths are equal
    assert step_lens(still, still) == (None, None, 0.0)
    assert step_lens(still[:0], still[:0]) == (None, None, None)


def test_lens_survives_tiny_gradients_in_narrow_types():
    embeddings = torch.tensor([[3.0, 4.0], [1.0, 0.0]]).bfloat16()
    lens = gradient_lens(embeddings, torch.tensor([[-4e-30, 3e-30], [0.0, 1e-30]]))
    assert lens.max_abs_cosine == pytest.approx(0.0, abs=1e-6)
    assert lens.slope == pytest.approx(1.0, rel=1e-6)


def test_lens_names_wrong_shapes():
    with pytest.raises(SizeError, match=r"want embeddings and gradient of one shape, got \(2, 2\) and \(3, 2\)"):
        gradient_lens(torch.ones(2, 2), torch.ones(3, 2))
    with pytest.raises(SizeError, match=r"want after \(B, D\), got \(2,\)"):
        step_lens(torch.ones(2, 2), torch.ones(2))
