from __future__ import annotations

from pathlib import Path
from typing import Any

from cosphere.experiment.setting_differences import setting_notes, without_seed
from cosphere.runs import RunFolder
from cosphere.train import TrainSettings


def make(path: Path, **values: Any) -> Path:
    folder = RunFolder.create(path)
    TrainSettings().with_values({name.replace("__", "."): value for name, value in values.items()}).write(folder.config)
    return path


def test_settings_that_differ_between_arms_are_named(tmp_path: Path) -> None:
    plain = [make(tmp_path / f"plain{seed}", seed=seed, steps=100) for seed in (0, 1)]
    longer = [make(tmp_path / "longer", seed=2, steps=150, sec__weight=0.1, log_every=3)]
    notes, mixed = setting_notes({"plain": plain, "longer": longer}, "plain")
    assert notes == ["longer against plain differs in steps (150, 100), sec.weight (0.1, 0.0)."]
    assert not mixed


def test_runs_of_one_arm_that_are_no_seeds_of_one_setting_are_named(tmp_path: Path) -> None:
    arm = [make(tmp_path / str(steps), steps=steps) for steps in (100, 150)]
    notes, mixed = setting_notes({"all": arm, "one": [make(tmp_path / "one", steps=100)]}, "one")
    assert notes == ["The runs of all differ in more than the seed: steps (100, 150)."]
    assert mixed == {"all"}


def test_the_seed_and_what_changes_no_number_are_left_out() -> None:
    one, other = TrainSettings(), TrainSettings().with_values({"seed": 5, "data.workers": 2})
    assert without_seed(one) == without_seed(other)
    assert without_seed(one) != without_seed(one.with_values({"steps": 7}))
