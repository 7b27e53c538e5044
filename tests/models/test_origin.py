"""Weights are known by what they are, not by where they lie."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from types import SimpleNamespace

import pytest
import safetensors.torch

from cosphere.errors import RunError, WeightsError
from cosphere.images import preset
from cosphere.models import Embedder, EmbedderSettings, build_embedder, origin, stored_model_id, weights_identity
from cosphere.models.origin import is_published_file

HUB = SimpleNamespace(url="https://x.org/net-{}.pth", hf_hub_id="timm/net", hf_hub_filename=None)
WEB = SimpleNamespace(url="http://x.org/net-{}.pth", hf_hub_id=None, hf_hub_filename=None)

BY_SHA256SUM = "sha256:9a129038d9a00aed0cf6a7ea059ca50a813449061ab87848cf1a13eafdf33b2c"
"""Of the seven bytes ``weights``."""


@pytest.mark.parametrize("word", ["imagenet", "none"])
def test_words_stand_for_themselves(word: str) -> None:
    assert weights_identity(word) == word


def test_a_file_is_known_by_its_bytes(tmp_path: Path) -> None:
    first, moved, other = (tmp_path / name for name in ("a.pth", "b.pth", "c.pth"))
    first.write_bytes(b"weights")
    moved.write_bytes(b"weights")
    other.write_bytes(b"others!")
    assert weights_identity(str(first)) == weights_identity(str(moved)) == BY_SHA256SUM
    assert weights_identity(str(other)) != weights_identity(str(first))
    # Replaced under its name by a file of equal size.
    first.write_bytes(b"others!")
    os.utime(first, ns=(1, 1))
    assert weights_identity(str(first)) == weights_identity(str(other))


def test_a_folder_is_known_by_its_weights(tmp_path: Path) -> None:
    preprocessing, _ = preset("none", 32)
    for name in ("one/model", "two"):
        settings = EmbedderSettings(backbone="test_resnet", weights="none", dim=4)
        made = build_embedder(settings, preprocessing=preprocessing)
        for parameter in made.parameters():
            parameter.data.fill_(0.5)
        made.save(tmp_path / name)
    same = weights_identity(str(tmp_path / "one"))
    assert same == weights_identity(str(tmp_path / "one" / "model")) == weights_identity(str(tmp_path / "two"))
    made.head.linear.bias.data[0] = 1.0  # type: ignore[union-attr]
    made.save(tmp_path / "two")
    assert weights_identity(str(tmp_path / "two")) != same


def test_what_is_not_there_is_said(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="there is no weights file imagnet"):
        weights_identity("imagnet")
    with pytest.raises(RunError, match="is not a model bundle"):
        weights_identity(str(tmp_path))


@pytest.mark.parametrize(
    ("facts", "digits", "published"),
    [
        (WEB, "right", True),
        (WEB, "00000000", False),
        (HUB, "right", True),
        (HUB, "00000000", None),  # a .safetensors file from the hub has other bytes
        (WEB, "large", None),  # no digest in the name
        (None, "", None),
    ],
)
def test_the_published_file_is_known_by_the_digits_in_its_name(
    facts: SimpleNamespace | None,
    digits: str,
    published: bool | None,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    file = tmp_path / "any name.pth"
    file.write_bytes(b"weights")
    right = hashlib.sha256(b"weights").hexdigest()[:9]
    if facts is not None:
        facts = SimpleNamespace(**{**vars(facts), "url": facts.url.format(right if digits == "right" else digits)})
    monkeypatch.setattr(origin, "timm_part", lambda name: SimpleNamespace(get_pretrained_cfg=lambda name: facts))
    assert is_published_file("net", file) is published


def test_a_stored_model_has_the_id_that_it_has_when_it_is_loaded(tmp_path: Path) -> None:
    preprocessing, _ = preset("sec", 32)
    settings = EmbedderSettings(backbone="test_resnet", weights="none", dim=4, bias=False)
    made = build_embedder(settings, preprocessing=preprocessing)
    made.save(tmp_path / "run" / "model")
    first = stored_model_id(tmp_path / "run")
    assert first == made.id == Embedder.load(tmp_path / "run").id
    next(made.head.parameters()).data += 1
    made.save(tmp_path / "run" / "model")
    assert stored_model_id(tmp_path / "run" / "model") == Embedder.load(tmp_path / "run").id != first
    folder = tmp_path / "run" / "model"
    safetensors.torch.save_file(made.state_dict(), folder / "model.safetensors")  # without a copy of the description
    content = json.loads((folder / "bundle.json").read_text())
    del content["digest"]
    (folder / "bundle.json").write_text(json.dumps(content))
    assert stored_model_id(tmp_path / "run") == ""
    wrong = {**content, "settings": {"backbone": "test_resnet", "wings": 2}}
    (folder / "bundle.json").write_text(json.dumps(wrong))
    with pytest.raises(RunError, match="does not describe a model that this Cosphere can make"):
        stored_model_id(tmp_path / "run")
