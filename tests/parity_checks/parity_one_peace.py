"""The ONE-PEACE checks of `parity.py` that concern encoding: features, losses, tables.

The fixtures come from the published code, which lets padding leak in two places; the models here are built with
`exact_padding` and `mask_padding` off. That the exact form gives a padded clip the features of the clip alone is
checked beside it.
"""

from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from one_peace.checkpoints.assign import assign_tensors
from one_peace.checkpoints.one_peace.official import OfficialCheckpoint, read_official
from one_peace.models.one_peace.config import OnePeaceConfig
from one_peace.models.one_peace.loading import SavedModel, load_encoder, load_predictor
from one_peace.models.one_peace.model import OnePeaceEncoder
from one_peace.models.one_peace.prediction import OnePeaceForPrediction
from one_peace.nn.relative_position import grid_buckets, offset_buckets
from one_peace.nn.resize import resize_bias_table, resize_positions
from one_peace.objectives.contrast import cross_modal_contrast
from parity import Check, Comparison
from parity_files import Fixture


def read(fixture: Fixture) -> OfficialCheckpoint:
    """The fixture's weights and settings through an official container file, the way users load them."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"{fixture.path.stem}.pt"
        torch.save({"cfg": {"model": fixture.meta["cfg"]}, "model": fixture.group("weights.")}, path)
        return read_official(path)


def reference_config(checkpoint: OfficialCheckpoint) -> OnePeaceConfig:
    """The checkpoint's configuration, with the published code's padding."""
    config = OnePeaceConfig.from_dict(checkpoint.config)
    modalities = dict(config.modalities)
    if "audio" in modalities:
        modalities["audio"] = dataclasses.replace(modalities["audio"], exact_padding=False)
    decoder = dataclasses.replace(config.decoder, mask_padding=False) if config.decoder else None
    return dataclasses.replace(config, modalities=modalities, decoder=decoder, drop_path=0.0)


def load(model: type[Any], checkpoint: OfficialCheckpoint, config: OnePeaceConfig) -> Any:
    """A model of this class with the checkpoint's weights, as users get it; a bare encoder from any checkpoint."""
    source = SavedModel(checkpoint.path, config, checkpoint.tensors, checkpoint.unknown)
    if model is OnePeaceEncoder:
        return load_encoder(source, dataclasses.replace(config, decoder=None, head=None)).eval()
    if model is OnePeaceForPrediction:
        return load_predictor(source, config)
    with torch.device("meta"):
        module = model(config)
    assign_tensors(module, checkpoint.tensors)
    return module.eval()


def batches(fixture: Fixture) -> dict[str, dict[str, Tensor]]:
    """The fixture's inputs by modality, the second picture of a pair beside the first."""
    inputs = {}
    if "in.src_tokens" in fixture.tensors:
        inputs["text"] = {"tokens": fixture["in.src_tokens"]}
    for name, key in (("image", "in.src_images"), ("second_image", "in.src_images_2")):
        if key in fixture.tensors:
            inputs[name] = {"pixels": fixture[key]}
    if "in.src_audios" in fixture.tensors:
        inputs["audio"] = {"waveform": fixture["in.src_audios"]}
        if "in.audio_padding_masks" in fixture.tensors:
            inputs["audio"]["padding"] = fixture["in.audio_padding_masks"]
    return inputs


@torch.no_grad()
def check_retrieval(fixture: Fixture, compare: Comparison) -> None:
    """Features of every modality, each intermediate tensor that the file has, contrastive losses."""
    checkpoint = read(fixture)
    model = load(OnePeaceEncoder, checkpoint, reference_config(checkpoint))
    if model.config.layers > 1:
        compare.exact("a table for each layer", model.config.per_layer_bias, fixture.meta["copy_rel_pos_table"])
    inputs = batches(fixture)
    vectors = {}
    for name in model.adapters:
        vectors[name] = model.embed(name, inputs[name])
        compare.feature(f"{name} features", vectors[name], fixture[f"out.{name}_logits"])
        check_taps(fixture, compare, model, name, inputs[name])
    if "out.audio_logits_third_alone" in fixture.tensors:
        check_padded_clip(fixture, compare, model)
    compare.loss("temperature", model.temperature(), fixture["out.logit_scale_exp"])
    check_contrast(fixture, compare, vectors, model.temperature())


def check_contrast(fixture: Fixture, compare: Comparison, vectors: Mapping[str, Tensor], temperature: Tensor) -> None:
    """Losses and right answers of the first texts with what goes with them, for every smoothing in the file."""
    pairs = {"itc": ("image", "i2t", "t2i"), "atc": ("audio", "a2t", "t2a")}
    for name in [name for name in fixture.tensors if "_loss_ls" in name]:
        term, smoothing = name.removeprefix("out.").split("_loss_ls")
        other, forward, backward = pairs[term]
        texts = vectors["text"][: len(vectors[other])]
        result = cross_modal_contrast(vectors[other], texts, temperature, float(smoothing))
        compare.loss(name, result.loss, fixture[name], 2e-6)  # float32 at temperatures up to 100
        counts = {forward: result.first_to_second_correct, backward: result.second_to_first_correct}
        for direction, ours in counts.items():
            theirs = fixture.tensors.get(f"out.{direction}_ncorrect_ls{smoothing}")
            if theirs is not None:
                compare.exact(f"{direction} right", float(ours), float(theirs))


def check_taps(
    fixture: Fixture, compare: Comparison, model: OnePeaceEncoder, name: str, inputs: Mapping[str, Tensor]
) -> None:
    taps = fixture.group(f"tap.{name}.")
    if not taps:
        return
    tokens = model.adapters[name](inputs)
    compare.activation(f"{name} adapter", tokens.features, taps[f"{name}_adapter.x"])
    padding = tokens.padding if tokens.padding is not None else torch.zeros(tokens.features.shape[:2]).bool()
    compare.exact(f"{name} padding", padding, taps[f"{name}_adapter.padding_mask"])
    compare.feature(f"{name} bias", tokens.bias[0][0], taps[f"{name}_adapter.attn_bias0"])
    outputs: list[Tensor] = []
    hooks = [block.register_forward_hook(lambda _, __, out: outputs.append(out)) for block in model.fusion.blocks]
    features = model.fusion({name: tokens})[name]
    for hook in hooks:
        hook.remove()
    for index, output in enumerate(outputs):
        compare.activation(f"{name} block {index}", output, taps[f"layer{index}"])
    compare.activation(f"{name} encoder", features, taps["encoder_out"])
    named = {f"{name}_adapter.{part}" for part in ("x", "padding_mask", "attn_bias0")} | {"encoder_out"}
    compare.exact(f"{name} taps", {*taps}, named | {f"layer{index}" for index in range(len(outputs))})
    if name == "image":
        for index, grid in enumerate(model.patch_grids(inputs["pixels"], range(len(outputs)))):
            compare.activation(f"patch grid {index}", grid.flatten(2).transpose(1, 2), taps[f"layer{index}"][:, 1:])


def check_padded_clip(fixture: Fixture, compare: Comparison, model: OnePeaceEncoder) -> None:
    """The third clip alone, and, by our exact padding, the same features for it inside the padded batch."""
    alone = fixture["out.audio_logits_third_alone"]
    waveform = fixture["in.src_audios"][2:3]
    samples = int(waveform[0].nonzero().max()) + 1
    compare.feature("clip alone", model.embed("audio", {"waveform": waveform[:, :samples]}), alone)
    adapter = model.adapters["audio"]
    adapter.exact_padding = True
    compare.feature("exact padding", model.embed("audio", batches(fixture)["audio"])[2:3], alone)
    adapter.exact_padding = False


@torch.no_grad()
def check_resolution(fixture: Fixture, compare: Comparison) -> None:
    """Weights of a smaller resolution loaded into a larger one."""
    checkpoint = read(fixture)
    config = dataclasses.replace(reference_config(checkpoint), decoder=None)
    shape = dataclasses.replace(config.modalities["image"], bias_grid=fixture.meta["rel_bucket"])
    config = dataclasses.replace(
        config,
        modalities={**config.modalities, "image": shape},
        per_layer_bias=fixture.meta["copy_rel_pos_table"],
    )
    model = load(OnePeaceEncoder, checkpoint, config)
    inputs = batches(fixture)
    for name, batch in inputs.items():
        compare.feature(f"{name} features", model.embed(name, batch), fixture[f"out.{name}_logits"])
    adapter = model.adapters["image"]
    tokens = adapter(inputs["image"])
    compare.feature("adapter", tokens.features, fixture["out.adapter_x"])
    compare.feature("bias", tokens.bias[0][0], fixture["out.attn_bias0"])
    compare.exact("tables", len(adapter.bias.tables), int(fixture["out.n_tables"]))
    for name, theirs in fixture.group("out.loaded.rel_pos_table_list.").items():
        compare.feature(f"table {name}", adapter.bias.tables[int(name)], theirs, 1e-6)


def check_tables(fixture: Fixture, compare: Comparison) -> None:
    for name, theirs in fixture.group("out.").items():
        table, _, grid = name.rpartition("_")
        if table == "rel_pos_table":
            ours = resize_bias_table(fixture["in.rel_pos_table"], int(grid))
        elif table in ("pos_embed", "runtime_pos_embed"):
            ours = resize_positions(fixture["in.pos_embed"], (int(grid), int(grid)))
        else:
            raise ValueError(f"{name}: no table of this kind")
        compare.feature(name, ours, theirs, 1e-6)


def check_buckets(fixture: Fixture, compare: Comparison) -> None:
    for name, theirs in fixture.tensors.items():
        kind, number, *rest = name.split("_")
        if kind == "image":
            side = int(number)
            compare.exact(name, grid_buckets(side, side, side)[: theirs.shape[0], : theirs.shape[1]], theirs)
        else:  # the raw bucket depends on the offset alone: the first token's row and column show all of them
            ours = offset_buckets(int(number), len(theirs))
            compare.exact(name, {"row0": ours[0], "col0": ours[:, 0]}[rest[0]], theirs)


CHECKS: dict[str, Check] = {
    "fixture1_retrieval": check_retrieval,
    "fixture6_resolution": check_resolution,
    "fixture6_tables": check_tables,
    "fixture_x_rel_pos_buckets": check_buckets,
}
