import subprocess
import sys

import pytest
import torch
from torch.nn import functional

from cosphere.errors import DerivativeError, SettingsError, SizeError
from cosphere.losses import NormSoftmaxLoss
from cosphere.losses.engine.classes import classify, sample_classes
from cosphere.losses.engine.columns import sum_over_classes
from cosphere.losses.engine.maths import similarities_held
from cosphere.losses.engine.softmax import against_classes

BLOCKS = [1, 60, 10**6]  # one class at a time, a few, all


def draw(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def batch(count=9, classes=11, dim=5, centres=1):
    labels = torch.randint(classes, (count,), generator=torch.Generator().manual_seed(1))
    lengths = torch.linspace(0.3, 4, count, dtype=torch.float64)[:, None]
    points = (draw(count, dim) * lengths).requires_grad_()
    return points, labels, (3 * draw(classes * centres, dim, seed=2)).requires_grad_()


def nearest(cosines):
    return cosines.amax(dim=2)


def soft(cosines):
    return (torch.softmax(5 * cosines, dim=2) * cosines).sum(dim=2)


def bent(similarities):
    return 3 * similarities + similarities.square()


class ByAutograd:
    """A stage from a function, its derivative torch's own."""

    def __init__(self, function):
        self.function = function

    def values(self, inputs, space):
        return self.function(inputs).clone()

    def pull_back(self, inputs, gradient, space):
        with torch.enable_grad():
            leaf = inputs.clone().requires_grad_()
            return torch.autograd.grad(self.function(leaf), leaf, gradient)[0]


class ColumnsByAutograd:
    """Columns from ``function(cosines, own class)``, their derivative torch's own."""

    def __init__(self, function):
        self.function = function

    def value(self, cosines, block):
        own = torch.zeros_like(cosines, dtype=torch.bool)
        own[block.images, block.places] = True
        return self.function(cosines, own)

    def cosine_gradients(self, cosines, block):
        with torch.enable_grad():
            leaf = cosines.clone().requires_grad_()
            return torch.autograd.grad(self.value(leaf, block), leaf)[0]


VARIANTS = {
    "plain": {"scale": 7.0},
    "lengths": {"scale": 0.8, "raw": True},
    "total": {"scale": 7.0, "with_total": True},
    "logits": {"logits": bent},
    "logits and total": {"logits": bent, "with_total": True},
    "nearest centre": {"scale": 7.0, "centres": 3, "similarity": nearest},
    "soft centres": {"logits": bent, "centres": 3, "similarity": soft, "with_total": True},
    "bias": {"scale": 7.0, "bias": True},
    "bias and total": {"scale": 7.0, "bias": True, "with_total": True},
    "scaled logits": {"scale": 7.0, "logits": bent},
}


def dense(points, labels, weights, *, scale=1.0, raw=False, centres=1, similarity=None, logits=None, bias=None, **rest):
    """The same with the whole (B, C) matrix: torch's own normalise, log-sum-exp and derivatives."""
    sampled = rest.get("sampled")
    rows = points if raw else functional.normalize(points)
    similarities = (rows @ functional.normalize(weights).T).unflatten(1, (-1, centres))
    similarities = similarities.squeeze(2) if similarity is None else similarity(similarities)
    values = scale * (similarities if logits is None else logits(similarities))
    values = values if bias is None else values + bias
    places = torch.arange(len(labels))
    own = torch.zeros_like(values, dtype=torch.bool)
    own[places, labels] = True
    seen = torch.ones_like(own) if sampled is None else torch.zeros_like(own).index_fill_(1, sampled, True)
    others = values.masked_fill(own | ~seen, -torch.inf).logsumexp(dim=1)
    return similarities[places, labels], others, (similarities * seen).sum(dim=1)


def ours(points, labels, weights, *, raw=False, **settings):
    made = classify(points, labels, weights, centres=settings.get("centres", 1))
    settings |= {name: ByAutograd(settings[name]) for name in ("similarity", "logits") if name in settings}
    return against_classes(made, rows=made.raw if raw else None, **settings)


def value_and_gradients(of, points, labels, weights, bias, settings):
    """One number of all three outcomes, each image with its own factor, and every gradient."""
    target, others, total = of(points, labels, weights, **settings, **({} if bias is None else {"bias": bias}))
    mix = (target * draw(len(target), seed=3)).sum() + (others * draw(len(target), seed=4)).sum()
    if settings.get("with_total"):
        mix = mix + (total * draw(len(target), seed=5)).sum()
    inputs = [points, weights] if bias is None else [points, weights, bias]
    return mix.detach(), *torch.autograd.grad(mix, inputs)


def agree(settings, sampled=None, held=10**6):
    settings = dict(settings)
    points, labels, weights = batch(centres=settings.get("centres", 1))
    bias = draw(11, seed=6).requires_grad_() if settings.pop("bias", False) else None
    if sampled is not None:
        labels = sampled[labels % len(sampled)]
        settings["sampled"] = sampled
    with similarities_held(held):
        got = value_and_gradients(ours, points, labels, weights, bias, settings)
    want = value_and_gradients(dense, points, labels, weights, bias, settings)
    for mine, theirs in zip(got, want, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-10, atol=1e-12)
    return got


@pytest.mark.parametrize("held", BLOCKS)
@pytest.mark.parametrize("settings", VARIANTS.values(), ids=VARIANTS)
def test_blocks_agree_with_the_whole_matrix(settings, held):
    agree(settings, held=held)


@pytest.mark.parametrize("held", BLOCKS)
@pytest.mark.parametrize("settings", VARIANTS.values(), ids=VARIANTS)
def test_sampled_classes_agree_with_the_whole_matrix(settings, held):
    sampled = torch.tensor([0, 3, 4, 8, 10])
    _, _, to_weights, *to_bias = agree(settings, sampled=sampled, held=held)
    left_out = torch.ones(11, dtype=torch.bool).index_fill_(0, sampled, False)
    per_class = to_weights.view(11, -1)
    assert not per_class[left_out].any()
    assert per_class[~left_out].any(dim=1).all()
    assert all(not slope[left_out].any() for slope in to_bias)


def test_logits_may_depend_on_the_image():
    points, labels, weights = batch()
    level = torch.linspace(-0.5, 0.5, len(points), dtype=torch.float64)[:, None]

    def harder(similarities):
        return torch.where(similarities > level, 9.0, 4.0) * similarities

    with similarities_held(60):
        got = value_and_gradients(ours, points, labels, weights, None, {"logits": harder})
    want = value_and_gradients(dense, points, labels, weights, None, {"logits": harder})
    torch.testing.assert_close(got, want, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("name", ["plain", "lengths", "soft centres", "bias"])
def test_gradients_by_finite_differences(name):
    settings = dict(VARIANTS[name])
    points, labels, weights = batch(5, 4, centres=settings.get("centres", 1))
    bias = draw(4, seed=6).requires_grad_() if settings.pop("bias", False) else None

    def mix(points, weights, bias):
        extra = {} if bias is None else {"bias": bias}
        target, others, total = ours(points, labels, weights, **settings, **extra)
        return functional.softplus(others - 7 * target) + total

    with similarities_held(10):
        assert torch.autograd.gradcheck(mix, (points, weights, bias))


@pytest.mark.parametrize("held", BLOCKS)
def test_columns_agree_with_the_whole_matrix(held):
    points, labels, weights = batch()

    def push(cosines, own):
        return functional.softplus(torch.where(own, -torch.inf, 5 * cosines).logsumexp(dim=0)).sum()

    with similarities_held(held):
        got = sum_over_classes(classify(points, labels, weights), ColumnsByAutograd(push))
        got_slopes = torch.autograd.grad(3 * got, (points, weights))
    cosines = functional.normalize(points) @ functional.normalize(weights).T
    want = push(cosines, functional.one_hot(labels, 11).bool())
    torch.testing.assert_close(got, want, rtol=1e-12, atol=0)
    torch.testing.assert_close(got_slopes, torch.autograd.grad(3 * want, (points, weights)), rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("frozen", ["embeddings", "class weights"])
@pytest.mark.parametrize("kind", ["images", "columns"])
def test_what_is_frozen_gets_no_gradient_and_changes_none(kind, frozen):
    points, labels, weights = batch()

    def loss():
        made = classify(points, labels, weights)
        if kind == "images":
            return against_classes(made, scale=7.0).others.sum()
        return sum_over_classes(made, ColumnsByAutograd(lambda cosines, own: (5 * cosines).logsumexp(dim=0).sum()))

    full = torch.autograd.grad(loss(), (points, weights))
    resting, moving, want = (points, weights, full[1]) if frozen == "embeddings" else (weights, points, full[0])
    resting.requires_grad_(False)
    loss().backward()
    assert resting.grad is None
    torch.testing.assert_close(moving.grad, want)


@pytest.mark.parametrize("kind", ["images", "columns"])
@pytest.mark.parametrize("which", [0, 1])
def test_a_second_derivative_raises(kind, which):
    points, labels, weights = batch()
    made = classify(points, labels, weights)
    if kind == "images":
        value = against_classes(made, scale=7.0).others.sum()
    else:
        value = sum_over_classes(made, ColumnsByAutograd(lambda cosines, own: cosines.square().sum()))
    slope = torch.autograd.grad(value, (points, weights), create_graph=True)[which]
    with pytest.raises(DerivativeError, match="first derivatives only"):
        slope.square().sum().backward()


@pytest.mark.parametrize("held", BLOCKS)
def test_a_class_weight_of_zero_has_cosine_zero_and_rests(held):
    points, labels, weights = batch()
    with torch.no_grad():
        weights[labels[0]] = 0
        weights[(labels[0] + 1) % 11] = 1e-7
    with similarities_held(held):
        target, others, _ = ours(points, labels, weights, scale=7.0)
        (functional.softplus(others - 7 * target)).sum().backward()
    assert target[0] == 0
    assert target.isfinite().all()
    assert others.isfinite().all()
    assert weights.grad.isfinite().all()
    assert not weights.grad[labels[0]].any()
    assert not weights.grad[(labels[0] + 1) % 11].any()
    assert points.grad.isfinite().all()


@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf, 1e200])  # the last overflows when it is squared
@pytest.mark.parametrize("wrong", range(11))
@pytest.mark.parametrize("held", [1, 10**6])
def test_class_weights_that_are_not_finite_show_in_every_image(held, wrong, bad):
    points, labels, weights = batch()
    with torch.no_grad():
        weights[wrong, 2] = bad
    with similarities_held(held):
        target, others, _ = ours(points, labels, weights, scale=7.0)
        assert functional.softplus(others - 7 * target).isnan().all()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("sampled", [None, torch.arange(11)], ids=["all", "sampled"])
def test_narrow_class_weights_are_widened(dtype, sampled):
    points, labels, weights = batch()
    narrow = weights.detach().to(dtype).requires_grad_()
    rows = points.detach().float().requires_grad_()
    target, others, _ = ours(rows, labels, narrow, scale=7.0, sampled=sampled)
    assert target.dtype == others.dtype == torch.float32
    (others - target).sum().backward()
    assert narrow.grad.dtype == dtype
    wide = narrow.detach().double().requires_grad_()
    want = dense(rows.detach().double(), labels, wide, scale=7.0)
    (want[1] - want[0]).sum().backward()
    torch.testing.assert_close(others.double(), want[1], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(narrow.grad.double(), wide.grad, rtol=0.01, atol=1e-3)


def test_wide_class_weights_widen_the_loss():
    points, labels, weights = batch()
    assert ours(points.float(), labels, weights).target.dtype == torch.float64
    slopes = torch.autograd.grad(ours(points.float(), labels, weights).others.sum(), (points, weights))
    assert [slope.dtype for slope in slopes] == [torch.float64, torch.float64]


@pytest.mark.parametrize("sampled", [None, torch.tensor([0])], ids=["one class", "one sampled"])
@pytest.mark.parametrize("variant", ["plain", "logits", "bias"])
def test_without_another_class_there_is_no_loss(variant, sampled):
    points, labels, weights = batch(classes=1 if sampled is None else 3)
    settings = dict(VARIANTS[variant])
    bias = {"bias": torch.ones(len(weights), dtype=torch.float64)} if settings.pop("bias", False) else {}
    target, others, _ = ours(points, labels * 0, weights, **settings, **bias, sampled=sampled)
    assert (others == -torch.inf).all()
    loss = functional.softplus(others - 7 * target)
    loss.sum().backward()
    assert not loss.any()
    assert not points.grad.any()
    assert not weights.grad.any()


@pytest.mark.parametrize("rows", [torch.zeros(0, 5), torch.zeros(3, 5)], ids=["no rows", "zero rows"])
def test_without_a_direction_there_is_no_loss(rows):
    _, _, weights = batch()
    rows = rows.double().requires_grad_()
    made = classify(rows, torch.zeros(len(rows), dtype=torch.long), weights)
    target, others, total = against_classes(made, scale=7.0, with_total=True)
    assert target.shape == others.shape == total.shape == (0,)
    values = made.scatter(functional.softplus(others - target) + total)
    assert values.tolist() == [0.0] * len(rows)
    columns = sum_over_classes(made, ColumnsByAutograd(lambda cosines, own: cosines.sum()))
    (values.sum() + columns).backward()
    assert not weights.grad.any()
    assert not rows.grad.any()


def test_values_go_back_to_the_rows_they_came_from():
    points, labels, weights = batch()
    with torch.no_grad():
        points[[0, 4]] = 0
    made = classify(points, labels, weights)
    values = made.scatter(made.lengths())
    torch.testing.assert_close(values, points.norm(dim=1))
    assert values[[0, 4]].tolist() == [0, 0]
    assert made.targets.tolist() == labels[[1, 2, 3, 5, 6, 7, 8]].tolist()


def test_sharp_logits_do_not_overflow():
    points, labels, weights = batch()
    for held in BLOCKS:
        with similarities_held(held):
            others = ours(points.float(), labels, weights.float(), scale=1e4).others
        want = dense(points, labels, weights, scale=1e4)
        torch.testing.assert_close(others.double(), want[1], rtol=1e-5, atol=0)


@pytest.mark.parametrize(
    "sampled",
    [
        torch.tensor([0, 2, 5]),
        torch.tensor([4, 3, 2, 1, 0]),
        torch.tensor([0, 1, 2, 3, 3, 4]),
        torch.tensor([0, 1, 2, 3, 4, 11]),
        torch.tensor([-1, 0, 1, 2, 3, 4]),
        torch.tensor([], dtype=torch.long),
        torch.arange(11.0),
        torch.arange(11)[:, None],
    ],
    ids=["lacking", "falling", "twice", "too high", "negative", "empty", "floats", "shape"],
)
def test_sampled_classes_that_do_not_fit_are_named(sampled):
    points, _, weights = batch()
    labels = torch.tensor([0, 1, 2, 3, 4, 0, 1, 2, 3])
    assert ours(points, labels, weights, sampled=torch.arange(5)).target.isfinite().all()
    with pytest.raises(SizeError, match=r"want sampled classes \(S,\) ascending in \[0, 11\)"):
        ours(points, labels, weights, sampled=sampled)


def test_a_bias_that_does_not_fit_is_named():
    points, labels, weights = batch()
    with pytest.raises(SizeError, match=r"want a bias \(11,\), one number a class; got \(9,\)"):
        ours(points, labels, weights, bias=torch.zeros(9))


def test_other_centres_are_other_classes():
    points, _, weights = batch()
    with pytest.raises(SizeError, match="labels run from 0 to 5, but the loss has 5 classes"):
        classify(points, torch.tensor([0, 1, 2, 3, 4, 5, 0, 0, 0]), weights, centres=2)


TARGETS = torch.tensor([7, 7, 2, 90, 55, 2])
OWN = [2, 7, 55, 90]


@pytest.mark.parametrize(
    ("rule", "rate", "count"),
    [
        ("partial_fc", 0.2, 20),
        ("partial_fc", 0.209, 20),  # int(20.9)
        ("partial_fc", 0.05, 5),
        ("partial_fc", 0.04, 4),
        ("partial_fc", 0.01, 4),  # fewer than the batch's own
        ("norm_softmax", 0.2, 4 + 19),  # round(0.2 * 96)
        ("norm_softmax", 0.26, 4 + 25),  # round(24.96)
        ("norm_softmax", 0.001, 4),
    ],
)
def test_as_many_classes_are_drawn_as_the_rule_says(rule, rate, count):
    seen = set()
    for seed in range(20):
        drawn = sample_classes(TARGETS, 100, rate, rule=rule, generator=torch.Generator().manual_seed(seed))
        assert drawn.dtype == torch.int64
        assert drawn.tolist() == sorted(set(drawn.tolist()))
        assert len(drawn) == count
        assert set(OWN) <= set(drawn.tolist()) <= set(range(100))
        seen |= set(drawn.tolist())
    assert count == 4 or len(seen) > min(60, 4 * count)  # the others are not always the same


def test_each_other_class_is_as_likely():
    generator = torch.Generator().manual_seed(0)
    counts = torch.zeros(100)
    for _ in range(2000):
        counts[sample_classes(TARGETS, 100, 0.24, generator=generator)] += 1
    assert (counts[OWN] == 2000).all()
    others = counts[[c for c in range(100) if c not in OWN]]
    assert others.mean() == pytest.approx(2000 * 20 / 96, abs=1e-3)
    assert (others - others.mean()).abs().max() < 5 * (2000 * 0.21 * 0.79) ** 0.5


def test_the_whole_rate_is_all_classes():
    assert sample_classes(TARGETS, 100, 1.0) is None


def sampled_loss(rate=0.2, rule="partial_fc"):
    torch.manual_seed(0)
    return NormSoftmaxLoss(100, 5, sample_rate=rate, sample_rule=rule).double()


def test_a_training_step_sees_a_sample_and_an_evaluation_all():
    loss = sampled_loss()
    points, labels = draw(6, 5), TARGETS
    full = NormSoftmaxLoss(100, 5).double()
    full.load_state_dict(loss.state_dict())
    assert loss(points, labels) < full(points, labels)  # without correction, fewer classes are a lower loss
    assert loss(points, labels) != loss(points, labels)
    assert loss.eval()(points, labels) == full(points, labels)
    loss.train()
    loss(points, labels).backward()
    assert int(loss.class_weight.grad.any(dim=1).sum()) == 20
    assert loss.class_weight.grad[OWN].any(dim=1).all()


def test_a_sample_of_all_classes_is_the_full_softmax():
    """When the batch holds every class, the sample is all of them, whatever the rate."""
    torch.manual_seed(0)
    full, sampled = (
        NormSoftmaxLoss(6, 5).double(),
        NormSoftmaxLoss(6, 5, sample_rate=0.2, sample_rule="partial_fc").double(),
    )
    sampled.load_state_dict(full.state_dict())
    labels = torch.arange(12) % 6
    values, gradients = [], []
    for loss in (full, sampled):
        points = draw(12, 5).requires_grad_()
        values.append(loss(points, labels))
        gradients.append(torch.autograd.grad(values[-1], [points, loss.class_weight]))
    torch.testing.assert_close(values[0], values[1], rtol=1e-12, atol=0)
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-15)


def step(optimiser, loss):
    optimiser.zero_grad()
    loss(draw(6, 5), TARGETS).backward()
    rests = ~loss.class_weight.grad.any(dim=1)
    before = loss.class_weight.detach().clone()
    optimiser.step()
    return rests, (loss.class_weight.detach() != before).any(dim=1)


def test_what_optimisers_do_to_classes_left_out():
    loss = sampled_loss()
    plain = torch.optim.SGD(loss.parameters(), lr=0.1)
    for _ in range(3):
        rests, moved = step(plain, loss)
        assert int(rests.sum()) == 80
        assert torch.equal(moved, ~rests)
    momentum = torch.optim.SGD(loss.parameters(), lr=0.1, momentum=0.9)
    rested = [step(momentum, loss) for _ in range(2)]
    again = rested[1][0] & ~rested[0][0]  # drawn once, then left out
    assert again.any()
    assert rested[1][1][again].all()
    assert not rested[1][1][rested[0][0] & rested[1][0]].any()
    decay = torch.optim.SGD(loss.parameters(), lr=0.1, weight_decay=0.1)
    assert step(decay, loss)[1].all()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"sample_rate": 0}, "sample_rate must be a number above 0"),
        ({"sample_rate": 1.5}, "sample_rate is a share, above 0 and at most 1; got 1.5"),
        ({"sample_rule": "half"}, "sample_rule must be 'partial_fc' or 'norm_softmax'; got 'half'"),
    ],
)
def test_wrong_sampling_is_named(settings, message):
    with pytest.raises(SettingsError, match=message):
        NormSoftmaxLoss(4, 2, **settings)


def test_a_draw_that_cannot_be_is_named():
    with pytest.raises(SizeError, match="targets run from 1 to 20, but there are 10 classes: want 0 to 9"):
        sample_classes(torch.tensor([1, 20]), 10, 0.5)
    with pytest.raises(SettingsError, match="rate must be a number above 0, finite; got 0"):
        sample_classes(torch.tensor([1]), 10, 0)
    with pytest.raises(SettingsError, match="rate is a share, above 0 and at most 1; got 2"):
        sample_classes(torch.tensor([1]), 10, 2)
    with pytest.raises(SettingsError, match="rule must be 'partial_fc' or 'norm_softmax'; got 'half'"):
        sample_classes(torch.tensor([1]), 10, 0.5, rule="half")


def test_a_sampled_loss_names_labels_out_of_range():
    with pytest.raises(SizeError, match="labels run from 2 to 100, but the loss has 100 classes"):
        sampled_loss()(draw(6, 5), torch.tensor([7, 7, 2, 90, 55, 100]))


def test_pairs_are_not_taken():
    with pytest.raises(SettingsError, match="NormSoftmaxLoss compares images with classes; take the miner away"):
        sampled_loss()(draw(6, 5), TARGETS, (TARGETS, TARGETS, TARGETS))


MEMORY = """
import resource, torch
from cosphere.losses import NormSoftmaxLoss
def peak(): return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
torch.set_num_threads(1)
def step(classes):
    loss = NormSoftmaxLoss(classes, 32)
    points, labels = torch.randn(512, 32, requires_grad=True), torch.randint(classes, (512,))
    before = peak()
    loss(points, labels).backward()
    return peak() - before
step(2000)
print(step(60_000))
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads the peak of a Linux process")
def test_logits_are_never_held():
    done = subprocess.run([sys.executable, "-c", MEMORY], capture_output=True, text=True, check=True)
    gradient, logits = 60_000 * 32 * 4 / 2**20, 512 * 60_000 * 4 / 2**20  # 7 and 117 MB
    assert float(done.stdout) < gradient + logits / 4
