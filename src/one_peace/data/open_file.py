"""A file that is read at many places, with its index."""

from __future__ import annotations

import os

import numpy as np


class OpenFile:
    """An open descriptor, and an array that says what lies where. It closes when nobody holds it any more: threads read
    side by side. The file is not mapped, for whoever cut it short would end the process."""

    def __init__(self, descriptor: int, index: np.ndarray) -> None:
        self.descriptor, self.index = descriptor, index

    def __del__(self) -> None:
        os.close(self.descriptor)
