"""Every recipe names settings that exist, and trains and scores on a small made-up set in the published layout."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from PIL import Image
from scipy.io import savemat

from cosphere.cli import main
from cosphere.evaluate import EvaluationSettings
from cosphere.fields import build
from cosphere.train import TrainSettings

RECIPES = Path(__file__).parents[1] / "recipes"
FILES = sorted(RECIPES.rglob("*.yaml"))
CLASSES, EACH = 6, 4
"""Training classes of a stand-in, and images of each; half as many classes again for the test."""


def names() -> Iterator[tuple[int, str]]:
    """Class number, from 1, and file name of each image, training classes first."""
    for number in range(1, CLASSES + CLASSES // 2 + 1):
        for image in range(EACH):
            yield number, f"{number}_{image}.jpg"


def draw(folder: Path, files: list[str]) -> None:
    rng = np.random.default_rng(0)
    for file in files:
        (folder / file).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 255, (40, 44, 3), dtype=np.uint8)).save(folder / file)


def make_cub(root: Path) -> None:
    """Classes 1-100 train, 101-200 test: here 1-6 and 101-103."""
    labels = [number if number <= CLASSES else 100 + number - CLASSES for number, _ in names()]
    files = [f"{label:03d}.Bird/{file}" for label, (_, file) in zip(labels, names(), strict=True)]
    draw(root / "images", files)
    (root / "images.txt").write_text("".join(f"{i} {file}\n" for i, file in enumerate(files, 1)))
    (root / "image_class_labels.txt").write_text("".join(f"{i} {label}\n" for i, label in enumerate(labels, 1)))


def make_cars(root: Path) -> None:
    """Classes 1-98 train, 99-196 test: here 1-6 and 99-101."""
    labels = [number if number <= CLASSES else 98 + number - CLASSES for number, _ in names()]
    files = [f"car_ims/{number:06d}.jpg" for number in range(1, len(labels) + 1)]
    draw(root, files)
    kind = [
        (name, object) for name in ("relative_im_path", "bbox_x1", "bbox_y1", "bbox_x2", "bbox_y2", "class", "test")
    ]
    rows = np.array([[(file, 1, 1, 9, 9, label, 0) for file, label in zip(files, labels, strict=True)]], dtype=kind)
    class_names = np.array([[f"car {number}" for number in range(1, 197)]], dtype=object)
    savemat(root / "cars_annos.mat", {"annotations": rows, "class_names": class_names})


def make_sop(root: Path) -> None:
    lines: dict[str, list[str]] = {"train": [], "test": []}
    files = []
    for number, (label, file) in enumerate(names(), 1):
        split = "train" if label <= CLASSES else "test"
        files.append(f"bicycle_final/{file}")
        lines[split].append(f"{number} {label if split == 'train' else 11318 + label - CLASSES} 1 {files[-1]}\n")
    draw(root, files)
    for split, rows in lines.items():
        (root / f"Ebay_{split}.txt").write_text("image_id class_id super_class_id path\n" + "".join(rows))


def make_in_shop(root: Path) -> None:
    rows, files = [], []
    for label, file in names():
        place = "train" if label <= CLASSES else ("query" if file.endswith(("_0.jpg", "_1.jpg")) else "gallery")
        files.append(f"img/WOMEN/Dresses/id_{label:08d}/{file}")
        rows.append(f"{files[-1]}      id_{label:08d}     {place}\n")
    draw(root, files)
    header = f"{len(rows)}\nimage_name item_id evaluation_status\n"
    (root / "list_eval_partition.txt").write_text(header + "".join(rows))


def make_table(root: Path) -> None:
    files = [f"images/{file}" for _, file in names()]
    draw(root, files)
    rows = [
        f"{file},{label},{'train' if label <= CLASSES else 'test'}"
        for file, (label, _) in zip(files, names(), strict=True)
    ]
    (root / "labels.csv").write_text("path,label,split\n" + "\n".join(rows) + "\n")


def make_faces(root: Path) -> None:
    """Folders of people, some with a single image, as CASIA-WebFace is unpacked."""
    draw(root, [f"{number:07d}/{file}" for number, file in names() if number % 3 or file.endswith("_0.jpg")])


def make_splits(root: Path) -> None:
    """The same classes in train and test, as CIFAR-10 has them."""
    draw(root, [f"{split}/{number}/{file}" for split in ("train", "test") for number, file in names()])


MAKERS = {
    "cifar10": make_splits,
    "cub": make_cub,
    "cars196": make_cars,
    "sop": make_sop,
    "inshop": make_in_shop,
    "cars196-half": make_table,
    "casia": make_faces,
}


def dataset_of(file: Path) -> str:
    """`recipes/sec/cub-ms-sec.yaml` is of `cub`, `recipes/cars196-half/triplet.yaml` of `cars196-half`."""
    whole = {"cars196-half": "cars196-half", "ssl": "cifar10"}
    return whole.get(file.parent.name, file.stem.split("-")[0])


@pytest.fixture(scope="module")
def stand_ins(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("standins")
    for name, make in MAKERS.items():
        (folder / name).mkdir()
        make(folder / name)
    return {name: folder / name for name in MAKERS}


def read(file: Path) -> dict[str, Any]:
    return dict(yaml.safe_load(file.read_text(encoding="utf-8")))


def test_they_are_all_here() -> None:
    stems = {file.stem for file in FILES if file.parent.name == "sec"}
    assert stems == {
        f"{data}-{loss}-{arm}"
        for data in ("cub", "cars196", "sop", "inshop")
        for loss in ("triplet", "semihard", "npair", "ms")
        for arm in ("none", "l2", "sec")
    }
    assert {file.stem for file in FILES if file.parent.name == "normsoftmax"} == {
        *(f"{data}{form}" for data in ("cub", "cars196", "sop", "inshop") for form in ("", "-2048-bits")),
        *(f"{data}-{width}" for data in ("cub", "cars196") for width in ("128", "512", "bn-inception-1024")),
        *(f"{data}-concat-4096" for data in ("cub", "cars196", "sop")),
    }


@pytest.mark.parametrize("file", FILES, ids=lambda file: f"{file.parent.name}/{file.stem}")
def test_it_says_how_to_run_it_and_what_to_expect(file: Path) -> None:
    text = file.read_text(encoding="utf-8")
    if file.stem == "base":
        return
    assert f"--config recipes/{file.parent.name}/{file.name}" in text
    assert "# Expect:" in text
    assert "cosphere evaluate" in text
    about = read(file).get("about")
    if file.parent.name == "faces":  # No row of SEC on faces is public, so none may look as if it were.
        assert "published" not in about
        assert "Face_Pytorch" in about["reference"]
        assert ("No row of this recipe is published" in about["reference"]) == (not file.stem.endswith("arcface-none"))
        assert about["known"]
        assert about["ours"]
        assert any("sec.weight" in sentence for sentence in about["ours"]) == (read(file)["sec"]["weight"] > 0)
    elif file.parent.name == "ssl":  # The rows with SEC stand in a paper whose text we did not have.
        assert file.stem.endswith("-small") or ("published" not in about and about["reference"] and about["known"])
        assert any("sec.weight" in one for one in (about or {}).get("ours", [])) == (
            file.stem.endswith(("-l2", "-sec"))
        )
    elif file.parent.name != "cars196-half":
        assert about["published"]
        assert all(0 < value < 100 for value in about["published"].values())
        assert about["ours"]


@pytest.mark.parametrize(
    ("file", "name", "score"),
    [
        ("sec/cub-triplet-sec", "recall@1", 60.82),
        ("sec/cars196-ms-l2", "nmi", 71.00),
        ("sec/sop-npair-none", "recall@1000", 98.55),
        ("sec/inshop-semihard-sec", "recall@50", 99.21),
        ("normsoftmax/sop", "recall@1", 79.55),
        ("normsoftmax/inshop-2048-bits", "recall@50", 99.05),
        ("normsoftmax/cub-128", "recall@8", 87.6),
        ("normsoftmax/cars196-512", "recall@2", 90.4),
        ("normsoftmax/cars196-bn-inception-1024", "recall@1", 87.9),
        ("normsoftmax/cars196-concat-4096", "recall@1", 87.0),
    ],
)
def test_published_rows_as_printed(file: str, name: str, score: float) -> None:
    assert read(RECIPES / f"{file}.yaml")["about"]["published"][name] == score


RATES = {
    **{("cub", loss): (0.5e-5, 1e-5, [5000]) for loss in ("semihard", "npair")},
    ("cub", "triplet"): (0.25e-5, 0.5e-5, [5000]),  # README, example
    ("cub", "ms"): (0.5e-5, 1e-5, [3000, 6000]),  # README, exception (a)
    **{("cars196", loss): (1e-5, 1e-5, [2000]) for loss in ("triplet", "semihard", "npair")},
    ("cars196", "ms"): (2e-5, 2e-5, [2000]),  # README, exception (b)
    **{("sop", loss): (0.5e-4, 2.5e-4, [6000]) for loss in ("triplet", "semihard", "npair", "ms")},
    **{("inshop", loss): (1e-4, 5e-4, [6000]) for loss in ("triplet", "semihard", "npair", "ms")},
}
"""Rates of backbone and head and the milestones before the last step: SEC's README, else the defaults of its config.py."""
LOSSES = {
    "triplet": (3, {"margin": 1.0}),
    "semihard": (3, {"margin": 0.2}),
    "npair": (2, {}),
    "ms": (5, {"alpha": 2.0, "beta": 40.0, "base": 0.5}),
}
"""Images per class, and settings of the loss: SEC's README and loss.py."""


@pytest.mark.parametrize("arm", ["none", "l2", "sec"])
@pytest.mark.parametrize(("data", "loss"), RATES)
def test_sec_recipes_have_the_numbers_of_the_official_code(data: str, loss: str, arm: str) -> None:
    recipe, fine = read(RECIPES / "sec" / f"{data}-{loss}-{arm}.yaml"), data in ("cub", "cars196")
    optimizer, schedule = recipe["optimizer"], recipe["schedule"]
    assert (optimizer["backbone_rate"], optimizer["head_rate"], schedule["milestones"]) == RATES[data, loss]
    assert (optimizer["name"], optimizer["weight_decay"], schedule["gamma"]) == ("adam", 2.5e-3 if fine else 1e-5, 0.1)
    assert (recipe["batch"]["size"], recipe["steps"]) == (120, 8000 if fine else 12000)
    assert (recipe["batch"]["images_per_class"], recipe["loss"]["settings"]) == LOSSES[loss]
    assert (recipe["images"]["size"], recipe["images"]["preset"], recipe["model"]["dim"]) == (227, "sec", 512)
    assert recipe["model"]["norm"] == ("none" if (loss, arm) == ("ms", "none") else "batch")
    assert (
        recipe["sec"]
        == {
            "none": {"weight": 0.0},
            "l2": {"weight": 1e-4, "radius": 0.0},
            "sec": {"weight": 1.0, "radius": "batch"},
        }[arm]
    )


def test_sec_arms_differ_only_where_they_say() -> None:
    """SEC against none is one change, but for multi-similarity, whose published baseline has no head norm."""
    for file in (RECIPES / "sec").glob("*-none.yaml"):
        none, sec = read(file), read(file.with_name(file.name.replace("-none", "-sec")))
        different = {key for key in none if none[key] != sec[key]} - {"about"}
        assert different == ({"sec", "model"} if "-ms-" in file.name else {"sec"}), file.name


@pytest.mark.parametrize("file", FILES, ids=lambda file: f"{file.parent.name}/{file.stem}")
def test_a_published_row_is_scored_as_its_paper_scores_it(file: Path) -> None:
    recipe = read(file)
    if "published" not in recipe.get("about", {}):
        return
    published, evaluation = recipe["about"]["published"], recipe["evaluation"]
    assert [f"recall@{k}" for k in evaluation["ks"]] == [name for name in published if name.startswith("recall@")]
    assert evaluation.get("bits", False) == (recipe["about"].get("form") == "bits")
    if "nmi" in published:
        assert evaluation["clustering_preset"] == "sec"
    build(EvaluationSettings, evaluation)


def test_smaller_embeddings_of_normsoftmax_have_no_bias() -> None:
    """The official code adds ``Linear(width, dim, bias=False)`` for another width than the backbone's."""
    for file in (RECIPES / "normsoftmax").glob("*.yaml"):
        model = read(file)["model"]
        assert model["dim"] == 0 or model["bias"] is False


def test_face_recipes_are_all_here_and_their_arms_differ_only_in_sec() -> None:
    files = {file.stem: read(file) for file in FILES if file.parent.name == "faces"}
    full = ("cosface", "arcface", "sphereface", "sphereface-unit", "curricularface", "iresnet50-arcface")
    assert set(files) == {
        *(f"casia-{loss}-{arm}" for loss in full for arm in ("none", "l2", "sec")),
        "casia-magface-none",
        "casia-adaface-none",
    }
    for stem, recipe in files.items():
        none = files[stem.rpartition("-")[0] + "-none"]
        assert {key for key in recipe if recipe[key] != none[key]} <= {"sec", "about"}, stem


def test_face_recipes_are_eighteen_epochs_of_the_public_code() -> None:
    """453 580 images in batches of 200, the last one shorter; the scheduler steps before each epoch, counted from 1."""
    epoch = math.ceil(453_580 / 200)
    for file in FILES:
        if file.parent.name == "faces":
            recipe = read(file)
            assert recipe["steps"] == 18 * epoch
            assert recipe["schedule"]["milestones"] == [epoch * (at - 1) for at in (6, 11, 16)]


def test_face_recipes_are_as_wide_as_the_networks_of_the_public_code() -> None:
    """Its train.py gives ``feature_dim``, 512, to ResNet50-IR alone; MobileFaceNet keeps its own 128."""
    for file in FILES:
        if file.parent.name == "faces":
            assert read(file)["model"]["dim"] == (512 if "iresnet50" in file.stem else 128), file.stem


def test_sphereface_recipes_reach_their_margin() -> None:
    """Lambda, by the formulas of the two codes, falls to its floor while the rate is still whole."""
    lambdas = {"caffe": lambda t: 1000 / (1 + 0.12 * t), "face_pytorch": lambda t: 1000 / (1 + 1e-4 * t) ** 2}
    recipes = {file.stem: read(file) for file in (RECIPES / "faces").glob("casia-sphereface-*.yaml")}
    assert len(recipes) == 6
    for stem, recipe in recipes.items():
        settings = recipe["loss"]["settings"]
        assert lambdas[settings["annealing"]](recipe["schedule"]["milestones"][0]) <= settings["easing"] == 5.0, stem


def test_the_frozen_self_supervised_recipes_are_the_authors_setting() -> None:
    """floor(50 000 / 256) steps an epoch, 200 epochs; the arms differ only in SEC."""
    files = {file.stem: read(file) for file in FILES if file.parent.name == "ssl"}
    none = files["cifar10-simclr-none"]
    for arm in ("l2", "sec"):
        other = files[f"cifar10-simclr-{arm}"]
        assert {key for key in other if other[key] != none.get(key)} == {"about", "sec"}
        assert other["sec"]["ramp"] == "linear"
    assert files["cifar10-simclr-l2"]["sec"]["radius"] == 0
    assert (none["steps"], none["schedule"]["every"], none["batch"]["size"]) == (200 * 195, 50_000 // 256, 512)
    assert none["loss"]["settings"] == {"temperature": 0.5, "base_temperature": 0.07}
    supcon = files["cifar10-supcon"]
    assert (supcon["steps"], supcon["schedule"]["every"]) == (1000 * 48, 50_000 // 1024)


QUICK = {
    "simclr-small",
    "casia-sphereface-sec",
    "cub-triplet-sec",
    "cars196-ms-sec",
    "sop-npair-sec",
    "inshop-semihard-sec",
    "cub-2048-bits",
    "cars196-bn-inception-1024",
    "inshop",
    "norm-softmax-64",
}


def quick_or_slow(file: Path) -> Any:
    """Every recipe trains in the slow tests; of the quick ones each data set, loss, form and backbone has one."""
    marks = [] if file.stem in QUICK else [pytest.mark.slow]
    return pytest.param(file, marks=marks, id=f"{file.parent.name}/{file.stem}")


def small_network(name: str) -> str:
    """A small network in place of the recipe's; one of its kind where the head fits no other."""
    same = {"mobilefacenet": "mobilefacenet_025", "iresnet50": "iresnet18", "resnet8_cifar": "resnet8_cifar"}
    return same.get(name, "test_resnet")


@pytest.mark.parametrize("file", [quick_or_slow(file) for file in FILES])
def test_it_trains_and_scores_in_the_published_layout(file: Path, stand_ins: dict[str, Path], tmp_path: Path) -> None:
    recipe = read(file)
    each = min(recipe["batch"].get("images_per_class", 3), EACH)
    words = ["train", str(stand_ins[dataset_of(file)]), "--config", str(file), "--name", "run", "--runs", str(tmp_path)]
    small = "resnet18" if recipe["model"].get("stem") == "cifar" else small_network(recipe["model"]["backbone"])
    words += ["--model.backbone", small, "--model.weights", "none"]
    words += ["--images.size", "32", "--images.resize", "36", "--steps", "2"]
    words += [
        "--batch.size",
        str(2 * each),
        "--batch.images_per_class",
        str(each),
        "--device",
        "cpu",
        "--precision",
        "float32",
    ]
    words += ["--schedule.new_layers_steps", str(min(1, recipe.get("schedule", {}).get("new_layers_steps", 0)))]
    words += ["--validation.every", "0", "--validation.lens", "false"]
    if (recipe.get("data") or {}).get("cache"):
        words += ["--data.cache", str(tmp_path / "cache")]
    assert main(words) == 0
    written = yaml.safe_load((tmp_path / "run" / "config.yaml").read_text(encoding="utf-8"))
    settings = TrainSettings.read(tmp_path / "run" / "config.yaml")
    for block in ("loss", "sec", "optimizer"):
        for key, value in recipe.get(block, {}).items():
            assert written[block][key] == value, (block, key)
    assert settings.steps == 2
    split = ["--split", "all"] if dataset_of(file) == "casia" else []  # training data alone
    assert main(["evaluate", str(tmp_path / "run"), "--ks", "[1]", "--clustering", "false", *split]) == 0


def test_normsoftmax_steps_are_thirty_one_epochs() -> None:
    """The authors' sampler: floor(N / 75) batches an epoch; one epoch of new layers, fifteen, then fifteen at a tenth."""
    for name, images in {"cub": 5864, "cars196": 8054, "sop": 59551, "inshop": 25882}.items():
        recipe, epoch = read(RECIPES / "normsoftmax" / f"{name}.yaml"), math.floor(images / 75)
        assert (recipe["steps"], recipe["schedule"]["milestones"]) == (31 * epoch, [16 * epoch])
        assert recipe["schedule"]["new_layers_steps"] == epoch
        assert re.search(rf"= {epoch} batches", " ".join(recipe["about"]["ours"]))
