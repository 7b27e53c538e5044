"""What works on the CPU works on another device: nothing is mixed, the numbers are equal, and the host seldom waits.

The second device is a pretended one (devices.py); a real GPU is not needed.
"""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pytest
import torch
from devices import DEVICE, MixedDevices, Remote, second_device, sent
from torch import Tensor

from cosphere import evaluate, losses, search
from cosphere.codes import from_bits, hamming, to_bits
from cosphere.health import embedding_health
from cosphere.images import preset
from cosphere.norm_lens import gradient_lens, step_lens
from cosphere.spherical import SphericalConstraint
from cosphere.train.ledger import step_numbers
from cosphere.train.objective import Objective
from cosphere.train.settings import SecSettings

NAMES = [about.name for about in losses.table()]
REFERENCED = [
    name
    for name in NAMES
    if "references" in inspect.signature(getattr(losses, losses.about(name).title).forward).parameters
]
LABELS = torch.tensor([0, 0, 0, 1, 1, 2, 2, 2, 2, 3, 0, 1])


def points(rows: int = 12, dim: int = 4, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    lengths = 0.5 + 5 * torch.rand(rows, 1, generator=generator, dtype=torch.float64)
    return torch.randn(rows, dim, generator=generator, dtype=torch.float64) * lengths


def build(name: str, **settings: Any) -> losses.Loss:
    torch.manual_seed(5)
    return losses.build(name, num_classes=4, dim=4, **settings).double().train()


# The tester itself


def reads_of(function: Callable[[Tensor], Any]) -> int:
    with second_device() as reads:
        function(sent(torch.arange(6.0)))
        return reads.total()


@pytest.mark.parametrize(
    ("function", "expected"),
    [
        (lambda x: (x * 2).sum().sqrt(), 0),
        (lambda x: x[:3] + torch.ones(3, device=x.device), 0),
        (lambda x: x[x.long()], 0),
        (lambda x: x.masked_fill_(x > 2, 0.0), 0),
        (lambda x: torch.where(x > 2, x, 1.0), 0),
        (lambda x: x.sum().item(), 1),
        (lambda x: bool((x > 2).any()), 1),
        (lambda x: [float(value) for value in x], 6),
        (lambda x: x.tolist(), 1),
        (lambda x: x.cpu(), 1),
        (lambda x: x.nonzero(), 1),
        (lambda x: x[x > 2], 1),
        (lambda x: torch.unique(x, return_inverse=True), 1),
        (lambda x: torch.bincount(x.long()), 1),
        (lambda x: torch.equal(x, x), 1),
        (lambda x: torch.zeros(6).copy_(x), 1),
        (lambda x: x.repeat_interleave(x.long()), 1),
    ],
)
def test_reads_back_are_counted(function: Callable[[Tensor], Any], expected: int) -> None:
    assert reads_of(function) == expected


@pytest.mark.parametrize(
    "function",
    [
        lambda x: x + torch.ones(6),
        lambda x: torch.cat([x, torch.ones(6)]),
        lambda x: torch.ones(6)[x.long()],
        lambda x: torch.ones(6).add_(x),
        lambda x: torch.ones(()).add_(x.sum()),
        lambda x: x.index_put_((torch.arange(2),), torch.ones(2)),
        lambda x: torch.rand(6, generator=torch.Generator(), device=x.device),
        lambda x: torch.full_like(x, 0.5).bernoulli_(generator=torch.Generator()),
    ],
)
def test_mixing_devices_raises(function: Callable[[Tensor], Any]) -> None:
    with pytest.raises(MixedDevices):
        reads_of(function)


@pytest.mark.parametrize("convert", [lambda x: x.numpy(), np.asarray], ids=["numpy", "asarray"])
def test_numpy_needs_a_copy_to_the_host(convert: Callable[[Tensor], Any]) -> None:
    with pytest.raises((RuntimeError, TypeError)):
        reads_of(convert)
    reads_of(lambda x: convert(x.cpu()))


def test_gradients_and_modules_live_there() -> None:
    with second_device() as reads:
        layer = sent(torch.nn.Linear(3, 2))
        inputs = torch.ones(5, 3, device=DEVICE)
        layer(inputs).square().sum().backward()
        assert isinstance(layer.weight.grad, Remote)
        assert layer.weight.device == layer.weight.grad.device == DEVICE
        assert reads.total() == 0


def test_a_loss_that_mixes_devices_or_reads_too_often_is_caught() -> None:
    def mixes(rows: Tensor, labels: Tensor) -> Tensor:
        return (rows @ rows.T)[labels[:, None] == torch.unique(labels.cpu())].sum()

    def waits(rows: Tensor, labels: Tensor) -> Tensor:
        return torch.stack([rows[labels == int(label)].sum() for label in labels]).sum()

    with pytest.raises(MixedDevices):
        run_loss(mixes)
    assert run_loss(waits)[1].total() > USUAL_READS


def test_the_line_that_reads_is_named() -> None:
    assert "tensors.py" in " ".join(run_loss(build("triplet"))[1])


# Losses

USUAL_READS = 7
"""Per call with its gradients. A read costs a GPU some ten microseconds and keeps the host from running ahead."""
MORE_READS = {
    "attention_ensemble": 12,  # several learners, each a loss
    "boosted_binomial": 18,  # likewise
    "adaface": 10,  # measures its classes before it compares with them
    "curricularface": 12,  # likewise
    "facility_location": 250,  # a greedy search in which each step depends on the one before
    "histogram": 11,
    "margin": 8,
    "n_pair": 10,
    "normalized_n_pair": 14,
}


def run_loss(loss: Callable[[Tensor, Tensor], Tensor]) -> tuple[list[Tensor], Any]:
    """Value and gradients computed on the second device, back on the CPU, and the reads that it took."""
    with second_device() as reads:
        rows, labels, loss = sent(points()).requires_grad_(), sent(LABELS), sent(loss)
        reads.clear()
        torch.manual_seed(6)
        value = loss(rows, labels)
        value.backward()
        counts = reads.copy()
        assert value.device == rows.grad.device == DEVICE
        parameters = loss.parameters() if isinstance(loss, torch.nn.Module) else ()
        slopes = [parameter.grad for parameter in parameters if parameter.grad is not None]
        return [part.detach().cpu() for part in (value, rows.grad, *slopes)], counts


@pytest.mark.parametrize("name", NAMES)
def test_losses(name: str) -> None:
    loss = build(name)
    rows = points().requires_grad_()
    torch.manual_seed(6)
    value = loss(rows, LABELS)
    value.backward()
    slopes = [parameter.grad for parameter in loss.parameters() if parameter.grad is not None]
    there, reads = run_loss(build(name))
    assert len(there) == 2 + len(slopes)
    for here, other in zip((value.detach(), rows.grad, *slopes), there, strict=True):
        torch.testing.assert_close(other, here)
    assert reads.total() <= MORE_READS.get(name, USUAL_READS), dict(reads)


@pytest.mark.parametrize("name", REFERENCED)
def test_losses_with_references(name: str) -> None:
    """As CrossBatchMemory calls them."""
    loss, other = build(name), points(20, seed=1)
    other_labels = torch.arange(20) % 4
    here = loss(points(), LABELS, references=other, reference_labels=other_labels)
    with second_device():
        there = sent(build(name))(
            sent(points()), sent(LABELS), references=sent(other), reference_labels=sent(other_labels)
        )
        torch.testing.assert_close(there.cpu(), here)


def test_the_memory_follows_its_loss() -> None:
    with second_device() as reads:
        memory = sent(losses.CrossBatchMemory(build("multi_similarity"), embedding_dim=4, size=24).double())
        for seed in range(4):
            rows = sent(points(seed=seed)).requires_grad_()
            reads.clear()
            memory(rows, sent(LABELS)).backward()
            assert rows.grad.isfinite().all().cpu()
            assert reads.total() <= 16, dict(reads)


@pytest.mark.parametrize(("radius", "most"), [("batch", 0), ("ema", 0), ("learned", 4), (2.0, 0)])
def test_the_constraint_seldom_waits(radius: str | float, most: int) -> None:
    constraint = SphericalConstraint(radius).double()
    expected = [constraint(points(seed=seed)).item() for seed in range(3)]
    with second_device() as reads:
        there = sent(SphericalConstraint(radius).double())
        values = [there(sent(points(seed=seed))) for seed in range(3)]
        assert reads.total() <= most, dict(reads)
        assert [value.item() for value in values] == pytest.approx(expected)


# A step of training

READS_OF_A_STEP = 10
"""Beside those of its loss: the logged numbers, the cosines among them, and the norm that clips the gradients."""


def train_step(
    network: torch.nn.Module, objective: Objective, optimizer: torch.optim.Optimizer, rows: Tensor
) -> Tensor:
    """What :class:`cosphere.train.loop.Training` does with a batch on its device."""
    network.train()
    embeddings = network(rows)
    labels = torch.arange(len(rows), device=rows.device) // 3
    terms = objective(embeddings, labels, step=0)
    terms.total.backward()
    numbers = step_numbers(embeddings, labels, *terms).cpu()
    torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    return numbers


def parts_of_training(name: str, kind: type[torch.optim.Optimizer], send: Callable[[Any], Any]) -> Any:
    torch.manual_seed(4)
    network = torch.nn.Sequential(
        torch.nn.Linear(6, 8), torch.nn.BatchNorm1d(8), torch.nn.ReLU(), torch.nn.Linear(8, 4)
    )
    network = send(network.double())
    loss, constraint = send(build(name)), send(SphericalConstraint("ema").double())
    objective = Objective(loss, constraint, SecSettings(weight=0.1), steps=10)
    parameters = [*network.parameters(), *loss.parameters(), *constraint.parameters()]
    return network, objective, kind(parameters, lr=0.01)


@pytest.mark.parametrize("kind", [torch.optim.SGD, torch.optim.Adam, torch.optim.AdamW])
@pytest.mark.parametrize("name", ["multi_similarity", "triplet", "norm_softmax", "margin"])
def test_training_steps(name: str, kind: type[torch.optim.Optimizer]) -> None:
    rows = torch.randn(12, 6, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    here = parts_of_training(name, kind, lambda value: value)
    torch.manual_seed(6)
    expected = [train_step(*here, rows) for _ in range(3)]
    with second_device() as reads:
        parts, sent_rows = parts_of_training(name, kind, sent), sent(rows)
        torch.manual_seed(6)
        for numbers in expected:
            reads.clear()
            torch.testing.assert_close(train_step(*parts, sent_rows), numbers)
            assert reads.total() <= MORE_READS.get(name, USUAL_READS) + READS_OF_A_STEP, dict(reads)
        for one, other in zip(here[0].parameters(), parts[0].parameters(), strict=True):
            assert other.device == DEVICE
            torch.testing.assert_close(other.detach().cpu(), one.detach())


# Views


@pytest.mark.parametrize("name", ["simclr-cifar", "simclr-224"])
def test_views_are_finished_there_without_waiting(name: str) -> None:
    sizes, augmentation = preset(name, 16)
    pixels = torch.randint(0, 256, (24, 3, 16, 16), generator=torch.Generator().manual_seed(0)).to(torch.uint8)
    expected = augmentation.finished(pixels, sizes, np.arange(24))
    with second_device() as reads:
        there = augmentation.finished(sent(pixels), sizes, np.arange(24))
        assert there.device == DEVICE
        assert reads.total() == 0, dict(reads)
        assert torch.equal(there.cpu(), expected)


# Search, evaluation, health

ROWS = 60
CLASSES = torch.arange(ROWS) % 6
SEQUENCES = torch.arange(ROWS) // 20


def embeddings() -> Tensor:
    rows = torch.randn(ROWS, 16, generator=torch.Generator().manual_seed(0))
    rows[:, :6] += 2 * torch.eye(6)[CLASSES]
    return rows


Call = Callable[[Tensor, Tensor, Tensor], Any]
CALLS: dict[str, tuple[Call, int]] = {
    "search": (lambda x, y, s: search.search(x, x, k=3, exclude=torch.arange(ROWS)), 15),
    "search, excluded rows there": (lambda x, y, s: search.search(x, x, k=3, exclude=y), 15),
    "search, all tie": (lambda x, y, s: search.search(x * 0 + 1, x * 0 + 1, k=3), 10 + 2 * ROWS),
    "asymmetric search": (lambda x, y, s: search.asymmetric_search(x, to_bits(x), k=3), 15),
    "reranked search": (lambda x, y, s: search.reranked_search(x, x, k=3), 15),
    "Hamming search": (lambda x, y, s: search.hamming_search(to_bits(x), to_bits(x), k=3), 10),
    "principal dimensions": (lambda x, y, s: search.principal_dimensions(x, 4).dim, 6),
    **{
        f"index {kind}": (lambda x, y, s, kind=kind: search.Index.build(x, kind=kind).search(x, k=3), 25)
        for kind in search.KINDS
        if kind != "pq"  # wants more rows
    },
    "bits": (lambda x, y, s: (to_bits(x), from_bits(to_bits(x), 16), hamming(to_bits(x), to_bits(x))), 12),
    "retrieval": (lambda x, y, s: evaluate.retrieval(x, y).as_dict(), 60),
    "retrieval, gallery": (lambda x, y, s: evaluate.retrieval(x, y, gallery=x + 0.1, gallery_labels=y).as_dict(), 60),
    "retrieval, groups": (lambda x, y, s: evaluate.retrieval(x, y, groups=s, metrics=("all",)).as_dict(), 80),
    "retrieval, categories": (lambda x, y, s: evaluate.retrieval(x, y, categories=y).as_dict(), 60),
    "retrieval, bits": (lambda x, y, s: evaluate.retrieval(to_bits(x), y).as_dict(), 60),
    "retrieval, zero rows": (lambda x, y, s: evaluate.retrieval(x * (s > 3)[:, None], y).as_dict(), 80),
    "retrieval, crowds that tie": (lambda x, y, s: evaluate.retrieval(x.sign() * (x > 2), y).as_dict(), 100),
    "retrieval, expected ties": (lambda x, y, s: evaluate.retrieval(x.round(), y, ties="expected").as_dict(), 80),
    "clustering": (lambda x, y, s: evaluate.clustering(x, y).as_dict(), 6),
    "agreement": (lambda x, y, s: evaluate.agreement(s, y), 4),
    "verification": (lambda x, y, s: evaluate.verification(x @ x[0], y == 0).as_dict(), 4),
    "thresholds": (lambda x, y, s: evaluate.threshold_table(x @ x[0], y == 0), 4),
    "calibrate": (lambda x, y, s: evaluate.calibrate(x, y, far=0.1), 25),
    "pair rates": (lambda x, y, s: evaluate.pair_rates(x, y, 0.5), 10),
    "open set": (lambda x, y, s: evaluate.open_set(x, y, threshold=0.3).as_dict(), 50),
    "nearest vote": (lambda x, y, s: evaluate.nearest_vote(x, x, y).accuracy(y), 15),
    "linear probe": (lambda x, y, s: evaluate.linear_probe(x, y, x, y, recipe="sgd", epochs=2), 15),
    "equal bytes": (
        lambda x, y, s: [form.values for form in evaluate.equal_bytes(x, y, bootstrap_samples=10).forms],
        500,
    ),
    "label suspects": (lambda x, y, s: evaluate.likely_mislabelled(x, y).as_rows(), 20),
    "identification": (lambda x, y, s: evaluate.identification(x, y, x + 5), 10),
    "templates": (lambda x, y, s: evaluate.pool_templates(x, y), 4),
    "bootstrap": (lambda x, y, s: evaluate.bootstrap(x[:, 0], samples=10), 2),
    "paired bootstrap": (lambda x, y, s: evaluate.paired_bootstrap(x[:, 0], x[:, 1], samples=10), 4),
    "bootstrap of classes": (lambda x, y, s: evaluate.bootstrap_classes(x[:, 0], y, samples=10), 4),
    "health": (lambda x, y, s: embedding_health(x, y).as_dict(), 35),
    "health of a sample": (lambda x, y, s: embedding_health(x, y, most=30).as_dict(), 35),
    "health with zero rows": (lambda x, y, s: embedding_health(x * (y > 0)[:, None], y).as_dict(), 40),
    "gradient lens": (lambda x, y, s: gradient_lens(x, x + 1), 2),
    "step lens": (lambda x, y, s: step_lens(x, x + 0.1), 2),
}
"""A call of the public functions on embeddings (60, 16), classes and sequences, and the most reads that it may take."""


def plain(value: Any) -> Any:
    """Numbers only, from wherever they are, so that two results compare."""
    if isinstance(value, Tensor):
        return value.detach().cpu().double().tolist()
    if isinstance(value, np.ndarray):
        return value.tolist()
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return plain({one.name: getattr(value, one.name) for one in dataclasses.fields(value)})
    if isinstance(value, Mapping):
        return {str(key): plain(part) for key, part in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(part) for part in value]
    return value


def flat(value: Any) -> list[Any]:
    if isinstance(value, dict):
        return [leaf for key in value for leaf in [key, *flat(value[key])]]
    return [leaf for part in value for leaf in flat(part)] if isinstance(value, list) else [value]


@pytest.mark.parametrize("name", CALLS)
def test_search_evaluation_and_health(name: str) -> None:
    call, most = CALLS[name]
    here = flat(plain(call(embeddings(), CLASSES, SEQUENCES)))
    with second_device() as reads:
        given = sent(embeddings()), sent(CLASSES), sent(SEQUENCES)
        reads.clear()
        result = call(*given)
        counts = reads.copy()
        there = flat(plain(result))
    assert words(there) == words(here)
    assert numbers(there) == pytest.approx(numbers(here), nan_ok=True)
    assert len(numbers(here)) > 0
    assert counts.total() <= most, dict(counts)


def numbers(leaves: list[Any]) -> list[float]:
    return [leaf for leaf in leaves if isinstance(leaf, (int, float))]


def words(leaves: list[Any]) -> list[Any]:
    return [leaf if not isinstance(leaf, (int, float)) else "number" for leaf in leaves]
