"""Settings of all tests."""

from __future__ import annotations

import torch
from hypothesis import settings

torch.set_num_threads(1)
# Time per example varies with the machine's load and says nothing of correctness.
settings.register_profile("untimed", deadline=None)
settings.load_profile("untimed")
