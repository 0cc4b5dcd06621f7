"""Recipes: the shipped ones load, settings reach inside, and a wrong key is answered with the right one."""

from __future__ import annotations

import dataclasses
import re
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest

from one_peace.checkpoints.registry import built_in_models
from one_peace.modalities import list_modalities
from one_peace.models.one_peace.presets import list_presets
from one_peace.recipe_files import read_recipe
from one_peace.tasks.evaluation import run_evaluation
from one_peace.tasks.evaluation_recipe import TASKS, load_evaluation
from one_peace.tasks.pretraining import AUDIO_TEXT, IMAGE_TEXT
from one_peace.training.pretraining.recipe import PretrainRecipe, load_recipe, recipe_to_yaml

SHIPPED = {
    kind: sorted(f.name.removesuffix(".yaml") for f in (files("one_peace.recipes") / kind).iterdir())
    for kind in ("pretrain", "evaluate")
}
SHIPPED["pretrain"] = [name for name in SHIPPED["pretrain"] if "stage" in read_recipe("pretrain", name)]
OPEN = {"further-modality": ("stage.partner=audio",)}  # what a recipe leaves to its user
BASIC = """
model: nano
stage:
  {partner: image, train_anchor: true, partner_mask: 0.75, joint_anchor_mask: 0.4, joint_partner_mask: 0.6875}
steps: 3
batch_size: 2
"""


@pytest.fixture
def basic(tmp_path: Path) -> str:
    path = tmp_path / "mine.yaml"
    path.write_text(BASIC, encoding="utf-8")
    return str(path)


@pytest.mark.parametrize("name", SHIPPED["pretrain"])
def test_every_shipped_pretraining_recipe_loads(name: str) -> None:
    recipe = load_recipe(name, OPEN.get(name, ()))
    assert recipe.stage.partner in list_modalities() and recipe.stage.anchor == "text"
    assert recipe.steps > recipe.optimizer.warmup_steps > 0
    assert bool(recipe.data.sources) != bool(recipe.files), "the sample library, or files"
    assert all(weight > 0 for weight in recipe.data.sources.values())
    assert recipe.data.languages["en"] > 0, "YAML reads a bare `no` as false; every language must be a name"
    assert all(isinstance(language, str) for language in recipe.data.languages)
    published = {"image": IMAGE_TEXT, "audio": AUDIO_TEXT}
    if recipe.stage.partner in published:
        first = ("front_end_steps", "speech_sound_steps", "word_steps", "caption_steps")  # ours, ahead of the updates
        assert dataclasses.replace(recipe.stage, **dict.fromkeys(first, 0)) == published[recipe.stage.partner]


def test_there_is_a_shipped_recipe_for_each_stage() -> None:
    recipes = [load_recipe(name, OPEN.get(name, ())) for name in SHIPPED["pretrain"]]
    assert {r.stage.partner for r in recipes} == {"image", "audio", "video"}
    assert any(r.model in list_presets() for r in recipes)


def test_the_kept_recipes_of_shipped_weights_load() -> None:
    """Those were written by earlier versions."""
    folders = [built_in_models()[name] for name in ("one-peace-nano", "one-peace-tiny")]
    recipes = [load_recipe(str(path)) for folder in folders for path in folder.glob("*.yaml")]
    assert {recipe.stage.partner for recipe in recipes} == {"image", "audio"}


def test_the_published_runs_have_the_published_numbers() -> None:
    first, second = load_recipe("vision-language"), load_recipe("audio-language")
    for recipe, pairs_of_a_gpu in ((first, 32), (second, 16)):
        rates = recipe.optimizer
        assert (rates.min_lr, rates.betas, rates.eps) == (1e-6, (0.9, 0.98), 1e-8)
        assert (rates.weight_decay, rates.clip_norm, rates.layer_decay, rates.ema_decay) == (0.05, 3.0, 1.0, None)
        assert (recipe.drop_path, recipe.denoise_every, recipe.seed) == (0.4, 1, 3407)
        assert (recipe.contrast, recipe.repeated_captions) == ("published", "negatives")
        assert (recipe.batch_size, recipe.micro_batch) == (64 * pairs_of_a_gpu, pairs_of_a_gpu)
        stage = recipe.stage
        assert (stage.anchor_weight, stage.partner_weight) == (0.5, 1.0)
        assert (stage.joint_anchor_weight, stage.joint_partner_weight) == (0.5, 0.5)
        assert (stage.denoising_scale, stage.denoising_smoothing, stage.anchor_mask) == (2.5, 0.1, 0.15)
        assert recipe.data.caption_tokens == 71 and recipe.data.augmentation == 0.0  # 70 and the end
    assert (first.model, first.steps) == ("one-peace", 200_000)
    assert (first.optimizer.warmup_steps, first.optimizer.lr) == (3000, 5e-4)
    assert first.data.crop == (0.9, 1.0) and not first.reset_temperature
    assert second.optimizer.lr == 2e-4 and second.optimizer.warmup_steps * 10 == second.steps
    assert second.data.clip_seconds == 15.0 and second.reset_temperature and second.data.crop is None


@pytest.mark.parametrize("name", SHIPPED["evaluate"])
def test_every_shipped_evaluation_recipe_loads(name: str) -> None:
    assert load_evaluation(name).kind in TASKS
    assert load_evaluation(name, ["model=elsewhere"]).model == "elsewhere"


@pytest.mark.parametrize(
    ("setting", "where", "wrong", "nearest"),
    [
        ("batchsize=4", "recipe", "batchsize", "batch_size"),
        ("optimizer.warmup=4", "optimizer", "warmup", "warmup_steps"),
        ("stage.partner_masks=0.5", "stage", "partner_masks", "partner_mask"),
        ("data.word_drop=0.5", "data", "word_drop", "word_dropout"),
    ],
)
def test_an_unknown_key_names_the_nearest_known_one(
    basic: str, setting: str, where: str, wrong: str, nearest: str
) -> None:
    with pytest.raises(ValueError, match=f"{where}: unknown key '{wrong}'; the nearest is '{nearest}'"):
        load_recipe(basic, [setting])


def test_an_unknown_key_of_an_evaluation_is_named() -> None:
    with pytest.raises(ValueError, match="unknown key 'modell'; the nearest is 'model'"):
        load_evaluation("sample-library", ["modell=x"])
    with pytest.raises(ValueError, match="unknown task 'cooking'; known: sample-library"):
        load_evaluation("sample-library", ["task=cooking"])


@pytest.mark.parametrize(
    ("name", "setting", "message"),
    [
        ("esc50", "task.prompts=5", "task: prompts is a text or a list, each a text, not 5"),
        ("esc50", "task.labels=3", "task: labels is a text or a list, each a text, not 3"),
        ("esc50", "task.labels=[1, 2]", "task: labels is a text or a list"),
        ("msrvtt-captions", "task.beams=2.5", "task: beams is a whole number or null, not 2.5"),
        ("msrvtt-captions", "task.beams=0", "task: beams is at least 1, not 0"),
        (
            "msrvtt-joint",
            "task.modalities=5",
            "task.modalities: a list of columns, or a column for each modality, not 5",
        ),
        *(
            ("msrvtt-joint", f"task.tuples={wrong}", "task.tuples: lists of branches such as [vision, audio], not ")
            for wrong in ("5", "[3]", "[[1, a]]", "[null]")
        ),
        ("msrvtt-joint", "task.modalities=[[video]]", "depth, normals, not ['video']"),
        ("msrvtt-joint", "task.modalities={video: 3}", "the name of a column is a text, not 3"),
        ("vqa", "task.labels=[1, 2]", "task: labels is a list, each a text"),
        ("ofa-snli-ve", "task.captions=5", "task: captions is true or false, not 5"),
        ("vqa", "batch_size=0", "recipe: batch_size is at least 1, not 0"),
        ("vqa", "seconds=x", "recipe: seconds is a number or null, not 'x'"),
        ("vqa", "tables.splits=3", "tables: splits is a mapping, each value a text, not 3"),
    ],
)
def test_values_of_an_evaluation_that_are_wrong(name: str, setting: str, message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        run_evaluation(load_evaluation(name, ["model=one-peace-nano", setting]))


def test_a_missing_key_is_named(tmp_path: Path) -> None:
    path = tmp_path / "short.yaml"
    path.write_text(BASIC.replace("steps: 3\n", ""), encoding="utf-8")
    with pytest.raises(ValueError, match="recipe: missing steps"):
        load_recipe(str(path))


def test_an_unknown_recipe_lists_the_shipped_ones() -> None:
    with pytest.raises(ValueError, match=f"'nano-image'; shipped: .*{SHIPPED['pretrain'][0]}, "):
        load_recipe("nano-image")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ("optimizer.lr=.nan", "optimizer: lr is a number, not nan"),
        ("optimizer.lr=1e999", "lr is at least 0, not inf"),
        ("optimizer.min_lr=-5", "min_lr is"),
        ("optimizer.min_lr=1", "optimizer.min_lr=1 is above optimizer.lr=0.0005"),
        ("optimizer.clip_norm=-1", "clip_norm is"),
        ("optimizer.layer_decay=0", r"layer_decay is in \(0, 1\]"),
        ("optimizer.weight_decay=-1", "weight_decay is"),
        ("optimizer.warmup_steps=-5", "warmup_steps is"),
        ("optimizer.betas=[0.9]", "betas is a list of 2"),
        ("optimizer.betas=[0.9, 1.0]", r"betas\[1\] is in"),
        ("optimizer.ema_start=-4", "ema_start is"),
        ("optimizer.skip_limit=-1", "skip_limit is"),
        ("stage.partner_mask=1.5", "stage: partner_mask is"),
        ("stage.joint_anchor_mask=2", "joint_anchor_mask is"),
        ("stage.denoising_smoothing=2", "denoising_smoothing is"),
        ("stage.front_end_steps=-1", "front_end_steps is"),
        ("stage.anchor=image", "stage.anchor: pairs are of a text and something else, not of 'image'"),
        ("data.caption_tokens=0", "data: caption_tokens is"),
        ("data.clip_seconds=-1", "clip_seconds is above 0"),
        ("data.augmentation=100", "augmentation is"),
        ("data.languages={en: -1}", "languages.en is"),
        ("data.sources={a: .inf}", "sources.a is"),
        ("engine.shard_over=-2", "engine: shard_over is"),
        ("engine.precision=float16", "precision is float32 or bfloat16, not 'float16'"),
        ("optimizer.eps=0", "eps is"),
        ("drop_path=1", "recipe: drop_path is"),
        ("seed=100000000000000000000", "seed is"),
        ("data.languages={no: 1}", "the key False is no text; write it in quotes"),
        ("data.languages={en: 1, en: 2}", "the key 'en' stands twice"),
        (f"data.languages={'[' * 5000}", "is no YAML"),
    ],
)
def test_values_out_of_range_are_named(basic: str, settings: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        load_recipe(basic, [settings])


def test_a_key_stands_once(tmp_path: Path) -> None:
    path = tmp_path / "twice.yaml"
    path.write_text(BASIC + "steps: 2\n", encoding="utf-8")
    with pytest.raises(ValueError, match="twice.yaml: is no YAML .*the key 'steps' stands twice.*line"):
        load_recipe(str(path))


def test_keys_of_another_mapping_are_merged_and_may_be_changed(tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text("one: {two: {three: &mine {<<: {lr: 1, eps: 2}, lr: 3}}}\nother: {<<: *mine, betas: 4}\n")
    mine = {"lr": 3, "eps": 2}
    assert read_recipe("pretrain", str(path)) == {"one": {"two": {"three": mine}}, "other": {**mine, "betas": 4}}


def test_a_setting_changes_the_key_that_it_names_and_no_alias_of_its_value(tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text("one: &same {path: a.tsv, text: caption}\nother: *same\n")
    values = read_recipe("pretrain", str(path), ["one.path=b.tsv"])
    assert values["one"]["path"] == "b.tsv"
    assert values["other"]["path"] == "a.tsv"


def test_aliases_of_aliases_are_not_multiplied_out(tmp_path: Path) -> None:
    """They double with each of these forty lines."""
    lines = ["a0: &a0 {x: 1}", *(f"a{n}: &a{n} {{x: *a{n - 1}, y: *a{n - 1}}}" for n in range(1, 41))]
    path = tmp_path / "recipe.yaml"
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    values = read_recipe("pretrain", str(path), ["a40.x.z=2"])
    assert values["a40"]["x"]["z"] == 2 and "z" not in values["a40"]["y"] and "z" not in values["a39"]


@pytest.mark.parametrize("content", ["", "- a\n- b\n", "words"])
def test_a_recipe_is_a_mapping(tmp_path: Path, content: str) -> None:
    path = tmp_path / "odd.yaml"
    path.write_text(content, encoding="utf-8")
    with pytest.raises(ValueError, match="odd.yaml: a recipe is a mapping"):
        load_recipe(str(path))


@pytest.mark.parametrize(
    ("setting", "path", "value"),
    [
        ("steps=7", ("steps",), 7),
        ("drop_path=0.25", ("drop_path",), 0.25),
        ("model=runs/a=b", ("model",), "runs/a=b"),
        ("expert_from=null", ("expert_from",), None),
        ("optimizer.lr=0.002", ("optimizer", "lr"), 0.002),
        ("optimizer.lr=2e-3", ("optimizer", "lr"), 0.002),
        ("optimizer.betas=[0.8, 0.9]", ("optimizer", "betas"), (0.8, 0.9)),
        ("data.sources={speech: 2}", ("data", "sources"), {"speech": 2}),
        ("data.languages.de=0.5", ("data", "languages"), {"de": 0.5}),
        ("stage.partner_mask=0.5", ("stage", "partner_mask"), 0.5),
    ],
)
def test_settings_reach_inside(basic: str, setting: str, path: tuple[str, ...], value: Any) -> None:
    found: Any = load_recipe(basic, [setting])
    for part in path:
        found = getattr(found, part)
    assert found == value
    assert type(found) is type(value)


def test_later_settings_win_and_the_rest_stays(basic: str) -> None:
    recipe = load_recipe(basic, ["steps=7", "steps=9"])
    assert recipe == dataclasses.replace(load_recipe(basic), steps=9)


def test_a_setting_needs_an_equals_sign(basic: str) -> None:
    with pytest.raises(ValueError, match="'steps' is not of the form key=value"):
        load_recipe(basic, ["steps"])


@pytest.mark.parametrize(
    "settings", [["data.takes=2"], ["data.takes=2", "stage.front_end_steps=1", "files.a.path=a.tar"]]
)
def test_takes_need_a_kept_front_end_and_the_sample_library(basic: str, settings: list[str]) -> None:
    with pytest.raises(ValueError, match="data.takes: for sounds of the sample library and a front end that"):
        load_recipe(basic, settings)


def test_a_setting_inside_of_a_plain_value_is_refused(basic: str) -> None:
    with pytest.raises(ValueError, match="steps.more=1.*steps"):
        load_recipe(basic, ["steps.more=1"])


@pytest.mark.parametrize("name", SHIPPED["pretrain"])
def test_a_recipe_survives_its_text(name: str, tmp_path: Path) -> None:
    recipe = load_recipe(name, [*OPEN.get(name, ()), "optimizer.betas=[0.8, 0.9]"])
    path = tmp_path / "again.yaml"
    path.write_text(recipe_to_yaml(recipe), encoding="utf-8")
    assert load_recipe(str(path)) == recipe
    assert PretrainRecipe.from_dict(read_recipe("pretrain", str(path))) == recipe


def test_defaults_are_the_published_optimiser(basic: str) -> None:
    recipe = load_recipe(basic)
    assert (recipe.optimizer.betas, recipe.optimizer.eps, recipe.optimizer.weight_decay) == (
        (0.9, 0.98),
        1e-8,
        0.05,
    )
    assert (recipe.optimizer.clip_norm, recipe.optimizer.warmup_steps, recipe.seed) == (3.0, 3000, 3407)


def test_a_shipped_micro_batch_follows_a_smaller_batch() -> None:
    assert load_recipe("vision-language", ["batch_size=12"]).micro_batch == 12
    with pytest.raises(ValueError, match="micro_batch=5 does not divide"):
        load_recipe("vision-language", ["batch_size=12", "micro_batch=5"])
