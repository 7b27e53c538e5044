import itertools
import math

import pytest
import torch

from cosphere.errors import SettingsError, SizeError
from cosphere.losses import (
    BatchHardTripletLoss,
    MultiSimilarityLoss,
    SemihardTripletLoss,
    TripletLoss,
    distance_weighted_triplets,
    miners,
    similarities_held,
)

MINERS = [
    miners.all_pairs,
    miners.pair_margin,
    miners.multi_similarity,
    miners.hdc_pairs,
    miners.all_triplets,
    miners.violating_triplets,
    miners.semihard_triplets,
    miners.hard_triplets,
    miners.easy_triplets,
    miners.batch_hard,
]
every_miner = pytest.mark.parametrize("miner", MINERS, ids=lambda miner: miner.__name__)


def theirs(kind):
    """pytorch-metric-learning's miner of what each of ours mines, and the settings that make them equal."""
    from pytorch_metric_learning import distances
    from pytorch_metric_learning import miners as other

    squared = distances.LpDistance(power=2)

    def margin(type_of_triplets):
        return other.TripletMarginMiner(0.3, type_of_triplets, distance=squared), {"margin": 0.3}

    return {
        "pair_margin": lambda: (other.PairMarginMiner(1.0, 1.4), {"positive_margin": 1.0, "negative_margin": 1.4}),
        "multi_similarity": lambda: (other.MultiSimilarityMiner(0.2), {"epsilon": 0.2}),
        "hdc_pairs": lambda: (other.HDCMiner(0.3), {"share": 0.3}),
        "violating_triplets": lambda: margin("all"),
        "semihard_triplets": lambda: margin("semihard"),
        "hard_triplets": lambda: (margin("hard")[0], {}),
        "easy_triplets": lambda: margin("easy"),
        "batch_hard": lambda: (other.BatchHardMiner(), {}),
    }[kind]()


def as_sets(mined):
    parts = [part.tolist() for part in mined]
    if len(parts) == 3:
        return [sorted(zip(*parts, strict=True))]
    return [sorted(zip(*parts[:2], strict=True)), sorted(zip(*parts[2:], strict=True))]


@every_miner
@pytest.mark.parametrize("seed", range(3))
def test_agrees_with_pml(pml, ragged, miner, seed):
    from pytorch_metric_learning.utils import loss_and_miner_utils as utils

    points, labels = ragged(seed, 40)
    for references in [(), (points[15:], labels[15:])]:
        batch = (points[:15], labels[:15]) if references else (points, labels)
        named = dict(zip(("references", "reference_labels"), references, strict=False))
        settings = {}
        if miner is miners.all_pairs:
            want = utils.get_all_pairs_indices(batch[1], references[1] if references else None)
        elif miner is miners.all_triplets:
            want = utils.get_all_triplets_indices(batch[1], references[1] if references else None)
        else:
            other, settings = theirs(miner.__name__)
            want = other(*batch, *references)
        got = miner(*batch, **settings, **named)
        if miner is miners.hdc_pairs and not references:  # (a, b) and (b, a) tie, and the cut may fall between them
            assert unordered(got) == unordered(want)
        else:
            assert as_sets(got) == as_sets(want)
        assert all(len(part) for part in want)
        assert all(part.dtype == torch.int64 for part in got)
        with similarities_held(70):
            in_blocks = miner(*batch, **settings, **named)
        if miner is miners.hdc_pairs and not references:  # a block's product may differ in the last bit
            assert unordered(got) == unordered(in_blocks)
        else:
            assert all(torch.equal(*parts) for parts in zip(got, in_blocks, strict=True))
        assert as_sets(got) == [list(zip(*part, strict=True)) for part in by_kind(got)]  # in order already


def unordered(mined):
    return [sorted(tuple(sorted(pair)) for pair in kind) for kind in as_sets(mined)]


def by_kind(mined):
    parts = [part.tolist() for part in mined]
    return [parts] if len(parts) == 3 else [parts[:2], parts[2:]]


def squares(points):
    rows = points.tolist()
    return [
        [2 - 2 * sum(x * y for x, y in zip(a, b, strict=True)) / math.hypot(*a) / math.hypot(*b) for b in rows]
        for a in rows
    ]


@pytest.mark.parametrize("squared", [True, False])
def test_triplets_agree_with_loops(ragged, squared):
    points, labels = ragged(3, 20)
    d = [[value if squared else math.sqrt(max(value, 0)) for value in row] for row in squares(points)]
    names = labels.tolist()
    everything = [
        (a, p, n) for a, p, n in itertools.product(range(20), repeat=3) if p != a and names[a] == names[p] != names[n]
    ]
    gaps = [d[a][n] - d[a][p] for a, p, n in everything]

    def where(wanted):
        return [[triplet for triplet, gap in zip(everything, gaps, strict=True) if wanted(gap)]]

    settings = {"margin": 0.4, "squared": squared}
    assert as_sets(miners.all_triplets(points, labels)) == [everything]
    assert as_sets(miners.violating_triplets(points, labels, **settings)) == where(lambda gap: gap <= 0.4)
    assert as_sets(miners.semihard_triplets(points, labels, **settings)) == where(lambda gap: 0 < gap <= 0.4)
    assert as_sets(miners.hard_triplets(points, labels)) == where(lambda gap: gap <= 0)
    assert as_sets(miners.easy_triplets(points, labels, **settings)) == where(lambda gap: gap > 0.4)


def test_pairs_by_squared_margins_agree_with_loops(ragged):
    points, labels = ragged(4, 20)
    d, names = squares(points), labels.tolist()
    pairs = [(a, b) for a in range(20) for b in range(20) if a != b]
    near = [(a, p) for a, p in pairs if names[a] == names[p] and d[a][p] > 1]
    far = [(a, n) for a, n in pairs if names[a] != names[n] and d[a][n] < 1.5]
    got = miners.pair_margin(points, labels, positive_margin=1.0, negative_margin=1.5, squared=True)
    assert as_sets(got) == [near, far]


def test_hdc_takes_the_hardest_of_each_kind_whatever_the_blocks(ragged):
    points, labels = ragged(5, 30)
    d, names = squares(points), labels.tolist()
    pairs = [(a, b) for a in range(30) for b in range(30) if a != b]
    near = sorted((pair for pair in pairs if names[pair[0]] == names[pair[1]]), key=lambda pair: -d[pair[0]][pair[1]])
    far = sorted((pair for pair in pairs if names[pair[0]] != names[pair[1]]), key=lambda pair: d[pair[0]][pair[1]])
    share = 0.1
    ends = math.ceil(share * len(near)), math.ceil(share * len(far))
    ends = [end + end % 2 for end in ends]  # (a, b) and (b, a) tie, so cut between pairs
    got = []
    with similarities_held(30):
        for kind, (listed, end) in enumerate(zip((near, far), ends, strict=True)):
            got.append(as_sets(miners.hdc_pairs(points, labels, share=end / len(listed)))[kind])
    assert got == [sorted(near[: ends[0]]), sorted(far[: ends[1]])]
    assert as_sets(miners.hdc_pairs(points, labels, share=1.0)) == as_sets(miners.all_pairs(points, labels))


@every_miner
def test_rows_without_a_direction_are_never_listed_and_the_others_keep_their_numbers(ragged, miner):
    points, labels = ragged(6, 24)
    alive = [i for i in range(24) if i not in (0, 7, 8, 20)]
    holes = points.clone()
    holes[[0, 7, 8, 20]] = 0
    want = [[[alive[i] for i in row] for row in kind] for kind in as_sets(miner(points[alive], labels[alive]))]
    assert as_sets(miner(holes, labels)) == [[tuple(row) for row in kind] for kind in want]
    # The same rows as references of the first ten.
    want = miner(points[[1, 2, 3]], labels[[1, 2, 3]], references=points[alive], reference_labels=labels[alive])
    got = miner(holes[:4], labels[:4], references=holes, reference_labels=labels)
    numbers = torch.tensor(alive)
    anchors = {0, 2} if len(want) == 4 else {0}
    for place, (ours, expected) in enumerate(zip(got, want, strict=True)):
        assert torch.equal(ours, expected + 1 if place in anchors else numbers[expected])


@every_miner
def test_positions_leave_self_out_by_index(ragged, miner):
    points, labels = ragged(7, 16)
    points[5], labels[5] = points[4], labels[4]  # a duplicate image is a real positive
    here = torch.arange(16)
    got = miner(points, labels, references=points, reference_labels=labels, positions=here)
    assert as_sets(got) == as_sets(miner(points, labels))
    if miner in (miners.all_pairs, miners.all_triplets):
        assert any(row[:2] == (4, 5) for row in as_sets(got)[0])
        with_self = as_sets(miner(points, labels, references=points, reference_labels=labels))[0]
        assert any(row[:2] == (4, 4) for row in with_self)


@every_miner
@pytest.mark.parametrize(
    ("rows", "labels"),
    [
        (torch.zeros(0, 3), []),
        (torch.zeros(4, 3), [0, 0, 1, 1]),
        (torch.eye(3), [0, 0, 0]),
        (torch.eye(3), [0, 1, 2]),
        (torch.eye(3)[:1], [0]),
    ],
    ids=["no rows", "all rows zero", "one class", "all classes distinct", "one row"],
)
def test_batches_with_nothing_to_mine(miner, rows, labels):
    got = miner(rows, torch.tensor(labels, dtype=torch.int64))
    assert all(part.dtype == torch.int64 for part in got)
    if len(got) == 3:
        assert not any(len(part) for part in got)
    else:
        kinds = [kind for kind, mined in zip(("positive", "negative"), as_sets(got), strict=True) if mined]
        assert set(kinds) <= ({"positive"} if len(set(labels)) == 1 else {"negative"})
    empty = miner(torch.eye(3), torch.arange(3), references=torch.zeros(0, 3), reference_labels=torch.arange(0))
    assert not any(len(part) for part in empty)
    strangers = miner(torch.eye(3), torch.arange(3), references=torch.eye(3), reference_labels=torch.arange(3, 6))
    assert not any(len(part) for part in (strangers if len(strangers) == 3 else strangers[:2]))


def test_losses_without_a_miner_are_losses_with_the_miner_of_their_rule(ragged, gradient):
    points, labels = ragged(8, 40)

    def agree(loss, listed, want):
        assert float(loss(points, labels, listed)) == pytest.approx(float(want(points, labels)), rel=1e-9)
        slope = gradient(lambda x, y: loss(x, y, listed), points, labels)
        torch.testing.assert_close(slope, gradient(want, points, labels), rtol=1e-7, atol=1e-10)

    agree(TripletLoss(), miners.all_triplets(points, labels), TripletLoss())
    agree(TripletLoss(), miners.all_pairs(points, labels), TripletLoss())
    nonzero = TripletLoss(margin=0.3, reduction="mean_nonzero")
    agree(nonzero, miners.violating_triplets(points, labels, margin=0.3), nonzero)
    window = miners.semihard_triplets(points, labels, margin=0.3)
    agree(TripletLoss(margin=0.3), window, SemihardTripletLoss(margin=0.3, variant="facenet"))
    hardest = miners.batch_hard(points, labels)
    agree(TripletLoss(margin=0.2, squared=False), hardest, BatchHardTripletLoss(margin=0.2))


def test_pml_losses_take_our_tuples(pml, ragged, gradient):
    from pytorch_metric_learning import distances, losses, reducers

    points, labels = ragged(9, 40)
    triplet = losses.TripletMarginLoss(0.3, distance=distances.LpDistance(power=2), reducer=reducers.MeanReducer())
    mined = [miners.multi_similarity, miners.hdc_pairs, miners.semihard_triplets, miners.batch_hard]
    cases = [(TripletLoss(margin=0.3), triplet, miner(points, labels)) for miner in mined]
    for mine, other, listed in cases:
        assert float(mine(points, labels, listed)) == pytest.approx(float(other(points, labels, listed)), rel=1e-9)
        got, want = (
            gradient(lambda x, y, loss=loss, listed=listed: loss(x, y, listed), points, labels)
            for loss in (mine, other)
        )
        torch.testing.assert_close(got, want, rtol=1e-7, atol=1e-10)
    mined = miners.multi_similarity(points, labels, epsilon=0.1)
    value = float(losses.MultiSimilarityLoss(2, 40, 0.5)(points, labels, mined))
    assert float(MultiSimilarityLoss()(points, labels)) == pytest.approx(value, rel=1e-9)


def test_nothing_is_differentiated(ragged):
    points, labels = ragged(1, 20)
    points.requires_grad_()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        mined = miners.semihard_triplets(points.float(), labels)
    assert as_sets(mined) == as_sets(miners.semihard_triplets(points.detach().float(), labels))


def test_wrong_settings_and_input_are_named():
    points, labels = torch.eye(3), torch.tensor([0, 0, 1])
    for miner in (miners.violating_triplets, miners.semihard_triplets, miners.easy_triplets):
        with pytest.raises(SettingsError, match="margin must be a number >= 0, finite; got -1"):
            miner(points, labels, margin=-1)
        with pytest.raises(SettingsError, match="squared must be true or false; got 2"):
            miner(points, labels, squared=2)
    with pytest.raises(SettingsError, match="positive_margin"):
        miners.pair_margin(points, labels, positive_margin=-0.1)
    with pytest.raises(SettingsError, match="negative_margin"):
        miners.pair_margin(points, labels, negative_margin=math.inf)
    with pytest.raises(SettingsError, match="squared"):
        miners.pair_margin(points, labels, squared=None)
    with pytest.raises(SettingsError, match="epsilon must be a number, finite; got 'x'"):
        miners.multi_similarity(points, labels, epsilon="x")
    with pytest.raises(SettingsError, match="share must be a number above 0, finite; got 0"):
        miners.hdc_pairs(points, labels, share=0)
    with pytest.raises(SettingsError, match=r"share must be at most 1; got 1\.5"):
        miners.hdc_pairs(points, labels, share=1.5)
    with pytest.raises(SizeError, match="reference_labels is missing"):
        miners.all_pairs(points, labels, references=points)
    with pytest.raises(SizeError, match="want integer labels"):
        miners.batch_hard(points, labels.float())
    for of_any in (*MINERS, distance_weighted_triplets):
        with pytest.raises(SizeError, match="want embeddings as a tensor, got list"):
            of_any(points.tolist(), labels)
