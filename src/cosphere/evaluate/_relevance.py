"""Which gallery rows each query ranks, and which of them are relevant, from labels of any size and type."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, NamedTuple, get_args

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from cosphere._types import Integers
from cosphere.errors import SettingsError, SizeError, did_you_mean

Column = npt.NDArray[np.integer[Any]]
GroupRule = Literal["same_class", "any_class"]


def check_labels(labels: Any, count: int, name: str) -> Integers:
    """Labels as (N,) int64 in numpy. uint64 values above 2^63 wrap to distinct negative values.

    Raises:
        SizeError: not ``count`` integers.
    """
    return integer_column(labels, count, name).astype(np.int64)


def integer_column(values: Any, count: int, name: str) -> Column:
    """One integer per row, in its original dtype.

    Raises:
        SizeError: not ``count`` integers.
    """
    column = values.detach().cpu().numpy() if isinstance(values, Tensor) else np.asarray(values)
    if column.shape != (count,):
        raise SizeError(
            f"want {name} ({count},), one for each row, got {column.shape}. Take both from the same source."
        )
    if column.dtype.kind not in "iu":
        raise SizeError(f"want integer {name}, got {column.dtype}. Number the classes, such as with numpy.unique.")
    return column


Keys = tuple[Integers, Integers]
"""The key of each query (Q,) and of each gallery row (G,), numbered from 0."""


def numbered(queries: Column, gallery: Column | None) -> Keys:
    """Number the values of both sides from 0; None if the gallery is the queries."""
    both = queries if gallery is None else np.concatenate(_one_type(queries, gallery))
    numbers = np.unique(both, return_inverse=True)[1].astype(np.int64)
    return (numbers, numbers) if gallery is None else (numbers[: len(queries)], numbers[len(queries) :])


def joint(first: Keys, second: Keys) -> Keys:
    """Combine two keys into one that is equal where both are equal."""
    width = int(max(side.max() for side in second)) + 1
    queries, gallery = (one * width + other for one, other in zip(first, second, strict=True))
    return numbered(queries, gallery)


def _one_type(first: Column, second: Column) -> tuple[Column, Column]:
    """Both sides in one integer type: NumPy would join uint64 and int64 as float64, in which large labels become equal."""
    if np.result_type(first, second).kind in "iu":
        return first, second
    for kind in (np.int64, np.uint64):
        limits = np.iinfo(kind)
        if all(int(side.min()) >= limits.min and int(side.max()) <= limits.max for side in (first, second)):
            return first.astype(kind), second.astype(kind)
    raise SizeError("labels below 0 on one side and above 2^63 on the other do not fit one type. Number the classes.")


class Buckets(NamedTuple):
    """Gallery rows sorted by key, and the key of each query."""

    query_keys: Tensor
    """(Q,) the key of each query."""
    gallery_keys: Tensor
    """(G,) the key of each gallery row."""
    rows: Tensor
    """(G,) gallery rows, key by key, ascending within a key."""
    first: Tensor
    """(keys,) where each key starts in ``rows``."""
    sizes: Tensor
    """(keys,) number of gallery rows with each key."""

    @classmethod
    def of(cls, keys: Keys, device: torch.device) -> Buckets:
        """Build the index of the gallery by key."""
        queries, gallery = (torch.from_numpy(side).to(device) for side in keys)
        sizes = torch.bincount(gallery, minlength=int(max(side.max() for side in keys)) + 1)
        return cls(queries, gallery, gallery.argsort(stable=True), sizes.cumsum(0) - sizes, sizes)

    def counts(self) -> Tensor:
        """(Q,) number of gallery rows with the key of each query."""
        return self.sizes[self.query_keys]

    def lists(self, queries: Tensor) -> RowLists:
        """The gallery rows with the key of each query; each key must have at least one."""
        sizes = self.sizes[self.query_keys[queries]][:, None]
        slot = torch.arange(int(sizes.max()), device=sizes.device)
        at = self.first[self.query_keys[queries]][:, None] + torch.minimum(slot, sizes - 1)
        return RowLists(self.rows[at], slot < sizes)

    def pairs(self, queries: Tensor) -> tuple[Tensor, Tensor]:
        """Every (position in ``queries``, gallery row with its key), without padding; a key may have no row."""
        sizes = self.sizes[self.query_keys[queries]]
        ends = sizes.cumsum(0)
        at = torch.repeat_interleave(torch.arange(len(queries), device=sizes.device), sizes)
        slot = torch.arange(len(at), device=sizes.device) - (ends - sizes)[at]
        return at, self.rows[self.first[self.query_keys[queries]][at] + slot]


class RowLists(NamedTuple):
    """The gallery rows of the class of each query in a block."""

    ids: Tensor
    """(b, M) gallery rows, ascending; short classes repeat their last row."""
    real: Tensor
    """(b, M) False where a row is a repetition."""


class Candidates(NamedTuple):
    """Which gallery rows each query ranks, and which of them are relevant."""

    classes: Buckets
    own: Tensor | None
    """(Q,) the gallery row that is the query itself, -1 for none."""
    excluded: tuple[Buckets, ...]
    """Keys of which a query does not rank the gallery rows that share its own."""
    relevant: Tensor
    """(Q,) R of each query."""
    hidden: Tensor
    """(Q,) number of gallery rows that each query does not rank."""

    def hide(self, similarities: Tensor, queries: Tensor) -> None:
        """Set the similarities to excluded gallery rows to the lowest value of the type, in place. (b, G), (b,)."""
        low = lowest(similarities)
        if self.own is not None:
            own = self.own[queries]
            at = (own >= 0).nonzero().flatten()
            similarities[at, own[at]] = low
        for keys in self.excluded:
            similarities[keys.pairs(queries)] = low

    def ranked(self, queries: Tensor, rows: Tensor) -> Tensor:
        """(n,) whether each query ranks the gallery row. (n,), (n,)."""
        ranked = torch.ones_like(rows, dtype=torch.bool) if self.own is None else self.own[queries] != rows
        for keys in self.excluded:
            ranked &= keys.query_keys[queries] != keys.gallery_keys[rows]
        return ranked

    def special_pairs(self) -> tuple[Integers, Integers]:
        """Every (query, gallery row) of one class or excluded; some occur twice. On a CPU."""
        everyone = torch.arange(len(self.relevant))
        pairs = [keys.pairs(everyone) for keys in (self.classes, *self.excluded)]
        if self.own is not None:
            present = self.own >= 0
            pairs.append((everyone[present], self.own[present]))
        queries, rows = (torch.cat(column).numpy() for column in zip(*pairs, strict=True))
        return queries, rows

    def special_pair_count(self) -> int:
        """Upper bound of the number of :meth:`special_pairs`."""
        return len(self.relevant) + sum(int(keys.counts().sum()) for keys in (self.classes, *self.excluded))


def lowest(similarities: Tensor) -> float | int:
    """The lowest value of the dtype: minus infinity, or the smallest integer."""
    kind = similarities.dtype
    return -float("inf") if kind.is_floating_point else torch.iinfo(kind).min


def check_pairing(gallery: Any, of_queries: Any, of_gallery: Any, name: str) -> None:
    """Raise unless a column of groups or identities came for both sides or for none."""
    if of_gallery is not None and (of_queries is None or gallery is None):
        missing = name if of_queries is None else "gallery"
        raise SettingsError(f"gallery_{name} came without {missing}. Give {name} of both sides or of none.")
    if of_queries is not None and gallery is not None and of_gallery is None:
        raise SettingsError(f"{name} came without gallery_{name}. Give {name} of both sides or of none.")


def check_group_rule(rule: str) -> None:
    """Raise unless the rule is known."""
    if rule not in get_args(GroupRule):
        raise SettingsError(f"there is no group rule {rule!r}. {did_you_mean(rule, get_args(GroupRule))}")


def candidates_of(classes: Keys, own: Tensor | None, excluded: Sequence[Keys], device: torch.device) -> Candidates:
    """Count the relevant and the excluded gallery rows of each query.

    Args:
        classes: class of each query and gallery row.
        own: (Q,) the gallery row that is the query, -1 for none.
        excluded: keys, at most two; a query does not rank gallery rows that share one of them with it.
        device: of the similarities.
    """
    of_class = Buckets.of(classes, device)
    buckets = tuple(Buckets.of(keys, device) for keys in excluded)
    relevant, hidden = of_class.counts(), torch.zeros_like(of_class.query_keys)
    # Inclusion and exclusion, since a row may share several keys. Counting by keys needs no list of the rows.
    subsets = [(1, keys) for keys in excluded] + [(-1, joint(*excluded)) for _ in excluded[1:]]
    for sign, keys in subsets:
        hidden = hidden + sign * Buckets.of(keys, device).counts()
        relevant = relevant - sign * Buckets.of(joint(classes, keys), device).counts()
    if own is not None:
        at = own.clamp_min(0)
        alone = own >= 0  # The query itself, where no key excludes it already.
        for other in buckets:
            alone &= other.gallery_keys[at] != other.query_keys
        hidden = hidden + alone
        relevant = relevant - (alone & (of_class.gallery_keys[at] == of_class.query_keys)).long()
    return Candidates(of_class, own, buckets, relevant, hidden)
