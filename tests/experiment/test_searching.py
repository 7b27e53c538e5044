"""Searching as one call: in images, in saved embeddings and in a saved index, checked against the model."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from cosphere.cli import quick
from cosphere.embeddings import Embeddings
from cosphere.errors import CosphereError, DataError, SettingsError
from cosphere.experiment import Listener, calibrate_run, embed_images, evaluate_run, search_images
from cosphere.experiment.embedding import tolerated
from cosphere.models import EmbedderSettings, build_embedder
from cosphere.search import Index, save_gallery
from cosphere.train import TrainSettings


class Notes(Listener):
    def __init__(self) -> None:
        self.notes: list[str] = []

    def note(self, text: str) -> None:
        self.notes.append(text)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    settings = EmbedderSettings(backbone="test_resnet", weights="none", dim=8)
    path = tmp_path_factory.mktemp("bundle") / "model"
    build_embedder(settings, image_size=32).save(path)
    return path


@pytest.fixture(scope="module")
def saved(bundle: Path, photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Embeddings:
    return embed_images(bundle, photos / "test")


def hits(bundle: Path, source: Path, photos: Path, **more: object) -> tuple[list[tuple[str, str, float]], list[str]]:
    listener = Notes()
    found = search_images(bundle, source, [photos / "test" / "class10" / "0.png"], k=4, listener=listener, **more)  # type: ignore[arg-type]
    return [(hit.path, hit.label, hit.score) for hit in found.answers[0].hits], listener.notes


def test_saved_embeddings_and_a_saved_index_give_the_answer_of_the_images(
    bundle: Path, photos: Path, saved: Embeddings, tmp_path: Path
) -> None:
    images, _ = hits(bundle, photos / "test", photos)
    assert len(images) == 4
    assert str(photos / "test" / "class10" / "0.png") not in [path for path, _, _ in images]
    saved.save(tmp_path / "rows.npz")
    assert hits(bundle, tmp_path / "rows.npz", photos) == (images, [])
    save_gallery(tmp_path / "index.npz", Index.build(saved.embeddings), saved)
    assert hits(bundle, tmp_path / "index.npz", photos) == (images, [])
    save_gallery(tmp_path / "small.npz", Index.build(saved.embeddings, "int8"), saved)
    small, _ = hits(bundle, tmp_path / "small.npz", photos, kind="int8", wanted_recall=0.1)
    assert small[0][:2] == images[0][:2]


def test_a_file_that_does_not_name_its_model_says_so(
    bundle: Path, photos: Path, saved: Embeddings, tmp_path: Path
) -> None:
    replace(saved, model_id="").save(tmp_path / "rows.npz")
    assert hits(bundle, tmp_path / "rows.npz", photos)[1] == [
        f"{tmp_path / 'rows.npz'} does not say which model made it, so only the width of its embeddings was checked"
    ]
    Index.build(saved.embeddings).save(tmp_path / "index.npz")
    found, notes = hits(bundle, tmp_path / "index.npz", photos)
    own = list(saved.paths).index(str(photos / "test" / "class10" / "0.png"))
    assert found[0][0] == f"row {own}"  # an index without paths cannot know the query's own row
    assert "holds no paths, so its rows are shown by number" in notes[1]


def test_files_of_another_model_are_refused(bundle: Path, photos: Path, saved: Embeddings, tmp_path: Path) -> None:
    replace(saved, model_id="0123456789abcdef").save(tmp_path / "other.npz")
    with pytest.raises(
        DataError, match=r"other.npz was made by model 0123456789ab; the queries would be encoded by \w+\. "
    ):
        hits(bundle, tmp_path / "other.npz", photos)
    replace(saved, embeddings=saved.embeddings[:, :5]).save(tmp_path / "narrow.npz")
    with pytest.raises(DataError, match=r"holds embeddings of width 5; the model makes 8\. Embed the images again"):
        hits(bundle, tmp_path / "narrow.npz", photos)
    Index.build(np.eye(5)).save(tmp_path / "index.npz")
    with pytest.raises(DataError, match="holds embeddings of width 5; the model makes 8"):
        hits(bundle, tmp_path / "index.npz", photos)


def test_options_that_do_not_apply_to_a_file_are_refused(
    bundle: Path, photos: Path, saved: Embeddings, tmp_path: Path
) -> None:
    path = tmp_path / "index.npz"
    save_gallery(path, Index.build(saved.embeddings, "int8", check_queries=0), saved)
    with pytest.raises(SettingsError, match=r"index of kind 'int8', so --kind bits does not apply\. Leave it out\."):
        hits(bundle, path, photos, kind="bits")
    with pytest.raises(SettingsError, match=r"holds no splits, so --split test does not apply\. Leave --split out\."):
        hits(bundle, path, photos, split="test")
    with pytest.raises(SettingsError, match=r"saved without a check of its recall\. Leave --wanted_recall out\."):
        hits(bundle, path, photos, wanted_recall=0.5)
    with pytest.raises(
        CosphereError, match=r"missing\.npz does not exist, so this is not a file of embeddings or an index"
    ):
        hits(bundle, tmp_path / "missing.npz", photos)


def test_unreadable_images_are_tolerated_up_to_max_unreadable(bundle: Path, photos: Path, tmp_path: Path) -> None:
    for number in range(4):
        (tmp_path / f"{number}.png").write_bytes((photos / "test" / "class10" / f"{number}.png").read_bytes())
    for number in (2, 3):
        (tmp_path / f"{number}.png").write_bytes(b"\x89PNG damaged")
    query = photos / "test" / "class10" / "5.png"
    with pytest.raises(DataError, match=r"2 of 4 images cannot be read, more than the 1\.0%"):
        search_images(bundle, tmp_path, [query], k=1)
    with pytest.raises(DataError, match=r"2 of 4 images cannot be read, more than the 25\.0%.*raise max_unreadable"):
        embed_images(bundle, tmp_path, max_unreadable=0.25)
    assert len(embed_images(bundle, tmp_path, max_unreadable=0.5)) == 2
    assert len(search_images(bundle, tmp_path, [query], k=1, max_unreadable=0.5).images) == 2
    with pytest.raises(
        SettingsError, match=r"max_unreadable must be a number >= 0 and <= 1; got 2|max_unreadable must be"
    ):
        embed_images(bundle, tmp_path, max_unreadable=2)


def test_the_runs_own_share_of_unreadable_images_is_the_default() -> None:
    trained_with = TrainSettings().with_values({"data.max_unreadable": 0.3})
    assert tolerated(None, trained_with) == 0.3
    assert tolerated(0.5, trained_with) == 0.5
    assert tolerated(0.0, trained_with) == 0.0
    assert tolerated(None, None) == 0.01


@pytest.mark.parametrize("command", ["embed", "evaluate", "search", "calibrate"])
def test_every_command_that_embeds_has_the_option(command: str) -> None:
    assert "max_unreadable" in quick.options()["commands"][command]["options"]


@pytest.mark.parametrize("function", [embed_images, evaluate_run, search_images, calibrate_run])
def test_every_function_that_embeds_has_the_argument(function: Callable[..., object]) -> None:
    assert inspect.signature(function).parameters["max_unreadable"].default is None
