"""The values that parameters start with, a few at a time: no process ever holds a whole model.

A model is built on the meta device, sharded, and only then gets memory, on each process for its own shards. Values are
drawn part by part: each block of the encoder, and all the rest. A part depends on the seed and its own place alone, so
that a model starts alike on any number of processes, and it is drawn on the CPU, so on any device.
"""

from __future__ import annotations

import dataclasses
import re
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, distribute_tensor

from one_peace.data.permutation import mix
from one_peace.models.one_peace.config import OnePeaceConfig
from one_peace.models.one_peace.encoder import FusionEncoder
from one_peace.models.one_peace.pretraining import OnePeaceForPretraining
from one_peace.nn.initialization import initialize_linear_layers

BLOCK = re.compile(r"encoder\.fusion\.blocks\.(\d+)\.(.+)")
TABLE = re.compile(r"(.+\.bias\.tables)\.\d+")


def empty_model(config: OnePeaceConfig) -> OnePeaceForPretraining:
    """A model on the meta device: names and shapes, no values."""
    with torch.device("meta"):
        return OnePeaceForPretraining(config)


def fresh_values(config: OnePeaceConfig, seed: int, names: Collection[str]) -> Iterator[tuple[str, Tensor]]:
    """Names and newly drawn values of some parameters of `OnePeaceForPretraining`, float32 on the CPU."""
    blocks: dict[int, list[tuple[str, str]]] = defaultdict(list)
    rest = []
    for name in sorted(names):
        if found := BLOCK.fullmatch(name):
            blocks[int(found[1])].append((name, found[2]))
        else:
            rest.append(name)
    if rest:
        values = _all_but_blocks(config, seed)
        for name in rest:
            # a table for each block: all start as the one of the shallow model
            yield name, values[name if name in values else TABLE.sub(r"\1.0", name)]
        del values
    for number, members in sorted(blocks.items()):
        values = _block(config, seed, number)
        for name, inside in members:
            yield name, values[inside]


def fill(model: nn.Module, values: Iterable[tuple[str, Tensor]]) -> None:
    """Puts whole values, by name, into a model that may be sharded: each process keeps its share of every value.

    Of values for one name the last one counts. Every parameter must get one.
    """
    parameters = dict(model.named_parameters())
    left = set(parameters)
    for name, value in values:
        assign(parameters[name], value)
        left.discard(name)
    assert not left, f"no value for {sorted(left)}"


@torch.no_grad()
def assign(parameter: nn.Parameter, value: Tensor) -> None:
    """A whole value into a parameter, in place."""
    if not isinstance(parameter, DTensor):
        parameter.copy_(value)
        return
    local = parameter.to_local()
    value = value.to(local.device, local.dtype)
    # every process has the value: nothing has to be sent
    share = distribute_tensor(value, parameter.device_mesh, parameter.placements, src_data_rank=None)
    local.copy_(share.to_local())


def _all_but_blocks(config: OnePeaceConfig, seed: int) -> dict[str, Tensor]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(mix(seed, "all but blocks") >> 1)
        shallow = OnePeaceForPretraining(dataclasses.replace(config, layers=1))
    return {name: p.detach() for name, p in shallow.named_parameters() if not BLOCK.fullmatch(name)}


def _block(config: OnePeaceConfig, seed: int, number: int) -> dict[str, Tensor]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(mix(seed, "block", number) >> 1)
        shape = config.width, 1, config.heads, config.ffn_width, list(config.modalities), config.layer_scale
        fusion = FusionEncoder(*shape)
        initialize_linear_layers(fusion, config.width)
    return {name: p.detach() for name, p in fusion.blocks[0].named_parameters()}
