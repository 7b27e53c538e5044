"""Options that people type because other tools have them, and what they mean here. Loads nothing heavy."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Any

from cosphere.cli.words import Word
from cosphere.errors import SettingsError
from cosphere.fields import nearest_name

_MEANINGS = {
    "data.root": "data dataset data_dir data_path data_root dataroot root train_dir",
    "data.workers": "workers num_workers n_workers nworkers j jobs",
    "data.validation_share": "val_split validation_split val_share val_ratio validation_ratio validation_share holdout test_size",
    "images.size": "images imgsz img_size imgsize image_size imagesize input_size crop_size resolution",
    "features.copies": "features cache_features",
    "model.backbone": "model backbone arch architecture network net encoder model_name",
    "model.weights": "weights init_weights pretrained_weights",
    "model.dim": "dim embedding_dim embedding_size embed_dim embed_size emb_dim emb_size feature_dim out_dim",
    "batch.size": "b batch batch_size batchsize bs train_batch_size",
    "batch.images_per_class": "images_per_class samples_per_class m_per_class num_instances instances_per_class",
    "loss.name": "loss loss_name loss_function loss_type criterion objective",
    "sec.weight": "sec sec_weight eta",
    "optimizer.backbone_rate optimizer.head_rate": "lr learning_rate learningrate base_lr initial_lr init_lr",
    "optimizer.weight_decay": "weight_decay wd",
    "optimizer.momentum": "momentum",
    "optimizer.name": "optimizer optimiser optim opt",
    "optimizer.clip_norm": "clip clip_grad grad_clip max_grad_norm gradient_clip_val",
    "schedule.name": "schedule scheduler lr_scheduler lr_schedule sched",
    "schedule.warmup_steps": "warmup warmup_steps num_warmup_steps warmup_iters",
    "validation.every": "validation",
    "batch.accumulate": "accumulate grad_accum accumulation_steps gradient_accumulation_steps accumulate_grad_batches",
    "steps": "iterations iters iter max_iter max_iters max_steps num_steps n_steps train_steps num_iterations max_iterations",
    "log_every": "log_interval print_freq print_every log_freq logging_steps log_every_n_steps",
    "checkpoint_every": "save_every save_freq save_steps checkpoint_interval",
    "seed": "random_seed random_state manual_seed",
    "config": "c cfg config_file recipe",
    "runs": "runs_dir runs_folder",
    "name": "run_name run_id exp_name experiment experiment_name",
    "k": "n top_k topk n_neighbors num_results n_results",
    "ks": "k topk top_k recall_at",
    "batch_size": "bs batchsize eval_batch_size",
    "workers": "num_workers n_workers j jobs",
    "out": "o output output_file output_path outfile save save_path save_to output_dir out_dir",
    "metrics": "metric",
}
"""Settings -> the options that mean them. The first line whose settings a command has holds for it."""
SYNONYMS = [(settings.split(), typed) for settings, names in _MEANINGS.items() for typed in names.split()]
_FOLDER = "the run's folder is --runs FOLDER and --name NAME"
_HALF = "amp fp16 bf16 half mixed_precision use_amp fp32 float16 bfloat16 autocast"
_PRECISION = "the number format is --precision: float32, bf16 or fp16"
_DEVICE = "the device is --device: auto, cpu, cuda or mps"
_STEPS = (
    "training counts steps, not epochs. Use --steps: one epoch is the number of training images divided by --batch.size"
)
_ADVICE = {
    ("steps", "batch.size"): {
        _STEPS: "e epochs epoch max_epochs num_epochs n_epochs nepochs num_train_epochs total_epochs train_epochs",
        "training counts steps, not epochs. Use --schedule.warmup_steps": "warmup_epochs",
    },
    ("loss.name",): {
        "a setting of the loss is given as --loss.settings.margin": "margin",
        "a setting of the loss is given as --loss.settings.temperature": "temperature temp tau",
    },
    ("runs", "name", "steps"): {
        _FOLDER: "o output out save output_dir out_dir outdir save_dir save_path log_dir logdir project checkpoint_dir "
        "ckpt_dir exp_dir work_dir workdir results_dir",
        "a run is never overwritten: choose another --name, or go on with it by --resume RUN": "overwrite force exist_ok",
    },
    ("precision", "steps"): {_PRECISION: _HALF},
    ("precision", "max_unreadable"): {"the number format is --precision: float32 or bf16": _HALF},
    ("device",): {_DEVICE: "cpu gpu gpus cuda use_cuda no_cuda gpu_id gpu_ids mps accelerator"},
    ("model.weights",): {
        "the weights that training begins with are --model.weights: imagenet, none, a file or a run's folder": "pretrained",
        "a stopped run goes on with --resume RUN; --model.weights RUN begins a new one with its weights": "checkpoint ckpt",
        "the network has no dropout that can be set. Use --optimizer.weight_decay or a stronger augmentation": "dropout",
    },
    ("log_every",): {
        "every figure is in the run's metrics.jsonl, and `cosphere report` draws them": "wandb use_wandb tensorboard tb mlflow "
        "logger report_to use_tensorboard"
    },
    ("features.copies", "optimizer.backbone_rate"): {
        "a frozen backbone is --features.copies 4, or without cached features --optimizer.backbone_rate 0": "freeze "
        "freeze_backbone freeze_encoder frozen linear_probe"
    },
    ("steps", "device"): {
        "several GPUs are used by accelerate: accelerate launch -m cosphere train DATA": "ddp distributed multi_gpu "
        "nproc nproc_per_node num_gpus n_gpus world_size devices data_parallel"
    },
    ("images.preset", "images.flip"): {
        "augmentation is set by --images.preset, --images.flip, --images.color_jitter and others": "augment augmentation aug "
        "augmentations transforms transform auto_augment"
    },
    ("data.validation_share",): {
        "validation images are the val/ folder or split of the data, else --data.validation_share of its classes is held "
        "out": "val val_dir val_path val_data val_root valid valid_dir validation_dir validation_data test_dir"
    },
    ("untrained",): {
        "scores are written to scores.json in the run's folder": "o out output output_dir output_file save save_dir save_path json "
        "csv format"
    },
    ("k", "json"): {
        "a threshold belongs to a model: cosphere calibrate RUN --far 0.001, and searches say which hits lie below it": "threshold "
        "thresh min_score score_threshold min_similarity similarity_threshold cutoff",
        "neighbours are ranked by cosine": "metric distance similarity distance_metric",
    },
    ("fast",): {
        "rows are written as they leave the model; divide each by its length for cosines": "normalize normalise l2 l2_normalize",
        "--out is an .npz file; docs/path.md, section 4, says what it holds": "format",
    },
    ("device", "max_unreadable"): {
        "a model keeps the size of image that it was trained with, --images.size of `cosphere train`": "image_size imgsz img_size "
        "imgsize input_size crop_size resolution size"
    },
    ("validation.every",): {
        "validation is set in steps: --validation.every": "eval_every val_every eval_interval val_interval eval_freq "
        "val_freq eval_steps validate_every"
    },
}
"""Options that a command must have -> what to say -> options that have no counterpart."""
ADVICE = [
    (settings, typed, text)
    for settings, texts in _ADVICE.items()
    for text, names in texts.items()
    for typed in names.split()
]


_ARGUMENTS = {
    "run": "run model weights checkpoint ckpt resume model_path run_dir experiment pretrained name",
    "model": "model run weights checkpoint ckpt resume model_path run_dir experiment pretrained name",
    "source": "data dataset data_dir data_path data_root root images photos source folder input path dir val_dir test_dir",
    "query": "query queries image img input q",
    "gallery": "gallery index database db g",
    "target": "target out output o output_dir out_dir to save",
    "out": "out output o to save format",
    "patch": "patch csv file",
}
"""Positional arguments -> the options that people type for them."""


def argument(name: str, command: str, arguments: Sequence[str]) -> str | None:
    """What to say of an option that means a positional argument of a command; None for any other.

    Args:
        name: with underscores, without dashes.
        command: its name, such as ``index add``.
        arguments: names of its positional arguments in order.

    >>> argument("data", "evaluate", ["run", "source"])
    'SOURCE is given without an option: cosphere evaluate RUN SOURCE'
    """
    meant = next((one for one in arguments if name in _ARGUMENTS.get(one, "").split()), None)
    if meant is None:
        return None
    return f"{meant.upper()} is given without an option: cosphere {command} {' '.join(arguments).upper()}"


def meaning(name: str, kinds: dict[str, Any]) -> list[str]:
    """The settings that an option of another tool means; empty if it means none of this command's.

    Args:
        name: with underscores, without dashes.
        kinds: the command's options.
    """
    return next(
        (settings for settings, typed in SYNONYMS if typed == name and all(one in kinds for one in settings)), []
    )


def advice(name: str, kinds: dict[str, Any]) -> str | None:
    """What to use instead of an option that has no counterpart; None where nothing is known of it."""
    return next(
        (text for settings, typed, text in ADVICE if typed == name and all(one in kinds for one in settings)), None
    )


def understood(
    words: Sequence[Word], kinds: dict[str, Any], command: str = "", arguments: Sequence[str] = ()
) -> list[Word]:
    """The words with the options of other tools replaced by the settings that they mean.

    A section given whole, as ``--loss part.yaml`` or ``--loss '{name: triplet}'``, stays.

    Args:
        words: options and positional arguments.
        kinds: the command's options.
        command: its name.
        arguments: names of its positional arguments in order.

    Raises:
        SettingsError: an option that has no counterpart; the error says what to use.
    """
    found: list[Word] = []
    for word in words:
        name = (word.name or "").lower()
        whole = word.value is not None and re.match(r"\{|.*\.ya?ml$", word.value)
        own = name in kinds and not _is_section(name, kinds)
        meant = [] if own or (whole and name in kinds) else meaning(name, kinds)
        if name == "images" and meant == ["images.size"] and not re.fullmatch(r"\d+", word.value or "0"):
            meant = ["data.root"]
        if not meant and name and not own and (text := advice(name, kinds) or argument(name, command, arguments)):
            raise SettingsError(f"there is no setting {name!r}: {text}.")
        found += [word._replace(name=one) for one in meant] or [word]
    return found


def unknown(name: str, kinds: dict[str, Any], inside: Iterable[str]) -> str:
    """The error about a setting that does not exist: what it means, or the nearest name.

    Args:
        name: as it was typed, perhaps with a section.
        kinds: the command's options.
        inside: names that go into options of free names, such as ``loss.settings.margin``.
    """
    tail = name.rsplit(".", 1)[-1].lower()
    known = [one for one in kinds if not _is_section(one, kinds)] + list(inside)
    if "." in name and any(one.endswith(f".{tail}") for one in known):
        return f"there is no setting {name!r}. {nearest_name(name, known)}"
    if text := advice(tail, kinds):
        return f"there is no setting {name!r}: {text}."
    if meant := meaning(tail, kinds):
        return f"there is no setting {name!r}. Did you mean {' and '.join(map(repr, meant))}?"
    return f"there is no setting {name!r}. {nearest_name(name, known)}"


def _is_section(name: str, kinds: dict[str, Any]) -> bool:
    return kinds[name] == "any" and any(one.startswith(f"{name}.") for one in kinds)
