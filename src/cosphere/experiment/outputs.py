"""Files that a command may write: never one of its inputs, nor a file that a run needs."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from cosphere.errors import SettingsError
from cosphere.runs import RunFolder

_NEEDED = ("run.json", "config.yaml", "metrics.jsonl", "scores.json", "model", "checkpoints", "embeddings")


def check_output(
    path: str | Path, *, inputs: Iterable[str | Path] = (), source: str | Path = "", model: str | Path = ""
) -> None:
    """Refuse to write over what a command reads. Call it before minutes of work.

    Args:
        path: the file to write.
        inputs: files that are read, such as queries.
        source: the images: existing files in that folder, or the file itself, are not replaced.
        model: a run's folder or a bundle, whose files are not replaced.

    Raises:
        SettingsError: the path is one of these, or a folder.
    """
    out = Path(path).resolve()
    taken = "is read by this command"
    if out.is_dir():
        raise SettingsError(f"--out {path} is a folder; wanted a file. Add a name.")
    if any(out == Path(one).resolve() for one in inputs):
        raise SettingsError(f"--out {path} {taken}. Choose another name.")
    images = Path(source).resolve() if str(source) else None
    if images is not None and out.exists() and (out == images or (images.is_dir() and out.is_relative_to(images))):
        raise SettingsError(f"--out {path} {taken}: it is among the images. Choose another name.")
    if not str(model):
        return
    folder = Path(model).resolve()
    run = folder if RunFolder(folder).marker.exists() else folder.parent
    own = [run / name for name in _NEEDED] if RunFolder(run).marker.exists() else [folder]
    if any(out == one or out.is_relative_to(one) for one in own):
        raise SettingsError(f"--out {path} would replace a file of {model}. Choose a name outside of it.")
