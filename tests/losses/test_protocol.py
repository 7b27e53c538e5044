"""What a loss asks of whoever trains with it: a training loop reads this and knows no loss by name."""

import pytest
import torch

from cosphere import losses
from cosphere.errors import SizeError
from cosphere.losses import CrossBatchMemory, HierarchicalTripletLoss

NAMES = [about.name for about in losses.table()]
ROWS = torch.tensor([[3.0, 4.0], [0.0, 6.0], [4.0, 3.0], [1.0, 2.0], [-4.0, 2.0], [1.0, -3.0]])
LABELS = torch.tensor([0, 0, 1, 1, 2, 2])


class Embed:
    """A training set that counts how often it is embedded."""

    def __init__(self):
        self.calls = 0

    def __call__(self):
        self.calls += 1
        return ROWS, LABELS


def build(name, dim=2, **settings):
    return losses.build(name, num_classes=3, dim=dim, **settings)


@pytest.mark.parametrize("name", NAMES)
def test_a_loss_that_gathers_depends_on_the_other_rows_and_one_that_does_not_is_a_mean_of_parts(name):
    torch.manual_seed(0)
    rows, labels = torch.randn(16, 4, dtype=torch.float64), torch.tensor([0, 0, 0, 0, 1, 1, 2, 2] * 2)
    loss = build(name, dim=4).double().eval()
    torch.manual_seed(1)
    whole = loss(rows, labels).item()
    torch.manual_seed(1)
    parts = torch.stack([loss(rows[half], labels[half]) for half in (slice(0, 8), slice(8, 16))]).mean().item()
    assert (abs(whole - parts) > 1e-6 * abs(whole)) == loss.gathers


@pytest.mark.parametrize(("name", "calls"), [("heated_up_softmax", 4), ("sphereface", 4), ("sphereface", 1)])
def test_a_schedule_counts_steps_of_several_calls(name, calls):
    """Each of the calls of one step has the value that a loss of one call a step has at that step."""
    torch.manual_seed(0)
    settings = {"total_steps": 6, "heat_from": 0.5} if name == "heated_up_softmax" else {}
    plain, divided = build(name, **settings), build(name, **settings)
    divided.load_state_dict(plain.state_dict())
    divided.calls_per_step = calls
    values = [plain(ROWS, LABELS).item() for _ in range(8)]
    assert len(set(values)) > 1
    assert [divided(ROWS, LABELS).item() for _ in range(8 * calls)] == [one for one in values for _ in range(calls)]


@pytest.mark.parametrize("name", NAMES)
def test_only_a_loss_that_asks_for_it_has_the_training_set_embedded(name):
    loss, embed = build(name), Embed()
    assert loss.after_epoch(embed) is None
    assert embed.calls == (type(loss).after_epoch is not losses.Loss.after_epoch)


def test_the_tree_is_rebuilt_with_and_without_a_memory():
    bare, inside = HierarchicalTripletLoss(), HierarchicalTripletLoss()
    memory = CrossBatchMemory(inside, 2, size=6)
    assert memory(ROWS, LABELS) == bare(ROWS, LABELS)  # the queue holds just this batch
    for loss in (bare, memory):
        embed = Embed()
        loss.after_epoch(embed)
        assert embed.calls == 1
    assert inside.tree is not None
    assert memory.fill == 6
    assert torch.equal(inside.tree.nodes, bare.tree.nodes)
    memory.reset()
    assert memory(ROWS, LABELS) == bare(ROWS, LABELS)


def test_a_memory_says_what_its_loss_says():
    for name in ("nt_xent", "hard_cascade", "contrastive"):
        settings = {"hard_ratios": (1.0, 0.5)} if name == "hard_cascade" else {}
        inner = build(name, **settings)
        memory = CrossBatchMemory(inner, 2)
        assert (memory.gathers, memory.labels_from) == (inner.gathers, inner.labels_from)
        assert memory.about is inner.about
        assert memory.groups(2) == inner.groups(2)


def test_positives_of_self_supervised_losses_are_views_of_one_image():
    assert {build(name).labels_from for name in ("nt_xent", "alignment_uniformity")} == {"image"}
    assert {build(name).labels_from for name in ("sup_con", "triplet", "norm_softmax")} == {"class"}


def test_groups_are_the_heads_of_a_cascade():
    assert build("triplet").groups(7) == (7,)
    assert build("hard_cascade", dim=6, hard_ratios=(1.0, 0.5, 0.2)).groups(6) == (2, 2, 2)
    assert build("hard_cascade", dim=6, hard_ratios=(1.0, 0.5), head_dims=(2, 4)).groups(6) == (2, 4)


def test_a_width_that_the_heads_do_not_fill_is_named_when_the_loss_is_built():
    with pytest.raises(SizeError, match="3 heads do not divide 8 columns evenly; give head_dims="):
        build("hard_cascade", dim=8, hard_ratios=(1.0, 0.5, 0.2))
    with pytest.raises(SizeError, match=r"want sizes >= 1 that add up to the 8 of the embeddings, got \(2, 4\)"):
        build("hard_cascade", dim=8, hard_ratios=(1.0, 0.5), head_dims=(2, 4))
