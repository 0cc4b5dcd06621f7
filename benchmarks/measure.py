"""What every benchmark needs: the machine, the matmul rate, interleaved timing, peak memory, a result file."""

from __future__ import annotations

import ctypes
import datetime
import json
import os
import platform
import subprocess
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

from one_peace.nn.linear import linear

RESULTS = Path(__file__).parent / "results"
MATMUL = {"cpu": 1536, "cuda": 8192}  # side of the square product that sets a device's rate
Clock = Callable[[], float]


def machine(device: torch.device) -> dict[str, Any]:
    """What a figure depends on besides the code."""
    commit = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, cwd=RESULTS.parent)
    dirty = subprocess.run(
        ["git", "status", "--porcelain", "../src"], capture_output=True, text=True, cwd=RESULTS.parent
    )
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else _cpu_name()
    return {
        "date": datetime.date.today().isoformat(),
        "commit": commit.stdout.strip() + ("+" if dirty.stdout.strip() else ""),
        "machine": f"{name}, {os.cpu_count()} CPUs, {platform.system()}",
        "instructions": torch.backends.cpu.get_cpu_capability(),
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        "load": os.getloadavg()[0],
    }


def _cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    return next((x.split(":", 1)[1].strip() for x in lines if x.startswith("model name")), platform.machine())


def use_whole_float32() -> None:
    """Convolutions on a GPU in float32, as products are: cuDNN by itself rounds what goes in to eleven bits."""
    torch.backends.cudnn.allow_tf32 = False


def yardsticks(device: torch.device, dtype: torch.dtype) -> tuple[dict[str, Callable[[], Any]], float]:
    """A square matrix product as PyTorch computes it and as our linear layers do, and its floating-point operations."""
    side = MATMUL.get(device.type, MATMUL["cpu"])
    a, b = (torch.randn(side, side, device=device, dtype=dtype) for _ in range(2))
    return {"matmul": lambda: a @ b, "linear": lambda: linear(a, b)}, 2.0 * side**3


def interleaved(
    jobs: Mapping[str, Callable[[], Any]],
    repeats: int,
    device: torch.device,
    clock: Clock = time.perf_counter,
    warm_up: int = 1,
) -> dict[str, list[float]]:
    """Seconds of each job, `repeats` times, all jobs in turn, so that a slow minute slows all of them.

    Before that all run `warm_up` times: for kernels and caches once, for memory that several of them share more often.
    """
    for _ in range(warm_up):
        for job in jobs.values():
            job()
    seconds: dict[str, list[float]] = {name: [] for name in jobs}
    for _ in range(repeats):
        for name, job in jobs.items():
            synchronize(device)
            start = clock()
            job()
            synchronize(device)
            seconds[name].append(clock() - start)
    return seconds


def synchronize(device: torch.device) -> None:
    """Waits for the accelerator."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def peak_bytes(job: Callable[[], Any], device: torch.device) -> int:
    """Bytes that a job needs at its peak beyond what is resident before it."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        job()
        synchronize(device)
        return int(torch.cuda.max_memory_allocated(device) - before)
    try:
        ctypes.CDLL("libc.so.6").malloc_trim(0)  # gives back what earlier work left free
        Path("/proc/self/clear_refs").write_text("5")  # resets the high-water mark
    except (OSError, AttributeError):
        return -1
    before = _status("VmRSS")
    job()
    return _status("VmHWM") - before


def _status(key: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(key + ":"))


def write_result(name: str, facts: Mapping[str, Any]) -> Path:
    """Writes results/NAME-DATE.json."""
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{name}-{facts['date']}.json"
    path.write_text(json.dumps(facts, indent=2) + "\n", encoding="utf-8")
    return path
