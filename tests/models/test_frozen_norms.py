"""Frozen batch norms applied through weights: the values and gradients of the plain network, in its modes, with its random numbers."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from cosphere.models.frozen_norms import FrozenNorms
from cosphere.models.heads import Features


def norm(width: int, *, activation: bool = False, **settings: Any) -> nn.Module:
    """Batch norm in evaluation mode that is not at its initial values."""
    from timm.layers import BatchNormAct2d

    layer = (
        BatchNormAct2d(width, act_layer=nn.ReLU6)  # type: ignore[no-untyped-call,unused-ignore]
        if activation
        else nn.BatchNorm2d(width, **settings)
    )
    for tensor in [layer.running_mean, *layer.parameters()]:
        nn.init.normal_(tensor)
    layer.running_var.uniform_(0.2, 3)
    return layer.eval()


class Residual(nn.Module):
    """A shortcut is added in place between a norm and its activation."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.first, self.two, self.second = nn.Conv2d(4, 4, 1), norm(4), nn.Conv2d(4, 4, 1), norm(4)

    def forward(self, images: Tensor) -> Tensor:
        rows = self.second(self.two(functional.relu_(self.first(self.one(images)))))
        rows += images
        return functional.relu_(rows)


class Shared(nn.Module):
    """One norm after two convolutions."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two, self.norm = nn.Conv2d(4, 4, 1), nn.Conv2d(4, 4, 1), norm(4)

    def forward(self, images: Tensor) -> Tensor:
        rows: Tensor = self.norm(self.one(images)) + self.norm(self.two(images))
        return rows


class Peeking(nn.Module):
    """What lies between the convolution and its norm is used a second time."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.norm = nn.Conv2d(4, 4, 1), norm(4)

    def forward(self, images: Tensor) -> Tensor:
        rows = self.one(images)
        return torch.cat([self.norm(rows), rows], dim=1)


def same(**how: Any) -> nn.Module:
    from timm.layers import Conv2dSame

    return Conv2dSame(4, 8, **how)


NETWORKS: dict[str, tuple[Callable[[], nn.Module], int]] = {
    "bias": (lambda: nn.Sequential(nn.Conv2d(4, 6, 3), norm(6, eps=0.1), nn.Conv2d(6, 5, 1), norm(5)), 2),
    "no bias": (lambda: nn.Sequential(nn.Conv2d(4, 6, 3, 2, 1, bias=False), norm(6, affine=False), nn.SiLU()), 1),
    "depthwise": (lambda: nn.Sequential(nn.Conv2d(4, 4, 3, 1, 2, 2, groups=4), norm(4), nn.ReLU(inplace=True)), 1),
    "TensorFlow": (lambda: nn.Sequential(same(kernel_size=5, stride=2), norm(8, activation=True)), 1),
    "residual": (Residual, 2),
    "shared": (Shared, 0),
    "peeking": (Peeking, 0),
    "norm first": (lambda: nn.Sequential(norm(4), nn.Conv2d(4, 6, 3)), 0),
    "trained norm": (lambda: nn.Sequential(nn.Conv2d(4, 6, 3), nn.BatchNorm2d(6).double()), 0),
}


def images() -> Tensor:
    return torch.randn(3, 4, 9, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


class Levels(nn.Module):
    """A network as a backbone."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def features(self, images: Tensor, levels: Sequence[int]) -> list[Features]:
        return [Features(self.network(images), lambda pooled: pooled) for _ in levels]


def passed(network: nn.Module, norms: FrozenNorms | None = None) -> tuple[list[Tensor], int]:
    """The result and all gradients, and the number of norms that were computed as layers."""
    given, calls = images().requires_grad_(), []
    layers = [layer for layer in network.modules() if isinstance(layer, nn.BatchNorm2d)]

    class Count(torch.overrides.TorchFunctionMode):
        def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            calls.append(function is functional.batch_norm)
            return function(*args, **(kwargs or {}))

    with torch.random.fork_rng():
        torch.manual_seed(0)
        with Count():
            if norms is None:
                result = network(given)
            else:
                norms.in_weights(Levels(network), [-1], given, frozen=True)  # proves it first
                calls.clear()
                with norms.in_weights(Levels(network), [-1], given, frozen=True):
                    result = network(given)
    assert layers
    (result * torch.linspace(-1, 1, result.numel()).view(result.shape)).sum().backward()
    gradients = [given.grad, *(one.grad for one in network.parameters())]
    network.zero_grad(set_to_none=True)
    return [result.detach(), *(one for one in gradients if one is not None)], sum(calls)


@pytest.mark.parametrize("kind", NETWORKS)
def test_values_and_gradients_are_those_of_the_plain_network(kind: str) -> None:
    torch.manual_seed(0)
    make, folded = NETWORKS[kind]
    network = make().double()
    plain, computed = passed(network)
    found, left = passed(network, FrozenNorms())
    assert computed - left == folded
    assert len(found) == len(plain)
    for one, other in zip(found, plain, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-12)


def test_a_layer_that_changed_after_the_proof_is_left_alone() -> None:
    torch.manual_seed(0)
    network, norms = NETWORKS["bias"][0]().double(), FrozenNorms()
    assert passed(network, norms)[1] == 0
    network[1].train()
    assert passed(network, norms)[1] == 1
    seen: list[Tensor] = []
    handle = network[2].register_forward_hook(lambda layer, given, result: seen.append(result))
    found, left = passed(network, norms)
    assert left == 2
    torch.testing.assert_close(found[0], network[3](seen[-1]).detach())
    handle.remove()
    network[1].eval()
    network[1].running_mean += 1
    torch.testing.assert_close(passed(network, norms)[0], passed(network)[0], rtol=1e-10, atol=1e-12)


def test_the_proof_draws_no_random_numbers_and_restores_modes() -> None:
    network = nn.Sequential(nn.Conv2d(4, 4, 1), norm(4), nn.Dropout()).double()
    modes = [part.training for part in network.modules()]
    assert passed(network, FrozenNorms())[1] == 0
    torch.testing.assert_close(passed(network, FrozenNorms())[0], passed(network)[0])
    assert [part.training for part in network.modules()] == modes


@pytest.mark.parametrize("given", ["meta", "no gradients", "features", "empty", "trained"])
def test_only_training_on_a_cpu_is_changed(given: str) -> None:
    batch = {
        "meta": torch.empty(1, 4, 2, 2, device="meta"),
        "features": torch.zeros(3, 4),
        "empty": torch.zeros(0, 4, 2, 2),
    }.get(given, images())
    with (
        torch.set_grad_enabled(given != "no gradients"),
        FrozenNorms().in_weights(nn.Identity(), [-1], batch, frozen=given != "trained") as mode,
    ):
        assert mode is None


def test_a_network_that_cannot_be_observed_trains_as_it_is() -> None:
    class Once(nn.Sequential):
        calls = 0

        def forward(self, batch: Tensor) -> Tensor:
            self.calls += 1
            if self.calls == 2:
                raise RuntimeError("no second call")
            result: Tensor = super().forward(batch)
            return result

    network = Once(nn.Conv2d(4, 4, 1), norm(4)).double()
    assert passed(network, FrozenNorms())[1] == 1


@pytest.mark.parametrize("autocast", [False, True])
def test_a_model_trains_with_the_gradients_of_the_plain_one(small: Any, autocast: bool) -> None:
    """Through a whole network of depthwise convolutions, whose types and names stay as they are."""
    embedder = small("test_efficientnet")
    embedder.set_trainable(backbone_norm=False)
    for layer in embedder.backbone.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.running_var.uniform_(0.5, 2)
    names, kinds = list(embedder.state_dict()), [type(one) for one in embedder.modules()]
    batch = torch.randn(16, 3, 32, 32, generator=torch.Generator().manual_seed(1))

    def slopes(model: Any, call: Callable[[Tensor], Tensor], half: bool) -> Tensor:
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=half):
            rows = call(batch)
        functional.normalize(rows.float())[:, 0].sum().backward()
        return torch.cat([one.grad.flatten() for one in model.parameters() if one.grad is not None])

    model, other = copy.deepcopy(embedder).train(), copy.deepcopy(embedder).train()
    exact = slopes(other, lambda inputs: other.head(other._features(inputs)), False)
    found = slopes(model, model, autocast)
    assert model._frozen_norms._names
    if autocast:
        assert float(torch.cosine_similarity(found, exact, dim=0)) > 0.98
    else:
        torch.testing.assert_close(found, exact, rtol=1e-3, atol=1e-4 * float(exact.abs().max()))
        assert not torch.equal(found, exact)
    assert (list(model.state_dict()), [type(one) for one in model.modules()]) == (names, kinds)


def test_gradient_checkpointing_computes_the_same_in_both_passes(small: Any) -> None:
    embedder = small("test_efficientnet")
    embedder.set_trainable(backbone_norm=False)
    embedder.train().backbone.net.set_grad_checkpointing()
    embedder(torch.randn(4, 3, 32, 32)).sum().backward()
    assert embedder._frozen_norms._names is None
    embedder.backbone.net.set_grad_checkpointing(False)
    embedder(torch.randn(4, 3, 32, 32)).sum().backward()
    assert embedder._frozen_norms._names


def test_norms_that_train_stay_layers(small: Any) -> None:
    embedder = small("test_efficientnet").train()
    embedder(torch.randn(4, 3, 32, 32))
    assert embedder._frozen_norms._names is None
    embedder.set_trainable(backbone_norm=False)
    embedder.eval()(torch.randn(4, 3, 32, 32))
    assert embedder._frozen_norms._names is None


def test_a_copy_starts_anew() -> None:
    norms = FrozenNorms()
    passed(NETWORKS["bias"][0]().double(), norms)
    assert norms._names
    for other in (copy.deepcopy(norms), pickle.loads(pickle.dumps(norms))):
        assert other._names is None
