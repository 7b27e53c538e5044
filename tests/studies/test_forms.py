"""Scores of bits beside those of floats, against bits that are compared one by one."""

from __future__ import annotations

import numpy as np
import pytest

from cosphere.embeddings import Embeddings
from cosphere.errors import SettingsError
from cosphere.evaluate import score_embeddings
from cosphere.studies import study_of
from cosphere.studies.forms import check_scores, per_query, settings_of

NAMES = ("recall@1", "map@r/bits", "recall@1/bits", "nmi")


def rows() -> Embeddings:
    generator = np.random.default_rng(0)
    labels = np.repeat(np.arange(6), 5)
    centres = generator.normal(size=(6, 24))
    vectors = (centres[labels] + 1.3 * generator.normal(size=(30, 24))).astype(np.float32)
    return Embeddings(
        embeddings=vectors, labels=labels, class_names=tuple("abcdef"), paths=tuple(f"{at}.jpg" for at in range(30))
    )


def test_bits_are_ranked_by_the_signs_that_differ() -> None:
    table = rows()
    values = per_query(score_embeddings(table, settings_of(NAMES)), NAMES)
    assert list(values) == ["recall@1", "map@r/bits", "recall@1/bits"]  # a clustering has no value for each query
    signs = table.embeddings > 0
    apart = (signs[:, None] != signs[None]).sum(axis=2).astype(float)
    np.fill_diagonal(apart, np.inf)
    expected = []
    for query in range(30):
        nearest = np.flatnonzero(apart[query] == apart[query].min())
        expected.append((table.labels[nearest] == table.labels[query]).mean())  # of ties, the share that is right
    assert np.allclose(values["recall@1/bits"], expected)
    assert not np.allclose(values["recall@1/bits"], values["recall@1"])


def test_bits_alone_are_measured() -> None:
    names = ("recall@1/bits",)
    assert list(per_query(score_embeddings(rows(), settings_of(names)), names)) == ["recall@1/bits"]


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["recal@1/bits"], "no score 'recal@1'"),
        (["nmi/bits"], r"'nmi/bits' clusters, which wants floats, not bits\. Write 'nmi'"),
        (["recall@1/bit"], "no score 'recall@1/bit'"),
    ],
)
def test_scores_that_are_none_are_refused(names: list[str], message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        check_scores(names)


def test_a_question_may_compare_two_scores() -> None:
    content = {
        "arms": {"wide": {"model.dim": 64}, "narrow": {"model.dim": 8}},
        "scores": ["recall@1", "recall@1/bits"],
        "questions": [
            {"ask": "a", "arm": "wide", "score": "recall@1/bits", "against": "narrow", "against_score": "recall@1"},
            {"ask": "b", "arm": "wide", "score": "recall@1", "against": "wide", "against_score": "recall@1/bits"},
            {"ask": "c", "arm": "wide", "against": "narrow"},
        ],
    }
    study = study_of("x", content)
    assert [one.scores for one in study.comparisons] == [
        ("recall@1/bits", "recall@1"),
        ("recall@1", "recall@1/bits"),
        ("recall@1", "recall@1"),
    ]
    for wrong, message in (
        ({"against": "wide"}, "compares wide with itself"),
        ({"against": "wide", "against_score": "recall@1"}, "compares wide with itself"),
        ({"against": "narrow", "against_score": "map@r"}, r"about 'map@r', which is not measured"),
    ):
        with pytest.raises(SettingsError, match=message):
            study_of("x", {**content, "questions": [{"ask": "d", "arm": "wide", **wrong}]})


def test_candidates_are_chosen_by_floats() -> None:
    with pytest.raises(SettingsError, match=r"validation scores are of floats; got 'map@r/bits'\. Write 'map@r'"):
        study_of("x", {"arms": {"a": {}, "b": {"model.dim": 8}}, "search": {"metric": "map@r/bits"}})
