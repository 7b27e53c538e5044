"""Files that a command may write: never one of its inputs, nor a file that a run needs."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from cosphere.errors import SettingsError
from cosphere.files import check_writable
from cosphere.runs import RunFolder

_NEEDED = (
    *("run.json", ".lock", "config.yaml", "metrics.jsonl", "model", "checkpoints", "embeddings"),
    *("scores.json", "scores-untrained.json", "codes.json", "codes-untrained.json", "classes.csv", "suspects.csv"),
)
"""Files and folders of a run that no other command replaces."""


def check_output(
    path: str | Path,
    *,
    inputs: Iterable[str | Path] = (),
    source: str | Path = "",
    model: str | Path = "",
    option: str = "--out",
) -> None:
    """Refuse to write over what a command reads, or over a file of any run. Call it before minutes of work.

    Args:
        path: the file to write.
        inputs: files that are read, such as queries.
        source: the images: existing files in that folder, or the file itself, are not replaced.
        model: a run's folder or a bundle, whose files are not replaced.
        option: what the path is called, for the error.

    Raises:
        SettingsError: the path is one of these, or a folder.
        RunError: it cannot be written.
    """
    out = _resolved(path, option)
    taken = "is read by this command"
    if out.is_dir():
        raise SettingsError(f"{option} {path} is a folder; wanted a file. Add a name.")
    if any(out == Path(one).resolve() for one in inputs):
        raise SettingsError(f"{option} {path} {taken}. Choose another name.")
    images = Path(source).resolve() if str(source) else None
    if images is not None and out.exists() and (out == images or (images.is_dir() and out.is_relative_to(images))):
        raise SettingsError(f"{option} {path} {taken}: it is among the images. Choose another name.")
    around = next((one for one in out.parents if RunFolder(one).marker.exists()), None)
    if around is not None and any(out == one or out.is_relative_to(one) for one in _files_of(around)):
        raise SettingsError(f"{option} {path} would replace a file of {around}. Choose a name outside of it.")
    folder = _resolved(model, "the model") if str(model) else None
    if folder is not None and out.is_relative_to(folder) and not RunFolder(folder).marker.exists():
        raise SettingsError(f"{option} {path} would replace a file of {model}. Choose a name outside of it.")
    check_writable(out)


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
        return Path(path).resolve()
    except (OSError, RuntimeError, ValueError) as error:  # too long a name, a loop of links, a zero byte
        raise SettingsError(f"{what} {path} cannot be written: {error}. Choose another name.") from error
