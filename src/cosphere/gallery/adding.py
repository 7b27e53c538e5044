"""What is asked of items before they are added or deleted, wherever a gallery lies."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any, Literal, NamedTuple, cast

import numpy as np
import numpy.typing as npt

from cosphere.errors import DataError, SizeError, agreeing
from cosphere.gallery.erasure import Receipt
from cosphere.gallery.schema import Space
from cosphere.gallery.values import Value, as_id, check_codes, check_ids, check_metadata, check_vectors, in_order, shown

Existing = Literal["refuse", "skip", "replace"]
MOST_THUMBNAIL_BYTES = 2**22


class _Counts(NamedTuple):
    added: int
    """Items that were not there before."""
    replaced: int
    skipped: int
    """Items whose id was there, and stayed as it was."""


class Added(_Counts):
    """What ``add`` did: ``(added, replaced, skipped)``, and the receipts of what was replaced.

    Attributes:
        receipts: one for each commit that replaced items, as a deletion gives it; none on a server.
    """

    receipts: tuple[Receipt, ...] = ()

    @classmethod
    def of(cls, added: int, replaced: int, skipped: int, receipts: Sequence[Receipt] = ()) -> Added:
        """Counts with receipts."""
        made = cls(added, replaced, skipped)
        made.receipts = tuple(receipts)
        return made

    def and_then(self, other: Added) -> Added:
        """Both together."""
        added, replaced, skipped = (one + more for one, more in zip(self, other, strict=True))
        return Added.of(added, replaced, skipped, (*self.receipts, *other.receipts))


class NewItems(NamedTuple):
    """N checked items."""

    ids: list[str]
    vectors: npt.NDArray[np.float32] | None
    """(N, D); None where the gallery keeps none."""
    codes: npt.NDArray[np.uint8] | None
    """(N, ceil(D / 8)); None where the gallery keeps none."""
    metadata: list[dict[str, Value]]
    thumbnails: Sequence[bytes | None] | None


def checked_items(
    space: Space,
    ids: Sequence[Any],
    vectors: npt.NDArray[Any] | None,
    codes: npt.NDArray[Any] | None,
    metadata: Sequence[Mapping[str, Any] | None] | None,
    thumbnails: Sequence[bytes | None] | None,
) -> NewItems:
    """The arguments of ``add``, checked against what the gallery holds.

    Raises:
        DataError, SizeError: an id, a row or a value cannot be kept; it is named.
    """
    ids = in_order(ids, "ids")
    count = next((len(part) for part in (vectors, codes) if part is not None), len(ids))
    texts = check_ids(ids, count)
    rows, bits = check_vectors(vectors, space, texts), check_codes(codes, space, texts)
    columns = _metadata(metadata, count)
    thumbnails = None if thumbnails is None else in_order(thumbnails, "thumbnails")
    _check_thumbnails(thumbnails, count)
    return NewItems(texts, rows, bits, columns, thumbnails)


def check_new(there: Collection[str], existing: Existing) -> None:
    """Raise where ids are in the gallery that must not be.

    Raises:
        DataError: some are; they are named.
    """
    if there and existing == "refuse":
        raise DataError(
            f"{shown(list(there), 'id')} {agreeing(len(there), 'are')} in the gallery already. "
            "Use upsert to replace, or leave them out."
        )


def names_to_delete(ids: Any) -> list[str]:
    """The ids as a list, each once; whole numbers become texts, as they did when they were added.

    Raises:
        DataError: one cannot be an id.
    """
    listed = [ids] if isinstance(ids, str | bytes) or not isinstance(ids, Iterable) else list(ids)
    names = [as_id(one) for one in listed]
    if None in names:
        wrong = listed[names.index(None)]
        came = f"{wrong[:80]!r}" if isinstance(wrong, str | bytes) else f"a {type(wrong).__name__}"
        raise DataError(f"{came} cannot be the id of an item; wanted a text. Check the ids; nothing was deleted.")
    return list(dict.fromkeys(cast(list[str], names)))


def check_there(names: Sequence[str], there: Collection[str]) -> None:
    """Raise where an id that should be deleted is not in the gallery.

    Raises:
        DataError: some are not; they are named.
    """
    missing = [one for one in names if one not in there]
    if missing:
        raise DataError(
            f"{shown(missing, 'id')} {agreeing(len(missing), 'are')} not in the gallery. Check them; nothing was deleted."
        )


def check_asked(ids: object, where: object) -> None:
    """Raise unless a deletion says what it is about."""
    if ids is None and where is None:
        raise DataError("what should be deleted? Give ids, or a filter of metadata.")


def _metadata(metadata: Sequence[Mapping[str, Any] | None] | None, count: int) -> list[dict[str, Value]]:
    if metadata is None:
        return [{} for _ in range(count)]
    metadata = in_order(metadata, "metadata")
    if len(metadata) != count:
        raise SizeError(f"want metadata of {count} items, got {len(metadata)}. Give one mapping for each item.")
    return [check_metadata(one, place) for place, one in enumerate(metadata)]


def _check_thumbnails(thumbnails: Sequence[bytes | None] | None, count: int) -> None:
    if thumbnails is None:
        return
    if len(thumbnails) != count:
        raise SizeError(f"want thumbnails of {count} items, got {len(thumbnails)}. Give one for each, None for none.")
    if any(len(one or b"") > MOST_THUMBNAIL_BYTES for one in thumbnails):
        raise SizeError(f"a thumbnail has more than {MOST_THUMBNAIL_BYTES:,} bytes. Make it smaller.")
