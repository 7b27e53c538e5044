"""A file that was cut, or of which bits have changed: found, named, and never served."""

from __future__ import annotations

import random
import shutil
from pathlib import Path

import pytest
from making_gallery import content, rows_of

from cosphere.errors import DamagedError, RunError
from cosphere.gallery import Store, check_all


@pytest.fixture
def healthy(empty: Store) -> tuple[Path, dict]:
    """A closed gallery of blocks and single rows, and what it holds."""
    rows, codes = rows_of(1300)
    metadata = [{"label": f"class {place % 9}", "place": place} for place in range(1300)]
    empty.add(
        [f"item {place}" for place in range(1300)], rows, codes, metadata=metadata, thumbnails=[b"jpeg" * 20] * 1300
    )
    empty.flush()
    empty.close()
    return empty.folder, content(empty)


def damage_is_found(folder: Path, want: dict) -> bool:
    """Whether reading fails; what it gives instead must be what was written.

    Raises:
        AssertionError: something else was served.
    """
    try:
        with Store.open(folder) as store:
            assert content(store) == want
            assert {item.id for item in store} == set(want)
            check_all(store)
    except DamagedError as error:
        said = str(error)
        return says(said, "is damaged", "Restore the folder from a copy")
    except RunError as error:  # a bit of the header or of the format
        said = str(error)
        return says(said, "cannot be") or says(said, "not a gallery's file") or says(said, "gallery format")
    return False


def says(text: str, *words: str) -> bool:
    return all(word in text for word in words)


def flipped(source: Path, copy: Path, at: int, bit: int) -> Path:
    shutil.copytree(source, copy)
    file = copy / "gallery.sqlite"
    content_ = bytearray(file.read_bytes())
    content_[at] ^= 1 << bit
    file.write_bytes(content_)
    return copy


@pytest.mark.parametrize("flips", [12, pytest.param(150, marks=pytest.mark.slow)])
def test_flipped_bits_are_never_served(flips: int, healthy: tuple[Path, dict], tmp_path: Path) -> None:
    folder, want = healthy
    chance = random.Random(0)
    size = (folder / "gallery.sqlite").stat().st_size
    found = 0
    for number in range(flips):
        copy = flipped(folder, tmp_path / str(number), chance.randrange(size), chance.randrange(8))
        found += damage_is_found(copy, want)
        shutil.rmtree(copy)
    assert found > flips / 2  # the others lie in free space


@pytest.mark.parametrize(
    ("kind", "named"),
    [
        ("vectors", "vectors of block 1 are not what was written"),
        ("codes", "codes of block 1 are not what was written"),
        ("single row", "row 1100 is not what was written"),
        ("metadata", "item 500 is not what was written"),
        ("thumbnail", "the thumbnail of item"),
        ("state", "state is not what was written"),
    ],
)
def test_the_damaged_part_is_named(kind: str, named: str, healthy: tuple[Path, dict], tmp_path: Path) -> None:
    folder, want = healthy
    content_ = (folder / "gallery.sqlite").read_bytes()
    rows, codes = rows_of(1300)
    wanted = {
        "vectors": rows[7].tobytes()[4:40],
        "codes": codes[:12].tobytes(),
        "single row": rows[1099].tobytes()[4:40],
        "metadata": b'"place":499}',
        "thumbnail": b"jpegjpegjpegjpeg",
        "state": b'"next_row":',
    }[kind]
    at = content_.index(wanted)
    copy = flipped(folder, tmp_path / "copy", at + 2, 0)
    with Store.open(copy) if kind != "state" else pytest.raises(DamagedError, match=named) as store:
        if kind == "state":
            Store.open(copy)
        else:
            with pytest.raises(DamagedError, match=named):
                check_all(store)
    assert damage_is_found(copy, want)


@pytest.mark.parametrize("bit", [1, 7])  # letters of another word, or bytes that are no text
@pytest.mark.parametrize("word", [b"columns", b"CREATE TABLE space", b"ON block"])
def test_a_damaged_schema_is_damage(word: bytes, bit: int, healthy: tuple[Path, dict], tmp_path: Path) -> None:
    folder, want = healthy
    at = (folder / "gallery.sqlite").read_bytes().index(word)
    for place in range(at, at + len(word), 3):
        copy = flipped(folder, tmp_path / str(place), place, bit)
        assert damage_is_found(copy, want), place


def test_text_that_is_no_text_is_damage(healthy: tuple[Path, dict]) -> None:
    folder, _ = healthy
    with Store.open(folder) as store:
        with store.writing() as (connection, *_):
            connection.run("UPDATE codes SET content = CAST(x'ff00ff' AS TEXT)")
        with pytest.raises(DamagedError, match=r"is damaged: .*Restore the folder from a copy"):
            content(store)


def test_a_cut_file_is_damaged(healthy: tuple[Path, dict], tmp_path: Path) -> None:
    folder, want = healthy
    size = (folder / "gallery.sqlite").stat().st_size
    for share in (0.02, 0.3, 0.7, 0.99):
        copy = tmp_path / str(share)
        shutil.copytree(folder, copy)
        with (copy / "gallery.sqlite").open("r+b") as file:
            file.truncate(int(size * share) // 8192 * 8192 + 100)
        assert damage_is_found(copy, want), share


def test_a_flipped_fact_is_found_by_the_full_check(healthy: tuple[Path, dict]) -> None:
    folder, _ = healthy
    with Store.open(folder) as store:
        check_all(store)
        with store.writing() as (connection, *_):
            connection.run("UPDATE fact SET value = 'class 8' WHERE row = 10 AND value = 'class 0'")
        with pytest.raises(DamagedError, match="column 'label' of item 10 is not what was written"):
            check_all(store)


def test_a_missing_block_is_damaged(healthy: tuple[Path, dict]) -> None:
    folder, _ = healthy
    with Store.open(folder) as store:
        with store.writing() as (connection, *_):
            connection.run("DELETE FROM tail WHERE row = 1200")
        with pytest.raises(DamagedError, match=r"the set of items \(1,299 found of 1,300\)"):
            content(store)


def test_a_healthy_gallery_is_healthy_while_somebody_changes_it(healthy: tuple[Path, dict]) -> None:
    folder, _ = healthy
    left = iter(["item 1200", "item 3", "item 1299", "item 1024"])
    with Store.open(folder) as store, Store.open(folder) as other:

        def change(done: int, total: int) -> None:
            (name,) = store.delete([next(left)]).ids
            store.add([f"new {name}"], *rows_of(1), metadata=[{"label": "new", f"column {name}": done}])

        store.flush()
        store._writer.run("PRAGMA busy_timeout = 20")  # the check keeps the log from being emptied
        check_all(other, change)
        check_all(store, change)
        assert next(left, "") == ""
