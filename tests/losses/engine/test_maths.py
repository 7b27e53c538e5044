import math

import pytest
import torch

from cosphere.checks import check_share
from cosphere.errors import SettingsError
from cosphere.losses.engine import classes, maths
from cosphere.losses.engine.classes import classify


@pytest.mark.parametrize("angle", [0.0, 0.5, 2.0, math.pi])
@pytest.mark.parametrize("fallback", [True, False])
def test_the_angle_is_added(angle, fallback):
    thetas = [0.01, 0.7, 1.5, 2.5, 2.7, 3.1]
    cosines = torch.tensor([math.cos(theta) for theta in thetas], dtype=torch.float64, requires_grad=True)
    got = maths.add_angle(cosines, angle, fallback)
    want = [
        math.cos(theta) - angle * math.sin(angle) if fallback and theta >= math.pi - angle else math.cos(theta + angle)
        for theta in thetas
    ]
    assert got.tolist() == pytest.approx(want, rel=1e-12, abs=1e-12)
    assert torch.autograd.gradcheck(lambda c: maths.add_angle(c, angle, fallback), cosines)


def test_each_may_have_its_own_angle():
    cosines = torch.tensor([0.3, -0.95, 0.3], dtype=torch.float64, requires_grad=True)
    angles = torch.tensor([0.5, 0.8, 0.0], dtype=torch.float64, requires_grad=True)
    want = [math.cos(math.acos(0.3) + 0.5), -0.95 - 0.8 * math.sin(0.8), 0.3]
    assert maths.add_angle(cosines, angles).tolist() == pytest.approx(want, rel=1e-12)
    assert torch.autograd.gradcheck(maths.add_angle, (cosines, angles))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_slopes_are_finite_at_both_ends(dtype):
    ends = torch.tensor([1.0, -1.0, 1 + 1e-6, -1 - 1e-6], dtype=dtype, requires_grad=True)
    values = maths.add_angle(ends, 0.5, fallback=False)
    values.sum().backward()
    assert values.tolist() == pytest.approx([math.cos(0.5), -math.cos(0.5)] * 2, rel=1e-5)
    assert ends.grad.tolist() == pytest.approx([math.cos(0.5)] * 4)


def test_own_cosines_are_those_to_the_own_class():
    rows, weights = [[3.0, 4.0], [1.0, 0.0]], [[0.0, 2.0], [5.0, 0.0], [-1.0, -1.0]]
    batch = classify(torch.tensor(rows), torch.tensor([0, 2]), torch.tensor(weights, requires_grad=True))
    got = classes.own_cosines(batch)
    assert got.tolist() == pytest.approx([0.8, -math.sqrt(0.5)])
    assert not got.requires_grad


@pytest.mark.parametrize(("new", "want"), [(3.0, 1.2), (math.nan, 1.0), (math.inf, 1.0)])
def test_a_running_mean_forgets_what_is_not_finite(new, want):
    assert maths.running_mean(torch.tensor(1.0), torch.tensor(new), 0.1).item() == pytest.approx(want)


def test_wrong_settings_are_named():
    assert maths.check_angle("margin", 0) == 0
    assert check_share("momentum", 1) == 1
    with pytest.raises(SettingsError, match=r"margin is in radians, at most pi; got 28\.6"):
        maths.check_angle("margin", 28.6)
    with pytest.raises(SettingsError, match=r"momentum is a share, above 0 and at most 1; got 1\.5"):
        check_share("momentum", 1.5)
    with pytest.raises(SettingsError, match="momentum must be a number above 0"):
        check_share("momentum", 0)


def test_classes_start_as_directions():
    weight = torch.empty(200, 3)
    torch.manual_seed(0)
    maths.start_as_directions(weight)
    assert weight.norm(dim=1).tolist() == pytest.approx([1.0] * 200, rel=1e-5)
    assert weight.mean(dim=0).abs().max() < 0.15
