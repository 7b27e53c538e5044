"""The quick form of a model: what :meth:`cosphere.models.Embedder.encode` computes many images with on a CPU.

    batch (B, 3, H, W) -> parts that fit the caches -> a copy with batch norm folded -> rows (B, D')

The rows are those of the plain network up to rounding, which the first part shows before anything is used. The copy is made again
after the weights have changed.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import cast

import torch
from torch import Tensor, nn

from cosphere.errors import DivergenceError, counted
from cosphere.models.fingerprint import location
from cosphere.models.folding import can_pack, folded, observe
from cosphere.models.inference import EmbedsInputs, infer

MANY = 512
"""Images of a call from which on the quick form is worth preparing, which takes as long as embedding about 100."""
TOLERANCE = 1e-4
"""Largest distance between a row of the quick form and of the plain network, in units of the row's length: 1e-8 of cosine."""
_LARGEST = 30 * 2**20
"""Bytes of the largest tensor in a part. The C library asks the system for blocks above 32 MiB each time, page by page, and smaller
parts spend more of their time in calls."""
_MOST_IN_PART = 64
_SAMPLE = 16
"""Images that are embedded both ways and timed."""
_memory = {"kept": False}
_MOST_FORMS = 4
_LESS_EXACT = 2.0
"""With autocast, rows of the quick form may lie this many times as far from those of float32 as the plain network's do."""
_SLOWER = 1.05
"""The plain network is kept where the quick form takes this many times its time. Noise alone does not reach that."""

log = logging.getLogger(__name__)

Forward = Callable[[Tensor], Tensor]


def expect_kept_memory() -> None:
    """Note that the C library keeps freed memory in this process: parts may then be large, so that threads wait less for each other."""
    _memory["kept"] = True


@dataclass(frozen=True)
class Form:
    """How a model computes.

    Attributes:
        network: the model itself, or a copy with batch norm folded.
        part: number of images in one forward pass.
        note: one sentence for a reader of the results; empty where the network is the plain one.
    """

    network: nn.Module
    part: int
    note: str = ""


class QuickForms:
    """The quick forms of one model, each for a size of input; safe for several threads. A copy of it starts empty."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._state: object = None
        self._forms: dict[tuple[object, ...], Form] = {}
        self.note = ""

    def __reduce__(self) -> tuple[type[QuickForms], tuple[()]]:
        return QuickForms, ()

    def clear(self) -> None:
        """Free the copies."""
        with self._lock:
            self._state, self._forms, self.note = None, {}, ""

    def forward(self, model: nn.Module, autocast: torch.dtype | None = None) -> Forward:
        """A function that embeds a batch as :func:`infer` does, in the quick form of the model's present weights."""
        if any(tensor.device.type != "cpu" for tensor in model.parameters()):
            return partial(_rows, model, autocast=autocast)
        state = _state(model)

        def embed(inputs: Tensor) -> Tensor:
            if inputs.ndim != 4 or not len(inputs):
                return _rows(model, inputs, autocast=autocast)
            inputs = inputs.contiguous(memory_format=torch.channels_last)
            form = self._form(model, state, inputs, autocast)
            passes = -(-len(inputs) // form.part)
            parts = torch.split(inputs, -(-len(inputs) // passes))  # of one size, but for the last
            try:
                return torch.cat([_rows(form.network, part, autocast=autocast) for part in parts])
            except DivergenceError:  # the plain network knows why
                return _rows(model, inputs, autocast=autocast)

        return embed

    def _form(self, model: nn.Module, state: object, inputs: Tensor, autocast: torch.dtype | None) -> Form:
        key = (inputs.shape[2:], inputs.dtype, autocast)
        with self._lock:
            if state != self._state:
                self._state, self._forms, self.note = state, {}, ""
            if key not in self._forms:
                if len(self._forms) == _MOST_FORMS:
                    del self._forms[next(iter(self._forms))]
                self._forms[key] = _prepared(model, inputs, autocast)
                self.note = self._forms[key].note
            return self._forms[key]


@torch.inference_mode()
def _prepared(model: nn.Module, inputs: Tensor, autocast: torch.dtype | None) -> Form:
    """The quicker of a model and its folded copy."""
    first = inputs[:1]
    plain_rows = cast("EmbedsInputs", model).embed_inputs  # not infer: the observation is outside of inference mode
    seen = observe(model, lambda: plain_rows(first.clone()))
    largest = seen.largest * (autocast or torch.float32).itemsize // torch.float32.itemsize
    part = _MOST_IN_PART if _memory["kept"] else max(1, min(_MOST_IN_PART, _LARGEST // max(1, largest)))
    plain = Form(model, part)
    if not seen.chains or any(weight.dtype != torch.float32 for weight in model.parameters()):
        return plain
    sample = inputs[: min(part, _SAMPLE)]
    try:
        exact = _rows(model, sample)
        quick = folded(model, seen.chains, packed=autocast is None and can_pack())
        # First without autocast, whose rounding would hide an error.
        if not _distance(_rows(quick, sample), exact) <= TOLERANCE:
            return plain
        if autocast is not None and can_pack(autocast):
            quick = folded(model, seen.chains, packed=True, dtype=autocast)
        distance = _distance(_rows(quick, sample, autocast), exact)
        allowed = TOLERANCE if autocast is None else _LESS_EXACT * _distance(_rows(model, sample, autocast), exact)
    except Exception:  # a network may read what was folded away, and a build of torch may lack a kernel
        log.info("the plain network is used", exc_info=True)
        return plain
    if not distance <= allowed:
        return plain
    taken, taken_plain = _seconds([quick, model], sample, autocast)
    if taken > _SLOWER * taken_plain:
        return plain
    how, those = (
        ("", "") if autocast is None else (f" in {str(autocast).removeprefix('torch.')}", "those of float32 to ")
    )
    note = (
        f"batch norm is folded into {counted(len(seen.chains), 'convolution')}, {part} images at a time: {taken_plain / taken:.1f} "
        f"times as fast as the plain network{how}, embeddings equal to {those}{distance:.0e} of their length"
    )
    return Form(quick, part, note)


def _rows(model: nn.Module, inputs: Tensor, autocast: torch.dtype | None = None) -> Tensor:
    return infer(cast("EmbedsInputs", model), inputs, autocast=autocast, part=len(inputs))


def _distance(rows: Tensor, wanted: Tensor) -> float:
    """Largest distance of two rows, in units of the wanted row's length; NaN if a number is not finite."""
    gaps, lengths = (rows - wanted).norm(dim=1), wanted.norm(dim=1)
    return float((gaps / lengths.clamp_min(torch.finfo(torch.float32).tiny)).max())


def _seconds(networks: list[nn.Module], sample: Tensor, autocast: torch.dtype | None, rounds: int = 3) -> list[float]:
    """Least processor time of one forward pass in this thread: other work on the machine does not count in it."""
    least = [float("inf")] * len(networks)
    for _ in range(rounds):
        for place, network in enumerate(networks):
            began = time.thread_time()
            _rows(network, sample, autocast=autocast)
            least[place] = min(least[place], time.thread_time() - began)
    return least


def _state(model: nn.Module) -> object:
    """What tells other weights: where each tensor lies, how often it was modified, and the sum of its bits, for writing by other ways."""
    tensors = model.state_dict(keep_vars=True)
    facts = [(name, tensor.dtype, tuple(tensor.shape), *location(tensor)) for name, tensor in tensors.items()]
    with torch.inference_mode():
        sums = [_bits(tensor).sum(dtype=torch.int64) for tensor in tensors.values()]
        return facts, torch.stack([one.cpu() for one in sums]).tolist() if sums else []


def _bits(tensor: Tensor) -> Tensor:
    whole = {2: torch.int16, 4: torch.int32, 8: torch.int64}.get(tensor.element_size(), torch.uint8)
    return tensor.detach().contiguous().reshape(-1).view(whole)
