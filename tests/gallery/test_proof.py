"""The proof of a deletion reads every byte, and fails where something is left."""

from __future__ import annotations

import hashlib
import json
import random
import shutil
import sqlite3
import unicodedata
from pathlib import Path

import numpy as np
import pytest
from making_gallery import DIM, rows_of

from cosphere.errors import RunError
from cosphere.gallery import Receipt, Space, Store, compact, load_receipts, prove_deleted, save_receipts
from cosphere.gallery.erasure import quick_hash, read_log, window_places, windows
from cosphere.gallery.traces import left_over

WIDE = 256


def filled(folder: Path, count: int = 1500) -> tuple[np.ndarray, np.ndarray]:
    """A closed gallery with blocks, single rows and thumbnails."""
    rows = np.random.default_rng(5).normal(size=(count, WIDE)).astype(np.float32)
    codes = np.packbits(rows > 0, axis=1)
    pictures = [np.random.default_rng(place).bytes(700) for place in range(count)]
    metadata = [{"label": f"person {place // 10}", "path": f"/photos/{place}.jpg"} for place in range(count)]
    with Store.create(folder, Space(dim=WIDE, holds="both")) as store:
        store.add([f"face {place:05}" for place in range(count)], rows, codes, metadata=metadata, thumbnails=pictures)
        store.flush()
    return rows, codes


def test_nothing_is_left_of_what_was_deleted(tmp_path: Path) -> None:
    rows, codes = filled(tmp_path / "g")
    with Store.open(tmp_path / "g") as store:
        one = store.delete(["face 00003", "face 01023", "face 01024", "face 01499"])
        identity = store.delete(where={"label": "person 7"})
    assert one.flushed
    assert len(identity.ids) == 10
    proof = prove_deleted(
        tmp_path / "g", [*one.ids, *identity.ids], [one.receipt, identity.receipt], texts=["/photos/75.jpg"]
    )
    assert proof.holds, proof.found
    assert (proof.alive, proof.short, proof.unknown, proof.shared, proof.flushed) == ((), (), (), 0, True)
    # 14 vectors and thumbnails of 16 windows, and codes of 32 bytes of 2
    assert proof.windows == 14 * (16 + 16 + 2)
    assert dict(proof.files)["gallery.sqlite"] == (tmp_path / "g" / "gallery.sqlite").stat().st_size
    # By hand: no byte of theirs is in any file.
    everything = b"".join(file.read_bytes() for file in (tmp_path / "g").iterdir())
    for place in (3, 1023, 1499, 70, 79):
        assert rows[place].tobytes()[:32] not in everything
        assert codes[place].tobytes()[:16] not in everything
        assert f"face {place:05}".encode() not in everything
    assert rows[4].tobytes()[:32] in everything


@pytest.mark.parametrize("kind", ["vector", "code", "thumbnail", "id"])
def test_a_trace_in_a_free_page_is_found(kind: str, tmp_path: Path) -> None:
    """Rows that another program unlinked without the pragma stay readable."""
    rows, codes = filled(tmp_path / "g", 30)
    with Store.open(tmp_path / "g") as store:
        receipt = store.delete(["face 00003"]).receipt
    other = sqlite3.connect(tmp_path / "g" / "gallery.sqlite", isolation_level=None)
    other.execute("PRAGMA secure_delete = OFF")
    left = {"vector": rows[3].tobytes(), "code": codes[3].tobytes(), "thumbnail": np.random.default_rng(3).bytes(700)}
    other.execute("CREATE TABLE scratch (content BLOB)")
    other.execute("INSERT INTO scratch VALUES (?)", (left.get(kind, b"face 00003"),))
    other.execute("DELETE FROM scratch")
    other.close()
    proof = prove_deleted(tmp_path / "g", ["face 00003"], [receipt])
    assert not proof.holds
    (what,) = {one.what for one in proof.found}
    assert what == ("text 'face 00003'" if kind == "id" else "vector, code or thumbnail")
    assert {one.file for one in proof.found} == {"gallery.sqlite"}


@pytest.mark.parametrize("kept", ["NFC", "NFD"])
@pytest.mark.parametrize("typed", ["NFC", "NFD"])
def test_a_name_is_looked_for_in_every_form(typed: str, kept: str, tmp_path: Path) -> None:
    """Labels are kept composed, and paths as the disk has them, so one typed form covers neither."""
    name = "Jos\N{LATIN SMALL LETTER E WITH ACUTE} G\N{LATIN SMALL LETTER O WITH ACUTE}mez"
    with Store.create(tmp_path / "g", Space(dim=8)) as store:
        store.add(["one"], np.ones((1, 8), dtype=np.float32))
    (tmp_path / "g" / "gallery.sqlite.bak").write_bytes(f"/p/{unicodedata.normalize(kept, name)}/1.jpg".encode())
    text = unicodedata.normalize(typed, name)
    for proof in (prove_deleted(tmp_path / "g", texts=[text]), prove_deleted(tmp_path / "g", [text])):
        assert {(one.what, one.file) for one in proof.found} == {(f"text {text!r}", "gallery.sqlite.bak")}
    short = unicodedata.normalize(typed, "th\N{LATIN SMALL LETTER E WITH ACUTE}")  # of 4 bytes, or 5
    assert prove_deleted(tmp_path / "g", texts=[short]).short == (short,)


def test_the_pragma_is_what_removes_single_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same deletion with the pragma off leaves vectors and ids in the file."""
    from cosphere.gallery.sqlite import Connection

    filled(tmp_path / "g", 1100)
    run = Connection.run
    monkeypatch.setattr("cosphere.gallery.store.left_over", lambda *_: False)
    monkeypatch.setattr(
        Connection,
        "run",
        lambda self, sql, values=(): run(self, sql.replace("secure_delete = ON", "secure_delete = OFF"), values),
    )
    ids = [f"face {place:05}" for place in range(1030, 1090)]
    with Store.open(tmp_path / "g") as store:
        receipt = store.delete(ids).receipt
    proof = prove_deleted(tmp_path / "g", ids, [receipt])
    assert {one.what[:4] for one in proof.found} == {"text", "vect"}


@pytest.mark.parametrize("place", ["index/hnsw.npz", "notes.txt", "deep/er/file"])
def test_every_file_of_the_folder_is_read(place: str, tmp_path: Path) -> None:
    rows, _ = filled(tmp_path / "g", 30)
    with Store.open(tmp_path / "g") as store:
        deleted = store.delete(["face 00003"])
    file = tmp_path / "g" / place
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(
        b"x" * 4_194_299 + rows[3].tobytes()[200:500] + b"face 00003"
    )  # across the parts that are read at once
    proof = prove_deleted(tmp_path / "g", ["face 00003"], [deleted.receipt])
    assert {(one.what, one.file) for one in proof.found} == {
        ("vector, code or thumbnail", place),
        ("text 'face 00003'", place),
        *((("file that is not an index of this gallery", place),) if place.startswith("index") else ()),
    }
    assert ("text 'face 00003'", 4_194_599) in {(one.what, one.offset) for one in proof.found}


def test_the_log_of_a_pinned_reader_is_read_too(tmp_path: Path) -> None:
    filled(tmp_path / "g", 30)
    with Store.open(tmp_path / "g") as store:
        store.add(["late one"], *[part[:1] for part in filled(tmp_path / "other", 1)])
        with Store.open(tmp_path / "g") as reader, reader.reading() as connection:
            connection.rows("SELECT count(*) FROM item")
            store._writer.run("PRAGMA busy_timeout = 50")
            deleted = store.delete(["late one"])
            assert not deleted.flushed
            everything = (tmp_path / "g" / "gallery.sqlite-wal").read_bytes()
            assert b"late one" in everything
    proof = prove_deleted(tmp_path / "g", ["late one"], [deleted.receipt])
    assert proof.flushed
    assert proof.holds


def test_ids_that_begin_like_living_ones_and_equal_pictures_are_told_apart(tmp_path: Path) -> None:
    rows, codes = rows_of(4)
    wide = np.repeat(rows, 10, axis=1)[:, : 8 * DIM]
    codes = np.packbits(wide > 0, axis=1)
    with Store.create(tmp_path / "g", Space(dim=8 * DIM, holds="both")) as store:
        store.add(
            ["image 1", "image 10", "twin", "image 2"],
            wide[[0, 1, 0, 2]],
            codes[[0, 1, 0, 2]],
            metadata=[{"of": "a"}, {"of": "image 1"}, {}, {}],
        )
        deleted = store.delete(["image 1", "image 2"])
    proof = prove_deleted(tmp_path / "g", deleted.ids, [deleted.receipt])
    assert proof.holds
    assert proof.shared > 0
    (tmp_path / "g" / "copy").write_bytes(b"image 1 and image 10")
    found = prove_deleted(tmp_path / "g", deleted.ids, [deleted.receipt]).found
    assert [(one.file, one.offset) for one in found] == [("copy", 0), ("copy", 12)]


def test_what_is_alive_short_or_strange_is_said(tmp_path: Path) -> None:
    filled(tmp_path / "g", 30)
    with Store.open(tmp_path / "g") as store:
        deleted = store.delete(["face 00003"])
    proof = prove_deleted(tmp_path / "g", ["face 00004", "x"], [deleted.receipt])
    assert not proof.holds
    assert proof.alive == ("face 00004",)
    assert proof.found == ()
    assert proof.short == ("x",)
    stranger = Receipt.of("another", 1, [b"0123456789abcdef"])
    assert prove_deleted(tmp_path / "g", [], [stranger]).unknown == (stranger.time,)


def test_a_receipt_holds_no_personal_data_and_comes_back(tmp_path: Path) -> None:
    rows, codes = filled(tmp_path / "g", 30)
    with Store.open(tmp_path / "g") as store:
        deleted = store.delete(["face 00003"])
        with store.reading() as connection:
            (record,) = read_log(connection)
        assert record == {"time": deleted.receipt.time, "items": 1, "receipt": deleted.receipt.digest, "previous": ""}
        store.delete(["face 00004"])
        with store.reading() as connection:
            assert read_log(connection)[1]["previous"]
    deleted.receipt.save(tmp_path / "receipt.json")
    text = (tmp_path / "receipt.json").read_text()
    assert "face " not in text  # a blank, as hexadecimal digits may spell the rest
    assert rows[3].tobytes()[:8].hex() not in text
    assert codes[3].tobytes()[:8].hex() not in text
    again = Receipt.load(tmp_path / "receipt.json")
    assert again.digest == deleted.receipt.digest
    assert again.as_dict() == deleted.receipt.as_dict()
    assert again.covered == 3
    for change in (
        {"quick": "zz"},
        {"sure": ""},
        {"salt": None},
        {"payloads": 1},
        {"quick": "ffffffff", "sure": "00" * 8},
    ):
        (tmp_path / "bad.json").write_text(json.dumps(json.loads(text) | change))
        with pytest.raises(RunError, match="is not a receipt of a deletion"):
            Receipt.load(tmp_path / "bad.json")


def test_what_is_replaced_has_a_receipt_as_what_is_deleted_has(tmp_path: Path) -> None:
    rows, codes = filled(tmp_path / "g")
    changed, same = ["face 00003", "face 01499"], ["face 00009"]
    with Store.open(tmp_path / "g") as store:
        first = store.add(changed, -rows[[3, 1499]], ~codes[[3, 1499]], existing="replace")
        again = store.add(same, rows[[9]], codes[[9]], existing="replace")
        new = store.add(["new"], rows[:1], codes[:1], existing="replace")
        with store.reading() as connection:
            log = read_log(connection)
        compact(store)
    assert (first, again, new) == ((0, 2, 0), (0, 1, 0), (1, 0, 0))
    assert [one.items for one in (*first.receipts, *again.receipts)] == [2, 1]
    assert new.receipts == ()
    assert [(one["items"], one["replaced"]) for one in log] == [(2, True), (1, True)]
    proof = prove_deleted(tmp_path / "g", [], first.receipts)
    assert proof.holds, proof.found
    assert (proof.windows, proof.shared, proof.complete) == (2 * (16 + 16 + 2), 0, True)
    both = prove_deleted(tmp_path / "g", [], [*first.receipts, *again.receipts])
    assert both.holds  # the vector and code of the third are in the gallery again
    assert both.shared == 16 + 2
    with (tmp_path / "g" / "left").open("wb") as file:
        file.write(rows[1499].tobytes())
    assert not prove_deleted(tmp_path / "g", [], first.receipts).holds
    save_receipts(tmp_path / "r.json", [*first.receipts, *again.receipts])
    assert [one.digest for one in load_receipts(tmp_path / "r.json")] == [
        one.digest for one in (*first.receipts, *again.receipts)
    ]
    with pytest.raises(RunError, match="holds 2 receipts; wanted one"):
        Receipt.load(tmp_path / "r.json")


def test_a_receipt_says_that_it_is_a_sample(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cosphere.gallery.erasure.MOST_PAYLOADS", 8)
    rows, _ = filled(tmp_path / "g", 30)
    with Store.open(tmp_path / "g") as store:
        receipt = store.delete([f"face {place:05}" for place in range(10)]).receipt
    assert (receipt.payloads, receipt.covered, receipt.short, receipt.left_out) == (30, 8, 0, 22)
    proof = prove_deleted(tmp_path / "g", [], [receipt])
    assert proof.holds
    assert not proof.complete
    # What is left of something that is not in the sample is not found: the proof is of what was looked for.
    (tmp_path / "g" / "left").write_bytes(rows[1].tobytes())
    assert prove_deleted(tmp_path / "g", [], [receipt]).holds
    (tmp_path / "g" / "left").write_bytes(rows[0].tobytes())
    assert not prove_deleted(tmp_path / "g", [], [receipt]).holds
    old = {name: value for name, value in receipt.as_dict().items() if name != "payloads"}
    (tmp_path / "old.json").write_text(json.dumps(old))
    older = Receipt.load(tmp_path / "old.json")
    assert (older.payloads, older.left_out, older.as_dict()) == (None, 0, old)


def test_windows_cover_a_payload() -> None:
    assert window_places(256) == list(range(0, 256, 16))
    assert window_places(2048)[-1] == 2048 - 16
    assert windows(bytes(64)) == []
    assert len(windows(bytes(range(64)))) == 4


def test_the_quick_hash_is_one_function_of_sixteen_bytes() -> None:
    content = np.random.default_rng(0).bytes(16 * 5000)
    pairs = np.frombuffer(content, "<u8").reshape(-1, 2)
    hashes = quick_hash(pairs)
    assert int(hashes.max()) < 2**24

    def by_hand(first: int, second: int) -> int:
        mask = 2**64 - 1
        mixed = first * 0x9E3779B97F4A7C15 & mask
        mixed ^= mixed >> 32
        mixed = mixed + second * 0xC2B2AE3D27D4EB4F & mask
        mixed ^= mixed >> 29
        return (mixed * 0x165667B19E3779F9 & mask) >> 40

    assert [by_hand(*pair) for pair in pairs[:50].tolist()] == hashes[:50].tolist()
    assert len(set(hashes.tolist())) > 4990


def churn(folder: Path) -> bool:
    """Add items of random ids and delete half of all, again and again; whether the proof holds."""
    chance = random.Random(3)
    held: set[str] = set()
    gone: list[str] = []
    receipts = []
    with Store.create(folder, Space(dim=16)) as store:
        for turn in range(4):
            ids = [hashlib.sha256(f"{turn}/{place}".encode()).hexdigest() for place in range(400)]
            rows = np.random.default_rng(turn).normal(size=(400, 16)).astype(np.float32)
            store.add(ids, rows, metadata=[{"label": one[:9], "path": f"/x/{one}"} for one in ids])
            held |= set(ids)
            out = chance.sample(sorted(held), len(held) // 2)
            receipts.append(store.delete(out).receipt)
            held -= set(out)
            gone += out
    return prove_deleted(folder, gone, receipts).holds


def test_copies_that_sqlite_leaves_between_cells_are_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """secure_delete does not reach cells that were copied when a tree was balanced."""
    assert churn(tmp_path / "scrubbed")
    monkeypatch.setattr("cosphere.gallery.store.left_over", lambda *_: False)
    assert not churn(tmp_path / "left")


def test_unused_bytes_lie_between_the_cells(tmp_path: Path) -> None:
    file = tmp_path / "x.sqlite"
    other = sqlite3.connect(file, isolation_level=None)
    other.execute("PRAGMA page_size = 8192")
    other.execute("CREATE TABLE t (x TEXT)")
    other.executemany("INSERT INTO t VALUES (?)", [("living text",), ("another one",)])
    other.close()
    assert not left_over(file, ["living text", "another one"], [])
    content_ = bytearray(file.read_bytes())
    content_[8192 + 4000 : 8192 + 4010] = b"stale text"
    file.write_bytes(content_)
    assert left_over(file, ["stale text"], [])
    assert not left_over(file, ["stale texts"], [])
    content_[8192 + 4000 : 8192 + 4032] = bytes(range(32))
    file.write_bytes(content_)
    assert left_over(file, [], [Receipt.of("", 1, [bytes(range(32))])])


def captioned(folder: Path, captions: list[str]) -> None:
    """A closed gallery of items with a text each, of which the last is deleted."""
    with Store.create(folder, Space(dim=DIM)) as store:
        names = [f"picture {place}" for place in range(len(captions))]
        store.add(names, rows_of(len(captions))[0], metadata=[{"caption": one} for one in captions])
        store.flush()
        shutil.copyfile(folder / "gallery.sqlite", folder.parent / "backup.sqlite")
        store.delete(names[-1:])


def prose(size: int, seed: int) -> str:
    """A text of random words."""
    chance = random.Random(seed)
    return " ".join(f"{chance.randrange(10**9):09}" for _ in range(size // 10 + 1))[:size]


@pytest.mark.parametrize("size", [400, 1200, 9000])
def test_a_text_that_sqlite_split_over_pages_is_found(size: int, tmp_path: Path) -> None:
    shared = prose(min(size, 5000) - 100, 1)
    captions = [shared + prose(size - len(shared), seed) for seed in range(2, 8)]
    captioned(tmp_path / "g", captions)
    proof = prove_deleted(tmp_path / "g", texts=[captions[-1]])
    assert proof.holds, proof.found
    assert proof.complete
    shutil.copyfile(tmp_path / "backup.sqlite", tmp_path / "g" / "backup.sqlite")
    content_ = (tmp_path / "g" / "backup.sqlite").read_bytes()
    assert (captions[-1].encode() in content_) == (size <= 1200)  # SQLite keeps records up to a page in one piece
    found = prove_deleted(tmp_path / "g", texts=[captions[-1]]).found
    assert {(one.what, one.file) for one in found} == {
        (f"text {captions[-1][: 77 if size > 80 else size]!r}".removesuffix("'") + "...'", "backup.sqlite")
    }
    (tmp_path / "g" / "backup.sqlite").unlink()
    (tmp_path / "g" / "notes.txt").write_text(captions[-1][-140:] if size > 512 else captions[-1])
    assert {one.file for one in prove_deleted(tmp_path / "g", texts=[captions[-1]]).found} == {"notes.txt"}


def test_a_short_text_inside_long_ones_of_living_items_is_told_apart(tmp_path: Path) -> None:
    """Also where the record that holds it goes on on another page, right beside it."""
    living = [("needle " + "-" * gap) * (9000 // (7 + gap)) for gap in range(6)]
    captioned(tmp_path / "g", [*living, "needle"])
    proof = prove_deleted(tmp_path / "g", texts=["needle"])
    assert proof.holds, proof.found
    (tmp_path / "g" / "notes.txt").write_text("needle")
    assert [(one.what, one.file, one.offset) for one in prove_deleted(tmp_path / "g", texts=["needle"]).found] == [
        ("text 'needle'", "notes.txt", 0)
    ]


def test_a_live_text_across_the_parts_that_are_read_at_once_is_told_apart(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    captioned(tmp_path / "g", [f"needle {place} and what is beside it" for place in range(300)] + ["needle"])
    for part in (1500, 1511):
        monkeypatch.setattr("cosphere.gallery.proof._PART", part)
        assert prove_deleted(tmp_path / "g", texts=["needle"]).found == ()


def test_a_long_text_of_one_letter_is_not_looked_for_and_that_is_said(tmp_path: Path) -> None:
    filled(tmp_path / "g", 30)
    uniform = "x" * 4096
    proof = prove_deleted(tmp_path / "g", texts=[uniform, "some text"])
    assert (proof.short, proof.holds, proof.complete) == ((uniform,), True, False)
