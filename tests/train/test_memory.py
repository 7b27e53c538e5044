"""Freed memory stays: a second round over the same tensors asks the system for almost nothing."""

from __future__ import annotations

import subprocess
import sys

import pytest

ROUNDS = """
import resource, sys, torch
from cosphere.train.memory import keep_freed_memory
kept = keep_freed_memory() if sys.argv[1] == "keep" else False
def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(5):
        part = torch.ones(12_000_000)  # 48 MB: above the 32 MB that glibc always hands back by itself.
        del part
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
faults()
print(int(kept), faults())
"""


def round_of(what: str) -> tuple[int, int]:
    shown = subprocess.run([sys.executable, "-c", ROUNDS, what], check=True, capture_output=True, text=True).stdout
    kept, faults = map(int, shown.split())
    return kept, faults


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="only glibc under Linux can be asked")
def test_a_second_round_asks_for_almost_nothing() -> None:
    kept, faults = round_of("keep")
    if not kept:
        pytest.skip("this C library is not glibc")
    assert faults <= 0.2 * round_of("leave")[1]
