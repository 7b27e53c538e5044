"""Freed memory stays: a second round over the same tensors asks the system for almost nothing."""

from __future__ import annotations

import subprocess
import sys

import pytest

from cosphere.train import memory

ROUNDS = """
import os, resource, runpy, sys, torch
keep_freed_memory = runpy.run_path(sys.argv[1])["keep_freed_memory"]  # the file alone: the rest of the room imports for seconds
def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(5):
        part = torch.ones(12_000_000)  # 48 MB: above the 32 MB that glibc always hands back by itself.
        del part
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
child = os.fork()  # one keeps, the other does not, and torch is imported once
kept = child and keep_freed_memory()
faults(), faults()  # until the freed blocks have joined
print("keep" if child else "leave", int(kept), faults(), flush=True)
if child:
    os.waitpid(child, 0)
"""


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="only glibc under Linux can be asked")
def test_a_second_round_asks_for_almost_nothing() -> None:
    command = [sys.executable, "-c", ROUNDS, str(memory.__file__)]
    shown = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    rounds = {name: (int(kept), int(faults)) for name, kept, faults in map(str.split, shown.splitlines())}
    kept, faults = rounds["keep"]
    if not kept:
        pytest.skip("this C library is not glibc")
    assert faults <= 0.2 * rounds["leave"][1]
