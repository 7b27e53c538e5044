import contextlib
import errno
import json
import os
import stat
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from cosphere.errors import RunError
from cosphere.files import check_writable, read_arrays, read_json, write_arrays, write_atomic, write_json, write_text


def test_writes_makes_folders_and_replaces(tmp_path):
    path = tmp_path / "a" / "b" / "note.txt"
    write_text(path, "größe\n")
    assert path.read_bytes() == "größe\n".encode()
    write_text(path, "second")
    assert path.read_text() == "second"
    assert [file.name for file in path.parent.iterdir()] == ["note.txt"]  # no temporary file is left


def test_a_file_is_on_the_disk_before_it_takes_its_name(tmp_path, monkeypatch):
    steps, rename = [], Path.replace
    monkeypatch.setattr(os, "fsync", lambda handle: steps.append(("flushed", os.fstat(handle).st_size)))
    monkeypatch.setattr(
        Path, "replace", lambda part, path: (steps.append(("renamed", str(path))), rename(part, path))[1]
    )
    write_text(tmp_path / "file", "four")
    assert steps == [("flushed", 4), ("renamed", str(tmp_path / "file"))]


def test_the_file_has_the_usual_permissions(tmp_path):
    mask = os.umask(0o027)
    try:
        write_text(tmp_path / "file", "x")
        assert stat.S_IMODE((tmp_path / "file").stat().st_mode) == 0o640
        assert os.umask(0o027) == 0o027  # looking at the mask has not changed it
    finally:
        os.umask(mask)


@pytest.mark.parametrize(
    "failure",
    [
        OSError(errno.ENOSPC, "No space left on device"),
        RuntimeError("[enforce fail at inline_container.cc:672] . unexpected pos 64 vs 0"),
    ],
    ids=["system", "torch"],
)
def test_a_full_disk_leaves_the_old_file_whole(tmp_path, failure):
    path = tmp_path / "checkpoint.pt"
    write_text(path, "old")

    def half(part):
        part.write_text("ne")
        raise failure

    with pytest.raises(
        RunError, match=r"cannot write .*checkpoint\.pt: .*Free some space .* The old file is untouched\."
    ):
        write_atomic(path, half)
    assert path.read_text() == "old"
    assert [file.name for file in tmp_path.iterdir()] == ["checkpoint.pt"]


def test_a_first_write_that_fails_claims_no_old_file(tmp_path):
    def fail(part):
        raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(RunError) as caught:
        write_atomic(tmp_path / "new", fail)
    assert "old file" not in str(caught.value)
    assert not list(tmp_path.iterdir())


def test_an_error_of_the_writer_is_not_hidden(tmp_path):
    path = tmp_path / "file"
    write_text(path, "old")

    def fail(part):
        raise KeyError("a bug")

    with pytest.raises(KeyError, match="a bug"):
        write_atomic(path, fail)
    assert path.read_text() == "old"
    assert [file.name for file in tmp_path.iterdir()] == ["file"]


def test_a_folder_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(RunError, match=r"cannot write .*file/inner\.json: .* Choose a folder that you may write"):
        write_json(tmp_path / "file" / "inner.json", {})


def test_a_folder_or_device_is_not_replaced(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "folder").mkdir()
    for name in ("pipe", "folder"):
        with pytest.raises(RunError, match=f"{name}: it is no file, but a folder or a device. Choose another name"):
            write_text(tmp_path / name, "x")
    assert (tmp_path / "pipe").is_fifo()


def test_json_comes_back(tmp_path):
    content = {"name": "Größe", "values": [1, 2.5, None, True], "nested": {"a": []}}
    write_json(tmp_path / "x.json", content)
    assert read_json(tmp_path / "x.json", what="a test file") == content
    assert "Größe" in (tmp_path / "x.json").read_text(encoding="utf-8")


def test_json_refuses_what_other_readers_cannot_read(tmp_path):
    write_json(tmp_path / "x.json", {"value": 1})
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(tmp_path / "x.json", {"value": float("nan")})
    assert json.loads((tmp_path / "x.json").read_text()) == {"value": 1}


def test_reading_names_what_was_wanted(tmp_path):
    with pytest.raises(RunError, match=r"absent\.json does not exist, so this is not a model bundle"):
        read_json(tmp_path / "absent.json", what="a model bundle")
    (tmp_path / "bad.json").write_text("{")
    with pytest.raises(RunError, match=r"bad\.json is not a model bundle"):
        read_json(tmp_path / "bad.json", what="a model bundle")
    (tmp_path / "bytes.json").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(RunError, match="is not a model bundle"):
        read_json(tmp_path / "bytes.json", what="a model bundle")
    with pytest.raises(RunError, match="is not a model bundle"):
        read_json(tmp_path, what="a model bundle")


def test_arrays_come_back_under_any_name(tmp_path):
    arrays = {"embeddings": np.arange(6, dtype=np.float32).reshape(2, 3), "paths": np.array(["a.jpg", "ü.jpg"])}
    path = tmp_path / "kept" / "test.embeddings"  # numpy itself would write test.embeddings.npz
    write_arrays(path, arrays)
    found = read_arrays(path, what="embeddings")
    assert found.keys() == arrays.keys()
    for name, array in arrays.items():
        assert found[name].dtype == array.dtype
        np.testing.assert_array_equal(found[name], array)
    assert [file.name for file in path.parent.iterdir()] == ["test.embeddings"]


def test_reading_arrays_names_what_was_wanted(tmp_path):
    with pytest.raises(RunError, match=r"absent\.npz does not exist, so this is not an index"):
        read_arrays(tmp_path / "absent.npz", what="an index")
    (tmp_path / "text.npz").write_text("no archive")
    (tmp_path / "empty.npz").touch()
    np.save(tmp_path / "single.npy", np.ones(2))
    write_arrays(tmp_path / "whole.npz", {"x": np.ones(100)})
    (tmp_path / "cut.npz").write_bytes((tmp_path / "whole.npz").read_bytes()[:200])
    for name in ("text.npz", "empty.npz", "single.npy", "cut.npz"):
        with pytest.raises(RunError, match=f"{name} is not an index: it is not an .npz, or it is cut off"):
            read_arrays(tmp_path / name, what="an index")


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_any_damaged_byte_of_arrays_is_a_clear_error_or_none(tmp_path, save):
    save(tmp_path / "whole.npz", x=np.arange(40))
    whole = (tmp_path / "whole.npz").read_bytes()
    for place in range(len(whole)):
        damaged = bytearray(whole)
        damaged[place] ^= 0x55
        (tmp_path / "damaged.npz").write_bytes(damaged)
        with contextlib.suppress(RunError):  # a byte that nobody reads, such as of a date, may change
            found = read_arrays(tmp_path / "damaged.npz", what="an index")
            assert all((array == np.arange(40)).all() for array in found.values())


def test_arrays_that_do_not_fit_into_memory_are_named(tmp_path, monkeypatch):
    def refuse(*_: object, **__: object) -> None:
        raise MemoryError("Unable to allocate 1.00 TiB")

    write_arrays(tmp_path / "large.npz", {"x": np.ones(2)})
    monkeypatch.setattr(np, "load", refuse)
    with pytest.raises(
        RunError, match=r"large\.npz does not fit into memory, or is damaged: Unable to allocate 1\.00 TiB"
    ):
        read_arrays(tmp_path / "large.npz", what="an index")


def test_pickled_objects_are_refused(tmp_path):
    np.savez(tmp_path / "objects.npz", x=np.array([{}], dtype=object))
    with pytest.raises(RunError, match=r"is not an index: it holds pickled objects, which could run code\."):
        read_arrays(tmp_path / "objects.npz", what="an index")


def test_what_a_killed_writer_left_is_removed_by_the_next_one_and_a_living_writers_file_is_not(tmp_path: Path) -> None:
    path = tmp_path / "rows.npz"
    code = (
        "import os, sys, time\n"
        "from pathlib import Path\n"
        "from cosphere.files import write_atomic\n"
        "def write(part):\n"
        "    part.write_text('half')\n"
        "    print('writing', flush=True)\n"
        "    time.sleep(60)\n"
        "write_atomic(Path(sys.argv[1]), write)\n"
    )
    with subprocess.Popen([sys.executable, "-c", code, str(path)], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        write_text(path, "first")
        assert len(list(tmp_path.glob(".rows.npz.*.part"))) == 1  # still being written
        process.kill()
        process.wait()
    other = tmp_path / ".rows.npz.notes.part"  # no name of ours
    other.write_text("")
    write_text(path, "second")
    assert sorted(tmp_path.iterdir()) == [other, path]
    assert path.read_text() == "second"


def test_what_can_be_written_is_left_as_it_is(tmp_path):
    (tmp_path / "old").write_text("old")
    for path in (tmp_path / "old", tmp_path / "new", tmp_path / "a" / "b" / "new"):
        check_writable(path)
    assert [file.name for file in tmp_path.iterdir()] == ["old"]
    assert (tmp_path / "old").read_text() == "old"


def test_what_cannot_be_written_is_named(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    for path, words in (
        (tmp_path, "it is no file, but a folder or a device"),
        (tmp_path / "file" / "x", "Not a directory"),
        (tmp_path / ("x" * 300), "File name too long"),
    ):
        with pytest.raises(RunError, match=words):
            check_writable(path)

    def refused(**_):
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.setattr("tempfile.TemporaryFile", refused)
    with pytest.raises(RunError, match=r"Read-only file system\. Choose a folder that you may write"):
        check_writable(tmp_path / "new" / "x")
