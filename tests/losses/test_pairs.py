import pytest
import torch

from cosphere.losses._pairs import chord


def test_chord_is_a_distance_even_when_rounding_lifts_the_cosine_above_one():
    cosines = torch.tensor([1.0000002, 1.0, 0.5, 0.0, -1.0], requires_grad=True)
    assert chord(cosines, squared=True).tolist() == pytest.approx([0, 0, 1, 2, 4])
    assert (chord(cosines, squared=True) >= 0).all()
    distances = chord(cosines, squared=False)
    assert distances.tolist() == pytest.approx([0, 0, 1, 2**0.5, 2])
    distances.sum().backward()
    assert cosines.grad[:2].tolist() == [0, 0]
    assert cosines.grad[2:].tolist() == pytest.approx([-1.0, -(2**-0.5), -0.5])  # d sqrt(2 - 2s) / ds = -1 / distance
