"""Our losses inside pytorch-metric-learning's objects, and SEC around every loss of both libraries."""

import copy
import inspect
import warnings

import pytest
import torch
from torch import nn
from torch.utils.data import SequentialSampler, TensorDataset

from cosphere import SphericalConstraint, losses
from cosphere.errors import SettingsError
from cosphere.evaluate import retrieval
from cosphere.losses import CrossBatchMemory

theirs = pytest.importorskip("pytorch_metric_learning.losses")
from pytorch_metric_learning import (  # noqa: E402
    miners,
    reducers,
    regularizers,
    testers,
    trainers,
)
from pytorch_metric_learning.utils import distributed, loss_and_miner_utils  # noqa: E402

NAMES = [about.name for about in losses.table()]
PAIR_LOSSES = [about.name for about in losses.table() if issubclass(getattr(losses, about.title), losses.PairLoss)]
CLASSES, DIM = 4, 8

pytestmark = pytest.mark.filterwarnings("ignore")  # of theirs; ours has no warnings, and its own tests say so


def build(name, **settings):
    torch.manual_seed(3)
    return losses.build(name, num_classes=CLASSES, dim=DIM, **settings)


def batch(count=24, seed=0, dtype=torch.float64):
    """Points around four centres, close enough for miners to find something; lengths from 0.5 to 5."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(count) % CLASSES
    rows = torch.randn(CLASSES, DIM, generator=generator, dtype=torch.float64)[labels]
    rows = rows + torch.randn(count, DIM, generator=generator, dtype=torch.float64)
    lengths = torch.rand(count, 1, generator=generator, dtype=torch.float64) * 4.5 + 0.5
    return (rows / rows.norm(dim=1, keepdim=True) * lengths).to(dtype), labels


def value_and_gradient(loss, embeddings, *rest):
    """Random losses draw the same each time."""
    torch.manual_seed(0)
    leaf = embeddings.clone().requires_grad_()
    value = loss(leaf, *rest)
    value.backward()
    return value.item(), leaf.grad


# Miners


def their_triplet():
    return theirs.TripletMarginLoss(margin=0.5, reducer=reducers.AvgNonZeroReducer())


TWINS = {
    "contrastive": ({"form": "pml"}, theirs.ContrastiveLoss),
    "triplet": ({"margin": 0.5, "squared": False, "reduction": "mean_nonzero"}, their_triplet),
    "multi_similarity": (
        {"alpha": 2.0, "beta": 50.0, "base": 0.5, "mining": None, "divisor": "batch", "anchors": "all"},
        lambda: theirs.MultiSimilarityLoss(alpha=2, beta=50, base=0.5),
    ),
    "margin": (
        {"margin": 0.2, "boundary_start": 1.2, "per_class": False, "sampling": "all"},
        lambda: theirs.MarginLoss(margin=0.2, nu=0, beta=1.2, learn_beta=False),
    ),
}
"""Settings with which one of ours has the meaning of one of theirs."""
MINERS = {
    "MultiSimilarityMiner": lambda: miners.MultiSimilarityMiner(epsilon=0.1),
    "PairMarginMiner": lambda: miners.PairMarginMiner(pos_margin=0.8, neg_margin=0.9),
    "BatchHardMiner": miners.BatchHardMiner,
    "BatchEasyHardMiner": miners.BatchEasyHardMiner,
    "TripletMarginMiner": lambda: miners.TripletMarginMiner(margin=0.3, type_of_triplets="semihard"),
    "DistanceWeightedMiner": miners.DistanceWeightedMiner,
}
# A triplet loss takes triplets one by one, and so do they; their pair losses count a pair as often as it is listed, ours once.
TRIPLETS = ["triplet", "margin"]
ONE_PAIR_ONCE = ["MultiSimilarityMiner", "PairMarginMiner", "BatchHardMiner", "BatchEasyHardMiner"]


def miners_of(name):
    return list(MINERS) if name in TRIPLETS else ONE_PAIR_ONCE


def test_the_twins_are_in_the_table():
    assert set(TWINS) <= set(NAMES)


@pytest.mark.parametrize(("name", "miner"), [(name, miner) for name in TWINS for miner in miners_of(name)])
def test_a_miner_s_tuples_mean_the_same(name, miner):
    settings, twin = TWINS[name]
    ours, other = build(name, **settings).double(), twin()
    for seed in range(3):
        x, labels = batch(seed=seed)
        torch.manual_seed(seed)
        tuples = MINERS[miner]()(x, labels)
        assert all(len(part) for part in tuples)
        got, slope = value_and_gradient(ours, x, labels, tuples)
        want, wanted_slope = value_and_gradient(other, x, labels, tuples)
        assert got == pytest.approx(want, rel=1e-9)
        torch.testing.assert_close(slope, wanted_slope, rtol=1e-7, atol=1e-9)
        assert got != pytest.approx(value_and_gradient(ours, x, labels)[0], rel=1e-6)  # the tuples made a difference


def test_triplets_count_each_pair_once_in_a_loss_on_pairs():
    x, labels = batch()
    triplets = MINERS["TripletMarginMiner"]()(x, labels)
    first, positive, second, negative = loss_and_miner_utils.convert_to_pairs(triplets, labels)
    once = (
        *torch.unique(torch.stack([first, positive]), dim=1),
        *torch.unique(torch.stack([second, negative]), dim=1),
    )
    assert len(once[0]) < len(first)
    want = theirs.ContrastiveLoss()(x, labels, once).item()
    assert build("contrastive", form="pml")(x, labels, triplets).item() == pytest.approx(want, rel=1e-9)
    assert theirs.ContrastiveLoss()(x, labels, triplets).item() != pytest.approx(want, rel=1e-3)


@pytest.mark.parametrize("miner", ["MultiSimilarityMiner", "BatchHardMiner"])
@pytest.mark.parametrize("name", NAMES)
def test_every_loss_takes_tuples_or_says_why_not(name, miner):
    loss = build(name).double()
    x, labels = batch()
    tuples = MINERS[miner]()(x, labels)
    if name in PAIR_LOSSES:
        value, slope = value_and_gradient(loss, x, labels, tuples)
        assert value == value  # not NaN
        assert slope.isfinite().all()
    else:
        with pytest.raises(SettingsError, match=r"compares .*; take the miner away"):
            loss(x, labels, tuples)


# Trainers and testers


def train(loss, *, miner=None, steps=4):
    """A linear trunk after a few steps of their trainer, and the loss."""
    torch.manual_seed(1)
    trunk = nn.Linear(6, DIM)
    x = torch.randn(12 * steps, 6, generator=torch.Generator().manual_seed(2))
    labels = torch.arange(len(x)) % CLASSES
    optimizers = {"trunk_optimizer": torch.optim.SGD(trunk.parameters(), lr=0.05)}
    if list(loss.parameters()):
        optimizers["metric_loss_optimizer"] = torch.optim.SGD(loss.parameters(), lr=0.05)
    data = TensorDataset(x, labels)
    trainers.MetricLossOnly(
        models={"trunk": trunk},
        optimizers=optimizers,
        batch_size=12,
        loss_funcs={"metric_loss": loss},
        mining_funcs={"tuple_miner": miner} if miner else {},
        dataset=data,
        sampler=SequentialSampler(data),
        data_device=torch.device("cpu"),
        dataloader_num_workers=0,
    ).train(num_epochs=1)
    return trunk, x.split(12), labels.split(12)


@pytest.mark.parametrize("name", NAMES)
def test_their_trainer_trains_with_ours_as_a_plain_loop_does(name):
    loss, again = build(name), build(name)
    trunk, images, labels = train(loss)
    torch.manual_seed(1)
    plain = nn.Linear(6, DIM)
    before = plain.weight.detach().clone()
    optimiser = torch.optim.SGD([*plain.parameters(), *again.parameters()], lr=0.05)
    torch.manual_seed(1)
    nn.Linear(6, DIM)  # brings the global generator to where the trainer began
    for rows, names in zip(images, labels, strict=True):
        optimiser.zero_grad()
        again(plain(rows), names).backward()
        optimiser.step()
    if not again.traits().draws:  # from the global generator, which the trainer uses too
        torch.testing.assert_close(trunk.weight, plain.weight, rtol=1e-6, atol=1e-7)
    assert not torch.equal(trunk.weight, before)
    assert all(part.isfinite().all() for part in loss.state_dict().values())


@pytest.mark.parametrize("name", ["contrastive", "triplet", "multi_similarity"])
def test_their_trainer_with_their_miner_cannot_tell_ours_from_theirs(name):
    settings, twin = TWINS[name]
    ours, *_ = train(build(name, **settings), miner=miners.MultiSimilarityMiner())
    other, *_ = train(twin(), miner=miners.MultiSimilarityMiner())
    torch.testing.assert_close(ours.weight, other.weight, rtol=1e-4, atol=1e-6)


def test_their_trainer_takes_our_memory():
    memory = CrossBatchMemory(build("contrastive", form="pml"), DIM, size=20)
    ours, *_ = train(memory)
    other, *_ = train(theirs.CrossBatchMemory(theirs.ContrastiveLoss(), embedding_size=DIM, memory_size=20))
    assert int(memory.fill) == 20
    torch.testing.assert_close(ours.weight, other.weight, rtol=1e-4, atol=1e-6)


def test_their_tester_scores_a_trunk_trained_with_ours():
    trunk, images, labels = train(build("multi_similarity"))
    data = TensorDataset(torch.cat(images), torch.cat(labels))
    tester = testers.GlobalEmbeddingSpaceTester(data_device=torch.device("cpu"), dataloader_num_workers=0)
    found = tester.test({"val": data}, 0, trunk)["val"]["precision_at_1_level0"]
    with torch.no_grad():
        embeddings = trunk(torch.cat(images))
    assert found == pytest.approx(
        retrieval(embeddings.numpy(), torch.cat(labels).numpy(), ks=(1,)).as_dict()["recall@1"]
    )


# Wrappers


def test_their_multiple_losses_add_ours():
    x, labels = batch()
    ours = {name: build(name).double() for name in NAMES if not build(name).traits().draws}
    together = theirs.MultipleLosses(dict(ours), weights=dict.fromkeys(ours, 0.5))
    want = sum(0.5 * copy.deepcopy(loss)(x, labels) for loss in ours.values())  # some keep running averages
    assert together(x, labels).item() == pytest.approx(want.item(), rel=1e-12)


def accepted(wrapper):
    """Names of our losses whose class is called as one that their wrapper knows."""
    return [name for name in NAMES if losses.about(name).title in wrapper.supported_losses()]


@pytest.mark.parametrize("wrapper", [theirs.SelfSupervisedLoss, theirs.CrossBatchMemory])
@pytest.mark.parametrize("name", NAMES)
def test_their_wrappers_know_losses_by_the_name_of_the_class_alone(wrapper, name):
    """As docs/losses.md says: TripletLoss of ours is refused because theirs is called TripletMarginLoss."""
    arguments = {} if wrapper is theirs.SelfSupervisedLoss else {"embedding_size": DIM}
    if name in accepted(wrapper):
        wrapper(build(name), **arguments)
    else:
        with pytest.raises(Exception, match=f"not supported for {losses.about(name).title}"):
            wrapper(build(name), **arguments)


def test_the_known_names_are_those_that_the_documentation_tells():
    assert {"contrastive", "multi_similarity"} <= set(accepted(theirs.SelfSupervisedLoss))
    assert "triplet" not in accepted(theirs.SelfSupervisedLoss)


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("name", accepted(theirs.SelfSupervisedLoss))
def test_their_self_supervised_loss_around_ours(name, symmetric):
    (first, _), (second, _) = batch(10, seed=1), batch(10, seed=2)
    loss, labels = build(name).double(), torch.arange(10)
    got = theirs.SelfSupervisedLoss(loss, symmetric=symmetric)(first, second)
    want = (
        loss(torch.cat([first, second]), labels.repeat(2))
        if symmetric
        else loss(first, labels, references=second, reference_labels=labels)
    )
    assert got.item() == want.item()


@pytest.mark.parametrize("name", [name for name in accepted(theirs.CrossBatchMemory) if not build(name).traits().draws])
def test_their_memory_around_ours_is_our_memory(name):
    """Theirs lists all pairs but those of a row with itself, and hands the list over."""
    other = theirs.CrossBatchMemory(build(name).double(), embedding_size=DIM, memory_size=40)
    ours = CrossBatchMemory(build(name), DIM, size=40).double()
    for seed in range(3):
        x, labels = batch(seed=seed)
        assert ours(x, labels).item() == pytest.approx(other(x, labels).item(), rel=1e-9)


def test_their_distributed_wrapper_wants_their_base_class():
    """As docs/losses.md says; gather the batches and give them as references instead."""
    with pytest.raises(TypeError, match="must extend BaseMetricLossFunction"):
        distributed.DistributedLossWrapper(build("triplet"))


@pytest.mark.parametrize("name", PAIR_LOSSES)
def test_ours_can_be_called_as_theirs_call(name):
    """Positions and names of the arguments are theirs: (embeddings, labels, indices_tuple, ref_emb, ref_labels)."""
    loss = build(name).double()
    (x, labels), (others, other_labels) = batch(seed=1), batch(20, seed=2)
    want = value_and_gradient(lambda block: loss(block, labels, references=others, reference_labels=other_labels), x)[0]
    assert value_and_gradient(lambda block: loss(block, labels, None, others, other_labels), x)[0] == want
    keyed = {"embeddings": x, "labels": labels, "ref_emb": others, "ref_labels": other_labels}
    torch.manual_seed(0)
    assert loss(**keyed).item() == want
    names = list(inspect.signature(type(loss).forward).parameters)[1:6]
    assert names == list(inspect.signature(theirs.BaseMetricLossFunction.forward).parameters)[1:]


# SEC around everything

WEIGHT = 0.3


def their_losses():
    """Every loss of theirs that computes something, with what its constructor must be given."""
    given = {"num_classes": CLASSES, "embedding_size": DIM, "descriptors_dim": DIM, "margin": 0.4, "Tn": 10}
    found = {}
    for kind in vars(theirs).values():
        if not (isinstance(kind, type) and issubclass(kind, theirs.BaseMetricLossFunction)):
            continue
        if kind in (theirs.BaseMetricLossFunction, theirs.GenericPairLoss):
            continue  # bases
        parameters = inspect.signature(kind.__init__).parameters.values()
        wanted = [p.name for p in parameters if p.default is p.empty and p.kind is p.POSITIONAL_OR_KEYWORD][1:]
        if kind in (theirs.SubCenterArcFaceLoss, theirs.CosFaceLoss):  # hidden in **kwargs
            wanted = ["num_classes", "embedding_size"]
        found[kind.__name__] = (kind, {name: given[name] for name in wanted if kind is not theirs.ManifoldLoss})
    found["ManifoldLoss"] = (theirs.ManifoldLoss, {"l": DIM, "K": 10})
    return found


THEIRS = their_losses()


def test_their_losses_are_all_found():
    assert len(THEIRS) == 35
    assert {"TripletMarginLoss", "ProxyAnchorLoss", "SubCenterArcFaceLoss", "ManifoldLoss", "VICRegLoss"} <= set(THEIRS)


@pytest.mark.parametrize("radius", ["batch", "ema", 1.5])
@pytest.mark.parametrize("name", [name for name in THEIRS if name != "VICRegLoss"])
def test_sec_is_the_regularizer_of_every_loss_of_theirs(name, radius):
    kind, arguments = THEIRS[name]
    x, labels = batch()
    torch.manual_seed(4)
    bare = kind(**arguments).double()
    torch.manual_seed(4)
    both = kind(**arguments, embedding_regularizer=SphericalConstraint(radius), embedding_reg_weight=WEIGHT).double()
    check_sum(both, bare, SphericalConstraint(radius), x, *([] if name == "ManifoldLoss" else [labels]))


def test_their_one_loss_without_a_regularizer_takes_sec_beside_it():
    with pytest.raises(ValueError, match="cannot use a regularizer"):
        theirs.VICRegLoss(embedding_regularizer=SphericalConstraint())
    loss, sec, (x, _), (other, _) = theirs.VICRegLoss(), SphericalConstraint(), batch(seed=1), batch(seed=2)
    check_sum(
        lambda block: loss(block, ref_emb=other) + WEIGHT * sec(block),
        lambda block: loss(block, ref_emb=other),
        SphericalConstraint(),
        x,
    )


@pytest.mark.parametrize("radius", ["batch", "ema", "learned", 1.5, 0.0])
@pytest.mark.parametrize("name", NAMES)
def test_sec_is_added_to_every_loss_of_ours(name, radius):
    loss, bare, sec = build(name).double(), build(name).double(), SphericalConstraint(radius)
    x, labels = batch()
    check_sum(
        lambda block, names: loss(block, names) + WEIGHT * sec(block), bare, SphericalConstraint(radius), x, labels
    )


@pytest.mark.parametrize("radius", ["batch", 1.5])
def test_sec_is_added_to_any_callable(radius):
    sec = SphericalConstraint(radius)
    of_a_user = lambda block: (block @ block.T).tanh().mean()  # noqa: E731
    check_sum(lambda block: of_a_user(block) + WEIGHT * sec(block), of_a_user, SphericalConstraint(radius), batch()[0])


@pytest.mark.parametrize("name", PAIR_LOSSES)
def test_sec_is_added_to_a_memory(name):
    x, labels = batch()
    memory, sec = CrossBatchMemory(build(name), DIM, size=64).double(), SphericalConstraint()
    memory(*batch(seed=9))
    other = copy.deepcopy(memory)
    check_sum(lambda block, names: memory(block, names) + WEIGHT * sec(block), other, SphericalConstraint(), x, labels)


def check_sum(both, bare, sec, x, *labels):
    """``both`` = ``bare`` + weight * SEC, in value and in gradient, and SEC's part is there."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        value, slope = value_and_gradient(both, x, *labels)
        want, wanted_slope = value_and_gradient(bare, x, *labels)
    penalty, pull = value_and_gradient(sec, x)
    assert penalty > 0.1
    assert pull.norm() > 0.1
    assert value == pytest.approx(want + WEIGHT * penalty, rel=1e-9)
    torch.testing.assert_close(slope, wanted_slope + WEIGHT * pull, rtol=1e-9, atol=1e-11)


def test_the_center_invariant_regularizer_is_not_sec(h6, gradient):
    """It weighs (n^2 - mean n^2)^2 / 4 and lets a gradient through the mean; the numbers are the published ones of H6."""
    x, labels = h6
    center = regularizers.CenterInvariantRegularizer()
    assert center(x).item() == pytest.approx(259.3888888889, rel=1e-10)
    assert SphericalConstraint()(x).item() == pytest.approx(7.6666666667, rel=1e-10)
    # Not another scale either: one is of degree 4 in the lengths, the other of degree 2, and they pull differently.
    assert center(2 * x) / center(x) == pytest.approx(16)
    assert SphericalConstraint()(2 * x) / SphericalConstraint()(x) == pytest.approx(4)
    first, second = (
        gradient(lambda block, _: center(block), x, labels),
        gradient(lambda block, _: SphericalConstraint()(block), x, labels),
    )
    assert torch.cosine_similarity(first.flatten(), second.flatten(), dim=0) < 0.95
