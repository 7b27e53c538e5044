"""The package's own door: light to import, and every public name is there."""

from __future__ import annotations

import subprocess
import sys

import pytest

import cosphere


def test_importing_loads_nothing_heavy() -> None:
    code = "import sys, cosphere; print([name for name in ('torch', 'numpy', 'pandas', 'timm') if name in sys.modules])"
    found = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert found.stdout.strip() == "[]"


@pytest.mark.parametrize("name", cosphere.__all__)
def test_public_names_resolve(name: str) -> None:
    assert getattr(cosphere, name) is not None
    assert name in dir(cosphere)


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="module 'cosphere' has no attribute 'Sphere'"):
        _ = cosphere.Sphere
