"""``python -m cosphere`` is the command ``cosphere``."""

from cosphere.cli import command

command()
