"""Settings of a training run that say what a network sees: data, images and their augmentation, cached features."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from cosphere.errors import SettingsError
from cosphere.fields import Settings, setting
from cosphere.images import Augmentation

LARGEST_SEED = 2**31 - 1


@dataclass(frozen=True, kw_only=True)
class DataSettings(Settings):
    """Data.

    Args:
        root: image folder, table (CSV, Parquet) or root of a known benchmark.
        layout: layout of `root`; "auto" detects it.
        classes: which of nested class folders is the class of an image: "top", or "leaf", the folder that contains it.
        validation_share: share of the training classes, 0 to 0.5, held out as validation classes when the data has no `val` split.
            With 0, every class is used for training and the last model is kept.
        validation_of: what is held out: "classes", or "images" of each class (their share), which probes such as knn/accuracy want.
        validation_seed: seed of the choice of validation classes or images.
        max_unreadable: share of unreadable images, 0 to 1, above which the run stops.
        cache: folder for decoded, resized images (memory-mapped); null decodes images each time.
        workers: processes that decode images; -1 uses one fewer than the cores, at most 8, none on two cores or with a cache on a CPU.
    """

    SECTION: ClassVar[str] = "data."

    root: str = ""
    layout: str = "auto"
    classes: Literal["top", "leaf"] = "top"
    validation_share: float = setting(0.15, at_least=0, at_most=0.5)
    validation_of: Literal["classes", "images"] = "classes"
    validation_seed: int = setting(0, at_least=0, at_most=LARGEST_SEED)
    max_unreadable: float = setting(0.01, at_least=0, at_most=1, changes_numbers=False)
    cache: str | None = setting(None, changes_numbers=False)
    workers: int = setting(-1, at_least=-1, at_most=256, changes_numbers=False)


@dataclass(frozen=True, kw_only=True)
class ImageSettings(Settings):
    """Input images and augmentation.

    Args:
        size: side of the square input, in pixels.
        preset: "sec" (shorter side, random resized crop, flip), "normsoftmax" (squash, random crop, flip), "none", or the views of
            SimCLR: "simclr-cifar" (random resized crop, flip, colours in random order, gray), "simclr-cifar100" (with the mean and
            deviation of CIFAR-100 for random weights), "simclr-224" (stronger, and blur).
        resize: side before the crop, in pixels; null uses the ratio of the preset (256 to 227, 256 to 224, or 1 for those of CIFAR).
        decoding: "exact" decodes every pixel, as the official code of both papers does; "reduced" decodes large JPEG files at 1/2, 1/4
            or 1/8 scale, several times faster.
        smallest_crop: smallest share of the image area in a random crop, not for "normsoftmax"; null uses that of the preset.
        flip: probability of a horizontal flip; null uses 0.5. Set 0 for images whose mirror image means something else (text, stamps).
        rotation: maximum rotation in degrees, in either direction.
        color_jitter: maximum relative change of brightness, contrast and saturation, below 1; null uses that of the preset.
        hue: maximum turn of the hue as a share of the colour circle, up to 0.5; null uses that of the preset.
        color_probability: probability that color_jitter and hue apply to a view; null uses that of the preset.
        grayscale: probability of converting to grayscale; null uses that of the preset.
        blur: probability of a Gaussian blur by 0.1 to 2 pixels; null uses that of the preset.
    """

    SECTION: ClassVar[str] = "images."

    size: int = setting(224, at_least=16, at_most=4096, basic=True)
    preset: Literal["sec", "normsoftmax", "none", "simclr-cifar", "simclr-cifar100", "simclr-224"] = setting(
        "sec", basic=True
    )
    resize: int | None = setting(None, at_least=16, at_most=8192)
    decoding: Literal["exact", "reduced"] = "exact"
    smallest_crop: float | None = setting(None, above=0, at_most=1)
    flip: float | None = setting(None, at_least=0, at_most=1)
    rotation: float = setting(0.0, at_least=0, at_most=180)
    color_jitter: float | None = setting(None, at_least=0, below=1)
    hue: float | None = setting(None, at_least=0, at_most=0.5)
    color_probability: float | None = setting(None, at_least=0, at_most=1)
    grayscale: float | None = setting(None, at_least=0, at_most=1)
    blur: float | None = setting(None, at_least=0, at_most=1)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.resize is not None and self.resize < self.size:
            raise SettingsError(
                f"images.resize {self.resize} is smaller than images.size {self.size}; give at least {self.size}, or null."
            )

    def augmentation(self) -> Augmentation:
        """The random augmentation of training images."""
        chosen: dict[str, Any] = {"preset": self.preset}
        if self.smallest_crop is not None:
            chosen["crop_scale"] = (self.smallest_crop, 1.0)
        for name in ("flip", "rotation", "color_jitter", "hue", "color_probability", "grayscale", "blur"):
            if getattr(self, name) is not None:
                chosen[name] = getattr(self, name)
        return Augmentation(**chosen)


@dataclass(frozen=True, kw_only=True)
class FeatureSettings(Settings):
    """Cached features: train the head alone, on features that the frozen backbone computes once.

    Args:
        copies: augmented copies of each training image whose features are computed and cached; 0 trains on images, and the
            backbone too. The sampler "views" wants at least `batch.views`. On the command line also `--cache-features N`.
        seed: seed of the copies' augmentation; null uses `seed`. Give runs of several seeds one number, and they share features.
        folder: folder of the features, which runs may share; null uses `.features` beside the run's folder. They take copies x
            images x width x 4 bytes.
    """

    SECTION: ClassVar[str] = "features."

    copies: int = setting(0, at_least=0, at_most=10**5, basic=True)
    seed: int | None = setting(None, at_least=0, at_most=LARGEST_SEED)
    folder: str | None = setting(None, changes_numbers=False, fixed=False)
