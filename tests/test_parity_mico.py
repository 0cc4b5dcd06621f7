"""Checks of MiCo's reference numbers hold for other settings, sizes and processors than those of tests/golden."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import Tensor

import golden_mico as golden
import parity
import parity_mico_pretraining
from one_peace.checkpoints.mico.names import to_official
from one_peace.media.filter_bank import mel_filters
from one_peace.modalities.frames import STATISTICS
from one_peace.models.mico.config import TowerConfig
from one_peace.models.mico.tower import Tower

GOLDEN = Path(__file__).parent / "golden" / "mico"


def failures(folder: Path, stem: str, tensors: dict[str, Tensor], meta: dict[str, Any]) -> list[str]:
    """What the check of a file of this name says of these tensors and facts."""
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, folder / f"{stem}.safetensors")
    (folder / "manifest.json").write_text(json.dumps({"files": {f"{stem}.safetensors": {"meta": meta, "tensors": {}}}}))
    check = parity.find_check(stem)
    assert check is not None
    result = parity.run_check(folder / f"{stem}.json", check)
    assert result.count
    return result.failures


def test_data_sets_calculate_in_float64(tmp_path: Path) -> None:
    picture = torch.randint(0, 256, (150, 170, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    pixels = F.interpolate(picture.permute(2, 0, 1)[None].double() / 255, (70, 70), mode="bilinear")
    mean, deviation = (torch.tensor(values, dtype=torch.float64).view(3, 1, 1) for values in STATISTICS["clip"])
    mapped = ((pixels - mean) / deviation).float()
    tensors = {"image.noise.uint8": picture, "image.noise.dataset_mapper_clip": mapped}
    assert not failures(tmp_path, "06_image", tensors, {"noise": {}})
    mapped[0, 1, 2, 3] += 3e-5
    assert failures(tmp_path, "06_image", tensors, {"noise": {}})


def test_filters_of_many_bands_may_be_rounded_otherwise(tmp_path: Path) -> None:
    def other(number: int) -> Tensor:
        """With a mel axis that is one number of float32 away."""
        return mel_filters(number) + 8.7e-8 * (number + 1)

    assert not failures(tmp_path, "06_audio", {"mel_filterbank_224": other(224)}, {"none": {}})
    assert failures(tmp_path, "06_audio", {"mel_filterbank_64": mel_filters(64) + 3e-5}, {"none": {}})


def test_only_weak_bands_may_be_rounded_otherwise(tmp_path: Path) -> None:
    meta = {"demo_args": golden.manifest(GOLDEN)["files"]["06_audio.safetensors"]["meta"]["demo_args"]}
    sound = {"demo_args.waveform_int16": load_file(GOLDEN / "06_audio.safetensors")["demo_args.waveform_int16"]}
    logs = load_file(GOLDEN / "06_audio.safetensors")["demo_args.spectrogram"]
    silence, loudest = logs.min(), logs.argmax()
    weakest = torch.where(logs > silence + 0.1, logs, 100.0).argmin()
    for place, accepted in ((weakest, True), (loudest, False), (logs.argmin(), False)):
        changed = logs.clone()
        changed.view(-1)[place] += 5e-4
        said = failures(tmp_path, "06_audio", {**sound, "demo_args.spectrogram": changed}, meta)
        assert bool(said) is not accepted, said


def test_tables_stay_where_the_settings_are_not_adaptive(tmp_path: Path) -> None:
    tensors = load_file(GOLDEN / "07_checkpoint.safetensors")
    for ours, old in (("vision", "video"), ("audio", "audio")):
        tensors[f"out.{ours}_frame_embedding"] = tensors[f"in.{old}_frame_embedding"].clone()
    config = golden.manifest(GOLDEN)["files"]["07_checkpoint.safetensors"]["meta"]["config"]
    assert not failures(tmp_path, "07_checkpoint", tensors, {"config": config | {"frame_embedding_type": "none"}})


def test_a_tower_without_rotary_positions(tmp_path: Path) -> None:
    torch.manual_seed(0)
    tower = Tower(TowerConfig(32, 2, 2, 64, 14, 28, kind="post_norm")).eval()
    tower.initialise()
    tensors = {"input": torch.randn(2, 3, 28, 28)}
    with torch.no_grad():
        tensors["tokens"] = tower(tensors["input"])
    for name, parameter in tower.named_parameters():
        (official,) = to_official(f"tower.{name}")
        tensors[official.replace("vision_encoder.visual", "w")] = parameter.detach()
    sizes = {"width": 32, "layers": 2, "head_width": 16, "mlp_ratio": 2.0, "patch_size": 14, "postnorm": True}
    assert not failures(tmp_path, "08_eva02_tower", tensors, {"vision_cfg": sizes})


def test_groups_of_a_model_without_a_table_of_frames() -> None:
    frames = golden.checkpoint(GOLDEN).config["frames"] | {"vision": 0}
    recipe = golden.manifest(GOLDEN)["files"]["04_losses.safetensors"]["meta"]["optimizer"]
    compare = parity.Comparison()
    parity_mico_pretraining.check_groups(recipe, compare, golden.model(GOLDEN, frames=frames))
    assert compare.count and not compare.failures


def test_norms_of_many_numbers_may_be_added_otherwise() -> None:
    model = golden.model(GOLDEN)
    for parameter in model.parameters():
        parameter.grad = torch.full_like(parameter, 1e-3)
    words, bias = (
        f"multimodal_encoder.{name}" for name in ("bert.embeddings.word_embeddings.weight", "cls.predictions.bias")
    )
    whole = torch.stack([p.grad.norm() for p in model.parameters() if p.grad is not None]).norm().item()
    norms = {
        "__global__": whole,
        **{name: parity_mico_pretraining.gradient(model, name).norm().item() for name in (words, bias)},
    }
    for name, accepted in ((words, True), (bias, False)):
        compare = parity.Comparison()
        parity_mico_pretraining.check_gradients(compare, "task", model, norms | {name: norms[name] * (1 + 2e-4)})
        assert bool(compare.failures) is not accepted, compare.failures


def test_losses_are_those_of_float32(tmp_path: Path) -> None:
    manifest = json.loads((GOLDEN / "manifest.json").read_text())
    for name in ("weights", "weights_word_embeddings", "04_losses"):
        (tmp_path / f"{name}.safetensors").symlink_to((GOLDEN / f"{name}.safetensors").resolve())
    facts = manifest["files"]["04_losses.safetensors"]["meta"]
    facts["losses"] = {"cap%ta": facts["losses"]["cap%ta"]}
    for factor, accepted in ((1.0, True), (1 + 8e-6, False)):
        facts["losses"]["cap%ta"]["loss_cap"] *= factor
        (tmp_path / "manifest.json").write_text(json.dumps(manifest))
        golden.manifest.cache_clear()
        result = parity.run_check(tmp_path / "04_losses.json", parity_mico_pretraining.check_losses)
        assert bool(result.failures) is not accepted, result.failures
