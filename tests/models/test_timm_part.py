"""One network of timm without the others: the same network, and timm stays whole for everybody else."""

from __future__ import annotations

import subprocess
import sys

import pytest

from cosphere.models.timm_part import timm_part


def run(code: str) -> list[str]:
    """The lines that a new process prints."""
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    return done.stdout.splitlines()


@pytest.mark.slow
def test_the_network_is_timms_and_timm_is_whole_afterwards() -> None:
    shown = run(
        """
import sys, torch
from cosphere.models.timm_part import timm_part
part = timm_part("test_resnet.r160_in1k")
torch.manual_seed(0)
net = part.create_model("test_resnet.r160_in1k", num_classes=0)
print("torch._dynamo" in sys.modules, "torchvision" in sys.modules, "timm.models.beit" in sys.modules)
print(part.is_model("test_resnet.r160_in1k"), part.get_pretrained_cfg("test_resnet.r160_in1k").input_size)
import timm
torch.manual_seed(0)
same = timm.create_model("test_resnet.r160_in1k", num_classes=0)
print(type(net) is type(same), all(map(torch.equal, net.state_dict().values(), same.state_dict().values())))
try:
    timm.no_such_name
except AttributeError as error:
    print(error)
print(len(timm.list_models()) > 500, timm.is_model("resnet50"), timm.models.beit.__name__)
from timm.data import create_transform
import torchvision
from torchvision.models import resnet18
print(torchvision.ops.nms.__name__, torch.ops.torchvision.nms.default.name())
print("huggingface_hub" in sys.modules, timm.models._builder.has_hf_hub(), "huggingface_hub" in sys.modules)
print(timm.models._hub.HF_WEIGHTS_NAME, timm.models._hub.hf_split("timm/resnet18@main"))
"""
    )
    assert shown[0] == "False False False"
    assert shown[1].startswith("True (3, ")
    assert shown[2:] == [
        "True True",
        "module 'timm' has no attribute 'no_such_name'",
        "True True timm.models.beit",
        "nms torchvision::nms",
        "False True True",
        "pytorch_model.bin ('timm/resnet18', 'main')",
    ]


@pytest.mark.slow
def test_without_such_a_network_all_of_timm_answers() -> None:
    shown = run(
        """
from cosphere.models.timm_part import timm_part
part = timm_part("resnet5O")
print(part.is_model("resnet5O"), part.is_model("resnet50"))
"""
    )
    assert shown == ["False True"]


def test_timm_that_is_loaded_already_is_used() -> None:
    import timm

    assert timm_part("resnet18").is_model is timm.is_model
    with pytest.raises(AttributeError):
        _ = timm.no_such_name
