"""The pixel cache under kills, full disks, rot, several processes and changed files: it may forget, never lie."""

from __future__ import annotations

import errno
import logging
import os
import pickle
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from cosphere.errors import ImageError, SizeError
from cosphere.images import PixelCache, cache

ENTRY_BYTES = 40


def picture(number: int) -> np.ndarray:
    """A picture of its own size and content for each number."""
    return np.random.default_rng(number).integers(0, 256, (3 + number % 4, 5 + number % 3, 3), dtype=np.uint8)


class Maker:
    """Counts how often a picture had to be made."""

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self, number: int) -> Callable[[], np.ndarray]:
        def make() -> np.ndarray:
            self.calls += 1
            return picture(number)

        return make


@pytest.fixture
def make() -> Maker:
    return Maker()


@pytest.fixture
def sources(tmp_path: Path) -> list[Path]:
    paths = [tmp_path / f"{number}.jpg" for number in range(5)]
    for path in paths:
        path.write_bytes(b"stands for a picture")
    return paths


def filled(folder: Path, sources: list[Path]) -> Path:
    with_maker(PixelCache(folder, rule="r", keep_free=0), sources)
    return folder


def with_maker(kept: PixelCache, sources: list[Path], make: Maker | None = None) -> int:
    """Get every picture, check it, and say how many had to be made."""
    make = make or Maker()
    before = make.calls
    for number, path in enumerate(sources):
        found = kept.get(path, make(number))
        assert found.dtype == np.uint8
        assert np.array_equal(found, picture(number))
    return make.calls - before


def test_the_second_time_nothing_is_made(tmp_path: Path, sources: list[Path]) -> None:
    kept = PixelCache(tmp_path / "cache", rule="r", keep_free=0)
    assert with_maker(kept, sources) == 5
    assert with_maker(kept, sources) == 0
    assert with_maker(PixelCache(tmp_path / "cache", rule="r"), sources) == 0
    assert (tmp_path / "cache" / "pixels.dat").stat().st_size == sum(picture(number).nbytes for number in range(5))


def test_what_comes_back_is_the_callers_own(tmp_path: Path, sources: list[Path], make: Maker) -> None:
    kept = PixelCache(tmp_path / "cache", rule="r", keep_free=0)
    for _ in range(3):
        found = kept.get(sources[0], make(0))
        assert found.flags.writeable
        assert np.array_equal(found, picture(0))
        found[:] = 0
    assert make.calls == 1


def test_a_picture_that_is_a_view_is_kept_as_seen(tmp_path: Path, sources: list[Path]) -> None:
    kept = PixelCache(tmp_path / "cache", rule="r", keep_free=0)
    turned = picture(3)[::-1, ::2]
    for _ in range(2):
        assert np.array_equal(kept.get(sources[0], lambda: turned), turned)


def test_file_rule_and_box_are_the_key(tmp_path: Path, sources: list[Path], make: Maker) -> None:
    kept = PixelCache(tmp_path / "cache", rule="r", keep_free=0)
    kept.get(sources[0], make(0))
    kept.get(sources[0], make(1), box=(0, 0, 5, 5))
    kept.get(sources[0], make(2), box=(0, 0, 5, 6))
    PixelCache(tmp_path / "cache", rule="other", keep_free=0).get(sources[0], make(3))
    assert make.calls == 4
    assert np.array_equal(kept.get(sources[0], make(9)), picture(0))
    assert np.array_equal(kept.get(str(sources[0]), make(9), box=(0, 0, np.int64(5), 5)), picture(1))  # type: ignore[arg-type]
    assert make.calls == 4


def test_pixels_of_an_older_decoding_are_made_again(
    tmp_path: Path, sources: list[Path], make: Maker, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = PixelCache(tmp_path / "cache", rule="r", keep_free=0)
    kept.get(sources[0], make(0))
    monkeypatch.setattr(cache, "DECODING", cache.DECODING + 1)
    assert np.array_equal(kept.get(sources[0], make(1)), picture(1))
    assert make.calls == 2


def test_a_relative_path_is_the_same_file(
    tmp_path: Path, sources: list[Path], make: Maker, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = PixelCache(tmp_path / "cache", rule="r", keep_free=0)
    kept.get(sources[0], make(0))
    monkeypatch.chdir(tmp_path)
    kept.get(sources[0].name, make(0))
    assert make.calls == 1


@pytest.mark.parametrize("change", ["time", "length"])
def test_a_changed_file_is_made_anew(change: str, tmp_path: Path, sources: list[Path], make: Maker) -> None:
    kept = PixelCache(tmp_path / "cache", rule="r", keep_free=0)
    kept.get(sources[0], make(0))
    status = sources[0].stat()
    if change == "time":
        os.utime(sources[0], ns=(status.st_atime_ns, status.st_mtime_ns + 1))
    else:
        sources[0].write_bytes(b"longer than the picture was before")
        os.utime(sources[0], ns=(status.st_atime_ns, status.st_mtime_ns))
    assert np.array_equal(kept.get(sources[0], make(1)), picture(1))
    assert np.array_equal(kept.get(sources[0], make(9)), picture(1))


def test_rows_of_a_batch_have_keys_of_their_own(tmp_path: Path, make: Maker) -> None:
    batch = tmp_path / "data_batch_1.bin"
    batch.write_bytes(b"stands for a batch")
    kept = PixelCache(tmp_path / "cache", rule="r", keep_free=0)
    for _ in range(2):
        for row in range(3):
            assert np.array_equal(kept.get(f"{batch}#{row}", make(row)), picture(row))
    assert make.calls == 3


def test_errors_of_make_pass_and_nothing_is_kept(tmp_path: Path, sources: list[Path], make: Maker) -> None:
    kept = PixelCache(tmp_path / "cache", rule="r", keep_free=0)

    def fail() -> np.ndarray:
        raise ImageError("damaged")

    for path in (sources[0], tmp_path / "missing.jpg"):
        with pytest.raises(ImageError, match="damaged"):
            kept.get(path, fail)
    assert np.array_equal(kept.get(sources[0], make(0)), picture(0))
    with pytest.raises(SizeError, match=r"want pixels to keep as uint8 \(H, W, 3\), got float64 \(2, 2, 3\)"):
        kept.get(sources[1], lambda: np.zeros((2, 2, 3)))  # type: ignore[arg-type,return-value]


# Kills and rot


def test_cut_off_anywhere_it_forgets_but_never_lies(tmp_path: Path, sources: list[Path]) -> None:
    whole = filled(tmp_path / "whole", sources)
    index, data = (whole / "pixels.index").read_bytes(), (whole / "pixels.dat").read_bytes()
    assert len(index) == 5 * ENTRY_BYTES
    ends = np.cumsum([picture(number).nbytes for number in range(5)]).tolist()
    edges = {edge + near for edge in range(0, len(index) + 1, ENTRY_BYTES) for near in (-1, 0, 1)}
    for cut in sorted(edges.union(range(0, len(index), 7)) & set(range(len(index) + 1))):
        # A kill leaves an entry's pixels whole, and perhaps more pixels behind.
        for data_cut in (ends[cut // ENTRY_BYTES - 1] if cut >= ENTRY_BYTES else 0, len(data), len(data) - 7):
            folder = tmp_path / "cut"
            folder.mkdir()
            (folder / "pixels.index").write_bytes(index[:cut])
            (folder / "pixels.dat").write_bytes(data[:data_cut])
            forgotten = 5 - cut // ENTRY_BYTES + (data_cut == len(data) - 7 and cut == len(index))
            assert with_maker(PixelCache(folder, rule="r", keep_free=0), sources) == forgotten
            assert with_maker(PixelCache(folder, rule="r", keep_free=0), sources) == 0  # and has mended itself
            shutil.rmtree(folder)


@pytest.mark.parametrize("file", ["pixels.dat", "pixels.index"])
def test_a_rotten_byte_costs_one_picture(file: str, tmp_path: Path, sources: list[Path]) -> None:
    folder = filled(tmp_path / "cache", sources)
    content = bytearray((folder / file).read_bytes())
    for place in range(0, len(content), 11):
        rotten = content.copy()
        rotten[place] ^= 0x10
        (folder / file).write_bytes(rotten)
        both = tmp_path / "both"
        shutil.copytree(folder, both)
        assert with_maker(PixelCache(both, rule="r", keep_free=0), sources) == 1
        assert with_maker(PixelCache(both, rule="r", keep_free=0), sources) == 0
        shutil.rmtree(both)


@pytest.mark.parametrize("file", ["pixels.dat", "pixels.index"])
def test_a_file_that_was_deleted_or_replaced_by_rubbish(file: str, tmp_path: Path, sources: list[Path]) -> None:
    folder = filled(tmp_path / "cache", sources)
    (folder / file).unlink()
    assert with_maker(PixelCache(folder, rule="r", keep_free=0), sources) == 5
    (folder / file).write_bytes(bytes(1000))
    assert with_maker(PixelCache(folder, rule="r", keep_free=0), sources) == 5
    assert with_maker(PixelCache(folder, rule="r", keep_free=0), sources) == 0


def test_a_data_file_cut_short_while_open_is_noticed(tmp_path: Path, sources: list[Path]) -> None:
    kept = PixelCache(tmp_path / "cache", rule="r", keep_free=0)
    with_maker(kept, sources)
    assert with_maker(kept, sources) == 0
    os.truncate(tmp_path / "cache" / "pixels.dat", 0)
    # Another process fills the same places with other pictures first.
    PixelCache(tmp_path / "cache", rule="other", keep_free=0).get(sources[1], lambda: np.zeros((60, 60, 3), np.uint8))
    assert with_maker(kept, sources) == 5
    assert with_maker(kept, sources) == 0


PROGRAM = """
import sys
from pathlib import Path
from types import ModuleType
import numpy as np

# The cache without the rest of the room: importing torch and torchvision takes seconds.
room = sys.modules["cosphere.images"] = ModuleType("cosphere.images")
room.__path__ = [sys.argv[6]]
from cosphere.images.cache import PixelCache

folder, first, last, side = Path(sys.argv[1]), *map(int, sys.argv[2:5])
exec(sys.argv[5])
kept = PixelCache(folder / "cache", rule="r", keep_free=0)
made = 0
def make(number):
    def one():
        global made
        made += 1
        return np.full((side, side, 3), number % 251, np.uint8)
    return one
print("ready", flush=True)
for number in range(first, last):
    path = folder / f"{number}.jpg"
    if not path.exists():
        path.touch()
    assert (kept.get(path, make(number)) == number % 251).all()
    assert (kept.get(path, make(number)) == number % 251).all()
print("made", made, flush=True)
"""


def program(folder: Path, first: int, last: int, side: int, before: str = "") -> subprocess.Popen[str]:
    command = [
        sys.executable,
        "-c",
        PROGRAM,
        str(folder),
        str(first),
        str(last),
        str(side),
        before,
        str(Path(cache.__file__).parent),
    ]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def check_numbers(folder: Path, side: int, count: int) -> int:
    """Every kept number is right; returns how many were kept."""
    kept = PixelCache(folder / "cache", rule="r", keep_free=0)
    made = []
    for number in range(count):
        path = folder / f"{number}.jpg"
        if not path.exists():
            path.touch()

        def make(number: int = number) -> np.ndarray:
            made.append(number)
            return np.full((side, side, 3), number % 251, np.uint8)

        assert (kept.get(path, make) == number % 251).all()
    return count - len(made)


def test_kill_9_while_writing(tmp_path: Path) -> None:
    with program(tmp_path, 0, 100_000, 700) as writer:
        assert writer.stdout is not None
        assert writer.stdout.readline() == "ready\n"
        data = tmp_path / "cache" / "pixels.dat"
        while not (data.exists() and data.stat().st_size > 20_000_000):
            assert writer.poll() is None
        writer.send_signal(signal.SIGKILL)
        writer.communicate()
    assert writer.returncode == -signal.SIGKILL
    assert check_numbers(tmp_path, 700, 15) >= 12  # 1.47 MB each
    assert check_numbers(tmp_path, 700, 15) == 15


def test_two_processes_share_one_cache(tmp_path: Path) -> None:
    for number in range(300):
        (tmp_path / f"{number}.jpg").touch()
    with program(tmp_path, 0, 300, 20) as one, program(tmp_path, 0, 300, 20) as two:
        results = [process.communicate(timeout=600) for process in (one, two)]
    assert [one.returncode, two.returncode] == [0, 0], results
    made = [int(output.split()[-1]) for output, _ in results]
    assert 300 <= sum(made) <= 600
    size = (tmp_path / "cache" / "pixels.index").stat().st_size
    assert size == 300 * ENTRY_BYTES  # each picture once, whoever made it
    assert check_numbers(tmp_path, 20, 300) == 300


def test_a_process_sees_what_another_has_kept_since(tmp_path: Path, sources: list[Path]) -> None:
    early = PixelCache(tmp_path / "cache", rule="r", keep_free=0)
    assert with_maker(early, sources[:1]) == 1
    assert with_maker(PixelCache(tmp_path / "cache", rule="r", keep_free=0), sources) == 4
    assert with_maker(early, sources) == 0


def test_threads(tmp_path: Path, sources: list[Path]) -> None:
    kept = PixelCache(tmp_path / "cache", rule="r", keep_free=0)
    failures: list[BaseException] = []

    def work() -> None:
        try:
            for _ in range(20):
                with_maker(kept, sources)
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=work) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert (tmp_path / "cache" / "pixels.index").stat().st_size == 5 * ENTRY_BYTES


def test_it_travels_to_a_spawned_process(tmp_path: Path, sources: list[Path]) -> None:
    kept = PixelCache(tmp_path / "cache", rule="r", keep_free=0)
    with_maker(kept, sources)
    copy = pickle.loads(pickle.dumps(kept))
    assert (copy.folder, copy.rule, copy.keep_free) == (kept.folder, "r", 0)
    assert with_maker(copy, sources) == 0


def test_a_forked_process_opens_files_of_its_own(
    tmp_path: Path, sources: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As after a fork: the same object, another process id, and a lock that some other thread held at that moment."""
    kept = PixelCache(tmp_path / "cache", rule="r", keep_free=0)
    with_maker(kept, sources[:2])
    parents_lock, parents_files = kept._lock, kept._files
    parents_lock.acquire()
    monkeypatch.setattr(os, "getpid", lambda: -1)
    assert parents_files is not None
    spare = [os.dup(file) for file in parents_files]  # so that the numbers are not handed out again
    assert with_maker(kept, sources) == 3
    assert kept._lock is not parents_lock
    for file in spare:
        os.close(file)


# Disks


@pytest.fixture
def warned(caplog: pytest.LogCaptureFixture) -> Callable[[], list[str]]:
    caplog.set_level(logging.WARNING)
    return lambda: [record.getMessage() for record in caplog.records]


@pytest.mark.parametrize("room", [0, 10, 65, 70, 200, 250])
def test_a_full_disk_stops_the_cache_and_not_the_run(
    room: int, tmp_path: Path, sources: list[Path], monkeypatch: pytest.MonkeyPatch, warned: Callable[[], list[str]]
) -> None:
    """``room`` bytes fit on the disk: like a real one, it takes part of a write and refuses the next."""
    left, refused = room, 0
    write = os.pwrite

    def pwrite(file: int, content: memoryview, offset: int) -> int:
        nonlocal left, refused
        if left == 0:
            refused += 1
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        count = write(file, content[:left], offset)
        left -= count
        return count

    monkeypatch.setattr(cache.os, "pwrite", pwrite)
    kept = PixelCache(tmp_path / "cache", rule="r", keep_free=0)
    fits = int(
        np.searchsorted(np.cumsum([picture(number).nbytes + ENTRY_BYTES for number in range(5)]), room, side="right")
    )
    assert with_maker(kept, sources) == 5
    assert with_maker(kept, sources) == 5 - fits
    assert refused == 1  # it does not go on trying
    (message,) = warned()  # once
    assert message.startswith(
        f"the pixel cache {tmp_path / 'cache'} keeps nothing more: No space left on device. The run goes on"
    )
    assert (tmp_path / "cache" / "pixels.index").stat().st_size == fits * ENTRY_BYTES
    assert (tmp_path / "cache" / "pixels.dat").stat().st_size == sum(picture(number).nbytes for number in range(fits))
    monkeypatch.setattr(cache.os, "pwrite", write)
    assert with_maker(PixelCache(tmp_path / "cache", rule="r", keep_free=0), sources) == 5 - fits


def test_a_real_limit_on_file_size(tmp_path: Path) -> None:
    limit = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (5000, 5000))"
    with program(tmp_path, 0, 10, 20, limit) as process:
        output, errors = process.communicate(timeout=600)
    assert process.returncode == 0, errors
    assert output.split()[-1] == str(4 + 2 * 6)  # four of 1200 bytes fit, the others are made each time
    assert errors.count("keeps nothing more: File too large") == 1
    assert check_numbers(tmp_path, 20, 10) == 4


def test_the_last_of_the_disk_is_left_to_others(
    tmp_path: Path, sources: list[Path], warned: Callable[[], list[str]]
) -> None:
    kept = PixelCache(tmp_path / "cache", rule="r", keep_free=10**18)
    assert with_maker(kept, sources) == 5
    assert (tmp_path / "cache" / "pixels.dat").stat().st_size == 0
    (message,) = warned()
    assert "GB left, and 1000000000.0 GB are kept free" in message


def test_a_folder_that_cannot_be(tmp_path: Path, sources: list[Path], warned: Callable[[], list[str]]) -> None:
    (tmp_path / "file").touch()
    kept = PixelCache(tmp_path / "file" / "cache", rule="r", keep_free=0)
    assert with_maker(kept, sources) == 5
    assert with_maker(kept, sources) == 5
    (message,) = warned()
    assert "Not a directory" in message


def test_a_cache_that_may_only_be_read(
    tmp_path: Path, sources: list[Path], monkeypatch: pytest.MonkeyPatch, warned: Callable[[], list[str]]
) -> None:
    folder = filled(tmp_path / "cache", sources[:3])
    really = os.open

    def only_to_read(name: Path, flags: int, *rest: int) -> int:
        if flags & os.O_RDWR:
            raise PermissionError(
                errno.EACCES, os.strerror(errno.EACCES)
            )  # root may write everywhere: mode bits would not do
        return really(name, flags, *rest)

    monkeypatch.setattr(cache.os, "open", only_to_read)
    kept = PixelCache(folder, rule="r", keep_free=0)
    assert with_maker(kept, sources) == 2
    assert with_maker(kept, sources) == 2
    (message,) = warned()
    assert "Permission denied" in message


def test_a_system_without_file_locks(
    tmp_path: Path, sources: list[Path], monkeypatch: pytest.MonkeyPatch, warned: Callable[[], list[str]]
) -> None:
    monkeypatch.setattr(cache, "fcntl", None)
    kept = PixelCache(tmp_path / "cache", rule="r", keep_free=0)
    assert with_maker(kept, sources) == 5
    (message,) = warned()
    assert "file locks" in message


def test_closing_is_harmless(tmp_path: Path, sources: list[Path]) -> None:
    kept = PixelCache(tmp_path / "cache", rule="r", keep_free=0)
    kept.close()
    with_maker(kept, sources)
    assert kept._files is not None
    data, index = kept._files
    kept.close()
    for file in (data, index):
        with pytest.raises(OSError, match="Bad file descriptor"):
            os.fstat(file)
    assert with_maker(kept, sources) == 0
