"""A search in saved embeddings, and what it loads for it."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from cosphere.cli import main
from cosphere.cli.search import _label
from cosphere.models import EmbedderSettings, build_embedder
from cosphere.runs import RunFolder
from cosphere.search import Hit

UNNEEDED = (
    "pandas",  # the images are read from the run, not listed again
    "cosphere.data.catalogue",
    "cosphere.train.settings",
    "cosphere.gallery",  # the images are in a folder
    "huggingface_hub",  # the network comes from the run
    "torchvision",
    "torch._dynamo",
    "matplotlib",
    "scipy",
    "sklearn",
    "PIL.PdfImagePlugin",
)


@pytest.fixture
def words(photos: Path, tmp_path: Path) -> list[str]:
    run = RunFolder.create(tmp_path / "run")
    torch.manual_seed(0)
    build_embedder(EmbedderSettings(backbone="test_resnet", weights="none", dim=8), image_size=32).save(run.model)
    query = shutil.copy(photos / "test" / "class10" / "0.png", tmp_path / "query.png")  # another file, so it is encoded
    return ["search", str(run.path), str(photos), str(query), "--split", "test", "--out", str(tmp_path / "found.png")]


@pytest.mark.parametrize(
    ("same", "alike", "text"),
    [
        (None, 0, "mug"),
        (False, 0, "unknown (mug)"),
        (True, 1, "mug +1 near duplicate"),
        (None, 3, "mug +3 near duplicates"),
    ],
)
def test_a_hit_shows_its_class_and_the_near_duplicates_that_it_stands_for(
    same: bool | None, alike: int, text: str
) -> None:
    assert _label(Hit(0, "mug/1.jpg", "mug", 0.9, same, alike)) == text


def test_a_search_in_saved_embeddings_loads_only_what_it_needs(
    words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(words) == 0
    shown, picture = capsys.readouterr(), (tmp_path / "found.png").read_bytes()
    assert "among 24 images" in shown.out
    code = f"""
import gc, sys
from cosphere.cli import main
main({words!r})
print("loaded", [name for name in {UNNEEDED!r} if name in sys.modules])
print("collecting", gc.isenabled(), "frozen", gc.get_freeze_count() > 50_000)
"""
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    found, _, rest = done.stdout.partition("loaded ")
    assert rest == "[]\ncollecting True frozen True\n"
    assert (found, done.stderr) == (shown.out, shown.err)
    assert (tmp_path / "found.png").read_bytes() == picture
