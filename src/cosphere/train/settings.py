"""Every setting of a training run, with its unit, its range and its default. The command line and recipes fill the same classes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal

from cosphere import fields
from cosphere.errors import SettingsError
from cosphere.fields import Settings, metadata, setting
from cosphere.files import read_yaml, write_yaml
from cosphere.images import Augmentation
from cosphere.models import EmbedderSettings

_LARGEST_SEED = 2**31 - 1


@dataclass(frozen=True, kw_only=True)
class DataSettings(Settings):
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

    SECTION: ClassVar[str] = "data."

    root: str = ""
    layout: str = "auto"
    validation_share: float = setting(0.15, at_least=0, at_most=0.5)
    validation_seed: int = setting(0, at_least=0, at_most=_LARGEST_SEED)
    max_unreadable: float = setting(0.01, at_least=0, at_most=1, changes_numbers=False)
    cache: str | None = setting(None, changes_numbers=False)
    workers: int = setting(-1, at_least=-1, at_most=256, changes_numbers=False)


@dataclass(frozen=True, kw_only=True)
class ImageSettings(Settings):
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

    SECTION: ClassVar[str] = "images."

    size: int = setting(224, at_least=16, at_most=4096, basic=True)
    preset: Literal["sec", "normsoftmax", "none"] = setting("sec", basic=True)
    resize: int | None = setting(None, at_least=16, at_most=8192)
    smallest_crop: float | None = setting(None, above=0, at_most=1)
    flip: float | None = setting(None, at_least=0, at_most=1)
    rotation: float = setting(0.0, at_least=0, at_most=180)
    color_jitter: float = setting(0.0, at_least=0, below=1)
    grayscale: float = setting(0.0, at_least=0, at_most=1)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.resize is not None and self.resize < self.size:
            raise SettingsError(
                f"images.resize {self.resize} is smaller than images.size {self.size}; give at least {self.size}, or null."
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
class BatchSettings(Settings):
    """How a batch is drawn: P classes, K images of each.

    Args:
        size: images in a step and process, P x K.
        images_per_class: K; divides `size`.
        coverage: let an epoch see every image, instead of the papers' independent draws.
        replacement: draw a class's images with replacement only when it has fewer than K ("when_short", SEC) or always ("always",
            NormSoftmax).
        accumulate: batches whose gradients are added before a step. It does not add negatives: each batch's loss sees its own images.
    """

    SECTION: ClassVar[str] = "batch."

    size: int = setting(120, at_least=1, at_most=10**6, basic=True)
    images_per_class: int = setting(3, at_least=1, at_most=10**6, basic=True)
    coverage: bool = False
    replacement: Literal["when_short", "always"] = "when_short"
    accumulate: int = setting(1, at_least=1, at_most=10**4)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.size % self.images_per_class:
            fits = max(1, self.size // self.images_per_class) * self.images_per_class
            raise SettingsError(
                f"batch.size {self.size} does not divide by batch.images_per_class {self.images_per_class}; "
                f"try {fits} or {fits + self.images_per_class}."
            )


@dataclass(frozen=True, kw_only=True)
class LossSettings(Settings):
    """Which loss; `cosphere losses` lists them.

    Args:
        name: name of the loss.
        settings: its own settings, as `margin: 0.2`; what is left out keeps the loss's default.
        memory: past embeddings that a pair loss compares with too (cross-batch memory), at least a batch; 0 for none.
        memory_after: steps before the memory is used, while embeddings still move fast.
    """

    SECTION: ClassVar[str] = "loss."

    name: str = setting("multi_similarity", basic=True)
    settings: dict[str, Any] = field(default_factory=dict, metadata=metadata(basic=True))
    memory: int = setting(0, at_least=0, at_most=10**8)
    memory_after: int = setting(0, at_least=0, at_most=10**9)


@dataclass(frozen=True, kw_only=True)
class SecSettings(Settings):
    """The spherical embedding constraint, added as `weight * sec(embeddings)`.

    Args:
        weight: eta; 0 leaves SEC out. It multiplies squared lengths: a head whose lengths are ten times larger wants a hundredth.
        radius: "batch" (mean length of the batch), "ema", "learned", or a number; 0 is the paper's L2 regulariser.
        momentum: weight of the new batch in "ema", above 0 to 1.
        scale_free: divide the lengths by the radius first, so that one weight serves heads of any scale (ours, not the paper's).
        ramp: "constant", or "linear" from 0 to `weight` over the run (the authors' code for self-supervision).
    """

    SECTION: ClassVar[str] = "sec."

    weight: float = setting(0.0, at_least=0, basic=True)
    radius: float | Literal["batch", "ema", "learned"] = setting("batch", at_least=0)
    momentum: float = setting(0.1, above=0, at_most=1)
    scale_free: bool = False
    ramp: Literal["constant", "linear"] = "constant"


@dataclass(frozen=True, kw_only=True)
class OptimizerSettings(Settings):
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

    SECTION: ClassVar[str] = "optimizer."

    name: Literal["adam", "adamw", "sgd"] = "adam"
    backbone_rate: float = setting(1e-4, at_least=0, basic=True)
    head_rate: float = setting(1e-4, at_least=0, basic=True)
    loss_rate: float | None = setting(None, at_least=0)
    weight_decay: float = setting(1e-4, at_least=0)
    loss_decay: float | None = setting(None, at_least=0)
    decay_norm: bool = False
    decay_bias: bool = True
    momentum: float = setting(0.9, at_least=0, below=1)
    nesterov: bool = False
    clip_norm: float = setting(0.0, at_least=0)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.nesterov and not self.momentum:
            raise SettingsError("optimizer.nesterov wants a momentum above 0.")


@dataclass(frozen=True, kw_only=True)
class ScheduleSettings(Settings):
    """How rates change over the run. One factor multiplies the rate of every group.

    Args:
        name: "constant", "milestones" or "cosine" (to 0 at the last step).
        milestones: steps after which the factor is multiplied by `gamma`.
        gamma: see `milestones`.
        warmup_steps: steps over which the factor rises linearly from 0.
        new_layers_steps: first steps that train only the head and the class weights (NormSoftmax); the optimiser starts afresh after.
    """

    SECTION: ClassVar[str] = "schedule."

    name: Literal["constant", "milestones", "cosine"] = "constant"
    milestones: list[int] = field(default_factory=list)
    gamma: float = setting(0.1, above=0, at_most=10)
    warmup_steps: int = setting(0, at_least=0, at_most=10**9)
    new_layers_steps: int = setting(0, at_least=0, at_most=10**9)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.milestones != sorted(self.milestones) or any(step <= 0 for step in self.milestones):
            raise SettingsError(f"schedule.milestones are rising steps above 0, got {self.milestones}.")


@dataclass(frozen=True, kw_only=True)
class ValidationSettings(Settings):
    """When the model is looked at, and which one is kept.

    Args:
        every: steps between two validations; 0 validates only at the end.
        metric: the score that decides which model is best: any that `cosphere evaluate` shows, such as "recall@1", "map@r" or "mrr".
        patience: validations without a better score before the run stops early; 0 never stops early.
        before: score the untrained model first, so that the run shows what training was worth.
        lens: measure the norm lens on a probe batch at each validation (three more forward passes and one step, undone).
    """

    SECTION: ClassVar[str] = "validation."

    every: int = setting(100, at_least=0, at_most=10**9)
    metric: str = "recall@1"
    patience: int = setting(0, at_least=0, at_most=10**9)
    before: bool = setting(True, changes_numbers=False)
    lens: bool = setting(True, changes_numbers=False)


@dataclass(frozen=True, kw_only=True)
class TrainSettings(Settings):
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

    steps: int = setting(1000, at_least=1, at_most=10**9, fixed=False, basic=True)
    seed: int = setting(0, at_least=0, at_most=_LARGEST_SEED, basic=True)
    precision: Literal["float32", "bf16", "fp16"] = setting("float32", basic=True)
    device: str = setting("auto", changes_numbers=False, fixed=False, basic=True)
    channels_last: bool = True
    freeze_norm: bool = True
    log_every: int = setting(10, at_least=1, at_most=10**9, changes_numbers=False, fixed=False)
    checkpoint_every: int = setting(100, at_least=0, at_most=10**9, changes_numbers=False, fixed=False)
    data: DataSettings = field(default_factory=DataSettings, metadata=metadata(fixed=False))
    images: ImageSettings = field(default_factory=ImageSettings)
    model: EmbedderSettings = field(default_factory=EmbedderSettings)
    batch: BatchSettings = field(default_factory=BatchSettings)
    loss: LossSettings = field(default_factory=LossSettings)
    sec: SecSettings = field(default_factory=SecSettings)
    optimizer: OptimizerSettings = field(default_factory=OptimizerSettings)
    schedule: ScheduleSettings = field(default_factory=ScheduleSettings)
    validation: ValidationSettings = field(default_factory=ValidationSettings, metadata=metadata(fixed=False))

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.schedule.new_layers_steps >= self.steps:
            raise SettingsError(
                f"schedule.new_layers_steps {self.schedule.new_layers_steps} leaves none of the {self.steps} steps for the backbone."
            )

    def as_dict(self) -> dict[str, Any]:
        """Plain values, as they stand in `config.yaml`."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> TrainSettings:
        """The settings that :meth:`as_dict` wrote; what is left out keeps its default.

        Raises:
            SettingsError: an unknown name, a value of another type or out of bounds.
        """
        return fields.build(cls, values)

    @classmethod
    def read(cls, path: str | Path) -> TrainSettings:
        """The settings in a run's `config.yaml` or in a recipe, without its `about`.

        Raises:
            RunError: the file is missing, unreadable or not YAML.
            SettingsError: an unknown name, a value of another type or out of bounds; the file is named.
        """
        values = read_yaml(Path(path), what="settings")
        try:
            return cls.from_dict({key: value for key, value in values.items() if key != "about"})
        except SettingsError as error:
            raise SettingsError(f"{path}: {error}") from error

    def write(self, path: str | Path, *, about: Mapping[str, Any] | None = None) -> None:
        """Write `config.yaml`, all or nothing; :meth:`read` reads it back.

        Args:
            path: the file.
            about: what the recipe says of itself, such as the paper and its published scores.

        Raises:
            RunError: it cannot be written.
        """
        write_yaml(Path(path), {"about": dict(about or {}), **self.as_dict()})

    def with_values(self, values: Mapping[str, Any]) -> TrainSettings:
        """A copy with some settings replaced, by dotted name.

        Args:
            values: such as ``{"steps": 200, "sec.weight": 0.1, "loss.settings.margin": 0.2}``.

        Raises:
            SettingsError: an unknown name (the nearest is given), a value of another type or out of bounds.

        >>> TrainSettings().with_values({"sec.weight": "0.1"}).sec.weight
        0.1
        """
        return fields.override(self, values)

    def with_absolute_paths(self) -> TrainSettings:
        """The same files, whatever the working folder is."""
        paths = {"data.root": self.data.root, "data.cache": self.data.cache}
        if Path(self.model.weights).is_file():
            paths["model.weights"] = self.model.weights
        return self.with_values({name: str(Path(path).absolute()) for name, path in paths.items() if path})

    def identity(self) -> dict[str, Any]:
        """Every setting that a number depends on, nested as in :meth:`as_dict`; the seed is one of them.

        Two runs with equal identities on equal images differ only by rounding.
        """
        return fields.select(self, lambda rule: rule.changes_numbers)

    def step_identity(self) -> dict[str, Any]:
        """Every setting that an optimiser step depends on: a resumed run must keep these."""
        return fields.select(self, lambda rule: rule.fixed)


def read_about(path: str | Path) -> dict[str, Any]:
    """What a recipe, or the `config.yaml` that came of it, says of itself; empty when it says nothing.

    Raises:
        RunError: the file is missing, unreadable or not YAML.
        SettingsError: `about` is no mapping.
    """
    about = read_yaml(Path(path), what="settings").get("about") or {}
    if not isinstance(about, Mapping):
        raise SettingsError(f"{path}: about is {about!r}; wanted names with values.")
    return dict(about)
