"""The embedder: backbone -> head, and all that is needed to use it again.

images (B, 3, H, W) -> backbone -> head -> embedding (B, D) of raw length
                                    at test time: head.combine -> (B, D')
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sized
from functools import partial
from pathlib import Path
from typing import Any, cast

import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from cosphere.checks import check_made, check_switches
from cosphere.codes import to_bits
from cosphere.errors import SizeError
from cosphere.files import path_of
from cosphere.images import Preprocessing
from cosphere.models import bundle, feature_rows, fingerprint
from cosphere.models.backbones import Backbone, build_backbone, default_preprocessing
from cosphere.models.calibration import Calibration
from cosphere.models.depthwise import depthwise_in_float32
from cosphere.models.encode_arguments import Precision, check_arguments
from cosphere.models.frozen_norms import FrozenNorms
from cosphere.models.heads import Features, build_head
from cosphere.models.inference import evaluation_mode, infer, rows_of
from cosphere.models.published_heads import take_published_head
from cosphere.models.quick import MANY, Forward, QuickForms
from cosphere.models.reading import input_batches
from cosphere.models.settings import EmbedderSettings as EmbedderSettings
from cosphere.models.weights import cut_weights, fit_weights
from cosphere.tensors import directions


class Embedder(nn.Module):
    """Images in, embeddings out. Create one with :func:`build_embedder` or :meth:`load`.

    Attributes:
        settings: what it is made of.
        preprocessing: how images become its input.
        backbone: features; its parameters are the pretrained ones.
        head: from features to the embedding; see :mod:`cosphere.models.heads`.
        provenance: how it was made and trained; saved with it.
        calibration: the match threshold and its confidence; None until ``cosphere calibrate`` or
            :func:`cosphere.evaluate.calibrate` chose one. Saved with the model. Training mode discards it, because other
            weights give other cosines.
    """

    def __init__(self, settings: EmbedderSettings, backbone: Backbone, preprocessing: Preprocessing) -> None:
        super().__init__()
        if backbone.fixed_size not in (None, preprocessing.size):
            raise SizeError(
                f"preprocessing gives {preprocessing.size} px, but {backbone.name!r} "
                f"was built for {backbone.fixed_size} px. Make both the same."
            )
        self.settings = settings
        self.preprocessing = preprocessing
        self.backbone = backbone
        self.head = build_head(settings.head, backbone.shape, settings.shared, settings.head_settings)
        self.provenance: dict[str, Any] = {"weights": backbone.weights_source}
        self.calibration: Calibration | None = None
        self._backbone_trains = self._backbone_norm_trains = True
        self._weights_digest, self._backbone_digest = fingerprint.CachedDigest(), fingerprint.CachedDigest()
        self._quick, self._frozen_norms = QuickForms(), FrozenNorms()

    @property
    def dim(self) -> int:
        """D, the width of what :meth:`forward` gives and losses see."""
        return self.head.dim

    @property
    def output_dim(self) -> int:
        """D', the width of what :meth:`embed_inputs` and :meth:`encode` give; D unless the head combines its parts."""
        return self.head.output_dim

    @property
    def id(self) -> str:
        """Fingerprint of weights, preprocessing and architecture: 64 hexadecimal digits.

        Two models with one id give the same embeddings. It survives saving, loading and moving to another device or machine.
        It is computed when first asked for and again after the weights changed.
        """
        weights = self._weights_digest(self.state_dict(keep_vars=True))
        return fingerprint.of_model(self.settings, self.preprocessing, weights)

    @property
    def feature_width(self) -> int:
        """W, the width of what :meth:`pooled` gives.

        Raises:
            SettingsError: as for :meth:`pooled`.
        """
        return sum(feature_rows.widths(self.backbone, self.head))

    @property
    def feature_id(self) -> str:
        """Fingerprint of everything that :meth:`pooled` depends on, as :attr:`id`; the head's layers are no part of it.

        Raises:
            SettingsError: as for :meth:`pooled`.
        """
        feature_rows.poolings(self.head)
        return fingerprint.of_content(
            {
                "backbone": self.settings.backbone,
                **({} if self.settings.stem == "own" else {"stem": self.settings.stem}),
                "pooling": self.settings.pooling,
                "levels": list(self.head.wants),
                "preprocessing": fingerprint.non_default(self.preprocessing),
                "weights": self._backbone_digest(self.backbone.state_dict(keep_vars=True)),
            }
        )

    def forward(self, inputs: Tensor) -> Tensor:
        """Embeddings of raw length, for losses.

        Args:
            inputs: (B, 3, H, W) float, already normalised; or (B, W) float, what :meth:`pooled` gave for such images.

        Returns:
            (B, D).

        Raises:
            SizeError: another shape or type, another size than a transformer was built for, or a training batch of one
                image, which has no variance for batch norm.
        """
        frozen = self.training and not self._backbone_norm_trains
        norms = self._frozen_norms.in_weights(self.backbone, self.head.wants, inputs, frozen=frozen)
        with norms, depthwise_in_float32(inputs):
            return cast("Tensor", self.head(self._features(inputs)))

    def pooled(self, inputs: Tensor) -> Tensor:
        """The pooled features of images, which :meth:`forward` and :meth:`embed_inputs` take in place of the images.

        They are what the backbone gives after pooling and before the head's normalisation and linear layers, for each level
        that the head uses.

        Args:
            inputs: (B, 3, H, W) float, already normalised.

        Returns:
            (B, W).

        Raises:
            SettingsError: the head's pooling is trained ("gem"), or it pools by itself.
            SizeError: as for :meth:`forward`.
        """
        self._check(inputs)
        return feature_rows.pooled(self.backbone, self.head, inputs)

    def embed_inputs(self, inputs: Tensor) -> Tensor:
        """Embeddings as they are stored and compared: :meth:`forward` with the parts of the head combined.

        Args:
            inputs: as for :meth:`forward`, of any floating type; converted to the type of the model.

        Returns:
            (B, D'), of raw length where the head does not normalise.

        Raises:
            SizeError: as for :meth:`forward`.
        """
        return self.head.embed(self._features(inputs, next(self.parameters()).dtype))

    def encode(
        self,
        images_or_paths: Iterable[Any] | Tensor,
        batch_size: int = 64,
        normalize: bool = True,
        precision: Precision = "float32",
        progress: bool = False,
        *,
        autocast: torch.dtype | None = None,
        fast: bool | None = None,
        **others: Any,
    ) -> NDArray[Any]:
        """Embed images, in their order.

        The model computes in evaluation mode, and its mode is restored afterwards. Threads read images meanwhile.

        Many images on a CPU are embedded in the quick form of the model: with batch norm folded into the convolutions of a
        copy, in parts that fit the caches, where that is measured to be faster (:attr:`quick_note`). Rows differ from those of
        the plain network by rounding: by 1e-4 of their length at most, usually by 1e-6.

        Args:
            images_or_paths: paths, bytes of image files, binary file objects, PIL images, uint8 arrays (H, W) or (H, W, C) with
                1 to 4 channels, uint8 tensors (3, H, W), in any mixture and of any size; a single image counts as a list of one. A
                uint8 batch (B, 3, H, W) is B images, an array (B, H, W) B gray ones if W is 8 or more. A floating-point
                tensor (B, 3, H, W) is network input, such as ``preprocessing.to_input`` returns. All forms of one image
                give one embedding; for pixels of a large JPEG that others decoded, see
                ``decoding`` of :class:`~cosphere.images.Preprocessing`.
            batch_size: number of images that are read together; a GPU embeds them in one forward pass, a CPU in parts of at most 64.
            normalize: scale each row to length 1; a row too short to have a direction becomes zeros.
            precision: "float32", or "bits" for one bit per dimension, 1 where the embedding is above zero.
            progress: show a progress bar on stderr.
            autocast: compute in this type, such as torch.bfloat16; None keeps float32. Rows are float32 either way.
            fast: take the quick form; None takes it for a call of 512 images or more, if their number is known. False gives the
                rows of the plain network, as training and evaluation do.
            others: none; the error names the counterpart of an argument of sentence-transformers.

        Returns:
            (N, D') float32; or (N, ceil(D' / 8)) uint8, first dimension in the highest bit, as ``numpy.packbits`` does.

        Raises:
            DivergenceError: an embedding is NaN or infinite, as after a training that diverged.
            RuntimeWarning: different images have one and the same embedding.
            ImageError: an image cannot be read; it is named.
            SettingsError: an unknown argument or precision, or a value out of range.
            SizeError: an array or tensor of another shape.
        """
        check_arguments(
            batch_size=batch_size,
            normalize=normalize,
            precision=precision,
            progress=progress,
            autocast=autocast,
            fast=fast,
            others=others,
        )
        device = next(self.parameters()).device
        if fast is None:
            fast = isinstance(images_or_paths, Sized) and len(images_or_paths) >= MANY
        batches = input_batches(images_or_paths, batch_size, self.preprocessing, device, progress=progress)
        with evaluation_mode(self):
            rows = rows_of(batches, self.inference(fast=fast, autocast=autocast), self.output_dim)
        if precision == "bits":
            return to_bits(rows).numpy()
        return (directions(rows).unit if normalize else rows).numpy()

    def inference(self, *, fast: bool = False, autocast: torch.dtype | None = None) -> Forward:
        """A function from network input (B, 3, H, W) to rows as :meth:`encode` computes them: (B, D') float32, raw, on the CPU.

        Call it while the model is in evaluation mode and its weights stay as they are.

        Args:
            fast: take the quick form of the model, see :meth:`encode`. On a GPU it is the plain network.
            autocast: as for :meth:`encode`.
        """
        check_switches(fast=fast)
        return self._quick.forward(self, autocast) if fast else partial(infer, self, autocast=autocast)

    @property
    def quick_note(self) -> str:
        """One sentence on the quick form that was used last; empty where that was the plain network."""
        return self._quick.note

    def save(self, path: str | Path) -> None:
        """Write a bundle: a folder with ``model.safetensors`` and ``bundle.json``. An existing one is replaced.

        Raises:
            RunError: the folder cannot be written or the disk is full; the existing bundle still loads.
        """
        bundle.write(
            path_of(path),
            tensors=self.state_dict(),
            content={
                "settings": dataclasses.asdict(self.settings),
                "preprocessing": self.preprocessing.as_dict(),
                "provenance": self.provenance,
                "calibration": None if self.calibration is None else self.calibration.as_dict(),
            },
        )

    @classmethod
    def load(cls, path: str | Path, device: str | torch.device = "cpu") -> Embedder:
        """Load a bundle, or that of a run's folder, in evaluation mode. Needs no network and no pretrained weights.

        Raises:
            RunError: there is no bundle, or it has a newer format or unknown settings.
            WeightsError: the weights are damaged or do not fit the settings.
        """
        stored = bundle.read(path_of(path))
        with stored.explained(), bundle.ToBeFilled():
            settings = EmbedderSettings(**stored.section("settings"))
            preprocessing = Preprocessing.from_dict(stored.section("preprocessing"))
            backbone = build_backbone(settings.backbone, "none", image_size=preprocessing.size, stem=settings.stem)
            embedder = cls(settings, backbone, preprocessing)
            calibration = stored.section("calibration", needed=False)  # absent from the oldest bundles
            own = Calibration.from_dict(calibration) if calibration else None
            provenance = stored.section("provenance", needed=False)
        stored.fill(embedder, settings.backbone)
        embedder.calibration = own
        embedder.provenance = provenance
        embedder.backbone.weights_source = str(embedder.provenance.get("weights", "bundle"))
        return embedder.to(device).eval()

    def load_state_dict(self, *given: Any, **options: Any) -> Any:
        """Take other weights, see :meth:`torch.nn.Module.load_state_dict`; discards the calibration, which is not theirs."""
        self.calibration = None
        self._quick.clear()
        return super().load_state_dict(*given, **options)

    def set_trainable(self, *, backbone: bool | None = None, backbone_norm: bool | None = None) -> None:
        """Choose what training changes. The head is always trained.

        Args:
            backbone: whether the backbone's parameters get gradients; None leaves that as it is.
            backbone_norm: whether the backbone's batch norms are trained. When not, they get no gradients and keep their
                running statistics, in training mode too (SEC's ``freeze_bn``); None leaves that as it is.
        """
        if backbone is not None:
            check_switches(backbone=backbone)
            self._backbone_trains = backbone
            self.backbone.requires_grad_(backbone)
        if backbone_norm is not None:
            check_switches(backbone_norm=backbone_norm)
            self._backbone_norm_trains = backbone_norm
        for layer in norm_layers(self.backbone):
            layer.requires_grad_(self._backbone_trains and self._backbone_norm_trains)
        self.train(self.training)

    def train(self, mode: bool = True) -> Embedder:
        """Training or evaluation mode; frozen batch norms stay in evaluation mode. Training mode discards the calibration."""
        super().train(mode)
        if mode:
            self.calibration = None
            self._quick.clear()
        if not self._backbone_norm_trains:
            for layer in norm_layers(self.backbone):
                layer.eval()
        return self

    def _features(self, inputs: Tensor, dtype: torch.dtype | None = None) -> list[Features]:
        """What the head takes, of images or of their pooled features; these are converted to ``dtype`` first."""
        if inputs.ndim == 2 and inputs.is_floating_point():
            self._check_variance(inputs)
            return feature_rows.as_levels(inputs.to(dtype or inputs.dtype), self.backbone, self.head)
        self._check(inputs)
        return self.backbone.features(inputs.to(dtype or inputs.dtype), self.head.wants)

    def _check(self, inputs: Tensor) -> None:
        if inputs.ndim != 4 or inputs.shape[1] != 3 or not inputs.is_floating_point():
            raise SizeError(
                f"want a float batch (B, 3, H, W), got {tuple(inputs.shape)} {inputs.dtype}. "
                "embedder.preprocessing.to_input makes one of uint8 pixels; embedder.encode takes pictures."
            )
        if self.backbone.fixed_size not in (None, inputs.shape[2]) or self.backbone.fixed_size not in (
            None,
            inputs.shape[3],
        ):
            raise SizeError(
                f"{self.backbone.name!r} was built for {self.backbone.fixed_size} px, got {tuple(inputs.shape[2:])}. "
                "Resize the pictures, or build it for that size."
            )
        self._check_variance(inputs)

    def _check_variance(self, inputs: Tensor) -> None:
        if self.training and len(inputs) == 1 and any(isinstance(part, nn.BatchNorm1d) for part in self.head.modules()):
            other = ", or norm='layer'" if self.settings.norm == "batch" else ""
            raise SizeError(f"a training batch of 1 image has no variance for batch norm. Use at least 2{other}.")


def build_embedder(
    settings: EmbedderSettings, *, preprocessing: Preprocessing | None = None, image_size: int = 224
) -> Embedder:
    """Create a model and load the weights of its backbone. The head's initial values come from torch's global generator.

    Args:
        settings: what it is made of.
        preprocessing: how images become its input; None for the backbone's own mean and std with SEC's geometry.
        image_size: pixels, side of the square input; ignored if ``preprocessing`` is given.

    Raises:
        SettingsError: an unknown backbone or setting.
        SizeError: the backbone does not accept images of that size.
        WeightsError: the weights are not available or do not fit.
    """
    check_made("settings", settings, EmbedderSettings, "EmbedderSettings(dim=512)")
    preprocessing = preprocessing or default_preprocessing(settings.backbone, settings.weights, image_size)
    backbone = build_backbone(settings.backbone, settings.weights, image_size=preprocessing.size, stem=settings.stem)
    embedder = Embedder(settings, backbone, preprocessing)
    cut_weights(embedder, settings.cut)
    if settings.weights not in ("imagenet", "none") and Path(settings.weights).is_dir():
        stored = bundle.read(Path(settings.weights))
        _take_head(embedder, stored)
        before = sorted(bundle.trained_classes(stored.content.get("provenance")))
        embedder.provenance |= {"classes_before": before} if before else {}
    else:
        source = take_published_head(embedder.head, backbone.net, settings.weights)
        embedder.provenance["weights"] = source or embedder.provenance["weights"]
    return embedder


def _take_head(embedder: Embedder, stored: bundle.Bundle) -> None:
    """Load the head of another model where it is made like this one's."""
    with stored.explained():
        other, own = EmbedderSettings(**stored.section("settings")), embedder.settings
    if (other.head, other.head_settings, other.shared) == (own.head, own.head_settings, own.shared):
        fit_weights(embedder.head, stored.tensors("head."), source=str(stored.path), name=own.head)


def norm_layers(module: nn.Module) -> list[nn.Module]:
    """The layers with running statistics (all kinds of batch norm), in order."""
    kinds = nn.modules.batchnorm._NormBase
    return [layer for layer in module.modules() if isinstance(layer, kinds) and layer.running_mean is not None]
