"""LFW's protocols on a small made-up LFW, against loops over its lists."""

from __future__ import annotations

import functools
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cosphere.errors import DataError, SettingsError
from cosphere.experiment import evaluate_protocol
from cosphere.experiment.protocols.verifying import ScoredPairs, VerificationSettings, verification_part
from cosphere.models import Embedder


@functools.cache
def embeddings(root: Path, run: Path) -> dict[str, dict[str, np.ndarray]]:
    """The raw embedding of each image, and of its mirror image."""
    paths = sorted(root.glob("*/*.png"))
    pictures = [Image.open(path).convert("RGB") for path in paths]
    sets = {
        "plain": pictures,
        "mirrored": [picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT) for picture in pictures],
    }
    embedder = Embedder.load(run / "model")
    names = [path.relative_to(root).as_posix() for path in paths]
    return {
        kind: dict(zip(names, embedder.encode(one, normalize=False).astype(np.float64), strict=True))
        for kind, one in sets.items()
    }


def by_hand(root: Path, run: Path, name: str, flip: str) -> tuple[list[float], list[bool], list[tuple[str, str]]]:
    """Cosines of a list's pairs, read line by line."""
    known = embeddings(root, run)

    def feature(image: str) -> np.ndarray:
        plain, other = known["plain"][image], known["mirrored"][image]
        return {"none": plain, "sum": plain + other, "concat": np.concatenate([plain, other])}[flip]

    cosines, same, people = [], [], []
    for line in (root / name).read_text().splitlines()[1:]:
        words = line.split("\t")
        one, other = words[0], words[-2] if len(words) == 4 else words[0]
        a, b = (feature(f"{who}/{who}_{int(which):04d}.png") for who, which in ((one, words[1]), (other, words[-1])))
        cosines.append(float(a @ b / np.linalg.norm(a) / np.linalg.norm(b)))
        same.append(len(words) == 3)
        people.append((one, other))
    return cosines, same, people


def best_accuracy(cosines: np.ndarray, same: np.ndarray, test: np.ndarray) -> float:
    """Accuracy of the test pairs with a threshold that is best on the others."""
    scores = np.sort(cosines[~test])
    cuts = [-np.inf, *((scores[1:] + scores[:-1]) / 2), np.inf]
    right = [((cosines[~test] > cut) == same[~test]).sum() for cut in cuts]
    return float(((cosines[test] > cuts[int(np.argmax(right))]) == same[test]).mean())


@pytest.mark.parametrize("flip", ["sum", "concat", "none"])
def test_view_2_and_view_1_agree_with_loops(flip: str, lfw_root: Path, face_run: Path) -> None:
    found = evaluate_protocol(face_run, protocol="lfw", options={"flip": flip, "samples": 0, "fars": [0.1]}).scores
    cosines, same, people = by_hand(lfw_root, face_run, "pairs.txt", flip)
    folds = np.arange(len(same)) // 48
    values, truth = np.array(cosines), np.array(same)
    want = [best_accuracy(values, truth, folds == fold) for fold in range(3)]
    assert found.parts[0].details["folds"]["accuracies"] == pytest.approx(want)
    assert found.value("accuracy") == pytest.approx(np.mean(want))
    pairs = [(a > b) + (a == b) / 2 for a in values[truth] for b in values[~truth]]
    assert found.value("auc") == pytest.approx(np.mean(pairs))
    new = np.array([not any(name.startswith("Train_") for name in pair) for pair in people])
    assert found.parts[1].counts["same_pairs"] == int((new & truth).sum()) > 0
    assert found.parts[1].counts["different_pairs"] == int((new & ~truth).sum()) > 0
    unseen = [best_accuracy(values[new], truth[new], folds[new] == fold) for fold in range(3)]
    assert found.value("unseen/accuracy") == pytest.approx(np.mean(unseen))
    chosen = [by_hand(lfw_root, face_run, name, flip) for name in ("pairsDevTrain.txt", "pairsDevTest.txt")]
    every = np.concatenate([np.array(one[0]) for one in chosen])
    kinds = np.concatenate([np.array(one[1]) for one in chosen])
    want_1 = best_accuracy(every, kinds, np.arange(len(every)) >= 24)
    assert found.value("view_1/accuracy") == pytest.approx(want_1)


def test_the_file_holds_scores_curves_and_the_hardest_pairs(lfw_root: Path, face_run: Path) -> None:
    done = evaluate_protocol(face_run, lfw_root, protocol="lfw", options={"samples": 20, "hardest": 2})
    assert done.path == face_run / "scores-lfw.json"
    content = json.loads(done.path.read_text())
    assert content["settings"]["flip"] == "sum"
    assert [part["key"] for part in content["parts"]] == ["", "unseen", "view_1", "templates", "templates_plain"]
    assert content["parts"][3]["counts"]["people"] == 6  # those who were not trained on
    main = content["parts"][0]
    assert main["scores"]["auc"]["low"] <= main["scores"]["auc"]["value"] <= main["scores"]["auc"]["high"]
    cosines, same, _ = by_hand(lfw_root, face_run, "pairs.txt", "sum")
    lowest = sorted(one for one, kind in zip(cosines, same, strict=True) if kind)[:2]
    highest = sorted(one for one, kind in zip(cosines, same, strict=True) if not kind)[::-1][:2]
    assert [one["cosine"] for one in main["hardest"]["same"]] == pytest.approx(lowest)
    assert [one["cosine"] for one in main["hardest"]["different"]] == pytest.approx(highest)
    assert Path(main["hardest"]["same"][0]["a"]).is_file()
    far, tar = np.array(main["roc"]["far"]), np.array(main["roc"]["tar"])
    assert (np.diff(tar) >= 0).all()
    assert (far[0], far[-1], tar[-1]) == (0, 1, 1)
    assert set(main["lengths"]) == {"correlation", "gain", "shares", "errors"}
    assert main["lengths"]["errors"][0] == pytest.approx(1 - main["scores"]["accuracy"]["value"])
    assert any("6 of 12 people of View 2 were trained on" in note for note in content["notes"])


def test_images_are_embedded_once_for_all_protocols(
    lfw_root: Path, face_run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    evaluate_protocol(face_run, protocol="lfw", options={"samples": 0})
    monkeypatch.setattr("cosphere.embeddings.computing._forward", None)  # would fail if it were called
    evaluate_protocol(face_run, protocol="lfw", options={"samples": 0, "flip": "concat"})


def test_other_data_is_refused(photos: Path, face_run: Path) -> None:
    with pytest.raises(
        DataError, match=r"the protocol lfw wants pairs.txt and .*has no pairs.txt. Give the root of LFW"
    ):
        evaluate_protocol(face_run, photos, protocol="lfw")
    with pytest.raises(SettingsError, match=r"there is no protocol 'lfv'. Did you mean 'lfw'\?"):
        evaluate_protocol(face_run, protocol="lfv")
    with pytest.raises(SettingsError, match=r"there is no setting 'options.flop'. Did you mean 'options.flip'\?"):
        evaluate_protocol(face_run, protocol="lfw", options={"flop": "sum"})
    with pytest.raises(SettingsError, match=r"options.fars must be a number above 0 and below 1, finite; got 2\.0"):
        evaluate_protocol(face_run, protocol="lfw", options={"fars": [2]})


def test_missing_images_are_counted_and_too_many_refused(lfw_root: Path, face_run: Path, tmp_path: Path) -> None:
    root = shutil.copytree(lfw_root, tmp_path / "lfw")
    (root / "Test_g" / "Test_g_0001.png").unlink()
    with pytest.raises(
        DataError, match=r"1 of 48 images of the pairs are not among the 47 images, first Test_g/Test_g_0001.jpg"
    ):
        evaluate_protocol(face_run, root, protocol="lfw", layout="folder")
    options = {"samples": 0, "max_missing": 0.1}
    notes = evaluate_protocol(face_run, root, protocol="lfw", layout="folder", options=options).scores.notes
    (note,) = [one for one in notes if one.startswith("pairs.txt: 1 image is missing, first Test_g/Test_g_0001.jpg; ")]
    text = (root / "pairs.txt").read_text().splitlines()[1:]
    lost = sum("Test_g" in line and "1" in line.split("\t") and _names_first(line) for line in text)
    assert note.endswith(f"{lost} pairs left out")


def _names_first(line: str) -> bool:
    words = line.split("\t")
    images = {(words[0], words[1]), (words[-2] if len(words) == 4 else words[0], words[-1])}
    return ("Test_g", "1") in images


def test_faces_of_any_shape_and_a_damaged_one(lfw_root: Path, face_run: Path, tmp_path: Path) -> None:
    root = shutil.copytree(lfw_root, tmp_path / "lfw")
    Image.open(root / "Test_h/Test_h_0001.png").convert("L").save(root / "Test_h/Test_h_0001.png")
    Image.open(root / "Test_h/Test_h_0002.png").resize((40, 17)).save(root / "Test_h/Test_h_0002.png")
    (root / "Test_i/Test_i_0001.png").write_bytes(b"no picture")
    options = {"samples": 0}
    done = evaluate_protocol(face_run, root, protocol="lfw", options=options, max_unreadable=0.1)
    assert any("left out, of images that cannot be read" in note for note in done.scores.notes)
    assert [Path(one["path"]).name for one in done.scores.data["skipped_images"]] == ["Test_i_0001.png"]


def test_a_model_that_saw_nobody_here(photos: Path, lfw_root: Path, face_run: Path, tmp_path: Path) -> None:
    run = shutil.copytree(face_run, tmp_path / "run")
    embedder = Embedder.load(run / "model")
    embedder.provenance["data"]["classes"] = ["somebody else"]
    embedder.save(run / "model")
    scores = evaluate_protocol(run, protocol="lfw", options={"samples": 0}).scores
    assert [part.key for part in scores.parts] == ["", "view_1", "templates", "templates_plain"]
    assert "nobody here has the name of a class that the model was trained on" in scores.notes
    with pytest.raises(SettingsError, match="the protocol lfw has no score 'unseen/auc' here"):
        scores.value("unseen/auc")


def test_a_model_that_was_trained_without_classes_does_not_say_whom_it_saw(
    lfw_root: Path, face_run: Path, tmp_path: Path
) -> None:
    """Self-supervised runs keep an empty list of classes, on whatever people they were trained."""
    run = shutil.copytree(face_run, tmp_path / "run")
    embedder = Embedder.load(run / "model")
    embedder.provenance["data"]["classes"] = []
    embedder.save(run / "model")
    note = "the model does not say which classes it was trained on (it may have been trained without labels)"
    for protocol, options in (("lfw", {}), ("pairs", {"pairs": str(lfw_root / "pairs.txt")})):
        scores = evaluate_protocol(run, protocol=protocol, options={"samples": 0, **options}).scores
        assert any(one.startswith(note) for one in scores.notes), protocol
        assert not any("nobody here" in one for one in scores.notes)
        assert "unseen" not in {part.key for part in scores.parts}


def test_a_threshold_that_accepts_every_pair_is_null_in_the_file() -> None:
    """Of people never trained on, most pairs are same ones: for a weak model it is best to accept them all."""
    rng = np.random.default_rng(0)
    same = rng.random(60) < 0.8
    names = np.array([["a.jpg", "b.jpg"]] * 60, dtype=object)
    scored = ScoredPairs(
        np.where(same, -0.5, 0.5) + rng.normal(0, 0.1, 60),
        same,
        np.repeat(np.arange(3), 20),
        rng.random((60, 2)),
        names,
    )
    settings = VerificationSettings(samples=0)
    folds = verification_part("unseen", "unseen", scored, settings)
    chosen = verification_part("view_1", "View 1", scored._replace(folds=None), settings, chosen_on=scored)
    content = json.loads(json.dumps([folds.as_dict(), chosen.as_dict()], allow_nan=False))
    assert content[0]["folds"]["thresholds"] == [None, None, None]
    assert content[1]["threshold"] is None
    assert content[1]["scores"]["accuracy"]["value"] == pytest.approx(same.mean())


def test_the_interval_of_an_accuracy_ends_at_one() -> None:
    """One pair of one fold is judged wrong: Student's t over the folds would end above 100 %."""
    same = np.tile([True, False], 50)
    cosines = np.where(same, 0.9, 0.1)
    cosines[3] = 0.95
    names = np.array([["a.jpg", "b.jpg"]] * 100, dtype=object)
    scored = ScoredPairs(cosines, same, np.repeat(np.arange(10), 10), np.ones((100, 2)), names)
    accuracy = verification_part("", "", scored, VerificationSettings(samples=0)).values["accuracy"]
    assert accuracy.value == pytest.approx(0.99)
    assert accuracy.interval is not None
    assert accuracy.interval.high == 1.0
    assert accuracy.interval.low == pytest.approx(0.99 - 2.2622 * 0.01, abs=1e-4)  # 0.1 / sqrt(10) / sqrt(10)
