"""Logs as curves: a picture with something in it, and one clear error for a log that is none."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from one_peace.errors import InputError
from one_peace.training.curves import _panels, draw_curves
from one_peace.training.log import read_log

pytest.importorskip("matplotlib")


def write_run(folder: Path, steps: int = 6, **more: Any) -> Path:
    folder.mkdir(parents=True)
    rows: list[dict[str, Any]] = []
    for step in range(1, steps + 1):
        row = {"step": step, "total": 5 / step, "contrast": 2 / step, "lr": 1e-3, "grad_norm": 2.0**-step}
        rows.append(row | {"pairs_per_second": 9.0, "seconds_left": 3.0} | more)
    rows[2] = rows[2] | {"total": None, "grad_norm": None}
    figures = {f"eval/image_to_text@{k}": k / 20 for k in (1, 5, 10)}
    rows.insert(4, {"step": 4, **figures, "eval/recall": 0.4, "best_step": 4})
    (folder / "log.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def test_runs_become_a_picture(tmp_path: Path) -> None:
    one, two = write_run(tmp_path / "one"), write_run(tmp_path / "two", denoise_partner=1.0)
    made = draw_curves([one, two / "log.jsonl"], tmp_path / "new" / "curves.png")
    with Image.open(made) as picture:
        assert picture.format == "PNG" and min(picture.size) > 300
        colours = {tuple(c) for c in np.array(picture.convert("RGB")).reshape(-1, 3).tolist()}
    assert (31, 119, 180) in colours and (255, 127, 14) in colours  # a line of each run


def test_a_panel_for_every_figure_and_one_for_all_ranks(tmp_path: Path) -> None:
    panels = _panels([read_log(write_run(tmp_path / "one"))])
    assert list(panels) == [
        "total",
        "contrast",
        "lr",
        "grad_norm",
        "pairs_per_second",
        "eval/image_to_text",
        "eval/recall",
    ]
    assert panels["eval/image_to_text"] == [f"eval/image_to_text@{k}" for k in (1, 5, 10)]


def test_a_cut_last_line_is_normal_and_damage_is_not(tmp_path: Path) -> None:
    log = write_run(tmp_path / "one") / "log.jsonl"
    whole = len(read_log(log))
    log.write_text(log.read_text() + '{"step": 7, "tot')
    assert len(read_log(log.parent)) == whole
    lines = log.read_text().splitlines()
    log.write_text("\n".join([lines[0], "garbage", *lines[1:]]))
    with pytest.raises(InputError, match=r"log.jsonl: line 2 is damaged.*'garbage'"):
        draw_curves([log], tmp_path / "x.png")


@pytest.mark.parametrize("value", ["abc", [1], {"a": 1}, True, 10**400])
def test_values_that_are_no_numbers_are_gaps(tmp_path: Path, value: Any) -> None:
    log = write_run(tmp_path / "one") / "log.jsonl"
    log.write_text(log.read_text() + json.dumps({"step": 9, "total": value, "$a_{": 1.0}) + "\n")
    assert draw_curves([log], tmp_path / "x.png").exists()


def test_what_is_no_run_is_said(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="nowhere: no such run folder or log"):
        draw_curves([tmp_path / "nowhere"], tmp_path / "x.png")
    with pytest.raises(InputError, match="has no log.jsonl; give the folder of a training run"):
        draw_curves([tmp_path], tmp_path / "x.png")
    (tmp_path / "log.jsonl").write_text("")
    with pytest.raises(InputError, match="has no rows yet"):
        draw_curves([tmp_path], tmp_path / "x.png")
    (tmp_path / "log.jsonl").write_text('{"step": 1}\n')
    with pytest.raises(InputError, match="no figures in them"):
        draw_curves([tmp_path], tmp_path / "x.png")
    with pytest.raises(ValueError, match=r"x.txt: pictures end with one of .*\.png"):
        draw_curves([write_run(tmp_path / "one")], tmp_path / "x.txt")
    with pytest.raises(ValueError, match="given twice"):
        draw_curves([tmp_path / "one", tmp_path / "one"], tmp_path / "x.png")
    assert not list(tmp_path.glob("x.*"))
