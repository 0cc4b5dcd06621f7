"""The soak: full load, broken input, kills; and afterwards, is everything there that was promised?"""

from __future__ import annotations

import asyncio
import io
import os
import random
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import httpx
import numpy as np
from PIL import Image

ADDERS, SEARCHERS, VANDALS = 2, 8, 2
WORDS = ("red", "blue", "old", "dog", "cow", "tree", "near", "snow")
BROKEN = (b"", b"\x89PNG\r\n\x1a\n" + b"\x00" * 99, b"RIFF\xff\xff\xff\x7fWAVEfmt ", b"GIF89a<script>", b"\xff\xd8\xff")


class Soak:
    """A service that is loaded and killed; `acknowledged` are the ids that it said it keeps."""

    def __init__(self, folder: Path, port: int) -> None:
        self.folder, self.url = folder, f"http://127.0.0.1:{port}"
        self.command = [sys.executable, "-m", "one_peace.cli.main", "serve", str(folder), "--port", str(port)]
        self.acknowledged: list[str] = []
        self.statuses: dict[str, Counter[Any]] = {"add": Counter(), "search": Counter(), "broken": Counter()}
        self.memory: list[list[int]] = []  # resident bytes, over the life of each process
        self.kills = 0
        self.stopping = False

    def start(self) -> None:
        """Starts a process and waits until it answers."""
        self.process = subprocess.Popen(self.command, stdout=subprocess.DEVNULL, env=dict(os.environ))
        self.memory.append([])
        while True:
            if self.process.poll() is not None:
                raise SystemExit("the service did not start")
            try:
                if httpx.get(f"{self.url}/health", timeout=5).status_code == 200:
                    return
            except httpx.TransportError:
                time.sleep(0.2)

    async def add(self, client: httpx.AsyncClient, generator: np.random.Generator) -> None:
        """Adds pictures that nobody has seen, and notes what is acknowledged."""
        while not self.stopping:
            picture = Image.fromarray(generator.integers(0, 256, (32, 32, 3), dtype=np.uint8))
            buffer = io.BytesIO()
            picture.save(buffer, "PNG")
            files = [("files", (f"{generator.integers(2**40)}.png", buffer.getvalue()))]
            answer = await self.call("add", client.post("/v1/items", files=files))
            if answer is not None and answer.status_code == 201:
                self.acknowledged += [item["id"] for item in answer.json()["items"]]

    async def search(self, client: httpx.AsyncClient, generator: random.Random) -> None:
        """Searches by texts."""
        while not self.stopping:
            text = " ".join(generator.choices(WORDS, k=generator.randint(1, 9)))
            body = {"parts": [{"modality": "text", "source": text}]}
            await self.call("search", client.post("/v1/search", json=body))

    async def break_in(self, client: httpx.AsyncClient, generator: random.Random) -> None:
        """Sends what cannot be used."""
        while not self.stopping:
            data = generator.choice(BROKEN) + generator.randbytes(generator.randrange(200))
            kind = generator.choice(("image", "audio"))
            if generator.random() < 0.5:
                call = client.post(f"/v1/encode/{kind}", content=data)
            else:
                call = client.post("/v1/items", files=[("files", ("x.png", data))])
            await self.call("broken", call)
            await asyncio.sleep(0.05)

    async def call(self, what: str, request: Any) -> httpx.Response | None:
        """The answer, None when the connection broke, as it does in a kill. Refusals are waited for."""
        try:
            answer: httpx.Response = await request
        except httpx.TransportError:
            self.statuses[what]["connection lost"] += 1
            await asyncio.sleep(0.2)
            return None
        self.statuses[what][answer.status_code] += 1
        if answer.status_code in (429, 503, 507):
            await asyncio.sleep(1)
        return answer

    async def watch(self, client: httpx.AsyncClient, kill_every: float) -> None:
        """Notes memory every second; kills and restarts the process."""
        born = time.monotonic()
        while not self.stopping:
            await asyncio.sleep(1)
            self.memory[-1].append(resident(self.process.pid))
            if kill_every and time.monotonic() - born > kill_every and not self.stopping:
                self.process.kill()
                self.process.wait()
                self.kills += 1
                await asyncio.to_thread(self.start)
                born = time.monotonic()


async def soak(folder: Path, port: int, seconds: float, kill_every: float) -> dict[str, Any]:
    """Runs it for some seconds, then looks for every acknowledged item in a fresh process."""
    one = Soak(folder, port)
    one.start()
    async with httpx.AsyncClient(base_url=one.url, timeout=120, limits=httpx.Limits(max_connections=64)) as client:
        workers = [one.add(client, np.random.default_rng(i)) for i in range(ADDERS)]
        workers += [one.search(client, random.Random(i)) for i in range(SEARCHERS)]
        workers += [one.break_in(client, random.Random(i)) for i in range(VANDALS)]
        tasks = [asyncio.create_task(work) for work in (*workers, one.watch(client, kill_every))]
        await asyncio.sleep(seconds)
        one.stopping = True
        await asyncio.gather(*tasks)
    one.process.kill()
    one.process.wait()
    one.start()
    missing = [id for id in one.acknowledged if httpx.get(f"{one.url}/v1/items/{id}", timeout=60).status_code != 200]
    one.process.terminate()
    return {
        "seconds": seconds,
        "kills": one.kills + 1,
        "acknowledged": len(one.acknowledged),
        "missing": len(missing),
        "answers": {name: {str(status): n for status, n in counts.items()} for name, counts in one.statuses.items()},
        "exit": one.process.wait(60),
        # By life of the process: after its first quarter, and at its end.
        "resident_mib": [[life[len(life) // 4] >> 20, life[-1] >> 20] for life in one.memory if len(life) >= 4],
    }


def resident(pid: int) -> int:
    """Bytes of memory that a process holds, of its own decoding processes too."""
    total = 0
    for status in Path("/proc").glob("[0-9]*/status"):
        try:
            fields = dict(line.split(":", 1) for line in status.read_text().splitlines() if ":" in line)
        except OSError:  # gone meanwhile
            continue
        if int(fields["Pid"]) == pid or int(fields["PPid"]) == pid:
            total += int(fields.get("VmRSS", "0 kB").split()[0]) * 1024
    return total
