"""Help and refusals without torch: what is written beside the code is what the parsers say."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from cosphere.cli import main, quick
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
    ("words", "want"),
    [
        (["x", "--loss", "triplet"], ["x", "--loss.name", "triplet"]),
        (["x", "--loss=triplet"], ["x", "--loss.name", "triplet"]),
        (["x", "--sec", "0.02"], ["x", "--sec.weight", "0.02"]),
        (["x", "--embedding_size", "64"], ["x", "--model.dim", "64"]),
        (["x", "--lr", "0.001"], ["x", "--optimizer.backbone_rate", "0.001", "--optimizer.head_rate", "0.001"]),
        (["x", "--batch-size", "30"], ["x", "--batch.size", "30"]),
        (["x", "--loss", "part.yaml"], ["x", "--loss", "part.yaml"]),
        (["x", "--seed", "1", "--", "--loss"], ["x", "--seed", "1", "--", "--loss"]),
    ],
)
def test_settings_that_people_type_first_are_understood(words: list[str], want: list[str]) -> None:
    assert quick.understood("train", words) == want
    assert quick.understood("evaluate", words) == words
    known = quick.options()["commands"]["train"]["options"]
    assert {name for meant in quick.SYNONYMS.values() for name in meant} <= set(known)


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
        (["evaluate", "x", "--kss", "3"], "there is no setting 'kss'. Did you mean 'ks'?"),
        (
            ["evaluate", "x", "--max-missing=1"],
            "there is no setting 'max_missing'. Did you mean 'options.max_missing'?",
        ),
        (["train", "x", "--heet", "2"], "there is no setting 'heet'. Did you mean 'loss.settings.heat'?"),
        (["search", "a", "b", "c", "--k", "two"], "k is 'two'; wanted a whole number."),
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
    (tmp_path / "recipe.yaml").write_text("about: {paper: x}\nloss: {settings: {margin: 0.1}}\nsec: {weight: 1}\n")
    words = ["x", "--config", str(tmp_path / "recipe.yaml"), "--loss.settings.margin", "0.2", "--about.row", "1"]
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
        ["embed", "run", "photos", "--out"],
        ["index", "delete", "gallery"],
        ["train", "--config", "recipe.yaml"],
    ],
)
def test_what_is_complete_goes_on_to_the_command(words: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(quick, "_check_recipe", lambda settings, path: None)
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
