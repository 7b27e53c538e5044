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
    with pytest.raises(SettingsError, match=r"calibration\.threshold must be a number, finite; got"):
        made(threshold=threshold)


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("far_interval", [], "is empty"),
        ("far_interval", [0.1], r"is \(0\.1,\); wanted a low and a high end"),
        ("far_interval", [0.1, 0.2, 0.3], "wanted a low and a high end"),
        ("far_interval", [0.3, 0.2], "wanted a low and a high end"),
        ("tar_interval", [0.1, 1.5], "must be a number >= 0 and at most 1"),
        ("threshold", "high", "wanted a number"),
        ("threshold", None, "is left empty; wanted a number"),
        ("threshold", True, "wanted a number"),
        ("wanted_far", 0, "must be a number above 0 and below 1"),
        ("far", -0.1, "must be a number >= 0 and at most 1"),
        ("tar", 2, "must be a number >= 0 and at most 1"),
        ("tested_far", math.nan, "must be a number >= 0 and at most 1"),
        ("level", 1, "must be a number above 0 and below 1"),
        ("classes", 1.5, "wanted a whole number"),
        ("tested_pairs", -1, "must be a whole number >= 0"),
        ("data", 3, "wanted text or null"),
        ("mood", 1, "there is no setting"),
    ],
)
def test_a_wrong_value_is_named(name, value, words):
    content = {**made().as_dict(), name: value}
    with pytest.raises(SettingsError, match=rf"calibration\.{name}.*{words}|{words} 'calibration\.{name}'"):
        Calibration.from_dict(content)


def test_a_missing_value_is_named_and_those_of_later_versions_may_be_missing():
    content = made().as_dict()
    for name in ("data", "tested_far", "tested_pairs"):
        del content[name]
    assert Calibration.from_dict(content) == made()
    del content["level"]
    with pytest.raises(SettingsError, match=r"calibration\.level is missing\. Calibrate again"):
        Calibration.from_dict(content)
