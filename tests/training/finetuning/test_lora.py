"""Low-rank changes: they start as nothing, learn alone, survive an interruption, and are merged into what is saved."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from one_peace.models.one_peace.interface import OnePeace
from one_peace.models.one_peace.loading import from_pretrained
from one_peace.models.one_peace.model import OnePeaceEncoder
from one_peace.models.one_peace.prediction import OnePeaceForPrediction
from one_peace.nn.attention import Attention
from one_peace.nn.lora import LoRALinear
from one_peace.tasks.kinds import TaskSettings
from one_peace.tasks.predictor import Predictor
from one_peace.training.finetuning.lora import LoRARecipe, add_lora, count_trained, merged_tensors
from one_peace.training.finetuning.recipe import FinetuneRecipe
from one_peace.training.finetuning.run import finetune, start_model
from one_peace.training.saving import save_for_training
from run_folders import interrupt_at, untimed_log
from tiny_models import CONFIG, tiny_processors

COLOURS = {"red": (200, 30, 30), "blue": (30, 30, 200)}


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random encoder, saved, with a table of pictures beside it."""
    folder = tmp_path_factory.mktemp("base")
    torch.manual_seed(0)
    encoder = OnePeaceEncoder(dataclasses.replace(CONFIG, decoder=None))
    OnePeace(encoder, tiny_processors()).save_pretrained(folder / "model")
    lines = ["image,label"]
    for name, colour in COLOURS.items():
        for shade in range(4):
            Image.new("RGB", (64, 64), tuple(c + 8 * shade for c in colour)).save(folder / f"{name}{shade}.png")
            lines.append(f"{name}{shade}.png,{name}")
    (folder / "train.csv").write_text("\n".join(lines) + "\n")
    return folder


def recipe(base: Path, **changes: Any) -> FinetuneRecipe:
    values: dict[str, Any] = {
        "task": {"kind": "classification"},
        "model": str(base / "model"),
        "tables": {"root": str(base), "train": "train.csv"},
        "epochs": 4,
        "batch_size": 4,
        "optimizer": {"lr": 1e-2},
        "lora": {"rank": 2, "alpha": 4},
        "log_every": 1,
    }
    return FinetuneRecipe.from_dict(values | changes)


def started(base: Path, **changes: Any) -> tuple[OnePeaceForPrediction, OnePeaceForPrediction, dict[str, Any]]:
    """The model without and with changes, and a batch for both."""
    chosen = recipe(base, **changes)
    settings = chosen.settings(base / "cache")
    plain, processors = start_model(chosen, settings)
    changed, _ = start_model(chosen, settings)
    assert chosen.lora is not None
    add_lora(changed, chosen.lora, 1)
    task = settings.build(processors)
    batch = task.collate([task.example({"image": base / f"{name}0.png"}, name) for name in COLOURS])
    return plain.eval(), changed.eval(), batch.inputs


def randomise(model: torch.nn.Module) -> None:
    for module in model.modules():
        if isinstance(module, LoRALinear):
            torch.nn.init.normal_(module.low_rank_up, std=0.3)


def test_starts_as_the_model_that_it_changes(base: Path) -> None:
    plain, changed, inputs = started(base)
    with torch.no_grad():
        assert torch.equal(plain(inputs), changed(inputs))
        randomise(changed)
        assert not torch.allclose(plain(inputs), changed(inputs), atol=1e-3)


@pytest.mark.parametrize(
    ("parts", "layers"),
    [(["attention"], {"qkv", "out"}), (["experts"], {"gate", "up", "down"}), (["attention", "experts"], None)],
)
def test_the_parts_asked_for_and_what_is_new_are_trained(base: Path, parts: list[str], layers: set[str] | None) -> None:
    plain, changed, _ = started(base, lora={"rank": 2, "parts": parts})
    found = {name for name, p in changed.named_parameters() if p.requires_grad and not name.startswith("head.")}
    assert found and all("low_rank_" in name for name in found)
    assert {name.split(".")[-2] for name in found} == (layers or {"qkv", "out", "gate", "up", "down"})
    heads = [p.requires_grad for name, p in changed.named_parameters() if name.startswith("head.")]
    assert heads and all(heads)
    trained, every = count_trained(changed)
    added = sum(p.numel() for name, p in changed.named_parameters() if name in found)
    assert trained == added + sum(p.numel() for p in plain.head.parameters())
    assert every == added + count_trained(plain)[1]


def test_merged_is_the_same_as_unmerged(base: Path, tmp_path: Path) -> None:
    _, changed, inputs = started(base)
    randomise(changed)
    settings = TaskSettings("classification", labels=tuple(COLOURS))
    save_for_training(changed, {"image": tiny_processors()["image"]}, tmp_path / "model")
    settings.save(tmp_path / "model")
    merged = Predictor.from_pretrained(tmp_path / "model").model
    assert not any(isinstance(module, LoRALinear) for module in merged.modules())
    with torch.no_grad():
        assert torch.allclose(merged(inputs), changed(inputs), rtol=1e-5, atol=1e-5)
    plain, _, _ = started(base)
    assert list(merged_tensors(changed)) == [name for name, _ in plain.named_parameters()]


def test_a_few_queries_are_those_of_all_tokens() -> None:
    """The path of attention that embeds the cls token alone is changed too."""
    torch.manual_seed(0)
    attention, x = Attention(64, 2), torch.randn(2, 5, 64)
    attention.qkv = LoRALinear(attention.qkv, rank=4, scale=2.0)
    randomise(attention)
    assert torch.allclose(attention(x)[:, :2], attention(x, queries=2), atol=1e-5)


def test_a_run_trains_the_changes_alone_continues_and_leaves_an_ordinary_model(base: Path, tmp_path: Path) -> None:
    said: list[dict[str, Any]] = []
    finetune(recipe(base), tmp_path / "whole", "cpu", said.append)
    assert 0 < said[0]["trained"] < said[0]["parameters"]
    losses = [row["total"] for row in said if "total" in row]
    assert losses[-1] < 0.5 * losses[0]
    trained = Predictor.from_pretrained(tmp_path / "whole/model")
    plain, _, _ = started(base)
    changed = {
        name for name, p in trained.model.named_parameters() if not torch.equal(p, plain.get_parameter(name).data)
    }
    inside = {name for name in changed if not name.startswith("head.")}
    assert inside and {".".join(name.split(".")[-2:]) for name in inside} == {
        f"{layer}.weight" for layer in ("qkv", "out", "gate", "up", "down")
    }
    assert any(name.startswith("head.") for name in changed)
    # half of the same run, its state, and the rest of it
    half = recipe(base, save_every=4)
    with pytest.raises(KeyboardInterrupt):
        finetune(half, tmp_path / "cut", "cpu", interrupt_at(6))
    finetune(half, tmp_path / "cut", "cpu", lambda row: None)
    files = [(tmp_path / run / "model/model.safetensors").read_bytes() for run in ("whole", "cut")]
    assert files[0] == files[1]
    steps = [row["step"] for row in untimed_log(tmp_path / "cut")]
    assert steps == list(range(1, 9)), "the log goes on where the state was saved"
    encoder = from_pretrained(tmp_path / "whole/model").encoder  # and its encoder loads as any other
    assert not any("low_rank" in name for name, _ in encoder.named_parameters())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"lora": {"rank": 0}}, "must be positive"),
        ({"lora": {"parts": ["attenton"]}}, "lora.parts: 'attenton'; a list of some of attention, experts"),
        ({"lora": {"rnak": 4}}, "unknown key 'rnak'; the nearest is 'rank'"),
        ({"freeze": True}, "freeze trains the head alone, lora the blocks too"),
    ],
)
def test_wrong_settings(base: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        recipe(base, **changes)


def test_recipes_survive_yaml(base: Path) -> None:
    chosen = recipe(base)
    assert FinetuneRecipe.from_dict(json.loads(json.dumps(dataclasses.asdict(chosen)))) == chosen
    assert chosen.lora == LoRARecipe(2, 4)
