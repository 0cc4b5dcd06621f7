"""Does bulk embedding scale with workers? `python benchmarks/embed.py FOLDER [--workers 1 2] [--repeats 3]`.

Embeds the folder anew with each number of workers, in turn, each worker a process with a core of its own. The clock
starts when every worker has its model, so that what is measured is the rate of a long run.
"""

from __future__ import annotations

import argparse
import dataclasses
import os
import shutil
import statistics
import tempfile
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

import torch
from measure import machine, write_result

import one_peace
from one_peace.data.bulk_work import cores
from one_peace.search.bulk import Shard, embed_folder, run_here

SHARD = 16  # files


@dataclasses.dataclass
class Trial:
    """Files per second after the first shard of each worker."""

    workers: int
    files: int
    seconds: float

    @property
    def rate(self) -> float:
        return self.files / self.seconds


def trial(folder: Path, model: one_peace.OnePeace, name: str, workers: int) -> Trial:
    everything = os.sched_getaffinity(0)
    os.sched_setaffinity(0, sorted(everything)[:workers])
    out = Path(tempfile.mkdtemp())
    times: list[tuple[float, int]] = []

    def clocked(shards: Iterator[Shard], total: int) -> Iterable[Shard]:
        for shard in shards:
            times.append((time.perf_counter(), len({record.entry.item for record in shard.records})))
            yield shard

    try:
        embed_folder(folder, out, model, name, shard_size=SHARD, workers=workers, run=run_here, track=clocked)
    finally:
        os.sched_setaffinity(0, everything)
        shutil.rmtree(out)
    begun = times[workers - 1][0]
    return Trial(workers, sum(files for _, files in times[workers:]), times[-1][0] - begun)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="pictures, sounds and texts, some hundreds at least")
    parser.add_argument("--model", default="one-peace-nano")
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--repeats", type=int, default=3)
    given = parser.parse_args()
    if max(given.workers) > cores():
        parser.error(f"{max(given.workers)} workers need as many cores; there are {cores()}")
    model = one_peace.from_pretrained(given.model)
    trials = [
        trial(given.folder, model, given.model, workers) for _ in range(given.repeats) for workers in given.workers
    ]
    rates = {w: statistics.median(t.rate for t in trials if t.workers == w) for w in given.workers}
    base = rates[given.workers[0]] / given.workers[0]
    for workers, rate in rates.items():
        print(f"{workers} workers: {rate:.1f} files/s, {rate / base:.2f} times one")
    result = {
        "model": given.model,
        "files per second": rates,
        "trials": [dataclasses.asdict(t) for t in trials],
    }
    write_result("embed", result | machine(torch.device("cpu")))


if __name__ == "__main__":
    main()
