"""The pretraining model: an encoder and a small decoder that fills in masked positions (paper, section 3.3)."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn

from one_peace.modalities import get_modality
from one_peace.modalities.base import DecoderAdapter, Embedded, Tokens
from one_peace.models.one_peace.config import OnePeaceConfig
from one_peace.models.one_peace.encoder import FusionEncoder
from one_peace.models.one_peace.model import OnePeaceEncoder
from one_peace.nn.initialization import initialize_linear_layers
from one_peace.nn.linear import Linear


class Decoder(nn.Module):
    """Visible encoder features among mask tokens -> features of all positions, in the encoder's width."""

    def __init__(self, config: OnePeaceConfig) -> None:
        super().__init__()
        if config.decoder is None:
            raise ValueError(f"model {config.name!r} has no decoder config; pretraining needs one")
        shape = config.decoder
        names = list(config.modalities)
        self.mask_padding = shape.mask_padding
        self.inputs = nn.ModuleDict({name: Linear(config.width, shape.width) for name in names})
        self.adapters = nn.ModuleDict(
            {
                name: DecoderAdapter(shape.width, get_modality(name).decoder_positions(settings, shape.width))
                for name, settings in config.modalities.items()
            }
        )
        self.fusion = FusionEncoder(shape.width, shape.layers, shape.heads, shape.ffn_width, names)
        self.outputs = nn.ModuleDict({name: Linear(shape.width, config.width) for name in names})
        initialize_linear_layers(self, config.width)

    def forward(
        self, features: Mapping[str, Tensor], keep: Mapping[str, Tensor], tokens: Mapping[str, Tokens]
    ) -> dict[str, Tensor]:
        """features of the visible positions `keep` -> (batch, tokens, encoder width) of each modality.

        `tokens` are the encoder's inputs, for the layout and padding of the unmasked sequences.
        """
        sequences = {}
        for name, visible in features.items():
            padding = tokens[name].full_padding
            x = self.adapters[name](self.inputs[name](visible), keep[name], tokens[name].layout)
            if padding is not None and not self.mask_padding:
                # the published decoder zeroes padded positions, then attends to them like any other
                x, padding = x.masked_fill(padding[:, :, None], 0.0), None
            sequences[name] = Tokens(x, padding, [], tokens[name].layout, padding)
        return {name: self.outputs[name](x) for name, x in self.fusion(sequences).items()}


class OnePeaceForPretraining(nn.Module):
    """Encoder plus decoder; without a decoder in the config, for the contrast alone."""

    def __init__(self, config: OnePeaceConfig) -> None:
        super().__init__()
        self.config = config
        self.encoder = OnePeaceEncoder(config)
        self.decoder = None if config.decoder is None else Decoder(config)

    def reconstruct(self, embeddings: Mapping[str, Embedded], keep: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Encodes the positions `keep` (batch, visible) of every modality and decodes all positions.

        `embeddings` come from the encoder; passes over the same batch share them.
        """
        if self.decoder is None:
            raise ValueError(f"model {self.config.name!r} has no decoder; the denoising objective needs one")
        tokens = self.encoder.arrange(embeddings, keep)
        features = self.encoder.fusion(tokens)
        decoded: dict[str, Tensor] = self.decoder(features, keep, tokens)
        return decoded
