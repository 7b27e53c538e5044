"""The commands, end to end on small pictures, and what they answer to a user's mistakes."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

from cosphere import __version__
from cosphere.cli import COMMANDS, main
from cosphere.images import Faces, face_template
from cosphere.models import Embedder
from cosphere.train import PlainReporter

SMALL = ["--model.backbone", "test_resnet", "--model.weights", "none", "--model.dim", "8", "--images.size", "32"]
SMALL += ["--batch.size", "8", "--batch.images_per_class", "2", "--steps", "4", "--device", "cpu"]


@pytest.fixture(scope="session")
def trained(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that was trained and evaluated."""
    runs = tmp_path_factory.mktemp("runs")
    assert main(["train", str(photos), "--name", "small", "--runs", str(runs), "--sec.weight", "0.1", *SMALL]) == 0
    assert main(["evaluate", str(runs / "small"), "--untrained", "true"]) == 0
    assert main(["evaluate", str(runs / "small")]) == 0
    return runs / "small"


def answer(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    """The one line on stderr that a mistake gives."""
    capsys.readouterr()
    assert main(list(words)) == 2
    shown = capsys.readouterr().err.strip()
    assert shown.startswith("cosphere: ")
    return shown.splitlines()[-1].removeprefix("cosphere: ")


def test_help_names_every_command_quickly_and_loads_nothing_heavy() -> None:
    began = time.perf_counter()
    heavy = "print([name for name in ('torch', 'pandas', 'timm', 'numpy') if name in sys.modules])"
    code = f"import sys; from cosphere.cli import main; main(['--help']); {heavy}"
    found = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert time.perf_counter() - began < 10  # The bound of one second is measured in benchmarks/, on a quiet machine.
    assert found.stdout.strip().endswith("[]")
    for name in COMMANDS:
        assert re.search(rf"^  {name} ", found.stdout, re.MULTILINE)


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"cosphere {__version__}\n"


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_help_with_examples(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*name.split(), "--help"]) == 0
    assert f"examples:\n  cosphere {name}" in capsys.readouterr().out


@pytest.mark.parametrize("words", [["data"], ["data", "--help"]])
def test_a_group_of_commands_lists_its_verbs(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(words) == 0
    shown = capsys.readouterr().out
    assert "usage: cosphere data VERB" in shown
    for name in COMMANDS:
        assert (f"  {name} " in shown) == name.startswith("data ")


def test_convert_says_what_it_wrote(photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["data", "convert", str(photos), str(tmp_path / "x.rec")]) == 0
    assert f"84 images in {tmp_path / 'x.rec'}, their table in" in " ".join(capsys.readouterr().out.split())
    assert main(["data", "convert", str(photos), str(tmp_path / "x.rec")]) == 2
    assert main(["data", "convert", str(photos), str(tmp_path / "x.rec"), "--overwrite"]) == 0


def test_align_says_where_it_found_no_face(
    photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def detect(image: np.ndarray) -> Faces:
        """A face in half of the classes."""
        found = image[..., 0].mean() > image[..., 2].mean()
        return Faces(np.ones((int(found), 4)), face_template()[None][: int(found)], np.ones(int(found)))

    monkeypatch.setattr("cosphere.cli.data_align.load_detector", lambda *_, **__: detect)
    words = ["data", "align", str(photos), str(tmp_path / "faces"), "--detector", "x.onnx", "--width", "96"]
    assert main(words) == 0
    printed = capsys.readouterr()
    faces = len(list((tmp_path / "faces").rglob("*.jpg")))
    assert 0 < faces < 84
    assert f"{faces} images in {tmp_path / 'faces'}, their table in" in " ".join(printed.out.split())
    assert f"no face in {84 - faces} images: " in " ".join(printed.err.split())
    assert "faces are 112 x 96 px, and models here take square input" in " ".join(printed.err.split())
    with Image.open(next((tmp_path / "faces").rglob("*.jpg"))) as face:
        assert face.size == (96, 112)


def test_training_leaves_a_run(trained: Path) -> None:
    assert {path.name for path in trained.iterdir()} >= {
        "run.json",
        "config.yaml",
        "metrics.jsonl",
        "checkpoints",
        "model",
        "scores.json",
        "embeddings",
    }
    config = yaml.safe_load((trained / "config.yaml").read_text())
    assert config["sec"]["weight"] == 0.1
    assert Path(config["data"]["root"]).is_absolute()


def test_scores_are_as_the_contract_says(trained: Path) -> None:
    found = json.loads((trained / "scores.json").read_text())
    assert found["split"] == "test"
    assert found["data"]["images"] == 24
    assert found["data"]["classes"] == 4
    for name in ("recall@1", "recall@8", "map@r", "r_precision", "nmi", "f1"):
        assert 0 <= found["scores"][name]["value"] <= 1
    assert (
        found["scores"]["recall@1"]["low"]
        <= found["scores"]["recall@1"]["value"]
        <= found["scores"]["recall@1"]["high"]
    )
    assert found["provenance"]["machine"]["cores"] >= 1
    untrained = json.loads((trained / "scores-untrained.json").read_text())
    assert untrained["scores"].keys() == found["scores"].keys()
    assert found["baseline_scores"] == untrained["scores"]


def test_photos_without_labels_are_embedded_and_searched(
    trained: Path, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flat = tmp_path / "flat"
    flat.mkdir()
    for number in range(4):
        shutil.copy(photos / "test" / "class10" / f"{number}.png", flat / f"{number}.png")
    (tmp_path / "list.csv").write_text("path\n" + "".join(f"flat/{number}.png\n" for number in range(4)))
    embedded = []
    for source in (flat, tmp_path / "list.csv"):
        assert main(["embed", str(trained), str(source), "--out", str(tmp_path / "rows.npz")]) == 0
        with np.load(tmp_path / "rows.npz") as rows:
            embedded.append(rows["embeddings"])
            assert rows["class_names"].tolist() == [""]
    assert np.array_equal(*embedded)
    assert embedded[0].shape == (4, 8)
    capsys.readouterr()
    words = ["search", str(trained), str(flat), str(flat / "0.png"), "--k", "3", "--out", str(tmp_path / "found.png")]
    assert main(words) == 0
    shown = capsys.readouterr()
    assert "0.png is one of the images, so it is left out" in shown.out.replace("\n", "")
    assert "label is" not in shown.out
    assert "note: there are no class folders, so the images have no labels" in shown.err.replace("\n", "")
    assert "no class folders. Put the images of each class" in answer(
        capsys, "evaluate", str(trained), str(flat), "--split", "all"
    )


def test_nested_class_folders_on_the_command_line(
    trained: Path, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for number, folder in enumerate(("fruit/apple", "fruit/pear", "veg/kale")):
        (tmp_path / "nested" / folder).mkdir(parents=True)
        shutil.copy(photos / "test" / "class10" / f"{number}.png", tmp_path / "nested" / folder / "x.png")
    for words, classes in (([], 2), (["--classes", "leaf"], 3)):
        assert main(["data", "check", str(tmp_path / "nested"), *words]) == 0
        assert f"3 images, {classes} classes" in capsys.readouterr().out
        out = str(tmp_path / "rows.npz")
        assert main(["embed", str(trained), str(tmp_path / "nested"), "--out", out, *words]) == 0
        with np.load(out) as rows:
            assert len(rows["class_names"]) == classes


def test_search_leaves_the_query_out_and_writes_a_picture(
    trained: Path, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    query = photos / "test" / "class10" / "0.png"
    assert (
        main(["search", str(trained), str(photos), str(query), "--k", "5", "--out", str(tmp_path / "found.png")]) == 0
    )
    shown = capsys.readouterr().out.replace("\n", "")
    assert "0.png is one of the images, so it is left out; its label is 'class10'" in shown
    with Image.open(tmp_path / "found.png") as picture:
        assert picture.width > 5 * 160
        assert np.asarray(picture.convert("L")).std() > 10
    outside = tmp_path / "photo.png"
    outside.write_bytes(query.read_bytes())
    assert (
        main(["search", str(trained), str(photos), str(outside), "--k", "1", "--out", str(tmp_path / "found.jpg")]) == 0
    )
    assert "class10" in capsys.readouterr().out  # Its exact copy, found at rank 1.


def test_search_prints_names_as_they_are_and_any_k_of_a_shortlist(
    trained: Path, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for number in range(110):
        copy = tmp_path / "odd" / "[bold]name[bold]" / f"[i]{number}.png"
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(photos / "test" / "class10" / "0.png", copy)
    words = ["search", str(trained), str(tmp_path / "odd"), str(copy), "--out", str(tmp_path / "x.png")]
    assert main([*words, "--kind", "rerank", "--k", "105"]) == 0
    shown = capsys.readouterr().out
    assert "[i]109.png is one of the images, so it is left out; its label is '[bold]name[bold]'\n" in shown
    assert (
        "index of kind rerank, 33 bytes an image: 100.0 % of the 10 nearest of exact search found (100 queries)\n"
        in shown
    )


def test_embed_writes_what_the_model_says(trained: Path, photos: Path, tmp_path: Path) -> None:
    assert main(["embed", str(trained), str(photos), "--split", "test", "--out", str(tmp_path / "e.npz")]) == 0
    with np.load(tmp_path / "e.npz", allow_pickle=False) as found:
        paths = found["paths"].tolist()
        want = Embedder.load(trained / "model").encode(paths, normalize=False)
        np.testing.assert_allclose(found["embeddings"], want, rtol=1e-4, atol=1e-5)
        assert len(paths) == 24


def test_report_opens_offline(trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["report", str(trained)]) == 0
    page = (trained / "report.html").read_text()
    assert "recall@1" in page.lower()
    assert "untrained" in page.lower() or "before" in page.lower()
    assert not re.search(r"""(?:src|href)=["']?https?:""", page)
    assert "report.html" in capsys.readouterr().out.replace("\n", "")


def test_data_check_prints_and_writes(photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["data", "check", str(photos), "--json", str(tmp_path / "check.json")]) == 0
    assert "84 images" in capsys.readouterr().out
    assert json.loads((tmp_path / "check.json").read_text())["images"] == 84


def test_losses_are_listed_and_one_is_shown(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["losses"]) == 0
    shown = capsys.readouterr().out
    assert "norm_softmax" in shown
    assert main(["losses", "triplet"]) == 0
    assert "margin" in capsys.readouterr().out


def test_a_finished_run_can_be_resumed_and_stays(trained: Path, photos: Path, tmp_path: Path) -> None:
    assert main(["train", str(photos), "--name", "again", "--runs", str(tmp_path), *SMALL]) == 0
    before = (tmp_path / "again" / "model" / "model.safetensors").read_bytes()
    assert main(["train", "--resume", str(tmp_path / "again")]) == 0
    assert (tmp_path / "again" / "model" / "model.safetensors").read_bytes() == before


def test_a_config_is_a_recipe(trained: Path, photos: Path, tmp_path: Path) -> None:
    words = [
        "train",
        "--config",
        str(trained / "config.yaml"),
        "--name",
        "again",
        "--runs",
        str(tmp_path),
        "--steps",
        "2",
    ]
    assert main(words) == 0
    again = yaml.safe_load((tmp_path / "again" / "config.yaml").read_text())
    first = yaml.safe_load((trained / "config.yaml").read_text())
    assert again.pop("steps") == 2
    first.pop("steps")
    assert again == first


def test_published_scores_stand_beside_ours(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cosphere.experiment.evaluation.published_scores", lambda *_, **__: {"recall@1": 61.23})
    shutil.copytree(trained, tmp_path / "row")
    assert main(["evaluate", str(tmp_path / "row"), "--clustering", "false"]) == 0
    shown = capsys.readouterr().out
    assert re.search(r"recall@1.*61\.23", shown)
    assert "published" in shown


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["trian"], "there is no command 'trian'. Did you mean 'train'?"),
        (["sweep"], "there is no command 'sweep'. Use `cosphere study`"),
        (["list_models"], "there is no command 'list_models'. `python -c 'import timm"),
        (["train"], "what should be trained on?"),
        (["train", "{tmp}/none"], "none does not exist"),
        (["train", "{tmp}"], "there is no image in"),
        (["train", "{photos}", "--batch.sise", "3"], "there is no setting 'batch.sise'. Did you mean 'batch.size'?"),
        (
            ["train", "{photos}", "--loss.name", "tripplet", "--runs", "{tmp}"],
            "no loss is called 'tripplet'. Did you mean 'triplet'?",
        ),
        (["train", "{photos}", "--images.size", "8"], "images.size must be a whole number from 16 to 4096; got 8."),
        (["train", "{photos}", "--sec.radius", "wide"], "sec.radius is 'wide'; wanted"),
        (["train", "{photos}", "--name", "a/b"], "a run's name is one folder name, got 'a/b'"),
        (["train", "--resume", "{tmp}/none"], "there is no run at"),
        (["train", "--resume", "{run}", "--seed", "9"], "--resume goes on with a run as it was"),
        (["evaluate", "{run}", "--split", "tset"], "has no split 'tset'; it has train, test"),
        (["report", "{run}", "--out", "{run}/scores.json"], "would replace a file of"),
        (["evaluate", "{run}", "--ks", "[100]"], "Recall@100 wants K to be from 1 to 23"),
        (["evaluate", "{tmp}"], "is not a run's folder"),
        (["search", "{run}", "{photos}", "{tmp}/none.jpg"], "none.jpg does not exist"),
        (
            ["search", "{run}", "{photos}", "{photos}/test/class10/0.png", "--out", "{photos}/test/class10/0.png"],
            "is read by this command",
        ),
        (
            ["search", "{run}", "{photos}", "{photos}/test/class10/0.png", "--out", "{photos}/test/class10/1.png"],
            "it is among the images",
        ),
        (["embed", "{run}", "{photos}", "--out", "{run}/model/model.safetensors"], "would replace a file of"),
        (["search", "{run}", "{photos}", "{photos}/test/class10/0.png", "--out", "x.gif"], "--out is a picture"),
        (["search", "{run}", "{tmp}/none", "x.png", "--kind", "bit"], "no index of kind 'bit'. Did you mean 'bits'?"),
        (
            ["search", "{run}", "{tmp}/none", "x.png", "--wanted_recall", "3"],
            "wanted_recall must be a number >= 0 and at most 1",
        ),
        (["losses", "tripplet"], "no loss is called 'tripplet'. Did you mean 'triplet'?"),
        (["data", "align", "{photos}", "{tmp}/x", "--detector", "{tmp}/none.onnx"], "there is no detector"),
        (["data", "align", "{photos}", "{tmp}/x"], "detector"),
        (["data", "convert", "{photos}", "{photos}/x"], "lies among the images that are read"),
        (["data", "convert", "{photos}", "{tmp}/x.bin"], "is no form that data is converted into"),
        (["data", "chek"], "there is no `cosphere data chek`. Did you mean 'check'?"),
        (["report", "{tmp}/none"], "there is no run at"),
    ],
)
def test_mistakes(
    words: list[str], message: str, trained: Path, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    places = {"{tmp}": tmp_path, "{photos}": photos, "{run}": trained}
    for place, path in places.items():
        words = [word.replace(place, str(path)) for word in words]
    assert message in answer(capsys, *words)


def test_a_name_is_free_again_after_a_start_that_failed(
    photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["train", str(photos), "--name", "first", "--runs", str(tmp_path), *SMALL]
    assert "no loss is called" in answer(capsys, *words, "--loss.name", "tripplet")
    assert main(words) == 0
    assert "already holds a run" in answer(capsys, *words)


def test_a_run_of_another_version_is_refused(trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "run.json").write_text('{"layout": 99, "cosphere": "9.0"}')
    assert "has layout version 99; this Cosphere reads version 1" in answer(capsys, "evaluate", str(tmp_path))


def test_an_unwritable_folder_is_a_sentence(photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "runs").write_text("a file where a folder should be")
    assert "cannot write" in answer(
        capsys, "train", str(photos), "--name", "a", "--runs", str(tmp_path / "runs"), *SMALL
    )


def test_without_splits_the_held_out_classes_are_scored(
    photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["train", str(photos / "train"), "--name", "plain", "--runs", str(tmp_path), *SMALL]
    assert main([*words, "--data.validation_share", "0.3"]) == 0
    assert main(["evaluate", str(tmp_path / "plain"), "--ks", "[1]", "--clustering", "false"]) == 0
    assert "the model was chosen on them" in capsys.readouterr().err.replace("\n", " ")
    found = json.loads((tmp_path / "plain" / "scores.json").read_text())
    assert (found["split"], found["data"]["classes"], found["data"]["images"]) == ("val", 3, 18)
    other = shutil.copytree(photos / "train", tmp_path / "other")
    shutil.copytree(photos / "test" / "class10", other / "class10")
    assert main(["evaluate", str(tmp_path / "plain"), str(other), "--ks", "[1]", "--clustering", "false"]) == 0
    assert "these are not the images that the run was trained from" in capsys.readouterr().err
    assert main(["report", str(tmp_path / "plain")]) == 0
    assert "has no splits, so no split 'test'. Leave --split out" in answer(
        capsys, "evaluate", str(tmp_path / "plain"), "--split", "test"
    )


def test_names_that_look_like_markup_are_shown_as_they_are(
    trained: Path, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("mug [blue]", "[/old]"):
        target = tmp_path / "odd" / name
        target.mkdir(parents=True)
        for number in range(2):
            image = photos / "test" / "class10" / f"{number}.png"
            (target / image.name).write_bytes(image.read_bytes())
    query = tmp_path / "odd" / "mug [blue]" / "0.png"
    words = ["search", str(trained), str(tmp_path / "odd"), str(query), "--k", "3", "--out", str(tmp_path / "x.png")]
    assert main(words) == 0
    shown = capsys.readouterr().out
    assert "[blue]" in shown
    assert "[/old]" in shown


def test_a_device_that_is_not_there(trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "device is 'tpu'; wanted 'auto', 'cpu', 'cuda' or 'mps'." in answer(
        capsys, "evaluate", str(trained), "--device", "tpu"
    )


def test_a_stopped_training_says_how_to_go_on(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    real = PlainReporter.stepped

    def stop_at_three(self: PlainReporter, step: int) -> None:
        real(self, step)
        if step == 3:
            raise KeyboardInterrupt

    monkeypatch.setattr(PlainReporter, "stepped", stop_at_three)
    words = ["train", str(photos), "--name", "stopped", "--runs", str(tmp_path), "--checkpoint_every", "2", *SMALL]
    assert main(words) == 130
    shown = capsys.readouterr().err
    assert f"go on with: cosphere train --resume {tmp_path / 'stopped'}" in shown
    monkeypatch.undo()
    assert main(["train", "--resume", str(tmp_path / "stopped")]) == 0


def test_interruption_is_not_a_traceback(
    photos: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def stopped(arguments: list[str]) -> int:
        raise KeyboardInterrupt

    monkeypatch.setattr("cosphere.cli.losses.run", stopped)
    assert main(["losses"]) == 130
    assert capsys.readouterr().err.startswith("cosphere: interrupted")


def test_search_answers_several_queries_and_as_json(
    trained: Path, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    queries = [str(photos / "test" / "class10" / f"{number}.png") for number in range(2)]
    words = ["search", str(trained), str(photos), *queries, "--split", "test", "--out", str(tmp_path / "x.png")]
    assert main([*words, "--json", "--k", "500"]) == 0
    shown = capsys.readouterr()
    assert "note: k lowered from 500 to 23" in shown.err
    answers = json.loads(shown.out)
    assert [answer["query"] for answer in answers] == queries
    assert [len(answer["hits"]) for answer in answers] == [23, 23]
    assert {path.name for path in tmp_path.iterdir()} == {"x-1.png", "x-2.png"}
    assert main([*words, "--kind", "bits", "--k", "2"]) == 0
    assert "share of differing bits" in " ".join(capsys.readouterr().out.split())
