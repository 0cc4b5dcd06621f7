"""Devices by name."""

from __future__ import annotations

import torch


def parse_device(device: str | int | torch.device | None) -> torch.device:
    """A device that tensors can be put on, from its name or, of a GPU, its number; None is the CPU.

    Raises:
        ValueError: no such device, or this PyTorch or this machine has none of that kind.
    """
    try:
        found = torch.device("cpu" if device is None else device)
        torch.empty(0, device=found)
    except (RuntimeError, AssertionError, ImportError, NotImplementedError) as error:  # by the kind of device
        reason = str(error).split("\n")[0]
        raise ValueError(f"device {str(device)!r} cannot be used here: {reason:.200}") from error
    return found
