"""`cosphere reproduce`."""

from __future__ import annotations

from pathlib import Path

import pytest

from cosphere.cli import main
from cosphere.cli.reproduce import show
from cosphere.evaluate import Interval
from cosphere.experiment import Reproduction, find_recipe
from cosphere.experiment.reproducing import ReproducedScore


def test_without_a_name_it_lists_the_rows(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["reproduce"]) == 0
    out = capsys.readouterr().out
    assert "sec/cars196/normalized_n_pair+l2" in out
    assert "normsoftmax/cars196/bn-inception-1024" in out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["sec/cub/tripet"], "Did you mean 'sec/cub/triplet'?"),
        (["sec/cub/triplet", "--data", "nowhere"], "there is no nowhere. The row 'sec/cub/triplet' needs CUB-200-2011"),
        (["sec/cub/triplet", "--data", ".", "--set", "{stepz: 2}"], "Did you mean 'steps'?"),
        (["sec/cub/triplet", "--data", ".", "--seeds", "0"], "wanted at least one"),
    ],
)
def test_mistakes_are_one_line(words: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["reproduce", *words]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


def test_each_score_stands_beside_the_published_one(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    scores = (
        ReproducedScore(name="nmi", published=0.6424, value=0.6401, interval=None, verdict=None),
        ReproducedScore(name="recall@1", published=0.6082, value=0.65, interval=Interval(0.64, 0.66), verdict="above"),
    )
    result = Reproduction(
        recipe=find_recipe("sec/cub/triplet+sec"),
        scores=scores,
        runs=(tmp_path / "a",),
        comparable=True,
        weights="imagenet",
        notes=("one seed",),
        path=tmp_path / "a.json",
    )
    show(result)
    printed = capsys.readouterr()
    assert "64.00 to 66.00" in printed.out
    assert "above" in printed.out
    assert "not compared" in printed.out
    assert "note: one seed" in printed.err
