"""A closed-loop load: so many clients, each of which asks again when it has its answer. Loopback only.

The client shares the machine with the server it measures, so it does as little as it can: requests are made before, and
of an answer the status line and the length are read.
"""

from __future__ import annotations

import asyncio
import json
import statistics
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any


@dataclass
class Load:
    """What a load saw: seconds of each good answer, and how many answers of each status there were.

    `answered` counts good answers from the first to the last, those of the warm-up and beyond the end too.
    """

    seconds: float
    latencies: list[float] = field(default_factory=list)
    statuses: Counter[int] = field(default_factory=Counter)
    answered: int = 0

    def summary(self) -> dict[str, Any]:
        """Requests per second and milliseconds; `errors` counts whatever was not 200."""
        ordered = sorted(self.latencies) or [float("nan")]
        return {
            "requests_per_second": round(len(self.latencies) / self.seconds, 1),
            "p50_ms": round(1000 * statistics.median(ordered), 1),
            "p99_ms": round(1000 * ordered[int(0.99 * (len(ordered) - 1))], 1),
            "errors": sum(self.statuses.values()) - self.statuses[200],
        }


def request(path: str, body: bytes, kind: str) -> bytes:
    """The bytes of a POST."""
    head = f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: {kind}\r\nContent-Length: {len(body)}\r\n\r\n"
    return head.encode() + body


def json_request(path: str, value: Any) -> bytes:
    """The bytes of a POST of JSON."""
    return request(path, json.dumps(value).encode(), "application/json")


async def load(port: int, requests: Sequence[bytes], clients: int, seconds: float) -> Load:
    """Loads a server on this machine for some seconds, after a short warm-up that is not counted."""
    warm_up = await _run(port, requests, clients, min(2.0, seconds / 4))
    result = await _run(port, requests, clients, seconds)
    result.answered += warm_up.answered
    return result


async def _run(port: int, requests: Sequence[bytes], clients: int, seconds: float) -> Load:
    result = Load(seconds)
    end = time.perf_counter() + seconds
    await asyncio.gather(*(_client(port, requests, i, end, result) for i in range(clients)))
    return result


async def _client(port: int, requests: Sequence[bytes], number: int, end: float, result: Load) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        while (started := time.perf_counter()) < end:
            writer.write(requests[number % len(requests)])
            status = await read_answer(reader)
            number += 7  # clients go through the requests in orders of their own
            taken = time.perf_counter()
            result.answered += status == 200
            if taken <= end:
                result.statuses[status] += 1
                if status == 200:
                    result.latencies.append(taken - started)
    finally:
        writer.close()


async def read_answer(reader: asyncio.StreamReader) -> int:
    """The status of the next answer; its body is read and dropped."""
    head = await reader.readuntil(b"\r\n\r\n")
    lines = head.lower().split(b"\r\n")
    length = next((int(line[15:]) for line in lines if line.startswith(b"content-length:")), 0)
    await reader.readexactly(length)
    return int(lines[0].split()[1])
