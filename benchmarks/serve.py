"""Throughput and latency of the service: `python benchmarks/serve.py [--clients 1 8 64] [--seconds 20] [--rounds 3]`.

Beside it, in the same run and in turn: the same model behind the simplest FastAPI handler, which encodes each request
on its own, and behind LitServe with its batching (`pip install litserve`). Each runs as a process of its own on this
machine, gets the same inputs and answers with the embedding; the clients run on the same cores.

`--soak MINUTES` instead keeps the service at full load with searches, additions and broken input, kills it (SIGKILL)
every half minute and starts it again; at the end every item that was acknowledged is looked for. `--folder` is where
its library lies: on a small file system it shows what a full disk does.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import io
import json
import os
import random
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from measure import machine, write_result
from PIL import Image
from serving.client import json_request, load, request
from serving.soak import soak

HERE = Path(__file__).parent
INPUTS = 96
WORDS = ("red", "small", "two", "happy", "old", "dog", "cow", "train", "flower", "house", "with", "under", "on", "snow")


def texts(generator: random.Random) -> list[str]:
    """Texts of 2 to 14 words."""
    return [" ".join(generator.choices(WORDS, k=generator.randint(2, 14))) for _ in range(INPUTS)]


def pictures(generator: random.Random) -> list[bytes]:
    """JPEG files of 320 x 240 pixels with some detail, about 15 kB."""
    rng = np.random.default_rng(generator.randrange(2**32))
    made = []
    for _ in range(INPUTS):
        coarse = Image.fromarray(rng.integers(0, 256, (24, 32, 3), dtype=np.uint8))
        buffer = io.BytesIO()
        coarse.resize((320, 240), Image.Resampling.BICUBIC).save(buffer, "JPEG", quality=85)
        made.append(buffer.getvalue())
    return made


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.create_server(("127.0.0.1", 0)) as opened:
        return int(opened.getsockname()[1])


@contextmanager
def server(command: list[str], port: int, threads: int) -> Iterator[subprocess.Popen[bytes]]:
    """A server process, from when it answers to the end of the block."""
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
    process = subprocess.Popen(
        [sys.executable, *command], cwd=HERE, env=environment, stdout=subprocess.DEVNULL, start_new_session=True
    )
    try:
        wait_for(port, process)
        yield process
    finally:
        process.terminate()
        with suppress(subprocess.TimeoutExpired):
            process.wait(20)
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)  # and what LitServe leaves running


def wait_for(port: int, process: subprocess.Popen[bytes]) -> None:
    """Returns when the port is listened on."""
    while process.poll() is None:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
            return
        except OSError:
            time.sleep(0.1)
    raise SystemExit("a server did not start")


def make_library(folder: Path) -> None:
    """A library with one text: the service needs one to serve, and encoding does not depend on it."""
    from one_peace.search.library import Library

    folder.mkdir(parents=True, exist_ok=True)
    (folder / "first.txt").write_text("a first text", encoding="utf-8")
    Library(folder / ".one-peace").index(folder, progress=False)


def compare(arguments: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """All servers, all numbers of clients, in turn; medians over the rounds."""
    generator = random.Random(0)
    words, files = texts(generator), pictures(generator)
    make_library(folder)
    plain = [json_request("/text", {"words": w}) for w in words]
    commands = {
        "service": ["-m", "one_peace.cli.main", "serve", str(folder), "--port"],
        "simple": ["-m", "serving.simple"],
        "litserve": ["-m", "serving.peer"],
    }
    requests = {
        "service": {
            "text": [json_request("/v1/encode", {"inputs": [{"modality": "text", "source": w}]}) for w in words],
            "image": [request("/v1/encode/image", file, "application/octet-stream") for file in files],
        },
        "simple": {"text": plain, "image": [request("/image", file, "application/octet-stream") for file in files]},
        "litserve": {
            "text": plain,
            "image": [json_request("/image", {"data": base64.b64encode(file).decode()}) for file in files],
        },
    }
    if find_spec("litserve") is None:
        print("litserve: not installed")
        del commands["litserve"]
    figures: dict[tuple[str, int, str], list[dict[str, Any]]] = {}
    with ExitStack() as running:
        started = {}
        for name, command in commands.items():
            port = free_port()
            process = running.enter_context(server([*command, str(port)], port, arguments.threads))
            started[name] = (process.pid, port)
        for _ in range(arguments.rounds):
            for kind in arguments.kinds:
                for clients in arguments.clients:
                    for name, (pid, port) in started.items():
                        measured = measure(pid, port, requests[name][kind], clients, arguments.seconds)
                        figures.setdefault((kind, clients, name), []).append(measured)
                        print(f"{kind:6} {clients:3} clients  {name:8} {measured}", flush=True)
    rows = []
    for (kind, clients, name), rounds in figures.items():
        row: dict[str, Any] = {"kind": kind, "clients": clients, "server": name}
        for key in ("requests_per_second", "p50_ms", "p99_ms", "cpu_ms_per_request"):
            row[key] = statistics.median(one[key] for one in rounds)
        rows.append({**row, "errors": sum(one["errors"] for one in rounds)})
    return {"rows": rows, "ratios": _ratios(rows)}


def measure(pid: int, port: int, requests: list[bytes], clients: int, seconds: float) -> dict[str, Any]:
    """One load, with the processor time that the server and its own processes took: steady on a busy machine."""
    before = processor_seconds(pid)
    seen = asyncio.run(load(port, requests, clients, seconds))
    taken = processor_seconds(pid) - before
    return {**seen.summary(), "cpu_ms_per_request": round(1000 * taken / max(1, seen.answered), 2)}


def processor_seconds(pid: int) -> float:
    """Of a process and its children, so far."""
    ticks = 0
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except OSError:  # gone meanwhile
            continue
        if stat.parent.name == str(pid) or fields[1] == str(pid):
            ticks += int(fields[11]) + int(fields[12])
    return ticks / os.sysconf("SC_CLK_TCK")


def _ratios(rows: list[dict[str, Any]]) -> dict[str, float]:
    """How many times as many requests the service answers as each of the others."""
    rate = {(row["kind"], row["clients"], row["server"]): row["requests_per_second"] for row in rows}
    return {
        f"{kind}, {clients} clients, over {name}": round(rate[kind, clients, "service"] / other, 2)
        for (kind, clients, name), other in rate.items()
        if name != "service" and other
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clients", type=int, nargs="+", default=[1, 8, 64])
    parser.add_argument("--kinds", nargs="+", choices=("text", "image"), default=["text", "image"])
    parser.add_argument("--seconds", type=float, default=20.0, help="of each measurement")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1, help="of the model, in each server")
    parser.add_argument("--soak", type=float, metavar="MINUTES", help="run the soak instead")
    parser.add_argument("--kill-every", type=float, default=30.0, metavar="SECONDS", help="in the soak; 0: never")
    parser.add_argument("--folder", type=Path, help="where the library lies; default: a temporary folder")
    parser.add_argument("--dry-run", action="store_true", help="write no file to results/")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    folder = arguments.folder or Path(tempfile.mkdtemp(prefix="one-peace-serve-"))
    facts = machine(torch.device("cpu"))
    try:
        if arguments.soak:
            make_library(folder)
            facts["soak"] = asyncio.run(soak(folder, free_port(), arguments.soak * 60, arguments.kill_every))
        else:
            facts |= compare(arguments, folder)
    finally:
        if arguments.folder is None:
            shutil.rmtree(folder, ignore_errors=True)
    print(json.dumps(facts, indent=1))
    if not arguments.dry_run:
        print(write_result("soak" if arguments.soak else "serve", facts))


if __name__ == "__main__":
    main()
