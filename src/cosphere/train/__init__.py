"""The training loop, its settings, checkpoints and progress."""

from cosphere.train.batches import decoding_workers, scoring_precision
from cosphere.train.loop import TrainResult, train
from cosphere.train.progress import LiveReporter, PlainReporter, Reporter, reporter
from cosphere.train.settings import (
    BatchSettings,
    DataSettings,
    ImageSettings,
    LossSettings,
    OptimizerSettings,
    ScheduleSettings,
    SecSettings,
    TrainSettings,
    ValidationSettings,
)
from cosphere.train.setup import bfloat16_is_native, build_model, untrained_model
from cosphere.train.validation import Evaluate, Validation

__all__ = [
    "BatchSettings",
    "DataSettings",
    "Evaluate",
    "ImageSettings",
    "LiveReporter",
    "LossSettings",
    "OptimizerSettings",
    "PlainReporter",
    "Reporter",
    "ScheduleSettings",
    "SecSettings",
    "TrainResult",
    "TrainSettings",
    "Validation",
    "ValidationSettings",
    "bfloat16_is_native",
    "build_model",
    "decoding_workers",
    "reporter",
    "scoring_precision",
    "train",
    "untrained_model",
]
