"""Shortcuts of encoding give the numbers of the long way."""

from __future__ import annotations

from collections.abc import Mapping

import pytest
import torch
from torch import Tensor

from one_peace.modalities.audio import AudioAdapter, AudioConfig, AudioProcessor, wave_convolutions
from one_peace.modalities.image import ImageConfig
from one_peace.modalities.text import TextConfig
from one_peace.models.one_peace.config import OnePeaceConfig
from one_peace.models.one_peace.model import OnePeaceEncoder
from one_peace.nn.wave_frames import PIECE, WaveFrames

INPUTS: dict[str, dict[str, Tensor]] = {
    "text": {"tokens": torch.tensor([[5, 6, 7, 2], [8, 2, 1, 1]])},
    "image": {"pixels": torch.linspace(-1, 1, 2 * 3 * 64 * 64).view(2, 3, 64, 64)},
    "audio": {"waveform": torch.linspace(-1, 1, 2 * 4000).sin().view(2, 4000)},
}


@pytest.fixture(scope="module", params=[False, True], ids=["shared bias", "bias per layer"])
def encoder(request: pytest.FixtureRequest) -> OnePeaceEncoder:
    torch.manual_seed(0)
    audio = AudioConfig(wave_convolutions(16), position_depth=2, position_width=10, position_groups=4)
    modalities = {"text": TextConfig(vocab_size=20), "image": ImageConfig(64, 4, 4), "audio": audio}
    config = OnePeaceConfig("test", 32, 3, 4, 64, modalities, layer_scale=0.5, per_layer_bias=request.param)
    model = OnePeaceEncoder(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model


@pytest.mark.parametrize("name", list(INPUTS))
def test_embedding_equals_projecting_the_full_encoding(encoder: OnePeaceEncoder, name: str) -> None:
    inputs: Mapping[str, Tensor] = INPUTS[name]
    full = encoder.project(name, encoder({name: inputs})[name])
    torch.testing.assert_close(encoder.embed(name, inputs), full, atol=2e-6, rtol=0)


@pytest.mark.parametrize("name", list(INPUTS))
def test_inference_equals_the_differentiable_path(encoder: OnePeaceEncoder, name: str) -> None:
    before = {key: value.clone() for key, value in INPUTS[name].items()}
    trained = encoder.embed(name, INPUTS[name])
    assert trained.requires_grad
    with torch.inference_mode():
        fast = encoder.embed(name, INPUTS[name])
    torch.testing.assert_close(fast, trained.detach(), atol=2e-6, rtol=0)
    for key, value in INPUTS[name].items():  # nothing the caller owns was overwritten
        assert torch.equal(value, before[key])


def test_a_long_clip_in_pieces_equals_the_whole() -> None:
    torch.manual_seed(0)
    frames = WaveFrames(wave_convolutions(4))
    samples = 20 * (2 * PIECE + 5) + 37
    waveform = torch.randn(2, samples)
    whole = frames(waveform)
    with torch.inference_mode():
        torch.testing.assert_close(frames(waveform), whole.detach(), atol=1e-5, rtol=1e-5)


def test_a_clip_too_short_for_the_front_end_is_refused() -> None:
    frames = WaveFrames(wave_convolutions(4)).requires_grad_(False)
    with pytest.raises(ValueError, match="too short|shorter"):
        frames(torch.zeros(1, 20))


def test_frames_stand_in_for_the_sounds_they_come_from(encoder: OnePeaceEncoder) -> None:
    adapter = encoder.adapter("audio")
    assert isinstance(adapter, AudioAdapter)
    frames = adapter.frames(INPUTS["audio"]["waveform"])
    assert torch.equal(encoder.embed("audio", {"frames": frames}), encoder.embed("audio", INPUTS["audio"]))


def test_batches_of_frames_are_padded_like_batches_of_sounds() -> None:
    processor = AudioProcessor(AudioConfig(wave_convolutions(4)))
    frames = WaveFrames(wave_convolutions(4))
    sounds = [{"waveform": torch.randn(samples)} for samples in (16000, 24000)]
    heard = [{"frames": frames(sound["waveform"][None])[0]} for sound in sounds]
    assert [processor.length(example) for example in heard] == [processor.length(sound) for sound in sounds]
    batch = processor.collate(heard)
    assert batch["frames"].shape == (2, processor.length(sounds[1]), 4)
    assert torch.equal(batch["padding"], processor.collate(sounds)["padding"])
