"""Peak anonymous memory of loading an official file: `python benchmarks/load.py [--gigabytes 4]`.

Writes a synthetic float32 file of that size, loads it in a fresh process per dtype and compares the highest RssAnon
seen with the bytes of the resident weights. The promise is a ratio of at most 1.15.
"""

from __future__ import annotations

import argparse
import datetime
import json
import platform
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

CHILD = "--child"


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
        while not done.wait(0.002):
            peak = max(peak, anonymous_bytes())

    watcher = threading.Thread(target=watch)
    watcher.start()
    start = time.perf_counter()
    model = from_pretrained(path, dtype=dtype)
    seconds = time.perf_counter() - start
    done.set()
    watcher.join()
    peak = max(peak, anonymous_bytes())
    resident = sum(p.numel() * p.element_size() for p in model.encoder.parameters())
    return {
        "resident": resident,
        "peak": peak - before,
        "ratio": (peak - before) / resident,
        "seconds": seconds,
    }


def write_synthetic(path: Path, gigabytes: float) -> None:
    """A text and image encoder of the published width (a sixth of it for small sizes), as deep as the size needs."""
    import torch

    from one_peace.checkpoints.names import to_official
    from one_peace.models.one_peace.config import OnePeaceConfig
    from one_peace.models.one_peace.model import OnePeaceEncoder

    width = 1536 if gigabytes >= 2 else 256
    layers = 1
    while True:
        modalities = {"text": {"vocab_size": 50264}, "image": {}}
        config = OnePeaceConfig.from_dict(
            {
                "name": "synthetic",
                "width": width,
                "layers": layers,
                "heads": width // 64,
                "ffn_width": 4 * width,
                "modalities": modalities,
            }
        )
        with torch.device("meta"):
            encoder = OnePeaceEncoder(config)
        if sum(p.numel() * 4 for p in encoder.parameters()) >= gigabytes * 1e9:
            break
        layers += 1
    state = {}
    for name, parameter in encoder.named_parameters():
        names = to_official(name)
        shape = list(parameter.shape)
        if len(names) > 1:
            shape[0] //= len(names)
        state |= {official: torch.full(shape, 0.01) for official in names}
    torch.save({"args": None, "cfg": None, "model": state}, path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gigabytes", type=float, default=4.2)
    parser.add_argument("--folder", type=Path, help="where to put the synthetic file (default: a temporary folder)")
    options = parser.parse_args()
    rows = {}
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        path = Path(folder) / "synthetic.pt"
        # its own process, so that writing leaves no trace in the measurement
        code = f"import load, pathlib; load.write_synthetic(pathlib.Path({str(path)!r}), {options.gigabytes})"
        subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parent)
        size = path.stat().st_size
        print(f"{'dtype':10}{'file GB':>9}{'resident GB':>13}{'peak GB':>9}{'ratio':>8}{'seconds':>9}")
        for dtype in ("float32", "bfloat16", "float16"):
            output = subprocess.run(
                [sys.executable, __file__, CHILD, str(path), dtype],
                check=True,
                capture_output=True,
                text=True,
            ).stdout
            row = rows[dtype] = json.loads(output.splitlines()[-1])
            print(
                f"{dtype:10}{size / 1e9:9.2f}{row['resident'] / 1e9:13.2f}{row['peak'] / 1e9:9.2f}"
                f"{row['ratio']:8.3f}{row['seconds']:9.1f}",
                flush=True,
            )
    commit = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, cwd=Path(__file__).parent)
    date = datetime.date.today().isoformat()
    target = Path(__file__).parent / "results" / f"load-{date}.json"
    target.parent.mkdir(exist_ok=True)
    facts = {
        "date": date,
        "commit": commit.stdout.strip(),
        "machine": platform.platform(),
        "file_bytes": size,
    }
    if options.gigabytes >= 4:  # smaller ones are trials
        target.write_text(json.dumps(facts | {"loads": rows}, indent=2) + "\n", encoding="utf-8")
        print(f"wrote {target}")


if __name__ == "__main__":
    if CHILD in sys.argv:
        print(json.dumps(measure(*sys.argv[2:4])))
    else:
        main()
