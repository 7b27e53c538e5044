"""IJB's protocols on a small set, template by template."""

from __future__ import annotations

import shutil
import tracemalloc
from pathlib import Path

import numpy as np
import pytest

from cosphere.data.faces.ijb import TemplatePairs
from cosphere.errors import DataError
from cosphere.experiment import evaluate_protocol
from cosphere.experiment.protocols.ijb import PAIRS_AT_ONCE, template_cosines
from cosphere.models import Embedder

POINTS = "46 62 87 60 68 77 52 99 86 98"
PEOPLE = [f"Test_{letter}" for letter in "ghijkl"]


@pytest.fixture(scope="module")
def ijb(lfw_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two templates a person: one of two images of one video, and one of two photographs; the last person is in no gallery."""
    root = tmp_path_factory.mktemp("ijb")
    (root / "meta").mkdir()
    (root / "loose_crop").mkdir()
    media, scores = [], []
    for at, person in enumerate(PEOPLE):
        for number in range(1, 5):
            name = f"{at}{number}.png"
            shutil.copy(lfw_root / person / f"{person}_{number:04d}.png", root / "loose_crop" / name)
            template = 2 * at + (number > 2)
            media.append(f"{name} {template} {10 * at if number < 3 else 10 * at + number}")
            scores.append(f"{name} {POINTS} {0.5 + 0.1 * number}")
    pairs = [f"{2 * a} {2 * b + 1} {int(a == b)}" for a in range(6) for b in range(6)]
    (root / "meta" / "ijbc_face_tid_mid.txt").write_text("\n".join(media) + "\n")
    (root / "meta" / "ijbc_name_5pts_score.txt").write_text("\n".join(scores) + "\n")
    (root / "meta" / "ijbc_template_pair_label.txt").write_text("\n".join(pairs) + "\n")
    gallery = "".join(f"{2 * at},{at},x\n" for at in range(5))
    probes = "".join(f"{2 * at + 1},{at},x\n" for at in range(6))
    (root / "meta" / "ijbc_1N_gallery_G1.csv").write_text(f"TEMPLATE_ID,SUBJECT_ID,FILENAME\n{gallery}")
    (root / "meta" / "ijbc_1N_probe_mixed.csv").write_text(f"TEMPLATE_ID,SUBJECT_ID,FILENAME\n{probes}")
    return root


def templates_by_hand(root: Path, run: Path, *, lengths: bool) -> dict[int, np.ndarray]:
    embedder = Embedder.load(run / "model")
    scores = {
        line.split()[0]: float(line.split()[-1])
        for line in (root / "meta/ijbc_name_5pts_score.txt").read_text().splitlines()
    }
    found: dict[int, dict[int, list[np.ndarray]]] = {}
    for line in (root / "meta/ijbc_face_tid_mid.txt").read_text().splitlines():
        name, template, medium = line.split()
        row = embedder.encode([root / "loose_crop" / name], normalize=False)[0].astype(np.float64)
        row = row if lengths else row / np.linalg.norm(row)
        found.setdefault(int(template), {}).setdefault(int(medium), []).append(row * scores[name])
    sums = {template: sum(np.mean(rows, axis=0) for rows in media.values()) for template, media in found.items()}
    return {template: row / np.linalg.norm(row) for template, row in sums.items()}


@pytest.mark.parametrize(("key", "lengths"), [("", True), ("plain/", False)])
def test_templates_are_pooled_and_compared(key: str, lengths: bool, ijb: Path, face_run: Path) -> None:
    options = {"flip": "none", "fars": [0.1], "samples": 10, "fpirs": [0.5], "ranks": [1, 2]}
    scores = evaluate_protocol(face_run, ijb, protocol="ijb", options=options).scores
    pooled = templates_by_hand(ijb, face_run, lengths=lengths)
    same = np.array([pooled[2 * at] @ pooled[2 * at + 1] for at in range(6)])
    different = np.array([pooled[2 * a] @ pooled[2 * b + 1] for a in range(6) for b in range(6) if a != b])
    assert scores.value(f"{key}auc") == pytest.approx(np.mean([a > b for a in same for b in different]))
    cut = np.sort(different)[::-1][3]  # floor(0.1 * 30) may pass
    assert scores.value(f"{key}tar@far=1e-1") == pytest.approx((same > cut).mean())
    assert scores.value(f"{key}tar@far=1e-1, nearest") >= scores.value(f"{key}tar@far=1e-1")
    ranks = []
    for at in range(5):
        similar = [pooled[2 * other] @ pooled[2 * at + 1] for other in range(5)]
        ranks.append(sum(value > similar[at] for value in similar) + 1)
    assert scores.value(f"{key}G1/rank@1") == pytest.approx(np.mean([rank <= 1 for rank in ranks]))
    assert scores.value(f"{key}G1/rank@2") == pytest.approx(np.mean([rank <= 2 for rank in ranks]))
    nobody = max(pooled[2 * other] @ pooled[11] for other in range(5))  # one unknown probe: no false alarm at 50 %
    hits = [rank == 1 and pooled[2 * at] @ pooled[2 * at + 1] > nobody for at, rank in enumerate(ranks)]
    assert scores.value(f"{key}G1/tpir@fpir=5e-1") == pytest.approx(np.mean(hits))


def test_notes_say_what_was_embedded(ijb: Path, face_run: Path, tmp_path: Path) -> None:
    notes = evaluate_protocol(face_run, ijb, protocol="ijb", options={"samples": 1}).scores.notes
    assert any(note.startswith("images of loose_crop are embedded as they are; align them") for note in notes)
    assert any("30 different pairs cannot show a false-accept rate of 0.01" in note for note in notes)
    root = shutil.copytree(ijb, tmp_path / "ijb")
    (root / "loose_crop").rename(root / "aligned")
    (root / "meta" / "ijbc_1N_probe_mixed.csv").unlink()
    scores = evaluate_protocol(face_run, root, protocol="ijb", options={"samples": 1, "detector": False}).scores
    assert [part.key for part in scores.parts] == ["", "plain"]
    assert not any("loose_crop" in note for note in scores.notes)
    with pytest.raises(DataError, match=r"has no folder \.\./faces with the images"):
        evaluate_protocol(face_run, root, protocol="ijb", options={"images": "../faces"})


def test_a_template_without_a_readable_image_costs_no_more_than_itself(
    ijb: Path, face_run: Path, tmp_path: Path
) -> None:
    """Person 4 loses the template of the gallery, person 0 the probe; person 5 is still the only stranger."""
    root = shutil.copytree(ijb, tmp_path / "ijb")
    for name in ("41", "42", "03", "04"):
        (root / "loose_crop" / f"{name}.png").write_bytes(b"no picture")
    options = {"flip": "none", "samples": 10, "fpirs": [0.5], "ranks": [1]}
    scores = evaluate_protocol(face_run, root, protocol="ijb", options=options, max_unreadable=0.5).scores
    part = next(part for part in scores.parts if part.key == "G1")
    assert part.counts == {"gallery_templates": 4, "known_probes": 3, "unknown_probes": 1}
    pooled = templates_by_hand(ijb, face_run, lengths=True)
    right = [np.argmax([pooled[2 * other] @ pooled[2 * at + 1] for other in range(4)]) == at for at in (1, 2, 3)]
    assert scores.value("G1/rank@1") == pytest.approx(np.mean(right))
    assert "1:N G1: 1 gallery template and 1 probe template without a readable image left out" in scores.notes
    assert "1:N G1: 1 probe left out whose person has no template left in the gallery" in scores.notes
    for at in range(5):
        for number in (1, 2):
            (root / "loose_crop" / f"{at}{number}.png").write_bytes(b"no picture")
    nothing = evaluate_protocol(face_run, root, protocol="ijb", options=options, max_unreadable=0.9).scores
    assert [part.key for part in nothing.parts] == ["", "plain"]
    assert "1:N G1 left out: no probe shows anybody of the gallery" in nothing.notes


def test_cosines_of_pairs_take_ten_bytes_each() -> None:
    count = 300_000
    rng = np.random.default_rng(0)
    pairs = TemplatePairs(templates=rng.integers(0, 9, (count, 2)).astype(np.int32), same=rng.random(count) < 0.5)
    templates, numbers = rng.normal(size=(8, 2)), np.arange(8)
    tracemalloc.start()
    cosines, same = template_cosines(templates, numbers, pairs)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    keep = (pairs.templates < 8).all(axis=1)
    assert np.array_equal(same, pairs.same[keep])
    assert np.allclose(cosines, (templates[pairs.templates[keep, 0]] * templates[pairs.templates[keep, 1]]).sum(axis=1))
    assert peak < 10 * count + 100 * PAIRS_AT_ONCE


def test_other_sources_are_refused(photos: Path, face_run: Path) -> None:
    with pytest.raises(DataError, match=r"no ijbb_face_tid_mid.txt or ijbc_face_tid_mid.txt"):
        evaluate_protocol(face_run, photos, protocol="ijb")
    with pytest.raises(DataError, match="the protocol ijb wants a folder with meta/"):
        evaluate_protocol(face_run, photos / "train" / "class00" / "0.png", protocol="ijb")


def test_comparisons_of_templates_without_images_are_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cosphere.experiment.protocols.ijb.PAIRS_AT_ONCE", 2)
    templates, numbers = np.eye(3), np.array([4, 7, 9])
    pairs = TemplatePairs(
        templates=np.array([[4, 4], [4, 7], [5, 7], [9, 9], [9, 10]], dtype=np.int32),
        same=np.array([True, False, True, True, False]),
    )
    cosines, same = template_cosines(templates, numbers, pairs)
    assert cosines.tolist() == [1, 0, 1]
    assert same.tolist() == [True, False, True]
