import math

import pytest
import torch

from cosphere.errors import SettingsError
from cosphere.losses import NPairLoss, n_pair_loss
from cosphere.losses.engine.maths import similarities_held


@pytest.fixture
def short(h6):
    """The six points at a fifth of their length."""
    return h6[0] / 5, h6[1]


def dot(a, b):
    return sum(x * y for x, y in zip(a, b, strict=True))


def by_hand(pairs, l2_weight, l2_form):
    """pairs: (anchor row, positive row) of each class."""
    if len(pairs) < 2:
        return 0.0
    cost = 0.0
    for anchor, positive in pairs:
        cost += math.log(sum(math.exp(dot(anchor, other) - dot(anchor, positive)) for _, other in pairs))
    sizes = [dot(row, row) ** (0.5 if l2_form == "length" else 1.0) for pair in pairs for row in pair]
    return cost / len(pairs) + l2_weight * sum(sizes) / len(sizes)


def first_and_second(rows, labels):
    seen = {}
    for row, label in zip(rows, labels, strict=True):
        seen.setdefault(label, []).append(row)
    return [tuple(members[:2]) for members in seen.values() if len(members) > 1]


def test_published_value_and_gradient(short, gradient):
    assert float(NPairLoss()(*short)) == pytest.approx(1.1413963951674895, rel=1e-9)
    assert float(NPairLoss(l2_weight=0)(*short)) == pytest.approx(1.1152630618341561, rel=1e-9)
    assert float(NPairLoss(l2_weight=1)(*short)) == pytest.approx(1.1152630618341561 + 1.3066666666666669, rel=1e-9)
    want = [
        [0.0235273836, -0.147103358, -0.2229375633],
        [0.1444668694, -0.1028835719, 0.1387041512],
        [-0.0399314361, 0.1029426408, 0.1547306102],
        [-0.0419161247, -0.0946318418, 0.0818941356],
        [0.0251402006, 0.1875503038, 0.2699322938],
        [-0.1012174114, 0.209248747, -0.2064649534],
    ]
    torch.testing.assert_close(gradient(NPairLoss(), *short), torch.tensor(want).double(), rtol=1e-7, atol=1e-9)


def test_mean_length_instead_of_its_square(short):
    # The lengths are a fifth of 5, 10, 5, 3, 6 and 1, so 1 in the mean.
    assert float(NPairLoss(l2_weight=0.1, l2_form="length")(*short)) == pytest.approx(
        1.1152630618341561 + 0.1, rel=1e-9
    )


@pytest.mark.parametrize("l2_form", ["squared_length", "length"])
@pytest.mark.parametrize("seed", range(3))
def test_ragged_classes_agree_with_loops(ragged, l2_form, seed):
    points, labels = ragged(seed)
    points = points / 4
    pairs = first_and_second(points.tolist(), labels.tolist())
    got = n_pair_loss(points, labels, l2_weight=0.3, l2_form=l2_form)
    assert float(got) == pytest.approx(by_hand(pairs, 0.3, l2_form), rel=1e-9)


def test_references_give_the_second_images(ragged, gradient):
    points, labels = ragged(1, 40)
    rows, names = points.tolist(), labels.tolist()
    pairs = []
    for label in dict.fromkeys(names[:20]):
        if label in names[20:]:
            pairs.append((rows[names.index(label)], rows[20 + names[20:].index(label)]))
    assert len(pairs) > 2
    got = n_pair_loss(points[:20], labels[:20], l2_weight=0.1, references=points[20:], reference_labels=labels[20:])
    assert float(got) == pytest.approx(by_hand(pairs, 0.1, "squared_length"), rel=1e-9)
    own = {"references": points, "reference_labels": labels, "positions": torch.arange(40)}
    assert float(NPairLoss()(points, labels, **own)) == float(NPairLoss()(points, labels))
    torch.testing.assert_close(
        gradient(lambda x, y: NPairLoss()(x, y, **{**own, "references": x}), points, labels),
        gradient(NPairLoss(), points, labels),
    )


@pytest.mark.parametrize("size", [8, 60, 256])
def test_agrees_with_pml(pml, ragged, gradient, size):
    from pytorch_metric_learning import distances, losses

    batch = ragged(size, size)
    theirs = losses.NPairsLoss(distance=distances.DotProductSimilarity(normalize_embeddings=False))
    ours = NPairLoss(l2_weight=0)
    assert float(ours(*batch)) == pytest.approx(float(theirs(*batch)), rel=1e-9)
    torch.testing.assert_close(gradient(ours, *batch), gradient(theirs, *batch), rtol=1e-7, atol=1e-9)


def test_agrees_with_pml_and_its_regulariser_when_all_images_are_used(pml, ragged, gradient):
    from pytorch_metric_learning import distances, losses, regularizers

    points = ragged(1, 40)[0]
    labels = (torch.arange(40) // 2)[torch.randperm(40, generator=torch.Generator().manual_seed(1))]
    theirs = losses.NPairsLoss(
        distance=distances.DotProductSimilarity(normalize_embeddings=False),
        embedding_regularizer=regularizers.LpRegularizer(power=2),
        embedding_reg_weight=0.02,
    )
    assert float(NPairLoss()(points, labels)) == pytest.approx(float(theirs(points, labels)), rel=1e-9)
    mine = gradient(NPairLoss(), points, labels)
    torch.testing.assert_close(mine, gradient(theirs, points, labels), rtol=1e-7, atol=1e-9)


def test_blocks_do_not_show(ragged, gradient):
    loss, batch = NPairLoss(), ragged(3, 60)
    value, slope = loss(*batch), gradient(loss, *batch)
    for held in (1, 50):
        with similarities_held(held):
            assert float(loss(*batch)) == pytest.approx(float(value), rel=1e-12)
            torch.testing.assert_close(gradient(loss, *batch), slope, rtol=1e-10, atol=1e-14)


def test_unused_images_get_no_gradient_not_even_from_the_regulariser(short, gradient):
    points, labels = torch.cat([short[0], short[0][:1]]), torch.cat([short[1], short[1][:1]])
    assert float(NPairLoss()(points, labels)) == pytest.approx(1.1413963951674895, rel=1e-9)
    assert not gradient(NPairLoss(), points, labels)[6].any()


def test_one_class_alone_costs_nothing(short, gradient):
    points, labels = short[0][:3], short[1][:3]
    assert float(NPairLoss()(points, labels)) == 0
    assert not gradient(NPairLoss(), points, labels).any()


def test_a_zero_row_is_an_image_like_any_other(short):
    points = short[0].clone()
    points[0] = 0
    points.requires_grad_()
    for form in ("squared_length", "length"):
        value = NPairLoss(l2_form=form)(points, short[1])
        want = by_hand(first_and_second(points.tolist(), short[1].tolist()), 0.02, form)
        assert value.item() == pytest.approx(want, rel=1e-9)
        value.backward()
        assert points.grad.isfinite().all()


def test_half_precision_does_not_overflow():
    rows = torch.full((4, 64), 60.0, dtype=torch.float16, requires_grad=True)  # inner products of 230 400
    value = NPairLoss(l2_weight=0)(rows, torch.tensor([0, 0, 1, 1]))
    assert value.item() == pytest.approx(math.log(2), rel=1e-3)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"l2_weight": -0.1}, "l2_weight must be a number >= 0, finite; got -0.1"),
        ({"l2_form": "mean"}, "l2_form must be 'squared_length' or 'length'; got 'mean'"),
    ],
)
def test_wrong_settings_are_named(settings, message):
    with pytest.raises(SettingsError, match=message):
        NPairLoss(**settings)
