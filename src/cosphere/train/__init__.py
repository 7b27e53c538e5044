"""The training loop, its settings, checkpoints and progress."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cosphere._lazy import lazily

if TYPE_CHECKING:
    from cosphere.train.batches import decoding_workers as decoding_workers
    from cosphere.train.batches import scoring_precision as scoring_precision
    from cosphere.train.loop import train as train
    from cosphere.train.progress import LiveReporter as LiveReporter
    from cosphere.train.progress import PlainReporter as PlainReporter
    from cosphere.train.progress import Reporter as Reporter
    from cosphere.train.progress import reporter as reporter
    from cosphere.train.result import TrainResult as TrainResult
    from cosphere.train.settings import BatchSettings as BatchSettings
    from cosphere.train.settings import DataSettings as DataSettings
    from cosphere.train.settings import FeatureSettings as FeatureSettings
    from cosphere.train.settings import ImageSettings as ImageSettings
    from cosphere.train.settings import LossSettings as LossSettings
    from cosphere.train.settings import OptimizerSettings as OptimizerSettings
    from cosphere.train.settings import ScheduleSettings as ScheduleSettings
    from cosphere.train.settings import SecSettings as SecSettings
    from cosphere.train.settings import TrainSettings as TrainSettings
    from cosphere.train.settings import ValidationSettings as ValidationSettings
    from cosphere.train.setup import bfloat16_is_native as bfloat16_is_native
    from cosphere.train.setup import build_model as build_model
    from cosphere.train.setup import untrained_model as untrained_model
    from cosphere.train.validation import Evaluate as Evaluate
    from cosphere.train.validation import Validation as Validation
else:
    __getattr__ = lazily(
        __name__,
        {
            "decoding_workers": "cosphere.train.batches",
            "scoring_precision": "cosphere.train.batches",
            "train": "cosphere.train.loop",
            "LiveReporter": "cosphere.train.progress",
            "PlainReporter": "cosphere.train.progress",
            "Reporter": "cosphere.train.progress",
            "reporter": "cosphere.train.progress",
            "TrainResult": "cosphere.train.result",
            "BatchSettings": "cosphere.train.settings",
            "DataSettings": "cosphere.train.settings",
            "FeatureSettings": "cosphere.train.settings",
            "ImageSettings": "cosphere.train.settings",
            "LossSettings": "cosphere.train.settings",
            "OptimizerSettings": "cosphere.train.settings",
            "ScheduleSettings": "cosphere.train.settings",
            "SecSettings": "cosphere.train.settings",
            "TrainSettings": "cosphere.train.settings",
            "ValidationSettings": "cosphere.train.settings",
            "bfloat16_is_native": "cosphere.train.setup",
            "build_model": "cosphere.train.setup",
            "untrained_model": "cosphere.train.setup",
            "Evaluate": "cosphere.train.validation",
            "Validation": "cosphere.train.validation",
        },
    )

__all__ = [
    "BatchSettings",
    "DataSettings",
    "Evaluate",
    "FeatureSettings",
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
