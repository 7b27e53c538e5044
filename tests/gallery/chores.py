"""Writers that work until they are killed, and what a gallery must hold after each of their steps. Imports no torch.

python chores.py    # reads a line of orders for each writer, forks it, and says when it has died
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from cosphere.gallery import Space, Store, compact, migration

DIM = 24
MODELS = ("first", "second", "third", "fourth")


@cache
def vector(id_: str, version: int, model: str) -> np.ndarray:
    """The row of an item: a function of its id, its version and the model."""
    content = hashlib.blake2b(f"{id_}/{version}/{model}".encode(), digest_size=2 * DIM).digest()
    return np.frombuffer(content, dtype="<i2").astype(np.float32)  # a generator for each row takes ten times as long


def space(model: str) -> Space:
    return Space(dim=DIM, holds="both", model_id=model)


class Mirror:
    """What a gallery holds: id -> version, and the model. Steps are a function of the seed and their number."""

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self.items: dict[str, int] = {}
        self.model = MODELS[0]

    def copy(self) -> Mirror:
        other = Mirror(self.seed)
        other.items, other.model = dict(self.items), self.model
        return other

    def step(self, number: int) -> dict[str, Any]:
        """The step of a number, given what is held now."""
        random = np.random.default_rng([self.seed, number])
        kind = random.choice(
            ["add", "one", "upsert", "delete", "where", "compact", "migrate"], p=[0.3, 0.2, 0.15, 0.2, 0.05, 0.05, 0.05]
        )
        known = sorted(self.items)
        if kind in ("add", "one") or not known:
            count = 1 if kind == "one" else int(random.integers(1, 300))
            return {"kind": "add", "ids": [f"item {number}.{place}" for place in range(count)], "version": number}
        some = [
            known[at]
            for at in random.choice(len(known), size=min(len(known), int(random.integers(1, 60))), replace=False)
        ]
        if kind == "upsert":
            return {"kind": "upsert", "ids": [*some, f"item {number}"], "version": number}
        if kind == "delete":
            return {"kind": "delete", "ids": some}
        if kind == "where":
            return {"kind": "where", "group": int(random.integers(0, 7))}
        model = MODELS[(MODELS.index(self.model) + 1) % len(MODELS)]
        return {"kind": str(kind), "model": model}

    def done(self, step: dict[str, Any]) -> None:
        """Hold what a finished step leaves."""
        if step["kind"] in ("add", "upsert"):
            self.items |= dict.fromkeys(step["ids"], step["version"])
        elif step["kind"] == "delete":
            for id_ in step["ids"]:
                del self.items[id_]
        elif step["kind"] == "where":
            self.items = {id_: version for id_, version in self.items.items() if group_of(id_) != step["group"]}
        elif step["kind"] == "migrate":
            self.model = step["model"]

    def differences(self, store: Store) -> list[str]:
        """How a gallery differs from what should be held; empty where it does not."""
        found: dict[str, int] = {}
        for items, rows in store.vectors():
            assert rows.vectors is not None
            assert rows.codes is not None
            versions = {item.id: int(item.metadata["version"]) for item in items}
            found |= versions
            want = np.stack([vector(id_, version, self.model) for id_, version in versions.items()])
            same = (rows.vectors == want).all(axis=1) & (rows.codes == np.packbits(want > 0, axis=1)).all(axis=1)
            if not same.all():
                return [f"{items[int(np.argmin(same))].id} has other rows than were added"]
        if store.space().model_id != self.model:
            return [f"the model is {store.space().model_id}, not {self.model}"]
        wrong = sorted(set(found.items()) ^ set(self.items.items()))
        return [f"{len(wrong)} differ, such as {wrong[0]}"] if wrong else []


def group_of(id_: str) -> int:
    return len(id_) * 3 % 7


def perform(store: Store, mirror: Mirror, step: dict[str, Any]) -> None:
    """Do one step in the gallery."""
    kind = step["kind"]
    if kind in ("add", "upsert"):
        rows = np.stack([vector(id_, step["version"], mirror.model) for id_ in step["ids"]])
        metadata = [{"version": step["version"], "group": group_of(id_)} for id_ in step["ids"]]
        store.add(step["ids"], rows, np.packbits(rows > 0, axis=1), metadata=metadata, existing="replace")
    elif kind == "delete":
        store.delete(step["ids"])
    elif kind == "where":
        store.delete(where={"group": step["group"]})
    elif kind == "compact":
        if store.state().staged is None:
            compact(store)
    elif store.space().model_id != step["model"]:
        migrate(store, step["model"])


def migrate(store: Store, model: str) -> None:
    staged = store.state().staged
    if staged is not None:  # another one was killed: give that up
        migration.abandon(store)
    migration.begin(store, space(model))
    for block in migration.waiting(store):
        rows = np.stack([vector(item.id, int(item.metadata["version"]), model) for item in block.items])
        migration.stage(store, block, rows, np.packbits(rows > 0, axis=1))
    migration.switch(store)


def main() -> None:
    """Fork one writer after another: a fork is there at once, and importing NumPy for each would take most of the time."""
    for line in sys.stdin:
        writer = os.fork()
        if writer == 0:
            try:
                work(**json.loads(line))
            finally:
                os._exit(1)
        print(json.dumps({"writer": writer}), flush=True)
        status = os.waitstatus_to_exitcode(os.waitpid(writer, 0)[1])
        print(f"\n{json.dumps({'died': status})}", flush=True)  # on a line of its own, whatever the writer left behind


def work(folder: str, seed: int, first: int, items: dict[str, int], model: str) -> None:
    """Work from a step on, in a gallery that holds these items. Prints one line before each step and one after it."""
    mirror = Mirror(seed)
    mirror.items, mirror.model = items, model
    with Store.open(Path(folder)) as store:
        for number in range(first, first + 10_000):
            step = mirror.step(number)
            print(json.dumps({"begin": step}), flush=True)
            perform(store, mirror, step)
            print(json.dumps({"end": number}), flush=True)
            mirror.done(step)


if __name__ == "__main__":
    main()
