"""The words of a command line, as options and values: what people type, in the one form that the parser takes. Loads nothing heavy."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable, Sequence
from decimal import Decimal
from itertools import pairwise
from typing import Any, NamedTuple

from cosphere.errors import one_of

SWITCHES = {
    "true": "true",
    "yes": "true",
    "on": "true",
    "1": "true",
    "false": "false",
    "no": "false",
    "off": "false",
    "0": "false",
}
"""Words for the two positions of a switch."""
_LISTS = {"wholes": ("a list of whole numbers", "1,2"), "texts": ("a list of names", "a,b")}
"""Kind of list -> the list in words, and one as it is typed."""


class Word(NamedTuple):
    """An option with its value, or a positional argument."""

    name: str | None
    """Name of the option, with underscores and without dashes. None for a positional argument, "" for the word ``--``."""
    value: str | None
    """Value of the option, None if it has none; or the positional argument."""


def split(arguments: Sequence[str], kinds: dict[str, Any]) -> list[Word]:
    """Options and positional arguments in order.

    Args:
        arguments: of a command, without its name.
        kinds: option -> kind of its value, as `options.json` holds them. A switch takes the next word only if it is one of
            :data:`SWITCHES`, a flag takes none, and any other option takes the next word that is no option.

    >>> split(["run", "--json", "photos", "--k", "3"], {"json": "switch", "k": "whole"})
    [Word(name=None, value='run'), Word(name='json', value=None), Word(name=None, value='photos'), Word(name='k', value='3')]
    """
    words: list[Word] = []
    at = 0
    while at < len(arguments):
        text = arguments[at]
        at += 1
        if text == "--":
            return [*words, Word("", None), *(Word(None, rest) for rest in arguments[at:])]
        if not text.startswith("--"):
            words.append(Word(None, text))
            continue
        name, equals, value = text[2:].partition("=")
        name = name.replace("-", "_")
        if equals or at == len(arguments) or not _takes(kinds.get(name), arguments[at]):
            words.append(Word(name, value if equals else None))
        else:
            words.append(Word(name, arguments[at]))
            at += 1
    return words


def _takes(kind: Any, following: str) -> bool:
    if kind == "switch":
        return following.lower() in SWITCHES
    return kind != "flag" and not following.startswith("--")


def joined(words: Iterable[Word]) -> list[str]:
    """The words as arguments again, each option and its value in one."""
    return [_joined(word) for word in words]


def _joined(word: Word) -> str:
    if word.name is None:
        return word.value or ""
    return f"--{word.name}" if word.value is None else f"--{word.name}={word.value}"


def plain(words: Iterable[Word], kinds: dict[str, Any]) -> list[Word]:
    """The words with every value in the form that the parser takes.

    A switch by itself is true, and may be yes or no; ``1,2`` and ``1 2`` are lists; ``margin=0.2`` gives names with values; ``1e3`` and
    ``1_000`` are whole numbers; a name out of several may have other capitals, and ``None`` is null. ``~/`` at the beginning of an
    option's value is the home folder, which no shell puts in after ``=``. A value that is no such thing stays as it is.
    """
    return [part for word in words for part in _plain(_at_home(word), kinds.get(word.name or ""))]


def _at_home(word: Word) -> Word:
    if word.name and word.value and re.match(r"~[\w.-]*/", word.value):
        return word._replace(value=os.path.expanduser(word.value))  # noqa: PTH111 - pathlib refuses a name of no user
    return word


def _plain(word: Word, kind: Any) -> list[Word]:
    name, value = word
    if not name:
        return [word]
    if kind == "switch":
        return [Word(name, "true" if value is None else SWITCHES.get(value.lower(), value))]
    if value is None or kind is None:
        return [word]
    if kind == "names":
        return _named(name, value)
    value = _canonical(_alternatives(kind), value)
    items = items_of(kind, value)
    return [Word(name, value if items is None else json.dumps(items))]


def _canonical(kinds: Sequence[str], value: str) -> str:
    """A single value as the parser takes it.

    >>> _canonical(["whole"], "1e3"), _canonical(["number", "'batch'"], "Batch"), _canonical(["'cpu'", "'cuda'"], "cuda:0")
    ('1000', 'batch', 'cuda')
    """
    choices = {one.strip("'") for one in kinds if one.startswith("'")}
    # torch numbers its devices, and the first is the one that a name by itself means
    choice = next((one for one in (value, value.lower(), value.lower().removesuffix(":0")) if one in choices), None)
    if choice is not None:
        return choice
    # of a text, "none" may be the name of something
    if "null" in kinds and (value == "None" or ("any" not in kinds and value.lower() in ("none", "null"))):
        return "null"
    if "whole" in kinds and (whole := whole_of(value)) is not None:
        return str(whole)
    return value.replace("_", "") if "number" in kinds and _is_number(value) else value


def whole_of(text: str) -> int | None:
    """The whole number that a text means, None if it means none.

    >>> whole_of("1e3"), whole_of("1_000"), whole_of("1.5e3"), whole_of("1.5"), whole_of("ten")
    (1000, 1000, 1500, None, None)
    """
    if len(text) > 99 or not re.fullmatch(r"[+-]?\d+(_\d+)*(\.\d*)?([eE]\+?\d{1,2})?", text):
        return None
    number = Decimal(text)
    return int(number) if number == number.to_integral_value() else None


def _named(name: str, value: str) -> list[Word]:
    """``margin=0.2,form=pml`` as one option each; names with dots stay together, because they are names of settings."""
    parts = re.split(r",\s*(?=\w[\w.]*\s*=)", value)
    pairs = [re.fullmatch(r"(\w[\w.]*)\s*=\s*(.+)", part.strip()) for part in parts]
    found = [pair.groups() for pair in pairs if pair]
    if len(found) < len(parts):
        return [Word(name, value)]
    if any("." in key for key, _ in found):
        return [Word(name, "{" + ", ".join(f"{key}: {text}" for key, text in found) + "}")]
    return [Word(f"{name}.{key}", text) for key, text in found]


def items_of(kind: Any, value: str) -> list[Any] | None:
    """The items of a list that was typed with or without brackets, commas and quotes; None if it is no list of this kind.

    >>> items_of("wholes", "1,2"), items_of("wholes", "[1 2"), items_of("texts", "mrr"), items_of("wholes", "all")
    ([1, 2], [1, 2], ['mrr'], None)
    """
    kind = next((one for one in _alternatives(kind) if one in _LISTS), None)
    if kind is None:
        return None
    texts = [item.strip("'\"") for item in re.split(r"[\s,]+", value.strip().strip("[]()").strip(" ,")) if item]
    items: list[Any] = [whole_of(item) for item in texts] if kind == "wholes" else list(texts)
    return None if None in items or "" in items or not (items or "[" in value) else items


def misfit(name: str, kind: Any, value: str | None) -> str | None:
    """What to say of a value that is of another kind than the option's, None if it fits.

    >>> misfit("seed", "whole", "two")
    "seed is 'two'; wanted a whole number."
    """
    if value is None:
        return None if kind == "flag" else f"--{name} has no value; wanted {_described(kind)}."
    if any(_fits(one, value) for one in _alternatives(kind)):
        return None
    text = f"{name} is {value!r}; wanted {_described(kind)}."
    if kind == "names":
        return f"{text} Write --{name} NAME=VALUE."
    if numbered := re.fullmatch(r"cuda:(\d+)", value.lower()):
        return f"{text} CUDA_VISIBLE_DEVICES={numbered[1]} and --{name} cuda take that GPU."
    example = next((_LISTS[one][1] for one in _alternatives(kind) if one in _LISTS), None)
    return text if example is None else f"{text} Write --{name} {example}."


def stray(words: Sequence[Word], kinds: dict[str, Any], *, excess: bool) -> str | None:
    """What to say of a positional argument that was meant as a further item of the list before it, or as a switch's value.

    Args:
        words: options and positional arguments.
        kinds: option -> kind of its value.
        excess: whether the command takes fewer positional arguments. Else only numbers after a list of numbers are meant so.

    Returns:
        the error's text, None if there is no such argument. Files and folders that exist are meant as such.
    """
    for (name, value), after in pairwise(words):
        if not name or after.name is not None or after.value is None or os.path.lexists(after.value):
            continue
        kind = kinds.get(name)
        if excess and kind == "switch" and value is None:
            return f"{name} is {after.value!r}; wanted true or false."
        items = items_of(kind, f"{value} {after.value}") or []
        if items and (excess or isinstance(items[0], int)):
            return f"{after.value!r} is one word too many. A list is one word: --{name} {value},{after.value}."
    return None


def _alternatives(kind: Any) -> list[str]:
    return kind if isinstance(kind, list) else [kind]


def _described(kind: Any) -> str:
    kinds = _alternatives(kind)
    return one_of(_DESCRIPTIONS.get(one, one) for one in (["any"] if "any" in kinds else kinds))


_DESCRIPTIONS = {
    "any": "one",
    "whole": "a whole number",
    "number": "a number",
    "switch": "true or false",
    "names": "names with values",
    **{kind: words for kind, (words, _) in _LISTS.items()},
}


def _fits(kind: str, value: str) -> bool:
    if kind == "whole":
        return whole_of(value) is not None
    if kind == "number":
        return _is_number(value)
    if kind == "switch":
        return value.lower() in SWITCHES
    if kind == "names":
        return value.startswith("{") or ":" in value or value.endswith((".yaml", ".yml", ".json"))
    return items_of(kind, value) is not None if kind in _LISTS else kind == "any" or value == kind.strip("'")


def _is_number(value: str) -> bool:
    try:
        float(value)
    except ValueError:
        return False
    return True
