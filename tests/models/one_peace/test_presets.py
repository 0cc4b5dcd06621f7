"""Sizes of the family, counted on the meta device: exact for the published model, and one rule of shape for all."""

from __future__ import annotations

from functools import cache

import pytest
import torch
from torch import nn

from one_peace.models.one_peace.config import OnePeaceConfig
from one_peace.models.one_peace.model import OnePeaceEncoder
from one_peace.models.one_peace.presets import list_presets, preset
from one_peace.models.one_peace.pretraining import OnePeaceForPretraining

# Counted on the published code: the retrieval model (encoder and projections), whole and with some modalities only.
PUBLISHED: dict[tuple[str, ...], int] = {
    ("text", "image", "audio"): 3_884_740_545,
    ("text", "image"): 2_730_320_785,
    ("text", "audio"): 2_745_970_785,
    ("text",): 1_591_551_025,
    ("image",): 1_516_932_961,
    ("audio",): 1_532_582_961,
}
MASK_EMBEDDING = 1536  # of the published audio adapter, which no computation reads
SHARED = 378_163_201  # attention, norms and layer scale of the blocks, and the logit scale


def parameters(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


def encoder(config: OnePeaceConfig) -> OnePeaceEncoder:
    with torch.device("meta"):
        return OnePeaceEncoder(config)


@cache
def size(name: str, modalities: tuple[str, ...] = ("text", "image", "audio")) -> int:
    return parameters(encoder(preset(name, modalities)))


@pytest.mark.parametrize(("modalities", "published"), PUBLISHED.items(), ids=map("+".join, PUBLISHED))
def test_the_published_model_has_its_published_size(modalities: tuple[str, ...], published: int) -> None:
    unused = MASK_EMBEDDING if "audio" in modalities else 0
    assert size("one-peace", modalities) == published - unused


def test_branches_share_all_but_their_own_parameters() -> None:
    own = sum(size("one-peace", (name,)) - SHARED for name in ("text", "image", "audio"))
    assert own + SHARED == size("one-peace")


@pytest.mark.parametrize(
    ("modalities", "published", "unused"),
    [
        # The published decoder adapters hold cls embeddings (768 each) that no computation reads, and the one for
        # sound a mask embedding as well.
        (("text", "image"), 2_759_268_497, 2 * 768),
        (("text", "audio"), 2_775_509_857, 2 * 768 + MASK_EMBEDDING + 768),
    ],
    ids=["text+image", "text+audio"],
)
def test_the_pretraining_model_has_its_published_size(modalities: tuple[str, ...], published: int, unused: int) -> None:
    with torch.device("meta"):
        model = OnePeaceForPretraining(preset("one-peace", modalities, decoder=True))
    assert parameters(model) == published - unused


def test_every_preset_builds_and_is_larger_than_the_one_before() -> None:
    assert list_presets()[0] == "nano" and list_presets()[-1] == "one-peace"
    sizes = [size(name) for name in list_presets()]
    assert sizes == sorted(set(sizes))


@pytest.mark.parametrize("name", list_presets())
def test_one_rule_of_shape(name: str) -> None:
    config = preset(name, decoder=True)
    assert config.name == name and list(config.modalities) == ["text", "image", "audio"]
    assert config.width == 64 * config.heads
    assert config.ffn_width == 4 * config.width
    assert not config.per_layer_bias
    decoder = config.decoder
    assert decoder is not None
    assert (2 * decoder.width, decoder.layers) == (config.width, 2)
    assert decoder.ffn_width % 8 == 0 and abs(decoder.ffn_width - 8 * decoder.width / 3) <= 4
    assert decoder.width % decoder.heads == 0 and 64 <= decoder.width // decoder.heads < 128
    model = encoder(config)
    for modality in config.modalities:
        assert model.projections[modality].out_features == config.width
    assert len(model.fusion.blocks) == config.layers
    assert preset(name).decoder is None


def test_layer_scale_falls_with_depth() -> None:
    configs = sorted((preset(name) for name in list_presets()), key=lambda c: c.layers)
    scales = [c.layer_scale for c in configs]
    assert scales == sorted(scales, reverse=True) and scales[-1] == 1e-6
    block = encoder(configs[0]).fusion.blocks[0]
    assert block.attention_scale is not None and block.attention_scale.shape == (configs[0].width,)


@pytest.mark.parametrize("name", list_presets())
def test_a_config_survives_its_plain_form(name: str) -> None:
    config = preset(name, decoder=True)
    assert OnePeaceConfig.from_dict(config.to_dict()) == config


def test_unknown_names_are_refused_with_the_known_ones() -> None:
    with pytest.raises(ValueError, match="'huge'.*nano"):
        preset("huge")
    with pytest.raises(ValueError, match="'smell'.*text"):
        preset("nano", ("text", "smell"))
    with pytest.raises(ValueError, match="no modality 'audio'.*text, image"):
        preset("nano", ("text", "image")).with_modalities(["audio"])
