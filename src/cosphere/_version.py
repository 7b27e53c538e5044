"""The version of Cosphere."""

__version__ = "0.1.0"
