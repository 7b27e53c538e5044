"""The shipped study of faces, in steps of seconds on a small LFW."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from small_lfw import write_lfw

from cosphere.studies import read_study, run

ARMS = ("sphereface+none", "cosface+l2", "cosface+sec")
TINY = {"steps": 3, "validation.every": 0, "batch.size": 8, "images.size": 24, "images.resize": 24}


@pytest.mark.slow
def test_the_study_of_faces_runs_on_lfws_lists(tmp_path: Path) -> None:
    whole = read_study("faces", changes=TINY)
    comparison = next(one for one in whole.comparisons if (one.arm, one.against) == ("cosface+sec", "cosface+l2"))
    study = replace(
        whole,
        arms={name: whole.arms[name] for name in ARMS},
        comparisons=(comparison,),
        base={**whole.base, "data.validation_share": 0.34, "steps": 3, "validation.every": 0},
        candidates=1,
        seeds=1,
    )
    result = run(study, write_lfw(tmp_path / "lfw"), tmp_path / "study")
    assert result.complete
    final = result.table[result.table["phase"] == "final"]
    assert sorted(final["arm"]) == sorted(ARMS)
    for score in whole.scores:
        assert final[f"score.{score}"].between(0, 1).all(), score
    # What SEC is about stands beside the scores: the relative spread of the lengths of test embeddings.
    assert (final["norm.cv"] > 0).all()
