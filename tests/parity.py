"""Compares this implementation with reference numbers: `python tests/parity.py DIR`.

Every `NAME.json`, `NAME.safetensors` or `NAME.pt` in DIR (and its folders) goes through the check of that name;
configuration, inputs, weights and expected numbers come from these, or from a `manifest.json` beside them. Prints a
line per file: name, worst absolute and relative difference, pass or fail; below it what is not compared, and why. Exit
status 1 if a check fails, a number that should be in a file is not, or no file has a check.
"""

from __future__ import annotations

import sys
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).parent / "support"))
sys.path.insert(0, str(Path(__file__).parent / "parity_checks"))
sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(0, str(Path(__file__).parents[1] / "src"))

from parity_files import SUPPORT, Fixture, absent_files, fixtures, load_fixture, plain_name

UNKNOWN = "no check looks at it"
TINY = 1e-4  # relative to less than this, differences are those of rounding: not worth a place among the worst


@dataclass
class Comparison:
    """Collects differences; each kind of number has its tolerance."""

    absolute: float = 0.0
    relative: float = 0.0
    count: int = 0
    failures: list[str] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)

    def feature(self, name: str, ours: Tensor, theirs: Tensor, tolerance: float = 1e-5) -> None:
        """Features and preprocessing: at most `tolerance` absolute."""
        self._compare(name, ours, theirs, lambda absolute, relative: absolute <= tolerance)

    def activation(self, name: str, ours: Tensor, theirs: Tensor) -> None:
        """What lies inside a model, of any size: at most 1e-5, absolute or of the tensor's largest value."""
        self._compare(name, ours, theirs, lambda absolute, relative: absolute <= 1e-5 or relative <= 1e-5)

    def loss(self, name: str, ours: Tensor, theirs: Tensor, tolerance: float = 1e-6) -> None:
        """Losses: at most `tolerance` relative."""
        self._compare(name, ours, theirs, lambda absolute, relative: relative <= tolerance)

    def gradient(self, name: str, ours: Tensor | None, theirs: Tensor) -> None:
        """Gradients: at most 2e-5 of the tensor's largest value, or 1e-7: the float32 noise of long sums."""
        ours = torch.zeros_like(theirs) if ours is None else ours
        self._compare(name, ours, theirs, lambda absolute, relative: relative <= 2e-5 or absolute <= 1e-7)

    def exact(self, name: str, ours: Any, theirs: Any) -> None:
        """Ids, masks, counts, names."""
        self.count += 1
        same = torch.equal(ours, theirs) if isinstance(ours, Tensor) else ours == theirs
        if not same:
            self.failures.append(f"{name} differs")

    def leave_out(self, name: str, reason: str) -> None:
        """Says of numbers in the file that they are not compared."""
        self.left_out.append(f"{name}: {reason}")

    def _compare(self, name: str, ours: Tensor, theirs: Tensor, good: Callable[[float, float], bool]) -> None:
        self.count += 1
        if ours.shape != theirs.shape:
            self.failures.append(f"{name}: shape {tuple(ours.shape)} instead of {tuple(theirs.shape)}")
            return
        ours, theirs = ours.detach().double(), theirs.double()
        if not torch.equal(ours.isnan(), theirs.isnan()):
            self.failures.append(f"{name}: not a number here or there")
            return
        ours, theirs = ours.nan_to_num(), theirs.nan_to_num()
        absolute = (ours - theirs).abs().max().item() if ours.numel() else 0.0
        largest = theirs.double().abs().max().item() if theirs.numel() else 0.0
        relative = absolute / max(largest, 1e-30)
        self.absolute = max(self.absolute, absolute)
        if largest > TINY:
            self.relative = max(self.relative, relative)
        if not good(absolute, relative):
            self.failures.append(f"{name}: absolute {absolute:.2e}, relative {relative:.2e}")


Check = Callable[[Fixture, Comparison], None]

MODULES = (  # each with its CHECKS, by the beginning of a fixture's name
    "parity_one_peace",
    "parity_one_peace_files",
    "parity_one_peace_inputs",
    "parity_one_peace_metrics",
    "parity_one_peace_pretraining",
    "parity_one_peace_shapes",
    "parity_one_peace_tasks",
    "parity_one_peace_tokens",
    "parity_one_peace_updates",
    "parity_ofa",
    "parity_ofa_generation",
    "parity_ofa_losses",
    "parity_ofa_metrics",
    "parity_ofa_scst",
    "parity_ofa_tokens",
    "parity_ofa_vqgan",
    "parity_ofa_items",
    "parity_ofa_pictures",
    "parity_rand_augment",
    "parity_mico",
    "parity_mico_pretraining",
    "parity_mico_weights",
)


def find_check(stem: str) -> Check | None:
    """The check for a fixture's name: the longest registered prefix of it."""
    checks: dict[str, Check] = {}
    for module in MODULES:
        checks |= import_module(module).CHECKS
    matching = [prefix for prefix in checks if plain_name(stem).startswith(prefix)]
    if matching:
        return checks[max(matching, key=len)]
    return check_support if SUPPORT.fullmatch(stem) else None


def check_support(fixture: Fixture, compare: Comparison) -> None:
    """Files that other checks read are only held against the list of what they should have."""
    compare.exact("tensors", sorted({*fixture.tensors}), sorted({*fixture.listed} or {*fixture.tensors}))
    fixture.tensors.unread.clear()


def run_check(path: Path, check: Check) -> Comparison:
    """Runs one check on one thread; an exception counts as a failure."""
    comparison = Comparison()
    torch.manual_seed(0)
    try:
        fixture = load_fixture(path)
        check(fixture, comparison)
        if not comparison.count:
            comparison.failures.append("nothing was compared")
        comparison.failures += [f"{name} is listed, and not in the file" for name in fixture.missing()]
        for name in fixture.passed_over():
            comparison.leave_out(name, UNKNOWN)
    except Exception as error:  # the report must name every file
        traceback.print_exc()
        comparison.failures.append(f"{type(error).__name__}: {error}")
    return comparison


def main(folder: Path) -> int:
    torch.set_num_threads(1)
    failed = found = 0
    for path in fixtures(folder):
        check = find_check(path.stem)
        found += check not in (None, check_support)
        if check is None:
            print(f"{path.stem:<44} no check of this name")
            continue
        result = run_check(path, check)
        verdict = "FAIL" if result.failures else "pass" if check is not check_support else "read by other checks"
        print(f"{path.stem:<44} absolute {result.absolute:.2e}  relative {result.relative:.2e}  {verdict}")
        for failure in result.failures:
            failed += 1
            print(f"    {failure}")
        for reason in result.left_out:
            print(f"    not compared: {reason}")
    if absent := absent_files(folder):
        print(f"In a manifest, and not beside it: {', '.join(path.name for path in absent)}")
    if not found:
        print(f"{folder}: no fixture with a check")
    return 1 if failed or not found else 0


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    sys.exit(main(Path(sys.argv[1])))
