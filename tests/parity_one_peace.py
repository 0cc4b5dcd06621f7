"""The ONE-PEACE checks of `parity.py`: fixture name -> comparison with this implementation.

The fixtures come from the published code, which lets padding leak in two places; the models here are built with
`exact_padding` and `mask_padding` off. That the exact form gives a padded clip the features of the clip alone is
checked beside it.
"""

from __future__ import annotations

import dataclasses
import os
import tempfile
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from PIL import Image as Pillow
from torch import Tensor, nn

from one_peace.checkpoints.assign import assign_tensors
from one_peace.checkpoints.names import Target, prefixed_name, to_native
from one_peace.checkpoints.official import OfficialCheckpoint, read_official
from one_peace.modalities import audio, image, text
from one_peace.modalities.pictures import center_crop, grounding_boxes, image_tensor, normalise, resize_ratios
from one_peace.modalities.sounds import frame_count, prepare_waveform
from one_peace.modalities.tokenization import Tokenizer, clean_caption, published_tokenizer
from one_peace.models.one_peace.config import OnePeaceConfig
from one_peace.models.one_peace.model import OnePeaceEncoder
from one_peace.models.one_peace.pretraining import OnePeaceForPretraining
from one_peace.nn.relative_position import grid_buckets, sequence_buckets
from one_peace.nn.resize import resize_bias_table, resize_positions
from one_peace.objectives.contrast import cross_modal_contrast
from one_peace.tasks.pretraining import (
    AUDIO_TEXT,
    IMAGE_TEXT,
    Masks,
    PretrainingBatch,
    PretrainingStage,
    collate_masks,
    freeze_for_stage,
    mask_pair,
    pretraining_losses,
)
from one_peace.tasks.retrieval import recall_at
from one_peace.training.optimizer import build_optimizer, decays, layer_of, learning_rate
from one_peace.training.recipe import OptimizerRecipe
from parity import Check, Comparison, Fixture

PAIRS = {"vl": "image", "al": "audio"}  # the fixtures' names of joint inputs


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
    """A model of this class with the checkpoint's weights; a pretraining checkpoint also fills a bare encoder."""
    with torch.device("meta"):
        module = model(config)
    tensors = dict(checkpoint.tensors)
    if checkpoint.pretraining and model is OnePeaceEncoder:
        tensors = {n.removeprefix("encoder."): t for n, t in tensors.items() if n.startswith("encoder.")}
    assign_tensors(module, tensors)
    return module.eval()


def batches(fixture: Fixture) -> dict[str, dict[str, Tensor]]:
    """The fixture's inputs by modality."""
    inputs = {"text": {"tokens": fixture["in.src_tokens"]}}
    if "in.src_images" in fixture.tensors:
        inputs["image"] = {"pixels": fixture["in.src_images"]}
    if "in.src_audios" in fixture.tensors:
        inputs["audio"] = {"waveform": fixture["in.src_audios"], "padding": fixture["in.audio_padding_masks"]}
    return inputs


@torch.no_grad()
def check_retrieval(fixture: Fixture, compare: Comparison) -> None:
    """Features of every modality, each intermediate tensor that the file has, contrastive losses."""
    checkpoint = read(fixture)
    model = load(OnePeaceEncoder, checkpoint, reference_config(checkpoint))
    inputs = batches(fixture)
    vectors = {}
    for name in model.adapters:
        vectors[name] = model.embed(name, inputs[name])
        compare.feature(f"{name} features", vectors[name], fixture[f"out.{name}_logits"])
        check_taps(fixture, compare, model, name, inputs[name])
    if "out.audio_logits_third_alone" in fixture.tensors:
        check_padded_clip(fixture, compare, model)
    compare.loss("temperature", model.temperature(), fixture["out.logit_scale_exp"])
    for other, term, counts in (("image", "itc", "i2t"), ("audio", "atc", "a2t")):
        for smoothing in (0.0, 0.1):
            key = f"out.{term}_loss_ls{smoothing}"
            if key in fixture.tensors:
                rows = vectors[other].shape[0]
                result = cross_modal_contrast(vectors[other], vectors["text"][:rows], model.temperature(), smoothing)
                compare.loss(key, result.loss, fixture[key])
                correct = fixture.tensors.get(f"out.{counts}_ncorrect_ls{smoothing}")
                if correct is not None:
                    compare.exact(f"{term} correct", float(result.first_to_second_correct), float(correct))


def check_taps(
    fixture: Fixture, compare: Comparison, model: OnePeaceEncoder, name: str, inputs: Mapping[str, Tensor]
) -> None:
    taps = fixture.group(f"tap.{name}.")
    if not taps:
        return
    tokens = model.adapters[name](inputs)
    compare.feature(f"{name} adapter", tokens.features, taps[f"{name}_adapter.x"])
    padding = tokens.padding if tokens.padding is not None else torch.zeros(tokens.features.shape[:2]).bool()
    compare.exact(f"{name} padding", padding, taps[f"{name}_adapter.padding_mask"])
    compare.feature(f"{name} bias", tokens.bias[0][0], taps[f"{name}_adapter.attn_bias0"])
    outputs: list[Tensor] = []
    hooks = [block.register_forward_hook(lambda _, __, out: outputs.append(out)) for block in model.fusion.blocks]
    features = model.fusion({name: tokens})[name]
    for hook in hooks:
        hook.remove()
    for index, output in enumerate(outputs):
        compare.feature(f"{name} block {index}", output, taps[f"layer{index}"])
    compare.feature(f"{name} encoder", features, taps["encoder_out"])
    if name == "image":
        for index, grid in enumerate(model.patch_grids(inputs["pixels"], range(len(outputs)))):
            compare.feature(f"patch grid {index}", grid.flatten(2).transpose(1, 2), taps[f"layer{index}"][:, 1:])


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


def masks_of(fixture: Fixture, name: str) -> Masks:
    return Masks(fixture[f"in.{name}_mask_indices"], fixture[f"in.{name}_preserve_ids"])


def check_pretraining(fixture: Fixture, compare: Comparison, joint: str, stage: PretrainingStage) -> None:
    """Masks drawn from the seed, every pass, losses, gradients and the norms of all gradients."""
    partner = stage.partner
    checkpoint = read(fixture)
    model = load(OnePeaceForPretraining, checkpoint, reference_config(checkpoint))
    freeze_for_stage(model, stage)
    masks = {
        "partner": masks_of(fixture, partner),
        "joint_anchor": masks_of(fixture, f"{joint}_text"),
        "joint_partner": masks_of(fixture, f"{joint}_{partner}"),
    }
    if stage.train_anchor:
        masks["anchor"] = masks_of(fixture, "text")
    batch = PretrainingBatch(batches(fixture), masks)
    check_masks_drawn(fixture, compare, model.config, stage, batch)
    check_passes(fixture, compare, model, stage, batch)

    losses = pretraining_losses(model, batch, stage)
    losses["total"].backward()
    prefix = {"image": "itc", "audio": "atc"}[partner]
    names = {
        "loss": "total",
        f"{prefix}_loss": "contrast",
        "dcl_text_loss": "denoise_anchor",
        f"dcl_{partner}_loss": "denoise_partner",
        f"dcl_{joint}_text_loss": "denoise_joint_anchor",
        f"dcl_{joint}_{partner}_loss": "denoise_joint_partner",
    }
    for theirs, ours in names.items():
        if f"out.{theirs}" in fixture.tensors:
            compare.loss(theirs, losses[ours], fixture[f"out.{theirs}"])
    check_gradients(fixture, compare, model)


def check_masks_drawn(
    fixture: Fixture,
    compare: Comparison,
    config: OnePeaceConfig,
    stage: PretrainingStage,
    batch: PretrainingBatch,
) -> None:
    if "torch_seed_for_masks" not in fixture.meta:
        return
    partner = stage.partner
    settings = config.modalities[partner]
    processors: dict[str, Any] = {"image": image.ImageProcessor, "audio": audio.AudioProcessor}
    processors = {"text": WordStarts(fixture["in.mask_whole_word"]), partner: processors[partner](settings)}
    generator = torch.Generator().manual_seed(fixture.meta["torch_seed_for_masks"])
    drawn = []
    tokens = fixture["in.src_tokens"]
    for row in range(tokens.shape[0]):
        anchor = {"tokens": tokens[row][tokens[row] != text.PAD_ID]}
        if partner == "image":
            example = {"pixels": fixture["in.src_images"][row]}
        else:
            frames = int((~fixture["in.audio_padding_masks"][row]).sum()) - 1
            example = {"waveform": torch.zeros(shortest_waveform(frames, settings.convs))}
        drawn.append(mask_pair(anchor, example, stage, processors, generator))
    for name, masks in batch.masks.items():
        ours = collate_masks([d[name] for d in drawn])
        width = masks.hidden.shape[1]
        hidden = nn.functional.pad(ours.hidden, (0, width - ours.hidden.shape[1]))
        compare.exact(f"mask {name}", hidden, masks.hidden)
        compare.exact(f"kept {name}", ours.keep, masks.keep)


def shortest_waveform(frames: int, convs: Any) -> int:
    """The fewest samples that make so many frames."""
    for _, kernel, stride in reversed(convs):
        frames = (frames - 1) * stride + kernel
    return frames


class WordStarts(text.TextProcessor):
    """A text processor that knows only which ids begin a word."""

    def __init__(self, starts: Tensor) -> None:
        self.tokenizer: Any = type("Starts", (), {"whole_word_starts": starts})


@torch.no_grad()
def check_passes(
    fixture: Fixture, compare: Comparison, model: OnePeaceForPretraining, stage: PretrainingStage, batch: Any
) -> None:
    """The outputs of each pass, in the fixture's order of calls."""
    order = {"text": 0, "image": 1, "audio": 2}
    encoder = model.encoder
    for index, (kind, given) in enumerate(fixture.meta["calls"]):
        names = ["text", PAIRS[kind]] if kind in PAIRS else [kind]
        if kind == "logit_scale":
            compare.loss("temperature", encoder.temperature(), fixture[f"out.call{index}.0"])
            continue
        embeddings = encoder.embeddings({n: batch.inputs[n] for n in names})
        if any("preserve_ids" in key for key in given):
            keep = {n: batch.masks[pass_name(n, len(names) > 1, stage)].keep for n in names}
            outputs = {order[n]: x for n, x in model.reconstruct(embeddings, keep).items()}
        else:
            features = encoder.fusion(encoder.arrange(embeddings))
            if len(names) == 1:
                outputs = {0: encoder.project(kind, features[kind]), 1: features[kind]}
            else:
                outputs = {place: features[n] for place, n in enumerate(names)}
        for place, ours in outputs.items():
            compare.feature(f"call {index}.{place}", ours, fixture[f"out.call{index}.{place}"])


def pass_name(modality: str, joint: bool, stage: PretrainingStage) -> str:
    role = "anchor" if modality == stage.anchor else "partner"
    return f"joint_{role}" if joint else role


def check_gradients(fixture: Fixture, compare: Comparison, model: nn.Module) -> None:
    """Gradients of the tensors in the file, and the norms of all."""
    parameters = dict(model.named_parameters())

    def gradient(official: str) -> tuple[bool, Tensor | None]:
        target = to_native(official)
        if not isinstance(target, Target):
            return False, None
        grad = parameters[prefixed_name(target.name)].grad
        return True, grad if grad is None or target.part is None else grad.chunk(3)[target.part]

    for name, theirs in fixture.group("grad.").items():
        compare.gradient(f"gradient {name}", gradient(name)[1], theirs)
    for name, norm in fixture.meta.get("grad_norms", {}).items():
        known, ours = gradient(name)
        if known and norm is not None:
            norm_here = torch.zeros(()) if ours is None else ours.norm()
            compare.gradient(f"gradient norm {name}", norm_here, torch.tensor(norm))


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
    for name in ("image", "text"):
        compare.feature(f"{name} features", model.embed(name, inputs[name]), fixture[f"out.{name}_logits"])
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
        else:
            ours = resize_positions(fixture["in.pos_embed"], (int(grid), int(grid)))
        compare.feature(name, ours, theirs, 1e-6)


def vocabulary_folder() -> Path:
    """Where the published vocabulary lies: `ONE_PEACE_VOCAB`, or `../shared/vocab` beside the repository."""
    return Path(os.environ.get("ONE_PEACE_VOCAB", Path(__file__).parents[2] / "shared" / "vocab"))


@lru_cache
def published_words() -> Tokenizer:
    """The published vocabulary, built once."""
    folder = vocabulary_folder()
    return Tokenizer(published_tokenizer(folder / "encoder.json", folder / "vocab.bpe", folder / "dict.txt"))


def check_tokenizer(fixture: Fixture, compare: Comparison) -> None:
    tokenizer = published_words()
    compare.exact("dictionary size", tokenizer.vocab_size, fixture.meta["dict_size"])
    for row in fixture.meta["rows"]:
        sentence = row["text"]
        if "hub" in row:
            compare.exact(f"hub {sentence!r}", tokenizer.encode(sentence), row["hub"])
        if "dataset" in row:
            compare.exact(f"dataset {sentence!r}", tokenizer.encode_caption(sentence), row["dataset"])
        if "dataset_clean" in row:
            compare.exact(f"cleaned {sentence!r}", clean_caption(sentence), row["dataset_clean"])
        if "dataset_refcoco" in row:
            compare.exact(f"expression {sentence!r}", tokenizer.encode_expression(sentence), row["dataset_refcoco"])


def check_audio_preprocessing(fixture: Fixture, compare: Comparison) -> None:
    convs = audio.AudioConfig().convs
    prepared = {}
    for name, waveform in fixture.group("in.").items():
        facts = fixture.meta[name]
        mono = waveform.mean(dim=1) if waveform.dim() == 2 else waveform
        prepared[name] = prepare_waveform(mono, max_seconds=facts["max_duration"])
        compare.feature(name, prepared[name], fixture[f"out.{name}"], 1e-6)
        compare.exact(f"{name} frames", frame_count(prepared[name].shape[0], convs), facts["frames"])
    for samples, frames in fixture.meta.get("frames_by_samples", {}).items():
        compare.exact(f"{samples} samples", frame_count(int(samples), convs), frames)
    if "out.batch_masks" in fixture.tensors:
        batch = audio.AudioProcessor(audio.AudioConfig()).collate(
            [{"waveform": prepared[name]} for name in fixture.meta["batch"]]
        )
        compare.exact("batch padding", batch["padding"], fixture["out.batch_masks"])


def check_image_preprocessing(fixture: Fixture, compare: Comparison) -> None:
    for name, pixels in fixture.group("in.").items():
        if pixels.dtype != torch.uint8:
            continue
        picture = Pillow.fromarray(pixels.numpy())
        size = fixture[f"out.{name}"].shape[1]
        compare.feature(name, image_tensor(picture, size), fixture[f"out.{name}"], 1e-6)
        crop = normalise(center_crop(picture, size))
        compare.feature(f"{name} centre crop", crop, fixture[f"out.centercrop_{name}"], 1e-6)
        grounded = fixture[f"out.refcoco_image_{name}"]
        compare.feature(f"{name} grounding", image_tensor(picture, grounded.shape[1]), grounded, 1e-6)
        boxes = grounding_boxes(fixture[f"in.refcoco_boxes_{name}"], *picture.size, grounded.shape[1])
        compare.feature(f"{name} boxes", boxes, fixture[f"out.refcoco_boxes_{name}"], 1e-6)
        ratios = torch.tensor(resize_ratios(*picture.size, grounded.shape[1]), dtype=torch.float32)
        compare.feature(f"{name} ratios", ratios, torch.tensor(fixture.meta[f"ratio_{name}"]), 1e-6)


def check_buckets(fixture: Fixture, compare: Comparison) -> None:
    for name, theirs in fixture.tensors.items():
        kind, number, *rest = name.split("_")
        if kind == "image":
            side = int(number)
            compare.exact(name, grid_buckets(side, side, side)[: theirs.shape[0], : theirs.shape[1]], theirs)
        else:  # the raw bucket depends on the offset alone: the first token's row and column show all of them
            ours = sequence_buckets(int(number), 1024)
            compare.exact(name, ours[1, 1:] if rest[0] == "row0" else ours[1:, 1], theirs[:-1])


def check_masks(fixture: Fixture, compare: Comparison) -> None:
    for name, theirs in fixture.tensors.items():
        if name.startswith("block_"):
            _, frames, ratio, seed = name.split("_")
            generator = torch.Generator().manual_seed(int(seed))
            compare.exact(name, audio.block_mask(int(frames), float(ratio), generator), theirs)
        elif name.startswith("ww_mask_"):
            index, ratio = name.removeprefix("ww_mask_").split("_p")
            generator = torch.Generator().manual_seed(2000 + int(index))
            tokens, starts = fixture[f"ww_src_{index}"], fixture["mask_whole_word"]
            compare.exact(name, text.whole_word_mask(tokens, starts, float(ratio), generator), theirs)


def check_metrics(fixture: Fixture, compare: Comparison) -> None:
    """Recall in both directions: `txt` finds texts for an image, `img` images for a text."""
    recall = fixture.meta["recall"]
    similarity = fixture["image_logits"] @ fixture["text_logits"].t()
    relevant = fixture["image_ids"][:, None] == fixture["text_ids"][None, :]
    for prefix, scores, hits in (("txt", similarity, relevant), ("img", similarity.t(), relevant.t())):
        for k in (1, 5, 10):
            ours = torch.tensor(100 * recall_at(scores, hits, k).mean().item())
            compare.feature(f"{prefix}_r{k}", ours, torch.tensor(recall[f"{prefix}_r{k}"]), 1e-4)


def check_adam(fixture: Fixture, compare: Comparison) -> None:
    """The published fallback and PyTorch's AdamW place eps differently, which at 1e-8 no weight shows."""
    facts = fixture.meta
    layer = nn.Linear(4, 5, bias=False)
    layer.weight.data.copy_(fixture["w0"])
    recipe = OptimizerRecipe(
        lr=facts["lr"], betas=tuple(facts["betas"]), eps=facts["eps"], weight_decay=facts["weight_decay"]
    )
    optimizer = build_optimizer(layer, recipe)
    for update, gradient in enumerate(fixture["grads"], start=1):
        layer.weight.grad = gradient.clone()
        optimizer.step()
        compare.feature(f"w{update}", layer.weight, fixture[f"w{update}"], 1e-6)


def check_optimizer(fixture: Fixture, compare: Comparison) -> None:
    """Rates, decay and layer decay, but for the accidents: a first update at the lowest rate, a schedule that starts
    again after its end, and the decay of a decoder's picture positions (a missing comma)."""
    pretraining, fine_tuning = fixture.meta["lr"].values()
    for rates, recipe, steps in (
        (pretraining, OptimizerRecipe(lr=5e-4, warmup_steps=300), 2000),
        (fine_tuning, OptimizerRecipe(lr=1e-4, warmup_steps=100), 1000),
    ):
        for name, rate in rates.items():
            finished = int(name.split(" ")[0]) if name[0].isdigit() else 0
            if 0 < finished < steps:
                step = finished - 1 if finished <= recipe.warmup_steps else finished
                ours = torch.tensor(learning_rate(step, steps, recipe), dtype=torch.float64)
                compare.feature(f"lr {name}", ours, torch.tensor(rate, dtype=torch.float64), 1e-9)
    for case, groups in fixture.meta["param_groups"].items():
        base = 0.9 if case.endswith("0.9") else 1.0
        for group in groups:
            for official in group["params"]:
                target = to_native(official)
                if not isinstance(target, Target) or official == "decoder_wrapper.image_adapter.pos_embed":
                    continue
                matrix = group["weight_decay"] > 0 or official.endswith(
                    ("cls_embedding", "pos_embed", "positions.weight")
                )
                parameter = nn.Parameter(torch.zeros(1, 1) if matrix else torch.zeros(1))
                compare.exact(f"{case}: decay of {official}", decays(target.name, parameter), group["weight_decay"] > 0)
                scale = base ** (3 + 1 - layer_of(target.name, 3))
                ours, theirs = (torch.tensor(x, dtype=torch.float64) for x in (scale, group["lr_scale"]))
                compare.feature(f"{case}: rate of {official}", ours, theirs, 1e-9)


CHECKS: dict[str, Check] = {
    "fixture1_retrieval": check_retrieval,
    "fixture2_pretrain_vl": lambda f, c: check_pretraining(f, c, "vl", IMAGE_TEXT),
    "fixture3_pretrain_al": lambda f, c: check_pretraining(f, c, "al", AUDIO_TEXT),
    "fixture6_resolution": check_resolution,
    "fixture6_tables": check_tables,
    "fixture7_tokenizer": check_tokenizer,
    "fixture8_audio": check_audio_preprocessing,
    "fixture8_image": check_image_preprocessing,
    "fixture_x_adam": check_adam,
    "fixture_x_masks": check_masks,
    "fixture_x_metrics": check_metrics,
    "fixture_x_optim": check_optimizer,
    "fixture_x_rel_pos_buckets": check_buckets,
}
