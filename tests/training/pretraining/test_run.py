"""A whole run over files of one's own: recipe in, model out."""

from __future__ import annotations

import base64
import io
import json
import multiprocessing
import os
import shutil
import signal
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from one_peace.errors import CheckpointError, InputError, OnePeaceError
from one_peace.models.one_peace.loading import from_pretrained
from one_peace.training.dry_run import plan_run
from one_peace.training.pretraining.cost import PretrainingStep
from one_peace.training.pretraining.recipe import PretrainRecipe, recipe_to_yaml
from one_peace.training.pretraining.run import run_pretraining
from one_peace.training.progress import plain_line
from pair_files import RATE, serving, wav, write_csv, write_shards
from warm_processes import finish, run_command, start_together

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
    rows = [f"{n}\t{picture(n) if n % 10 >= 3 else 'broken'}\ta thing of colour {n}" for n in range(24)]
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
    assert rows[-1]["left_out"] > 0 and rows[-1]["padding"] < 0.3 and 0 <= rows[-1]["waiting"] <= 1
    assert from_pretrained(tmp_path / "run" / "model").encode_text("a thing").shape == (1, 192)
    with pytest.raises(CheckpointError, match=r"another recipe \(seed: 3407, now 1\)"):
        run_pretraining(recipe(table, workers=workers, seed=1), [], tmp_path / "run", "cpu", rows.append)
    shutil.rmtree(tmp_path / "run" / "model")
    with pytest.raises(CheckpointError, match="a state to go on from, but not the model"):
        run_pretraining(recipe(table, workers=workers), [], tmp_path / "run", "cpu", rows.append)


def test_what_was_left_out_is_that_of_the_whole_run(table: Path, tmp_path: Path) -> None:
    """A run that went on told what its last part had left out."""
    told: dict[str, dict[str, Any]] = {}
    for name, steps in (("whole", 2), ("parts", 1), ("parts", 2)):
        rows: list[dict[str, Any]] = []
        run_pretraining(recipe(table, steps=steps), [], tmp_path / name, "cpu", rows.append)
        told[f"{name} {steps}"] = {key: value for key, value in rows[-1].items() if key != "waiting"}
    assert told["parts 2"] == told["whole 2"] != told["parts 1"]


def test_a_watched_run(table: Path, tmp_path: Path) -> None:
    """Held-out pairs from a folder of one's own, five captions a picture; utilisation; events for TensorBoard."""
    pytest.importorskip("tensorboard")
    held_out = tmp_path / "held-out"
    held_out.mkdir()
    lines = ["path,text"]
    for number in range(3):
        (held_out / f"{number}.png").write_bytes(base64.b64decode(picture(100 + number)))
        lines += [f"{number}.png,caption {caption} of {number}" for caption in range(5)]
    (held_out / "pairs.csv").write_text("\n".join([*lines, "lost.png,nothing"]) + "\n", encoding="utf-8")
    (held_out / "labels.csv").write_text("path,text\n0.png,cat\n1.png,dog\n2.png,dog\n", encoding="utf-8")
    sources = {"pairs": {"path": str(held_out)}, "labels": {"path": str(held_out / "labels.csv")}}
    watched = recipe(table, evaluation={"every": 1} | sources, trackers=["tensorboard"])
    rows: list[dict[str, Any]] = []
    ticks: list[int] = []
    run_pretraining(watched, [], tmp_path / "run", "cpu", rows.append, tick=ticks.append)
    assert ticks == [1, 2]
    first, second = (row for row in rows if "total" in row)
    assert 0 < first["mfu"] < 2 and first["matmul_tflops"] > 0 and "matmul_tflops" not in second
    assert first["tokens_per_second"] > first["pairs_per_second"] > 0 and 0 <= first["waiting"] <= 1
    evaluated = [row for row in rows if "eval/recall" in row]
    assert [row["step"] for row in evaluated] == [1, 2]
    ranks = {name.partition("/")[2] for name in evaluated[0]} - {""}
    assert ranks == {
        "image_to_text@1",
        "image_to_text@5",
        "image_to_text@10",
        "text_to_image@1",
        "recall",
        "zero_shot@1",
    }
    assert from_pretrained(tmp_path / "run" / "best").encode_text("a thing").shape == (1, 192)
    assert list((tmp_path / "run" / "tensorboard").glob("events.*"))


def test_a_shard_that_cannot_be_had_is_waited_for_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not for the tokenizer and again for the first batch: a server that stalls costs minutes each time."""
    monkeypatch.setenv("ONE_PEACE_CACHE", str(tmp_path / "cache"))
    write_shards(tmp_path, 2, 8)
    with serving(tmp_path) as server:
        shards = {"path": server.url + "/train-{000..002}.tar", "pairs_per_shard": 8}
        run_pretraining(recipe(tmp_path, files={"web": shards}, steps=1), [], tmp_path / "run", "cpu", lambda row: None)
    assert [path for path, _ in server.requests].count("/train-002.tar") == 1


def test_its_dry_run(table: Path) -> None:
    cost = plan_run(recipe(table, batch_size=64), [])
    assert cost.tokens["image"] == 64 * 17 and cost.flops > 1e9 and cost.frozen == 0


def test_its_dry_run_draws_pairs_of_all_lengths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A batch has pairs of one length: of the first one a dry run told half of the memory."""
    monkeypatch.setenv("ONE_PEACE_CACHE", str(tmp_path / "cache"))
    for number in range(40):
        (tmp_path / f"{number}.wav").write_bytes(wav(1 + number / 20))
    write_csv(tmp_path / "pairs.csv", [["path", "text"], *([f"{n}.wav", f"sound {n}"] for n in range(40))])
    drawn: list[int] = []
    monkeypatch.setattr(
        PretrainingStep, "cost", lambda self, pairs, *more: drawn.extend(len(p["waveform"]) for _, p in pairs)
    )
    plan_run(recipe(tmp_path, stage=STAGE | {"partner": "audio"}), [])
    assert min(drawn) < 1.3 * RATE and max(drawn) > 2.7 * RATE
    assert sum(drawn) / len(drawn) == pytest.approx(1.975 * RATE, rel=0.1)


def test_its_dry_run_refuses_what_the_run_would(table: Path) -> None:
    watched = recipe(table, evaluation={"every": 1, "pairs": {"path": str(table)}})
    with pytest.raises(ValueError, match=r"evaluation.pairs: .*pairs.tsv is also trained on"):
        plan_run(watched, [])


def test_a_table_that_is_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ONE_PEACE_CACHE", str(tmp_path / "cache"))
    with pytest.raises(InputError, match="nowhere.tsv"):
        run_pretraining(recipe(tmp_path / "nowhere.tsv"), [], tmp_path / "run", "cpu", lambda row: None)


def test_a_wrong_key_of_a_source_is_answered_with_the_right_one(table: Path) -> None:
    with pytest.raises(ValueError, match=r"files.mine: unknown key 'wieght'; the nearest is 'weight'"):
        recipe(table, files={"mine": {"path": str(table), "wieght": 1.0}})


def test_a_killed_worker_costs_nothing_that_was_saved(table: Path, tmp_path: Path) -> None:
    """One clear error; the same command goes on from the last state."""
    chosen = recipe(table, workers=1, steps=6, save_every=2)

    def kill(row: dict[str, Any]) -> None:
        if row.get("step") == 3:
            for worker in multiprocessing.active_children():
                os.kill(worker.pid or 0, signal.SIGKILL)

    with pytest.raises(OnePeaceError, match="a data worker died.*goes on from its last checkpoint"):
        run_pretraining(chosen, [], tmp_path / "run", "cpu", kill)
    assert [path.name for path in (tmp_path / "run" / "state").glob("step-*")] == ["step-00000002"]
    rows: list[dict[str, Any]] = []
    run_pretraining(chosen, [], tmp_path / "run", "cpu", rows.append)
    assert [row["step"] for row in rows if "step" in row][0] == 3


def keep_what_is_told(words: list[str], folder: Path) -> None:
    """`one-peace WORDS`, and what it prints in a file of its own."""
    with open(folder / f"told-{os.environ['RANK']}", "w", encoding="utf-8") as file, redirect_stdout(file):
        run_command(words)


def test_two_processes_start_and_train_as_one(table: Path, tmp_path: Path) -> None:
    """The whole command under torchrun's environment: tokenizer, first values, pairs, states, the model at the end; and
    what it says of the pairs of both."""
    chosen = recipe(table, micro_batch=2, denoise_every=2)
    (tmp_path / "recipe.yaml").write_text(recipe_to_yaml(chosen), encoding="utf-8")
    words = ["pretrain", str(tmp_path / "recipe.yaml"), "--out", str(tmp_path / "two")]
    started = start_together(keep_what_is_told, (words, tmp_path), 2)
    rows: list[dict[str, Any]] = []
    run_pretraining(chosen, [], tmp_path / "one", "cpu", rows.append)
    finish(started)
    assert rows[-1]["left_out"] > 0 and "unreadable image" in rows[-1]["reasons"]
    said = plain_line({name: value for name, value in rows[-1].items() if name != "waiting"})
    assert said in (tmp_path / "told-0").read_text() and not (tmp_path / "told-1").read_text()
    logs = [(tmp_path / name / "log.jsonl").read_text() for name in ("one", "two")]
    one, two = ([json.loads(line) for line in log.splitlines()] for log in logs)
    assert [row["step"] for row in one] == [row["step"] for row in two] == [1, 2]
    for ours, expected in zip(two, one, strict=True):
        assert ours["total"] == pytest.approx(expected["total"], rel=1e-5, abs=1.1e-5)
    # the first model is bit by bit the same; a step rounds differently
    texts = [from_pretrained(tmp_path / name / "model").encode_text("a thing of colour 5") for name in ("one", "two")]
    torch.testing.assert_close(*texts, rtol=0, atol=1e-3)


def test_an_error_of_one_process_is_a_line_of_each(tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text(recipe_to_yaml(recipe(tmp_path / "nowhere.tsv")), encoding="utf-8")
    first, second = start_together(run_command, (["pretrain", str(path), "--out", str(tmp_path / "run")],), 2)
    assert (first.wait(), second.wait()) == (1, 1)
    assert "nowhere.tsv: cannot be opened" in first.errors() and "Traceback" not in first.errors()
    assert "process 1 stops too" in second.errors() and "Traceback" not in second.errors()
