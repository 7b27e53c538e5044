from __future__ import annotations

import collections
import itertools
import json
import time
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cosphere.data import ClassBalancedBatches, Draw
from cosphere.errors import DataError, RunError, SettingsError, SizeError

COUNTS = [1, 2, 3, 4, 5, 7, 12]


def labelled(counts: list[int], shuffle: int = 0) -> list[int]:
    """Labels that are neither sorted nor contiguous."""
    labels = [10 * label - 20 for label, count in enumerate(counts) for _ in range(count)]
    return np.random.default_rng(shuffle).permutation(labels).tolist()


def rows(batches: ClassBalancedBatches) -> list[list[int]]:
    return [[draw.row for draw in batch] for batch in batches]


@st.composite
def samplers(draw: st.DrawFn, **fixed: Any) -> tuple[list[int], ClassBalancedBatches]:
    counts = draw(st.lists(st.integers(1, 9), min_size=2, max_size=12))
    each = draw(st.integers(1, max(counts)))
    ranks = fixed.pop("world_size", 1)
    classes = draw(st.integers(1, len(counts) // ranks))
    labels = labelled(counts, draw(st.integers(0, 9)))
    options = {"coverage": draw(st.booleans()), "seed": draw(st.integers(0, 2**40)), **fixed}
    return labels, ClassBalancedBatches(labels, classes * each, each, world_size=ranks, **options)


@given(samplers())
@settings(deadline=None)
def test_every_batch_is_p_classes_by_k_images(case: tuple[list[int], ClassBalancedBatches]) -> None:
    labels, batches = case
    each, counts = batches.images_per_class, collections.Counter(labels)
    epoch = rows(batches)
    assert len(epoch) == len(batches)
    for batch in epoch:
        per_class = collections.Counter(labels[row] for row in batch)
        assert set(per_class.values()) == {each}
        assert len(per_class) == batches.batch_size // each
        for label in per_class:
            own = [row for row in batch if labels[row] == label]
            if counts[label] >= each:
                assert len(set(own)) == each  # without replacement


@given(samplers(coverage=True))
@settings(deadline=None)
def test_coverage_covers_in_the_fewest_batches(case: tuple[list[int], ClassBalancedBatches]) -> None:
    labels, batches = case
    seen = {row for batch in rows(batches) for row in batch}
    assert seen == set(range(len(labels)))
    assert batches.seen() == (len(labels), len(labels))
    each = batches.images_per_class
    chunks = [-(-count // each) for count in collections.Counter(labels).values()]
    assert len(batches) == max(max(chunks), -(-sum(chunks) // (batches.batch_size // each)))


@given(samplers(world_size=2), st.integers(0, 5))
@settings(deadline=None)
def test_two_ranks_draw_what_one_draws_with_the_double_batch(
    case: tuple[list[int], ClassBalancedBatches], epoch: int
) -> None:
    labels, first = case
    same = {"coverage": first.coverage, "seed": first.seed}
    size, each = first.batch_size, first.images_per_class
    second = ClassBalancedBatches(labels, size, each, rank=1, world_size=2, **same)
    alone = ClassBalancedBatches(labels, 2 * size, each, **same)
    for batches in (first, second, alone):
        batches.set_epoch(epoch)
    assert [one + two for one, two in zip(first, second, strict=True)] == list(alone)
    for one, two in zip(first, second, strict=True):
        assert not {labels[draw.row] for draw in one} & {labels[draw.row] for draw in two}


@given(samplers(), st.data())
@settings(deadline=None)
def test_resumed_equals_uninterrupted(case: tuple[list[int], ClassBalancedBatches], data: st.DataObject) -> None:
    labels, batches = case
    epochs = []
    for epoch in range(3):
        batches.set_epoch(epoch)
        epochs.append(list(batches))
    epoch, position = data.draw(st.integers(0, 2)), data.draw(st.integers(0, len(batches)))
    batches.set_epoch(epoch)
    state = json.loads(json.dumps(batches.state_dict(position)))
    fresh = ClassBalancedBatches(
        labels, batches.batch_size, batches.images_per_class, coverage=batches.coverage, seed=batches.seed
    )
    fresh.load_state_dict(state)
    fresh.set_epoch(epoch)  # as a loop over epochs does; it must not rewind
    assert list(fresh) == epochs[epoch][position:]
    assert len(fresh) == len(batches)
    for later in range(epoch + 1, 3):
        fresh.set_epoch(later)
        assert list(fresh) == epochs[later]


def test_state_without_a_position_counts_the_batches_given_out() -> None:
    batches = ClassBalancedBatches(labelled([4] * 8), 4, 2)
    everything = list(batches)
    list(itertools.islice(batches, 3))
    state = batches.state_dict()
    assert state["position"] == 3
    assert batches.seen().images == len({draw.row for batch in everything[:3] for draw in batch}) < 32
    batches.load_state_dict(state)
    assert list(batches) == everything[3:]
    assert list(batches) == everything  # a loaded place counts once


def test_a_loader_with_workers_gives_the_same_batches() -> None:
    batches = ClassBalancedBatches(labelled(COUNTS), 6, 2, seed=3)

    class Echo(torch.utils.data.Dataset[Draw]):
        def __getitem__(self, draw: Draw) -> Draw:
            return draw

        def __len__(self) -> int:
            return sum(COUNTS)

    loader = torch.utils.data.DataLoader(Echo(), batch_sampler=batches, num_workers=1, collate_fn=list)
    assert list(loader) == list(batches)
    assert len(loader) == len(batches)


def test_official_length_and_classes_at_random() -> None:
    labels = labelled([30] * 20)
    batches = ClassBalancedBatches(labels, 70, 10, seed=1)
    assert len(batches) == 600 // 70
    assert len(ClassBalancedBatches(labels, 50, 10, world_size=2)) == 6
    assert len(ClassBalancedBatches(labels, 70, 10, length=3)) == 3
    assert len(ClassBalancedBatches(labelled([2] * 4), 8, 2)) == 1
    assert len(ClassBalancedBatches(labelled([2, 1]), 4, 2)) == 1  # an epoch is never empty
    times: collections.Counter[int] = collections.Counter()
    for epoch in range(50):
        batches.set_epoch(epoch)
        times.update(labels[row] for batch in rows(batches) for row in batch)
    drawn = np.array(list(times.values())) / 10  # how often each class was chosen, of 400 batches with 7 of 20 classes
    assert len(times) == 20
    assert abs(drawn - 140).max() < 5 * np.sqrt(400 * 0.35 * 0.65)


def test_every_pair_of_a_class_is_equally_likely() -> None:
    batches = ClassBalancedBatches([0] * 5 + [1] * 5, 2, 2, length=4000)
    pairs = collections.Counter(tuple(sorted(batch)) for batch in rows(batches))
    assert len(pairs) == 20
    assert max(abs(count - 200) for count in pairs.values()) < 5 * np.sqrt(200)


def test_short_classes_draw_with_replacement_and_always_means_always() -> None:
    labels = [0] * 2 + [1] * 6
    short = ClassBalancedBatches(labels, 6, 3, length=300)
    twos = collections.Counter(tuple(sorted(row for row in batch if row < 2)) for batch in rows(short))
    assert set(twos) == {(0, 0, 0), (0, 0, 1), (0, 1, 1), (1, 1, 1)}  # three independent draws of two images
    always = ClassBalancedBatches(labels, 6, 3, replacement="always", length=300)
    sixes = [len({row for row in batch if row >= 2}) for batch in rows(always)]
    # Three independent draws of six images are all different with probability 5/6 * 4/6.
    assert abs(sixes.count(3) - 300 * 20 / 36) < 5 * np.sqrt(300 * 20 / 36 * 16 / 36)
    for batch in rows(always):
        assert sum(row < 2 for row in batch) == 3


def test_seeds_are_all_different_and_belong_to_the_place() -> None:
    def seeds(**options: Any) -> list[int]:
        batches = ClassBalancedBatches(labelled([9] * 30), 30, 3, **options)
        first = [draw.seed for batch in batches for draw in batch]
        batches.set_epoch(1)
        return first + [draw.seed for batch in batches for draw in batch]

    every = seeds(seed=0) + seeds(seed=1)
    assert len(set(every)) == len(every) == 2 * 2 * 270
    assert all(0 <= seed < 2**63 for seed in every)
    bits = np.array([[seed >> bit & 1 for bit in range(63)] for seed in every])
    assert abs(bits.mean(axis=0) - 0.5).max() < 5 * 0.5 / np.sqrt(len(every))
    assert seeds(seed=0) == seeds(seed=0)


@pytest.mark.parametrize("coverage", [False, True])
def test_epochs_and_seeds_differ(coverage: bool) -> None:
    def epoch(seed: int, number: int) -> list[list[int]]:
        batches = ClassBalancedBatches(labelled([6] * 10), 10, 2, coverage=coverage, seed=seed)
        batches.set_epoch(number)
        return rows(batches)

    assert epoch(0, 0) == epoch(0, 0)
    assert epoch(0, 0) != epoch(0, 1)
    assert epoch(0, 0) != epoch(1, 0)


def test_classes_of_a_covering_epoch_meet_in_changing_company() -> None:
    labels = np.repeat(np.arange(20), 20)
    batches = ClassBalancedBatches(labels, 10, 2, coverage=True)
    company = {tuple(sorted({int(labels[row]) for row in batch})) for batch in rows(batches)}
    assert len(company) > 0.9 * len(batches)


def test_every_rank_gets_its_share_of_every_kind_of_class() -> None:
    labels = [0] * 20 + [1, 1, 2, 2, 3, 3]  # class 0 is in all ten batches, the others mostly fill up
    second = ClassBalancedBatches(labels, 2, 2, coverage=True, rank=1, world_size=2)
    times = 0
    for epoch in range(50):
        second.set_epoch(epoch)
        times += sum(batch[0] < 20 for batch in rows(second))
    assert len(second) == 10
    assert abs(times - 250) < 5 * np.sqrt(500 / 4)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"batch_size": 2, "images_per_class": 3}, r"2 holds no class of images_per_class 3\. Try batch_size 3\."),
        ({"batch_size": 0, "images_per_class": 3}, "at least 1, got 0 and 3"),
        (
            {"batch_size": 16, "images_per_class": 2},
            r"wants 8 classes, and there are 7\. Lower batch_size to 14 or raise",
        ),
        ({"batch_size": 8, "images_per_class": 2, "world_size": 2}, r"on 2 ranks wants 8 classes.*batch_size to 6"),
        ({"batch_size": 2, "images_per_class": 2, "world_size": 9}, "Use fewer ranks"),
        ({"batch_size": 26, "images_per_class": 13}, r"more than any class has \(the largest has 12\).*Lower it to 12"),
        ({"batch_size": 4, "images_per_class": 2, "rank": 1}, "got rank 1 of 1"),
        ({"batch_size": 4, "images_per_class": 2, "replacement": "never"}, "'when_short' or 'always', got 'never'"),
        (
            {"batch_size": 4, "images_per_class": 2, "replacement": "always", "coverage": True},
            "coverage sees every image",
        ),
        ({"batch_size": 4, "images_per_class": 2, "length": 3, "coverage": True}, "Leave length out"),
        ({"batch_size": 4, "images_per_class": 2, "length": 0}, "at least 1 batch"),
        ({"batch_size": 4, "images_per_class": 2, "seed": -1}, "0 or more, got -1"),
    ],
)
def test_settings_that_do_not_fit(options: dict[str, Any], words: str) -> None:
    with pytest.raises(SettingsError, match=words):
        ClassBalancedBatches(labelled(COUNTS), **options)


def test_no_labels_and_labels_of_another_shape() -> None:
    with pytest.raises(DataError, match="no labels"):
        ClassBalancedBatches([], 2, 2)
    with pytest.raises(SizeError, match=r"want labels \(N,\), got \(2, 2\)"):
        ClassBalancedBatches(np.zeros((2, 2), dtype=int), 2, 2)


def test_notes_count_the_classes_that_repeat_images() -> None:
    batches = ClassBalancedBatches(labelled(COUNTS), 8, 4)
    assert batches.notes == (
        "1 of 7 classes have one image, which is repeated to fill its 4 places in a batch",
        "2 of 7 classes have fewer than 4 images, so their images repeat in a batch",
    )
    assert ClassBalancedBatches(labelled([4, 5]), 8, 4).notes == ()
    assert ClassBalancedBatches(labelled([1, 5]), 2, 1).notes == ()


def test_a_state_of_other_data_or_settings_is_refused() -> None:
    labels = labelled([4] * 6)
    state = ClassBalancedBatches(labels, 4, 2).state_dict()
    others = {
        "global batch size": ClassBalancedBatches(labels, 8, 2),
        "images_per_class": ClassBalancedBatches(labels, 4, 4),
        "coverage": ClassBalancedBatches(labels, 4, 2, coverage=True),
        "seed": ClassBalancedBatches(labels, 4, 2, seed=1),
        "replacement": ClassBalancedBatches(labels, 4, 2, replacement="always"),
        "number of images": ClassBalancedBatches(labelled([4] * 7), 4, 2),
        "length": ClassBalancedBatches(labels, 4, 2, length=2),
        "labels": ClassBalancedBatches(labels[1:] + labels[:1], 4, 2),
    }
    for name, other in others.items():
        with pytest.raises(RunError, match=f"drawn with {name}"):
            other.load_state_dict(state)
    with pytest.raises(SettingsError, match=r"position must lie in \[0, 6\]"):
        ClassBalancedBatches(labels, 4, 2).state_dict(7)


def test_another_number_of_ranks_goes_on_with_the_same_global_batches() -> None:
    labels = labelled([4] * 8)
    alone = ClassBalancedBatches(labels, 8, 2)
    ranks = [ClassBalancedBatches(labels, 4, 2, rank=rank, world_size=2) for rank in range(2)]
    for rank in ranks:
        rank.load_state_dict(alone.state_dict(1))
    assert [one + two for one, two in zip(*ranks, strict=True)] == list(alone)[1:]


@pytest.mark.parametrize("options", [{}, {"coverage": True}, {"replacement": "always"}])
def test_an_epoch_of_sixty_thousand_images_takes_no_longer_than_two_seconds(options: dict[str, Any]) -> None:
    rng = np.random.default_rng(0)
    labels = rng.permutation(np.repeat(np.arange(11318), rng.integers(2, 9, 11318)))
    start = time.process_time()
    assert sum(1 for _ in ClassBalancedBatches(labels, 75, 5, **options)) > 500
    assert time.process_time() - start < 2.0  # a guard: batches that each look at all images take minutes
