"""Who is relevant to a query and whom it must not meet: labels of any size and kind to numbered buckets of rows."""

from __future__ import annotations

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
    """Labels as (N,) int64 in numpy. Those of uint64 above 2^63 wrap to negative ones, and stay different.

    Raises:
        SizeError: not ``count`` integers.
    """
    return integer_column(labels, count, name).astype(np.int64)


def integer_column(values: Any, count: int, name: str) -> Column:
    """One integer for each row, in the type that it came in.

    Raises:
        SizeError: not ``count`` integers.
    """
    found = values.detach().cpu().numpy() if isinstance(values, Tensor) else np.asarray(values)
    if found.shape != (count,):
        raise SizeError(f"want {name} ({count},), one for each row, got {found.shape}. Take both from the same source.")
    if found.dtype.kind not in "iu":
        raise SizeError(f"want integer {name}, got {found.dtype}. Number the classes, such as with numpy.unique.")
    return found


def numbered(asked: Column, held: Column | None) -> tuple[Integers, Integers]:
    """Values of both sides by one numbering from 0; without ``held`` both sides are the same."""
    both = asked if held is None else np.concatenate(_one_type(asked, held))
    numbers = np.unique(both, return_inverse=True)[1].astype(np.int64)
    return (numbers, numbers) if held is None else (numbers[: len(asked)], numbers[len(asked) :])


def _one_type(first: Column, second: Column) -> tuple[Column, Column]:
    """NumPy would join uint64 and int64 as float64, in which large labels run together."""
    if np.result_type(first, second).kind in "iu":
        return first, second
    for kind in (np.int64, np.uint64):
        limits = np.iinfo(kind)
        if all(int(side.min()) >= limits.min and int(side.max()) <= limits.max for side in (first, second)):
            return first.astype(kind), second.astype(kind)
    raise SizeError("labels below 0 on one side and above 2^63 on the other do not fit one type. Number the classes.")


class Buckets(NamedTuple):
    """Gallery rows by a key, and the key of each query."""

    query_keys: Tensor
    """(Q,) the key of each query."""
    gallery_keys: Tensor
    """(G,) the key of each gallery row."""
    rows: Tensor
    """(G,) gallery rows, key by key."""
    first: Tensor
    """(keys,) where a key starts in ``rows``."""
    sizes: Tensor
    """(keys,) gallery rows of a key."""

    def lists(self, queries: Tensor) -> RowLists:
        """The gallery rows of each query's key, which must hold one at least."""
        sizes = self.sizes[self.query_keys[queries]][:, None]
        place = torch.arange(int(sizes.max()), device=sizes.device)
        at = self.first[self.query_keys[queries]][:, None] + torch.minimum(place, sizes - 1)
        return RowLists(self.rows[at], place < sizes)

    def pairs(self, queries: Tensor) -> tuple[Tensor, Tensor]:
        """Every (place in ``queries``, gallery row of its key), without padding; a key may hold none."""
        sizes = self.sizes[self.query_keys[queries]]
        ends = sizes.cumsum(0)
        at = torch.repeat_interleave(torch.arange(len(queries), device=sizes.device), sizes)
        turn = torch.arange(len(at), device=sizes.device) - (ends - sizes)[at]
        return at, self.rows[self.first[self.query_keys[queries]][at] + turn]


class RowLists(NamedTuple):
    """For each query of a block, the gallery rows of its class."""

    ids: Tensor
    """(b, M) short classes repeat their last row."""
    real: Tensor
    """(b, M) False where a row is a repetition."""


def buckets(asked: Integers, held: Integers, device: torch.device) -> Buckets:
    """Sort the gallery by key. (Q,) and (G,), numbered from 0."""
    ours, theirs = torch.from_numpy(asked).to(device), torch.from_numpy(held).to(device)
    sizes = torch.bincount(theirs, minlength=int(max(asked.max(), held.max())) + 1)
    return Buckets(ours, theirs, theirs.argsort(stable=True), sizes.cumsum(0) - sizes, sizes)


class Meetings(NamedTuple):
    """Which gallery rows each query may meet, and which of them are relevant."""

    classes: Buckets
    own: Tensor | None
    """(Q,) the gallery row that is the query itself, -1 for none."""
    banned: Buckets | None
    """The rows of a query's group that it must not meet."""
    relevant: Tensor
    """(Q,) R of each query."""
    hidden: Tensor
    """(Q,) gallery rows that it does not meet."""

    def hide(self, similarities: Tensor, queries: Tensor) -> None:
        """Set what the queries must not meet to the lowest value of the type, in place. (b, G), (b,)."""
        low = lowest(similarities)
        if self.own is not None:
            own = self.own[queries]
            at = (own >= 0).nonzero().flatten()
            similarities[at, own[at]] = low
        if self.banned is not None:
            similarities[self.banned.pairs(queries)] = low

    def visible(self, queries: Tensor, rows: Tensor) -> Tensor:
        """(n,) whether each query may meet the gallery row. (n,), (n,)."""
        visible = torch.ones_like(rows, dtype=torch.bool) if self.own is None else self.own[queries] != rows
        if self.banned is not None:
            visible &= self.banned.query_keys[queries] != self.banned.gallery_keys[rows]
        return visible

    def uncounted(self) -> tuple[Integers, Integers]:
        """Every (query, gallery row) that is of one class or must not meet; some come twice. On a CPU."""
        everyone = torch.arange(len(self.relevant))
        pairs = [keys.pairs(everyone) for keys in (self.classes, self.banned) if keys is not None]
        if self.own is not None:
            present = self.own >= 0
            pairs.append((everyone[present], self.own[present]))
        queries, rows = (torch.cat(column).numpy() for column in zip(*pairs, strict=True))
        return queries, rows


def lowest(similarities: Tensor) -> float | int:
    """What ranks behind everything: minus infinity, or the least integer of the type."""
    kind = similarities.dtype
    return -float("inf") if kind.is_floating_point else torch.iinfo(kind).min


def check_groups(gallery: Any, groups: Any, gallery_groups: Any, rule: str) -> None:
    """Raise unless groups came for both sides or for none, under a known rule."""
    if rule not in get_args(GroupRule):
        raise SettingsError(f"there is no group rule {rule!r}. {did_you_mean(rule, get_args(GroupRule))}")
    if gallery_groups is not None and (groups is None or gallery is None):
        missing = "groups" if groups is None else "gallery"
        raise SettingsError(f"gallery_groups came without {missing}. Give groups of both sides or of none.")
    if groups is not None and gallery is not None and gallery_groups is None:
        raise SettingsError("groups came without gallery_groups. Give groups of both sides or of none.")


def meetings(
    classes: tuple[Integers, Integers],
    groups: tuple[Integers, Integers] | None,
    own: Tensor | None,
    rule: GroupRule,
    device: torch.device,
) -> Meetings:
    """Count what is relevant to each query and what is hidden from it.

    Args:
        classes: (Q,) and (G,), numbered from 0.
        groups: the same of the groups; None leaves none out.
        own: (Q,) the gallery row that is the query, -1 for none.
        rule: ``same_class`` hides gallery rows of the query's class and group, ``any_class`` those of its group.
        device: of the similarities.
    """
    ours = buckets(*classes, device)
    relevant = ours.sizes[ours.query_keys]
    hidden = torch.zeros_like(relevant)
    alone = torch.zeros_like(relevant, dtype=torch.bool) if own is None else own >= 0  # own row that no group hides
    banned = None
    if groups is not None:
        width = int(max(groups[0].max(), groups[1].max())) + 1
        keys = [one * width + other for one, other in zip(classes, groups, strict=True)]
        both = buckets(*numbered(keys[0], keys[1]), device)
        banned = both if rule == "same_class" else buckets(*groups, device)
        relevant = relevant - both.sizes[both.query_keys]
        hidden = banned.sizes[banned.query_keys]
    if own is not None:
        at = own.clamp_min(0)
        in_class = alone & (ours.gallery_keys[at] == ours.query_keys)
        if groups is not None:
            in_class &= both.gallery_keys[at] != both.query_keys
        if banned is not None:
            alone = alone & (banned.gallery_keys[at] != banned.query_keys)
        relevant = relevant - in_class.long()
    return Meetings(ours, own, banned, relevant, hidden + alone.long())
