"""The hidden folder beside a target in which a conversion is built, and from which it goes on after it was killed.

It holds ``state.json``, written atomically at each checkpoint, ``done.jsonl`` with a line for each image (what became of it), and
``out/`` with what will be moved to the target.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self, TextIO

from cosphere.data.remarks import Skipped
from cosphere.errors import RunError
from cosphere.files import read_json, write_json
from cosphere.runs import open_lock

VERSION = 1
"""Of the state; another version is not continued."""

Done = str | list[tuple[str, dict[str, Any]]]
"""What became of an image: what the table calls it, or a list of those that were made of it with their own columns; an empty
list where it was left out."""


@dataclass
class Working:
    """The folder of one conversion, which this process holds."""

    path: Path
    digest: str
    """Of the source and the form. A state with another digest belongs to another conversion."""
    done: list[Done] = field(default_factory=list)
    """What became of each image."""
    skipped: list[Skipped] = field(default_factory=list)
    """Images that cannot be read."""
    unreadable: set[int] = field(default_factory=set)
    """Their numbers."""
    target_state: dict[str, Any] | None = None
    finished: bool = False
    """Whether everything is written and only has to be moved."""
    _journal: TextIO | None = None

    @property
    def out(self) -> Path:
        """Where the target is built."""
        return self.path / "out"

    @classmethod
    @contextlib.contextmanager
    def claimed(cls, target: Path, digest: str, *, restart: bool) -> Iterator[Self]:
        """Hold the folder for a target, with the state that a killed process left there.

        Args:
            target: what is to be written.
            digest: of the source and the form.
            restart: throw away what another conversion left.

        Raises:
            RunError: another process holds it, another conversion left it, or it cannot be written.
        """
        path = target.with_name(f".{target.name}.converting")
        try:
            handle = open_lock(path / "lock")
        except BlockingIOError:
            raise RunError(f"another process is converting to {target}. Wait for it to end.") from None
        except OSError as error:
            raise unwritable(target, error) from error
        try:
            working = cls(path, digest)
            try:
                working._load(target, restart=restart)
                yield working
            finally:
                if working._journal is not None:
                    working._journal.close()
                if not (path / "state.json").exists():  # nothing to go on from
                    shutil.rmtree(path, ignore_errors=True)
        finally:
            os.close(handle)

    def _load(self, target: Path, *, restart: bool) -> None:
        state: dict[str, Any] = {}
        if (self.path / "state.json").exists():
            state = read_json(self.path / "state.json", what="the state of a conversion")
            if not restart and (state.get("version"), state.get("digest")) != (VERSION, self.digest):
                raise RunError(
                    f"{self.path} is an unfinished conversion to {target} of other images or with other settings. Finish that "
                    "one, delete the folder, or set overwrite (--overwrite)."
                )
            if restart and state.get("digest") != self.digest:
                state = {}
        if not state:
            shutil.rmtree(self.out, ignore_errors=True)
        self.out.mkdir(exist_ok=True)
        self.finished = bool(state.get("finished"))
        self.target_state = state.get("target")
        self._open_journal(state.get("journal_bytes", 0), state.get("done", 0))

    def _open_journal(self, size: int, done: int) -> None:
        path = self.path / "done.jsonl"
        path.touch()
        with path.open("r+b") as file:
            file.truncate(size)
        self._journal = path.open("a+", encoding="utf-8")
        self._journal.seek(0)
        for line in self._journal:
            self._keep(json.loads(line))
        if len(self.done) != done:
            raise RunError(f"{path} is damaged. Delete {self.path} and convert again.")

    def _keep(self, content: Any) -> None:
        if isinstance(content, dict):
            self.unreadable.add(len(self.done))
            self.done.append([])
            self.skipped.append(Skipped(content["path"], content["reason"]))
        else:
            self.done.append(content if isinstance(content, str) else [(name, columns) for name, columns in content])

    def note(self, done: Done) -> None:
        """Note what became of the next image."""
        self._keep(done)
        self._write(done)

    def left_out(self, path: str, reason: str) -> None:
        """Note that the next image cannot be read."""
        content = {"path": path, "reason": reason}
        self._keep(content)
        self._write(content)

    def _write(self, content: object) -> None:
        if self._journal is None:
            raise AssertionError("the folder is not held")
        self._journal.write(json.dumps(content) + "\n")

    def save(self, target_state: dict[str, Any], *, finished: bool = False) -> None:
        """Keep the state, from which another process can go on.

        Raises:
            RunError: it cannot be written.
        """
        if self._journal is None:
            raise AssertionError("the folder is not held")
        self._journal.flush()
        os.fsync(self._journal.fileno())
        state = {
            "version": VERSION,
            "digest": self.digest,
            "done": len(self.done),
            "journal_bytes": os.fstat(self._journal.fileno()).st_size,
            "target": target_state,
            "finished": finished,
        }
        write_json(self.path / "state.json", state)

    def discard(self) -> None:
        """Leave nothing to go on from: the folder goes when it is let go."""
        (self.path / "state.json").unlink(missing_ok=True)

    def move_out(self, outputs: Iterable[Path], *, replace: bool) -> None:
        """Move what was built to its place, and remove the working folder.

        Args:
            outputs: where to, in this order; what is not in ``out`` any more was moved before.
            replace: replace files and folders there; otherwise they are an error.

        Raises:
            RunError: something of that name appeared there meanwhile.
            OSError: it cannot be moved.
        """
        for place, old in enumerate(outputs):
            new = self.out / old.name
            if not new.exists():
                continue
            if old.is_dir() and not any(old.iterdir()):
                old.rmdir()
            if old.exists() and not replace:
                raise RunError(
                    f"{old} has appeared meanwhile. Move it away; the same command then ends the conversion."
                )
            if old.is_dir():
                old.rename(self.path / f"old-{place}")
            new.replace(old)
        (
            self.path / "state.json"
        ).unlink()  # a process that is killed while it removes the rest leaves nothing to go on from


def unwritable(path: Path, error: OSError) -> RunError:
    """The error for a disk that is full or may not be written."""
    return RunError(
        f"cannot write {path}: {error.strerror or error}. Make room or choose another folder; the same command goes on where it "
        "stopped."
    )
