"""Adding, replacing, deleting and reading items, against a dictionary."""

from __future__ import annotations

import json
import random
import sqlite3
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from making_gallery import DIM, content, rows_of

from cosphere.errors import DamagedError, DataError, RunError, SettingsError, SizeError
from cosphere.gallery import Known, Space, Store, compact
from cosphere.gallery.blocks import extents
from cosphere.gallery.schema import digest


def test_a_process_that_opens_a_gallery_loads_nothing_heavy(empty: Store) -> None:
    empty.close()
    heavy = "[name for name in ('torch', 'pandas', 'faiss', 'PIL') if name in sys.modules]"
    code = f"import sys; from cosphere.gallery import Store; Store.open(sys.argv[1]).close(); print({heavy})"
    found = subprocess.run([sys.executable, "-c", code, str(empty.folder)], check=True, capture_output=True, text=True)
    assert found.stdout.strip() == "[]"


@pytest.mark.usefixtures("driver")
def test_random_changes_leave_what_a_dictionary_holds(empty: Store) -> None:
    chance, want = random.Random(0), {}
    for turn in range(11):
        known = sorted(want)
        kind = chance.choice(["add", "add", "one", "replace", "delete", "delete", "compact", "reopen"])
        if kind in ("add", "one") or not known:
            count = 1 if kind == "one" else chance.choice([5, 700, 1024, 1100])
            ids = [f"{turn}/{place}" for place in range(count)]
        elif kind in ("replace", "delete"):
            ids = chance.sample(known, min(len(known), chance.choice([1, 40, 1200])))
        if kind == "delete" and known:
            assert set(empty.delete(ids).ids) == set(ids)
            for one in ids:
                del want[one]
        elif kind == "compact" and known:
            compact(empty)
        elif kind == "reopen" and known:
            empty.close()
        else:
            rows, codes = rows_of(len(ids), turn)
            metadata = [{"turn": turn, "place": place} for place in range(len(ids))]
            added = empty.add(ids, rows, codes, metadata=metadata, existing="replace")
            assert added == (len(set(ids) - set(want)), len(set(ids) & set(want)), 0)
            want |= {one: (row.tobytes(), columns) for one, row, columns in zip(ids, rows, metadata, strict=True)}
        assert len(empty) == len(want)
    assert content(empty) == want
    assert sorted(item.id for item in empty) == sorted(want)
    assert all(one in empty for one in want)
    assert "11/0" not in empty


def test_a_reader_that_catches_up_holds_what_a_new_one_reads(empty: Store) -> None:
    chance, held, known = random.Random(1), {}, Known()
    for turn in range(9):
        rows, codes = rows_of(chance.choice([1, 3, 700]), turn)
        empty.add([f"{turn}/{place}" for place in range(len(rows))], rows, codes)
        every = [item.id for item in empty]
        empty.delete(chance.sample(every, chance.choice([1, len(every) // 3])))
        if turn % 5 == 4:
            compact(empty)
        if turn % 3 == 0:
            continue
        with empty.reading() as connection:
            changes = empty.read_changes(connection, known)
            held = {} if changes.fresh else held
            for after, last, alive in changes.alive:
                gone = [row for row in held if after < row <= last and row not in set(alive.tolist())]
                for row in gone:
                    del held[row]
            for part in changes.new:
                held |= {row: values.tobytes() for row, values in zip(part.rows.tolist(), part.vectors, strict=True)}
            known = changes.known
        fresh = {
            item.row: row.tobytes()
            for items, rows_ in empty.vectors()
            for item, row in zip(items, rows_.vectors, strict=True)
        }
        assert held == fresh


def test_blocks_have_1024_rows_and_the_rest_waits(empty: Store) -> None:
    rows, codes = rows_of(2500)
    empty.add([str(place) for place in range(1000)], rows[:1000], codes[:1000])
    with empty.reading() as connection:
        assert extents(connection) == []
    empty.add([str(place) for place in range(1000, 2500)], rows[1000:], codes[1000:])
    with empty.reading() as connection:
        assert [(one.after, one.last, one.live) for one in extents(connection)] == [(0, 1024, 1024), (1024, 2048, 1024)]
        assert connection.one("SELECT count(*) FROM tail") == (452,)
    (one,) = empty.numbers_of(1025).vectors
    assert np.array_equal(one, rows[1024])
    (one,) = empty.numbers_of(2500).codes
    assert np.array_equal(one, codes[2499])


ODD = [
    "line\nbreak",
    "tab\tand\x00zero",
    "'; DROP TABLE item; --",
    '"quoted" and \\ back',
    "🦊🏳️‍🌈",
    "é",
    "e\u0301",  # another text than the one before
    " ",
    "x" * 4096,
    "../../etc/passwd",
    "%s {0} $1 ?1",
]


@pytest.mark.usefixtures("driver")
def test_odd_ids_and_metadata_come_back(empty: Store) -> None:
    rows, codes = rows_of(len(ODD))
    metadata = [{one[:200]: one, "whole": 2**62, "part": -1.5, "yes": True} for one in ODD]
    empty.add(ODD, rows, codes, metadata=metadata)
    assert [item.id for item in empty] == ODD
    assert [dict(item.metadata) for item in empty] == metadata
    for row, one in enumerate(ODD, 1):
        assert one in empty
        assert empty.rows({"id": one}).tolist() == [row]
        assert empty.rows({one[:200]: one}).tolist() == [row]
    for one in ODD:
        empty.delete([one])
    assert len(empty) == 0
    with empty.reading() as connection:
        assert connection.one("SELECT count(*) FROM name") == connection.one("SELECT count(*) FROM fact") == (0,)


def test_a_hundred_thousand_odd_columns(empty: Store) -> None:
    rows, codes = rows_of(2)
    columns = {f"column {place} '\"; {chr(0x1F600 + place % 50)}": place for place in range(100_000)}
    empty.add(["many", "few"], rows, codes, metadata=[columns, {"column": 1}])
    assert dict(next(iter(empty)).metadata) == columns
    name = list(columns)[77_777]
    assert empty.rows({name: 77_777}).tolist() == [1]
    assert empty.rows({name: ("exists", False)}).tolist() == [2]
    empty.delete(["many"])
    with empty.reading() as connection:
        assert connection.rows("SELECT name FROM name") == [("column",)]


def test_missing_values_leave_the_column_out(empty: Store) -> None:
    rows, codes = rows_of(1)
    empty.add(
        ["a"], rows, codes, metadata=[{"none": None, "nan": float("nan"), "numpy": np.float32(0.5), "int": np.int64(3)}]
    )
    (item,) = empty
    assert dict(item.metadata) == {"numpy": 0.5, "int": 3}


@pytest.mark.parametrize(
    ("ids", "metadata", "error"),
    [
        (["a", "b", "a"], None, r"1 id \('a'\) occurs twice\. Give each item an id of its own"),
        (["a", "b"], None, r"want one id for each of 3 items, got 2 ids"),
        ("abc", None, r"want one id for each of 3 items, got one text"),
        (["a", "b", ""], None, r"id 2 has 0 bytes in UTF-8; wanted 1 to 4096"),
        (["a", "b", "x" * 4097], None, r"id 2 has 4,097 bytes"),
        (["a", "b", 1.5], None, r"id 2 is a float; wanted a text"),
        (["a", "b", "\udce9"], None, r"id 2 is not valid Unicode: '\\udce9'\. Rename the file"),
        (["a", "b", "c"], [{}, {}], r"want metadata of 3 items, got 2"),
        (
            ["a", "b", "c"],
            [{}, {}, {"x": [1]}],
            r"column 'x' of item 2 is a list; wanted a text, a number or a truth value",
        ),
        (["a", "b", "c"], [{}, {}, {"x": float("inf")}], r"column 'x' of item 2 is infinite"),
        (["a", "b", 10**5000], None, r"id 2 is a int; wanted a text"),
        (
            ["a", "b", "c"],
            [{}, {}, {"x": 2**63}],
            r"column 'x' of item 2 is too large a whole number; wanted one that 64",
        ),
        (["a", "b", "c"], [{}, {}, {"x": -(10**5000)}], r"column 'x' of item 2 is too large a whole number"),
        (["a", "b", "c"], [{}, {}, {"x": "y" * 70_000}], r"column 'x' of item 2 has more than 65,536 bytes"),
        (["a", "b", "c"], [{}, {}, {"id": 1}], r"item 2 has a column 'id'; wanted a text other than"),
        (["a", "b", "c"], [{}, {}, "x"], r"metadata of item 2 is a str; wanted names with values"),
    ],
)
def test_what_cannot_be_kept_is_named_and_nothing_is_added(
    ids: list, metadata: list | None, error: str, empty: Store
) -> None:
    with pytest.raises((DataError, SizeError), match=error):
        empty.add(ids, *rows_of(3), metadata=metadata)
    assert len(empty) == 0


def test_rows_that_cannot_be_compared_are_named(empty: Store) -> None:
    rows, codes = rows_of(5)
    rows[1, 3], rows[4, 0] = np.nan, np.inf
    with pytest.raises(DataError, match=r"2 embeddings \('b', 'e'\) hold NaN or infinity\. Embed again"):
        empty.add(list("abcde"), rows, codes)
    rows[[1, 4]] = 1
    rows[2] = 0
    rows[3] = 1e-8  # a search takes it for zero: nothing would ever be near
    with pytest.raises(
        DataError, match=r"2 embeddings \('c', 'd'\) are zero or shorter than 1e-06, without a direction"
    ):
        empty.add(list("abcde"), rows, codes)
    with pytest.raises(DataError, match="hold NaN or infinity"):
        empty.add(["big", "bigger"], np.full((2, DIM), 1e300), codes[:2])  # infinite in float32
    with pytest.raises(SizeError, match=r"want embeddings \(5, 20\) of a floating type, got \(5, 19\) float32"):
        empty.add(list("abcde"), rows[:, 1:], codes)
    with pytest.raises(SizeError, match=r"want codes \(5, 3\) uint8 of 20 bits, got \(5, 2\) uint8"):
        empty.add(list("abcde"), np.abs(rows) + 1, codes[:, 1:])
    with pytest.raises(SizeError, match=r"the gallery holds both; give packed codes"):
        empty.add(list("abcde"), np.abs(rows) + 1)
    assert len(empty) == 0


def test_ids_that_are_there_are_refused_skipped_or_replaced(empty: Store) -> None:
    rows, codes = rows_of(3)
    empty.add(["a", "b"], rows[:2], codes[:2])
    with pytest.raises(DataError, match=r"2 ids \('a', 'b'\) are in the gallery already\. Use upsert to replace"):
        empty.add(["a", "b", "c"], rows, codes)
    assert len(empty) == 2
    assert empty.add(["a", "b", "c"], rows[::-1], codes[::-1], existing="skip") == (1, 0, 2)
    assert content(empty)["a"][0] == rows[0].tobytes()
    assert empty.add(["a", "d"], rows[1:], codes[1:], existing="replace") == (1, 1, 0)
    assert content(empty)["a"][0] == rows[1].tobytes()
    assert empty.add([], rows[:0], codes[:0]) == (0, 0, 0)
    with pytest.raises(SettingsError, match="existing must be"):
        empty.add(["e"], rows[:1], codes[:1], existing="merge")  # type: ignore[arg-type]


def test_deleting_by_id_and_by_filter(empty: Store) -> None:
    rows, codes = rows_of(6)
    empty.add(list("abcdef"), rows, codes, metadata=[{"label": one} for one in "xxyyzz"])
    with pytest.raises(DataError, match=r"2 ids \('g', 'h'\) are not in the gallery\. .*nothing was deleted"):
        empty.delete(["a", "g", "h"])
    with pytest.raises(DataError, match="what should be deleted"):
        empty.delete()
    for ids, error in (
        ("\ud800", "'.ud800' cannot be"),
        (b"a", "b'a' cannot be"),
        (["a", 1.5], "a float cannot be"),
        (7, "'7'"),
    ):
        with pytest.raises(DataError, match=error):
            empty.delete(ids)  # type: ignore[arg-type]
        assert ids not in empty
    assert empty.delete(where={"label": "x"}).ids == ("a", "b")
    assert empty.delete(["c", "e"], where={"label": "y"}).ids == ("c",)
    assert empty.delete(where={"label": "nothing"}).ids == ()
    assert [item.id for item in empty] == ["d", "e", "f"]
    generation = empty.state().generation
    empty.delete(where={"label": "nothing"})
    assert empty.state().generation == generation


def test_whole_numbers_are_the_ids_that_they_became(empty: Store) -> None:
    empty.add([7, np.int64(8), "09"], *rows_of(3))
    assert 7 in empty
    assert np.int64(8) in empty
    assert 9 not in empty
    for where in ({"id": 7}, {"id": [7, 9]}, {"id": ("=", "7")}, {"id": ("<", 8), "label": ("exists", False)}):
        assert [item.id for item in empty.find(where=where)] == (["7"] if "<" not in str(where) else ["7", "09"]), where
    assert empty.find(where={"id": [7.0, True]}) == []
    assert empty.delete(7).ids == ("7",)
    assert empty.delete([np.int64(8)]).ids == ("8",)


def test_a_deletion_removes_index_files(empty: Store) -> None:
    rows, codes = rows_of(2)
    empty.add(["a", "b"], rows, codes)
    for change in (lambda: empty.delete(["a"]), lambda: empty.add(["b"], rows[:1], codes[:1], existing="replace")):
        (empty.folder / "index").mkdir()
        (empty.folder / "index" / "hnsw.npz").write_bytes(rows.tobytes())
        change()
        assert not (empty.folder / "index").exists()


def test_what_is_no_gallery_is_refused(tmp_path: Path, empty: Store) -> None:
    with pytest.raises(RunError, match=r"is not a gallery: it has no gallery\.sqlite\. Make one with"):
        Store.open(tmp_path)
    with pytest.raises(RunError, match="is a gallery already"):
        Store.create(tmp_path / "new", Space(dim=3)).close() or Store.create(tmp_path / "new", Space(dim=3))
    with pytest.raises(SettingsError, match="dim must be a whole number from 1 to 65536"):
        Store.create(tmp_path / "other", Space(dim=0))
    with pytest.raises(SettingsError, match="holds must be 'floats' or"):
        Store.create(tmp_path / "other", Space(dim=3, holds="bits"))
    assert not (tmp_path / "other").exists()
    (tmp_path / "x").mkdir()
    (tmp_path / "x" / "gallery.sqlite").write_bytes(b"not a database, but long enough to be one" * 200)
    with pytest.raises(RunError, match="is damaged: file is not a database"):
        Store.open(tmp_path / "x")

    with sqlite3.connect(tmp_path / "x.sqlite") as other:
        other.execute("CREATE TABLE mine (x)")
    other.close()
    (tmp_path / "x.sqlite").rename(tmp_path / "x" / "gallery.sqlite")
    with pytest.raises(RunError, match="is not a gallery's file"):
        Store.open(tmp_path / "x")
    empty.close()
    with sqlite3.connect(empty.file) as file:
        file.execute("PRAGMA user_version = 99")
    file.close()
    with pytest.raises(RunError, match=r"has gallery format 99; this Cosphere reads 1\. Update your clone"):
        Store.open(empty.folder)


def test_space_and_state_come_back(tmp_path: Path) -> None:
    space = Space(dim=7, holds="codes", model_id="m", model="runs/first", preprocessing={"size": 160, "mean": [0.5]})
    with Store.create(tmp_path / "g", space, thumbnail=96):
        pass
    with Store.open(tmp_path / "g") as store:
        assert store.space() == space
        assert store.state().thumbnail == 96
        assert json.loads((tmp_path / "g" / "writer.lock").read_text() or "null") is None


def test_thumbnails_are_counted_and_bounded(empty: Store) -> None:
    with pytest.raises(SizeError, match="want thumbnails of 2 items, got 1"):
        empty.add(["a", "b"], *rows_of(2), thumbnails=[b"x"])
    with pytest.raises(SizeError, match="a thumbnail has more than 4,194,304 bytes"):
        empty.add(["a"], *rows_of(1), thumbnails=[bytes(2**22 + 1)])


@pytest.mark.parametrize(
    ("table", "content_", "about"),
    [
        ("state", {"generation": 1}, ("state",)),
        ("state", [1], ("state",)),
        ("state", "\x00", ("state",)),
        ("space", {"dim": "wide", "holds": "both", "model_id": "", "model": "", "preprocessing": None}, ("space", 1)),
        (
            "space",
            {"dim": 20, "holds": "both", "model_id": "", "model": "", "preprocessing": None, "code": "x"},
            ("space", 1),
        ),
    ],
)
def test_a_record_that_a_stranger_wrote_is_damaged(table: str, content_: object, about: tuple, empty: Store) -> None:
    with empty.writing() as (connection, *_):
        text = json.dumps(content_)
        connection.run(f"UPDATE {table} SET content = ?, digest = ?", (text, digest(text.encode(), *about)))
    with pytest.raises(DamagedError, match=f"{table}.* is not what was written"):
        empty.space()


@pytest.mark.parametrize(
    ("kind", "statement"),
    [
        ("trigger", "CREATE TRIGGER bad AFTER INSERT ON item BEGIN SELECT load_extension('x'); END"),
        ("view", "CREATE VIEW bad AS SELECT load_extension('x')"),
    ],
)
def test_a_schema_that_a_stranger_wrote_runs_nothing(kind: str, statement: str, empty: Store) -> None:
    """Triggers and views, which a gallery has none of, could call functions with effects or compute without end."""
    empty.close()
    other = sqlite3.connect(empty.file, isolation_level=None)
    other.execute(statement)
    other.close()
    with pytest.raises(RunError, match=f"holds a {kind} 'bad', as no gallery does"):
        empty.add(["a"], *rows_of(1))
    with pytest.raises(RunError, match=f"holds a {kind} 'bad', as no gallery does"):
        Store.open(empty.folder)
    assert len(empty) == 0
