"""Settings of all tests."""

from __future__ import annotations

import pytest
import torch
from hypothesis import HealthCheck, settings

from one_peace.modalities import imports, registry

torch.set_num_threads(1)
# The same examples in every run: what fails here fails everywhere, and what passes goes on passing. The time that one
# takes, or that it takes to make, varies with the machine's load and says nothing of correctness.
settings.register_profile(
    "same everywhere", derandomize=True, deadline=None, database=None, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("same everywhere")


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
