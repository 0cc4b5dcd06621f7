from __future__ import annotations

import pytest
import torch

import one_peace
from one_peace.nn.device import parse_device
from one_peace.training.distributed import join_processes


def test_devices_that_are_here() -> None:
    assert parse_device("cpu") == parse_device(torch.device("cpu")) == torch.device("cpu")
    assert parse_device("meta").type == "meta"


@pytest.mark.parametrize("name", ["cuda:99", "xpu:99", "hpu", "bogus", "", "cpu:x"])
def test_others_are_named(name: str) -> None:
    with pytest.raises(ValueError, match=f"device '{name}' cannot be used here"):
        parse_device(name)
    with pytest.raises(ValueError, match="cannot be used here"):
        one_peace.from_pretrained("one-peace-nano", device=name or "bogus")
    with pytest.raises(ValueError, match="cannot be used here"), join_processes(name):
        pass
