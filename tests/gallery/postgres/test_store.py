"""A gallery on a real PostgreSQL server."""

from __future__ import annotations

import string
import threading
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from cosphere.errors import DataError, RunError, SettingsError, SizeError
from cosphere.gallery.postgres import PostgresStore, search
from cosphere.gallery.postgres.connection import check_version, explained, shown
from cosphere.gallery.postgres.conversion import as_json, check_lengths, check_rows
from cosphere.gallery.schema import Space

Make = Callable[..., PostgresStore]
ODD = {
    "text": "it's; DROP TABLE item; --",
    "emoji \U0001f600\n": 'line\nbreak\t"quoted" %s {}',
    "whole": 2**63 - 1,
    "small": -(2**63),
    "yes": True,
    "large": 1e300,
    "edge": 1e16,
    "tiny": 5e-324,
    "third": 1 / 3,
    "five": 5.0,
}


def rows(count: int, dim: int = 8, seed: int = 0) -> tuple[list[str], np.ndarray, np.ndarray]:
    vectors = np.random.default_rng(seed).standard_normal((count, dim)).astype(np.float32)
    return [f"item {place}" for place in range(count)], vectors, np.packbits(vectors > 0, axis=1)


@pytest.mark.slow
def test_items_come_back_as_they_were(make: Make) -> None:
    store = make()
    ids, vectors, codes = rows(3)
    ids = ["\U0001f600\n'; --", "%s {}", "plain"]
    added = store.add(
        ids, vectors, codes, metadata=[ODD, {}, {"label": "x", "none": None}], thumbnails=[b"jpeg", None, None]
    )
    assert (tuple(added), len(store)) == ((3, 0, 0), 3)
    items = list(store)
    assert [one.id for one in items] == ids
    assert [dict(one.metadata) for one in items] == [ODD, {}, {"label": "x"}]
    assert {name: type(value) for name, value in items[0].metadata.items()} == {
        name: type(value) for name, value in ODD.items()
    }
    pictures = [store.whole(one) for one in (ids[0], ids[1])]
    assert [one and one[2] for one in pictures] == [b"jpeg", None]
    assert store.whole("absent") is None
    ((every, numbers),) = store.vectors()
    assert [one.id for one in every] == ids
    assert numbers.vectors is not None
    assert numbers.codes is not None
    assert numbers.vectors.tolist() == vectors.tolist()  # of any length, as they came
    assert numbers.codes.tolist() == codes.tolist()
    assert store.known([*ids, "absent"]) == set(ids)
    assert ids[0] in store
    assert "item" not in store
    assert 3 not in store
    assert "\0" not in store


@pytest.mark.slow
def test_ids_that_are_there(make: Make) -> None:
    store = make()
    ids, vectors, codes = rows(4)
    store.add(ids[:2], vectors[:2], codes[:2])
    with pytest.raises(DataError, match=r"1 id \('item 1'\) is in the gallery already\. Use upsert"):
        store.add(ids[1:], vectors[1:], codes[1:])
    assert len(store) == 2  # all or none
    assert tuple(store.add(ids[1:3], vectors[1:3], codes[1:3], existing="skip")) == (1, 0, 1)
    assert tuple(store.add(ids[1:], -vectors[1:], codes[1:], existing="replace")) == (1, 2, 0)
    found = store.whole("item 1")
    assert found is not None
    assert found[1].vectors is not None
    assert float(found[1].vectors[0] @ vectors[1]) < 0
    assert len(store) == 4


@pytest.mark.slow
def test_deletion(make: Make) -> None:
    store = make()
    ids, vectors, codes = rows(6)
    store.add(ids, vectors, codes, metadata=[{"n": place} for place in range(6)])
    with pytest.raises(DataError, match=r"1 id \('gone'\) is not in the gallery\. Check them; nothing was deleted\."):
        store.delete(["item 0", "gone"])
    with pytest.raises(DataError, match="what should be deleted"):
        store.delete()
    assert store.delete(["item 5", "item 0"], where={"n": ("<", 3)}).ids == ("item 0",)
    assert store.delete(where={"n": (">=", 4)}).ids == ("item 4", "item 5")
    store.compact()
    assert store.ids() == ["item 1", "item 2", "item 3"]
    assert store.ids({"n": [1, 3]}) == ["item 1", "item 3"]


@pytest.mark.slow
def test_writers_take_turns_and_each_id_is_added_once(make: Make, server: str) -> None:
    store = make()
    ids, vectors, codes = rows(200)
    outcomes: list[int] = []

    def work(first: int) -> None:
        with PostgresStore.open(server, store.name) as own:
            for start in range(0, 200, 20):
                part = slice(start, start + 20)
                outcomes.append(own.add(ids[part], vectors[part], codes[part], existing="skip").added)
        del first

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for one in threads:
        one.start()
    for one in threads:
        one.join()
    assert len(outcomes) == 40
    assert sum(outcomes) == len(store) == 200


@pytest.mark.slow
def test_a_lost_connection_is_told_and_opened_again(make: Make, server: str) -> None:
    import psycopg

    store = make()
    ids, vectors, codes = rows(1)
    store.add(ids, vectors, codes)
    with psycopg.connect(server, autocommit=True) as other:
        other.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid <> pg_backend_pid() AND backend_type = 'client backend'"
        )
    with pytest.raises(RunError, match=r"went away: .* What was committed is intact; try again"):
        len(store)
    assert len(store) == 1


@pytest.mark.slow
def test_what_cannot_be_opened_or_made(make: Make, server: str) -> None:
    store = make()
    with pytest.raises(RunError, match=r"has a schema .* already\. Open it, or choose another name"):
        PostgresStore.create(server, store.name, Space(dim=3))
    with pytest.raises(RunError, match=r"has no gallery 'absent'\. Make one, or check the name"):
        PostgresStore.open(server, "absent")


@pytest.mark.slow
def test_what_cannot_be_kept(make: Make) -> None:
    store = make()
    ids, vectors, codes = rows(2)
    with pytest.raises(DataError, match="holds the character NUL, which PostgreSQL cannot keep"):
        store.add(["a\0", "b"], vectors, codes)
    with pytest.raises(DataError, match="metadata of item 1: 'x\\\\x00' holds the character NUL"):
        store.add(ids, vectors, codes, metadata=[{}, {"a": "x\0"}])
    long = "".join(np.random.default_rng(0).choice(list(string.ascii_letters), 2691))  # which nothing compresses
    with pytest.raises(
        DataError, match=r"id 1 has 2,691 bytes in UTF-8; wanted 1 to 2,690 on a server\. Choose another"
    ):
        store.add(["a", long], vectors, codes)
    with pytest.raises(SizeError, match="want metadata of 2 items, got 1"):
        store.add(ids, vectors, codes, metadata=[{}])
    with pytest.raises(SizeError, match="want thumbnails of 2 items, got 3"):
        store.add(ids, vectors, codes, thumbnails=[None] * 3)
    broken = vectors.copy()
    broken[1, 2] = np.nan
    with pytest.raises(DataError, match=r"1 embedding \('item 1'\) holds? NaN or infinity"):
        store.add(ids, broken, codes)
    with pytest.raises(SizeError, match=r"want embeddings \(2, 8\)"):
        store.add(ids, vectors[:, :5], codes)
    assert len(store) == 0
    assert search(store, vectors, k=3) == [[], []]
    assert store.add(["a", long[1:]], vectors, codes).added == 2


@pytest.mark.parametrize("name", ["", "1st", "a b", 'x"; DROP', "pg_mine", "x" * 64, "naïve"])
def test_names_that_are_no_schema(name: str) -> None:
    with pytest.raises(SettingsError, match="cannot be a schema of PostgreSQL; wanted up to 63 letters"):
        PostgresStore.create("postgresql://nobody@localhost:1/none", name, Space(dim=3))


def test_an_unreachable_server_is_named_without_the_password() -> None:
    pytest.importorskip("psycopg")
    address = "postgresql://me:secret@localhost:1/photos"
    with pytest.raises(RunError, match="PostgreSQL database 'photos' on localhost cannot be reached") as caught:
        PostgresStore.open(address, "a")
    assert "secret" not in str(caught.value) + shown(address)


@pytest.mark.parametrize(
    ("version", "new_enough"), [("0.8.3", False), ("0.7.4", False), ("0.8.4", True), ("0.8.6", True), ("1.0", True)]
)
def test_pgvector_that_can_corrupt_an_index_is_refused(version: str, new_enough: bool) -> None:
    pytest.importorskip("psycopg")
    if new_enough:
        check_version(version, "dbname=x")
        return
    with pytest.raises(
        RunError, match=rf"has pgvector {version}; wanted 0\.8\.4 or newer, because older ones can corrupt"
    ):
        check_version(version, "dbname=x")


def test_what_the_server_compares_wrongly_or_cannot_index_is_named() -> None:
    check_lengths(["a" * 2690])
    with pytest.raises(DataError, match="id 1 has 2,692 bytes in UTF-8; wanted 1 to 2,690 on a server"):
        check_lengths(["a", "é" * 1346])
    ids, unit = ["a", "b"], np.eye(3, dtype=np.float32)[:2]
    for stored, fits, wrong in (
        ("float32", (1e-6, 1e18), (1.1e18, 1e38)),
        ("float16", (6.2e-5, 65_504), (6e-5, 65_505)),
    ):
        for size in fits:
            check_rows(np.float32(size) * unit, stored, ids)  # type: ignore[arg-type]
        for size in wrong:
            with pytest.raises(DataError, match=r"1 embedding \('b'\) (is longer than|holds numbers that)"):
                check_rows(unit * np.array([[fits[0]], [size]], dtype=np.float32), stored, ids)  # type: ignore[arg-type]
    check_rows(None, "float32", ids)


def test_a_refused_statement_is_no_lost_connection() -> None:
    psycopg = pytest.importorskip("psycopg")
    for closed, words in ((False, "refuses: too long. What was"), (True, "went away: too long. What was .* try again")):
        with pytest.raises(RunError, match=words), explained("dbname=x", SimpleNamespace(closed=closed)):  # type: ignore[arg-type]
            raise psycopg.OperationalError("too long")


def test_large_floats_have_a_point() -> None:
    assert (
        as_json({"a": 1e16, "b": 2, "c": True, "d": 0.1}) == '{"a": 10000000000000000.0, "b": 2, "c": true, "d": 0.1}'
    )


def test_a_missing_package_names_the_extra(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "psycopg", None)
    with pytest.raises(ImportError, match=r"pip install 'cosphere\[postgres\]'"):
        PostgresStore.open("dbname=x", "a")
