"""The fixtures of this folder."""

from making_gallery import driver, empty

__all__ = ["driver", "empty"]
