"""Peak anonymous memory of loading a model: `python benchmarks/load.py [--gigabytes 4.2] [--folder DIR]`.

Writes synthetic files of that size (official .pt in float32 and float16, and our folder in float32), loads each in
a process of its own per dtype and compares the highest RssAnon seen with the bytes of the resident weights. The promise
is a ratio of at most 1.15; the exit status is 1 if it is broken. Linux only.
"""

from __future__ import annotations

import argparse
import datetime
import json
import math
import multiprocessing
import os
import re
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from one_peace.checkpoints.convert import convert
from one_peace.checkpoints.one_peace.names import to_official
from one_peace.models.one_peace.config import OnePeaceConfig
from one_peace.models.one_peace.loading import from_pretrained
from one_peace.models.one_peace.model import OnePeaceEncoder

LIMIT = 1.15
LOADS = [  # source, requested dtype
    ("official float32", "float32"),
    ("official float32", "bfloat16"),
    ("official float32", "float16"),
    ("official float16", "float32"),
    ("ours float32", "float32"),
    ("ours float32", "bfloat16"),
]
FILES = {"official float32": "official.pt", "official float16": "half.pt", "ours float32": "ours"}


def anonymous_bytes() -> int:
    """RssAnon of this process."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("RssAnon:"):
            return int(line.split()[1]) * 1024
    raise OSError("this system does not report RssAnon")


def measure(path: str, dtype: str) -> dict[str, float]:
    """Loads the file and reports peak and resident bytes, without those that the libraries had before."""
    torch.zeros(8) @ torch.zeros(8)  # what the first operation allocates is not the weights'
    before = anonymous_bytes()
    peak = before
    done = threading.Event()

    def watch() -> None:
        nonlocal peak
        while not done.wait(0.005):
            peak = max(peak, anonymous_bytes())

    watcher = threading.Thread(target=watch)
    watcher.start()
    start = time.perf_counter()
    model = from_pretrained(path, dtype=dtype)
    seconds = time.perf_counter() - start
    done.set()
    watcher.join()
    peak = max(peak, anonymous_bytes())
    assert all(p.dtype == model.dtype for p in model.encoder.parameters())
    resident = sum(p.numel() * p.element_size() for p in model.encoder.parameters())
    return {"resident": resident, "peak": peak - before, "ratio": (peak - before) / resident, "seconds": seconds}


def write_official(path: Path, gigabytes: float, name: str) -> None:
    """An encoder of the published width (a sixth of it for trials), as deep as the size in float32 needs.

    Its tensors are views of a file of random numbers, so that writing takes no memory.
    """
    dtype = getattr(torch, name)
    width = 1536 if gigabytes >= 2 else 256
    shape = {"name": "synthetic", "width": width, "heads": width // 64, "ffn_width": 4 * width}

    def build(layers: int) -> tuple[OnePeaceEncoder, int]:
        modalities: dict[str, dict] = {"text": {}, "image": {}}
        with torch.device("meta"):
            encoder = OnePeaceEncoder(OnePeaceConfig.from_dict(shape | {"layers": layers, "modalities": modalities}))
        return encoder, sum(p.numel() * 4 for p in encoder.parameters())

    one, two = build(1)[1], build(2)[1]
    encoder, _ = build(1 + max(0, math.ceil((gigabytes * 1e9 - one) / (two - one))))
    random = path.with_name("random")
    largest = max(p.numel() for p in encoder.parameters()) * 4
    with open(random, "wb") as file:
        block = torch.randn(2**18).mul_(0.02).to(dtype).view(torch.uint8).numpy().tobytes()
        for _ in range(-(-largest // len(block))):
            file.write(block)
    state = {}
    for native, parameter in encoder.named_parameters():
        names = to_official(native)
        rows = list(parameter.shape)
        if len(names) > 1:
            rows[0] //= len(names)
        for official in names:  # a mapping of its own for each: torch.save writes a shared one only once
            count = torch.Size(rows).numel()
            state[official] = torch.from_file(str(random), shared=False, size=count, dtype=dtype).view(rows)
    torch.save({"args": None, "cfg": None, "model": state}, path)
    random.unlink()


def write_sources(folder: Path, gigabytes: float) -> None:
    """All files of `FILES`."""
    for name, target in FILES.items():
        form, dtype = name.split()
        if form == "official":
            write_official(folder / target, gigabytes, dtype)
        else:
            convert(folder / FILES[f"official {dtype}"], folder / target)


def apart(job: Callable[..., Any], *arguments: Any) -> Any:
    """Runs a job in a process of its own, forked before anything was computed: no trace of other jobs in it."""
    with multiprocessing.get_context("fork").Pool(1) as pool:
        return pool.apply(job, arguments)


def machine() -> str:
    cpu = re.search(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text())
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return f"{cpu[1] if cpu else 'unknown CPU'}, {os.cpu_count()} CPUs, {memory:.0f} GiB"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gigabytes", type=float, default=4.2)
    parser.add_argument("--folder", type=Path, help="where to put the synthetic files (default: a temporary folder)")
    options = parser.parse_args()
    rows = []
    with tempfile.TemporaryDirectory(dir=options.folder) as name:
        folder = Path(name)
        apart(write_sources, folder, options.gigabytes)
        size = (folder / FILES["official float32"]).stat().st_size
        print(f"{'source':19}{'dtype':10}{'resident GB':>12}{'peak GB':>9}{'ratio':>8}{'seconds':>9}")
        for source, dtype in LOADS:
            row = {"source": source, "dtype": dtype} | apart(measure, str(folder / FILES[source]), dtype)
            rows.append(row)
            print(
                f"{source:19}{dtype:10}{row['resident'] / 1e9:12.2f}{row['peak'] / 1e9:9.2f}"
                f"{row['ratio']:8.3f}{row['seconds']:9.1f}",
                flush=True,
            )
    if options.gigabytes >= 4:  # smaller ones are trials
        commit = subprocess.run(
            ["git", "describe", "--always", "--exclude=*", "--dirty=+"],
            capture_output=True,
            text=True,
            cwd=Path(__file__).parent,
        )
        facts = {
            "date": datetime.date.today().isoformat(),
            "commit": commit.stdout.strip(),
            "machine": machine(),
            "command": "python benchmarks/load.py",
            "float32_file_bytes": size,
            "loads": rows,
        }
        slug = re.sub(r"[^a-z0-9]+", "-", machine().split(",")[0].lower()).strip("-")
        target = Path(__file__).parent / "results" / f"load-{facts['date']}-{slug}.json"
        target.parent.mkdir(exist_ok=True)
        target.write_text(json.dumps(facts, indent=2) + "\n", encoding="utf-8")
        print(f"wrote {target}")
    sys.exit(any(row["ratio"] > LIMIT for row in rows))


if __name__ == "__main__":
    main()
