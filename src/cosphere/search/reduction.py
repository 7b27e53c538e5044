"""Dimensionality reduction: the first d dimensions, or the d principal ones."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from cosphere.checks import check_whole
from cosphere.rows import Matrix, check_widths, unit_rows

_CHUNK_ROWS = 4096


@dataclass(frozen=True, eq=False)
class Reduction:
    """A linear map of unit rows from D to d dimensions. Its results are compared by cosine, so lengths do not matter."""

    mean: Tensor
    """(D,) float64, subtracted from unit rows first."""
    basis: Tensor
    """(D, d) float64, orthonormal columns."""

    @property
    def dim(self) -> int:
        """D."""
        return self.basis.shape[0]

    def __call__(self, embeddings: Matrix) -> Tensor:
        """(N, D) -> (N, d) float32 rows of length 1 (0 where nothing is left), on the CPU."""
        unit = unit_rows(embeddings)
        check_widths(unit.width, self.dim)
        parts = [
            ((rows.cpu().double() - self.mean) @ self.basis).float() for rows in torch.split(unit.rows, _CHUNK_ROWS)
        ]
        return unit_rows(torch.cat(parts)).rows


def first_dimensions(dim: int, size: int) -> Reduction:
    """Keep the first ``size`` of D dimensions, re-normalised. A fair comparison only for embeddings trained for it."""
    check_whole("size", size, least=1, most=dim)
    return Reduction(torch.zeros(dim, dtype=torch.float64), torch.eye(dim, dtype=torch.float64)[:, :size])


def principal_dimensions(rows: Matrix, size: int) -> Reduction:
    """Keep the ``size`` principal components of the centred unit rows, re-normalised; no whitening.

    Args:
        rows: (N, D) float, to learn from; O(D^2) memory.
        size: d, from 1 to D. If the rows span fewer dimensions, the rest hold rounding noise only.
    """
    unit = unit_rows(rows, name="training rows")
    check_whole("size", size, least=1, most=unit.width)
    mean = torch.zeros(unit.width, dtype=torch.float64)
    for part in torch.split(unit.rows, _CHUNK_ROWS):
        mean += part.cpu().double().sum(dim=0)
    mean /= unit.size
    scatter = torch.zeros(unit.width, unit.width, dtype=torch.float64)
    for part in torch.split(unit.rows, _CHUNK_ROWS):
        centred = part.cpu().double() - mean
        scatter += centred.T @ centred
    vectors = torch.linalg.eigh(scatter).eigenvectors
    return Reduction(mean, vectors.flip(1)[:, :size].contiguous())
