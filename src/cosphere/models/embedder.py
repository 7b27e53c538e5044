"""The embedder: backbone -> pooling -> norm -> linear layer, and all that is needed to use it again.

images (B, 3, H, W) -> backbone -> pool -> backbone.finish -> norm -> linear -> embedding (B, D), raw length
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from cosphere.codes import to_bits
from cosphere.errors import SettingsError, SizeError, did_you_mean
from cosphere.images.preprocessing import Preprocessing
from cosphere.models import bundle
from cosphere.models.backbones import Backbone, build_backbone, default_preprocessing
from cosphere.models.calibration import Calibration
from cosphere.models.heads import NormName, Pooling, PoolingName, make_linear, make_norm
from cosphere.models.inference import evaluation_mode, infer
from cosphere.models.reading import input_batches
from cosphere.tensors import directions

Precision = Literal["float32", "bits"]


@dataclass(frozen=True, kw_only=True)
class EmbedderSettings:
    """What a model is made of.

    Attributes:
        backbone: a timm model, or "bn_inception".
        weights: "imagenet", "none" for random ones, or the path of a .pth or .safetensors file.
        pooling: how places become one vector: "avg", "max", "avg+max", "gem", or a transformer's class "token".
        norm: before the linear layer: "batch" (SEC), "layer" (NormSoftmax; for bits), "none".
        dim: D, numbers in an embedding; 0 leaves the linear layer out and takes the backbone's width.
        bias: whether the linear layer has one.
    """

    backbone: str = "tf_efficientnet_lite0"
    weights: str = "imagenet"
    pooling: PoolingName = "avg"
    norm: NormName = "batch"
    dim: int = 512
    bias: bool = True

    def __post_init__(self) -> None:
        object.__setattr__(self, "weights", str(self.weights))  # a Path too: the bundle's JSON holds text
        for name, known in (("pooling", get_args(PoolingName)), ("norm", get_args(NormName))):
            value = getattr(self, name)
            if value not in known:
                raise SettingsError(f"unknown model.{name} {value!r}. {did_you_mean(str(value), known)}")
        if isinstance(self.dim, bool) or not isinstance(self.dim, int) or self.dim < 0:
            raise SettingsError(f"model.dim must be a whole number of at least 0, got {self.dim!r}. Usual: 512.")


class Embedder(nn.Module):
    """Images in, embeddings out. Make one with :func:`build_embedder` or :meth:`load`.

    Attributes:
        settings: what it is made of.
        preprocessing: how pictures become its input.
        dim: D.
        backbone: features; its own parameters are the pretrained ones.
        pool: the pooling.
        norm: the head's norm.
        linear: the head's linear layer.
        provenance: how it was made and trained; saved with it.
        calibration: from which cosine two pictures count as the same, and how sure that is; None until
            ``cosphere calibrate`` or :func:`cosphere.evaluate.calibrate` chose it. Saved with the model. Putting the model
            in training mode forgets it: other weights have other cosines.
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
        self.pool = Pooling(settings.pooling, prefix_tokens=backbone.prefix_tokens, class_token=backbone.class_token)
        self.norm = make_norm(settings.norm, backbone.width)
        self.linear = make_linear(backbone.width, settings.dim, bias=settings.bias)
        self.dim = settings.dim or backbone.width
        self.provenance: dict[str, Any] = {"weights": backbone.weights_source}
        self.calibration: Calibration | None = None
        self._norm_frozen = False

    def forward(self, inputs: Tensor) -> Tensor:
        """Embeddings of raw length. (B, 3, H, W) float, already normalised -> (B, D).

        Raises:
            SizeError: another shape or type, another size than a transformer was built for, or a training batch of one
                image, which has no variance for batch norm.
        """
        self._check(inputs)
        pooled = self.backbone.finish(self.pool(self.backbone(inputs)))
        embeddings: Tensor = self.linear(self.norm(pooled))
        return embeddings

    def encode(
        self,
        images_or_paths: Iterable[Any] | Tensor,
        batch_size: int = 64,
        normalize: bool = True,
        precision: Precision = "float32",
        progress: bool = False,
        *,
        autocast: torch.dtype | None = None,
    ) -> NDArray[Any]:
        """Embeddings of pictures, in their order.

        The model is put in evaluation mode and left as it was. Pictures are read by threads while the model computes.

        Args:
            images_or_paths: paths, PIL images, uint8 arrays (H, W, 3) or (H, W), uint8 tensors (3, H, W), mixed as you
                like and of any size; one such picture counts as a list of one. A uint8 batch (B, 3, H, W) is B
                pictures. A floating-point tensor (B, 3, H, W) is taken as it is: what ``preprocessing.to_input`` gives.
            batch_size: images at a time.
            normalize: divide each row by its length; a row without a direction becomes zeros.
            precision: "float32", or "bits" for one bit a dimension, 1 where the embedding is above zero.
            progress: show a bar on stderr.
            autocast: compute in this type, such as torch.bfloat16; None keeps float32.

        Returns:
            (N, D) float32; or (N, ceil(D / 8)) uint8, first dimension in the highest bit, as ``numpy.packbits`` has it.

        Raises:
            ImageError: a picture cannot be read; it is named.
            SettingsError: an unknown precision or a batch size below 1.
            SizeError: an array or tensor of another shape.
        """
        if precision not in get_args(Precision):
            raise SettingsError(f"unknown precision {precision!r}. {did_you_mean(str(precision), get_args(Precision))}")
        if batch_size < 1:
            raise SettingsError(f"want a batch_size of at least 1 image, got {batch_size}.")
        device = next(self.parameters()).device
        batches = input_batches(images_or_paths, batch_size, self.preprocessing, device, progress=progress)
        with evaluation_mode(self):
            parts = [infer(self, batch, autocast=autocast) for batch in batches]
        rows = torch.cat(parts) if parts else torch.zeros(0, self.dim)
        if precision == "bits":
            return to_bits(rows).numpy()
        return (directions(rows).unit if normalize else rows).numpy()

    def save(self, path: str | Path) -> None:
        """Write a bundle: a folder with ``model.safetensors`` and ``bundle.json``. An old one there is replaced.

        Raises:
            RunError: the folder cannot be written or the disk is full; an old bundle there still loads.
        """
        bundle.write(
            Path(path),
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
        """Read a bundle, or the one in a run's folder, in evaluation mode. Needs no network and no pretrained weights.

        Raises:
            RunError: there is no bundle, or it is of a newer format or made of unknown settings.
            WeightsError: the weights are damaged or do not fit the settings.
        """
        found = bundle.read(Path(path))
        with found.explained():
            settings = EmbedderSettings(**found.content["settings"])
            preprocessing = Preprocessing.from_dict(found.content["preprocessing"])
            backbone = build_backbone(settings.backbone, "none", image_size=preprocessing.size)
            embedder = cls(settings, backbone, preprocessing)
            stored = found.content.get("calibration")  # bundles of before it was there have none
            embedder.calibration = None if stored is None else Calibration.from_dict(stored)
        found.fill(embedder)
        embedder.provenance = dict(found.content.get("provenance") or {})
        embedder.backbone.weights_source = str(embedder.provenance.get("weights", "bundle"))
        return embedder.to(device).eval()

    @property
    def freeze_backbone_norm(self) -> bool:
        """Whether the backbone's batch norms stay as they are: no new statistics in training, no gradient.

        Setting it takes effect at once and outlasts ``train()``. The head's norm is not touched (SEC's ``freeze_bn``).
        """
        return self._norm_frozen

    @freeze_backbone_norm.setter
    def freeze_backbone_norm(self, frozen: bool) -> None:
        self._norm_frozen = frozen
        for layer in norm_layers(self.backbone):
            layer.requires_grad_(not frozen)
        self.train(self.training)

    def train(self, mode: bool = True) -> Embedder:
        """Training or evaluation mode; frozen backbone norms stay in evaluation mode. Training forgets the calibration."""
        super().train(mode)
        if mode:
            self.calibration = None
        if self._norm_frozen:
            for layer in norm_layers(self.backbone):
                layer.eval()
        return self

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
        if self.training and len(inputs) == 1 and self.settings.norm == "batch":
            raise SizeError(
                "a training batch of 1 image has no variance for batch norm. Use at least 2, or norm='layer'."
            )


def build_embedder(
    settings: EmbedderSettings, *, preprocessing: Preprocessing | None = None, image_size: int = 224
) -> Embedder:
    """Make a model and give its backbone its weights. The head's initial values come from torch's global generator.

    Args:
        settings: what it is made of.
        preprocessing: how pictures become its input; None for the backbone's own numbers with SEC's geometry.
        image_size: pixels, side of the square input; when ``preprocessing`` is given, that decides.

    Raises:
        SettingsError: an unknown backbone or setting.
        SizeError: the backbone cannot take pictures of that size.
        WeightsError: the weights cannot be had or do not fit.
    """
    prepared = preprocessing or default_preprocessing(settings.backbone, settings.weights, image_size)
    backbone = build_backbone(settings.backbone, settings.weights, image_size=prepared.size)
    return Embedder(settings, backbone, prepared)


def norm_layers(module: nn.Module) -> list[nn.Module]:
    """The layers that keep running statistics (all kinds of batch norm), in order."""
    kinds = nn.modules.batchnorm._NormBase
    return [layer for layer in module.modules() if isinstance(layer, kinds) and layer.running_mean is not None]
