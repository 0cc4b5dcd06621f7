"""What `torch.save` writes: a zip file of a pickle, and of a record of bytes for each storage that it refers to."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from one_peace.checkpoints.mapped_pickle import flat_tensor, map_file, no_storage, unpickle
from one_peace.errors import CheckpointError

LOCAL_HEADER = 30  # bytes in front of a record, before its name and the extra field
LENGTHS = slice(26, 30)  # of these two, in that header
PICKLE = "data.pkl"


def is_zip(path: Path) -> bool:
    """Whether a file starts as a zip file does."""
    with open(path, "rb") as file:
        return file.read(4) == b"PK\x03\x04"


class ZipContainer:
    """Such a file. Its records are views of it: they must be stored as they are, and their checksums are not looked at.

    `CheckpointError` for one that `torch.save` did not write or that was compressed since. A damaged one can raise
    anything.
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

    def load(self) -> Any:
        """What was saved."""
        storages: dict[tuple[str, torch.dtype], Tensor] = {}

        def storage(pid: Any) -> Tensor:
            kind, dtype, key, _, count = pid
            if kind != "storage" or not isinstance(dtype, torch.dtype):
                raise no_storage(pid)
            if (key, dtype) not in storages:
                record = self._record(f"data/{key}")
                if len(record) != count * dtype.itemsize:
                    raise CheckpointError(f"damaged: {len(record)} bytes for {count} values of {dtype} in data/{key}")
                storages[key, dtype] = flat_tensor(record, dtype)
            return storages[key, dtype]

        return unpickle(self.pickle, storage)

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
