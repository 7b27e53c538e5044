"""Building blocks of the losses: the engine of pairs, the engine of class weights, base classes and the registry.

The names here are what a loss author needs; docs/extending.md shows them at work. All are also names of ``cosphere.losses``.
"""

from cosphere.losses.engine.base import About, EmbedTrainingSet, Loss, PairLoss, Traits, describe
from cosphere.losses.engine.classes import Classified, ClassLoss, classify, sample_classes
from cosphere.losses.engine.columns import Columns, sum_over_classes
from cosphere.losses.engine.maths import (
    chord,
    connected_zero,
    log_one_plus_exp,
    log_sum_exp,
    mean_or_zero,
    safe_sqrt,
    similarities_held,
    with_gradients,
)
from cosphere.losses.engine.pairs import Compared, Pairs, compare
from cosphere.losses.engine.registry import about, build, table
from cosphere.losses.engine.rows import Block, Sums, blocks, sum_over_rows
from cosphere.losses.engine.softmax import AgainstClasses, against_classes

__all__ = [
    "About",
    "AgainstClasses",
    "Block",
    "ClassLoss",
    "Classified",
    "Columns",
    "Compared",
    "EmbedTrainingSet",
    "Loss",
    "PairLoss",
    "Pairs",
    "Sums",
    "Traits",
    "about",
    "against_classes",
    "blocks",
    "build",
    "chord",
    "classify",
    "compare",
    "connected_zero",
    "describe",
    "log_one_plus_exp",
    "log_sum_exp",
    "mean_or_zero",
    "safe_sqrt",
    "sample_classes",
    "similarities_held",
    "sum_over_classes",
    "sum_over_rows",
    "table",
    "with_gradients",
]
