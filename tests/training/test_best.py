"""The best model becomes that of the run in one piece; where it cannot, the one there stays."""

from __future__ import annotations

import errno
import shutil
from functools import partial
from pathlib import Path

import pytest

from one_peace.errors import CheckpointError
from one_peace.training.best import copy_best


def test_the_best_model_takes_the_place_of_the_one_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("best", "model"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text(name)
    (tmp_path / "model/stale").touch()
    with monkeypatch.context() as patched:

        def full(source: str, target: str, **_: object) -> None:
            Path(target).write_text("half")
            raise OSError(errno.ENOSPC, "No space left on device", target)

        patched.setattr(shutil, "copytree", partial(shutil.copytree, copy_function=full))
        with pytest.raises(CheckpointError, match=r"model: cannot be written \(.*No space left.*is in .*best"):
            copy_best(tmp_path, tmp_path / "model")
    assert {path.name for path in tmp_path.iterdir()} == {"best", "model"}
    assert {path.name for path in (tmp_path / "model").iterdir()} == {"config.json", "stale"}
    copy_best(tmp_path, tmp_path / "model")
    assert {path.name for path in tmp_path.iterdir()} == {"best", "model"}
    assert [path.read_text() for path in (tmp_path / "model").iterdir()] == ["best"]
