"""A writer is killed at random moments: nothing that it acknowledged is lost, nothing that it deleted comes back."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import chores
import numpy as np
import pytest

from cosphere.gallery import Store, check_all, prove_deleted

PROGRAM = Path(chores.__file__)


@pytest.fixture
def nursery() -> Iterator[subprocess.Popen[str]]:
    """The process that forks writers."""
    with subprocess.Popen(
        [sys.executable, str(PROGRAM)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        yield process
        process.kill()


def work_until_killed(
    nursery: subprocess.Popen[str], folder: Path, mirror: chores.Mirror, first: int, seconds: float, during: str | None
) -> tuple[int, list[dict]]:
    """Let a writer work for some time, or until it has begun a step of a kind, and kill it.

    Returns:
        the next step's number, and the step that had begun but not ended.
    """
    assert nursery.stdin is not None
    orders = {"folder": str(folder), "seed": mirror.seed, "first": first, "items": mirror.items, "model": mirror.model}
    nursery.stdin.write(json.dumps(orders) + "\n")
    nursery.stdin.flush()
    writer, begun, alive = 0, [], True
    for line in lines_of(nursery):
        writer = line.get("writer", writer)
        if "begin" in line:
            begun.append(line["begin"])
        elif "end" in line:
            mirror.done(begun.pop())
            first = line["end"] + 1
        elif "died" in line:
            assert line["died"] == -signal.SIGKILL, "the writer failed by itself"
            break
        if alive and writer and begun and during in (None, begun[-1]["kind"]):
            time.sleep(seconds)
            os.kill(writer, signal.SIGKILL)
            alive = False
    return first + len(begun), begun


def lines_of(nursery: subprocess.Popen[str]) -> Iterator[dict]:
    """What is said, line by line; of a line that a kill cut off, nothing."""
    assert nursery.stdout is not None
    for line in nursery.stdout:
        with contextlib.suppress(ValueError):
            yield json.loads(line)


def survive(nursery: subprocess.Popen[str], folder: Path, kills: int, seed: int) -> set[str]:
    """Kill a writer again and again; returns the kinds of step that a kill interrupted."""
    Store.create(folder, chores.space(chores.MODELS[0])).close()
    mirror, first, interrupted = chores.Mirror(seed), 0, set()
    random = np.random.default_rng(seed)
    for kill in range(kills):
        # A compaction or migration is rare and quick: some kills wait for one.
        during = {0: "compact", 8: "migrate"}.get(kill % 16)
        seconds = float(random.uniform(0, 0.12 if during is None else 0.005))
        first, begun = work_until_killed(nursery, folder, mirror, first, seconds, during)
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


def test_ten_kills_lose_nothing(nursery: subprocess.Popen[str], tmp_path: Path) -> None:
    assert survive(nursery, tmp_path / "gallery", 10, seed=1)


@pytest.mark.slow(seconds=60)
@pytest.mark.parametrize("seed", [2, 3])
def test_two_hundred_kills_lose_nothing(seed: int, nursery: subprocess.Popen[str], tmp_path: Path) -> None:
    interrupted = survive(nursery, tmp_path / "gallery", 100, seed)  # a hundred for each seed
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
