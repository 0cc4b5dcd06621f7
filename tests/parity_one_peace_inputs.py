"""The ONE-PEACE checks of `parity.py` that concern inputs: token ids, pictures, sounds."""

from __future__ import annotations

import os
from functools import lru_cache
from pathlib import Path

import torch
from PIL import Image as Pillow

from one_peace.modalities import audio
from one_peace.modalities.pictures import center_crop, grounding_boxes, image_tensor, normalise, resize_ratios
from one_peace.modalities.sounds import frame_count, prepare_waveform
from one_peace.modalities.tokenization import Tokenizer, clean_caption, published_tokenizer
from parity import Check, Comparison, Fixture


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


CHECKS: dict[str, Check] = {
    "fixture7_tokenizer": check_tokenizer,
    "fixture8_audio": check_audio_preprocessing,
    "fixture8_image": check_image_preprocessing,
}
