"""The training loop, its settings, checkpoints and progress."""

from cosphere.train.loop import Evaluate, TrainResult, build_model, train, untrained_model
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
    "ValidationSettings",
    "build_model",
    "reporter",
    "train",
    "untrained_model",
]
