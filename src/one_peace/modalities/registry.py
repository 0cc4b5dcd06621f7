"""The modalities that are known, by name, in the order in which fused inputs are concatenated."""

from __future__ import annotations

import dataclasses

from torch import nn

from one_peace.modalities.base import Modality

_REGISTRY: dict[str, Modality] = {}
_TAKEN = ("self", "weights")  # parameters of `encode`, which takes inputs by the names of modalities


def register_modality(modality: Modality) -> None:
    """Makes a modality known under its name, in the order in which fused inputs are concatenated.

    Raises:
        ValueError: the name is no identifier, or taken by another modality or by what holds them.
        TypeError: its `Config` is no dataclass.
    """
    if not modality.name.isidentifier():
        raise ValueError(f"a modality's name must be an identifier, got {modality.name!r}")
    if modality.name in _TAKEN or hasattr(nn.ModuleDict(), modality.name):
        raise ValueError(f"no modality can be called {modality.name!r}: the name means something else to the models")
    if not dataclasses.is_dataclass(modality.Config):
        raise TypeError(f"modality {modality.name!r}: Config must be a dataclass")
    held, new = type(_REGISTRY.get(modality.name, modality)), type(modality)
    # By name and not by identity: a cell of a notebook runs again, and moves to a file of its own.
    moved = held.__qualname__ == new.__qualname__ and not held.__module__.startswith("one_peace.")
    if held is not new and not moved:
        raise ValueError(f"{modality.name!r} is the name of {held.__module__}.{held.__qualname__}; take another one")
    _REGISTRY[modality.name] = modality


def get_modality(name: str) -> Modality:
    """The modality registered under a name; `ValueError` lists the known ones."""
    try:
        return _REGISTRY[name]
    except KeyError:
        known = ", ".join(_REGISTRY)
        hint = "one of your own is known after its file was imported (by the command line with --import FILE)"
        raise ValueError(f"unknown modality {name!r}; registered: {known}; {hint}") from None


def list_modalities() -> tuple[str, ...]:
    """Names of all registered modalities, in order of registration."""
    return tuple(_REGISTRY)
