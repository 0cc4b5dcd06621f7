"""The OFA check of `parity.py` for operations on pictures, with boxes and without."""

from __future__ import annotations

import math
import re
from typing import Any

import numpy as np
import torch
from PIL import Image

from one_peace.data.boxed_pictures import BoxedPicture, crop_around, jitter_scale, mirror
from one_peace.data.rand_augment import FILL
from parity import Check, Comparison
from parity_files import Fixture
from parity_rand_augment import BACKWARDS, compare_operation


def check_transforms(fixture: Fixture, compare: Comparison) -> None:
    """Operations on pictures with boxes, and those of RandAugment that are not accidents."""
    cases = {case["name"]: case for case in fixture.meta["cases"]}
    compare.exact("names", sorted({*cases, "input"}), sorted(fixture.tensors))
    pixels = fixture["input"].numpy()
    image = Image.fromarray(pixels)
    labels = tuple(next(case["labels"] for name, case in cases.items() if name.startswith("occ")))  # drops none
    x0, y0, x1, y1 = torch.tensor(cases["hflip"]["boxes"]).unbind(1)  # the boxes before all operations, mirrored
    picture = BoxedPicture(image, torch.stack([image.width - x1, y0, image.width - x0, y1], 1), labels)
    for name, case in cases.items():
        numbers = [float(n) for n in re.findall(r"\d+\.?\d*", case["op"])]
        if name.startswith("lsj"):
            generator = torch.Generator().manual_seed(case["torch_seed"])
            compare_boxed(compare, fixture, case, jitter_scale(picture, int(numbers[0]), tuple(numbers[1:]), generator))
        elif name.startswith("occ"):
            compare_boxed(compare, fixture, case, crop_around(picture, int(numbers[0]), int(numbers[1])))
        elif name == "hflip":
            compare_boxed(compare, fixture, case, mirror(picture))
        else:
            operation, (strength, *fill) = name.removeprefix("ra."), case["args"] or [0.0]
            compare.exact(f"{name}: what comes in over the edge", fill, [[FILL] * 3] if fill else [])
            compare.exact(f"{name}: operation", case["op"], f"RandomAugment {operation}")
            sign = int(math.copysign(1, strength)) * (-1 if operation in BACKWARDS else 1)
            compare_operation(compare, operation, pixels, fixture[name], abs(strength), (sign,))


def compare_boxed(compare: Comparison, fixture: Fixture, case: dict[str, Any], ours: BoxedPicture) -> None:
    compare.exact(case["name"], torch.from_numpy(np.array(ours.image)), fixture[case["name"]])
    compare.feature(f"boxes of {case['name']}", ours.boxes, torch.tensor(case["boxes"]))
    if "labels" in case:
        compare.exact(f"labels of {case['name']}", list(ours.labels), case["labels"])


CHECKS: dict[str, Check] = {"transforms": check_transforms}
