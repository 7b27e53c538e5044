"""Class tree of the hierarchical triplet loss, and a sampler of batches of neighbouring classes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Sampler

from cosphere.checks import check_choice, check_whole
from cosphere.errors import SizeError, counted
from cosphere.losses.engine.maths import as_int64
from cosphere.tensors import check_labelled, directions, outside_autocast

__all__ = ["AnchorNeighbourBatches", "ClassTree"]

Linkage = Literal["average", "single"]
_ROWS = 256
"""Classes in one block of class distances."""


@dataclass(frozen=True, eq=False)
class ClassTree:
    """Hierarchy of classes, merged level by level with increasing distance thresholds.

    The distance of two classes is the mean squared distance of their unit vectors, over all cross-class pairs of
    images. At level l = 0, ..., L nodes closer than ``thresholds[l]`` are one: from the mean scatter of a class at
    level 0 to 4, the greatest squared distance on the sphere, at level L, where all classes are one node.
    """

    classes: Tensor
    """(C,) int64 labels, ascending."""
    nodes: Tensor
    """(L + 1, C) int32: the node of each class at each level. Numbers mean nothing beyond being equal within a level."""
    thresholds: Tensor
    """(L + 1,) squared distances ``d_0 + l (4 - d_0) / L``."""
    spreads: Tensor
    """(C,) mean squared distance of two different images of the class; d_0 for a class of one image."""
    means: Tensor
    """(C, D) mean unit vector of each class: it gives all class distances, ``2 - 2 m_p . m_q``."""

    @classmethod
    def build(cls, embeddings: Tensor, labels: Tensor, *, levels: int = 16, linkage: Linkage = "average") -> ClassTree:
        """Build the tree of a whole training set.

        Time is O(C^2 D); memory is two halves of a C x C matrix in float64 (8 C^2 bytes, 1.0 GB for the 11,318 classes of
        SOP) while it is built, and O(C (D + L)) afterwards.

        Args:
            embeddings: (N, D) float; L2-normalized internally, and zero-norm rows are dropped.
            labels: (N,) integers.
            levels: L >= 1.
            linkage: distance of two nodes: "average" over their classes (equally weighted), or "single" for the nearest
                two classes, which tends to chain. The paper does not specify it.

        Raises:
            SizeError: incompatible shapes or dtypes, or no class has two images, so the scatter is undefined.
            SettingsError: a value is out of range.
        """
        check_whole("levels", levels, least=1, most=1000)
        check_choice("linkage", linkage, ["average", "single"])
        check_labelled(embeddings, labels)
        with torch.no_grad(), outside_autocast(embeddings):
            unit, alive = directions(embeddings)
            classes, means, counts = _class_means(unit[alive], as_int64(labels)[alive])
            spreads = _spreads(means, counts)
            least = float(spreads[counts > 1].mean())
            thresholds = least + (4 - least) * torch.arange(levels + 1, dtype=torch.float64) / levels
            nodes = torch.from_numpy(_merged(means.cpu().numpy(), thresholds.numpy(), linkage))
        return cls(
            classes=classes,
            nodes=nodes.to(classes.device),
            thresholds=thresholds.to(classes.device, unit.dtype),
            spreads=torch.where(counts > 1, spreads, least).to(unit.dtype),
            means=means.to(unit.dtype),
        )

    @property
    def levels(self) -> int:
        """L."""
        return len(self.thresholds) - 1

    def places(self, labels: Tensor) -> Tensor:
        """Index of each label in :attr:`classes`. (...) -> (...) int64.

        Raises:
            SizeError: the tree does not know a label.
        """
        numbers = as_int64(labels)
        places = torch.searchsorted(self.classes, numbers).clamp(max=len(self.classes) - 1)
        strange = self.classes[places] != numbers
        if strange.any():
            raise SizeError(
                f"the class tree does not know the label {int(numbers[strange][0])}. Build it from images of all classes that "
                "the loss will see."
            )
        return places

    def level_of(self, first: Tensor, second: Tensor) -> Tensor:
        """The lowest level at which two classes share a node: labels of any shapes that broadcast -> int32 in [0, L]."""
        return self.level_of_places(self.places(first), self.places(second))

    def level_of_places(self, first: Tensor, second: Tensor) -> Tensor:
        """:meth:`level_of` for class indices."""
        levels = torch.zeros_like(first + second, dtype=torch.int32)
        # Nodes only merge, so two classes differ at all levels below the one at which they merge.
        for nodes in self.nodes[:-1]:
            levels += nodes[first] != nodes[second]
        return levels

    def neighbours(self, labels: Tensor, count: int) -> Tensor:
        """The nearest other classes of each class, nearest first. (n,) labels -> (n, count) labels.

        Raises:
            SizeError: an unknown label, or less than ``count`` other classes.
        """
        if not 1 <= count < len(self.classes):
            raise SizeError(
                f"want between 1 and {len(self.classes) - 1} neighbours among {counted(len(self.classes), 'class')}, got {count}."
            )
        nearest = []
        for places in torch.split(self.places(labels), _ROWS):
            with outside_autocast(self.means):
                closeness = self.means[places] @ self.means.T
            closeness[torch.arange(len(places), device=places.device), places] = -torch.inf
            nearest.append(closeness.topk(count, dim=1).indices)
        return self.classes[torch.cat(nearest)] if nearest else self.classes.new_empty(0, count)


def _class_means(unit: Tensor, labels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Labels (C,), mean unit vectors (C, D) float64, images (C,)."""
    classes, codes, counts = torch.unique(labels, return_inverse=True, return_counts=True)
    if not (counts > 1).any():
        raise SizeError(
            f"want a class with at least 2 images that have a direction, got {counted(len(labels), 'image')} of "
            f"{counted(len(classes), 'class')}: "
            "the tree starts at the mean spread of a class. Build it from the whole training set."
        )
    sums = unit.new_zeros(len(classes), unit.shape[1], dtype=torch.float64)
    for some, theirs in zip(torch.split(unit, _ROWS * 32), torch.split(codes, _ROWS * 32), strict=True):
        sums.index_add_(0, theirs, some.double())
    return classes, sums / counts[:, None], counts


def _spreads(means: Tensor, counts: Tensor) -> Tensor:
    """(C,) mean squared distance of two different images. Over all n^2 pairs it is 2 - 2 |m|^2; n of them are 0."""
    return (2 - 2 * means.square().sum(dim=1)).clamp(min=0) * counts / (counts - 1).clamp(min=1)


def _merged(means: NDArray[np.float64], thresholds: NDArray[np.float64], linkage: str) -> NDArray[np.int32]:
    """(L + 1, C) nodes. Average linkage is monotonic, so the levels nest."""
    count = len(means)
    nodes = np.zeros((len(thresholds), count), dtype=np.int32)
    if count > 1:
        from scipy.cluster import hierarchy  # slow to import, needed once per epoch

        merges = hierarchy.linkage(_condensed(means), linkage)
        # The last level is one node, even for antipodal classes, since 4 is not below 4.
        for level, threshold in enumerate(thresholds[:-1]):
            nodes[level] = hierarchy.fcluster(merges, np.nextafter(threshold, -np.inf), criterion="distance")
    return nodes


def _condensed(means: NDArray[np.float64]) -> NDArray[np.float64]:
    """Class distances above the diagonal, row after row, as scipy wants them. (C (C - 1) / 2,)."""
    count = len(means)
    distances = np.empty(count * (count - 1) // 2)
    filled = 0
    for first in range(0, count, _ROWS):
        block = np.maximum(2 - 2 * means[first : first + _ROWS] @ means[first:].T, 0)
        for row in range(len(block)):
            rest = block[row, row + 1 :]
            distances[filled : filled + len(rest)] = rest
            filled += len(rest)
    return distances


class AnchorNeighbourBatches(Sampler[list[int]]):
    """Batch sampler of one epoch: random classes with their nearest, hard-to-distinguish classes.

    A batch consists of ``classes`` random classes, the ``neighbours`` nearest classes of each that are not in the batch
    yet, and ``images_per_class`` images of every class, drawn with replacement only if the class is too small. All
    batches have the same size and contain each class at most once. An epoch is ``floor(N / batch)`` batches, at least
    one.

    The tree changes every epoch, so create a new sampler with a new seed for every tree.

    Args:
        labels: (N,) integers; row i of the training set has label i.
        tree: of the same classes.
        classes: the paper's l', at least 1.
        neighbours: nearest classes per class, at least 1; the paper's m also counts the class itself, so m is one more.
        images_per_class: the paper's t, at least 1.
        seed: of classes and images; the same seed gives the same epoch.

    Raises:
        SettingsError: a count below 1.
        SizeError: more classes in a batch than there are, or a tree of other classes.
    """

    def __init__(
        self,
        labels: Tensor | list[int],
        tree: ClassTree,
        *,
        classes: int,
        neighbours: int,
        images_per_class: int,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.classes = check_whole("classes", classes, least=1)
        self.neighbours = check_whole("neighbours", neighbours, least=1)
        self.images_per_class = check_whole("images_per_class", images_per_class, least=1)
        self.seed = seed
        places = tree.places(torch.as_tensor(labels, device=tree.classes.device)).cpu().numpy()
        rows = np.argsort(places, kind="stable")
        counts = np.bincount(places, minlength=len(tree.classes))
        if not counts.all():
            missing = int(tree.classes[int(np.argmin(counts))])
            raise SizeError(f"the tree has a class {missing} without rows. Build it from these labels.")
        self._members = np.split(rows, np.cumsum(counts)[:-1])
        wide = self.classes * (1 + self.neighbours)
        if not 2 <= wide <= len(counts):
            raise SizeError(f"a batch of {wide} classes, but there are {len(counts)}. Lower classes or neighbours.")
        self.batch_size = wide * self.images_per_class
        # At most `wide - 1` classes are already taken, so this many neighbours always suffice.
        self._nearest = tree.places(tree.neighbours(tree.classes, wide - 1)).cpu().numpy()
        self._length = max(1, len(rows) // self.batch_size)

    def __len__(self) -> int:
        """Batches in the epoch."""
        return self._length

    def __iter__(self) -> Iterator[list[int]]:
        """Yield row numbers; the images of a class are adjacent."""
        rng = np.random.default_rng(self.seed)
        for _ in range(len(self)):
            yield [row for one in self._batch_classes(rng) for row in self._images(rng, one)]

    def _batch_classes(self, rng: np.random.Generator) -> list[int]:
        groups = [[int(one)] for one in rng.choice(len(self._members), self.classes, replace=False)]
        taken = {one for group in groups for one in group}
        for group in groups:
            free = (int(one) for one in self._nearest[group[0]] if int(one) not in taken)
            group += [next(free) for _ in range(self.neighbours)]
            taken.update(group)
        return [one for group in groups for one in group]

    def _images(self, rng: np.random.Generator, one: int) -> list[int]:
        members: NDArray[Any] = self._members[one]
        drawn: list[int] = rng.choice(
            members, self.images_per_class, replace=len(members) < self.images_per_class
        ).tolist()
        return drawn
