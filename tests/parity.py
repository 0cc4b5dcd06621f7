"""Compares this implementation with reference numbers: `python tests/parity.py DIR`.

Every `NAME.json` or `NAME.safetensors` in DIR (and its folders) with a check of that name is run; configuration,
inputs, weights and expected numbers come from both, or from a `manifest.json` beside them. Prints a line per file:
name, worst absolute and relative difference, pass or fail. Exit status 1 if any check fails or none was found.
"""

from __future__ import annotations

import json
import sys
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(0, str(Path(__file__).parents[1] / "src"))


@dataclass
class Fixture:
    """One reference file: `meta` from the JSON, `tensors` by full name."""

    path: Path
    meta: dict[str, Any]
    tensors: dict[str, Tensor]

    def group(self, prefix: str) -> dict[str, Tensor]:
        """The tensors under a prefix such as `weights.`, without it."""
        return {name[len(prefix) :]: t for name, t in self.tensors.items() if name.startswith(prefix)}

    def __getitem__(self, name: str) -> Tensor:
        return self.tensors[name]


@dataclass
class Comparison:
    """Collects differences; each kind of number has its tolerance."""

    absolute: float = 0.0
    relative: float = 0.0
    count: int = 0
    failures: list[str] = field(default_factory=list)

    def feature(self, name: str, ours: Tensor, theirs: Tensor, tolerance: float = 1e-5) -> None:
        """Features and preprocessing: at most `tolerance` absolute."""
        self._compare(name, ours, theirs, lambda absolute, relative: absolute <= tolerance)

    def loss(self, name: str, ours: Tensor, theirs: Tensor) -> None:
        """Losses: at most 1e-6 relative."""
        self._compare(name, ours, theirs, lambda absolute, relative: relative <= 1e-6)

    def gradient(self, name: str, ours: Tensor | None, theirs: Tensor) -> None:
        """Gradients: at most 1e-5 of the tensor's largest value, or 1e-7, the float32 noise of unit-length features."""
        ours = torch.zeros_like(theirs) if ours is None else ours
        self._compare(name, ours, theirs, lambda absolute, relative: relative <= 1e-5 or absolute <= 1e-7)

    def exact(self, name: str, ours: Any, theirs: Any) -> None:
        """Ids, masks, counts, names."""
        self.count += 1
        same = torch.equal(ours, theirs) if isinstance(ours, Tensor) else ours == theirs
        if not same:
            self.failures.append(f"{name} differs")

    def _compare(self, name: str, ours: Tensor, theirs: Tensor, good: Callable[[float, float], bool]) -> None:
        self.count += 1
        if ours.shape != theirs.shape:
            self.failures.append(f"{name}: shape {tuple(ours.shape)} instead of {tuple(theirs.shape)}")
            return
        absolute = (ours.detach().double() - theirs.double()).abs().max().item() if ours.numel() else 0.0
        relative = absolute / max(theirs.double().abs().max().item(), 1e-30) if absolute else 0.0
        self.absolute = max(self.absolute, absolute)
        self.relative = max(self.relative, relative)
        if not good(absolute, relative):
            self.failures.append(f"{name}: absolute {absolute:.2e}, relative {relative:.2e}")


Check = Callable[[Fixture, Comparison], None]

MODULES = (  # each with its CHECKS, by the beginning of a fixture's name
    "parity_one_peace",
    "parity_one_peace_inputs",
    "parity_one_peace_pretraining",
    "parity_one_peace_shapes",
    "parity_one_peace_tasks",
    "parity_one_peace_updates",
    "parity_ofa",
    "parity_ofa_generation",
    "parity_ofa_losses",
    "parity_ofa_metrics",
    "parity_ofa_vqgan",
    "parity_ofa_items",
    "parity_mico",
    "parity_mico_pretraining",
    "parity_mico_weights",
)


def load_fixture(path: Path) -> Fixture:
    """The JSON at `path`, of which there may be none, with the tensors beside it."""
    values = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    tensors = path.with_suffix(".safetensors")
    meta = values.get("meta", values) if isinstance(values, dict) else {"cases": values}
    return Fixture(path, meta, load_file(tensors) if tensors.exists() else {})


def find_check(stem: str) -> Check | None:
    """The check for a fixture's name: the longest registered prefix of it."""
    checks: dict[str, Check] = {}
    for module in MODULES:
        checks |= import_module(module).CHECKS
    matching = [prefix for prefix in checks if stem.startswith(prefix)]
    return checks[max(matching, key=len)] if matching else None


def fixtures(folder: Path) -> list[Path]:
    """The reference files below a folder, as paths of their JSON, which those of tensors alone do not have."""
    files = [*folder.rglob("*.json"), *folder.rglob("*.safetensors")]
    return sorted({path.with_suffix(".json") for path in files})


def run_check(path: Path, check: Check) -> Comparison:
    """Runs one check on one thread; an exception counts as a failure."""
    comparison = Comparison()
    torch.manual_seed(0)
    try:
        check(load_fixture(path), comparison)
        if not comparison.count:
            comparison.failures.append("nothing was compared")
    except Exception as error:  # the report must name every file
        traceback.print_exc()
        comparison.failures.append(f"{type(error).__name__}: {error}")
    return comparison


def main(folder: Path) -> int:
    torch.set_num_threads(1)
    failed = found = 0
    for path in fixtures(folder):
        check = find_check(path.stem)
        if check is None:
            print(f"{path.stem:<44} no check")
            continue
        found += 1
        result = run_check(path, check)
        verdict = "FAIL" if result.failures else "pass"
        print(f"{path.stem:<44} absolute {result.absolute:.2e}  relative {result.relative:.2e}  {verdict}")
        for failure in result.failures:
            failed += 1
            print(f"    {failure}")
    if not found:
        print(f"{folder}: no fixture with a check")
    return 1 if failed or not found else 0


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    sys.exit(main(Path(sys.argv[1])))
