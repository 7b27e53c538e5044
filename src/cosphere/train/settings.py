"""Every setting of a training run, with its unit, its range and its default. The command line and recipes fill the same classes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from cosphere.errors import SettingsError
from cosphere.images import Augmentation
from cosphere.models import EmbedderSettings


def _want(holds: bool, message: str) -> None:
    if not holds:
        raise SettingsError(message)


@dataclass(frozen=True, kw_only=True)
class DataSettings:
    """What is read.

    Args:
        root: image folder, table (CSV, Parquet) or root of a known benchmark.
        layout: how `root` is laid out; "auto" recognises it.
        validation_share: share of the training classes, 0 to 0.5, held out to choose the best model when the data has no validation
            split. 0 uses every class for training and keeps the last model.
        validation_seed: which classes are held out.
        max_unreadable: share of images, 0 to 1, that may be unreadable before the run stops.
        cache: folder for decoded, resized images (memory-mapped); null decodes at every use.
        workers: processes that decode; -1 takes one less than the cores, at most 8, and none on two cores or with a cache on CPU.
    """

    root: str = ""
    layout: str = "auto"
    validation_share: float = 0.15
    validation_seed: int = 0
    max_unreadable: float = 0.01
    cache: str | None = None
    workers: int = -1

    def __post_init__(self) -> None:
        _want(
            0 <= self.validation_share <= 0.5,
            f"data.validation_share is a share from 0 to 0.5, got {self.validation_share}.",
        )
        _want(0 <= self.max_unreadable <= 1, f"data.max_unreadable is a share from 0 to 1, got {self.max_unreadable}.")
        _want(self.workers >= -1, f"data.workers is a number of processes or -1, got {self.workers}.")


@dataclass(frozen=True, kw_only=True)
class ImageSettings:
    """What the network sees.

    Args:
        size: side of the square input in pixels.
        preset: geometry of both papers: "sec" (shorter side, random resized crop, flip), "normsoftmax" (squash, random crop, flip)
            or "none".
        resize: side in pixels before the crop; null takes the preset's own ratio (256 to 227, or 256 to 224).
        smallest_crop: least share of the picture's area in a random crop, preset "sec"; null takes the preset's 0.16.
        flip: probability of a left-right mirror image; null takes the preset's 0.5. Set 0 where sides differ (text, stamps).
        rotation: largest rotation in degrees, either way.
        color_jitter: largest change of brightness, contrast and saturation, as a share below 1.
        grayscale: probability of losing the colour.
    """

    size: int = 224
    preset: Literal["sec", "normsoftmax", "none"] = "sec"
    resize: int | None = None
    smallest_crop: float | None = None
    flip: float | None = None
    rotation: float = 0.0
    color_jitter: float = 0.0
    grayscale: float = 0.0

    def __post_init__(self) -> None:
        _want(self.size >= 16, f"images.size is a side in pixels of at least 16, got {self.size}.")
        _want(
            self.resize is None or self.resize >= self.size,
            f"images.resize {self.resize} is smaller than images.size {self.size}; give at least {self.size}, or null.",
        )

    def augmentation(self) -> Augmentation:
        """What changes a training picture at random."""
        chosen: dict[str, Any] = {"preset": self.preset}
        if self.smallest_crop is not None:
            chosen["crop_scale"] = (self.smallest_crop, 1.0)
        if self.flip is not None:
            chosen["flip"] = self.flip
        for name in ("rotation", "color_jitter", "grayscale"):
            if getattr(self, name):
                chosen[name] = getattr(self, name)
        return Augmentation(**chosen)


@dataclass(frozen=True, kw_only=True)
class BatchSettings:
    """How a batch is drawn: P classes, K images of each.

    Args:
        size: images in a step and process, P x K.
        images_per_class: K; divides `size`.
        coverage: let an epoch see every image, instead of the papers' independent draws.
        replacement: draw a class's images with replacement only when it has fewer than K ("when_short", SEC) or always ("always",
            NormSoftmax).
        accumulate: batches whose gradients are added before a step. It does not add negatives: each batch's loss sees its own images.
    """

    size: int = 120
    images_per_class: int = 3
    coverage: bool = False
    replacement: Literal["when_short", "always"] = "when_short"
    accumulate: int = 1

    def __post_init__(self) -> None:
        _want(self.size >= 1, f"batch.size is a number of images, got {self.size}.")
        _want(self.images_per_class >= 1, f"batch.images_per_class is a number of images, got {self.images_per_class}.")
        _want(self.accumulate >= 1, f"batch.accumulate is a number of batches from 1, got {self.accumulate}.")
        if self.size % self.images_per_class:
            fits = max(1, self.size // self.images_per_class) * self.images_per_class
            raise SettingsError(
                f"batch.size {self.size} does not divide by batch.images_per_class {self.images_per_class}; "
                f"try {fits} or {fits + self.images_per_class}."
            )


@dataclass(frozen=True, kw_only=True)
class LossSettings:
    """Which loss; `cosphere losses` lists them.

    Args:
        name: name of the loss.
        settings: its own settings, as `margin: 0.2`; what is left out keeps the loss's default.
        memory: past embeddings that a pair loss compares with too (cross-batch memory), at least a batch; 0 for none.
        memory_after: steps before the memory is used, while embeddings still move fast.
    """

    name: str = "multi_similarity"
    settings: dict[str, Any] = field(default_factory=dict)
    memory: int = 0
    memory_after: int = 0

    def __post_init__(self) -> None:
        for name in ("memory", "memory_after"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < 0:
                raise SettingsError(f"loss.{name} must be a whole number >= 0, got {value!r}.")


@dataclass(frozen=True, kw_only=True)
class SecSettings:
    """The spherical embedding constraint, added as `weight * sec(embeddings)`.

    Args:
        weight: eta; 0 leaves SEC out. It multiplies squared lengths: a head whose lengths are ten times larger wants a hundredth.
        radius: "batch" (mean length of the batch), "ema", "learned", or a number; 0 is the paper's L2 regulariser.
        momentum: weight of the new batch in "ema", above 0 to 1.
        scale_free: divide the lengths by the radius first, so that one weight serves heads of any scale (ours, not the paper's).
        ramp: "constant", or "linear" from 0 to `weight` over the run (the authors' code for self-supervision).
    """

    weight: float = 0.0
    radius: float | Literal["batch", "ema", "learned"] = "batch"
    momentum: float = 0.1
    scale_free: bool = False
    ramp: Literal["constant", "linear"] = "constant"

    def __post_init__(self) -> None:
        _want(self.weight >= 0, f"sec.weight is at least 0, got {self.weight}.")


@dataclass(frozen=True, kw_only=True)
class OptimizerSettings:
    """How weights move.

    Args:
        name: "adam" (decay coupled, as the SEC authors), "adamw" or "sgd".
        backbone_rate: learning rate of the pretrained network.
        head_rate: learning rate of pooling, norm and linear layer.
        loss_rate: learning rate of class weights and of a learned radius; null takes head_rate.
        weight_decay: of backbone and head.
        loss_decay: of class weights; null takes weight_decay.
        decay_norm: decay the weights of normalisation layers too.
        decay_bias: decay biases too (both founding papers do).
        momentum: of SGD.
        nesterov: of SGD.
        clip_norm: largest norm of the gradient of one step; 0 leaves it as it is.
    """

    name: Literal["adam", "adamw", "sgd"] = "adam"
    backbone_rate: float = 1e-4
    head_rate: float = 1e-4
    loss_rate: float | None = None
    weight_decay: float = 1e-4
    loss_decay: float | None = None
    decay_norm: bool = False
    decay_bias: bool = True
    momentum: float = 0.9
    nesterov: bool = False
    clip_norm: float = 0.0

    def __post_init__(self) -> None:
        _want(self.name in ("adam", "adamw", "sgd"), f"optimizer.name is adam, adamw or sgd, got {self.name!r}.")
        for name in ("backbone_rate", "head_rate", "loss_rate", "weight_decay", "loss_decay", "clip_norm"):
            value = getattr(self, name)
            _want(value is None or value >= 0, f"optimizer.{name} is at least 0, got {value}.")
        _want(0 <= self.momentum < 1, f"optimizer.momentum is from 0 to below 1, got {self.momentum}.")
        _want(not self.nesterov or self.momentum > 0, "optimizer.nesterov wants a momentum above 0.")


@dataclass(frozen=True, kw_only=True)
class ScheduleSettings:
    """How rates change over the run. One factor multiplies the rate of every group.

    Args:
        name: "constant", "milestones" or "cosine" (to 0 at the last step).
        milestones: steps after which the factor is multiplied by `gamma`.
        gamma: see `milestones`.
        warmup_steps: steps over which the factor rises linearly from 0.
        new_layers_steps: first steps that train only the head and the class weights (NormSoftmax); the optimiser starts afresh after.
    """

    name: Literal["constant", "milestones", "cosine"] = "constant"
    milestones: list[int] = field(default_factory=list)
    gamma: float = 0.1
    warmup_steps: int = 0
    new_layers_steps: int = 0

    def __post_init__(self) -> None:
        known = ("constant", "milestones", "cosine")
        _want(self.name in known, f"schedule.name is constant, milestones or cosine, got {self.name!r}.")
        _want(self.warmup_steps >= 0, f"schedule.warmup_steps is at least 0, got {self.warmup_steps}.")
        _want(self.new_layers_steps >= 0, f"schedule.new_layers_steps is at least 0, got {self.new_layers_steps}.")
        _want(
            list(self.milestones) == sorted(self.milestones) and all(step > 0 for step in self.milestones),
            f"schedule.milestones are rising steps above 0, got {self.milestones}.",
        )


@dataclass(frozen=True, kw_only=True)
class ValidationSettings:
    """When the model is looked at, and which one is kept.

    Args:
        every: steps between two validations; 0 validates only at the end.
        metric: the score that decides which model is best: "recall@1", "map@r" or "r_precision".
        patience: validations without a better score before the run stops early; 0 never stops early.
        before: score the untrained model first, so that the run shows what training was worth.
        lens: measure the norm lens on a probe batch at each validation (three more forward passes and one step, undone).
    """

    every: int = 100
    metric: Literal["recall@1", "map@r", "r_precision"] = "recall@1"
    patience: int = 0
    before: bool = True
    lens: bool = True

    def __post_init__(self) -> None:
        _want(self.every >= 0, f"validation.every is a number of steps, got {self.every}.")
        _want(self.patience >= 0, f"validation.patience is a number of validations, got {self.patience}.")


@dataclass(frozen=True, kw_only=True)
class TrainSettings:
    """One training run.

    Args:
        steps: optimiser steps.
        seed: one seed governs the head's first weights, the batches and the augmentation.
        precision: "float32", "bf16" or "fp16" (the last on a GPU only) for the network; losses always compute in float32.
        device: "auto", "cpu", "cuda", "mps".
        channels_last: memory layout of images; faster for convolutions.
        freeze_norm: keep the backbone's batch norm layers as they were trained.
        log_every: steps between two logged lines.
        checkpoint_every: steps between two checkpoints to resume from; 0 writes one at the end.
        data: what is read.
        images: what the network sees.
        model: backbone and head.
        batch: how a batch is drawn.
        loss: the metric loss.
        sec: the spherical embedding constraint.
        optimizer: how weights move.
        schedule: how rates change.
        validation: how the best model is chosen.
    """

    steps: int = 1000
    seed: int = 0
    precision: Literal["float32", "bf16", "fp16"] = "float32"
    device: str = "auto"
    channels_last: bool = True
    freeze_norm: bool = True
    log_every: int = 10
    checkpoint_every: int = 100
    data: DataSettings = field(default_factory=DataSettings)
    images: ImageSettings = field(default_factory=ImageSettings)
    model: EmbedderSettings = field(default_factory=EmbedderSettings)
    batch: BatchSettings = field(default_factory=BatchSettings)
    loss: LossSettings = field(default_factory=LossSettings)
    sec: SecSettings = field(default_factory=SecSettings)
    optimizer: OptimizerSettings = field(default_factory=OptimizerSettings)
    schedule: ScheduleSettings = field(default_factory=ScheduleSettings)
    validation: ValidationSettings = field(default_factory=ValidationSettings)

    def __post_init__(self) -> None:
        _want(self.steps >= 1, f"steps is at least 1, got {self.steps}.")
        _want(0 <= self.seed < 2**31, f"seed is from 0 to 2147483647, got {self.seed}.")
        _want(self.log_every >= 1, f"log_every is at least 1, got {self.log_every}.")
        _want(self.checkpoint_every >= 0, f"checkpoint_every is at least 0, got {self.checkpoint_every}.")
        _want(
            self.schedule.new_layers_steps < self.steps,
            f"schedule.new_layers_steps {self.schedule.new_layers_steps} leaves none of the {self.steps} steps for the backbone.",
        )

    def as_dict(self) -> dict[str, Any]:
        """Plain values, as they stand in `config.yaml`."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> TrainSettings:
        """The settings that :meth:`as_dict` wrote.

        Raises:
            SettingsError: a key or value is not known to this version.
        """
        parts = {
            "data": DataSettings,
            "images": ImageSettings,
            "model": EmbedderSettings,
            "batch": BatchSettings,
            "loss": LossSettings,
            "sec": SecSettings,
            "optimizer": OptimizerSettings,
            "schedule": ScheduleSettings,
            "validation": ValidationSettings,
        }
        try:
            return cls(**{key: parts[key](**value) if key in parts else value for key, value in values.items()})
        except TypeError as error:
            raise SettingsError(f"the settings do not fit this version of Cosphere: {error}.") from error
