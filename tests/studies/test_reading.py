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


def test_numbers_name_arms_axes_values_and_modes() -> None:
    content = yaml.safe_load(
        """
        mode: 2
        modes: {1: {seeds: 3}, 2: {seeds: 4}}
        grids: [{dim: {64: {model.dim: 64}, 512: {model.dim: 512}}, 7: {0.5: {sec.weight: 0.5}, none: {}}}]
        arms: {1: {tune: {sec.weight: [0.1, 0.2]}}, 2: {values_of: 1, settings: {steps: 5}}}
        questions:
          - {ask: "Does {dim} beat 64 with {7}?", arm: 512, against: 64, along: dim}
          - {ask: "Is it better?", arm: 2, against: 1}
        """
    )
    study = study_of("x", content)
    assert (study.mode, study.seeds) == ("2", 4)
    assert list(study.arms) == ["64+0.5", "64+none", "512+0.5", "512+none", "1", "2"]
    assert (study.arms["512+0.5"].values, study.arms["2"].values_of) == ({"dim": "512", "7": "0.5"}, "1")
    assert [(one.question, one.arm, one.against) for one in study.comparisons] == [
        ("Does 512 beat 64 with 0.5?", "512+0.5", "64+0.5"),
        ("Does 512 beat 64 with none?", "512+none", "64+none"),
        ("Is it better?", "2", "1"),
    ]
    assert study_of("x", content, mode="1").seeds == 3


def test_an_axis_may_be_called_arm() -> None:
    grids = [{"arm": {"a": {"steps": 5}, "b": {"steps": 6}}, "loss": {"triplet": {}}}]
    asked = {"ask": "Is {arm} better than a, in {{braces}}?", "arm": "b", "against": "a", "along": "arm"}
    (one,) = study_of("x", {"grids": grids, "questions": [asked]}).comparisons
    assert one.question == "Is b better than a, in {braces}?"


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
        (changed(scores=[]), r"scores is empty; wanted at least one score\. Leave it out"),
        (changed(search={"metric": "mapr"}), r"there is no score 'mapr'"),
        (changed(search={"sampler": "random"}), "sampler is 'random'; wanted 'qmc' or 'tpe'"),
        (changed(search={"seeds": []}), r"search\.seeds is empty; wanted at least one"),
        (changed(search={"seeds": [1000, 1001, 1000]}), r"search\.seeds has 1000 twice; wanted different seeds"),
        (changed(search={"seeds": [2**31]}), r"search\.seeds must be a whole number from 0 to 2147483647"),
        (changed(search={"seed": 2**32}), r"search\.seed must be a whole number from 0 to 4294967295"),
        (changed(level=95), "level must be a number above 0 and below 1, finite; got 95"),
        (changed(level=1.0), "level must be a number above 0 and below 1"),
        (changed(smallest=-0.5), "smallest must be a number >= 0 and at most 1"),
        (
            changed(base={"seed": 5}),
            r"base sets seed, but a study sets seed itself; give the number of final runs with --seeds",
        ),
        (
            changed(base={"validation": {"metric": "map@r"}}),
            r"base sets validation\.metric, but .* give it as search\.metric",
        ),
        (changed(base={"data": {"root": "x"}}), r"base sets data\.root, but .* give the images with --data"),
        (changed(final={"device": "cuda"}), r"final sets device, but .* give it with --device"),
        (changed(arms={"a": {"seed": 3}}), r"the arm a sets seed, but a study sets seed itself"),
        (changed(arms={"a": {"tune": {"data.root": ["x", "y"]}}}), r"the arm a sets data\.root, but"),
        (changed(tune={"seed": [1, 2]}), r"the arm triplet\+none sets seed, but"),
        (changed(mode="m", modes={"m": {"base": {"seed": 1}}}), "base sets seed, but"),
        (
            changed(final={"steps": 800}, arms={"short": {"steps": 400}, "long": {"steps": 1600}}),
            r"final sets steps, and the arm short sets steps, so that its final runs would not have its own value\. Leave it out of one",
        ),
        (changed(final={"optimizer": {"head_rate": 0.01}}), r"and the arm triplet\+none tunes optimizer\.head_rate"),
        (
            changed(final={"loss.settings": {}}, arms={"a": {"loss.name": "triplet", "loss.settings.margin": 0.2}}),
            r"final sets loss\.settings, and the arm a sets loss\.settings\.margin",
        ),
        (changed(modes={"a": {}}, mode=None), "mode is left empty; wanted text"),
        (
            changed(arms={False: {}}),
            r"the name of an arm is False; wanted text\. YAML reads words such as yes, no, .* in quotes",
        ),
        (changed(arms={64: {"model.dim": 64}, "64": {}}), "the name of an arm is 64 twice, as a number and as text"),
        (changed(arms={"..": {}}), r"an arm is called '\.\.'; wanted letters, digits .* not dots alone"),
        (changed(arms={"a" * 256: {}}), "wanted letters, digits .* at most 255"),
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
        *(
            (
                changed(questions=[{"ask": ask, "arm": "*", "against": "ms+none"}]),
                rf"question '{re.escape(ask)}' {words}.* Use {{arm}} or {{loss}} or {{constraint}}",
            )
            for ask, words in (
                ("{arm.x}?", r"names 'arm\.x', which is no axis"),
                ("{arm.__class__}?", r"names 'arm\.__class__', which is no axis"),
                ("{arm:>9999999999}?", "names 'arm:>9999999999', which is no axis"),
                ("{arm[0]}?", r"names 'arm\[0\]', which is no axis"),
                ("{}?", "names '', which is no axis"),
                ("{arm?", "has a single brace"),
            )
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
