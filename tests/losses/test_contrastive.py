import math

import pytest
import torch

from cosphere.errors import SettingsError
from cosphere.losses import ContrastiveLoss, contrastive_loss


def distance(a, b):
    cosine = sum(x * y for x, y in zip(a, b, strict=True)) / math.hypot(*a) / math.hypot(*b)
    return math.sqrt(max(2 - 2 * cosine, 0.0))


def by_hand(rows, labels, others, other_labels, *, same_set, margin, positive_margin, form, reduction):
    near, far = [], []
    for i, a in enumerate(rows):
        for j, b in enumerate(others):
            if same_set and i == j:
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


@pytest.mark.parametrize("form", ["hadsell", "pml"])
@pytest.mark.parametrize("reduction", ["mean_all", "mean_nonzero"])
@pytest.mark.parametrize("seed", range(4))
def test_agrees_with_loops(ragged, form, reduction, seed):
    embeddings, labels = ragged(seed)
    settings = {"margin": 1.2, "positive_margin": 0.4, "form": form, "reduction": reduction}
    rows, names = embeddings.tolist(), labels.tolist()
    want = by_hand(rows, names, rows, names, same_set=True, **settings)
    assert float(contrastive_loss(embeddings, labels, **settings)) == pytest.approx(want, rel=1e-9)
    head = {"references": embeddings[5:], "reference_labels": labels[5:]}
    want = by_hand(rows[:5], names[:5], rows[5:], names[5:], same_set=False, **settings)
    got = contrastive_loss(embeddings[:5], labels[:5], **head, **settings)
    assert float(got) == pytest.approx(want, rel=1e-9)


@pytest.mark.parametrize("seed", range(4))
def test_pml_form_agrees_with_the_library(pml, ragged, seed):
    from pytorch_metric_learning.losses import ContrastiveLoss as Theirs

    embeddings, labels = ragged(seed)
    assert float(ContrastiveLoss(form="pml")(embeddings, labels)) == pytest.approx(
        float(Theirs()(embeddings, labels)), rel=1e-9
    )


def test_each_side_stands_alone():
    points = torch.tensor([[1.0, 0.0], [0.6, 0.8]])  # distance sqrt(0.8)
    apart, together = torch.tensor([0, 1]), torch.tensor([0, 0])
    assert float(ContrastiveLoss()(points, together)) == pytest.approx(0.4)
    assert float(ContrastiveLoss()(points, apart)) == pytest.approx((1 - math.sqrt(0.8)) ** 2 / 2)
    assert float(ContrastiveLoss(form="pml")(points, together)) == pytest.approx(math.sqrt(0.8))


def test_wrong_settings_are_named():
    with pytest.raises(SettingsError, match=r"form must be 'hadsell' or 'pml'; got 'other'"):
        ContrastiveLoss(form="other")
    with pytest.raises(SettingsError, match=r"margin must be a number >= 0, finite; got -1"):
        ContrastiveLoss(margin=-1)
    with pytest.raises(SettingsError, match="positive_margin"):
        ContrastiveLoss(positive_margin="wide")
    with pytest.raises(SettingsError, match="reduction must be 'mean_all' or 'mean_nonzero'; got 'sum'"):
        ContrastiveLoss(reduction="sum")
