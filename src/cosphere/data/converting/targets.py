"""The forms that a data set can be converted into. Each writes one image at a time and can go on after its process was killed."""

from __future__ import annotations

import os
import shutil
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from cosphere.data.converting.plan import PAIRS, TABLE, Plan
from cosphere.errors import DataError, SettingsError
from cosphere.files import check_utf8
from cosphere.images import IMAGE_SUFFIXES
from cosphere.images.containers.recordio_writer import RecordWriter, WriterState


class Target(Protocol):
    """Writes images of a plan, in its order."""

    def write(self, number: int, name: str, content: bytes) -> str:
        """Write image ``number`` of the plan; return what the table calls it."""
        ...

    def checkpoint(self) -> dict[str, Any]:
        """Leave what is written in files, and return all that is needed to go on from there."""
        ...

    def finish(self) -> None:
        """Complete the files."""
        ...

    def leave(self) -> None:
        """Close the files, complete or not."""
        ...


@dataclass(frozen=True)
class Form:
    """One form of a data set."""

    name: str
    make: Callable[[Path, str, Plan, dict[str, Any] | None], Target]
    """Takes a folder to write into, the name of the target, the plan, and the state of a killed process."""
    outputs: Callable[[str], tuple[str, ...]]
    """The names of what is written, from the name of the target: the target itself last."""
    table: Callable[[str], str]
    """Where the table of images is."""
    pairs: Callable[[str], str]
    """Where the table of pairs is, for data that has pairs."""
    numbered: bool = False
    """Whether classes are numbers."""


class FolderTarget:
    """Image files in folders."""

    def __init__(self, root: Path, prefix: str) -> None:
        self.root = root
        self.prefix = prefix
        """Of the names in the table."""
        self._made: set[str] = set()

    def write(self, number: int, name: str, content: bytes) -> str:
        """Write a file."""
        del number
        path = self.root / name
        folder = name.rpartition("/")[0]
        if folder not in self._made:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._made.add(folder)
        path.write_bytes(content)
        return self.prefix + name

    def checkpoint(self) -> dict[str, Any]:
        """Nothing is open."""
        return {}

    def finish(self) -> None:
        """Nothing is left to write."""

    def leave(self) -> None:
        """Nothing is open."""


class ZipTarget:
    """Members of a zip archive, stored as they are: image files do not get smaller.

    Python's zipfile writes the list of members at the end. At a checkpoint it is written, and a copy is kept beside the
    archive, because the next member is written over it.
    """

    _MOMENT = (1980, 1, 1, 0, 0, 0)

    def __init__(self, path: Path, state: dict[str, Any] | None) -> None:
        self.path = path
        self.copies = [] if state is None else [path.with_name(state["copy"])]
        if state is None:
            self.archive = zipfile.ZipFile(path, "w")
        else:
            with path.open("r+b") as file:
                file.truncate(state["members_end"])
                file.seek(state["members_end"])
                file.write(self.copies[0].read_bytes())
            self.archive = zipfile.ZipFile(path, "a")

    def write(self, number: int, name: str, content: bytes) -> str:
        """Add a member."""
        del number
        member = zipfile.ZipInfo(name, self._MOMENT)  # no time of writing, so that equal images give equal archives
        member.external_attr = 0o644 << 16
        self.archive.writestr(member, content)
        return f"{self.path.name}#{name}"

    def checkpoint(self) -> dict[str, Any]:
        """Complete the archive, keep its list of members, and open it again."""
        end = self.archive.start_dir
        self.archive.close()
        for old in self.copies[:-1]:  # the last one belongs to a state that may still be needed
            old.unlink(missing_ok=True)
        self.copies = [*self.copies[-1:], self.path.with_name(f"{self.path.name}.{end}")]
        with self.path.open("rb") as file, self.copies[-1].open("wb") as copy:
            file.seek(end)
            shutil.copyfileobj(file, copy)
        self.archive = zipfile.ZipFile(self.path, "a")
        return {"members_end": end, "copy": self.copies[-1].name}

    def finish(self) -> None:
        """Write the list of members."""
        self.archive.close()

    def leave(self) -> None:
        """Close the file; the list of members that this writes is cut off when it goes on."""
        self.archive.close()


class RecordTarget:
    """InsightFace's RecordIO."""

    def __init__(self, path: Path, plan: Plan, state: dict[str, Any] | None) -> None:
        if plan.identities is None:
            raise AssertionError("a plan for RecordIO numbers its classes")
        self.identities = plan.identities.tolist()
        self.name = path.name
        self.writer = RecordWriter(path, state=None if state is None else WriterState.from_dict(state))

    def write(self, number: int, name: str, content: bytes) -> str:
        """Append a record."""
        del name
        return f"{self.name}#{self.writer.add(content, self.identities[number])}"

    def checkpoint(self) -> dict[str, Any]:
        """Flush the files."""
        return self.writer.checkpoint().as_dict()

    def finish(self) -> None:
        """Write the header and the records of identities."""
        self.writer.close()

    def leave(self) -> None:
        """Close the files as they are."""
        self.writer.leave()


def _stem(name: str) -> str:
    return os.path.splitext(name)[0]  # noqa: PTH122


FOLDER = Form(
    name="folder",
    make=lambda out, name, plan, state: FolderTarget(out / name, ""),
    outputs=lambda name: (name,),
    table=lambda name: f"{name}/{TABLE}",
    pairs=lambda name: f"{name}/{PAIRS}",
)
TABLE_WITH_IMAGES = Form(
    name="table",
    make=lambda out, name, plan, state: FolderTarget(out / _stem(name), f"{_stem(name)}/"),
    outputs=lambda name: (_stem(name), name),
    table=lambda name: name,
    pairs=lambda name: f"{_stem(name)}.{PAIRS}",
)
ZIP = Form(
    name="zip archive",
    make=lambda out, name, plan, state: ZipTarget(out / name, state),
    outputs=lambda name: (f"{_stem(name)}.csv", name),
    table=lambda name: f"{_stem(name)}.csv",
    pairs=lambda name: f"{_stem(name)}.{PAIRS}",
)
RECORD = Form(
    name="RecordIO file",
    make=lambda out, name, plan, state: RecordTarget(out / name, plan, state),
    outputs=lambda name: (f"{_stem(name)}.idx", "property", f"{_stem(name)}.csv", name),
    table=lambda name: f"{_stem(name)}.csv",
    pairs=lambda name: f"{_stem(name)}.{PAIRS}",
    numbered=True,
)
FORMS = {
    **dict.fromkeys((".csv", ".tsv", ".parquet"), TABLE_WITH_IMAGES),
    ".zip": ZIP,
    ".rec": RECORD,
}
"""The form by the suffix of the target's name; any other name is a folder."""


def form_of(target: Path) -> Form:
    """The form that a target's name asks for.

    Raises:
        SettingsError: its suffix is that of another kind of file.
        RunError: its name is not UTF-8.
    """
    check_utf8(target)  # the table beside it names it
    suffix = target.suffix.lower()
    others = {".bin", ".pdf", ".txt", ".pq", ".idx", ".tar", ".gz", ".tgz", ".7z", ".npz", ".lmdb", ".json", ".yaml"}
    if suffix in others | IMAGE_SUFFIXES:
        raise SettingsError(
            f"{target} is no form that data is converted into. Give a folder, or a name that ends with .rec, .zip, .csv, "
            ".tsv or .parquet."
        )
    if not target.name:
        raise DataError(f"{target} has no name. Give a folder or file to write.")
    return FORMS.get(suffix, FOLDER)
