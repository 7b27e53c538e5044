"""Trials one by one, and templates by hand."""

import importlib
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cosphere.errors import DataError, SettingsError, SizeError
from cosphere.evaluate.identification import identification, pool_templates, verification_among


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
    assert (found["rank@1"], found["rank@2"]) == (0.375, 0.75)
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


@given(st.integers(0, 2**31), st.sampled_from([1, 2**20]), st.randoms())
@settings(max_examples=15, deadline=None)
def test_neither_blocks_nor_order_matter(seed, block_bytes, order):
    random = np.random.default_rng(seed)
    labels = random.integers(0, 9, 50)
    labels[:2] = 0
    probes, distractors = random.normal(size=(50, 3)), random.normal(size=(60, 3))
    first = identification(probes, labels, distractors, (1, 3, 60, 61))
    there, here = order.sample(range(60), 60), order.sample(range(50), 50)
    names = np.array([f"person {label}" for label in labels])
    steps = []
    again = identification(
        probes[here], names[here], distractors[there], (1, 3, 60, 61), block_bytes=block_bytes,
        progress=lambda done, total: steps.append((done, total)),
    )  # fmt: skip
    assert again == first
    assert steps[-1] == (50, 50)
    assert first["rank@61"] == 1  # no more than 60 can stand above


def test_exact_ties_and_rows_without_direction():
    random = np.random.default_rng(0)
    corners = np.array([[1, 0], [-1, 0], [0, 1], [0, -1], [0, 0]], dtype=np.float16)  # cosines of exactly -1, 0, 1
    probes, distractors = corners[random.integers(0, 5, 40)], corners[random.integers(0, 5, 7)]
    labels = random.integers(0, 5, 40)
    found = identification(probes, labels, distractors, (1, 2, 5))

    def cosine(a, b):
        return float(np.float64(a) @ np.float64(b))  # all have length 1 or 0

    trials = [(i, j) for i in range(40) for j in range(40) if i != j and labels[i] == labels[j]]
    above = [sum(cosine(probes[i], d) >= cosine(probes[i], probes[j]) for d in distractors) for i, j in trials]
    assert found["trials"] == len(trials)
    for rank in (1, 2, 5):
        assert found[f"rank@{rank}"] == pytest.approx(np.mean(np.array(above) < rank))


def test_many_templates_against_sums_one_by_one():
    random = np.random.default_rng(2)
    rows = random.normal(size=(80, 5))
    templates, media = random.integers(-3, 9, 80), random.integers(0, 4, 80)
    pooled, names = pool_templates(rows, templates, media)
    for row, name in zip(pooled, names, strict=True):
        parts = [rows[(templates == name) & (media == one)].mean(axis=0) for one in set(media[templates == name])]
        np.testing.assert_allclose(row, sum(parts) / np.linalg.norm(sum(parts)), atol=1e-12)


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
    with pytest.raises(SettingsError, match=r"ranks is empty|rank must be a whole number >= 1; got"):
        identification(rows, [0, 0, 1], rows, [0])
    with pytest.raises(SettingsError, match=r"ranks is empty|rank must be a whole number >= 1; got"):
        identification(rows, [0, 0, 1], rows, [])
    with pytest.raises(SettingsError, match="fars is empty"):
        verification_among(rows, [0, 0, 1], rows, [])
    with pytest.raises(SizeError, match="dimensions"):
        identification(rows, [0, 0, 1], torch.eye(2))
    with pytest.raises(DataError, match="distractors hold NaN"):
        identification(rows, [0, 0, 1], rows * math.nan)
    with pytest.raises(
        SizeError, match=r"want templates \(n,\) integers, one for each of 3 embeddings, got \(2,\) int64"
    ):
        pool_templates(np.eye(3), [0, 1])
    with pytest.raises(SizeError, match=r"want templates \(n,\) integers, .* Number them"):
        pool_templates(np.eye(3), ["anna", "ben", "ben"])
    with pytest.raises(SizeError, match=r"want media \(n,\) integers, .*, got \(3,\) float64"):
        pool_templates(np.eye(3), [0, 1, 1], [0.2, 0.4, 0.6])
    with pytest.raises(SizeError, match=r"want embeddings \(n, D\), got \(3,\)"):
        pool_templates(np.ones(3), [0, 1, 1])
    with pytest.raises(DataError, match="NaN"):
        pool_templates([[math.nan, 1.0]], [0])
    with pytest.raises(DataError, match="want weights"):
        pool_templates(np.eye(2), [0, 1], weights=[-1, 1])


def test_templates_of_any_kind_of_rows_are_pooled():
    rows = np.random.default_rng(0).normal(size=(6, 4)).astype(np.float16)
    want = pool_templates(rows, [0, 0, 1, 1, 2, 2])[0]
    for kind in (torch.from_numpy(rows).requires_grad_(), rows.tolist(), np.asfortranarray(rows)):
        assert pool_templates(kind, torch.tensor([0, 0, 1, 1, 2, 2]))[0].tolist() == want.tolist()
    assert pool_templates(torch.ones(2, 3, dtype=torch.bfloat16), [5, 5])[1].tolist() == [5]


@pytest.mark.parametrize("block_bytes", [1, 2**20])
@pytest.mark.parametrize("seed", range(3))
def test_verification_among_distractors_counts_every_pair(seed, block_bytes):
    random = np.random.default_rng(seed)
    labels = random.integers(0, 9, 70)
    probes = random.normal(size=(70, 6)) + random.normal(size=(9, 6))[labels]
    distractors = random.normal(size=(40, 6))
    found = verification_among(probes, labels, distractors, (0.0, 0.01, 0.2), block_bytes=block_bytes)
    unit, rivals = (rows / np.linalg.norm(rows, axis=1, keepdims=True) for rows in (probes, distractors))
    impostors = np.sort((unit @ rivals.T).ravel())[::-1]
    same = [unit[i] @ unit[j] for i in range(70) for j in range(i) if labels[i] == labels[j]]
    for far, (rate, threshold) in found.items():
        cut = impostors[math.floor(far * len(impostors))]
        assert threshold == pytest.approx(cut, abs=1e-6)
        assert rate == pytest.approx(np.mean([cosine > cut for cosine in same]))


def test_verification_among_distractors_keeps_a_bounded_number():
    rows = np.eye(3)
    with pytest.raises(SettingsError, match="far must be a number"):
        verification_among(rows, [0, 0, 1], rows, (2,))
    with pytest.raises(DataError, match="nobody has two images"):
        verification_among(rows, [0, 1, 2], rows, (0.1,))


def test_too_high_a_rate_is_refused(monkeypatch):
    # The package's name `identification` is the function.
    monkeypatch.setattr(importlib.import_module("cosphere.evaluate.identification"), "MOST_KEPT", 3)
    with pytest.raises(
        SettingsError, match=r"needs the 5 highest of 9 cosines; at most 3 are kept. Ask for a lower rate"
    ):
        verification_among(np.eye(3), [0, 0, 1], np.eye(3), (0.5,))
