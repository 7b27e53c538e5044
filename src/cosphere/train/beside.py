"""The blocks of a recipe and of `config.yaml` that stand beside the training settings."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cosphere.errors import SettingsError
from cosphere.files import path_of, read_yaml

BESIDE = ("about", "evaluation")
"""Blocks of a recipe and of `config.yaml` beside the training settings."""


def read_beside(path: str | Path, block: str) -> dict[str, Any]:
    """One of the blocks :data:`BESIDE` the settings of a recipe or `config.yaml`; empty when it is not there.

    Raises:
        RunError: the file is missing, unreadable or not YAML.
        SettingsError: the block is not a mapping.
    """
    content = read_yaml(path_of(path), what="settings").get(block) or {}
    if not isinstance(content, Mapping):
        raise SettingsError(f"{path}: {block} is {content!r}; wanted names with values.")
    return dict(content)
