"""Configuration of a ONE-PEACE model, and its plain-dict form in `config.json`."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from one_peace.configuration import build_dataclass, within
from one_peace.modalities import get_modality
from one_peace.models.blocks import check_blocks
from one_peace.models.inputs import choose_modalities


@dataclass(frozen=True)
class DecoderConfig:
    """The pretraining decoder: same blocks, no relative bias, no layer scale.

    The published decoder attends to padded positions. `mask_padding` keeps them out; False reproduces the
    published losses.
    """

    width: int
    layers: int
    heads: int
    ffn_width: int
    mask_padding: bool = True

    def __post_init__(self) -> None:
        check_blocks(self, "decoder")


Pooling = Literal["attention", "cls", "mean"]
POOLINGS: tuple[Pooling, ...] = ("attention", "cls", "mean")


@dataclass(frozen=True)
class HeadConfig:
    """What is predicted, and from which features.

    outputs: number of scores. reads: the modality whose features are pooled. pooling: a learned query over all
    positions but cls (the published vision-language and audio heads), the cls position, or the mean of all others
    (the published image classifier). hidden: width of the layer before the scores, None for a single linear map.
    pooler: a tanh layer in front of it (published for VQA). pictures: how many pictures an example has, each encoded
    with the same text (2 for NLVR2), which also gives text and pictures an embedding of their role.
    """

    outputs: int
    reads: str
    pooling: Pooling = "attention"
    hidden: int | None = None
    pooler: bool = False
    pictures: int = 1

    def __post_init__(self) -> None:
        within(self, "head", outputs="[1, inf)", hidden="[1, inf)", pictures="[1, 2]")
        if self.pooling not in POOLINGS:
            raise ValueError(f"pooling must be one of {', '.join(POOLINGS)}, got {self.pooling!r}")


@dataclass(frozen=True)
class OnePeaceConfig:
    """Shape of an encoder and, for pretraining, its decoder or, for a fine-tuned task, its head.

    `modalities` maps a registered name to its config, in the order of concatenation. `layer_scale` is the initial
    value, None for no layer scale. `per_layer_bias` gives every block its own relative bias tables (the
    published fine-tuned models); otherwise one is shared.
    """

    name: str
    width: int
    layers: int
    heads: int
    ffn_width: int
    modalities: Mapping[str, Any]
    layer_scale: float | None = 1e-6
    drop_path: float = 0.0
    per_layer_bias: bool = False
    decoder: DecoderConfig | None = None
    head: HeadConfig | None = None

    def __post_init__(self) -> None:
        check_blocks(self, "config")
        within(self, "config", layer_scale="[0, inf)", drop_path="[0, 1)")

    @property
    def bias_tables(self) -> int:
        """Number of relative bias tables of each adapter."""
        return self.layers if self.per_layer_bias else 1

    def with_modalities(self, names: Iterable[str]) -> OnePeaceConfig:
        """The same model with some of its modalities only: a branch."""
        chosen = choose_modalities(names, self.modalities, self.name)
        kept = {name: self.modalities[name] for name in chosen}
        return dataclasses.replace(self, modalities=kept)

    def to_dict(self) -> dict[str, Any]:
        """A dict of plain values, readable by `from_dict`."""
        return dataclasses.asdict(dataclasses.replace(self, modalities=dict(self.modalities)))

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> OnePeaceConfig:
        """Inverse of `to_dict`. `ValueError` names unknown keys and the nearest known one."""
        fields = dict(values)
        modalities: dict[str, Any] = {
            name: build_dataclass(get_modality(name).Config, config, f"modalities.{name}")
            for name, config in fields.pop("modalities", {}).items()
        }
        if fields.get("decoder") is not None:
            fields["decoder"] = build_dataclass(DecoderConfig, fields["decoder"], "decoder")
        if fields.get("head") is not None:
            fields["head"] = build_dataclass(HeadConfig, fields["head"], "head")
        config: OnePeaceConfig = build_dataclass(cls, fields | {"modalities": modalities}, "config")
        return config
