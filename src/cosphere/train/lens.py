"""The norm lens on a real network: how embedding lengths affect the next step (Propositions 1 and 2 of SEC)."""

from __future__ import annotations

import copy
from collections.abc import Callable

import torch
from torch import Tensor, nn

from cosphere.models import Embedder
from cosphere.models.inference import evaluation_mode
from cosphere.norm_lens import gradient_lens, step_lens


def measure_lens(
    embedder: Embedder,
    loss: nn.Module,
    constraint: nn.Module,
    optimizer: torch.optim.Optimizer,
    inputs: Tensor,
    labels: Tensor,
    objective: Callable[[Tensor, Tensor], Tensor],
    *,
    clip_norm: float = 0.0,
) -> dict[str, float]:
    """Take one real optimiser step on a probe batch, measure how far each embedding turned, and undo the step.

    Costs three forward passes, one backward pass and one copy of model and optimiser state. Weights, buffers, optimiser state
    and random generators are restored.

    Args:
        embedder: the network.
        loss: the metric loss.
        constraint: SEC; its running radius is restored.
        optimizer: that of training; it takes the step.
        inputs: (B, 3, H, W) probe images.
        labels: (B,) their classes.
        objective: (raw embeddings, labels) -> the scalar that training minimises.
        clip_norm: length to which training cuts the gradient of all parameters together; 0 leaves it as it is.

    Returns:
        values by their `lens/...` keys of metrics.jsonl; those that cannot be measured, because there is no gradient, are left out.
    """
    modules = (embedder, loss, constraint)
    states = [copy.deepcopy(module.state_dict()) for module in modules]
    kept_optimizer = copy.deepcopy(optimizer.state_dict())
    devices = [inputs.device] if inputs.device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices):
        try:
            before = _embed(embedder, inputs)
            leaf = before.clone().requires_grad_()
            (gradient,) = torch.autograd.grad(loss(leaf, labels), leaf)
            optimizer.zero_grad(set_to_none=True)
            objective(embedder(inputs).float(), labels).backward()  # type: ignore[no-untyped-call]
            if clip_norm:
                parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
                nn.utils.clip_grad_norm_(parameters, clip_norm)
            optimizer.step()
            after = _embed(embedder, inputs)
        finally:
            optimizer.zero_grad(set_to_none=True)
            optimizer.load_state_dict(kept_optimizer)
            for module, state in zip(modules, states, strict=True):
                module.load_state_dict(state)
    of_gradient, of_step = gradient_lens(before, gradient), step_lens(before, after)
    values = {
        "lens/max_abs_gradient_cosine": of_gradient.max_abs_cosine,
        "lens/gradient_slope": of_gradient.slope,
        "lens/short_share": of_gradient.short_share,
        "lens/angle_slope": of_step.slope,
        "lens/angle_cv": of_step.cv,
        "lens/angle_mean": of_step.mean_angle,
    }
    return {name: value for name, value in values.items() if value is not None and value == value}


@torch.no_grad()
def _embed(embedder: Embedder, inputs: Tensor) -> Tensor:
    """Raw embeddings in evaluation mode, so that both passes use the same batch norm statistics."""
    with evaluation_mode(embedder):
        embeddings: Tensor = embedder(inputs)
    return embeddings.float()
