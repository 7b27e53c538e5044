"""How the functions of this room tell how far they are."""

from __future__ import annotations

from collections.abc import Callable

Progress = Callable[[int, int], object]
"""Called with what is done and what is to be done in all: queries, rows, images, forms, steps."""
