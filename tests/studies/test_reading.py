"""Study files: grids, questions, modes, and every mistake named before the first run."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from cosphere.errors import SettingsError
from cosphere.studies import read_study, shipped_studies, study_of

GRID: dict[str, Any] = {
    "base": {"steps": 10},
    "grids": [
        {
            "loss": {"triplet": {"loss.name": "triplet"}, "ms": {"loss": {"name": "multi_similarity"}}},
            "constraint": {
                "none": {"sec.weight": 0},
                "sec": {"settings": {"sec.radius": "batch"}, "tune": {"sec": {"weight": {"from": 0.01, "to": 1}}}},
            },
        }
    ],
    "tune": {"optimizer": {"head_rate": {"from": 1e-4, "to": 1e-2}}},
    "questions": [{"ask": "Does it help {loss}?", "arm": "sec", "against": "none", "along": "constraint"}],
}


def test_a_grid_gives_every_combination_and_a_question_along_an_axis_every_pair() -> None:
    study = study_of("x", GRID)
    assert list(study.arms) == ["triplet+none", "triplet+sec", "ms+none", "ms+sec"]
    assert study.arms["ms+sec"].settings == {"loss.name": "multi_similarity", "sec.radius": "batch"}
    assert list(study.arms["ms+none"].tune) == ["optimizer.head_rate"]
    assert list(study.arms["ms+sec"].tune) == ["optimizer.head_rate", "sec.weight"]
    assert [(one.question, one.arm, one.against, one.score) for one in study.comparisons] == [
        ("Does it help triplet?", "triplet+sec", "triplet+none", "recall@1"),
        ("Does it help ms?", "ms+sec", "ms+none", "recall@1"),
    ]
    assert study.tuning_runs == 4 * 8
    assert study.runs == 4 * 8 + 4 * 5


def test_a_star_stands_for_every_other_arm() -> None:
    star = {"ask": "Is {arm} better?", "arm": "*", "against": "ms+none"}
    study = study_of("x", {**GRID, "questions": [star]})
    assert [(one.question, one.arm) for one in study.comparisons] == [
        (f"Is {arm} better?", arm) for arm in ("triplet+none", "triplet+sec", "ms+sec")
    ]
    along = {"ask": "{loss}?", "arm": "*", "against": "triplet", "along": "loss"}
    study = study_of("x", {**GRID, "questions": [along]})
    assert [(one.arm, one.against) for one in study.comparisons] == [
        ("ms+none", "triplet+none"),
        ("ms+sec", "triplet+sec"),
    ]
    with pytest.raises(SettingsError, match=r"finds no pair \* and nobody\. .*the arms are triplet\+none"):
        study_of("x", {**GRID, "questions": [{**star, "against": "nobody"}]})


def test_settings_are_base_then_arm_then_candidate_then_final() -> None:
    study = study_of("x", {**GRID, "base": {"steps": 10, "sec.weight": 0.5}, "final": {"steps": 20}})
    tuned = study.settings("triplet+sec", {"sec.weight": 0.25}, 7)
    assert (tuned.steps, tuned.sec.weight, tuned.seed, tuned.loss.name) == (10, 0.25, 7, "triplet")
    assert tuned.validation.metric == study.metric
    assert study.settings("triplet+none", {}, 7, final=True).steps == 20
    assert study.settings("triplet+none", {}, 7).sec.weight == 0


def test_a_mode_changes_base_tuning_and_numbers() -> None:
    content = {
        **GRID,
        "mode": "quick",
        "candidates": 8,
        "modes": {
            "quick": {"base": {"steps": 5}, "candidates": 3},
            "long": {"base": {"steps": 500}, "tune": {"optimizer.backbone_rate": [1e-4, 1e-3]}},
        },
    }
    quick, long = study_of("x", content), study_of("x", content, mode="long")
    assert (quick.mode, quick.candidates, quick.settings("ms+none", {}, 0).steps) == ("quick", 3, 5)
    assert (long.mode, long.candidates, long.settings("ms+none", {}, 0).steps) == ("long", 8, 500)
    assert set(long.arms["ms+none"].tune) == {"optimizer.head_rate", "optimizer.backbone_rate"}
    with pytest.raises(SettingsError, match=r"no mode 'lng'\. Did you mean 'long'"):
        study_of("x", content, mode="lng")


def test_changes_replace_the_base() -> None:
    assert study_of("x", GRID, changes={"steps": "30"}).settings("ms+none", {}, 0).steps == 30


def test_identity_follows_what_runs_depend_on_alone() -> None:
    identity = study_of("x", GRID).identity()
    assert study_of("x", {**GRID, "seeds": 9, "title": "other", "questions": []}).identity() == identity
    for change in ({"candidates": 9}, {"base": {"steps": 11}}, {"search": {"seed": 1}}, {"final": {"steps": 12}}):
        assert study_of("x", {**GRID, **change}).identity() != identity


def changed(**values: Any) -> dict[str, Any]:
    return {**GRID, **values}


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (changed(quetsions=[]), r"a study has no 'quetsions'\. Did you mean 'questions'"),
        (changed(seeds="many"), "seeds is 'many'; wanted a whole number"),
        (changed(base={"stepps": 3}), r"arm triplet\+none: there is no setting 'stepps'\. Did you mean 'steps'"),
        (changed(base={"sec": {"wieght": 3}}), r"no setting 'sec\.wieght'\. Did you mean 'sec\.weight'"),
        (changed(base={"steps": 0}), "steps must be a whole number"),
        (changed(tune={"optimizer.head_rte": [1, 2]}), r"no setting 'optimizer\.head_rte'"),
        (changed(tune={"optimizer.head_rate": {"from": 2, "to": 1}}), "wanted a smaller number first"),
        (changed(tune={"sec.momentum": [0.5, 2.0]}), "sec.momentum must be a number"),
        (changed(final={"stps": 3}), r"no setting 'stps'"),
        (
            changed(arms={"odd": {"loss.name": "tripplet"}}),
            r"arm odd: no loss is called 'tripplet'\. Did you mean 'triplet'",
        ),
        (
            changed(arms={"odd": {"loss.name": "triplet", "loss.settings": {"margn": 1}}}),
            r"the loss triplet has no setting 'loss\.settings\.margn'\. Did you mean 'margin'",
        ),
        (
            changed(arms={"odd": {"values_of": "ms+sec", "tune": {"sec.weight": [0.1, 0.2]}}}),
            r"arm odd takes the values of ms\+sec and tunes its own\. Leave out one",
        ),
        (changed(arms={"odd": {"values_of": "ms+sex"}}), r"takes the values of 'ms\+sex'\. .*Did you mean 'ms\+sec'"),
        (
            changed(arms={"odd": {"values_of": "fixed"}, "fixed": {"optimizer.head_rate": 0.1, "sec.weight": 0}}),
            "arm odd takes the values of fixed, which is not tuned",
        ),
        (changed(arms={"ms+sec": {}}), r"two arms are called 'ms\+sec'"),
        (changed(arms={"a/b": {}}), "an arm is called 'a/b'; wanted letters"),
        (changed(scores=["recal@1"]), r"there is no score 'recal@1'"),
        (changed(search={"metric": "mapr"}), r"there is no score 'mapr'"),
        (changed(search={"sampler": "random"}), "sampler is 'random'; wanted 'qmc' or 'tpe'"),
        (changed(search={"seeds": [3]}), "seed 3 would choose the settings and then score them"),
        (changed(questions=[{"ask": "?", "arm": "ms+sec"}]), "a question has no 'against'"),
        (changed(questions=[{"ask": "?", "arm": "ms+sex", "against": "ms+none"}]), r"Did you mean 'ms\+sec'"),
        (changed(questions=[{"ask": "?", "arm": "ms+sec", "against": "ms+sec"}]), "with itself"),
        (
            changed(questions=[{"ask": "?", "arm": "ms+sec", "against": "ms+none", "score": "nmi"}]),
            "about 'nmi', which is not measured",
        ),
        (
            changed(questions=[{"ask": "?", "arm": "sex", "against": "none", "along": "constraint"}]),
            "finds no pair sex and none along constraint",
        ),
        (
            changed(questions=[{"ask": "{los}?", "arm": "sec", "against": "none", "along": "constraint"}]),
            "names 'los', which is no axis",
        ),
        (changed(grids=[], arms={"one": {}}, questions=[]), "has 1. Give at least two"),
    ],
)
def test_a_mistake_is_named_before_the_first_run(content: dict[str, Any], words: str) -> None:
    with pytest.raises(SettingsError, match=words):
        study_of("x", content)


def test_a_file_is_found_by_name_or_path_and_named_in_errors(tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text(yaml.safe_dump(GRID))
    assert read_study(file).name == "mine"
    file.write_text(yaml.safe_dump({**GRID, "seeds": 0}))
    with pytest.raises(SettingsError, match=rf"{file}: seeds must be"):
        read_study(file)
    with pytest.raises(SettingsError, match=r"no study 'sce'\. Did you mean 'sec'"):
        read_study("sce")
    with pytest.raises(SettingsError, match="there is no study file"):
        read_study(tmp_path / "other.yaml")


@pytest.mark.parametrize("name", sorted(shipped_studies()))
def test_a_shipped_study_is_valid_in_each_of_its_modes_and_asks_something(name: str) -> None:
    content = yaml.safe_load(shipped_studies()[name].read_text())
    for mode in content.get("modes", [None]):
        study = read_study(name, mode=mode)
        assert study.comparisons
        assert study.title.endswith("?")
        # The same number of candidates for each arm, each with something to tune: the equal budget that a reader expects.
        assert all(arm.tune or arm.values_of for arm in study.arms.values())
    page = (Path(__file__).parents[2] / "docs" / "studies.md").read_text(encoding="utf-8")
    assert re.search(rf"^\| `{name}` \| .* \| {read_study(name).runs} \|$", page, re.MULTILINE)


def test_the_study_of_the_documentation_is_valid() -> None:
    page = (Path(__file__).parents[2] / "docs" / "studies.md").read_text(encoding="utf-8")
    content = yaml.safe_load(page.partition("```yaml")[2].partition("```")[0])
    assert study_of("documented", content).comparisons
