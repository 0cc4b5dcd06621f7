"""The OFA checks of `parity.py`: model, positions, names."""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections import Counter
from collections.abc import Callable, Mapping

import torch
from safetensors.torch import load_file
from torch import Tensor

import golden_ofa
from one_peace.checkpoints.name_table import Kind, Target
from one_peace.checkpoints.ofa.config import official_settings
from one_peace.checkpoints.ofa.names import TIED, from_port, to_native, to_official, to_port
from one_peace.checkpoints.ofa.official import published_buffer
from one_peace.generation.beam import beam_search
from one_peace.generation.settings import GenerationSettings
from one_peace.modalities.tokenization import BOS_ID, EOS_ID, PAD_ID
from one_peace.models.ofa.encoder import Encoded
from one_peace.models.ofa.layers import CrossAttention, KeysValues
from one_peace.models.ofa.model import OfaModel
from one_peace.models.ofa.presets import preset
from one_peace.nn.grid_positions import code_positions, image_buckets
from one_peace.nn.relative_position import offset_buckets
from parity import Check, Comparison
from parity_files import Fixture


def close(compare: Comparison, name: str, ours: Tensor, theirs: Tensor) -> None:
    """At most 1e-5 absolute, or of the largest value where values are large: the noise of float32."""
    compare.feature(name, ours, theirs, 1e-5 * max(1.0, theirs.abs().max().item() if theirs.numel() else 0.0))


def facts_of(fixture: Fixture) -> dict[str, object]:
    """The manifest's entry for a fixture."""
    found: dict[str, object] = golden_ofa.manifest(fixture.path.parent)["files"][f"{fixture.path.stem}.safetensors"]
    return found


def changes_of(fixture: Fixture) -> dict[str, object]:
    """Settings that a note in the manifest gives, such as `interpolate_position=True, orig_patch_image_size=32`."""
    note = str(facts_of(fixture).get("note", ""))
    names = "|".join(golden_ofa.manifest(fixture.path.parent)["args"]) + "|interpolate_position"
    return {key: json.loads(value.lower()) for key, value in re.findall(rf"\b({names})=(\w+)", note)}


def encode(model: OfaModel, inputs: dict[str, Tensor]) -> Encoded:
    """The encoder's output for the inputs of an encoder fixture."""
    return model.encode(
        inputs["src_tokens"], inputs.get("patch_images"), inputs.get("patch_masks"), inputs.get("patch_orders")
    )


def states(module: torch.nn.Module, run: Callable[[], object]) -> list[Tensor]:
    """What goes into the first layer of a stack, and what comes out of each."""
    seen: list[Tensor] = []
    layers = list(module.layers)
    hooks = [layers[0].register_forward_pre_hook(lambda _, args: seen.append(args[0]))]
    hooks += [layer.register_forward_hook(lambda _, __, out: seen.append(out)) for layer in layers]
    run()
    for hook in hooks:
        hook.remove()
    return seen


@torch.no_grad()
def check_encoder(fixture: Fixture, compare: Comparison) -> None:
    """Trunk, the state after every layer, output, padding, normalised positions."""
    model = golden_ofa.model(fixture.path.parent, **changes_of(fixture))
    results: list[Encoded] = []
    seen = states(model.encoder, lambda: results.append(encode(model, fixture.tensors)))
    encoded = results[0]
    if "resnet_out" in fixture.tensors:
        close(compare, "trunk", model.encoder.trunk(fixture["patch_images"]), fixture["resnet_out"])
    for index, state in enumerate(seen):
        close(compare, f"state {index}", state, fixture[f"state_{index}"])
    close(compare, "output", encoded.features, fixture["encoder_out"])
    padding = torch.zeros(encoded.features.shape[:2]).bool() if encoded.padding is None else encoded.padding
    compare.exact("padding", padding, fixture["encoder_padding_mask"])
    positions = fixture["position_embeddings"]
    close(compare, "positions", encoded.positions.expand_as(positions), positions)


@torch.no_grad()
def check_decoder(fixture: Fixture, compare: Comparison) -> None:
    """Logits, features, the state after every layer, cross-attention; and that decoding by token gives the same."""
    model = golden_ofa.model(fixture.path.parent, **changes_of(fixture))
    encoded = encode(model, load_file(fixture.path.with_name(f"{facts_of(fixture)['encoder']}.safetensors")))
    previous, codes = fixture["prev_output_tokens"], fixture.tensors.get("code_masks")
    weights: list[Tensor] = []
    attention = model.decoder.layers[-1].cross
    factor = model.config.position_scale
    hook = attention.register_forward_pre_hook(
        lambda _, args: weights.append(attention_weights(attention, factor, *args))
    )
    results: list[Tensor] = []
    seen = states(model.decoder, lambda: results.append(model.decode(previous, encoded, codes)))
    hook.remove()
    close(compare, "logits", results[0], fixture["logits"])
    for index, state in enumerate(seen):
        close(compare, f"state {index}", state, fixture[f"inner_{index}"])
    close(compare, "features", model.decoder.norm(seen[-1]), fixture["features"])
    close(compare, "cross attention", weights[0].mean(dim=1), fixture["cross_attn_last_layer_mean"])
    check_steps(compare, model, encoded, previous, codes, fixture["logits"])


def attention_weights(
    attention: CrossAttention, factor: float, x: Tensor, keys_values: KeysValues, bias: Tensor
) -> Tensor:
    """What a cross-attention weighs its inputs with, (batch, heads, tokens, inputs), by the formula; `factor` is the
    model's `position_scale`."""
    (q,) = attention.split(attention.query(x), 1)
    logits = q * (factor * q.shape[-1]) ** -0.5 @ keys_values[0].transpose(2, 3) + bias
    return logits.softmax(dim=-1)


def check_steps(
    compare: Comparison, model: OfaModel, encoded: Encoded, previous: Tensor, codes: Tensor | None, logits: Tensor
) -> None:
    """Token by token with the cache, rows of one kind at a time, as far as a row has tokens."""
    kinds = torch.zeros(len(previous), dtype=torch.bool) if codes is None else codes
    for kind in kinds.unique().tolist():
        rows = (kinds == kind).nonzero()[:, 0]
        cache = model.start(encoded.rows(rows), codes=kind)
        for step in range(previous.shape[1]):
            real = previous[rows, step] != PAD_ID
            ours = cache.step(previous[rows, step : step + 1])
            close(compare, f"step {step}", ours[real], logits[rows, step][real])


@torch.no_grad()
def check_full(fixture: Fixture, compare: Comparison) -> None:
    """A model of official size whose weights and picture are regenerated from their names."""
    seed = fixture.meta["seed"]
    config = preset("ofa-tiny")
    with torch.device("meta"):
        empty = OfaModel(config)
    state = golden_ofa.hashed_state(
        {name: list(t.shape) for name, t in official_tensors(empty.state_dict()).items()}, seed
    )
    for name, values in fixture.meta["weight_probe"].items():
        compare.exact(f"weights {name}", state[name].flatten()[: len(values)], torch.tensor(values))
    note = str(facts_of(fixture)["note"])
    size = [int(n) for n in re.search(r"reshaped \(([\d, ]+)\)", note)[1].split(",")]
    every = int(re.search(r"every (\d+)th position", note)[1])
    image = golden_ofa.hash_uniform("image", math.prod(size), seed).view(size)
    compare.exact("image", image.flatten()[: fixture["image_probe"].numel()], fixture["image_probe"])
    model = golden_ofa.filled(config, state)
    tokens, previous = fixture["src_tokens"], fixture["prev_output_tokens"]
    encoded = model.encode(tokens, image, torch.ones(len(tokens), dtype=torch.bool))
    close(compare, "encoder", encoded.features[:, ::every], fixture["encoder_out"])
    close(compare, "sum", encoded.features.sum().view(1), fixture["encoder_sum"])
    logits = model.decode(previous, encoded)
    compare.exact("most likely", logits.argmax(dim=2), fixture["logits_argmax"])
    close(compare, "normaliser", logits.logsumexp(dim=2), fixture["logits_lse"])
    codes = model.decode(fixture["code_prev"], model.encode(tokens), torch.ones(len(tokens), dtype=torch.bool))
    close(compare, "code normaliser", codes.logsumexp(dim=2), fixture["code_logits_lse"])
    for name, ours in (("logits", logits), ("code_logits", codes)):
        for full, theirs in fixture.group(f"{name}_every_").items():
            step = math.ceil(ours.shape[1] / theirs.shape[1])
            close(compare, name, ours[:, ::step, :: int(full)], theirs)
    rows = fixture.meta["beam5"]
    longest = max(len(hypothesis["tokens"]) for row in rows for hypothesis in row) - 1  # and the forced end
    settings = GenerationSettings(EOS_ID, PAD_ID, longest, beams=len(rows[0]))
    found = beam_search(model.start(encoded), torch.full((len(rows), 1), BOS_ID), settings)
    for row, (ours, theirs) in enumerate(zip(found, rows, strict=True)):
        compare.exact(f"beams {row}", [one.tokens for one in ours], [one["tokens"] for one in theirs])
        scores = torch.tensor([one["score"] for one in theirs])
        close(compare, f"scores {row}", torch.tensor([one.score for one in ours]), scores)


def check_buffers(fixture: Fixture, compare: Comparison) -> None:
    """Buckets and code positions, as values and as the published buffers' checksums."""
    facts = golden_ofa.manifest(fixture.path.parent)["args"]
    config = golden_ofa.model(fixture.path.parent).config
    grid, window = facts.get("image_bucket_size", config.image_grid), config.code_grid
    by_offset = fixture.meta["token_bucket_of_relpos_minus1023_to_1023"]
    ours = offset_buckets(facts.get("token_bucket_size", config.text_buckets), (len(by_offset) + 1) // 2)
    compare.exact("text buckets", torch.cat([ours[0].flip(0), ours[1:, 0]]).tolist(), by_offset)
    compare.exact("by offsets alone", torch.equal(ours[1:, 1:], ours[:-1, :-1]), fixture.meta["toeplitz"])
    positions = fixture.meta["decoder_image_position_idx"]
    compare.exact("code positions", code_positions(window, grid, len(positions)).tolist(), positions)
    corner = fixture.meta["image_rp_bucket_corner"]
    ids = torch.arange(grid**2 + 1)
    compare.exact("corner", image_buckets(ids[: len(corner)], ids[: len(corner[0])], grid).tolist(), corner)
    for a, b, bucket in fixture.meta["image_rp_bucket_samples"]:
        compare.exact(f"cells {a}, {b}", int(image_buckets(torch.tensor([a]), torch.tensor([b]), grid)), bucket)
    for name, theirs in fixture.meta["buffers"].items():
        buffer = published_buffer(name, config.to_dict())
        compare.exact(f"shape of {name}", list(buffer.shape), theirs["shape"])
        compare.exact(f"type of {name}", str(buffer.dtype), theirs["dtype"])
        compare.exact(f"values of {name}", hashlib.sha256(buffer.numpy().tobytes()).hexdigest(), theirs["sha256"])


def check_port_names(fixture: Fixture, compare: Comparison) -> None:
    """The transformers-style names, both ways."""
    for official, port in fixture.meta.items():
        compare.exact(official, to_port(official), port)
        compare.exact(port, from_port(port), official)


def official_tensors(ours: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Tensors of our model under their official names, but for tied and computed ones."""
    return {
        official: piece
        for native, tensor in ours.items()
        for official, piece in zip(
            to_official(native), tensor.chunk(len(to_official(native))) if tensor.dim() else [tensor], strict=True
        )
    }


def plain_type(tensor: Tensor) -> str:
    """The type of a tensor's values, such as `float32`."""
    return str(tensor.dtype).removeprefix("torch.")


def check_state_dict(fixture: Fixture, compare: Comparison) -> None:
    """Every entry of an official state dict: its name and shape in our model of that size, and back."""
    facts = fixture.meta
    with torch.device("meta"):
        model = OfaModel(preset(f"ofa-{facts['arch']}"))
    compare.exact("parameters", sum(p.numel() for p in model.parameters()), facts["unique_params"])
    compare.exact("trunk parameters", sum(p.numel() for p in model.encoder.trunk.parameters()), facts["resnet_params"])
    compare.exact("entries", len(facts["entries"]), facts["state_dict_entries"])
    ours = {
        official: [list(piece.shape), plain_type(piece)]
        for official, piece in official_tensors(model.state_dict()).items()
    }
    parameters = official_tensors(dict(model.named_parameters()))
    settings = official_settings(model.config.to_dict())["model"] | {"vocab_size": model.config.vocabulary}
    for name in settings.keys() & facts["args"].keys() - {"patch_image_size"}:  # that is a recipe's
        compare.exact(f"setting {name}", settings[name], facts["args"][name])
    groups: Counter[str] = Counter()
    for name, piece in parameters.items():
        groups[".".join(name.split(".")[:2])] += piece.numel()
    compare.exact("parameters by group", dict(groups), facts["param_groups"])
    for entry in facts["entries"]:
        name, shape = entry["name"], entry["shape"]
        target = to_native(name)
        compare.exact(f"elements of {name}", math.prod(shape), entry["numel"])
        compare.exact(f"{name} is a parameter", TIED.get(name, name) in parameters, entry["kind"] == "param")
        if isinstance(target, Kind):
            buffer = published_buffer(name, model.config.to_dict())
            compare.exact(name, [list(buffer.shape), plain_type(buffer)], [shape, entry["dtype"]])
            continue
        source = TIED.get(name, name)
        compare.exact(name, ours.get(source), [shape, entry["dtype"]])
        if source == name and isinstance(target, Target):
            compare.exact(f"{name} and back", to_official(target.name)[target.part or 0], name)
    named = {entry["name"] for entry in facts["entries"]}
    compare.exact("entries of our own", sorted(set(ours) - named), [])


CHECKS: dict[str, Check] = {
    "encoder_": check_encoder,
    "decoder_": check_decoder,
    "hf_key_map": check_port_names,
    "position_buffers": check_buffers,
    "state_dict_": check_state_dict,
    "tiny_full": check_full,
}
