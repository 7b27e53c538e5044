"""A writer is killed at random moments: nothing that it acknowledged is lost, nothing that it deleted comes back."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import chores
import numpy as np
import pytest

from cosphere.gallery import Store, check_all, prove_deleted

PROGRAM = Path(chores.__file__)


def work_until_killed(folder: Path, mirror: chores.Mirror, first: int, seconds: float) -> tuple[int, list[dict]]:
    """Run the writer for some time and kill it; returns the next step's number, and the step that had begun but not ended."""
    writer = subprocess.Popen(
        [sys.executable, str(PROGRAM), str(folder), str(mirror.seed), str(first)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert writer.stdin is not None
    assert writer.stdout is not None
    writer.stdin.write(json.dumps([mirror.items, mirror.model]) + "\n")
    writer.stdin.flush()
    first_line = writer.stdout.readline()  # the kill comes while it works, not while it starts
    time.sleep(seconds)
    writer.send_signal(signal.SIGKILL)
    lines = [json.loads(line) for line in [first_line, *writer.stdout] if line.endswith("\n")]
    writer.stdin.close()
    writer.stdout.close()
    assert writer.wait() == -signal.SIGKILL, "the writer failed by itself"
    begun: list[dict] = []
    for line in lines:
        if "begin" in line:
            begun.append(line["begin"])
        else:
            mirror.done(begun.pop())
            first = line["end"] + 1
    return first + len(begun), begun


def survive(folder: Path, kills: int, seed: int) -> set[str]:
    """Kill a writer again and again; returns the kinds of step that a kill interrupted."""
    Store.create(folder, chores.space(chores.MODELS[0])).close()
    mirror, first, interrupted = chores.Mirror(seed), 0, set()
    random = np.random.default_rng(seed)
    for kill in range(kills):
        first, begun = work_until_killed(folder, mirror, first, float(random.uniform(0, 0.12)))
        with Store.open(folder) as store:
            differences = mirror.differences(store)
            if differences and begun:  # not acknowledged: all of it, or nothing
                (step,) = begun
                interrupted.add(step["kind"])
                mirror.done(step)
                differences = mirror.differences(store)
            elif begun:
                interrupted.add(begun[0]["kind"])
            assert differences == [], f"kill {kill}, {begun}"
            assert len(store) == len(mirror.items)
    with Store.open(folder) as store:
        check_all(store)
    return interrupted


def test_ten_kills_lose_nothing(tmp_path: Path) -> None:
    assert survive(tmp_path / "gallery", 10, seed=1)


@pytest.mark.slow
def test_two_hundred_kills_lose_nothing(tmp_path: Path) -> None:
    interrupted = survive(tmp_path / "gallery", 200, seed=2)
    assert interrupted >= {"add", "upsert", "delete", "compact", "migrate"}


def test_what_was_deleted_before_a_kill_is_gone_from_the_bytes(tmp_path: Path) -> None:
    folder = tmp_path / "gallery"
    with Store.create(folder, chores.space("first")) as store:
        names = [f"somebody {place}" for place in range(1500)]
        rows = np.stack([chores.vector(name, 0, "first") for name in names])
        store.add(names, rows, np.packbits(rows > 0, axis=1))
    code = (
        "import os, sys; from cosphere.gallery import Store\n"
        "store = Store.open(sys.argv[1]); store.delete(['somebody 7', 'somebody 1499']).receipt.save(sys.argv[2])\n"
        "os.kill(os.getpid(), 9)"
    )
    from cosphere.gallery import Receipt

    receipt = tmp_path / "receipt.json"
    subprocess.run([sys.executable, "-c", code, str(folder), str(receipt)], check=False)
    proof = prove_deleted(folder, ["somebody 1499"], [Receipt.load(receipt)])
    assert proof.holds
    assert proof.flushed


def test_the_mirror_sees_a_lost_item(tmp_path: Path) -> None:
    """The check of this file can fail."""
    mirror = chores.Mirror(0)
    with Store.create(tmp_path / "gallery", chores.space("first")) as store:
        step = {"kind": "add", "ids": ["a", "b"], "version": 3}
        chores.perform(store, mirror, step)
        mirror.done(step)
        assert mirror.differences(store) == []
        store.delete(["a"])
        assert mirror.differences(store) == ["1 differ, such as ('a', 3)"]
