"""Search on a real PostgreSQL server, against numpy."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from decimal import Decimal

import numpy as np
import pytest

from cosphere.errors import DataError, SettingsError, SizeError
from cosphere.gallery.postgres import PostgresStore, build_index, drop_index, indexes, search
from cosphere.gallery.postgres.conversion import as_json
from cosphere.gallery.postgres.filters import clause_of
from cosphere.gallery.postgres.planning import kept_by
from cosphere.gallery.where import parse

Make = Callable[..., PostgresStore]
DIM, COUNT = 16, 400


LARGE = (
    1e15,
    1e15 - 0.25,
    10**15,
    1e17 + 16,
    1e23,
    -1e23,
    9.5e22,
    1.7976931348623157e308,
    5e-324,
    0.1,
    2**63 - 1,
    2.0**63,
)
"""Most floats of these have other digits in PostgreSQL than in Python, where the shortest that name them are written."""


def filled(make: Make, **options: str) -> tuple[PostgresStore, np.ndarray, np.ndarray]:
    vectors = np.random.default_rng(3).standard_normal((COUNT, DIM)).astype(np.float32)
    codes = np.packbits(vectors > 0, axis=1)
    store = make(DIM, **options)
    store.add(
        [f"i{place}" for place in range(COUNT)], vectors, codes, metadata=[columns(place) for place in range(COUNT)]
    )
    return store, vectors, codes


def columns(place: int) -> dict[str, object]:
    values: dict[str, object] = {"n": place, "label": f"class {place % 7}", "half": place / 2, "odd": place % 2 == 1}
    values["large"] = LARGE[place % len(LARGE)]
    return values if place % 3 else {**values, "rare": "yes" if place % 99 == 0 else "no"}


def ids(found: list[list[object]]) -> list[list[str]]:
    return [[one.id for one in answer] for answer in found]  # type: ignore[attr-defined]


@pytest.mark.slow
def test_exact_search_ranks_as_numpy_does(make: Make) -> None:
    store, vectors, codes = filled(make)
    queries = np.random.default_rng(4).standard_normal((5, DIM)).astype(np.float32)
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    cosines = queries / np.linalg.norm(queries, axis=1, keepdims=True) @ unit.T
    answers = search(store, queries, k=9, exact=True)
    assert ids(answers) == [[f"i{place}" for place in row] for row in np.argsort(-cosines, axis=1)[:, :9]]
    np.testing.assert_allclose(
        [[one.score for one in row] for row in answers], -np.sort(-cosines, axis=1)[:, :9], atol=1e-6
    )

    bits = np.unpackbits(codes, axis=1).astype(int)
    asked = np.packbits(queries > 0, axis=1)
    distances = (np.unpackbits(asked, axis=1).astype(int)[:, None] != bits[None]).sum(axis=2)
    by_code = search(store, codes=asked, by="codes", k=9, exact=True)
    nearest = np.argsort(distances, axis=1, kind="stable")  # equal distances by row
    assert ids(by_code) == [[f"i{place}" for place in row] for row in nearest[:, :9]]
    assert [[-one.score for one in row] for row in by_code] == np.sort(distances, axis=1)[:, :9].tolist()

    short = nearest[:, :30]
    wanted = [[f"i{place}" for place in row[np.argsort(-cosines[at, row])][:4]] for at, row in enumerate(short)]
    assert ids(search(store, queries, asked, by="rerank", k=4, shortlist=30, exact=True)) == wanted


MANY = [f"{number} others" for number in range(150)]
FILTERS = [
    {"label": "class 3"},
    {"label": ["class 3", "class 5", 3]},
    {"n": (">", 390), "odd": True},
    {"odd": 1, "half": ("<=", 1.5)},
    {"label": ("starts with", "class 1")},
    {"label": ("!=", "class 0")},
    {"rare": ("exists", False), "n": ("<", 10)},
    {"rare": ("not in", ["no"])},
    {"label": (">=", "class 5")},
    {"n": ("<", "text")},
    {"id": ["i3", "i399", "absent"]},
    {"id": ("<", "i11")},
    {"id": 3},
    {"absent": ("!=", 1)},
    [{"n": 7}, {"n": 8, "odd": True}, {"half": 4.5}],
    {"label": "'; DROP TABLE item; --"},
    {"label": ["class 3", "class 5", 3, True, *MANY]},
    {"label": ("not in", ["class 3", *MANY]), "n": ("<", 20)},
    {"id": ["i3", *MANY]},
    {"large": list(LARGE[:5])},
    *(
        {"large": (operator, value)}
        for value in (1e23, 2.0**63, 1e15)
        for operator in ("=", "!=", "<", "<=", ">", ">=")
    ),
]


@pytest.mark.slow
def test_filters_mean_what_they_mean_in_a_folder(make: Make) -> None:
    store, vectors, _ = filled(make)
    for where in FILTERS:
        wanted = [f"i{place}" for place in range(COUNT) if parse(where).holds(f"i{place}", columns(place))]  # type: ignore[arg-type]
        assert store.ids(where) == wanted, where
        (answer,) = search(store, vectors[:1], k=COUNT, where=where)
        assert sorted(one.id for one in answer) == sorted(wanted), where


@pytest.mark.slow
def test_more_texts_than_a_statement_has_placeholders(make: Make) -> None:
    store, _, _ = filled(make)
    assert store.count({"label": ["class 3", *map(str, range(70_000))]}) == 57
    with pytest.raises(DataError, match="the filter has 22,000 alternatives, too many for one statement"):
        store.count([{"n": number} for number in range(22_000)])
    assert len(store) == COUNT


def test_many_texts_are_bound_as_one_list() -> None:
    few, many = (clause_of(parse({"label": MANY[:count]})).values for count in (100, 101))
    assert few == tuple(as_json({"label": text}) for text in MANY[:100])
    assert many == ("label", "label", MANY[:101])


@pytest.mark.slow
def test_rows_whose_squares_leave_float32_are_refused_and_such_queries_answered(make: Make) -> None:
    store, (ids_, vectors, codes) = make(4, holds="floats"), (["a", "b"], np.eye(4, dtype=np.float32)[:2], None)
    store.add(ids_, 1e17 * vectors, codes)
    with pytest.raises(
        DataError, match=r"1 embedding \('d'\) is longer than 1e\+18, which pgvector cannot compare\. Scale"
    ):
        store.add(["c", "d"], np.array([[1, 0, 0, 0], [1e20, 1e20, 0, 0]], dtype=np.float32))
    for scale in (1e300, 1e20, 1, 1e-30, 1e-300):
        (found,) = search(store, scale * np.array([[3.0, 4, 0, 0]]), k=2)
        assert [one.id for one in found] == ["b", "a"]
        assert [one.score for one in found] == pytest.approx([0.8, 0.6])
    half = make(4, holds="floats", stored="float16")
    half.add(ids_, 60_000 * vectors)
    for wrong in (65_600, 1e-5):
        with pytest.raises(
            DataError, match=r"1 embedding \('d'\) holds numbers that half precision lacks\. Store float32"
        ):
            half.add(["d"], np.array([[0, wrong, 0, 0]], dtype=np.float32))
    assert (len(store), len(half)) == (2, 2)


@pytest.mark.slow
def test_an_index_finds_as_many_as_there_are_through_a_filter(make: Make) -> None:
    store, vectors, codes = filled(make)
    assert indexes(store) == ()
    build_index(store)
    assert indexes(store) == ("code", "vector")
    rare = {"rare": "yes"}
    wanted = sorted(store.ids(rare))
    assert len(wanted) == 5
    with store.transaction(
        reading=True
    ) as connection:  # without the iterative scan, too few are found: the test can fail
        connection.execute(
            "SET LOCAL enable_seqscan = off; SET LOCAL enable_bitmapscan = off; SET LOCAL hnsw.ef_search = 10"
        )
        vector = "[" + ",".join(map(str, vectors[0])) + "]"
        plain = connection.execute(
            f"SELECT id FROM {store.table} WHERE columns ->> 'rare' = 'yes' ORDER BY vector <=> %s::vector LIMIT 5",
            (vector,),
        ).fetchall()
    assert len(plain) < 5
    (answer,) = search(store, vectors[:1], k=5, where=rare, ef_search=10)
    assert sorted(one.id for one in answer) == wanted
    assert [one.score for one in answer] == sorted((one.score for one in answer), reverse=True)
    (by_code,) = search(store, codes=codes[:1], by="codes", k=5, where=rare, ef_search=10)
    assert sorted(one.id for one in by_code) == wanted
    (everything,) = search(store, vectors[:1], k=COUNT + 7)
    assert len(everything) == COUNT
    drop_index(store)
    assert indexes(store) == ()


@pytest.mark.slow
def test_an_index_finds_nearly_what_exact_search_finds(make: Make) -> None:
    store, vectors, _ = filled(make)
    build_index(store)
    hits = [
        len({one.id for one in near} & {one.id for one in exact})
        for near, exact in zip(
            search(store, vectors[:40], k=10), search(store, vectors[:40], k=10, exact=True), strict=True
        )
    ]
    assert sum(hits) / 400 > 0.95


@pytest.mark.slow
def test_half_precision_and_wide_rows(make: Make) -> None:
    half, vectors, _ = filled(make, holds="both", stored="float16")
    build_index(half)
    assert ids(search(half, vectors[:20], k=1)) == [[f"i{place}"] for place in range(20)]
    wide = make(2500, holds="floats")
    rows = np.random.default_rng(0).standard_normal((30, 2500)).astype(np.float32)
    wide.add([f"i{place}" for place in range(30)], rows)
    build_index(wide)
    assert ids(search(wide, rows[:3], k=1)) == [["i0"], ["i1"], ["i2"]]
    with pytest.raises(SettingsError, match="pgvector indexes rows of up to 4,000 numbers; these have 5,000"):
        build_index(make(5000, holds="floats"))


@pytest.mark.slow
def test_queries_that_do_not_fit(make: Make) -> None:
    floats = make(DIM, holds="floats")
    ones = np.ones((1, DIM), dtype=np.float32)
    with pytest.raises(SettingsError, match="the gallery holds floats, so by='codes' cannot rank it"):
        search(floats, codes=np.zeros((1, 2), dtype=np.uint8), by="codes")
    with pytest.raises(SizeError, match="by='floats' wants vectors of the queries"):
        search(floats)
    with pytest.raises(SizeError, match=r"want queries \(Q, 16\) of a floating type, got \(1, 5\)"):
        search(floats, ones[:, :5])
    with pytest.raises(SizeError, match="a query is zero, or holds NaN"):
        search(floats, 0 * ones)
    with pytest.raises(SettingsError, match="k must be a whole number from 1"):
        search(floats, ones, k=0)


@pytest.mark.slow
def test_a_selective_filter_is_answered_exactly_by_itself(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    random = np.random.default_rng(8)
    vectors, places = random.standard_normal((3000, DIM)).astype(np.float32), random.permutation(3000)
    store = make(DIM)
    store.add(
        [f"i{n}" for n in range(3000)],
        vectors,
        np.packbits(vectors > 0, axis=1),
        metadata=[{"n": int(place), "few": bool(place < 90)} for place in places],
    )
    build_index(store, m=4, ef_construction=8)  # a poor graph, which finds less than all there is
    queries = random.standard_normal((20, DIM)).astype(np.float32)

    def found(**options: object) -> list[list[str]]:
        return ids(search(store, queries, k=10, ef_search=10, **options))  # type: ignore[arg-type]

    for where in ({"n": ("<", 90)}, {"few": True}, [{"n": ("<", 40)}, {"n": (">", 2970)}]):
        assert found(where=where) == found(where=where, exact=True), where
    assert found(where={"n": -1}) == [[]] * 20
    half = {"n": ("<", 1500)}
    assert found(where=half) != found(where=half, exact=True)  # through the index
    with store.transaction(reading=True) as connection:
        for where, share in (({"n": ("<", 90)}, 0.03), (half, 0.5), ({"n": -1}, 0.0)):
            kept = kept_by(connection, store.table, clause_of(parse(where)))
            assert kept == pytest.approx((share, 3000 * share)), where
        monkeypatch.setattr("cosphere.gallery.postgres.planning.SAMPLE", 1000)
        assert kept_by(connection, store.table, clause_of(parse(half))).share == pytest.approx(0.5, abs=0.06)
    # Without each part too little is found: the test can fail.
    quarter = {"n": ("<", 700)}
    assert found(where=quarter) == found(where=quarter, exact=True)
    monkeypatch.setattr("cosphere.gallery.postgres.planning.FEW_ROWS", 0)
    assert found(where=quarter) != found(where=quarter, exact=True)
    monkeypatch.setattr("cosphere.gallery.postgres.planning.FEW_KEPT", 0)
    monkeypatch.setattr("cosphere.gallery.postgres.planning._CANDIDATES", 0)
    through_the_index = found(where={"n": ("<", 90)})
    assert through_the_index != found(where={"n": ("<", 90)}, exact=True)
    assert all(len(one) == 10 for one in through_the_index)  # the iterative scan


def test_a_number_is_compared_as_the_one_that_is_kept() -> None:
    random = np.random.default_rng(0)
    drawn = [float(value) for value in random.uniform(1, 10, 300) * 10.0 ** random.integers(-300, 300, 300)]
    for value in (*LARGE, *drawn):
        (bound,) = clause_of(parse({"x": (">=", value)})).values[3:]
        assert json.loads(as_json({"x": value}), parse_float=Decimal, parse_int=Decimal) == {"x": bound}
        assert type(value)(bound) == value


@pytest.mark.slow
def test_searches_do_not_wait_for_an_index_that_is_built_again(make: Make) -> None:
    """A search is in the middle of the old index, a new one is built, and a third process searches meanwhile."""
    store, vectors, _ = filled(make)
    build_index(store)
    other, third = (PostgresStore.open(store.address, store.name) for _ in range(2))
    building = threading.Thread(target=build_index, args=(store,), kwargs={"m": 8}, daemon=True)
    with other, third:
        with other.transaction(reading=True) as connection:
            connection.execute(
                f"SELECT row FROM {store.table} ORDER BY vector <=> '{vectors[0].tolist()}' LIMIT 1"
            ).fetchall()
            building.start()
            for _ in range(600):
                with third.transaction(reading=True) as looking:
                    query = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND query LIKE 'DROP INDEX%'"
                    if looking.execute(query).fetchone()[0]:
                        break
                time.sleep(0.02)
            else:
                pytest.fail("building does not wait for the search that is under way")
            third._connection.execute("SET lock_timeout = '2s'")
            assert ids(search(third, vectors[:2], k=1)) == [["i0"], ["i1"]]
            assert indexes(third) == ("code", "vector")
            assert third.count() == COUNT
        building.join(60)
        assert not building.is_alive()
    with store.transaction(reading=True) as connection:
        query = "SELECT indexname, indexdef FROM pg_indexes WHERE schemaname = %s AND indexdef LIKE '%%hnsw%%'"
        found = connection.execute(query, (store.name,)).fetchall()
    assert sorted((name, "m='8'" in made) for name, made in found) == [("item_code", True), ("item_vector", True)]


@pytest.mark.slow
def test_what_a_killed_build_left_is_removed_by_the_next_one(make: Make) -> None:
    store, vectors, _ = filled(make)
    build_index(store)
    left = "item_vector_old_0123abcd"
    with store.transaction() as connection:
        connection.execute(f'ALTER INDEX "{store.name}".item_vector RENAME TO {left}')
    assert indexes(store) == ("code",)
    assert ids(search(store, vectors[:2], k=1)) == [["i0"], ["i1"]]
    build_index(store)
    assert indexes(store) == ("code", "vector")
    with store.transaction() as connection:
        assert connection.execute("SELECT 1 FROM pg_class WHERE relname = %s", (left,)).fetchone() is None
        connection.execute(f'ALTER INDEX "{store.name}".item_vector RENAME TO {left}')
    drop_index(store)
    with store.transaction(reading=True) as connection:
        assert connection.execute("SELECT 1 FROM pg_class WHERE relname = %s", (left,)).fetchone() is None
