"""Peak anonymous memory of loading a model: `python benchmarks/load.py [--gigabytes 4.2] [--folder DIR]`.

Writes synthetic files of that size (official .pt in float32 and bfloat16, and our folder in float32), loads each in
a fresh process per dtype and compares the highest RssAnon seen with the bytes of the resident weights. The promise
is a ratio of at most 1.15; the exit status is 1 if it is broken. Linux only.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import re
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

CHILD = "--child"
LIMIT = 1.15
LOADS = [  # source, requested dtype
    ("official float32", "float32"),
    ("official float32", "bfloat16"),
    ("official float32", "float16"),
    ("official bfloat16", "float32"),
    ("ours float32", "float32"),
    ("ours float32", "bfloat16"),
]
FILES = {"official float32": "official.pt", "official bfloat16": "half.pt", "ours float32": "ours"}


def anonymous_bytes() -> int:
    """RssAnon of this process."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("RssAnon:"):
            return int(line.split()[1]) * 1024
    raise OSError("this system does not report RssAnon")


def measure(path: str, dtype: str) -> dict[str, float]:
    """Loads the file and reports peak and resident bytes, without those that the libraries had before."""
    import torch

    from one_peace.models import from_pretrained

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

    Its tensors are views of a file of random bytes, so that writing takes no memory.
    """
    import torch

    from one_peace.checkpoints.names import to_official
    from one_peace.models.one_peace.config import OnePeaceConfig
    from one_peace.models.one_peace.model import OnePeaceEncoder

    dtype = getattr(torch, name)
    width = 1536 if gigabytes >= 2 else 256
    shape = {"name": "synthetic", "width": width, "heads": width // 64, "ffn_width": 4 * width}
    layers = 0
    size = 0
    while size < gigabytes * 1e9:
        layers += 1
        modalities: dict[str, dict] = {"text": {}, "image": {}}
        with torch.device("meta"):
            encoder = OnePeaceEncoder(OnePeaceConfig.from_dict(shape | {"layers": layers, "modalities": modalities}))
        size = sum(p.numel() * 4 for p in encoder.parameters())
    random = path.with_name("random")
    largest = max(p.numel() for p in encoder.parameters()) * 4
    with open(random, "wb") as file:
        for _ in range(-(-largest // 2**20)):
            file.write(torch.randn(2**18).mul_(0.02).to(dtype).view(torch.uint8).numpy().tobytes())
            if dtype is not torch.float32:
                file.write(torch.randn(2**18).mul_(0.02).to(dtype).view(torch.uint8).numpy().tobytes())
    state = {}
    for native, parameter in encoder.named_parameters():
        names = to_official(native)
        rows = list(parameter.shape)
        if len(names) > 1:
            rows[0] //= len(names)
        for official in names:  # a mapping of its own for each: torch.save writes a shared one only once
            count = torch.Size(rows).numel()
            storage = torch.UntypedStorage.from_file(str(random), False, count * dtype.itemsize)
            state[official] = torch.empty(0, dtype=dtype).set_(storage, 0, rows)
    torch.save({"args": None, "cfg": None, "model": state}, path)
    random.unlink()


def write_sources(folder: Path, gigabytes: float) -> None:
    """All files of `FILES`, each by a process of its own."""
    for name, target in FILES.items():
        form, dtype = name.split()
        if form == "official":
            code = f"import load, pathlib; load.write_official(pathlib.Path({str(folder / target)!r}), {gigabytes}, {dtype!r})"
        else:
            source, written = str(folder / FILES[f"official {dtype}"]), str(folder / target)
            code = f"from one_peace.checkpoints.convert import convert; convert({source!r}, {written!r})"
        subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parent)


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
        write_sources(folder, options.gigabytes)
        size = (folder / FILES["official float32"]).stat().st_size
        print(f"{'source':19}{'dtype':10}{'resident GB':>12}{'peak GB':>9}{'ratio':>8}{'seconds':>9}")
        for source, dtype in LOADS:
            command = [sys.executable, __file__, CHILD, str(folder / FILES[source]), dtype]
            done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
            row = {"source": source, "dtype": dtype} | json.loads(done.stdout.splitlines()[-1])
            rows.append(row)
            print(
                f"{source:19}{dtype:10}{row['resident'] / 1e9:12.2f}{row['peak'] / 1e9:9.2f}"
                f"{row['ratio']:8.3f}{row['seconds']:9.1f}",
                flush=True,
            )
    if options.gigabytes >= 4:  # smaller ones are trials
        commit = subprocess.run(
            ["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, cwd=Path(__file__).parent
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
    if CHILD in sys.argv:
        print(json.dumps(measure(*sys.argv[2:4])))
    else:
        main()
