"""Settings of all tests."""

from __future__ import annotations

import pytest
import torch
from hypothesis import settings

from one_peace.modalities import imports, registry

torch.set_num_threads(1)
# Time per example varies with the machine's load and says nothing of correctness.
settings.register_profile("untimed", deadline=None)
settings.load_profile("untimed")


@pytest.fixture(autouse=True)
def _no_modalities_of_other_tests(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a test registers is forgotten after it. Other processes import what was imported here, and the files of
    other tests are gone."""
    monkeypatch.setattr(registry, "_REGISTRY", dict(registry._REGISTRY))
    monkeypatch.setattr(imports, "_imported", [])


def pytest_make_parametrize_id(config: pytest.Config, val: object, argname: str) -> str | None:
    """Bytes are named by their argument (pytest numbers equal names): file contents are no names of tests, and names
    that change with the time of day would differ between the workers of a run."""
    return argname if isinstance(val, bytes) else None
