"""The one training loop: batch -> embeddings -> loss + weight * SEC -> step -> checkpoint."""

from __future__ import annotations

import functools
import math
import time
from collections.abc import Callable
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from accelerate.utils import set_seed
from torch import Tensor

from cosphere import losses
from cosphere.checks import check_switches
from cosphere.data import Catalogue, training_parts
from cosphere.runs import RunFolder
from cosphere.spherical import SphericalConstraint
from cosphere.train.journal import Journal, greeting
from cosphere.train.keeping import Keeper
from cosphere.train.ledger import Ledger, check_finite, step_numbers
from cosphere.train.lens import measure_lens
from cosphere.train.memory import keep_freed_memory
from cosphere.train.objective import LossFunction, Objective, check_own_loss, name_of
from cosphere.train.parameters import build_optimizer, parameter_groups, rate_factor, raw_optimizer, set_rates
from cosphere.train.progress import Reporter
from cosphere.train.result import TrainResult, made_from
from cosphere.train.resuming import SavedState, saved_state
from cosphere.train.settings import TrainSettings
from cosphere.train.setup import (
    build_accelerator,
    build_loss,
    build_model,
    build_stream,
    check_classes,
    enter_phase,
    labelled_by_image,
    labels_are_images,
    synchronise_norms,
)
from cosphere.train.state import RunState, Stateful, made_with
from cosphere.train.validation import Evaluate, Validator


def train(
    settings: TrainSettings,
    catalogue: Catalogue,
    run: RunFolder,
    *,
    reporter: Reporter,
    evaluate: Evaluate | None = None,
    loss: LossFunction | None = None,
    resume: bool = False,
    restored: Callable[[], object] = lambda: None,
) -> TrainResult:
    """Train an embedder and leave it in the run's folder.

    Args:
        settings: all settings.
        catalogue: images, labels and splits.
        run: a fresh folder, or with ``resume`` one whose last checkpoint is continued, bit for bit on a CPU.
        reporter: receives every step, validation and warning.
        evaluate: computes validation scores, and health; None keeps the last model.
        loss: a loss of your own in place of ``settings.loss``: any callable from raw embeddings (B, D) and labels (B,) to a
            scalar. A module's parameters are trained and its state is kept in checkpoints. ``gathers = False`` and
            ``after_epoch(embed)`` mean what they mean in :class:`cosphere.losses.Loss`. Pass it again to resume.
        resume: continue from the run's last checkpoint, or from the start when it was stopped before the first one.
        restored: called with ``resume`` when the checkpoint proved to be of this run, before the first step.

    Raises:
        DataError, SettingsError, WeightsError: the run cannot start with these settings and data.
        DivergenceError: the loss became NaN or infinite; the last good checkpoint is kept.
        RunError: a checkpoint cannot be written or read.
    """
    check_switches(resume=resume)
    accelerator = build_accelerator(settings)
    if accelerator.device.type == "cpu":
        keep_freed_memory()
    try:
        training = Training(
            settings, catalogue, run, accelerator, reporter=reporter, evaluate=evaluate, loss=loss, resume=resume
        )
        if resume:
            restored()
        with reporter:
            return training.run()
    finally:
        # Otherwise a second run in this process would keep the precision of the first.
        AcceleratorState._reset_state(reset_partial_state=True)


class Training:
    """One run: its parts, and the loop over its steps."""

    def __init__(
        self,
        settings: TrainSettings,
        catalogue: Catalogue,
        folder: RunFolder,
        accelerator: Accelerator,
        *,
        reporter: Reporter,
        evaluate: Evaluate | None,
        loss: LossFunction | None,
        resume: bool = False,
    ) -> None:
        # An unknown name is rejected before anything is loaded.
        if loss is not None:
            check_own_loss(loss)
        kind = getattr(losses, losses.about(settings.loss.name).title) if loss is None else loss
        self.loss_name = settings.loss.name if loss is None else name_of(loss)
        self.settings, self.folder, self.accelerator, self.reporter = settings, folder, accelerator, reporter
        main, device = accelerator.is_main_process, accelerator.device
        self.state = RunState()
        self.journal = Journal(folder, reporter, self.state, writes=main)
        how = settings.data
        self.images = training_parts(
            catalogue, val_share=how.validation_share, seed=how.validation_seed, of=how.validation_of
        )
        train = self.images.train
        self.by_image = labels_are_images(settings.batch, kind)
        targets = labelled_by_image(train) if self.by_image else train
        check_classes(targets, catalogue)
        about = made_with(settings, self.images)
        # Checked before features are computed, which may take hours.
        saved = saved_state(folder, settings, about) if resume else None
        self.validator = Validator(evaluate, self.images.val, settings.validation.metric)
        set_seed(settings.seed)
        self.embedder, augmentation = build_model(settings)
        self.notes = synchronise_norms(self.embedder, accelerator)
        self.loss = build_loss(settings, loss, len(targets.label_names), self.embedder.dim).to(device)
        sec = settings.sec
        self.constraint = SphericalConstraint(sec.radius, momentum=sec.momentum, scale_free=sec.scale_free).to(device)
        self.stream = build_stream(
            settings,
            targets,
            self.embedder.to(device),
            augmentation,
            accelerator,
            folder=folder.path,
            say=self.journal.say,
        )
        shared = accelerator.num_processes > 1 and any(True for _ in self.loss.parameters())
        criterion = accelerator.prepare_model(self.loss) if shared else self.loss
        self.objective = Objective(
            criterion, self.constraint, sec, steps=settings.steps, gradient_power=settings.loss.gradient_power
        )
        groups = parameter_groups(self.embedder, self.loss, self.constraint, settings.optimizer)
        self.model, optimizer = accelerator.prepare(self.embedder, build_optimizer(groups, settings.optimizer))
        # Only a gradient scaler needs accelerate's wrappers, which look for installed packages in every step: that is slow beside a
        # step on cached features.
        direct = accelerator.scaler is None
        self.optimizer = raw_optimizer(optimizer) if direct else optimizer
        self.backward = Tensor.backward if direct else accelerator.backward
        parts: dict[str, Stateful] = {
            "model": self.embedder,
            "loss": self.loss,
            "constraint": self.constraint,
            "optimizer": raw_optimizer(self.optimizer),
            "stream": self.stream,
        }
        if accelerator.scaler is not None:
            parts["scaler"] = accelerator.scaler
        self.keeper = Keeper(folder, self.state, parts, about, writes=main)
        self.ledger = Ledger()
        if saved is not None:
            self.restore(saved)
        elif resume:
            folder.cut_metrics_after(-1)

    def restore(self, saved: SavedState) -> None:
        """Continue from a checkpoint of this run.

        Raises:
            RunError: a part of it is missing or does not fit.
        """
        self.keeper.restore(saved.content, saved.path)
        first = self.settings.schedule.new_layers_steps
        if first:
            self.embedder.set_trainable(backbone=self.state.step >= first)
        if not saved.is_last:
            why = saved.set_aside(writes=self.accelerator.is_main_process)
            self.journal.say(f"{why}; the run continues from {saved.path}, step {self.state.step}")
            self.save_model()  # A kill may have left an older one.

    def run(self) -> TrainResult:
        """Take all remaining steps."""
        self.reporter.began(self.state.step)
        notes = (*self.stream.notes, *self.notes)
        for text in greeting(self.settings, self.images, notes, self.accelerator.device):
            self.journal.say(text)
        if self.state.step == 0 and self.settings.validation.before:
            self._validate_untrained()
        batches = self.stream.batches(self._after_epoch)
        patience = self.settings.validation.patience or math.inf
        while self.state.step < self.settings.steps and self.state.stale < patience:
            began = time.monotonic()
            message = enter_phase(self.state.step, self.settings.schedule, self.embedder, raw_optimizer(self.optimizer))
            if message:
                self.journal.say(message)
            self._take_step([next(batches) for _ in range(self.settings.batch.accumulate)])
            self.state.step += 1
            self.reporter.stepped(self.state.step)
            self.state.seconds += time.monotonic() - began
            self._after_step()
        return self._finish()

    def _after_epoch(self) -> None:
        """Let the loss and the sampler prepare for the next epoch. They share one embedding of the training images."""
        embed = functools.cache(functools.partial(self.stream.embed, self.embedder))
        for part in (self.loss, self.stream.sampler):
            hook = getattr(part, "after_epoch", None)  # A loss of the user's may have none.
            if hook is not None:
                hook(embed)

    def _take_step(self, batches: list[Any]) -> None:
        """One optimiser step over one or more batches."""
        step = self.state.step
        set_rates(raw_optimizer(self.optimizer), rate_factor(step, self.settings.steps, self.settings.schedule))
        if not self.model.training:  # It walks all modules, which is slow beside a step on cached features.
            self.model.train()
        numbers = []
        for batch in batches:
            inputs, labels = self.stream.inputs(batch)
            embeddings = self.model(inputs)
            terms = self.objective(embeddings, labels, step=step)
            self.backward(terms.total / len(batches))
            numbers.append(step_numbers(embeddings, labels, *terms))
        rows = torch.stack(numbers).cpu()  # The step's one read-back: what is checked here is also what is logged.
        for row, batch in zip(rows, batches, strict=True):
            check_finite(
                row,
                self.loss_name,
                step=step + 1,
                batch=self.stream.describe(batch),
                kept=self.folder.checkpoints,
            )
            self.ledger.add(row, images=len(batch.rows))
        if self.settings.optimizer.clip_norm:
            parameters = [parameter for group in self.optimizer.param_groups for parameter in group["params"]]
            self.accelerator.clip_grad_norm_(parameters, self.settings.optimizer.clip_norm)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)

    def _after_step(self) -> None:
        """Log, validate and save where the settings say so."""
        settings, step = self.settings, self.state.step
        last = step == settings.steps
        if step % settings.log_every == 0 or last:
            self._log()
        every = settings.validation.every
        with self.ledger.aside():
            if (every and step % every == 0) or last:
                self._validate()
            if (settings.checkpoint_every and step % settings.checkpoint_every == 0) or last:
                self.keeper.save("last.pt")

    def _log(self) -> None:
        """Write and show the means since the last logged line, and warn when SEC dominates the loss."""
        weight = self.objective.weight(self.state.step - 1)
        values = self.ledger.means(weight, processes=self.accelerator.num_processes)
        for group in self.optimizer.param_groups:
            values[f"train/lr_{group['name'].split('.')[0]}"] = group["lr"]
        self.journal.write({"epoch": self.stream.epoch, **values})
        self.reporter.logged(self.state.step, values)
        share = values["train/sec_share"]
        if share is not None and share > 1:
            # SEC helps as a small force; a dominant one keeps the embedding from learning.
            self.journal.warn_once(
                "sec",
                f" SEC is {share:.1f} times the metric loss and may drown it; "
                f"try --sec.weight {self.settings.sec.weight * 0.2 / share:.2g}, or --sec.scale_free true",
            )

    def _validate_untrained(self) -> None:
        """Score the model before its first step. Without warnings: an untrained head has not collapsed."""
        with self.ledger.aside():
            validation = self.validator(self.embedder)
        self.state.before = dict(validation.scores)
        if validation.scores:
            self.journal.write(validation.logged())
            self.reporter.validated(0, self.state.before, best=False)

    def _validate(self) -> None:
        """Score the model, measure the norm lens, and keep the model when it is the best so far."""
        began = time.monotonic()
        validation = self.validator(self.embedder)
        scores = dict(validation.scores)
        lens = {}
        if self.settings.validation.lens:
            lens = measure_lens(
                self.embedder,
                self.loss,
                self.constraint,
                raw_optimizer(self.optimizer),
                *self.stream.inputs(self.stream.probe()),
                lambda embeddings, labels: self.objective(embeddings, labels, step=self.state.step, shared=True).total,
                clip_norm=self.settings.optimizer.clip_norm,
            )
        self.state.seconds += time.monotonic() - began
        numbers = {**validation.logged(), **lens}
        if numbers:
            self.journal.write(numbers)
        rank, best_rank = self.validator.rank(validation), self.state.best["rank"]
        better = not rank or best_rank is None or rank > tuple(best_rank)
        # A collapsed model is kept only until there is another.
        best = better and not validation.collapsed
        self.state.stale = 0 if best else self.state.stale + 1
        if scores:
            self.reporter.validated(self.state.step, scores, best=best)
        saturated = self.validator.saturated(validation)
        if saturated:
            self.journal.warn_once("saturated", f", {saturated}")
        for kind, sentence in validation.concerns.items():
            self.journal.warn_once(kind, f", on the validation images: {sentence}")
        if better:
            self.state.best = {"step": self.state.step, "scores": scores, "rank": list(rank)}
            # The checkpoint first: a run with a model has a checkpoint to resume from.
            self.keeper.save("best.pt")
            self.save_model()

    def save_model(self) -> None:
        """Write the bundle of the model as it is."""
        about = made_from(self.settings, self.images.train, self.loss_name, by_image=self.by_image)
        self.keeper.save_bundle(self.embedder, about)

    def _finish(self) -> TrainResult:
        state = self.state
        if state.step < self.settings.steps:
            self.journal.say(f"stopped at step {state.step}: {state.stale} validations without a better score")
            self.keeper.save("last.pt")
        return TrainResult(
            steps=state.step,
            seconds=state.seconds,
            best_step=state.best["step"],
            best_scores=state.best["scores"],
            before=state.before,
            stopped_early=state.step < self.settings.steps,
            unreadable=tuple(self.stream.unreadable.reasons.values()),
            folder=self.folder.path,
        )
