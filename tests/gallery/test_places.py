"""Where a gallery lies and who else is there: read-only and full disks, moved folders, a second writer, many readers."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import textwrap
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from making_gallery import DIM, content, rows_of

from cosphere.errors import RunError
from cosphere.gallery import Space, Store, check_all, compact, library_version, prove_deleted, version_warning
from cosphere.gallery.sqlite import SAFE_VERSION, Connection


def run(code: str, *words: object, **options: object) -> subprocess.CompletedProcess[str]:
    """A program in a process of its own."""
    command = [sys.executable, "-c", textwrap.dedent(code), *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, check=False, **options)  # type: ignore[call-overload]


def test_a_second_writer_is_refused_and_told_who_the_first_is(empty: Store) -> None:
    empty.add(["a"], *rows_of(1))
    with Store.open(empty.folder) as second:
        assert len(second) == 1  # it may read
        with pytest.raises(
            RunError, match=r"is being written by this process since 20\d\d-.*has one writer: wait until it ends"
        ):
            second.delete(["a"])
        code = """
            import sys
            from cosphere.gallery import Store
            from cosphere.errors import RunError
            try:
                Store.open(sys.argv[1]).delete(["a"])
            except RunError as error:
                print(error)
        """
        assert f"is being written by process {os.getpid()} on " in run(code, empty.folder).stdout
        empty.close()
        assert second.delete(["a"]).ids == ("a",)


def test_a_killed_writer_lets_go(empty: Store) -> None:
    empty.close()
    code = "import os, sys; from cosphere.gallery import Store; s = Store.open(sys.argv[1]); s.flush(); os.kill(os.getpid(), 9)"
    assert run(code, empty.folder).returncode == -signal.SIGKILL
    empty.add(["a"], *rows_of(1))


def test_a_forked_process_does_not_close_the_file_of_its_parent(empty: Store) -> None:
    empty.add(["a"], *rows_of(1))
    child = os.fork()
    if child == 0:
        empty.close()
        os._exit(0)
    os.waitpid(child, 0)
    with Store.open(empty.folder) as second, pytest.raises(RunError, match="is being written by this process"):
        second.flush()
    empty.add(["b"], *rows_of(1))
    assert len(empty) == 2


def test_a_moved_folder_opens(empty: Store, tmp_path: Path) -> None:
    rows, codes = rows_of(1100)
    empty.add([str(place) for place in range(1100)], rows, codes)
    empty.close()
    shutil.move(empty.folder, tmp_path / "a new place; with 'odd' #?% characters")
    with Store.open(tmp_path / "a new place; with 'odd' #?% characters") as moved:
        assert len(content(moved)) == 1100
        moved.delete(["7"])
        check_all(moved)


@pytest.mark.parametrize("replaced", [False, True])
@pytest.mark.parametrize("writes", [False, True])
def test_a_folder_that_was_moved_while_it_was_open_is_an_error(replaced: bool, writes: bool, empty: Store) -> None:
    empty.add(["a"], *rows_of(1))
    if not writes:
        empty.close()
    with Store.open(empty.folder) as reader:
        assert "a" in reader
        shutil.move(empty.folder, f"{empty.folder}-moved")
        if replaced:
            shutil.copytree(f"{empty.folder}-moved", empty.folder)
        store = empty if writes else reader
        for work in (
            lambda: store.state(),
            lambda: list(store),
            lambda: list(store.vectors()),
            *(
                (lambda: store.add(["b"], *rows_of(1)), lambda: store.delete(["a"]), lambda: compact(store))
                if writes
                else ()
            ),
        ):
            with pytest.raises(RunError, match="was moved, removed or replaced while it was open"):
                work()
        empty.close()
    with Store.open(f"{empty.folder}-moved") as moved:
        assert [item.id for item in moved] == ["a"]
        check_all(moved)


@pytest.fixture
def read_only(tmp_path: Path) -> Iterator[Callable[[Path], Path]]:
    """Shows a folder at a second place, which is mounted read-only: rights alone do not stop the superuser."""
    places: list[Path] = []

    def show(folder: Path) -> Path:
        place = tmp_path / f"mounted {len(places)}"
        place.mkdir()
        commands = (["mount", "--bind", folder, place], ["mount", "-o", "remount,ro,bind", place])
        if os.geteuid() or shutil.which("mount") is None:
            pytest.skip("a read-only disk is mounted, which needs the rights of the superuser")
        for command in commands:
            if subprocess.run(command, capture_output=True, check=False).returncode:
                pytest.skip("this machine does not allow mounts")
        places.append(place)
        return place

    yield show
    for place in places:
        subprocess.run(["umount", "-l", place], check=True)


@pytest.mark.usefixtures("driver")
def test_a_read_only_disk_can_be_searched_and_not_written(empty: Store, read_only: Callable[[Path], Path]) -> None:
    rows, codes = rows_of(3)
    empty.add(list("abc"), rows, codes)
    want = content(empty)
    empty.flush()
    empty.close()
    (empty.folder / "gallery.sqlite-shm").unlink(missing_ok=True)
    (empty.folder / "gallery.sqlite-wal").unlink(missing_ok=True)
    place = read_only(empty.folder)
    with Store.open(place) as store:
        assert content(store) == want
        assert "a" in store
        with pytest.raises(
            RunError, match=r"cannot be written: Read-only file system\. Choose a folder that you may write"
        ):
            store.delete(["a"])
        assert len(store) == 3


def test_a_read_only_copy_of_a_killed_gallery(empty: Store, read_only: Callable[[Path], Path]) -> None:
    """The log holds the last commits. With its index beside it, it is read; without, the error says what to do."""
    empty.close()
    code = """
        import os, sys, numpy as np
        from cosphere.gallery import Store
        s = Store.open(sys.argv[1])
        s.add(["a"], np.ones((1, 20), np.float32), np.ones((1, 3), np.uint8))
        os.kill(os.getpid(), 9)
    """
    run(code, empty.folder)
    with Store.open(read_only(empty.folder)) as store:
        assert len(store) == 1
    (empty.folder / "gallery.sqlite-shm").unlink()
    with pytest.raises(
        RunError, match=r"gallery\.sqlite-wal holds changes .* Open the folder once where it can be written"
    ):
        Store.open(read_only(empty.folder))


@pytest.mark.skipif(
    not hasattr(os, "geteuid") or os.geteuid() != 0, reason="another user is tried, which needs the superuser"
)
def test_a_user_who_may_only_read_sees_what_another_one_writes() -> None:
    with tempfile.TemporaryDirectory() as name, contextlib.ExitStack() as after:
        after.callback(os.seteuid, 0)
        Path(name).chmod(0o755)
        one = np.ones((1, 4), np.float32)

        def write(id_: str) -> Store:
            writer = Store.create(folder, Space(dim=4)) if id_ == "a" else Store.open(folder)
            writer.add([id_], one)
            return writer

        folder = Path(name) / "gallery"
        write("a").close()
        os.seteuid(65534)
        reader = after.enter_context(Store.open(folder))
        assert [item.id for item in reader] == ["a"]
        with pytest.raises(RunError, match="cannot be written: Permission denied"):
            reader.delete(["a"])
        proof = prove_deleted(folder, ["gone.jpg"])
        assert (proof.holds, proof.flushed) == (True, False)
        os.seteuid(0)
        writer = write("b")
        os.seteuid(65534)
        assert [item.id for item in reader] == ["a", "b"]
        assert "b" in reader
        reader.close()
        os.seteuid(0)
        writer.close()
        os.seteuid(65534)
        with Store.open(folder) as fresh:
            assert "c" not in fresh

            def read_while_another_writes() -> None:
                with fresh.reading():
                    os.seteuid(0)
                    write("c").close()
                    os.seteuid(65534)

            with pytest.raises(RunError, match="was changed by another process while it was read"):
                read_while_another_writes()
            assert "c" in fresh


def test_closing_on_a_full_disk_is_no_error(empty: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    empty.add(["a"], *rows_of(1))

    def full(*_: object) -> bool:
        raise RunError("no space left")

    with monkeypatch.context() as patch:
        patch.setattr(Connection, "checkpoint", full)
        empty.close()  # what was added is committed, in the log
    with Store.open(empty.folder) as other:
        assert [item.id for item in other] == ["a"]
        other.delete(["a"])


def test_a_full_disk_loses_nothing(empty: Store) -> None:
    """The size of files is limited, as a quota does: a write then ends as on a full disk."""
    rows, codes = rows_of(300)
    empty.add([f"kept {place}" for place in range(300)], rows, codes)
    want = content(empty)
    empty.close()
    code = """
        import resource, signal, sys, numpy as np
        from cosphere.gallery import Store, compact
        from cosphere.errors import RunError
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        store = Store.open(sys.argv[1])
        store.flush()
        resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, resource.RLIM_INFINITY))
        rows = np.random.default_rng(0).normal(size=(9000, 20)).astype(np.float32)
        for work in (
            lambda: store.add([f"lost {n}" for n in range(9000)], rows, np.packbits(rows > 0, axis=1)),
            lambda: compact(store),
        ):
            try:
                work()
                print("done")
            except RunError as error:
                print(error)
        resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        store.add(["after"], rows[:1], np.packbits(rows[:1] > 0, axis=1))
    """
    found = run(code, empty.folder)
    assert found.returncode == 0, found.stderr
    first = found.stdout.splitlines()[0]
    assert "no space left. Free some space" in first or "the disk is full or failing" in first
    with Store.open(empty.folder) as store:
        assert content(store).keys() == want.keys() | {"after"}
        check_all(store)


READER = """
    import sys, time, numpy as np
    from cosphere.gallery import Known, Store
    store, end, seen, looks = Store.open(sys.argv[1]), time.time() + float(sys.argv[2]), -1, 0
    while looks < 4 or time.time() < end:
        began = time.time()
        with store.reading() as connection:
            state = store.state()
            got = {}
            for part in store.read_changes(connection, Known()).new:
                got |= dict(zip(part.rows.tolist(), part.vectors[:, 0].tolist()))
            items = store.read(list(got))
        assert state.generation >= seen, "went back"
        seen, looks = state.generation, looks + 1
        versions = {item.metadata["turn"] for item in items}
        assert len(versions) <= 1, f"parts of two commits: {versions}"
        assert len(items) == state.items
        assert all(got[item.row] == item.metadata["turn"] + 1 for item in items), "another item's row"
        time.sleep(min(0.02, 2 * (time.time() - began)))  # without pauses, three readers keep both cores from other tests
    print(looks)
"""


@pytest.mark.parametrize("seconds", [2, pytest.param(60, marks=pytest.mark.slow(seconds=60))])
def test_many_readers_see_whole_commits_while_one_writes(seconds: int, empty: Store) -> None:
    """Every commit replaces all items, so a reader that mixes two commits sees two turns."""
    empty.close()
    command = [sys.executable, "-c", textwrap.dedent(READER), str(empty.folder), str(seconds)]
    readers = [subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) for _ in range(3)]
    end, turn = time.time() + seconds, 0
    ids = [f"item {place}" for place in range(400)]
    while turn < 4 or time.time() < end:
        rows = np.full((400, DIM), turn + 1, np.float32)
        empty.add(ids, rows, np.packbits(rows > 0, axis=1), metadata=[{"turn": turn}] * 400, existing="replace")
        turn += 1
        if turn % 25 == 0:
            compact(empty)
        time.sleep(0.01)
    for reader in readers:
        looks, errors = reader.communicate()
        assert reader.returncode == 0, errors
        assert int(looks) > 3
    assert turn > 3


def test_the_library_is_named_and_an_old_one_warns(driver: str, monkeypatch: pytest.MonkeyPatch) -> None:
    import sqlite3

    if driver == "sqlite3":
        assert library_version() == sqlite3.sqlite_version_info
    monkeypatch.setattr("cosphere.gallery.sqlite.library_version", lambda: (3, 51, 2))
    warning = version_warning()
    assert warning is not None
    assert "SQLite 3.51.2 is older than 3.51.3 and can lose committed pages" in warning
    monkeypatch.setattr("cosphere.gallery.sqlite.library_version", lambda: SAFE_VERSION)
    assert version_warning() is None
