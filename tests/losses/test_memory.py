"""The cross-batch memory: against a plain list, against pytorch-metric-learning, and everything that must not enter."""

import copy
import io
import math
import warnings

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from cosphere import losses
from cosphere.errors import RunError, SettingsError, SizeError
from cosphere.losses import CrossBatchMemory, TripletLoss

DIM = 4


class Spy(TripletLoss):
    """A triplet loss that keeps what it was asked."""

    def forward(self, embeddings, labels, **compared):
        self.seen = {"embeddings": embeddings, "labels": labels, **compared}
        return super().forward(embeddings, labels, **compared)


def batches(*sizes, seed=0, classes=3, dim=DIM, dtype=torch.float32):
    generator = torch.Generator().manual_seed(seed)
    for size in sizes:
        rows = torch.randn(size, dim, generator=generator, dtype=torch.float64).to(dtype)
        yield rows, torch.randint(0, classes, (size,), generator=generator)


def rows_compared(memory):
    """(label, row, step) of every reference of the last call, as plain data, in any order; and where the batch stood."""
    seen = memory.loss.seen
    return list(zip(seen["reference_labels"].tolist(), seen["references"].tolist(), strict=True)), seen["positions"]


# What is compared


@given(
    calls=st.lists(
        st.tuples(
            st.integers(0, 5), st.sampled_from(["train", "train", "train", "eval", "nan", "reset"]), st.integers(1, 3)
        ),
        min_size=1,
        max_size=12,
    ),
    size=st.integers(5, 9),
    max_age=st.one_of(st.none(), st.integers(3, 6)),
    start_after=st.integers(0, 3),
    clock=st.booleans(),
)
@settings(max_examples=80, deadline=None)
def test_it_is_a_plain_queue(calls, size, max_age, start_after, clock):
    memory = CrossBatchMemory(Spy(), DIM, size=size, max_age=max_age, start_after=start_after)
    queue, step, given_step = [], 0, 0  # entries (step, label, row), oldest first
    for number, (count, kind, later) in enumerate(calls):
        if kind == "reset":
            memory.reset()
            queue = []
            continue
        ((rows, labels),) = batches(count, seed=number)
        memory.train(kind != "eval")
        now = given_step if clock else step
        arguments = {"step": now} if clock else {}
        stale = queue and max_age is not None and now - queue[-1][0] > max_age and now >= start_after
        if kind == "nan" and count:
            assert memory(torch.full_like(rows, math.nan), labels, **arguments).isnan()
        elif stale:
            with pytest.raises(RunError, match="stale"):
                memory(rows, labels, **arguments)
        else:
            memory(rows, labels, **arguments)
            batch = [(now, int(label), row) for label, row in zip(labels, rows.tolist(), strict=True)]
            if now < start_after:
                assert set(memory.loss.seen) == {"embeddings", "labels"}
            else:
                then = (queue + batch)[-size:]
                fresh = [entry for entry in then if max_age is None or now - entry[0] <= max_age]
                compared, positions = rows_compared(memory)
                assert sorted(compared) == sorted((label, row) for _, label, row in fresh)
                assert [compared[own] for own in positions.tolist()] == [(label, row) for _, label, row in batch]
                if kind != "eval":
                    queue = then
        if kind != "eval":
            step, given_step = step + 1, given_step + later
        assert int(memory.fill) == len(queue)


def test_value_and_gradient_by_hand(e4):
    x, labels = e4
    memory = CrossBatchMemory(TripletLoss(), 2, size=4).double()
    assert memory(x[:2], labels[:2]).item() == 0  # one class: no triplet
    second = x[2:].clone().requires_grad_()
    value = memory(second, labels[2:])
    # Anchors 2 and 3: d_ap 2; d_an 2 and .4, 4 and 3.2; margin 1.
    assert value.item() == pytest.approx((1 + 2.6 + 0 + 0) / 4, rel=1e-12)
    value.backward()
    both = x.clone().requires_grad_()
    held = torch.cat([both[:2], both[2:]]).detach()
    losses.triplet_loss(
        both[2:], labels[2:], margin=1.0, references=held, reference_labels=labels, positions=torch.tensor([2, 3])
    ).backward()
    torch.testing.assert_close(second.grad, both.grad[2:], rtol=1e-12, atol=1e-12)
    assert not both.grad[:2].any()


def test_a_duplicate_in_the_queue_is_a_real_positive():
    memory = CrossBatchMemory(Spy(), 2, size=8)
    same = torch.tensor([[3.0, 4.0], [3.0, 4.0]])
    memory(same, torch.tensor([0, 0]))
    memory(same[:1], torch.tensor([0]))
    assert len(memory.loss.seen["references"]) == 3
    assert memory.loss.seen["positions"].tolist() == [2]


PAIRS = [about.name for about in losses.table() if issubclass(getattr(losses, about.title), losses.memory.PairLoss)]


@pytest.mark.parametrize("name", PAIRS)
def test_without_history_it_is_the_loss_with_a_detached_other_side(name):
    ((x, labels),) = batches(20, dtype=torch.float64)
    wrapped = losses.build(name, num_classes=3, dim=DIM).double()
    memory = CrossBatchMemory(wrapped, DIM, size=27).double()
    mine, other = x.clone().requires_grad_(), x.clone().requires_grad_()
    torch.manual_seed(0)  # some draw
    value = memory(mine, labels)
    torch.manual_seed(0)
    want = wrapped(other, labels, references=x, reference_labels=labels, positions=torch.arange(20))
    assert value.item() == pytest.approx(want.item(), rel=1e-12)
    assert value.item() != 0
    value.backward()
    want.backward()
    torch.testing.assert_close(mine.grad, other.grad, rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize("name", PAIRS)
def test_every_pair_loss_can_be_wrapped_and_loss_may_be_summed_over_calls(name):
    """A later call writes into the queue before the first one's backward: what that needs must not be overwritten."""
    memory = CrossBatchMemory(losses.build(name, num_classes=3, dim=DIM), DIM, size=16).double()
    leaves, total = [], 0.0
    for rows, labels in batches(8, 8, 8, dtype=torch.float64, classes=2):
        leaves.append(rows.requires_grad_())
        total = total + memory(rows, labels)
    total.backward()
    assert all(leaf.grad.isfinite().all() for leaf in leaves)
    assert any(leaf.grad.any() for leaf in leaves)


def test_the_batch_s_own_loss_can_be_added():
    plain, both = (
        CrossBatchMemory(TripletLoss(), DIM, size=16),
        CrossBatchMemory(TripletLoss(), DIM, size=16, batch_weight=0.5),
    )
    for rows, labels in batches(6, 6, 6):
        got, want = both(rows, labels), plain(rows, labels) + 0.5 * TripletLoss()(rows, labels)
        assert got.item() == pytest.approx(want.item(), rel=1e-6)
    assert both(rows, labels) != plain(rows, labels)


def test_warm_up_compares_the_batch_with_itself():
    memory = CrossBatchMemory(TripletLoss(), DIM, size=16, start_after=2)
    stream = list(batches(6, 6, 6, 6))
    for rows, labels in stream[:2]:
        assert memory(rows, labels) == TripletLoss()(rows, labels)
        assert int(memory.fill) == 0
    memory(*stream[2])
    assert int(memory.fill) == 6
    assert memory(*stream[3]) != TripletLoss()(*stream[3])


@pytest.mark.parametrize("given", [False, True])
def test_the_warm_up_and_the_age_count_steps_of_several_calls(given):
    memory = CrossBatchMemory(Spy(), DIM, size=8, start_after=3, max_age=1)
    memory.calls_per_step = 4
    compared = []
    for call, (rows, labels) in enumerate(batches(*[1] * 24)):
        memory(rows, labels, step=call // 4 if given else None)
        references = memory.loss.seen.get("references")
        compared.append(None if references is None else len(references))
    assert compared == [None] * 12 + [*range(1, 9)] + [5, 6, 7, 8]  # of step 5 and of step 4, but not of step 3
    assert memory.entered.tolist() == [5] * 4 + [4] * 4


def test_evaluation_tells_what_training_would_and_changes_nothing():
    memory = CrossBatchMemory(TripletLoss(), DIM, size=10)
    for rows, labels in batches(6, 6):
        memory(rows, labels)
    before = copy.deepcopy(memory.state_dict())
    ((rows, labels),) = batches(6, seed=5)
    value = memory.eval()(rows, labels)
    assert all(torch.equal(before[key], part) for key, part in memory.state_dict().items())
    assert memory.train()(rows, labels) == value
    assert not torch.equal(before["embeddings"], memory.embeddings)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_what_is_not_finite_never_enters(bad):
    memory = CrossBatchMemory(TripletLoss(), DIM, size=32)
    stream = list(batches(6, 6, 6))
    memory(*stream[0])
    before = copy.deepcopy(memory.state_dict())
    broken = stream[1][0].clone()
    broken[2, 1] = bad
    assert memory(broken, stream[1][1]).isnan()
    after = memory.state_dict()
    assert {key for key in before if not torch.equal(before[key], after[key])} == {"step"}
    assert memory(*stream[2]).isfinite()


def test_narrow_types_are_kept_as_float32_and_labels_as_int64():
    memory = CrossBatchMemory(TripletLoss(), DIM, size=8)
    ((rows, _),) = batches(4)
    names = torch.tensor([2**64 - 1, 2**63, 2**63, 5], dtype=torch.uint64)
    value = memory(rows.bfloat16(), names)
    assert memory.embeddings.dtype == value.dtype == torch.float32
    assert torch.equal(memory.embeddings[:4], rows.bfloat16().float())
    again = memory(rows.bfloat16(), names)  # the same classes are found again
    want = CrossBatchMemory(TripletLoss(), DIM, size=8)
    want(rows.bfloat16(), torch.tensor([0, 1, 1, 2]))
    assert again == want(rows.bfloat16(), torch.tensor([0, 1, 1, 2]))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert memory(rows, names).dtype == torch.float32


# State


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_training_goes_on_bit_for_bit_after_a_checkpoint(dtype):
    def made():
        torch.manual_seed(0)
        network = nn.Linear(6, DIM, dtype=dtype)
        memory = CrossBatchMemory(TripletLoss(), DIM, size=14, max_age=2, start_after=1).to(dtype)
        return network, memory, torch.optim.SGD([*network.parameters(), *memory.parameters()], lr=0.1)

    def advance(parts, stream):
        network, memory, optimiser = parts
        values = []
        for rows, labels in stream:
            optimiser.zero_grad()
            value = memory(network(rows), labels)
            value.backward()
            optimiser.step()
            values.append(value.item())
        return values

    stream = list(batches(6, 5, 6, 6, 4, 6, 6, 6, dim=6, dtype=dtype))
    whole = made()
    want = advance(whole, stream)
    first = made()
    got = advance(first, stream[:4])
    file = io.BytesIO()
    torch.save([part.state_dict() for part in first], file)
    file.seek(0)
    second = made()
    for part, state in zip(second, torch.load(file, weights_only=True), strict=True):
        part.load_state_dict(state)
    got += advance(second, stream[4:])
    assert got == want
    for one, other in zip(whole[:2], second[:2], strict=True):
        assert all(
            torch.equal(a, b) for a, b in zip(one.state_dict().values(), other.state_dict().values(), strict=True)
        )
    lost = made()
    for part, other in zip(lost[::2], first[::2], strict=True):
        part.load_state_dict(other.state_dict())
    assert advance(lost, stream[4:]) != want[4:]  # a lost memory would show


def test_the_state_is_whole_and_a_wrapped_loss_keeps_its_own():
    assert list(CrossBatchMemory(TripletLoss(), 3, size=5).state_dict()) == [
        "embeddings",
        "labels",
        "entered",
        "position",
        "fill",
        "step",
    ]


def test_a_memory_of_another_size_or_width_is_not_loaded():
    saved = nn.ModuleDict({"memory": CrossBatchMemory(TripletLoss(), 3, size=5)}).state_dict()
    for other in (CrossBatchMemory(TripletLoss(), 4, size=5), CrossBatchMemory(TripletLoss(), 3, size=6)):
        with pytest.raises(SizeError, match=r"saved memory is \(5, 3\).*Build it with embedding_dim=3, size=5"):
            nn.ModuleDict({"memory": other}).load_state_dict(saved)


def test_reset_forgets_the_rows_and_not_the_steps():
    memory = CrossBatchMemory(Spy(), DIM, size=16, start_after=1)
    for rows, labels in batches(6, 6, 6):
        memory(rows, labels)
    memory.reset()
    assert (int(memory.fill), int(memory.position), int(memory.step)) == (0, 0, 3)
    assert not memory.embeddings.any()
    memory(rows, labels)
    assert len(memory.loss.seen["references"]) == 6


# Age


def test_old_rows_are_left_out():
    memory = CrossBatchMemory(Spy(), DIM, size=100, max_age=2)
    counts = []
    for rows, labels in batches(3, 4, 5, 6, 7):
        memory(rows, labels)
        counts.append(len(memory.loss.seen["references"]))
    assert counts == [3, 7, 12, 15, 18]


def test_a_stale_memory_raises_and_says_what_to_do():
    memory = CrossBatchMemory(TripletLoss(), DIM, size=32, max_age=10)
    ((rows, labels),) = batches(6)
    memory(rows, labels, step=100)
    memory(rows, labels, step=110)
    with pytest.raises(RunError, match=r"latest rows are of step 110, this is step 121, and max_age is 10.*reset\(\)"):
        memory(rows, labels, step=121)
    with pytest.raises(RunError, match=r"of step 110, and this is step 7: they are of another training.*reset\(\)"):
        memory(rows, labels, step=7)
    memory.reset()
    assert memory(rows, labels, step=7).isfinite()
    assert memory(rows, labels).isfinite()  # counts on from there
    assert int(memory.step) == 9


def test_without_max_age_a_pause_is_allowed():
    memory = CrossBatchMemory(TripletLoss(), DIM, size=32)
    ((rows, labels),) = batches(6)
    memory(rows, labels, step=0)
    assert memory(rows, labels, step=10**9).isfinite()


# Mistakes


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"size": 0}, "size must be a whole number from 1 to 100000000; got 0"),
        ({"embedding_dim": 2.0}, r"embedding_dim must be a whole number from 1 to 65536; got 2\.0"),
        ({"start_after": -1}, "start_after must be a whole number of steps >= 0; got -1"),
        ({"max_age": 0}, "max_age must be a whole number >= 1; got 0"),
        ({"batch_weight": -1}, "batch_weight must be a number >= 0"),
        (
            {"loss": nn.Identity()},
            "a memory wraps a pair loss, which can compare the batch with other images; got Identity",
        ),
    ],
)
def test_wrong_settings_are_named(arguments, message):
    with pytest.raises(SettingsError, match=message):
        CrossBatchMemory(**{"loss": TripletLoss(), "embedding_dim": 4, **arguments})


@pytest.mark.parametrize("name", ["norm_softmax", "proxy_anchor"])
def test_a_loss_with_class_weights_is_refused(name):
    with pytest.raises(SettingsError, match="Losses with class weights see all classes already"):
        CrossBatchMemory(losses.build(name, num_classes=3, dim=4), 4)


def test_a_loss_that_takes_no_references_is_refused_for_that_reason():
    with pytest.raises(
        SettingsError, match=r"got FacilityLocationLoss\. This one takes no references=\. Choose"
    ) as raised:
        CrossBatchMemory(losses.build("facility_location", num_classes=3, dim=4), 4)
    assert "class weights" not in str(raised.value)
    with pytest.raises(SettingsError, match=r"got MSELoss\. This one takes no references="):
        CrossBatchMemory(torch.nn.MSELoss(), 4)


def test_wrong_batches_are_named():
    memory = CrossBatchMemory(TripletLoss(), DIM, size=5)
    ((rows, labels),) = batches(4)
    with pytest.raises(SizeError, match=r"memory is 4 wide, embeddings 3. Build it with embedding_dim=3"):
        memory(rows[:, :3], labels)
    with pytest.raises(SizeError, match=r"batch of 8 does not fit a memory of 5 rows\. Make it with size=8 or more"):
        memory(rows.repeat(2, 1), labels.repeat(2))
    with pytest.raises(SizeError, match=r"memory holds torch.float32.*Call memory.to\(torch.float64\)"):
        memory(rows.double(), labels)
    with pytest.raises(SizeError, match=r"memory is on cpu, embeddings on meta. Call memory.to\(device\)"):
        memory(rows.to("meta"), labels.to("meta"))
    with pytest.raises(SizeError, match=r"labels \(B,\), got \(4, 4\) and \(3,\)"):
        memory(rows, labels[:3])
    with pytest.raises(SettingsError, match="a memory takes no miner's tuples"):
        memory(rows, labels, (labels, labels, labels))
    with pytest.raises(SettingsError, match=r"step must be a whole number of steps >= 0; got -1"):
        memory(rows, labels, step=-1)
    assert int(memory.fill) == int(memory.step) == 0
    assert memory.half().embeddings.dtype == torch.float16
    with pytest.raises(
        SizeError, match=r"memory holds torch.float16, and embeddings of torch.float16 want torch.float32"
    ):
        memory(rows.half(), labels)


def test_print_shows_the_settings():
    assert "embedding_dim=4, size=5, start_after=0, max_age=None, batch_weight=0.0" in repr(
        CrossBatchMemory(TripletLoss(), 4, size=5)
    )


# With pytorch-metric-learning


def their_twins(theirs):
    """Our losses beside theirs where both have one meaning, by the name that ours has in the table."""
    from pytorch_metric_learning.distances import LpDistance
    from pytorch_metric_learning.reducers import AvgNonZeroReducer, MeanReducer

    squared = LpDistance(power=2)
    return {
        "contrastive": ({"form": "pml"}, theirs.ContrastiveLoss()),
        "triplet": (
            {"margin": 0.2, "reduction": "mean_nonzero"},
            theirs.TripletMarginLoss(margin=0.2, distance=squared, reducer=AvgNonZeroReducer()),
        ),
        "multi_similarity": (
            {"alpha": 2.0, "beta": 50.0, "base": 0.5, "mining": None, "divisor": "kept"},
            theirs.MultiSimilarityLoss(alpha=2, beta=50, base=0.5, reducer=MeanReducer()),
        ),
    }


@pytest.mark.parametrize("name", ["contrastive", "triplet", "multi_similarity"])
@pytest.mark.parametrize("size", [24, 31, 200])
def test_equals_pytorch_metric_learning(pml, name, size):
    """Uneven batches, so that the queue's end is met in the middle of one."""
    import pytorch_metric_learning.losses as theirs

    settings_, twin = their_twins(theirs)[name]
    ours = CrossBatchMemory(losses.build(name, num_classes=3, dim=DIM, **settings_), DIM, size=size).double()
    reference = theirs.CrossBatchMemory(twin, embedding_size=DIM, memory_size=size)
    for rows, labels in batches(24, 16, 24, 20, 8, 24, 24, dtype=torch.float64, classes=4):
        # Every class has a positive in the batch: their anchors without one count in some of their divisors.
        labels[:8] = torch.arange(8) % 4
        mine, other = rows.clone().requires_grad_(), rows.clone().requires_grad_()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            want = reference(other, labels)
        got = ours(mine, labels)
        assert got.item() == pytest.approx(want.item(), rel=1e-9)
        got.backward()
        want.backward()
        torch.testing.assert_close(mine.grad, other.grad, rtol=1e-7, atol=1e-9)
    assert torch.equal(ours.embeddings, reference.embedding_memory)
    assert int(ours.position) == reference.queue_idx
