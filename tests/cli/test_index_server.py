"""`cosphere index ...` of a gallery on a server: the same verbs, what makes no sense there, and passwords that nobody sees."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from postgres_server import server as server

from cosphere.cli import main
from cosphere.errors import RunError, SettingsError
from cosphere.gallery import Space, is_gallery, open_store
from cosphere.gallery.address import Server, place_of
from cosphere.models import EmbedderSettings, build_embedder
from cosphere.search import PostgresGallery, create_gallery, open_gallery

NOWHERE = "postgresql://me:hunter2@127.0.0.1:1/images#photos"


def said(capsys: pytest.CaptureFixture[str], *words: object, code: int = 0) -> str:
    capsys.readouterr()
    assert main(["index", *map(str, words)]) == code
    shown = capsys.readouterr()
    return shown.out + shown.err


@pytest.mark.slow
def test_a_gallery_on_a_server_from_beginning_to_end(
    server: str, photos: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    gallery = f"{server}#commands"
    torch.manual_seed(0)
    settings = EmbedderSettings(backbone="test_resnet", weights="none", dim=8)
    build_embedder(settings, image_size=32).save(tmp_path / "model")
    assert "has no gallery 'commands'. Make one" in said(capsys, "info", gallery, code=2)
    words = ["--model", tmp_path / "model", "--holds", "both", "--thumbnail", "24"]
    out = said(capsys, "add", gallery, photos / "test", *words)
    assert out.startswith("gallery 'commands' in PostgreSQL database ")
    query = photos / "test" / "class10" / "0.png"
    assert "were there already" in said(capsys, "add", gallery, query.parent.parent)
    assert "is there already, with --holds both" in said(
        capsys, "add", gallery, photos / "test", "--holds", "codes", code=2
    )
    content = json.loads(said(capsys, "info", gallery, "--json"))
    assert content["items"] == content["thumbnails"] > 4
    assert dict(content["columns"])["label"] == content["items"]
    assert "index of every column" in said(capsys, "build", gallery)
    out = said(capsys, "info", gallery)
    assert "8 x float32 and bits, 33 bytes each" in out
    assert "code, vector" in out
    assert "pgvector 0." in out
    found = said(capsys, "search", gallery, query, "--k", 3, "--where", "label=class10", "--out", tmp_path / "s.png")
    assert "0.png is in the gallery, so it is left out" in found
    assert str(query.with_name("1.png")) in found
    for more in ((), ("--exact",), ("--precision", "codes")):
        out = said(capsys, "search", gallery, "--id", query, "--k", 2, "--json", "--out", tmp_path / "s.png", *more)
        assert len(json.loads(out)[0]["hits"]) == 2
    assert "would delete 1 item" in said(capsys, "delete", gallery, query, "--dry_run")
    assert said(capsys, "delete", gallery, query).startswith(f"deleted 1 item; {content['items'] - 1} left")
    assert "is not in the gallery" in said(capsys, "delete", gallery, query, code=2)
    assert "bytes before" in said(capsys, "compact", gallery)
    assert "items in" in said(capsys, "export", gallery, tmp_path / "x.npz")
    # Saved embeddings go to another one, with where their model lies.
    other = f"{server}#saved"
    assert not is_gallery(other)
    said(capsys, "add", other, tmp_path / "x.npz", "--model", tmp_path / "model")
    with open_gallery(other) as opened:
        assert isinstance(opened, PostgresGallery)
        assert len(opened) == content["items"] - 1
        assert opened.space.model == str(tmp_path / "model")
    with pytest.raises(RunError, match="has a schema 'saved' already"):
        create_gallery(other, Space(dim=3))
    for name in ("commands", "saved"):
        store = open_store(f"{server}#{name}")
        store.drop()  # type: ignore[union-attr]
        store.close()


@pytest.mark.parametrize(
    ("words", "error"),
    [
        (["add", NOWHERE, "PHOTOS"], "'images' on 127.0.0.1 cannot be reached"),
        (["search", NOWHERE, "--id", "x"], "cannot be reached"),
        (["delete", NOWHERE, "x"], "cannot be reached"),
        (["info", NOWHERE], "cannot be reached"),
        (["export", NOWHERE, "x.npz"], "cannot be reached"),
        (["compact", NOWHERE], "cannot be reached"),
        (["build", NOWHERE], "cannot be reached"),
        (
            ["migrate", NOWHERE, "runs/x"],
            "`index migrate` is for galleries in a folder, and gallery 'photos' is on a server.",
        ),
        (["prove-deleted", NOWHERE, "x"], "`index prove-deleted` is for galleries in a folder"),
        (["delete", NOWHERE, "x", "--receipt", "r.json"], "--receipt is for galleries in a folder"),
        (
            ["add", NOWHERE, "PHOTOS", "--existing=replace", "--receipt=r"],
            "--receipt is for galleries in a folder",
        ),
        (["info", NOWHERE, "--check"], "--check is for galleries in a folder"),
        (["info", NOWHERE.partition("#")[0]], "names no gallery; wanted postgresql://user@host/database#name"),
        (
            ["info", "postgresql://me:hunter2/x@host/db#photos"],
            "hold a character that has a meaning in URLs. Write / as %2F",
        ),
        (["info", "postgresql://me:hunter2#x@host/db#photos"], "hold a character that has a meaning in URLs"),
        (["info", "postgresql://me:hunter2@127.0.0.1:port/db#photos"], "cannot be reached"),
        (["info", NOWHERE.replace("#photos", "#a b")], "gallery name 'a b' cannot be a schema"),
    ],
)
def test_a_mistake_gets_one_line_without_the_password(
    words: list[str], error: str, photos: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    pytest.importorskip("psycopg")
    given = [str(photos / "test") if word == "PHOTOS" else word for word in words]
    if words[0] == "export":
        given[-1] = str(tmp_path / "x.npz")
    text = said(capsys, *given, code=2)
    assert error in text
    assert "hunter2" not in text
    assert len(text.strip().splitlines()) == 1


def test_the_place_of_an_address(tmp_path: Path) -> None:
    assert place_of(tmp_path) == tmp_path
    assert place_of("photos.gallery#2") == Path("photos.gallery#2")
    place = place_of("postgres://me:hunter2@host/db?sslmode=require#photos")
    assert place == Server("postgres://me:hunter2@host/db?sslmode=require", "photos")
    assert "hunter2" not in repr(place) + str(place)
    with pytest.raises(SettingsError, match="the address of a database names no gallery"):
        place_of("postgresql://host/db#")


def test_without_the_packages_it_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(__import__("sys").modules, "psycopg", None)
    text = said(capsys, "info", NOWHERE, code=2)
    assert "pip install 'cosphere[postgres]'" in text
    assert "hunter2" not in text


def test_a_server_refuses_settings_of_other_indexes() -> None:
    gallery = PostgresGallery.__new__(PostgresGallery)
    with pytest.raises(
        SettingsError, match="a server's index has no setting 'wanted_recall'; it has ef_construction, m, memory_mb"
    ):
        gallery.build_index(wanted_recall=0.9)
    with pytest.raises(SettingsError, match="a server's index is of kind 'hnsw'; got 'ivf'"):
        gallery.build_index("ivf")


def test_codes_are_indexed_where_both_are_held(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    rows = np.random.default_rng(0).normal(size=(1200, 32)).astype(np.float32)
    with create_gallery(tmp_path / "g", Space(dim=32, holds="both")) as gallery:
        gallery.add(rows, [f"i{n}" for n in range(1200)])
    out = said(capsys, "build", tmp_path / "g", "--kind", "coarse-bits", "--precision", "codes")
    assert "index of kind coarse-bits over 1,200 rows" in out
    assert (tmp_path / "g" / "index" / "codes.npz").exists()
    out = said(capsys, "build", tmp_path / "g", "--kind", "hnsw", "--precision", "codes", code=2)
    assert "an index of kind 'hnsw' wants floats" in out
    with open_gallery(tmp_path / "g") as again:
        near = again.search(id="i5", k=3, precision="codes")
        again.exact = True
        assert near == again.search(id="i5", k=3, precision="codes")
