"""Reference files of `parity.py`: which there are in a folder, what they hold, what they say they hold."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors.torch import load_file
from torch import Tensor

# Files that checks of others read: weights, inputs and lists.
SUPPORT = re.compile(r"manifest|(vqgan_)?weights(_\d+|_scales)?|loss_inputs|loss_grads|official_tensors_\w+")
INPUTS = ("in.", "weights.")  # that a check may leave aside; everything else is an expected number


class Tensors(Mapping[str, Tensor]):
    """Tensors by name; `unread` are those that nothing has asked for yet."""

    def __init__(self, tensors: Mapping[str, Tensor]) -> None:
        self._tensors = dict(tensors)
        self.unread = set(self._tensors)

    def __getitem__(self, name: str) -> Tensor:
        tensor = self._tensors[name]
        self.unread.discard(name)
        return tensor

    def __contains__(self, name: object) -> bool:
        return name in self._tensors

    def __iter__(self) -> Iterator[str]:
        return iter(self._tensors)

    def __len__(self) -> int:
        return len(self._tensors)


@dataclass
class Fixture:
    """One reference file: `meta` from the JSON, `tensors` by full name, `listed` the names that should be there."""

    path: Path
    meta: dict[str, Any]
    tensors: Tensors
    listed: tuple[str, ...] = ()

    def group(self, prefix: str) -> dict[str, Tensor]:
        """The tensors under a prefix such as `weights.`, without it."""
        return {name[len(prefix) :]: self.tensors[name] for name in self.tensors if name.startswith(prefix)}

    def __getitem__(self, name: str) -> Tensor:
        return self.tensors[name]

    def missing(self) -> list[str]:
        """What is listed and not there."""
        return [name for name in self.listed if name not in self.tensors]

    def passed_over(self) -> list[str]:
        """After a check: expected numbers that it did not look at."""
        return [name for name in sorted(self.tensors.unread) if not name.startswith(INPUTS)]


def load_fixture(path: Path) -> Fixture:
    """The JSON at `path`, of which there may be none, with the tensors beside it."""
    values = json.loads(path.read_text(encoding="utf-8")) if path.suffix == ".json" and path.exists() else {}
    tensors = path.with_suffix(".safetensors")
    meta = values.get("meta", values) if isinstance(values, dict) else {"cases": values}
    found = load_file(tensors) if tensors.exists() else {}
    # "file" tells the JSON of a tensors' file from a list of a model's state dict.
    own = values["tensors"] if isinstance(values, dict) and "file" in values else {}
    return Fixture(path, meta, Tensors(found), (*own, *manifest_files(path.parent).get(tensors.name, {})))


def manifest_files(folder: Path) -> dict[str, dict[str, Any]]:
    """The tensors of each file that the folder's manifest lists, if it has one; none for files without tensors."""
    manifest = folder / "manifest.json"
    files = json.loads(manifest.read_text(encoding="utf-8")).get("files", {}) if manifest.exists() else {}
    return {name: facts.get("tensors", {}) for name, facts in files.items()}


def fixtures(folder: Path) -> list[Path]:
    """The reference files below a folder, as paths of their JSON, which those of tensors alone do not have.

    A checkpoint, `NAME.pt`, keeps its ending.
    """
    files = [*folder.rglob("*.json"), *folder.rglob("*.safetensors")]
    return sorted({*(path.with_suffix(".json") for path in files), *folder.rglob("*.pt")})


def absent_files(folder: Path) -> list[Path]:
    """Files that a manifest below the folder lists and that are not beside it."""
    listed = (path.parent / name for path in folder.rglob("manifest.json") for name in manifest_files(path.parent))
    return [path for path in listed if not path.exists()]


def plain_name(stem: str) -> str:
    """A fixture's name without what tells sets apart: `fixture_1b_retrieval_val` is `fixture1_retrieval_val`."""
    return re.sub(r"^.*?fixture_?[a-z]?_?(\d+)[a-z]?_", r"fixture\1_", stem, flags=re.IGNORECASE)
