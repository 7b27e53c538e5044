import copy
import hashlib
from dataclasses import dataclass, field

import torch

from cosphere.models.fingerprint import CachedDigest, non_default, of_content, of_tensors


def test_the_digest_is_sha256_of_names_types_shapes_and_bytes():
    matrix = torch.tensor([[1.0, 2.0], [3.0, 4.0]])
    want = hashlib.sha256(
        b"a torch.int64 ()\n" + (7).to_bytes(8, "little") + b"b torch.float32 (2, 2)\n" + matrix.numpy().tobytes()
    ).hexdigest()
    assert of_tensors({"b": matrix, "a": torch.tensor(7)}) == want
    assert of_tensors({"a": torch.tensor(7), "b": matrix.T.contiguous().T}) == want


def test_the_digest_tells_apart_what_has_the_same_bytes():
    zeros = torch.zeros(4)
    others = [
        {"a": zeros.reshape(2, 2)},
        {"b": zeros},
        {"a": zeros.int()},
        {"a": zeros, "b": torch.zeros(0)},
        {"a": -zeros},
    ]
    digests = {of_tensors(tensors) for tensors in ({"a": zeros}, *others)}
    assert len(digests) == 6
    assert len(of_tensors({"a": zeros.bfloat16()})) == 64  # numpy knows no such type


def test_content_counts_and_its_order_does_not():
    assert of_content({"a": 1, "b": [2.5]}) == of_content({"b": [2.5], "a": 1})
    assert of_content({"a": 1}) != of_content({"a": 2})


def test_defaults_are_left_out_so_that_a_new_setting_changes_no_fingerprint():
    @dataclass
    class Settings:
        name: str
        width: int = 3
        more: dict = field(default_factory=dict)

    assert non_default(Settings("x")) == {"name": "x"}
    assert non_default(Settings("x", width=4, more={"a": 1})) == {"name": "x", "width": 4, "more": {"a": 1}}


def test_the_cache_sees_every_change(monkeypatch):
    net = torch.nn.Linear(3, 2)
    counted = []
    monkeypatch.setattr(
        "cosphere.models.fingerprint.of_tensors", lambda tensors: counted.append(1) or of_tensors(tensors)
    )
    cached = CachedDigest()

    def digest(cache=cached):
        return cache(net.state_dict(keep_vars=True))

    first = digest()
    assert digest() == first == of_tensors(net.state_dict())
    assert len(counted) == 1
    torch.optim.SGD(net.parameters(), lr=0.1).step()  # without gradients: nothing changes
    assert digest() == first
    net(torch.ones(1, 3)).sum().backward()
    torch.optim.SGD(net.parameters(), lr=0.1).step()
    second = digest()
    assert second != first
    net.load_state_dict({"weight": torch.zeros(2, 3), "bias": torch.zeros(2)})
    third = digest()
    assert third == of_tensors(net.state_dict())
    net.weight = torch.nn.Parameter(torch.ones(2, 3))
    assert digest() == of_tensors(net.state_dict())
    assert digest(copy.deepcopy(cached)) == digest()


def test_models_made_in_inference_mode_have_a_digest():
    with torch.inference_mode():
        net = torch.nn.Linear(3, 2)
    assert CachedDigest()(net.state_dict(keep_vars=True)) == of_tensors(net.state_dict())
