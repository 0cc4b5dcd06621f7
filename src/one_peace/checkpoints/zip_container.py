"""What `torch.save` writes: a zip file of a pickle, and of a record of bytes for each storage that it refers to."""

from __future__ import annotations

import zipfile
from collections import Counter
from pathlib import Path

import torch
from torch import Tensor

from one_peace.checkpoints.mapped_pickle import map_file
from one_peace.errors import CheckpointError

LOCAL_HEADER = 30  # bytes in front of a record, before its name and the extra field
LENGTHS = slice(26, 30)  # of these two, in that header
PICKLE = "data.pkl"


def is_zip(path: Path) -> bool:
    """Whether a file starts as a zip file does."""
    with open(path, "rb") as file:
        return file.read(4) == b"PK\x03\x04"


class ZipContainer:
    """Such a file before PyTorch's reader maps it: where its records are, and whether they can be mapped.

    Checksums are not looked at, for not all files have them. `CheckpointError` for a file that `torch.save` did not
    write or that was compressed since. A damaged one can raise anything.
    """

    def __init__(self, path: Path) -> None:
        self._view = map_file(path)
        with zipfile.ZipFile(path) as archive:
            self._records = {info.filename: info for info in archive.infolist()}
        found = next((name for name in self._records if name.endswith(f"/{PICKLE}")), None)
        if found is None:
            raise CheckpointError(f"a zip file without {PICKLE}, which torch.save did not write")
        self._folder = found.removesuffix(PICKLE)
        if f"{self._folder}byteorder" in self._records and bytes(self._record("byteorder")) == b"big":
            raise CheckpointError("written on a big-endian machine, which is not supported; save it again on another")

    @property
    def pickle(self) -> memoryview:
        """The pickle, unread."""
        return self._record(PICKLE)

    def check_records(self) -> None:
        """That every record lies in the file as it is: what is mapped is taken for weights, whatever it is."""
        for name in self._records:
            if name.startswith(f"{self._folder}data/"):
                self._record(name.removeprefix(self._folder))

    def check_storages(self, loaded: object) -> None:
        """That every storage in what was read has a record of its size: bytes behind a shorter one are another's."""
        sizes = Counter(info.file_size for info in self._records.values())
        too_many = Counter(storages_in(loaded).values()) - sizes
        if too_many:
            raise CheckpointError(f"damaged: no record of the {min(too_many)} bytes that a tensor in it has")

    def _record(self, name: str) -> memoryview:
        info = self._records.get(self._folder + name)
        if info is None:
            raise CheckpointError(f"damaged: the record {name} is missing")
        if info.compress_type != zipfile.ZIP_STORED or info.flag_bits & 1:
            raise CheckpointError("its records are compressed; load it with torch.load, then torch.save it again")
        lengths = self._view[info.header_offset :][LENGTHS]
        start = info.header_offset + LOCAL_HEADER + sum(int.from_bytes(lengths[i : i + 2], "little") for i in (0, 2))
        record = self._view[start : start + info.file_size]
        if len(record) < info.file_size:
            raise EOFError("the file ends too early")
        return record


def storages_in(value: object) -> dict[int, int]:
    """Address -> bytes of the storages of all tensors in dicts, lists and tuples, each of these looked at once."""
    found: dict[int, int] = {}
    seen: set[int] = set()
    waiting = [value]
    while waiting:
        one = waiting.pop()
        if isinstance(one, Tensor):
            if one.layout != torch.strided or one.is_quantized or one.is_meta:
                raise CheckpointError("refused, it holds sparse, quantized or empty tensors; weights are dense ones")
            storage = one.untyped_storage()
            found[storage.data_ptr()] = storage.nbytes()
        elif isinstance(one, dict | list | tuple) and id(one) not in seen:
            seen.add(id(one))
            waiting.extend(one.values() if isinstance(one, dict) else one)
    return found
