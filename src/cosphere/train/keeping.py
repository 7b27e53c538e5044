"""Saving a run: checkpoints and the bundle of the best model, never with weights that are not finite."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from cosphere.errors import DivergenceError, RunError
from cosphere.models import Embedder
from cosphere.runs import RunFolder, provenance
from cosphere.train.checkpoint import random_state, restore_random_state, save_checkpoint
from cosphere.train.state import RunState, Stateful


class Keeper:
    """Saves and restores everything that decides how a run continues.

    Args:
        folder: the run's folder.
        state: of the run; its values stand at the top level of a checkpoint.
        parts: what else has state, by its key in the checkpoint.
        about: what the checkpoint was made with; saved beside the state and compared on resuming.
        writes: whether this process writes; one process of a run does.
    """

    def __init__(
        self,
        folder: RunFolder,
        state: RunState,
        parts: Mapping[str, Stateful],
        about: Mapping[str, Any],
        *,
        writes: bool,
    ) -> None:
        self.folder, self.state, self.parts, self.about, self.writes = folder, state, parts, about, writes

    def save(self, name: str) -> None:
        """Write a checkpoint.

        Raises:
            DivergenceError: a weight is not finite; the old checkpoint stays.
            RunError: it cannot be written.
        """
        self.check_weights()
        if self.writes:
            states = {key: part.state_dict() for key, part in self.parts.items()}
            content = {**self.state.state_dict(), **self.about, **states, "random": random_state()}
            save_checkpoint(self.folder.checkpoints / name, content)

    def save_bundle(self, embedder: Embedder, made_from: Mapping[str, Any]) -> None:
        """Write the model with its provenance.

        Raises:
            DivergenceError: a weight is not finite; the old bundle stays.
            RunError: it cannot be written.
        """
        self.check_weights()
        if self.writes:
            own = embedder.provenance
            embedder.provenance = {
                **{name: own[name] for name in ("weights", "classes_before") if name in own},  # where training began
                **provenance(),
                "step": self.state.step,
                "validation": self.state.best["scores"],
                **made_from,
            }
            embedder.save(self.folder.model)

    def restore(self, saved: Mapping[str, Any], path: Path) -> None:
        """Continue from a checkpoint that :meth:`save` wrote, and drop the metrics of later steps.

        Raises:
            RunError: a part is missing or does not fit this run.
        """
        try:
            for key, part in self.parts.items():
                part.load_state_dict(saved[key])
            self.state.load_state_dict(saved)
            restore_random_state(saved["random"])
        except (KeyError, IndexError, TypeError, ValueError, AttributeError, RuntimeError) as error:
            raise RunError(
                f"{path} does not fit this run: {_first_line(error)}. Put back the checkpoint that the run wrote, or start a new "
                "run under another --name."
            ) from error
        if self.writes:
            self.folder.cut_metrics_after(self.state.step)

    def check_weights(self) -> None:
        """Reject weights that are not finite before they replace good ones.

        Raises:
            DivergenceError: a weight or buffer holds a value that is not finite.
        """
        modules = [part for part in self.parts.values() if isinstance(part, nn.Module)]
        values = [pair for module in modules for pair in module.state_dict().items() if pair[1].is_floating_point()]
        # One read-back from the device for all of them.
        finite = torch.stack([value.isfinite().all() for _, value in values]).tolist()
        broken = [key for (key, _), whole in zip(values, finite, strict=True) if not whole]
        if broken:
            raise DivergenceError(
                f"{broken[0]} holds values that are not finite after step {self.state.step}. Lower the rates or set "
                f"--optimizer.clip_norm 1. The last good checkpoint is kept in {self.folder.checkpoints}."
            )


def _first_line(error: Exception) -> str:
    """An error in one line; torch names the parameter in its second one. A KeyError's text is the bare key."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
    text = " ".join(lines[:2]).rstrip(".: ")
    return f"it has no {text}" if isinstance(error, KeyError) else text
