"""Section G: what callers of the library met. One row for each call: its right value, or the words of its error."""

from __future__ import annotations

import copy
import importlib
import inspect
import io
import pickle
import pkgutil
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image, ImageSequence

import cosphere
from cosphere import Index, SphericalConstraint, spherical_penalty
from cosphere.data import ClassBalancedBatches, Draw, read_catalogue
from cosphere.errors import CosphereError, DataError, ImageError, SettingsError, SizeError
from cosphere.evaluate import (
    EvaluationSettings,
    bootstrap_classes,
    calibrate,
    identification,
    length_quality,
    open_set,
    open_set_split,
    rates_at,
    retrieval,
    threshold_table,
    verification,
)
from cosphere.files import path_of
from cosphere.images import Preprocessing, read_image
from cosphere.losses import AdaFaceLoss, CurricularFaceLoss, TripletLoss
from cosphere.models import Embedder, EmbedderSettings, build_embedder
from cosphere.models.reading import input_batches, rgb_pixels
from cosphere.search import Gallery
from cosphere.search.gallery_items import as_table
from cosphere.stamps import draw_stamps
from cosphere.train import TrainSettings

Made = Callable[[Path], Any]

# Images from a source that changes what it gave, or that several threads would read at once.

LEVELS = [40, 90, 140, 190, 240, 15]


def levels(source: Callable[[Path], Any]) -> Made:
    """The gray level of each image that a source gives."""

    def measure(root: Path) -> list[int]:
        tiny = Preprocessing(size=8, resize=8, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))
        rows = torch.cat(list(input_batches(source(root), 4, tiny, torch.device("cpu"))))
        return [round(level) for level in (255 * rows.mean(dim=(1, 2, 3))).tolist()]

    return measure


def in_a_gallery(source: Callable[[Path], Any]) -> Made:
    def measure(root: Path) -> list[int]:
        pictures = as_table(source(root), list(map(str, LEVELS)), None).pictures
        return [int(rgb_pixels(one, position=0)[0, 0, 0]) for one in pictures]

    return measure


def pages(kind: str) -> Callable[[Path], Any]:
    def source(root: Path) -> Iterator[Any]:
        first, *others = [Image.new("L", (300, 200), level) for level in LEVELS]
        first.save(root / f"pages.{kind}", save_all=True, append_images=others)
        with Image.open(root / f"pages.{kind}") as picture:
            yield from ImageSequence.Iterator(picture)

    return source


def one_buffer(make: Callable[[Any], Any]) -> Callable[[Path], Any]:
    def source(_: Path) -> Iterator[Any]:
        buffer = np.zeros((200, 300, 3), np.uint8)
        for level in LEVELS:
            buffer[:] = level
            yield make(buffer)

    return source


def files(root: Path, suffix: str = "png") -> list[Path]:
    paths = [root / f"{level}.{suffix}" for level in LEVELS]
    for path, level in zip(paths, LEVELS, strict=True):
        Image.new("RGB", (300, 200), (level,) * 3).save(path)
    return paths


def opened_by_pillow(suffix: str) -> Callable[[Path], Any]:
    def source(root: Path) -> Iterator[Any]:
        for path in files(root, suffix):
            with Image.open(path) as picture:
                yield picture

    return source


def opened(root: Path) -> Iterator[Any]:
    for path in files(root):
        with path.open("rb") as file:
            yield file


SOURCES: dict[str, Callable[[Path], Any]] = {
    "the pages of a TIFF": pages("tiff"),
    "the frames of a GIF": pages("gif"),
    "one array, filled again": one_buffer(lambda buffer: buffer),
    "one tensor, filled again": one_buffer(lambda buffer: torch.from_numpy(buffer).permute(2, 0, 1)),
    "PNG files closed after use": opened_by_pillow("png"),
    "JPEG files closed after use": opened_by_pillow("jpg"),
    "file objects closed after use": opened,
}


FORMS: dict[str, Callable[[Path], Any]] = {
    "one file": lambda path: io.BytesIO(path.read_bytes()),
    "one PNG": lambda path: Image.open(io.BytesIO(path.read_bytes())),
}


def one_of_many_uses(open_it: Callable[[Path], Any]) -> Callable[[Path], Any]:
    return lambda root: [open_it(files(root)[0])] * 60


def closed(root: Path) -> list[Any]:
    file = files(root)[0].open("rb")
    file.close()
    return [file]


# Numbers, paths and ids in the forms that NumPy and Python give them.

ROWS = np.random.default_rng(0).normal(size=(40, 8)).astype(np.float32)
FOUR = [f"row{n}" for n in range(4)]
ONE, TWO, FEW = np.int64(1), np.int64(2), np.float32(0.25)
LABELS = np.arange(40) % 5


def gallery(root: Path, rows: Any = ROWS[:4], ids: Any = FOUR, metadata: Any = None) -> Gallery:
    made = Gallery.create(root / "g", dim=np.int64(8), thumbnail=np.int64(0))
    made.add(rows, ids, metadata)
    return made


def answers(**given: Any) -> Made:
    """Ids and metadata of the nearest item of each row."""

    def measure(root: Path) -> list[Any]:
        with gallery(root, **{name: value() if callable(value) else value for name, value in given.items()}) as made:
            hits = [made.search(row, k=1)[0] for row in ROWS[:4]]
        return [hit.id if "metadata" not in given else dict(hit.metadata) for hit in hits]

    return measure


def opened_again(root: Path) -> int:
    gallery(root).close()
    with Gallery.open(root / "g") as made:
        return made.space.dim


def settings_of_run(_: Path) -> Any:
    changes = {"data.root": Path("photos"), "steps": np.int64(5), "loss.settings": {"margin": FEW}, "sec.weight": FEW}
    made = TrainSettings().with_values(changes)
    return [
        (value, type(value)) for value in (made.data.root, made.steps, made.loss.settings["margin"], made.sec.weight)
    ]


def small(**settings: Any) -> Embedder:
    return build_embedder(EmbedderSettings(backbone="resnet8_cifar", weights="none", **settings), image_size=32)


def saved(root: Path) -> bool:
    model = small(dim=np.int64(8))
    model.save(root / "model")
    return Embedder.load(root / "model").id == model.id


def seeded(kind: str) -> Made:
    return lambda _: len(Index.build(ROWS, kind, check_queries=np.int64(0), seed=ONE))


def stamps(root: Path) -> int:
    drawn = draw_stamps(root / "s", designs=np.int64(6), impressions=TWO, size=np.int64(32), seed=ONE)
    return len(list(drawn.rglob("*.jpg")))


def evaluated(_: Path) -> Any:
    made = EvaluationSettings(seed=TWO, level=np.float64(0.9))
    return type(made.seed), type(made.level), type(calibrate(ROWS, LABELS, far=FEW, level=FEW, samples=2).level)


def loaded(workers: int) -> Made:
    """Rows and labels that a loader over a tensor data set gives, as the sampler drew them."""

    def measure(_: Path) -> bool:
        batches = ClassBalancedBatches(LABELS, batch_size=8, images_per_class=2)
        data = torch.utils.data.TensorDataset(torch.arange(40), torch.from_numpy(LABELS))
        drawn = [[draw.row for draw in batch] for batch in batches]
        given = list(torch.utils.data.DataLoader(data, batch_sampler=batches, num_workers=workers))
        return [rows.tolist() for rows, _ in given] == drawn and all((rows % 5 == names).all() for rows, names in given)

    return measure


def draws(_: Path) -> list[Any]:
    one, other = Draw(3, 7), Draw(3, 8)
    again = [pickle.loads(pickle.dumps(one)), copy.deepcopy(one)]
    return [
        *((draw.row, draw.seed) for draw in again),
        one == again[0],
        one == other,
        one != other,
        one == np.int64(3),
        "abcd"[one],
    ]


def homes(root: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, bool]:
    monkeypatch.setenv("HOME", str(root))
    monkeypatch.chdir(root)
    flat = files(root)[0]
    small(dim=4).save("~/model")
    Index.build(ROWS, check_queries=0).save("~/i.npz")
    gallery(Path("~")).close()
    with gallery(Path("~/more"), ROWS[:1], ["a"]), Gallery.open("~/g") as made:
        return {
            "no folder of this name": not Path("~").exists(),
            "model": Embedder.load("~/model").encode(f"~/{flat.name}").shape == (1, 4),
            "index": len(Index.load("~/i.npz")) == 40,
            "gallery": len(made) == 4,
            "image": read_image(f"~/{flat.name}").shape == (200, 300, 3),
            "id": as_table([f"~/{flat.name}"], None, None).ids == [str(flat)],
            "root": TrainSettings().with_values({"data.root": "~/x"}).with_absolute_paths().data.root
            == str(root / "x"),
            "a name that begins so": path_of("~no such user~").name == "~no such user~",
        }


def test_the_home_folder_is_found_wherever_a_path_comes_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = homes(tmp_path, monkeypatch)
    assert all(found.values()), found


def right_of(numbers: int) -> list[bool]:
    """The 63 shortest of so many pairs are wrong."""
    return [place >= 63 for place in range(numbers)]


def answers_of_copies(kind: str) -> Made:
    def measure(_: Path) -> list[bool]:
        rows = np.random.default_rng(1).normal(size=(300, 16)).astype(np.float32)
        index = Index.build(rows, kind, check_queries=0)
        index.delete([3])
        index.add(rows[:2] + 1)
        want = index.search(rows[:20], 5)
        found = [made.search(rows[:20], 5) for made in (pickle.loads(pickle.dumps(index)), copy.deepcopy(index))]
        return [torch.equal(one, other) for answer in found for one, other in zip(answer, want, strict=True)]

    return measure


def all_but_itself(root: Path) -> int:
    with gallery(root) as made:
        return len(made.search(id="row0", k=2**20))


def no_queries(root: Path) -> list[Any]:
    with gallery(root) as made:
        return made.search_many(ROWS[:0])


VALUES = [
    pytest.param(answers(ids=lambda: iter(FOUR)), FOUR, id="ids from a generator"),
    pytest.param(answers(ids=lambda: dict.fromkeys(FOUR).keys()), FOUR, id="ids that are keys"),
    pytest.param(answers(ids=lambda: np.array(FOUR)), FOUR, id="ids in an array"),
    pytest.param(
        answers(metadata=lambda: {"n": iter(range(4))}), [{"n": n} for n in range(4)], id="a column from a generator"
    ),
    pytest.param(
        answers(metadata=lambda: ({"n": n} for n in range(4))), [{"n": n} for n in range(4)], id="metadata likewise"
    ),
    pytest.param(opened_again, 8, id="a gallery with NumPy's numbers"),
    pytest.param(
        settings_of_run, [("photos", str), (5, int), (0.25, float), (0.25, float)], id="settings with NumPy's numbers"
    ),
    pytest.param(saved, True, id="a model with NumPy's numbers"),
    *(pytest.param(seeded(kind), 40, id=f"{kind} with NumPy's seed") for kind in ("hnsw", "ivf")),
    pytest.param(stamps, 12, id="stamps with NumPy's numbers"),
    pytest.param(evaluated, (int, float, float), id="evaluation with NumPy's numbers"),
    pytest.param(lambda _: SphericalConstraint(radius=FEW, momentum=FEW).constant, 0.25, id="a radius of NumPy"),
    pytest.param(
        lambda _: spherical_penalty(torch.ones(1, 1), np.float64(3)).item(), 4.0, id="a penalty around NumPy's radius"
    ),
    *(pytest.param(loaded(workers), True, id=f"a tensor data set, {workers} workers") for workers in (0, 1)),
    pytest.param(draws, [(3, 7), (3, 7), True, False, True, True, "d"], id="draws"),
    pytest.param(
        lambda _: length_quality([[n + 1, n + 1] for n in range(180)], right_of(180)).errors[7], 0.0, id="0.35 of 180"
    ),
    *(
        pytest.param(answers_of_copies(kind), [True] * 4, id=f"copies of {kind}")
        for kind in ("hnsw", "hnsw-bits", "ivf-bits")
    ),
    pytest.param(all_but_itself, 3, id="an item's neighbours with the largest k"),
    pytest.param(no_queries, [], id="no queries"),
    *(pytest.param(levels(source), LEVELS, id=f"encode {name}") for name, source in SOURCES.items()),
    *(pytest.param(in_a_gallery(source), LEVELS, id=f"add {name}") for name, source in SOURCES.items()),
    *(
        pytest.param(levels(one_of_many_uses(open_it)), [LEVELS[0]] * 60, id=f"encode 60 times {name}")
        for name, open_it in FORMS.items()
    ),
]

SCORES, SAME = [0.9, 0.4, 0.6, 0.2], [1, 1, 0, 0]


def encoded(**options: Any) -> Made:
    return lambda _: small(dim=4).encode([], **options)


def asked(act: Callable[[Gallery], Any]) -> Made:
    def measure(root: Path) -> None:
        with gallery(root) as made:
            act(made)

    return measure


def act(call: Callable[[], Any]) -> Made:
    return lambda _: call()


def public_functions() -> list[Callable[..., Any]]:
    """Every function that a package of the library exports."""
    packages = [f"cosphere.{one.name}" for one in pkgutil.iter_modules(cosphere.__path__) if one.name[0] != "_"]
    modules = [cosphere, *(importlib.import_module(name) for name in packages if name != "cosphere.cli")]
    exported = [getattr(module, name) for module in modules for name in getattr(module, "__all__", ())]
    return [one for one in dict.fromkeys(filter(inspect.isfunction, exported)) if one.__module__.startswith("cosphere")]


def switches_of(function: Callable[..., Any]) -> list[str]:
    """Its arguments that are true or false."""
    return [one.name for one in inspect.signature(function).parameters.values() if one.annotation == "bool"]


def needed(function: Callable[..., Any]) -> dict[str, None]:
    """None for each other argument without a default: a wrong switch is refused before anything is looked at."""
    given = [one for one in inspect.signature(function).parameters.values() if one.kind is not one.VAR_KEYWORD]
    return {one.name: None for one in given if one.default is one.empty and one.annotation != "bool"}


NO_ORDER = "a set, which has no order. Give a list"
ERRORS: dict[str, tuple[Made, type[CosphereError], str]] = {
    "ids in a set": (answers(ids=set(FOUR)), SizeError, f"ids are {NO_ORDER}"),
    "ids in a mapping": (answers(ids=dict.fromkeys(FOUR)), SizeError, "want one id for each of 4 items, got a mapping"),
    "a column in a set": (answers(metadata={"n": {1, 2, 3, 4}}), SizeError, f"values of column 'n' are {NO_ORDER}"),
    "images in a set": (lambda root: as_table(set(files(root)), list("abcdef"), None), SizeError, NO_ORDER),
    "no classes": (act(lambda: bootstrap_classes([1, 2, 3], None)), SizeError, "classes are missing. Give the class"),
    "truth as text": (
        act(lambda: length_quality([[1, 2], [1, 3]], ["True", "False"])),
        DataError,
        "right must hold True",
    ),
    "truth as 2": (act(lambda: length_quality([[1, 2], [1, 3]], [2, 0])), DataError, "right must hold True and False"),
    "normalize": (encoded(normalize="no"), SettingsError, "normalize must be true or false; got 'no'"),
    "fast": (encoded(fast="yes"), SettingsError, "fast must be true or false; got 'yes'"),
    **{
        f"{name} of {function.__module__}.{function.__name__}": (
            act(lambda function=function, name=name: function(**needed(function), **{name: "no"})),
            SettingsError,
            f"{name} must be true or false; got 'no'.",
        )
        for function in public_functions()
        for name in switches_of(function)
    },
    "fast of inference": (act(lambda: small(dim=4).inference(fast="no")), SettingsError, "fast must be true or false"),
    "backbone": (act(lambda: small(dim=4).set_trainable(backbone="no")), SettingsError, "backbone must be true or"),
    "backbone_norm": (act(lambda: small(dim=4).set_trainable(backbone_norm=0)), SettingsError, "backbone_norm must be"),
    "scale_free": (act(lambda: SphericalConstraint(scale_free="no")), SettingsError, "scale_free must be true or"),
    "coverage": (
        act(lambda: ClassBalancedBatches(LABELS, batch_size=8, images_per_class=2, coverage="no")),
        SettingsError,
        "coverage must be true or",
    ),
    "bits": (act(lambda: EvaluationSettings(bits="no")), SettingsError, "bits must be true or false; got 'no'."),
    "autocast": (encoded(autocast="bfloat16"), SettingsError, "autocast must be a type of torch or None"),
    "their normalize": (
        encoded(normalize_embeddings=True),
        SettingsError,
        "In Cosphere, use normalize=, which is True",
    ),
    "their progress": (encoded(show_progress_bar=True), SettingsError, "In Cosphere, use progress="),
    "a misspelling": (encoded(normalise=True), SettingsError, "no argument 'normalise'. Did you mean 'normalize'?"),
    "M of a small gallery": (
        asked(lambda made: made.use_index("hnsw", M=3)),
        SettingsError,
        "an index has no setting 'M'",
    ),
    "threshold as text": (act(lambda: rates_at(SCORES, SAME, "0.4")), SettingsError, "threshold must be a number"),
    "no threshold": (act(lambda: rates_at(SCORES, SAME, None)), SettingsError, "threshold must be a number"),
    "open set without labels": (
        act(lambda: open_set(ROWS, None, threshold=0.3)),
        SizeError,
        "want labels (N,), one for each",
    ),
    "split without labels": (act(lambda: open_set_split(None)), SizeError, "want labels (N,), one for each"),
    "one rate": (
        act(lambda: verification(SCORES, SAME, None, fars=0.1)),
        SettingsError,
        "want fars as a list of numbers, got 0.1",
    ),
    "one share": (act(lambda: length_quality([[1, 2]], [1], shares=0.5)), SettingsError, "Write shares=[0.5]."),
    "one row of a table": (act(lambda: threshold_table(SCORES, SAME, 0.1)), SettingsError, "Write fars=[0.1]."),
    "one rank": (act(lambda: identification(ROWS, LABELS, ROWS, 1)), SettingsError, "Write ranks=[1]."),
    "one rate of alarms": (
        act(lambda: open_set(ROWS, LABELS, threshold=0.3, fpirs=0.1)),
        SettingsError,
        "Write fpirs=[0.1].",
    ),
    "sparse rows": (
        act(lambda: retrieval(torch.from_numpy(ROWS).to_sparse(), LABELS)),
        SizeError,
        "want embeddings as a dense tensor, got one of layout torch.sparse_coo. Call .to_dense()",
    ),
    "no source": (act(lambda: read_catalogue(None)), SettingsError, "want a path, got None (NoneType). Give a text"),
    "a list as a source": (act(lambda: read_catalogue(["a.jpg"])), DataError, "a list is no data set; wanted a folder"),
    "no index": (act(lambda: Index.load(None)), SettingsError, "want a path, got None (NoneType). Give a text"),
    "bytes of an index": (act(lambda: Index.load(b"x")), SettingsError, "want a path, got b'x' (bytes). Give a text"),
    "the constructor": (act(lambda: Gallery("photos.gallery")), SettingsError, "Gallery is made by Gallery.open or"),
    "numbers in lists": (
        asked(lambda made: made.add(ROWS.tolist(), FOUR)),
        SizeError,
        "want embeddings as an array or tensor (N, D), got a list",
    ),
    "one row": (asked(lambda made: made.add(ROWS[0], ["a"])), SizeError, "(N, D), got (8,) float32"),
    "rows from a generator": (asked(lambda made: made.search_many(iter(ROWS))), SizeError, "(N, D), got an iterator"),
    "prefix": (
        asked(lambda made: made.search(ROWS[0], where={"n": ("^=", "a")})),
        DataError,
        "Did you mean 'starts with'?",
    ),
    "no path": (act(lambda: read_image("")), ImageError, "the path of an image is empty"),
    "a tuple of lists": (
        act(lambda: TripletLoss()(torch.ones(3, 2), torch.tensor([0, 0, 1]), ([0], [1], [2]))),
        SizeError,
        "as a tensor; got 3 parts: a list, a list, a list.",
    ),
    **{
        f"arrays for {loss.__name__}": (
            act(lambda loss=loss: loss(5, 8)(ROWS, LABELS)),
            SizeError,
            "want embeddings as a tensor, got ndarray",
        )
        for loss in (AdaFaceLoss, CurricularFaceLoss)
    },
    "a closed file": (levels(closed), ImageError, "closed file. Open it again or leave it out."),
}


@pytest.mark.parametrize(("measure", "right"), VALUES)
def test_the_right_value(measure: Made, right: Any, tmp_path: Path) -> None:
    assert measure(tmp_path) == right


@pytest.mark.parametrize(("act", "error", "words"), ERRORS.values(), ids=ERRORS)
def test_the_error_says_why(act: Made, error: type[CosphereError], words: str, tmp_path: Path) -> None:
    with pytest.raises(error, match=re.escape(words)):
        act(tmp_path)
