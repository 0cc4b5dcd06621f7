"""Writes safetensors files piece by piece, so that a conversion needs no memory for what it converts."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

DTYPES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}


@dataclass(frozen=True)
class DeferredTensor:
    """A tensor that is only made when its values are written; its shape and dtype are known before."""

    shape: tuple[int, ...]
    dtype: torch.dtype
    read: Callable[[], Tensor]

    def numel(self) -> int:
        return math.prod(self.shape)

    def element_size(self) -> int:
        return self.dtype.itemsize

    def is_floating_point(self) -> bool:
        return self.dtype.is_floating_point


Piece = Tensor | DeferredTensor


def nbytes(pieces: Sequence[Piece]) -> int:
    """Bytes of a tensor in pieces."""
    return sum(p.numel() * p.element_size() for p in pieces)


def write_tensor_file(path: Path, tensors: Mapping[str, Sequence[Piece]]) -> None:
    """Writes a safetensors file; each tensor is given as pieces of one dtype, to be joined along dimension 0."""
    order = sorted(tensors, key=lambda name: (-tensors[name][0].element_size(), name))  # keeps every tensor aligned
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    offset = 0
    for name in order:
        pieces = tensors[name]
        shape = list(pieces[0].shape)
        if len(pieces) > 1:
            shape[0] = sum(p.shape[0] for p in pieces)
        if len(dtypes := sorted({str(p.dtype) for p in pieces})) > 1:
            raise ValueError(
                f"{name}: its parts are of {', '.join(dtypes)}, and stored they are one tensor of one type"
            )
        if pieces[0].dtype not in DTYPES:
            raise ValueError(f"{name}: tensors of {pieces[0].dtype} cannot be stored")
        end = offset + nbytes(pieces)
        header[name] = {"dtype": DTYPES[pieces[0].dtype], "shape": shape, "data_offsets": [offset, end]}
        offset = end
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as file:
        file.write(len(text).to_bytes(8, "little"))
        file.write(text)
        for name in order:
            for chunk in _chunks(tensors[name]):
                file.write(chunk)


def _chunks(pieces: Sequence[Piece]) -> Iterable[memoryview]:
    for piece in pieces:
        tensor = piece.read() if isinstance(piece, DeferredTensor) else piece
        flat = tensor.detach().cpu().contiguous().reshape(-1)
        if flat.numel():
            yield memoryview(flat.view(torch.uint8).numpy().data)
