from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from cosphere.embeddings import Embeddings
from cosphere.errors import DataError, RunError, SettingsError
from cosphere.evaluate import EvaluationSettings
from cosphere.evaluate.scores import score_embeddings
from cosphere.experiment.matching import group_runs, read_arms
from cosphere.models import EmbedderSettings, build_embedder
from cosphere.runs import RunFolder


def embeddings(seed: int, root: str = "/data/photos") -> Embeddings:
    """30 images of 5 classes in 4 dimensions."""
    labels = np.repeat(np.arange(5), 6)
    generator = np.random.default_rng(seed)
    rows = np.eye(5, 4)[labels] + generator.normal(0, 0.6, (30, 4))
    names = tuple(f"class{number}" for number in range(5))
    paths = tuple(f"{root}/{names[label]}/{row}.jpg" for row, label in enumerate(labels))
    return Embeddings(embeddings=rows.astype(np.float32), labels=labels, paths=paths, class_names=names)


def make_run(
    path: Path,
    content: Embeddings,
    *,
    seed: int = 0,
    split: str = "test",
    fingerprint: str = "f",
    evaluation: dict[str, Any] | None = None,
    **settings: Any,
) -> Path:
    """A run's folder as training and evaluation leave it."""
    folder = RunFolder.create(path)
    folder.config.write_text(yaml.safe_dump({"steps": 10, **settings, "seed": seed}))
    content.save(folder.embeddings(split))
    scores = score_embeddings(
        content,
        EvaluationSettings(ks=(1,), clustering=False, bootstrap_samples=0, **(evaluation or {})),
        fingerprint=fingerprint,
    )
    folder.scores.write_text(json.dumps({"split": split, **scores.as_dict()}))
    return path


def some(content: Embeddings, rows: Any) -> Embeddings:
    return replace(
        content,
        embeddings=content.embeddings[rows],
        labels=content.labels[rows],
        paths=tuple(content.paths[row] for row in rows),
    )


def test_values_are_those_of_the_evaluation(tmp_path: Path) -> None:
    first, second = (make_run(tmp_path / str(seed), embeddings(seed), seed=seed) for seed in (3, 4))
    found = read_arms({"a": [first], "b": [second]}, ["recall@1", "map@r"])
    for arm, seed in (("a", 3), ("b", 4)):
        want = score_embeddings(embeddings(seed), EvaluationSettings(ks=(1,), clustering=False)).per_query
        for name in ("recall@1", "map@r"):
            np.testing.assert_allclose(found.arms[arm].values[name], want[name][None])
        assert found.arms[arm].seeds == (seed,)
    assert found.classes.tolist() == [f"class{row // 6}" for row in range(30)]
    assert (found.split, found.fingerprint, found.images, found.left_out, found.notes) == ("test", "f", 30, {}, ())
    assert found.runs == {"a": ("3",), "b": ("4",)}


def test_a_run_that_was_trained_on_after_its_evaluation_is_noted(tmp_path: Path) -> None:
    made = build_embedder(EmbedderSettings(backbone="test_resnet", weights="none", dim=4))
    first, second = (
        make_run(tmp_path / name, replace(embeddings(3), model_id=made.id), sec={"weight": weight})
        for name, weight in (("first", 0.0), ("second", 0.1))
    )
    for run in (first, second):
        made.save(run / "model")
    assert read_arms({"a": [first], "b": [second]}).notes == ()
    next(made.head.parameters()).data += 1
    made.save(second / "model")
    assert read_arms({"a": [first], "b": [second]}).notes == (
        f"{second}: scored before the run's last steps of training. For scores of the model as it is now, run: cosphere evaluate "
        f"{second} --split test.",
    )


def test_images_are_matched_whatever_their_order_and_root(tmp_path: Path) -> None:
    """The same embeddings in another order, with classes numbered otherwise and elsewhere on disk, give the same values."""
    one = embeddings(0)
    order = np.random.default_rng(5).permutation(30)
    moved = some(embeddings(0, "/elsewhere/on/disk"), order)
    moved = replace(moved, labels=4 - moved.labels, class_names=one.class_names[::-1])
    found = read_arms({"a": [make_run(tmp_path / "a", one)], "b": [make_run(tmp_path / "b", moved)]})
    for name in ("recall@1", "map@r"):
        np.testing.assert_allclose(found.arms["a"].values[name], found.arms["b"].values[name])
    assert 0 < found.arms["a"].values["recall@1"].mean() < 1  # this data can tell queries apart
    assert found.notes == (
        "Images lie in different folders (/data/photos, /elsewhere/on/disk), so they are matched by the path below.",
    )


def test_images_that_one_run_lacks_are_left_out_of_all(tmp_path: Path) -> None:
    whole, kept = embeddings(0), np.delete(np.arange(30), [0, 7, 8])
    first, second = make_run(tmp_path / "a", whole), make_run(tmp_path / "b", some(embeddings(1), kept))
    found = read_arms({"a": [first], "b": [second]})
    want = score_embeddings(
        some(whole, kept), EvaluationSettings(ks=(1,), clustering=False)
    ).per_query  # the gallery is the shared one too
    np.testing.assert_allclose(found.arms["a"].values["map@r"][0], want["map@r"])
    assert found.left_out == {str(first): 3}
    assert found.images == 27
    assert found.notes[0].startswith("Left out, because another run lacks them: 3 of ")


def test_copies_and_boxes_of_one_file_are_told_apart(tmp_path: Path) -> None:
    one = embeddings(0)
    one = replace(one, paths=("/data/photos/a.jpg",) * 30, boxes=np.arange(120).reshape(30, 4) // 8)  # pairs of boxes
    back = some(one, np.arange(30)[::-1])
    assert one.boxes is not None
    back = replace(back, boxes=one.boxes[::-1])
    found = read_arms({"a": [make_run(tmp_path / "a", one)], "b": [make_run(tmp_path / "b", back)]})
    assert found.images == 30
    pairs = [found.arms[arm].values["map@r"][0].reshape(15, 2) for arm in "ab"]
    np.testing.assert_allclose(pairs[0], pairs[1][:, ::-1])  # equal copies count from the front in both


def test_query_and_gallery_flags_are_kept(tmp_path: Path) -> None:
    asking = np.arange(30) % 3 == 0
    one, two = (replace(embeddings(seed), is_query=asking, is_gallery=~asking) for seed in (0, 1))
    found = read_arms({"a": [make_run(tmp_path / "a", one)], "b": [make_run(tmp_path / "b", two)]})
    want = score_embeddings(two, EvaluationSettings(ks=(1,), clustering=False)).per_query
    np.testing.assert_allclose(found.arms["b"].values["map@r"][0], want["map@r"])
    assert found.classes.tolist() == [f"class{row // 6}" for row in range(0, 30, 3)]


def test_sequences_are_left_out_as_in_the_evaluation(tmp_path: Path) -> None:
    """Also of images in another order: a run that was scored without its sequences would differ from its scores.json."""
    order = np.random.default_rng(1).permutation(30)
    groups = np.arange(30) // 2
    one = replace(embeddings(0), groups=groups)
    two = replace(some(embeddings(1), order), groups=groups[order])
    found = read_arms({"a": [make_run(tmp_path / "a", one)], "b": [make_run(tmp_path / "b", two)]})
    want = score_embeddings(
        replace(embeddings(1), groups=groups), EvaluationSettings(ks=(1,), clustering=False)
    ).per_query
    np.testing.assert_allclose(found.arms["b"].values["recall@1"][0], want["recall@1"])
    assert (
        want["recall@1"]
        != score_embeddings(embeddings(1), EvaluationSettings(ks=(1,), clustering=False)).per_query["recall@1"]
    ).any()
    assert found.notes == ()


def test_every_score_with_a_value_for_each_query_can_be_compared(tmp_path: Path) -> None:
    names = ["mrr", "map@all", "ndcg@3", "precision@2", "map@2", "recall@4", "r_precision"]
    runs = {str(seed): [make_run(tmp_path / str(seed), embeddings(seed), steps=seed + 1)] for seed in range(2)}
    want = score_embeddings(
        embeddings(1), EvaluationSettings(ks=(2, 3, 4), metrics=("all",), clustering=False)
    ).per_query
    found = read_arms(runs, names).arms["1"].values
    assert list(found) == names
    for name in names:
        np.testing.assert_allclose(found[name][0], want[name])


def test_boxes_of_whole_images_are_as_none(tmp_path: Path) -> None:
    one, two = embeddings(0), replace(embeddings(1), boxes=np.full((30, 4), -1))
    assert read_arms({"a": [make_run(tmp_path / "a", one)], "b": [make_run(tmp_path / "b", two)]}).images == 30


def test_runs_that_differ_in_the_seed_are_one_arm(tmp_path: Path) -> None:
    paths = []
    for name, weight in (("plain", 0.0), ("plain-sec", 0.1)):
        for seed in range(2):
            data = {"root": "photos", "workers": seed}
            run = make_run(
                tmp_path / f"{name}-seed{seed}", embeddings(seed), seed=seed, sec={"weight": weight}, data=data
            )
            paths.append(run)
    found = group_runs([paths[2], paths[0], paths[1], paths[3]])
    assert found == {"plain-sec": [paths[2], paths[3]], "plain": [paths[0], paths[1]]}
    arms = read_arms(found).arms
    assert {name: arm.seeds for name, arm in arms.items()} == {"plain-sec": (0, 1), "plain": (0, 1)}
    assert arms["plain"].values["map@r"].shape == (2, 30)
    assert list(group_runs(paths[:2])) == ["plain-seed0", "plain-seed1"]  # nothing else to compare: each by itself


def test_folders_of_one_name_are_told_apart(tmp_path: Path) -> None:
    paths = [make_run(tmp_path / str(n) / "run", embeddings(n), steps=n + 1) for n in range(2)]
    assert list(group_runs(paths)) == [str(path) for path in paths]


@pytest.mark.parametrize(
    ("name", "value"), [("group_rule", "same_class"), ("bits", True), ("ties", "pessimistic"), ("ties", "expected")]
)
def test_runs_are_ranked_as_they_were_evaluated(name: str, value: Any, tmp_path: Path) -> None:
    """Groups hold images of several classes, and rounded rows tie."""
    groups = np.arange(30) % 7
    content = [replace(embeddings(seed), groups=groups) for seed in (0, 1)]
    content = [replace(one, embeddings=np.round(one.embeddings) + np.float32(0.25)) for one in content]
    own = {name: value}
    first, second = (make_run(tmp_path / str(seed), content[seed], evaluation=own) for seed in (0, 1))
    matched = read_arms({"a": [first], "b": [second]}, ["recall@1", "map@r"])
    want = score_embeddings(content[1], EvaluationSettings(ks=(1,), clustering=False, **own)).per_query
    plain = score_embeddings(content[1], EvaluationSettings(ks=(1,), clustering=False)).per_query
    for score in ("recall@1", "map@r"):
        np.testing.assert_array_equal(matched.arms["b"].values[score][0], want[score])
    assert any((want[score] != plain[score]).any() for score in ("recall@1", "map@r"))
    assert matched.ranking == {"bits": False, "ties": None, "group_rule": "any_class"} | own
    assert matched.notes[0] == f"Ranked as the runs were evaluated: {name} {'true' if value is True else value}."


def test_runs_that_were_evaluated_differently_are_refused(tmp_path: Path) -> None:
    first = make_run(tmp_path / "a", embeddings(0), evaluation={"group_rule": "same_class"})
    second = make_run(tmp_path / "b", embeddings(1))
    words = (
        f"{first} was evaluated with group_rule same_class, {second} with any_class, so their scores cannot be compared. "
        f"Evaluate one of them again: cosphere evaluate {second} --group_rule same_class."
    )
    with pytest.raises(RunError, match=re.escape(words)):
        read_arms({"a": [first], "b": [second]})
    scores = json.loads((second / "scores.json").read_text())
    (second / "scores.json").write_text(json.dumps({**scores, "evaluation": {"ties": "odd"}}))
    with pytest.raises(RunError, match=f"^{re.escape(str(second))}: the scores hold settings that cannot be used"):
        read_arms({"a": [first], "b": [second]})


@pytest.mark.parametrize(
    ("name", "words"),
    [("is_query", "queries"), ("is_gallery", "gallery images"), ("groups", "groups")],
)
def test_images_of_other_roles_are_other_questions(name: str, words: str, tmp_path: Path) -> None:
    """The fingerprint of a data set does not cover its sequences, and shared images may be of two tables."""
    one = replace(embeddings(0), **{name: np.arange(30) % 2 == 0 if name != "groups" else np.arange(30) % 7})
    same = replace(embeddings(1), **{name: getattr(one, name)})
    if name == "groups":
        same = replace(same, groups=6 - one.groups)  # type: ignore[operator]  # the same groups under other numbers
    runs = [make_run(tmp_path / folder, content) for folder, content in (("a", one), ("b", same))]
    assert read_arms({"a": runs[:1], "b": runs[1:]}).images == 30
    other = make_run(tmp_path / "c", embeddings(1))
    with pytest.raises(
        DataError, match=f"scored on the same images with other {words}, so their scores cannot be compared"
    ):
        read_arms({"a": runs[:1], "c": [other]})


def test_a_stale_score_is_noticed(tmp_path: Path) -> None:
    first, second = (make_run(tmp_path / name, embeddings(0)) for name in "ab")
    embeddings(9).save(RunFolder.open(second).embeddings("test"))
    notes = read_arms({"a": [first], "b": [second]}).notes
    assert len(notes) == 1
    assert "its scores.json says" in notes[0]
    assert notes[0].startswith(f"{second}: recall@1")


def test_progress_is_told(tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    runs = [make_run(tmp_path / name, embeddings(0)) for name in "ab"]
    read_arms({"a": runs[:1], "b": runs[1:]}, progress=lambda done, total: seen.append((done, total)))
    assert seen == [(1, 2), (2, 2)]


def test_wrong_runs_are_named(tmp_path: Path) -> None:
    good = make_run(tmp_path / "good", embeddings(0))
    fresh = tmp_path / "fresh"
    RunFolder.create(fresh).config.write_text("seed: 1\n")
    other = make_run(tmp_path / "other", embeddings(1), split="held-out", fingerprint="g")
    changed = make_run(tmp_path / "changed", embeddings(1), fingerprint="g")
    renamed = make_run(tmp_path / "renamed", replace(embeddings(1), class_names=tuple("vwxyz")))
    (tmp_path / "empty").mkdir()

    def answer(error: type[Exception], *paths: Path, **settings: Any) -> str:
        with pytest.raises(error) as caught:
            read_arms({str(path): [path] for path in paths}, **settings)
        return str(caught.value)

    assert "was never evaluated. Run: cosphere evaluate" in answer(RunError, good, fresh)
    assert "is not a run's folder" in answer(RunError, good, tmp_path / "empty")
    assert "there is no run at" in answer(RunError, good, tmp_path / "nowhere")
    assert "on split 'test', " in answer(RunError, good, other)
    assert "no embeddings of split 'test'; it has held-out." in answer(RunError, good, other, split="test")
    assert "scored on different images (fingerprints f and g)" in answer(DataError, good, changed)
    assert "share no image of the same path and class" in answer(DataError, good, renamed)
    assert "Did you mean 'recall@1'?" in answer(SettingsError, good, metrics=["recal@1"])
    assert "there is no metric to compare" in answer(SettingsError, good, metrics=[])
    assert "there is no run to compare" in answer(SettingsError)
    broken = make_run(tmp_path / "broken", embeddings(1))
    replace(embeddings(1), embeddings=embeddings(1).embeddings * np.nan).save(RunFolder.open(broken).embeddings("test"))
    assert answer(DataError, good, broken).startswith(f"{broken}: 30 of 30 rows of embeddings hold NaN")
    torn = make_run(tmp_path / "torn", embeddings(1))
    RunFolder.open(torn).config.write_text("seed: [")
    assert "\n" not in answer(RunError, good, torn)
    RunFolder.open(good).scores.write_text(json.dumps({"split": "test", "ties": "optimistic", "scores": [1]}))
    assert read_arms({"a": [good], "b": [changed]}, shared_only=True).fingerprint == "g"
    good = make_run(tmp_path / "good again", embeddings(0))
    assert read_arms({"a": [good], "b": [changed]}, shared_only=True).fingerprint == ""
    with pytest.raises(SettingsError, match="is given twice"):
        group_runs([good, tmp_path / "fresh" / ".." / "good again"])


def test_what_an_evaluation_warned_of_is_said_again(tmp_path: Path) -> None:
    """A collapsed run may win where ties count as hits."""
    collapsed = replace(embeddings(0), embeddings=np.ones_like(embeddings(0).embeddings))
    runs = {"a": [make_run(tmp_path / "a", embeddings(0))], "b": [make_run(tmp_path / "b", collapsed)]}
    (note,) = read_arms(runs).notes
    assert note.startswith(f"{tmp_path / 'b'}: Total collapse: the cosine of two images is 1.000")
