"""The parser of all commands: typed settings, one-line errors that name the nearest setting, help with examples."""

from __future__ import annotations

import argparse
import dataclasses
import re
from types import NoneType, UnionType
from typing import Any, Literal, NoReturn, TypeVar, Union, get_args, get_origin

from jsonargparse import ArgumentParser, DefaultHelpFormatter, Namespace

from cosphere.cli.quick import inside, kinds_of, lacking, one_dash, one_too_many
from cosphere.cli.recipe_files import recipe_file
from cosphere.cli.synonyms import unknown
from cosphere.cli.words import Word, joined, misfit, plain, split
from cosphere.errors import SettingsError, one_of
from cosphere.fields import words_of

T = TypeVar("T")


class _Help(DefaultHelpFormatter, argparse.RawDescriptionHelpFormatter):
    """Shows defaults and types, and keeps the line breaks of the examples."""

    def _get_help_string(self, action: argparse.Action) -> str:
        shown = str(super()._get_help_string(action))
        if action.option_strings or action.nargs not in (argparse.OPTIONAL, argparse.ZERO_OR_MORE):
            return shown
        # argparse calls an argument of any number required, and a default of null says nothing
        return (
            shown.replace("(required, ", "(optional, ")
            .replace("(type:", "(optional, type:")
            .replace(", default: %(default)s)", ")" if action.default is None else ", default: %(default)s)")
        )

    def _get_type_str(self, action: argparse.Action) -> str | None:
        hint = getattr(action, "_typehint", None)
        if get_origin(hint) not in (Literal, Union, UnionType):
            return super()._get_type_str(action)
        return one_of(_alternatives(hint, null=action.default is not None))


def _alternatives(hint: Any, *, null: bool) -> list[str]:
    """What a type may be, as the help shows it; ``null`` only where it is not the default, which says it already."""
    if get_origin(hint) is Literal:
        return [str(one) for one in get_args(hint)]
    if hint is NoneType:
        return ["null"] if null else []
    if get_origin(hint) in (Union, UnionType):
        return [word for part in get_args(hint) for word in _alternatives(part, null=null)]
    return [hint.__name__ if isinstance(hint, type) and get_origin(hint) is None else str(hint)]


class CommandParser(ArgumentParser):
    """The parser of one command.

    Args:
        name: the command's name.
        description: what it does, one sentence.
        examples: command lines, shown under `--help`.
        usage: the first line of `--help`; by default it lists every setting.
    """

    def __init__(self, name: str, description: str, examples: list[str], *, usage: str | None = None) -> None:
        shown = "\n".join(f"  {line}" for line in examples)
        super().__init__(
            prog=f"cosphere {name}",
            usage=usage,
            description=description,
            epilog=f"examples:\n{shown}",
            formatter_class=_Help,
            allow_abbrev=False,
        )

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Raise a SettingsError that names the nearest setting, instead of printing the usage and exiting."""
        raise SettingsError(self._explain(" ".join(message.split())))

    def read(self, arguments: list[str]) -> Namespace:
        """Parse and check. Values may be written as people type them, see :func:`cosphere.cli.words.plain`.

        Raises:
            SettingsError: an unknown setting, a wrong type or a value out of range.
        """
        kinds = kinds_of(self)
        words = plain(split(arguments, kinds), kinds)
        namespace: Namespace = self.instantiate(self.parse_args(joined(map(_with_shipped_recipe, words))))
        return namespace

    def _explain(self, message: str) -> str:
        missing = re.search(r"the following arguments are required: (.*)", message)
        if missing:
            options = {action.dest: words[0] for action in self._actions if (words := action.option_strings)}
            return lacking(self.prog, [options.get(name, name) for name in missing.group(1).split(", ")])
        kinds = kinds_of(self)
        extra = re.search(r"unrecognized arguments: (\S+)", message)
        if extra and not extra.group(1).startswith("-"):
            return one_too_many(self.prog, extra.group(1))
        if extra and not extra.group(1).startswith("--"):
            return one_dash(extra.group(1), kinds)
        refused = extra or re.search(r"Option '([^']+)' is not accepted", message)
        if refused:
            return unknown(refused.group(1).split("=")[0].lstrip("-"), kinds, inside(kinds))
        group = re.search(r"Group '([^']+)' does not accept option '([^']+)'", message)
        if group:
            return unknown(".".join(group.groups()), kinds, inside(kinds))
        lone = re.search(r"argument --(\S+): expected one argument", message)
        if lone and lone.group(1) in kinds:
            return misfit(lone.group(1), kinds[lone.group(1)], None) or message
        wrong = re.search(r'Parser key "([^"]+)": .*(?:Given|Got) value: (.*)', message)
        if wrong and wrong.group(1) in kinds:
            key, value = wrong.groups()
            return misfit(key, kinds[key], value) or f"{key} is {value!r}; wanted {self._wanted(key)}."
        return message

    def _wanted(self, key: str) -> str:
        """The type of an option in words."""
        action = next(action for action in self._actions if f"--{key}" in action.option_strings)
        return words_of(getattr(action, "_typehint", None))


def _with_shipped_recipe(word: Word) -> Word:
    """The word with the file of a recipe of ours where its name was given, as ``ssl/simclr-small``.

    Raises:
        SettingsError: there is neither such a file nor such a recipe; the error names the nearest.
    """
    return word._replace(value=str(recipe_file(word.value))) if word.name == "config" and word.value else word


def settings_of(kind: type[T], given: Namespace) -> T:
    """The settings object whose fields :meth:`jsonargparse.ArgumentParser.add_class_arguments` declared."""
    return kind(**{field.name: given[field.name] for field in dataclasses.fields(kind)})  # type: ignore[arg-type]
