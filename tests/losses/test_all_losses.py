"""What every loss must hold. The losses come from the table, so a new one is tested here without a line."""

import inspect
import itertools
import math
import subprocess
import sys

import pytest
import torch
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from cosphere import losses
from cosphere.errors import SettingsError, SizeError

NAMES = [about.name for about in losses.table()]
PAIR_LOSSES = [about.name for about in losses.table() if issubclass(getattr(losses, about.title), losses.PairLoss)]
DTYPES = [torch.float64, torch.float32, torch.bfloat16, torch.float16]
VARIANTS = [(about.name, settings) for about in losses.table() for settings in ({}, *about.forms)]
IDS = [f"{name}{settings or ''}" for name, settings in VARIANTS]


def build(name, dim=4, *, training=False, **settings):
    """A loss whose state stands still, so that two calls are one function."""
    torch.default_generator.manual_seed(
        5
    )  # torch.manual_seed also asks for every accelerator, which takes a millisecond
    return losses.build(name, num_classes=4, dim=dim, **settings).train(training)


def traits(name, settings):
    return build(name, **settings).traits()


def forms(name):
    """The settings under which a loss is tested, the default first."""
    return [settings for other, settings in VARIANTS if other == name]


def steady(name, dim=4):
    """A loss that is a function of its batch: in its first form that draws nothing at random."""
    made = (build(name, dim, **settings) for settings in forms(name))
    return next(loss for loss in made if not loss.traits().draws)


def points(count=12, dim=4, seed=0):
    generator = torch.Generator().manual_seed(seed)
    spread = 0.5 + 5 * torch.rand(count, 1, generator=generator, dtype=torch.float64)
    return torch.randn(count, dim, generator=generator, dtype=torch.float64) * spread


LABELS = torch.tensor([0, 0, 0, 1, 1, 2, 2, 2, 2, 3, 0, 1])

DEGENERATE = {
    "no rows": ([], []),
    "one row": ([[1.0, 2.0]], [0]),
    "one zero row": ([[0.0, 0.0]], [0]),
    "all rows zero": ([[0.0, 0.0]] * 4, [0, 0, 1, 1]),
    "some rows zero": ([[0.0, 0.0], [1.0, 2.0], [0.0, 0.0], [2.0, 1.0], [-1.0, 3.0]], [0, 0, 1, 1, 0]),
    "duplicates": ([[1.0, 2.0], [1.0, 2.0], [3.0, 1.0], [3.0, 1.0]], [0, 0, 1, 1]),
    "duplicates at cosine 1.0": ([[2.0, 0.0], [3.0, 0.0], [0.0, 1.0], [0.0, 5.0]], [0, 0, 1, 1]),
    "all rows equal": ([[0.3, 0.7]] * 6, [0, 0, 1, 1, 2, 2]),
    "antipodes": ([[0.3, 0.7], [-0.3, -0.7], [0.7, -0.3], [-0.7, 0.3]], [0, 0, 1, 1]),
    "one class": ([[1.0, 2.0], [2.0, 1.0], [-1.0, 3.0]], [1, 1, 1]),
    "all classes distinct": ([[1.0, 2.0], [2.0, 1.0], [-1.0, 3.0]], [0, 1, 2]),
    "tiny rows": ([[1e-7, 0.0], [0.0, 1e-7], [1.0, 1.0], [1.0, 2.0]], [0, 0, 1, 1]),
}
EMPTY = ["no rows", "one zero row", "all rows zero"]
NOTHING_TO_COMPARE = {
    "images": EMPTY,
    "pairs": [*EMPTY, "one row"],
    "triplets": [*EMPTY, "one row", "one class", "all classes distinct"],
}


@pytest.mark.parametrize(("name", "settings"), VARIANTS, ids=IDS)
def test_degenerate_batches_are_finite_and_connected(name, settings):
    """One test for all batches and types of a loss: each takes a millisecond, and pytest more than that."""
    for case, dtype in itertools.product(DEGENERATE, DTYPES):
        try:
            check_degenerate_batch(name, settings, case, dtype)
        except Exception as error:
            error.add_note(f"in the batch {case!r}, {dtype}")
            raise


def check_degenerate_batch(name, settings, case, dtype):
    rows, labels = DEGENERATE[case]
    leaf = torch.tensor(rows, dtype=dtype).reshape(len(rows), 2).requires_grad_()
    loss = build(name, dim=2, training=True, **settings)
    value = loss(leaf, torch.tensor(labels, dtype=torch.long))
    value.backward()
    assert value.shape == ()
    assert value.isfinite()
    assert leaf.grad.isfinite().all()
    # A collapsed row would show as a gradient of 1e11.
    assert not len(rows) or leaf.grad.double().abs().max() < 1e4
    if loss.traits().uses_lengths:
        return
    dead = leaf.detach().double().norm(dim=1) <= 1e-6
    assert not leaf.grad[dead].any()
    if case in NOTHING_TO_COMPARE[loss.traits().terms]:
        assert value == 0
        assert not leaf.grad.any()


def test_degenerate_cases_are_not_all_zero():
    """Or the test above would pass with a loss that is always zero."""
    for name in NAMES:
        rows, labels = DEGENERATE["antipodes"]
        assert steady(name, dim=2)(torch.tensor(rows), torch.tensor(labels)).abs() > 1e-5


@pytest.mark.parametrize(("name", "settings"), VARIANTS, ids=IDS)
def test_gradient_by_finite_differences(name, settings):
    loss = build(name, **settings).double()
    if loss.traits().gradient_by_rule or loss.traits().draws:  # their own tests check the gradient
        return
    # Along random directions, as PyTorch's own tests do: entry by entry takes ten times as long.
    assert torch.autograd.gradcheck(lambda x: loss(x, LABELS), points().requires_grad_(), fast_mode=True)


@pytest.mark.parametrize(("name", "settings"), VARIANTS, ids=IDS)
def test_only_directions_count(name, settings, gradient):
    loss, x = build(name, **settings).double(), points()
    if loss.traits().uses_lengths or loss.traits().draws:
        return
    value, slope = loss(x, LABELS).item(), gradient(loss, x, LABELS)
    assert slope.norm() > 1e-3
    stretched = x * torch.linspace(0.1, 30, len(x), dtype=torch.float64)[:, None]
    assert loss(stretched, LABELS).item() == pytest.approx(value, rel=1e-9)
    assert (slope * x).sum(dim=1).abs().max() < 1e-12 * slope.norm() * x.norm()


@pytest.mark.parametrize(("name", "settings"), VARIANTS, ids=IDS)
def test_lengths_whose_squares_overflow_show_or_do_not_count(name, settings, gradient):
    loss, x = build(name, **settings), points().float()
    far = x * 1e20
    if loss.traits().uses_lengths:
        found = loss(far, LABELS).item()
        assert not math.isfinite(found) or found == pytest.approx(loss.double()(far.double(), LABELS).item(), rel=1e-4)
    elif not loss.traits().draws:
        assert loss(far, LABELS).item() == pytest.approx(loss(x, LABELS).item(), rel=1e-4)
        want = gradient(loss, x, LABELS)
        torch.testing.assert_close(gradient(loss, far, LABELS) * 1e20, want, rtol=0.01, atol=1e-3 * want.abs().max())


@pytest.mark.parametrize(("name", "settings"), VARIANTS, ids=IDS)
def test_order_of_the_batch_does_not_matter(name, settings, gradient):
    loss, x = build(name, **settings).double(), points()
    if loss.traits().draws:
        return
    if loss.traits().order == "in_class":
        order = torch.tensor([9, 0, 1, 3, 2, 5, 4, 6, 11, 7, 8, 10])  # keeps each class's images in order
    else:
        order = torch.randperm(12, generator=torch.Generator().manual_seed(1))
    value = loss(x, LABELS).item()
    assert loss(x[order], LABELS[order]).item() == pytest.approx(value, rel=1e-12)
    slope = gradient(loss, x, LABELS)
    torch.testing.assert_close(gradient(loss, x[order], LABELS[order]), slope[order], rtol=1e-9, atol=1e-12)


@st.composite
def batches(draw):
    """(points, labels in 0..3, seed): two to ten rows a class, lengths from 0.1 to 20, now and then a duplicate."""
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    labels = torch.tensor(draw(st.lists(st.integers(0, 3), min_size=4, max_size=20)))
    spread = 0.1 + 20 * torch.rand(len(labels), 1, generator=generator, dtype=torch.float64)
    return torch.randn(len(labels), 4, generator=generator, dtype=torch.float64) * spread, labels, generator


@pytest.mark.parametrize(("name", "settings"), VARIANTS, ids=IDS)
@given(data=st.data())
@hypothesis_settings(max_examples=8, deadline=None)
def test_any_batch_has_the_symmetries(name, settings, data):
    """Lengths, order and names of classes do not matter, the gradient is across the embedding, equal rows have equal ones."""
    loss = build(name, **settings).double()
    facts = loss.traits()
    if facts.draws:
        return
    x, labels, generator = data.draw(batches())
    value, slope = value_and_slope(loss, x, labels)
    close = {"rel": 1e-9, "abs": 1e-9}
    if not facts.uses_lengths:
        stretched = x * (0.05 + 9 * torch.rand(len(x), 1, generator=generator, dtype=torch.float64))
        assert value_and_slope(loss, stretched, labels)[0] == pytest.approx(value, **close)
        assert (slope * x).sum(dim=1).abs().max() <= 1e-9 * (1 + (slope * x).abs().max())
    if facts.order == "free":
        order = torch.randperm(len(x), generator=generator)
        again, moved = value_and_slope(loss, x[order], labels[order])
        assert again == pytest.approx(value, **close)
        torch.testing.assert_close(moved, slope[order], rtol=1e-7, atol=1e-9)
        if not facts.picks_one:
            double, both = value_and_slope(loss, torch.cat([x, x]), torch.cat([labels, labels]))
            assert math.isfinite(double)
            torch.testing.assert_close(both[: len(x)], both[len(x) :], rtol=1e-7, atol=1e-9)
    if not facts.classes_from_zero and facts.order != "searched":
        names = torch.tensor([7, -(2**40), 2**62, 0])[torch.randperm(4, generator=generator)]
        assert value_and_slope(loss, x, names[labels])[0] == pytest.approx(value, **close)


def value_and_slope(loss, x, labels):
    leaf = x.clone().requires_grad_()
    value = loss(leaf, labels)
    value.backward()
    return value.item(), leaf.grad


@pytest.mark.parametrize("name", NAMES)
def test_any_integer_type_will_do(name):
    loss, x = steady(name).double(), points()
    value = loss(x, LABELS).item()
    for dtype in (torch.int8, torch.int16, torch.int32, torch.uint8, torch.uint64):
        assert loss(x, LABELS.to(dtype)).item() == value, dtype


@pytest.mark.parametrize("name", PAIR_LOSSES)
@pytest.mark.parametrize(
    "names",
    [
        torch.tensor([2**63 - 1, -(2**63), 2**53, 2**53 + 1]),
        torch.tensor([2**64 - 1, 2**63, 0, 1], dtype=torch.uint64),
        torch.tensor([100, -100, 7, 3], dtype=torch.int8),
    ],
    ids=["int64", "uint64", "int8"],
)
def test_labels_are_only_names(name, names):
    made = (build(name, **settings).double() for settings in forms(name))
    loss, x = next(one for one in made if not one.traits().classes_from_zero and not one.traits().draws), points()
    renamed = torch.tensor([names.tolist()[label] for label in LABELS.tolist()], dtype=names.dtype)
    assert loss(x, renamed).item() == pytest.approx(loss(x, LABELS).item(), rel=1e-12)


@pytest.mark.parametrize(("name", "settings"), VARIANTS, ids=IDS)
def test_a_zero_row_is_as_good_as_absent(name, settings):
    loss, x = build(name, **settings).double(), points()
    if loss.traits().uses_lengths or loss.traits().draws:
        return
    with_zeros = torch.cat([x, torch.zeros(2, 4, dtype=torch.float64)])
    labels = torch.cat([LABELS, torch.tensor([0, 3])])
    divisor = 14 / 12 if loss.traits().divides_by_batch else 1
    assert loss(with_zeros, labels).item() * divisor == pytest.approx(loss(x, LABELS).item(), rel=1e-12)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
@pytest.mark.parametrize("name", NAMES)
def test_a_row_that_is_not_finite_shows_in_the_loss(name, bad):
    x = points()
    x[9, 1] = bad  # row 9 is the only one of its class, so most masks leave it out
    assert steady(name)(x, LABELS).isnan()


@pytest.mark.parametrize("name", PAIR_LOSSES)
def test_a_reference_that_is_not_finite_shows_in_the_loss(name):
    references = points()
    references[9, 1] = math.nan
    assert build(name)(points(), LABELS, references=references, reference_labels=LABELS + 100).isnan()


@pytest.mark.parametrize("name", NAMES)
def test_autocast_is_left(name):
    """Values, gradients and what a loss keeps are those without autocast, also if backward is called inside the block."""

    def step(loss):
        leaf = points(dim=64).float().requires_grad_()
        value = loss(leaf, LABELS)
        value.backward()
        return [value, leaf.grad, *(part.grad for part in loss.parameters()), *loss.state_dict().values()]

    outside = step(steady(name, dim=64).train())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        x = points().float()
        assert (x @ x.T).dtype == torch.bfloat16  # autocast is really on
        inside = step(steady(name, dim=64).train())
    assert inside[0].dtype == torch.float32
    for got, want in zip(inside, outside, strict=True):
        assert torch.equal(got, want)


@pytest.mark.parametrize(
    ("dtype", "rel"), [(torch.float32, 1e-4), (torch.float16, 0.02), (torch.bfloat16, 0.05)], ids=str
)
@pytest.mark.parametrize("name", NAMES)
def test_narrow_types_stay_close(name, dtype, rel):
    loss, x = steady(name, dim=64).double(), points(dim=64)
    exact = loss(x, LABELS).item()
    got = loss.float()(x.to(dtype), LABELS)
    assert got.dtype == torch.float32
    assert got.item() == pytest.approx(exact, rel=rel)


@pytest.mark.parametrize("name", NAMES)
def test_float16_does_not_overflow(name):
    x = (points(dim=512) * 100).half().requires_grad_()
    assert x.float().norm(dim=1).max() > 256  # where a sum of squares in float16 is infinite
    loss = steady(name, dim=512)
    value = loss(x, LABELS)
    value.backward()
    assert value.isfinite()
    assert value > 0 or loss.traits().may_be_negative
    assert x.grad.isfinite().all()


@pytest.mark.parametrize("name", NAMES)
def test_float64_stays_float64(name):
    assert build(name)(points(), LABELS).dtype == torch.float64


@pytest.mark.parametrize("name", PAIR_LOSSES)
def test_references_are_never_taken_for_self(name):
    x, changed = points(), []
    first, second = x[:6], x[6:]
    ours, theirs = LABELS[:6], LABELS[6:]
    assert steady(name)(first, ours, references=second, reference_labels=theirs) > 0 or traits(name, {}).may_be_negative
    for loss in (build(name, **settings) for settings in forms(name)):
        if loss.traits().draws:
            continue
        own = loss(x, LABELS, references=x, reference_labels=LABELS)
        changed.append(bool(own != loss(x, LABELS)))  # here each row meets itself as a positive
    assert any(changed)  # a form that mines may drop the row itself, a positive that is never hard


@pytest.mark.parametrize("name", PAIR_LOSSES)
def test_gradient_reaches_the_references(name):
    loss = steady(name)
    second = points(seed=3).requires_grad_()
    if not loss.traits().gradient_by_rule:
        assert torch.autograd.gradcheck(
            lambda y: loss(points(), LABELS, references=y, reference_labels=LABELS), second, atol=1e-6
        )
    empty = torch.zeros(0, 4, requires_grad=True)
    value = loss(points().float(), LABELS, references=empty, reference_labels=torch.zeros(0, dtype=torch.long))
    value.backward()
    assert value == 0 or loss.traits().terms == "images"


@pytest.mark.parametrize("name", NAMES)
def test_wrong_input_is_named(name):
    loss, x = build(name), points()
    with pytest.raises(SizeError, match=r"want embeddings \(B, D\) with labels \(B,\), got \(12, 4\) and \(11,\)"):
        loss(x, LABELS[:11])
    with pytest.raises(SizeError, match=r"want integer labels, got torch\.float32"):
        loss(x, LABELS.float())
    with pytest.raises(SizeError, match=r"want embeddings \(B, D\), got \(12, 2, 2\)"):
        loss(x.reshape(12, 2, 2), LABELS)
    with pytest.raises(SizeError, match=r"floating type, got torch\.int64"):
        loss(x.long(), LABELS)
    with pytest.raises(SizeError, match="embeddings are on meta, labels on cpu"):
        loss(x.to("meta"), LABELS)


@pytest.mark.parametrize("name", PAIR_LOSSES)
def test_wrong_references_are_named(name):
    loss, x = build(name), points()
    with pytest.raises(SizeError, match="reference_labels is missing"):
        loss(x, LABELS, references=x)
    with pytest.raises(SizeError, match="references is missing"):
        loss(x, LABELS, reference_labels=LABELS)
    with pytest.raises(SizeError, match="references are 3 wide, embeddings 4"):
        loss(x, LABELS, references=x[:, :3], reference_labels=LABELS)
    with pytest.raises(SizeError, match=r"want references \(B, D\) with labels \(B,\), got \(12, 4\) and \(5,\)"):
        loss(x, LABELS, references=x, reference_labels=LABELS[:5])
    with pytest.raises(SizeError, match="references are on meta, embeddings on cpu"):
        loss(x, LABELS, references=x.to("meta"), reference_labels=LABELS.to("meta"))


@pytest.mark.parametrize(
    ("name", "settings"), [(name, settings) for name, settings in VARIANTS if name in PAIR_LOSSES], ids=str
)
def test_an_anchor_may_have_no_positive_anywhere(name, settings):
    leaf, index = points().requires_grad_(), torch.tensor([0, 3])
    nothing = index[:0]
    for others in (
        {"references": points(seed=3), "reference_labels": LABELS + 100},
        {"indices_tuple": (nothing, nothing, index, index.flip(0))},
        {"indices_tuple": (nothing, nothing, nothing)},
    ):
        value = build(name, **settings)(leaf, LABELS, **others)
        value.backward()
        assert value.isfinite()
        assert leaf.grad.isfinite().all()


@pytest.mark.parametrize(
    ("name", "settings"), [(name, settings) for name, settings in VARIANTS if name in PAIR_LOSSES], ids=str
)
def test_labels_may_be_left_out_where_pairs_are_given(name, settings):
    loss, x = build(name, **settings).double(), points()
    anchors, positives = torch.tensor([0, 1, 3, 5, 7]), torch.tensor([1, 2, 4, 6, 8])
    negatives = torch.tensor([3, 4, 0, 9, 9])
    for tuples in ((anchors, positives, anchors, negatives), (anchors, positives, negatives)):
        for more in ({}, {"references": points(seed=3)}):
            if loss.traits().uses_classes:
                with pytest.raises(
                    SizeError, match=r"labels are missing: \w+ needs the class of each image, also where"
                ):
                    loss(x, indices_tuple=tuples, **more)
                continue
            torch.manual_seed(0)  # some draw
            got = loss(x, indices_tuple=tuples, **more)
            torch.manual_seed(0)
            known = {**more, "reference_labels": LABELS} if more else {}
            assert got.item() == loss(x, LABELS, tuples, **known).item()
            assert got.item() != 0 or settings  # the window of a form may hold none of these triplets
    with pytest.raises(
        SizeError, match=r"labels are missing\. Give labels=, or the pairs to compare as indices_tuple="
    ):
        loss(x)


def test_a_class_tree_needs_labels_besides_the_pairs():
    loss = build("hierarchical_triplet").double()
    tuples = (torch.tensor([0, 3]), torch.tensor([1, 4]), torch.tensor([5, 5]))
    assert loss(points(), indices_tuple=tuples) == loss(points(), LABELS, tuples)
    loss.rebuild(points(), LABELS)
    with pytest.raises(SizeError, match="HierarchicalTripletLoss needs the class of each image"):
        loss(points(), indices_tuple=tuples)


def test_pair_cosines_agree_with_loops():
    x = points()
    positive, negative = [], []
    for i, a in enumerate(x.tolist()):
        for j, b in enumerate(x.tolist()):
            if i != j:
                cosine = sum(p * q for p, q in zip(a, b, strict=True)) / math.hypot(*a) / math.hypot(*b)
                (positive if LABELS[i] == LABELS[j] else negative).append(cosine)
    padded = torch.cat([x, torch.zeros(2, 4, dtype=torch.float64)])  # rows without a direction are left out
    for rows, labels in [(x, LABELS), (padded, torch.cat([LABELS, torch.tensor([0, 9])]))]:
        got = losses.pair_cosines(rows, labels)
        assert float(got.positive) == pytest.approx(sum(positive) / len(positive), rel=1e-9)
        assert float(got.negative) == pytest.approx(sum(negative) / len(negative), rel=1e-9)


def test_pair_cosines_without_such_pairs_are_nan():
    x = points(3)
    one, distinct = torch.zeros(3, dtype=torch.long), torch.arange(3)
    assert losses.pair_cosines(x, one).negative.isnan()
    assert losses.pair_cosines(x, one).positive.isfinite()
    assert losses.pair_cosines(x, distinct).positive.isnan()
    assert losses.pair_cosines(x, distinct).negative.isfinite()
    assert all(value.isnan() for value in losses.pair_cosines(x[:0], one[:0]))
    assert all(value.isnan() for value in losses.pair_cosines(torch.zeros(4, 2), torch.tensor([0, 0, 1, 1])))


BASES = (losses.Loss, losses.PairLoss, losses.ClassLoss, losses.CrossBatchMemory)


def test_the_table_lists_every_exported_loss_once():
    classes = [getattr(losses, name) for name in losses.__all__]
    kinds = [kind for kind in classes if isinstance(kind, type) and issubclass(kind, losses.Loss) and kind not in BASES]
    assert sorted(kind.__name__ for kind in kinds) == sorted(about.title for about in losses.table())
    assert len(set(NAMES)) == len(NAMES)
    assert set(NAMES) >= {
        "contrastive",
        "triplet",
        "semihard_triplet",
        "normalized_n_pair",
        "multi_similarity",
        "norm_softmax",
    }


@pytest.mark.parametrize("name", NAMES)
def test_the_table_tells_what_the_code_does(name):
    about = losses.about(name)
    kind = getattr(losses, about.title)
    defaults = {
        key: value.default
        for key, value in inspect.signature(kind).parameters.items()
        if value.default is not inspect.Parameter.empty
    }
    assert about.defaults == defaults
    assert about.uses_class_weights == any(weight.ndim == 2 for weight in build(name).parameters())
    for text in (about.paper, about.batch, about.normalises, about.defaults_source, about.cost, about.choose_when):
        assert len(text) > 2


def test_build_passes_the_settings_on():
    assert "margin=0.3" in repr(losses.build("triplet", num_classes=2, dim=3, margin=0.3))
    made = losses.build("norm_softmax", num_classes=7, dim=3, temperature=0.1)
    assert made.class_weight.shape == (7, 3)
    assert repr(made) == "NormSoftmaxLoss(temperature=0.1, sample_rate=1.0, sample_rule='norm_softmax')"


@pytest.mark.parametrize("find", [losses.about, lambda name: losses.build(name, num_classes=2, dim=2)])
def test_an_unknown_loss_gets_the_nearest_name(find):
    with pytest.raises(SettingsError, match=r"no loss is called 'multi_similarty'. Did you mean 'multi_similarity'\?"):
        find("multi_similarty")
    with pytest.raises(SettingsError, match=r"no loss is called 'qqq'. Known: .*contrastive, "):
        find("qqq")


def test_an_unknown_setting_gets_the_nearest_name():
    with pytest.raises(SettingsError, match=r"the loss triplet has no setting 'margn'. Did you mean 'margin'\?"):
        losses.build("triplet", num_classes=2, dim=2, margn=1.0)
    with pytest.raises(SettingsError, match="has no setting 'embedding_dim'"):
        losses.build("norm_softmax", num_classes=2, dim=2, embedding_dim=4)


def test_a_setting_of_the_wrong_type_is_named():
    with pytest.raises(SettingsError, match=r"margin must be a number >= 0, finite; got '1\.0'"):
        losses.build("triplet", num_classes=2, dim=2, margin="1.0")


@pytest.mark.slow
def test_importing_the_losses_imports_nothing_heavy():
    heavy = "{'timm', 'pandas', 'torchvision', 'sklearn', 'faiss', 'accelerate', 'matplotlib', 'PIL', 'torch._dynamo'}"
    code = f"import sys, cosphere.losses, cosphere.spherical; print(sorted({heavy} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


# On a GPU


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="wants a CUDA device")
@pytest.mark.parametrize(("name", "settings"), VARIANTS, ids=IDS)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
def test_a_gpu_gives_the_same_value_and_gradients(name, settings, dtype):
    if traits(name, settings).draws:
        pytest.skip("each device draws its own numbers")
    tolerance = {"rtol": 1e-7, "atol": 1e-9} if dtype == torch.float64 else {"rtol": 1e-3, "atol": 1e-4}
    found = []
    for device in ("cpu", "cuda"):
        loss = build(name, **settings).to(dtype)
        rows = points().to(dtype).to(device).requires_grad_()
        value = loss.to(device)(rows, LABELS.to(device))
        value.backward()
        slopes = [parameter.grad for parameter in loss.parameters() if parameter.grad is not None]
        found.append([part.detach().cpu() for part in (value, rows.grad, *slopes)])
    for here, there in zip(*found, strict=True):
        torch.testing.assert_close(there, here, **tolerance)
