"""MegaFace from feature files and from images, trial by trial."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from cosphere.data.faces.megaface import write_megaface_feature
from cosphere.errors import DataError
from cosphere.experiment import evaluate_protocol
from cosphere.models import Embedder

PROBES = [f"Test_{letter}/Test_{letter}_{number:04d}.png" for letter in "ghi" for number in (1, 2, 3)]
DISTRACTORS = [f"1/2@N0/Train_{letter}_0001.png" for letter in "abcdef"]


@pytest.fixture(scope="module")
def megaface(lfw_root: Path, face_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Images, and the plain embeddings of them as feature files."""
    root = tmp_path_factory.mktemp("megaface")
    embedder = Embedder.load(face_run / "model")
    for folder, names in (("facescrub", PROBES), ("megaface", DISTRACTORS)):
        (root / f"{folder}_lst").write_text("".join(f"/machine/x/{name}\n" for name in names))
        for name in names:
            person = Path(name).name.rpartition("_")[0]
            target = root / f"{folder}_images" / name
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(lfw_root / person / Path(name).name, target)
            row = embedder.encode([target], normalize=False)[0]
            write_megaface_feature(root / "features" / folder / f"{name}_own.bin", row)
    (root / "facescrub_noises.txt").write_text("# noisy\nTest_i_0003.png\n")
    return root


def by_hand(root: Path) -> tuple[float, float]:
    """Rank-1 and TAR at FAR 10 %, of the features without the noisy probe."""

    def unit(folder: str, name: str) -> np.ndarray:
        row = np.fromfile(root / "features" / folder / f"{name}_own.bin", "<f4", offset=16).astype(np.float64)
        return row / np.linalg.norm(row)

    names = PROBES[:-1]
    probes = [unit("facescrub", name) for name in names]
    rivals = [unit("megaface", name) for name in DISTRACTORS]
    trials = [
        all(probe @ rival < probe @ mate for rival in rivals)
        for i, probe in enumerate(probes)
        for j, mate in enumerate(probes)
        if i != j and names[i][:6] == names[j][:6]
    ]
    impostors = sorted((float(probe @ rival) for probe in probes for rival in rivals), reverse=True)
    cut = impostors[int(0.1 * len(impostors))]
    same = [probes[i] @ probes[j] for j in range(8) for i in range(j) if names[i][:6] == names[j][:6]]
    return float(np.mean(trials)), float(np.mean([one > cut for one in same]))


@pytest.mark.parametrize("features", [True, False])
def test_trials_of_features_and_of_images(features: bool, megaface: Path, face_run: Path) -> None:
    options = {"flip": "none", "fars": [0.1], "ranks": [1, 2]}
    options |= {"features": "features", "suffix": "own"} if features else {}
    scores = evaluate_protocol(face_run, megaface, protocol="megaface", options=options).scores
    rank, rate = by_hand(megaface)
    assert scores.value("rank@1") == pytest.approx(rank)
    assert scores.value("tar@far=1e-1") == pytest.approx(rate)
    assert scores.parts[0].counts == {"probes": 8, "people": 3, "distractors": 6, "trials": 6 + 6 + 2}
    assert "1 image of facescrub left out, which facescrub_noises.txt names" in scores.notes
    assert any("megaface_noises.txt is not there" in note for note in scores.notes)


def test_noises_may_be_kept(megaface: Path, face_run: Path) -> None:
    options = {"features": "features", "suffix": "own", "refined": False}
    scores = evaluate_protocol(face_run, megaface, protocol="megaface", options=options).scores
    assert scores.parts[0].counts["probes"] == 9
    assert any("54 distractor pairs cannot show a false-accept rate of 0.0001" in note for note in scores.notes)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"features": "features"}, r"_cosphere.bin cannot be read"),
        ({"features": "../elsewhere"}, r"options.features is '../elsewhere', outside of"),
    ],
)
def test_features_that_are_not_there(options: dict[str, str], message: str, megaface: Path, face_run: Path) -> None:
    with pytest.raises(DataError, match=message):
        evaluate_protocol(face_run, megaface, protocol="megaface", options=options)


def test_other_sources_are_refused(photos: Path, megaface: Path, face_run: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"the protocol megaface wants facescrub_lst, .* has no facescrub_lst"):
        evaluate_protocol(face_run, photos, protocol="megaface")
    root = shutil.copytree(megaface, tmp_path / "megaface")
    shutil.rmtree(root / "megaface_images")
    with pytest.raises(DataError, match=r"there is no folder .*megaface_images with the images"):
        evaluate_protocol(face_run, root, protocol="megaface")
