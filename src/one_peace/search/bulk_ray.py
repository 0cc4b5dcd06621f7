"""Bulk embedding on a Ray cluster: shards as a Ray Data set, a model in each of its actors."""

from __future__ import annotations

import logging
import pickle
from collections.abc import Iterable, Iterator
from typing import Any

from one_peace.errors import MissingExtraError
from one_peace.search.bulk import Plan, Shard, load_worker
from one_peace.search.walk import Found


def run_on_ray(plan: Plan, shards: Iterable[tuple[int, list[Found]]], workers: int) -> Iterator[Shard]:
    """As `bulk.Runner`: on the cluster that `RAY_ADDRESS` names or that runs here, else on one started for this.

    An actor has a CPU, and a card of its own if the cluster has any. All machines must see the files under the same
    paths, as on a network file system, and have the model under the plan's name.

    Raises:
        MissingExtraError: Ray is not installed.
    """
    try:
        import ray
        import ray.data
    except ImportError as error:
        raise MissingExtraError("embedding on a cluster", "ray") from error
    if not ray.is_initialized():
        ray.init(logging_level=logging.WARNING)
    tasks = [{"number": number, "files": pickle.dumps(files)} for number, files in shards]
    if not tasks:
        return
    cards = ray.cluster_resources().get("GPU", 0) > 0
    done = ray.data.from_items(tasks, override_num_blocks=len(tasks)).map_batches(
        _Actor,
        fn_constructor_args=(plan, "cuda" if cards else "cpu"),
        batch_size=1,
        batch_format="numpy",
        compute=ray.data.ActorPoolStrategy(size=workers),
        num_gpus=1 if cards else 0,
    )
    for row in done.iter_rows():
        yield pickle.loads(row["shard"])


class _Actor:
    """Keeps the model between shards."""

    def __init__(self, plan: Plan, device: str) -> None:
        self._work = load_worker(plan, device, threads=1)

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        import numpy as np

        shards = [
            self._work(int(number), pickle.loads(files))
            for number, files in zip(batch["number"], batch["files"], strict=True)
        ]
        return {"shard": np.array([pickle.dumps(shard) for shard in shards], dtype=object)}
