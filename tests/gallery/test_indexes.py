"""Index files hold copies of rows: they are gone before a deletion is acknowledged, whatever happens in between."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from making_gallery import DIM, rows_of

from cosphere.errors import RunError
from cosphere.gallery import Space, Store, compact, migration, prove_deleted
from cosphere.gallery.erasure import read_log
from cosphere.gallery.folder import GalleryFolder


class Killed(BaseException):
    """Stands for the end of a process."""


def put_index(store: Store, rows: list[int], space: int = 1) -> Path:
    """An index file of rows, as a search writes it: unit rows, whose bytes are not those that were added."""
    file = store.index_file("floats")
    file.parent.mkdir(exist_ok=True)
    units = rows_of(30)[0] / np.linalg.norm(rows_of(30)[0], axis=1, keepdims=True)
    about = json.dumps({"gallery": store.state().name, "space": space})
    np.savez(file, gallery_rows=np.array(rows), gallery_about=np.array(about), kept=units[np.array(rows) - 1])
    return file


@pytest.fixture
def store(empty: Store) -> Store:
    """30 items in the rows 1 to 30."""
    empty.add([str(row) for row in range(1, 31)], *rows_of(30))
    return empty


def switch(store: Store) -> None:
    migration.begin(store, Space(dim=DIM, holds="floats", model_id="another"))
    for block in migration.waiting(store):
        migration.stage(store, block, rows_of(30, 1)[0], None)
    migration.switch(store)


CHANGES: dict[str, Callable[[Store], object]] = {
    "deletion": lambda store: store.delete(["7"]),
    "replacement": lambda store: store.add(["7"], *rows_of(1, 5), existing="replace"),
    "migration": switch,
}


@pytest.mark.parametrize("change", list(CHANGES))
def test_a_kill_after_the_commit_leaves_no_index(change: str, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    file, epoch = put_index(store, list(range(1, 31))), store.state().epoch

    def killed(folder: GalleryFolder) -> None:
        committed = "7" not in store or store.rows({"id": "7"}).tolist() != [7] or store.state().epoch > epoch
        if committed:
            raise Killed

    monkeypatch.setattr(GalleryFolder, "_checkpoint", killed)
    with pytest.raises(Killed):
        CHANGES[change](store)
    assert not file.parent.exists()


def test_an_index_that_cannot_be_removed_keeps_the_item(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    file = put_index(store, list(range(1, 31)))

    def refused(path: Path) -> None:
        raise PermissionError(1, "Operation not permitted", str(file))

    with monkeypatch.context() as patch:
        patch.setattr(shutil, "rmtree", refused)
        with pytest.raises(
            RunError,
            match=r"index/floats\.npz cannot be removed: Operation not permitted\. It may hold copies of rows, so nothing",
        ):
            store.delete(["7"])
    assert "7" in store
    with store.reading() as connection:
        assert read_log(connection) == []
    assert store.delete(["7"]).ids == ("7",)
    assert not file.exists()


@pytest.mark.parametrize(
    ("rows", "space", "what"),
    [
        ([1, 2, 3], 1, None),
        ([1, 7, 9], 1, "index with rows of deleted items"),
        ([7], 1, "index with rows of deleted items"),
        ([1, 2, 3], 2, "index of rows that a migration replaced"),
    ],
)
def test_an_index_of_deleted_rows_is_found_and_goes_with_the_next_writer(
    rows: list[int], space: int, what: str | None, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An older Cosphere, killed after its commit, left the file."""
    receipt = store.delete(["7"]).receipt
    file = put_index(store, rows, space)
    store.close()
    with monkeypatch.context() as patch:
        patch.setattr("cosphere.gallery.proof.may", lambda *_: False)  # nobody may write here, so the proof only looks
        proof = prove_deleted(store.folder, ["7777777"], [receipt])
    assert [(one.what, one.file) for one in proof.found] == ([] if what is None else [(what, "index/floats.npz")])
    assert proof.holds == (what is None)
    assert file.exists()
    store.flush()
    assert file.exists() == (what is None)
    store.close()
    assert prove_deleted(store.folder, ["7777777"], [receipt]).holds


@pytest.mark.parametrize("content", [b"", b"no archive", None])
def test_other_files_beside_the_indexes_are_findings_until_the_gallery_is_compacted(
    content: bytes | None, store: Store
) -> None:
    file = put_index(store, [1, 2])
    if content is None:
        with np.load(file) as arrays:
            np.savez(file, **(dict(arrays) | {"gallery_about": np.array('{"gallery": "another", "space": 1}')}))
    else:
        file.write_bytes(content)
    store.close()
    (found,) = prove_deleted(store.folder, ["7777777"]).found
    assert (found.what, found.file) == ("file that is not an index of this gallery", "index/floats.npz")
    compact(store)
    assert not file.exists()
    store.close()
    assert prove_deleted(store.folder, ["7777777"]).holds


def test_a_deletion_follows_no_link(store: Store, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "floats.npz").write_bytes(b"mine")
    (store.folder / "index").symlink_to(tmp_path / "mine")
    store.delete(["7"])
    assert not (store.folder / "index").is_symlink()
    assert (tmp_path / "mine" / "floats.npz").read_bytes() == b"mine"
