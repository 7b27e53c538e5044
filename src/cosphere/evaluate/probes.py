"""Probes of frozen features: weighted k-nearest neighbours and a linear layer.

Sources: InstDisc's weighted vote (Wu et al., CVPR 2018) as in solo-learn's WeightedKNNClassifier; the linear evaluation of the
SEC authors' self-supervised code.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from cosphere.checks import MOST_IMAGES, check_choice, check_number, check_seed, check_whole
from cosphere.errors import DataError, DivergenceError, SizeError
from cosphere.rows import Matrix, as_array, check_rows, widened
from cosphere.search import search


@dataclass(frozen=True, eq=False)
class NearestVote:
    """Result of :func:`nearest_vote`."""

    predictions: npt.NDArray[np.integer[Any]]
    """(Q,) the label with the most votes, of the type of the labels; the smallest of equals."""
    log_votes: npt.NDArray[np.float64]
    """(Q, C) log of the summed weights; -inf where no neighbour has that class. Columns as ``classes``."""
    classes: npt.NDArray[np.integer[Any]]
    """(C,) labels, ascending, of their type."""

    def accuracy(self, labels: Any) -> float:
        """Share of right predictions, in [0, 1]. Takes (Q,) integers.

        Raises:
            SizeError: not one label for each query.
        """
        return float((self.predictions == _labels(labels, len(self.predictions), "labels")).mean())


def _labels(labels: Any, count: int, name: str) -> npt.NDArray[Any]:
    values = as_array(labels)
    if values.shape != (count,) or values.dtype.kind not in "iu":
        raise SizeError(
            f"want {name} ({count},) integers, one for each row, got {values.shape} {values.dtype}. "
            "Take both from the same images."
        )
    return values


def nearest_vote(queries: Matrix, train: Matrix, labels: Any, *, k: int = 20, temperature: float = 0.07) -> NearestVote:
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
    check_whole("k", k, least=1)
    check_number("temperature", temperature, above=0)
    check_rows(train, "train")
    names = _labels(labels, len(train), "labels")
    classes, codes = np.unique(names, return_inverse=True)
    neighbours = search(queries, train, k=min(k, len(train)))
    weights = neighbours.scores.double() / temperature
    columns = torch.from_numpy(codes)[neighbours.ids]
    top = weights[:, :1]  # exp(1 / 0.01) would overflow: subtract the largest, add it back below
    votes = torch.zeros(len(weights), len(classes), dtype=torch.float64).scatter_add_(1, columns, (weights - top).exp())
    log_votes = (votes.log() + top).numpy()
    return NearestVote(classes[log_votes.argmax(axis=1)], log_votes, classes)


@dataclass(frozen=True, kw_only=True)
class LinearProbe:
    """Accuracy of a linear layer on frozen features. Fractions."""

    final: float
    """After the last epoch: the number to report."""
    best: float
    """Of the best epoch on the same test images: optimistic, because the epoch was chosen on them."""
    train: float
    """On the training features, after the last epoch."""


def linear_probe(
    train: Matrix,
    train_labels: Any,
    test: Matrix,
    test_labels: Any,
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
        train: (N, D) float features of the training images. A tensor's device does the work.
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
        seed: of the initial weights and the batch order of "sgd".

    Raises:
        SizeError: shapes that do not fit, or a test label that does not occur in training.
        DataError: a feature is NaN or infinite.
        SettingsError: an unknown recipe, or a setting out of range.
        DivergenceError: "sgd" diverged at this rate.
    """
    check_choice("recipe", recipe, ("lbfgs", "sgd"))
    check_whole("epochs", epochs, least=1, most=10**6)
    check_seed(seed)
    check_whole("batch_size", batch_size, least=1, most=MOST_IMAGES)
    check_number("rate", rate, above=0)
    check_number("decay", decay, at_least=0)
    features, queries = _features(train, "train"), _features(test, "test")
    if features.shape[1] != queries.shape[1]:
        raise SizeError(
            f"train has {features.shape[1]} dimensions, test {queries.shape[1]}. Embed both with the same model."
        )
    classes, codes = np.unique(_labels(train_labels, len(features), "train_labels"), return_inverse=True)
    names = _labels(test_labels, len(queries), "test_labels")
    if not np.isin(names, classes).all():
        raise SizeError("a test label does not occur in training; a probe can only name classes it has seen.")
    seen = torch.from_numpy(codes).to(features.device)
    truth = torch.from_numpy(np.searchsorted(classes, names)).to(features.device)
    queries = queries.to(features.device)
    if recipe == "lbfgs":
        return _lbfgs(features, seen, queries, truth, len(classes), epochs, decay)
    return _sgd(features.float(), seen, queries.float(), truth, len(classes), epochs, rate, batch_size, seed)


def _features(rows: Matrix, name: str) -> Tensor:
    """(N, D) float64, of raw length."""
    check_rows(rows, name)
    features = widened(rows)
    if not bool(torch.isfinite(features).all()):  # the layer would become NaN and predict the first class everywhere
        raise DataError(f"{name} holds NaN or infinity. Leave those images out, or embed again in float32.")
    return features


def _accuracy(layer: nn.Linear, features: Tensor, codes: Tensor) -> float:
    with torch.no_grad():
        return float((layer(features).argmax(dim=1) == codes).double().mean())


def _lbfgs(
    train: Tensor, codes: Tensor, test: Tensor, truth: Tensor, classes: int, iterations: int, decay: float
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
    final = _accuracy(layer, test, truth)
    return LinearProbe(final=final, best=final, train=_accuracy(layer, train, codes))


def _sgd(
    train: Tensor,
    codes: Tensor,
    test: Tensor,
    truth: Tensor,
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
    accuracies = []
    for _ in range(epochs):
        for rows in torch.split(torch.randperm(len(train), generator=generator).to(train.device), batch_size):
            optimizer.zero_grad()
            torch.autograd.backward(nn.functional.cross_entropy(layer(train[rows]), codes[rows]))
            optimizer.step()
        schedule.step()
        accuracies.append(_accuracy(layer, test, truth))
    if not bool(torch.isfinite(layer.weight).all()):
        raise DivergenceError(
            f"the probe's weights are no longer finite numbers at rate {rate:g}. Lower it, scale the features, or take 'lbfgs'."
        )
    return LinearProbe(final=accuracies[-1], best=max(accuracies), train=_accuracy(layer, train, codes))
