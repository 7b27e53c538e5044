"""Building a run: device, model, augmentation, loss."""

from __future__ import annotations

import platform
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from cosphere import losses
from cosphere.data import Catalogue
from cosphere.errors import DataError, SettingsError
from cosphere.images import Augmentation, own_scale, preset
from cosphere.models import Embedder, build_embedder, input_scale, norm_layers
from cosphere.train.batches import BatchStream
from cosphere.train.features import FeatureStream, feature_cache
from cosphere.train.objective import LossFunction
from cosphere.train.progress import Spoken
from cosphere.train.settings import BatchSettings, ScheduleSettings, TrainSettings
from cosphere.train.stream import Stream


def build_accelerator(settings: TrainSettings) -> Accelerator:
    """The accelerator for the device and precision of the settings.

    Raises:
        SettingsError: this machine has no such device, the device no such precision, or several processes were asked for what
            only one can do.
    """
    there = {"auto": True, "cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if not there[settings.device]:
        raise SettingsError(f"device is {settings.device}, but this machine has none. Use --device cpu.")
    on_cpu = settings.device == "cpu" or not (there["cuda"] or there["mps"])
    if settings.precision == "fp16" and on_cpu:
        raise SettingsError("precision fp16 wants a GPU; on a CPU use --precision bf16 or float32.")
    mixed = {"float32": "no"}.get(settings.precision, settings.precision)
    try:
        accelerator = Accelerator(cpu=settings.device == "cpu", mixed_precision=mixed)
    except ValueError as error:
        raise SettingsError(
            f"precision {settings.precision} does not work here: {error} Use --precision float32."
        ) from error
    if accelerator.num_processes > 1 and (settings.schedule.new_layers_steps or settings.sec.radius == "learned"):
        raise SettingsError(
            "schedule.new_layers_steps and sec.radius learned work in one process only. Leave them out, or start one process."
        )
    rows = settings.batch.size * accelerator.num_processes
    if 0 < settings.loss.memory < rows:
        raise SettingsError(
            f"loss.memory {settings.loss.memory} does not hold a batch of all {accelerator.num_processes} processes, {rows} images. "
            f"Set it to {rows} or more, or to 0 for none."
        )
    return accelerator


def bfloat16_is_native() -> bool:
    """Whether this machine's CPU computes in bfloat16. One that does not emulates it, many times slower than float32.

    True where the processor does not say.
    """
    if platform.machine().lower() not in ("x86_64", "amd64"):
        return True
    # Private names of torch; the public torch.cpu.get_capabilities is younger than the oldest torch that is supported.
    questions = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
    return any(getattr(torch.cpu, question, lambda: True)() for question in questions)


def build_model(settings: TrainSettings) -> tuple[Embedder, Augmentation]:
    """The embedder of the settings, with a pretrained backbone and an untrained head, and its augmentation."""
    images = settings.images
    wants = input_scale(settings.model.backbone, settings.model.weights)
    own = own_scale(images.preset) if settings.model.weights == "none" else None
    mean, std = own or (wants.mean, wants.std)
    preprocessing, _ = preset(
        images.preset, images.size, mean=mean, std=std, channels=wants.channels, scale=wants.scale
    )
    preprocessing = replace(preprocessing, resize=images.resize or preprocessing.resize, decoding=images.decoding)
    embedder = build_embedder(settings.model, preprocessing=preprocessing, image_size=images.size)
    embedder.set_trainable(
        backbone=not settings.features.copies, backbone_norm=not settings.freeze_norm and not settings.features.copies
    )
    if settings.channels_last:
        embedder = embedder.to(memory_format=torch.channels_last)
    return embedder, images.augmentation()


def synchronise_norms(embedder: Embedder, accelerator: Accelerator) -> tuple[str, ...]:
    """Let batch norm see the batch of all processes, in place, where several of them train on GPUs.

    Parameters, their names and frozen norms stay as they are. A run of one process is left alone.

    Returns:
        A note where torch cannot synchronise the norms that are trained; otherwise nothing.
    """
    if accelerator.num_processes == 1 or not any(layer.training for layer in norm_layers(embedder)):
        return ()
    if accelerator.device.type != "cuda":
        return (
            "note: batch norm is synchronised on GPUs alone; here each process takes the statistics of its own batch",
        )
    # It keeps the activation of timm's norms, which torch's own loses.
    from timm.layers.norm_act import convert_sync_batchnorm

    convert_sync_batchnorm(embedder)  # type: ignore[no-untyped-call,unused-ignore]
    return ()


def build_loss(settings: TrainSettings, own: LossFunction | None, classes: int, dim: int) -> nn.Module:
    """The loss of a run as a module, with a memory of past batches if the settings ask for one.

    Args:
        settings: of the run. A schedule inside a loss spans ``settings.steps`` unless its settings give it a length; all of
            them count optimiser steps, also where ``batch.accumulate`` calls make one.
        own: a loss to use in place of ``settings.loss``; a plain function is wrapped into a module.
        classes: different labels in training.
        dim: D, width of the embedding.

    Raises:
        SettingsError: no such loss or setting, or a memory for a loss with class weights.
    """
    loss = _chosen_loss(settings, classes, dim) if own is None else own
    loss = loss if isinstance(loss, nn.Module) else _Function(loss)
    for part in loss.modules():
        if hasattr(part, "calls_per_step"):
            cast("losses.Loss", part).calls_per_step = settings.batch.accumulate
    return loss


def _chosen_loss(settings: TrainSettings, classes: int, dim: int) -> nn.Module:
    about, chosen = losses.about(settings.loss.name), settings.loss
    length = {"total_steps": settings.steps} if "total_steps" in about.defaults else {}
    loss = losses.build(chosen.name, num_classes=classes, dim=dim, **{**length, **chosen.settings})
    if not chosen.memory:
        return loss
    if about.uses_class_weights:
        raise SettingsError(
            f"loss.memory is for losses that compare images with images; {chosen.name} compares them with classes. "
            "Leave it out."
        )
    # The memory itself rejects a loss that takes no references.
    return losses.CrossBatchMemory(loss, dim, size=chosen.memory, start_after=chosen.memory_after)  # type: ignore[arg-type]


class _Function(nn.Module):
    """Wraps a user's function as a module, so that the loop treats all losses the same."""

    def __init__(self, function: LossFunction) -> None:
        super().__init__()
        self.function = function
        self.gathers = getattr(function, "gathers", True)

    def forward(self, embeddings: Tensor, labels: Tensor) -> Tensor:
        """The function's value."""
        return self.function(embeddings, labels)

    def after_epoch(self, embed: losses.EmbedTrainingSet) -> None:
        """Forwarded to a callable object that has such a method."""
        hook = getattr(self.function, "after_epoch", None)
        if hook is not None:
            hook(embed)


def build_stream(
    settings: TrainSettings,
    targets: Catalogue,
    embedder: Embedder,
    augmentation: Augmentation,
    accelerator: Accelerator,
    *,
    folder: Path,
    say: Callable[[str], None],
) -> Stream[Any]:
    """The batches of a run: images, or cached features where the settings ask for them.

    Args:
        settings: of the run.
        targets: the training images, under the labels that the loss sees.
        embedder: the model, on its device.
        augmentation: random changes of an image.
        accelerator: of the run.
        folder: of the run.
        say: receives how far the features are.

    Raises:
        DataError, DivergenceError, SettingsError: features cannot be computed.
    """
    share = {"rank": accelerator.process_index, "world_size": accelerator.num_processes}
    cache = feature_cache(settings, folder)
    if cache is None:
        device = accelerator.device
        return BatchStream(targets, settings, embedder.preprocessing, augmentation, device=device, **share)
    return FeatureStream(targets, settings, embedder, augmentation, cache, progress=Spoken("features", say), **share)


def untrained_model(settings: TrainSettings) -> Embedder:
    """The backbone before training, with its pooled features as the embedding: the baseline of a trained model."""
    return build_model(
        replace(settings, model=replace(settings.model, head="linear", head_settings={}, norm="none", dim=0))
    )[0]


def labels_are_images(batch: BatchSettings, loss: LossFunction | None) -> bool:
    """Whether each image is a class of its own, so that its other views are its only positives.

    Args:
        batch: how batches are drawn.
        loss: what it asks for decides where the settings leave it to the loss; a function that says nothing gets images.
    """
    labels_from = batch.view_labels if batch.view_labels != "loss" else getattr(loss, "labels_from", "image")
    return batch.sampler == "views" and labels_from == "image"


def learns_from_labels(settings: TrainSettings) -> bool:
    """Whether a run with the loss of its settings looks at the labels of the images; False where each image is a class of its own.

    Raises:
        SettingsError: no such loss.
    """
    return not labels_are_images(settings.batch, getattr(losses, losses.about(settings.loss.name).title))


def labelled_by_image(images: Catalogue) -> Catalogue:
    """The same rows, each with a label of its own; label i is row i."""
    table = images.table.assign(label=[str(row) for row in range(len(images))])
    return replace(images, table=table.drop(columns="class_name", errors="ignore"))


def check_classes(targets: Catalogue, catalogue: Catalogue) -> None:
    """Raise unless there are labels to compare."""
    if len(targets.label_names) < 2:
        raise DataError(
            f"{catalogue.root} has {len(targets.label_names)} training class; a loss compares classes and wants at least 2. "
            "Put the images of each class into a folder of its own."
        )


def enter_phase(
    step: int, schedule: ScheduleSettings, embedder: Embedder, optimizer: torch.optim.Optimizer
) -> str | None:
    """Freeze the backbone at the start of the first phase, and unfreeze it at the end with a fresh optimiser state.

    Does nothing at other steps, or when ``schedule.new_layers_steps`` is 0.

    Returns:
        a message for the user, or None.
    """
    first = schedule.new_layers_steps
    if not first or step not in (0, first):
        return None
    embedder.set_trainable(backbone=step >= first)
    if step == 0:
        return None
    optimizer.state.clear()
    return f"step {step}: the backbone trains too, with a fresh optimiser"
