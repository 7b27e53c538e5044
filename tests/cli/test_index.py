"""`cosphere index ...`: each verb once on small pictures, with what it prints, and mistakes."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from cosphere.cli import main
from cosphere.models import EmbedderSettings, build_embedder
from cosphere.search import Gallery


@pytest.fixture(scope="module")
def made(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, Path]:
    """A model, a gallery filled from the test images, and one of these."""
    folder = tmp_path_factory.mktemp("index")
    torch.manual_seed(0)
    settings = EmbedderSettings(backbone="test_resnet", weights="none", dim=8)
    build_embedder(settings, image_size=32).save(folder / "model")
    gallery = folder / "photos.gallery"
    words = ["--model", str(folder / "model"), "--holds", "both", "--thumbnail", "24"]
    assert main(["index", "add", str(gallery), str(photos / "test"), *words]) == 0
    return folder / "model", gallery, photos / "test" / "class10" / "0.png"


def test_a_query_by_another_path_does_not_meet_itself(
    made: tuple[Path, Path, Path], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """A gallery that was filled through a linked folder, and a file with two links; --id does not find the other link."""
    model, _, source = made
    folder = tmp_path / "photos"
    shutil.copytree(source.parent, folder / "a")
    (tmp_path / "linked").symlink_to(folder)
    gallery, picture, twin = tmp_path / "g", tmp_path / "s.png", folder / "a" / "twin.png"
    said(capsys, "add", gallery, tmp_path / "linked", "--model", model)
    os.link(folder / "a" / "0.png", twin)
    count = len(list((folder / "a").iterdir())) - 1
    _, notes = said(capsys, "add", tmp_path / "once", folder, "--model", model)
    assert "1 row of the source show" in notes  # the twin

    def answer(*words: object) -> Any:
        (one,) = json.loads(said(capsys, "search", *words, "--k", count, "--json", "--out", picture)[0])
        return one["own"], len(one["hits"]), any(Path(hit["id"]).samefile(twin) for hit in one["hits"])

    assert answer(gallery, folder / "a" / "0.png") == answer(gallery, twin) == (1, count - 1, False)
    with Gallery.open(gallery) as opened:
        row = np.ones((1, 8), dtype=np.float32)
        opened.add(row, ["twin"], [{"path": str(twin)}])
    assert answer(gallery, "--id", "twin") == (2, count - 1, False)
    assert answer(gallery, twin) == (2, count - 1, False)


def said(capsys: pytest.CaptureFixture[str], *words: object, code: int = 0) -> tuple[str, str]:
    capsys.readouterr()
    assert main(["index", *map(str, words)]) == code
    shown = capsys.readouterr()
    return shown.out, shown.err


def test_a_gallery_from_beginning_to_end(
    made: tuple[Path, Path, Path], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    model, gallery, query = made
    again, _ = said(capsys, "add", gallery, query.parent.parent)
    assert "0 added, " in again
    assert "were there already" in again
    out, err = said(capsys, "info", gallery, "--check")
    assert "8 x float32 and bits, 33 bytes each" in out
    assert "checked: everything is as it was written" in out
    assert "label (" in out
    content = json.loads(said(capsys, "info", gallery, "--json")[0])
    assert content["items"] == content["thumbnails"] > 4

    picture = tmp_path / "found.png"
    out, _ = said(capsys, "search", gallery, query, "--k", 3, "--where", "label=class10", "--out", picture)
    assert "0.png is in the gallery, so it is left out" in out
    assert str(query.with_name("1.png")) in out
    with Image.open(picture) as strip:
        assert strip.width > 3 * 160
    found = json.loads(said(capsys, "search", gallery, "--id", query, "--k", 2, "--json", "--out", picture)[0])
    assert len(found[0]["hits"]) == 2
    assert (
        "nothing found for 0.png"
        in said(capsys, "search", gallery, query, "--where", "label=none", "--out", picture)[0]
    )

    receipt = tmp_path / "receipt.json"
    out, _ = said(capsys, "delete", gallery, "--where", "label=class10", "--dry_run")
    assert "would delete" in out
    out, _ = said(capsys, "delete", gallery, query, "--receipt", receipt)
    assert out.startswith(f"deleted 1 item; {content['items'] - 1} left")
    out, err = said(capsys, "prove-deleted", gallery, query, "--receipt", receipt)
    assert out.rstrip().endswith("nothing is left of what was looked for")
    assert "1 of the vectors, codes and thumbnails of the receipt of" in err  # a code of one byte
    assert "are too short or too uniform to be told from chance; they were not looked for" in " ".join(err.split())
    assert "gallery.sqlite-wal" in out
    (gallery / "left.txt").write_text(str(query))
    out, err = said(capsys, "prove-deleted", gallery, query, query.with_name("1.png"), code=1)
    assert f"found: text '{query}' in left.txt, at byte 0" in out
    assert f"still an item: {query.with_name('1.png')}" in out
    assert "without --receipt, vectors, codes and thumbnails were not looked for" in err
    (gallery / "left.txt").unlink()

    again = tmp_path / "replaced.json"
    out, _ = said(capsys, "add", gallery, query.parent.parent, "--existing", "replace", "--receipt", again)
    assert f"{content['items'] - 1} replaced" in out
    assert f"receipt: {again}" in out
    out, err = said(capsys, "prove-deleted", gallery, "--receipt", again)
    assert "occur in items that are still there, such as equal pictures" in " ".join(err.split())
    said(capsys, "delete", gallery, query)
    assert "--receipt is of what is replaced" in said(capsys, "add", gallery, query, "--receipt", again, code=2)[1]

    assert "bytes before" in said(capsys, "compact", gallery)[0]
    for name in ("x.parquet", "x.npz", "x.faiss"):
        assert f"{content['items'] - 1} items in" in said(capsys, "export", gallery, tmp_path / name)[0]
    torch.manual_seed(1)
    build_embedder(EmbedderSettings(backbone="test_resnet", weights="none", dim=5), image_size=32).save(
        tmp_path / "other"
    )
    assert "no migration was under way" in said(capsys, "migrate", gallery, "--abandon")[0]
    assert f"{content['items'] - 1} items, embedded by" in said(capsys, "migrate", gallery, tmp_path / "other")[0]
    assert "5 x float32 and bits" in said(capsys, "info", gallery)[0]
    assert model.exists()


@pytest.mark.parametrize(
    ("words", "error"),
    [
        (
            ["search", "nowhere", "x.jpg"],
            "nowhere is not a gallery: it has no gallery.sqlite. Make one with `cosphere index add`.",
        ),
        (["search", "GALLERY", "nothing.jpg"], "nothing.jpg does not exist"),
        (["search", "GALLERY"], "what should be searched for?"),
        (["search", "GALLERY", "x.jpg", "--where", "label"], "--where 'label' is not a condition; wanted COLUMN=VALUE"),
        (["search", "GALLERY", "x.jpg", "--out", "x.gif"], "--out is a picture"),
        (["delete", "GALLERY"], "what should be deleted?"),
        (["delete", "GALLERY", "x"], "1 id ('x') is not in the gallery"),
        (["export", "GALLERY", "x.csv"], "x.csv has suffix '.csv'; wanted .parquet, .npz, .faiss."),
        (["prove-deleted", "GALLERY"], "what should be gone?"),
        (["migrate", "GALLERY"], "which model should embed the images?"),
        (["migrate", "GALLERY", "x", "--receipt", "r.json"], "without --drop_unreadable true nothing is"),
        (["migrate", "GALLERY", "x", "--max_unreadable", "0.5"], "without --drop_unreadable true nothing is"),
        (["info", "GALLERY", "--chekc"], "there is no setting 'chekc'"),
        (["serch", "GALLERY"], "Did you mean 'search'?"),
    ],
)
def test_a_mistake_gets_one_line(
    words: list[str], error: str, made: tuple[Path, Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    _, err = said(capsys, *[str(made[1]) if word == "GALLERY" else word for word in words], code=2)
    assert error in err
    assert len(err.strip().splitlines()) == 1


@pytest.mark.parametrize("verb", ["info", "delete", "compact", "prove_deleted"])
def test_verbs_without_a_model_load_no_torch(verb: str) -> None:
    code = f"import sys, cosphere.cli.index.{verb}; print('torch' in sys.modules, 'faiss' in sys.modules)"
    found = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert found.stdout.split() == ["False", "False"]


def test_receipts_are_appended_and_replace_no_file(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    gallery, receipt, photo = tmp_path / "g", tmp_path / "r.json", tmp_path / "a.jpg"
    with Gallery.create(gallery, dim=32) as opened:
        rows = np.random.default_rng(0).normal(size=(9, 32)).astype(np.float32)
        opened.add(rows, range(9), [{"part": place // 3} for place in range(9)])
    words = ("delete", gallery, "--receipt", receipt, "--where")
    assert f"receipt: {receipt}" in said(capsys, *words, "part=0")[0]
    assert "receipt: none, as nothing was deleted" in said(capsys, *words, "part=0")[0]
    said(capsys, *words, "part=1")
    out, _ = said(capsys, "prove-deleted", gallery, "--receipt", receipt)
    assert f"looked for 0 texts and {6 * 8} windows" in out
    assert out.rstrip().endswith("nothing is left")
    for wrong, reason in ((gallery / "gallery.sqlite", "lies in the gallery"), (photo, "is not a receipt file")):
        photo.write_bytes(b"\xff\xd8\xff")
        for verb in (["delete", gallery, "7"], ["migrate", gallery, "model", "--drop_unreadable", "true"]):
            before = wrong.read_bytes()
            assert reason in said(capsys, *verb, "--receipt", wrong, code=2)[1]
            assert wrong.read_bytes() == before
        words = ("add", gallery, "x", "--existing", "replace", "--receipt", wrong)
        assert reason in said(capsys, *words, code=2)[1]
    empty = json.loads(receipt.read_text().splitlines()[0]) | {
        "items": 0,
        "quick": "",
        "sure": "",
        "payloads": 0,
        "covered": 0,
    }
    (tmp_path / "empty.json").write_text(json.dumps(empty))
    proof = ("prove-deleted", gallery, "--receipt", tmp_path / "empty.json")
    assert "empty.json is of 0 deleted items, so there is nothing to look for" in said(capsys, *proof, code=2)[1]
    out, err = said(capsys, *proof, "--receipt", receipt)
    assert "is of 0 deleted items, so it proves nothing" in " ".join(err.split())
    assert out.rstrip().endswith("nothing is left of what was looked for")


def test_an_index_is_built_used_and_passed_by(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    rows = np.random.default_rng(0).normal(size=(1500, 16)).astype(np.float32)
    with Gallery.create(tmp_path / "g", dim=16) as gallery:
        gallery.add(rows, [f"i{n}" for n in range(1500)])
    out, _ = said(capsys, "build", tmp_path / "g", "--kind", "hnsw", "--wanted_recall", "0.9")
    assert "index of kind hnsw over 1,500 rows" in out
    assert "% of what exact search finds, 10 neighbours of 100 rows measured" in out
    words = ("search", tmp_path / "g", "--id", "i3", "--k", "2", "--json", "--out", tmp_path / "s.png")
    near, exact = (json.loads(said(capsys, *words, *more)[0]) for more in ((), ("--exact",)))
    assert near[0]["hits"][0] == exact[0]["hits"][0]
    out, err = said(capsys, "build", tmp_path / "g")
    assert "no index is needed, all 1,500 rows are compared" in out
    assert "exact: one query over 1,500 rows takes about" in out + err
    out, _ = said(capsys, "build", tmp_path / "g", "--kind", "bits")
    assert "index of kind bits over 1,500 rows" in out
    found = json.loads(said(capsys, *words)[0])
    assert found[0]["measure"] == "1 - 2 x share of differing bits"
    _, err = said(capsys, "build", tmp_path / "g", "--kind", "hnws", code=2)
    assert "hnsw" in err
