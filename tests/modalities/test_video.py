"""The video modality: which frames it sees, padding and masks, bias over time, its start as pictures, training."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from one_peace.errors import InputError
from one_peace.media.pictures import CLIP
from one_peace.modalities import get_modality
from one_peace.modalities.base import Processor
from one_peace.modalities.image import ImageAdapter, ImageConfig, ImageProcessor
from one_peace.modalities.text import TextConfig, TextProcessor
from one_peace.modalities.tokenization import Tokenizer, train_tokenizer
from one_peace.modalities.video import VideoAdapter, VideoConfig, VideoProcessor, video_buckets
from one_peace.models import from_pretrained
from one_peace.models.one_peace.config import DecoderConfig, OnePeaceConfig
from one_peace.models.one_peace.interface import OnePeace
from one_peace.models.one_peace.model import OnePeaceEncoder
from one_peace.models.one_peace.pretraining import OnePeaceForPretraining
from one_peace.nn.relative_position import grid_buckets
from one_peace.tasks.pretraining import PretrainingStage, collate_pairs, freeze_for_stage, pretraining_losses
from video_files import LEVEL, animation, film, grey_frames

WIDTH, HEADS = 32, 2
CONFIG = VideoConfig(64, 4)
STAGE = PretrainingStage("video", False, partner_mask=0.75, joint_anchor_mask=0.4, joint_partner_mask=0.6875)


def greys(frames: Tensor) -> list[int]:
    """The grey, 0 to 255, of each normalised frame (frames, 3, height, width)."""
    pixels = frames * torch.tensor(CLIP[1]).view(3, 1, 1) + torch.tensor(CLIP[0]).view(3, 1, 1)
    return [round(255 * value) for value in pixels.mean(dim=(1, 2, 3)).tolist()]


def noisy_video(frames: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (frames, 20, 24, 3), np.uint8)


def adapter(config: VideoConfig = CONFIG, tables: int = 1) -> VideoAdapter:
    torch.manual_seed(0)
    made = VideoAdapter(config, WIDTH, HEADS, tables)
    for parameter in made.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    return made.eval()


# --- what the model sees ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("make", [film, animation, np.asarray])
def test_frames_are_spread_evenly_over_the_whole_video(make: Callable[[np.ndarray], Any]) -> None:
    frames = VideoProcessor(CONFIG)(make(grey_frames(30)))["frames"]
    assert frames.shape == (4, 3, 64, 64) and frames.dtype == torch.float32
    assert greys(frames) == pytest.approx([n * LEVEL for n in (3, 11, 19, 26)], abs=4)


def test_a_video_of_fewer_frames_keeps_them_all() -> None:
    assert greys(VideoProcessor(CONFIG)(grey_frames(3))["frames"]) == [0, LEVEL, 2 * LEVEL]


def test_frames_are_prepared_as_pictures_are() -> None:
    video = noisy_video(4)
    pictures = [ImageProcessor(ImageConfig(64, 4, 4))(frame)["pixels"] for frame in video]
    assert torch.equal(VideoProcessor(CONFIG)(video)["frames"], torch.stack(pictures))


def test_by_time_the_frame_on_screen_counts_and_views_cover_the_video() -> None:
    config = dataclasses.replace(CONFIG, frames_per_second=4)
    uneven = animation(grey_frames(6), "WEBP", [100, 100, 100, 500, 700, 100])  # appear at 0, .1, .2, .3, .8, 1.5 s
    processor = VideoProcessor(config)
    seen = [0, 2, 3, 3, 4, 4, 5]  # on screen at 0, .25, .5, .75, 1, 1.25, 1.5 s of 1.6 s
    first, last = processor.views(uneven)
    assert greys(first["frames"]) == [n * LEVEL for n in seen[:4]]
    assert greys(last["frames"]) == [n * LEVEL for n in seen[-4:]]  # aligned to the end
    assert torch.equal(processor(uneven)["frames"], first["frames"])
    assert greys(processor((grey_frames(30), 8.0))["frames"]) == [0, 2 * LEVEL, 4 * LEVEL, 6 * LEVEL]
    with pytest.raises(InputError, match="no times"):
        processor(grey_frames(30))
    for rate in (1e-3, 1e-320):
        with pytest.raises(InputError, match="frames at 4 a second .*cut it first"):
            processor((grey_frames(2), rate))


def test_one_bad_video_is_named_and_the_others_are_kept(tmp_path: Path) -> None:
    good, bad = tmp_path / "good.webp", tmp_path / "bad.mp4"
    good.write_bytes(animation(noisy_video(5)))
    bad.write_bytes(film(noisy_video(5))[:300])
    model = OnePeace(OnePeaceEncoder(shape({"video": CONFIG})), {"video": VideoProcessor(CONFIG)})
    result = model.encode_modality("video", [good, bad, [Image.new("RGB", (9, 9))] * 2], on_error="skip")
    assert result.kept == [0, 2] and "bad.mp4" in str(result.errors[1])


@pytest.mark.parametrize("bad", [{"frame_size": 60}, {"frame_size": 0}, {"frames": 0}, {"frames_per_second": 0}])
def test_a_configuration_that_cannot_be_is_refused(bad: dict[str, int]) -> None:
    with pytest.raises(ValueError, match=next(iter(bad))):
        VideoConfig(**bad)


# --- training examples ------------------------------------------------------------------------------------------


def test_variation_is_the_same_in_all_frames_and_moves_in_time() -> None:
    still = np.repeat(noisy_video(1), 12, axis=0)
    processor = VideoProcessor(CONFIG)
    loaded = processor.load(still)
    assert loaded.dtype == torch.uint8 and loaded.shape == (12, 3, 80, 80)
    varied = [processor.vary(loaded, torch.Generator().manual_seed(n), 1.0)["frames"] for n in range(3)]
    for frames in varied:
        assert all(torch.equal(frame, frames[0]) for frame in frames)
    assert (varied[0] - varied[1]).abs().mean() > 0.05
    moving = processor.load(grey_frames(12))
    seen = [greys(processor.vary(moving, torch.Generator().manual_seed(n), 1e-6)["frames"]) for n in range(20)]
    assert len(set(map(tuple, seen))) > 10 and all(levels == sorted(levels) for levels in seen)


def test_variation_of_no_strength_is_as_for_encoding() -> None:
    processor, smooth = VideoProcessor(CONFIG), np.linspace(0, 255, 60).astype(np.uint8)
    video = np.broadcast_to(smooth[None, None, :, None], (12, 60, 60, 3))
    for seed in range(4):  # some of which would mirror it
        plain = processor.vary(processor.load(video), torch.Generator().manual_seed(seed), 0.0)["frames"]
        torch.testing.assert_close(plain, processor(video)["frames"], atol=0.05, rtol=0)


def test_frames_by_time_are_learnt_from_at_that_rate() -> None:
    processor = VideoProcessor(dataclasses.replace(CONFIG, frames_per_second=4))
    loaded = processor.load((grey_frames(30), 8.0))
    assert [round(float(frame.float().mean())) for frame in loaded] == [2 * n * LEVEL for n in range(12)]


def test_masks_hide_the_same_patches_in_every_frame() -> None:
    processor = VideoProcessor(CONFIG)
    example, generator = processor(noisy_video(6)), torch.Generator().manual_seed(0)
    mask = processor.mask(example, 0.75, generator)
    other = processor.mask(example, 0.6875, generator, mask)
    for tubes, hidden in ((mask.view(4, 16), 12), (other.view(4, 16), 11)):
        assert (tubes == tubes[0]).all() and tubes[0].sum() == hidden
    assert (mask | other).all()  # what one pass shows the other hides


# --- the adapter ------------------------------------------------------------------------------------------------


def test_bias_rows_are_those_of_offsets_in_time_and_place() -> None:
    frames, grid, most = 3, 2, 4
    table = video_buckets(frames, grid, most)
    rows = 7 * 9 + 3
    assert table.shape == (13, 13) and table.min() >= 0 and table.max() == rows - 1
    places = [(t, y, x) for t in range(frames) for y in range(grid) for x in range(grid)]
    by_offset: dict[tuple[int, ...], set[int]] = {}
    for i, a in enumerate(places):
        for j, b in enumerate(places):
            offset = tuple(p - q for p, q in zip(a, b, strict=True))
            by_offset.setdefault(offset, set()).add(int(table[i + 1, j + 1]))
    assert all(len(found) == 1 for found in by_offset.values())
    assert len(set.union(*by_offset.values())) == len(by_offset)
    assert table[0, 1:].unique().tolist() == [rows - 3] and table[1:, 0].unique().tolist() == [rows - 2]
    assert table[0, 0] == rows - 1
    assert torch.equal(video_buckets(1, 4, 1), grid_buckets(4, 4, 4))  # one frame alone is a picture


def test_a_new_video_side_that_starts_as_pictures_sees_one_frame_as_the_picture() -> None:
    torch.manual_seed(0)
    pictures = ImageAdapter(ImageConfig(64, 4, 4), WIDTH, HEADS, 2)
    for parameter in pictures.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    videos = adapter(tables=2)
    videos.load_state_dict({"cls": pictures.cls, **videos.start_from(pictures)})
    frame = torch.randn(1, 3, 64, 64)
    picture, video = pictures({"pixels": frame}), videos({"frames": frame[:, None]})
    torch.testing.assert_close(video.features, picture.features)
    for a, b in zip(video.bias, picture.bias, strict=True):
        torch.testing.assert_close(a, b)
    several = videos({"frames": frame[:, None].expand(-1, 3, -1, -1, -1)})
    torch.testing.assert_close(several.features[:, 17:33], picture.features[:, 1:])
    torch.testing.assert_close(several.bias[1][..., 17:33, 33:49], picture.bias[1][..., 1:, 1:])


@pytest.mark.parametrize("grid", [2, 8])
def test_the_start_as_pictures_fits_other_resolutions(grid: int) -> None:
    videos = adapter(VideoConfig(16 * grid, 3))
    values = videos.start_from(ImageAdapter(ImageConfig(64, 4, 4), WIDTH, HEADS, 1))
    shapes = {name: parameter.shape for name, parameter in videos.named_parameters()}
    assert {name: value.shape for name, value in values.items()} == {n: s for n, s in shapes.items() if n != "cls"}


def test_other_modalities_give_it_nothing_to_start_from() -> None:
    audio = get_modality("audio")
    assert adapter().start_from(audio.adapter(audio.preset(192), 192, 3, 1)) == {}


def test_frames_it_was_not_made_for_are_refused() -> None:
    for frames in (torch.zeros(1, 5, 3, 64, 64), torch.zeros(1, 2, 3, 48, 64)):
        with pytest.raises(ValueError, match="takes 1 to 4 of 64 x 64"):
            adapter()({"frames": frames})


# --- the model --------------------------------------------------------------------------------------------------

WORDS = ["rain", "snow", "a rising sun", "fog"]


def shape(modalities: dict[str, object]) -> OnePeaceConfig:
    decoder = DecoderConfig(16, 1, 2, 32)
    return OnePeaceConfig("tiny", WIDTH, 2, HEADS, 32, modalities, layer_scale=1.0, decoder=decoder)


@pytest.fixture
def with_text(tmp_path: Path) -> tuple[OnePeaceConfig, dict[str, Processor]]:
    tokenizer = Tokenizer(train_tokenizer([" " + word for word in WORDS] * 4, 300))
    text = TextConfig(vocab_size=tokenizer.vocab_size)
    processors: dict[str, Processor] = {"text": TextProcessor(text, tokenizer), "video": VideoProcessor(CONFIG)}
    return shape({"text": text, "video": CONFIG}), processors


def test_it_is_pretrained_against_frozen_text(with_text: tuple[OnePeaceConfig, dict[str, Processor]]) -> None:
    config, processors = with_text
    torch.manual_seed(0)
    model = OnePeaceForPretraining(config)
    freeze_for_stage(model, STAGE)
    frozen = {n: p.clone() for n, p in model.named_parameters() if not p.requires_grad}
    assert any("attention" in name for name in frozen) and not any(".video." in name for name in frozen)
    videos = [noisy_video(2 + n, seed=n) for n in range(4)]  # of different lengths: padded
    pairs = [(processors["text"](word), processors["video"](v)) for word, v in zip(WORDS, videos, strict=True)]
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=3e-3)
    totals = []
    for _ in range(6):
        batch = collate_pairs(pairs, STAGE, processors, torch.Generator().manual_seed(0))
        losses = pretraining_losses(model, batch, STAGE)
        optimizer.zero_grad()
        losses["total"].backward()
        missing = [n for n, p in model.named_parameters() if ".video." in n and p.requires_grad and p.grad is None]
        assert not missing, f"without gradient: {missing}"
        optimizer.step()
        totals.append(losses["total"].item())
    assert math.isfinite(totals[-1]) and totals[-1] < totals[0] - 0.2
    assert all(torch.equal(p, frozen[n]) for n, p in model.named_parameters() if n in frozen)


def test_text_and_video_are_encoded_together_and_padding_changes_nothing(
    with_text: tuple[OnePeaceConfig, dict[str, Processor]],
) -> None:
    config, processors = with_text
    torch.manual_seed(0)
    model = OnePeace(OnePeaceEncoder(config), processors)
    videos = [noisy_video(1), noisy_video(9, seed=1)]
    together = model.features(text=["rain", "a rising sun"], video=videos)
    for row, (word, video) in enumerate(zip(("rain", "a rising sun"), videos, strict=True)):
        alone = model.features(text=word, video=[video])
        for name in ("text", "video"):
            length = alone[name].shape[1]
            torch.testing.assert_close(together[name][row, :length], alone[name][0], atol=2e-5, rtol=0)
    other = model.features(text=["fog", "a rising sun"], video=videos)
    assert (other["video"][0, :17] - together["video"][0, :17]).abs().max() > 1e-3  # the text is seen


def test_a_saved_model_reads_videos_again(
    with_text: tuple[OnePeaceConfig, dict[str, Processor]], tmp_path: Path
) -> None:
    config, processors = with_text
    model = OnePeace(OnePeaceEncoder(dataclasses.replace(config, decoder=None)), processors)
    model.save_pretrained(tmp_path / "model")
    again = from_pretrained(str(tmp_path / "model"))
    assert again.config.modalities["video"] == CONFIG
    data = animation(noisy_video(7))
    torch.testing.assert_close(again.encode_modality("video", data), model.encode_modality("video", data))
    mixed = again.encode(video=data, text="fog")
    assert mixed.shape == (1, WIDTH) and mixed.norm().item() == pytest.approx(1)
