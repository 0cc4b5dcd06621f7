"""The operations of RandAugment for `parity.py`, at the strengths that the reference numbers were made with."""

from __future__ import annotations

import math
import re
from unittest import mock

import numpy as np
import torch
from torch import Tensor

from one_peace.data import rand_augment
from parity import Check, Comparison
from parity_files import Fixture

OPERATIONS = {
    "".join(part.title() for part in operation.__name__.split("_")): operation
    for operation in rand_augment.OFA_OPERATIONS
}
STRENGTHS = {  # the constant that an operation follows
    "ShearX": "SHEAR",
    "ShearY": "SHEAR",
    "TranslateX": "TRANSLATION",
    "TranslateY": "TRANSLATION",
    "Rotate": "ROTATION",
    "Brightness": "ENHANCEMENT",
    "Sharpness": "ENHANCEMENT",
}
ROUNDED = STRENGTHS.keys() - {"Brightness"}
BACKWARDS = ("TranslateX", "TranslateY")  # which there move against their sign


def compare_operation(
    compare: Comparison, name: str, pixels: np.ndarray, theirs: Tensor, strength: float, signs: tuple[int, ...]
) -> None:
    """One operation (Rotate in degrees) in the direction of `signs` that is nearest.

    The published library rounds coordinates to parts of a pixel, and what it blends: there a grey level may differ here
    and there. Sharpness is compared where the published code does not wrap around, contrast where it does not overflow.
    """
    if name not in OPERATIONS:
        compare.leave_out(name, "no published recipe uses it, and there is no such operation here")
        return
    setting = STRENGTHS.get(name, "LEVEL")  # which no operation reads when it is applied
    value = math.radians(strength) if name == "Rotate" else strength
    with mock.patch.object(rand_augment, setting, value):
        results = [torch.from_numpy(OPERATIONS[name](pixels, sign).astype("int16")) for sign in signs]
    expected = theirs.to(torch.int16)
    ours = min(results, key=lambda result: int((result - expected).abs().sum()))
    kept = torch.ones_like(expected, dtype=torch.bool)
    if name == "Sharpness":
        kept = (ours > 0) & (ours < 255)
    if name == "AutoContrast":
        kept[..., torch.from_numpy(pixels).flatten(0, 1).amin(dim=0) > 0] = False
        compare.exact("channels without black are white there", bool((expected[~kept] == 255).all()), True)
    elif not bool(kept.all()):
        reason = "the published code overflows there (docs/differences.md)"
        compare.leave_out(f"{int((~kept).sum())} values of {name}", reason)
    difference = (ours - expected)[kept].abs()
    if name in ROUNDED:
        compare.exact(f"{name}: at most one grey level", int(difference.max()) <= 1, True)
        compare.exact(f"{name}: nearly everywhere equal", float((difference > 0).float().mean()) < 0.01, True)
    else:
        compare.exact(name, bool(difference.any()), False)


def check_rand_augment(fixture: Fixture, compare: Comparison) -> None:
    """The operations of the published fine-tuning. Directions are drawn there, and not written down."""
    pixels = fixture["in.image"].numpy()
    note = fixture.meta["note"]
    strengths = {
        setting: float(re.search(rf"{word} ([\d.]*\d)", note)[1])
        for setting, word in (
            ("ENHANCEMENT", "factor"),
            ("SHEAR", "shear"),
            ("TRANSLATION", "translate"),
            ("ROTATION", "rotate"),
        )
    }
    for name, theirs in fixture.group("out.").items():
        told = re.search(r"[\d.]+", fixture.meta["levels"].get(name, ""))
        strength = float(told[0]) if told else strengths.get(STRENGTHS.get(name, ""), 0.0)
        compare_operation(compare, name, pixels, theirs, strength, (1, -1))


CHECKS: dict[str, Check] = {"fixture8_randaugment": check_rand_augment}
