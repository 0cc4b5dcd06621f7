"""The decoder: where visible features go, what fills the gaps, and that padding stays out."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from torch import Tensor

from one_peace.models.one_peace.pretraining import OnePeaceForPretraining
from tiny_models import CAPTIONS, CONFIG, tiny_model, tiny_processors

PROCESSORS = tiny_processors()
SHORT, LONG = PROCESSORS["text"](CAPTIONS[3]), PROCESSORS["text"](CAPTIONS[0])
SHORT_LENGTH, LONG_LENGTH = (1 + PROCESSORS["text"].length(e) for e in (SHORT, LONG))


def model(mask_padding: bool = True) -> OnePeaceForPretraining:
    assert CONFIG.decoder is not None
    decoder = dataclasses.replace(CONFIG.decoder, mask_padding=mask_padding)
    made = tiny_model(config=dataclasses.replace(CONFIG, decoder=decoder)).eval().requires_grad_(False)
    for parameter in made.parameters():  # nothing is zero or one, so that no term can hide
        parameter.add_(0.2 * torch.randn_like(parameter))
    return made


def keep(*rows: list[int]) -> Tensor:
    return torch.nn.utils.rnn.pad_sequence([torch.tensor(row) for row in rows], batch_first=True, padding_value=-1)


def reconstruct(made: OnePeaceForPretraining, examples: list[dict[str, Tensor]], kept: Tensor) -> Tensor:
    embedded = made.encoder.adapter("text").embed(PROCESSORS["text"].collate(examples))
    return made.reconstruct({"text": embedded}, {"text": kept})["text"]


def test_every_position_is_decoded_in_the_encoders_width() -> None:
    decoded = reconstruct(model(), [LONG, SHORT], keep([0, 2, 3], [0]))
    assert decoded.shape == (2, LONG_LENGTH, CONFIG.width)
    assert decoded[0].isfinite().all()


def test_features_go_to_their_positions_and_mask_tokens_to_the_rest() -> None:
    adapter = model().decoder.adapters["text"]
    visible = torch.randn(2, 3, 16, generator=torch.Generator().manual_seed(0))
    placed = adapter(visible, keep([0, 2, 3], [0, 4]), (5,)) - adapter.positions((5,))
    expected = adapter.mask_token.expand(2, 6, 16).clone()
    expected[0, [0, 2, 3]] = visible[0]
    expected[1, [0, 4]] = visible[1, :2]  # the third is padding
    torch.testing.assert_close(placed, expected)


def test_hidden_positions_are_told_apart_by_their_place() -> None:
    decoded = reconstruct(model(), [LONG], keep([0]))[0]
    distances = torch.cdist(decoded, decoded) + 9 * torch.eye(LONG_LENGTH)
    assert distances.min() > 1e-2


def test_a_padded_sample_decodes_as_it_does_alone() -> None:
    made = model()
    alone = reconstruct(made, [SHORT], keep([0, 1]))
    together = reconstruct(made, [LONG, SHORT], keep([0, 1, 2, 3], [0, 1]))
    assert SHORT_LENGTH < LONG_LENGTH
    torch.testing.assert_close(together[1:, :SHORT_LENGTH], alone, atol=1e-5, rtol=1e-5)


def test_the_published_decoder_attends_to_padding() -> None:
    made = model(mask_padding=False)
    alone = reconstruct(made, [SHORT], keep([0, 1]))
    together = reconstruct(made, [LONG, SHORT], keep([0, 1, 2, 3], [0, 1]))
    assert (together[1:, :SHORT_LENGTH] - alone).abs().max() > 1e-3


@pytest.mark.parametrize("other", ["image", "audio"])
def test_a_joint_reconstruction_sees_the_partner(other: str) -> None:
    made = model()
    sample = {"image": {"pixels": torch.rand(3, 64, 64)}, "audio": {"waveform": torch.randn(16000)}}[other]
    text = made.encoder.adapter("text").embed(PROCESSORS["text"].collate([LONG]))
    partner = made.encoder.adapter(other).embed(PROCESSORS[other].collate([sample]))
    every = torch.arange(1 + PROCESSORS[other].length(sample))[None]
    kept = {"text": keep([0, 1])}
    few = made.reconstruct({"text": text, other: partner}, kept | {other: every[:, :2]})
    more = made.reconstruct({"text": text, other: partner}, kept | {other: every})
    assert few[other].shape == more[other].shape == (1, every.shape[1], CONFIG.width)
    assert (few["text"] - more["text"]).abs().max() > 1e-3


def test_without_a_decoder_it_fills_in_nothing() -> None:
    model = OnePeaceForPretraining(dataclasses.replace(CONFIG, decoder=None))
    assert not any(name.startswith("decoder.") for name, _ in model.named_parameters())
    with pytest.raises(ValueError, match="'tiny' has no decoder; the denoising objective needs one"):
        model.reconstruct({}, {})
