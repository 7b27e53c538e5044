import math

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression

from cosphere.errors import DataError, DivergenceError, SettingsError, SizeError
from cosphere.evaluate.probes import linear_probe, nearest_vote

TRAIN = [
    [1.0, 0.0],
    [0.97618706, 0.21693046],
    [0.6, 0.8],
    [0.0, 1.0],
    [-0.19611614, 0.98058068],
    [-0.99503719, 0.09950372],
]
LABELS = [0, 0, 1, 1, 1, 2]


def test_votes_of_the_published_formula():
    found = nearest_vote(
        torch.tensor([[0.8479983, 0.52999894], [0.19611614, 0.98058068]]), torch.tensor(TRAIN), LABELS, k=3
    )
    assert found.predictions.tolist() == [0, 1]
    assert found.log_votes[0] == pytest.approx([13.697943115, 13.325687634, -math.inf], rel=1e-6)
    assert found.log_votes[1] == pytest.approx([-math.inf, 14.576923381, -math.inf], rel=1e-6)


@pytest.mark.parametrize("k", [1, 7, 1000])
def test_votes_by_loops(k):
    random = np.random.default_rng(k)
    train, queries = random.normal(size=(60, 5)), random.normal(size=(20, 5))
    labels = random.choice([-5, 3, 2**40], 60)
    found = nearest_vote(queries, train, labels, k=k, temperature=0.3)
    assert found.classes.tolist() == [-5, 3, 2**40]
    for row, query in enumerate(queries):
        cosines = train @ query / np.linalg.norm(train, axis=1) / np.linalg.norm(query)
        votes = dict.fromkeys([-5, 3, 2**40], 0.0)
        for place in np.argsort(-cosines)[:k]:
            votes[int(labels[place])] += math.exp(cosines[place] / 0.3)
        assert np.exp(found.log_votes[row]) == pytest.approx(list(votes.values()), rel=1e-5)
        assert found.predictions[row] == max(votes, key=votes.get)
    truth = found.predictions.copy()
    truth[:5] += 1
    assert found.accuracy(truth) == 0.75


def test_a_small_temperature_does_not_overflow():
    found = nearest_vote(torch.tensor(TRAIN), torch.tensor(TRAIN), LABELS, k=6, temperature=1e-4)
    assert found.predictions.tolist() == LABELS
    assert not np.isnan(found.log_votes).any()


def clouds(seed=0, count=300):
    random = torch.Generator().manual_seed(seed)
    labels = torch.arange(count) % 3 * 10
    centres = torch.tensor([[2.0, 0, 0, 0], [0, 2, 0, 0], [0, 0, 2, 0]])
    features = centres[labels // 10] + torch.randn(count, 4, generator=random)
    return torch.cat([features * torch.tensor([1.0, 100.0, 0.01, 1.0]), torch.ones(count, 1)], dim=1), labels


def test_lbfgs_finds_what_scikit_learn_finds():
    (train, labels), (test, truth) = clouds(0), clouds(1)
    mean, spread = train.mean(0), train.std(0, correction=0).clamp(min=1e-9)
    theirs = LogisticRegression(C=1 / (1e-2 * len(train)), max_iter=1000).fit((train - mean) / spread, labels)
    want = theirs.score((test - mean) / spread, truth)
    found = linear_probe(train, labels, test, truth, decay=1e-2, epochs=200)
    assert found.final == pytest.approx(want, abs=0.01)
    assert found.final > 0.8
    assert found.train == pytest.approx(theirs.score((train - mean) / spread, labels), abs=0.01)


def test_sgd_learns_and_says_which_epoch_was_best():
    (train, labels), (test, truth) = clouds(0), clouds(1)
    scale = torch.tensor([1.0, 0.01, 100.0, 1.0, 1.0])
    found = linear_probe(train * scale, labels, test * scale, truth, recipe="sgd", epochs=20, rate=0.1)
    assert found.best >= found.final > 0.75
    again = linear_probe(train * scale, labels, test * scale, truth, recipe="sgd", epochs=20, rate=0.1)
    assert again == found


def test_wrong_input_is_named():
    train, labels = clouds()
    with pytest.raises(SizeError, match="a test label does not occur in training"):
        linear_probe(train, labels, train[:1], torch.tensor([7]))
    with pytest.raises(SizeError, match=r"want train_labels \(300,\) integers, one for each row, got \(5,\) int64"):
        linear_probe(train, labels[:5], train, labels)
    with pytest.raises(SizeError, match=r"want test_labels \(300,\) integers, .* float32"):
        linear_probe(train, labels, train, labels.float())
    with pytest.raises(SizeError, match="train has 5 dimensions, test 3"):
        linear_probe(train, labels, train[:, :3], labels)
    with pytest.raises(SizeError, match="want test with at least one row"):
        linear_probe(train, labels, train[:0], labels[:0])
    for setting in ({"epochs": 0}, {"batch_size": 0}, {"rate": 0.0}, {"decay": -1.0}):
        with pytest.raises(SettingsError, match=f"{next(iter(setting))} must be a"):
            linear_probe(train, labels, train, labels, recipe="sgd", **setting)
    with pytest.raises(SettingsError, match="'lbfgs' or 'sgd'; got 'adam'"):
        linear_probe(train, labels, train, labels, recipe="adam")
    with pytest.raises(SizeError, match="want labels"):
        nearest_vote(train, train, labels[:4])
    with pytest.raises(SettingsError, match="k must be a whole number >= 1; got 0"):
        nearest_vote(train, train, labels, k=0)
    for wrong in (labels[:4], labels[:, None]):
        with pytest.raises(SizeError, match=r"want labels \(300,\) integers"):
            nearest_vote(train, train, labels).accuracy(wrong)


@pytest.mark.parametrize("recipe", ["lbfgs", "sgd"])
def test_features_that_are_not_finite_are_refused(recipe):
    train, labels = clouds()
    broken = train.clone()
    broken[7, 1] = math.nan
    with pytest.raises(DataError, match="train holds NaN or infinity"):
        linear_probe(broken, labels, train, labels, recipe=recipe)
    with pytest.raises(DataError, match="test holds NaN or infinity"):
        linear_probe(train, labels, broken, labels, recipe=recipe)


def test_a_probe_that_goes_astray_says_so():
    train, labels = clouds()
    with pytest.raises(DivergenceError, match="no longer finite numbers at rate 5"):
        linear_probe(train * 1e20, labels, train, labels, recipe="sgd", epochs=3)


def test_a_probe_takes_numpy_too():
    train, labels = clouds()
    assert linear_probe(train.numpy(), labels.numpy(), train.numpy()[::-1], labels.tolist()[::-1]) == linear_probe(
        train, labels, train, labels
    )
