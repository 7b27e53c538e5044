"""Facility location: the clustering of the batch by labels must score above every other clustering."""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor

from cosphere.checks import check_choice, check_number, is_whole
from cosphere.errors import SettingsError
from cosphere.losses.engine.base import Loss, Traits, describe, given
from cosphere.losses.engine.maths import as_int64, chord, connected_zero, held_on, safe_sqrt
from cosphere.tensors import check_labelled, directions, outside_autocast

__all__ = ["FacilityLocationLoss", "facility_location_loss"]


def facility_location_loss(
    embeddings: Tensor,
    labels: Tensor,
    *,
    gamma: float = 1.0,
    distance: Literal["l2", "squared"] = "l2",
    nmi: Literal["geometric", "arithmetic"] = "geometric",
    passes: int = 5,
) -> Tensor:
    """``[max_S (F(S) + gamma (1 - NMI(S))) - F~]_+`` over the sets S of as many medoids as the batch has classes.

    F(S) is minus the summed distance of all images to their nearest medoid, NMI(S) the normalised mutual information of
    the clusters of S with the labels, F~ minus the summed distance to the best medoid of each class. The maximum is
    approximated by greedy insertion followed by swaps: each cluster in turn moves its medoid to the member that raises
    the objective most. The result is a lower bound of the true maximum. The gradient passes only through the distances
    to the selected medoids and to the class medoids.

    A bound of NMI rules most candidates out while images lie apart. Where rows coincide, as in a collapsed batch, all candidates
    are equally good and each is tried for each medoid: about O(B^3) instead of O(B^2 D log B).

    Song, Jegelka, Rathod, Murphy: Deep Metric Learning via Facility Location, CVPR 2017. TensorFlow keeps clusters
    fixed while comparing medoids; here images are reassigned to the nearest. ronekko's code uses squared distances.

    Args:
        embeddings: (B, D) float; L2-normalized internally. Zero-norm rows are ignored.
        labels: (B,) integers.
        gamma: weight of 1 - NMI, in units of summed distance, >= 0.
        distance: "l2", of unit vectors, in [0, 2], or "squared".
        nmi: mean of the entropies that divides the mutual information.
        passes: maximum number of swap passes over all clusters; 0: greedy only. Stops early when no swap improves.

    Returns:
        () >= 0, not divided by B; a differentiable 0 with one class, or none of two images.

    Raises:
        SizeError: incompatible shapes, dtypes or devices.
    """
    check_labelled(embeddings, labels)
    zero = connected_zero(embeddings)
    with outside_autocast(embeddings):
        unit, alive = directions(embeddings)
        rows = unit[alive]
        codes = torch.unique(as_int64(labels)[alive], return_inverse=True)[1]
        classes = int(codes.max()) + 1 if len(codes) else 0
        if not 1 < classes < len(rows) or not bool(zero.isfinite()):
            return zero
        squared = distance == "squared"
        with torch.no_grad():
            search = _Search(rows.detach(), codes, gamma, squared=squared, geometric=nmi == "geometric")
            for _ in range(classes):
                search.add()
            search.swap(passes)
        cost = _to(rows, search.medoids[search.owner], squared).sum()
        oracle = _to(rows, search.class_medoids[codes], squared).sum()
        return (gamma * search.delta - cost + oracle).clamp(min=0) + zero


def _to(rows: Tensor, medoids: Tensor, squared: bool) -> Tensor:
    """(n,) distance of each row to its medoid, whose gradient is 0 where they are one point."""
    square = (rows - rows[medoids]).square().sum(dim=1)
    return square if squared else safe_sqrt(square)


def _first_of_best(values: Tensor, points: Tensor, slack: float) -> int:
    """The first image among those whose values are the largest up to rounding.

    Both images of a pair are equally good medoids, and the choice affects later insertions. Without this rule it would
    depend on the last bit of a distance.
    """
    return int(points[values >= values.max() - slack].min())


class _Search:
    """Greedy search and swaps for the medoids that maximise ``F + gamma (1 - NMI)``.

    Maintains the two nearest medoids of each image and the value of F for each candidate medoid. Adding or removing a
    medoid updates these sums only for the affected images, so distances are computed about log B times in total, block
    by block, and not stored. NMI is computed only where a bound does not rule the candidate out.
    """

    def __init__(self, rows: Tensor, codes: Tensor, gamma: float, *, squared: bool, geometric: bool) -> None:
        self.rows, self.codes, self.gamma, self.squared, self.geometric = rows, codes, gamma, squared, geometric
        self.everyone = torch.arange(len(rows), device=rows.device)
        self.medoids = self.everyone[:0]
        self.nearest, self.second = (rows.new_full((len(rows),), torch.inf) for _ in range(2))
        self.owner, self.second_owner = (torch.full_like(self.everyone, -1) for _ in range(2))
        sums = [self._sums(points) for points in self._pieces(self.everyone)]
        self.cost = torch.cat([to_all for to_all, _ in sums])
        """(n,) float64: -F if this point were a medoid too."""
        self.reach = torch.full_like(self.everyone, len(rows))
        """(n,) how many points are nearer to this one than to their medoid."""
        self.slack = 16 * torch.finfo(rows.dtype).eps * math.sqrt(len(rows))
        """Objectives that differ by less than this are equal up to rounding."""
        self.class_medoids = self._best_of_classes(torch.cat([to_class for _, to_class in sums]))
        self.agreement = _Agreement(codes, geometric=geometric)
        self.delta, self.value = 1.0, -math.inf
        """1 - NMI now, and the objective."""

    def _pieces(self, points: Tensor, width: int | None = None) -> tuple[Tensor, ...]:
        """Chunks of points whose distances to ``width`` others, or to all, fit one block."""
        return torch.split(points, max(1, held_on(points.device) // max(width or len(self.rows), 1)))

    def distances(self, points: Tensor, others: Tensor | None = None) -> Tensor:
        """(m,), (n,) -> (m, n), to all rows without ``others``; exactly 0 from a point to itself."""
        columns = self.rows if others is None else self.rows[others]
        distances = chord(self.rows[points] @ columns.T, squared=self.squared)
        return distances.masked_fill_(points[:, None] == (self.everyone if others is None else others), 0.0)

    def _sums(self, points: Tensor) -> tuple[Tensor, Tensor]:
        distances = self.distances(points).double()
        return distances.sum(dim=1), torch.where(self.codes[points, None] == self.codes, distances, 0.0).sum(dim=1)

    def _best_of_classes(self, sums: Tensor) -> Tensor:
        """(C,) index of the medoid of each class."""
        order = sums.argsort(stable=True)
        order = order[self.codes[order].argsort(stable=True)]  # by class, and in it the best first
        return order[
            torch.searchsorted(self.codes[order], torch.arange(int(self.codes.max()) + 1, device=order.device))
        ]

    def add(self) -> None:
        """Add the best medoid."""
        best = _first_of_best(-self.cost, self.everyone, self.slack)
        if len(self.medoids):
            ceiling = self.gamma * self._delta_at_most(self.reach + 1) - self.cost
            ceiling[self.medoids] = -torch.inf
            best, _ = self._best(ceiling, self.cost, self.nearest, self.owner, -math.inf)
        distances = self.distances(torch.tensor([best], device=self.rows.device))[0]
        closer = distances < self.nearest
        closer[best] = True  # even if a duplicate of it is already a medoid
        before = self.nearest.clone()
        runner_up = ~closer & (distances < self.second)
        self.second = torch.where(closer, self.nearest, torch.where(runner_up, distances, self.second))
        self.second_owner = torch.where(closer, self.owner, self.second_owner)
        self.second_owner[runner_up] = len(self.medoids)
        self.nearest = torch.where(closer, distances, self.nearest)
        self.owner[closer] = len(self.medoids)
        self.medoids = torch.cat([self.medoids, self.everyone[best : best + 1]])
        self._changed(before)

    def swap(self, passes: int) -> None:
        """Swap the medoid of each cluster until no swap improves the objective."""
        for _ in range(passes):
            if not sum(self._swap_in(cluster) for cluster in range(len(self.medoids))):
                return

    def _swap_in(self, cluster: int) -> bool:
        inside = self.owner == cluster
        members = inside.nonzero().squeeze(1)
        candidates = members[members != self.medoids[cluster]]
        cost = self.cost.clone()
        for points in self._pieces(candidates, len(members)):
            distances = self.distances(points, members)
            change = torch.minimum(distances, self.second[members]) - torch.minimum(distances, self.nearest[members])
            cost[points] += change.double().sum(dim=1)
        ceiling = torch.full_like(cost, -torch.inf)
        bound = self._delta_at_most(self.reach[candidates] + len(members))
        ceiling[candidates] = self.gamma * bound - cost[candidates]
        rest = torch.where(inside, self.second, self.nearest)
        rest_owner = torch.where(inside, self.second_owner, self.owner)
        least = self.value + self.slack
        best, value = self._best(ceiling, cost, rest, rest_owner, least)
        if value <= least:
            return False
        self._replace(cluster, best)
        return True

    def _best(self, ceiling: Tensor, cost: Tensor, rest: Tensor, rest_owner: Tensor, least: float) -> tuple[int, float]:
        """The point that maximises the objective when added to the other medoids, if it exceeds ``least``.

        Args:
            ceiling: (n,) upper bound of the objective; -inf for points that are not candidates.
            cost: (n,) -F with this point.
            rest: (n,) distance of each point to its medoid without this one.
            rest_owner: (n,) index of that medoid.
            least: value to exceed.
        """
        tried: list[Tensor] = []
        objectives: list[Tensor] = []
        most = least
        clusters = None
        order = ceiling.argsort(descending=True, stable=True)
        for points in torch.split(order[ceiling[order] > least], 64):
            points = points[ceiling[points] >= most - self.slack]
            if not len(points):
                break
            clusters = clusters or self.agreement.clusters(rest_owner)
            for piece in self._pieces(points):
                moved = (self.distances(piece) < rest).scatter_(1, piece[:, None], True)
                values = self.gamma * self.agreement.delta(*clusters.after(moved)) - cost[piece]
                tried, objectives, most = [*tried, piece], [*objectives, values], max(most, float(values.max()))
        if most <= least:
            return -1, least
        return _first_of_best(torch.cat(objectives), torch.cat(tried), self.slack), most

    def _replace(self, cluster: int, medoid: int) -> None:
        self.medoids[cluster] = medoid
        distances = self.distances(self.medoids[cluster : cluster + 1])[0]
        before = self.nearest.clone()
        concerned = (self.owner == cluster) | (self.second_owner == cluster) | (distances < self.second)
        for points in self._pieces(concerned.nonzero().squeeze(1), len(self.medoids)):
            found = self.distances(points, self.medoids)
            found = found.masked_fill_(points[:, None] == self.medoids, -1.0)  # a medoid owns itself
            two, owners = found.topk(2, dim=1, largest=False)
            self.nearest[points], self.second[points] = two.clamp(min=0).unbind(1)
            self.owner[points], self.second_owner[points] = owners.unbind(1)
        self._changed(before)

    def _changed(self, before: Tensor) -> None:
        """Update the sums after :attr:`nearest` changed from ``before``."""
        for points in self._pieces((self.nearest != before).nonzero().squeeze(1)):
            found, new, old = self.distances(points), self.nearest[points, None], before[points, None]
            self.cost += (torch.minimum(found, new) - torch.minimum(found, old)).sum(dim=0, dtype=torch.float64)
            self.reach += (found < new).sum(dim=0) - (found < old).sum(dim=0)
        as_it_is = torch.zeros(1, len(self.rows), dtype=torch.bool, device=self.rows.device)
        self.entropy, self.mutual = self.agreement.clusters(self.owner).after(as_it_is)
        self.delta = float(self.agreement.delta(self.entropy, self.mutual))
        self.value = self.gamma * self.delta - float(self.nearest.sum(dtype=torch.float64))

    def _delta_at_most(self, moved: Tensor) -> Tensor:
        """Upper bound of 1 - NMI after this many points (n,) changed cluster.

        The identity and destination of the moved points have entropy of at most ``slack``, and together with either
        clustering they determine the other.
        """
        share = (moved.double() / len(self.rows)).clamp(max=1)
        slack = share * math.log(len(self.medoids) + 1) - torch.xlogy(share, share) - torch.xlogy(1 - share, 1 - share)
        return self.agreement.delta(self.entropy + slack, (self.mutual - slack).clamp(min=0))


class _Agreement:
    """Agreement of a clustering with the classes."""

    def __init__(self, codes: Tensor, *, geometric: bool) -> None:
        self.codes, self.geometric = codes, geometric
        self.class_count = int(codes.max()) + 1
        counts = torch.arange(len(codes) + 1, dtype=torch.float64, device=codes.device)
        self.count_log = torch.xlogy(counts, counts)
        """(n + 1,) k log k of each number k: entropies are sums of these."""
        self.class_entropy = math.log(len(codes)) - float(self.count_log[torch.bincount(codes)].sum()) / len(codes)

    def clusters(self, owner: Tensor) -> _Clusters:
        return _Clusters(self, owner)

    def delta(self, entropy: Tensor, mutual: Tensor) -> Tensor:
        """1 - NMI from the entropy of the clusters and their mutual information with the classes; 1 with one cluster."""
        both = entropy.clamp(min=0)
        norm = (both * self.class_entropy).sqrt() if self.geometric else (both + self.class_entropy) / 2
        return 1 - torch.where(norm > 0, mutual.clamp(min=0) / torch.where(norm > 0, norm, 1.0), 0.0)


class _Clusters:
    """Entropies of a clustering after points move to a new cluster."""

    def __init__(self, agreement: _Agreement, owner: Tensor) -> None:
        self.agreement, self.owner = agreement, owner
        self.sizes = torch.bincount(owner)
        cells = owner * agreement.class_count + agreement.codes  # points of one cluster and one class
        _, self.cell, self.cell_sizes = torch.unique(cells, return_inverse=True, return_counts=True)

    def after(self, moved: Tensor) -> tuple[Tensor, Tensor]:
        """Entropy (m,) and mutual information with the classes (m,) after the points of each row (m, n) moved."""
        logs, count = self.agreement.count_log, len(self.owner)
        alternative, point = moved.nonzero(as_tuple=True)
        own = self._left(self.sizes, self.owner, alternative, point, len(moved)) + logs[moved.sum(dim=1)]
        joint = self._left(self.cell_sizes, self.cell, alternative, point, len(moved))
        places, new = torch.unique(
            alternative * self.agreement.class_count + self.agreement.codes[point], return_counts=True
        )
        joint.index_add_(0, places // self.agreement.class_count, logs[new])
        entropy = math.log(count) - own / count
        return entropy, entropy + self.agreement.class_entropy - (math.log(count) - joint / count)

    def _left(self, sizes: Tensor, group: Tensor, alternative: Tensor, point: Tensor, alternatives: int) -> Tensor:
        """(m,) sum of k log k over groups, recomputed only for the groups that points left."""
        logs = self.agreement.count_log
        places, gone = torch.unique(alternative * len(sizes) + group[point], return_counts=True)
        before = sizes[places % len(sizes)]
        sums = logs[sizes].sum().expand(alternatives).clone()
        return sums.index_add_(0, places // len(sizes), logs[before - gone] - logs[before])


@describe(
    name="facility_location",
    paper="Song, Jegelka, Rathod, Murphy: Deep Metric Learning via Facility Location, CVPR 2017",
    batch="at least 2 classes, and more images than classes",
    normalises="embeddings",
    defaults_source="TensorFlow's cluster loss: gamma 1, five passes of swaps; distances as in the paper",
    cost="about O(B^2 D log B) time, about O(B^3) where rows coincide, as in a collapsed batch; O(B D) memory and one block",
    choose_when="the clusters themselves are what is wanted, and batches are small; slow",
    forms=[{"distance": "squared", "passes": 0}, {"nmi": "arithmetic", "distance": "squared"}],
    traits=Traits(order="searched"),
)
class FacilityLocationLoss(Loss):
    """Module form of :func:`facility_location_loss`.

    >>> points = torch.tensor([[2.0, 0.0], [1.2, 1.6], [0.0, 1.0], [-3.0, 0.0]])
    >>> FacilityLocationLoss()(points, torch.tensor([0, 0, 1, 1]))
    tensor(1.4362)
    """

    def __init__(
        self,
        *,
        gamma: float = 1.0,
        distance: Literal["l2", "squared"] = "l2",
        nmi: Literal["geometric", "arithmetic"] = "geometric",
        passes: int = 5,
    ) -> None:
        super().__init__()
        self.gamma = check_number("gamma", gamma, at_least=0)
        check_choice("distance", distance, ["l2", "squared"])
        check_choice("nmi", nmi, ["geometric", "arithmetic"])
        if not is_whole(passes) or passes < 0:
            raise SettingsError(f"passes must be a whole number >= 0; got {passes!r}.")
        self.distance, self.nmi, self.passes = distance, nmi, int(passes)

    def forward(self, embeddings: Tensor, labels: Tensor | None = None, indices_tuple: None = None) -> Tensor:
        """(B, D), (B,) -> (); see :func:`facility_location_loss`.

        ``indices_tuple`` exists for compatibility with pytorch-metric-learning's trainers.

        Raises:
            SettingsError: pairs were given.
            SizeError: labels are missing, or shapes do not fit.
        """
        if indices_tuple is not None:
            raise SettingsError("FacilityLocationLoss compares whole clusterings of the batch; take the miner away.")
        return facility_location_loss(
            embeddings, given(labels), gamma=self.gamma, distance=self.distance, nmi=self.nmi, passes=self.passes
        )
