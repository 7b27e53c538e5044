"""Parameter groups, optimiser and learning-rate schedule."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import nn

from cosphere.models import Embedder
from cosphere.train.settings import OptimizerSettings, ScheduleSettings

_NORM_LAYERS = (nn.modules.batchnorm._BatchNorm, nn.LayerNorm, nn.GroupNorm, nn.modules.instancenorm._InstanceNorm)


def parameter_groups(
    embedder: Embedder, loss: nn.Module, constraint: nn.Module, settings: OptimizerSettings
) -> list[dict[str, Any]]:
    """Split the trainable parameters into groups with their own learning rate and weight decay.

    A parameter belongs to `backbone`, `head`, `loss` (class weights) or `radius` (a learned SEC radius, never decayed), and
    within it to `weight`, `norm`, `bias` or, in a loss, `threshold` (margins, never decayed). Frozen parameters are in no
    group; empty groups are left out.

    Returns:
        groups for a torch optimiser, each with `name`, `params`, `lr` and `weight_decay`.
    """
    backbone = set(map(id, embedder.backbone.parameters()))
    loss_rate = settings.head_rate if settings.loss_rate is None else settings.loss_rate
    loss_decay = settings.weight_decay if settings.loss_decay is None else settings.loss_decay
    rates = {"backbone": settings.backbone_rate, "head": settings.head_rate, "loss": loss_rate, "radius": loss_rate}
    groups: dict[str, dict[str, Any]] = {}
    for part, module in (("embedder", embedder), ("loss", loss), ("radius", constraint)):
        for parameter, kind in _kinds(module):
            room = part if part != "embedder" else ("backbone" if id(parameter) in backbone else "head")
            decay = {"loss": loss_decay, "radius": 0.0}.get(room, settings.weight_decay)
            if (kind == "norm" and not settings.decay_norm) or (kind == "bias" and not settings.decay_bias):
                decay = 0.0
            if room == "loss" and parameter.ndim < 2:
                kind, decay = "threshold", 0.0  # a margin or bias per class: weight decay would bias it towards zero
            name = f"{room}.{kind}"
            group = groups.setdefault(name, {"name": name, "params": [], "lr": rates[room], "weight_decay": decay})
            group["params"].append(parameter)
    return list(groups.values())


def _kinds(module: nn.Module) -> Iterator[tuple[nn.Parameter, str]]:
    """Each trainable parameter once, with its kind: "weight", "norm" or "bias"."""
    seen: set[int] = set()
    for layer in module.modules():
        for name, parameter in layer.named_parameters(recurse=False):
            if parameter.requires_grad and id(parameter) not in seen:
                seen.add(id(parameter))
                yield (
                    parameter,
                    "norm" if isinstance(layer, _NORM_LAYERS) else "bias" if name.endswith("bias") else "weight",
                )


def build_optimizer(groups: list[dict[str, Any]], settings: OptimizerSettings) -> torch.optim.Optimizer:
    """The optimiser of the settings over the groups, which carry their own rates and decay."""
    return _OPTIMIZERS[settings.name](groups, settings)


def _adam(groups: list[dict[str, Any]], settings: OptimizerSettings) -> torch.optim.Optimizer:
    kind = torch.optim.Adam if settings.name == "adam" else torch.optim.AdamW
    # One pass over each parameter instead of a dozen: on a CPU a tenth of the time. A GPU's default is as fast already.
    on_cpu = all(parameter.device.type == "cpu" for group in groups for parameter in group["params"])
    return kind(groups, lr=settings.head_rate, fused=True if on_cpu else None)


def _sgd(groups: list[dict[str, Any]], settings: OptimizerSettings) -> torch.optim.Optimizer:
    return torch.optim.SGD(groups, lr=settings.head_rate, momentum=settings.momentum, nesterov=settings.nesterov)


def _lars(groups: list[dict[str, Any]], settings: OptimizerSettings) -> torch.optim.Optimizer:
    """LARS of timm (You, Gitman, Ginsburg 2017).

    As in SimCLR, biases and norms take plain steps of SGD without decay, and so does every other parameter of fewer than two
    dimensions, such as the slopes of a PReLU.
    """
    from timm.optim.lars import Lars  # here, because it loads slowly and few runs need it

    parted: list[dict[str, Any]] = []
    for group in groups:
        room, _, kind = str(group["name"]).partition(".")
        matrices = [one for one in group["params"] if kind == "weight" and one.ndim > 1]
        rest = [one for one in group["params"] if kind != "weight" or one.ndim < 2]
        if matrices:
            parted.append({**group, "params": matrices, "always_adapt": True})
        if rest:
            name = f"{room}.vector" if matrices else group["name"]
            parted.append({**group, "name": name, "params": rest, "weight_decay": 0.0})
    return Lars(
        parted,
        lr=settings.head_rate,
        momentum=settings.momentum,
        nesterov=settings.nesterov,
        trust_coeff=settings.trust,
    )


_OPTIMIZERS: dict[str, Callable[[list[dict[str, Any]], OptimizerSettings], torch.optim.Optimizer]] = {
    "adam": _adam,
    "adamw": _adam,
    "sgd": _sgd,
    "lars": _lars,
}


def rate_factor(step: int, steps: int, settings: ScheduleSettings) -> float:
    """The factor of every learning rate at step `step` (0-based) of `steps`.

    >>> rate_factor(0, 100, ScheduleSettings(warmup_steps=4)), rate_factor(4, 100, ScheduleSettings(warmup_steps=4))
    (0.25, 1.0)
    """
    warm = min(1.0, (step + 1) / settings.warmup_steps) if settings.warmup_steps else 1.0
    if settings.name == "milestones":
        return warm * settings.gamma ** sum(step >= milestone for milestone in settings.milestones)
    if settings.name == "cosine":
        done = step // settings.every * settings.every
        fall = 0.5 * (1 + math.cos(math.pi * done / steps))
        return warm * (settings.final_factor + (1 - settings.final_factor) * fall)
    return warm


def set_rates(optimizer: torch.optim.Optimizer, factor: float) -> None:
    """Set the rate of each group to its base rate times `factor`. The base rate is stored in the group as `base_lr`."""
    for group in optimizer.param_groups:
        group.setdefault("base_lr", group["lr"])
        group["lr"] = group["base_lr"] * factor


def raw_optimizer(optimizer: Any) -> torch.optim.Optimizer:
    """The torch optimiser inside accelerate's wrapper."""
    inside: torch.optim.Optimizer = getattr(optimizer, "optimizer", optimizer)
    return inside
