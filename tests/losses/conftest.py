"""Batches that several loss tests share. Nothing here comes from the code under test."""

import random

import pytest
import torch


@pytest.fixture
def h6():
    """Six points in three classes whose lengths differ: 5, 10, 5, 3, 6, 1."""
    rows = [[3, 4, 0], [0, 6, 8], [4, 3, 0], [1, 2, 2], [4, -2, 4], [0, 0.8, 0.6]]
    return torch.tensor(rows, dtype=torch.float64), torch.tensor([0, 0, 1, 1, 2, 2])


@pytest.fixture
def h5(h6):
    """The first five of them: class 2 has one image."""
    return h6[0][:5], torch.tensor([0, 0, 1, 1, 2])


@pytest.fixture
def e4():
    """Four points in the plane, to be checked by hand."""
    return torch.tensor([[2, 0], [1.2, 1.6], [0, 1], [-3, 0]], dtype=torch.float64), torch.tensor([0, 0, 1, 1])


@pytest.fixture
def gradient():
    """``gradient(loss, embeddings, labels)``: d loss / d raw embeddings."""

    def of(loss, embeddings, labels):
        leaf = embeddings.clone().requires_grad_()
        loss(leaf, labels).backward()
        return leaf.grad

    return of


def _ragged(seed, size=None, dim=5):
    """Random points, classes of random size (some of one image), labels far apart and in random order."""
    draw = random.Random(seed)
    size = size or draw.randint(8, 64)
    names = [draw.randint(-(2**40), 2**40) for _ in range(max(2, size // 4))]
    labels = torch.tensor([draw.choice(names) for _ in range(size)])
    generator = torch.Generator().manual_seed(seed)
    lengths = torch.rand(size, 1, generator=generator, dtype=torch.float64) * 9 + 0.1
    return torch.randn(size, dim, generator=generator, dtype=torch.float64) * lengths, labels


@pytest.fixture
def ragged():
    """``ragged(seed, size=None)`` -> (embeddings, labels)."""
    return _ragged


@pytest.fixture
def pml():
    """pytorch-metric-learning, if it is installed."""
    return pytest.importorskip("pytorch_metric_learning")
