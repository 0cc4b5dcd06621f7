from __future__ import annotations

import pytest
import torch

import one_peace
from one_peace.nn.device import parse_device
from one_peace.training.distributed import join_processes


def test_devices_that_are_here() -> None:
    assert parse_device("cpu") == parse_device(torch.device("cpu")) == torch.device("cpu")
    assert parse_device(None) == torch.device("cpu")
    assert parse_device("meta").type == "meta"


@pytest.mark.parametrize("name", ["cuda:99", "xpu:99", "hpu", "bogus", "", "cpu:x"])
def test_others_are_named(name: str) -> None:
    with pytest.raises(ValueError, match=f"device '{name}' cannot be used here"):
        parse_device(name)
    with pytest.raises(ValueError, match="cannot be used here"):
        one_peace.from_pretrained("one-peace-nano", device=name)
    with pytest.raises(ValueError, match="cannot be used here"), join_processes(name):
        pass


def test_a_number_is_a_gpu_and_0_the_first_one() -> None:
    if torch.accelerator.is_available():
        assert parse_device(0).index == 0 and parse_device(0).type != "cpu"
    else:
        with pytest.raises(ValueError, match="device '0' cannot be used here"):
            one_peace.from_pretrained("one-peace-nano", device=0)
