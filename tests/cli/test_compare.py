"""`cosphere compare` on made-up runs, and what it answers to a user's mistakes."""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

from cosphere.cli import main
from cosphere.embeddings import Embeddings
from cosphere.evaluate import EvaluationSettings
from cosphere.evaluate.scores import score_embeddings
from cosphere.runs import RunFolder

CLASSES = ["cat & dog", "[red] fox", "$5 note", *(f"class {number}" for number in range(19))]


def make_run(path: Path, noise: float, *, seed: int, split: str = "test", fingerprint: str = "f" * 64) -> Path:
    """A run's folder as training and evaluation leave it: 22 classes of five images, easier with less noise."""
    labels = np.repeat(np.arange(22), 5)
    generator = np.random.default_rng(seed)
    rows = np.random.default_rng(99).normal(size=(22, 6))[labels] + generator.normal(0, noise, (110, 6))
    content = Embeddings(
        embeddings=rows.astype(np.float32),
        labels=labels,
        paths=tuple(f"/photos/{row}.jpg" for row in range(110)),
        class_names=tuple(CLASSES),
    )
    folder = RunFolder.create(path)
    folder.config.write_text(yaml.safe_dump({"seed": seed, "sec": {"weight": noise}}))
    content.save(folder.embeddings(split))
    scores = score_embeddings(
        content, EvaluationSettings(ks=(1,), clustering=False, bootstrap_samples=0), fingerprint=fingerprint
    )
    folder.scores.write_text(json.dumps({"split": split, **scores.as_dict()}))
    return path


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs")
    for seed in range(3):
        make_run(folder / f"plain-seed{seed}", 1.2, seed=seed)
        make_run(folder / f"sec-seed{seed}", 0.8, seed=seed)
    make_run(folder / "elsewhere", 1.0, seed=0, split="held-out")
    make_run(folder / "changed", 1.0, seed=0, fingerprint="e" * 64)
    RunFolder.create(folder / "fresh").config.write_text("seed: 0\n")
    (folder / "empty").mkdir()
    return folder


def shown(capsys: pytest.CaptureFixture[str], *words: str | Path) -> str:
    capsys.readouterr()
    assert main(["compare", *map(str, words), "--samples", "200"]) == 0
    return "".join(capsys.readouterr())


@pytest.mark.parametrize("width", [80, 120])
def test_seeds_are_grouped_and_all_is_printed_and_written(
    width: int, runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    text = shown(
        capsys, *(runs / f"{arm}-seed{seed}" for arm in ("plain", "sec") for seed in range(3)), "--out", tmp_path
    )
    content = json.loads((tmp_path / "comparison.json").read_text())
    assert content["baseline"] == "plain"
    assert content["arms"]["sec"] == [{"run": f"sec-seed{seed}", "seed": seed} for seed in range(3)]
    assert content["data"] == {"fingerprint": "f" * 64, "images": 110, "left_out": {}}
    assert content["provenance"]["machine"]["cores"] >= 1
    row = content["differences"][0]
    assert (row["arm"], row["score"]) == ("sec", "recall@1")
    line = next(line for line in text.splitlines() if line.startswith("  sec "))
    low, high = (f"{100 * row['interval'][end]:+.2f}" for end in ("low", "high"))
    assert f"{100 * row['value']:+.2f}" in line
    assert f"{low} to {high}" in line
    assert line.rstrip().endswith(f"{row['won']}, {row['tied']}, {row['lost']}")
    assert "    over seeds " in text
    assert "runs that differ in the seed: plain 3, sec 3" in text
    table = text.split("written to")[0]
    assert max(map(len, table.splitlines())) <= width
    assert "…" not in table.split("largest gains")[0]
    with Image.open(tmp_path / "comparison.png") as picture:
        assert np.asarray(picture.convert("L")).std() > 10
    assert "<svg" in (tmp_path / "comparison.svg").read_text()


def test_class_names_are_printed_as_they_are(runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = shown(capsys, runs / "plain-seed0", runs / "sec-seed0", "--out", tmp_path)
    content = json.loads((tmp_path / "comparison.json").read_text())
    scores = content["class_scores"]["recall@1"]
    gains = np.subtract(scores["sec-seed0"], scores["plain-seed0"])
    best = content["class_scores"]["names"][int(gains.argmax())]
    assert f"{100 * gains.max():+.1f}  {best}" in text
    assert "another training seed" in text


def test_long_class_names_leave_room_for_the_numbers(
    runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    copies = [shutil.copytree(runs / name, tmp_path / name) for name in ("plain-seed0", "plain-seed1")]
    for copy in copies:
        file = copy / "embeddings" / "test.npz"
        content = Embeddings.load(file)
        replace(content, class_names=tuple(f"{name}, a rather long name of a class" for name in CLASSES)).save(file)
    text = shown(capsys, *copies, "--metric", "map@r", "--out", tmp_path / "out")
    rows = [line for line in text.split("largest losses")[1].splitlines() if "a rather" in line]
    assert len(rows) == 5
    for row in rows:
        assert re.match(r" ?\+\d+\.\d  \S.*…  +-\d+\.\d  \S.*… *$", row), row


def test_one_class_is_not_several(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    copies = [make_run(tmp_path / name, 1.0, seed=seed) for seed, name in enumerate("ab")]
    for copy in copies:
        file = copy / "embeddings" / "test.npz"
        replace(Embeddings.load(file), labels=np.zeros(110, dtype=np.int64)).save(file)
    text = shown(capsys, *copies, "--over", "queries", "--out", tmp_path / "out")
    assert "test: 110 queries, 1 class; differences to a" in text


def test_arms_metrics_and_baseline_are_as_asked(runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--arm", f"ours={runs}/sec-seed*", "--arm", f"theirs={runs}/plain-seed[01]", "--over", "queries"]
    text = shown(capsys, *words, "--baseline", "theirs", "--metric", "map@r, recall@2", "--out", tmp_path)
    content = json.loads((tmp_path / "comparison.json").read_text())
    assert [(row["score"], row["arm"]) for row in content["differences"]] == [("map@r", "ours"), ("recall@2", "ours")]
    assert content["runs"] == {"ours": 3, "theirs": 2}
    assert content["over"] == "queries"
    assert "do not have the same seeds" in text
    by_run = shown(
        capsys,
        runs / "sec-seed0",
        runs / "plain-seed0",
        "--baseline",
        runs / "plain-seed0",
        "--ks",
        "[1,4]",
        "--out",
        tmp_path,
    )
    assert "differences to plain-seed0" in by_run
    assert re.findall(r"^(recall@\d|map@r)", by_run, re.MULTILINE)[:3] == ["recall@1", "recall@4", "map@r"]


@pytest.mark.slow
def test_the_same_call_gives_the_same_numbers(runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    texts = []
    for name in ("one", "two"):
        shown(capsys, runs / "plain-seed0", runs / "sec-seed0", "--out", tmp_path / name)
        content = json.loads((tmp_path / name / "comparison.json").read_text())
        content.pop("provenance")
        texts.append(json.dumps(content))
    assert texts[0] == texts[1]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["plain-seed0", "empty"], "run.json does not exist, so this is not a run's folder"),
        (["plain-seed0", "nowhere"], "there is no run at"),
        (["plain-seed0", "fresh"], "was never evaluated. Run: cosphere evaluate"),
        (["plain-seed0", "elsewhere"], "was evaluated on split 'test', "),
        (["plain-seed0", "changed"], "were scored on different images (fingerprints ffffffffffff and eeeeeeeeeeee)"),
        (["plain-seed0"], "one run alone has nothing to be compared with. Give two or more"),
        ([], "one run alone has nothing to be compared with. Give two or more"),
        (["plain-seed0", "plain-seed0"], "is given twice. Give each run once"),
        (["plain-seed0", "sec-seed0", "--metric", "recal@1"], "Did you mean 'recall@1'?"),
        (["plain-seed0", "sec-seed0", "--metric", "nmi"], "there is no metric 'nmi' with a value for each query"),
        (["plain-seed0", "sec-seed0", "--metric", "recall@999"], "Recall@999 wants K to be from 1 to 109"),
        (["plain-seed0", "sec-seed0", "--over", "class"], "over must be 'queries' or 'classes'; got 'class'"),
        (["plain-seed0", "sec-seed0", "--split", "val"], "has no embeddings of split 'val'; it has test."),
        (["plain-seed0", "sec-seed0", "--baseline", "sec-sed0"], "Did you mean 'sec-seed0'?"),
        (["plain-seed0", "sec-seed0", "--level", "95"], "level must be a number above 0 and below 1, finite; got 95.0"),
        (
            ["plain-seed0", "sec-seed0", "--seed", "-1"],
            "seed must be a whole number from 0 to 9223372036854775807; got -1",
        ),
        (["plain-seed0", "sec-seed0", "--metrik", "map@r"], "there is no setting 'metrik'. Did you mean 'metric'?"),
        (["--arm", "sec"], "--arm 'sec' names no folders; wanted NAME=FOLDERS"),
        (["--arm", "sec=nowhere/*"], "--arm sec: no folder is called nowhere/*"),
    ],
)
def test_mistakes_give_one_line(
    words: list[str], message: str, runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    capsys.readouterr()
    folders = {folder.name for folder in runs.iterdir()} | {"nowhere"}
    first_option = next((at for at, word in enumerate(words) if word.startswith("--")), len(words))
    given = [str(runs / word) if word in folders and at < first_option else word for at, word in enumerate(words)]
    assert main(["compare", *given, "--out", str(tmp_path / "out")]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("cosphere: ")
    assert len(captured.err.strip().splitlines()) == 1
    assert message in captured.err
    assert not (tmp_path / "out").exists()


def test_a_folder_that_cannot_be_written_is_named(
    runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("")
    words = [str(runs / "plain-seed0"), str(runs / "sec-seed0"), "--samples", "9"]
    assert main(["compare", *words, "--out", str(tmp_path / "file")]) == 2
    assert "is a file; wanted a folder" in capsys.readouterr().err
    assert main(["compare", *words, "--out", str(tmp_path / "file" / "inside")]) == 2
    assert "cannot write" in capsys.readouterr().err
