"""What a run folder says of its run: the same one goes on, another one is refused before anything is changed."""

from __future__ import annotations

import errno
import shutil
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import yaml

from one_peace.errors import CheckpointError
from one_peace.training.distributed import Processes
from one_peace.training.kept_recipe import goes_on, keep_recipe

VALUES: dict[str, Any] = {
    "task": {"kind": "classification", "labels": ["cat", "dog"]},
    "tables": {"train": {"a.tsv": 1.0}, "validation": None},
    "optimizer": {"lr": 1e-5, "betas": [0.9, 0.98]},
    "evaluation": {"every": 0},
    "engine": {"precision": "float32"},
    "steps": None,
    "trackers": [],
}


@pytest.fixture
def out(tmp_path: Path) -> Path:
    """The folder of a run with a state."""
    keep_recipe(tmp_path / "run", VALUES, Processes())
    (tmp_path / "run/state/step-00000003").mkdir(parents=True)
    return tmp_path / "run"


def test_the_same_run_goes_on_longer_and_watched_otherwise(out: Path) -> None:
    keep_recipe(out, VALUES, Processes())
    changes = {"evaluation": None, "engine": {"precision": "bfloat16"}, "steps": 9, "trackers": ["wandb"]}
    keep_recipe(out, VALUES | changes, Processes())
    assert "steps: 9" in (out / "recipe.yaml").read_text()


def test_a_run_of_an_earlier_version_goes_on_where_keys_that_are_gone_changed_nothing(out: Path) -> None:
    data = {"sources": {"drawings": 1.0}}
    for first_items, refused in ((0, False), (9, True)):
        kept = VALUES | {"data": {**data, "first_items": first_items, "all_items_by": 0}}
        (out / "recipe.yaml").write_text(yaml.safe_dump(kept))
        with pytest.raises(CheckpointError, match="first_items: 9, now nothing") if refused else nullcontext():
            keep_recipe(out, VALUES | {"data": data}, Processes())


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"tables": {"train": {"b.tsv": 1.0}, "validation": None}}, "tables.train.a.tsv: 1.0, now nothing"),
        ({"task": {"kind": "classification", "labels": ["cat", "cow"]}}, r"task.labels: \['cat', 'dog'\], now \['cat"),
        ({"optimizer": {"lr": 2e-5, "betas": [0.9, 0.98]}}, "optimizer.lr: 1e-05, now 2e-05"),
        ({"seed": 1}, "seed: nothing, now 1"),
    ],
)
def test_another_run_is_refused(out: Path, changes: dict[str, Any], said: str) -> None:
    before = (out / "recipe.yaml").read_text()
    with pytest.raises(CheckpointError, match=rf"holds a run of another recipe \({said}.*choose another --out"):
        keep_recipe(out, VALUES | changes, Processes())
    assert (out / "recipe.yaml").read_text() == before
    (out / "recipe.yaml").unlink()  # what the message says to do for going on all the same
    keep_recipe(out, VALUES | changes, Processes())


def test_a_run_that_has_left_nothing_makes_room(out: Path) -> None:
    (out / "state/step-00000003").rmdir()
    keep_recipe(out, VALUES | {"seed": 1}, Processes())


def test_a_state_without_its_model_is_refused(out: Path) -> None:
    """A new model's kept values would not fit the state's weights."""
    with pytest.raises(CheckpointError, match=r"run: holds a state .* not the model .*Put .*run/model back, or remove"):
        goes_on(out, Processes())
    (out / "model").mkdir()
    (out / "model/config.json").write_text("{}")
    assert goes_on(out, Processes())
    shutil.rmtree(out)
    assert not goes_on(out, Processes())


def test_a_full_disk_leaves_the_recipe_that_is_there(out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before, written = (out / "recipe.yaml").read_bytes(), Path.write_bytes

    def full(path: Path, content: bytes) -> int:
        written(path, content[: len(content) // 2])
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    keep_recipe(out, VALUES, Processes())  # nothing to write
    with pytest.raises(OSError, match=r"No space left on device: .*recipe.yaml"):
        keep_recipe(out, VALUES | {"steps": 9}, Processes())
    assert (out / "recipe.yaml").read_bytes() == before
    assert not list(out.glob(".recipe*"))
    monkeypatch.undo()
    keep_recipe(out, VALUES | {"steps": 9}, Processes())


def test_a_damaged_recipe_is_named(out: Path) -> None:
    (out / "recipe.yaml").write_text("{")
    with pytest.raises(CheckpointError, match="recipe.yaml: cannot be read"):
        keep_recipe(out, VALUES, Processes())
