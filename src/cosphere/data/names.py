"""Names of classes and splits in one Unicode form, and names that are suspiciously similar."""

from __future__ import annotations

import re
import unicodedata
from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, TypeVar

from cosphere.errors import counted

if TYPE_CHECKING:
    import pandas as pd

_TEXT = ("label", "split", "class_name", "category", "sequence")
_Value = TypeVar("_Value")


def nfc(text: str) -> str:
    """Normalise to composed characters: macOS writes an accent as a character of its own, other systems do not."""
    return unicodedata.normalize("NFC", text)


class ByName(dict[str, _Value]):
    """A mapping that finds a name in another Unicode form too, as a person types it; the same form wins.

    >>> ByName({"caf\u00e9": 1})["cafe\u0301"]
    1
    """

    def __init__(self, values: Mapping[str, _Value]) -> None:
        super().__init__({nfc(str(name)): value for name, value in values.items()} | dict(values))

    def __missing__(self, name: str) -> _Value:
        if nfc(name) == name:
            raise KeyError(name)
        return self[nfc(name)]

    def __contains__(self, name: object) -> bool:
        return super().__contains__(name) or (isinstance(name, str) and super().__contains__(nfc(name)))


def named_in_nfc(table: pd.DataFrame, notes: list[str]) -> pd.DataFrame:
    """Normalise the names in a catalogue's table, so that one name is one class; paths stay as the disk has them.

    Args:
        table: columns of a catalogue.
        notes: receives a sentence about names that remain different but similar.
    """
    columns = [name for name in _TEXT if name in table]
    table = table.assign(
        **{name: table[name].map(lambda cell: nfc(cell) if isinstance(cell, str) else cell) for name in columns}
    )
    for name in columns:
        if name != "class_name":
            notes += similar_names(table[name].dropna().unique(), "class" if name == "label" else name)
    return table


def similar_names(labels: Iterable[str], what: str = "class") -> list[str]:
    """A note about names that differ in capitals, spaces, the form of their characters or of a number only; empty without any.

    Args:
        labels: the names, each once.
        what: what they are names of.

    >>> similar_names(["mug", "Mug", "cup"])
    ["2 classes differ only in capitals, spaces or form of characters: 'Mug' and 'mug'. Rename them if they are one"]
    """
    groups: dict[str, list[str]] = defaultdict(list)
    for label in labels:
        groups[_folded(label)].append(label)
    similar = [sorted(group) for group in groups.values() if len(group) > 1]
    if not similar:
        return []
    first = " and ".join(repr(label[:80]) for label in similar[0])
    return [
        f"{counted(sum(map(len, similar)), what)} differ only in capitals, spaces or form of characters: {first}. "
        "Rename them if they are one"
    ]


def _folded(label: str) -> str:
    """What similar labels share: 1, 01 and 1.0; tea cup and Tea_cup; a name and the same with other dashes or invisible characters."""
    plain = unicodedata.normalize("NFKC", label).casefold()
    if not plain.isascii():
        kinds = ((unicodedata.category(letter), letter) for letter in plain)
        plain = "".join("-" if kind == "Pd" else letter for kind, letter in kinds if kind != "Cf")
    plain = re.sub(r"[\s_]+", "", plain)
    whole, point, part = plain.partition(".")
    is_number = plain.isascii() and whole.isdigit() and not part.strip("0") and bool(part) == bool(point)
    return whole.lstrip("0") or "0" if is_number else plain
