"""Receipts are appended to a file, which keeps those of earlier calls and refuses to replace anything else."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest

from cosphere.errors import RunError, SettingsError
from cosphere.gallery import Receipt, ReceiptFile, Space, Store, load_receipts, prove_deleted, save_receipts

WIDE = 64
ROWS = np.random.default_rng(0).normal(size=(12, WIDE)).astype(np.float32)


def made(folder: Path) -> Path:
    with Store.create(folder, Space(dim=WIDE)) as store:
        store.add(
            [f"face {place}" for place in range(12)], ROWS, metadata=[{"part": place // 6} for place in range(12)]
        )
    return folder


def items_of(path: Path) -> list[int]:
    return [one.items for one in load_receipts(path)]


def test_a_deletion_that_finds_nothing_keeps_the_receipt_of_the_first(tmp_path: Path) -> None:
    gallery, path = made(tmp_path / "g"), tmp_path / "r.json"
    for items in ([6], [6]):
        with Store.open(gallery) as store:
            store.delete(where={"part": 0}, on_receipt=ReceiptFile(path, gallery).append)
        assert items_of(path) == items
    assert json.loads(path.read_text())["items"] == 6  # one receipt is JSON by itself
    (gallery / "left").write_bytes(ROWS[3].tobytes())
    assert not prove_deleted(gallery, [], load_receipts(path)).holds


def test_each_commit_appends_whatever_the_file_was_written_by(tmp_path: Path) -> None:
    """A file of one receipt and of a list of them, as older ones are; deletions and replacements; another writer in between."""
    gallery = made(tmp_path / "g")
    old = Receipt.of("g", 1, [bytes(range(16))])
    older = {"one.json": old.as_dict(), "list.json": {"receipts": [old.as_dict(), old.as_dict()]}}
    for number, (name, content) in enumerate(older.items()):
        path = tmp_path / name
        path.write_text(json.dumps(content, indent=2) + "\n")
        file = ReceiptFile(path, gallery)
        with Store.open(gallery) as store:
            store.delete([f"face {number}"], on_receipt=file.append)
            again = ["face 5", "face 6", "face 7"]
            added = store.add(again, -ROWS[5:8], existing="replace", on_receipt=file.append)
            store.add([f"new {number}"], ROWS[:1], existing="replace", on_receipt=file.append)  # replaces nothing
            save_receipts(path, [*load_receipts(path), old])
            store.delete([f"new {number}"], on_receipt=file.append)
        assert items_of(path) == [1] * (1 + number) + [1, 3, 1, 1]
        assert load_receipts(path)[-3].digest == added.receipts[0].digest


def test_a_receipt_that_cannot_be_kept_stops_a_replacement(tmp_path: Path) -> None:
    gallery = made(tmp_path / "g")

    def full(receipt: Receipt) -> None:
        raise RunError("no space left")

    with Store.open(gallery) as store:
        with pytest.raises(RunError, match="no space left"):
            store.add(["face 3"], -ROWS[3:4], existing="replace", on_receipt=full)
        assert store.numbers_of(4).vectors.tobytes() == ROWS[3].tobytes()


def test_a_line_that_a_kill_cut_off_is_passed_by(tmp_path: Path) -> None:
    gallery, path = made(tmp_path / "g"), tmp_path / "r.json"
    file = ReceiptFile(path, gallery)
    with Store.open(gallery) as store:
        for name in ("face 0", "face 1"):
            store.delete([name], on_receipt=file.append)
        whole = path.read_bytes()
        for size in (1, 30, len(whole) // 3):
            path.write_bytes(whole + whole[:size])
            assert items_of(path) == [1, 1]
        ReceiptFile(path, gallery).append(Receipt.of("g", 7, []))
    assert items_of(path) == [1, 1, 7]
    path.write_bytes(whole[:40])
    with pytest.raises(RunError, match=r"holds no receipt\. Give the file of --receipt"):
        load_receipts(path)


def test_a_full_disk_leaves_the_receipts_that_were_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = ReceiptFile(tmp_path / "r.json", tmp_path / "g")
    file.append(Receipt.of("g", 1, []))
    before = file.path.read_bytes()

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(RunError, match=r"cannot write .*: No space left on device"):
        file.append(Receipt.of("g", 2, []))
    assert file.path.read_bytes() == before


@pytest.mark.parametrize(
    ("content", "name"),
    [
        (b"\xff\xd8\xff\xe0 a photo", "a.jpg"),
        (b"SQLite format 3\x00", "b.sqlite"),
        (b'{"a": 1}\n', "c.json"),
        (b'{"a": 1', "d.json"),
        (b"[]", "e.json"),
        (b"{" + b'"receipts": [1]' + b"}", "f.json"),
        (b'{"\xff": 1}', "g.json"),
    ],
)
def test_a_file_of_something_else_is_refused_and_stays(content: bytes, name: str, tmp_path: Path) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(
        RunError, match=f"{name} is there already and is not a receipt file, to which receipts are appended"
    ):
        ReceiptFile(path, tmp_path / "g")
    assert path.read_bytes() == content


def test_a_file_in_the_gallery_is_refused_by_every_name(tmp_path: Path) -> None:
    gallery = made(tmp_path / "g")
    before = (gallery / "gallery.sqlite").read_bytes()
    (tmp_path / "link").symlink_to(gallery)
    (tmp_path / "file").symlink_to(gallery / "gallery.sqlite")
    for path in (gallery / "gallery.sqlite", gallery / "new.json", tmp_path / "link" / "new.json", tmp_path / "file"):
        with pytest.raises(SettingsError, match=r"lies in the gallery .*\. Choose a place outside of it"):
            ReceiptFile(path, gallery)
    os.link(gallery / "gallery.sqlite", tmp_path / "hard")
    with pytest.raises(RunError, match="is not a receipt file"):
        ReceiptFile(tmp_path / "hard", tmp_path / "link")
    assert (gallery / "gallery.sqlite").read_bytes() == before
    with pytest.raises(RunError, match="no file, but a folder"):
        ReceiptFile(tmp_path, gallery)


def test_a_link_to_a_receipt_file_and_an_empty_file_are_written_through(tmp_path: Path) -> None:
    (tmp_path / "empty").touch()
    (tmp_path / "link").symlink_to(tmp_path / "empty")
    ReceiptFile(tmp_path / "link", tmp_path / "g").append(Receipt.of("g", 3, []))
    assert (tmp_path / "link").is_symlink()
    assert items_of(tmp_path / "empty") == [3]


def test_a_receipt_of_a_deletion_that_was_stopped_counts_while_its_items_are_there(tmp_path: Path) -> None:
    """A kill between receipt and commit, and the same deletion again; and a folder that was restored from a copy."""
    gallery, path = made(tmp_path / "g"), tmp_path / "r.json"

    def killed(receipt: Receipt) -> None:
        ReceiptFile(path, gallery).append(receipt)
        raise KeyboardInterrupt

    with Store.open(gallery) as store:
        with pytest.raises(KeyboardInterrupt):
            store.delete(where={"part": 1}, on_receipt=killed)
        assert len(store) == 12
    (stopped,) = load_receipts(path)
    assert prove_deleted(gallery, [], [stopped]).unknown == (stopped.time,)
    with Store.open(gallery) as store:
        store.delete(where={"part": 1}, on_receipt=ReceiptFile(path, gallery).append)
    proof = prove_deleted(gallery, [], load_receipts(path))
    assert (proof.holds, proof.complete, proof.windows) == (True, True, 2 * 6 * 16)
    with Store.open(gallery) as store:
        store.add(["restored"], ROWS[6:7])
    assert prove_deleted(gallery, [], load_receipts(path)).unknown == (stopped.time,)


def test_an_empty_receipt_proves_nothing(tmp_path: Path) -> None:
    gallery = made(tmp_path / "g")
    with Store.open(gallery) as store:
        deleted, nothing = store.delete(["face 3"]), store.delete(where={"part": 9})
    assert prove_deleted(gallery, [], [deleted.receipt]).complete
    assert not prove_deleted(gallery, [], [nothing.receipt]).complete
    assert not prove_deleted(gallery, [], [deleted.receipt, nothing.receipt]).complete
