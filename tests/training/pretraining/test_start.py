"""What a run starts with: a preset, a saved model without decoder or partner, a built-in name, the last stage's run."""

from __future__ import annotations

import dataclasses
import math
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from one_peace.checkpoints.convert import convert
from one_peace.data.manifest import Item
from one_peace.errors import CheckpointError
from one_peace.modalities.text import TextProcessor
from one_peace.models.one_peace.interface import OnePeace
from one_peace.models.one_peace.loading import from_pretrained
from one_peace.models.one_peace.model import OnePeaceEncoder
from one_peace.nn.block import Block
from one_peace.tasks.pretraining import AUDIO_TEXT, IMAGE_TEXT, collate_pairs, pretraining_losses
from one_peace.training.finetuning import lora
from one_peace.training.pretraining.recipe import PretrainRecipe
from one_peace.training.pretraining.start import partner_is_new, start_model
from one_peace.training.saving import save_for_training
from tiny_models import CAPTIONS, CONFIG, tiny_model, tiny_pairs, tiny_processors

PROCESSORS = tiny_processors()
ITEMS = [
    Item(str(n), "image", Path("x.png"), "g", split, "s", "1", "PD", {"en": [caption], "de": ["Lampe"]})
    for n, (caption, split) in enumerate(zip(CAPTIONS, ["train"] * 4 + ["test"], strict=True))  # type: ignore[arg-type]
]
NEW = ("adapters.audio.", ".ffn.audio.", "norms.audio.", "projections.audio.", "decoder.")


def recipe(model: Path | str, **changes: object) -> PretrainRecipe:
    base = PretrainRecipe(str(model), AUDIO_TEXT, steps=1, batch_size=2, drop_path=0.25, vocabulary=300)
    return dataclasses.replace(base, **changes)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A saved encoder of texts and pictures: neither decoder nor sound."""
    torch.manual_seed(5)
    names = ("text", "image")
    config = dataclasses.replace(CONFIG, decoder=None).with_modalities(names)
    saved = OnePeace(OnePeaceEncoder(config), {name: PROCESSORS[name] for name in names})
    return saved.save_pretrained(tmp_path_factory.mktemp("plain") / "model")


def weights(model: torch.nn.Module) -> dict[str, Tensor]:
    return {name: parameter.detach() for name, parameter in model.named_parameters()}


def test_a_saved_encoder_gets_what_the_stage_needs(plain: Path) -> None:
    model, processors = start_model(recipe(plain), [])
    assert set(model.config.modalities) == set(processors) == {"text", "image", "audio"}
    assert model.config.decoder is not None and model.config.drop_path == 0.25
    saved, started = load_file(plain / "model.safetensors"), weights(model)
    fresh = {name for name in started if name.removeprefix("encoder.") not in saved}
    assert all(torch.equal(started[f"encoder.{name}"], tensor) for name, tensor in saved.items())
    assert fresh and all(any(part in name for part in NEW) for name in fresh)
    assert {part for part in NEW if any(part in name for name in fresh)} == set(NEW)


def test_what_a_run_began_with_is_no_model_of_it(plain: Path, tmp_path: Path) -> None:
    shutil.copytree(plain, tmp_path / "model")
    (tmp_path / "state" / "step-00000002").mkdir(parents=True)
    (tmp_path / "recipe.yaml").write_text("steps: 5\n")
    with pytest.raises(ValueError, match=r"model is the initial model of an unfinished run \(2 of 5 updates\)"):
        start_model(recipe(tmp_path / "model"), [])
    (tmp_path / "recipe.yaml").write_text("steps: [5")
    start_model(recipe(tmp_path / "model"), [])
    (tmp_path / "recipe.yaml").write_text("steps: 5\n")
    (tmp_path / "state" / "step-00000002").rename(tmp_path / "state" / "step-00000005")
    start_model(recipe(tmp_path / "model"), [])


def test_training_can_go_on_from_it(plain: Path) -> None:
    model, processors = start_model(recipe(plain), [])
    pairs = tiny_pairs(PROCESSORS, "audio")[:2]
    batch = collate_pairs(pairs, AUDIO_TEXT, processors, torch.Generator().manual_seed(0))
    losses = pretraining_losses(model, batch, AUDIO_TEXT)
    losses["total"].backward()
    assert losses["total"].isfinite() and model.encoder.projections["audio"].weight.grad is not None


def test_the_seed_decides_what_is_fresh(plain: Path) -> None:
    one, same, other = (weights(start_model(recipe(plain, seed=seed), [])[0]) for seed in (1, 1, 2))
    name = "encoder.projections.audio.weight"
    assert torch.equal(one[name], same[name]) and not torch.equal(one[name], other[name])


def test_experts_start_from_those_of_another_modality(plain: Path) -> None:
    model, _ = start_model(recipe(plain, expert_from="image"), [])
    for block in model.encoder.fusion.blocks:
        assert isinstance(block, Block)
        image, audio = weights(block.ffn["image"]), weights(block.ffn["audio"])
        assert all(torch.equal(image[name], audio[name]) for name in image)
        assert image["up.weight"].data_ptr() != audio["up.weight"].data_ptr()


def test_an_adapter_takes_over_what_it_can_use_of_another(plain: Path) -> None:
    stage = dataclasses.replace(AUDIO_TEXT, partner="video")
    model, _ = start_model(recipe(plain, stage=stage, expert_from="image"), [])
    image, video = (weights(model.encoder.adapter(name)) for name in ("image", "video"))
    assert all(torch.equal(image[name], video[name]) for name in image if name.startswith("patches.") or name == "cls")
    assert torch.equal(image["positions.weight"], video["positions.weight"][:17])
    again, _ = start_model(recipe(plain, stage=stage), [])  # nothing is said to start from
    assert not torch.equal(weights(again.encoder.adapter("video"))["patches.0.weight"], image["patches.0.weight"])
    speech, _ = start_model(recipe(plain, expert_from="image"), [])  # of pictures, sound takes cls alone
    assert torch.equal(weights(speech.encoder.adapter("audio"))["cls"], image["cls"])


def test_a_finished_run_is_read_whole_and_by_users(tmp_path: Path) -> None:
    model = tiny_model(seed=3)
    save_for_training(model, PROCESSORS, tmp_path / "run")
    again, _ = start_model(recipe(tmp_path / "run"), [])
    assert all(torch.equal(value, weights(again)[name]) for name, value in weights(model).items())
    encoder = from_pretrained(tmp_path / "run").encoder
    assert all(torch.equal(value, weights(encoder)[name]) for name, value in weights(model.encoder).items())


def test_a_preset_gets_a_tokenizer_of_the_training_captions(tmp_path: Path) -> None:
    model, processors = start_model(recipe("nano", stage=IMAGE_TEXT), ITEMS)
    assert model.config.name == "one-peace-nano" and set(processors) == {"text", "image"}
    vocabulary = model.config.modalities["text"].vocab_size
    assert 256 < vocabulary <= 300
    assert weights(model)["encoder.adapters.text.tokens.weight"].shape[0] == vocabulary
    # a tokenizer learns from training captions only: another test caption changes nothing
    changed = [*ITEMS[:4], dataclasses.replace(ITEMS[4], texts={"en": ["zebra zebra zebra"]})]
    _, others = start_model(recipe("nano", stage=IMAGE_TEXT), changed)
    for folder, made in (("a", processors), ("b", others)):
        (tmp_path / folder).mkdir()
        made["text"].save(tmp_path / folder)
    first, second = (sorted(p.read_bytes() for p in (tmp_path / f).iterdir()) for f in "ab")
    assert first and first == second


def test_the_built_in_model_can_be_trained_on() -> None:
    known = from_pretrained("one-peace-nano")
    model, processors = start_model(recipe("one-peace-nano", stage=IMAGE_TEXT), [])
    assert model.config.decoder is not None and {"text", "image"} <= set(processors)
    started = weights(model.encoder)
    assert all(torch.equal(started[name], value.float()) for name, value in weights(known.encoder).items())


def test_tensors_that_do_not_fit_are_named(tmp_path: Path, plain: Path) -> None:
    tensors = load_file(plain / "model.safetensors")
    lost, bent = "fusion.blocks.0.attention.q_bias", "fusion.blocks.1.attention.v_bias"
    del tensors[lost]
    tensors |= {bent: torch.zeros(3), "extra.weight": torch.zeros(1)}
    for file in plain.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    save_file(tensors, tmp_path / "model.safetensors")
    with pytest.raises(CheckpointError) as caught:
        start_model(recipe(tmp_path), [])
    message = str(caught.value)
    assert f"{lost}: missing" in message and f"{bent}: shape (3,), expected (32,)" in message
    assert "encoder.extra.weight: unexpected" in message and "3 tensors" in message


def test_what_is_no_model_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file.pt").write_bytes(b"")
    with pytest.raises(CheckpointError, match="file.pt"):
        start_model(recipe(tmp_path / "file.pt"), [])
    with pytest.raises(CheckpointError, match=r"no config.json in this folder"):
        start_model(recipe(tmp_path), [])
    with pytest.raises(ValueError, match="unknown model 'nanoo'.*presets are nano, tiny"):
        start_model(recipe("nanoo"), [])


def test_a_partner_is_new_until_it_was_trained(plain: Path, tmp_path: Path) -> None:
    """What decides whether an audio front end is fitted, or kept as the model has it."""
    assert partner_is_new(recipe("nano")) and partner_is_new(recipe(plain))
    save_for_training(*start_model(recipe(plain), []), tmp_path / "model")
    assert not partner_is_new(recipe(tmp_path / "model"))


def test_the_temperature_starts_anew_where_the_recipe_says_so(tmp_path: Path) -> None:
    model = tiny_model()
    model.encoder.logit_scale.data.fill_(1.25)
    save_for_training(model, PROCESSORS, tmp_path / "model")
    kept, renewed = (start_model(recipe(tmp_path / "model", reset_temperature=r), [])[0] for r in (False, True))
    assert kept.encoder.logit_scale == 1.25
    assert renewed.encoder.logit_scale.item() == pytest.approx(math.log(1 / 0.07))


def test_an_unknown_source_of_experts_is_refused(plain: Path) -> None:
    with pytest.raises(ValueError, match="expert_from='smell': the model has text, image"):
        start_model(recipe(plain, expert_from="smell"), [])


def test_a_trained_partner_is_not_overwritten(plain: Path, tmp_path: Path) -> None:
    """Somebody who goes on with the same recipe would lose all of it, and learn so from the losses alone."""
    save_for_training(*start_model(recipe(plain, expert_from="image"), []), tmp_path / "model")
    with pytest.raises(ValueError, match="would overwrite the trained audio side of .*; leave expert_from out"):
        start_model(recipe(tmp_path / "model", expert_from="image"), [])
    start_model(recipe(tmp_path / "model"), [])


def test_an_official_file_starts_a_run_with_a_vocabulary(plain: Path, tmp_path: Path) -> None:
    official = tmp_path / "official.pt"
    convert(plain, official)
    with pytest.raises(CheckpointError, match="no vocabulary beside it; give tokenizer=FOLDER"):
        start_model(recipe(official), [])
    model, processors = start_model(recipe(official, tokenizer=str(plain)), [])
    expected, _ = start_model(recipe(plain), [])
    assert isinstance(processors["text"], TextProcessor) and model.config.decoder is not None
    assert all(torch.equal(value, weights(expected)[name]) for name, value in weights(model).items())


def test_a_fresh_model_can_take_a_vocabulary(plain: Path, tmp_path: Path) -> None:
    model, processors = start_model(recipe("nano", stage=IMAGE_TEXT, tokenizer=str(plain)), [])
    text = processors["text"]
    assert isinstance(text, TextProcessor)
    assert len(weights(model)["encoder.adapters.text.tokens.weight"]) == text.tokenizer.vocab_size
    with pytest.raises(ValueError, match=r"tokenizer=.*: holds no vocabulary .tokenizer.json"):
        start_model(recipe("nano", stage=IMAGE_TEXT, tokenizer=str(tmp_path)), [])


class NoRoom(Exception):
    pass


def test_a_model_is_written_tensor_by_tensor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was there before stays when the disk is full half-way."""
    model = tiny_model(seed=1)
    save_for_training(model, PROCESSORS, tmp_path / "model")
    before = load_file(tmp_path / "model" / "model.safetensors")
    read = 0

    def some(parameter: Tensor) -> Tensor:
        nonlocal read
        read += 1
        if read > 20:
            raise NoRoom
        return parameter.detach()

    monkeypatch.setattr(lora, "whole_tensor", some)
    with pytest.raises(NoRoom):
        save_for_training(tiny_model(seed=2), PROCESSORS, tmp_path / "model")
    after = load_file(tmp_path / "model" / "model.safetensors")
    assert all(torch.equal(value, after[name]) for name, value in before.items())
    assert [path.name for path in tmp_path.iterdir()] == ["model"]
