"""Files that a command may write: never one of its inputs, nor a file that a run needs."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from cosphere.errors import SettingsError
from cosphere.files import check_writable, path_of
from cosphere.images.marks import is_marked
from cosphere.runs import RunFolder

_NEEDED = (
    *("run.json", ".lock", "config.yaml", "metrics.jsonl", "model", "checkpoints", "embeddings"),
    *("scores.json", "scores-untrained.json", "codes.json", "codes-untrained.json", "classes.csv", "suspects.csv"),
)
"""Files and folders of a run that no other command replaces."""
PICTURE = "search.png"
"""What a search calls its picture unless told otherwise."""


def check_output(
    path: str | Path,
    *,
    inputs: Iterable[str | Path] = (),
    source: str | Path = "",
    model: str | Path = "",
    option: str = "--out",
    replaces: tuple[str, ...] = (),
) -> None:
    """Refuse to write over what a command reads, or over a file of any run. Call it before minutes of work.

    Args:
        path: the file to write.
        inputs: files that are read, such as queries.
        source: the images: existing files in that folder, or the file itself, are not replaced.
        model: a run's folder or a bundle, whose files are not replaced.
        option: what the path is called, for the error.
        replaces: suffixes of the existing files that may be replaced, such as ``.npz``; none: of every file. A table names images
            anywhere, so a command that writes no images replaces none.

    Raises:
        SettingsError: the path is one of these, or a folder, or a file of another kind.
        RunError: it cannot be written.
    """
    out = _resolved(path, option)
    taken = "is read by this command"
    if out.is_dir():
        raise SettingsError(f"{option} {path} is a folder; wanted a file. Add a name.")
    if any(out == path_of(one).resolve() for one in inputs):
        raise SettingsError(f"{option} {path} {taken}. Choose another name.")
    images = path_of(source).resolve() if str(source) else None
    if images is not None and out.exists() and (out == images or (images.is_dir() and out.is_relative_to(images))):
        raise SettingsError(f"{option} {path} {taken}: it is among the images. Choose another name.")
    around = next((one for one in out.parents if RunFolder(one).marker.exists()), None)
    if around is not None and any(out == one or out.is_relative_to(one) for one in _files_of(around)):
        raise SettingsError(f"{option} {path} would replace a file of {around}. Choose a name outside of it.")
    folder = _resolved(model, "the model") if str(model) else None
    if folder is not None and out.is_relative_to(folder) and not RunFolder(folder).marker.exists():
        raise SettingsError(f"{option} {path} would replace a file of {model}. Choose a name outside of it.")
    if replaces and out.exists() and out.suffix.lower() not in replaces:
        raise SettingsError(
            f"{option} {path} is there already; wanted a new name or a {' or '.join(replaces)} file. Choose another name."
        )
    check_writable(out)


def check_pictures(
    path: str | Path | None,
    count: int,
    *,
    inputs: Iterable[str | Path] = (),
    source: str | Path = "",
    model: str | Path = "",
    option: str = "--out",
) -> list[Path]:
    """The names of the pictures of ``count`` answers: ``path``, or numbered where there are several; see :func:`check_output`.

    Only pictures with :func:`cosphere.images.marks.picture_mark` are replaced, so that no photo is, wherever a table or a gallery
    found it. None is written into a folder of images, where it would be one of them from then on.

    Args:
        path: None takes :data:`PICTURE` in the working folder, or beside the images where the working folder is among them.
        count: of the answers.
        inputs: as for :func:`check_output`.
        source: likewise.
        model: likewise.
        option: likewise.

    Raises:
        SettingsError: one of the names would replace an input, or a picture that a search did not write, or lies among the images.
        RunError: it cannot be written.
    """
    images, inputs = path_of(source).resolve() if str(source) else None, list(inputs)
    among = images is not None and images.is_dir() and _resolved(path or PICTURE, option).is_relative_to(images)
    first = path_of(path or PICTURE)
    if among and images is not None and path is None:
        first, among = images.parent / PICTURE, False
    names = [first] if count == 1 else [first.with_stem(f"{first.stem}-{number}") for number in range(1, count + 1)]
    for name in names:
        check_output(name, inputs=inputs, source=source, model=model, option=option)
        if among:
            raise SettingsError(
                f"{option} {name} lies in {source}, where it would be one of the images from then on. Choose a name outside of it."
            )
        if name.exists() and name.stat().st_size and not is_marked(name):
            raise SettingsError(
                f"{option} {name} is a file that no search wrote; wanted a new name or a picture of a search. Choose another name."
            )
    return names


def check_output_folder(path: str | Path, names: Iterable[str], *, option: str = "--out") -> None:
    """Refuse a folder in which files of these names would replace an input or a file of a run.

    Raises:
        SettingsError: the path is a file or a run, or a file would be replaced.
        RunError: the folder cannot be written.
    """
    folder = _resolved(path, option)
    if folder.exists() and not folder.is_dir():
        raise SettingsError(f"{option} {path} is a file; wanted a folder. Choose another name.")
    if RunFolder(folder).marker.exists():
        raise SettingsError(f"{option} {path} is a run. Choose a folder of its own.")
    for name in names:
        check_output(folder / name, option=option)


def _files_of(run: Path) -> list[Path]:
    return [*(run / name for name in _NEEDED), *run.glob("scores-*.json")]


def _resolved(path: str | Path, what: str) -> Path:
    try:
        return path_of(path).resolve()
    except (OSError, RuntimeError, ValueError) as error:  # too long a name, a loop of links, a zero byte
        raise SettingsError(f"{what} {path} cannot be written: {error}. Choose another name.") from error
