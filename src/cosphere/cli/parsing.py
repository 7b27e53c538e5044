"""The parser of all commands: typed settings, one-line errors that name the nearest setting, help with examples."""

from __future__ import annotations

import argparse
import dataclasses
import re
from types import NoneType, UnionType
from typing import Any, Literal, NoReturn, TypeVar, Union, get_args, get_origin

from jsonargparse import ArgumentParser, DefaultHelpFormatter, Namespace

from cosphere.cli.quick import every_name, lacking
from cosphere.cli.recipe_files import recipe_file
from cosphere.errors import SettingsError, one_of
from cosphere.fields import nearest_name, words_of

T = TypeVar("T")
_PLAIN = {kind.__name__: kind for kind in (bool, int, float, str)}


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
        """Parse and check. Dashes in names are accepted for underscores, and a switch by itself means true.

        Raises:
            SettingsError: an unknown setting, a wrong type or a value out of range.
        """
        namespace: Namespace = self.instantiate(self.parse_args(_with_shipped_recipe(self._plain(arguments))))
        return namespace

    def _plain(self, arguments: list[str]) -> list[str]:
        """The arguments with names as they are declared, and switches with a value."""
        switches = {
            option
            for action in self._actions
            if getattr(action, "_typehint", None) is bool
            for option in action.option_strings
        }
        plain: list[str] = []
        at = 0
        while at < len(arguments):
            word, following = arguments[at], arguments[at + 1 : at + 2]
            at += 1
            if word == "--":
                return [*plain, word, *arguments[at:]]
            if word.startswith("--"):
                name, equals, value = word.partition("=")
                name = f"--{name[2:].replace('-', '_')}"
                word = f"{name}{equals}{value}"
                if name in switches and not equals:
                    stated = following and following[0].lower() in ("true", "false")
                    at += bool(stated)
                    word = f"{name}={following[0].lower() if stated else 'true'}"
            plain.append(word)
        return plain

    def _explain(self, message: str) -> str:
        missing = re.search(r"the following arguments are required: (.*)", message)
        if missing:
            return lacking(self.prog, missing.group(1).split(", "))
        unknown = re.search(r"unrecognized arguments: (\S+)", message) or re.search(
            r"Option '([^']+)' is not accepted", message
        )
        if unknown:
            name = unknown.group(1).split("=")[0].lstrip("-")
            names = [key for key in self._names() if key not in ("help", "print_config")]
            if message.startswith("unrecognized") and not unknown.group(1).startswith("-"):
                return f"{unknown.group(1)!r} is one word too many. `{self.prog} --help` shows what it takes."
            if name in names:  # with one dash
                return f"{unknown.group(1).split('=')[0]!r} has one dash; settings have two. Write --{name}."
            return f"there is no setting {name!r}. {nearest_name(name, every_name(names))}"
        inside = re.search(r"Group '([^']+)' does not accept option '([^']+)'", message)
        if inside:
            name = ".".join(inside.groups())
            return f"there is no setting {name!r}. {nearest_name(name, every_name(self._names()))}"
        several = re.search(r'Parser key "([^"]+)": Does not validate .*Given value: (.*)', message)
        if several:
            literals = re.findall(r"'\w+'", " ".join(re.findall(r"Literal\[(.*?)\]", message)))
            number = "a number" if "'float'" in message or "'int'" in message else "null"
            wanted = one_of(dict.fromkeys([number, *literals]))
            return f"{several.group(1)} is {several.group(2)!r}; wanted {wanted}."
        wrong = re.search(r'Parser key "([^"]+)": Expected an? (.+?)\. Got value: (.*)', message)
        if wrong:
            key, kind, value = wrong.groups()
            kind = kind.replace("typing.", "").removeprefix("<class '").removesuffix("'>")
            if kind.startswith("Literal["):
                kind = one_of(re.findall(r"'[^']*'", kind))
            elif kind == "list":
                kind = f"a list in brackets: --{key} '[{value}]'"
            elif kind in _PLAIN:
                kind = words_of(_PLAIN[kind])
            return f"{key} is {value!r}; wanted {kind}."
        return message

    def _names(self) -> list[str]:
        """Dotted names of all settings."""
        return [
            option.lstrip("-")
            for action in self._actions
            for option in action.option_strings
            if option.startswith("--")
        ]


def _with_shipped_recipe(words: list[str]) -> list[str]:
    """The arguments with the file of a recipe of ours where its name was given, as ``ssl/simclr-small``.

    Raises:
        SettingsError: there is neither such a file nor such a recipe; the error names the nearest.
    """
    for at, word in enumerate(words):
        name, equals, value = word.partition("=")
        if name == "--config" and (equals or at + 1 < len(words)):
            file = str(recipe_file(value if equals else words[at + 1]))
            return [*words[:at], name, file, *words[at + (1 if equals else 2) :]]
    return words


def settings_of(kind: type[T], given: Namespace) -> T:
    """The settings object whose fields :meth:`jsonargparse.ArgumentParser.add_class_arguments` declared."""
    return kind(**{field.name: given[field.name] for field in dataclasses.fields(kind)})  # type: ignore[arg-type]
