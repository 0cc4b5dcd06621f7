"""Checks of MiCo for `parity.py`: official checkpoints, their names and shapes, their other towers."""

from __future__ import annotations

import math
import tempfile
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import golden_mico as golden
from one_peace.checkpoints.assign import assign_tensors
from one_peace.checkpoints.convert import convert
from one_peace.checkpoints.mico.names import current_name, tied_to, to_native, to_official
from one_peace.checkpoints.mico.official import fit_tables, read_mico
from one_peace.checkpoints.name_table import Kind, Target
from one_peace.checkpoints.pickles import load_pickle
from one_peace.checkpoints.pieces import sort_pieces
from one_peace.models.mico.audio_encoders import Ast, Beats
from one_peace.models.mico.config import AstConfig, BeatsConfig, TowerConfig
from one_peace.models.mico.model import MiCoModel
from one_peace.models.mico.presets import preset
from one_peace.models.mico.tower import Tower
from parity import Check, Comparison
from parity_files import Fixture
from parity_mico import facts


def check_renames(fixture: Fixture, compare: Comparison) -> None:
    """Names of older checkpoints, and tables in the sizes of the settings."""
    config = facts(fixture)["config"]
    given, wanted = fixture.group("in."), fixture.group("out.")
    names = {name: current_name(name) for name in given}
    compare.exact("names", sorted(names.values()), sorted(wanted))
    tensors = {}
    for name, tensor in given.items():
        target = to_native(names[name])
        if isinstance(target, Target):
            tensors[target.name] = [tensor]
        else:  # cast to float32, as everything is
            compare.feature(name, tensor.float(), wanted[names[name]].float())
    patch = given[next(name for name in given if name.endswith("patch_embed.proj.weight"))].shape[-1]
    sizes = {"image_size": config["vision_resolution"], "patch": patch}
    resized = ("vision", "audio") if config["frame_embedding_type"] == "adaptive" else ()
    frames = {branch: config[f"max_{branch}_sample_num"] for branch in resized}
    fitted = fit_tables(tensors, {"tower": sizes, "frames": frames})
    for name, expected in wanted.items():
        target = to_native(name)
        if isinstance(target, Target):
            compare.feature(name, fitted[target.name][0], expected)


@torch.no_grad()
def check_eva02(fixture: Fixture, compare: Comparison) -> None:
    """A tower of any kind, by the official names; the angles of one with rotary positions."""
    config = facts(fixture)["vision_cfg"]
    eva02 = bool(config.get("rope"))
    state = {f"vision_encoder.visual.{name}": tensor for name, tensor in fixture.group("w.").items()}
    weights = sort_pieces(state, to_native, partial(to_official, eva02=eva02))
    compare.exact("unknown names", weights.unknown, ())
    tower = Tower(
        TowerConfig(
            width=config["width"],
            layers=config["layers"],
            heads=config["width"] // config["head_width"],
            ffn_width=int(config["width"] * config["mlp_ratio"]),
            patch=config["patch_size"],
            image_size=fixture["input"].shape[-1],
            kind="eva02" if eva02 else "post_norm" if config.get("postnorm") else "eva01",
            rotary_grid=config.get("pt_hw_seq_len", 16),
        )
    )
    fill(tower, {name.removeprefix("tower."): parts for name, parts in weights.tensors.items()})
    compare.feature("tokens", tower.eval()(fixture["input"]), fixture["tokens"])
    angles = tower.rotary(torch.device("cpu"))
    if angles is not None:
        for name, table in zip(("cos", "sin"), angles, strict=True):
            compare.feature(name, table[1:], fixture[f"rope.freqs_{name}"])


def fill(module: torch.nn.Module, tensors: dict[str, list[Tensor]]) -> None:
    report = assign_tensors(module, tensors)
    assert not report.missing, report.missing


@torch.no_grad()
def check_audio_encoders(fixture: Fixture, compare: Comparison) -> None:
    """BEATs and AST of the captioners, by the official names."""
    meta, slices = facts(fixture), fixture["spectrogram"]
    beats, ast = meta["beats"], meta["ast"]
    modules: dict[str, Beats | Ast] = {
        "beats": Beats(
            BeatsConfig(
                width=beats["encoder_embed_dim"],
                layers=beats["encoder_layers"],
                heads=beats["encoder_attention_heads"],
                ffn_width=beats["encoder_ffn_embed_dim"],
                patch_width=beats["embed_dim"],
                position_kernel=beats["conv_pos"],
                position_groups=beats["conv_pos_groups"],
                buckets=beats["num_buckets"],
                max_distance=beats["max_distance"],
            )
        ),
        "ast": Ast(
            AstConfig(
                width=ast["hidden_size"],
                layers=ast["num_hidden_layers"],
                heads=ast["num_attention_heads"],
                ffn_width=ast["intermediate_size"],
                mel_bins=ast["audio_melbins"],
                frames=ast["audio_target_length"],
            )
        ),
    }
    for name, module in modules.items():
        prefix = "audio_encoder." if name == "beats" else ""
        state = {prefix + key: tensor for key, tensor in fixture.group(f"{name}.w.").items()}
        weights = sort_pieces(state, to_native, to_official)
        compare.exact(f"{name} unknown names", weights.unknown, ())
        fill(module, {key.removeprefix(f"{name}."): parts for key, parts in weights.tensors.items()})
        features = module.eval()(slices.flatten(0, 1)).unflatten(0, slices.shape[:2])
        compare.feature(f"{name} tokens", features, fixture[f"{name}.tokens"])
        compare.feature(f"{name} pooled", module.pool(features), fixture[f"{name}.pooled"])
    beats_module = modules["beats"]
    assert isinstance(beats_module, Beats)
    bias = fixture["beats.pos_bias_layer0"]
    compare.feature("position bias", beats_module.position_bias(bias.shape[-1]), bias)


def check_official_size(fixture: Fixture, compare: Comparison) -> None:
    """Names and shapes of the published model, on no memory; the number of its parameters."""
    values = fixture.meta
    with torch.device("meta"):
        model = MiCoModel(preset("mico-giant"))
    named: dict[str, tuple[str, list[int]]] = {}
    for native, parameter in model.named_parameters():
        for number, official in enumerate(names := to_official(native)):
            rows = parameter.shape[0] // len(names) if parameter.ndim else None
            shape = list(parameter.shape) if len(names) == 1 else [rows, *parameter.shape[1:]]
            named[official] = (f"{native} {number}", shape)
    listed = {entry["name"]: entry["shape"] for entry in values["entries"]}
    unread = {name for name in listed if isinstance(to_native(name), Kind) or tied_to(name)}
    compare.exact("names", sorted(named), sorted(set(listed) - unread))
    for name, (_, shape) in named.items():
        compare.exact(f"shape of {name}", shape, listed.get(name))
    check_counts(compare, values, {name: math.prod(shape) for name, (_, shape) in named.items()})


def check_counts(compare: Comparison, values: dict[str, Any], ours: dict[str, int]) -> None:
    """Numbers of parameters in all and by group, with those that the published model has and never reads."""
    compare.exact("entries", len(values["entries"]), values["n_entries"])
    groups = dict.fromkeys(values["parameters_by_group"], 0)
    for entry in values["entries"]:
        name, count = entry["name"], math.prod(entry["shape"])
        compare.exact(f"elements of {name}", count, entry["numel"])
        compare.exact(f"{name} is a parameter", name in ours or to_native(name) is not Kind.BUFFER, entry["parameter"])
        if entry["parameter"] and not tied_to(name):
            group = next((group for group in groups if name.startswith(group)), "embeddings")
            groups[group] += ours.get(name, count)
    compare.exact("parameters by group", groups, values["parameters_by_group"])
    compare.exact("parameters", sum(groups.values()), values["n_parameters_unique"])
    without = sum(count for group, count in groups.items() if group != "vision_encoder.text")
    compare.exact("parameters but for CLIP's texts", without, values["n_parameters_without_clip_text"])


def check_weights(fixture: Fixture, compare: Comparison) -> None:
    """The small model as an official checkpoint: read, converted to our folder and back, bit for bit."""
    folder = fixture.path.parent
    listed = golden.manifest(folder)["state_dict_keys"]
    state = golden.state_dict(folder)
    compare.exact("names of the state dict", sorted(set(state)), sorted(name for name, _, _ in listed if name in state))
    with tempfile.TemporaryDirectory() as name:
        place = Path(name)
        official = golden.write_official(folder, place / "official")
        checkpoint = read_mico(official)
        compare.exact("unknown names", checkpoint.unknown, ())
        convert(official, place / "native")
        convert(place / "native", place / "again")
        before = load_pickle(official / "ckpt" / "model_step_7.pt")
        after = load_pickle(place / "again" / "ckpt" / "model_step_7.pt")
        compare.exact("names and their order", list(after), list(before))
        for name, tensor in before.items():
            compare.exact(name, after[name].dtype, tensor.dtype)
            compare.exact(name, after[name], tensor)
        for listed_name, stored in fixture.tensors.items():
            name, _, factor = listed_name.partition(".int8_times_")
            compare.exact(listed_name, after[name] * int(factor or 1), stored.float())


CHECKS: dict[str, Check] = {
    "07_checkpoint": check_renames,
    "08_eva02_tower": check_eva02,
    "09_captioner_audio_encoders": check_audio_encoders,
    "state_dict_vitg": check_official_size,
    "weights_word_embeddings": check_weights,
}
