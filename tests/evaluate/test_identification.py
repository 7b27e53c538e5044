import math

import numpy as np
import pytest
import torch

from cosphere.errors import DataError, SettingsError, SizeError
from cosphere.evaluate.identification import identification, pool_templates


def by_trials(probes, labels, distractors, rank):
    unit = [row / np.linalg.norm(row) for row in np.asarray(probes, dtype=float)]
    rivals = [row / np.linalg.norm(row) for row in np.asarray(distractors, dtype=float)]
    found = []
    for i, probe in enumerate(unit):
        for j, mate in enumerate(unit):
            if i != j and labels[i] == labels[j]:
                found.append(sum(probe @ rival >= probe @ mate for rival in rivals) < rank)
    return np.mean(found), len(found)


def test_published_protocol_on_eight_trials():
    probes = [[1.0, 0, 0], [0.9, 0.3, 0.1], [0.5, 0.8, 0.2], [0, 1, 0.2], [0.2, 0.9, -0.3]]
    distractors = [[0.7, 0.6, 0.1], [0.1, 0.8, 0.6], [-1.0, 0, 0.2], [0, -0.3, 1]]
    found = identification(torch.tensor(probes), [0, 0, 0, 1, 1], torch.tensor(distractors), (1, 2, 4))
    assert found["trials"] == 8
    for rank in (1, 2, 4):
        assert found[f"rank@{rank}"] == by_trials(probes, [0, 0, 0, 1, 1], distractors, rank)[0]


@pytest.mark.parametrize("block_bytes", [1, 2**20])
@pytest.mark.parametrize("seed", range(3))
def test_against_trials_one_by_one(seed, block_bytes):
    random = np.random.default_rng(seed)
    labels = random.integers(0, 9, 70)
    probes = random.normal(size=(70, 6)) + random.normal(size=(9, 6))[labels]
    distractors = random.normal(size=(40, 6))
    found = identification(probes, labels, distractors, (1, 5), block_bytes=block_bytes)
    for rank in (1, 5):
        want, trials = by_trials(probes, labels, distractors, rank)
        assert found[f"rank@{rank}"] == pytest.approx(want)
        assert found["trials"] == trials


def test_a_distractor_that_is_the_mate_itself_counts_against_it():
    probes = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    assert identification(probes, [5, 5], probes[1:])["rank@1"] == 0  # both cosines are equal
    assert identification(probes, [5, 5], -probes * 2 - 1)["rank@1"] == 1


def test_templates_average_a_video_before_they_add():
    rows = [[2.0, 0.0], [4.0, 0.0], [0.0, 3.0], [1.0, 1.0]]
    pooled, names = pool_templates(rows, [7, 7, 7, 2], [1, 1, 2, 1])
    assert names.tolist() == [2, 7]
    assert pooled[0].tolist() == pytest.approx([math.sqrt(0.5)] * 2)
    assert pooled[1].tolist() == pytest.approx([math.sqrt(0.5)] * 2)  # mean (3, 0) plus (0, 3)
    apart, _ = pool_templates(rows, [7, 7, 7, 2])
    assert apart[1].tolist() == pytest.approx([6 / math.sqrt(45), 3 / math.sqrt(45)])
    level, _ = pool_templates(rows, [7, 7, 7, 2], keep_lengths=False)
    assert level[1].tolist() == pytest.approx([2 / math.sqrt(5), 1 / math.sqrt(5)])
    weighted, _ = pool_templates(rows, [7, 7, 7, 2], weights=[0, 1, 1, 1])
    assert weighted[1].tolist() == pytest.approx([4 / 5, 3 / 5])


def test_equal_lengths_make_both_ways_of_pooling_one():
    random = np.random.default_rng(0)
    rows = random.normal(size=(20, 4))
    rows *= 5 / np.linalg.norm(rows, axis=1, keepdims=True)
    templates = random.integers(0, 4, 20)
    raw, level = (pool_templates(rows, templates, keep_lengths=keep)[0] for keep in (True, False))
    np.testing.assert_allclose(raw, level, atol=1e-12)


def test_a_template_that_cancels_out_is_zero():
    assert pool_templates([[1.0, 0.0], [-1.0, 0.0]], [0, 0])[0].tolist() == [[0, 0]]


def test_wrong_input_is_named():
    rows = torch.eye(3)
    with pytest.raises(DataError, match="nobody has two images"):
        identification(rows, [0, 1, 2], rows)
    with pytest.raises(SizeError, match=r"want labels \(3,\)"):
        identification(rows, [0, 1], rows)
    with pytest.raises(SettingsError, match="ranks are whole numbers from 1"):
        identification(rows, [0, 0, 1], rows, [0])
    with pytest.raises(SizeError, match="want embeddings"):
        pool_templates(np.eye(3), [0, 1])
    with pytest.raises(DataError, match="NaN"):
        pool_templates([[math.nan, 1.0]], [0])
    with pytest.raises(DataError, match="want weights"):
        pool_templates(np.eye(2), [0, 1], weights=[-1, 1])
