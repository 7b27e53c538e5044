"""Galleries filled from folders, tables and files, searched with images, and moved to another model."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from cosphere.cli.index.search import show
from cosphere.errors import DataError, RunError, SettingsError, SizeError
from cosphere.experiment import Listener, add_to_index, build_index, embed_images, migrate_index, search_index
from cosphere.gallery import ReceiptFile, Store, load_receipts, migration, prove_deleted
from cosphere.models import Calibration, Embedder, EmbedderSettings, build_embedder, quick
from cosphere.search import Gallery, Index, load_gallery, pictures
from cosphere.search.gallery_file import rows_to_keep


def bundle_of(path: Path, seed: int, dim: int = 8) -> Path:
    torch.manual_seed(seed)
    build_embedder(EmbedderSettings(backbone="test_resnet", weights="none", dim=dim), image_size=32).save(path)
    return path


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return bundle_of(tmp_path_factory.mktemp("bundle") / "model", 0)


@pytest.fixture
def flat(photos: Path, tmp_path: Path) -> Path:
    """Images without class folders."""
    folder = tmp_path / "flat"
    folder.mkdir()
    for number, path in enumerate(sorted((photos / "test").rglob("*.png"))[:9]):
        shutil.copy(path, folder / f"{number}.png")
    return folder


class Notes(Listener):
    def __init__(self) -> None:
        self.notes: list[str] = []

    def note(self, text: str) -> None:
        self.notes.append(text)


def test_a_flat_folder_is_added_searched_and_added_again(bundle: Path, flat: Path, tmp_path: Path) -> None:
    path = tmp_path / "g"
    filled = add_to_index(path, flat, model=bundle, holds="both", thumbnail=16, batch_size=4)
    assert (filled.added, filled.items, filled.unread, filled.made) == ((9, 0, 0), 9, 0, True)
    shutil.copy(flat / "0.png", flat / "again.png")
    filled = add_to_index(path, flat)  # the model lies where it did
    assert (filled.added, filled.items, filled.made) == ((1, 0, 9), 10, False)
    (answer,) = search_index(path, [flat / "0.png"], k=3)
    assert answer.own == 1
    assert answer.hits[0].id == str(flat / "again.png")
    assert answer.hits[0].score == pytest.approx(1, abs=1e-6)
    assert str(flat / "0.png") not in [hit.id for hit in answer.hits]
    assert len(answer.hits) == 3
    assert answer.thumbnails[0] is not None
    link = tmp_path / "link.png"
    link.symlink_to(flat / "0.png")
    assert [hit.id for hit in search_index(path, [link], k=3)[0].hits] == [hit.id for hit in answer.hits]
    (by_id,) = search_index(path, ids=[str(flat / "0.png")], k=3)
    assert [hit.id for hit in by_id.hits] == [hit.id for hit in answer.hits]
    (by_codes,) = search_index(path, [flat / "0.png"], k=3, precision="codes")
    assert by_codes.measure == "1 - 2 x share of differing bits"
    assert add_to_index(path, flat, existing="replace").added == (0, 10, 0)


def test_an_answer_says_what_its_scores_are(
    bundle: Path, flat: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Only of the exact search's score can the threshold tell that the query's own picture is the nearest."""
    model, path, query = Embedder.load(bundle), tmp_path / "g", flat / "0.png"
    interval = {"threshold_interval": (0, 1), "far_interval": (0, 1), "tar_interval": None, "level": 0.95}
    counts = {"different_pairs": 10, "same_pairs": 0, "classes": 3, "images": 4}
    model.calibration = Calibration(threshold=0.9999, wanted_far=0.001, far=0.001, tar=None, **interval, **counts)
    model.save(tmp_path / "calibrated")
    with Gallery.create(path, embedder=model, model=tmp_path / "calibrated", holds="both") as gallery:
        rows = np.random.default_rng(0).normal(size=(1100, 8)).astype(np.float32)
        gallery.add(rows, range(1100))
        gallery.add(model.encode([query]), ["copy"])
        gallery.build_index("asymmetric")
    unmarked = "the model's threshold is one of whole embeddings: nothing is marked as unknown by scores that are "
    signs = "1 - 2 x share of differing bits"
    for how, measure, same in (
        ({}, "cosine to the signs", [None] * 3),
        ({"exact": True}, "cosine", [True, False, False]),
        ({"precision": "codes"}, signs, [None] * 3),
        ({"where": {"absent": 1}}, "cosine", []),
        ({"where": {"absent": 1}, "precision": "codes"}, signs, []),
    ):
        (answer,) = search_index(path, [query], k=3, **how)
        assert (answer.measure, [hit.same for hit in answer.hits]) == (measure, same)
        assert answer.notes == (() if measure == "cosine" else (unmarked + measure,))
        assert True not in same or answer.hits[0].id == "copy"
        show(answer)
        printed = " ".join(capsys.readouterr().out.split())
        assert same == [] or measure in printed
        assert (unmarked in printed) == (bool(same) and measure != "cosine")
    (by_id,) = search_index(path, ids=["copy"], k=2)
    assert (by_id.measure, by_id.notes) == ("cosine to the signs", ())  # without a model there is no threshold


def test_labels_splits_and_boxes_become_metadata(bundle: Path, photos: Path, tmp_path: Path) -> None:
    path = tmp_path / "g"
    add_to_index(path, photos, model=bundle)
    with Gallery.open(path) as gallery:
        item = gallery.get(str(photos / "test" / "class10" / "0.png"))
        assert dict(item.metadata) == {"path": item.id, "label": "class10", "split": "test"}
        row = Embedder.load(bundle).encode(item.id, normalize=False)[0]
        assert np.allclose(item.embedding, row, atol=1e-5)
    assert {hit.metadata["label"] for hit in search_index(path, [item.id], where={"label": "class10"})[0].hits} == {
        "class10"
    }
    table = pd.DataFrame(
        {
            "path": ["test/class10/0.png"] * 3,
            "x_1": [0, 5, 5],
            "y_1": [0, 5, 5],
            "x_2": [20, 30, 30],
            "y_2": [20, 30, 30],
        }
    )
    table.to_csv(photos / "boxes.csv", index=False)
    notes = Notes()
    try:
        filled = add_to_index(tmp_path / "boxes", photos / "boxes.csv", model=bundle, listener=notes)
    finally:
        (photos / "boxes.csv").unlink()
    assert filled.added == (2, 0, 0)
    assert notes.notes == ["1 row of the source shows a picture that another row shows; each picture is added once"]
    with Gallery.open(tmp_path / "boxes") as gallery:
        part = gallery.get(f"{photos / 'test' / 'class10' / '0.png'}@5,5,30,30")
        assert part.metadata["x_1"] == 5


def test_saved_embeddings_fill_a_gallery_without_a_model(bundle: Path, flat: Path, tmp_path: Path) -> None:
    table = embed_images(bundle, flat)
    table.save(tmp_path / "flat.npz")
    assert add_to_index(tmp_path / "g", tmp_path / "flat.npz").added == (9, 0, 0)
    with Gallery.open(tmp_path / "g") as gallery:
        assert gallery.space.model_id == table.model_id
        assert gallery.search(table.embeddings[4], 1)[0].id == str(flat / "4.png")
    with pytest.raises(SettingsError, match=r"it does not know where its model lies\. Give it: --model runs/first"):
        search_index(tmp_path / "g", [flat / "0.png"])
    assert search_index(tmp_path / "g", [flat / "0.png"], model=bundle)[0].own == 1


def test_what_a_file_or_a_kind_cannot_use_is_refused(tmp_path: Path) -> None:
    rows = np.random.default_rng(0).normal(size=(1100, 8)).astype(np.float32)
    index = Index.build(rows, "bits", check_queries=0)
    index.delete(range(3))
    index.save(tmp_path / "bits.npz")
    for wrong, error in (
        ({"split": "test"}, "holds embeddings and no images, so --split does not apply. Leave it out"),
        ({"thumbnail": 96, "layout": "table"}, "so --thumbnail and --layout do not apply. Leave them out"),
        ({"max_unreadable": 0.0, "classes": "top"}, "so --classes and --max_unreadable do not apply"),
        ({"holds": "both"}, "holds codes only, so --holds both does not apply"),
    ):
        with pytest.raises(SettingsError, match=error):
            add_to_index(tmp_path / "g", tmp_path / "bits.npz", **wrong)
        assert not (tmp_path / "g").exists()
    assert add_to_index(tmp_path / "g", tmp_path / "bits.npz").added == (1097, 0, 0)
    with Gallery.open(tmp_path / "g") as gallery:
        assert (gallery.space.holds, gallery.space.dim) == ("codes", 8)
        assert gallery.search(rows[5], 1)[0].measure == "1 - 2 x share of differing bits"
    for wrong, error in (
        (
            {"kind": "hnsw-bits", "most_bytes": 10},
            "most_bytes bounds what kind 'auto' chooses; the kind is 'hnsw-bits'",
        ),
        ({"kind": "exact"}, "needs no index. `cosphere index search --exact` passes an index by"),
    ):
        with pytest.raises(SettingsError, match=error):
            build_index(tmp_path / "g", **wrong)
    with Gallery.create(tmp_path / "floats", dim=8) as floats, pytest.raises(SizeError, match="holds float embeddings"):
        floats.add(rows_to_keep(load_gallery(tmp_path / "bits.npz"), "bits.npz"))


def test_mistakes_are_explained_and_make_no_gallery(bundle: Path, flat: Path, tmp_path: Path) -> None:
    path = tmp_path / "g"
    with pytest.raises(SettingsError, match=r"is not there yet\. To make it, name the model"):
        add_to_index(path, flat)
    with pytest.raises(DataError, match="does not exist"):
        add_to_index(path, tmp_path / "nothing", model=bundle)
    with pytest.raises(RunError, match="there is no model bundle"):
        add_to_index(path, flat, model=tmp_path / "nothing")
    with pytest.raises(SettingsError, match="holds must be"):
        add_to_index(path, flat, model=bundle, holds="bits")
    assert not path.exists()
    add_to_index(path, flat, model=bundle)
    for wrong, error in (
        ({"thumbnail": 16}, "is there already, with --thumbnail 0, so --thumbnail 16 does not apply"),
        ({"holds": "both"}, "is there already, with --holds floats, so --holds both does not apply"),
    ):
        with pytest.raises(SettingsError, match=error):
            add_to_index(path, flat, **wrong)
    assert add_to_index(path, flat, model=bundle, holds="floats", thumbnail=0).added == (
        0,
        0,
        9,
    )  # the same command again
    other = bundle_of(tmp_path / "other", 1)
    with pytest.raises(DataError, match=r"holds embeddings of model .* `cosphere index migrate`"):
        add_to_index(path, flat, model=other)
    with pytest.raises(DataError, match="holds embeddings of model"):
        search_index(path, [flat / "0.png"], model=other)
    with pytest.raises(SettingsError, match="what should be searched for"):
        search_index(path)


def test_a_migration_embeds_again_and_goes_on(
    bundle: Path, flat: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, other = tmp_path / "g", bundle_of(tmp_path / "other", 1, dim=12)
    add_to_index(path, flat, model=bundle, holds="both")
    Image.new("RGB", (30, 30), (9, 9, 200)).save(flat / "late.png")
    (flat / "3.png").rename(tmp_path / "3.png")
    with pytest.raises(DataError, match=r"1 image cannot be read: .*3\.png.* go on with the same command"):
        migrate_index(path, other)
    assert search_index(path, [flat / "0.png"], k=1)[0].hits  # the old rows are still searched
    add_to_index(path, flat)
    (tmp_path / "3.png").rename(flat / "3.png")
    notes = Notes()
    assert migrate_index(path, other, listener=notes) == 10
    assert notes.notes == ["going on with a migration that was stopped"]
    embedder = Embedder.load(other)
    with Gallery.open(path, embedder=embedder) as gallery:
        assert (gallery.space.dim, gallery.space.model, gallery.space.holds) == (12, str(other), "both")
        for name in ("0.png", "3.png", "late.png"):
            item = gallery.get(str(flat / name))
            assert np.allclose(item.embedding, embedder.encode(flat / name, normalize=False)[0], atol=1e-5)
    assert search_index(path, [flat / "0.png"], k=1)[0].hits
    notes = Notes()
    assert migrate_index(path, other, listener=notes) == 10  # as after a kill behind the last commit
    assert notes.notes == [f"{path} holds rows of this model already; nothing is left to migrate"]


def test_a_migration_can_drop_what_it_cannot_read(bundle: Path, flat: Path, tmp_path: Path) -> None:
    path, other = tmp_path / "g", bundle_of(tmp_path / "other", 1)
    add_to_index(path, flat, model=bundle)
    (flat / "3.png").write_bytes(b"broken")
    notes, receipts = Notes(), ReceiptFile(tmp_path / "r.json", path)
    options = {"drop_unreadable": True, "on_receipt": receipts.append, "listener": notes}
    assert migrate_index(path, other, holds="codes", **options) == 8
    assert any(
        note.startswith(f"1 item ('{str(flat / '3.png')[:40]}")
        and note.endswith(") was deleted: the image is missing or cannot be read")
        for note in notes.notes
    )
    assert prove_deleted(path, [str(flat / "3.png")], load_receipts(receipts.path)).windows
    with Store.open(path) as store:
        assert str(flat / "3.png") not in store
        assert store.space().holds == "codes"
    with Gallery.create(tmp_path / "bare", dim=8) as bare:
        bare.add(np.ones((1, 8), np.float32), ["no file"])
    with pytest.raises(DataError, match="1 of 1 item have no image file in their metadata"):
        migrate_index(tmp_path / "bare", other)
    with Store.open(tmp_path / "bare") as store, pytest.raises(RunError, match="is not being migrated"):
        migration.pending(store)


def test_a_migration_deletes_nothing_where_too_many_images_are_missing(
    bundle: Path, flat: Path, tmp_path: Path
) -> None:
    """A disk that is not mounted; and pictures that turn out to be broken, one by one."""
    path, other = tmp_path / "g", bundle_of(tmp_path / "other", 1)
    add_to_index(path, flat, model=bundle)
    flat.rename(tmp_path / "elsewhere")
    with pytest.raises(
        DataError,
        match=r"the images of 9 of 9 items cannot be read, and at most 1 may be deleted .*does not exist.*Mount the disk",
    ):
        migrate_index(path, other, drop_unreadable=True)
    (tmp_path / "elsewhere").rename(flat)
    for name in ("2.png", "5.png", "6.png"):
        (flat / name).write_bytes(b"broken")
    with pytest.raises(DataError, match=r"the images of 3 of 9 items cannot be read, and at most 2 may be deleted"):
        migrate_index(path, other, drop_unreadable=True, max_unreadable=0.3)
    with Store.open(path) as store:
        assert len(store) == 9
    notes = Notes()
    assert migrate_index(path, other, drop_unreadable=True, max_unreadable=0.4, listener=notes) == 6
    assert any(note.startswith("3 items (") for note in notes.notes)


def test_receipts_of_what_was_replaced_survive_an_error(bundle: Path, flat: Path, tmp_path: Path) -> None:
    path, receipts = tmp_path / "g", ReceiptFile(tmp_path / "r.json", tmp_path / "g")
    add_to_index(path, flat, model=bundle)
    for name in ("7.png", "8.png"):
        (flat / name).write_bytes(b"broken")
    options = {"existing": "replace", "batch_size": 3, "on_receipt": receipts.append}
    with pytest.raises(DataError, match="2 of 9 images cannot be read"):
        add_to_index(path, flat, max_unreadable=0.1, **options)
    assert [one.items for one in load_receipts(receipts.path)] == [3, 3]
    table = embed_images(bundle, flat, max_unreadable=0.5)
    table.save(tmp_path / "flat.npz")
    assert add_to_index(path, tmp_path / "flat.npz", **options).added == (0, 7, 0)
    assert [one.items for one in load_receipts(receipts.path)] == [3, 3, 7]


def test_many_images_are_embedded_in_the_quick_form_which_a_note_says(
    bundle: Path, flat: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(quick, "_seconds", lambda *_: [1.0, 2.0])
    plain, noted = Notes(), Notes()
    add_to_index(tmp_path / "plain", flat, model=bundle, listener=plain)
    monkeypatch.setattr(pictures, "MANY", 9)
    add_to_index(tmp_path / "quick", flat, model=bundle, listener=noted, batch_size=4)
    told = [text for text in noted.notes if text.startswith("batch norm is folded into 15 convolutions")]
    assert len(told) == 1
    assert [text for text in noted.notes if text not in told] == plain.notes
    with Gallery.open(tmp_path / "plain") as before, Gallery.open(tmp_path / "quick") as after:
        for item in before:
            np.testing.assert_allclose(
                after.get(item.id).embedding, before.get(item.id).embedding, rtol=1e-4, atol=1e-5
            )
    saved = embed_images(bundle, flat, fast=True, listener=noted)
    assert len(noted.notes) == len(plain.notes) + 2
    np.testing.assert_allclose(saved.embeddings, embed_images(bundle, flat).embeddings, rtol=1e-4, atol=1e-5)


def test_images_are_embedded_in_bfloat16_where_that_is_asked_for(
    bundle: Path, flat: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen, original = [], Embedder.inference

    def noted(self: Embedder, *, fast: bool = False, autocast: torch.dtype | None = None) -> quick.Forward:
        seen.append(autocast)
        return original(self, fast=fast, autocast=autocast)

    monkeypatch.setattr(Embedder, "inference", noted)
    add_to_index(tmp_path / "plain", flat, model=bundle)
    assert set(seen) == {None}
    seen.clear()
    add_to_index(tmp_path / "half", flat, model=bundle, precision="bf16")
    assert set(seen) == {torch.bfloat16}
    with Gallery.open(tmp_path / "plain") as plain, Gallery.open(tmp_path / "half") as half:
        rows = [np.stack([one.get(item.id).embedding for item in plain]) for one in (plain, half)]
    unit = [one / np.linalg.norm(one, axis=1, keepdims=True) for one in rows]
    assert 0 < 1 - (unit[0] * unit[1]).sum(1).min() < 1e-2
    found = embed_images(bundle, flat, precision="bf16").embeddings
    assert 0 < np.abs(found - embed_images(bundle, flat).embeddings).max() < 0.1 * np.abs(found).max()


def test_bfloat16_is_of_images_and_a_precision_has_a_name(bundle: Path, flat: Path, tmp_path: Path) -> None:
    embed_images(bundle, flat).save(tmp_path / "flat.npz")
    with pytest.raises(SettingsError, match="holds embeddings and no images, so --precision does not apply"):
        add_to_index(tmp_path / "new", tmp_path / "flat.npz", precision="bf16")
    for act in (
        lambda: add_to_index(tmp_path / "new", flat, model=bundle, precision="fp16"),  # type: ignore[arg-type]
        lambda: embed_images(bundle, flat, precision="fp16"),
    ):  # type: ignore[arg-type]
        with pytest.raises(SettingsError, match="precision must be 'float32' or 'bf16'; got 'fp16'"):
            act()
