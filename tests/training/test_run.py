"""A whole run over files of one's own: recipe in, model out."""

from __future__ import annotations

import base64
import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from one_peace.errors import InputError
from one_peace.models.one_peace.loading import from_pretrained
from one_peace.training.dry_run import plan_run
from one_peace.training.recipe import PretrainRecipe
from one_peace.training.run import run_pretraining

STAGE = {
    "partner": "image",
    "train_anchor": True,
    "partner_mask": 0.75,
    "joint_anchor_mask": 0.4,
    "joint_partner_mask": 0.6875,
}


def picture(seed: int) -> str:
    made = io.BytesIO()
    pixels = np.random.default_rng(seed).integers(0, 255, (20, 20, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(made, "PNG")
    return base64.b64encode(made.getvalue()).decode()


@pytest.fixture
def table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("ONE_PEACE_CACHE", str(tmp_path / "cache"))
    path = tmp_path / "pairs.tsv"
    rows = [f"{n}\t{picture(n) if n % 4 else 'broken'}\ta thing of colour {n}" for n in range(24)]
    path.write_text("\n".join(["image_id\timage\tcaption", *rows]) + "\n", encoding="utf-8")
    return path


def recipe(path: Path, **more: Any) -> PretrainRecipe:
    values = {"model": "nano", "stage": STAGE, "steps": 2, "batch_size": 4, "vocabulary": 300, "log_every": 1}
    return PretrainRecipe.from_dict(values | {"files": {"mine": {"path": str(path)}}} | more)


@pytest.mark.parametrize("workers", [0, 1])
def test_from_a_table_to_a_model(table: Path, tmp_path: Path, workers: int) -> None:
    rows: list[dict[str, Any]] = []
    run_pretraining(recipe(table, workers=workers), [], tmp_path / "run", "cpu", rows.append)
    assert rows[0] == {"mine": 24} and [row["step"] for row in rows[1:-1]] == [1, 2]
    assert rows[-1]["left_out"] > 0 and 0 <= rows[-1]["waiting"] <= 1
    assert from_pretrained(tmp_path / "run" / "model").encode_text("a thing").shape == (1, 192)


def test_its_dry_run(table: Path) -> None:
    cost = plan_run(recipe(table, batch_size=64), [])
    assert cost.tokens["image"] == 64 * 17 and cost.flops > 1e9 and cost.frozen == 0


def test_a_table_that_is_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ONE_PEACE_CACHE", str(tmp_path / "cache"))
    with pytest.raises(InputError, match="nowhere.tsv"):
        run_pretraining(recipe(tmp_path / "nowhere.tsv"), [], tmp_path / "run", "cpu", lambda row: None)


def test_a_wrong_key_of_a_source_is_answered_with_the_right_one(table: Path) -> None:
    with pytest.raises(ValueError, match=r"files.mine: unknown key 'wieght'; the nearest is 'weight'"):
        recipe(table, files={"mine": {"path": str(table), "wieght": 1.0}})
