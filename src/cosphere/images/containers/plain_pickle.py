"""Read plain values from a pickle without running code, and without allocating what a file only claims to hold.

``pickle.load`` calls whatever a file names. This interpreter executes the instructions of a pickle itself and can build
lists, tuples, whole numbers, booleans, short texts, and references to bytes of the file. numpy arrays of bytes or booleans
and numpy booleans are recognised from their instructions and become references as well; numpy is not called. Every other
instruction or name is refused.

Memory is bounded by :data:`MAX_INSTRUCTIONS`; bytes stay in the file until they are read by their position.

Source of the instruction set: Python's ``pickletools``.
"""

from __future__ import annotations

import mmap
import pickletools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

from cosphere.errors import DataError

MAX_INSTRUCTIONS = 4_000_000
"""Longest pickle that is read, in instructions: about a million images, and at most 400 MB of small objects."""

_NEWER = "the pickle has an old protocol; write it again with protocol=4"
_LONGEST_TEXT = 64
"""Names of modules, types and byte orders have at most this many bytes."""
_DTYPES = {"u1": "u1", "uint8": "u1", "b1": "b1", "bool": "b1", "?": "b1", "B": "u1"}
_KNOWN = {
    ("numpy", "ndarray"): "ndarray",
    ("numpy", "dtype"): "dtype",
    ("numpy.core.multiarray", "_reconstruct"): "reconstruct",
    ("numpy.core.multiarray", "scalar"): "scalar",
    ("numpy.core.numeric", "_frombuffer"): "frombuffer",
}
_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
_BYTES = {"BINSTRING", "SHORT_BINSTRING", "BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "BYTEARRAY8"}
_CODES = {ord(code.code): code for code in pickletools.opcodes}
_WIDTHS = {
    pickletools.TAKEN_FROM_ARGUMENT1: 1,
    pickletools.TAKEN_FROM_ARGUMENT4: 4,
    pickletools.TAKEN_FROM_ARGUMENT4U: 4,
    pickletools.TAKEN_FROM_ARGUMENT8U: 8,
}


class Span(NamedTuple):
    """Bytes of the file."""

    start: int
    size: int


_NOTHING = Span(0, 0)


@dataclass(eq=False)
class PlainArray:
    """A numpy array as the pickle describes it."""

    dtype: str = ""
    """``u1`` (bytes) or ``b1`` (booleans)."""
    shape: tuple[int, ...] = ()
    data: Span = _NOTHING


class _Known(NamedTuple):
    """One of the names in :data:`_KNOWN`."""

    name: str


class _Dtype(NamedTuple):
    name: str


class _Mark:
    """Where the elements of a list or tuple begin on the stack."""


_MARK = _Mark()


def plain_value(content: mmap.mmap) -> Any:
    """The value that a pickle holds.

    Args:
        content: the whole file.

    Returns:
        Nested lists and tuples of None, bool, int, str, :class:`Span` and :class:`PlainArray`.

    Raises:
        DataError: the pickle is cut off or damaged, or holds anything else. The message goes behind the file's name.
    """
    machine = _Machine(content)
    for name, start, end in _instructions(content):
        if name == "STOP":
            return machine.pop()
        machine.step(name, start, end)
    raise AssertionError("unreachable: the instructions end with STOP or an error")


def _instructions(content: mmap.mmap) -> Iterator[tuple[str, int, int]]:
    """Each instruction with the start and end of its argument, of which it has checked that they lie in the file."""
    at, length = 0, len(content)
    for _ in range(MAX_INSTRUCTIONS):
        if at >= length:
            raise _cut()
        code = _CODES.get(content[at])
        if code is None:
            raise DataError(f"is not a pickle: byte {at} is no instruction")
        start, kind = at + 1, 0 if code.arg is None else code.arg.n
        if kind in _WIDTHS:
            start, size = start + _WIDTHS[kind], int.from_bytes(content[start : start + _WIDTHS[kind]], "little")
            end = start + size
        elif kind == pickletools.UP_TO_NEWLINE:
            end = _line_end(content, start)
            if code.name in ("GLOBAL", "INST"):  # two lines
                end = _line_end(content, end)
        else:
            end = start + kind
        if end > length:
            raise _cut()
        yield code.name, start, end
        at = end
    raise DataError(f"has more than {MAX_INSTRUCTIONS:,} instructions, which is more than a million images need")


def _line_end(content: mmap.mmap, start: int) -> int:
    end = content.find(b"\n", start, start + _LONGEST_TEXT + 1)
    if end < 0:
        raise _cut() if start + _LONGEST_TEXT >= len(content) else _not_read("a long line of text")
    return end + 1


def _cut() -> DataError:
    return DataError("is cut off")


def _not_read(what: str) -> DataError:
    return DataError(f"holds {what}, and only lists of bytes and booleans are read")


class _Machine:
    """The stack of the pickle format, restricted to plain values."""

    def __init__(self, content: mmap.mmap) -> None:
        self.content = content
        self.stack: list[Any] = []
        self.memo: dict[int, Any] = {}

    def pop(self) -> Any:
        """Remove and return the last value."""
        if not self.stack or self.stack[-1] is _MARK:
            raise DataError("is damaged: an instruction takes a value where there is none")
        return self.stack.pop()

    def step(self, name: str, start: int, end: int) -> None:
        """Execute one instruction, whose argument is ``content[start:end]``.

        Raises:
            DataError: it is not one that builds a plain value, or the stack does not fit.
        """
        match name:
            case "PROTO" | "FRAME":
                pass
            case "NONE" | "NEWTRUE" | "NEWFALSE":
                self.stack.append(_CONSTANTS[name])
            case "BININT" | "BININT1" | "BININT2" | "LONG1":
                signed = name in ("BININT", "LONG1")
                self.stack.append(int.from_bytes(self.content[start:end], "little", signed=signed))
            case "INT":
                self.stack.append(self._old_boolean(start, end))
            case "BINUNICODE" | "SHORT_BINUNICODE":
                self.stack.append(self._text(Span(start, end - start)))
            case _ if name in _BYTES:
                self.stack.append(Span(start, end - start))
            case "BINPUT" | "LONG_BINPUT" | "MEMOIZE":
                key = len(self.memo) if name == "MEMOIZE" else int.from_bytes(self.content[start:end], "little")
                self.memo[key] = self._top()
            case "BINGET" | "LONG_BINGET":
                self._recall(int.from_bytes(self.content[start:end], "little"))
            case "GLOBAL" | "STACK_GLOBAL" | "REDUCE" | "BUILD":
                self._name_or_call(name, start, end)
            case _:
                self._collect(name)

    def _collect(self, name: str) -> None:
        """The instructions that build lists and tuples."""
        match name:
            case "MARK":
                self.stack.append(_MARK)
            case "EMPTY_LIST":
                self.stack.append([])
            case "EMPTY_TUPLE":
                self.stack.append(())
            case "LIST":
                self.stack.append(self._since_mark())
            case "TUPLE":
                self.stack.append(tuple(self._since_mark()))
            case "TUPLE1" | "TUPLE2" | "TUPLE3":
                self.stack.append(tuple([self.pop() for _ in range(int(name[-1]))][::-1]))
            case "APPEND" | "APPENDS":
                values = [self.pop()] if name == "APPEND" else self._since_mark()
                if not isinstance(self._top(), list):
                    raise DataError("is damaged: it appends to something that is not a list")
                self.stack[-1].extend(values)
            case "PUT" | "GET" | "STRING" | "UNICODE" | "LONG":
                raise _not_read(f"bytes as text (instruction {name}; {_NEWER})")
            case _:
                raise _not_read(f"the pickle instruction {name}")

    def _name_or_call(self, instruction: str, start: int, end: int) -> None:
        if instruction == "GLOBAL":
            self.stack.append(_known(*self._ascii(start, end - 1).split("\n")))
        elif instruction == "STACK_GLOBAL":
            name, module = self.pop(), self.pop()
            self.stack.append(_known(self._text(module), self._text(name)))
        elif instruction == "REDUCE":
            arguments, target = self.pop(), self.pop()
            self.stack.append(self._called(target, arguments))
        else:
            state = self.pop()
            self._filled(self._top(), state)

    def _called(self, target: Any, arguments: Any) -> Any:
        """What numpy's own functions would return, as plain values."""
        match target, arguments:
            case _Known("dtype"), (kind, *_) if (dtype := _DTYPES.get(self._text(kind).lstrip("|"))) is not None:
                return _Dtype(dtype)
            case _Known("dtype"), (kind, *_):
                raise _not_read(f"a numpy array of type {self._text(kind)!r}")
            case _Known("reconstruct"), (_Known("ndarray"), *_):
                return PlainArray()
            case _Known("scalar"), (_Dtype("b1"), Span(start, 1)):
                return bool(self.content[start])
            case _Known("frombuffer"), (Span() as data, _Dtype(dtype), tuple() as shape, *_):
                return PlainArray(dtype, _lengths(shape), data)
        raise _not_read("a call")

    def _filled(self, target: Any, state: Any) -> None:
        """What ``__setstate__`` of a dtype or an array would do."""
        match target, state:
            case _Dtype(), tuple():  # byte order and alignment, which do not concern single bytes
                return
            case PlainArray(), (_, tuple() as shape, _Dtype(dtype), _, Span() as data):
                target.dtype, target.shape, target.data = dtype, _lengths(shape), data
                return
        raise _not_read("the state of an object")

    def _top(self) -> Any:
        value = self.pop()
        self.stack.append(value)
        return value

    def _since_mark(self) -> list[Any]:
        values = []
        while self.stack and self.stack[-1] is not _MARK:
            values.append(self.stack.pop())
        if not self.stack:
            raise DataError("is damaged: a list ends that never began")
        self.stack.pop()
        return values[::-1]

    def _recall(self, key: int) -> None:
        if key not in self.memo:
            raise DataError("is damaged: it refers to a value that it never stored")
        self.stack.append(self.memo[key])

    def _old_boolean(self, start: int, end: int) -> bool:
        """True and False of protocols 0 and 1."""
        text = self.content[start:end]
        if text not in (b"00\n", b"01\n"):
            raise _not_read("a number as text")
        return text == b"01\n"

    def _text(self, value: Any) -> str:
        """A short text, which Python 2 stored as bytes."""
        if isinstance(value, str):
            return value
        if not isinstance(value, Span) or value.size > _LONGEST_TEXT:
            raise _not_read("text")
        return self._ascii(value.start, value.start + value.size)

    def _ascii(self, start: int, end: int) -> str:
        return self.content[start:end].decode("ascii", "backslashreplace")


def _known(module: str, name: str) -> _Known:
    """One of the few names that stand for arrays, which NumPy 2 has moved to ``numpy._core``.

    Raises:
        DataError: any other name.
    """
    place = module.replace("numpy._core", "numpy.core"), name
    if place == ("_codecs", "encode"):
        raise _not_read(f"bytes as text ({_NEWER})")
    if place not in _KNOWN:
        raise _not_read(f"the name {module}.{name}, which could run code")
    return _Known(_KNOWN[place])


def _lengths(shape: tuple[Any, ...]) -> tuple[int, ...]:
    # NumPy's arrays have no more dimensions, and the product of many long numbers would take hours.
    if len(shape) > 64 or not all(isinstance(length, int) and 0 <= length < 2**63 for length in shape):
        raise DataError("is damaged: an array has no shape")
    return shape
