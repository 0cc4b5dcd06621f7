"""The modality contract: all that the rest of the system knows of text, images, sound or anything else.

A modality is one file that defines

* a `Config` dataclass, stored in a model's `config.json`;
* a `Processor`: raw input -> example (a dict of tensors), augmentation for training, batching, and masking for the
  denoising objective;
* an `Adapter`: a batch of examples -> token features, positions, padding and attention bias;
* the positions of its tokens in the pretraining decoder;
* the endings of its files, and for search how an input looks;
* what other programs need to know to prepare its inputs (`preprocessing`);
* for models whose modalities share one tower, an input as pictures (`frames`);

ties them together in a `Modality` and calls `register_modality`. Encoder, data, pretraining, checkpoints and
search take it from there.
"""

from __future__ import annotations

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor, nn

from one_peace.nn.initialization import truncated_normal_

if TYPE_CHECKING:
    from PIL.Image import Image

SMALL_WIDTH = 384
"""Below this width a preset trades input resolution for the speed that training on a laptop needs."""

Example = dict[str, Tensor]
"""One preprocessed input; the adapter of the modality knows its keys."""


@dataclasses.dataclass
class Embedded:
    """An input as token features, before cls, positions and bias.

    features: (batch, length, width). padding: (batch, length) bool, True = padding, or None when there is none.
    layout: arrangement of the tokens, (length,), (height, width) or (frames, height, width).
    """

    features: Tensor
    padding: Tensor | None
    layout: tuple[int, ...]


@dataclasses.dataclass
class Tokens:
    """What an adapter hands to the fusion encoder.

    features: (batch, tokens, width), cls first.
    padding: (batch, tokens) bool, True = padding, or None when there is none.
    bias: attention bias per table, each (1 or batch, heads, tokens, tokens).
    layout: the arrangement of the *unmasked* input without cls, as in `Embedded`.
    full_padding: padding of the unmasked input, for the decoder.
    """

    features: Tensor
    padding: Tensor | None
    bias: list[Tensor]
    layout: tuple[int, ...]
    full_padding: Tensor | None


class Adapter(nn.Module, ABC):
    """Turns a batch of one modality into `Tokens`. Subclasses say how to embed, place and bias them."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.cls = nn.Parameter(truncated_normal_(torch.empty(1, 1, width)))

    @abstractmethod
    def embed(self, inputs: Mapping[str, Tensor]) -> Embedded:
        """A collated batch as token features."""

    @abstractmethod
    def place(self, visible: Tensor, padding: Tensor | None, kept: Tensor | None, layout: tuple[int, ...]) -> Tensor:
        """Position features of the visible tokens, cls first: broadcastable to `visible` (batch, tokens, width)."""

    def attention_bias(self, layout: tuple[int, ...], kept: Tensor | None) -> list[Tensor]:
        """Attention bias per table, (1 or batch, heads, tokens, tokens). Default: none."""
        return []

    def start_from(self, other: Adapter) -> dict[str, Tensor]:
        """First values of parameters, by name, from the trained adapter of another modality. Default: none.

        Used where a recipe says `expert_from`, beside experts, norms, projection and cls, which all have alike.
        """
        return {}

    def arrange(self, embedded: Embedded, keep: Tensor | None = None) -> Tokens:
        """Adds cls, positions and bias, for all positions or for those in `keep`.

        `keep` (batch, visible) int64 lists positions, ascending from cls = 0, right-padded with -1.
        """
        features = embedded.features
        features = torch.cat([self.cls.to(features.dtype).expand(features.shape[0], -1, -1), features], dim=1)
        full_padding = None if embedded.padding is None else nn.functional.pad(embedded.padding, (1, 0), value=False)
        padding, kept = full_padding, None
        if keep is not None:
            padding = keep == -1
            # A padded slot repeats a real position: it is masked out of attention, but must exist.
            kept = keep.masked_fill(padding, keep.shape[1] - 1)
            features = features.gather(1, kept[:, :, None].expand(-1, -1, features.shape[2]))
        features = features + self.place(features, padding, kept, embedded.layout)
        bias = self.attention_bias(embedded.layout, kept)
        return Tokens(features, padding, bias, embedded.layout, full_padding)

    def forward(self, inputs: Mapping[str, Tensor]) -> Tokens:
        """A collated batch -> its tokens, none left out."""
        return self.arrange(self.embed(inputs))


class DecoderAdapter(nn.Module):
    """Places visible features among mask tokens and adds positions, for the pretraining decoder."""

    def __init__(self, width: int, positions: nn.Module) -> None:
        super().__init__()
        self.mask_token = nn.Parameter(truncated_normal_(torch.empty(1, width)))
        self.positions = positions

    def forward(self, visible: Tensor, keep: Tensor, layout: tuple[int, ...]) -> Tensor:
        """visible (batch, visible, width) at positions keep (batch, visible) -> (batch, tokens, width)."""
        batch, _, width = visible.shape
        places = self.positions(layout)  # (tokens, width)
        tokens = places.shape[0]
        slot = keep.masked_fill(keep == -1, tokens)  # padded entries go to a slot that is cut off
        canvas = self.mask_token.to(visible.dtype).expand(batch, tokens + 1, width)
        canvas = canvas.scatter(1, slot[:, :, None].expand(-1, -1, width), visible)
        return canvas[:, :tokens] + places.to(visible.dtype)


class SequencePositions(nn.Module):
    """A learned row per position of a sequence, cls first."""

    def __init__(self, rows: int, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(truncated_normal_(torch.empty(rows, width)))

    def forward(self, layout: tuple[int, ...]) -> Tensor:
        """Layout (length,) -> (1 + length, width)."""
        positions = layout[0] + 1
        if positions > self.weight.shape[0]:
            raise ValueError(f"{positions} positions, cls included: this model has {self.weight.shape[0]}")
        return self.weight[:positions]


class Processor(ABC):
    """Raw input -> examples -> batches, and the masks of the denoising objective. Picklable, no model inside."""

    @abstractmethod
    def __call__(self, source: Any) -> Example:
        """One input in any supported form -> example. Raises `InputError` naming the input."""

    @abstractmethod
    def length(self, example: Example) -> int:
        """Number of tokens of an example without cls: the unit for batching by length and for masks."""

    @abstractmethod
    def collate(self, examples: Sequence[Example]) -> dict[str, Tensor]:
        """A batch for the adapter, padded where lengths differ."""

    @abstractmethod
    def mask(self, example: Example, ratio: float, generator: torch.Generator, avoid: Tensor | None = None) -> Tensor:
        """Positions to hide, (length,) bool without cls. `avoid` is the mask of the same example in another pass."""

    def views(self, source: Any) -> list[Example]:
        """The examples whose mean embedding represents the input: more than one for inputs over the length limit."""
        return [self(source)]

    def limited(self, *, seconds: float | None = None, crop: tuple[float, float] | None = None) -> Processor:
        """The processor with the limits of a run, of which it takes those that its modality has: the longest input in
        seconds, and the smallest and largest share of the area of a picture that `augmented` shows. None keeps its own.

        Default: the processor itself, for it has neither.
        """
        return self

    def longest(self) -> Example | None:
        """An example of as many tokens as there can be, its values of no meaning: by it a run tells what a step costs
        where it has no inputs yet. Default: None, that is not known.
        """
        return None

    def load(self, source: Any) -> Any:
        """One input decoded as far as training keeps it in memory, for `vary`. Default: the finished example."""
        return self(source)

    def loaded_length(self, loaded: Any) -> int | None:
        """How long is what `load` gave, in any unit, where batches are to hold inputs of similar length.

        Default: None, all are drawn alike.
        """
        return None

    def vary(self, loaded: Any, generator: torch.Generator, strength: float) -> Example:
        """An example of what `load` gave, augmented in proportion to `strength`. At 0 it is as for encoding, but for
        what is drawn always: which way round a picture is, which piece of a long sound.

        Default: the example as it is.
        """
        example: Example = loaded
        return example

    def vary_batch(self, loaded: Sequence[Any], generator: torch.Generator, strength: float) -> list[Example]:
        """An example of each, as `vary` makes it. Default: one after the other."""
        return [self.vary(one, generator, strength) for one in loaded]

    def augmented(self, source: Any, generator: torch.Generator, strength: float) -> Example:
        """An example of an input that is not kept but read anew each time. Default: `vary` of what `load` gives.

        Where `load` drops something to save memory, this need not.
        """
        return self.vary(self.load(source), generator, strength)

    def save(self, folder: Path) -> None:  # noqa: B027
        """Writes files that the processor needs beside its config (a vocabulary, say). Default: none."""


class Modality(ABC):
    """Everything of one modality under one name."""

    name: ClassVar[str]
    Config: ClassVar[type]
    endings: ClassVar[str] = ""
    """Of the names of files that hold this modality and no other, separated by spaces, best first: `.mp4 .webm`."""
    fixed_length: ClassVar[bool] = False
    """Whether all its inputs have as many tokens, so that batches of pairs are sorted by the texts alone."""

    @abstractmethod
    def adapter(self, config: Any, width: int, heads: int, tables: int) -> Adapter:
        """The adapter of an encoder of this width and number of heads, with `tables` attention bias tables."""

    @abstractmethod
    def decoder_positions(self, config: Any, width: int) -> nn.Module:
        """A module from layout to (1 + tokens, width): the positions in the pretraining decoder."""

    @abstractmethod
    def processor(self, config: Any, folder: Path | None) -> Processor:
        """The processor for a config; `folder` is where a saved model's extra files lie."""

    def preset(self, width: int) -> Any:
        """The config for a model of this width. Default: `Config()`."""
        return self.Config()

    def preprocessing(self, config: Any) -> dict[str, Any]:
        """What programs other than this one need to know to prepare inputs, in plain values: the part of this modality
        in a saved model's `preprocessor_config.json`. Default: the config."""
        return dataclasses.asdict(config)

    def frames(self, source: Any, count: int, *, by_time: bool = False) -> Iterator[Tensor]:
        """An input as pictures, for a tower that several modalities share (`frames.py`), one at a time.

        Of a still input there is one. Of one that has a course there are `count`, spread over it by number or, with
        `by_time`, by time; a short one may give fewer, but two at least, and its last one then stands for the rest.

        Returns:
            (3, height, width) each: uint8, or float32 in [0, 1].

        Raises:
            InputError: an input that cannot be used.
            TypeError: the modality has no such form, which is the default.
        """
        raise TypeError(f"{self.name} has no form as pictures: {type(self).__name__} does not define `frames`")

    def mirror(self, frames: Tensor) -> Tensor:
        """What `frames` gives of the input's mirror image, left for right: (..., 3, height, width) -> the same.

        Default: the picture mirrored. A modality whose values have directions turns those, too.
        """
        return frames.flip(-1)

    def picture(self, source: Any) -> Image | None:
        """How an input looks, RGB, for a thumbnail. Raises `InputError`. Default: None, like nothing."""
        return None
