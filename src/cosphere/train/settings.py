"""Settings of a training run: units, ranges and defaults. The command line and recipes fill the same classes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal

from cosphere import fields
from cosphere._types import Device
from cosphere.errors import RunError, SettingsError
from cosphere.fields import Settings, metadata, setting
from cosphere.files import is_there, path_of, read_yaml, write_yaml
from cosphere.models import EmbedderSettings
from cosphere.runs import RunFolder
from cosphere.train.beside import BESIDE
from cosphere.train.input_settings import LARGEST_SEED
from cosphere.train.input_settings import DataSettings as DataSettings
from cosphere.train.input_settings import FeatureSettings as FeatureSettings
from cosphere.train.input_settings import ImageSettings as ImageSettings


@dataclass(frozen=True, kw_only=True)
class BatchSettings(Settings):
    """Batches.

    Args:
        sampler: "balanced" (P classes with K images each), "shuffled" (every image once per epoch, whatever its class), "views"
            (every image of a batch several times, augmented differently) or "neighbours" (random classes, each with the classes
            nearest to it, found again after every epoch).
        size: images per step and process, views included. It is rounded down if P x K or the views do not fill it, and lowered if
            the data has fewer classes.
        images_per_class: K, for "balanced" and "neighbours".
        coverage: let every epoch of "balanced" see every image, instead of the independent draws of the papers.
        replacement: draw the images of a class with replacement only if it has fewer than K ("when_short", as SEC does) or always
            ("always", as NormSoftmax does).
        views: of each image, for "views".
        view_labels: what makes two views a positive pair: the same "image", the same "class", or what the "loss" asks for.
        neighbours: classes drawn with each random class, for "neighbours".
        accumulate: batches whose gradients are accumulated before a step. It adds no negatives: a loss sees only its own batch.
    """

    SECTION: ClassVar[str] = "batch."

    sampler: Literal["balanced", "shuffled", "views", "neighbours"] = setting("balanced", basic=True)
    size: int = setting(120, at_least=1, at_most=10**6, basic=True)
    images_per_class: int = setting(3, at_least=1, at_most=10**6, basic=True)
    coverage: bool = False
    replacement: Literal["when_short", "always"] = "when_short"
    views: int = setting(2, at_least=2, at_most=1000)
    view_labels: Literal["loss", "image", "class"] = "loss"
    neighbours: int = setting(4, at_least=1, at_most=10**5)
    accumulate: int = setting(1, at_least=1, at_most=10**4)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.sampler in ("balanced", "neighbours") and self.size < self.images_per_class:
            raise SettingsError(
                f"batch.size {self.size} is smaller than batch.images_per_class {self.images_per_class}; "
                f"try at least {2 * self.images_per_class}, for two classes."
            )
        if self.coverage and self.sampler != "balanced":
            raise SettingsError(f"batch.coverage is for batch.sampler balanced, not {self.sampler}. Leave it out.")


@dataclass(frozen=True, kw_only=True)
class LossSettings(Settings):
    """Loss; `cosphere losses` lists them.

    Args:
        name: name of the loss.
        settings: settings of the loss, such as `margin: 0.2`; the others keep their defaults.
        memory: size of the cross-batch memory: past embeddings that a pair loss also compares with, at least one batch; 0 turns it off.
        memory_after: steps before the memory is used, while embeddings still change quickly.
        gradient_power: multiply the loss's gradient of each embedding by its length over the mean length, to this power; with 2, SGD
            turns short and long embeddings equally far (a control for SEC).
    """

    SECTION: ClassVar[str] = "loss."

    name: str = setting("multi_similarity", basic=True)
    settings: dict[str, Any] = field(default_factory=dict, metadata=metadata(basic=True))
    memory: int = setting(0, at_least=0, at_most=10**8)
    memory_after: int = setting(0, at_least=0, at_most=10**9)
    gradient_power: float = setting(0.0, at_least=0, at_most=4)


@dataclass(frozen=True, kw_only=True)
class SecSettings(Settings):
    """Spherical embedding constraint (SEC), added to the loss as `weight * sec(embeddings)`.

    Args:
        weight: eta; 0 turns SEC off. It multiplies squared lengths: a head with ten times longer embeddings needs a hundredth of it.
        radius: "batch" (mean length of the batch), "ema", "learned", or a number; 0 is the paper's L2 regulariser.
        momentum: weight of the new batch in "ema", above 0 and at most 1.
        scale_free: divide the lengths by the radius first, so that one weight fits heads of any scale (not in the paper).
        ramp: "constant", or "linear" from 0 to `weight` over the run (as in the authors' self-supervised code).
    """

    SECTION: ClassVar[str] = "sec."

    weight: float = setting(0.0, at_least=0, basic=True)
    radius: float | Literal["batch", "ema", "learned"] = setting("batch", at_least=0)
    momentum: float = setting(0.1, above=0, at_most=1)
    scale_free: bool = False
    ramp: Literal["constant", "linear"] = "constant"


@dataclass(frozen=True, kw_only=True)
class OptimizerSettings(Settings):
    """Optimizer.

    Args:
        name: "adam" (coupled weight decay, as the SEC authors use), "adamw", "sgd" or "lars" (SGD with a rate for each weight matrix in
            proportion to its length over that of its gradient, for large batches; biases and norms are neither adapted nor decayed).
        backbone_rate: learning rate of the pretrained network.
        head_rate: learning rate of pooling, norm and linear layer.
        loss_rate: learning rate of class weights and of a learned radius; null uses head_rate.
        weight_decay: weight decay of backbone and head.
        loss_decay: weight decay of class weights; null uses weight_decay.
        decay_norm: also decay the weights of normalisation layers.
        decay_bias: also decay biases (as both founding papers do).
        momentum: momentum of SGD and LARS.
        nesterov: use Nesterov momentum with SGD and LARS.
        trust: trust coefficient of LARS: the share of its length that a weight matrix moves by at rate 1.
        clip_norm: maximum gradient norm of a step; 0 turns clipping off.
    """

    SECTION: ClassVar[str] = "optimizer."

    name: Literal["adam", "adamw", "sgd", "lars"] = "adam"
    backbone_rate: float = setting(1e-4, at_least=0, basic=True)
    head_rate: float = setting(1e-4, at_least=0, basic=True)
    loss_rate: float | None = setting(None, at_least=0)
    weight_decay: float = setting(1e-4, at_least=0)
    loss_decay: float | None = setting(None, at_least=0)
    decay_norm: bool = False
    decay_bias: bool = True
    momentum: float = setting(0.9, at_least=0, below=1)
    nesterov: bool = False
    trust: float = setting(0.001, above=0, at_most=1)
    clip_norm: float = setting(0.0, at_least=0)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.nesterov and not self.momentum:
            raise SettingsError("optimizer.nesterov wants a momentum above 0.")


@dataclass(frozen=True, kw_only=True)
class ScheduleSettings(Settings):
    """Learning-rate schedule. One factor multiplies the rate of every group.

    Args:
        name: "constant", "milestones" or "cosine" (half a cosine from 1 to `final_factor`).
        milestones: steps after which the factor is multiplied by `gamma`.
        gamma: multiplier at each milestone.
        final_factor: where "cosine" would stand after the last step; the last `every` steps have the value at the first of them.
        every: steps between two changes of "cosine"; the steps of an epoch give a schedule by epochs.
        warmup_steps: steps over which the factor rises linearly from 0.
        new_layers_steps: first steps that train only the head and the class weights (NormSoftmax); the optimiser is reset after them.
    """

    SECTION: ClassVar[str] = "schedule."

    name: Literal["constant", "milestones", "cosine"] = "constant"
    milestones: list[int] = field(default_factory=list)
    gamma: float = setting(0.1, above=0, at_most=10)
    final_factor: float = setting(0.0, at_least=0, at_most=1)
    every: int = setting(1, at_least=1, at_most=10**9)
    warmup_steps: int = setting(0, at_least=0, at_most=10**9)
    new_layers_steps: int = setting(0, at_least=0, at_most=10**9)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.milestones != sorted(self.milestones) or any(step <= 0 for step in self.milestones):
            raise SettingsError(f"schedule.milestones are rising steps above 0, got {self.milestones}.")


@dataclass(frozen=True, kw_only=True)
class ValidationSettings(Settings):
    """Validation, and which model is kept.

    Args:
        every: steps between two validations; 0 validates only at the end.
        metric: the score that decides which model is best: any that `cosphere evaluate` shows, such as "recall@1", "map@r" or "mrr".
        patience: validations without an improvement before the run stops early; 0 never stops early.
        before: also score the model before training, so that the run shows the improvement.
        lens: measure the norm lens on a probe batch at each validation (three forward passes and one step, which is undone).
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
        precision: number format that the network computes in: "float32", "bf16" or "fp16" (GPU only); losses always use float32.
        device: "auto", "cpu", "cuda" or "mps".
        channels_last: use the channels-last memory layout, which is faster for convolutions.
        freeze_norm: freeze the batch norm layers of the backbone.
        log_every: steps between two lines of the log.
        checkpoint_every: steps between two checkpoints; 0 writes one at the end.
        data: data.
        images: input images and augmentation.
        features: cached features of a frozen backbone.
        model: backbone and head.
        batch: batches.
        loss: the metric loss.
        sec: the spherical embedding constraint.
        optimizer: optimizer.
        schedule: learning-rate schedule.
        validation: validation, and which model is kept.
    """

    steps: int = setting(1000, at_least=1, at_most=10**9, fixed=False, basic=True)
    seed: int = setting(0, at_least=0, at_most=LARGEST_SEED, basic=True)
    precision: Literal["float32", "bf16", "fp16"] = setting("float32", basic=True)
    device: Device = setting("auto", changes_numbers=False, fixed=False, basic=True)  # noqa: RUF009 - an alias of names
    channels_last: bool = True
    freeze_norm: bool = True
    log_every: int = setting(10, at_least=1, at_most=10**9, changes_numbers=False, fixed=False)
    checkpoint_every: int = setting(100, at_least=0, at_most=10**9, changes_numbers=False, fixed=False)
    data: DataSettings = field(default_factory=DataSettings, metadata=metadata(fixed=False))
    images: ImageSettings = field(default_factory=ImageSettings)
    features: FeatureSettings = field(default_factory=FeatureSettings)
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
        if 0 < self.loss.memory < self.batch.size:
            raise SettingsError(
                f"loss.memory {self.loss.memory} does not hold a batch of batch.size {self.batch.size}. Set it to "
                f"{self.batch.size} or more, or to 0 for none."
            )
        if self.features.copies:
            self._check_frozen()

    def _check_frozen(self) -> None:
        """Reject settings of a run on cached features that would train something below the head's layers."""
        if self.schedule.new_layers_steps:
            raise SettingsError(
                f"schedule.new_layers_steps {self.schedule.new_layers_steps} trains the backbone afterwards, and features.copies "
                f"{self.features.copies} freezes it. Leave one of them out."
            )
        if self.batch.sampler == "views" and self.features.copies < self.batch.views:
            raise SettingsError(
                f"features.copies {self.features.copies} is smaller than batch.views {self.batch.views}, so that two views of an image "
                f"would be the same row. Set it to {self.batch.views} or more, or to 0 to train on images."
            )
        if self.model.pooling in ("gem", "depthwise"):
            raise SettingsError(
                f"model.pooling {self.model.pooling!r} is trained, and features.copies {self.features.copies} computes pooled "
                "features once. Use another pooling, such as 'avg', or features.copies 0."
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
        """The settings in a run's `config.yaml` or in a recipe, without its `about` and `evaluation`.

        Raises:
            RunError: the file is missing, unreadable or not YAML.
            SettingsError: an unknown name, a value of another type or out of bounds; the file is named.
        """
        path = path_of(path)
        run = RunFolder(path.parent)
        if not is_there(path) and is_there(run.marker):
            raise RunError(
                f"{path} is missing, which holds the settings of the run. Put it back from a copy; without it, its model can be used "
                f"alone: {run.model}."
            )
        values = read_yaml(path, what="settings")
        try:
            return cls.from_dict({key: value for key, value in values.items() if key not in BESIDE})
        except SettingsError as error:
            raise SettingsError(f"{path}: {error}") from error

    def write(
        self, path: str | Path, *, about: Mapping[str, Any] | None = None, evaluation: Mapping[str, Any] | None = None
    ) -> None:
        """Write `config.yaml`, all or nothing; :meth:`read` reads it back.

        Args:
            path: the file.
            about: what the recipe says of itself, such as the paper and its published scores.
            evaluation: settings of an evaluation that apply to this run unless others are given.

        Raises:
            RunError: it cannot be written.
        """
        beside = {"about": dict(about or {}), **({"evaluation": dict(evaluation)} if evaluation else {})}
        write_yaml(path_of(path), {**beside, **self.as_dict()})

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
        paths = {"data.root": self.data.root, "data.cache": self.data.cache, "features.folder": self.features.folder}
        if self.model.weights not in ("imagenet", "none") and Path(self.model.weights).exists():
            paths["model.weights"] = self.model.weights
        return self.with_values({name: str(path_of(path).absolute()) for name, path in paths.items() if path})

    def identity(self) -> dict[str, Any]:
        """Every setting that a number depends on, nested as in :meth:`as_dict`; the seed is one of them.

        Two runs with equal identities on equal images differ only by rounding.
        """
        return fields.select(self, lambda rule: rule.changes_numbers)

    def step_identity(self) -> dict[str, Any]:
        """Every setting that an optimiser step depends on: a resumed run must keep these."""
        return fields.select(self, lambda rule: rule.fixed)
