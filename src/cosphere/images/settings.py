"""Base of the settings of images: plain values in and out, and the numbers that come in tuples."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, Self

from cosphere.checks import check_number
from cosphere.errors import SettingsError, did_you_mean


class PlainSettings:
    """A frozen dataclass that JSON can hold."""

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON; :meth:`from_dict` reads them back."""
        return {name: list(value) if isinstance(value, tuple) else value for name, value in vars(self).items()}

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> Self:
        """The inverse of :meth:`as_dict`; settings left out take their defaults.

        Raises:
            SettingsError: a name is unknown or a value is impossible.
        """
        names = [field.name for field in dataclasses.fields(cls)]  # type: ignore[arg-type]
        for name in content:
            if name not in names:
                raise SettingsError(f"unknown setting {cls.__name__.lower()}.{name}. {did_you_mean(name, names)}")
        return cls(**content)

    def _set(self, **values: object) -> None:
        """Replace values during ``__post_init__`` by their checked form."""
        for name, value in values.items():
            object.__setattr__(self, name, value)

    def _name(self, name: str) -> str:
        """The dotted name of a setting, as users write it."""
        return f"{type(self).__name__.lower()}.{name}"

    def _numbers(self, name: str, count: int) -> tuple[float, ...]:
        """A setting of ``count`` finite numbers as a tuple; JSON and YAML give a list.

        Raises:
            SettingsError: the value is something else.
        """
        value = getattr(self, name)
        if not isinstance(value, str) and hasattr(value, "__len__") and len(value) == count:
            return tuple(check_number(f"{self._name(name)}[{place}]", number) for place, number in enumerate(value))
        raise SettingsError(f"{self._name(name)} must be {count} numbers; got {value!r}.")
