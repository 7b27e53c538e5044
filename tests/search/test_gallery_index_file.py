"""The index in a gallery's folder: made from the rows, caught up with them, and removed with what was deleted."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from cosphere.errors import RunError, SettingsError
from cosphere.gallery import prove_deleted
from cosphere.search import Gallery

DIM = 24


def made(folder: Path, count: int = 1500) -> tuple[Gallery, np.ndarray]:
    rows = np.random.default_rng(5).normal(size=(count, DIM)).astype(np.float32)
    gallery = Gallery.create(folder, dim=DIM)
    gallery.add(rows, [f"i{n}" for n in range(count)])
    return gallery, rows


def test_an_index_in_the_folder_serves_whoever_opens_it(tmp_path: Path) -> None:
    gallery, rows = made(tmp_path / "g")
    with gallery:
        built = gallery.build_index("hnsw", wanted_recall=0.9)
        assert built.check is not None
        gallery.add(rows[:1] * 2 + 0.01, ["new"])  # the file knows nothing of it
    with Gallery.open(tmp_path / "g") as other:
        index = other.index
        assert index is not None
        assert (index.kind, len(index)) == ("hnsw", 1500)
        assert index.check == built.check
        assert {hit.id for hit in other.search(rows[0], k=2)} == {"i0", "new"}
        assert len(index) == 1501
        hits = [{hit.id for hit in other.search(row, k=10)} for row in rows[:30]]
        other.use_index("exact")
        exact = [{hit.id for hit in other.search(row, k=10)} for row in rows[:30]]
        assert sum(len(one & two) for one, two in zip(hits, exact, strict=True)) > 0.9 * 300
        other.remove_index()
    with Gallery.open(tmp_path / "g") as third:
        assert third.index is None


def test_a_deletion_removes_the_index_and_its_rows_from_the_folder(tmp_path: Path) -> None:
    gallery, rows = made(tmp_path / "g")
    with gallery:
        gallery.build_index("hnsw")
        assert gallery.store.index_file("floats").exists()
        receipt = gallery.delete("i7").receipt
        assert not gallery.store.index_file("floats").exists()
        assert "i7" not in {hit.id for hit in gallery.search(rows[7], k=50)}  # the index in memory goes on
        assert gallery.index is not None
    assert prove_deleted(tmp_path / "g", receipts=[receipt]).holds
    with Gallery.open(tmp_path / "g") as other:
        assert other.index is None
        assert "i7" not in {hit.id for hit in other.search(rows[7], k=50)}


@pytest.mark.parametrize("kind", ["hnsw", "coarse-bits"])
def test_what_is_deleted_while_an_index_is_built_is_not_written(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gallery, rows = made(tmp_path / "g")
    use_index = Gallery.use_index

    def and_delete(self: Gallery, *words: object, **options: object) -> object:
        index = use_index(self, *words, **options)  # type: ignore[arg-type]
        self.delete("i7")  # another thread's
        return index

    monkeypatch.setattr(Gallery, "use_index", and_delete)
    with gallery:
        built = gallery.build_index(kind)
        assert len(built) == 1499
        assert gallery.search(rows[8], k=1)[0].id == "i8"
        with np.load(gallery.store.index_file("floats")) as arrays:
            assert 8 not in arrays["gallery_rows"].tolist()
            units = rows / np.linalg.norm(rows, axis=1, keepdims=True)
            kept = [values for values in arrays.values() if values.shape == (1499, DIM)]
            assert all(np.abs(values - units[7]).max(axis=1).min() > 0.1 for values in kept)
    assert prove_deleted(tmp_path / "g", ["i7777777"]).holds


def test_a_link_to_another_folder_takes_no_index(tmp_path: Path) -> None:
    gallery, _ = made(tmp_path / "g")
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "g" / "index").symlink_to(tmp_path / "elsewhere")
    with gallery, pytest.raises(RunError, match="index is a link, behind which a deletion removes nothing"):
        gallery.build_index("hnsw")
    assert list((tmp_path / "elsewhere").iterdir()) == []


def test_an_index_that_is_damaged_or_of_other_rows_is_passed_by(tmp_path: Path) -> None:
    gallery, rows = made(tmp_path / "g")
    with gallery:
        gallery.build_index("hnsw")
        file = gallery.store.index_file("floats")
    stranger, _ = made(tmp_path / "h", 1600)
    with stranger:
        stranger.build_index("hnsw")
        foreign = stranger.store.index_file("floats").read_bytes()
    whole = file.read_bytes()
    flipped = bytearray(whole)
    flipped[len(whole) // 2] ^= 1
    for content in (foreign, bytes(flipped), whole[: len(whole) // 2], b"", b"PK\x03\x04 nothing"):
        file.write_bytes(content)
        with Gallery.open(tmp_path / "g") as other:
            assert other.index is None
            assert other.search(rows[3], k=1)[0].id == "i3"
    file.write_bytes(whole)
    with Gallery.open(tmp_path / "g") as other:
        assert other.index is not None


def test_indexes_that_cannot_be_kept(tmp_path: Path) -> None:
    gallery, _ = made(tmp_path / "g", 1200)
    with gallery, Gallery.open(tmp_path / "g") as other:
        with pytest.raises(RunError, match=r"is being written by this process since .* A gallery has one writer"):
            other.build_index("hnsw")
        with pytest.raises(SettingsError, match="compares all rows and needs no index"):
            gallery.build_index("exact")
    small, _ = made(tmp_path / "s", 20)
    with small, pytest.raises(RunError, match="has fewer than 1,000 items, which are searched exactly"):
        small.build_index("hnsw")


BUILDER = """
import os, sys
import numpy as np
from cosphere.search import Gallery

Gallery.open(sys.argv[1]).close()  # every import is made before the first fork
for _ in sys.stdin:
    builder = os.fork()
    if builder == 0:
        gallery = Gallery.open(sys.argv[1])
        print(os.getpid(), flush=True)
        for version in range(1000):
            gallery.build_index("hnsw", check_queries=5)
            # removes the index
            gallery.upsert(np.full((1, 24), 1.0 + version, "float32"), ["marked"], [{"version": version}])
        os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(builder, 0)[1]) == -9
    print("killed", flush=True)
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="kills its forks")
@pytest.mark.slow(seconds=15)
def test_building_is_killed_at_any_moment(tmp_path: Path) -> None:
    gallery, rows = made(tmp_path / "g")
    with gallery:
        gallery.add(np.ones((1, DIM), dtype=np.float32), ["marked"], [{"version": -1}])
    random = np.random.default_rng(0)
    program = [sys.executable, "-c", BUILDER, str(tmp_path / "g")]
    with subprocess.Popen(program, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        for _ in range(6):
            process.stdin.write("next\n")
            process.stdin.flush()
            builder = int(process.stdout.readline())
            time.sleep(float(random.uniform(0, 1.5)))
            os.kill(builder, signal.SIGKILL)
            assert process.stdout.readline() == "killed\n"
            with Gallery.open(tmp_path / "g") as other:
                assert len(other) == 1501
                assert other.search(rows[9], k=1)[0].id == "i9"
                (first, second) = other.search(np.ones(DIM, dtype=np.float32), k=2)
                assert (first.id, first.metadata) == ("marked", other.get("marked").metadata)
                assert second.id != "marked"
        process.stdin.close()
    assert process.returncode == 0
