"""InsightFace's verification sets as protocols."""

from __future__ import annotations

import io
import pickle
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cosphere.errors import DataError
from cosphere.experiment import evaluate_protocol
from cosphere.models import Embedder


@pytest.fixture(scope="module")
def agedb(lfw_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Forty pairs of faces as PNG bytes."""
    faces = sorted(lfw_root.glob("*/*.png"))
    rng = np.random.default_rng(0)
    pairs = []
    while len(pairs) < 40:
        one, two = rng.integers(0, len(faces), 2)
        if one != two and (faces[one].parent == faces[two].parent) == (len(pairs) % 2 == 0):
            pairs.append((faces[one], faces[two]))
    images = [face.read_bytes() for pair in pairs for face in pair]
    path = tmp_path_factory.mktemp("bins") / "agedb_30.bin"
    path.write_bytes(pickle.dumps((images, [one.parent == two.parent for one, two in pairs])))
    return path


def test_the_pairs_of_the_file_are_scored_in_ten_folds(agedb: Path, face_run: Path) -> None:
    scores = evaluate_protocol(face_run, agedb, protocol="agedb", options={"flip": "none", "samples": 0}).scores
    images, same = pickle.loads(agedb.read_bytes())
    unit = Embedder.load(face_run / "model").encode([Image.open(io.BytesIO(one)) for one in images]).astype(np.float64)
    cosines, truth = (unit[::2] * unit[1::2]).sum(axis=1), np.array(same)
    want = np.mean([(a > b) + (a == b) / 2 for a in cosines[truth] for b in cosines[~truth]])
    assert scores.value("auc") == pytest.approx(want, abs=0.005)
    assert len(scores.parts[0].details["folds"]["accuracies"]) == 10
    assert scores.parts[0].counts["same_pairs"] == 20
    assert any("agedb_30.bin names nobody" in note for note in scores.notes)
    assert scores.parts[0].details["hardest"]["same"][0]["a"].startswith(str(agedb) + "#")
    folder = evaluate_protocol(face_run, agedb.parent, protocol="agedb", options={"flip": "none", "samples": 0}).scores
    assert folder.values == scores.values


@pytest.mark.parametrize(("protocol", "options"), [("lfw", {}), ("pairs", {}), ("pairs", {"pairs": "THE FILE"})])
def test_protocols_of_lists_take_such_a_file(
    agedb: Path, face_run: Path, protocol: str, options: dict[str, str]
) -> None:
    given = {"flip": "none", "samples": 0, **{name: str(agedb) for name in options}}
    scores = evaluate_protocol(face_run, agedb, protocol=protocol, options=given).scores
    want = evaluate_protocol(face_run, agedb, protocol="agedb", options={"flip": "none", "samples": 0}).scores
    assert (scores.protocol, scores.values) == (protocol, want.values)


def test_other_sources_are_refused(lfw_root: Path, face_run: Path, tmp_path: Path) -> None:
    with pytest.raises(
        DataError, match=r"the protocol cfp wants cfp_fp.bin or cfp_ff.bin, InsightFace's file, or a folder"
    ):
        evaluate_protocol(face_run, lfw_root, protocol="cfp")
    (tmp_path / "cfp_fp.bin").write_bytes(b"cos\nsystem\n(S'echo'\ntR.")
    with pytest.raises(DataError, match=r"cfp_fp.bin .*A verification set is a pickle of a list of images"):
        evaluate_protocol(face_run, tmp_path, protocol="cfp")
