"""An audit as one call, its page and its commands, on drawn pictures with planted faults."""

from __future__ import annotations

import csv
import dataclasses
import json
import re
import shlex
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import draw_classes
from PIL import Image

from cosphere.cli import main
from cosphere.data.patches import read_patch
from cosphere.embeddings import Embeddings
from cosphere.errors import DataError, SettingsError
from cosphere.evaluate import AuditSettings
from cosphere.experiment import Audit, audit
from cosphere.experiment.auditing import likeness
from cosphere.models import EmbedderSettings, build_embedder
from cosphere.report import write_audit


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("bundle") / "model"
    build_embedder(EmbedderSettings(backbone="test_resnet", weights="none", dim=16), image_size=32).save(path)
    return path


@pytest.fixture(scope="module")
def planted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six classes in two splits; class00/0.png is shown as class01 <b>, and test/class03/5.png once more, smaller, in train/class3."""
    root = tmp_path_factory.mktemp("planted") / "photos"
    draw_classes(root / "train", classes=6, images=8)
    shutil.copytree(root / "train", root / "test")
    for path in sorted((root / "test").rglob("*.png")):
        pixels = np.asarray(Image.open(path)).astype(int)
        noise = np.random.default_rng(int(path.stem)).integers(-60, 60, pixels.shape)
        Image.fromarray((pixels + noise).clip(0, 255).astype(np.uint8)).save(path)
    for split in ("train", "test"):
        (root / split / "class01").rename(root / split / "class01 <b>")
    (root / "train" / "class00" / "0.png").rename(root / "train" / "class01 <b>" / "wrong.png")
    Image.open(root / "test" / "class03" / "5.png").resize((36, 36)).save(root / "train" / "class03" / "copy.png")
    (root / "train" / "class02" / "broken.png").write_bytes(b"no picture")
    return root


@pytest.fixture(scope="module")
def found(bundle: Path, planted: Path, tmp_path_factory: pytest.TempPathFactory) -> Audit:
    out = tmp_path_factory.mktemp("audit") / "new"
    settings = AuditSettings(neighbours=5)
    return audit(planted, bundle, out=out, settings=settings, max_unreadable=0.1)


def test_the_planted_faults_are_found_and_proposed(found: Audit) -> None:
    names = found.names
    assert names[found.findings.suspects.rows[0]] == "train/class01 <b>/wrong.png"
    assert found.images.class_names[found.findings.suspects.suggested[0]] == "class00"
    pairs = {frozenset((names[pair.first], names[pair.second])): pair for pair in found.findings.duplicates}
    assert pairs[frozenset(("test/class03/5.png", "train/class03/copy.png"))].across_splits
    changes = {change.path: change for change in found.changes}
    assert changes["train/class01 <b>/wrong.png"][:4] == (
        "relabel",
        "train/class01 <b>/wrong.png",
        "class01 <b>",
        "class00",
    )
    assert changes["train/class03/copy.png"].action == "remove"  # never the test image
    assert not any(change.path.startswith("test/") and change.action == "remove" for change in found.changes)
    assert found.proposed == len(read_patch(found.folder / "patch.csv"))
    content = json.loads((found.folder / "audit.json").read_text())
    assert content["likely_wrong_labels"][0]["path"] == "train/class01 <b>/wrong.png"
    assert content["counts"]["near duplicates"] == len(content["near_duplicates"])
    assert content["images"] == len(found.images) == 97


def test_the_page_shows_them_and_asks_nobody(found: Audit) -> None:
    page = write_audit(found).read_text(encoding="utf-8")
    assert page.count("<h2>") == 6
    assert "class01 &lt;b&gt;" in page
    assert "class01 <b>" not in page
    assert "train/class01 &lt;b&gt;/wrong.png" in page
    assert "broken.png" in page
    assert "<script" not in page
    assert not re.search('(src|href)="[^#]', page)
    assert found.folder.joinpath("audit.html").stat().st_size < 3_000_000
    with pytest.raises(SettingsError, match="most must be a whole number from 1 to 1000; got 0"):
        write_audit(found, most=0)


def test_commands_audit_patch_and_undo(
    bundle: Path, planted: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    photos, out = tmp_path / "photos", tmp_path / "audit"
    shutil.copytree(planted, photos)
    before = {path.relative_to(photos): path.read_bytes() for path in photos.rglob("*.*")}
    words = [*("data", "audit", str(photos), "--model", str(bundle), "--out", str(out)), "--max_unreadable", "0.1"]
    assert main([*words, "--neighbours", "5"]) == 0
    printed = capsys.readouterr().out
    assert "likely wrong labels" in printed
    assert "wrong.png" in printed.replace("\n", "")
    assert sorted(path.name for path in out.iterdir()) == ["audit.html", "audit.json", "patch.csv"]
    with (out / "patch.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert rows[0].keys() == {"action", "path", "label", "new_label", "score", "reason"}
    assert main(["data", "patch", str(out / "patch.csv")]) == 2
    assert "which images? Give the folder or table" in capsys.readouterr().err
    assert main(["data", "patch", str(out / "patch.csv"), str(photos)]) == 0
    assert "relabelled" in capsys.readouterr().out
    assert (photos / "train" / "class00" / "wrong.png").exists()
    assert not (photos / "train" / "class03" / "copy.png").exists()
    assert main(["data", "patch", str(out / "patch.csv"), str(photos)]) == 2
    assert "is applied already" in capsys.readouterr().err
    written = (out / "patch.csv").read_bytes()
    assert main(words) == 2  # replacing an applied patch would make undoing wrong
    said = capsys.readouterr().err.replace("\n", " ")
    assert (
        f"patch.csv is applied, as patch.csv.applied.json says. Undo it first, or give another folder: --out {out}-2."
        in said
    )
    assert (out / "patch.csv").read_bytes() == written
    assert main(["data", "patch", str(out / "patch.csv"), "--undo"]) == 0
    assert "restored; the images are as before the patch" in capsys.readouterr().out.replace("\n", " ")
    assert {path.relative_to(photos): path.read_bytes() for path in photos.rglob("*.*") if path.is_file()} == before
    (out / "patch.csv").write_bytes(written.replace(b"relabel", b"keep", 1))
    assert main(words) == 2
    assert "patch.csv was edited, or no audit wrote it. Move it away, or give" in capsys.readouterr().err.replace(
        "\n", " "
    )
    (out / "patch.csv").write_bytes(written)
    assert main(words) == 0  # a patch that nobody edited is replaced
    (out / "audit.json").unlink()
    with pytest.raises(SettingsError, match="was edited, or no audit wrote it"):
        audit(photos, bundle, out=out)


def test_the_command_that_is_printed_reads_the_images_as_the_audit_did(
    bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    photos, out = tmp_path / "all my photos", tmp_path / "the audit"
    draw_classes(tmp_path / "drawn", classes=4, images=6)
    for number, folder in enumerate(sorted((tmp_path / "drawn").iterdir())):
        shutil.copytree(folder, photos / f"group{number // 2}" / folder.name)
    wrong = photos / "group1" / "class02" / "wrong.png"
    (photos / "group0" / "class00" / "0.png").rename(wrong)
    words = ["data", "audit", str(photos), "--model", str(bundle), "--out", str(out), "--neighbours", "5"]
    assert main([*words, "--classes", "leaf", "--layout", "folder"]) == 0
    printed = next(line for line in capsys.readouterr().out.splitlines() if line.startswith("patch: "))
    command = shlex.split(printed.partition("then: ")[2])
    assert command == [
        "cosphere",
        "data",
        "patch",
        str(out / "patch.csv"),
        str(photos),
        *["--layout", "folder", "--classes", "leaf"],
    ]
    (out / "patch.csv").write_text(
        "action,path,label,new_label\nrelabel,group1/class02/wrong.png,group1/class02,group1/class03\n"
    )
    assert main(command[1:-2]) == 2  # as the outermost folder, no line fits
    assert main(command[1:]) == 0
    assert not wrong.exists()
    undo = capsys.readouterr().out.replace("\n", " ").partition("to undo: ")[2]
    assert main(shlex.split(undo)[1:]) == 0
    assert wrong.exists()


def test_a_command_without_options_needs_none(found: Audit) -> None:
    words = ["cosphere", "data", "patch", str(found.folder / "patch.csv"), found.source]
    assert shlex.split(found.patch_command) == words
    assert shlex.split(dataclasses.replace(found, layout="table").patch_command) == [*words, "--layout", "table"]


def test_what_cannot_be_audited(bundle: Path, planted: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no class folders"):
        audit(planted / "train" / "class00", bundle, out=tmp_path / "audit")
    (tmp_path / "file").write_text("")
    with pytest.raises(SettingsError, match="is a file; wanted a folder"):
        audit(planted, bundle, out=tmp_path / "file")
    with pytest.raises(SettingsError, match=r"lies among the images of .*Choose a folder outside of them"):
        audit(planted, bundle, out=planted / "train" / "audit")
    with pytest.raises(DataError, match="has no split 'val'"):
        audit(planted, bundle, out=tmp_path / "audit", split="val")


def test_likeness_is_the_correlation_of_small_grey_versions(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    pixels = np.kron(random.integers(0, 256, (16, 16, 3)), np.ones((5, 5, 1))).astype(np.uint8)
    Image.fromarray(pixels).save(tmp_path / "0.png")
    Image.fromarray(pixels).resize((60, 60)).save(tmp_path / "1.jpg", quality=60)
    Image.fromarray(255 - pixels).save(tmp_path / "2.png")
    Image.fromarray(pixels * 0 + 9).save(tmp_path / "3.png")
    (tmp_path / "4.png").write_bytes(b"")
    files = tuple(str(path) for path in sorted(tmp_path.iterdir()))
    rows = Embeddings(
        embeddings=np.eye(5, dtype=np.float32), labels=np.zeros(5, np.int64), paths=files, class_names=("a",)
    )
    found = likeness(rows, np.array([[0, 1], [0, 2], [0, 3], [0, 4]]))
    assert found.tolist() == pytest.approx([1, -1, 0, 0], abs=0.02)
