"""Atomic file writes: after a crash or on a full disk, the old file is intact."""

from __future__ import annotations

import contextlib
import glob
import json
import os
import re
import tempfile
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

from cosphere.disk import check_waits
from cosphere.errors import RunError, SettingsError

try:
    import fcntl
except ImportError:  # Windows has no flock: files that a killed process left stay there
    fcntl = None  # type: ignore[assignment]

if TYPE_CHECKING:
    import numpy.typing as npt

MOST_UNPACKED = 256 * 2**20
"""Bytes to which a compressed .npz may unpack whatever its size."""
MAX_YAML_DEPTH = 100
"""Levels of names and lists in a YAML file; settings have four."""


def path_of(path: str | os.PathLike[str]) -> Path:
    """A path as a caller of the library gives it; ``~`` is the home folder, as in a shell.

    Raises:
        SettingsError: it is neither text nor a path.
    """
    text = os.fspath(path) if isinstance(path, str | os.PathLike) else None
    if not isinstance(text, str):
        raise SettingsError(
            f"want a path, got {str(path)[:80]} ({type(path).__name__}). Give a text or a pathlib.Path."
        )
    with contextlib.suppress(RuntimeError):  # a name that begins with ~ and is no user's
        return Path(text).expanduser()
    return Path(text)


def is_address(path: str | os.PathLike[str]) -> bool:
    """Whether a path that does not exist is an address on a network, of which pathlib leaves one slash.

    >>> is_address("https://a.com/b.zip"), is_address(Path("s3://a/b")), is_address("C:/photos")
    (True, True, False)
    """
    return re.match(r"[A-Za-z][A-Za-z0-9+.-]+:/", os.fspath(path)) is not None


def is_there(path: Path) -> bool:
    """Whether a path exists.

    Raises:
        RunError: it cannot be looked at: its name is too long, or a folder around it may not be read.
    """
    try:
        return path.exists()
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise RunError(f"{path} cannot be read or written: {reason}. Choose another path.") from error


def is_utf8(name: str) -> bool:
    """Whether a name from the disk is UTF-8; Python keeps other bytes as lone surrogates, which nothing can print."""
    return name.isascii() or not any("\ud800" <= letter <= "\udfff" for letter in name)


def printable(name: str | Path) -> str:
    """A name from the disk, with bytes that are not UTF-8 as escapes."""
    return os.fsencode(name).decode("utf-8", "backslashreplace")


_UNSAFE = frozenset('%/\\:*?"<>|')


def safe_name(text: str) -> str:
    r"""A name for a file, whatever a text holds: what could leave the folder, or is forbidden somewhere, as %XX.

    >>> safe_name("../test"), name_of_safe(safe_name("../test"))
    ('%2E.%2Ftest', '../test')
    """
    safe = "".join(
        letter
        if letter.isprintable() and letter not in _UNSAFE and not (letter == "." and not place)
        else "".join(f"%{byte:02X}" for byte in letter.encode("utf-8", "surrogatepass"))
        for place, letter in enumerate(text)
    )
    return safe or "%"


def name_of_safe(name: str) -> str:
    """The text that :func:`safe_name` made a name of."""
    return "" if name == "%" else unquote(name)


def check_utf8(path: Path) -> None:
    """Raise if a path is not UTF-8, which libraries such as safetensors cannot open.

    Raises:
        RunError: it is not; the message shows the bytes as escapes.
    """
    if not is_utf8(str(path)):
        raise RunError(f"the name {printable(path)} is not UTF-8. Rename the folder, or choose another name.")


def check_writable(path: Path) -> None:
    """Raise if a file cannot be written, before the work whose result it will hold. Nothing is made there.

    Args:
        path: the file; its folder may not exist yet.

    Raises:
        RunError: its folder cannot be written or made, or ``path`` is not a regular file, such as a folder or a device.
    """
    try:
        _check_regular(path)
        folder = next(one for one in path.absolute().parents if one.exists())
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise _unwritable(path, error) from error


def _check_regular(path: Path) -> None:
    if path.exists() and not path.is_file():  # a rename would replace a device by a file
        raise RunError(f"cannot write {path}: it is no file, but a folder or a device. Choose another name.")


def _unwritable(path: Path, error: OSError) -> RunError:
    return RunError(f"cannot write {path}: {error.strerror or error}. Choose a folder that you may write.")


def write_atomic(path: Path, write: Callable[[Path], object]) -> None:
    """Write to a temporary file beside ``path``, flush it to disk, then rename it to ``path``.

    A temporary file of ``path`` that a killed process left is removed.

    Args:
        path: the file to create or replace. Its folder is created if missing.
        write: receives the temporary path and writes the whole content to it.

    Raises:
        RunError: the folder cannot be written, the disk is full, or ``path`` is not a regular file, such as a folder or a
            device. What was there is untouched.
    """
    try:
        _check_regular(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        remove_left_parts(path.parent, path.name)
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".part")
        with contextlib.suppress(OSError):  # a file system without locks
            _lock(handle)
    except OSError as error:
        raise _unwritable(path, error) from error
    part = Path(name)
    try:
        write(part)
        with part.open("rb") as file:
            os.fsync(file.fileno())
        part.chmod(0o666 & ~_umask())
        part.replace(path)
    except Exception as error:
        if not _is_disk_error(error):
            raise
        untouched = " The old file is untouched." if path.exists() else ""
        raise RunError(
            f"cannot write {path}: {_reason(error)}. Free some space or choose another folder.{untouched}"
        ) from error
    finally:
        os.close(handle)
        with contextlib.suppress(OSError):
            part.unlink(missing_ok=True)


def sync_folder(folder: Path) -> None:
    """Flush which files a folder has to disk, so that what was removed from it stays removed after a loss of power.

    Raises:
        OSError: it cannot be opened.
    """
    if os.name == "nt":  # a folder cannot be opened there
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        with contextlib.suppress(OSError):  # some file systems cannot
            os.fsync(handle)
    finally:
        os.close(handle)


def remove_left_parts(folder: Path, name: str | None = None) -> None:
    """Remove temporary files that no process writes to any more. A living writer holds a lock on its own.

    Args:
        folder: where :func:`write_atomic` wrote. In a folder of the user's, other programs may have files that look like ours.
        name: of the file that was to be written; None for every name, in a folder that only we write.
    """
    pattern = "*" if name is None else glob.escape(name)
    for part in folder.glob(f".{pattern}.????????.part") if fcntl is not None else ():
        with contextlib.suppress(OSError):
            handle = os.open(part, os.O_RDWR)
            try:
                _lock(handle)
                part.unlink(missing_ok=True)
            finally:
                os.close(handle)


def _lock(handle: int) -> None:
    """Lock an open file until it is closed or the process ends.

    Raises:
        OSError: another process has locked it.
    """
    if fcntl is not None:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)


def _is_disk_error(error: BaseException) -> bool:
    """Whether it is an OSError, or what torch and safetensors raise for a failed write."""
    text = str(error).lower()
    return isinstance(error, OSError) or any(
        words in text
        for words in ("no space left", "os error", "enforce fail", "unexpected pos", "file too large", "disk quota")
    )


def _reason(error: BaseException) -> str:
    """The reason in plain words; torch says "enforce fail at inline_container.cc" when a disk is full."""
    if isinstance(error, OSError):
        return error.strerror or str(error)
    text = str(error)
    return "the disk is full or failing" if "enforce fail" in text or "unexpected pos" in text else text


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


@contextlib.contextmanager
def exclusive(descriptor: int) -> Iterator[None]:
    """Exclusive lock of an open file across processes; released automatically if the process dies. No lock on Windows."""
    if fcntl is not None:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
    try:
        yield
    finally:
        if fcntl is not None:
            fcntl.flock(descriptor, fcntl.LOCK_UN)


def write_text(path: Path, text: str) -> None:
    """Write ``text`` as UTF-8, atomically."""
    write_atomic(path, lambda part: part.write_text(text, encoding="utf-8"))


def write_json(path: Path, content: Any) -> None:
    """Write ``content`` as indented JSON, atomically. Non-finite numbers raise a ValueError instead of being written as NaN."""
    text = json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    write_text(path, text)


def read_json(path: Path, *, what: str) -> Any:
    """Read JSON.

    Args:
        path: the file.
        what: what the file is, for the error ("a model bundle").

    Raises:
        RunError: there is no such file, it cannot be read, or it is not JSON.
    """
    try:
        check_waits(path)
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise RunError(f"{path} does not exist, so this is not {what}. Check the path.") from None
    except (OSError, ValueError, RecursionError) as error:
        raise RunError(f"{path} is not {what}: {error}.") from error


def read_yaml(path: Path, *, what: str) -> dict[str, Any]:
    """Read a YAML file of names with values; an empty file holds none.

    Args:
        path: the file.
        what: what it should hold, for the error ("settings").

    Raises:
        RunError: there is no such file, it cannot be read, is not YAML, holds no names, is nested deeper than
            :data:`MAX_YAML_DEPTH` levels, or uses aliases (``*name``): a few hundred bytes of nested ones expand without end.
    """
    import yaml

    loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # libyaml's, where PyYAML has it, is ten times as quick
    try:
        check_waits(path)
        text = path.read_text(encoding="utf-8")
        _check_yaml(yaml.parse(text, loader))
        content = yaml.load(text, loader)
    except FileNotFoundError:
        raise RunError(f"{path} does not exist, so it holds no {what.removeprefix('a ')}. Check the path.") from None
    except UnicodeDecodeError:
        raise RunError(f"cannot read {what} from {path}: it is not UTF-8. Save it as UTF-8.") from None
    except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:
        reason = " ".join(str(error).split())  # YAML's own words take several lines
        raise RunError(f"cannot read {what} from {path}: {reason}. Mend or restore the file.") from error
    if content is not None and not isinstance(content, dict):
        raise RunError(f"{path} holds a {type(content).__name__}, no {what.removeprefix('a ')}. Restore the file.")
    return content or {}


def _check_yaml(events: Iterable[Any]) -> None:
    """Reject aliases and deep nesting before anything is built: libyaml's loader recurses without a limit."""
    import yaml

    depth = 0
    for event in events:
        if isinstance(event, yaml.AliasEvent):
            raise yaml.YAMLError("aliases (*name) are not read; write the value out")
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if depth > MAX_YAML_DEPTH:
            raise yaml.YAMLError(f"it is nested deeper than {MAX_YAML_DEPTH} levels")


def write_yaml(path: Path, content: Mapping[str, Any]) -> None:
    """Write names with values as YAML in the given order, atomically. :func:`read_yaml` reads it back."""
    import yaml

    class Whole(yaml.SafeDumper):
        def ignore_aliases(self, data: Any) -> bool:
            return True

    write_text(path, yaml.dump(dict(content), Dumper=Whole, sort_keys=False, allow_unicode=True))


def write_arrays(path: Path, arrays: Mapping[str, npt.NDArray[Any]]) -> None:
    """Write arrays as one .npz, atomically. None may hold Python objects."""
    import numpy as np

    def write(part: Path) -> None:
        with part.open("wb") as file:  # by handle: numpy would append .npz to the temporary name
            np.savez(file, allow_pickle=False, **dict(arrays))

    write_atomic(path, write)


def read_arrays(path: Path, *, what: str, only: Collection[str] | None = None) -> dict[str, npt.NDArray[Any]]:
    """Read the arrays of an .npz. Pickled objects are refused because they could run code.

    Args:
        path: the file.
        what: what the file is, for the error ("an index").
        only: names to read, where they are there; None for all.

    Raises:
        RunError: there is no such file, it cannot be read, or it is not an .npz.
    """
    import zipfile
    import zlib

    import numpy as np

    # zipfile on a damaged archive: a wrong version, method or flag is "not implemented", or "encrypted". numpy on a damaged header:
    # it evaluates a description of the array.
    damaged = (
        *(zipfile.BadZipFile, zlib.error, NotImplementedError, RuntimeError),
        *(TypeError, IndexError, KeyError, SyntaxError, OverflowError),
    )
    try:
        check_waits(path)
        with path.open("rb") as file:
            if not zipfile.is_zipfile(file):  # numpy would take it for a pickle, and advise how to load it anyway
                raise ValueError("it is not an .npz, or it is cut off")
            file.seek(0)
            archive = np.load(file, allow_pickle=False)
            size = sum(part.file_size for part in archive.zip.infolist())
            if size > max(MOST_UNPACKED, 50 * path.stat().st_size):
                raise ValueError(f"it unpacks to {size:,} bytes, more than embeddings can be compressed")
            return {name: archive[name] for name in archive.files if only is None or name in only}
    except FileNotFoundError:
        raise RunError(f"{path} does not exist, so this is not {what}. Check the path.") from None
    except MemoryError as error:
        raise RunError(f"{path} does not fit into memory, or is damaged: {error}.") from error
    except (OSError, ValueError, EOFError, *damaged) as error:
        # numpy's own words name the switch that would run the code.
        reason = "it holds pickled objects, which could run code" if "pickle" in str(error) else error
        raise RunError(f"{path} is not {what}: {reason}.") from error
