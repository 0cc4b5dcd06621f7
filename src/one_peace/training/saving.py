"""Models in training written in our own format, sharded ones tensor by tensor."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from one_peace.checkpoints.native import write_folder
from one_peace.checkpoints.tensor_file import DeferredTensor
from one_peace.modalities.base import Processor
from one_peace.models.mico.model import MiCoModel
from one_peace.models.one_peace.prediction import OnePeaceForPrediction
from one_peace.models.one_peace.pretraining import OnePeaceForPretraining
from one_peace.training.distributed import Processes
from one_peace.training.finetuning.lora import merged_tensors


def save_for_training(
    model: OnePeaceForPretraining | OnePeaceForPrediction | MiCoModel,
    processors: Mapping[str, Processor],
    folder: Path,
    processes: Processes | None = None,
    also: Callable[[Path], None] | None = None,
) -> None:
    """Writes a whole model, decoder or head included, in our format; `from_pretrained` reads the encoder of it.

    Low-rank changes are merged into the weights that they change. `also` writes further files into the folder before
    it gets its name. Every one of several processes calls it.
    """

    def files(target: Path) -> None:
        for processor in processors.values():
            processor.save(target)
        if also is not None:
            also(target)

    write_sharded(folder, model.config.to_dict(), merged_tensors(model), files, processes or Processes())


def write_sharded(
    folder: Path,
    config: Mapping[str, Any],
    tensors: Mapping[str, DeferredTensor],
    write_files: Callable[[Path], None],
    processes: Processes,
) -> None:
    """Writes a folder in our format: one tensor at a time, put together from all shards.

    Every one of several processes calls it, the first one writes. Reading a sharded tensor takes all of them, so the
    others read what the first one says it is about to write.
    """
    if not processes.first:
        while (name := processes.share(None)) is not None:
            tensors[name].read()
        return

    def piece(name: str) -> DeferredTensor:
        def read() -> Tensor:
            processes.share(name)
            return tensors[name].read()

        return DeferredTensor(tensors[name].shape, tensors[name].dtype, read)

    try:
        write_folder(folder, config, {name: [piece(name)] for name in tensors}, write_files=write_files)
    finally:
        processes.share(None)
