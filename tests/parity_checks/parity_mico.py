"""Checks of MiCo for `parity.py`: features, texts, matching, generation.

Sizes, texts and settings are read from the tensors and the manifest beside them. The vocabulary of word pieces is
looked for in $ONE_PEACE_VOCAB and beside the reference numbers of this repository.
"""

from __future__ import annotations

import dataclasses
import os
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

import golden_mico as golden
import parity_mico_inputs
from one_peace.generation.beam import beam_search
from one_peace.modalities.wordpiece import VOCABULARY, WordPieces
from one_peace.models.mico.writing import (
    CAPTION_PENALTY,
    TextDecoder,
    search_settings,
    write_answers,
)
from one_peace.objectives.masked_words import answer_mask
from parity import Check, Comparison
from parity_files import Fixture

UNUSED_HEAD = "vision_encoder.visual.head"
OURS = Path(__file__).parents[1] / "golden" / "mico"


@lru_cache(maxsize=1)
def pieces() -> WordPieces:
    """The published vocabulary."""
    places = [Path(os.environ["ONE_PEACE_VOCAB"])] if "ONE_PEACE_VOCAB" in os.environ else []
    for place in [*places, OURS]:
        if (place / VOCABULARY).is_file():
            return WordPieces.from_vocabulary(place / VOCABULARY)
    raise FileNotFoundError(f"no {VOCABULARY}; set ONE_PEACE_VOCAB to a folder that has it")


def padded(texts: list[str], length: int) -> Tensor:
    """Token ids (texts, length), as the published tokenizer pads them."""
    rows = [pieces().encode(text, length) for text in texts]
    return torch.tensor([row + [0] * (length - len(row)) for row in rows])


def facts(fixture: Fixture) -> Any:
    """What the manifest says about a file."""
    return golden.manifest(fixture.path.parent)["files"][fixture.path.with_suffix(".safetensors").name]["meta"]


def settings(fixture: Fixture) -> dict[str, Any]:
    found: dict[str, Any] = golden.manifest(fixture.path.parent)["config"]
    return found


@torch.no_grad()
def check_features(fixture: Fixture, compare: Comparison) -> None:
    """`CASE.input` -> tokens, pooled, feature, memories."""
    model = golden.model(fixture.path.parent)
    for case in sorted({name.partition(".")[0] for name in fixture.tensors}):
        modality = {"audio": "audio", "depth": "depth", "normal": "normals"}.get(case.split("_")[0], "video")
        branch = {"video": "vision", "normals": "depth"}.get(modality, modality)
        features = model.encode(modality, inputs(modality, fixture[f"{case}.input"]))
        compare.feature(f"{case} tokens", features, fixture[f"{case}.tokens"])
        pooled = model.pool(branch, features)
        compare.feature(f"{case} pooled", pooled, fixture[f"{case}.pooled"])
        compare.feature(f"{case} feature", model.project((branch,), {branch: pooled}), fixture[f"{case}.feat"])
        compare.feature(
            f"{case} embed", model.embed(modality, inputs(modality, fixture[f"{case}.input"])), fixture[f"{case}.feat"]
        )
        for pool in (False, True):
            model.config = dataclasses.replace(model.config, pool_frames=pool)
            memory = model.remember({branch: features})
            compare.feature(f"{case} memory {pool}", memory, fixture[f"{case}.condition.pool_video_{pool}"])


def large(expected: Tensor) -> float:
    """The tolerance of numbers that no norm keeps small: 1e-5, or two parts in a million of the largest."""
    return max(1e-5, 2e-6 * expected.abs().max().item())


def inputs(modality: str, values: Tensor) -> dict[str, Tensor]:
    return {"slices" if modality == "audio" else "frames": values}


@torch.no_grad()
def check_tower(fixture: Fixture, compare: Comparison) -> None:
    """Patches, each block, the features after the last norm; the projection of the class token, whose weights MiCo
    keeps and never uses."""
    tower = golden.model(fixture.path.parent).tower
    outputs: list[Tensor] = []
    hooks = [block.register_forward_hook(lambda _, __, out: outputs.append(out)) for block in tower.blocks]
    tokens = tower(fixture["input"])
    for hook in hooks:
        hook.remove()
    compare.feature("patches", tower.embed_patches(fixture["input"]), fixture["patch_embed"])
    for number, output in enumerate(outputs):
        expected = fixture[f"block{number}"]
        compare.feature(f"block {number}", output, expected, large(expected))
    compare.feature("tokens", tokens, fixture["tokens"])
    alone = tower(fixture["input"], cls_only=True)[:, 0]
    compare.feature("class token", alone, fixture["tokens"][:, 0])
    head = {part: golden.state_dict(fixture.path.parent)[f"{UNUSED_HEAD}.{part}"] for part in ("weight", "bias")}
    compare.feature("projected", F.linear(alone, **head), fixture["projected"])


@torch.no_grad()
def check_text(fixture: Fixture, compare: Comparison) -> None:
    """Hidden states with padding, features, logits of words, the memory of subtitles; token ids of the texts."""
    model = golden.model(fixture.path.parent)
    for case in ("caption", "subtitle"):
        tokens, mask = fixture[f"{case}.input_ids"], fixture[f"{case}.attention_mask"]
        hidden = model.text(tokens, mask)
        compare.feature(f"{case} hidden", hidden, fixture[f"{case}.hidden"])
        texts = facts(fixture).get(f"{case}s")
        if texts:
            compare.exact(f"{case} ids", padded(texts, tokens.shape[1]), tokens)
        if case == "subtitle":
            vector = model.project(("subtitle",), {"subtitle": hidden[:, 0]})
            compare.feature("subtitle feature", vector, fixture["subtitle.feat_s"])
            compare.feature("subtitle memory", model.remember({"subtitle": hidden}), fixture["subtitle.condition"])
            continue
        compare.feature("caption feature", model.embed("text", {"tokens": tokens}), fixture["caption.feat_t"])
        logits = model.text.predict(hidden)
        for name, expected in fixture.group("caption.lm_logits_cols_").items():
            first, last = map(int, name.split("_"))
            compare.feature("logits", logits[..., first:last], expected, large(expected))
        compare.gradient("log of the sum", logits.logsumexp(-1), fixture["caption.lm_logsumexp"])
        compare.exact("most probable words", logits.argmax(-1), fixture["caption.lm_argmax"])


def check_tokenizer(fixture: Fixture, compare: Comparison) -> None:
    """Ids, masks and texts read back."""
    for case in fixture.meta["cases"]:
        ids = padded([case["text"]], case["max_length"])[0]
        compare.exact(f"{case['text'][:30]!r}", ids.tolist(), case["input_ids"])
        compare.exact(f"mask of {case['text'][:30]!r}", (ids != 0).long().tolist(), case["attention_mask"])
        compare.exact(f"decoded {case['text'][:30]!r}", pieces().decode(ids.tolist()), case["decoded_skip_special"])


@torch.no_grad()
def check_match(fixture: Fixture, compare: Comparison) -> None:
    """Captions of 02 against videos of 01: cosines, matching logits and scores, several texts with one memory."""
    folder = fixture.path.parent
    model = golden.model(folder)
    tokens = golden.tensors(folder / "02_text.safetensors")["caption.input_ids"]
    frames = golden.tensors(folder / "01_features.safetensors")["video.input"]
    texts, features = model.embed("text", {"tokens": tokens}), model.encode("video", {"frames": frames})
    compare.feature("cosines", texts @ model.embed("video", {"frames": frames}).t(), fixture["sim_t2v"])
    memory = model.text.project_memory(model.remember({"vision": features}))
    rows = tokens.repeat(len(frames), 1)  # each video with all texts, in turn
    logits = model.match(rows, memory).view(len(frames), len(tokens), 2).transpose(0, 1)
    compare.feature("logits", logits, fixture["itm_logits"])
    compare.feature("scores", logits.softmax(-1)[..., 1], fixture["itm_scores"])
    first = [(keys[:1], values[:1]) for keys, values in memory]
    compare.feature("hidden", model.text(tokens, tokens != 0, first), fixture["fused_hidden_video0"])
    alone = model.match(tokens, first).softmax(-1)[:, 1]
    compare.feature("scores of one memory", alone, fixture["itm_scores_broadcast_video0"])


@torch.no_grad()
def check_generation(fixture: Fixture, compare: Comparison) -> None:
    """Captions by greedy and beam search, answers, the first step of sampling: token by token."""
    meta, config = facts(fixture), settings(fixture)
    first, last, mask = pieces().first_id, pieces().last_id, pieces().mask_id
    for form in sorted({name.partition(".")[0] for name in fixture.tensors if name.endswith(".sequences")}):
        model = golden.model(fixture.path.parent)
        features = model.encode("video", {"frames": fixture["pixels"]})
        compare.feature("memory", model.remember({"vision": features}), fixture["condition"])
        bias = model.text.prediction.bias
        if form == "sep_bias":
            bias[last] = fixture["sep_bias.sep_bias_value"]
        compare.feature(f"{form} bias of the end", bias[last], fixture[f"{form}.sep_bias_value"])
        memory = model.text.project_memory(fixture["condition"])
        gaps = leads(TextDecoder(model.text, memory, mask), fixture[f"{form}.greedy.sequences"])
        compare.feature(f"{form} leads", gaps, fixture[f"{form}.greedy.top1_top2_gap"], 2e-5)
        for name in [name for name in fixture.tensors if name.startswith(form) and name.endswith(".sequences")]:
            kind, expected = name.split(".")[1], fixture[name]
            beams = 1 if kind == "greedy" else config["beam_size"]
            how = search_settings(
                last, config["max_caption_len"], beams, 1.0 if kind == "beam_lp1" else CAPTION_PENALTY
            )
            start = torch.full((len(expected), 1), first)
            best = [found[0] for found in beam_search(TextDecoder(model.text, memory, mask), start, how)]
            rows = [[first, *one.tokens] for one in best]
            compare.exact(name, [row + [0] * (expected.shape[1] - len(row)) for row in rows], expected.tolist())
            compare.exact(f"{name} as text", [pieces().decode(row) for row in rows], meta[f"{form}.{kind}.captions"])
            if f"{form}.{kind}.sequence_scores" in fixture.tensors:
                scores = torch.tensor([one.score for one in best])
                compare.activation(f"{name} scores", scores, fixture[f"{form}.{kind}.sequence_scores"])
        if f"{form}.qa" in meta:
            asked = meta[f"{form}.qa"]
            questions = padded([q for several in asked["questions"] for q in several], config["max_caption_len"])
            owner = torch.tensor([n for n, several in enumerate(asked["questions"]) for _ in several])
            repeated = [(keys[owner], values[owner]) for keys, values in memory]
            found = write_answers(model.text, repeated, questions, pieces(), beams=config["beam_size"])
            compare.exact(f"{form} answers", [pieces().decode(one[0].tokens) for one in found], asked["answers"])
    model = golden.model(fixture.path.parent)
    memory = model.text.project_memory(fixture["condition"])
    logits = TextDecoder(model.text, memory, mask).step(fixture["captioner.first_step_input_ids"][:, :1])
    best_ten = logits.topk(fixture["captioner.first_step_top10_ids"].shape[1])
    compare.exact("first words", best_ten.indices, fixture["captioner.first_step_top10_ids"])
    compare.feature("their shares", best_ten.values.softmax(-1), fixture["captioner.first_step_top10_probs"])
    asking = torch.cat([torch.full((len(logits), 1), first), torch.full((len(logits), 1), mask)], dim=1)
    compare.exact("what asks for a word", asking, fixture["captioner.first_step_input_ids"])
    seen = answer_mask(torch.ones_like(asking[:, :1]), torch.ones_like(asking[:, 1:]))
    compare.exact("what it sees", seen, fixture["captioner.first_step_attention_mask"])


def leads(decoder: TextDecoder, tokens: Tensor) -> Tensor:
    """By how much the most probable word leads at each step of sequences (rows, tokens): logits (tokens - 1, rows)."""
    steps = [decoder.step(tokens[:, step : step + 1]).topk(2).values for step in range(tokens.shape[1] - 1)]
    return torch.stack([best[:, 0] - best[:, 1] for best in steps])


def with_manifest(check: Check) -> Check:
    """A check whose facts lie in the manifest, where there is no JSON of the fixture's own."""

    def run(fixture: Fixture, compare: Comparison) -> None:
        meta = fixture.meta or facts(fixture)
        check(Fixture(fixture.path, meta, fixture.tensors), compare)

    return run


CHECKS: dict[str, Check] = {
    "01_features": check_features,
    "01b_vit_internals": check_tower,
    "02_text": check_text,
    "02_tokenizer": check_tokenizer,
    "03_match": check_match,
    "05_generation": check_generation,
    **{name: with_manifest(check) for name, check in parity_mico_inputs.CHECKS.items()},
}
