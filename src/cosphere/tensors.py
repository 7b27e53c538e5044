"""What every numeric room shares: lengths and directions that survive zero rows and half precision, shape checks."""

from __future__ import annotations

import functools
import importlib
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any, NamedTuple, TypeVar, cast

import torch
from torch import Tensor

from cosphere.checks import SHORTEST as SHORTEST  # re-exported; programs without torch import it from there
from cosphere.errors import SizeError


def full_precision(values: Tensor) -> Tensor:
    """The same values in at least float32: float16 and bfloat16 are widened, float32 and float64 pass unchanged."""
    return values.float() if values.dtype in (torch.float16, torch.bfloat16) else values


def outside_autocast(values: Tensor) -> AbstractContextManager[object]:
    """A block in which autocast is off on the device of ``values``.

    Lengths, similarities and losses need it: autocast would round float32 rows to bfloat16 in their matrix product.
    """
    kind = values.device.type
    # Entering autocast costs microseconds, which is much beside a small loss.
    return torch.autocast(kind, enabled=False) if torch.is_autocast_enabled(kind) else nullcontext()


def own_generator() -> torch.Generator:
    """A generator beside the global one, also in a process that left parts of torch out (`cosphere.cli.torch_part`)."""
    try:
        return torch.Generator()
    except RuntimeError:  # the type is finished by this part, which torch's error names
        importlib.import_module("torch._prims.rng_prims")
        return torch.Generator()


Function = TypeVar("Function", bound=Callable[..., Any])


def outside_compile(function: Function) -> Function:
    """Decorator: ``torch.compile`` runs the function uncompiled and compiles the code around it.

    Code that loops over blocks of data-dependent size and takes gradients inside cannot be one graph.
    """
    disabled: Callable[..., Any] | None = None

    @functools.wraps(function)
    def call(*arguments: Any, **named: Any) -> Any:
        nonlocal disabled
        # torch.compiler.disable imports the compiler, which takes over a second: not before somebody has imported it to compile.
        if "torch._dynamo" not in sys.modules:
            return function(*arguments, **named)
        if disabled is None:
            disabled = torch.compiler.disable(function)  # type: ignore[no-untyped-call,unused-ignore]
        return disabled(*arguments, **named)

    return cast(Function, call)


def lengths(embeddings: Tensor) -> Tensor:
    """Euclidean length of each row, computed in at least float32. (B, D) -> (B,).

    The gradient at a zero row is zero, not NaN.
    """
    norms: Tensor = torch.linalg.vector_norm(full_precision(embeddings), dim=-1)
    return norms


def exact_lengths(embeddings: Tensor) -> Tensor:
    """:func:`lengths` for statistics: (B,) float64 on the CPU, without gradients, finite for every finite row of float32.

    There the square of a number from 1e19 on overflows; such rows are measured again in float64.
    """
    rows = embeddings.detach()
    norms = lengths(rows).cpu().double()
    overflowed = norms.isinf()
    if bool(overflowed.any()):
        norms[overflowed] = torch.linalg.vector_norm(rows.cpu()[overflowed].double(), dim=-1)
    return norms


def length_histogram(embeddings: Tensor, bins: int = 30) -> dict[str, Any]:
    """How the lengths spread, as plain values for a log.

    Args:
        embeddings: (B, D) float, at least one row.
        bins: of equal width, from the shortest to the longest.

    Returns:
        ``low`` and ``high``, the shortest and the longest, and ``shares``, a list of ``bins`` shares of the rows that add up to 1.
        Rows that are not finite are left out; without any other row, the shares are empty.

    Raises:
        SizeError: ``embeddings`` is not (B, D) of a floating type.

    >>> length_histogram(torch.tensor([[3.0, 4.0], [0.0, 1.0]]), bins=2)
    {'low': 1.0, 'high': 5.0, 'shares': [0.5, 0.5]}
    """
    check_embeddings(embeddings)
    norms = exact_lengths(embeddings)
    norms = norms[norms.isfinite()]
    if not len(norms):
        return {"low": 0.0, "high": 0.0, "shares": []}
    low, high = float(norms.min()), float(norms.max())
    places = ((norms - low) / ((high - low) or 1.0) * bins).long().clamp(max=bins - 1)
    counts = torch.bincount(places, minlength=bins)
    return {"low": low, "high": high, "shares": (counts / len(norms)).tolist()}


class Directions(NamedTuple):
    """Rows of unit length, and which of them are real."""

    unit: Tensor
    """(B, D) float32 or float64. A row without a direction is all zeros and passes no gradient."""
    alive: Tensor
    """(B,) bool. False where the embedding was shorter than :data:`cosphere.checks.SHORTEST`."""


def directions(embeddings: Tensor) -> Directions:
    """Each row divided by its length, in at least float32. Rows without a direction become zeros and are marked.

    >>> directions(torch.tensor([[3.0, 4.0], [0.0, 0.0]])).unit
    tensor([[0.6000, 0.8000],
            [0.0000, 0.0000]])
    """
    rows = full_precision(embeddings)
    unit, alive, too_long = _Directions.apply(rows)
    if too_long is None:
        return Directions(unit, alive)
    # Their squares overflow, as float32's do from 1e19 on. A direction is that of any multiple.
    return directions(rows / torch.where(too_long, rows.detach().abs().amax(dim=-1, keepdim=True), 1.0))


class _Directions(torch.autograd.Function):
    """Few passes over the rows, as every loss begins with this."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
        norms = torch.linalg.vector_norm(rows, dim=-1, keepdim=True)
        alive = norms > SHORTEST
        # Where there is no direction the inverse is 0, and a product with a finite row is too.
        inverse = torch.where(alive, norms, torch.inf).reciprocal_()
        unit, too_long = rows * inverse, None
        if not bool((inverse > 0).all()):
            unit = torch.where(alive, unit, 0.0)  # rows of NaN
            overflowed = (norms == torch.inf) & rows.isfinite().all(dim=-1, keepdim=True)
            too_long = overflowed if bool(overflowed.any()) else None
        flags = alive.squeeze(-1)
        ctx.mark_non_differentiable(flags, *([] if too_long is None else [too_long]))
        ctx.save_for_backward(unit, inverse, rows)
        return unit, flags, too_long

    @staticmethod
    def backward(ctx: Any, gradient: Tensor, *_: Tensor) -> Tensor:
        unit, inverse, rows = ctx.saved_tensors
        with outside_autocast(gradient):  # which is on where a script calls backward inside its block
            if torch.is_grad_enabled():  # to be differentiated again, so along the rows that they came from
                norms = torch.linalg.vector_norm(rows, dim=-1, keepdim=True)
                inverse = torch.where(inverse > 0, 1 / torch.where(inverse > 0, norms, 1.0), 0.0)
                unit = rows * inverse
            along = torch.linalg.vecdot(gradient, unit).unsqueeze(-1)
            return torch.addcmul(gradient, along, unit, value=-1).mul_(inverse)


def check_embeddings(embeddings: Tensor, *, name: str = "embeddings") -> None:
    """Raise unless ``embeddings`` is (B, D) of a floating type."""
    check_tensor(name, embeddings)
    if embeddings.ndim != 2:
        raise SizeError(
            f"want {name} (B, D), got {tuple(embeddings.shape)}. "
            "A convolutional feature map needs pooling first: see cosphere.models.heads."
        )
    if not embeddings.is_floating_point():
        raise SizeError(f"want {name} of a floating type, got {embeddings.dtype}. Call .float() first.")


def check_tensor(name: str, value: object) -> None:
    """Raise unless ``value`` is a tensor: numpy arrays and lists are the usual slip."""
    if not isinstance(value, Tensor):
        raise SizeError(f"want {name} as a tensor, got {type(value).__name__}. Call torch.as_tensor({name}) first.")
    if value.layout != torch.strided:
        raise SizeError(f"want {name} as a dense tensor, got one of layout {value.layout}. Call .to_dense() first.")


def is_integral(values: Tensor) -> bool:
    """Whether the type is one of the integers, which bool is not."""
    return not (values.is_floating_point() or values.is_complex() or values.dtype == torch.bool)


def check_labelled(embeddings: Tensor, labels: Tensor, *, name: str = "embeddings") -> None:
    """Raise unless ``embeddings`` is (B, D) floating and ``labels`` (B,) integers on the same device."""
    check_embeddings(embeddings, name=name)
    check_tensor("labels", labels)
    if labels.shape != embeddings.shape[:1]:
        raise SizeError(
            f"want {name} (B, D) with labels (B,), got {tuple(embeddings.shape)} and {tuple(labels.shape)}. "
            "Give one label for each row."
        )
    if not is_integral(labels):
        raise SizeError(f"want integer labels, got {labels.dtype}. Call .long() if they are whole numbers.")
    if labels.device != embeddings.device:
        raise SizeError(f"{name} are on {embeddings.device}, labels on {labels.device}. Move one with .to(device).")


def gather_rows(rows: Tensor) -> Tensor:
    """The rows of all processes, one process after another, with gradients back to every one of them.

    A loss over the gathered rows is the loss of the whole batch, the same in each process; the gradient that comes back to
    each is summed over the processes, so DistributedDataParallel's mean makes it the gradient of that one loss.

    Args:
        rows: (B, ...) the same shape in every process.

    Returns:
        (W B, ...) for W processes; ``rows`` itself where there is only one.

    Raises:
        SizeError: the processes hold different shapes.
    """
    if not several_processes():
        return rows
    _check_equal_shapes(rows)
    gathered: Tensor = _Gather.apply(rows)
    return gathered


def fewest_anywhere(count: int, device: torch.device) -> int:
    """The smallest count of all processes, for steps that all of them take or leave out. All processes must call it.

    Args:
        count: of this process, >= 0.
        device: of this process, over which it talks to the others.

    Returns:
        The same number in every process; ``count`` itself where there is only one.
    """
    if not several_processes():
        return count
    smallest = torch.tensor(count, device=device)
    torch.distributed.all_reduce(smallest, torch.distributed.ReduceOp.MIN)
    return int(smallest)


def total_everywhere(values: Tensor) -> tuple[Tensor, Tensor]:
    """Sum and number of values over all processes, without gradient. All processes must call it.

    Args:
        values: (B,) float of this process, B may differ.

    Returns:
        () and (), of the type of the values; those of this process where there is only one.
    """
    sums = torch.stack([values.detach().sum(), values.new_tensor(float(len(values)))])
    if several_processes():
        torch.distributed.all_reduce(sums)
    total, count = sums.unbind()
    return total, count


def mean_everywhere(values: Tensor) -> Tensor:
    """Mean of (B,) values over all processes, (), without gradient. All processes must call it."""
    if not several_processes():
        return values.detach().mean()
    total, count = total_everywhere(values)
    return total / count.clamp(min=1)


def several_processes() -> bool:
    """Whether torch.distributed runs with more than one process."""
    distributed = torch.distributed
    return distributed.is_available() and distributed.is_initialized() and distributed.get_world_size() > 1


def _check_equal_shapes(rows: Tensor) -> None:
    """Raise in every process if the shapes differ: a collective call would hang or crash otherwise."""
    shapes: list[Any] = [None] * torch.distributed.get_world_size()
    torch.distributed.all_gather_object(shapes, tuple(rows.shape))
    if len(set(shapes)) > 1:
        raise SizeError(
            f"want equal batches in all processes, got {shapes}. Use a sampler that drops the last short batch."
        )


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, rows: Tensor) -> Tensor:
        parts = [torch.empty_like(rows) for _ in range(torch.distributed.get_world_size())]
        torch.distributed.all_gather(parts, rows.contiguous())
        return torch.cat(parts)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        gradient = gradient.contiguous().clone()
        torch.distributed.all_reduce(gradient)
        return gradient.chunk(torch.distributed.get_world_size())[torch.distributed.get_rank()]
