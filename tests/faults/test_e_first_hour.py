"""Section E: what stopped or misled a new user in the first hour. One row for each thing that was typed."""

from __future__ import annotations

import io
import re
import shlex
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from faults.making import class_folders, flat
from PIL import Image

from cosphere.cli import main, quick
from cosphere.data import check, read_catalogue
from cosphere.errors import DataError, SettingsError, SizeError
from cosphere.experiment import calibrate_run, embed_images, evaluate_run, search_images
from cosphere.experiment.outputs import check_output, check_pictures
from cosphere.experiment.training import run as train_run
from cosphere.models import Embedder
from cosphere.runs import RunFolder
from cosphere.search import Index, save_gallery
from cosphere.search.answer import MEASURES
from cosphere.studies.reading import find_study
from cosphere.train import TrainSettings

TYPED = [
    pytest.param(["--loss", "triplet"], ["--loss.name=triplet"], id="E10 loss"),
    pytest.param(["--sec", "0.02"], ["--sec.weight=0.02"], id="E10 sec"),
    pytest.param(["--sec=0.02"], ["--sec.weight=0.02"], id="E10 sec with ="),
    pytest.param(["--lr", "0.001"], ["--optimizer.backbone_rate=0.001", "--optimizer.head_rate=0.001"], id="E10 lr"),
    pytest.param(["--batch-size", "8"], ["--batch.size=8"], id="E10 batch size"),
    pytest.param(["--weights", "none"], ["--model.weights=none"], id="E10 weights"),
    pytest.param(["--data", "photos"], ["--data.root=photos"], id="E10 section data"),
    pytest.param(["--images", "160"], ["--images.size=160"], id="E10 section images"),
    pytest.param(["--batch", "8"], ["--batch.size=8"], id="E10 section batch"),
    pytest.param(["--schedule", "cosine"], ["--schedule.name=cosine"], id="E10 section schedule"),
    pytest.param(["--validation", "50"], ["--validation.every=50"], id="E10 section validation"),
    pytest.param(["--features", "2"], ["--features.copies=2"], id="E10 section features"),
    pytest.param(["--model", "resnet50"], ["--model.backbone=resnet50"], id="E10 section model"),
    pytest.param(["--batch", "{size: 8}"], ["--batch={size: 8}"], id="E10 a section given whole"),
    pytest.param(["--imgsz", "160"], ["--images.size=160"], id="E10 imgsz"),
    pytest.param(["--scheduler", "cosine"], ["--schedule.name=cosine"], id="E10 scheduler"),
    pytest.param(["--arch", "resnet50"], ["--model.backbone=resnet50"], id="E10 arch"),
    pytest.param(["--iterations", "9"], ["--steps=9"], id="E10 iterations"),
    pytest.param(["--bs", "9"], ["--batch.size=9"], id="E10 bs"),
    pytest.param(["--wd", "0.1"], ["--optimizer.weight_decay=0.1"], id="E10 wd"),
    pytest.param(["--momentum", "0.9"], ["--optimizer.momentum=0.9"], id="E10 momentum"),
    pytest.param(["--val_split", "0.2"], ["--data.validation_share=0.2"], id="E10 val_split"),
    pytest.param(["--images", "photos/"], ["--data.root=photos/"], id="E10 images that are a folder"),
    pytest.param(["--recipe", "x.yaml"], ["--config=x.yaml"], id="E10 recipe"),
]
NAMED = [
    pytest.param(["--epochs", "3"], "training counts steps, not epochs", id="E10 epochs"),
    pytest.param(["--margin", "0.1"], "--loss.settings.margin", id="E10 margin"),
    pytest.param(["--output", "x"], "--runs FOLDER", id="E10 output"),
    pytest.param(["--num-epochs", "3"], "training counts steps, not epochs", id="E10 num-epochs"),
    pytest.param(["--save_dir", "x"], "--runs FOLDER", id="E10 save_dir"),
    pytest.param(["--cpu", "--steps", "3"], "the device is --device", id="E10 cpu"),
    pytest.param(["--gpu", "0"], "the device is --device", id="E10 gpu"),
    pytest.param(["--amp"], "--precision: float32, bf16 or fp16", id="E10 amp"),
    pytest.param(["--fp16", "true"], "--precision: float32, bf16 or fp16", id="E10 fp16"),
    pytest.param(["--dropout", "0.1"], "--optimizer.weight_decay", id="E10 dropout"),
    pytest.param(["--eval_every", "1"], "--validation.every", id="E10 eval_every"),
    pytest.param(["--wandb"], "metrics.jsonl", id="E10 wandb"),
    pytest.param(["--freeze-backbone"], "--features.copies 4", id="E10 freeze"),
    pytest.param(["--ddp"], "accelerate launch", id="E10 ddp"),
    pytest.param(["--augment"], "--images.preset", id="E10 augment"),
    pytest.param(["--val", "photos/val"], "val/ folder", id="E10 val"),
    pytest.param(["--overwrite"], "another --name", id="E10 overwrite"),
]
ELSEWHERE = [
    pytest.param(["evaluate", "--data", "photos"], "SOURCE .*: cosphere evaluate RUN SOURCE", id="E10 data"),
    pytest.param(["evaluate", "--checkpoint", "x"], "RUN .*: cosphere evaluate RUN SOURCE", id="E10 checkpoint"),
    pytest.param(["evaluate", "runs/x", "--out", "x"], "written to scores.json", id="E10 out of evaluate"),
    pytest.param(["search", "--query", "q.jpg"], "QUERY .*: cosphere search MODEL SOURCE QUERY", id="E10 query"),
    pytest.param(["search", "--threshold", "0.5"], "cosphere calibrate RUN", id="E10 threshold"),
    pytest.param(["search", "--metric", "l2"], "ranked by cosine", id="E10 metric"),
    pytest.param(["embed", "--model", "x"], "MODEL .*: cosphere embed MODEL SOURCE", id="E10 model"),
    pytest.param(["embed", "x", "y", "--image-size", "224"], "it was trained with", id="E10 image size"),
    pytest.param(["embed", "x", "y", "--fp16"], "--precision: float32 or bf16", id="E10 fp16 of embed"),
    pytest.param(["index", "add", "x", "y", "--amp"], "--precision: float32 or bf16", id="E10 amp of index add"),
    pytest.param(["embed", "x", "y", "-o", "z.npz"], "Did you mean 'out'", id="E10 -o"),
    pytest.param(["train", "x", "-b", "8"], "Did you mean 'batch.size'", id="E10 -b"),
    pytest.param(["index", "add", "--images", "x"], "cosphere index add GALLERY SOURCE", id="E10 index add"),
    pytest.param(["index", "export", "--output", "x"], "cosphere index export GALLERY OUT", id="E10 index export"),
    pytest.param(["index", "photos/"], "cosphere index add GALLERY IMAGES", id="E10 index photos/"),
    pytest.param(["index", "create"], "Use `cosphere index add`", id="E10 index create"),
    pytest.param(["data", "photos/"], "cosphere data check IMAGES", id="E10 data photos/"),
    pytest.param(["audit", "photos/"], "Use `cosphere data audit`", id="E10 a verb alone"),
    pytest.param(["eval", "runs/x"], "Use `cosphere evaluate`", id="E10 eval"),
    pytest.param(["find", "x"], "Use `cosphere search`", id="E10 find"),
    pytest.param(["upgrade"], "Known: calibrate", id="E10 a command like none"),
    pytest.param(["train", "--config", "nope.yaml"], "in cars196-half, faces.*path of a file", id="E10 a recipe"),
    pytest.param(
        ["train", ".", "--config", "empty.yaml"], "empty.yaml is empty; wanted settings", id="E10 empty recipe"
    ),
    pytest.param(
        ["train", ".", "--config", "notepad.yaml"], "not UTF-8. Save it as UTF-8", id="E10 a recipe in UTF-16"
    ),
    pytest.param(["train", ".", "--config", "text.yaml"], "holds a str, no recipe", id="E10 a recipe of words"),
    pytest.param(["train", "p", "--weights", "first"], "Did you mean runs/first?", id="E11 the name of a run"),
    pytest.param(["train", "p", "--weights", "https://a.com/b.pth"], "address: download", id="E11 weights there"),
    pytest.param(["train", "p", "--weights", "nope"], "Give a run, a .pth", id="E11 weights that are not there"),
    pytest.param(["reproduce", "nope"], "`cosphere reproduce` lists them", id="E10 a published row"),
    pytest.param(["embed", "runs/first", "."], "still needs: --out", id="E10 an option that is needed"),
    pytest.param(["evaluate", "no/such/run"], "Train one first", id="E14 no run"),
    pytest.param(["evaluate", "first"], "Did you mean runs/first?", id="E14 the name of a run"),
    pytest.param(["evaluate", "runs/first/model"], "Did you mean runs/first?", id="E14 the model of a run"),
    pytest.param(["train", "--resume", "runs/first/last.pt"], "Did you mean runs/first?", id="E14 a checkpoint"),
    pytest.param(["report", "runs"], "It holds runs/first. Name one", id="E14 the folder of runs"),
    pytest.param(["embed", "first", ".", "--out", "x.npz"], "Did you mean runs/first?", id="E14 the name of a model"),
    pytest.param(["embed", "runs", ".", "--out", "x.npz"], "It holds runs/first", id="E14 runs as a model"),
    pytest.param(
        ["search", "runs/first", "a.png", "a.png"], "give the folder that holds", id="E14 an image as a source"
    ),
    pytest.param(["search", "runs/first", ".", "https://a.com/b.jpg"], "an address: download it", id="E14 an address"),
    pytest.param(["data", "check", "https://a.com/b.zip"], "https://a.com/b.zip is an address", id="E14 images there"),
    pytest.param(["data", "check", "photos.tar.gz"], "unpack it", id="E14 an archive"),
    pytest.param(["data", "check", "photos.xlsx"], "save it as CSV", id="E14 a spreadsheet"),
]


@pytest.mark.parametrize(("typed", "meant"), TYPED)
def test_what_people_type_first_is_understood(typed: list[str], meant: list[str]) -> None:
    assert quick.understood("train", typed) == meant


@pytest.mark.parametrize(("typed", "words"), NAMED)
def test_what_has_no_counterpart_names_the_right_setting(typed: list[str], words: str) -> None:
    with pytest.raises(SettingsError, match=words):
        quick.understood("train", typed)


@pytest.mark.parametrize(("words", "answer"), ELSEWHERE)
def test_every_command_says_where_it_goes(
    words: list[str],
    answer: str,
    run: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    flat(tmp_path / "a.png")
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "first").symlink_to(run)
    for name in ("photos.tar.gz", "photos.xlsx"):
        (tmp_path / name).write_bytes(b"PK")
    for name, content in {"empty": b"# nothing\n", "notepad": "steps: 1".encode("utf-16"), "text": b"steps"}.items():
        (tmp_path / f"{name}.yaml").write_bytes(content)
    class_folders(tmp_path / "p", "ab")
    assert main(words) == 2
    assert re.search(answer, capsys.readouterr().err)


@pytest.mark.parametrize("more", [["search", "a/0.png"], ["delete"], ["delete", "--dry_run"]])
@pytest.mark.parametrize(("where", "noted"), [("lable=a", True), ("label=z", False)])
def test_a_filter_of_a_column_that_no_item_has_is_noted(
    more: list[str],
    where: str,
    noted: bool,
    run: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Nothing deleted and nothing found, rc 0: a mistyped column looked like an answer."""
    monkeypatch.chdir(class_folders(tmp_path, "ab"))
    assert main(["index", "add", "g.gallery", "a", "--model", str(run)]) == 0
    capsys.readouterr()
    assert main(["index", more[0], "g.gallery", *more[1:], "--where", where]) == 0
    assert ("no item has a column 'lable'; items have " in " ".join(capsys.readouterr().err.split())) == noted


def test_the_untrained_backbone_is_not_told_to_train_otherwise(
    run: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    own = Path(shutil.copytree(run, tmp_path / "run"))
    for more, told in (([], True), (["--untrained"], False)):
        assert main(["evaluate", str(own), str(data), "--clustering=false", *more]) == 0
        warned = capsys.readouterr().err
        assert "Total collapse" in warned
        assert ("--optimizer.head_rate" in warned) == told


@pytest.mark.parametrize(("words", "shown"), [(["help", "train"], "cosphere train DATA"), (["version"], "cosphere 0")])
def test_words_of_other_tools_for_help(words: list[str], shown: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(words) == 0
    assert shown in capsys.readouterr().out


def test_a_loss_is_shown_in_words(capsys: pytest.CaptureFixture[str]) -> None:
    """No parts of Python's."""
    assert main(["losses", "triplet"]) == 0
    shown = capsys.readouterr().out
    assert "squared=False" in shown
    assert not any(part in shown for part in ("Traits(", "({", "traits"))


UNTRAINABLE = [
    pytest.param(["a/0", "a/1"], "needs at least 2; these images have 1", id="C1 one class"),
    pytest.param(["a/0", "b/0", "c/0"], "every class here has one image", id="C1 one image a class"),
    pytest.param(["a/0", "a/1", "b/0"], None, id="C1 one class of two"),
    pytest.param(["test/a/0"], None, id="C1 no training images"),
]


@pytest.mark.parametrize(("names", "words"), UNTRAINABLE)
def test_the_check_says_what_cannot_be_trained_on(names: list[str], words: str | None, tmp_path: Path) -> None:
    for name in names:
        flat(tmp_path / f"{name}.png", (len(name), ord(name[0]), 9))
    notes = [note for note in check(tmp_path).notes if note.startswith("training compares")]
    assert len(notes) == (words is not None)
    assert words is None or words in notes[0]


@pytest.mark.parametrize(("classes", "more"), [("ab", " --split all"), ("abcdef", "")])
def test_the_next_command_runs(
    classes: str, more: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Too few classes to hold some out: `evaluate` has to be told which images."""
    class_folders(tmp_path / "my photos", classes)
    monkeypatch.chdir(tmp_path)
    words = [
        "--model.backbone=test_resnet",
        "--model.weights=none",
        "--model.dim=8",
        "--images.size=32",
        "--device=cpu",
    ]
    assert main(["train", "my photos", "--name", "x", "--steps", "1", *words, "--validation.lens=false"]) == 0
    command = re.search(r"next: cosphere (evaluate .*?)    cosphere", capsys.readouterr().out)
    assert command is not None
    assert command[1] == f"evaluate runs/x '{tmp_path / 'my photos'}'{more}"
    assert main(shlex.split(command[1])) == 0


def source_of(text: str) -> Callable[[Path], Any]:
    def act(root: Path) -> Any:
        flat(root / "a" / "0.png")
        (root / "list.csv").write_text(text)
        return read_catalogue(root / "list.csv")

    return act


ANSWERS = [
    pytest.param(source_of("a/0.png,red\na/1.png,red\n"), "has no header", id="E14 no header"),
    pytest.param(source_of("a/0.png 0\na/1.png 0\n"), "has spaces between its cells.* Put commas", id="E14 spaces"),
    pytest.param(source_of("a/my photo.png\na/your photo.png\n"), "has no header", id="E14 spaces in names"),
    pytest.param(source_of("path label\na/0.png 0\n"), "has spaces between its cells.* Put commas", id="E14 header"),
    pytest.param(source_of("a/my photo.png,red\n"), "has no header", id="E14 a space in a name"),
    pytest.param(
        source_of("path,label\nb/0.png,red\n"), "folder that its paths start from", id="E14 advice that exists"
    ),
    pytest.param(
        source_of("path,label\n../b/0.png,red\n"), "Move the table to the folder", id="E14 a table beside the images"
    ),
    pytest.param(source_of("path,label\n/x/a.png,red\n"), "write them relative to the folder", id="E14 another disk"),
    pytest.param(source_of("path,label\nC:\\\\x\\\\a.png,red\n"), "write them relative", id="E14 a disk of Windows"),
    pytest.param(
        source_of("path,label\nhttps://a.com/a.png,red\n"), "These are addresses: download", id="E14 addresses"
    ),
    pytest.param(source_of("path,la\0el\na/0.png,red\n"), "holds bytes of 0, so it was cut off", id="C4 one byte of 0"),
    pytest.param(source_of("path,label\na/0.png,red\n" + 99 * "\0"), "holds bytes of 0", id="C4 zeros at the end"),
    pytest.param(source_of("path,label,is_train\na/0.png,red,\n"), "has no is_train", id="E8 a flag that is not there"),
    pytest.param(
        source_of("path,label,is_train\na/0.png,red,perhaps\n"), "is_train is 'perhaps'", id="E8 a flag of words"
    ),
]


@pytest.mark.parametrize(("act", "words"), ANSWERS)
def test_advice_can_be_followed(act: Callable[[Path], Any], words: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=words):
        act(tmp_path)


NOTES = [
    pytest.param("path,label\na/0.png,red;apple\n", "like several in one cell", id="E14 red;apple"),
    pytest.param(
        "path,label,is_train\na/0.png,red,1\n", "'is_train' was read as split: true is train", id="E8 is_train"
    ),
    pytest.param(
        "path,label,split\na/0.png,red,1\n", "no split is called train or test: they are '1'", id="E8 split 1"
    ),
    pytest.param("path,label,xmin,ymin,xmax,ymax\na/0.png,red,1,1,9,9\n", "were read as the box", id="E8 corners"),
    pytest.param("path,label,xmin,ymin\na/0.png,red,1,1\n", "look like boxes and were not read", id="E8 half a box"),
    *(
        pytest.param(f"path,label,{names}\na/0.png,red,1,1,9,9\n", f"columns {shown} look like boxes", id=f"E8 {names}")
        for names, shown in (
            ("Roi.X1,Roi.Y1,Roi.X2,Roi.Y2", "Roi.X1, Roi.Y1, Roi.X2, Roi.Y2"),
            ("x_center,y_center,width,height", "x_center, y_center"),
            ("boundingBox,bboxes,boxer,box_id", "boundingBox, bboxes, box_id"),
        )
    ),
]


@pytest.mark.parametrize(
    ("column", "splits"),
    [
        ("is_train", ["train", "test"]),
        ("Is_Training_Image", ["train", "test"]),
        ("is_test", ["test", "train"]),
        ("is_valid", ["val", "train"]),
        ("is_train,split", ["all", "all"]),
    ],
)
def test_a_flag_of_training_rows_is_a_split(column: str, splits: list[str], tmp_path: Path) -> None:
    """E8: a split column of the table's own wins."""
    flat(tmp_path / "a.png")
    flat(tmp_path / "b.png")
    more = ",all" * column.count(",")
    (tmp_path / "list.csv").write_text(f"path,label,{column}\na.png,x,1{more}\nb.png,x,0{more}\n")
    assert read_catalogue(tmp_path / "list.csv").table["split"].tolist() == splits


def test_an_edge_of_a_box_is_no_label(tmp_path: Path) -> None:
    """E8: y of x, y, w, h; without a box it is a label, as before."""
    flat(tmp_path / "a.png")
    (tmp_path / "boxes.csv").write_text("path,x,y,w,h,species\na.png,1,2,6,6,gull\n")
    with pytest.raises(DataError, match="no column 'label'; it has path, x, y, w, h, species"):
        read_catalogue(tmp_path / "boxes.csv")
    found = read_catalogue(tmp_path / "boxes.csv", labels="optional")
    assert found.label_names == [""]
    assert found.boxes is not None
    assert found.boxes.tolist() == [[1, 2, 7, 8]]
    (tmp_path / "plain.csv").write_text("path,y\na.png,gull\n")
    plain = read_catalogue(tmp_path / "plain.csv")
    assert plain.label_names == ["gull"]
    assert not any("look like boxes" in note for note in plain.notes)


@pytest.mark.parametrize(("text", "words"), NOTES)
def test_what_was_assumed_is_said(text: str, words: str, tmp_path: Path) -> None:
    assert any(words in note for note in source_of(text)(tmp_path).notes)


def photo() -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 255, (300, 400, 3), dtype=np.uint8).repeat(2, axis=1))


@pytest.mark.parametrize("form", ["path", "text", "bytes", "file", "picture", "array"])
def test_one_picture_one_embedding(form: str, run: Path, tmp_path: Path) -> None:
    """E12: however a large JPEG arrives."""
    photo().save(tmp_path / "x.jpg", quality=90)
    path = tmp_path / "x.jpg"
    content = path.read_bytes()
    given: dict[str, Callable[[], Any]] = {
        "path": lambda: path,
        "text": lambda: str(path),
        "bytes": lambda: content,
        "file": lambda: io.BytesIO(content),
        "picture": lambda: Image.open(io.BytesIO(content)),
        "array": lambda: np.asarray(Image.open(io.BytesIO(content))),
    }
    model = Embedder.load(run)
    np.testing.assert_array_equal(model.encode([given[form]()]), model.encode([path]))


def test_no_score_of_bits_is_called_a_cosine() -> None:
    assert [kind for kind, words in MEASURES.items() if words == "cosine"] == [
        "exact",
        "rerank",
        "hnsw",
        "ivf",
    ]  # whole rows


@pytest.mark.parametrize("values", [{"loss.settings.margn": 1}, {"validation.metric": "recal@1"}])
def test_a_failed_start_leaves_no_folder(values: dict[str, Any], data: Path, tmp_path: Path) -> None:
    """E14, F12: of a setting that is known to be wrong only once the images are read."""
    common = {"data.root": str(data), "model.backbone": "test_resnet", "model.weights": "none", "images.size": 32}
    with pytest.raises(SettingsError):
        train_run(TrainSettings().with_values({**common, "device": "cpu", **values}), tmp_path / "runs" / "x")
    assert not (tmp_path / "runs" / "x").exists()


def unreadable(root: Path) -> Path:
    """Two classes of three images, of which two cannot be read."""
    for name in "xy":
        for image in range(3):
            flat(root / "test" / name / f"{image}.png", (90 * image, 9, ord(name)))
    for image in (1, 2):
        (root / "test" / "y" / f"{image}.png").write_bytes(b"no picture")
    return root


@pytest.mark.parametrize("act", [evaluate_run, calibrate_run])
def test_unreadable_images_are_tolerated_as_asked(act: Callable[..., Any], run: Path, tmp_path: Path) -> None:
    """E14: two of six images are 33 %."""
    own = Path(shutil.copytree(run, tmp_path / "run"))
    more: dict[str, Any] = {"split": "test"} | ({"far": 0.3} if act is calibrate_run else {})
    with pytest.raises(DataError, match=r"2 of 6 images cannot be read, more than the 20\.0%"):
        act(own, unreadable(tmp_path / "photos"), max_unreadable=0.2, **more)
    done = act(own, tmp_path / "photos", max_unreadable=0.4, **more)
    assert (done.scores.images if act is evaluate_run else done.calibration.images) == 4


def test_saved_rows_answer_without_reading_an_image(run: Path, data: Path, tmp_path: Path) -> None:
    """E1: an .npz and a saved index give the answer of the images; those of another model are refused."""
    query = data / "test" / "u" / "0.png"
    table = embed_images(run, data, split="test")
    table.save(tmp_path / "rows.npz")
    save_gallery(tmp_path / "index.npz", Index.build(table.embeddings), table)
    sources: list[tuple[Path, dict[str, Any]]] = [
        (data, {"split": "test"}),
        (tmp_path / "rows.npz", {}),
        (tmp_path / "index.npz", {}),
    ]
    answers = [search_images(run, source, [query], k=3, **more).answers[0] for source, more in sources]
    hits = [[(hit.path, hit.label, hit.score) for hit in answer.hits] for answer in answers]
    assert len(hits[0]) == 3
    assert hits[1] == hits[0]
    assert hits[2] == hits[0]
    replace(table, model_id="f" * 64).save(tmp_path / "other.npz")
    with pytest.raises(DataError, match="was made by model ffffffffffff; the queries would be encoded by"):
        search_images(run, tmp_path / "other.npz", [query], k=3)


def test_no_false_accept_seen_is_no_rate_of_0(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """E4: none of 49 pairs of two classes above the threshold allows up to 7 % of them; searches quote it."""
    own = Path(shutil.copytree(run, tmp_path / "run"))
    photos = class_folders(tmp_path / "photos", "ab", images=7)
    assert main(["calibrate", str(own), str(photos), "--far", "1e-9", "--split", "all"]) == 0
    out, err = capsys.readouterr()
    assert re.search(r"reached, %\W+0 \W+0 to 7\.252 ", out)
    assert "may lie anywhere from 0 to 7.3 %" in err
    assert main(["search", str(own), str(photos), str(photos / "a" / "0.png"), "--out", str(tmp_path / "x.png")]) == 0
    assert "of 0 % of pairs, 0 to 7.3 % with other classes: about 0 (0 to 1) wrong images" in capsys.readouterr().out


def test_a_collection_of_the_query_alone_has_nothing_to_find(run: Path, tmp_path: Path) -> None:
    """No k was too large, and none would do."""
    query = flat(tmp_path / "photos" / "a.png")
    with pytest.raises(SizeError, match=r"^the collection holds nothing but the query itself.* Add images to it\.$"):
        search_images(run, query.parent, [query])


def test_a_picture_of_a_search_is_no_image_of_the_collection(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """`cd photos; cosphere search RUN . query`, twice: the picture lies beside the images. One that lies among them is left out."""
    photos = class_folders(tmp_path / "photos", "ab")
    monkeypatch.chdir(photos)
    for _ in range(2):
        assert main(["search", str(run), ".", "a/0.png", "--k", "2"]) == 0
        assert "among 4 images" in capsys.readouterr().out
    assert sorted(path.name for path in photos.iterdir()) == ["a", "b"]
    assert (tmp_path / "search.png").exists()
    assert main(["search", str(run), ".", "a/0.png", "--out", "a/found.png"]) == 2
    assert "--out a/found.png lies in ., where it would be one of the images" in capsys.readouterr().err
    shutil.copy(tmp_path / "search.png", photos / "a" / "search-2.png")
    flat(photos / "b" / "search.png", (1, 2, 3))  # a photo of that name
    found = read_catalogue(photos)
    assert len(found) == 5
    assert any("1 picture of a search lies among the images and was left out" in note for note in found.notes)


def test_a_run_of_ones_own_is_where_training_begins(
    data: Path, run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """E11: fine-tuning from a run, then going on to more steps through the command line; and F2 on train, query and gallery folders."""
    images = class_folders(tmp_path / "photos" / "train", "abcdefgh")
    for role in ("query", "gallery"):
        class_folders(images.parent / role, "xy")
    values = {
        "data.root": str(images.parent),
        "model.backbone": "test_resnet",
        "model.weights": str(run),
        "model.dim": 8,
    }
    values |= {"images.size": 32, "device": "cpu", "batch.size": 6, "steps": 1, "validation.lens": False}
    train_run(TrainSettings().with_values(values), tmp_path / "tuned")
    assert main(["train", "--resume", str(tmp_path / "tuned"), "--steps", "2"]) == 0
    assert Embedder.load(tmp_path / "tuned").provenance["step"] in (0, 1, 2)
    assert str(run) in Embedder.load(tmp_path / "tuned").provenance["weights"]
    assert "Traceback" not in capsys.readouterr().err


@pytest.mark.parametrize(
    ("batch", "cv", "shown"), [(12, 0.06, "lengths differ too little to tell"), (120, 0.06, "-35.60")]
)
def test_a_slope_over_nearly_equal_lengths_is_none(
    batch: int, cv: float, shown: str, run: Path, tmp_path: Path
) -> None:
    """E7: the fewer images of a batch it is measured over, the more their lengths have to differ."""
    own = RunFolder(Path(shutil.copytree(run, tmp_path / "run")))
    TrainSettings.read(own.config).with_values({"batch.size": batch}).write(own.config)
    own.append_metrics({"step": 1, "train/norm_cv": cv, "lens/gradient_slope": -35.6})
    assert main(["report", str(own.path)]) == 0
    page = re.sub(r"\s+", " ", re.sub("<[^>]+>", " ", (own.path / "report.html").read_text()))
    assert f"Slope of log gradient on log length {shown} -1" in page


DOORS = [
    pytest.param(
        lambda: TrainSettings().with_values({"model.weights": "~/w.pth"}).model.weights, "w.pth", id="weights"
    ),
    pytest.param(lambda: rooted("data.root").data.root, "in", id="data.root"),
    pytest.param(lambda: rooted("data.cache").data.cache, "in", id="data.cache"),
    pytest.param(lambda: rooted("features.folder").features.folder, "in", id="features.folder"),
    pytest.param(lambda: RunFolder.create("~/run").path, "run", id="RunFolder"),
    pytest.param(lambda: find_study("~/study.yaml"), "study.yaml", id="study"),
    pytest.param(lambda: check_pictures("~/x.png", 2)[1], "x-2.png", id="pictures"),
]


def rooted(name: str) -> TrainSettings:
    return TrainSettings().with_values({name: "~/in"}).with_absolute_paths()


@pytest.mark.parametrize(("door", "name"), DOORS)
def test_a_tilde_is_the_home_folder(
    door: Callable[[], Any], name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A shell leaves it in ``--out=~/x``, and YAML has no shell."""
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "study.yaml").touch()
    assert str(door()) == str(tmp_path / name)


def test_commands_take_the_home_folder_after_an_equals_sign(
    run: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "recipe.yaml").write_text("stepps: 1")
    assert main(["embed", str(run), str(data), "--out=~/rows.npz", "--device=cpu"]) == 0
    assert main(["data", "check", str(data), "--json=~/check.json"]) == 0
    assert main(["train", str(data), "--config=~/recipe.yaml"]) == 2
    assert "there is no setting 'stepps'" in capsys.readouterr().err
    with pytest.raises(SettingsError, match="is a folder; wanted a file"):
        check_output("~/")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["check.json", "recipe.yaml", "rows.npz"]
