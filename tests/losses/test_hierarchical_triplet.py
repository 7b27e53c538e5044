import math
from collections import Counter

import pytest
import torch
from torch import tensor

from cosphere.errors import SettingsError, SizeError
from cosphere.losses import (
    AnchorNeighbourBatches,
    ClassTree,
    HierarchicalTripletLoss,
    TripletLoss,
    hierarchical_triplet_loss,
    similarities_held,
)


def squared(a, b):
    return 2 - 2 * sum(x * y for x, y in zip(a, b, strict=True)) / math.hypot(*a) / math.hypot(*b)


def mean(values):
    return sum(values) / len(values)


def classes_by_hand(rows, labels):
    """{label: rows}, distances {(p, q)}, spreads {p}, the least threshold: from pairs of images, never from means."""
    members = {
        name: [row for row, own in zip(rows, labels, strict=True) if own == name] for name in sorted(set(labels))
    }
    distances = {
        (p, q): mean([squared(a, b) for a in members[p] for b in members[q]])
        for p in members
        for q in members
        if p != q
    }
    known = {
        p: mean([squared(a, b) for i, a in enumerate(own) for j, b in enumerate(own) if i != j])
        for p, own in members.items()
        if len(own) > 1
    }
    least = mean(list(known.values()))
    return members, distances, {p: known.get(p, least) for p in members}, least


def levels_by_hand(names, distances, thresholds, linkage):
    """{(p, q): level}: at each level, merge the two nearest nodes as long as they are nearer than its threshold."""
    nodes, found = [[name] for name in names], {}
    for level, threshold in enumerate(thresholds):
        while len(nodes) > 1:
            gaps = {
                (i, j): (mean if linkage == "average" else min)([distances[p, q] for p in nodes[i] for q in nodes[j]])
                for i in range(len(nodes))
                for j in range(i)
            }
            (i, j), gap = min(gaps.items(), key=lambda item: item[1])
            if gap >= threshold and level < len(thresholds) - 1:
                break
            nodes[j] += nodes.pop(i)
        for node in nodes:
            for p in node:
                for q in node:
                    found.setdefault((p, q), level)
    return found


def grouped(seed, classes=12, most=5, dim=6):
    """Classes in four groups, so that they merge at many levels; some have one image; labels far apart."""
    generator = torch.Generator().manual_seed(seed)

    def noise(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    counts = torch.randint(1, most + 1, (classes,), generator=generator)
    counts[0], counts[1] = 2, 3
    centres = 2 * noise(4, dim)[torch.arange(classes) % 4] + 1.1 * noise(classes, dim)
    labels = torch.arange(classes).repeat_interleave(counts)
    x = centres[labels] + 0.6 * noise(len(labels), dim)
    order = torch.randperm(len(labels), generator=generator)
    names = torch.randperm(classes, generator=generator) * 10**11 - 5 * 10**11
    return (x * (0.2 + torch.rand(len(x), 1, generator=generator)))[order], names[labels][order]


def by_definition(x, labels, y, others, margin_of, same_set=True, triplets=None):
    """Half the mean hinge, term by term, with torch's own gradient."""
    if triplets is None:
        triplets = [
            (a, p, n)
            for a in range(len(x))
            for p in range(len(y))
            for n in range(len(y))
            if others[p] == labels[a] != others[n] and not (same_set and a == p)
        ]
    u, v = torch.nn.functional.normalize(x, dim=1), torch.nn.functional.normalize(y, dim=1)
    a, p, n = torch.tensor(triplets).T
    near, far = (2 - 2 * (u[a] * v[other]).sum(dim=1) for other in (p, n))
    margins = torch.tensor([margin_of(int(labels[i]), int(others[k])) for i, _, k in triplets], dtype=torch.float64)
    return (near - far + margins).relu().mean() / 2


def margins_by_hand(seed, linkage="average", margin=0.1, levels=16):
    rows, labels = grouped(seed)
    _, distances, spreads, least = classes_by_hand(rows.tolist(), labels.tolist())
    thresholds = [least + level * (4 - least) / levels for level in range(levels + 1)]
    merged = levels_by_hand(sorted(set(labels.tolist())), distances, thresholds, linkage)
    return lambda own, other: margin + thresholds[merged[own, other]] - spreads[own]


def check_gradients(loss, expected, *leaves):
    first = torch.autograd.grad(loss, leaves)
    second = torch.autograd.grad(expected, leaves)
    assert loss.item() == pytest.approx(expected.item(), rel=1e-9)
    for got, want in zip(first, second, strict=True):
        torch.testing.assert_close(got, want, rtol=1e-7, atol=1e-9)


def test_the_worked_margin():
    """d_0 = 0.4, classes that meet at level 5, s = 0.6, beta = 0.1: margin 1.025."""
    first, second = math.sqrt(0.85), math.sqrt(0.95)  # lengths of the class means: spreads 0.6 and 0.2
    cosine = 0.3 / first / second  # so that the classes are 2 - 2 * 0.3 = 1.4 apart, between 1.3 and 1.525
    m, n = [first, 0.0], [second * cosine, second * math.sqrt(1 - cosine**2)]
    rows = [
        [*m, math.sqrt(0.15), 0.0],
        [*m, -math.sqrt(0.15), 0.0],
        [*n, 0.0, math.sqrt(0.05)],
        [*n, 0.0, -math.sqrt(0.05)],
    ]
    x, labels = torch.tensor(rows, dtype=torch.float64), torch.tensor([3, 3, 8, 8])
    tree = ClassTree.build(x, labels)
    thresholds = [
        0.4,
        0.625,
        0.85,
        1.075,
        1.3,
        1.525,
        1.75,
        1.975,
        2.2,
        2.425,
        2.65,
        2.875,
        3.1,
        3.325,
        3.55,
        3.775,
        4.0,
    ]
    assert tree.thresholds.tolist() == pytest.approx(thresholds, rel=1e-9)
    assert tree.spreads.tolist() == pytest.approx([0.6, 0.2], rel=1e-9)
    assert tree.level_of(tensor(3), tensor(8)) == 5
    near, far = squared(rows[0], rows[1]), squared(rows[0], rows[2])
    got = hierarchical_triplet_loss(x, labels, tree=tree, tuples=(tensor([0]), tensor([1]), tensor([2])))
    assert float(got) == pytest.approx((near - far + 1.025) / 2, rel=1e-9)


def test_class_distances_of_the_example(h6):
    tree = ClassTree.build(*h6)
    between = 2 - 2 * tree.means @ tree.means.T
    assert between[[0, 0, 1], [1, 2, 2]].tolist() == pytest.approx(
        [0.5066666666666667, 0.9666666666666667, 0.9044444444444445], rel=1e-9
    )
    assert tree.thresholds[0].item() == pytest.approx(1.1466666666666667, rel=1e-9)
    _, distances, spreads, _ = classes_by_hand(h6[0].tolist(), h6[1].tolist())
    assert between[0, 1].item() == pytest.approx(distances[0, 1], rel=1e-12)
    assert tree.spreads.tolist() == pytest.approx(list(spreads.values()), rel=1e-12)


@pytest.mark.parametrize("linkage", ["average", "single"])
@pytest.mark.parametrize("levels", [1, 7, 16, 300])
@pytest.mark.parametrize("seed", range(3))
def test_levels_agree_with_merging_by_hand(seed, levels, linkage):
    x, labels = grouped(seed)
    _, distances, spreads, least = classes_by_hand(x.tolist(), labels.tolist())
    tree = ClassTree.build(x, labels, levels=levels, linkage=linkage)
    names = sorted(set(labels.tolist()))
    assert tree.classes.tolist() == names
    assert tree.levels == levels
    assert tree.spreads.tolist() == pytest.approx([spreads[name] for name in names], rel=1e-9)
    want = levels_by_hand(
        names, distances, [least + level * (4 - least) / levels for level in range(levels + 1)], linkage
    )
    got = tree.level_of(tree.classes[:, None], tree.classes[None, :])
    assert got.tolist() == [[want[p, q] for q in names] for p in names]
    if levels == 16:
        assert len(set(got.flatten().tolist())) >= 4  # or the data could not tell two trees apart


def test_linkages_differ():
    trees = [ClassTree.build(*grouped(1), linkage=linkage).nodes for linkage in ("average", "single")]
    pairs = [[(nodes[:, :, None] == nodes[:, None, :]).sum() for nodes in trees]]
    assert pairs[0][0] < pairs[0][1]  # chains merge earlier


@pytest.mark.parametrize("linkage", ["average", "single"])
def test_opposite_classes_meet_at_the_top(linkage):
    x = torch.tensor([[1.0, 0.0], [1.0, 0.0], [-2.0, 0.0], [-1.0, 0.0]])
    tree = ClassTree.build(x, torch.tensor([4, 4, 5, 5]), levels=4, linkage=linkage)
    assert tree.thresholds.tolist() == [0, 1, 2, 3, 4]
    assert tree.level_of(tensor([4, 5, 4]), tensor([5, 4, 4])).tolist() == [4, 4, 0]  # 4 apart, which is not below 4
    assert tree.nodes[-1].tolist() == [0, 0]
    assert ClassTree.build(x[:2], torch.tensor([4, 4]), linkage=linkage).nodes.tolist() == [[0]] * 17


def test_nodes_exactly_at_a_threshold_stay_apart():
    x = torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 2.0], [0.0, 1.0]])
    tree = ClassTree.build(x, torch.tensor([4, 4, 5, 5]), levels=4)
    assert tree.level_of(tensor(4), tensor(5)) == 3  # 2 apart


@pytest.mark.parametrize("linkage", ["average", "single"])
@pytest.mark.parametrize("held", [pytest.param(2**20, marks=pytest.mark.slow), 60])
@pytest.mark.parametrize("seed", range(3))
def test_loss_agrees_with_its_definition(seed, held, linkage):
    x, labels = grouped(seed)
    tree = ClassTree.build(x, labels, linkage=linkage)
    x = (
        x + 0.7 * torch.randn(x.shape, generator=torch.Generator().manual_seed(seed))
    ).requires_grad_()  # it has moved on
    expected = by_definition(x, labels, x, labels, margins_by_hand(seed, linkage, 0.05))
    with similarities_held(held):
        loss = hierarchical_triplet_loss(x, labels, tree=tree, margin=0.05)
    check_gradients(loss, expected, x)


def test_many_images_of_a_class_take_the_search(ragged):
    x, _ = ragged(5, 130)
    labels = torch.arange(130) // 65
    tree = ClassTree.build(x, labels)
    x.requires_grad_()
    alpha = [
        [0.1 + float(tree.thresholds[tree.level_of(tensor(0), tensor(1))] - tree.spreads[own])] * 2 for own in (0, 1)
    ]
    index = torch.arange(130)
    a, p, n = torch.cartesian_prod(index, index, index).T
    some = (labels[a] == labels[p]) & (labels[a] != labels[n]) & (a != p)
    u = torch.nn.functional.normalize(x, dim=1)
    cosines = u @ u.T
    wanted = torch.tensor(alpha, dtype=torch.float64)[labels[a[some]], labels[n[some]]]
    hinges = (2 * cosines[a[some], n[some]] - 2 * cosines[a[some], p[some]] + wanted).relu()
    check_gradients(hierarchical_triplet_loss(x, labels, tree=tree), hinges.mean() / 2, x)


def test_references_and_positions():
    (x, labels), y = grouped(0), grouped(0)[0].flip(0) * 2 + 0.1
    others = labels.flip(0)
    tree = ClassTree.build(x, labels)
    x, y = x.requires_grad_(), y.requires_grad_()
    settings = {"references": y, "reference_labels": others}
    with similarities_held(90):
        loss = hierarchical_triplet_loss(x, labels, tree=tree, **settings)
    check_gradients(loss, by_definition(x, labels, y, others, margins_by_hand(0), same_set=False), x, y)
    positions = torch.arange(len(x)).flip(0)
    loss = hierarchical_triplet_loss(
        x, labels, tree=tree, references=x.flip(0), reference_labels=others, positions=positions
    )
    assert loss.item() == pytest.approx(hierarchical_triplet_loss(x, labels, tree=tree).item(), rel=1e-12)


@pytest.mark.parametrize("held", [2**20, 60])
def test_a_miners_triplets_one_by_one(held):
    x, labels = grouped(2)
    tree = ClassTree.build(x, labels)
    x.requires_grad_()
    everything = [
        (a, p, n)
        for a in range(len(x))
        for p in range(len(x))
        for n in range(len(x))
        if labels[a] == labels[p] != labels[n] and a != p
    ]
    some = everything[::-7] + everything[:3] * 2
    expected = by_definition(x, labels, x, labels, margins_by_hand(2), triplets=some)
    with similarities_held(held):
        check_gradients(hierarchical_triplet_loss(x, labels, tree=tree, tuples=tuple(tensor(some).T)), expected, x)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16], ids=str)
@pytest.mark.parametrize(
    ("rows", "labels", "empty"),
    [
        ([], [], True),
        ([[1, 2]], [0], True),
        ([[1, 2], [2, 1], [-1, 3]], [1, 1, 1], True),
        ([[1, 2], [2, 1], [-1, 3]], [0, 1, 2], True),
        ([[0, 0]] * 4, [0, 0, 1, 1], True),
        ([[1, 2], [1, 2], [1, 2], [1, 2], [0, 0]], [0, 0, 1, 1, 2], False),
        ([[1, 2], [-1, -2], [2, -1], [-2, 1]], [0, 0, 1, 1], False),
    ],
)
def test_degenerate_batches_with_a_tree(rows, labels, empty, dtype):
    loss = HierarchicalTripletLoss()
    loss.rebuild(torch.randn(9, 2, generator=torch.Generator().manual_seed(0)), torch.arange(9) % 3)
    leaf = torch.tensor(rows, dtype=dtype).reshape(-1, 2).requires_grad_()
    value = loss(leaf, torch.tensor(labels, dtype=torch.long))
    value.backward()
    assert leaf.grad.isfinite().all()
    assert (value.item() == 0) == empty
    assert loss(torch.tensor([[1.0, 2.0], [math.nan, 1.0]]), torch.tensor([0, 1])).isnan()


def test_before_the_first_tree_it_is_half_the_triplet_loss(h6):
    loss = HierarchicalTripletLoss(first_margin=0.7)
    assert loss.tree is None
    assert float(loss(*h6)) == pytest.approx(float(TripletLoss(margin=0.7)(*h6)) / 2, rel=1e-12)
    listed = (tensor([0, 2]), tensor([1, 3]), tensor([2, 4]))
    assert float(loss(*h6, listed)) == pytest.approx(float(TripletLoss(margin=0.7)(*h6, listed)) / 2, rel=1e-12)
    loss.rebuild(*h6)
    assert float(loss(*h6)) != pytest.approx(float(TripletLoss(margin=0.7)(*h6)) / 2, rel=1e-3)


def test_the_class_rebuilds_saves_and_loads():
    x, labels = grouped(0)
    loss = HierarchicalTripletLoss(margin=0.3, levels=5, linkage="single")
    loss.rebuild(x, labels)
    want = hierarchical_triplet_loss(x, labels, tree=ClassTree.build(x, labels, levels=5, linkage="single"), margin=0.3)
    assert loss(x, labels) == want
    assert loss(x, labels) != hierarchical_triplet_loss(x, labels, tree=ClassTree.build(x, labels), margin=0.3)
    assert not list(loss.parameters())
    state = loss.state_dict()
    fresh = HierarchicalTripletLoss(margin=0.3, levels=5)
    fresh.load_state_dict(state)
    assert fresh(x, labels) == want
    loss.rebuild(*grouped(3, classes=4))  # other classes: the old tree is gone
    assert len(loss.tree.classes) == 4
    loss.load_state_dict(fresh.state_dict())
    assert loss(x, labels) == want
    loss.load_state_dict(HierarchicalTripletLoss().state_dict())
    assert loss.tree is None
    assert fresh.float().tree.means.dtype == torch.float32
    assert fresh(x.float(), labels).item() == pytest.approx(want.item(), rel=1e-5)
    assert fresh(x, labels).dtype == torch.float64


def test_rows_without_a_direction_are_not_in_the_tree():
    x, labels = grouped(0)
    padded, names = torch.cat([x, torch.zeros(3, 6)]), torch.cat([labels, labels[:3]])
    tree, same = ClassTree.build(x, labels), ClassTree.build(padded, names)
    assert torch.equal(tree.means, same.means)
    assert torch.equal(tree.spreads, same.spreads)
    stretched = ClassTree.build(x * torch.linspace(0.1, 9, len(x))[:, None], labels)
    torch.testing.assert_close(stretched.means, tree.means)
    half = ClassTree.build(x.half(), labels)
    assert half.means.dtype == torch.float32


def test_an_unknown_label_is_named(h6):
    x, labels = h6
    tree = ClassTree.build(x[:4], labels[:4])
    with pytest.raises(
        SizeError, match=r"the class tree does not know the label 2\. Build it from images of all classes"
    ):
        hierarchical_triplet_loss(x, labels, tree=tree)
    with pytest.raises(SizeError, match="does not know the label -7"):
        tree.level_of(tensor([0, -7]), tensor([1, 1]))
    with pytest.raises(SizeError, match="the class tree is on cpu, labels on meta"):
        hierarchical_triplet_loss(x.to("meta"), labels.to("meta"), tree=tree)


def test_a_tree_wants_a_class_with_two_images():
    for x, labels in [
        (torch.randn(3, 2), torch.arange(3)),
        (torch.zeros(4, 2), tensor([0, 0, 1, 1])),
        (torch.ones(0, 2), tensor([]).long()),
    ]:
        with pytest.raises(SizeError, match="want a class with at least 2 images that have a direction"):
            ClassTree.build(x, labels)
    with pytest.raises(SizeError, match=r"want embeddings \(B, D\) with labels \(B,\)"):
        HierarchicalTripletLoss().rebuild(torch.ones(3, 2), tensor([0, 0]))


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        ({"margin": -1}, "margin must be a number >= 0"),
        ({"first_margin": -1}, "first_margin must be a number >= 0"),
        ({"levels": 0}, "levels must be a whole number from 1 to 1000"),
        ({"linkage": "ward"}, "linkage must be 'average' or 'single'"),
    ],
)
def test_settings_out_of_range(settings, text):
    with pytest.raises(SettingsError, match=text):
        HierarchicalTripletLoss(**settings)


def test_neighbours_agree_with_sorting():
    x, labels = grouped(1)
    tree = ClassTree.build(x, labels)
    members, distances, _, _ = classes_by_hand(x.tolist(), labels.tolist())
    for name in members:
        want = sorted((other for other in members if other != name), key=lambda other: distances[name, other])
        assert tree.neighbours(tensor([name]), 11).tolist() == [want]
        assert tree.neighbours(tensor([name]), 3).tolist() == [want[:3]]
    assert tree.neighbours(tree.classes[[4, 2]], 1).shape == (2, 1)
    assert tree.neighbours(tensor([]).long(), 2).shape == (0, 2)
    for count in (0, 12):
        with pytest.raises(SizeError, match=f"want between 1 and 11 neighbours among 12 classes, got {count}"):
            tree.neighbours(tree.classes, count)


def test_batches_are_an_anchor_and_its_nearest_classes():
    x, labels = grouped(1)
    tree = ClassTree.build(x, labels)
    batches = AnchorNeighbourBatches(labels, tree, classes=1, neighbours=3, images_per_class=3, seed=5)
    assert len(batches) == len(labels) // 12 == len(list(batches))
    anchors = set()
    for seed in range(30):
        for batch in AnchorNeighbourBatches(labels, tree, classes=1, neighbours=3, images_per_class=3, seed=seed):
            of_classes = labels[batch].reshape(4, 3)
            assert (of_classes == of_classes[:, :1]).all()
            assert of_classes[1:, 0].tolist() == tree.neighbours(of_classes[:1, 0], 3)[0].tolist()
            anchors.add(int(of_classes[0, 0]))
            for own, rows in zip(of_classes[:, 0], torch.tensor(batch).reshape(4, 3).tolist(), strict=True):
                assert len(set(rows)) == 3 or int((labels == own).sum()) < 3
    assert len(anchors) == 12


def test_groups_of_one_batch_share_no_class():
    x, labels = grouped(1)
    tree = ClassTree.build(x, labels)
    for seed in range(20):
        batches = AnchorNeighbourBatches(labels.tolist(), tree, classes=4, neighbours=2, images_per_class=2, seed=seed)
        assert len(batches) == max(1, len(labels) // 24)
        for batch in batches:
            assert sorted(Counter(labels[batch].tolist()).values()) == [2] * 12
            groups = labels[batch].reshape(4, 3, 2)[:, :, 0].tolist()
            taken = {group[0] for group in groups}
            for anchor, *others in groups:
                nearest = tree.neighbours(tensor([anchor]), 11)[0].tolist()
                assert others == [name for name in nearest if name not in taken][:2]
                taken.update(others)


def test_the_seed_decides_the_epoch():
    x, labels = grouped(1)
    tree = ClassTree.build(x, labels)

    def epoch(seed):
        return AnchorNeighbourBatches(labels, tree, classes=2, neighbours=1, images_per_class=2, seed=seed)

    batches = epoch(1)
    assert list(batches) == list(batches) == list(epoch(1))
    assert list(epoch(1)) != list(epoch(2))
    assert all(type(row) is int for batch in batches for row in batch)
    loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(labels), batch_sampler=batches)
    assert [rows.tolist() for (rows,) in loader] == [labels[batch].tolist() for batch in batches]


def test_batches_that_cannot_be_are_named(h6):
    x, labels = h6
    tree = ClassTree.build(x, labels)
    with pytest.raises(SizeError, match="a batch of 4 classes, but there are 3"):
        AnchorNeighbourBatches(labels, tree, classes=2, neighbours=1, images_per_class=2)
    with pytest.raises(SizeError, match="the class tree does not know the label 3"):
        AnchorNeighbourBatches(labels + 1, tree, classes=1, neighbours=1, images_per_class=2)
    with pytest.raises(SizeError, match="the tree has a class 2 without rows"):
        AnchorNeighbourBatches(labels[:4], tree, classes=1, neighbours=1, images_per_class=2)
    for name in ("classes", "neighbours", "images_per_class"):
        with pytest.raises(SettingsError, match=f"{name} must be a whole number >= 1"):
            AnchorNeighbourBatches(labels, tree, **{"classes": 1, "neighbours": 1, "images_per_class": 2, name: 0})
