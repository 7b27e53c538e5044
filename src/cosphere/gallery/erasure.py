"""Receipts of deletions: with one, anybody who has the folder can look for what may be left of what was deleted.

A receipt holds no vector, code, thumbnail or id. Of each deleted vector, code and thumbnail it keeps salted hashes of up to 16
windows of 16 bytes, spread evenly; the salt is random, and is kept in the receipt only. The gallery itself keeps the time, the number
of items and the SHA-256 of the receipt, in a chain: each record names the digest of the one before it.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from cosphere.errors import RunError
from cosphere.files import path_of, write_json
from cosphere.gallery.schema import sealed, unsealed
from cosphere.gallery.sqlite import Connection

NO_PROOF = "A server keeps bytes in its log and backups, so nothing proves a deletion there"
"""Why a gallery on a server gives no receipts."""
_KIND = "cosphere gallery deletion"
MARK = f'{{"receipt": "{_KIND}"'
"""How a receipt of :meth:`Receipt.as_dict` begins as JSON."""
_HEAD = 64
"""Bytes of a receipt file that are looked at before all of it is read."""
WINDOW = 16
"""Bytes of a window."""
WINDOWS = 16
"""Most windows of one vector, code or thumbnail."""
MOST_PAYLOADS = 20_000
"""Most vectors, codes and thumbnails that one receipt covers; of more, evenly spaced ones."""
QUICK_BITS = 24
FEWEST_VALUES = 6
"""Windows of fewer different bytes, such as zeros, say nothing."""
_QUICK = (0x9E3779B97F4A7C15, 0xC2B2AE3D27D4EB4F, 0x165667B19E3779F9)


@dataclass(frozen=True, eq=False)
class Receipt:
    """What one deletion removed, as salted hashes."""

    gallery: str
    """Random name of the gallery."""
    time: str
    items: int
    covered: int
    """Vectors, codes and thumbnails that have a window in the receipt."""
    short: int
    """Those that are too short or too uniform to be told from chance."""
    salt: bytes
    quick: npt.NDArray[np.uint32]
    """(w,) 24-bit hashes of the windows, see :func:`quick_hash`."""
    sure: npt.NDArray[np.uint64]
    """(w,) 64 bits of the BLAKE2b hash of each window, keyed with the salt."""
    payloads: int | None = None
    """All vectors, codes and thumbnails that were removed; None in a receipt of an older Cosphere."""

    @property
    def left_out(self) -> int:
        """Vectors, codes and thumbnails that the receipt knows nothing of, because it is a sample: of more than 20 000."""
        return 0 if self.payloads is None else self.payloads - self.covered - self.short

    @classmethod
    def of(cls, gallery: str, count: int, payloads: Sequence[bytes]) -> Receipt:
        """The receipt of a deletion of ``count`` items that had these vectors, codes and thumbnails."""
        salt, total = secrets.token_bytes(16), len(payloads)
        if len(payloads) > MOST_PAYLOADS:
            payloads = [payloads[at] for at in np.linspace(0, len(payloads) - 1, MOST_PAYLOADS).astype(int).tolist()]
        found = [windows(one) for one in payloads]
        every = list(dict.fromkeys(window for one in found for window in one))
        return cls(
            gallery,
            datetime.now(UTC).isoformat(timespec="seconds"),
            count,
            sum(bool(one) for one in found),
            sum(not one for one in found),
            salt,
            quick_hash(np.frombuffer(b"".join(every), dtype="<u8").reshape(-1, 2)),
            np.array([sure_hash(window, salt) for window in every], dtype=np.uint64),
            total,
        )

    def as_dict(self) -> dict[str, Any]:
        """Plain values."""
        return {
            "receipt": _KIND,
            "gallery": self.gallery,
            "time": self.time,
            "items": self.items,
            "covered": self.covered,
            "short": self.short,
            "salt": self.salt.hex(),
            "quick": self.quick.astype("<u4").tobytes().hex(),
            "sure": self.sure.astype("<u8").tobytes().hex(),
            **({} if self.payloads is None else {"payloads": self.payloads}),
        }

    @property
    def digest(self) -> str:
        """SHA-256 of the content, which the gallery's log keeps."""
        return hashlib.sha256(json.dumps(self.as_dict(), sort_keys=True).encode()).hexdigest()

    def save(self, path: str | Path) -> None:
        """Write it as JSON, atomically. What was there is replaced: :class:`cosphere.gallery.ReceiptFile` keeps it.

        Raises:
            RunError: it cannot be written.
        """
        write_json(path_of(path), self.as_dict())

    @classmethod
    def load(cls, path: str | Path) -> Receipt:
        """Read a file of :meth:`save`.

        Raises:
            RunError: the file is missing, or no receipt, or holds several: see :func:`cosphere.gallery.load_receipts`.
        """
        found = load_receipts(path)
        if len(found) != 1:
            raise RunError(f"{path} holds {len(found)} receipts; wanted one. Read them with load_receipts.")
        return found[0]

    @classmethod
    def from_dict(cls, content: Mapping[str, Any], path: str | Path) -> Receipt:
        """The inverse of :meth:`as_dict`; ``path`` is named in errors.

        Raises:
            RunError: it is no receipt.
        """
        try:
            quick = np.frombuffer(bytes.fromhex(content["quick"]), dtype="<u4").astype(np.uint32)
            sure = np.frombuffer(bytes.fromhex(content["sure"]), dtype="<u8").astype(np.uint64)
            count, covered, short = (int(content[name]) for name in ("items", "covered", "short"))
            total = int(content["payloads"]) if "payloads" in content else None
            place, salt = (str(content["gallery"]), str(content["time"])), bytes.fromhex(content["salt"])
            receipt = cls(*place, count, covered, short, salt, quick, sure, total)
        except (KeyError, TypeError, ValueError) as error:
            raise RunError(f"{path} is not a receipt of a deletion: {error!r}. Give the file of --receipt.") from error
        if len(quick) != len(sure) or (quick >= 2**QUICK_BITS).any() or len(salt) > 64 or receipt.left_out < 0:
            raise RunError(f"{path} is not a receipt of a deletion: its hashes do not fit. Give the file of --receipt.")
        return receipt


def load_receipts(path: str | Path) -> list[Receipt]:
    """Read a file of :class:`cosphere.gallery.ReceiptFile`, :func:`cosphere.gallery.save_receipts` or :meth:`Receipt.save`.

    Raises:
        RunError: the file is missing, or holds no receipt.
    """
    found = read_receipts(path_of(path))
    if not found:
        raise RunError(f"{path} holds no receipt. Give the file of --receipt.")
    return found


def read_receipts(path: Path) -> list[Receipt]:
    """The receipts of a file, without a last line that a kill cut off; none of a file that has only such a line.

    Raises:
        RunError: the file is missing, or holds something else.
    """
    what = "a receipt of `cosphere index delete --receipt`"
    try:
        with path.open("rb") as file:
            head = file.read(_HEAD)
            if not head.lstrip().startswith(b"{"):  # a gallery or a photo is refused before all of it is read
                raise ValueError("it is not JSON")
            text = (head + file.read()).decode()
        parts = _parts(text)
    except FileNotFoundError:
        raise RunError(f"{path} does not exist, so this is not {what}. Check the path.") from None
    except (OSError, ValueError, RecursionError) as error:
        raise RunError(f"{path} is not {what}: {error}.") from error
    several = [one for part in parts for one in _several(part)]
    return [Receipt.from_dict(one if isinstance(one, dict) else {}, path) for one in several]


def _parts(text: str) -> list[Any]:
    """The values of a file of one JSON value, as older ones are, or of one on each line."""
    with contextlib.suppress(json.JSONDecodeError):
        return [json.loads(text)]
    *lines, last = text.split("\n")
    cut = last and last[: len(MARK)] == MARK[: len(last)]
    if last and not cut:
        lines.append(last)
    parts = [json.loads(line) for line in lines if line.strip()]
    if cut:
        with contextlib.suppress(json.JSONDecodeError):
            parts.append(json.loads(last))
    return parts


def _several(part: Any) -> list[Any]:
    """The receipts of one JSON value: an older Cosphere wrote several as one list."""
    several = part.get("receipts") if isinstance(part, dict) else None
    return several if isinstance(several, list) else [part]


def window_places(size: int) -> list[int]:
    """Where the windows of ``size`` bytes begin: up to 16 that do not overlap, evenly spread.

    >>> window_places(40), window_places(15)
    ([0, 24], [])
    """
    count = min(WINDOWS, size // WINDOW)
    return [] if not count else [round(at) for at in np.linspace(0, size - WINDOW, count).tolist()]


def windows(content: bytes) -> list[bytes]:
    """The windows of a vector, code or thumbnail that tell it from others."""
    every = [content[at : at + WINDOW] for at in window_places(len(content))]
    return [one for one in every if len(set(one)) >= FEWEST_VALUES]


def scan_of(picture: bytes) -> bytes:
    """The pixels of a JPEG: what comes after its tables, which all JPEG files of one quality share."""
    at = picture.find(b"\xff\xda")
    return picture if at < 0 else picture[at + 14 :]


def quick_hash(pairs: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint32]:
    """A 24-bit hash of 16 bytes, given as (n, 2) little-endian uint64; fast enough for every offset of a file."""
    return quick_hash_of(pairs[:, 0], pairs[:, 1])


def quick_hash_of(first: npt.NDArray[np.uint64], second: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint32]:
    """:func:`quick_hash` of separate halves, (n,) each."""
    one, two, three = (np.uint64(value) for value in _QUICK)
    mixed = first * one
    mixed ^= mixed >> np.uint64(32)
    mixed += second * two
    mixed ^= mixed >> np.uint64(29)
    mixed *= three
    mixed >>= np.uint64(64 - QUICK_BITS)
    return mixed.astype(np.uint32)


def sure_hash(window: bytes, salt: bytes) -> int:
    """64 bits of a keyed BLAKE2b."""
    return int.from_bytes(hashlib.blake2b(window, digest_size=8, key=salt).digest(), "little")


def log_erasure(connection: Connection, receipt: Receipt, *, replaced: bool = False) -> None:
    """Add a deletion, or the replacement of items, to the gallery's chain, inside a transaction."""
    last = connection.one("SELECT content FROM erasure ORDER BY number DESC LIMIT 1")
    previous = hashlib.sha256(last[0].encode()).hexdigest() if last is not None else ""
    content = {"time": receipt.time, "items": receipt.items, "receipt": receipt.digest, "previous": previous}
    content |= {"replaced": True} if replaced else {}
    connection.run("INSERT INTO erasure (content, digest) VALUES (?, ?)", sealed(content, "erasure"))


def read_log(connection: Connection) -> list[dict[str, Any]]:
    """Every deletion and replacement: time, number of items, SHA-256 of the receipt and of the record before.

    Raises:
        DamagedError: a record was changed.
    """
    found = connection.rows("SELECT content, digest FROM erasure ORDER BY number")
    return [unsealed(connection.path, text, kept, "erasure") for text, kept in found]
