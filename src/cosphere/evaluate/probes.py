"""Probes: how much of the classes can be read off frozen features. Weighted k-nearest neighbours and a linear layer.

Sources: InstDisc's weighted vote (Wu et al., CVPR 2018) as solo-learn's WeightedKNNClassifier has it; the linear evaluation of the
SEC authors' self-supervised code.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from cosphere.errors import SettingsError, SizeError
from cosphere.search import search
from cosphere.search.cosines import Rows
from cosphere.tensors import check_embeddings

Integers = npt.NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class NearestVote:
    """What weighted neighbours said."""

    predictions: Integers
    """(Q,) the label with the most votes; of equal ones the smallest."""
    log_votes: npt.NDArray[np.float64]
    """(Q, C) log of the summed weights; -inf where no neighbour has that class. Columns as ``classes``."""
    classes: Integers
    """(C,) labels, ascending."""

    def accuracy(self, labels: Any) -> float:
        """Share of right predictions, in [0, 1]. Takes (Q,) integers."""
        return float((self.predictions == np.asarray(labels)).mean())


def nearest_vote(queries: Rows, train: Rows, labels: Any, *, k: int = 20, temperature: float = 0.07) -> NearestVote:
    """Classify by the k nearest training images, each voting with ``exp(cosine / temperature)``.

    Args:
        queries: (Q, D) float.
        train: (N, D) float.
        labels: (N,) integers.
        k: neighbours; solo-learn takes 20, InstDisc 200. More than N means N.
        temperature: > 0; solo-learn 0.07, InstDisc 0.1.

    Raises:
        SizeError: shapes that do not fit.
        SettingsError: a setting out of range.
    """
    if isinstance(k, bool) or not isinstance(k, int) or k < 1 or not temperature > 0:
        raise SettingsError(f"want k >= 1 and a temperature > 0, got {k!r} and {temperature!r}.")
    names = np.asarray(labels)
    if names.shape != (len(train),) or names.dtype.kind not in "iu":
        raise SizeError(f"want labels ({len(train)},) integers, one a training row, got {names.shape} {names.dtype}.")
    classes, codes = np.unique(names, return_inverse=True)
    found = search(queries, train, k=min(k, len(train)))
    weights = found.scores.double() / temperature
    columns = torch.from_numpy(codes)[found.ids]
    top = weights[:, :1]  # exp(1 / 0.01) would overflow; the largest is taken out and put back
    votes = torch.zeros(len(weights), len(classes), dtype=torch.float64).scatter_add_(1, columns, (weights - top).exp())
    log_votes = (votes.log() + top).numpy()
    return NearestVote(classes[log_votes.argmax(axis=1)].astype(np.int64), log_votes, classes.astype(np.int64))


@dataclass(frozen=True, kw_only=True)
class LinearProbe:
    """Accuracy of a linear layer on frozen features. Fractions."""

    final: float
    """After the last epoch: the number to report."""
    best: float
    """The best epoch's on the same test images: optimistic, because it was chosen on them."""
    train: float
    """On the training features, after the last epoch."""


def linear_probe(
    train: Tensor,
    train_labels: Tensor,
    test: Tensor,
    test_labels: Tensor,
    *,
    recipe: Literal["sgd", "lbfgs"] = "lbfgs",
    epochs: int = 100,
    rate: float = 5.0,
    batch_size: int = 256,
    decay: float = 1e-4,
    seed: int = 0,
) -> LinearProbe:
    """Train a linear layer on frozen features and score it.

    Args:
        train: (N, D) float features of the training images.
        train_labels: (N,) integers.
        test: (M, D) float.
        test_labels: (M,) integers, of the training classes.
        recipe: "lbfgs": multinomial logistic regression to convergence on standardised features, with ``decay`` as the weight
            of ``||W||^2 / 2``: no rate to tune. "sgd": the SEC authors' recipe: batches of 256, momentum 0.9, no decay, the
            rate times 0.2 after 60, 75 and 90 % of the epochs; without their crops, since features are fixed.
        epochs: passes of "sgd"; most iterations of "lbfgs".
        rate: of "sgd".
        batch_size: of "sgd".
        decay: of "lbfgs".
        seed: of the first weights and the order of "sgd".

    Raises:
        SizeError: shapes that do not fit, or a test label that training has not.
        SettingsError: an unknown recipe.
    """
    check_embeddings(train, name="train")
    check_embeddings(test, name="test")
    classes, codes = torch.unique(train_labels, return_inverse=True)
    if train_labels.shape != (len(train),) or test_labels.shape != (len(test),) or train.shape[1] != test.shape[1]:
        raise SizeError(
            f"want features (N, D) with labels (N,), got {tuple(train.shape)} with {tuple(train_labels.shape)} and "
            f"{tuple(test.shape)} with {tuple(test_labels.shape)}."
        )
    if not bool(torch.isin(test_labels, classes).all()):
        raise SizeError("a test label does not occur in training; a probe can only name classes it has seen.")
    wanted = torch.searchsorted(classes, test_labels)
    if recipe == "lbfgs":
        return _lbfgs(train.double(), codes, test.double(), wanted, len(classes), epochs, decay)
    if recipe != "sgd":
        raise SettingsError(f"the recipe is 'lbfgs' or 'sgd'; got {recipe!r}.")
    return _sgd(train.float(), codes, test.float(), wanted, len(classes), epochs, rate, batch_size, seed)


def _accuracy(layer: nn.Linear, features: Tensor, codes: Tensor) -> float:
    with torch.no_grad():
        return float((layer(features).argmax(dim=1) == codes).double().mean())


def _lbfgs(
    train: Tensor, codes: Tensor, test: Tensor, wanted: Tensor, classes: int, iterations: int, decay: float
) -> LinearProbe:
    mean, spread = train.mean(dim=0), train.std(dim=0, correction=0)
    spread = torch.where(spread > 0, spread, 1.0)  # a dead feature stays at zero
    train, test = (train - mean) / spread, (test - mean) / spread
    layer = nn.Linear(train.shape[1], classes, dtype=train.dtype, device=train.device)
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)
    optimizer = torch.optim.LBFGS(layer.parameters(), max_iter=iterations, line_search_fn="strong_wolfe")

    def objective() -> Tensor:
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(layer(train), codes) + decay / 2 * layer.weight.square().sum()
        torch.autograd.backward(loss)
        return loss

    optimizer.step(objective)  # type: ignore[no-untyped-call,unused-ignore]
    final = _accuracy(layer, test, wanted)
    return LinearProbe(final=final, best=final, train=_accuracy(layer, train, codes))


def _sgd(
    train: Tensor,
    codes: Tensor,
    test: Tensor,
    wanted: Tensor,
    classes: int,
    epochs: int,
    rate: float,
    batch_size: int,
    seed: int,
) -> LinearProbe:
    generator = torch.Generator().manual_seed(seed)
    layer = nn.Linear(train.shape[1], classes, device=train.device)
    with torch.no_grad():
        layer.weight.copy_(torch.randn(layer.weight.shape, generator=generator) * 0.01)
        layer.bias.zero_()
    optimizer = torch.optim.SGD(layer.parameters(), lr=rate, momentum=0.9)
    marks = [round(share * epochs) for share in (0.6, 0.75, 0.9)]
    schedule = torch.optim.lr_scheduler.MultiStepLR(optimizer, marks, gamma=0.2)
    found = []
    for _ in range(epochs):
        for rows in torch.split(torch.randperm(len(train), generator=generator).to(train.device), batch_size):
            optimizer.zero_grad()
            torch.autograd.backward(nn.functional.cross_entropy(layer(train[rows]), codes[rows]))
            optimizer.step()
        schedule.step()
        found.append(_accuracy(layer, test, wanted))
    return LinearProbe(final=found[-1], best=max(found), train=_accuracy(layer, train, codes))
