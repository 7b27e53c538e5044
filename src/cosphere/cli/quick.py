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
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin

from cosphere.cli.recipe_files import recipe_file
from cosphere.errors import SettingsError, did_you_mean, one_of
from cosphere.fields import nearest_name

FILE = Path(__file__).with_name("options.json")
WIDTH = "100"
"""Columns of the written help."""
HELP = ("-h", "--help")
MODEL = ("model.backbone", "model.weights", "model.dim")
SYNONYMS = {
    "loss": ["loss.name"],
    "sec": ["sec.weight"],
    "sec_weight": ["sec.weight"],
    "lr": ["optimizer.backbone_rate", "optimizer.head_rate"],
    "learning_rate": ["optimizer.backbone_rate", "optimizer.head_rate"],
    "weight_decay": ["optimizer.weight_decay"],
    "batch_size": ["batch.size"],
    "image_size": ["images.size"],
    "backbone": ["model.backbone"],
    "model": ["model.backbone"],
    "weights": ["model.weights"],
    "dim": ["model.dim"],
    "embedding_dim": ["model.dim"],
    "embedding_size": ["model.dim"],
    "workers": ["data.workers"],
    "cache_features": ["features.copies"],
    "optimizer": ["optimizer.name"],
}
"""Names that people type first, and the settings of `cosphere train` that they mean."""
ADVICE = {
    "epochs": "training counts steps, not epochs. Use --steps: one epoch is the number of training images divided by --batch.size",
    "epoch": "training counts steps, not epochs. Use --steps: one epoch is the number of training images divided by --batch.size",
    "max_epochs": "training counts steps, not epochs. Use --steps: one epoch is the number of training images divided by --batch.size",
    "margin": "a setting of the loss is given as --loss.settings.margin",
    "temperature": "a setting of the loss is given as --loss.settings.temperature",
    "output": "the run's folder is --runs FOLDER and --name NAME",
    "out": "the run's folder is --runs FOLDER and --name NAME",
}


@cache
def options() -> dict[str, Any]:
    """What `options.json` holds: for each command its help and its options, the names of the losses, and the names inside options."""
    content: dict[str, Any] = json.loads(FILE.read_text(encoding="utf-8"))
    return content


def every_name(names: Iterable[str]) -> list[str]:
    """Names of options for advice: these, and what goes into those that take any names, such as ``options.flip``."""
    known = list(names)
    return known + [f"{one}.{inner}" for one, its in options()["inside"].items() if one in known for inner in its]


def answer(command: str, arguments: Sequence[str]) -> str | None:
    """The help of a command if it is asked for, else None.

    Raises:
        SettingsError: an option does not exist, its value is of another type, or an argument is missing.
    """
    about = options()["commands"][command]
    words = list(arguments[: arguments.index("--")] if "--" in arguments else arguments)
    if "--help-all" in words:
        return str(about["all"])
    if any(word in HELP for word in words):
        return str(about["short"])
    for place, word in enumerate(words):
        if word.startswith("--") and len(word) > 2:
            name, equals, value = word[2:].partition("=")
            following = words[place + 1] if place + 1 < len(words) else None
            name, value = name.replace("-", "_"), value if equals else following or ""
            _check(about["options"], name, value if equals or following is not None else None)
            if name == "config" and value:
                _check_recipe(about["options"], recipe_file(value))
    given = _positional(arguments, about["options"])
    if given < len(about["needs"]):
        raise SettingsError(lacking(f"cosphere {command}", about["needs"][given:]))
    return None


def lacking(command: str, names: Sequence[str]) -> str:
    """What to say of positional arguments that were not given.

    >>> lacking("cosphere search", ["source", "query"])
    '`cosphere search` still needs: source, query. `cosphere search --help` says what they are.'
    """
    return f"`{command}` still needs: {', '.join(names)}. `{command} --help` says what {'they are' if len(names) > 1 else 'it is'}."


def _positional(arguments: Sequence[str], kinds: dict[str, Any]) -> int:
    """Number of arguments that are neither options nor their values. Every option takes one value, a switch perhaps none."""
    found = at = 0
    while at < len(arguments):
        word = arguments[at]
        at += 1
        if word == "--":
            return found + len(arguments) - at
        name, equals, _ = word[2:].partition("=")
        if not word.startswith("-") or word == "-":
            found += 1
        elif not equals and at < len(arguments):
            switch = kinds.get(name.replace("-", "_")) == "switch"
            at += not switch or arguments[at].lower() in ("true", "false")
    return found


def understood(command: str, arguments: Sequence[str]) -> list[str]:
    """The arguments with :data:`SYNONYMS` replaced by the settings that they mean.

    Raises:
        SettingsError: an option that has no counterpart; the error says what to use.
    """
    if command != "train":
        return list(arguments)
    words: list[str] = []
    at = 0
    while at < len(arguments):
        word = arguments[at]
        at += 1
        name, equals, value = word[2:].partition("=")
        name = name.replace("-", "_")
        if word == "--":
            return [*words, word, *arguments[at:]]
        if word.startswith("--") and name in ADVICE:
            raise SettingsError(f"there is no setting {name!r}: {ADVICE[name]}.")
        if not word.startswith("--") or name not in SYNONYMS:
            words.append(word)
            continue
        if not equals and at < len(arguments):
            value, at = arguments[at], at + 1
        if value.endswith((".yaml", ".yml")) or value.startswith("{"):  # a section given whole
            words += [f"--{name}", value]
        else:
            words += [part for meant in SYNONYMS[name] for part in (f"--{meant}", value)]
    return words


def _check(settings: dict[str, Any], name: str, value: str | None) -> None:
    kind = settings.get(name)
    if kind is None:
        if any(name.startswith(f"{one}.") for one, its in settings.items() if its == "names"):
            return
        raise SettingsError(f"there is no setting {name!r}. {nearest_name(name, every_name(settings))}")
    if value is None:
        return
    if name == "loss.name" and value not in options()["losses"]:
        raise SettingsError(f"no loss is called {value!r}. {did_you_mean(value, options()['losses'])}")
    if isinstance(kind, list):
        if value not in kind:
            raise SettingsError(f"{name} is {value!r}; wanted {one_of(map(repr, kind))}.")
    elif (kind == "whole" and not re.fullmatch(r"[+-]?\d+", value)) or (kind == "number" and not _is_number(value)):
        raise SettingsError(f"{name} is {value!r}; wanted {'a whole number' if kind == 'whole' else 'a number'}.")


def _check_recipe(settings: dict[str, Any], path: Path) -> None:
    """Refuse a recipe that cannot be read, uses aliases or holds an unknown name, before the parser expands it."""
    from cosphere.files import read_yaml

    _check_names(settings, read_yaml(path, what="a recipe"), "")


def _check_names(settings: dict[str, Any], content: dict[str, Any], section: str) -> None:
    for key, value in content.items():
        name = f"{section}{key}"
        is_section = any(one.startswith(f"{name}.") for one in settings)
        if isinstance(value, dict) and is_section and settings.get(name) != "names":
            _check_names(settings, value, f"{name}.")
        elif name not in settings and not is_section:
            raise SettingsError(f"there is no setting {name!r}. {nearest_name(name, every_name(settings))}")


def _is_number(value: str) -> bool:
    try:
        float(value)
    except ValueError:
        return False
    return True


def content() -> dict[str, Any]:
    """What `options.json` should hold."""
    import importlib

    from cosphere import losses
    from cosphere.cli.commands import COMMANDS
    from cosphere.experiment.protocols import PROTOCOLS
    from cosphere.fields import dotted_names

    before, os.environ["COLUMNS"] = os.environ.get("COLUMNS"), WIDTH
    try:
        commands = {name: _command(importlib.import_module(module).parser()) for name, (module, _) in COMMANDS.items()}
    finally:
        if before is None:
            del os.environ["COLUMNS"]
        else:
            os.environ["COLUMNS"] = before
    inside = {
        "options": [name for one in PROTOCOLS.values() for name in dotted_names(one.settings)],
        "loss.settings": [name for one in losses.table() for name in one.defaults],
    }
    return {
        "commands": commands,
        "losses": [entry.name for entry in losses.table()],
        "inside": {option: sorted(set(names)) for option, names in inside.items()},
    }


def _command(parser: Any) -> dict[str, Any]:
    whole = parser.format_help()
    named = {action: _name(action.option_strings) for action in parser._actions if action.option_strings}
    kinds = {name: _kind(getattr(action, "_typehint", None)) for action, name in named.items() if name != "help"}
    # jsonargparse has a second name for each list, such as --ks+, which appends to it.
    kinds |= {word[2:]: "any" for action in named for word in action.option_strings if word.endswith("+")}
    shown = _basic(named.values())
    for action, name in named.items():
        if name not in shown:
            action.help = argparse.SUPPRESS
    short = parser.format_help()
    if short != whole:
        short = f"{short.rstrip()}\n\n`{parser.prog} --help-all` lists every setting.\n"
    needs = [action.dest for action in parser._actions if not action.option_strings and action.nargs in (None, "+")]
    return {"short": short, "all": whole, "needs": needs, "options": kinds}


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


def _kind(hint: Any) -> Any:
    """whole, number, switch, names, a list of choices, or any."""
    if get_origin(hint) is Literal:
        return list(get_args(hint))
    if get_origin(hint) is dict:
        return "names"
    if get_origin(hint) in (Union, UnionType) and NoneType in get_args(hint):
        return "any"
    return {int: "whole", float: "number", bool: "switch"}.get(hint, "any")


if __name__ == "__main__":
    FILE.write_text(json.dumps(content(), indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    print(f"written: {FILE}")
