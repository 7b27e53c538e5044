from __future__ import annotations

import dataclasses
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from cosphere.data import Catalogue, read_catalogue
from cosphere.embeddings import Embeddings, embed, number_classes
from cosphere.embeddings.computing import _ahead
from cosphere.errors import DataError, DivergenceError, SettingsError

COLOURS = {"dark": (20, 20, 25), "green": (10, 250, 10), "lonely": (0, 0, 255), "red": (250, 10, 10)}


def by_hand(colour: tuple[int, int, int]) -> list[float]:
    """Twice the colour in [-1, 1]."""
    return [2 * (2 * level / 255 - 1) for level in colour]


@pytest.mark.parametrize(("batch_size", "workers"), [(1, 0), (3, 0), (64, 0), (4, 1)])
def test_every_image_in_its_row_with_raw_length(
    embedder: Any, catalogue: Catalogue, batch_size: int, workers: int
) -> None:
    seen: list[tuple[int, int]] = []
    found = embed(embedder, catalogue, batch_size=batch_size, workers=workers, progress=lambda *both: seen.append(both))
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
    embed(embedder, catalogue)
    assert torch.equal(torch.random.get_rng_state(), before)
    assert embedder.training
    assert embedder.drop.training
    assert not embedder.linear.training
    assert embedder.linear.weight.grad is None


def test_the_mode_comes_back_after_an_error_too(embedder: Any, catalogue: Catalogue) -> None:
    def stop(done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        embed(embedder, catalogue, progress=stop)
    assert embedder.drop.training


def test_bfloat16_only_inside_the_forward_pass(embedder: Any, catalogue: Catalogue) -> None:
    want = embed(embedder, catalogue).embeddings
    found = embed(embedder, catalogue, precision="bf16").embeddings
    assert embedder.seen == [torch.float32, torch.bfloat16]
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, want, rtol=0.02, atol=0.02)


def test_query_flags_and_boxes_come_along(embedder: Any, catalogue: Catalogue) -> None:
    table = catalogue.table.assign(is_query=[True] * 4 + [False] * 6, is_gallery=[False] * 3 + [True] * 7)
    table = table.assign(x_1=0, y_1=0, x_2=5, y_2=6)
    found = embed(embedder, dataclasses.replace(catalogue, table=table))
    assert found.is_query is not None
    assert found.is_query.tolist() == [True] * 4 + [False] * 6
    assert found.is_gallery is not None
    assert found.is_gallery.tolist() == [False] * 3 + [True] * 7
    assert found.boxes is not None
    assert found.boxes.tolist() == [[0, 0, 5, 6]] * 10


def test_an_unreadable_image_is_left_out_and_named(embedder: Any, folder: Path) -> None:
    (folder / "green" / "1.png").write_bytes(b"no image")
    catalogue = read_catalogue(folder)
    found = embed(embedder, catalogue, batch_size=1)
    assert len(found) == 9
    assert [Path(path).name for path in found.paths if "green" in path] == ["0.png", "2.png"]
    assert found.labels.tolist() == np.delete(catalogue.labels, 4).tolist()
    assert [(Path(one.path).name, one.reason != "") for one in found.skipped] == [("1.png", True)]
    (folder / "green" / "0.png").write_bytes(b"")
    with pytest.raises(DataError, match="2 of 10 images cannot be read"):
        embed(embedder, read_catalogue(folder))
    assert len(embed(embedder, read_catalogue(folder), max_unreadable=0.2)) == 8


def test_nothing_readable_is_an_error(embedder: Any, folder: Path) -> None:
    for path in folder.rglob("*.png"):
        path.write_bytes(b"no image")
    with pytest.raises(DataError, match="none of 10 images can be read"):
        embed(embedder, read_catalogue(folder), max_unreadable=1.0)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"batch_size": 0}, "batch_size must be a whole number from 1 to 1000000; got 0"),
        ({"workers": -1}, "workers must be a whole number from 0 to 256; got -1"),
        ({"precision": "bf61"}, "precision must be 'float32' or 'bf16'; got 'bf61'"),
    ],
)
def test_wrong_settings_are_named(embedder: Any, catalogue: Catalogue, settings: dict[str, Any], words: str) -> None:
    with pytest.raises(SettingsError) as error:
        embed(embedder, catalogue, **settings)
    assert words in str(error.value)


def test_parts_of_a_catalogue_join_to_the_whole(embedder: Any, catalogue: Catalogue) -> None:
    table = catalogue.table.assign(sequence=["s", "t"] * 4 + ["s", None])
    catalogue = dataclasses.replace(catalogue, table=table)
    whole = embed(embedder, catalogue)
    joined = Embeddings.concat([embed(embedder, catalogue.rows(range(at, at + 5))) for at in (0, 5)])
    assert joined.embeddings.tolist() == whole.embeddings.tolist()
    assert joined.paths == whole.paths
    names = [[one.class_names[label] for label in one.labels] for one in (joined, whole)]
    assert names[0] == names[1]
    assert joined.groups is not None
    assert whole.groups is not None
    assert joined.groups[:9].tolist() == whole.groups[:9].tolist()
    assert joined.groups[9] not in joined.groups[:9]


def test_the_file_behind_links_and_the_model_come_along(embedder: Any, folder: Path) -> None:
    (folder / "red" / "link.png").symlink_to(folder / "red" / "0.png")
    (folder / "red" / "copy.png").write_bytes((folder / "red" / "0.png").read_bytes())
    (folder.parent / "elsewhere").symlink_to(folder)
    catalogue = read_catalogue(folder.parent / "elsewhere")
    table = embed(embedder, catalogue)
    assert table.files is not None
    assert {Path(file).parent.parent for file in table.files} == {folder.resolve()}
    numbers = dict(
        zip([Path(path).name for path in table.paths if "red" in path], table.identities()[-5:], strict=True)
    )
    assert numbers["link.png"] == numbers["0.png"]
    assert len({numbers[name] for name in ("0.png", "1.png", "2.png", "copy.png")}) == 4
    assert (table.model_id, table.fingerprint) == (embedder.id, catalogue.fingerprint())


def test_a_model_that_gives_nan_is_refused(embedder: Any, catalogue: Catalogue) -> None:
    embedder.linear.weight.data[0, 0] = float("nan")
    with pytest.raises(DivergenceError, match=r"because linear\.weight of the model holds NaN"):
        embed(embedder, catalogue)


def test_classes_are_numbered_as_in_the_whole_catalogue(embedder: Any, catalogue: Catalogue) -> None:
    table = catalogue.table.assign(
        split=["a" if label in ("red", "lonely") else "b" for label in catalogue.table["label"]]
    )
    whole = dataclasses.replace(catalogue, table=table)
    parts = [number_classes(embed(embedder, whole.select(split)), whole.select(split), whole) for split in ("a", "b")]
    assert parts[0].class_names == parts[1].class_names == tuple(catalogue.class_names)
    for part in parts:
        assert [part.class_names[label] for label in part.labels] == [Path(path).parent.name for path in part.paths]


def test_the_next_batch_is_read_while_the_present_one_is_used() -> None:
    asked = [threading.Event() for _ in range(4)]

    def source() -> Iterator[Any]:
        for number, event in enumerate(asked):
            event.set()
            if number == 3:
                raise DataError("the last one is damaged")
            yield number

    batches = _ahead(source())
    for number in range(3):
        assert next(batches) == number
        assert asked[number + 1].wait(10)
    with pytest.raises(DataError, match="the last one is damaged"):
        next(batches)
    assert list(_ahead(iter(()))) == []
