"""The ONE-PEACE checks of `parity.py` that concern pictures and sounds as the model takes them."""

from __future__ import annotations

import torch
from PIL import Image as Pillow

from one_peace.media.pictures import (
    CLIP,
    center_crop,
    grounding_boxes,
    image_tensor,
    normalise,
)
from one_peace.media.sounds import frame_count, prepare_waveform
from one_peace.modalities import audio
from parity import Check, Comparison
from parity_files import Fixture


def check_audio_preprocessing(fixture: Fixture, compare: Comparison) -> None:
    """Waveforms, their numbers of samples, frames and positions, a padded batch."""
    convs = audio.AudioConfig().convs
    prepared = {}
    for name, waveform in fixture.group("in.").items():
        facts = fixture.meta[name]
        mono = waveform.mean(dim=1) if waveform.dim() == 2 else waveform
        prepared[name] = prepare_waveform(mono, max_seconds=facts["max_duration"])
        compare.feature(name, prepared[name], fixture[f"out.{name}"], 1e-6)
        frames = frame_count(len(prepared[name]), convs)
        ours = {"samples": len(waveform), "out_samples": len(prepared[name]), "frames": frames}
        ours |= {"mask_length": frames + 1, "max_duration": facts["max_duration"]}  # with cls; as asked for
        compare.exact(f"{name} lengths", ours, facts)
    for samples, frames in fixture.meta.get("frames_by_samples", {}).items():
        compare.exact(f"{samples} samples", frame_count(int(samples), convs), frames)
    if "out.batch_masks" in fixture.tensors:
        batch = audio.AudioProcessor(audio.AudioConfig()).collate(
            [{"waveform": prepared[name]} for name in fixture.meta["batch"]]
        )
        masks = fixture["out.batch_masks"]
        compare.exact("batch padding", batch.get("padding", torch.zeros_like(masks)), masks)
        rows = zip(batch["waveform"], fixture.meta["batch"], strict=True)
        padding = torch.cat([row[len(prepared[name]) :] for row, name in rows])
        compare.exact("batch filled up", {*padding.tolist()} <= {fixture.meta["batch_audio_pad"]}, True)


def check_image_preprocessing(fixture: Fixture, compare: Comparison) -> None:
    """Pictures stretched, cropped and for grounding, where boxes and ratios go with them."""
    compare.exact("statistics", [list(values) for values in CLIP], [fixture.meta["mean"], fixture.meta["std"]])
    for name, pixels in fixture.group("in.").items():
        if pixels.dtype != torch.uint8:
            continue
        picture = Pillow.fromarray(pixels.numpy())
        size = fixture[f"out.{name}"].shape[1]
        compare.feature(name, image_tensor(picture, size), fixture[f"out.{name}"], 1e-6)
        crop = normalise(center_crop(picture, size))
        compare.feature(f"{name} centre crop", crop, fixture[f"out.centercrop_{name}"], 1e-6)
        grounded = fixture[f"out.refcoco_image_{name}"]
        resized = image_tensor(picture, grounded.shape[1])
        compare.feature(f"{name} grounding", resized, grounded, 1e-6)
        compare.exact(f"{name} size", list(resized.shape[:0:-1]), fixture[f"out.refcoco_size_{name}"].tolist())
        boxes = grounding_boxes(fixture[f"in.refcoco_boxes_{name}"], *picture.size)
        compare.feature(f"{name} boxes", boxes, fixture[f"out.refcoco_boxes_{name}"], 1e-6)
        ratios = grounded.shape[1] / torch.tensor(picture.size, dtype=torch.float32)
        compare.feature(f"{name} ratios", ratios, torch.tensor(fixture.meta[f"ratio_{name}"]), 1e-6)


CHECKS: dict[str, Check] = {
    "fixture8_audio": check_audio_preprocessing,
    "fixture8_image": check_image_preprocessing,
}
