"""Parameter groups and schedules, against what one would write down by hand."""

from __future__ import annotations

import copy
import math

import numpy as np
import pytest
import torch
from torch import nn

from cosphere.train.parameters import build_optimizer, parameter_groups, rate_factor, set_rates
from cosphere.train.settings import OptimizerSettings, ScheduleSettings


class Network(nn.Module):
    """The rooms of an embedder, small."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone = nn.Sequential(nn.Conv2d(3, 2, 1), nn.BatchNorm2d(2))
        self.pool = nn.Identity()
        self.norm = nn.BatchNorm1d(2)
        self.linear = nn.Linear(2, 4)


class Weights(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.class_weight = nn.Parameter(torch.zeros(5, 4))


class Radius(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.radius = nn.Parameter(torch.zeros(()))


def groups_of(**settings: object) -> dict[str, tuple[int, float, float]]:
    """Name -> number of parameters, rate, decay."""
    chosen = OptimizerSettings(**settings)  # type: ignore[arg-type]
    found = parameter_groups(Network(), Weights(), Radius(), chosen)  # type: ignore[arg-type]
    return {
        group["name"]: (sum(p.numel() for p in group["params"]), group["lr"], group["weight_decay"]) for group in found
    }


def test_the_official_groups_of_sec() -> None:
    assert groups_of(backbone_rate=1e-5, head_rate=2e-5, loss_rate=0.5, weight_decay=0.25, loss_decay=0.125) == {
        "backbone.weight": (6, 1e-5, 0.25),
        "backbone.bias": (2, 1e-5, 0.25),
        "backbone.norm": (4, 1e-5, 0.0),
        "head.norm": (4, 2e-5, 0.0),
        "head.weight": (8, 2e-5, 0.25),
        "head.bias": (4, 2e-5, 0.25),
        "loss.weight": (20, 0.5, 0.125),
        "radius.weight": (1, 0.5, 0.0),
    }


def test_norms_decay_and_biases_do_not_when_asked() -> None:
    found = groups_of(weight_decay=0.25, decay_norm=True, decay_bias=False)
    assert found["backbone.norm"][2] == found["head.norm"][2] == found["loss.weight"][2] == 0.25
    assert found["backbone.bias"][2] == found["head.bias"][2] == 0.0


def test_frozen_parameters_are_in_no_group() -> None:
    network = Network()
    network.backbone.requires_grad_(False)
    names = [group["name"] for group in parameter_groups(network, nn.Module(), nn.Module(), OptimizerSettings())]  # type: ignore[arg-type]
    assert names == ["head.norm", "head.weight", "head.bias"]


@pytest.mark.parametrize(
    ("settings", "step", "factor"),
    [
        (ScheduleSettings(), 99, 1.0),
        (ScheduleSettings(name="cosine", final_factor=1e-3), 0, 1.0),
        (ScheduleSettings(name="cosine", final_factor=1e-3), 50, 1e-3 + 0.999 * 0.5),
        (ScheduleSettings(name="cosine", final_factor=1e-3), 100, 1e-3),
        (ScheduleSettings(name="cosine", every=25), 24, 1.0),
        (ScheduleSettings(name="cosine", every=25), 49, 0.5 * (1 + math.cos(math.pi / 4))),
        (ScheduleSettings(name="milestones", milestones=[3, 6], gamma=0.1), 2, 1.0),
        (ScheduleSettings(name="milestones", milestones=[3, 6], gamma=0.1), 3, 0.1),
        (ScheduleSettings(name="milestones", milestones=[3, 6], gamma=0.1), 6, 0.01),
        (ScheduleSettings(name="cosine"), 0, 1.0),
        (ScheduleSettings(name="cosine"), 50, 0.5),
        (ScheduleSettings(name="cosine"), 75, 0.5 * (1 + math.cos(0.75 * math.pi))),
        (ScheduleSettings(name="cosine", warmup_steps=100), 50, 0.5 * 51 / 100),
    ],
)
def test_rate_factor(settings: ScheduleSettings, step: int, factor: float) -> None:
    assert rate_factor(step, 100, settings) == pytest.approx(factor, rel=1e-12)


@pytest.mark.parametrize(
    ("name", "kind"), [("adam", torch.optim.Adam), ("adamw", torch.optim.AdamW), ("sgd", torch.optim.SGD)]
)
def test_each_group_keeps_its_own_rate_times_the_factor(name: str, kind: type) -> None:
    settings = OptimizerSettings(name=name, backbone_rate=0.3, head_rate=0.2)  # type: ignore[arg-type]
    optimizer = build_optimizer(parameter_groups(Network(), nn.Module(), nn.Module(), settings), settings)  # type: ignore[arg-type]
    assert type(optimizer) is kind
    set_rates(optimizer, 0.5)
    set_rates(optimizer, 0.1)
    assert {group["name"]: group["lr"] for group in optimizer.param_groups} == {
        "backbone.weight": pytest.approx(0.03),
        "backbone.bias": pytest.approx(0.03),
        "backbone.norm": pytest.approx(0.03),
        "head.weight": pytest.approx(0.02),
        "head.bias": pytest.approx(0.02),
        "head.norm": pytest.approx(0.02),
    }


@pytest.mark.parametrize("name", ["adam", "adamw"])
def test_the_fused_steps_are_those_of_the_formula(name: str) -> None:
    """Against the update rule in float64 numpy: coupled decay for Adam, decoupled for AdamW."""
    settings = OptimizerSettings(name=name, weight_decay=0.1)  # type: ignore[arg-type]
    weight = torch.nn.Parameter(torch.linspace(-1, 1, 12).reshape(3, 4))
    optimizer = build_optimizer(
        [{"params": [weight], "lr": 1e-2, "weight_decay": 0.1, "name": "head.weight"}], settings
    )
    assert optimizer.defaults["fused"]
    want = weight.detach().double().numpy().copy()
    mean, square = np.zeros_like(want), np.zeros_like(want)
    for step in range(1, 6):
        gradient = torch.randn(3, 4, generator=torch.Generator().manual_seed(step))
        weight.grad = gradient.clone()
        optimizer.step()
        slope = gradient.double().numpy() + (0.1 * want if name == "adam" else 0)
        want *= 1 if name == "adam" else 1 - 1e-2 * 0.1
        mean, square = 0.9 * mean + 0.1 * slope, 0.999 * square + 0.001 * slope**2
        want -= 1e-2 * (mean / (1 - 0.9**step)) / (np.sqrt(square / (1 - 0.999**step)) + 1e-8)
    np.testing.assert_allclose(weight.detach().numpy(), want, rtol=1e-5, atol=1e-6)


def test_lars_takes_the_papers_steps() -> None:
    """You, Gitman, Ginsburg 2017, algorithm 1, in plain numpy; biases and norms as in SimCLR: momentum SGD without decay."""
    torch.manual_seed(0)
    network = Network()
    network.backbone.append(nn.PReLU(2))  # slopes are weights by name, and vectors
    network.pool.exponent = nn.Parameter(torch.tensor([3.0]))  # as GeM has one
    chosen = OptimizerSettings(
        name="lars", head_rate=0.5, backbone_rate=0.3, momentum=0.9, weight_decay=0.1, trust=0.02
    )
    optimizer = build_optimizer(parameter_groups(network, nn.Module(), nn.Module(), chosen), chosen)  # type: ignore[arg-type]
    names = dict(network.named_parameters())
    values = {name: one.detach().numpy().astype(np.float64) for name, one in names.items()}
    speeds = {name: np.zeros_like(one) for name, one in values.items()}
    generator = np.random.default_rng(1)
    for _ in range(4):
        gradients = {name: generator.normal(size=one.shape) for name, one in values.items()}
        for name, one in names.items():
            one.grad = torch.from_numpy(gradients[name]).float()
        optimizer.step()
        for name, weights in values.items():
            gradient = gradients[name]
            if name in ("backbone.0.weight", "linear.weight"):
                rate = 0.02 * np.linalg.norm(weights) / (np.linalg.norm(gradient) + 0.1 * np.linalg.norm(weights))
                gradient = rate * (gradient + 0.1 * weights)
            speeds[name] = 0.9 * speeds[name] + gradient
            values[name] = weights - (0.3 if name.startswith("backbone") else 0.5) * speeds[name]
    for name, one in names.items():
        assert np.allclose(one.detach().numpy(), values[name], atol=1e-5), name


def test_lars_adapts_without_decay_too_and_goes_on_from_its_state() -> None:
    chosen = OptimizerSettings(name="lars", weight_decay=0.0, head_rate=1.0, momentum=0.5)

    def made() -> tuple[nn.Linear, torch.optim.Optimizer]:
        layer = nn.Linear(3, 2)
        with torch.no_grad():
            layer.weight.fill_(1.0)
            layer.bias.fill_(1.0)
        groups = [
            {"name": "head.weight", "params": [layer.weight], "lr": 1.0, "weight_decay": 0.0},
            {"name": "head.bias", "params": [layer.bias], "lr": 1.0, "weight_decay": 0.3},
        ]
        return layer, build_optimizer(groups, chosen)

    def step(layer: nn.Linear, optimizer: torch.optim.Optimizer, size: float) -> None:
        for one in layer.parameters():
            one.grad = torch.full_like(one, size)
        optimizer.step()

    first, own = made()
    step(first, own, 100.0)
    assert first.weight[0, 0].item() == pytest.approx(1 - 0.001, abs=1e-7)  # whatever the gradient's length
    assert first.bias.tolist() == [-99.0, -99.0]  # a plain step, not decayed
    second, other = made()
    second.load_state_dict(first.state_dict())
    other.load_state_dict(copy.deepcopy(own.state_dict()))  # as from a file
    for pair in ((first, own), (second, other)):
        step(*pair, 3.0)
    assert torch.equal(first.weight, second.weight)
    assert torch.equal(first.bias, second.bias)
