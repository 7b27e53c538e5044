"""A pretended second device: tensors that say they are elsewhere and compute on the CPU, so that device mistakes show without a GPU.

Inside :func:`second_device`, mixing the two devices raises as CUDA does, ``.numpy()`` without ``.cpu()`` fails, and every read back
to the host is counted by the line of Cosphere that caused it: each of them makes a real GPU wait.
"""

from __future__ import annotations

import contextlib
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_map

aten = torch.ops.aten

DEVICE = torch.device("meta")
"""The device that is pretended: one that this PyTorch has, without a driver, so that autograd runs."""

READS = {
    "aten::_local_scalar_dense",  # .item(), bool(), float(), int()
    "aten::nonzero",
    "aten::masked_select",
    "aten::equal",
    "aten::bincount",
    "aten::_unique",
    "aten::_unique2",
    "aten::unique_dim",
    "aten::unique_consecutive",
    "aten::is_nonzero",
}
"""What always reads back; :func:`_reads_back` adds what does so for some arguments only."""
COPIES = {"aten::_to_copy", "aten::copy_"}
TAKES_HOST_INDICES = {"aten::index", "aten::index_put", "aten::index_put_", "aten::_index_put_impl_"}


class MixedDevices(RuntimeError):
    """Tensors of both devices met in one operation."""


class Remote(torch.Tensor):
    """A tensor that says it is on :data:`DEVICE`."""

    inner: Tensor

    @staticmethod
    def __new__(cls, inner: Tensor) -> Remote:
        made: Remote = torch.Tensor._make_wrapper_subclass(  # type: ignore[attr-defined]
            cls,
            inner.size(),
            strides=inner.stride(),
            storage_offset=inner.storage_offset(),
            dtype=inner.dtype,
            layout=inner.layout,
            device=DEVICE,
        )
        made.inner = inner
        return made

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _run(func, args, kwargs or {}, None)

    def tolist(self) -> Any:
        """PyTorch refuses this for every subclass; a real device copies first."""
        return self.cpu().tolist()

    def __repr__(self, **_: Any) -> str:
        return f"Remote({self.inner!r})"


class _Device(TorchDispatchMode):
    """Sends what is made with ``device=DEVICE`` there as well, and counts."""

    def __init__(self) -> None:
        super().__init__()
        self.reads: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _run(func, args, kwargs or {}, self.reads)


def _reads_back(name: str, args: Any, kwargs: dict[str, Any]) -> bool:
    """Whether the host waits for the result of an operation on the device."""
    if name in READS:
        return True
    if name == "aten::repeat_interleave":
        return kwargs.get("output_size") is None
    if name == "aten::_to_copy":
        return isinstance(args[0], Remote) and "device" in kwargs and not _is_there(kwargs["device"])
    if name == "aten::copy_":
        return isinstance(args[1], Remote) and not isinstance(args[0], Remote)
    if name in TAKES_HOST_INDICES:
        masks = [index for index in args[1] if isinstance(index, Remote) and index.dtype in (torch.bool, torch.uint8)]
        # One number for all places is filled in without counting them.
        return bool(masks) and not (name != "aten::index" and args[2].numel() == 1)
    return False


def _is_there(device: Any) -> bool:
    return device is not None and torch.device(device).type == DEVICE.type


def _check(name: str, func: Any, args: Any, kwargs: dict[str, Any]) -> None:
    """Raise where CUDA would."""
    tensors = [leaf for leaf in tree_flatten((args, kwargs))[0] if isinstance(leaf, Tensor)]
    here = [tensor for tensor in tensors if not isinstance(tensor, Remote)]
    there = len(here) < len(tensors)
    if there and name not in COPIES:
        bad = [tensor for tensor in here if tensor.ndim]
        if name in TAKES_HOST_INDICES and isinstance(args[0], Remote):
            bad = [
                tensor
                for tensor in args[2:3]
                if isinstance(tensor, Tensor) and not isinstance(tensor, Remote) and tensor.ndim
            ]
        if bad or (func._schema.is_mutable and not isinstance(args[0], Remote) and "out" not in kwargs):
            raise MixedDevices(
                f"{name}: tensors on {DEVICE} and on cpu, shapes {[tuple(one.shape) for one in tensors]}"
            )
    generator = kwargs.get("generator")
    if generator is not None and (there or _is_there(kwargs.get("device"))) and generator.device.type == "cpu":
        raise MixedDevices(f"{name}: a generator of the cpu for a tensor on {DEVICE}")


def _run(func: Any, args: Any, kwargs: dict[str, Any], reads: Counter[str] | None) -> Any:
    name = func._schema.name
    _check(name, func, args, kwargs)
    there = any(isinstance(leaf, Remote) for leaf in tree_flatten((args, kwargs))[0])
    if there and reads is not None and _reads_back(name, args, kwargs):
        reads[_line()] += 1
    inner_args, inner_kwargs = tree_map(lambda leaf: leaf.inner if isinstance(leaf, Remote) else leaf, (args, kwargs))
    if kwargs.get("device") is not None:
        there = _is_there(kwargs["device"])
        inner_kwargs["device"] = torch.device("cpu")
    inner_kwargs.pop("pin_memory", None)
    result = func(*inner_args, **inner_kwargs)
    if name == "aten::copy_" or (name.endswith("_") and not name.endswith("__")):
        return args[0]
    if "out" in kwargs:
        return kwargs["out"]
    return tree_map(lambda leaf: Remote(leaf) if there and isinstance(leaf, Tensor) else leaf, result)


def _line() -> str:
    """The innermost line of Cosphere in the stack."""
    frame = sys._getframe()
    while frame is not None:
        path = frame.f_code.co_filename
        if "/cosphere/" in path and "/site-packages/" not in path:
            return f"{path.rpartition('/cosphere/')[2]}:{frame.f_lineno}"
        frame = frame.f_back  # type: ignore[assignment]
    return "outside of cosphere"


@contextlib.contextmanager
def second_device() -> Iterator[Counter[str]]:
    """A block in which :data:`DEVICE` is a working second device.

    Yields:
        Reads back to the host by line, counted as they happen.
    """
    enabled, autocast = torch.is_autocast_enabled, torch.autocast
    tensor, as_tensor = torch.tensor, torch.as_tensor

    def made_there(make: Callable[..., Tensor]) -> Callable[..., Tensor]:
        """The real ones would leave this device type without numbers."""

        def wrapper(data: Any, *, device: Any = None, **kwargs: Any) -> Tensor:
            return make(data, **kwargs).to(DEVICE) if _is_there(device) else make(data, device=device, **kwargs)

        return wrapper

    def is_enabled(kind: str = "cuda") -> bool:
        return kind != DEVICE.type and enabled(kind)

    class Autocast(autocast):  # type: ignore[valid-type,misc]
        """The real one refuses this device type; nothing here is run in half precision."""

        def __new__(cls, kind: str, *args: Any, **kwargs: Any) -> Any:
            return contextlib.nullcontext() if kind == DEVICE.type else autocast(kind, *args, **kwargs)

    torch.is_autocast_enabled, torch.autocast = is_enabled, Autocast  # type: ignore[assignment,misc]
    torch.tensor, torch.as_tensor = made_there(tensor), made_there(as_tensor)
    try:
        with _Device() as device:
            yield device.reads
    finally:
        torch.is_autocast_enabled, torch.autocast = enabled, autocast  # type: ignore[misc]
        torch.tensor, torch.as_tensor = tensor, as_tensor


def sent(value: Any) -> Any:
    """A tensor, or a module with all that it holds, on the second device. Inside :func:`second_device` only."""
    return value.to(DEVICE) if isinstance(value, (Tensor, nn.Module)) else value
