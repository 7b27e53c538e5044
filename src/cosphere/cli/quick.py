"""Help and the refusal of mistyped options without loading torch: both are read from `options.json`, which this file writes.

python -m cosphere.cli.quick    # after an option or a setting was added or changed; a test says when
"""

from __future__ import annotations

import argparse
import json
import os
import re
from collections.abc import Iterable, Sequence
from functools import cache
from itertools import takewhile
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin

from cosphere._elsewhere import loss_meant
from cosphere.cli import synonyms
from cosphere.cli.recipe_files import recipe_file
from cosphere.cli.synonyms import unknown
from cosphere.cli.words import Word, items_of, joined, misfit, plain, split, stray
from cosphere.errors import SettingsError, did_you_mean, no_own_setting
from cosphere.fields import flatten

FILE = Path(__file__).with_name("options.json")
WIDTH = "100"
"""Columns of the written help."""
HELP = ("-h", "--help")
MODEL = ("model.backbone", "model.weights", "model.dim")


@cache
def options() -> dict[str, Any]:
    """What `options.json` holds: for each command its help and its options, the names of the losses, and the names inside options."""
    content: dict[str, Any] = json.loads(FILE.read_text(encoding="utf-8"))
    return content


def inside(kinds: dict[str, Any]) -> list[str]:
    """Names that go into those options that take any names, such as ``options.flip``."""
    return sorted(
        {
            f"{one}.{inner}"
            for one, about in options()["inside"].items()
            if one in kinds
            for its in about["names"].values()
            for inner in its
        }
    )


def answer(command: str, arguments: Sequence[str]) -> str | None:
    """The help of a command if it is asked for, else None.

    Raises:
        SettingsError: an option does not exist, its value is of another type, an argument is missing or one too many.
    """
    about = options()["commands"][command]
    page = _page(arguments)
    if page:
        return str(about[page])
    kinds = about["options"]
    words = split(arguments, kinds)
    given: dict[str, Any] = {}
    for word in plain(words, kinds):
        if word.name:
            _check(kinds, word.name, word.value)
            if word.name == "config" and word.value:
                given = flatten(_recipe(kinds, recipe_file(word.value))) | given
            given[word.name] = word.value
    _check_inside(kinds, given)
    _check_positional(f"cosphere {command}", words, about)
    return None


def _page(arguments: Sequence[str]) -> str | None:
    """Which help is asked for."""
    typed = set(arguments[: arguments.index("--")] if "--" in arguments else arguments)
    return "all" if "--help-all" in typed else "short" if typed.intersection(HELP) else None


def lacking(command: str, names: Sequence[str]) -> str:
    """What to say of positional arguments that were not given.

    >>> lacking("cosphere search", ["source", "query"])
    '`cosphere search` still needs: source, query. `cosphere search --help` says what they are.'
    """
    return f"`{command}` still needs: {', '.join(names)}. `{command} --help` says what {'they are' if len(names) > 1 else 'it is'}."


def _check_positional(command: str, words: Sequence[Word], about: dict[str, Any]) -> None:
    """Refuse a positional argument too many, one that is missing, and an option with one dash."""
    kinds = about["options"]
    before = list(takewhile(lambda word: word.name != "", words))
    given = [word.value or "" for word in before if word.name is None]
    for text in given:
        if re.match(r"-[A-Za-z]", text):
            raise SettingsError(one_dash(text, kinds))
    given += [word.value or "" for word in words[len(before) + 1 :]]
    most = len(given) if about["takes"] is None else about["takes"]
    meant = stray(before, kinds, excess=len(given) > most)
    if meant or len(given) > most:
        raise SettingsError(meant or one_too_many(command, given[most]))
    if len(given) < len(about["needs"]):
        raise SettingsError(lacking(command, about["needs"][len(given) :]))


def one_too_many(command: str, word: str) -> str:
    """What to say of a positional argument that a command does not take."""
    return f"{word!r} is one word too many. `{command} --help` shows what it takes."


def one_dash(typed: str, kinds: dict[str, Any]) -> str:
    """What to say of an option with one dash, such as ``-k``."""
    name = typed.split("=")[0].lstrip("-").replace("-", "_")
    if name in kinds:
        return f"{typed.split('=')[0]!r} has one dash; settings have two. Write --{name}."
    return unknown(name, kinds, inside(kinds))


def understood(command: str, arguments: Sequence[str]) -> list[str]:
    """The arguments with the options of other tools replaced by the settings that they mean.

    Raises:
        SettingsError: an option that has no counterpart; the error says what to use.
    """
    if _page(arguments):
        return list(arguments)
    about = options()["commands"][command]
    kinds = about["options"]
    return joined(synonyms.understood(split(arguments, kinds), kinds, command, about["arguments"]))


def _check(kinds: dict[str, Any], name: str, value: str | None) -> None:
    if name not in kinds:
        if any(name.startswith(f"{one}.") for one, its in kinds.items() if its == "names"):
            return
        raise SettingsError(unknown(name, kinds, inside(kinds)))
    text = misfit(name, kinds[name], value)
    if text:
        raise SettingsError(text)
    if name == "loss.name" and value not in options()["losses"]:
        near = loss_meant(str(value), options()["losses"]) or did_you_mean(str(value), options()["losses"], cutoff=0.75)
        raise SettingsError(f"no loss is called {value!r}. {near}")
    if name == "metrics":
        for one in items_of(kinds[name], value or "") or []:
            if one not in options()["metrics"]:
                raise SettingsError(f"there is no metric {one!r}. {did_you_mean(one, options()['metrics'])}")


def _check_inside(kinds: dict[str, Any], given: dict[str, Any]) -> None:
    """Refuse a setting of a loss, a head or a protocol that has no such setting.

    Args:
        kinds: the command's options.
        given: dotted name -> value, of the line and its recipe.
    """
    for option, about in options()["inside"].items():
        typed = [name.removeprefix(f"{option}.").split(".")[0] for name in given if name.startswith(f"{option}.")]
        if option not in kinds or not typed:
            continue
        chooser, section = about["of"], about["of"].rpartition(".")[0]
        # a section that is given whole and a run that goes on name the loss elsewhere
        elsewhere = section in given or given.get("resume")
        choice = given.get(chooser, None if elsewhere else about["default"])
        for name in typed:
            if choice in about["names"] and name not in about["names"][choice]:
                raise SettingsError(no_own_setting(about["owner"].format(choice), name, about["names"][choice]))
            if not any(name in its for its in about["names"].values()):
                raise SettingsError(unknown(f"{option}.{name}", kinds, inside(kinds)))


def _recipe(kinds: dict[str, Any], path: Path) -> dict[str, Any]:
    """What a recipe holds; refused if it cannot be read, uses aliases or holds an unknown name, before the parser expands it."""
    from cosphere.files import read_yaml

    content = read_yaml(path, what="a recipe")
    if not content:
        raise SettingsError(f"{path} is empty; wanted settings, such as steps: 1000. Fill it, or leave out --config.")
    _check_names(kinds, content, "")
    return content


def _check_names(kinds: dict[str, Any], content: dict[str, Any], section: str) -> None:
    for key, value in content.items():
        name = f"{section}{key}"
        its = [one for one in kinds if one.startswith(f"{name}.")]
        is_section = its and kinds.get(name) != "names"
        if isinstance(value, dict) and is_section:
            _check_names(kinds, value, f"{name}.")
        elif name not in kinds and not its:
            raise SettingsError(unknown(name, kinds, inside(kinds)))
        elif is_section and not isinstance(value, dict) and not str(value).endswith((".yaml", ".yml")):
            shown = "left empty" if value is None else repr(value)
            meant = (synonyms.meaning(name, kinds) or its)[0].removeprefix(f"{name}.")
            raise SettingsError(f"{name} is {shown}; wanted names with values, such as {name}: {{{meant}: ...}}.")


def content() -> dict[str, Any]:
    """What `options.json` should hold."""
    import importlib

    from cosphere import losses
    from cosphere.cli.commands import COMMANDS
    from cosphere.evaluate.metrics import METRICS
    from cosphere.experiment.protocols import PROTOCOLS
    from cosphere.fields import dotted_names
    from cosphere.models import EmbedderSettings
    from cosphere.models.heads.base import head_names, own_settings
    from cosphere.train.settings import LossSettings

    before, os.environ["COLUMNS"] = os.environ.get("COLUMNS"), WIDTH
    try:
        commands = {name: _command(importlib.import_module(module).parser()) for name, (module, _) in COMMANDS.items()}
    finally:
        if before is None:
            del os.environ["COLUMNS"]
        else:
            os.environ["COLUMNS"] = before
    protocols = {name: dotted_names(one.settings) for name, one in PROTOCOLS.items()}
    heads = {name: [*own_settings(name)] for name in head_names()}
    its_losses = {one.name: [*one.defaults] for one in losses.table()}
    return {
        "commands": commands,
        "losses": [entry.name for entry in losses.table()],
        "metrics": [*(metric.name for metric in METRICS), "all"],
        "inside": {
            "loss.settings": _inside("loss.name", LossSettings().name, "the loss {}", its_losses),
            "model.head_settings": _inside("model.head", EmbedderSettings().head, "head {!r}", heads),
            "options": _inside("protocol", None, "protocol {!r}", protocols),
        },
    }


def _inside(of: str, default: str | None, owner: str, names: dict[str, list[str]]) -> dict[str, Any]:
    """The settings that an option takes, by the value of another option ``of``; ``owner`` is what an error calls that value."""
    return {"of": of, "default": default, "owner": owner, "names": names}


def _command(parser: Any) -> dict[str, Any]:
    whole = parser.format_help()
    named = {action: _name(action.option_strings) for action in parser._actions if action.option_strings}
    kinds = kinds_of(parser)
    shown = _basic(named.values())
    for action, name in named.items():
        if name not in shown:
            action.help = argparse.SUPPRESS
    short = parser.format_help()
    if short != whole:
        short = f"{short.rstrip()}\n\n`{parser.prog} --help-all` lists every setting.\n"
    positional = [action for action in parser._actions if not action.option_strings]
    needs = [action.dest for action in positional if action.nargs in (None, "+")]
    several = any(action.nargs in ("+", "*") for action in positional)
    return {
        "short": short,
        "all": whole,
        "arguments": [action.dest for action in positional],
        "needs": needs,
        "takes": None if several else len(positional),
        "options": kinds,
    }


def kinds_of(parser: Any) -> dict[str, Any]:
    """Options of a parser -> kind of their value, see :func:`_kind`."""
    named = {action: _name(action.option_strings) for action in parser._actions if action.option_strings}
    kinds = {name: _kind(action) for action, name in named.items() if name != "help"}
    # jsonargparse has a second name for each list, such as --ks+, which appends to it.
    return kinds | {word[2:]: "any" for action in named for word in action.option_strings if word.endswith("+")}


def _name(words: Sequence[str]) -> str:
    """The long name of an option, without its dashes."""
    return next(word[2:] for word in reversed(words) if not word.endswith("+"))


def _basic(names: Iterable[str]) -> set[str]:
    """The options of the short help: those of the command itself, and of its settings the basic ones."""
    from cosphere.evaluate import EvaluationSettings
    from cosphere.fields import dotted_names
    from cosphere.train import TrainSettings

    every = {*dotted_names(TrainSettings), *dotted_names(EvaluationSettings)}
    basic = {*dotted_names(TrainSettings, lambda rule: rule.basic), *MODEL, *EVALUATION}
    names = set(names)
    # A section counts only where this parser has its settings: `losses --batch` and `study --data` are options of their own.
    sections = {name.split(".")[0] for name in every & names if "." in name}
    return {name for name in names if name in basic or (name not in every and name.split(".")[0] not in sections)}


EVALUATION = ("ks", "clustering", "metrics", "bits", "interval_over", "seed", "level")


def _kind(action: Any) -> Any:
    """whole, number, switch, names, wholes, texts, null or any; several of these, with choices in quotes; or flag, which has no value."""
    if action.nargs is not None:
        return "flag"
    kinds = list(dict.fromkeys(_kinds(getattr(action, "_typehint", None))))
    if "any" in kinds:  # takes every text, but names and null are still understood
        kinds = [kind for kind in kinds if kind in ("any", "null") or kind.startswith("'")]
    return kinds if len(kinds) > 1 else kinds[0]


def _kinds(hint: Any) -> list[str]:
    origin = get_origin(hint)
    if origin is Literal:
        return [repr(one) for one in get_args(hint)]
    if origin in (Union, UnionType):
        return [kind for part in get_args(hint) for kind in _kinds(part)]
    if origin in (list, tuple):
        return [{int: "wholes", str: "texts"}.get(get_args(hint)[0], "any")]
    if origin is dict:
        return ["names"]
    return [{int: "whole", float: "number", bool: "switch", NoneType: "null"}.get(hint, "any")]


if __name__ == "__main__":
    FILE.write_text(json.dumps(content(), indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    print(f"written: {FILE}")
