import copy
import io
import math
import subprocess
import sys

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cosphere.errors import SettingsError, SizeError
from cosphere.spherical import (
    SphericalConstraint,
    length_statistics,
    ramped_weight,
    scale_gradients,
    spherical_penalty,
)
from cosphere.tensors import length_histogram

H6 = torch.tensor(
    [[3, 4, 0], [0, 6, 8], [4, 3, 0], [1, 2, 2], [4, -2, 4], [0, 0.8, 0.6]], dtype=torch.float64
)  # lengths 5, 10, 5, 3, 6, 1
E4 = torch.tensor([[2, 0], [1.2, 1.6], [0, 1], [-3, 0]], dtype=torch.float64)  # lengths 2, 2, 1, 3


def penalty_and_gradient(penalty, embeddings=H6):
    leaf = embeddings.clone().requires_grad_()
    value = penalty(leaf)
    value.backward()
    return float(value.detach()), leaf.grad


# The penalty


@pytest.mark.parametrize(
    ("radius", "value", "gradient"),
    [
        (
            5.0,
            7.666666666666667,
            [
                [0.0, 0.0, 0.0],
                [0.0, 1.0, 1.3333333333],
                [0.0, 0.0, 0.0],
                [-0.2222222222, -0.4444444444, -0.4444444444],
                [0.2222222222, -0.1111111111, 0.2222222222],
                [0.0, -1.0666666667, -0.8],
            ],
        ),
        (
            4.1,
            8.476666666666668,
            [
                [0.18, 0.24, 0.0],
                [0.0, 1.18, 1.5733333333],
                [0.24, 0.18, 0.0],
                [-0.1222222222, -0.2444444444, -0.2444444444],
                [0.4222222222, -0.2111111111, 0.4222222222],
                [0.0, -0.8266666667, -0.62],
            ],
        ),
        (
            1.0,
            23.666666666666668,
            [
                [0.8, 1.0666666667, 0.0],
                [0.0, 1.8, 2.4],
                [1.0666666667, 0.8, 0.0],
                [0.2222222222, 0.4444444444, 0.4444444444],
                [1.1111111111, -0.5555555556, 1.1111111111],
                [0.0, 0.0, 0.0],
            ],
        ),
        (
            0.0,
            32.666666666666664,
            [
                [1.0, 1.3333333333, 0.0],
                [0.0, 2.0, 2.6666666667],
                [1.3333333333, 1.0, 0.0],
                [0.3333333333, 0.6666666667, 0.6666666667],
                [1.3333333333, -0.6666666667, 1.3333333333],
                [0.0, 0.2666666667, 0.2],
            ],
        ),
    ],
    ids=["batch mean", "ema", "one", "zero"],
)
def test_official_values_and_gradients(radius, value, gradient):
    got, slope = penalty_and_gradient(lambda x: spherical_penalty(x, radius))
    assert got == pytest.approx(value, rel=1e-9)
    torch.testing.assert_close(slope, torch.tensor(gradient).double(), rtol=1e-7, atol=1e-9)
    got, slope = penalty_and_gradient(lambda x: spherical_penalty(x, torch.tensor(radius, dtype=torch.float64)))
    assert got == pytest.approx(value, rel=1e-9)


def test_hand_example():
    assert float(spherical_penalty(E4, 2.0)) == pytest.approx(0.5)
    assert SphericalConstraint()(E4).item() == pytest.approx(0.5)
    assert SphericalConstraint(0)(E4).item() == pytest.approx(4.5)


@given(
    rows=st.lists(st.tuples(*[st.floats(-50, 50)] * 3), min_size=1, max_size=12),
    radius=st.floats(0.01, 20),
    scale_free=st.booleans(),
)
@settings(max_examples=60, deadline=None)
def test_agrees_with_loops(rows, radius, scale_free):
    unit = radius if scale_free else 1.0
    want = sum(((math.hypot(*row) - radius) / unit) ** 2 for row in rows) / len(rows)
    points = torch.tensor(rows, dtype=torch.float64)
    assert float(spherical_penalty(points, radius, scale_free=scale_free)) == pytest.approx(want, rel=1e-9, abs=1e-12)


@pytest.mark.parametrize("scale_free", [False, True])
def test_gradient_by_finite_differences(scale_free):
    assert torch.autograd.gradcheck(
        lambda x: spherical_penalty(x, 4.0, scale_free=scale_free), H6.clone().requires_grad_()
    )


@pytest.mark.parametrize("weight", [0.1, 1.0])
def test_scale_free_does_not_see_the_unit_of_length(weight):
    sec = SphericalConstraint(scale_free=True)
    # 7.6666.. over the squared mean length 25.
    assert sec(H6).item() == pytest.approx(7.666666666666667 / 25, rel=1e-9)
    assert sec(H6 * weight).item() == pytest.approx(7.666666666666667 / 25, rel=1e-9)
    assert SphericalConstraint()(H6 * weight).item() == pytest.approx(7.666666666666667 * weight**2, rel=1e-9)


def test_scale_free_stops_the_gradient_into_the_radius():
    """Through the mean, the gradient would be another one: the relative gaps do not sum to zero when squared."""
    _, slope = penalty_and_gradient(SphericalConstraint(scale_free=True))
    norms = H6.norm(dim=1, keepdim=True)
    torch.testing.assert_close(slope, 2 / 6 * (norms / 5 - 1) / 5 * H6 / norms, rtol=1e-9, atol=1e-12)
    radius = torch.tensor(4.0, dtype=torch.float64, requires_grad=True)
    leaf = H6.clone().requires_grad_()
    spherical_penalty(leaf, radius, scale_free=True).backward()
    assert radius.grad is None


# The radius


def test_batch_radius_is_the_default_and_equals_the_variance():
    value, slope = penalty_and_gradient(SphericalConstraint())
    assert value == pytest.approx(46 / 6, rel=1e-12)
    torch.testing.assert_close(slope[1], torch.tensor([0, 1, 4 / 3], dtype=torch.float64))


def test_running_radius_follows_by_hand():
    sec = SphericalConstraint("ema", momentum=0.1)
    mu = None
    for factor in [1.0, 3.0, 0.5, 2.0]:
        mean = 5.0 * factor
        mu = mean if mu is None else 0.9 * mu + 0.1 * mean
        want = sum((n * factor - mu) ** 2 for n in [5, 10, 5, 3, 6, 1]) / 6
        assert sec(H6 * factor).item() == pytest.approx(want, rel=1e-9)
        assert float(sec.radius) == pytest.approx(mu, rel=1e-9)
    assert int(sec.steps) == 4


def test_running_radius_has_the_published_value_and_radial_gradient():
    sec = SphericalConstraint("ema", momentum=0.1)
    sec(H6 * 0.8)  # mean length 4
    value, slope = penalty_and_gradient(sec)
    assert value == pytest.approx(8.476666666666668, rel=1e-9)
    torch.testing.assert_close(slope[5], torch.tensor([0, -0.8266666667, -0.62]).double(), rtol=1e-7, atol=1e-9)


def test_momentum_one_is_the_batch_mean():
    sec = SphericalConstraint("ema", momentum=1)
    sec(H6 * 7)
    assert sec(H6).item() == pytest.approx(46 / 6, rel=1e-9)


def test_evaluation_updates_nothing():
    sec = SphericalConstraint("ema", momentum=0.5)
    sec(H6)
    sec.eval()
    before = copy.deepcopy(sec.state_dict())
    assert sec(H6 * 2).item() == pytest.approx(sum((2 * n - 5) ** 2 for n in [5, 10, 5, 3, 6, 1]) / 6)
    assert all(torch.equal(before[key], value) for key, value in sec.state_dict().items())


@pytest.mark.parametrize("kind", ["ema", "learned"])
def test_evaluation_before_training_uses_the_batch_and_keeps_nothing(kind):
    sec = SphericalConstraint(kind).eval()
    assert sec(H6).item() == pytest.approx(46 / 6, rel=1e-6)
    sec.train()
    assert sec(H6 * 2).item() == pytest.approx(4 * 46 / 6, rel=1e-6)


@pytest.mark.parametrize("kind", ["ema", "learned"])
def test_radius_survives_a_checkpoint(kind):
    sec = SphericalConstraint(kind, momentum=0.1)
    sec(H6.float())
    file = io.BytesIO()
    torch.save(sec.state_dict(), file)
    file.seek(0)
    again = SphericalConstraint(kind, momentum=0.1)
    again.load_state_dict(torch.load(file, weights_only=True))
    assert again(H6.float() * 3).item() == sec(H6.float() * 3).item()
    assert again.radius.item() == sec.radius.item()
    fresh = SphericalConstraint(kind, momentum=0.1)
    assert fresh(H6.float() * 3).item() != again(H6.float() * 3).item()  # a lost radius would show


def test_learned_radius_starts_at_the_first_batch_and_the_optimiser_holds_it():
    sec = SphericalConstraint("learned")
    optimiser = torch.optim.SGD(sec.parameters(), lr=0.05)
    sec(H6)
    assert float(sec.radius.detach()) == 5.0
    loss = 2.0 * sec(H6 * 2)  # mean length 10: d loss / d mu = -2 * 2 * (10 - 5)
    loss.backward()
    assert float(sec.radius.grad) == pytest.approx(-20.0)
    optimiser.step()
    # Plain SGD with rate a is the running mean with momentum 2 a eta = 0.2: 0.8 * 5 + 0.2 * 10.
    assert float(sec.radius.detach()) == pytest.approx(6.0)


def test_constant_radius_needs_no_state():
    sec = SphericalConstraint(1.0)
    assert sec(H6).item() == pytest.approx(23.666666666666668)
    assert sec.state_dict() == {}
    assert list(sec.parameters()) == []
    assert SphericalConstraint(2, scale_free=True)(E4).item() == pytest.approx(0.125)


def test_radius_in_bfloat16_still_follows_a_slow_mean():
    """A module cast with the network would otherwise round every small move away."""
    sec = SphericalConstraint("ema", momentum=0.001).bfloat16()
    sec(torch.full((4, 1), 100.0))
    for _ in range(20):
        sec(torch.full((4, 1), 110.0))
    assert float(sec.radius) == pytest.approx(110 - 10 * 0.999**20, rel=1e-5)


# Edges


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize(
    ("kind", "scale_free"),
    [
        *((kind, False) for kind in ("batch", "ema", "learned", 2.0, 0.0)),
        *((kind, True) for kind in ("batch", "ema", 2.0)),
    ],
)
@pytest.mark.parametrize("rows", [[], [[0.0, 0.0]], [[3.0, 4.0]], [[0.0, 0.0], [3.0, 4.0]], [[1.0, 0.0]] * 3], ids=str)
def test_small_and_zero_batches_are_finite_and_connected(rows, kind, scale_free, dtype):
    leaf = torch.tensor(rows, dtype=dtype).reshape(len(rows), 2).requires_grad_()
    value = SphericalConstraint(kind, scale_free=scale_free)(leaf)
    value.backward()
    assert value.isfinite()
    assert leaf.grad.isfinite().all()
    assert not leaf.grad[leaf.detach().norm(dim=1) == 0].any()
    if len(rows) < 2 and isinstance(kind, str):
        assert value == 0


def test_an_empty_batch_does_not_start_or_move_the_radius():
    for kind in ("ema", "learned"):
        sec = SphericalConstraint(kind, momentum=0.5)
        sec(H6[:0])
        sec(H6)
        sec(H6[:0])
        assert float(sec.radius.detach()) == 5.0


@pytest.mark.parametrize("kind", ["batch", "ema", "learned", 2.0])
def test_a_row_that_is_not_finite_passes_through_and_spoils_no_state(kind):
    sec = SphericalConstraint(kind, momentum=0.5)
    sec(H6)
    broken = H6.clone()
    broken[0, 0] = math.nan
    assert sec(broken).isnan()
    assert sec(H6).item() == pytest.approx(SphericalConstraint(2.0)(H6).item() if kind == 2.0 else 46 / 6)


def test_a_learned_radius_waits_for_a_finite_batch():
    sec = SphericalConstraint("learned")
    assert sec(torch.tensor([[math.nan, 1.0]])).isnan()
    sec(H6)
    assert sec.radius.item() == 5.0


def test_float16_does_not_overflow_and_autocast_is_left():
    wide = torch.full((4, 512), 16.0).half().requires_grad_()  # a sum of squares in float16 is infinite
    value = SphericalConstraint(0)(wide)
    value.backward()
    assert value.dtype == torch.float32
    assert float(value.detach()) == pytest.approx(512 * 256)
    assert wide.grad.isfinite().all()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert SphericalConstraint()(H6.float()).item() == pytest.approx(46 / 6, rel=1e-6)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"radius": "bach"}, r"no radius is called 'bach'. Did you mean 'batch'\?"),
        ({"radius": -1.0}, r"the radius is 'batch', 'ema', 'learned' or a finite number >= 0; got -1\.0"),
        ({"radius": math.inf}, "finite number >= 0; got inf"),
        ({"radius": True}, "finite number >= 0; got True"),
        ({"radius": None}, "finite number >= 0; got None"),
        ({"momentum": 0}, "above 0 and at most 1; got 0"),
        ({"momentum": 1.5}, r"above 0 and at most 1; got 1\.5"),
        (
            {"radius": 0, "scale_free": True},
            "scale_free measures lengths in radii, so the radius must be above 1e-06, got 0",
        ),
        ({"radius": "learned", "scale_free": True}, "a learned one would never move"),
        ({"scale_free": "yes"}, "scale_free must be true or false; got 'yes'"),
    ],
)
def test_wrong_settings_are_named(arguments, message):
    with pytest.raises(SettingsError, match=message):
        SphericalConstraint(**arguments)


def test_wrong_tensors_are_named():
    with pytest.raises(SizeError, match=r"want embeddings \(B, D\), got \(4,\)"):
        SphericalConstraint()(torch.ones(4))
    with pytest.raises(SizeError, match="floating type"):
        spherical_penalty(torch.ones(4, 2, dtype=torch.long), 1.0)
    with pytest.raises(SettingsError, match="radius must be above"):
        spherical_penalty(H6, 0.0, scale_free=True)
    with pytest.raises(SizeError, match=r"want one radius for all, a number or a \(\) tensor; got a tensor \(6,\)"):
        spherical_penalty(H6, torch.ones(6))


@pytest.mark.parametrize("radius", ["batch", None, True, -1.0, math.nan, math.inf])
def test_a_radius_that_is_none_is_named(radius):
    with pytest.raises(SettingsError, match="the radius is a finite number >= 0 or a \\(\\) tensor; got"):
        spherical_penalty(H6, radius)


def test_print_shows_the_settings():
    assert (
        repr(SphericalConstraint("ema", momentum=0.2))
        == "SphericalConstraint(radius='ema', momentum=0.2, scale_free=False)"
    )
    assert repr(SphericalConstraint(2)) == "SphericalConstraint(radius=2.0, scale_free=False)"


# With pytorch-metric-learning


def test_serves_unchanged_as_embedding_regularizer():
    losses = pytest.importorskip("pytorch_metric_learning.losses")
    labels = torch.tensor([0, 0, 1, 1, 2, 2])
    for kind, sec_value in [("batch", 46 / 6), (1.0, 71 / 3), ("ema", 46 / 6), ("learned", 46 / 6)]:
        bare = losses.TripletMarginLoss()
        both = losses.TripletMarginLoss(embedding_regularizer=SphericalConstraint(kind), embedding_reg_weight=0.25)
        value, slope = penalty_and_gradient(lambda x, both=both: both(x, labels))
        want, _ = penalty_and_gradient(lambda x, bare=bare: bare(x, labels))
        assert value == pytest.approx(want + 0.25 * sec_value, rel=1e-9)
        radial = (slope * H6).sum(dim=1) / H6.norm(dim=1)  # the triplet loss has no radial gradient
        mu = 1.0 if kind == 1.0 else 5.0
        torch.testing.assert_close(radial, 0.25 * 2 / 6 * (H6.norm(dim=1) - mu), rtol=1e-9, atol=1e-12)
    assert "embedding_regularizer.radius" in both.state_dict()


def test_zero_radius_is_the_lp_regulariser():
    regularizers = pytest.importorskip("pytorch_metric_learning.regularizers")
    theirs = regularizers.LpRegularizer(p=2, power=2)
    assert SphericalConstraint(0)(H6).item() == pytest.approx(float(theirs(H6)), rel=1e-9)


def test_center_invariant_is_not_sec():
    regularizers = pytest.importorskip("pytorch_metric_learning.regularizers")
    theirs = float(regularizers.CenterInvariantRegularizer()(H6))
    assert theirs == pytest.approx(259.3888889, rel=1e-8)
    assert SphericalConstraint()(H6).item() == pytest.approx(7.6666667, rel=1e-8)


# Several processes

RANK = """
import os, sys, torch
import torch.distributed as distributed
from cosphere.models.heads.layers import make_output
from cosphere.spherical import SphericalConstraint, scale_gradients
rank = int(os.fork() == 0)  # importing takes seconds, so that the two share it
sys.stdout = open(f"{sys.argv[1]}.{rank}", "w")
distributed.init_process_group("gloo", init_method="file://" + sys.argv[1], rank=rank, world_size=2)
share = [torch.tensor([[3.0, 4.0], [0.0, 10.0], [5.0, 0.0]]), torch.tensor([[0.0, 4.0]])][rank]
batch, ema, learned = SphericalConstraint(), SphericalConstraint("ema", momentum=0.5), SphericalConstraint("learned")
values = [float(module(share)) for module in (batch, ema, learned)]
ema(2 * share)
values += [float(ema.radius), float(learned.radius.detach())]
scaled = share.clone().requires_grad_()
scale_gradients(scaled, 1.0).sum().backward()
values += [float(scaled.grad[0, 0]), float(make_output("fixed", 2)(share)[0].norm())]
if rank == 0:  # one process evaluates alone: nobody would answer a collective
    values.append(float(batch.eval()(share)))
print(*values)
sys.stdout.flush()
distributed.barrier()
rank or os.waitpid(-1, 0)
os._exit(0)  # gloo's threads may outlive the interpreter's end and abort it
"""


@pytest.mark.slow
def test_processes_share_one_radius(tmp_path):
    subprocess.run([sys.executable, "-W", "ignore", "-c", RANK, str(tmp_path / "meet")], check=True, timeout=600)
    outputs = [[float(word) for word in (tmp_path / f"meet.{rank}").read_text().split()] for rank in range(2)]
    # Lengths 5, 10, 5 and 4: the mean is 6. The means of the two alone would be 6.67 and 4.
    first, second = (1 + 16 + 1) / 3, 4.0
    # The factor of the first row's gradient is its length over that mean, which is the length of all with head setting "fixed".
    assert outputs[0] == pytest.approx([first, first, first, 9.0, 6.0, 5 / 6, 6.0, 50 / 9], rel=1e-6)
    assert outputs[1] == pytest.approx([second, second, second, 9.0, 6.0, 4 / 6, 6.0], rel=1e-6)


# The weight


def test_weight_stays_or_grows_linearly():
    assert [ramped_weight(0.5, step, 4) for step in range(5)] == [0.5] * 5
    assert [ramped_weight(0.5, step, 4, "linear") for step in range(6)] == [0.0, 0.125, 0.25, 0.375, 0.5, 0.5]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((1.0, 0, 10, "liner"), r"no ramp is called 'liner'. Did you mean 'linear'\?"),
        ((-1.0, 0, 10), "want weight >= 0"),
        ((1.0, -1, 10), "step >= 0"),
        ((1.0, 0, 0), "total_steps > 0"),
        ((math.nan, 0, 10), "want weight >= 0"),
    ],
)
def test_wrong_weights_are_named(arguments, message):
    with pytest.raises(SettingsError, match=message):
        ramped_weight(*arguments)


# The lens


def test_length_statistics_by_hand():
    assert length_statistics(H6) == pytest.approx((5.0, 46 / 6, math.sqrt(46 / 6) / 5), rel=1e-12)
    assert length_statistics(torch.zeros(3, 2)) == (0.0, 0.0, 0.0)
    assert length_statistics(torch.ones(1, 4).half()) == (2.0, 0.0, 0.0)
    assert all(math.isnan(value) for value in length_statistics(H6[:0]))
    with pytest.raises(SizeError, match="want embeddings"):
        length_statistics(torch.ones(3))


@pytest.mark.parametrize("scale", [1e15, 1e20, 1e37])
def test_length_statistics_of_rows_whose_squares_overflow(scale):
    """Two steps at too high a rate make such rows; their statistics are written to files that hold no infinity."""
    rows = torch.tensor([[3.0, 4.0], [0.0, 1.0]]) * scale
    found = length_statistics(rows)
    assert found == pytest.approx((3 * scale, 4 * scale**2, 2 / 3), rel=1e-6)
    assert length_histogram(rows, bins=2)["high"] == pytest.approx(5 * scale, rel=1e-6)
    mixed = length_statistics(torch.cat([rows, torch.ones(1, 2)]))
    assert mixed.mean == pytest.approx(2 * scale, rel=1e-6)


def free_table(seed=0):
    """120 free embeddings of 64 numbers, 40 classes of 3, log-normal lengths whose CV is near 0.63."""
    generator = torch.Generator().manual_seed(seed)
    rows = torch.randn(120, 64, generator=generator, dtype=torch.float64)
    lengths = (0.58 * torch.randn(120, 1, generator=generator, dtype=torch.float64)).exp()
    table = (rows / rows.norm(dim=1, keepdim=True) * 5 * lengths).requires_grad_()
    assert 0.5 < length_statistics(table).cv < 0.8
    return table, torch.arange(120) // 3


def test_sec_contracts_the_variance_at_the_predicted_rate():
    table, _ = free_table()
    start, rate, eta = length_statistics(table).variance, 0.5, 1.0
    optimiser, sec = torch.optim.SGD([table], lr=rate), SphericalConstraint()
    for _ in range(200):
        optimiser.zero_grad()
        (eta * sec(table)).backward()
        optimiser.step()
    got = length_statistics(table).variance / start
    assert got == pytest.approx((1 - 2 * rate * eta / 120) ** 400, rel=1e-9)
    assert got == pytest.approx(0.0352, abs=5e-5)


def test_scaled_gradients_leave_values_and_multiply_each_row_by_its_relative_length() -> None:
    rows = torch.tensor([[3.0, 4.0], [0.0, 10.0], [0.0, 0.0]], requires_grad=True)
    scaled = scale_gradients(rows, 2.0)
    assert torch.equal(scaled, rows)
    scaled.sum().backward()
    mean = 15 / 3
    assert rows.grad is not None
    torch.testing.assert_close(rows.grad, torch.tensor([[1.0] * 2, [(10 / mean) ** 2] * 2, [0.0] * 2]))
    assert scale_gradients(rows, 0.0) is rows


def test_with_power_two_every_free_embedding_turns_equally_far_for_an_equal_pull() -> None:
    """Prop. 2: dtheta ~ |gradient| / length, and the gradient of a loss on directions carries 1 / length."""
    directions = torch.nn.functional.normalize(torch.randn(6, 5, generator=torch.Generator().manual_seed(0)))
    target = torch.nn.functional.normalize(torch.ones(5), dim=0)
    rows = (directions * torch.tensor([1.0, 2.0, 4.0, 8.0, 16.0, 32.0])[:, None]).requires_grad_()

    def turned(power: float) -> torch.Tensor:
        unit = torch.nn.functional.normalize(scale_gradients(rows, power))
        (gradient,) = torch.autograd.grad((unit @ target).sum(), rows)
        pull = (1 - (directions @ target) ** 2).sqrt()  # of each direction, whatever its length
        return gradient.norm(dim=1) / rows.norm(dim=1) / pull

    assert turned(2.0).std() / turned(2.0).mean() < 1e-5
    assert turned(0.0).std() / turned(0.0).mean() > 1
