"""Class-balanced batches: P classes x K images, seeded, resumable and the same whatever the number of ranks."""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from torch.utils.data import Sampler

from cosphere.errors import DataError, RunError, SettingsError, SizeError

Rows = NDArray[np.int64]
Replacement = Literal["when_short", "always"]


class Draw(NamedTuple):
    """One image to load, and the seed of its augmentation."""

    row: int
    """Row number in the catalogue."""
    seed: int
    """In [0, 2**63). It depends on the run's seed, the epoch and the place in the epoch, never on workers or ranks."""


class Seen(NamedTuple):
    """How much of the data an epoch has drawn so far."""

    images: int
    total: int


class ClassBalancedBatches(Sampler[list[Draw]]):
    """Batches of P = ``batch_size / images_per_class`` classes with K = ``images_per_class`` images each.

    Official semantics (SEC and NormSoftmax): each batch draws its classes without replacement and independently of the
    other batches, and an epoch is ``floor(N / batch)`` batches, so an epoch is no permutation of the images: some come
    twice, some not at all. With ``replacement="when_short"`` (SEC) the K images of a class are distinct when it has K,
    and drawn with replacement otherwise; with ``"always"`` (NormSoftmax) they are always drawn with replacement.

    Coverage: with ``coverage=True`` every image comes at least once in an epoch. Each class is shuffled and cut into
    chunks of K, a short chunk is topped up from its class, the chunks are dealt out so that no batch has a class twice,
    and batches with less than P classes are topped up with other classes. An epoch is as long as that takes.

    Ranks: ``world_size`` ranks draw the same global batch of ``batch_size * world_size`` images and each takes its own
    P classes, so the union is what one rank with that batch size would draw.

    Resuming: the plan of an epoch is a function of (seed, epoch). A loader with workers runs ahead of training, so
    tell :meth:`state_dict` how many batches training has finished.

    Args:
        labels: (N,) integers, any values; row i of the catalogue has label i.
        batch_size: images in a batch of one rank; ``images_per_class`` divides it.
        images_per_class: K, images of each class in a batch.
        coverage: see above.
        replacement: see above; with coverage only ``"when_short"`` makes sense.
        seed: of classes, images and augmentation.
        rank: this process, in [0, world_size).
        world_size: number of processes.
        length: batches in an epoch instead of ``floor(N / (batch_size * world_size))``; not with coverage.

    Attributes:
        notes: what a user should know, one sentence each: classes that repeat images.

    Raises:
        SettingsError: the settings contradict each other or do not fit the data; the error names what fits.
        DataError: no labels.

    Example:
        >>> batches = ClassBalancedBatches([0, 0, 1, 1, 2, 2], batch_size=4, images_per_class=2, seed=1)
        >>> [sorted({draw.row // 2 for draw in batch}) for batch in batches]
        [[0, 1]]
    """

    def __init__(
        self,
        labels: Sequence[int] | ArrayLike,
        batch_size: int,
        images_per_class: int,
        *,
        coverage: bool = False,
        replacement: Replacement = "when_short",
        seed: int = 0,
        rank: int = 0,
        world_size: int = 1,
        length: int | None = None,
    ) -> None:
        super().__init__()
        self.batch_size, self.images_per_class = batch_size, images_per_class
        self.coverage, self.replacement, self.seed = coverage, replacement, seed
        self.rank, self.world_size = rank, world_size
        self._check_settings(length)
        self._group(np.asarray(labels))
        self._check_fit()
        self.notes = self._notes()
        self._length = self._epoch_length() if length is None else length
        self.epoch = 0
        self._start = 0
        self._given = 0

    def _check_settings(self, length: int | None) -> None:
        size, each = self.batch_size, self.images_per_class
        if size < 1 or each < 1:
            raise SettingsError(f"batch_size and images_per_class must be at least 1, got {size} and {each}.")
        if size % each:
            below, above = size // each * each, (size // each + 1) * each
            fits = f"{below} or {above}" if below else str(above)
            raise SettingsError(f"batch_size {size} does not divide by images_per_class {each}. Try batch_size {fits}.")
        if not 0 <= self.rank < self.world_size:
            raise SettingsError(f"rank must lie in [0, world_size), got rank {self.rank} of {self.world_size}.")
        if self.replacement not in ("when_short", "always"):
            raise SettingsError(f"replacement must be 'when_short' or 'always', got {self.replacement!r}.")
        if self.coverage and self.replacement == "always":
            raise SettingsError(
                "coverage sees every image, replacement='always' does not. Use replacement='when_short'."
            )
        if self.coverage and length is not None:
            raise SettingsError("coverage sets the length of an epoch itself. Leave length out.")
        if length is not None and length < 1:
            raise SettingsError(f"length must be at least 1 batch, got {length}.")
        if self.seed < 0:
            raise SettingsError(f"the seed must be 0 or more, got {self.seed}.")

    def _group(self, labels: NDArray[Any]) -> None:
        """Sort the rows by class once: class c owns ``_rows[_first[c] : _first[c] + _count[c]]``."""
        if labels.ndim != 1:
            raise SizeError(f"want labels (N,), got {labels.shape}.")
        if not len(labels):
            raise DataError("there are no labels to draw batches from. Check the split.")
        _, codes, count = np.unique(labels, return_inverse=True, return_counts=True)
        self._checksum = zlib.crc32(codes.astype(np.int64).tobytes())
        self._rows: Rows = np.argsort(codes, kind="stable")
        self._count: Rows = count.astype(np.int64)
        self._first: Rows = np.cumsum(self._count) - self._count

    def _check_fit(self) -> None:
        each, classes, largest = self.images_per_class, len(self._count), int(self._count.max())
        wanted = self._global_classes
        if wanted > classes:
            most = classes // self.world_size
            ranks = f" on {self.world_size} ranks" if self.world_size > 1 else ""
            advice = f"Lower batch_size to {most * each} or raise images_per_class." if most else "Use fewer ranks."
            raise SettingsError(
                f"batch_size {self.batch_size} with {each} images per class{ranks} wants {wanted} classes, and there "
                f"are {classes}. {advice}"
            )
        if each > largest and self.replacement == "when_short":
            raise SettingsError(
                f"images_per_class {each} is more than any class has (the largest has {largest}), so every batch would "
                "repeat images. "
                f"Lower it to {largest} or less, or set replacement='always'."
            )

    def _notes(self) -> tuple[str, ...]:
        each, classes = self.images_per_class, len(self._count)
        single, short = int((self._count == 1).sum()), int((self._count < each).sum())
        notes = []
        if single and each > 1:
            notes.append(
                f"{single} of {classes} classes have one image, which is repeated to fill its {each} places in a batch"
            )
        if short - single > 0:
            notes.append(
                f"{short - single} of {classes} classes have fewer than {each} images, so their images repeat in a "
                "batch"
            )
        return tuple(notes)

    @property
    def _global_classes(self) -> int:
        """Classes in the batch of all ranks together."""
        return self.batch_size // self.images_per_class * self.world_size

    def _epoch_length(self) -> int:
        if not self.coverage:
            return max(1, int(self._count.sum()) // (self.batch_size * self.world_size))
        chunks = -(-self._count // self.images_per_class)
        # No batch has a class twice, so the largest class alone needs this many.
        return int(max(-(-chunks.sum() // self._global_classes), chunks.max()))

    def __len__(self) -> int:
        """Batches in a whole epoch."""
        return self._length

    def __iter__(self) -> Iterator[list[Draw]]:
        """The rest of the epoch: from the place that was loaded, or from its beginning."""
        self._given, self._start = self._start, 0
        plan, mine = self._plan, self._own_places()
        for number in range(self._given, len(self)):
            places = number * self._global_classes * self.images_per_class + mine
            seeds = _mixed(self.seed, self.epoch, places)
            self._given = number + 1
            yield [Draw(row, seed) for row, seed in zip(plan[number, mine].tolist(), seeds.tolist(), strict=True)]

    def _own_places(self) -> Rows:
        """Places of this rank inside the global batch: whole classes."""
        return np.arange(self.rank * self.batch_size, (self.rank + 1) * self.batch_size)

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch, from 0. The place inside it goes back to the beginning, unless it is already this epoch."""
        if epoch != self.epoch:
            self.epoch, self._start, self._given = epoch, 0, 0
            self.__dict__.pop("_plan", None)

    def seen(self) -> Seen:
        """Different images in the batches of this epoch that were given out so far, over all ranks, of all images."""
        return Seen(len(np.unique(self._plan[: self._given])), len(self._rows))

    def state_dict(self, position: int | None = None) -> dict[str, Any]:
        """Where the run stands, as plain numbers.

        Args:
            position: batches of this epoch that training has finished. None: those given out, which is more when a
                loader's workers run ahead.
        """
        position = self._given if position is None else position
        if not 0 <= position <= len(self):
            raise SettingsError(f"position must lie in [0, {len(self)}], got {position}.")
        return {"epoch": self.epoch, "position": position, "plan": self._identity()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on exactly where :meth:`state_dict` stood: the next iteration gives the batches that were left.

        The number of ranks may change as long as the global batch stays the same.

        Raises:
            RunError: the state comes from other data or settings, which would give other batches.
        """
        for name, value in self._identity().items():
            stored = state["plan"].get(name)
            if stored != value:
                raise RunError(
                    f"cannot resume: the batches were drawn with {name} {stored}, and now it is {value}. Use the old "
                    "value or start a new run."
                )
        self.set_epoch(int(state["epoch"]))
        self._start = self._given = int(state["position"])

    def _identity(self) -> dict[str, Any]:
        """All that the plan of an epoch depends on."""
        return {
            "global batch size": self.batch_size * self.world_size,
            "images_per_class": self.images_per_class,
            "coverage": self.coverage,
            "replacement": self.replacement,
            "seed": self.seed,
            "number of images": len(self._rows),
            "number of classes": len(self._count),
            "labels (checksum)": self._checksum,
            "length": len(self),
        }

    @cached_property
    def _plan(self) -> Rows:
        """(batches, global batch) row numbers of the epoch, the same on every rank. Each K in a row are one class."""
        rng = np.random.default_rng([self.seed, self.epoch])
        return self._covering_plan(rng) if self.coverage else self._official_plan(rng)

    def _official_plan(self, rng: np.random.Generator) -> Rows:
        many = len(self._count)
        classes = np.stack([rng.choice(many, self._global_classes, replace=False) for _ in range(len(self))])
        return self._rows[self._draw(rng, classes.ravel())].reshape(len(self), -1)

    def _draw(self, rng: np.random.Generator, classes: Rows) -> Rows:
        """K places of ``_rows`` for each class of the list. (n,) -> (n, K)."""
        count, each = self._count[classes][:, None], self.images_per_class
        inside = rng.integers(0, count, size=(len(classes), each))
        if self.replacement == "when_short":
            enough = count[:, 0] >= each
            inside[enough] = _distinct(rng, count[enough, 0], each)
        return self._first[classes][:, None] + inside

    def _covering_plan(self, rng: np.random.Generator) -> Rows:
        each, wide = self.images_per_class, self._global_classes
        plan = np.empty((len(self), wide, each), dtype=np.int64)
        used = np.zeros(len(self), dtype=np.int64)
        dealt = _Deal(len(self), rng)
        members: list[list[int]] = [[] for _ in range(len(self))]
        for one in rng.permutation(len(self._count)).tolist():
            chunks = self._chunks(rng, one)
            batches = dealt.take(len(chunks))
            plan[batches, used[batches]] = chunks
            used[batches] += 1
            for batch in batches.tolist():
                members[batch].append(one)
        for batch in np.flatnonzero(used < wide).tolist():
            # At most used[batch] of these P classes are in the batch already, so enough are left.
            some = rng.choice(len(self._count), wide, replace=False)
            more = some[~np.isin(some, members[batch])][: wide - int(used[batch])]
            plan[batch, used[batch] :] = self._rows[self._draw(rng, more)]
        # Within a batch the chunks of early classes come first; the ranks must not always get the same kind.
        return _shuffled_classes(plan, rng)

    def _chunks(self, rng: np.random.Generator, one: int) -> Rows:
        """All rows of a class in random order, cut into (n, K); the last chunk is topped up from the others."""
        each, count = self.images_per_class, int(self._count[one])
        order = rng.permutation(count)
        short = -count % each
        if short:
            # With K images or more the other chunks can lend; with fewer, images have to repeat.
            others = order[: count - count % each]
            more = rng.choice(others, short, replace=False) if len(others) else rng.integers(0, count, short)
            order = np.concatenate([order, more])
        chunks: Rows = self._rows[self._first[one] + order].reshape(-1, each)
        return chunks


class _Deal:
    """Deals chunks out to batches: each class to different batches, and no batch more than one chunk ahead of another.

    The batches wait in a random queue. When it runs out a new one is shuffled, in which those that the class at hand
    has already got go to the end.
    """

    def __init__(self, batches: int, rng: np.random.Generator) -> None:
        self.batches, self.rng = batches, rng
        self.queue: Rows = np.empty(0, dtype=np.int64)

    def take(self, number: int) -> Rows:
        """``number`` different batches, at most as many as there are."""
        taken, self.queue = self.queue[:number], self.queue[number:]
        rest = number - len(taken)
        if not rest:
            return taken
        fresh = self.rng.permutation(self.batches)
        again = np.isin(fresh, taken)
        fresh = np.concatenate([fresh[~again], fresh[again]])
        self.queue = fresh[rest:]
        return np.concatenate([taken, fresh[:rest]])


def _shuffled_classes(plan: Rows, rng: np.random.Generator) -> Rows:
    """Shuffle the classes inside each batch, keeping the K images of a class together. (T, P, K) -> (T, P * K)."""
    order = np.argsort(rng.random(plan.shape[:2]), axis=1)
    shuffled: Rows = np.take_along_axis(plan, order[:, :, None], axis=1).reshape(len(plan), -1)
    return shuffled


def _distinct(rng: np.random.Generator, below: Rows, number: int) -> Rows:
    """For each n in ``below``, ``number`` different integers in [0, n), every subset as likely.

    Floyd's algorithm, all rows at once.

    Args:
        rng: source of randomness.
        below: (S,) each at least ``number``.
        number: integers in a row.

    Returns:
        (S, number) int64.
    """
    chosen = np.full((len(below), number), -1, dtype=np.int64)
    for place in range(number):
        top = below - number + place
        candidate = rng.integers(0, top + 1)
        taken = (chosen[:, :place] == candidate[:, None]).any(axis=1)
        chosen[:, place] = np.where(taken, top, candidate)
    return chosen


def _mixed(seed: int, epoch: int, places: Rows) -> Rows:
    """Seeds in [0, 2**63) from (seed, epoch, place), by the finaliser of splitmix64 (Steele, Lea, Flood 2014)."""
    base = np.random.SeedSequence([seed, epoch]).generate_state(1, np.uint64)
    mixed = base + places.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    seeds: Rows = ((mixed ^ (mixed >> np.uint64(31))) >> np.uint64(1)).astype(np.int64)
    return seeds
