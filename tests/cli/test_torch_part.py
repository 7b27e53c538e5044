"""A process without torch's kernels for tensors that hold no data: left out, then there as soon as they are needed."""

from __future__ import annotations

import subprocess
import sys

import pytest

BEGIN = """
import importlib, sys
from cosphere.cli import command, torch_part
torch_part.defer_shape_kernels()
import torch
x, weight = torch.ones(1, 3, 8, 8), torch.ones(4, 3, 3, 3)
assert torch.nn.functional.conv2d(x, weight).sum() == 4 * 36 * 27
left_out = ("torch._decomp", "torch._refs", "torch._prims", "torch._dynamo")
assert not any(name in sys.modules for name in left_out), "torch is built otherwise now: see what cosphere.cli.torch_part saves"
"""
SHAPE = "torch.nn.functional.conv2d(x.to('meta'), weight.to('meta')).shape == (1, 4, 6, 6)"


@pytest.mark.slow
@pytest.mark.parametrize(
    "use",
    [
        "assert torch.compile(lambda value: value * 2, backend='eager')(x).sum() == 384",
        "import torch._dynamo, torch._inductor",
        "import torch._refs; assert torch.compile(lambda value: value * 2, backend='eager')(x).sum() == 384",
        "from torch._meta_registrations import meta_index_Tensor",
        "assert torch._meta_registrations.meta_index_Tensor",
        "from cosphere.tensors import own_generator; own_generator(); import torch._dynamo",
    ],
)
def test_the_kernels_are_there_when_they_are_needed(use: str) -> None:
    code = f"{BEGIN}\n{use}\nassert {SHAPE}\nassert not any('torch_part' in type(finder).__module__ for finder in sys.meta_path)"
    done = subprocess.run([sys.executable, "-c", code], check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_a_process_that_has_torch_is_left_alone() -> None:
    code = """
import sys, types
sys.modules["torch"] = types.ModuleType("torch")
from cosphere.cli import torch_part
before = list(sys.meta_path)
torch_part.defer_shape_kernels()
assert sys.meta_path == before and "torch._meta_registrations" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize(("word", "deferred"), [("search", True), ("index", True), ("train", False)])
def test_only_the_process_of_a_command_that_encodes_does_without(word: str, deferred: bool) -> None:
    code = f"""
import sys
from cosphere import cli
sys.argv[1:] = [{word!r}, "--help"]
cli._end = lambda status: print("torch._meta_registrations" in sys.modules)
cli.command()
"""
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout.endswith(f"{deferred}\n")
