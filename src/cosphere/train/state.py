"""All that decides how a run goes on: taken from a training, and put back."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from cosphere.errors import RunError
from cosphere.fields import first_difference
from cosphere.train.checkpoint import random_state, restore_random_state
from cosphere.train.setup import set_backbone_trainable

if TYPE_CHECKING:
    from cosphere.train.loop import Training


def state_of(training: Training) -> dict[str, Any]:
    """Everything that decides how the run goes on."""
    scaler = training.accelerator.scaler
    return {
        "step": training.step,
        "seconds": training.seconds,
        "tree_epoch": training.tree_epoch,
        "best": training.best,
        "before": training.before,
        "stale": training.stale,
        "warned_of_sec": training.warned_of_sec,
        "settings": training.settings.as_dict(),
        "classes": training.train_images.class_names,
        "model": training.embedder.state_dict(),
        "loss": training.loss.state_dict(),
        "constraint": training.constraint.state_dict(),
        "optimizer": raw_optimizer(training.optimizer).state_dict(),
        "scaler": scaler.state_dict() if scaler is not None else {},
        "stream": training.stream.state_dict(),
        "random": random_state(),
    }


def restore(training: Training, state: dict[str, Any]) -> None:
    """Go on from what :func:`state_of` returned.

    Raises:
        RunError: the checkpoint was made with other settings or from other classes.
    """
    changed = first_difference(state["settings"], training.settings.step_identity())
    if changed:
        raise RunError(
            f"the checkpoint was made with {changed[0]} {changed[1]!r}, the settings now say {changed[2]!r}. "
            f"Put {training.run_folder.config} back as it was, or start a new run."
        )
    if state["classes"] != training.train_images.class_names:
        raise RunError(
            f"the checkpoint was trained on {len(state['classes'])} classes, the data now has {len(training.train_images.class_names)} "
            "or other names. Put the data back as it was, or start a new run."
        )
    training.embedder.load_state_dict(state["model"])
    training.loss.load_state_dict(state["loss"])
    training.constraint.load_state_dict(state["constraint"])
    raw_optimizer(training.optimizer).load_state_dict(state["optimizer"])
    if training.accelerator.scaler is not None:
        training.accelerator.scaler.load_state_dict(state["scaler"])
    training.stream.load_state_dict(state["stream"])
    training.step, training.seconds, training.best = state["step"], state["seconds"], state["best"]
    training.tree_epoch = state.get("tree_epoch", 0)  # absent in checkpoints of before 0.2
    training.before, training.stale, training.warned_of_sec = state["before"], state["stale"], state["warned_of_sec"]
    if training.settings.schedule.new_layers_steps:
        set_backbone_trainable(training.embedder, training.step >= training.settings.schedule.new_layers_steps)
    if training.accelerator.is_main_process:
        training.run_folder.cut_metrics_after(training.step)
    restore_random_state(state["random"])


def raw_optimizer(optimizer: Any) -> torch.optim.Optimizer:
    """The torch optimiser inside accelerate's wrapper."""
    inside: torch.optim.Optimizer = getattr(optimizer, "optimizer", optimizer)
    return inside
