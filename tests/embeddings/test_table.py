from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from cosphere.data import Catalogue, Skipped, read_catalogue
from cosphere.errors import DataError, RunError, SettingsError, SizeError
from cosphere.evaluate import Embeddings, embed_catalogue

COLOURS = {"dark": (20, 20, 25), "green": (10, 250, 10), "lonely": (0, 0, 255), "red": (250, 10, 10)}


def by_hand(colour: tuple[int, int, int]) -> list[float]:
    """Twice the colour in [-1, 1]."""
    return [2 * (2 * level / 255 - 1) for level in colour]


@pytest.mark.parametrize(("batch_size", "workers"), [(1, 0), (3, 0), (64, 0), (4, 1)])
def test_every_image_in_its_row_with_raw_length(
    embedder: Any, catalogue: Catalogue, batch_size: int, workers: int
) -> None:
    seen: list[tuple[int, int]] = []
    found = embed_catalogue(
        embedder, catalogue, batch_size=batch_size, workers=workers, progress=lambda *both: seen.append(both)
    )
    assert found.embeddings.dtype == np.float32
    assert len(found) == 10
    for row, path in enumerate(catalogue.paths):
        assert found.paths[row] == str(Path(path).absolute())
        name = Path(path).parent.name
        assert found.class_names[found.labels[row]] == name
        if Path(path).name == "0.png":
            assert found.embeddings[row].tolist() == pytest.approx(by_hand(COLOURS[name]), abs=1e-5)
    assert seen[-1] == (10, 10)
    assert len(seen) == -(-10 // batch_size)
    assert (found.is_query, found.is_gallery, found.boxes, found.skipped) == (None, None, None, ())


def test_training_goes_on_as_if_nothing_had_happened(embedder: Any, catalogue: Catalogue) -> None:
    embedder.linear.eval()  # a part that training keeps frozen
    before = torch.random.get_rng_state()
    embed_catalogue(embedder, catalogue)
    assert torch.equal(torch.random.get_rng_state(), before)
    assert embedder.training
    assert embedder.drop.training
    assert not embedder.linear.training
    assert embedder.linear.weight.grad is None


def test_the_mode_comes_back_after_an_error_too(embedder: Any, catalogue: Catalogue) -> None:
    def stop(done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        embed_catalogue(embedder, catalogue, progress=stop)
    assert embedder.drop.training


def test_bfloat16_only_inside_the_forward_pass(embedder: Any, catalogue: Catalogue) -> None:
    want = embed_catalogue(embedder, catalogue).embeddings
    found = embed_catalogue(embedder, catalogue, precision="bf16").embeddings
    assert embedder.seen == [torch.float32, torch.bfloat16]
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, want, rtol=0.02, atol=0.02)


def test_query_flags_and_boxes_come_along(embedder: Any, catalogue: Catalogue) -> None:
    table = catalogue.table.assign(is_query=[True] * 4 + [False] * 6, is_gallery=[False] * 3 + [True] * 7)
    table = table.assign(x_1=0, y_1=0, x_2=5, y_2=6)
    found = embed_catalogue(embedder, dataclasses.replace(catalogue, table=table))
    assert found.is_query is not None
    assert found.is_query.tolist() == [True] * 4 + [False] * 6
    assert found.is_gallery is not None
    assert found.is_gallery.tolist() == [False] * 3 + [True] * 7
    assert found.boxes is not None
    assert found.boxes.tolist() == [[0, 0, 5, 6]] * 10


def test_an_unreadable_image_is_left_out_and_named(embedder: Any, folder: Path) -> None:
    (folder / "green" / "1.png").write_bytes(b"no image")
    catalogue = read_catalogue(folder)
    found = embed_catalogue(embedder, catalogue, batch_size=1)
    assert len(found) == 9
    assert [Path(path).name for path in found.paths if "green" in path] == ["0.png", "2.png"]
    assert found.labels.tolist() == np.delete(catalogue.labels, 4).tolist()
    assert [(Path(one.path).name, one.reason != "") for one in found.skipped] == [("1.png", True)]
    (folder / "green" / "0.png").write_bytes(b"")
    with pytest.raises(DataError, match="2 of 10 images cannot be read"):
        embed_catalogue(embedder, read_catalogue(folder))
    assert len(embed_catalogue(embedder, read_catalogue(folder), max_unreadable=0.2)) == 8


def test_nothing_readable_is_an_error(embedder: Any, folder: Path) -> None:
    for path in folder.rglob("*.png"):
        path.write_bytes(b"no image")
    with pytest.raises(DataError, match="none of 10 images can be read"):
        embed_catalogue(embedder, read_catalogue(folder), max_unreadable=1.0)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"batch_size": 0}, "batch_size must be at least 1 image, got 0"),
        ({"workers": -1}, "workers must be at least 0 processes, got -1"),
        ({"precision": "bf61"}, "Did you mean 'bf16'?"),
    ],
)
def test_wrong_settings_are_named(embedder: Any, catalogue: Catalogue, settings: dict[str, Any], words: str) -> None:
    with pytest.raises(SettingsError) as error:
        embed_catalogue(embedder, catalogue, **settings)
    assert words in str(error.value)


def made(**changes: Any) -> Embeddings:
    parts: dict[str, Any] = {
        "embeddings": np.arange(6, dtype=np.float32).reshape(3, 2),
        "labels": np.array([1, 0, 1]),
        "paths": ("a.jpg", "Ünïcode/b c.jpg", "batch.bin#7"),
        "class_names": ("null", "eins"),
    }
    return Embeddings(**(parts | changes))


@pytest.mark.parametrize("full", [False, True])
def test_a_file_gives_back_what_was_saved(tmp_path: Path, full: bool) -> None:
    optional = {
        "is_query": np.array([True, False, True]),
        "is_gallery": np.array([False, True, True]),
        "boxes": np.array([[1, 2, 3, 4], [-1, -1, -1, -1], [0, 0, 9, 9]]),
        "groups": np.array([4, 4, 0]),
    }
    want = made(**(optional if full else {}))
    path = tmp_path / "embeddings" / "test.npz"
    want.save(path)
    found = Embeddings.load(path)
    for field in dataclasses.fields(Embeddings):
        ours, theirs = getattr(found, field.name), getattr(want, field.name)
        assert type(ours) is type(theirs)
        assert np.array_equal(ours, theirs) if isinstance(theirs, np.ndarray) else ours == theirs
    assert [file.name for file in path.parent.iterdir()] == ["test.npz"]


def test_a_file_that_holds_no_embeddings_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.npz"
    with pytest.raises(RunError, match="does not exist"):
        Embeddings.load(path)
    np.savez(path, embeddings=np.eye(2), labels=np.arange(2))
    with pytest.raises(RunError, match="it has no paths, class_names"):
        Embeddings.load(path)
    np.savez(path, embeddings=np.array([{}]), labels=[0], paths=["a"], class_names=["a"])
    with pytest.raises(RunError, match="Object arrays cannot be loaded"):
        Embeddings.load(path)
    for count, label in ((0, 0), (1, 1), (1, -1), (1, 0.5)):
        np.savez(path, embeddings=np.eye(count, 2), labels=[label] * count, paths=["a"] * count, class_names=["a"])
        with pytest.raises(RunError, match=r"holds no image, or a label without a class name. Embed again."):
            Embeddings.load(path)
    path.write_bytes(b"text")
    with pytest.raises(RunError, match="is not a file of embeddings"):
        Embeddings.load(path)


def test_packed_bits_stay_bits_on_disk(tmp_path: Path) -> None:
    """Bytes read as floats would be ranked by cosine."""
    codes = np.array([[1, 255], [0, 7], [128, 3]], dtype=np.uint8)
    made(embeddings=codes).save(tmp_path / "bits.npz")
    found = Embeddings.load(tmp_path / "bits.npz").embeddings
    assert found.dtype == np.uint8
    assert found.tolist() == codes.tolist()


@pytest.mark.parametrize("part", ["labels", "paths", "is_query", "boxes"])
def test_parts_of_another_length_are_refused(part: str) -> None:
    with pytest.raises(SizeError, match=f"want one of {part} for each of 3 embeddings, got 2"):
        made(**{part: np.zeros(2, dtype=bool)})
    with pytest.raises(SizeError, match=r"want embeddings \(N, D\), got \(3,\)"):
        made(embeddings=np.zeros(3, dtype=np.float32))


def test_skipped_images_are_not_part_of_the_file(tmp_path: Path) -> None:
    made(skipped=(Skipped("a", "b"),)).save(tmp_path / "x.npz")
    assert Embeddings.load(tmp_path / "x.npz").skipped == ()
