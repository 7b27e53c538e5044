"""The engine of pair losses, on a row function of the test's own."""

import math
import os
import subprocess
import sys

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cosphere.errors import DerivativeError, SettingsError, SizeError
from cosphere.losses import NormSoftmaxLoss, TripletLoss
from cosphere.losses.engine.maths import chord, safe_sqrt, similarities_held
from cosphere.losses.engine.pairs import compare
from cosphere.losses.engine.rows import blocks, sum_over_rows


def weighted(rows):
    """A value in which every pair counts, positives and negatives differently."""
    positives = torch.where(rows.positive_real, rows.positives(0.0).square() - 2, 0.0).sum()
    return positives + torch.where(rows.negative, rows.similarities.exp(), 0.0).sum()


def by_loops(points, labels, others=None, other_labels=None, positions=None):
    """The same value, pair by pair."""
    own = others is None
    others, other_labels = (points, labels) if own else (others, other_labels)
    total = 0.0
    for i, (a, label) in enumerate(zip(points.tolist(), labels.tolist(), strict=True)):
        for j, (b, other) in enumerate(zip(others.tolist(), other_labels.tolist(), strict=True)):
            lengths = math.hypot(*a) * math.hypot(*b)
            if j == (i if own else -1 if positions is None else positions[i]) or lengths == 0:
                continue
            cosine = sum(p * q for p, q in zip(a, b, strict=True)) / lengths
            total += cosine**2 - 2 if label == other else math.exp(cosine)
    return total


def value(points, labels, **compared):
    pairs = compare(points, labels, **compared)
    return sum_over_rows(pairs, weighted).total + pairs.zero


@pytest.mark.parametrize("held", [1, 7, 50, 200, 10**6])
@pytest.mark.parametrize("seed", range(4))
def test_every_block_size_gives_the_value_and_gradient_of_loops(ragged, seed, held):
    points, labels = ragged(seed)
    points[3] = 0
    with similarities_held(held):
        assert value(points, labels).item() == pytest.approx(by_loops(points, labels), rel=1e-12)
    few, few_labels = points[4:12].requires_grad_(), labels[4:12]
    with similarities_held(held):
        assert torch.autograd.gradcheck(lambda x: value(x, few_labels), few)


@pytest.mark.parametrize("held", [1, 40, 10**6])
def test_references_and_positions(ragged, held):
    points, labels = ragged(1, 9)
    more, more_labels = ragged(2, 14)
    more_labels = labels[torch.arange(14) % 9]
    points[2] = 0
    more[5] = 0
    more[[3, 8]] = points[[0, 6]]
    positions = torch.tensor([3, -1, -1, -1, -1, -1, 8, 5, -1])
    with similarities_held(held):
        for where in (None, positions):
            got = value(points, labels, references=more, reference_labels=more_labels, positions=where)
            want = by_loops(points, labels, more, more_labels, None if where is None else where.tolist())
            assert got.item() == pytest.approx(want, rel=1e-12)
        leaves = points.clone().requires_grad_(), more.clone().requires_grad_()
        leaves[0].data[2] = 1
        leaves[1].data[5] = 1

        def of_both(x, y):
            return value(x, labels, references=y, reference_labels=more_labels, positions=positions)

        assert torch.autograd.gradcheck(of_both, leaves)


def test_the_batch_as_its_own_references_is_the_batch(ragged):
    points, labels = ragged(3, 20)
    own = value(points.requires_grad_(), labels)
    (slope,) = torch.autograd.grad(own, points)
    again = value(points, labels, references=points, reference_labels=labels, positions=torch.arange(20))
    torch.testing.assert_close(again, own, rtol=1e-12, atol=0)
    torch.testing.assert_close(torch.autograd.grad(again, points)[0], slope, rtol=1e-9, atol=1e-12)


@given(st.lists(st.integers(0, 4), min_size=1, max_size=24), st.integers(1, 80), st.integers(0, 2**31))
@settings(max_examples=60, deadline=None)
def test_masks_and_columns_are_those_of_the_labels(names, held, seed):
    generator = torch.Generator().manual_seed(seed)
    labels = torch.tensor(names) * 2**40 - 3
    points = torch.randn(len(names), 3, generator=generator, dtype=torch.float64)
    pairs = compare(points, labels)
    seen = 0
    with similarities_held(held):
        for block in blocks(pairs):
            anchors = range(block.rows.start, block.rows.stop)
            seen += len(anchors)
            for place, i in enumerate(anchors):
                same = [j for j in range(len(names)) if names[j] == names[i] and j != i]
                assert block.positive[place].nonzero().squeeze(1).tolist() == same
                assert sorted(block.positive_columns[place][block.positive_real[place]].tolist()) == same
                assert block.negative[place].tolist() == [name != names[i] for name in names]
            torch.testing.assert_close(
                block.positives(9.0)[block.positive_real],
                block.similarities.gather(1, block.positive_columns)[block.positive_real],
            )
            assert (block.positives(9.0)[~block.positive_real] == 9).all()
            assert (block.negatives(7.0)[~block.negative] == 7).all()
    assert seen == len(names)
    assert pairs.positives_per_anchor.tolist() == [names.count(name) - 1 for name in names]
    assert pairs.negatives_per_anchor.tolist() == [len(names) - names.count(name) for name in names]


@given(st.integers(0, 2**31), st.integers(1, 60), st.booleans())
@settings(max_examples=40, deadline=None)
def test_listed_pairs_are_the_only_ones(seed, held, with_references):
    generator = torch.Generator().manual_seed(seed)
    points = torch.randn(9, 3, generator=generator, dtype=torch.float64)
    points[4] = 0
    others = torch.randn(7, 3, generator=generator, dtype=torch.float64) if with_references else points
    more = {"references": others, "reference_labels": torch.zeros(7, dtype=torch.long)} if with_references else {}
    draw = [torch.randint(0, end, (15,), generator=generator) for end in (9, len(others), 9, len(others))]
    pairs = compare(points, torch.zeros(9, dtype=torch.long), tuples=tuple(draw), **more)
    alive = [i for i in range(9) if i != 4]
    alive_others = [j for j in range(len(others)) if with_references or j != 4]
    positive = set(zip(draw[0].tolist(), draw[1].tolist(), strict=True))
    negative = set(zip(draw[2].tolist(), draw[3].tolist(), strict=True))
    with similarities_held(held):
        for block in blocks(pairs):
            for place, row in enumerate(range(block.rows.start, block.rows.stop)):
                i = alive[row]
                want = [(i, j) in positive for j in alive_others]
                assert block.positive[place].tolist() == want
                columns = block.positive_columns[place][block.positive_real[place]].tolist()
                assert sorted(columns) == [column for column, is_there in enumerate(want) if is_there]
                assert block.negative[place].tolist() == [(i, j) in negative for j in alive_others]
                assert pairs.positives_per_anchor[row] == sum(want)
                assert pairs.negatives_per_anchor[row] == block.negative[place].sum()


def test_a_parameter_gets_its_gradient_from_every_block(ragged):
    points, labels = ragged(5, 12)
    scale = torch.tensor([0.5, 2.0], dtype=torch.float64, requires_grad=True)

    def value_of(x, two):
        def of_block(rows, two):
            return (rows.similarities * two[0] + two[1]).exp().sum(), rows.negative.sum()[None].double()

        total, counts = sum_over_rows(compare(x, labels), of_block, two)
        assert counts.tolist() == [float((labels[:, None] != labels[None, :]).sum())]
        return total

    for held in (12, 10**6):
        with similarities_held(held):
            assert torch.autograd.gradcheck(value_of, (points.requires_grad_(), scale))
            assert torch.autograd.gradcheck(lambda two: value_of(points.detach(), two), scale)


def test_without_gradients_there_is_none(ragged):
    points, labels = ragged(5, 12)
    called = []

    def of_block(rows):
        called.append(rows.similarities.requires_grad)
        return rows.similarities.sum()

    sum_over_rows(compare(points, labels), of_block)
    with torch.no_grad():
        sum_over_rows(compare(points.requires_grad_(), labels), of_block)
    assert called == [False, False]


def test_no_rows_give_a_connected_zero():
    empty = torch.zeros(0, 4, requires_grad=True)
    total = value(empty, torch.zeros(0, dtype=torch.long))
    total.backward()
    assert total == 0
    assert empty.grad.shape == (0, 4)


@pytest.mark.parametrize("held", [20, 10**6])
def test_a_second_derivative_is_refused(ragged, held):
    points, labels = ragged(2, 10)
    others = torch.randn(6, 5, dtype=torch.float64, requires_grad=True)
    points.requires_grad_()
    with similarities_held(held):
        for more in ({}, {"references": others, "reference_labels": labels[:6]}):
            (slope,) = torch.autograd.grad(value(points, labels, **more), points, create_graph=True)
            with pytest.raises(DerivativeError, match="first derivatives only"):
                torch.autograd.grad(slope.sum(), points)
            (slope,) = torch.autograd.grad(value(points, labels, **more), points, create_graph=True)
            with pytest.raises(DerivativeError, match="first derivatives only"):
                slope.square().sum().backward()
    assert points.grad is None


def test_twice_backward_gives_the_same_gradient(ragged):
    points, labels = ragged(2, 10)
    total = value(points.requires_grad_(), labels)
    (first,) = torch.autograd.grad(3 * total, points, retain_graph=True)
    (second,) = torch.autograd.grad(total, points)
    torch.testing.assert_close(first, 3 * second)


@pytest.mark.filterwarnings(
    "ignore:The .grad attribute of a Tensor:UserWarning"
)  # torch.compile's own, at a graph break
@pytest.mark.parametrize("kind", ["pairs", "classes"])
def test_a_compiled_step_gives_the_same(ragged, kind):
    points, labels = ragged(6, 12)
    linear, loss = torch.nn.Linear(5, 4).double(), TripletLoss()
    if kind == "classes":
        labels, loss = torch.arange(12) % 3, NormSoftmaxLoss(3, 4).double()

    def step(x):
        return loss(linear(x) * 2, labels) + 1

    want = step(points)
    slopes = torch.autograd.grad(want, linear.weight)
    torch._dynamo.reset()
    got = torch.compile(step, backend="eager")(points)
    torch.testing.assert_close(got, want)
    torch.testing.assert_close(torch.autograd.grad(got, linear.weight), slopes)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads the peak memory of the process from /proc")
def test_memory_is_a_block_and_not_the_matrix():
    """6000 x 6000 similarities would be 144 MB each; a block here is 1 MB."""
    code = """
import resource, torch
from cosphere.losses import NormSoftmaxLoss, TripletLoss
from cosphere.losses.engine.maths import similarities_held
from cosphere.losses.engine.pairs import compare
from cosphere.losses.engine.rows import blocks, sum_over_rows
def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
def of_block(rows):
    return rows.negatives(-torch.inf).exp().sum() + rows.positives(0.0).sum()
def step(count):
    x = torch.randn(count, 16, requires_grad=True)
    pairs = compare(x, torch.arange(count) // 4)
    with similarities_held(2**18):
        sum_over_rows(pairs, of_block).total.backward()
step(500)
before = peak()
step(6000)
print(peak() - before)
"""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment)
    assert float(done.stdout) < 60


def test_wrong_inputs_are_named(ragged):
    points, labels = ragged(0, 8)
    with pytest.raises(SizeError, match="positions say where the batch stands among references=; give those too"):
        compare(points, labels, positions=torch.arange(8))
    both = {"references": points, "reference_labels": labels}
    with pytest.raises(SizeError, match=r"want positions \(B,\) = \(8,\) integers on cpu, got \(7,\)"):
        compare(points, labels, positions=torch.arange(7), **both)
    with pytest.raises(SizeError, match="positions run from 0 to 8; want -1 to 7"):
        compare(points, labels, positions=torch.tensor([0, 1, 2, 3, 4, 5, 6, 8]), **both)
    with pytest.raises(SizeError, match=r"integers on cpu, got \(8,\) torch\.bool"):
        compare(points, labels, positions=torch.ones(8, dtype=torch.bool), **both)
    with pytest.raises(SizeError, match="want positions as a tensor, got list"):
        compare(points, labels, positions=list(range(8)), **both)
    index = torch.tensor([0, 1])
    with pytest.raises(SizeError, match=r"integer indices of anchors, got torch\.bool"):
        compare(points, labels, tuples=(index.bool(), index, index))
    with pytest.raises(SizeError, match=r"got 2 parts"):
        compare(points, labels, tuples=(index, index))
    with pytest.raises(SizeError, match="indices of negatives run from 0 to 8; want 0 to 7"):
        compare(points, labels, tuples=(index, index, torch.tensor([0, 8])))
    with pytest.raises(SizeError, match="integer indices of positives"):
        compare(points, labels, tuples=(index, index.float(), index))
    with pytest.raises(SizeError, match="equal length"):
        compare(points, labels, tuples=(index, index[:1], index, index))
    with pytest.raises(SettingsError, match="want a whole number of similarities >= 1, got 0"), similarities_held(0):
        pass


def test_the_block_size_is_restored_after_an_error():
    from cosphere.losses.engine import maths

    def broken():
        with similarities_held(5):
            assert maths._held == 5
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        broken()
    assert maths._held is None


def test_chord_is_a_distance_even_when_rounding_lifts_the_cosine_above_one():
    cosines = torch.tensor([1.0000002, 1.0, 0.5, 0.0, -1.0], requires_grad=True)
    assert chord(cosines, squared=True).tolist() == pytest.approx([0, 0, 1, 2, 4])
    assert (chord(cosines, squared=True) >= 0).all()
    distances = chord(cosines, squared=False)
    assert distances.tolist() == pytest.approx([0, 0, 1, 2**0.5, 2])
    distances.sum().backward()
    assert cosines.grad[:2].tolist() == [0, 0]
    assert cosines.grad[2:].tolist() == pytest.approx([-1.0, -(2**-0.5), -0.5])  # d sqrt(2 - 2s) / ds = -1 / distance


def test_the_root_of_zero_has_slope_zero():
    squares = torch.tensor([0.0, 4.0], requires_grad=True)
    safe_sqrt(squares).sum().backward()
    assert squares.grad.tolist() == [0.0, 0.25]
