"""Moving to another model: searches see the old rows until all are there; a kill in between costs one block at most."""

from __future__ import annotations

from pathlib import Path

import chores
import numpy as np
import pytest

from cosphere.errors import RunError, SizeError
from cosphere.gallery import Store, check_all, compact, migration, prove_deleted


def staged_rows(block: migration.Waiting, model: str) -> tuple[np.ndarray, np.ndarray]:
    rows = np.stack([chores.vector(item.id, int(item.metadata["version"]), model) for item in block.items])
    return rows, np.packbits(rows > 0, axis=1)


@pytest.fixture
def filled(tmp_path: Path) -> tuple[Store, chores.Mirror]:
    store, mirror = Store.create(tmp_path / "g", chores.space("first")), chores.Mirror(0)
    for number, count in enumerate((2500, 30)):
        step = {"kind": "add", "ids": [f"{number}.{place}" for place in range(count)], "version": number}
        chores.perform(store, mirror, step)
        mirror.done(step)
    return store, mirror


def test_a_migration_goes_on_where_it_was_stopped(filled: tuple[Store, chores.Mirror]) -> None:
    store, mirror = filled
    assert migration.begin(store, chores.space("second")) is False
    first = next(iter(migration.waiting(store)))
    migration.stage(store, first, *staged_rows(first, "second"))
    assert mirror.differences(store) == []  # the old rows are searched
    store.close()

    store = Store.open(store.folder)
    added = {"kind": "add", "ids": ["meanwhile"], "version": 9}
    deleted = {"kind": "delete", "ids": ["0.3", "0.2000", "1.7"]}
    for step in (added, deleted):
        chores.perform(store, mirror, step)
        mirror.done(step)
    assert migration.begin(store, chores.space("second")) is True
    with pytest.raises(RunError, match="still has items without new rows"):
        migration.switch(store)
    waiting = list(migration.waiting(store))
    assert first.block not in [one.block for one in waiting]
    assert sum(len(one.items) for one in waiting) == 2531 - 3 - 1023
    for block in waiting:
        migration.stage(store, block, *staged_rows(block, "second"))
    assert mirror.differences(store) == []
    migration.switch(store)
    mirror.model = "second"
    assert mirror.differences(store) == []
    check_all(store)
    with store.reading() as connection:
        assert connection.rows("SELECT number FROM space") == [(2,)]
        assert connection.one("SELECT min(number) >= 2 * 4294967296 FROM vectors") == (1,)
    gone = np.stack([chores.vector("0.3", 0, model) for model in ("first", "second")])
    store.close()
    everything = (store.folder / "gallery.sqlite").read_bytes()
    assert all(row.tobytes() not in everything for row in gone)
    assert prove_deleted(store.folder, ["0.2000"]).holds


def test_what_does_not_fit_a_migration_is_refused(filled: tuple[Store, chores.Mirror]) -> None:
    store, mirror = filled
    with pytest.raises(RunError, match="holds rows of this model already"):
        migration.begin(store, chores.space("first"))
    with pytest.raises(RunError, match="is not being migrated"):
        migration.pending(store)
    migration.begin(store, chores.space("second"))
    with pytest.raises(RunError, match="is being migrated to another model"):
        migration.begin(store, chores.space("third"))
    with pytest.raises(RunError, match=r"is being migrated\. Finish that, or give it up"):
        compact(store)
    block = next(iter(migration.waiting(store)))
    rows, codes = staged_rows(block, "second")
    with pytest.raises(SizeError, match="want embeddings"):
        migration.stage(store, block, rows[:, 1:], codes)
    store.delete([block.items[0].id])
    with pytest.raises(RunError, match="was changed while it was migrated"):
        migration.stage(store, block, rows, codes)
    assert migration.abandon(store)
    assert not migration.abandon(store)
    with store.reading() as connection:
        assert connection.rows("SELECT number FROM space") == [(1,)]
    mirror.done({"kind": "delete", "ids": [block.items[0].id]})
    assert mirror.differences(store) == []


def test_another_width_and_kind(filled: tuple[Store, chores.Mirror]) -> None:
    from cosphere.gallery import Space

    store, _ = filled
    migration.begin(store, Space(dim=9, holds="codes", model_id="wide"))
    for block in migration.waiting(store):
        codes = np.full((len(block.items), 2), 7, np.uint8)
        migration.stage(store, block, None, codes)
    migration.switch(store)
    assert store.space() == Space(dim=9, holds="codes", model_id="wide")
    assert sum(int((rows.codes == 7).all(axis=1).sum()) for _, rows in store.vectors()) == 2530


def test_what_a_killed_switch_left_is_removed_by_the_next_writer(
    filled: tuple[Store, chores.Mirror], monkeypatch: pytest.MonkeyPatch
) -> None:
    store, mirror = filled
    migration.begin(store, chores.space("second"))
    for block in migration.waiting(store):
        migration.stage(store, block, *staged_rows(block, "second"))
    monkeypatch.setattr(Store, "remove_space", lambda self, number: None)
    migration.switch(store)
    monkeypatch.undo()
    store.close()
    mirror.model = "second"
    store = Store.open(store.folder)
    assert mirror.differences(store) == []
    with store.reading() as connection:
        assert connection.rows("SELECT number FROM space") == [(1,), (2,)]
    store.flush()
    with store.reading() as connection:
        assert connection.rows("SELECT number FROM space") == [(2,)]
        assert connection.one("SELECT count(*) FROM vectors") == (3,)


def test_a_staged_block_is_on_disk_and_a_deletion_in_between_is_whole(filled: tuple[Store, chores.Mirror]) -> None:
    """While the next block is worked on, others see what was staged; items of it may be deleted."""
    store, mirror = filled
    migration.begin(store, chores.space("second"))
    for number, block in enumerate(migration.waiting(store), 1):
        deleted = store.delete([block.items[3].id])
        assert deleted.flushed
        mirror.done({"kind": "delete", "ids": list(deleted.ids)})
        block = block._replace(items=[item for item in block.items if item.id not in deleted.ids])
        migration.stage(store, block, *staged_rows(block, "second"))
        with Store.open(store.folder) as other:
            assert len(migration.pending(other)) == 3 - number
    migration.switch(store)
    mirror.model = "second"
    assert mirror.differences(store) == []
    check_all(store)
