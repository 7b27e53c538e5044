"""Listed images whose names are written differently on the disk."""

from __future__ import annotations

import unicodedata
import zipfile
from pathlib import Path

import pytest

from cosphere.data.spelling import matching_paths

NFC, NFD = (unicodedata.normalize(form, "caf\N{LATIN SMALL LETTER E WITH ACUTE}") for form in ("NFC", "NFD"))


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / NFD).mkdir()
    (tmp_path / NFD / "1.png").touch()
    (tmp_path / "a#b").mkdir()
    for file in (f"{NFD}.zip", "a#b/z.zip"):
        with zipfile.ZipFile(tmp_path / file, "w") as archive:
            for name in (f"{NFD}/1.png", "b/2.png"):
                archive.writestr(name, b"")
    (tmp_path / "broken.zip").write_bytes(b"PK")
    return tmp_path


@pytest.mark.parametrize(
    ("listed", "on_disk"),
    [
        (f"{NFC}/1.png", f"{NFD}/1.png"),
        (f"{NFC}\\1.png", f"{NFD}/1.png"),
        (f"{NFC}/2.png", None),
        (f"a#b/z.zip#{NFC}/1.png", f"a#b/z.zip#{NFD}/1.png"),
        ("a#b\\z.zip#b\\2.png", "a#b/z.zip#b/2.png"),
        ("a#b/z.zip#b/3.png", None),
        (f"{NFC}.zip#b\\2.png", f"{NFD}.zip#b/2.png"),
        (f"{NFC}.zip#{NFC}\\1.png", f"{NFD}.zip#{NFD}/1.png"),
        ("none.zip#b/2.png", None),
        ("broken.zip#b/2.png", "broken.zip#b/2.png"),
    ],
)
@pytest.mark.parametrize("absolute", [False, True])
def test_what_is_on_the_disk_is_found(listed: str, on_disk: str | None, absolute: bool, root: Path) -> None:
    before = f"{root}/" if absolute else ""
    (path,), (there,), notes = matching_paths(root, [before + listed])
    assert (path, there) == (before + (on_disk or listed), on_disk is not None)
    said = " ".join(notes)
    assert ("with backslashes" in said) == ("\\" in listed and on_disk is not None)
    assert ("forms of accented characters" in said) == (NFC in listed and on_disk is not None)
