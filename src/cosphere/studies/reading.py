"""Study files: find one by name, read its YAML, expand grids into arms and questions into comparisons."""

from __future__ import annotations

import itertools
import re
import string
from collections.abc import Iterator, Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

from cosphere.errors import SettingsError, did_you_mean
from cosphere.fields import convert, flatten
from cosphere.files import path_of, read_yaml
from cosphere.studies.changes import changed_arms, split_changes, without
from cosphere.studies.checking import check_study
from cosphere.studies.definition import Arm, Comparison, Sampler, Study
from cosphere.studies.spaces import read_space

_NAMES: dict[str, Any] = {
    **dict.fromkeys(("title", "about", "mode"), str),
    **dict.fromkeys(("base", "final", "tune", "modes", "arms", "search", "protocols"), dict[str, Any]),
    **dict.fromkeys(("grids", "questions"), list[dict[str, Any]]),
    **dict.fromkeys(("candidates", "seeds"), int),
    **dict.fromkeys(("smallest", "level"), float),
    "scores": list[str],
}
_SEARCH: dict[str, Any] = {"sampler": Sampler, "seed": int, "seeds": list[int], "metric": str}
_QUESTION: dict[str, Any] = dict.fromkeys(("ask", "arm", "against", "along", "score", "against_score"), str)
_MODE = ("base", "final", "tune", "candidates", "seeds", "search")
_ARM = {"settings", "tune", "values_of"}
_CALLED = ("arm", "against", "along")
"""What a question calls by a name of an arm, an axis or a value."""
EVERY = "*"
"""In a question: every arm, or every value of the axis, but the one that is compared with."""
_ARM_NAME = re.compile(r"(?!\.+$)[A-Za-z0-9_.][A-Za-z0-9_.+-]{0,254}")


def shipped_studies() -> dict[str, Path]:
    """The studies that come with the package: name -> file."""
    folder = Path(str(resources.files("cosphere.studies").joinpath("shipped")))
    return {file.stem: file for file in sorted(folder.glob("*.yaml"))}


def find_study(name: str | Path) -> Path:
    """The file of a study: a path that ends in `.yaml`, or the name of a shipped study.

    Raises:
        SettingsError: there is neither; the error names the nearest study.
    """
    if str(name).endswith((".yaml", ".yml")):
        if not path_of(name).is_file():
            raise SettingsError(f"there is no study file {name}. Check the path, or name one of ours: cosphere study.")
        return path_of(name)
    known = shipped_studies()
    if str(name) not in known:
        raise SettingsError(f"there is no study {str(name)!r}. {did_you_mean(str(name), known)} Or give a .yaml file.")
    return known[str(name)]


def read_study(name: str | Path, *, mode: str | None = None, changes: Mapping[str, Any] | None = None) -> Study:
    """Read and check a study: every setting of every arm is known and allowed before anything runs.

    Args:
        name: of a shipped study, or a file.
        mode: one of the file's modes; None takes the one that the file names.
        changes: settings by dotted name that replace whatever the file says, in both phases and in all arms; what is tuned is then
            fixed. ``final.NAME`` replaces a setting of the final runs alone.

    Raises:
        SettingsError: no such study or mode, or a mistake in it; the error names the arm and the nearest name.
        RunError: the file cannot be read.
    """
    path = find_study(name)
    try:
        return study_of(path.stem, read_yaml(path, what="a study"), mode=mode, changes=changes)
    except SettingsError as error:
        raise SettingsError(f"{path}: {error}") from error


def study_of(
    name: str, content: Mapping[str, Any], *, mode: str | None = None, changes: Mapping[str, Any] | None = None
) -> Study:
    """The study that a file's content describes. See :func:`read_study`."""
    values = _typed(_called_by_text(content), _NAMES, "a study")
    everywhere, final = split_changes(changes or {})
    mode, chosen = _mode(values, mode)
    search = {
        **_typed(values.get("search", {}), _SEARCH, "search"),
        **_typed(chosen.get("search", {}), _SEARCH, "search"),
    }
    tune = {**flat_tune(values.get("tune", {})), **flat_tune(chosen.get("tune", {}))}
    arms = changed_arms({arm.name: arm for arm in _arms(values, tune)}, everywhere)
    scores = tuple(values.get("scores", Study.scores))
    numbers = {key: chosen.get(key, values.get(key)) for key in ("candidates", "seeds")}
    numbers |= {key: values.get(key) for key in ("smallest", "level")}
    study = Study(
        name=name,
        title=values.get("title", name),
        about=" ".join(values.get("about", "").split()),
        mode=mode,
        base={**flatten(values.get("base", {})), **flatten(chosen.get("base", {})), **everywhere},
        final={
            **without({**flatten(values.get("final", {})), **flatten(chosen.get("final", {}))}, everywhere),
            **final,
        },
        arms=arms,
        comparisons=tuple(_comparisons(values.get("questions", []), arms, scores)),
        sampler=search.get("sampler", Study.sampler),
        search_seed=search.get("seed", Study.search_seed),
        tuning_seeds=tuple(search.get("seeds", Study.tuning_seeds)),
        metric=search.get("metric", Study.metric),
        scores=scores,
        protocols={
            protocol: convert(f"protocols.{protocol}", dict[str, Any], given)
            for protocol, given in values.get("protocols", {}).items()
        },
        **{key: value for key, value in numbers.items() if value is not None},
    )
    check_study(study)
    return study


def _called_by_text(content: Mapping[str, Any]) -> dict[str, Any]:
    """A file's content in which modes, arms, axes and their values are called by text: YAML reads a name such as 64 as a number."""
    called = dict(content)
    for key, what in (("arms", "an arm"), ("modes", "a mode")):
        if isinstance(called.get(key), Mapping):
            called[key] = _named(called[key], what)
    if "mode" in called:
        called["mode"] = _name("mode", called["mode"])
    if isinstance(called.get("grids"), list):
        called["grids"] = [_named_axes(grid) if isinstance(grid, Mapping) else grid for grid in called["grids"]]
    if isinstance(called.get("questions"), list):
        called["questions"] = [
            {key: _name(f"{key} of a question", value) if key in _CALLED else value for key, value in asked.items()}
            if isinstance(asked, Mapping)
            else asked
            for asked in called["questions"]
        ]
    return called


def _named_axes(grid: Mapping[Any, Any]) -> dict[str, Any]:
    return {
        axis: _named(values, f"a value of the axis {axis}") if isinstance(values, Mapping) else values
        for axis, values in _named(grid, "an axis").items()
    }


def _named(entries: Mapping[Any, Any], what: str) -> dict[str, Any]:
    """The entries by name.

    Raises:
        SettingsError: two have one name, or a name is neither text nor a number.
    """
    named: dict[str, Any] = {}
    for key, entry in entries.items():
        name = _name(f"the name of {what}", key)
        if name in named:
            raise SettingsError(f"the name of {what} is {name} twice, as a number and as text. Leave one of them out.")
        named[name] = entry
    return named


def _name(what: str, name: Any) -> str:
    if name is None:
        raise SettingsError(f"{what} is left empty; wanted text.")
    if isinstance(name, bool) or not isinstance(name, str | int | float):
        raise SettingsError(
            f"{what} is {name!r}; wanted text. YAML reads words such as yes, no, on and off, and dates, as other values. Write it in "
            "quotes."
        )
    return str(name)


def _typed(content: Mapping[str, Any], known: Mapping[str, Any], what: str) -> dict[str, Any]:
    """The values by name, each of its type.

    Raises:
        SettingsError: an unknown name (the nearest is given) or a value of another type.
    """
    for key in content:
        if key not in known:
            raise SettingsError(f"{what} has no {str(key)!r}. {did_you_mean(str(key), known)}")
    return {key: convert(key, known[key], value) for key, value in content.items()}


def _mode(values: Mapping[str, Any], mode: str | None) -> tuple[str, dict[str, Any]]:
    """The name and the content of a mode; both empty for a file without modes."""
    modes = values.get("modes", {})
    chosen = mode or values.get("mode", "")
    if not chosen:
        if modes:
            raise SettingsError(f"the study has the modes {', '.join(modes)}, and none is chosen. Add `mode: NAME`.")
        return "", {}
    if chosen not in modes:
        known = did_you_mean(chosen, modes) if modes else "The study has no modes."
        raise SettingsError(f"there is no mode {chosen!r}. {known}")
    content = convert(f"modes.{chosen}", dict[str, Any], modes[chosen])
    return chosen, _typed(content, {key: _NAMES[key] for key in _MODE}, f"mode {chosen}")


def flat_tune(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """What is tuned, by dotted name: sections may be nested, a range or list of choices ends a name."""
    flat: dict[str, Any] = {}
    for name, value in values.items():
        ends = not isinstance(value, Mapping) or not value or set(value) & {"from", "to", "choices"}
        flat |= {f"{prefix}{name}": value} if ends else flat_tune(value, f"{prefix}{name}.")
    return flat


def _arms(values: Mapping[str, Any], tune: Mapping[str, Any]) -> Iterator[Arm]:
    """The arms of the grids, then those that are listed.

    Raises:
        SettingsError: two have one name, or one cannot be read.
    """
    names: set[str] = set()
    for arm in itertools.chain(
        itertools.chain.from_iterable(_grid(grid, tune) for grid in values.get("grids", [])),
        (_arm(name, [entry], tune) for name, entry in values.get("arms", {}).items()),
    ):
        if arm.name in names:
            raise SettingsError(f"two arms are called {arm.name!r}. Give each arm one name.")
        names.add(arm.name)
        yield arm


def _grid(grid: Mapping[str, Any], tune: Mapping[str, Any]) -> Iterator[Arm]:
    """Every combination of the values of some axes; its name joins theirs with ``+``."""
    axes = {axis: convert(f"the axis {axis}", dict[str, Any], values) for axis, values in grid.items()}
    for combination in itertools.product(*(values.items() for values in axes.values())):
        name = "+".join(value for value, _ in combination)
        chosen = dict(zip(axes, (value for value, _ in combination), strict=True))
        yield _arm(name, [entry for _, entry in combination], tune, chosen)


def _arm(name: str, entries: Sequence[Any], tune: Mapping[str, Any], values: Mapping[str, str] | None = None) -> Arm:
    """One arm from what each axis says of it; what is tuned for all arms comes first."""
    if not _ARM_NAME.fullmatch(name):
        raise SettingsError(
            f"an arm is called {name!r}; wanted letters, digits and . _ + -, at most 255 and not dots alone, as it names a folder."
        )
    settings: dict[str, Any] = {}
    tuned = dict(tune)
    values_of: str | None = None
    for entry in entries:
        content = convert(f"the arm {name}", dict[str, Any], {} if entry is None else entry)
        if content and set(content) <= _ARM:
            settings |= flatten(convert(f"settings of the arm {name}", dict[str, Any], content.get("settings", {})))
            tuned |= flat_tune(convert(f"tune of the arm {name}", dict[str, Any], content.get("tune", {})))
            given = content.get("values_of", values_of)
            values_of = None if given is None else _name(f"values_of of the arm {name}", given)
            if values_of is not None and "tune" in content:
                raise SettingsError(
                    f"the arm {name} takes the values of {values_of} and tunes its own. Leave out one of the two."
                )
        else:
            settings |= flatten(content)
    # A setting that the arm fixes is not tuned for it, whoever asked for that; nor is anything where it takes another arm's values.
    free = [] if values_of is not None else [key for key in tuned if key not in settings]
    spaces = {key: read_space(key, tuned[key]) for key in free}
    return Arm(name, settings, spaces, dict(values or {}), values_of)


def _comparisons(
    questions: Sequence[Mapping[str, Any]], arms: Mapping[str, Arm], scores: Sequence[str]
) -> Iterator[Comparison]:
    """One comparison for each question, or with ``along`` one for each combination of the other axes.

    Raises:
        SettingsError: a question lacks something, or is about an axis or a value that no arm has.
    """
    for entry in questions:
        asked = _typed(entry, _QUESTION, "a question")
        missing = [key for key in ("ask", "arm", "against") if key not in asked]
        if missing:
            raise SettingsError(f"a question has no {missing[0]!r}; wanted ask, arm and against. Add it.")
        measured = (asked.get("score", next(iter(scores), "")), asked.get("against_score", ""))
        if "along" not in asked and asked["arm"] != EVERY:
            yield Comparison(asked["ask"], asked["arm"], asked["against"], *measured)
            continue
        pairs = list(_pairs(asked, arms))
        if not pairs:
            axes = sorted({f"{axis}: {value}" for arm in arms.values() for axis, value in arm.values.items()})
            where = f" along {asked['along']}" if "along" in asked else ""
            raise SettingsError(
                f"the question {asked['ask']!r} finds no pair {asked['arm']} and {asked['against']}{where}. "
                f"The grids have {', '.join(axes) or 'no axes'}; the arms are {', '.join(arms)}."
            )
        for arm, other in pairs:
            yield Comparison(_worded(asked["ask"], {"arm": arm.name, **arm.values}), arm.name, other.name, *measured)


def _worded(question: str, names: Mapping[str, str]) -> str:
    """A question with each name in braces replaced by what it stands for.

    Raises:
        SettingsError: there is no such name, or the braces hold something else, such as a format.
    """
    use = f"Use {{{'} or {'.join(names)}}}."
    try:
        parts = list(string.Formatter().parse(question))
    except ValueError as error:
        raise SettingsError(f"the question {question!r} has a single brace ({error}). {use}") from error
    text = ""
    for literal, name, form, conversion in parts:
        text += literal
        if name is None:
            continue
        if name not in names or form or conversion:
            raise SettingsError(
                f"the question {question!r} names {name + (f':{form}' if form else '')!r}, which is no axis. {use}"
            )
        text += names[name]
    return text


def _pairs(asked: Mapping[str, str], arms: Mapping[str, Arm]) -> Iterator[tuple[Arm, Arm]]:
    """Arms that differ along one axis alone, in the two values that the question compares; or every other arm and one."""
    if "along" not in asked:
        other = arms.get(asked["against"])
        yield from ((arm, other) for arm in arms.values() if other is not None and arm is not other)
        return
    axis = asked["along"]
    for arm in arms.values():
        value = arm.values.get(axis)
        if value is not None and asked["arm"] in (value, EVERY) and value != asked["against"]:
            other_values = {**arm.values, axis: asked["against"]}
            yield from ((arm, match) for match in arms.values() if match.values == other_values)
