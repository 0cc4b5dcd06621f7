"""Which frames of a video are taken, by number or by time."""

from __future__ import annotations

import bisect
import itertools
from collections.abc import Sequence

import torch


def even_frames(count: int, wanted: int, generator: torch.Generator | None = None) -> list[int]:
    """Indices of at most `wanted` of `count` frames, ascending, spread evenly.

    The frames are cut into `wanted` runs, the first `count % wanted` of which are one longer, and each run gives its
    middle frame (of an even number the earlier one), or with a generator a random one. A video with no more frames
    than wanted gives all of them. (The rule of MiCo, which then repeats the last one: `repeated_frames`.)
    """
    runs = frame_runs(count, min(count, wanted))
    if generator is None:
        return [run[(len(run) + 1) // 2 - 1] for run in runs]
    draws = torch.rand(len(runs), generator=generator, dtype=torch.float64).tolist()
    return [run[int(len(run) * draw)] for run, draw in zip(runs, draws, strict=True)]


def repeated_frames(count: int, wanted: int) -> list[int]:
    """As `even_frames`, but always `wanted` of them: those of a short video are followed by its last one again."""
    return even_frames(count, wanted) + [count - 1] * (wanted - count)


def frame_runs(count: int, wanted: int) -> list[range]:
    """`count` frames in `wanted` runs, the first `count % wanted` of which are one longer."""
    if count < 1 or wanted < 1:
        raise ValueError(f"{wanted} of {count} frames: both must be at least 1")
    short, longer = divmod(count, wanted)
    lengths = [short + 1] * longer + [short] * (wanted - longer)
    starts = itertools.accumulate(lengths[:-1], initial=0)
    return [range(start, start + length) for start, length in zip(starts, lengths, strict=True)]


def frames_at(times: Sequence[float], instants: Sequence[float]) -> list[int]:
    """The frame that is on screen at each instant: the last one whose time (ascending) is not later, else the first."""
    return [max(0, bisect.bisect_right(times, instant) - 1) for instant in instants]
