"""Class-balanced batches: P classes x K images."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike

from cosphere._types import Integers
from cosphere.checks import check_switches
from cosphere.data.samplers.epochs import EpochBatches
from cosphere.errors import SettingsError, agreeing, counted

Replacement = Literal["when_short", "always"]


class ClassBalancedBatches(EpochBatches):
    """Batches of P = ``batch_size // images_per_class`` classes with K = ``images_per_class`` images each.

    Official semantics (SEC and NormSoftmax): each batch draws its classes without replacement and independently of the
    other batches, and an epoch is ``floor(N / batch_size)`` batches. An epoch is therefore no permutation of the images:
    some appear twice, some not at all. When K does not divide ``batch_size``, a batch holds P x K images, fewer than
    ``batch_size``; the length of an epoch still follows ``batch_size``. With ``replacement="when_short"`` (SEC) the K images
    of a class are distinct when it has K, and drawn with replacement otherwise; with ``"always"`` (NormSoftmax) they are
    always drawn with replacement.

    Coverage: with ``coverage=True`` every image appears at least once in an epoch. Each class is shuffled and cut into
    chunks of K, a short chunk is topped up from its class, the chunks are dealt out so that no batch has a class twice,
    and batches with fewer than P classes are topped up with other classes. An epoch is as long as that takes.

    Ranks: each rank takes its own P classes of the global batch.

    A batch is a list of :class:`Draw`, which are row numbers: give the sampler as the ``batch_sampler`` of a ``DataLoader`` over
    any data set whose item i has label i, such as :class:`cosphere.data.ImageRows`, which takes the seeds too.

    Args:
        labels: (N,) integers, any values; row i of the catalogue has label i.
        batch_size: images in a batch of one rank, at least ``images_per_class``.
        images_per_class: K, images of each class in a batch.
        coverage: see above.
        replacement: see above; with coverage only ``"when_short"`` makes sense.
        seed: of classes, images and augmentation.
        rank: this process, in [0, world_size).
        world_size: number of processes.
        length: batches in an epoch instead of ``floor(N / (batch_size * world_size))``; not with coverage.

    Attributes:
        batch_size: P x K.
        notes: classes that repeat images, and a batch size that was rounded down.

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
        check_switches(coverage=coverage)
        self._check_settings(batch_size, images_per_class, coverage, replacement, length)
        super().__init__(labels, seed=seed, rank=rank, world_size=world_size)
        self.images_per_class, self.coverage, self.replacement = images_per_class, coverage, replacement
        self.batch_size = batch_size // images_per_class * images_per_class
        # Rows sorted by class: class c owns _rows[_first[c] : _first[c] + _count[c]].
        self._rows: Integers = np.argsort(self._codes, kind="stable")
        self._first: Integers = np.cumsum(self._count) - self._count
        self._check_fit()
        self.notes = (*_rounding(batch_size, self.batch_size, images_per_class), *self._repetition())
        self._length = self._epoch_length(batch_size) if length is None else length

    @staticmethod
    def _check_settings(size: int, each: int, coverage: bool, replacement: str, length: int | None) -> None:
        if size < 1 or each < 1:
            raise SettingsError(f"batch_size and images_per_class must be at least 1, got {size} and {each}.")
        if size < each:
            raise SettingsError(f"batch_size {size} holds no class of images_per_class {each}. Try batch_size {each}.")
        if replacement not in ("when_short", "always"):
            raise SettingsError(f"replacement must be 'when_short' or 'always', got {replacement!r}.")
        if coverage and replacement == "always":
            raise SettingsError(
                "coverage sees every image, replacement='always' does not. Use replacement='when_short'."
            )
        if coverage and length is not None:
            raise SettingsError("coverage sets the length of an epoch itself. Leave length out.")
        if length is not None and length < 1:
            raise SettingsError(f"length must be at least 1 batch, got {length}.")

    def _check_fit(self) -> None:
        each, classes, largest = self.images_per_class, len(self._count), int(self._count.max())
        needed = self._global_classes
        if needed > classes:
            most = classes // self.world_size
            ranks = f" on {self.world_size} ranks" if self.world_size > 1 else ""
            advice = f"Lower batch_size to {most * each} or raise images_per_class." if most else "Use fewer ranks."
            raise SettingsError(
                f"batch_size {self.batch_size} with {counted(each, 'image')} per class{ranks} wants {counted(needed, 'class')}, and "
                f"there {agreeing(classes, 'are')} {classes}. {advice}"
            )
        if each > largest == 1 and self.replacement == "when_short":
            raise SettingsError(
                f"images_per_class is {each}, and no class has 2 images, so no batch could compare two images of a class. Put all "
                "images of a class under one label. A loss with class weights also takes images_per_class 1."
            )
        if each > largest and self.replacement == "when_short":
            raise SettingsError(
                f"images_per_class {each} is more than any class has (the largest has {largest}), so every batch would "
                "repeat images. "
                f"Lower it to {largest} or less, or set replacement='always'."
            )

    def _repetition(self) -> tuple[str, ...]:
        """Notes on classes with fewer than K images."""
        each, classes = self.images_per_class, len(self._count)
        single, short = int((self._count == 1).sum()), int((self._count < each).sum())
        notes = []
        if single and each > 1:
            notes.append(
                f"{single} of {counted(classes, 'class')} {agreeing(classes, 'have')} one image, which is repeated to fill its "
                f"{each} places in a batch"
            )
        if short - single > 0:
            notes.append(
                f"{short - single} of {counted(classes, 'class')} {agreeing(classes, 'have')} fewer than {each} images, "
                "so their images repeat in a batch"
            )
        return tuple(notes)

    @property
    def _global_classes(self) -> int:
        """Classes in the batch of all ranks together."""
        return self.batch_size // self.images_per_class * self.world_size

    def _epoch_length(self, batch_size: int) -> int:
        if not self.coverage:
            # The official code divides by the batch size that was asked for, not by the one rounded down.
            return max(1, len(self._codes) // (batch_size * self.world_size))
        chunks = -(-self._count // self.images_per_class)
        # No batch has a class twice, so the largest class alone needs this many.
        return int(max(-(-chunks.sum() // self._global_classes), chunks.max()))

    def __len__(self) -> int:
        """Batches in a whole epoch."""
        return self._length

    def _settings(self) -> dict[str, Any]:
        return {
            "images_per_class": self.images_per_class,
            "coverage": self.coverage,
            "replacement": self.replacement,
        }

    def _make_plan(self, rng: np.random.Generator) -> Sequence[Integers]:
        return self._covering_plan(rng) if self.coverage else self._official_plan(rng)  # type: ignore[return-value]

    def _official_plan(self, rng: np.random.Generator) -> Integers:
        many = len(self._count)
        classes = np.stack([rng.choice(many, self._global_classes, replace=False) for _ in range(len(self))])
        return self._rows[self._draw(rng, classes.ravel())].reshape(len(self), -1)

    def _draw(self, rng: np.random.Generator, classes: Integers) -> Integers:
        """K places of ``_rows`` for each class of the list. (n,) -> (n, K)."""
        count, each = self._count[classes][:, None], self.images_per_class
        inside = rng.integers(0, count, size=(len(classes), each))
        if self.replacement == "when_short":
            enough = count[:, 0] >= each
            inside[enough] = _distinct(rng, count[enough, 0], each)
        return self._first[classes][:, None] + inside

    def _covering_plan(self, rng: np.random.Generator) -> Integers:
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
            # At most used[batch] of these P classes are already in the batch, so enough remain.
            some = rng.choice(len(self._count), wide, replace=False)
            more = some[~np.isin(some, members[batch])][: wide - int(used[batch])]
            plan[batch, used[batch] :] = self._rows[self._draw(rng, more)]
        # Within a batch the chunks of early classes come first; without a shuffle the first rank would always get those.
        return _shuffled_classes(plan, rng)

    def _chunks(self, rng: np.random.Generator, one: int) -> Integers:
        """All rows of a class in random order, cut into (n, K); the last chunk is topped up from the others."""
        each, count = self.images_per_class, int(self._count[one])
        order = rng.permutation(count)
        short = -count % each
        if short:
            # With K images or more the other chunks can lend; with fewer, images have to repeat.
            others = order[: count - count % each]
            more = rng.choice(others, short, replace=False) if len(others) else rng.integers(0, count, short)
            order = np.concatenate([order, more])
        chunks: Integers = self._rows[self._first[one] + order].reshape(-1, each)
        return chunks


class _Deal:
    """Deals chunks out to batches: each class to different batches, and no batch more than one chunk ahead of another.

    Batches wait in a random queue. When it is empty, a new one is shuffled, with the batches that already have a chunk of
    the current class at its end.
    """

    def __init__(self, batches: int, rng: np.random.Generator) -> None:
        self.batches, self.rng = batches, rng
        self.queue: Integers = np.empty(0, dtype=np.int64)

    def take(self, number: int) -> Integers:
        """Take ``number`` different batches, at most as many as there are."""
        taken, self.queue = self.queue[:number], self.queue[number:]
        rest = number - len(taken)
        if not rest:
            return taken
        fresh = self.rng.permutation(self.batches)
        again = np.isin(fresh, taken)
        fresh = np.concatenate([fresh[~again], fresh[again]])
        self.queue = fresh[rest:]
        return np.concatenate([taken, fresh[:rest]])


def _shuffled_classes(plan: Integers, rng: np.random.Generator) -> Integers:
    """Shuffle the classes inside each batch, keeping the K images of a class together. (T, P, K) -> (T, P * K)."""
    order = np.argsort(rng.random(plan.shape[:2]), axis=1)
    shuffled: Integers = np.take_along_axis(plan, order[:, :, None], axis=1).reshape(len(plan), -1)
    return shuffled


def _distinct(rng: np.random.Generator, below: Integers, number: int) -> Integers:
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


def _rounding(size: int, used: int, each: int) -> tuple[str, ...]:
    """A note when the batch size does not divide by K."""
    if size == used:
        return ()
    return (
        f"batch size {size} is rounded down to {used}: {counted(used // each, 'class')} x {counted(each, 'image')}",
    )
