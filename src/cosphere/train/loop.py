"""The one training loop: batch -> embeddings -> loss + weight * SEC -> step -> checkpoint."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from accelerate.utils import set_seed
from torch import Tensor, nn

from cosphere import losses
from cosphere.data import Batch, Catalogue, training_parts
from cosphere.errors import DivergenceError
from cosphere.health import Health
from cosphere.runs import RunFolder, provenance
from cosphere.spherical import SphericalConstraint, ramped_weight
from cosphere.tensors import gather_rows
from cosphere.train.batches import BatchStream
from cosphere.train.checkpoint import load_checkpoint, save_checkpoint
from cosphere.train.ledger import LOGGED, Ledger, step_numbers
from cosphere.train.lens import measure_lens
from cosphere.train.memory import keep_freed_memory
from cosphere.train.parameters import build_optimizer, parameter_groups, rate_factor, set_rates
from cosphere.train.progress import Reporter
from cosphere.train.settings import TrainSettings
from cosphere.train.setup import build_accelerator, build_loss, build_model, check_classes, set_backbone_trainable
from cosphere.train.state import raw_optimizer, restore, state_of
from cosphere.train.validation import Evaluate, Validation, validation_of


@dataclass(frozen=True)
class TrainResult:
    """How a run ended."""

    steps: int
    """Optimiser steps done, over all resumptions."""
    seconds: float
    """Wall time of training and validation, over all resumptions."""
    best_step: int
    """Step of the model that was kept; the last one when nothing was validated."""
    best_scores: dict[str, float]
    """Its validation scores; empty when nothing was validated."""
    before: dict[str, float]
    """Validation scores of the untrained model; empty when not asked for."""
    stopped_early: bool
    """Whether patience ran out before the last step."""
    unreadable: tuple[str, ...]
    """Why images could not be read and were left out, one sentence each."""


def train(
    settings: TrainSettings,
    catalogue: Catalogue,
    run: RunFolder,
    *,
    reporter: Reporter,
    evaluate: Evaluate | None = None,
    resume: bool = False,
) -> TrainResult:
    """Train an embedder and leave it in the run's folder.

    Args:
        settings: all settings.
        catalogue: images, labels and splits.
        run: a fresh folder, or with `resume` one whose last checkpoint is gone on from, bit for bit on a CPU.
        reporter: told of every step, validation and warning.
        evaluate: makes validation scores, and health; None keeps the last model.
        resume: go on from the run's last checkpoint, or from the start when it was stopped before the first one.

    Raises:
        DataError, SettingsError, WeightsError: the run cannot start as asked.
        DivergenceError: the loss became NaN or infinite; the last good checkpoint is kept.
        RunError: a checkpoint cannot be written or read.
    """
    accelerator = build_accelerator(settings)
    if accelerator.device.type == "cpu":
        keep_freed_memory()
    try:
        training = Training(settings, catalogue, run, accelerator, reporter=reporter, evaluate=evaluate)
        last = run.checkpoints / "last.pt"
        if resume and last.exists():
            restore(training, load_checkpoint(last))
        elif resume:
            run.cut_metrics_after(-1)  # Stopped before its first checkpoint: the same run from its beginning.
        with reporter:
            return training.run()
    finally:
        # Else a second run in this process would keep the first one's precision.
        AcceleratorState._reset_state(reset_partial_state=True)


class Training:
    """All that one run holds while it runs."""

    def __init__(
        self,
        settings: TrainSettings,
        catalogue: Catalogue,
        run: RunFolder,
        accelerator: Accelerator,
        *,
        reporter: Reporter,
        evaluate: Evaluate | None,
    ) -> None:
        losses.about(settings.loss.name)  # A wrong name is said before anything is loaded.
        self.settings, self.run_folder, self.accelerator = settings, run, accelerator
        self.reporter, self.evaluate = reporter, evaluate
        parts = training_parts(catalogue, val_share=settings.data.validation_share, seed=settings.data.validation_seed)
        self.train_images, self.validation_images, self.validated_on = parts.train, parts.val, parts.how
        check_classes(self.train_images, catalogue)
        set_seed(settings.seed)
        device = accelerator.device
        self.embedder, augmentation = build_model(settings)
        classes = len(self.train_images.class_names)
        self.loss = build_loss(settings.loss, classes, self.embedder.dim, settings.steps).to(device)
        sec = settings.sec
        self.constraint = SphericalConstraint(sec.radius, momentum=sec.momentum, scale_free=sec.scale_free).to(device)
        self.stream = BatchStream(
            self.train_images,
            settings,
            self.embedder.preprocessing,
            augmentation,
            device=device,
            rank=accelerator.process_index,
            world_size=accelerator.num_processes,
        )
        shared = accelerator.num_processes > 1 and any(True for _ in self.loss.parameters())
        self.criterion = accelerator.prepare_model(self.loss) if shared else self.loss
        groups = parameter_groups(self.embedder, self.loss, self.constraint, settings.optimizer)
        self.model, self.optimizer = accelerator.prepare(self.embedder, build_optimizer(groups, settings.optimizer))
        self.step = 0
        self.tree_epoch = 0
        self.seconds = 0.0
        self.best: dict[str, Any] = {"step": 0, "scores": {}}
        self.before: dict[str, float] = {}
        self.stale = 0
        self.warned_of_sec = False
        self.warned_of_health: set[str] = set()
        self.ledger = Ledger()

    # The run

    def run(self) -> TrainResult:
        """All steps that are left."""
        self.reporter.began(self.step)
        self._greet()
        if self.step == 0:
            self._validate_before()
        batches = iter(self.stream)
        while self.step < self.settings.steps and not self._out_of_patience():
            began = time.monotonic()
            self._enter_phase()
            self._rebuild_tree()
            self._take_step([next(batches) for _ in range(self.settings.batch.accumulate)])
            self.step += 1
            self.reporter.stepped(self.step)
            self.seconds += time.monotonic() - began
            self._after_step()
        return self._finish()

    def _greet(self) -> None:
        images = self.train_images
        text = f"training on {len(images):,} images of {len(images.class_names):,} classes; {self.validated_on}"
        self.reporter.said(f"{text}; {self.accelerator.device.type}, {self.settings.precision}")
        for note in self.stream.sampler.notes:
            self.reporter.said(note)
        if self.settings.batch.accumulate > 1:
            self.reporter.said(
                f"gradients of {self.settings.batch.accumulate} batches are added; each batch's loss still sees only its own "
                f"{self.settings.batch.size} images"
            )

    def _enter_phase(self) -> None:
        """Freeze the backbone in the first phase, if there is one; let it go, with a fresh optimiser, after."""
        first = self.settings.schedule.new_layers_steps
        if not first or self.step not in (0, first):
            return
        set_backbone_trainable(self.embedder, self.step >= first)
        if self.step == first:
            raw_optimizer(self.optimizer).state.clear()
            self.reporter.said(f"step {self.step}: the backbone trains too, with a fresh optimiser")

    def _rebuild_tree(self) -> None:
        """After each epoch the hierarchical triplet loss orders the classes anew, by all training images as they lie now."""
        if not isinstance(self.loss, losses.HierarchicalTripletLoss) or self.stream.epoch == self.tree_epoch:
            return
        self.tree_epoch = self.stream.epoch
        self.embedder.eval()
        found = []
        with torch.no_grad():
            for batch in self.stream.in_order(self.settings.batch.size):
                inputs, labels = self._inputs(batch)
                found.append((self.embedder(inputs).float(), labels))
        self.embedder.train()
        self.loss.rebuild(torch.cat([rows for rows, _ in found]), torch.cat([labels for _, labels in found]))

    def _take_step(self, batches: list[Batch]) -> None:
        """One optimiser step over one or more batches."""
        set_rates(raw_optimizer(self.optimizer), rate_factor(self.step, self.settings.steps, self.settings.schedule))
        self.model.train()
        for batch in batches:
            inputs, labels = self._inputs(batch)
            embeddings = self.model(inputs)
            total, logged = self._objective(embeddings, labels)
            self._check_finite(logged, batch)
            self.accelerator.backward(total / len(batches))
            self.ledger.add(logged, images=len(labels))
        if self.settings.optimizer.clip_norm:
            self.accelerator.clip_grad_norm_(self._parameters(), self.settings.optimizer.clip_norm)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)

    def _parameters(self) -> list[nn.Parameter]:
        return [parameter for group in self.optimizer.param_groups for parameter in group["params"]]

    def _inputs(self, batch: Batch) -> tuple[Tensor, Tensor]:
        device = self.accelerator.device
        layout = torch.channels_last if self.settings.channels_last else torch.contiguous_format
        pixels = batch.pixels.to(device, non_blocking=True)
        return self.embedder.preprocessing.to_input(pixels).to(memory_format=layout), batch.labels.to(
            device, non_blocking=True
        )

    def _objective(self, embeddings: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """What is minimised, and the numbers of :data:`cosphere.train.ledger.LOGGED`."""
        if isinstance(self.loss, losses.ClassLoss):
            metric = self.criterion(embeddings, labels)
        else:
            # Pairs are made of all processes' images; class weights need none but their own.
            metric = self.criterion(gather_rows(embeddings), gather_rows(labels))
        constraint = self.constraint(embeddings) if self.settings.sec.weight else metric.new_zeros(())
        total = metric + self._sec_weight(self.step) * constraint
        return total, step_numbers(embeddings, labels, total, metric, constraint)

    def _check_finite(self, logged: Tensor, batch: Batch) -> None:
        values = dict(zip(LOGGED, logged.tolist(), strict=True))
        for key, term in (
            ("loss_metric", f"the metric loss ({self.settings.loss.name})"),
            ("loss_sec", "the SEC term"),
        ):
            if values[key] - values[key] != 0:
                files = ", ".join(self.train_images.paths[row] for row in batch.rows[:3].tolist())
                raise DivergenceError(
                    f"{term} is {values[key]} at step {self.step + 1} (epoch {self.stream.epoch}, batch {self.stream.position}; "
                    f"first images: {files}; mean length {values['norm_mean']:.4g}). Lower the rates or the SEC weight, or set "
                    f"--optimizer.clip_norm 1. The last good checkpoint is kept in {self.run_folder.checkpoints}."
                )

    # What happens between steps

    def _after_step(self) -> None:
        settings = self.settings
        last = self.step == settings.steps
        if self.step % settings.log_every == 0 or last:
            self._log()
        every = settings.validation.every
        with self.ledger.aside():
            if (every and self.step % every == 0) or last:
                self._validate()
            if (settings.checkpoint_every and self.step % settings.checkpoint_every == 0) or last:
                self._save("last.pt")

    def _log(self) -> None:
        """Write and show the means since the last line, and warn when SEC dwarfs the loss."""
        values = self.ledger.means(self._sec_weight(self.step - 1), processes=self.accelerator.num_processes)
        for group in self.optimizer.param_groups:
            values[f"train/lr_{group['name'].split('.')[0]}"] = group["lr"]
        self._write({"epoch": self.stream.epoch, **values})
        self.reporter.logged(self.step, values)
        self._warn_of_sec(values["train/sec_share"])

    def _sec_weight(self, step: int) -> float:
        sec = self.settings.sec
        return ramped_weight(sec.weight, step, self.settings.steps, sec.ramp)

    def _warn_of_sec(self, share: float | None) -> None:
        """SEC helps as a small force; a dominant one keeps the embedding from learning."""
        if share is None or share <= 1 or self.warned_of_sec:
            return
        self.warned_of_sec = True
        weight = self.settings.sec.weight
        self.reporter.said(
            f"warning: at step {self.step} SEC is {share:.1f} times the metric loss and may drown it; "
            f"try --sec.weight {weight * 0.2 / share:.2g}, or --sec.scale_free true"
        )

    def _validate_before(self) -> None:
        if self.settings.validation.before:
            with self.ledger.aside():
                looked = self._look()
            self.before = dict(looked.scores)
            if self.before:
                # No warnings: what a new head does before its first step is no collapse.
                self._write(looked.logged())
                self.reporter.validated(0, self.before, best=False)

    def _look(self) -> Validation:
        """At the validation images. Random generators are as before afterwards, so looking changes nothing."""
        if self.evaluate is None or self.validation_images is None:
            return Validation({})
        with torch.random.fork_rng(devices=[self.accelerator.device] if self.accelerator.device.type == "cuda" else []):
            looked = validation_of(self.evaluate(self.embedder, self.validation_images))
        self.embedder.train()
        return looked

    def _warn_of_health(self, health: Health | None) -> None:
        """Each kind of collapse once."""
        for kind, sentence in ({} if health is None else health.concerns).items():
            if kind not in self.warned_of_health:
                self.warned_of_health.add(kind)
                self.reporter.said(f"warning: at step {self.step}, on the validation images: {sentence}")

    def _validate(self) -> None:
        """Score the model, keep it when it is the best so far, and look through the norm lens."""
        began = time.monotonic()
        looked = self._look()
        scores = dict(looked.scores)
        lens = self._lens() if self.settings.validation.lens else {}
        self.seconds += time.monotonic() - began
        if scores or lens:
            self._write({**looked.logged(), **lens})
        metric = self.settings.validation.metric
        best = not scores or not self.best["scores"] or scores[metric] > self.best["scores"][metric]
        self.stale = 0 if best else self.stale + 1
        if scores:
            self.reporter.validated(self.step, scores, best=best)
        self._warn_of_health(looked.health)
        if best:
            self._check_weights()
            self.best = {"step": self.step, "scores": scores}
            self._save_bundle()
            self._save("best.pt")

    def _lens(self) -> dict[str, float]:
        inputs, labels = self._inputs(self.stream.probe())
        return measure_lens(
            self.embedder,
            self.loss,
            self.constraint,
            raw_optimizer(self.optimizer),
            inputs,
            labels,
            lambda embeddings, wanted: self._objective(embeddings, wanted)[0],
        )

    def _out_of_patience(self) -> bool:
        return 0 < self.settings.validation.patience <= self.stale

    def _finish(self) -> TrainResult:
        if self.step < self.settings.steps:
            self.reporter.said(f"stopped at step {self.step}: {self.stale} validations without a better score")
            self._save("last.pt")
        return TrainResult(
            steps=self.step,
            seconds=self.seconds,
            best_step=self.best["step"],
            best_scores=self.best["scores"],
            before=self.before,
            stopped_early=self.step < self.settings.steps,
            unreadable=tuple(self.stream.unreadable.reasons.values()),
        )

    # What is kept

    def _write(self, values: Mapping[str, Any]) -> None:
        if self.accelerator.is_main_process:
            self.run_folder.append_metrics({"step": self.step, **values})

    def _save_bundle(self) -> None:
        if self.accelerator.is_main_process:
            self.embedder.provenance = {
                **provenance(),
                "step": self.step,
                "validation": self.best["scores"],
                "data": {"fingerprint": self.train_images.fingerprint(), "images": len(self.train_images)},
                "loss": self.settings.loss.name,
                "sec_weight": self.settings.sec.weight,
            }
            self.embedder.save(self.run_folder.model)

    def _check_weights(self) -> None:
        """Raise before broken weights are written over good ones."""
        modules = (self.embedder, self.loss, self.constraint)
        values = ((key, value) for module in modules for key, value in module.state_dict().items())
        broken = [key for key, value in values if value.is_floating_point() and not value.isfinite().all()]
        if broken:
            raise DivergenceError(
                f"{broken[0]} holds values that are not finite after step {self.step}. Lower the rates or set --optimizer.clip_norm 1. "
                f"The last good checkpoint is kept in {self.run_folder.checkpoints}."
            )

    def _save(self, name: str) -> None:
        """Write a checkpoint of weights that are whole."""
        self._check_weights()
        if self.accelerator.is_main_process:
            save_checkpoint(self.run_folder.checkpoints / name, state_of(self))
