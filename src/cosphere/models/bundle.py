"""A model on disk: a folder with ``model.safetensors`` (the weights) and ``bundle.json`` (everything else).

Two files cannot be replaced atomically. So the weights file carries a copy of the JSON in its header, and both carry the
same random mark. If the marks differ, a save was interrupted between the two files, and the header, which was written
together with the weights, is used. If they are equal, but not what embeddings and verdicts depend on, the JSON was changed or
damaged later, and the bundle is refused.
"""

from __future__ import annotations

import contextlib
import json
import secrets
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from cosphere._version import __version__
from cosphere.errors import CosphereError, RunError, WeightsError
from cosphere.fields import flatten
from cosphere.files import check_utf8, is_there, read_json, write_atomic, write_json
from cosphere.models.fingerprint import of_tensors
from cosphere.models.weights import fit_weights
from cosphere.runs import meant_run

FORMAT = 2
"""Incremented when an older Cosphere can no longer read what this one writes."""

_NAMES_OF_FORMAT_1 = ("pool.", "norm.", "linear.")
"""In format 1 the layers of the only kind of head belonged to the embedder itself."""

WEIGHTS, DESCRIPTION = "model.safetensors", "bundle.json"
_DECISIVE = ("format", "digest", "settings", "preprocessing", "calibration")
"""What embeddings and verdicts depend on. The rest may be edited, say to publish a model without its author's paths."""
_ABSENT = object()
_LONGEST_SHOWN = 60
"""Characters of a wrong value in an error."""


class ToBeFilled(TorchFunctionMode):
    """Context manager, of this thread: networks that are built inside get zeros where ``torch.nn.init`` would draw numbers.

    Drawing them takes much of the time of building a network, and :meth:`Bundle.fill` replaces every one. Zeros, because fresh
    memory may hold denormal numbers, with which processors compute slowly. Layers that fill their weights in another way keep
    their values.
    """

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Of torch: called for each of its functions."""
        if getattr(func, "__module__", None) != "torch.nn.init":
            return func(*args, **(kwargs or {}))
        with torch.no_grad():
            return (args[0] if args else kwargs["tensor"]).zero_()


@dataclass(frozen=True)
class Bundle:
    """A bundle on disk: its description and the path of its weights."""

    path: Path
    content: dict[str, Any]

    @contextlib.contextmanager
    def explained(self) -> Iterator[None]:
        """Context manager: turns every error that a wrong description can cause into one RunError."""
        try:
            yield
        except (CosphereError, KeyError, TypeError, ValueError, AttributeError) as error:
            reason = f"{error.args[0]} is missing" if isinstance(error, KeyError) else str(error).rstrip(".")
            raise RunError(
                f"{self.path / DESCRIPTION} does not describe a model that this Cosphere can make ({reason}). "
                f"It was written by Cosphere {_version(self.content)}; use that one, or save it again."
            ) from error

    def section(self, name: str, *, needed: bool = True) -> dict[str, Any]:
        """One part of the description, such as "settings".

        Args:
            name: its key.
            needed: False gives an empty one where it is missing or null.

        Raises:
            RunError: it is missing, or something else than names with values.
        """
        part = self.content.get(name)
        if isinstance(part, dict):
            return dict(part)
        if part is None and not needed:
            return {}
        state = f"is {_shown(part)}" if name in self.content else "is missing"
        raise RunError(f"{name} {state}; wanted names with values")

    def tensors(self, prefix: str = "") -> dict[str, Tensor]:
        """The weights whose names begin with ``prefix``, without it.

        Raises:
            WeightsError: the file is damaged, or holds NaN or infinity.
        """
        from safetensors.torch import load_file

        file = self.path / WEIGHTS
        try:
            tensors = load_file(file)
        except Exception as error:
            raise WeightsError(f"{file} is damaged ({error}). Copy it again from where it was trained.") from error
        digest = self.content.get("digest")
        if digest is not None and digest != of_tensors(tensors):
            raise WeightsError(
                f"{file} is damaged: its weights are not those that {DESCRIPTION} describes. "
                "Copy the whole folder again from where it was trained."
            )
        broken = next((name for name, value in tensors.items() if not bool(value.isfinite().all())), None)
        if broken is not None:  # infinite statistics of batch norm would give every image one finite embedding
            raise WeightsError(
                f"{broken} in {file} holds NaN or infinity: the training of the model diverged, or the file was changed. "
                "Take an earlier checkpoint, or train again with a lower learning rate."
            )
        if self.content["format"] == 1:
            tensors = {
                f"head.{name}" if name.startswith(_NAMES_OF_FORMAT_1) else name: tensors[name] for name in tensors
            }
        return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}

    def fill(self, model: nn.Module, name: str) -> None:
        """Load the weights into ``model``, whose names must match exactly. Errors call it ``name``.

        Raises:
            WeightsError: the file is damaged, or the weights do not fit.
        """
        fit_weights(model, self.tensors(), source=str(self.path / WEIGHTS), name=name)


def write(path: Path, *, tensors: Mapping[str, Tensor], content: Mapping[str, Any]) -> None:
    """Write a bundle, replacing an existing one. ``content`` must consist of plain values for JSON.

    Raises:
        RunError: the folder cannot be written, its name is not UTF-8, or the disk is full; an old bundle there still loads.
    """
    check_utf8(path)
    description = {
        "format": FORMAT,
        "cosphere": __version__,
        "mark": secrets.token_hex(8),
        "digest": of_tensors(tensors),
        **content,
    }
    header = json.dumps(
        description, allow_nan=False
    )  # fails here, before any byte is written, on values that JSON cannot hold
    write_atomic(path / WEIGHTS, lambda part: _write_weights(part, tensors, header))
    write_json(path / DESCRIPTION, description)


def read(path: Path) -> Bundle:
    """Find the bundle in a folder, or in the ``model`` folder of a run.

    Raises:
        RunError: there is no bundle, its path is not UTF-8, it is damaged or was changed after it was saved, or its format is newer
            than this Cosphere.
    """
    check_utf8(path)
    if not is_there(path / DESCRIPTION) and is_there(path / "model" / DESCRIPTION):
        path = path / "model"
    if not path.is_dir():
        check_no_part(path)
        advice = meant_run(path) or f"Give a run, or a folder with {DESCRIPTION} and {WEIGHTS}."
        raise RunError(f"there is no model bundle at {path}. {advice}")
    if not is_there(path / DESCRIPTION) and (meant := meant_run(path)):
        raise RunError(f"{path} is not a model bundle. {meant}")
    content = read_json(path / DESCRIPTION, what="a model bundle")
    if not (path / WEIGHTS).is_file():
        raise RunError(f"{path} has no {WEIGHTS}, so the bundle is incomplete. Copy the whole folder again.")
    if not isinstance(content, dict) or not isinstance(content.get("format"), int):
        raise RunError(
            f"{path / DESCRIPTION} is not a Cosphere bundle: it names no format. Save one with Embedder.save."
        )
    written_with_weights = _header(path / WEIGHTS)
    if written_with_weights.get("mark", content.get("mark")) != content.get("mark"):
        content = written_with_weights
    if not 1 <= content["format"] <= FORMAT:
        raise RunError(
            f"{path} has bundle format {content['format']}, written by Cosphere {_version(content)}; "
            f"this one reads formats 1 to {FORMAT}. Update your clone of Cosphere, then run: pip install -e ."
        )
    _check_unchanged(path, content, written_with_weights)
    return Bundle(path, content)


def trained_classes(provenance: Any) -> frozenset[str]:
    """Labels of the classes that a model was trained on, and those of the model whose weights it began with; empty where it does not say.

    Args:
        provenance: of a bundle or :attr:`cosphere.models.Embedder.provenance`.
    """
    origin = provenance if isinstance(provenance, Mapping) else {}
    data = origin.get("data")
    own = data.get("classes") if isinstance(data, Mapping) else None
    return frozenset(map(str, [*(own or ()), *(origin.get("classes_before") or ())]))


def _decisive(content: Mapping[str, Any]) -> dict[str, Any]:
    """What embeddings and verdicts depend on, by dotted name."""
    values = flatten({key: content.get(key) for key in _DECISIVE})
    values.pop("settings.weights", None)  # where the first weights came from, often a path
    return values


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= _LONGEST_SHOWN else f"{text[:_LONGEST_SHOWN]}..."


def _check_unchanged(path: Path, content: Mapping[str, Any], saved: Mapping[str, Any]) -> None:
    """Raise unless the description is what was saved with the weights; nothing where they carry none.

    Raises:
        RunError: another value; it is named, with both.
    """
    if not saved:
        return
    now, then = _decisive(content), _decisive(saved)
    name = next((name for name in then | now if now.get(name, _ABSENT) != then.get(name, _ABSENT)), None)
    if name is None:
        return
    here, before = (_shown(source[name]) if name in source else "missing" for source in (now, then))
    raise RunError(
        f"{path / DESCRIPTION} was changed after it was saved: {name} is {here} there, and {before} in the copy that {WEIGHTS} "
        "carries. Copy the whole folder again from where it was saved; to change a model on purpose, load it, change it and save it."
    )


def check_no_part(path: Path) -> None:
    """Raise for a file of a run or bundle, where the folder is wanted; nothing for other paths.

    Raises:
        RunError: the file belongs to one; the message names its folder.
    """
    around = path.parent
    if around.name in ("model", "checkpoints") and is_there(around.parent / "run.json"):
        whole, around = "run", around.parent
    elif path.name in (WEIGHTS, DESCRIPTION) and is_there(around / DESCRIPTION):
        whole = "bundle"
    else:
        return
    raise RunError(f"{path} is a file of a {whole}; wanted the folder. Give {around}.")


def _write_weights(part: Path, tensors: Mapping[str, Tensor], header: str) -> None:
    from safetensors.torch import save_file

    seen: set[int] = set()
    whole: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        copy = tensor.detach().cpu().contiguous()  # safetensors does not store channels-last
        # A tensor shared by several layers is written once for each: safetensors refuses shared memory.
        whole[name] = copy.clone() if copy.untyped_storage().data_ptr() in seen else copy
        seen.add(copy.untyped_storage().data_ptr())
    save_file(whole, part, metadata={"cosphere": header})


def _version(content: Mapping[str, Any]) -> str:
    return str(content.get("cosphere", "of unknown version"))


def _header(file: Path) -> dict[str, Any]:
    """The description in the header of the weights file; empty if there is none."""
    from safetensors import safe_open

    try:
        with safe_open(file, framework="pt") as weights:
            header = json.loads((weights.metadata() or {}).get("cosphere", "{}"))
    except Exception as error:
        raise WeightsError(f"{file} is damaged ({error}). Copy it again from where it was trained.") from error
    return header if isinstance(header, dict) else {}
