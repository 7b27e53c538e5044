"""Help and refusals without torch: what is written beside the code is what the parsers say."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from cosphere.cli import main, quick
from cosphere.cli.synonyms import ADVICE, SYNONYMS
from cosphere.errors import CosphereError, SettingsError


def test_what_is_written_is_what_the_parsers_say() -> None:
    assert json.loads(json.dumps(quick.content())) == quick.options(), "run: python -m cosphere.cli.quick"


@pytest.mark.parametrize(
    "words",
    [
        ["train", "--help"],
        ["train", "--help-all"],
        ["evaluate", "--help"],
        ["train", "photos", "--sec.wieght", "1"],
        ["train", "photos", "--loss", "tripplet"],
        ["train", "photos", "--steps", "many"],
        ["train", "photos", "--loss.settings.margn", "0.2"],
        ["train", "photos", "--device", "cuda:1"],
        ["train", "photos", "--freeze_norm", "maybe"],
        ["train", "photos", "--amp"],
        ["evaluate", "run", "--ks", "all"],
        ["search", "run", "photos", "query", "-k", "3"],
        ["search", "run", "photos"],
    ],
)
def test_help_and_refusals_load_nothing_heavy(words: list[str]) -> None:
    heavy = "print([name for name in ('torch', 'pandas', 'timm', 'jsonargparse') if name in sys.modules])"
    code = f"import sys; from cosphere.cli import main; main({words!r}); {heavy}"
    found = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert found.stdout.strip().endswith("[]")


def test_the_short_help_shows_what_matters_and_says_where_the_rest_is(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "--help"]) == 0
    short = capsys.readouterr().out
    assert main(["train", "--help-all"]) == 0
    whole = capsys.readouterr().out
    for name in ("--loss.name", "--sec.weight", "--steps", "--batch.size", "--optimizer.head_rate", "--model.backbone"):
        assert name in short
    for name in ("--sec.momentum", "--schedule.gamma", "--data.max_unreadable"):
        assert name not in short
        assert name in whole
    assert "`cosphere train --help-all` lists every setting." in short
    assert len(short.splitlines()) < 0.5 * len(whole.splitlines())


@pytest.mark.parametrize(
    ("command", "line"),
    [
        ("study", "--data DATA "),
        ("reproduce", "--data DATA "),
        ("index add", "--model MODEL "),
        ("index search", "--model MODEL "),
        ("data audit", "--model MODEL "),
        ("losses", "--batch BATCH "),
        ("train", "--loss.name "),
    ],
)
def test_the_short_help_lists_options_named_like_a_section_of_settings(command: str, line: str) -> None:
    short = quick.options()["commands"][command]["short"]
    assert f"\n  {line}" in short
    assert "--model CONFIG" not in short


def test_the_help_calls_optional_arguments_optional_and_types_by_their_values() -> None:
    helps = {name: " ".join(about["all"].split()) for name, about in quick.options()["commands"].items()}
    for command, argument in (
        ("index search", "query"),
        ("index delete", "id"),
        ("compare", "runs"),
        ("study", "study"),
    ):
        assert re.search(rf" {argument} [^(]*\(optional, type: str\)", helps[command]), command
    assert re.search(r" gallery [^(]*\(required, type: str\)", helps["index delete"])
    assert "(type: top or leaf, default: top)" in helps["train"]
    for text in helps.values():
        assert "Literal[" not in text
        assert "Optional[" not in text


@pytest.mark.parametrize(
    ("command", "words", "want"),
    [
        ("train", "x --loss triplet", "x --loss.name=triplet"),
        ("train", "x --loss=triplet", "x --loss.name=triplet"),
        ("train", "x --Loss triplet", "x --loss.name=triplet"),
        ("train", "x --sec 0.02", "x --sec.weight=0.02"),
        ("train", "x --embedding_size 64", "x --model.dim=64"),
        ("train", "x --lr 0.001", "x --optimizer.backbone_rate=0.001 --optimizer.head_rate=0.001"),
        ("train", "x --batch-size 30", "x --batch.size=30"),
        ("train", "x --loss part.yaml", "x --loss=part.yaml"),
        ("train", "x --seed 1 -- --loss", "x --seed=1 -- --loss"),
        ("train", "--epochs 3 --help", "--epochs 3 --help"),
        ("evaluate", "x --k 1", "x --ks=1"),
        ("evaluate", "x --loss 1", "x --loss=1"),
        ("evaluate", "x --bs 8", "x --batch_size=8"),
        ("search", "a b c --k 1", "a b c --k=1"),
        ("search", "a b c --top-k 1", "a b c --k=1"),
        ("embed", "a b --output x.npz", "a b --out=x.npz"),
        ("losses", "--time --batch 8", "--time --batch=8"),
    ],
)
def test_settings_that_people_type_first_are_understood(command: str, words: str, want: str) -> None:
    assert " ".join(quick.understood(command, words.split())) == want


def test_settings_that_are_meant_exist() -> None:
    every = {name for about in quick.options()["commands"].values() for name in about["options"]}
    assert {name for meant, _ in SYNONYMS for name in meant} <= every
    assert {name for needed, _, _ in ADVICE for name in needed} <= every
    named = {name for _, _, text in ADVICE for name in re.findall(r"--([a-z_.]+[a-z])", text)}
    assert {name.removesuffix(".margin").removesuffix(".temperature") for name in named} <= every


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ["train", "x", "--epochs", "3"],
            "there is no setting 'epochs': training counts steps, not epochs. Use --steps",
        ),
        (["train", "x", "--margin", "0.1"], "--loss.settings.margin"),
        (["train", "x", "--sec.wieght=1"], "there is no setting 'sec.wieght'. Did you mean 'sec.weight'?"),
        (["train", "x", "--batch.images-per-clas", "1"], "Did you mean 'batch.images_per_class'?"),
        (["train", "x", "--steps", "1e3x"], "steps is '1e3x'; wanted a whole number."),
        (["train", "x", "--sec.weight", "much"], "sec.weight is 'much'; wanted a number."),
        (["train", "x", "--precision", "fp61"], "precision is 'fp61'; wanted 'float32', 'bf16' or 'fp16'."),
        (["train", "x", "--loss", "tripplet"], "no loss is called 'tripplet'. Did you mean 'triplet'?"),
        (
            ["train", "x", "--loss.settings.margn", "1"],
            "the loss multi_similarity has no setting 'margn'. Known: alpha,",
        ),
        (
            ["train", "x", "--loss", "triplet", "--loss.settings", "margn=1"],
            "no setting 'margn'. Did you mean 'margin'?",
        ),
        (["train", "x", "--loss.settings.bsae=1"], "no setting 'bsae'. Did you mean 'base'?"),
        (
            ["train", "x", "--loss", "{name: triplet}", "--loss.settings.margn=1"],
            "Did you mean 'loss.settings.margin'?",
        ),
        (["train", "x", "--model.head_settings.hidden=9"], "head 'linear' has no setting 'hidden'. Known: after,"),
        (["train", "x", "--model.head", "mlp", "--model.head_settings.hiden=9"], "Did you mean 'hidden'?"),
        (["evaluate", "x", "--protocol", "lfw", "--options.flp=none"], "protocol 'lfw' has no setting 'flp'."),
        (["evaluate", "x", "--options.flp=none"], "there is no setting 'options.flp'. Did you mean 'options.flip'?"),
        (["train", "--resume", "x", "--loss.settings.margin=1"], "--resume goes on with a run as it was"),
        (["train", "x", "--steps", "1__0"], "steps is '1__0'; wanted a whole number."),
        (["train", "x", "--steps", "1e999999999"], "steps is '1e999999999'; wanted a whole number."),
        (["train", "x", "--device", "gpu"], "device is 'gpu'; wanted 'auto', 'cpu', 'cuda' or 'mps'."),
        (["evaluate", "x", "--kss", "3"], "there is no setting 'kss'. Did you mean 'ks'?"),
        (
            ["evaluate", "x", "--max-missing=1"],
            "there is no setting 'max_missing'. Did you mean 'options.max_missing'?",
        ),
        (["train", "x", "--heet", "2"], "there is no setting 'heet'. Did you mean 'loss.settings.heat'?"),
        (["search", "a", "b", "c", "--k", "two"], "k is 'two'; wanted a whole number."),
        (["search", "a", "b", "c", "-k", "3"], "'-k' has one dash; settings have two. Write --k."),
        (["search", "a", "b", "c", "--per_label", "x"], "per_label is 'x'; wanted a whole number or null."),
        (["train", "x", "--sec.radius", "wide"], "sec.radius is 'wide'; wanted a number, 'batch', 'ema' or 'learned'."),
        (["train", "x", "--steps"], "--steps has no value; wanted a whole number."),
        (["embed", "x", "y", "--out"], "--out has no value; wanted one."),
        (["train", "x", "--loss", "TripletMarginLoss"], "Did you mean 'triplet'? docs/coming_from.md has"),
        (["train", "x", "--loss", "ms"], "no loss is called 'ms'. Did you mean 'multi_similarity'?"),
        (["train", "x", "--loss", "ArcFace"], "no loss is called 'ArcFace'. Did you mean 'arcface'?"),
        (["train", "x", "--loss", "wing"], "no loss is called 'wing'. Known: adaface, "),
        (["train", "x", "--loss.scale", "64"], "Did you mean 'loss.settings.scale'?"),
        (["train", "x", "--optimizer.lr", "1"], "Did you mean 'optimizer.backbone_rate' and 'optimizer.head_rate'?"),
        (["train", "x", "--dropuot", "1"], "there is no setting 'dropuot'. `--help` lists all settings."),
        (["train", "x", "--loss.settings", "foo"], "wanted names with values. Write --loss.settings NAME=VALUE."),
        (["train", "x", "--freeze_norm=maybe"], "freeze_norm is 'maybe'; wanted true or false."),
        (["train", "x", "--freeze_norm", "maybe"], "freeze_norm is 'maybe'; wanted true or false."),
        (["train", "x", "y"], "'y' is one word too many. `cosphere train --help` shows what it takes."),
        (["train", "x", "--", "y"], "'y' is one word too many."),
        (["evaluate", "x", "--ks", "all"], "ks is 'all'; wanted a list of whole numbers or null. Write --ks 1,2."),
        (["evaluate", "x", "--ks", "1", "2"], "'2' is one word too many. A list is one word: --ks 1,2."),
        (["evaluate", "x", "--metrics", "mrr,ndgc"], "there is no metric 'ndgc'. Did you mean 'ndcg'?"),
        (["evaluate", "x", "--optoins.k", "1"], "there is no setting 'optoins.k'. Did you mean 'options.k'?"),
    ],
)
def test_mistyped_options(words: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(words) == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("recipe", "message"),
    [
        ("sec: {wieght: 1}", "there is no setting 'sec.wieght'. Did you mean 'sec.weight'?"),
        ("stepps: 1", "there is no setting 'stepps'. Did you mean 'steps'?"),
        ("data: photos", "data is 'photos'; wanted names with values, such as data: {root: ...}."),
        ("batch: 8", "batch is 8; wanted names with values, such as batch: {size: ...}."),
        ("lr: 0.1", "there is no setting 'lr'. Did you mean 'optimizer.backbone_rate' and 'optimizer.head_rate'?"),
        (
            "loss: {name: triplet, settings: {margn: 1}}",
            "the loss triplet has no setting 'margn'. Did you mean 'margin'?",
        ),
        ("loss: {settings: {margin: 1}}", "the loss multi_similarity has no setting 'margin'."),
        ("epochs: 3", "there is no setting 'epochs': training counts steps, not epochs."),
        ("a: &a [x, x]\nb: &b [*a, *a]\nc: [*b, *b]", "aliases (*name) are not read"),
        ("- 1", "holds a list"),
    ],
)
def test_recipes_are_checked_before_the_parser_sees_them(recipe: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "recipe.yaml").write_text(recipe)
    with pytest.raises(CosphereError) as caught:
        quick.answer("train", ["--config", str(tmp_path / "recipe.yaml")])
    assert message in str(caught.value)


def test_free_names_and_recipes_that_are_right_pass(tmp_path: Path) -> None:
    (tmp_path / "recipe.yaml").write_text("about: {paper: x}\nloss: {settings: {base: 0.1}}\nsec: {weight: 1}\n")
    words = ["x", "--config", str(tmp_path / "recipe.yaml"), "--loss.settings.base", "0.2", "--about.row", "1"]
    assert quick.answer("train", words) is None
    with pytest.raises(SettingsError, match="there is no recipe"):
        quick.answer("train", ["--config", str(tmp_path / "none.yaml")])


@pytest.mark.parametrize(
    ("words", "lacks"),
    [
        (["search"], "model, source, query"),
        (["search", "run", "photos"], "query"),
        (["search", "run", "--k", "3", "photos"], "query"),
        (["search", "run", "--k=3", "photos"], "query"),
        (["search", "--json", "run", "photos"], "query"),
        (["search", "--json", "true", "run", "photos"], "query"),
        (["embed", "run", "--batch-size", "3"], "source"),
        (["embed", "--", "--run"], "source"),
        (["index", "add", "--", "gallery"], "source"),
        (["report"], "run"),
    ],
)
def test_a_missing_argument_is_named_at_once(words: list[str], lacks: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(words) == 2
    assert f" still needs: {lacks}. `cosphere " in capsys.readouterr().err


@pytest.mark.parametrize(
    "words",
    [
        ["search", "run", "photos", "-"],
        ["search", "--json", "run", "photos", "query"],
        ["search", "--", "--run", "photos", "query"],
        ["evaluate", "run", "--ks", "1,2", "photos"],
        ["index", "delete", "gallery"],
        ["train", "--config", "recipe.yaml"],
    ],
)
def test_what_is_complete_goes_on_to_the_command(words: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(quick, "_recipe", lambda kinds, path: {})
    monkeypatch.setattr(quick, "recipe_file", Path)
    group = words[0] == "index"
    assert quick.answer(" ".join(words[: 1 + group]), words[1 + group :]) is None


def test_the_parser_says_the_same_of_a_missing_argument() -> None:
    from cosphere.cli.search import parser

    with pytest.raises(SettingsError) as wrong:
        parser().read(["run", "photos"])
    assert str(wrong.value) == quick.lacking("cosphere search", ["query"])


def test_every_option_beside_needed_arguments_takes_one_value() -> None:
    import importlib

    from cosphere.cli.commands import COMMANDS

    for name, (module, _) in COMMANDS.items():
        if quick.options()["commands"][name]["needs"]:
            actions = importlib.import_module(module).parser()._actions
            several = [action.dest for action in actions if action.option_strings and action.nargs is not None]
            assert several == ["help"], name
