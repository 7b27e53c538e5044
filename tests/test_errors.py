import inspect

import pytest

from cosphere import errors
from cosphere.errors import CosphereError, MissingExtraError, did_you_mean


def test_every_error_has_one_base():
    classes = [value for _, value in inspect.getmembers(errors, inspect.isclass) if issubclass(value, Exception)]
    assert len(classes) >= 9
    assert all(issubclass(kind, CosphereError) for kind in classes)


@pytest.mark.parametrize(
    ("kind", "builtin"),
    [(errors.SettingsError, ValueError), (errors.SizeError, ValueError), (errors.MissingExtraError, ImportError)],
)
def test_some_are_also_what_callers_expect(kind, builtin):
    assert issubclass(kind, builtin)


def test_an_unreadable_image_is_a_data_error():
    assert issubclass(errors.ImageError, errors.DataError)


def test_a_missing_extra_says_how_to_install_it():
    error = MissingExtraError("tensorboard", "track")
    assert (
        str(error) == "this needs the package 'tensorboard', which is not installed. Run: pip install 'cosphere[track]'"
    )


@pytest.mark.parametrize(
    ("name", "known", "tail"),
    [
        ("tripplet", ["triplet", "semihard_triplet"], "Did you mean 'triplet'?"),
        ("zzz", ["b", "a", "b"], "Known: a, b."),
        ("zzz", iter(["b", "a"]), "Known: a, b."),
        ("batchsize", {"batch_size": 1, "steps": 2}, "Did you mean 'batch_size'?"),
    ],
)
def test_the_nearest_name_or_all_of_them(name, known, tail):
    assert did_you_mean(name, known) == tail
