"""Speed, memory and recall of search: `python benchmarks/search.py [--vectors 1000000]`.

Our stores beside the plain engines that one would otherwise take, on the same vectors, each in a process of its own,
one after the other. Vectors are of unit length, in clusters with noise in all directions, as wide as those of
`one-peace-nano`; the queries are drawn from the same clusters and are not among them. The right answers are computed
by brute force in float64. README.md says what the columns mean.

`pip install faiss-cpu usearch hnswlib` adds the engines; those that are missing are left out.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from measure import _status, machine, write_result

K = 10
NOISE = 0.8  # length of the noise beside the center's, which is 1
ROWS_PER_CLUSTER = 1000
ROWS_PER_CALL = 10_000
BATCH = 64
NEEDS = {"faiss": "faiss", "usearch": "usearch", "hnswlib": "hnswlib", "lance": "lancedb"}
Search = Callable[[np.ndarray, int], Sequence[Sequence[int]] | np.ndarray]  # queries (m, dim), k -> rows


def make_data(folder: Path, count: int, dim: int, queries: int) -> None:
    """Writes vectors.npy (count, dim), queries.npy and truth.npy (queries, K)."""
    rng = np.random.default_rng(0)
    centers = _unit(rng.standard_normal((max(10, count // ROWS_PER_CLUSTER), dim)))
    vectors = np.lib.format.open_memmap(folder / "vectors.npy", "w+", np.float32, (count, dim))
    for start in range(0, count, 100_000):
        part = vectors[start : start + 100_000]
        part[:] = _draw(centers, len(part), rng)
    asked = _draw(centers, queries, rng)
    np.save(folder / "queries.npy", asked)
    best = torch.full((queries, K), -torch.inf, dtype=torch.float64)
    rows = torch.zeros((queries, K), dtype=torch.int64)
    for start in range(0, count, 50_000):
        scores = torch.from_numpy(asked).double() @ torch.from_numpy(vectors[start : start + 50_000]).double().T
        there = torch.arange(start, start + scores.shape[1]).expand(queries, -1)
        best, order = torch.cat([best, scores], 1).topk(K)
        rows = torch.cat([rows, there], 1).gather(1, order)
    np.save(folder / "truth.npy", rows.numpy())


def _draw(centers: np.ndarray, count: int, rng: np.random.Generator) -> np.ndarray:
    noise = rng.standard_normal((count, centers.shape[1])) * (NOISE / centers.shape[1] ** 0.5)
    return _unit(centers[rng.integers(0, len(centers), count)] + noise).astype(np.float32)


def _unit(vectors: np.ndarray) -> np.ndarray:
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


class Store:
    """One of our stores, with a row per vector; every tenth is a sound."""

    def __init__(self, engine: str, vectors: np.ndarray, folder: Path) -> None:
        from one_peace.search.filters import Condition
        from one_peace.search.records import Entry, Record, Space
        from one_peace.search.stores import lance, sqlite

        space = Space("benchmark", "0", vectors.shape[1])
        if engine == "lance":
            lance.EXACT_NUMBERS = 0  # the index whatever the size: what this is to find out is from when it pays
            self.store: Any = lance.LanceStore(str(folder), space)
        else:
            self.store = sqlite.SqliteStore(folder, space)
        self.filter = [Condition("modality", "in", ("audio",))]
        for start in range(0, len(vectors), ROWS_PER_CALL):
            some = enumerate(np.asarray(vectors[start : start + ROWS_PER_CALL]), start)
            kinds = ("audio", *["image"] * 9)
            self.store.add(
                [Record(Entry(str(n), f"/{n}", kinds[n % 10], str(n), n, n, branch=kinds[n % 10]), v) for n, v in some]
            )

    def index(self) -> None:
        self.store.finish()
        self.store.settle()

    def search(self, queries: np.ndarray, k: int) -> list[list[int]]:
        return [[int(hit.id) for hit in hits] for hits in self.store.search(queries, k)]

    def filtered(self, queries: np.ndarray, k: int) -> list[list[int]]:
        return [[int(hit.id) for hit in hits] for hits in self.store.search(queries, k, self.filter)]


def plain(engine: str, vectors: np.ndarray, file: Path, threads: int) -> Search:
    """Builds an engine over the vectors, saves it to `file`, and gives its search."""
    n, dim = vectors.shape
    name, _, kind = engine.partition(" ")
    if name == "numpy":
        np.save(file, vectors)
        held = np.array(vectors)
        return lambda q, k: np.argpartition(q @ held.T, n - k, axis=1)[:, n - k :]
    if name == "faiss":
        import faiss

        faiss.omp_set_num_threads(threads)
        index = faiss.index_factory(dim, kind, faiss.METRIC_INNER_PRODUCT)
        if kind.startswith("HNSW"):
            index.hnsw.efConstruction = 150
            index.hnsw.efSearch = 128
        index.train(np.asarray(vectors[:100_000]))
        index.add(np.asarray(vectors))
        faiss.write_index(index, str(file))
        return lambda q, k: index.search(q, k)[1]
    if name == "usearch":
        from usearch.index import Index

        index = Index(ndim=dim, metric="ip", dtype=kind, connectivity=16, expansion_add=150, expansion_search=128)
        index.add(np.arange(n), np.asarray(vectors), threads=threads)
        index.save(str(file))
        return lambda q, k: index.search(q, k, threads=1).keys.reshape(len(q), -1)
    import hnswlib

    index = hnswlib.Index("ip", dim)
    index.init_index(n, M=16, ef_construction=150)
    index.set_ef(128)
    index.add_items(np.asarray(vectors), num_threads=threads)
    index.save_index(str(file))
    return lambda q, k: index.knn_query(q, k, num_threads=1)[0]


def measure(engine: str, folder: Path, threads: int) -> dict[str, Any]:
    """Everything about one engine, in this process."""
    torch.set_num_threads(threads)
    vectors = np.load(folder / "vectors.npy", mmap_mode="r")
    queries, truth = np.load(folder / "queries.npy"), np.load(folder / "truth.npy")
    place = Path(tempfile.mkdtemp(dir=folder))
    before, start, cpu = _status("VmRSS"), time.perf_counter(), time.process_time()
    facts: dict[str, Any] = {"engine": engine}
    if engine in ("exact", "lance"):
        store = Store(engine, vectors, place)
        facts["add_s"] = time.perf_counter() - start
        store.index()
        search: Search = store.search
    else:
        search = plain(engine, vectors, place / "index", threads)
    search(queries[:1], K)  # what is done on first use belongs to building
    facts |= {"build_s": time.perf_counter() - start, "build_cpu_s": time.process_time() - cpu}
    facts["bytes_per_vector"] = sum(f.stat().st_size for f in place.rglob("*") if f.is_file()) / len(vectors)
    facts |= _timed(search, queries, threads)
    found = [search(query[None], K)[0] for query in queries]
    facts["recall"] = float(
        np.mean([len(set(map(int, f)) & set(t)) / K for f, t in zip(found, truth.tolist(), strict=True)])
    )
    if engine in ("exact", "lance"):
        one = _timed(store.filtered, queries, threads)
        facts |= {"filtered_p50_ms": one["p50_ms"], "filtered_p99_ms": one["p99_ms"]}
    facts["peak_bytes"] = _status("VmHWM") - before
    shutil.rmtree(place)
    return facts


def _timed(search: Search, queries: np.ndarray, threads: int) -> dict[str, float]:
    seconds, cpu = [], time.process_time()
    for query in queries:
        start = time.perf_counter()
        search(query[None], K)
        seconds.append(time.perf_counter() - start)
    cpu = time.process_time() - cpu
    start = time.perf_counter()
    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(lambda query: search(query[None], K), queries))
    parallel = time.perf_counter() - start
    start = time.perf_counter()
    for first in range(0, len(queries), BATCH):
        search(queries[first : first + BATCH], K)
    batched = time.perf_counter() - start
    return {
        "p50_ms": float(np.percentile(seconds, 50)) * 1e3,
        "p99_ms": float(np.percentile(seconds, 99)) * 1e3,
        "cpu_ms": cpu / len(queries) * 1e3,
        "per_s": len(queries) / parallel,
        "batched_per_s": len(queries) / batched,
    }


ENGINES = ("exact", "lance", "numpy", "faiss Flat", "faiss SQ8", "faiss HNSW16", "usearch f16", "usearch i8", "hnswlib")
COLUMNS = ("engine", "recall", "p50_ms", "p99_ms", "cpu_ms", "per_s", "batched_per_s", "build_s", "bytes_per_vector")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--vectors", type=int, default=1_000_000)
    parser.add_argument("--dim", type=int, default=192)
    parser.add_argument("--queries", type=int, default=1000)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--engines", nargs="+", default=ENGINES, choices=ENGINES)
    parser.add_argument("--folder", type=Path, help="for data and indexes; by default that of temporary files")
    parser.add_argument("--measure", help=argparse.SUPPRESS)  # one engine, in the process that this one starts
    options = parser.parse_args()
    if options.measure:
        print(json.dumps(measure(options.measure, options.folder, options.threads)))
        return
    torch.set_num_threads(options.threads)
    rows = []
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        make_data(Path(folder), options.vectors, options.dim, options.queries)
        print("".join(f"{name:>17}" for name in (*COLUMNS, "peak MB")))
        for engine in options.engines:
            module = NEEDS.get(engine.split()[0])
            if module and find_spec(module) is None:
                print(f"{engine}: not installed")
                continue
            command = [
                sys.executable,
                __file__,
                "--measure",
                engine,
                "--folder",
                folder,
                "--threads",
                str(options.threads),
            ]
            done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
            facts = json.loads(done.stdout.splitlines()[-1])
            rows.append(facts)
            cells = (f"{facts[name]:.4g}" if name != "engine" else engine for name in COLUMNS)
            print("".join(f"{cell:>17}" for cell in (*cells, f"{facts['peak_bytes'] / 1e6:.0f}")), flush=True)
    data = {"vectors": options.vectors, "dim": options.dim, "queries": options.queries, "k": K, "noise": NOISE}
    print(write_result(f"search-{options.vectors}", machine(torch.device("cpu")) | data | {"engines": rows}))


if __name__ == "__main__":
    main()
