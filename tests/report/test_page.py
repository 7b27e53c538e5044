from __future__ import annotations

import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cosphere.data import Skipped
from cosphere.embeddings import Embeddings
from cosphere.errors import RunError, SettingsError
from cosphere.evaluate import EvaluationSettings, retrieval, score_embeddings
from cosphere.report import ReportData, write_report
from cosphere.report.page import LINKS, page
from cosphere.runs import RunFolder

VOID = {"meta", "input", "br", "img", "link"}
HOSTILE = '<script>alert("x")</script>'


class Reader(HTMLParser):
    """Checks that tags close in order and keeps what the page holds."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.seen: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.styles: list[str] = []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append((tag, dict(attrs)))
        assert len(dict(attrs)) == len(attrs), f"an attribute of <{tag}> is given twice"
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open, f"</{tag}> closes nothing"
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        (self.styles if self.open and self.open[-1] == "style" else self.words).append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())

    def tags(self, name: str) -> list[dict[str, str | None]]:
        return [attributes for tag, attributes in self.seen if tag == name]

    def of_class(self, name: str) -> list[dict[str, str | None]]:
        return [attributes for _, attributes in self.seen if name in (attributes.get("class") or "").split()]


def with_columns(data: ReportData, **columns: object) -> ReportData:
    """The same report of other embeddings."""
    assert data.embeddings is not None
    return replace(data, embeddings=replace(data.embeddings, **columns))


def part(text: str, name: str) -> str:
    return text[text.index(f'<section id="{name}">') :].split("</section>")[0]


def test_the_checker_itself_can_fail() -> None:
    for bad in ("<p><b></p></b>", "<p>", "</p>", '<p class="a" class="b"></p>'):
        with pytest.raises(AssertionError):
            Reader(bad)


def test_a_runs_figures_also_lie_beside_its_page_as_vector_and_picture(data: ReportData, tmp_path: Path) -> None:
    folder = RunFolder.create(tmp_path / "run")
    assert data.embeddings is not None
    data.embeddings.save(folder.embeddings("test"))
    for row in data.metrics:
        folder.append_metrics(row)
    text = write_report(folder.path, neighbours=1).read_text(encoding="utf-8")
    names = {file.stem for file in (folder.path / "figures").iterdir()}
    assert {"pairs", "spectrum", "confusions", "histogram", "loss", "norms", "similarities"} <= names
    assert {file.name for file in (folder.path / "figures").iterdir()} == {
        f"{name}.{kind}" for name in names for kind in ("svg", "png")
    }
    assert text.count("<svg") == len(names)
    with Image.open((folder.path / "figures") / "pairs.png") as picture:
        assert picture.width > 800
        assert picture.convert("RGB").getpixel((1, 1)) == (255, 255, 255)
    assert ((folder.path / "figures") / "pairs.svg").read_text(encoding="utf-8").startswith("<?xml")


def test_every_section_is_there_with_its_content(text: str) -> None:
    reader = Reader(text)
    assert [one["id"] for one in reader.tags("section")] == list(LINKS)
    ids = [attributes["id"] for _, attributes in reader.seen if "id" in attributes]
    assert len(ids) == len(set(ids))
    for link in reader.tags("a"):
        assert link["href"][1:] in ids
    for words in (
        "first try",
        "44.7 → 61.0 %",
        "+16.3 points by training",
        "59.5–62.6",
        "Recall@10",
        "loss.name",
        "triplet",
        "0123abcd",
        "abc123",
        "Queries: 24",
        "best 62.5 % at step 20",
        "-1.37",
        "batch_size 64",
        "ties optimistic",
        "clustering.restarts 5",
        "Left out: 3 of <27> queries.",
    ):
        assert words in reader.text, words
    for name, count in {
        "scores": 1,
        "queries": 1,
        "classes": 2,
        "training": 4,
        "lengths": 1,
        "health": 3,
        "skipped": 0,
        "about": 0,
    }.items():
        assert part(text, name).count("<svg") == count, name
    assert reader.text.index("Recall@1 44.71 61.04 +16.33 59.5–62.6") > 0
    assert "missing" not in " ".join(attributes.get("class") or "" for _, attributes in reader.seen)


def test_the_page_asks_nobody(data: ReportData, text: str) -> None:
    reader = Reader(text)
    assert not reader.tags("script")
    assert not reader.tags("link")
    for _, attributes in reader.seen:
        assert not any(name.startswith("on") for name in attributes)
        for name in ("src", "href", "xlink:href", "srcset", "action", "poster"):
            assert (attributes.get(name) or "#").startswith(("#", "data:image/jpeg;base64,"))
    for target in re.findall(r"url\(\s*[\"']?([^)\"']*)", text):
        assert target.startswith(("#", "data:image/jpeg;base64,"))
    assert "@import" not in text
    assert "http://" not in text
    assert "https://" not in text
    (policy,) = [one["content"] for one in reader.tags("meta") if one.get("http-equiv") == "Content-Security-Policy"]
    assert "default-src 'none'" in policy
    assert "script-src" not in policy


def test_it_suits_phones_and_the_dark(text: str) -> None:
    reader = Reader(text)
    assert {"name": "viewport", "content": "width=device-width, initial-scale=1"} in reader.tags("meta")
    style = "".join(reader.styles)
    assert "prefers-color-scheme: dark" in style
    assert "max-width: 760px" in style
    light, dark = (set(re.findall(r"(--\w+):", block)) for block in re.findall(r":root \{([^}]*)\}", style))
    assert light == dark
    assert set(re.findall(r"var\((--\w+)", text)) <= light


def test_hostile_names_stay_text(data: ReportData) -> None:
    bad = f'"><img src=x onerror="1">{HOSTILE}\x00'
    hostile = replace(
        data,
        name=bad,
        config={bad: {bad: bad}},
        scores={
            **data.scores,
            "split": bad,
            "scores": {**data.scores["scores"], bad: 0.5},
            "data": {bad: bad},
            "provenance": {"cosphere": bad, "time": bad},
        },
        embeddings=replace(
            data.embeddings, class_names=(bad, bad, bad, bad), paths=tuple(f"{bad}{row}" for row in range(24))
        ),
        skipped=(Skipped(bad, bad),),
    )
    text = page(hostile)
    reader = Reader(text)
    assert not reader.tags("script")
    assert not reader.tags("img")
    assert "\x00" not in text
    assert HOSTILE in reader.text  # shown, not dropped
    assert reader.tags("title") == [{}]
    titles = [one["title"] for one in reader.of_class("pic")]
    assert titles
    assert all(title.startswith(bad.replace("\x00", "").strip()) for title in titles)


def test_class_names_of_the_data_are_shown_as_they_are(data: ReportData, text: str) -> None:
    words = Reader(text).text
    for name in data.embeddings.class_names:
        assert name in words


def cosines_by_hand(data: ReportData) -> np.ndarray:
    unit = np.array([row / sum(v * v for v in row) ** 0.5 for row in data.embeddings.embeddings.astype(np.float64)])
    return np.array([[float(sum(a * b)) for b in unit] for a in unit])


def expected_cards(data: ReportData, k: int) -> list[tuple[str, list[tuple[int, bool]]]]:
    """Worst first: file of the query, and rows and rightness of its neighbours; from loops."""
    cosines = cosines_by_hand(data)
    labels, paths = data.embeddings.labels, data.embeddings.paths
    count = len(labels)
    cards = []
    for i in range(count):
        right = max(cosines[i, j] for j in range(count) if j != i and labels[j] == labels[i])
        wrong = max(cosines[i, j] for j in range(count) if labels[j] != labels[i])
        order = sorted((j for j in range(count) if j != i), key=lambda j: -cosines[i, j])[:k]
        cards.append((wrong - right, paths[i], [(j, bool(labels[j] == labels[i])) for j in order]))
    return [(path, found) for _, path, found in sorted(cards, key=lambda card: -card[0])]


def cards_in(panel: str) -> list[tuple[str, list[tuple[str, bool, bool]]]]:
    """File of each query, and file, rightness and whether it was added as missed, of what is shown beside it."""
    cards = []
    for card in panel.split('<article class="query">')[1:]:
        query, *shots = re.split(r"<li ", card)
        title = re.search(r'title="([^"]*)"', query).group(1)
        found = [
            (re.search(r'title="([^"]*)"', shot).group(1), 'class="shot right' in shot, "missed" in shot)
            for shot in shots
        ]
        for shot, (_, right, _) in zip(shots, found, strict=True):
            assert (">✓<" in shot) == right == (">right<" in shot)
            assert (">✗<" in shot) != right
        cards.append((title, found))
    return cards


def panels(text: str) -> dict[str, str]:
    pieces = re.split(r'<div class="panel (\w+)">', part(text, "queries"))
    return dict(zip(pieces[1::2], pieces[2::2], strict=True))


@pytest.mark.usefixtures("blank_figures")
@pytest.mark.parametrize("k", [1, 4])
def test_queries_come_worst_first_with_right_and_wrong_marked(bare: ReportData, k: int) -> None:
    want = [
        (path, [(bare.embeddings.paths[j], right) for j, right in found]) for path, found in expected_cards(bare, k)
    ]
    shown = panels(page(bare, queries=10, neighbours=k))
    worst = cards_in(shown["worst"])
    plain = [(query, [(path, right) for path, right, missed in found if not missed]) for query, found in worst]
    assert plain == want[:10]
    assert [query for query, _ in cards_in(shown["best"])] == [query for query, _ in want[::-1][:10]]
    assert len(cards_in(shown["random"])) == 10
    for _, found in worst:
        # The nearest right one is added exactly when none of the neighbours is right.
        assert any(missed for *_, missed in found) == (not any(right for _, right, missed in found if not missed))
    assert any(missed for _, found in worst for *_, missed in found)
    assert any(right for _, found in want for _, right in found)


def test_neighbours_carry_rank_and_cosine(data: ReportData, text: str) -> None:
    cosines = cosines_by_hand(data)
    card = panels(text)["worst"].split('<article class="query">')[1]
    i = data.embeddings.paths.index(cards_in(panels(text)["worst"])[0][0])
    best = sorted((cosines[i, j] for j in range(24) if j != i), reverse=True)[:6]
    written = re.findall(r"<b>(\d+) · (-?[\d.]+)</b>", card)[:6]
    assert written == [(str(place), f"{cosine:.3f}") for place, cosine in enumerate(best, start=1)]


def test_verdicts_tell_the_rank_and_the_gap(data: ReportData, text: str) -> None:
    cosines = cosines_by_hand(data)
    first = cards_in(panels(text)["worst"])[0][0]
    i = data.embeddings.paths.index(first)
    right = max(cosines[i, j] for j in range(24) if j != i and data.embeddings.labels[j] == data.embeddings.labels[i])
    wrong = [cosines[i, j] for j in range(24) if data.embeddings.labels[j] != data.embeddings.labels[i]]
    rank = 1 + sum(c > right for c in wrong)
    cosine = f"Nearest right {right:.3f}, nearest wrong {max(wrong):.3f}, gap {max(wrong) - right:+.3f}."
    sentence = f"First right image at rank {rank}. {cosine}"
    assert rank > 1
    assert sentence in Reader(text).text


def test_the_chooser_starts_with_the_worst(text: str) -> None:
    reader = Reader(text)
    assert [(one["id"], "checked" in one) for one in reader.tags("input")] == [
        ("show-worst", True),
        ("show-random", False),
        ("show-best", False),
    ]
    assert {one["for"] for one in reader.tags("label")} == {one["id"] for one in reader.tags("input")}
    assert "#show-worst:checked ~ .worst" in "".join(reader.styles)


def test_pictures_are_embedded_once_and_named(text: str) -> None:
    reader = Reader(text)
    rules = re.findall(r"^\.(p\d+)\{background-image", "".join(reader.styles), flags=re.MULTILINE)
    used = [name for one in reader.of_class("pic") for name in one["class"].split() if re.fullmatch(r"p\d+", name)]
    assert len(rules) == len(set(rules)) == 24
    assert set(used) == set(rules)
    assert len(used) > 100
    by_title = {one["title"]: one["class"] for one in reader.of_class("pic")}
    assert len(set(by_title.values())) == len(by_title) == 24


@pytest.mark.usefixtures("blank_figures")
def test_pictures_that_cannot_be_read_are_listed(bare: ReportData, tmp_path: Path) -> None:
    (tmp_path / "empty.png").touch()
    lost = [str(tmp_path / "empty.png"), str(tmp_path / "gone.png")]
    text = page(with_columns(bare, paths=(*bare.embeddings.paths[:22], *lost)))
    listed = Reader(part(text, "skipped") + "</section>").text
    for path in (*lost, bare.skipped[0].path):
        assert path in listed
    assert "3 images were left out" in listed
    assert {one["title"] for one in Reader(text).of_class("none")} == set(lost)


@pytest.mark.usefixtures("blank_figures")
@pytest.mark.parametrize(
    ("absent", "line"),
    [
        ({"scores": {}}, "No scores yet."),
        ({"metrics": ()}, "This run logged no training steps."),
        ({"embeddings": None}, "No embeddings yet."),
        ({"embeddings": None}, "No embeddings to measure yet."),
        ({"config": {}}, "This run has no settings."),
        ({"scores": {"scores": 3, "provenance": "x"}}, "this run has not been evaluated"),
        ({"skipped": ()}, "None: every image on this page could be read."),
    ],
)
def test_missing_pieces_become_a_friendly_line(
    data: ReportData, text: str, absent: dict[str, object], line: str
) -> None:
    assert line not in Reader(text).text
    # What is not asked about is left out too, where it takes long to draw.
    assert line in Reader(page(replace(data, **{"metrics": (), "embeddings": None, **absent}), queries=2)).text


@pytest.mark.usefixtures("blank_figures")
@pytest.mark.parametrize(
    ("columns", "line"),
    [
        ({"labels": np.arange(24), "class_names": tuple(map(str, range(24)))}, "No query has a right image to find"),
        ({"labels": np.zeros(24, np.int64)}, "No query has a wrong image to find"),
        ({"labels": np.zeros(24, np.int64)}, "No class is mistaken for another"),
    ],
)
def test_classes_that_cannot_be_ranked_become_a_friendly_line(
    bare: ReportData, columns: dict[str, object], line: str
) -> None:
    assert line in Reader(page(with_columns(bare, **columns), queries=2)).text


def test_a_run_with_nothing_still_has_a_page() -> None:
    reader = Reader(page(ReportData(name="nothing")))
    assert [one["id"] for one in reader.tags("section")] == list(LINKS)
    assert len(reader.of_class("missing")) >= 7
    assert "not evaluated yet" in reader.text


@pytest.mark.usefixtures("blank_figures")
def test_scores_without_a_baseline_do_not_compare(data: ReportData) -> None:
    text = page(replace(data, metrics=(), baseline_scores={}), queries=1)
    assert "Recall@1 61.0 % interval 59.5–62.6 %" in Reader(text).text
    assert "before" not in part(text, "scores")


@pytest.mark.usefixtures("blank_figures")
def test_queries_without_an_answer_are_counted(bare: ReportData) -> None:
    labels = bare.embeddings.labels.copy()
    labels[23] = 4
    names = (*bare.embeddings.class_names, "lonely")
    words = Reader(page(with_columns(bare, labels=labels, class_names=names))).text
    assert "Of 23 queries" in words
    assert "1 more has no other image of the same class" in words


@pytest.mark.usefixtures("blank_figures")
def test_only_queries_ask_and_only_the_gallery_answers(bare: ReportData) -> None:
    is_query = np.arange(24) % 2 == 0
    text = page(with_columns(bare, is_query=is_query, is_gallery=~is_query), queries=24)
    paths = bare.embeddings.paths
    cards = cards_in(panels(text)["worst"])
    assert {query for query, _ in cards} == {paths[row] for row in range(0, 24, 2)}
    assert {path for _, found in cards for path, *_ in found} <= {paths[row] for row in range(1, 24, 2)}
    assert all(len([1 for *_, missed in found if not missed]) == 6 for _, found in cards)


@pytest.mark.usefixtures("blank_figures")
def test_sec_that_dwarfs_the_loss_is_told(bare: ReportData, text: str) -> None:
    loud = [{"step": step, "train/sec_share": 3.0 if step else 0.1} for step in range(9)]
    found = Reader(page(replace(bare, metrics=loud), queries=1)).text
    assert "SEC outweighed the metric loss in most steps (median 3 times" in found
    assert "outweighed" not in text


def test_lengths_are_measured(data: ReportData, text: str) -> None:
    lengths = [sum(float(v) ** 2 for v in row) ** 0.5 for row in data.embeddings.embeddings]
    mean = sum(lengths) / 24
    cv = (sum((v - mean) ** 2 for v in lengths) / 24) ** 0.5 / mean
    words = Reader(text).text
    assert f"this run {mean:.3g} {min(lengths):.3g} to {max(lengths):.3g} {cv:.3f}" in words
    assert f"CV of the lengths {cv:.2f}" in words


def test_defaults_stay_below_five_megabytes_with_the_worst_of_pictures(tmp_path: Path) -> None:
    """Noise compresses worst; 600 different pictures are more than a page of the default size shows."""
    draw = np.random.default_rng(0)
    paths = []
    for row in range(600):
        paths.append(str(tmp_path / f"{row}.bmp"))
        Image.fromarray(draw.integers(0, 256, size=(112, 112, 3), dtype=np.uint8)).save(paths[-1])
    embeddings = draw.normal(size=(600, 16)).astype(np.float32)
    names = tuple(map(str, range(120)))
    table = Embeddings(embeddings=embeddings, labels=np.arange(600) // 5, paths=tuple(paths), class_names=names)
    data = ReportData(name="noise", embeddings=table)
    path = write_report(data, tmp_path / "noise.html")
    assert 1_000_000 < path.stat().st_size < 5_000_000


@pytest.mark.usefixtures("blank_figures")
def test_a_run_is_written_into_its_folder(small: Embeddings, tmp_path: Path) -> None:
    run = RunFolder.create(tmp_path / "run")
    replace(small, class_names=("a", "b", HOSTILE, "d")).save(run.embeddings("test"))
    path = write_report(run.path)
    assert path == run.report
    reader = Reader(path.read_text(encoding="utf-8"))
    assert HOSTILE in reader.text
    assert len(reader.of_class("query")) == 72
    other = write_report(str(run.path), tmp_path / "else.html", queries=2, neighbours=3)
    assert len(Reader(other.read_text(encoding="utf-8")).of_class("query")) == 6


@pytest.mark.slow
def test_the_same_data_gives_the_same_page(bare: ReportData) -> None:
    first = page(bare, queries=5, seed=1)
    assert first == page(bare, queries=5, seed=1)
    assert first != page(bare, queries=5, seed=2)


def test_wrong_calls_say_what_to_do(data: ReportData, tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"Give target='report\.html'"):
        write_report(data)
    with pytest.raises(SettingsError, match="neighbours=0, want 1 to 50"):
        write_report(data, tmp_path / "x.html", neighbours=0)
    with pytest.raises(SettingsError, match="thumbnail=8, want 16 to 512"):
        write_report(data, tmp_path / "x.html", thumbnail=8)
    with pytest.raises(SettingsError, match="queries=-1, want 0 to 1000"):
        write_report(data, tmp_path / "x.html", queries=-1)
    with pytest.raises(RunError, match="there is no run"):
        write_report(tmp_path / "nowhere")
    (tmp_path / "file").touch()
    with pytest.raises(RunError, match="cannot write"):
        write_report(replace(data, metrics=(), embeddings=None), tmp_path / "file" / "x.html")  # quick to draw
    assert not list(tmp_path.glob("*.html"))


# The page says what the evaluation says


def hits_by_hand(table: Embeddings, *, rule: str) -> list[bool]:
    """Whether each query that can be answered has a right image first, by loops."""
    rows = table.embeddings.astype(np.float64)
    rows = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    hits = []
    for query in range(len(rows)):
        met = [
            row
            for row in range(len(rows))
            if row != query
            and (
                table.groups[row] != table.groups[query]
                or (rule == "same_class" and table.labels[row] != table.labels[query])
            )
        ]
        if any(table.labels[row] == table.labels[query] for row in met):
            best = max(met, key=lambda row: float(rows[query] @ rows[row]))
            hits.append(bool(table.labels[best] == table.labels[query]))
    return hits


@pytest.mark.usefixtures("blank_figures")
@pytest.mark.parametrize("rule", ["same_class", "any_class"])
def test_sequences_are_left_out_as_in_the_scores(small: Embeddings, tmp_path: Path, rule: str) -> None:
    """Images of a class and sequence are nearly equal, so a page that forgot the sequence would find all of them."""
    draw = np.random.default_rng(3)
    groups = np.arange(24) // 3
    scenes = draw.normal(size=(8, 5))[groups]
    table = replace(small, embeddings=(scenes + 0.01 * draw.normal(size=(24, 5))).astype(np.float32), groups=groups)
    settings = EvaluationSettings(ks=(1, 2), group_rule=rule, clustering=False)
    scores = score_embeddings(table, settings).as_dict()
    hits = hits_by_hand(table, rule=rule)
    assert scores["scores"]["recall@1"]["value"] == pytest.approx(np.mean(hits))
    assert 0 < sum(hits) < len(hits) / 2 or rule == "any_class"
    words = Reader(page(ReportData(name="x", scores={"split": "test", **scores}, embeddings=table), queries=24)).text
    assert f"Of {len(hits)} queries, {len(hits) - sum(hits)} have a wrong image nearest." in words
    text = page(ReportData(name="x", scores=scores, embeddings=table), queries=24, neighbours=4)
    for query, neighbours in cards_in(panels(text)["worst"]):
        own = table.paths.index(query)
        for path, right, _ in neighbours:
            row = table.paths.index(path)
            assert table.groups[row] != table.groups[own] or (rule == "same_class" and not right)


def test_bits_are_ranked_and_shown_as_bits(small: Embeddings) -> None:
    draw = np.random.default_rng(4)
    table = replace(small, embeddings=draw.normal(size=(24, 16)).astype(np.float32))
    scores = score_embeddings(table, EvaluationSettings(bits=True, ks=(1,), clustering=False)).as_dict()
    text = page(ReportData(name="x", scores=scores, embeddings=table), queries=24, neighbours=2)
    words = Reader(text).text
    assert "bits that differ from the query" in words
    query, neighbours = cards_in(panels(text)["worst"])[0]
    own, first = table.paths.index(query), table.paths.index(neighbours[0][0])
    distance = sum((table.embeddings[own] > 0) != (table.embeddings[first] > 0))
    assert f"1 · {distance} bits apart" in words


def test_class_recalls_are_those_of_the_evaluation(data: ReportData, text: str) -> None:
    table = data.embeddings
    by_class = retrieval(table.embeddings, table.labels, ks=(1,)).per_class()
    words = Reader(part(text, "classes") + "</section>").text
    for recall, queries in zip(by_class.values["recall@1"], by_class.queries, strict=True):
        assert f"{100 * recall:.0f} %, {queries} queries" in words


TOO_EQUAL = "lengths differ too little to tell"


@pytest.mark.usefixtures("blank_figures")
@pytest.mark.parametrize(
    ("cv", "images", "told"),
    [(0.01, 120, TOO_EQUAL), (0.06, 120, "-35.60"), (0.06, 12, TOO_EQUAL), (0.2, None, "-35.60")],
)
def test_slopes_of_the_lens_want_lengths_that_differ(
    bare: ReportData, cv: float, images: int | None, told: str
) -> None:
    logged = [{"step": 1, "train/norm_cv": cv, "lens/gradient_slope": -35.6, "lens/max_abs_gradient_cosine": 0.25}]
    config = {} if images is None else {"batch": {"size": images}}
    words = Reader(part(page(replace(bare, metrics=logged, config=config), queries=0), "lengths") + "</section>").text
    assert f"Slope of log gradient on log length {told} -1" in words
    assert "Largest |cosine| of gradient and embedding 0.25" in words


@pytest.mark.usefixtures("blank_figures")
@pytest.mark.parametrize(("geometric", "lines"), [(0.58302, 1), (0.59, 2)])
def test_the_geometric_nmi_is_printed_where_it_differs(bare: ReportData, geometric: float, lines: int) -> None:
    data = replace(bare, scores={"scores": {"nmi": 0.58301, "nmi_geometric": geometric}})
    assert part(page(data, queries=0), "scores").count("NMI") == lines
