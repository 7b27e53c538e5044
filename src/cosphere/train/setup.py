"""What a run is built from before its first step: device, model, augmentation."""

from __future__ import annotations

from dataclasses import replace

import torch
from accelerate import Accelerator

from cosphere.data import Catalogue
from cosphere.errors import DataError, SettingsError
from cosphere.images import Augmentation, preset
from cosphere.models import Embedder, build_embedder, input_scale
from cosphere.train.settings import TrainSettings


def build_accelerator(settings: TrainSettings) -> Accelerator:
    """The device and precision that the settings ask for.

    Raises:
        SettingsError: this machine has no such device, or the device no such precision.
    """
    if settings.device not in ("auto", "cpu", "cuda", "mps"):
        raise SettingsError(f"device is auto, cpu, cuda or mps, got {settings.device!r}.")
    if settings.device == "cuda" and not torch.cuda.is_available():
        raise SettingsError("device is cuda, but this machine has no CUDA device. Use --device cpu.")
    on_cpu = settings.device == "cpu" or not (torch.cuda.is_available() or torch.backends.mps.is_available())
    if settings.precision == "fp16" and on_cpu:
        raise SettingsError("precision fp16 wants a GPU; on a CPU use --precision bf16 or float32.")
    return Accelerator(
        cpu=settings.device == "cpu", mixed_precision={"float32": "no"}.get(settings.precision, settings.precision)
    )


def build_model(settings: TrainSettings) -> tuple[Embedder, Augmentation]:
    """The embedder that the settings ask for, untrained but for its backbone, and the augmentation that goes with it."""
    images = settings.images
    wants = input_scale(settings.model.backbone, settings.model.weights)
    preprocessing, _ = preset(
        images.preset, images.size, mean=wants.mean, std=wants.std, channels=wants.channels, scale=wants.scale
    )
    if images.resize is not None:
        preprocessing = replace(preprocessing, resize=images.resize)
    embedder = build_embedder(settings.model, preprocessing=preprocessing, image_size=images.size)
    embedder.freeze_backbone_norm = settings.freeze_norm
    if settings.channels_last:
        embedder = embedder.to(memory_format=torch.channels_last)
    return embedder, images.augmentation()


def untrained_model(settings: TrainSettings) -> Embedder:
    """The backbone as it was before training, its pooled features the embedding: what a trained model has to beat."""
    return build_model(replace(settings, model=replace(settings.model, norm="none", dim=0)))[0]


def check_classes(train: Catalogue, catalogue: Catalogue) -> None:
    """Raise unless there are classes to compare."""
    if len(train.class_names) < 2:
        raise DataError(
            f"{catalogue.root} has {len(train.class_names)} training class; a loss compares classes and wants at least 2. "
            "Put the images of each class into a folder of its own."
        )


def set_backbone_trainable(embedder: Embedder, trainable: bool) -> None:
    """Let the backbone move or hold it still. Frozen norm layers stay frozen."""
    embedder.backbone.requires_grad_(trainable)
    embedder.freeze_backbone_norm = embedder.freeze_backbone_norm
