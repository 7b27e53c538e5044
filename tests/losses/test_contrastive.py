import math

import pytest
import torch
from torch.nn import functional

from cosphere.errors import SettingsError
from cosphere.losses import ContrastiveLoss, contrastive_loss
from cosphere.losses.engine.maths import similarities_held


def distance(a, b):
    cosine = sum(x * y for x, y in zip(a, b, strict=True)) / math.hypot(*a) / math.hypot(*b)
    return math.sqrt(max(2 - 2 * cosine, 0.0))


def by_hand(rows, labels, others, other_labels, *, first=0, margin, positive_margin, form, reduction):
    """``first``: the row among the others that row 0 itself is; None for no such row."""
    near, far = [], []
    for i, a in enumerate(rows):
        for j, b in enumerate(others):
            if first is not None and first + i == j:
                continue
            d = distance(a, b)
            if labels[i] == other_labels[j]:
                near.append(max(d - positive_margin, 0.0))
            else:
                far.append(max(margin - d, 0.0))
    if reduction == "mean_nonzero":
        near, far = [v for v in near if v > 0], [v for v in far if v > 0]
    if form == "hadsell":
        return sum(v * v for v in near + far) / 2 / max(len(near + far), 1)
    return sum(near) / max(len(near), 1) + sum(far) / max(len(far), 1)


def test_hadsell_is_the_default_and_has_the_published_value(h6, gradient):
    assert float(ContrastiveLoss()(*h6)) == pytest.approx(0.1790128633964308, rel=1e-9)
    want = [
        [0.009973581, -0.0074801857, -0.0059558528],
        [-0.000136416, 0.0016094108, -0.0012070581],
        [-0.0030129293, 0.004017239, -0.0088888889],
        [-0.0339616078, 0.0051064588, 0.0118743451],
        [0.0009876543, -0.009382716, -0.0056790123],
        [0.0013318474, -0.0049098309, 0.0065464413],
    ]
    torch.testing.assert_close(gradient(ContrastiveLoss(), *h6), torch.tensor(want).double(), rtol=1e-7, atol=1e-9)


def test_pml_form_has_the_library_value(h6, e4, gradient):
    loss = ContrastiveLoss(form="pml")
    assert float(loss(*h6)) == pytest.approx(1.5718193787760935, rel=1e-9)
    assert float(loss(*e4)) == pytest.approx(1.5218648446528298, rel=1e-9)
    want = [
        [0.0252722125, -0.0189541594, 0.001701621],
        [-0.004397098, 0.001332728, -0.000999546],
        [-0.0034690583, 0.004625411, -0.0544331054],
        [-0.1462456655, 0.0261656183, 0.0469572145],
        [0.0037508865, -0.0356334222, -0.0215675976],
        [0.1012063905, 0.0324600863, -0.0432801151],
    ]
    torch.testing.assert_close(gradient(loss, *h6), torch.tensor(want).double(), rtol=1e-7, atol=1e-9)


VARIANTS = [(form, reduction) for form in ("hadsell", "pml") for reduction in ("mean_all", "mean_nonzero")]


@pytest.mark.parametrize(("form", "reduction"), VARIANTS)
@pytest.mark.parametrize("seed", range(3))
def test_agrees_with_loops(ragged, form, reduction, seed):
    embeddings, labels = ragged(seed)
    settings = {"margin": 1.2, "positive_margin": 0.4, "form": form, "reduction": reduction}
    rows, names = embeddings.tolist(), labels.tolist()
    want = by_hand(rows, names, rows, names, **settings)
    assert float(contrastive_loss(embeddings, labels, **settings)) == pytest.approx(want, rel=1e-9)
    apart = {"references": embeddings[5:], "reference_labels": labels[5:]}
    want = by_hand(rows[:5], names[:5], rows[5:], names[5:], first=None, **settings)
    got = contrastive_loss(embeddings[:5], labels[:5], **apart, **settings)
    assert float(got) == pytest.approx(want, rel=1e-9)
    among = {"references": embeddings, "reference_labels": labels, "positions": torch.arange(3, 8)}
    want = by_hand(rows[3:8], names[3:8], rows, names, first=3, **settings)
    got = contrastive_loss(embeddings[3:8], labels[3:8], **among, **settings)
    assert float(got) == pytest.approx(want, rel=1e-9)


@pytest.mark.parametrize(("form", "reduction"), VARIANTS)
def test_blocks_do_not_show(ragged, gradient, form, reduction):
    loss, batch = ContrastiveLoss(margin=1.3, positive_margin=0.2, form=form, reduction=reduction), ragged(3, 40)
    value, slope = loss(*batch), gradient(loss, *batch)
    for held in (50, 200):
        with similarities_held(held):
            assert float(loss(*batch)) == pytest.approx(float(value), rel=1e-12)
            torch.testing.assert_close(gradient(loss, *batch), slope, rtol=1e-10, atol=1e-14)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("form", ["hadsell", "pml"])
def test_identical_images_cost_nothing_however_their_cosine_is_rounded(form, dtype):
    points = torch.randn(30, 96, dtype=dtype, generator=torch.Generator().manual_seed(0))
    labels = torch.arange(30) // 2
    batch = torch.cat([points, points]), torch.cat([labels, labels])
    loss = ContrastiveLoss(form=form, reduction="mean_nonzero", margin=0.0)
    # Each image has two positives besides its duplicate, and each of them that pair's distance.
    distances = [math.dist(a, b) for a, b in functional.normalize(points.double()).view(15, 2, 96).tolist()]
    want = sum(distances) / 15 if form == "pml" else sum(d * d for d in distances) / 30
    for held in (1, 700, 10**6):
        with similarities_held(held):
            assert float(loss(*batch)) == pytest.approx(want, rel=1e-5)


@pytest.mark.parametrize("size", [8, 60, 256])
@pytest.mark.parametrize("reduction", ["mean_all", "mean_nonzero"])
def test_pml_form_agrees_with_the_library(pml, ragged, gradient, size, reduction):
    from pytorch_metric_learning import losses, reducers

    reducer = reducers.MeanReducer() if reduction == "mean_all" else reducers.AvgNonZeroReducer()
    theirs, batch = losses.ContrastiveLoss(0.3, 1.1, reducer=reducer), ragged(size, size)
    ours = ContrastiveLoss(form="pml", margin=1.1, positive_margin=0.3, reduction=reduction)
    assert float(ours(*batch)) == pytest.approx(float(theirs(*batch)), rel=1e-9)
    torch.testing.assert_close(gradient(ours, *batch), gradient(theirs, *batch), rtol=1e-7, atol=1e-9)


def test_only_the_pairs_of_a_miner_count(pml, ragged):
    from pytorch_metric_learning import losses, miners

    points, labels = ragged(2, 40)
    chosen = miners.PairMarginMiner(0.4, 1.1)(points, labels)
    assert 0 < len(chosen[2]) < 40 * 30
    theirs = float(losses.ContrastiveLoss(0.0, 1.2)(points, labels, chosen))
    ours = ContrastiveLoss(form="pml", margin=1.2)(points, labels, chosen)
    assert float(ours) == pytest.approx(theirs, rel=1e-9)


def test_each_side_stands_alone():
    points = torch.tensor([[1.0, 0.0], [0.6, 0.8]])  # distance sqrt(0.8)
    apart, together = torch.tensor([0, 1]), torch.tensor([0, 0])
    assert float(ContrastiveLoss()(points, together)) == pytest.approx(0.4)
    assert float(ContrastiveLoss()(points, apart)) == pytest.approx((1 - math.sqrt(0.8)) ** 2 / 2)
    assert float(ContrastiveLoss(form="pml")(points, together)) == pytest.approx(math.sqrt(0.8))


def test_a_margin_beyond_the_diameter_reaches_every_negative_pair():
    points = torch.tensor([[1.0, 0.0], [-1.0, 0.0]], dtype=torch.float64)
    assert float(ContrastiveLoss(margin=3)(points, torch.tensor([0, 1]))) == pytest.approx(0.5)


def test_wrong_settings_are_named():
    with pytest.raises(SettingsError, match=r"form must be 'hadsell' or 'pml'; got 'other'"):
        ContrastiveLoss(form="other")
    with pytest.raises(SettingsError, match=r"margin must be a number >= 0, finite; got -1"):
        ContrastiveLoss(margin=-1)
    with pytest.raises(SettingsError, match="positive_margin"):
        ContrastiveLoss(positive_margin="wide")
    with pytest.raises(SettingsError, match="reduction must be 'mean_all' or 'mean_nonzero'; got 'sum'"):
        ContrastiveLoss(reduction="sum")
