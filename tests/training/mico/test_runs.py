"""MiCo through the training loop: processes, interruptions, clips from anywhere, recipes."""

from __future__ import annotations

import io
import json
import signal
import tarfile
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from typer.testing import CliRunner

import one_peace
from one_peace.checkpoints.native import open_folder
from one_peace.checkpoints.registry import built_in_models
from one_peace.cli.main import app
from one_peace.data.clips import ClipShards
from one_peace.data.shard_cache import ShardCache
from one_peace.errors import CheckpointError, InputError
from one_peace.models.mico.model import MiCoModel
from one_peace.models.mico.presets import preset
from one_peace.recipe_files import read_recipe
from one_peace.tasks.mico.clips import ClipReader
from one_peace.tasks.mico.pretraining import parse_tasks
from one_peace.training.finetuning.examples import Examples
from one_peace.training.mico.recipe import MiCoRecipe
from one_peace.training.mico.run import run_mico
from one_peace.training.mico.start import open_clips, plan_mico
from one_peace.training.mico.update import draw_by
from tiny_mico import tiny_mico, write_clips, write_recipe
from training_runs import run_mico_slowly, wait_for
from warm_processes import WarmProcess, finish, run_command, start_together


def run(path: Path, out: Path, **options: Any) -> MiCoModel:
    return run_mico(MiCoRecipe.from_dict(read_recipe("pretrain", str(path))), [], out, "cpu", lambda _: None, **options)


def rows(out: Path) -> list[dict[str, Any]]:
    found = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    return [{k: v for k, v in row.items() if k not in ("pairs_per_second", "seconds_left")} for row in found]


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ONE_PEACE_CACHE", str(tmp_path / "cache"))


def test_two_processes_train_as_one_does(tmp_path: Path) -> None:
    path = write_recipe(tmp_path, batch_size=8)  # of 12 clips: some stand in a batch twice
    started = start_together(run_command, (["pretrain", str(path), "--out", str(tmp_path / "two")],), 2)
    run(path, tmp_path / "one")
    finish(started)
    ones, twos = rows(tmp_path / "one"), rows(tmp_path / "two")
    assert len(ones) == len(twos) == 7  # five updates, two evaluations
    for one, two in zip(ones, twos, strict=True):
        assert two == pytest.approx(one, rel=1e-4, abs=2e-5)
    losses = {name for row in ones for name in row}
    assert {"both/contrast", "both/matching", "both/captioning", "sounds/contrast", "eval/recall"} <= losses
    one, two = (open_folder(tmp_path / name / "model").tensors for name in ("one", "two"))
    base = open_folder(tmp_path / "base").tensors
    for name in base:
        torch.testing.assert_close(one[name][0], two[name][0], rtol=1e-3, atol=2e-4, msg=name)
    assert not torch.equal(one["tower.patches.weight"][0], base["tower.patches.weight"][0])
    assert one_peace.from_pretrained(tmp_path / "two" / "best").encode_text("a cow").shape == (1, 8)


def test_an_interrupted_run_goes_on_to_the_bit(tmp_path: Path) -> None:
    path = write_recipe(tmp_path, dropout=0.1, drop_path=0.5, workers=2, evaluation=None)
    whole = run(path, tmp_path / "whole")

    def stop(done: int) -> None:
        if done == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(path, tmp_path / "halves", tick=stop)
    assert [row["step"] for row in rows(tmp_path / "halves")] == [1, 2, 3]
    again = run(path, tmp_path / "halves")
    for (name, value), other in zip(whole.named_parameters(), again.parameters(), strict=True):
        assert torch.equal(value, other), name
    assert rows(tmp_path / "whole") == rows(tmp_path / "halves")
    path = write_recipe(tmp_path, evaluation=None, workers=2, seed=51)
    with pytest.raises(CheckpointError, match=r"another recipe \(drop_path: 0.5, now nothing; .*seed: 50, now 51"):
        run(path, tmp_path / "halves")


def test_a_killed_run_goes_on_to_the_bit(tmp_path: Path) -> None:
    path = write_recipe(tmp_path, dropout=0.1, evaluation=None)
    whole = run(path, tmp_path / "whole")
    killed = WarmProcess(run_mico_slowly, (["pretrain", str(path), "--out", str(tmp_path / "killed")],), {})
    wait_for(tmp_path / "killed" / "log.jsonl", [killed], '"step": 3,')  # the state is that of update 2
    killed.kill()
    assert killed.wait() == -signal.SIGKILL
    again = run(path, tmp_path / "killed")
    for (name, value), other in zip(whole.named_parameters(), again.parameters(), strict=True):
        assert torch.equal(value, other), name
    assert rows(tmp_path / "whole") == rows(tmp_path / "killed")


def test_narrow_models_begin_with_weights_that_pass_on_as_much() -> None:
    torch.manual_seed(0)
    config = preset("mico-nano")
    model = MiCoModel(config)
    model.initialise()
    for weight, width in ((model.tower.blocks[0].ffn.up.weight, 1408), (model.text.blocks[0].ffn.up.weight, 768)):
        assert weight.std().item() == pytest.approx(0.02 * (width / weight.shape[1]) ** 0.5, rel=0.03)
    assert model.text.words.weight.std().item() == pytest.approx(0.02, rel=0.03)


def test_tower_and_temperature_have_rates_of_their_own(tmp_path: Path) -> None:
    path = str(write_recipe(tmp_path))
    settings = ["optimizer.lr=1e-3", "tower_lr=1e-4"]
    scalar = torch.nn.Parameter(torch.ones(()))
    plain = MiCoRecipe.from_dict(read_recipe("pretrain", path, settings)).groups()
    slow = MiCoRecipe.from_dict(read_recipe("pretrain", path, [*settings, "temperature_lr=5e-5"])).groups()
    assert plain("tower.cls", scalar) == slow("tower.cls", scalar) == (True, pytest.approx(0.1))
    assert plain("temperature", scalar) == (True, 1.0) and slow("temperature", scalar) == (True, pytest.approx(0.05))
    assert slow("text.words.weight", scalar) == (True, 1.0)


@pytest.mark.parametrize(
    ("optimizer", "warmup"), [({}, 60), ({"lr": 1e-3}, 60), ({"warmup_steps": 7}, 7), ({"warmup_steps": 0}, 0)]
)
def test_a_tenth_of_the_updates_warms_up_unless_a_recipe_says_otherwise(optimizer: Any, warmup: int) -> None:
    values = {"model": "mico-nano", "steps": 600, "batch_size": 4, "optimizer": optimizer}
    values["sources"] = {"a": {"path": "a.csv", "modalities": ["image"], "tasks": "ret%tv"}}
    recipe = MiCoRecipe.from_dict(values)
    assert recipe.optimizer.warmup_steps == warmup
    assert MiCoRecipe.from_dict(recipe.values()) == recipe


def test_a_name_that_is_no_model_is_named_whatever_else_is_set(tmp_path: Path) -> None:
    recipe = MiCoRecipe.from_dict(read_recipe("pretrain", "mico-nano", ["model=mico-nano-typo"]))
    with pytest.raises(ValueError, match=r"mico-nano-typo.*presets are .*mico-nano"):
        plan_mico(recipe, {})
    saved = MiCoRecipe.from_dict(read_recipe("pretrain", str(write_recipe(tmp_path)), ["caption_tokens=8"]))
    with pytest.raises(ValueError, match="caption_tokens are those of presets"):
        plan_mico(saved, {})


def test_no_clip_is_a_negative_of_itself(tmp_path: Path) -> None:
    path = str(write_recipe(tmp_path, evaluation=None, steps=1))
    with pytest.raises(ValueError, match=r"batch_size=13 is more than the 12 clips of sources\.both"):
        run_mico(MiCoRecipe.from_dict(read_recipe("pretrain", path, ["batch_size=13"])), [], tmp_path, "cpu", print)
    recipe = MiCoRecipe.from_dict(read_recipe("pretrain", path, ["batch_size=8"]))
    clips = open_clips(recipe.sources["sounds"].path, ("audio",), [])
    model = tiny_mico()
    reader = ClipReader(model.processors, model.config, ("audio",), recipe.sources["sounds"].tasks)
    first, second = (reader.collate(Examples(clips, reader, recipe.seed).batch(8, update)) for update in (0, 1))
    assert first.clips is not None and second.clips is not None
    assert len(first.clips.unique()) == 8 and len(second.clips.unique()) < 8  # of 12 clips: an epoch ends within it
    tasks = ["sources.both.tasks=cap%ta", "sources.sounds.tasks=cap%ta", "batch_size=13"]
    run_mico(MiCoRecipe.from_dict(read_recipe("pretrain", path, tasks)), [], tmp_path / "out", "cpu", lambda _: None)


def test_negatives_are_drawn_by_weight_and_never_the_own_one() -> None:
    weights = torch.tensor([[0.0, 3.0, 1.0], [1.0, 0.0, 0.0]])
    drawn = [draw_by(weights, torch.full((2,), (n + 0.5) / 1000)) for n in range(1000)]
    assert [sum(int(row[0]) == n for row in drawn) for n in range(3)] == [0, 750, 250]
    assert all(int(row[1]) == 0 for row in drawn)
    assert draw_by(weights, torch.ones(2)).tolist() == [2, 0]
    assert draw_by(weights, torch.zeros(2)).tolist() == [1, 0]


def write_shard(folder: Path) -> Path:
    """Clips as `one-peace clips` writes them: one whole, one without sound, one without a text."""
    write_clips(folder, 3)
    info = {"captions": {"caption": ["a cow", "one dog"], "audio_captions": ["it sings"]}, "caption": "a cow"}
    with tarfile.open(folder / "clips-000000.tar", "w") as shard:
        for number in range(3):
            files = {"png": (folder / f"{number}.png").read_bytes()}
            if number != 1:
                files["wav"] = (folder / f"{number}.wav").read_bytes()
            if number != 2:
                files |= {"txt": b"a cow", "json": json.dumps(info).encode()}
            for ending, content in files.items():
                header = tarfile.TarInfo(f"v-{number}.{ending}")
                header.size = len(content)
                shard.addfile(header, io.BytesIO(content))
    return folder / "clips-000000.tar"


def test_clips_of_shards(tmp_path: Path) -> None:
    shard = write_shard(tmp_path)
    cache = ShardCache(tmp_path / "cache", 1 << 20)
    both = ClipShards(str(shard), ("image", "audio"), cache)
    assert len(both) == 1 and len(ClipShards(str(shard), ("image",), cache)) == 2
    key, row = both.row(0)
    assert key.endswith("v-0") and row["audio_captions"] == ["it sings"]
    model = tiny_mico()
    tasks = parse_tasks("ret%tva_cap%tva")
    reader = ClipReader(model.processors, model.config, ("image", "audio"), tasks)
    drawn = [reader.draw(row, key, torch.Generator().manual_seed(seed)) for seed in range(8)]
    texts = {reader.words.decode(example.captions["caption"].tolist()) for example in drawn}
    assert texts == {"a cow", "one dog"}
    batch = reader.collate(drawn)
    assert batch.inputs["audio"]["slices"].shape == (8, 1, 28, 28)
    assert (batch.hidden_captions["caption"].labels >= 0).any(dim=1).all()
    assert reader.collate(drawn, whole=True).captions["caption"].shape == (8, 10)
    with pytest.raises(InputError, match="depth"):
        ClipShards(str(shard), ("depth",), cache)
    shard.write_bytes(b"no tar" * 200)
    with pytest.raises(InputError, match="tar"):
        ClipShards(str(shard), ("image",), cache)


def test_three_captions_and_answers(tmp_path: Path) -> None:
    model = tiny_mico()
    row = {"image": tmp_path / "0.png", "question": "a cow", "answer": ["one"], "vision_captions": "a cow"}
    row |= {"audio_captions": ["a dog"], "omni_captions": ["a cow that sings a song a dog that sings a song two dogs"]}
    write_clips(tmp_path, 1)
    tasks = parse_tasks("ret%tv_qa%tv")
    reader = ClipReader(model.processors, model.config, ("image",), tasks, kinds=True, strength=0.0)
    example = reader.draw(row, "row 1", torch.Generator().manual_seed(0))
    assert set(example.captions) == {"vision", "audio", "joint"} and len(example.captions["joint"]) > 10
    batch = reader.collate([example, example])
    assert batch.questions is not None and batch.questions.shape == (2, 10)
    assert batch.hidden_answers is not None and (batch.hidden_answers.labels > 0).any()
    with pytest.raises(InputError, match="omni_captions"):
        reader.draw({**row, "omni_captions": ""}, "row 1", torch.Generator())


@pytest.mark.parametrize(
    ("answer", "said"), [(2, {"2"}), ([2, "a dog"], {"2", "a dog"}), ("a dog&&a cow", {"a dog", "a cow"})]
)
def test_answers_are_learnt_in_the_forms_that_they_are_measured_in(answer: Any, said: set[str], tmp_path: Path) -> None:
    model = tiny_mico()
    write_clips(tmp_path, 1)
    reader = ClipReader(model.processors, model.config, ("image",), parse_tasks("qa%tv"), strength=0.0)
    row = {"image": tmp_path / "0.png", "caption": "a cow", "question": "what is it", "answer": answer}
    drawn = [reader.draw(row, "row 1", torch.Generator().manual_seed(seed)) for seed in range(8)]
    hidden = [one.hidden_answer for one in drawn if one.hidden_answer is not None]
    answers = {tuple(torch.where(words.labels > 0, words.labels, words.tokens).tolist()) for words in hidden}
    assert answers == {tuple(reader.words.encode(text, 10)) for text in said}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"sources": {}}, "sources"),
        ({"sources": {"a": {"path": "a.csv", "modalities": ["image"], "tasks": "ret%ta"}}}, "audio"),
        ({"sources": {"a": {"path": "a.csv", "modalities": ["image", "video"], "tasks": "ret%tv"}}}, "same branch"),
        ({"sources": {"a": {"path": "a.csv", "modalities": ["image"], "tasks": 3}}}, "sources.a.tasks"),
        (
            {"sources": {"a": {"path": "a", "modalities": ["image"], "tasks": [{"objective": "ret", "tuples": []}]}}},
            "objective is one of retrieval, captioning, answering",
        ),
        ({"batch_size": 1}, "batch_size"),
        ({"caption_tokens": 2}, "caption_tokens is at least 3, not 2"),
        ({"image_size": 0}, "image_size"),
        ({"steps": "many"}, "steps"),
        ({"tower_rate": 1.0}, "tower_lr"),
        ({"engine": {"compile": True}}, "compile"),
        ({"optimizer": {"schedule": "steps"}}, "linear-from-zero"),
        ({"optimizer": {"layer_decay": 0.9}}, "optimizer.layer_decay is for ONE-PEACE models"),
        ({"optimizer": {"decay_vectors": True}}, "optimizer.decay_vectors is for other models"),
    ],
)
def test_recipes_that_are_wrong(changes: dict[str, Any], message: str) -> None:
    values = yaml.safe_load("{family: mico, model: mico-nano, steps: 2, batch_size: 4}")
    values["sources"] = {"a": {"path": "a.csv", "modalities": ["image"], "tasks": "ret%tv"}}
    with pytest.raises(ValueError, match=message):
        MiCoRecipe.from_dict(values | changes)


def test_a_dry_run_says_what_a_step_costs(tmp_path: Path) -> None:
    (tmp_path / "vocab.txt").write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "cow"]))
    words = ["pretrain", "mico", "--dry-run", f"tokenizer={tmp_path / 'vocab.txt'}", "model=mico-nano"]
    said = CliRunner().invoke(app, [*words, "frames={vision: 1, audio: 1}", "--devices", "64"])
    assert said.exit_code == 0, said.output
    lines = {line.split()[0]: line.split()[1:] for line in said.output.splitlines() if line.strip()}
    with torch.device("meta"):
        tower = MiCoModel(preset("mico-nano")).tower
    assert lines["tower"] == [f"{sum(p.numel() for p in tower.parameters()):,}", "5.0e-07"]
    assert lines["text"][1] == "1.0e-04" and "TFLOP" in said.output
    nano = MiCoRecipe.from_dict(read_recipe("pretrain", "mico-nano"))
    assert MiCoRecipe.from_dict(nano.values()) == nano and nano.needs_library


def test_fine_tuning_starts_from_weights_and_pretraining_from_a_shape(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []
    (tmp_path / "nothing.yaml").write_text("{family: mico, steps: 2, batch_size: 4}")
    refused = CliRunner().invoke(app, ["finetune", str(tmp_path / "nothing.yaml"), "--out", str(tmp_path / "out")])
    assert refused.exit_code == 1 and "model" in refused.output
    for command, recipe in (("finetune", "mico-msrvtt"), ("pretrain", "mico")):
        monkeypatch.setattr(f"one_peace.cli.{command}.train_mico", lambda values, *_: asked.append(values["model"]))
        said = CliRunner().invoke(app, [command, recipe, "model=mico-nano"])
        assert said.exit_code == 0, said.output
    assert asked == [str(built_in_models()["mico-nano"]), "mico-nano"]


def test_drop_path_and_dropout_of_a_recipe_are_those_of_its_run(tmp_path: Path) -> None:
    path = str(write_recipe(tmp_path, evaluation=None))
    recipe = MiCoRecipe.from_dict(read_recipe("pretrain", path, ["drop_path=0.25", "dropout=0.125"]))
    config = plan_mico(recipe, {}).config
    assert (config.tower.drop_path, config.text.dropout) == (0.25, 0.125)


def test_rows_that_cannot_be_used_are_passed_over(tmp_path: Path) -> None:
    folder = tmp_path / "clips.tar.unpacked"  # a table in it is no shard
    folder.mkdir()
    path = write_recipe(folder, steps=2, evaluation=None)
    (folder / "1.png").write_bytes(b"no picture")
    said: list[Any] = []
    recipe = MiCoRecipe.from_dict(read_recipe("pretrain", str(path), ["batch_size=12"]))
    run_mico(recipe, [], tmp_path / "out", "cpu", said.append)
    assert "1 rows" in said[-1]["warning"] or "1 rows" in said[-2]["warning"]
