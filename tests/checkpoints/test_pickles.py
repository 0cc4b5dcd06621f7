from __future__ import annotations

import argparse
import os
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from one_peace.checkpoints.official import read_official
from one_peace.checkpoints.pickles import load_pickle
from one_peace.errors import CheckpointError

CONTAINER = Path(__file__).parents[1] / "golden" / "one_peace" / "fixture_x_checkpoint_small.pt"


class Hostile:
    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return os.mkdir, (str(self.mark),)


@pytest.mark.parametrize("how", ["zip", "legacy", "pickle", "pickle 2"])
def test_hostile_pickle(tmp_path: Path, how: str) -> None:
    path, mark = tmp_path / "hostile.pt", tmp_path / "executed"
    content = {
        "model": {"logit_scale": torch.zeros(1).numpy() if "pickle" in how else torch.zeros(1)},
        "cfg": Hostile(mark),
    }
    if "pickle" in how:
        path.write_bytes(pickle.dumps(content, protocol=2 if "2" in how else 4))
    else:
        torch.save(content, path, _use_new_zipfile_serialization=how == "zip")
    with pytest.raises(CheckpointError, match=r"hostile\.pt.*refused.*mkdir"):
        load_pickle(path)
    assert not mark.exists()


@pytest.mark.parametrize("legacy", [False, True])
def test_namespace_and_tensors(tmp_path: Path, legacy: bool) -> None:
    path = tmp_path / "old.pt"
    content = {"args": argparse.Namespace(layers=3), "model": {"a": torch.arange(4.0)}}
    torch.save(content, path, _use_new_zipfile_serialization=not legacy)
    loaded = load_pickle(path)
    assert loaded["args"].layers == 3
    assert torch.equal(loaded["model"]["a"], content["model"]["a"])


@pytest.mark.parametrize("protocol", range(2, 6))
def test_plain_pickle(tmp_path: Path, protocol: int) -> None:
    path = tmp_path / "vision.pkl"
    content = {"a": np.arange(6, dtype=np.float32).reshape(2, 3), "b": torch.arange(4).to(torch.bfloat16)}
    path.write_bytes(pickle.dumps({"model": content, "matching_heuristics": True}, protocol=protocol))
    loaded = load_pickle(path)["model"]
    assert np.array_equal(loaded["a"], content["a"])
    assert torch.equal(loaded["b"], content["b"])


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_damage(tmp_path: Path, data: st.DataObject) -> None:
    """A damaged file loads or is a `CheckpointError` that names it; nothing else."""
    content = bytearray(CONTAINER.read_bytes())
    if data.draw(st.booleans(), "truncate"):
        del content[data.draw(st.integers(0, len(content) - 1)) :]
    else:
        near = st.integers(0, 40_000) | st.integers(len(content) - 20_000, len(content) - 1)
        for _ in range(data.draw(st.integers(1, 4))):
            content[data.draw(near)] ^= 1 << data.draw(st.integers(0, 7))
    path = tmp_path / "damaged.pt"
    path.write_bytes(content)
    try:
        read_official(path)
    except CheckpointError as error:
        assert "damaged.pt" in str(error)


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        load_pickle(tmp_path / "absent.pt")
