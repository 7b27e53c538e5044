import json
import math

import numpy as np
import pytest

from cosphere.errors import SettingsError
from cosphere.models import Calibration


def made(**changes):
    settings = {
        "threshold": 0.25,
        "wanted_far": 0.01,
        "far": 0.009,
        "tar": 0.8,
        "threshold_interval": (0.2, 0.3),
        "far_interval": (0.005, 0.02),
        "tar_interval": (0.7, 0.9),
        "level": 0.95,
        "different_pairs": 1000,
        "same_pairs": 50,
        "classes": 9,
        "images": 40,
    }
    return Calibration(**{**settings, **changes})


def test_json_and_back():
    assert Calibration.from_dict(json.loads(json.dumps(made().as_dict()))) == made()
    without = made(tar=None, tar_interval=None, data="ab")
    assert Calibration.from_dict(json.loads(json.dumps(without.as_dict()))) == without


def test_a_cosine_at_the_threshold_is_not_the_same():
    assert made().same([0.25, 0.250001, -1.0]).tolist() == [False, True, False]
    assert made().same(np.float32(0.5)).item() is True


@pytest.mark.parametrize("threshold", [math.nan, -math.inf])
def test_a_threshold_that_is_none_is_refused(threshold):
    with pytest.raises(SettingsError, match=r"threshold is a cosine, got .*Calibrate again"):
        made(threshold=threshold)


@pytest.mark.parametrize("ends", [[], [0.1], [0.1, 0.2, 0.3]])
def test_an_interval_that_is_none_is_a_wrong_value(ends):
    with pytest.raises(ValueError, match="values to unpack"):
        made(far_interval=ends)
